"""The status of a kept resource, as people read it.

Owns the way from what is kept to the status of the resource, and the times that only the conditions' history knows.
Must not decide what is so: ``rules.conditions`` does.
"""

from worklease.api.models import ConditionStatus, SandboxStatus, StatusCondition, WorkLeaseStatus
from worklease.clocks import ClockPair
from worklease.keeper.bound_pods import current_first
from worklease.keeper.kept import Kept
from worklease.rules.conditions import Condition, Subject, imply
from worklease.rules.deadlines import expiry
from worklease.rules.pods import Pod


def status(kept: Kept, wall: ClockPair, now: float) -> WorkLeaseStatus:
    """Return the status as people read it, with the server's own words unchanged."""
    words, ends, pods = kept.lease.words, expiry(kept.lease), kept.pods
    return WorkLeaseStatus(
        last_heartbeat=words.last_heartbeat if words is not None else None,
        state=words.state if words is not None else None,
        lease_extended=words.lease_extended if words is not None else None,
        ttl_seconds=round(words.ttl_seconds) if words is not None else None,
        observed_time=wall.time(words.at) if words is not None else None,
        granted_ttl_seconds=round(kept.lease.ttl) if ends is not None else None,
        lease_expiry_time=wall.time(ends) if ends is not None else None,
        claim_time=kept.claim_time,
        sandboxes=tuple(_sandbox(pod) for pod in current_first(pods.bound, pods.attempt.settled)),
        attempt=pods.attempt.number or None,
        restarts=pods.attempt.restarts if pods.bound or pods.attempt.number else None,
        disruptions=pods.attempt.disruptions or None,
        conditions=_conditions(kept, wall, now),
        observed_generation=kept.resource.generation,
    )


def _conditions(kept: Kept, wall: ClockPair, now: float) -> tuple[StatusCondition, ...]:
    """Return the conditions as they are shown, each with the time of its last flip."""
    if kept.published.final:
        newest = {"observed_generation": kept.resource.generation}
        return tuple(condition.model_copy(update=newest) for condition in kept.published.final)
    situation = kept.gather()
    subject = Subject(
        item=f"work item {kept.spec.work_id} of environment {kept.spec.environment_id}",
        rival=situation.rival,
        problem=situation.problem,
        obstacle=situation.obstacle,
        show=lambda moment: wall.time(moment).strftime("%Y-%m-%dT%H:%M:%SZ"),
    )
    return tuple(_condition(kept, condition, wall, now) for condition in imply(situation, subject, now))


def _condition(kept: Kept, condition: Condition, wall: ClockPair, now: float) -> StatusCondition:
    """Return a condition with the time of its last flip, which is now if its status is not what it was."""
    flips = kept.published.flips
    verdict, since = flips.get(condition.kind, (None, wall.time(now)))
    if verdict is not condition.verdict:
        since = wall.time(now)
    flips[condition.kind] = (condition.verdict, since)
    return StatusCondition(
        type=condition.kind.value,
        status=ConditionStatus(condition.verdict.value),
        reason=condition.reason.value,
        message=condition.message,
        last_transition_time=since.replace(microsecond=0),
        observed_generation=kept.resource.generation,
    )


def _sandbox(pod: Pod) -> SandboxStatus:
    return SandboxStatus(
        pod_uid=pod.uid,
        pod_name=pod.name,
        phase=pod.phase,
        reason=pod.reason or None,
        message=pod.message or None,
        exit_code=pod.exit_code,
        finish_time=pod.finish_time,
    )
