"""The situation of a resource: its lease, its pods and what it asks for, and what can be read from them together.

Owns these facts as one value, and the questions to them: which pods are the sandbox, how long they are waited for, and
how a sandbox ended. Pure: no clock, no socket; ``now`` is passed in. Must not say what to do: ``lifecycle`` does.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from math import inf
from typing import Final, assert_never

from worklease.rules.acknowledging import AckView
from worklease.rules.backoff import backoff
from worklease.rules.deadlines import expiry, is_fenced
from worklease.rules.lease import Lease
from worklease.rules.pods import (
    Cause,
    Ending,
    Follows,
    Obstacle,
    Pod,
    cause_of,
    ending_behind,
    ending_of,
    ending_of_lost,
    ending_without_pod,
    latest,
)

RECHECK: Final = 5.0
"""Seconds after which a deletion that was asked for is asked for again: its event may have been missed."""

FIRST_RETRY: Final = 0.5
"""Seconds before a refused deletion or stop is repeated for the first time."""

LONGEST_RETRY: Final = 10.0
"""Seconds between repetitions at most: what is refused for a reason is not fixed faster by asking more."""

RECOVERED: Final = 600.0
"""Seconds without an ailment after which an earlier one is forgotten, as the kubelet forgets a crash."""


FORGIVEN: Final = 3600.0
"""Seconds of running after which earlier restarts and disruptions are forgotten: what comes later has its own cause."""


class DeletionPolicy(StrEnum):
    """What deleting the resource does to an item whose lease it holds."""

    STOP = "Stop"
    RELEASE = "Release"


class OnFailure(StrEnum):
    """What a failed sandbox does to its item."""

    STOP = "Stop"
    RELEASE = "Release"
    RESTART = "Restart"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What the resource asks of its sandbox; times are seconds."""

    is_made: bool = False
    """Whether the operator makes the pod, from a template."""
    start_deadline: float = 600.0
    drain: float = 30.0
    on_failure: OnFailure = OnFailure.STOP
    max_restarts: int = 3
    asked_on_disruption: OnFailure | None = None
    """None: the resource does not say."""
    max_disruptions: int = 10
    keeps_failed: bool = False
    idle: float | None = None
    """How long its session may be idle; None: for as long as it likes."""
    waiting: float | None = None
    """How long its session may wait for somebody's answer; None: for as long as it likes."""
    releases_unstarted: bool = False
    """Whether an item whose sandbox never ran goes back to the queue, whatever ``on_failure`` says: a pool's does."""

    @property
    def on_disruption(self) -> OnFailure:
        """What follows when Kubernetes takes a sandbox away: one that the operator can make again is made again."""
        if self.asked_on_disruption is not None:
            return self.asked_on_disruption
        return OnFailure.RESTART if self.is_made else self.on_failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """Which sandbox is the lease's: the first, or a later one that replaces it; times are monotonic."""

    number: int = 0
    """It names the pod, and never falls."""
    restarts: int = 0
    """How many failures before it count towards ``max_restarts``."""
    disruptions: int = 0
    """How many disruptions before it count towards ``max_disruptions``."""
    runs_since: float | None = None
    """Since when its sandbox runs."""
    lost: frozenset[tuple[str, str]] = frozenset()
    """The uids and nodes of earlier attempts' pods that may still run: their nodes do not answer."""
    begins: float | None = None
    """From when on it may begin; None: from the claim."""
    settled: frozenset[str] = frozenset()
    """The uids of earlier attempts' pods: the operator has acted on their end."""
    taken: frozenset[str] = frozenset()
    """The uids of pods that were at work when the resource began to ask for a sandbox of another kind."""
    rejections: int = 0
    """How many of its pods were rejected by their nodes: none of them counts as a sandbox."""
    again: float | None = None
    """From when on another pod may be made after a rejection."""


