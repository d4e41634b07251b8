"""One kept resource: what this process knows of a WorkLease, its lease and its pods, between two turns.

Owns that state, how it starts from a resource's status, and how it is told to people. Must not await, and must not
decide: ``lease`` and ``lifecycle`` do, ``keeper`` performs.
"""

import asyncio
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final

from worklease import record
from worklease.conditions import Condition, Kind, Subject, Verdict, imply
from worklease.happenings import About
from worklease.lease import End, Lease, Words, edit, expiry, restore
from worklease.lifecycle import Asked, Pod, Situation, alive, is_bindable
from worklease.resource import Condition as ShownCondition
from worklease.resource import (
    ConditionStatus,
    OnFailure,
    SandboxStatus,
    WorkLease,
    WorkLeaseStatus,
)
from worklease.status import Reference

SAME_BEAT: Final = 0.5
"""Seconds by which the checkpoint's and the status's time of one beat may differ: they are read by two clocks."""


@dataclass(slots=True, kw_only=True)
class Options:
    """What the settings say of every lease."""

    interval: float
    """Seconds between routine beats at most."""
    credentials_secret: str
    """The Secret where a resource names none."""


@dataclass(frozen=True, slots=True)
class Wall:
    """Writes a moment of the monotonic clock as a time of day; the two were read at the same moment."""

    monotonic: float
    utc: datetime

    def time(self, moment: float) -> datetime:
        """Give the time of day of ``moment``."""
        return self.utc + timedelta(seconds=moment - self.monotonic)

    def epoch(self, seconds: float) -> float:
        """Give the moment of seconds since the epoch."""
        return self.monotonic + seconds - self.utc.timestamp()

    def moment(self, time: datetime) -> float:
        """Give the moment of ``time``."""
        return self.monotonic + (time - self.utc).total_seconds()


