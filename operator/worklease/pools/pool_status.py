"""The status of a kept pool, as people and autoscalers read it.

Owns the way from what is kept to the status, and the times that only the conditions' history knows. Must not decide
what is so: ``rules.pool`` does.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from worklease.api.models import LONGEST_MESSAGE, ConditionStatus, StatusCondition
from worklease.api.names import POOL_LABEL
from worklease.api.pool_models import BreakerStatus, QueueStatus, WorkPoolStatus
from worklease.pools.kept_pool import KeptPool
from worklease.rules.breaker import CLOSED, Breaker
from worklease.rules.lease import instant
from worklease.rules.pool import Stage
from worklease.rules.pool_reasons import PoolCondition, PoolReason, pool_conditions

MOVING: Final = frozenset({"lastPollTime", "lastItemTime"})
"""The fields that change with each poll: they are written with what else changes, and now and then."""


def status(kept: KeptPool, now: float) -> WorkPoolStatus:
    """Return the status as it is now."""
    counted, pool, upkeep = kept.census.count(), kept.resource, kept.upkeep
    numbers, breaker = upkeep.queue, kept.breaker
    queue = None
    if numbers is not None:
        oldest = instant(numbers.oldest_queued_at)
        queue = QueueStatus(
            depth=numbers.depth,
            pending=numbers.pending,
            oldest_queued_time=None if oldest is None else _time(oldest),
            workers_polling=numbers.workers_polling,
            observed_time=_time(upkeep.queue_observed),
        )
    shown_breaker = None
    if breaker.open_until is not None or breaker.failures:
        shown_breaker = BreakerStatus(
            open_until_time=_time(breaker.open_until),
            pause_seconds=round(breaker.pause) or None,
            failures=breaker.failures,
        )
    return WorkPoolStatus(
        active=kept.census.active,
        claiming=counted[Stage.CLAIMING],
        starting=counted[Stage.STARTING],
        running=counted[Stage.RUNNING],
        ending=counted[Stage.ENDING],
        queue=queue,
        breaker=shown_breaker,
        last_poll_time=_time(kept.last_poll),
        last_item_time=_time(kept.last_item or None),
        selector=f"{POOL_LABEL}={pool.name}",
        conditions=_conditions(kept, now),
        observed_generation=pool.generation,
    )


def resume(kept: KeptPool) -> None:
    """Go on with what an earlier process wrote into the status: the breaker, and since when each condition holds."""
    shown = kept.resource.status
    kept.breaker = saved_breaker(shown)
    kept.published.flips = {each.type: (each.status.value, each.last_transition_time) for each in shown.conditions}


def saved_breaker(shown: WorkPoolStatus) -> Breaker:
    """Return the breaker that an earlier process wrote into the status."""
    breaker = shown.breaker
    if breaker is None:
        return CLOSED
    until = breaker.open_until_time
    return Breaker(
        failures=breaker.failures or 0,
        pause=float(breaker.pause_seconds or 0),
        open_until=None if until is None else until.timestamp(),
        message="sandboxes did not start before the operator's own start",
    )


def steady(patch: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a status without the times that change with each poll, for comparison."""
    queue = {name: value for name, value in (patch.get("queue") or {}).items() if name != "observedTime"}
    return {name: value for name, value in patch.items() if name not in MOVING} | {"queue": queue}


def invalid(message: str, created: datetime) -> Mapping[str, Any]:
    """Return the status of a pool that cannot be read."""
    shown = [_condition(each, created, None) for each in pool_conditions(PoolReason.INVALID_SPEC, message)]
    return {"conditions": [each.model_dump(mode="json", by_alias=True, exclude_none=True) for each in shown]}


def _conditions(kept: KeptPool, now: float) -> tuple[StatusCondition, ...]:
    published = kept.published
    if published.reason is None:
        return kept.resource.status.conditions
    shown = []
    for condition in pool_conditions(published.reason, published.message):
        verdict, since = published.flips.get(condition.kind.value, ("", _time(now)))
        if verdict != condition.status.value or since is None:
            since = datetime.fromtimestamp(now, UTC)
        published.flips[condition.kind.value] = (condition.status.value, since)
        shown.append(_condition(condition, since, kept.resource.generation))
    return tuple(shown)


def _condition(condition: PoolCondition, since: datetime, generation: int | None) -> StatusCondition:
    return StatusCondition(
        type=condition.kind.value,
        status=ConditionStatus(condition.status.value),
        reason=condition.reason.value,
        message=condition.message[:LONGEST_MESSAGE],
        last_transition_time=since.replace(microsecond=0),
        observed_generation=generation,
    )


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).replace(microsecond=0)
