"""One kept resource: what this process knows of a WorkLease, its lease and its pods, between two turns.

Owns that state, how it starts from a resource's status, and how it is told to people. Must not await, and must not
decide: ``lease`` and ``lifecycle`` do, ``keeper`` performs.
"""

import asyncio
import math
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final

from worklease.api.models import (
    MOST_SANDBOXES,
    ConditionStatus,
    SandboxStatus,
    StatusCondition,
    WorkLease,
    WorkLeaseStatus,
)
from worklease.api.names import Reference
from worklease.clocks import ClockPair
from worklease.cluster.pod_template import pod_name
from worklease.keeper import record
from worklease.keeper.turn_queue import TurnEntry
from worklease.rules.conditions import Condition, Kind, Subject, Verdict, imply
from worklease.rules.lease import End, Lease, Words, edit, expiry, fence, restore
from worklease.rules.pods import Ending, Pod
from worklease.rules.situation import RECHECK, Ailing, Asked, Attempt, Policy, Situation, ail, alive, is_bindable
from worklease.telemetry import About

SAME_BEAT: Final = 0.5
"""Seconds by which the checkpoint's and the status's time of one beat may differ: they are read by two clocks."""


_UNSAID: Final = WorkLeaseStatus()


@dataclass(slots=True, kw_only=True)
class LeaseOptions:
    """What the settings say of every lease."""

    interval: float
    """Seconds between routine beats at most."""
    credentials_secret: str
    """The Secret where a resource names none."""


@dataclass(frozen=True, slots=True)
class DryRun:
    """What the API server said of the template's pod, which it was asked for and did not make."""

    generation: int
    problem: str
    """Empty: it would be made."""
    again: float
    """When a refusal is asked about again: a quota or a policy may have changed, too."""


