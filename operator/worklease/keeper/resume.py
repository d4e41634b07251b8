"""How a process goes on with a resource: from the checkpoint of an earlier one, else from the resource's status.

Owns the reading of both, and which of them is the newer. Must not await, and must not decide what follows.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from worklease.api.models import (
    MOST_SANDBOXES,
    ConditionStatus,
    SandboxStatus,
    StatusCondition,
    WorkLease,
    WorkLeaseStatus,
)
from worklease.api.names import TURN_LABEL
from worklease.clocks import ClockPair
from worklease.cluster.pod_template import pod_name
from worklease.cluster.pods import CREATION_LANDS
from worklease.keeper import record
from worklease.keeper.kept import Kept, LeaseOptions, fresh_lease
from worklease.rules.acknowledging import Acknowledgement
from worklease.rules.beats import restore
from worklease.rules.clock_error import unsure
from worklease.rules.lease import End, Lease, Words
from worklease.rules.pods import Pod
from worklease.rules.reasons import Kind, Reason, Verdict
from worklease.rules.situation import RECHECK, Asked, Attempt

SAME_BEAT: Final = 0.5
"""Seconds by which the checkpoint's and the status's time of one beat may differ: they are read by two clocks."""

_NO_STATUS: Final = WorkLeaseStatus()


def resume(resource: WorkLease, options: LeaseOptions, recorded: str | None, wall: ClockPair, now: float) -> Kept:
    """Return the resource as an earlier process left it: by its checkpoint, else by the resource's status."""
    status, fresh = resource.status, fresh_lease(resource, options)
    kept = Kept(resource=resource, lease=fresh, claim_time=status.claim_time)
    reasons = {condition.type: condition for condition in status.conditions}
    _resume_published(kept, status, reasons)
    ready = reasons.get(Kind.SANDBOX_READY.value)
    is_ready = ready is not None and ready.status is ConditionStatus.TRUE
    shown = (entry for entry in reversed(status.sandboxes) if entry.pod_name)
    # Which gates a pod was behind is not shown; that it was is what counts.
    gates = (ready.reason,) if ready is not None and ready.reason == Reason.SCHEDULING_GATED else ()
    kept.pods.bound = {entry.pod_uid: replace(_remembered_pod(entry), ready=is_ready, gates=gates) for entry in shown}
    words, found = _words(status, wall), record.read(recorded)
    ended = _ended(status, reasons)
    if ended is not None:
        # A reason that only another version knows still says that the lease is over.
        end = End(ended.reason) if ended.reason in set(End) else End.STOPPED
        kept.lease = replace(fresh, words=words, end=end, message=ended.message)
        if ended.type == Kind.FINISHED.value:
            kept.pods.bound = {uid: replace(pod, gone=True) for uid, pod in kept.pods.bound.items()}
            kept.pods.attempt = _shown_attempt(status)
            kept.published.final = status.conditions
            return kept
    else:
        kept.lease = _newest(fresh, found, status, words, wall=wall, now=now)
        if kept.lease.sent is None and resource.spec.acknowledge:
            needs_token = resource.spec.sessions_token_secret_ref is not None
            kept.calls.ack = record.resume_ack(
                found, Acknowledgement(needs_token=needs_token), now=now, moment=wall.epoch
            )
    _resume_sandboxes(kept, found, wall, now)
    if TURN_LABEL in resource.labels:
        kept.pods.sent_until = now + CREATION_LANDS
    kept.follow_pods()
    kept.resource = without_status(resource)
    return kept


def without_status(resource: WorkLease) -> WorkLease:
    """Return the resource without its status, which was read once and is several times the size of the rest."""
    return replace(resource, status=_NO_STATUS)


def _resume_published(kept: Kept, status: WorkLeaseStatus, reasons: Mapping[str, StatusCondition]) -> None:
    """Take over what an earlier process has published."""
    published = kept.published
    for kind in Kind:
        if (shown := reasons.get(kind.value)) is not None:
            published.flips[kind] = (Verdict(shown.status.value), shown.last_transition_time)
    published.conditions = {kind: (shown.status.value, shown.reason) for kind, shown in reasons.items()}
    published.state = status.state