@dataclass(frozen=True, slots=True)
class Ailing:
    """How long something has kept a pod from running; times are monotonic."""

    since: float
    until: float | None = None
    """None: it still does."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A deletion or a stop that was asked for: when, and how often in a row it was refused."""

    at: float
    refusals: int = 0
    message: str = ""
    grace: float | None = None
    """The grace asked for with a deletion, in seconds; None: the pod's own."""
    first: float | None = None
    """When a deletion was taken for the first time; its grace counts from then."""
    in_doubt: float | None = None
    """Since when a stop may have been applied: the item may be another's by now, as the answer to a later beat shows.

    None: it was certainly not applied.
    """

    @property
    def again(self) -> float:
        """When to ask again, if it is not done by then."""
        if self.refusals == 0:
            return self.at + RECHECK
        return self.at + backoff(self.refusals - 1, FIRST_RETRY, LONGEST_RETRY)


@dataclass(frozen=True, slots=True)
class NotMade(Asked):
    """A pod that was asked for, and not made: when, how often in a row, and why."""

    obstacle: Obstacle = Obstacle.SPEC


@dataclass(frozen=True, slots=True)
class AskedToFinish(Asked):
    """A worker that was asked to finish: when, until when, and whether the API server refuses to tell it."""

    until: float = 0.0
    is_refused: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """All that a decision, and a status, is made from; times are monotonic.

    A value: nothing changes it, nor its maps. Equal situations lead to equal decisions and are shown alike.
    """

    uid: str
    lease: Lease
    generation: int = 0
    """The resource's, which the status names."""
    rival: str | None = None
    """The resource that keeps this item's lease already, as namespace/name: this one does nothing."""
    problem: str = ""
    """Why the API server would not make the template's pod; empty if it would, or was not asked."""
    obstacle: Obstacle = Obstacle.SPEC
    """What kind of problem that is."""
    bound: Mapping[str, Pod] = field(default_factory=dict)
    """The pods that were found to be this item's while its lease was held, by uid."""
    deletions: Mapping[str, Asked] = field(default_factory=dict)
    finishing: Mapping[str, AskedToFinish] = field(default_factory=dict)
    """The workers that were asked to finish, by their pod's uid."""
    graceful_stop: Asked | None = None
    forced_stop: Asked | None = None
    sandbox: Policy | None = None
    """None: the lease alone counts, whatever becomes of its pods."""
    attempt: Attempt = field(default_factory=Attempt)
    making: NotMade | None = None
    """A pod that was asked for and refused."""
    ailing: Mapping[str, Ailing] = field(default_factory=dict)
    is_restarting: bool = False
    """Whether the attempt is being written down: before that nothing is made or deleted for it."""
    ending: Ending | None = None
    """How this attempt's sandbox ended, once that was concluded."""
    deletion_policy: DeletionPolicy = DeletionPolicy.STOP
    deleting: bool = False
    emptied: float | None = None
    """Since when nothing is at work any more, of a resource that is being deleted."""
    fence_fell: bool = False
    """Whether a sandbox was ended at the fence: should the lease be held again, it counts as failed."""
    are_pods_listed: bool = True
    """Whether every pod that carried the item's labels before this process's start is known."""
    discard_at: float | None = None
    """When the finished resource is to be deleted; None: never."""
    has_finalizer: bool = True
    """Whether the operator's finalizer is on the resource."""
    ack: AckView | None = None
    """What is known of the item's acknowledgement; None: somebody else sees to that."""
    session: Ending | None = None
    """Why the session asks for the end of its sandbox; None: it does not."""
    predecessor: str | None = None
    """A pod of an earlier delivery of the session that may still be at work: until it has ended no pod is made."""

    @property
    def drain_seconds(self) -> float:
        """How long a sandbox may finish once its item is stopping."""
        return (self.sandbox or Policy()).drain


def is_past_end(lease: Lease, now: float) -> bool:
    """Whether a restored lease is past its end, and a beat may still show that it is held."""
    ends = expiry(lease)
    return lease.reprieve is not None and ends is not None and now >= ends


def alive(bound: Mapping[str, Pod]) -> tuple[Pod, ...]:
    """Return the bound pods that are not known to be gone."""
    return tuple(pod for pod in bound.values() if not pod.gone)


def is_kept(situation: Situation, pod: Pod) -> bool:
    """Whether a pod stays for its logs: it failed, and nothing of it runs any more.

    A pod that somebody else deletes, perhaps after reading the logs, needs nothing from the operator.
    """
    policy, is_ended_here = situation.sandbox, pod.terminating and pod.uid in situation.deletions
    if policy is None or not policy.keeps_failed or pod.phase != "Failed" or is_ended_here:
        return False
    return cause_of(pod) not in {Cause.SUCCEEDED, Cause.REJECTED}