@dataclass(slots=True, kw_only=True)
class Kept:
    """The state of one resource; only its own turn changes the lease."""

    resource: WorkLease
    lease: Lease
    item: tuple[str, str, str] = field(init=False)
    """The namespace and the work item's address, by which pods are found; as all that names a resource, it stays."""
    about: About = field(init=False)
    """The resource and its work item, for what is told of them."""
    reference: Reference = field(init=False)
    """The object that status and finalizer are written to."""
    policy: Policy | None = field(init=False)
    """What the spec asks of the sandbox."""
    bound: dict[str, Pod] = field(default_factory=dict)
    deletions: dict[str, Asked] = field(default_factory=dict)
    graceful_stop: Asked | None = None
    forced_stop: Asked | None = None
    claim_time: datetime | None = None
    flips: dict[Kind, tuple[Verdict, datetime]] = field(default_factory=dict)
    """Each condition's last status, and since when."""

    attempt: Attempt = field(default_factory=Attempt)
    making: Asked | None = None
    """A pod that was asked for and refused."""
    ailing: dict[str, Ailing] = field(default_factory=dict)
    ending: Ending | None = None
    """How this attempt's sandbox ended, once that was concluded."""
    emptied: float | None = None
    """Since when nothing is at work any more, of a resource that is being deleted."""
    are_pods_listed: bool = True
    """Whether every pod that carried the item's labels before this process's start was told of."""
    dry_run: DryRun | None = None
    ignored: frozenset[str] = frozenset()
    """The uids of pods that carry the labels and are not touched, as it was told."""
    final: tuple[StatusCondition, ...] = ()
    """What an earlier process said last of a resource that it had finished."""

    fence_fell: bool = False
    """Whether a sandbox was ended at the fence of this lease."""
    rival: str | None = None
    """The resource that has this item's lease already, as namespace/name: this one does nothing."""
    queued: bool = False
    """Whether a beat waits for its turn within the budget."""
    has_finalizer: bool = False
    """Whether our finalizer is on the resource: before that nothing is claimed."""
    done: bool = False
    """Whether nothing is left to do for the resource, for good."""
    turn: TurnEntry = field(default_factory=TurnEntry)
    look_at: float = -math.inf
    """When the situation is to be looked at again though nothing happened."""
    holds_until: float = -math.inf
    """Until when only the fence can be what it is looked at for."""
    calls: dict[str, "asyncio.Task[Any]"] = field(default_factory=dict)
    """What is under way for this resource, by what it is: never two of a kind."""
    unsent: frozenset[str] = frozenset()
    """Which of these calls have sent nothing yet, and can be called off."""
    told: tuple[object, ...] = ()
    """What the status that was last published was made from, beside the lease."""
    told_lease: Lease | None = None
    """The lease that it was made from."""
    is_steady: bool = False
    """Whether that lease was within all its deadlines then."""
    shown: dict[str, tuple[str, str]] = field(default_factory=dict)
    """What of it a person waits for: each condition's status and reason, as they were last told."""
    shown_state: str | None = None
    """So is the item's state."""

    def __post_init__(self) -> None:
        """Derive what is asked for at each beat."""
        resource, spec = self.resource, self.resource.spec
        self.item = (resource.namespace, spec.environment_id, spec.work_id)
        self.reference = Reference(resource.namespace, resource.name, resource.uid)
        self.about = About(*self.reference, spec.environment_id, spec.work_id)
        self.policy = spec.policy()

    @property
    def seniority(self) -> tuple[bool, datetime, str]:
        """Rank resources for the same work item: who holds comes first, then who is older."""
        return (not self.lease.held, self.resource.creation_timestamp, self.resource.uid)

    def record(self, *, trying: float | None, wall: ClockPair, now: float) -> str:
        """Write what a restart needs."""
        sandboxes = record.RecordedSandboxes(
            bound=tuple((pod.uid, pod.name) for pod in alive(self.bound)),
            attempt=self.attempt,
            ending=self.ending,
            fell=self.fence_fell,
        )
        return record.write(self.lease, sandboxes, trying=trying, now=now, wall=wall.time(now).timestamp())

    def reason(self, kind: Kind) -> str | None:
        """Give a condition's reason, as it was last told."""
        shown = self.shown.get(kind.value)
        return None if shown is None else shown[1]

    @property
    def makes_pods(self) -> bool:
        """Whether the operator makes this resource's sandboxes."""
        sandbox = self.resource.spec.sandbox
        return sandbox is not None and sandbox.template is not None

    @property
    def who(self) -> About:
        """The same, for a log line."""
        return self.about

    def situation(self, discard_at: float | None = None) -> Situation:
        """Gather all that a decision is made from."""
        return Situation(
            uid=self.resource.uid,
            lease=self.lease,
            bound=self.bound,
            deletions=self.deletions,
            graceful_stop=self.graceful_stop,
            forced_stop=self.forced_stop,
            sandbox=self.policy,
            attempt=self.attempt,
            making=self.making,
            is_restarting="restart" in self.calls,
            ailing=self.ailing,
            ending=self.ending,
            deletion_policy=self.resource.spec.deletion_policy,
            deleting=self.resource.deletion_timestamp is not None,
            emptied=self.emptied,
            fence_fell=self.fence_fell,
            are_pods_listed=self.are_pods_listed,
            discard_at=discard_at,
            has_finalizer=self.has_finalizer,
        )

    def discard_at(self, wall: ClockPair) -> float | None:
        """Say when a finished resource is to be deleted, if it is."""
        keep = self.resource.spec.ttl_seconds_after_finished
        verdict, since = self.flips.get(Kind.FINISHED, (None, None))
        if keep is None or verdict is not Verdict.TRUE or since is None:
            return None
        return wall.moment(since) + keep

    def edited(self, resource: WorkLease, options: LeaseOptions, now: float) -> None:
        """Take over a newer version of the resource; running work is not touched.

        Who asks for a sandbox, or for one of another kind, while the lease is held, has it waited for from now on; what
        is at work goes on.
        """
        if self.lease.held and _kind(resource) != _kind(self.resource):
            taken = frozenset(pod.uid for pod in self.bound.values() if pod.is_at_work)
            self.attempt = replace(self.attempt, begins=now, taken=taken)
        self.resource = resource if self.final else _without_status(resource)
        self.policy = resource.spec.policy()
        self.lease = edit(self.lease, fresh_lease(resource, options))

    def bind(self, pod: Pod, now: float) -> bool:
        """Take note of a pod of this item, and bind it if it is this lease's sandbox; returns whether it is.

        One that is gone stays gone, for an event may be older than the answer that said so; unless that was concluded
        from what an earlier process told.
        """
        known = self.bound.get(pod.uid)
        if known is None and not is_bindable(pod, self.resource.uid, self.lease, self.claim_time):
            return False
        if known is not None and known.gone and not known.is_remembered:
            pod = _gone(pod)
        self.bound[pod.uid] = pod
        if (ailing := ail(self.ailing.get(pod.uid), pod, now)) is not None:
            self.ailing[pod.uid] = ailing
        self.update_pod_grace()
        return True

    def bind_answer(self, pod: Pod, before: Mapping[str, Pod], now: float) -> bool:
        """Bind a pod as an answer gives it, unless a watch told of it since it was asked for: that may be newer.

        ``before`` is what was bound then. Should the answer be the newer one, the watch brings it too.
        """
        if self.bound.get(pod.uid) is not before.get(pod.uid):
            return True
        return self.bind(pod, now)

    def renewed(self) -> None:
        """Look again at the fence that a renewal has moved, unless something else comes first."""
        at = fence(self.lease)
        if at is not None:
            self.look_at = max(self.look_at, min(self.holds_until, at))

    def lost(self, uid: str) -> None:
        """Take note that a bound pod is no more."""
        pod = self.bound.get(uid)
        if pod is not None:
            self.bound[uid] = _gone(pod)
            self.update_pod_grace()

    def begin(self, attempt: Attempt) -> None:
        """Begin another attempt: what became of the one before has had its consequence.

        What is gone and shown no more is forgotten, for there may be many attempts.
        """
        shown = {pod.uid for pod in _current_first(self.bound, attempt.settled)[:MOST_SANDBOXES]}
        self.bound = {uid: pod for uid, pod in self.bound.items() if uid in shown or not pod.gone}
        attempt = replace(attempt, settled=attempt.settled & self.bound.keys())
        self.attempt, self.ending, self.making, self.fence_fell = attempt, None, None, False
        self.update_pod_grace()

    def update_pod_grace(self) -> None:
        """Take over the longest grace of the bound pods: the fence goes by it, and does not move back once it fell."""
        longest = max((pod.grace for pod in self.bound.values() if pod.is_at_work), default=0.0)
        if self.fence_fell:
            longest = max(longest, self.lease.pod_grace)
        if longest != self.lease.pod_grace:
            self.lease = replace(self.lease, pod_grace=longest)

    def conditions(self, wall: ClockPair, now: float) -> tuple[StatusCondition, ...]:
        """Give the conditions as they are shown, each with the time of its last flip."""
        if self.final:
            newest = {"observed_generation": self.resource.generation}
            return tuple(condition.model_copy(update=newest) for condition in self.final)
        spec = self.resource.spec
        subject = Subject(
            item=f"work item {spec.work_id} of environment {spec.environment_id}",
            rival=self.rival,
            problem=self.dry_run.problem if self.dry_run is not None else "",
            show=lambda moment: wall.time(moment).strftime("%Y-%m-%dT%H:%M:%SZ"),
        )
        return self.show(imply(self.situation(), subject, now), wall, now)

    def show(self, implied: tuple[Condition, ...], wall: ClockPair, now: float) -> tuple[StatusCondition, ...]:
        """Give conditions the times that only their history knows."""
        shown = []
        for condition in implied:
            verdict, since = self.flips.get(condition.kind, (None, wall.time(now)))
            if verdict is not condition.verdict:
                since = wall.time(now)
            self.flips[condition.kind] = (condition.verdict, since)
            shown.append(
                StatusCondition(
                    type=condition.kind.value,
                    status=ConditionStatus(condition.verdict.value),
                    reason=condition.reason.value,
                    message=condition.message,
                    last_transition_time=since.replace(microsecond=0),
                    observed_generation=self.resource.generation,
                )
            )
        return tuple(shown)

    def note_claim(self, wall: ClockPair) -> None:
        """Take note of the time of day at which the lease was first held."""
        if self.claim_time is None and self.lease.claimed is not None:
            self.claim_time = wall.time(self.lease.claimed).replace(microsecond=0)

    def status(self, wall: ClockPair, now: float) -> WorkLeaseStatus:
        """Tell what is known, for people; the server's own words verbatim."""
        words, ends = self.lease.words, expiry(self.lease)
        return WorkLeaseStatus(
            last_heartbeat=words.last_heartbeat if words is not None else None,
            state=words.state if words is not None else None,
            lease_extended=words.lease_extended if words is not None else None,
            ttl_seconds=round(words.ttl_seconds) if words is not None else None,
            observed_time=wall.time(words.at) if words is not None else None,
            lease_expiry_time=wall.time(ends) if ends is not None else None,
            claim_time=self.claim_time,
            sandboxes=tuple(_shown_pod(pod) for pod in _current_first(self.bound, self.attempt.settled)),
            restarts=self.attempt.number if self.bound or self.attempt.number else None,
            conditions=self.conditions(wall, now),
            observed_generation=self.resource.generation,
        )