def _resume_sandboxes(kept: Kept, found: record.Record | None, wall: ClockPair, now: float) -> None:
    """Go on with the sandboxes, from the checkpoint, else from the status.

    What was asked of the server before is not known: a stop may have been applied, and pods may have come unseen.
    """
    status, claimed, pods = kept.resource.status, kept.lease.claimed, kept.pods
    bound = dict(pods.bound)
    if found is not None:
        known = record.resume_sandboxes(found, moment=wall.epoch)
        pods.attempt, pods.ending, pods.fence_fell = known.attempt, known.ending, known.fell
        for uid, name in known.bound:
            bound.setdefault(uid, Pod(uid=uid, name=name, is_remembered=True))
    elif status.attempt or status.restarts:
        # The current attempt's pod comes first; only on its end the operator has not acted yet.
        earlier = frozenset(entry.pod_uid for entry in status.sandboxes[1:] if entry.finish_time is not None)
        pods.attempt = replace(_shown_attempt(status), begins=now, settled=earlier)
    # A pod's controller is not remembered, but pods that the operator made are known by their names, gone or not.
    number = pods.attempt.number
    made = {pod_name(kept.resource, attempt) for attempt in range(max(0, number - MOST_SANDBOXES), number + 1)}
    for uid, pod in bound.items():
        if pod.name in made:
            bound[uid] = replace(pod, controller=kept.resource.uid)
    pods.bound = bound
    if kept.lease.held:
        kept.calls.graceful_stop = kept.calls.forced_stop = Asked(now - RECHECK, in_doubt=now)
    # A lease that was held before the start may have pods that no watch has reported to this process.
    pods.are_listed = claimed is None and status.claim_time is None


def _shown_attempt(status: WorkLeaseStatus) -> Attempt:
    """Return the attempt that a status shows. One of an earlier version shows only its number, as the restarts."""
    restarts = status.restarts or 0
    number = restarts if status.attempt is None else status.attempt
    return Attempt(number=number, restarts=restarts, disruptions=status.disruptions or 0)


def _newest(
    fresh: Lease,
    found: record.Record | None,
    status: WorkLeaseStatus,
    words: Words | None,
    *,
    wall: ClockPair,
    now: float,
) -> Lease:
    """Return the lease by the checkpoint or by the status, whichever knows the later beat: each may lag behind.

    A checkpoint that knows only the tries of a claim is older than a status that shows the lease held.
    """
    recorded = fresh if found is None else record.resume(found, fresh, words, now=now, moment=wall.epoch)
    if status.claim_time is None or words is None or not words.last_heartbeat or status.lease_expiry_time is None:
        return recorded
    ends = wall.moment(status.lease_expiry_time)
    ttl = _granted_ttl(status, words, ends, recorded)
    sent = ends - ttl
    if recorded.sent is not None and recorded.sent + SAME_BEAT >= min(sent, now):
        return recorded
    shown = restore(
        fresh,
        value=words.last_heartbeat,
        ttl=ttl,
        sent=sent,
        claimed=wall.moment(status.claim_time),
        words=words,
        now=now,
    )
    shown = unsure(shown, now)
    return shown if recorded.sent is None else replace(shown, first=recorded.first)


def _granted_ttl(status: WorkLeaseStatus, words: Words, ends: float, recorded: Lease) -> float:
    """Return the TTL that belongs to the end that the status shows.

    An answer that extends nothing may name any TTL, and sets no deadline. The status of an earlier version has no TTL
    but that of the last answer.
    """
    if status.granted_ttl_seconds is not None:
        return float(status.granted_ttl_seconds)
    if status.lease_extended:
        return words.ttl_seconds
    return recorded.ttl if recorded.sent is not None else max(1.0, ends - words.at)


def _ended(status: WorkLeaseStatus, shown: Mapping[str, StatusCondition]) -> StatusCondition | None:
    """Return the condition that says that the lease is over: ``Finished``, or ``LeaseHeld`` of one that was held."""
    finished = shown.get(Kind.FINISHED.value)
    if finished is not None and finished.status is ConditionStatus.TRUE:
        return finished
    held = shown.get(Kind.LEASE_HELD.value)
    if held is None or held.status is not ConditionStatus.FALSE or status.claim_time is None:
        return None
    return held if held.reason in set(End) else None


def _words(status: WorkLeaseStatus, wall: ClockPair) -> Words | None:
    """Return the server's last words; None if the status does not have them all."""
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
        had_run=entry.phase == "Running" or entry.exit_code is not None or entry.finish_time is not None,
        is_remembered=True,
    )
