"""What a lease, its pods and the resource together ask for: make, wait, drain, tear down, stop, restart, finish.

Owns the decisions about sandboxes, as values. Pure: no clock, no socket; ``now`` is passed in. Must not know how a
pod is made or deleted or an item is stopped, only that it should be.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import ceil, floor, inf
from typing import Final, assert_never

from worklease.rules.backoff import backoff
from worklease.rules.deadlines import expiry, fence, giving_up, grace, is_fenced, may_stop, time_left, timeout
from worklease.rules.finishing import AskToFinish, finish, lead
from worklease.rules.lease import End, Lease
from worklease.rules.pods import Cause, Ending, Follows, Pod, cause_of
from worklease.rules.situation import (
    Asked,
    Attempt,
    DeletionPolicy,
    OnFailure,
    Situation,
    alive,
    begins,
    consequence,
    current,
    deadline,
    forgive,
    forgiven_at,
    is_running,
    is_unstarted,
    leaving,
    lost,
    may_run,
)

FIRST_RESTART: Final = 2.0
"""Seconds before the first restart of a failed sandbox: the node is to blame as often as the sandbox."""

LONGEST_RESTART: Final = 300.0
"""Seconds between restarts at most, as the kubelet waits between those of a container."""

LONGEST_REJECTION: Final = 60.0
"""Seconds between the pods that are made after their nodes rejected one: a node that is full may be so for long."""

STOP_TIMEOUT: Final = 60.0
"""Seconds for which a deleted resource whose sandbox is gone waits for the acknowledgement of its stop."""

PREDECESSOR_LOOK: Final = 1.0
"""Seconds between two looks whether the pods of a session's earlier deliveries have ended: somebody waits."""

UNRESPONSIVE: Final = 5.0
"""Seconds beyond its grace after which a pod that is still there is unresponsive: its node does not answer."""


@dataclass(frozen=True, slots=True)
class EndPod:
    """Delete this very pod, by name and uid; ``grace`` in seconds, None: the pod's own."""

    uid: str
    name: str
    grace: float | None

    def grace_of(self, pod: Pod) -> float:
        """Return the grace in seconds that this deletion grants to ``pod``."""
        return pod.grace if self.grace is None else self.grace


@dataclass(frozen=True, slots=True)
class StopItem:
    """Stop the work item: gracefully, or as the confirmation of a stop."""

    force: bool


@dataclass(frozen=True, slots=True)
class MakePod:
    """Make the sandbox of this attempt from the template."""

    attempt: int


@dataclass(frozen=True, slots=True)
class AwaitNode:
    """Find out whether the lost node of an earlier pod can still run it, until that is known."""

    uid: str
    node: str


@dataclass(frozen=True, slots=True)
class Restart:
    """Begin another attempt under the same lease."""

    attempt: Attempt


@dataclass(frozen=True, slots=True)
class AwaitAnother:
    """Go on with the attempt without the pods that their nodes rejected: none of them was a sandbox."""

    attempt: Attempt


@dataclass(frozen=True, slots=True)
class Release:
    """Send no more beats: the lease lapses, and the item is queued again."""

    message: str


@dataclass(frozen=True, slots=True)
class BeatNow:
    """Send a beat now: its answer shows whether a stop that is in doubt was applied."""


@dataclass(frozen=True, slots=True)
class ListPods:
    """Find the pods that carry the item's labels: some may have appeared while no operator was running."""


@dataclass(frozen=True, slots=True)
class RemoveFinalizer:
    """Remove the operator's finalizer, whether the resource is being deleted or not: nothing of it is left to end."""

    left: str = ""
    """What is left all the same, and what becomes of it; empty: nothing."""


@dataclass(frozen=True, slots=True)
class DeleteResource:
    """Delete the resource: it has been finished for as long as it was to be kept."""