def _gone(pod: Pod) -> Pod:
    """Give a pod that is no more, as it was last told of."""
    reason = pod.reason or "Deleted"
    return replace(pod, gone=True, ready=False, is_remembered=False, ailment=None, reason=reason)


def fresh_lease(resource: WorkLease, options: LeaseOptions) -> Lease:
    """Give the lease of a resource that nobody kept before."""
    return Lease(
        desired_ttl=resource.spec.ttl_seconds,
        interval=options.interval,
        suspended=resource.spec.heartbeat.mode.value == "Suspended",
        seed=zlib.crc32(resource.uid.encode()),
    )


def resume(resource: WorkLease, options: LeaseOptions, recorded: str | None, wall: ClockPair, now: float) -> Kept:
    """Go on from what an earlier process left: its checkpoint, else what it wrote into the resource's status."""
    status, fresh = resource.status, fresh_lease(resource, options)
    kept = Kept(resource=resource, lease=fresh, claim_time=status.claim_time)
    reasons = {condition.type: condition for condition in status.conditions}
    for kind in Kind:
        if (shown := reasons.get(kind.value)) is not None:
            kept.flips[kind] = (Verdict(shown.status.value), shown.last_transition_time)
    ready = reasons.get(Kind.SANDBOX_READY.value)
    is_ready = ready is not None and ready.status is ConditionStatus.TRUE
    for entry in (entry for entry in reversed(status.sandboxes) if entry.pod_name):
        kept.bound[entry.pod_uid] = replace(_remembered_pod(entry), ready=is_ready)
    kept.shown = {kind: (shown.status.value, shown.reason) for kind, shown in reasons.items()}
    kept.shown_state = status.state
    words, found = _words(status, wall), record.read(recorded)
    ended = _ended(status, reasons)
    if ended is not None:
        # A word that only another version knows still says that it is over.
        end = End(ended.reason) if ended.reason in set(End) else End.STOPPED
        kept.lease = replace(fresh, words=words, end=end, message=ended.message)
        if ended.type == Kind.FINISHED.value:
            kept.bound = {uid: replace(pod, gone=True) for uid, pod in kept.bound.items()}
            kept.final, kept.attempt = status.conditions, Attempt(number=status.restarts or 0)
            return kept
    else:
        kept.lease = _newest(fresh, found, status, words, wall=wall, now=now)
    _resume_sandboxes(kept, found, wall, now)
    kept.update_pod_grace()
    kept.resource = _without_status(resource)
    return kept