def leaving(situation: Situation) -> tuple[Pod, ...]:
    """Return the bound pods that are there and must not stay."""
    return tuple(pod for pod in alive(situation.bound) if not is_kept(situation, pod))


def is_finished(situation: Situation) -> bool:
    """Whether the lease is over and nothing that was bound to it is left."""
    return situation.lease.end is not None and situation.are_pods_listed and not leaving(situation)


def ail(before: Ailing | None, pod: Pod, now: float) -> Ailing | None:
    """Return how long something has kept a pod from running, given what was known ``before``.

    A crash loop runs a little in between, so what is over is not forgotten at once.
    """
    if pod.ailment is not None:
        is_new = before is None or (before.until is not None and now - before.until > RECOVERED)
        return Ailing(now if before is None or is_new else before.since)
    if before is None or before.until is not None:
        return before
    return Ailing(before.since, now)


def run(attempt: Attempt, pod: Pod, now: float) -> Attempt:
    """Return the attempt as it is now that ``pod`` was seen: its sandbox runs, or it does not."""
    if pod.uid in attempt.settled:
        return attempt
    attempt = forgive(attempt, now)
    has_begun = pod.has_started or pod.phase == "Running"
    runs = has_begun and pod.is_at_work and not pod.terminating and pod.result is None and pod.ailment is None
    since = (now if attempt.runs_since is None else attempt.runs_since) if runs else None
    return attempt if since == attempt.runs_since else replace(attempt, runs_since=since)


def admit(attempt: Attempt, before: Pod | None, pod: Pod, now: float) -> Attempt:
    """Return the attempt with its time to start counted from now on if the last scheduling gate of its pod is gone."""
    if before is None or not before.gates or pod.gates or pod.uid in attempt.settled:
        return attempt
    return replace(attempt, begins=now)


def forgive(attempt: Attempt, now: float) -> Attempt:
    """Return the attempt without what is forgotten because its sandbox has run for long enough."""
    if now < forgiven_at(attempt):
        return attempt
    return replace(attempt, restarts=0, disruptions=0)


def forgiven_at(attempt: Attempt) -> float:
    """Return when earlier restarts and disruptions are forgotten; infinite if there are none, or nothing runs."""
    if attempt.runs_since is None or attempt.restarts + attempt.disruptions == 0:
        return inf
    return attempt.runs_since + FORGIVEN


# --- What became of the sandbox ----------------------------------------------------------------------------------


def current(situation: Situation) -> tuple[Pod, ...]:
    """Return the pods of this attempt, the latest bound last: all, or those that the operator made from a template."""
    policy, attempt = situation.sandbox, situation.attempt
    is_any = policy is None or not policy.is_made
    return tuple(
        pod
        for pod in situation.bound.values()
        if pod.uid not in attempt.settled and (is_any or pod.controller == situation.uid or pod.uid in attempt.taken)
    )


def consequence(situation: Situation, ending: Ending) -> OnFailure:
    """Return what happens to the item of a sandbox that ended: no more restarts than the resource allows."""
    policy, attempt = situation.sandbox or Policy(), situation.attempt
    match ending.follows:
        case Follows.ON_FAILURE if is_unstarted(situation, ending):
            return OnFailure.RELEASE
        case Follows.ON_FAILURE:
            return _bounded(policy.on_failure, attempt.restarts, policy.max_restarts)
        case Follows.ON_DISRUPTION:
            return _bounded(policy.on_disruption, attempt.disruptions, policy.max_disruptions)
        case Follows.STOP:
            return OnFailure.STOP
        case Follows.RELEASE:
            return OnFailure.RELEASE
        case _:
            assert_never(ending.follows)


def is_unstarted(situation: Situation, ending: Ending) -> bool:
    """Whether an item is released because its sandbox never ran: that says nothing about the item."""
    policy = situation.sandbox
    if policy is None or not policy.releases_unstarted or ending.cause is not Cause.NOT_STARTED:
        return False
    return not any(pod.has_started or pod.has_run or pod.had_run for pod in current(situation))