Step = (
    EndPod
    | AskToFinish
    | StopItem
    | BeatNow
    | MakePod
    | Restart
    | AwaitAnother
    | AwaitNode
    | Release
    | ListPods
    | RemoveFinalizer
    | DeleteResource
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now, and when to look again if nothing happens before."""

    steps: tuple[Step, ...] = ()
    look_at: float | None = None
    holds_until: float = -inf
    """Until when the plan holds although the lease is renewed, which moves its fence; by default it does not hold."""


# --- What to do --------------------------------------------------------------------------------------------------


def decide(situation: Situation, now: float) -> Plan:
    """Return what the situation asks for at ``now``."""
    lease = situation.lease
    if lease.end is not None:
        return _after_the_end(situation, now)
    if lease.stopping_seen:
        return _drain(situation, now)
    if is_fenced(lease, now):
        return _tear_down(situation, leaving(situation), now, fence_grace(lease))
    if situation.deleting:
        return _give_up(situation, now)
    if situation.ending is not None and lease.held:
        return _act_upon(situation, situation.ending, now)
    return _go_on(situation, now)


def fence_grace(lease: Lease) -> float:
    """Return the grace, in whole seconds, that is left to a pod at the fence.

    It is never 0: with that, the pod is gone at once and its container may go on running.
    """
    return max(1.0, float(floor(grace(lease))))


def why_it_must_go(lease: Lease, now: float, *, is_deleting: bool) -> tuple[str, bool]:
    """Return why a pod must go, as an event and a metric name it, and whether a beat said so."""
    if lease.end is not None:
        return lease.end.value, lease.end is not End.RELEASED
    if is_fenced(lease, now):
        return "Fenced", False
    if lease.stopping_seen:
        return "Draining", True
    return ("ResourceDeleted" if is_deleting else "Restarting"), False


def _go_on(situation: Situation, now: float) -> Plan:
    """Make the sandbox, or wait for it to start and to end."""
    policy = situation.sandbox
    if policy is None or not is_running(situation, now) or situation.lease.suspended or situation.is_restarting:
        return _wait(situation.lease, now)
    rejects = [pod.uid for pod in current(situation) if cause_of(pod) is Cause.REJECTED]
    if rejects:
        return Plan((AwaitAnother(_without(situation.attempt, rejects, now)),))
    former = [pod for pod in leaving(situation) if pod.uid in situation.attempt.settled]
    runs_on = tuple(AwaitNode(uid, node) for uid, node in lost(situation)) if policy.is_made else ()
    if former or runs_on:
        plan = _tear_down(situation, former, now, None)
        ends = deadline(situation, None)
        look_at = ends if plan.look_at is None or now < ends < plan.look_at else plan.look_at
        return Plan((*plan.steps, *runs_on), look_at)
    pods, at = current(situation), begins(situation)
    looks = [forgiven_at(situation.attempt), *(deadline(situation, pod) for pod in pods or (None,))]
    if not pods and not situation.are_pods_listed and now >= looks[-1]:
        return _look_again(situation.lease, now, steps=(ListPods(),))
    if policy.is_made and not pods and at is not None and situation.predecessor is not None:
        return _look_again(situation.lease, now, *looks, now + PREDECESSOR_LOOK)
    if policy.is_made and not pods and at is not None:
        again = max(at, situation.attempt.again or at, at if situation.making is None else situation.making.again)
        if now >= again:
            return _look_again(situation.lease, now, *looks, steps=(MakePod(situation.attempt.number),))
        looks.append(again)
    return _wait(situation.lease, now, *(look for look in looks if look > now))


def _without(attempt: Attempt, rejects: Iterable[str], now: float) -> Attempt:
    """Return the attempt without pods that were rejected: it is the same one, and its deadline does not move."""
    wait = backoff(attempt.rejections, FIRST_RESTART, LONGEST_REJECTION)
    settled = attempt.settled | frozenset(rejects)
    return replace(attempt, settled=settled, rejections=attempt.rejections + 1, again=now + wait)


def _wait(lease: Lease, now: float, *looks: float) -> Plan:
    """Plan no step: only the first of ``looks``, or the lease's own deadlines, can change that."""
    return Plan(look_at=_look_again(lease, now, *looks).look_at, holds_until=min(looks, default=inf))


def _act_upon(situation: Situation, ending: Ending, now: float) -> Plan:
    """Do what the resource asks for when a sandbox has ended: stop its item, release it, or restart the sandbox."""
    if ending.cause is Cause.SUCCEEDED:
        return _stop_sandbox(situation, now)
    match follows := consequence(situation, ending):
        case OnFailure.RESTART:
            return Plan((Restart(_next_attempt(situation, ending, now)),))
        case OnFailure.RELEASE:
            why = "the sandbox never ran" if is_unstarted(situation, ending) else f"as {_ASKED_BY[ending.follows]}"
            return Plan((Release(f"heartbeats stop, {why}; the lease lapses"),))
        case OnFailure.STOP:
            return _stop_sandbox(situation, now)
        case _:
            assert_never(follows)


_ASKED_BY: Final = {
    Follows.ON_FAILURE: "onFailure asks",
    Follows.ON_DISRUPTION: "onDisruption asks",
    Follows.RELEASE: "there never was a sandbox",
    Follows.STOP: "the sandbox ended",
}
"""Why an item is released, by what decides about it."""


def _next_attempt(situation: Situation, ending: Ending, now: float) -> Attempt:
    """Return the attempt after one that ended; of a pod on a lost node nobody knows whether it runs on."""
    attempt = forgive(situation.attempt, now)
    pods = current(situation)
    is_disruption = ending.follows is Follows.ON_DISRUPTION
    wait = backoff(attempt.disruptions if is_disruption else attempt.restarts, FIRST_RESTART, LONGEST_RESTART)
    runs_on = {(pod.uid, pod.node) for pod in pods if pod.node and may_run(pod) and cause_of(pod) is Cause.NODE_LOST}
    return Attempt(
        number=attempt.number + 1,
        restarts=attempt.restarts + (not is_disruption),
        disruptions=attempt.disruptions + is_disruption,
        lost=frozenset((*lost(situation), *runs_on)),
        begins=now + wait,
        settled=attempt.settled | {pod.uid for pod in pods},
    )


def _stop_sandbox(situation: Situation, now: float) -> Plan:
    """Stop the item of a sandbox that ended: gracefully while any pod of it still runs, else with force."""
    if any(pod.is_at_work for pod in situation.bound.values()):
        return _stop(situation, situation.graceful_stop, StopItem(force=False), now)
    return _stop(situation, situation.forced_stop, StopItem(force=True), now)


def _after_the_end(situation: Situation, now: float) -> Plan:
    """Tear down what is bound: with its own grace if the item was stopped or released, with the lease's if it was lost.

    Even its own grace ends before the lease would have ended: a stopped item may be queued and held again.
    """
    lease, pods = situation.lease, leaving(situation)
    if pods or not situation.are_pods_listed:
        has_own_grace = lease.end in {End.STOPPED, End.RELEASED} and not is_fenced(lease, now)
        plan = _tear_down(situation, pods, now, None if has_own_grace else fence_grace(lease))
        return plan if situation.are_pods_listed else Plan((*plan.steps, ListPods()), plan.look_at)
    if situation.has_finalizer or situation.discard_at is None or situation.deleting:
        return Plan((RemoveFinalizer(_left_lapsed(situation)),))
    return Plan((DeleteResource(),)) if now >= situation.discard_at else Plan(look_at=situation.discard_at)


def _drain(situation: Situation, now: float) -> Plan:
    """Let the sandbox finish while beats go on; when nothing is at work, confirm the stop while the operator may."""
    lease = situation.lease
    working = [pod for pod in alive(situation.bound) if pod.is_at_work]
    if working:
        plan = (
            _tear_down(situation, working, now, fence_grace(lease))
            if is_fenced(lease, now)
            else _let_finish(situation, working, now)
        )
        return _confirm_in_time(situation, working, plan, now)
    return _confirm(situation, now)


def _let_finish(situation: Situation, working: Sequence[Pod], now: float) -> Plan:
    """Give the pods of a drain their time: ask the workers that can hear it, and tell the others to end."""
    drain = situation.drain_seconds
    finishing = finish(situation, working, now)
    plans = [
        _tear_down(situation, finishing.others, now, drain),
        _tear_down(situation, finishing.late, now, max(1.0, lead(drain))),
        Plan(finishing.steps, None if finishing.look_at == inf else finishing.look_at),
    ]
    looks = [plan.look_at for plan in plans if plan.look_at is not None]
    return Plan(tuple(step for plan in plans for step in plan.steps), min(looks, default=None))


def _confirm_in_time(situation: Situation, working: Sequence[Pod], plan: Plan, now: float) -> Plan:
    """Confirm the stop while the operator still may, even if a pod is there that a dead node will not end."""
    lease, ends = situation.lease, expiry(situation.lease)
    overdue = [_overdue(pod, situation.deletions.get(pod.uid)) for pod in working]
    if ends is None or inf in overdue:
        return plan
    at = max(*overdue, ends - 2 * timeout(lease))
    if now < at:
        return replace(plan, look_at=at if plan.look_at is None else min(at, plan.look_at))
    last = _confirm(situation, now)
    looks = [look for look in (plan.look_at, last.look_at) if look is not None]
    return Plan((*plan.steps, *last.steps), min(looks, default=None))


def _overdue(pod: Pod, asked: Asked | None) -> float:
    """Return when a pod that was told to end counts as unresponsive; infinite if it was not told."""
    if asked is None or asked.first is None:
        return inf
    return asked.first + (pod.grace if asked.grace is None else asked.grace) + UNRESPONSIVE


def _confirm(situation: Situation, now: float) -> Plan:
    """Stop the item with force; a deleted resource does not wait for ever for the acknowledgement."""
    until = _stop_deadline(situation)
    if now >= until:
        return Plan((RemoveFinalizer(_left_running(situation)),))
    return _within(_stop(situation, situation.forced_stop, StopItem(force=True), now), until)


def _stop_deadline(situation: Situation) -> float:
    """Return until when a deleted resource waits for the acknowledgement of its stop; infinite for any other."""
    return inf if not situation.deleting or situation.emptied is None else situation.emptied + STOP_TIMEOUT


def _within(plan: Plan, until: float) -> Plan:
    return plan if until == inf else replace(plan, look_at=min(until, until if plan.look_at is None else plan.look_at))


def _left_running(situation: Situation) -> str:
    asked = situation.forced_stop or situation.graceful_stop
    why = f": {asked.message}" if asked is not None and asked.message else ""
    return f"the server did not acknowledge the stop of the work item{why}; heartbeats stopped, and its lease lapses"


def _left_lapsed(situation: Situation) -> str:
    """Return what is left of a deleted resource whose lease lapsed before its stop was acknowledged; else nothing."""
    tried = [asked for asked in (situation.forced_stop, situation.graceful_stop) if asked is not None and asked.message]
    if not situation.deleting or situation.lease.end is not End.EXPIRED or not tried:
        return ""
    return f"the server did not acknowledge the stop of the work item: {tried[0].message}; its lease has lapsed"


def _give_up(situation: Situation, now: float) -> Plan:
    """End the lease of a resource that is being deleted: stop the item, or leave it to be queued again.

    The sandbox is told to end as soon as a stop was tried, acknowledged or not: it has to go in any case.
    """
    lease = situation.lease
    working = [pod for pod in alive(situation.bound) if pod.is_at_work]
    if not lease.held and situation.ack is not None and situation.ack.has_left_queue:
        until = _stop_deadline(situation)
        left = "the work item was acknowledged, and could not be claimed and given back: it waits for nobody"
        return Plan((RemoveFinalizer(left),)) if now >= until else Plan(look_at=until if until < inf else None)
    if not lease.held or situation.deletion_policy is DeletionPolicy.RELEASE:
        return _leave(situation, working, now)
    if not working:
        return _confirm(situation, now)
    plan = _stop(situation, situation.graceful_stop, StopItem(force=False), now)
    if situation.graceful_stop is None and may_stop(lease, now):
        return plan
    ending = _let_finish(situation, working, now)
    looks = [look for look in (plan.look_at, ending.look_at) if look is not None]
    together = Plan((*plan.steps, *ending.steps), min(looks, default=None))
    return _confirm_in_time(situation, working, together, now)


def _leave(situation: Situation, working: Sequence[Pod], now: float) -> Plan:
    """Delete the pods, and leave the item alone: beats go on only for as long as anything can be at work."""
    pods = leaving(situation)
    if not pods:
        return Plan((RemoveFinalizer(),))
    plan = _tear_down(situation, pods, now, None, inf)
    until = max((_overdue(pod, situation.deletions.get(pod.uid)) for pod in working), default=now)
    if not situation.lease.held or until == inf:
        return plan
    if now >= until:
        return Plan((*plan.steps, Release("heartbeats stop, as deletionPolicy asks; the lease lapses")), plan.look_at)
    return replace(plan, look_at=until if plan.look_at is None else min(until, plan.look_at))


def _stop(situation: Situation, asked: Asked | None, step: StopItem, now: float) -> Plan:
    """Stop the item, again if the server did not acknowledge the stop.

    A stop is sent only while the lease is held, less a timeout for the stop's own way to the server.
    """
    if not may_stop(situation.lease, now):
        return _look_again(situation.lease, now)
    if asked is not None and now < asked.again:
        return _look_again(situation.lease, now, asked.again)
    if asked is not None and asked.in_doubt is not None and not _is_answered_since(situation.lease, asked.in_doubt):
        # When beats fail already, the lease's own next try is as soon as possible.
        is_soon = situation.lease.failures > 0 or situation.lease.due <= now
        return _look_again(situation.lease, now, steps=() if is_soon else (BeatNow(),))
    return _look_again(situation.lease, now, steps=(step,))


def _is_answered_since(lease: Lease, since: float) -> bool:
    """Whether a beat that was sent after ``since`` was answered."""
    return lease.words is not None and lease.words.at >= since


def _tear_down(
    situation: Situation, pods: Iterable[Pod], now: float, allowed: float | None, left: float | None = None
) -> Plan:
    """Ask for the deletion of ``pods``; ask again where it was refused, is overdue, or must be faster than asked.

    ``allowed`` is the grace that a pod may have, in seconds; None: its own. ``left`` is how long any of
    them may run from now on: by default what is left of the lease.
    """
    left = time_left(situation.lease, now) if left is None else left
    steps: list[Step] = []
    looks: list[float] = []
    for pod in pods:
        asked = situation.deletions.get(pod.uid)
        step = _end(pod, asked, allowed, left)
        if asked is None or now >= asked.again or _is_urgent(situation.lease, pod, asked, step, now):
            steps.append(step)
        else:
            looks.append(asked.again)
    return _look_again(situation.lease, now, *looks, steps=tuple(steps))


def _is_urgent(lease: Lease, pod: Pod, asked: Asked, step: EndPod, now: float) -> bool:
    """Whether to ask ahead of the next try: to end the pod sooner than granted, or because the fence has come."""
    before, at = _asked_grace(pod, asked), fence(lease)
    if before is not None:
        return step.grace_of(pod) + 1.0 < before
    return at is not None and asked.at < at <= now


def _asked_grace(pod: Pod, asked: Asked | None) -> float | None:
    """Return the grace of a deletion that is under way, in seconds; None if none was granted yet."""
    if asked is None or (asked.refusals > 0 and not pod.terminating):
        return None
    return pod.grace if asked.grace is None else asked.grace


def _end(pod: Pod, asked: Asked | None, allowed: float | None, left: float) -> EndPod:
    """Return the deletion to ask for. One that is under way is not given less time only because time goes by.

    The API server counts a shorter grace from the first deletion, so the time that went by would count twice. What is
    left is rounded up, which the fence's margin covers: it holds more than a second. A grace that the lease limits is
    shorter by what the kubelet adds to it.
    """
    before, most = _asked_grace(pod, asked), pod.grace if allowed is None else allowed
    fits = most <= left - pod.overtime
    wanted = max(1.0, float(floor(most)) if fits else float(ceil(left - pod.overtime)))
    if before is not None:
        wanted = max(1.0, before if most >= before else float(floor(most - pod.overtime)))
    return EndPod(pod.uid, pod.name, None if allowed is None and wanted == pod.grace else wanted)


def _look_again(lease: Lease, now: float, *looks: float, steps: tuple[Step, ...] = ()) -> Plan:
    """Plan ``steps``, and look again at the first of ``looks``, or when the lease changes what its pods may do."""
    changes = (at for at in (fence(lease), expiry(lease), giving_up(lease)) if at is not None and at > now)
    return Plan(steps, min((*looks, *changes), default=None))