@dataclass(slots=True, kw_only=True)
class Kept:
    """The state of one resource; only its own turn changes the lease."""

    resource: WorkLease
    lease: Lease
    bound: dict[str, Pod] = field(default_factory=dict)
    deletions: dict[str, Asked] = field(default_factory=dict)
    graceful_stop: Asked | None = None
    forced_stop: Asked | None = None
    claim_time: datetime | None = None
    flips: dict[Kind, tuple[Verdict, datetime]] = field(default_factory=dict)
    """Each condition's last status, and since when."""

    fence_fell: bool = False
    """Whether a sandbox was ended at the fence of this lease."""
    rival: str | None = None
    """The resource that has this item's lease already, as namespace/name: this one does nothing."""
    queued: bool = False
    """Whether a beat waits for its turn within the budget."""
    guarded: bool = False
    """Whether our finalizer is on the resource: before that nothing is claimed."""
    let_go: bool = False
    """Whether nothing is left to do for the resource, for good."""
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    calls: dict[str, "asyncio.Task[Any]"] = field(default_factory=dict)
    """What is under way for this resource, by what it is: never two of a kind."""
    told: tuple[object, ...] = ()
    """What the status that was last published was made from."""
    reasons: dict[str, str] = field(default_factory=dict)
    """Each condition's reason, as it was last told."""
    shown: dict[str, object] = field(default_factory=dict)
    """What of it a person waits for: the state, and each condition's status and reason."""

    @property
    def reference(self) -> Reference:
        """The object that status and finalizer are written to."""
        return Reference(self.resource.namespace, self.resource.name, self.resource.uid)

    @property
    def seniority(self) -> tuple[bool, datetime, str]:
        """Rank resources for the same work item: who holds comes first, then who is older."""
        return (not self.lease.held, self.resource.creation_timestamp, self.resource.uid)

    def record(self, *, trying: float | None, wall: Wall, now: float) -> str:
        """Write what a restart needs."""
        bound = [(pod.uid, pod.name) for pod in alive(self.bound)]
        return record.write(self.lease, bound, trying=trying, now=now, wall=wall.time(now).timestamp())

    @property
    def item(self) -> tuple[str, str, str]:
        """The namespace and the work item's address, by which pods are found."""
        return (self.resource.namespace, self.resource.spec.environment_id, self.resource.spec.work_id)

    @property
    def about(self) -> About:
        """The resource and its work item, for what is told of them."""
        resource = self.resource
        return About(
            resource.namespace, resource.name, resource.uid, resource.spec.environment_id, resource.spec.work_id
        )

    @property
    def who(self) -> str:
        """Name the resource and its work item, for a log line."""
        resource = self.resource
        return (
            f"namespace={resource.namespace} name={resource.name} "
            f"environment={resource.spec.environment_id} work={resource.spec.work_id}"
        )

    def situation(self) -> Situation:
        """Gather all that a decision is made from."""
        spec = self.resource.spec
        return Situation(
            uid=self.resource.uid,
            lease=self.lease,
            bound=self.bound,
            deletions=self.deletions,
            graceful_stop=self.graceful_stop,
            forced_stop=self.forced_stop,
            drain_seconds=float(spec.sandbox.drain_seconds if spec.sandbox is not None else 30),
            deletion_policy=spec.deletion_policy,
            deleting=self.resource.deletion_timestamp is not None,
            fence_fell=self.fence_fell,
            stops_on_failure=spec.sandbox is not None and spec.sandbox.on_failure is OnFailure.STOP,
        )

    def edited(self, resource: WorkLease, options: Options) -> None:
        """Take over a newer version of the resource; running work is not touched."""
        self.resource = resource
        self.lease = edit(self.lease, fresh_lease(resource, options))

    def bind(self, pod: Pod) -> None:
        """Take note of a pod of this item, and bind it if it is this lease's sandbox."""
        if pod.uid not in self.bound and not is_bindable(pod, self.resource.uid, self.lease):
            return
        self.bound[pod.uid] = pod
        self.regrace()

    def lost(self, uid: str) -> None:
        """Take note that a bound pod is no more."""
        pod = self.bound.get(uid)
        if pod is not None:
            self.bound[uid] = replace(pod, gone=True, ready=False, reason=pod.reason or "Deleted")
            self.regrace()

    def regrace(self) -> None:
        """Take over the longest grace of the bound pods: the fence goes by it, and does not move back once it fell."""
        longest = max((pod.grace for pod in alive(self.bound)), default=0.0)
        if self.fence_fell:
            longest = max(longest, self.lease.pod_grace)
        if longest != self.lease.pod_grace:
            self.lease = replace(self.lease, pod_grace=longest)

    def conditions(self, wall: Wall, now: float) -> tuple[ShownCondition, ...]:
        """Give the conditions as they are shown, each with the time of its last flip."""
        spec = self.resource.spec
        subject = Subject(
            item=f"work item {spec.work_id} of environment {spec.environment_id}",
            expects_sandbox=spec.sandbox is not None,
            rival=self.rival,
            show=lambda moment: wall.time(moment).strftime("%Y-%m-%dT%H:%M:%SZ"),
        )
        return self.show(imply(self.situation(), subject, now), wall, now)

    def show(self, implied: tuple[Condition, ...], wall: Wall, now: float) -> tuple[ShownCondition, ...]:
        """Give conditions the times that only their history knows."""
        shown = []
        for condition in implied:
            verdict, since = self.flips.get(condition.kind, (None, wall.time(now)))
            if verdict is not condition.verdict:
                since = wall.time(now)
            self.flips[condition.kind] = (condition.verdict, since)
            shown.append(
                ShownCondition(
                    type=condition.kind.value,
                    status=ConditionStatus(condition.verdict.value),
                    reason=condition.reason.value,
                    message=condition.message,
                    last_transition_time=since.replace(microsecond=0),
                    observed_generation=self.resource.generation,
                )
            )
        return tuple(shown)

    def status(self, wall: Wall, now: float) -> WorkLeaseStatus:
        """Tell what is known, for people; the server's own words verbatim."""
        words, ends = self.lease.words, expiry(self.lease)
        if self.claim_time is None and self.lease.claimed is not None:
            self.claim_time = wall.time(self.lease.claimed).replace(microsecond=0)
        return WorkLeaseStatus(
            last_heartbeat=words.last_heartbeat if words is not None else None,
            state=words.state if words is not None else None,
            lease_extended=words.lease_extended if words is not None else None,
            ttl_seconds=round(words.ttl_seconds) if words is not None else None,
            observed_time=wall.time(words.at) if words is not None else None,
            lease_expiry_time=wall.time(ends) if ends is not None else None,
            claim_time=self.claim_time,
            sandboxes=tuple(_shown_pod(pod) for pod in _current_first(self.bound)),
            restarts=0 if self.bound else None,
            conditions=self.conditions(wall, now),
            observed_generation=self.resource.generation,
        )