def _bounded(asked: OnFailure, count: int, most: int) -> OnFailure:
    return OnFailure.STOP if asked is OnFailure.RESTART and count >= most else asked


def lost(situation: Situation) -> tuple[tuple[str, str], ...]:
    """Return uid and node of each earlier pod that may still run on a lost node."""
    bound = situation.bound
    return tuple((uid, node) for uid, node in sorted(situation.attempt.lost) if uid not in bound or may_run(bound[uid]))


def may_run(pod: Pod) -> bool:
    """Whether a pod may still run on a node that does not answer: nothing has reported the end of its containers."""
    return not pod.is_over and pod.result is None


def lost_node(situation: Situation) -> str | None:
    """Return the lost node on which an earlier pod may still run; None if there is none."""
    return next((node for _, node in lost(situation)), None)


def rejected(situation: Situation) -> Pod | None:
    """Return the pod of this attempt that a node rejected last; None if none was."""
    if situation.attempt.rejections == 0:
        return None
    return latest(pod for pod in situation.bound.values() if cause_of(pod) is Cause.REJECTED)


def begins(situation: Situation) -> float | None:
    """Return from when on this attempt's sandbox is waited for; None before the claim."""
    at = situation.attempt.begins
    return situation.lease.claimed if at is None else at


def deadline(situation: Situation, pod: Pod | None) -> float:
    """Return when a pod that does not run, or that never came, counts as failed; infinite for one that runs."""
    at, policy = begins(situation), situation.sandbox
    if at is None or policy is None:
        return inf
    if pod is None or (pod.phase == "Pending" and not pod.has_started and not pod.is_remembered):
        return inf if pod is not None and pod.gates else at + policy.start_deadline
    ailing = situation.ailing.get(pod.uid)
    if pod.ailment is None or ailing is None:
        return inf
    return max(at, ailing.since) + policy.start_deadline


def conclude(situation: Situation, now: float) -> Ending | None:
    """Return how this attempt's sandbox ended; None while it goes on, or while something else decides.

    As long as one of several pods goes on, so does the sandbox; then the pod that was bound last decides.
    """
    lease, policy = situation.lease, situation.sandbox
    if policy is None or not is_running(situation, now):
        return None
    pods = current(situation)
    if situation.fence_fell:
        return ending_of(latest(situation.bound.values()) or Pod(uid="", name="unknown"), Cause.FENCED)
    if lease.suspended:
        return None
    going = [pod for pod in pods if cause_of(pod) is None]
    if going and situation.session is not None:
        return replace(situation.session, pod=going[-1].name)
    if any(now < deadline(situation, pod) for pod in going):
        return None
    if going:
        return ending_of(going[-1], Cause.NOT_STARTED)
    last = latest(pods)
    if last is not None and (cause := cause_of(last)) not in {None, Cause.REJECTED}:
        return ending_of(last, cause)
    if now < deadline(situation, None) or not situation.are_pods_listed:
        return None
    if (node := lost_node(situation)) is not None:
        return ending_of_lost(policy.start_deadline, node)
    if situation.predecessor is not None:
        return ending_behind(policy.start_deadline, situation.predecessor)
    obstacle = Obstacle.SPEC if situation.making is None else situation.making.obstacle
    return ending_without_pod(policy.start_deadline, _in_the_way(situation), obstacle)


def _in_the_way(situation: Situation) -> str:
    """Return what kept the sandbox from being made; empty if that is not known."""
    if situation.making is not None:
        return situation.making.message
    if (pod := rejected(situation)) is not None:
        return ending_of(pod, Cause.REJECTED).message
    former = [pod.name for pod in leaving(situation) if pod.uid in situation.attempt.settled]
    return f"pod {', '.join(former)} of an earlier attempt is still there" if former else ""


def is_running(situation: Situation, now: float) -> bool:
    """Whether the lease is held and nothing else asks for the sandbox's end."""
    lease = situation.lease
    return (
        lease.held
        and lease.reprieve is None
        and not lease.stopping_seen
        and not is_fenced(lease, now)
        and not situation.deleting
    )