def _without_status(resource: WorkLease) -> WorkLease:
    """Keep no status of what is under way: it was read once, and is several times the rest."""
    return replace(resource, status=_UNSAID)


def _resume_sandboxes(kept: Kept, found: record.Record | None, wall: ClockPair, now: float) -> None:
    """Go on with the sandboxes, from the checkpoint, else from the status.

    What was asked of the server before is not known: a stop may have been applied, and pods may have come unseen.
    """
    status, claimed = kept.resource.status, kept.lease.claimed
    if found is not None:
        known = record.resume_sandboxes(found, moment=wall.epoch)
        kept.attempt, kept.ending, kept.fence_fell = known.attempt, known.ending, known.fell
        for uid, name in known.bound:
            kept.bound.setdefault(uid, Pod(uid=uid, name=name, is_remembered=True))
    elif status.restarts:
        # The current attempt's pod comes first, and it alone has not had its consequence.
        earlier = frozenset(entry.pod_uid for entry in status.sandboxes[1:] if entry.finish_time is not None)
        kept.attempt = Attempt(number=status.restarts, begins=now, settled=earlier)
    # Who controls a pod is not remembered, but those that we made are known by their names, gone or not.
    number = kept.attempt.number
    made = {pod_name(kept.resource, attempt) for attempt in range(max(0, number - MOST_SANDBOXES), number + 1)}
    for uid, pod in kept.bound.items():
        if pod.name in made:
            kept.bound[uid] = replace(pod, controller=kept.resource.uid)
    if kept.lease.held:
        kept.graceful_stop = kept.forced_stop = Asked(now - RECHECK, in_doubt=now)
    # Whoever holds since before the start may have pods that nobody here was told of.
    kept.are_pods_listed = claimed is None and status.claim_time is None