def fresh_lease(resource: WorkLease, options: Options) -> Lease:
    """Give the lease of a resource that nobody kept before."""
    return Lease(
        desired_ttl=resource.spec.ttl_seconds,
        interval=options.interval,
        suspended=resource.spec.heartbeat.mode.value == "Suspended",
        seed=zlib.crc32(resource.uid.encode()),
    )


def resume(resource: WorkLease, options: Options, recorded: str | None, wall: Wall, now: float) -> Kept:
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
    words, found = _words(status, wall), record.read(recorded)
    ended = _ended(status, reasons)
    if ended is not None:
        kept.lease = replace(fresh, words=words, end=End(ended.reason), message=ended.message)
        if ended.type == Kind.FINISHED.value:
            kept.bound = {uid: replace(pod, gone=True) for uid, pod in kept.bound.items()}
    else:
        for uid, name in found.bound if found is not None else ():
            kept.bound.setdefault(uid, Pod(uid=uid, name=name))
        kept.lease = _newest(fresh, found, status, words, wall=wall, now=now)
    kept.regrace()
    return kept


def _newest(
    fresh: Lease, found: record.Record | None, status: WorkLeaseStatus, words: Words | None, *, wall: Wall, now: float
) -> Lease:
    """Go on from the checkpoint or from the status, whichever knows the later beat: each may lag behind the other.

    A checkpoint that knows of a claim's tries only is older than a status that shows the lease held.
    """
    recorded = fresh if found is None else record.resume(found, fresh, words, now=now, moment=wall.epoch)
    if status.claim_time is None or words is None or not words.last_heartbeat or status.lease_expiry_time is None:
        return recorded
    told = restore(
        fresh,
        value=words.last_heartbeat,
        ttl=words.ttl_seconds,
        sent=wall.moment(status.lease_expiry_time) - words.ttl_seconds,
        claimed=wall.moment(status.claim_time),
        words=words,
        now=now,
    )
    if recorded.sent is None or told.sent is None or recorded.sent + SAME_BEAT >= told.sent:
        return recorded if recorded.sent is not None else told
    return replace(told, first=recorded.first)


def _ended(status: WorkLeaseStatus, shown: Mapping[str, ShownCondition]) -> ShownCondition | None:
    """Find the condition that says that the lease is over: ``Finished``, or ``LeaseHeld`` of one that was held."""
    finished = shown.get(Kind.FINISHED.value)
    if finished is not None and finished.status is ConditionStatus.TRUE:
        return finished
    held = shown.get(Kind.LEASE_HELD.value)
    if held is None or held.status is not ConditionStatus.FALSE or status.claim_time is None:
        return None
    return held if held.reason in set(End) else None


def _words(status: WorkLeaseStatus, wall: Wall) -> Words | None:
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


def _current_first(bound: Mapping[str, Pod]) -> list[Pod]:
    """Put the pods that are there before those that are gone, and the latest bound before the earlier."""
    latest_first = list(bound.values())[::-1]
    return sorted(latest_first, key=lambda pod: pod.gone)