def _newest(
    fresh: Lease,
    found: record.Record | None,
    status: WorkLeaseStatus,
    words: Words | None,
    *,
    wall: ClockPair,
    now: float,
) -> Lease:
    """Go on from the checkpoint or from the status, whichever knows the later beat: each may lag behind the other.

    A checkpoint that knows of a claim's tries only is older than a status that shows the lease held.
    """
    recorded = fresh if found is None else record.resume(found, fresh, words, now=now, moment=wall.epoch)
    if status.claim_time is None or words is None or not words.last_heartbeat or status.lease_expiry_time is None:
        return recorded
    sent = wall.moment(status.lease_expiry_time) - words.ttl_seconds
    if recorded.sent is not None and recorded.sent + SAME_BEAT >= min(sent, now):
        return recorded
    told = restore(
        fresh,
        value=words.last_heartbeat,
        ttl=words.ttl_seconds,
        sent=sent,
        claimed=wall.moment(status.claim_time),
        words=words,
        now=now,
    )
    return told if recorded.sent is None else replace(told, first=recorded.first)


def _kind(resource: WorkLease) -> tuple[bool, bool]:
    """Tell whether a resource asks for a sandbox, and whether the operator makes it."""
    sandbox = resource.spec.sandbox
    return (sandbox is not None, sandbox is not None and sandbox.template is not None)


def _ended(status: WorkLeaseStatus, shown: Mapping[str, StatusCondition]) -> StatusCondition | None:
    """Find the condition that says that the lease is over: ``Finished``, or ``LeaseHeld`` of one that was held."""
    finished = shown.get(Kind.FINISHED.value)
    if finished is not None and finished.status is ConditionStatus.TRUE:
        return finished
    held = shown.get(Kind.LEASE_HELD.value)
    if held is None or held.status is not ConditionStatus.FALSE or status.claim_time is None:
        return None
    return held if held.reason in set(End) else None


def _words(status: WorkLeaseStatus, wall: ClockPair) -> Words | None:
    """Read the server's last words back; None where the status does not have them all."""
    if status.last_heartbeat is None or status.observed_time is None or status.ttl_seconds is None:
        return None
    return Words(
        last_heartbeat=status.last_heartbeat,
        state=status.state or "",
        lease_extended=bool(status.lease_extended),
        ttl_seconds=float(status.ttl_seconds),
        at=wall.moment(status.observed_time),
    )


def _remembered_pod(entry: SandboxStatus) -> Pod:
    return Pod(
        uid=entry.pod_uid,
        name=entry.pod_name or "",
        phase=entry.phase or "Unknown",
        reason=entry.reason or "",
        message=entry.message or "",
        exit_code=entry.exit_code,
        finish_time=entry.finish_time,
        is_remembered=True,
    )


def _shown_pod(pod: Pod) -> SandboxStatus:
    return SandboxStatus(
        pod_uid=pod.uid,
        pod_name=pod.name,
        phase=pod.phase,
        reason=pod.reason or None,
        message=pod.message or None,
        exit_code=pod.exit_code,
        finish_time=pod.finish_time,
    )


def _current_first(bound: Mapping[str, Pod], settled: Collection[str]) -> list[Pod]:
    """Put this attempt's pods before the others, those that are there before those that are gone, the latest first."""
    latest_first = list(bound.values())[::-1]
    return sorted(latest_first, key=lambda pod: (pod.uid in settled, pod.gone))
