"""A WorkPool as people see it: what its object says, and how much attention it needs.

Owns how the object is read. It is read leniently, as a WorkLease is. Pure; ``now`` is passed in.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from worklease.cli.leases import ABSENT, UNSEEN, Judgement, Shown, condition, time_of
from worklease.rules.pool_reasons import PoolKind, PoolReason
from worklease.rules.reasons import Level

STAGES: Final = ("claiming", "starting", "running", "ending")
"""The stages of a pool's unfinished WorkLeases, as its status counts them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolView:
    """One WorkPool, as its object shows it."""

    namespace: str
    name: str
    uid: str
    created: datetime
    deleting: datetime | None
    environment_id: str
    secret: str | None
    most: int
    active: int
    stages: Mapping[str, int]
    depth: int | None
    """Items that wait in the queue; None where the server does not tell."""
    pending: int | None
    oldest: datetime | None
    workers: int | None
    counted: datetime | None
    breaker_until: datetime | None
    failures: int
    last_poll: datetime | None
    last_item: datetime | None
    operator: str = ""
    """Which installation serves it."""
    conditions: Mapping[str, Shown] = field(default_factory=dict)

    @property
    def polling(self) -> Shown:
        """The condition ``Polling``."""
        return self.conditions.get(PoolKind.POLLING, ABSENT)

    @property
    def ready(self) -> Shown:
        """The condition ``Ready``."""
        return self.conditions.get(PoolKind.READY, ABSENT)


def read_pool(body: Mapping[str, Any]) -> PoolView:
    """Return a WorkPool that the API server returned."""
    metadata, spec, status = body["metadata"], body.get("spec") or {}, body.get("status") or {}
    queue, breaker = status.get("queue") or {}, status.get("breaker") or {}
    return PoolView(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        created=datetime.fromisoformat(metadata["creationTimestamp"]),
        deleting=time_of(metadata.get("deletionTimestamp")),
        environment_id=str(spec.get("environmentID", "")),
        secret=(spec.get("credentialsSecretRef") or {}).get("name"),
        most=spec.get("maxConcurrent") or 0,
        active=status.get("active") or 0,
        stages={stage: status.get(stage) or 0 for stage in STAGES},
        depth=queue.get("depth"),
        pending=queue.get("pending"),
        oldest=time_of(queue.get("oldestQueuedTime")),
        workers=queue.get("workersPolling"),
        counted=time_of(queue.get("observedTime")),
        breaker_until=time_of(breaker.get("openUntilTime")),
        failures=breaker.get("failures") or 0,
        last_poll=time_of(status.get("lastPollTime")),
        last_item=time_of(status.get("lastItemTime")),
        operator=str(status.get("operator") or ""),
        conditions={entry["type"]: condition(entry) for entry in status.get("conditions") or ()},
    )


def judge_pool(seen: PoolView, now: datetime) -> Judgement:
    """Return how much attention a pool needs, and why. A full pool is well: it does what it is asked to."""
    polling, ready = seen.polling, seen.ready
    if seen.deleting is not None:
        left = f"{seen.active} of its WorkLeases have not ended yet."
        return Judgement(Level.UNDER_WAY, "Deleting", f"It takes nothing new; {left}")
    if not seen.conditions:
        if now - seen.created > UNSEEN:
            message = "No operator has handled it: is one running, with pools, and does it watch this namespace?"
            return Judgement(Level.TROUBLE, "Stale", message)
        return Judgement(Level.UNDER_WAY, "New", "No operator has handled it yet.")
    if ready.status != "True":
        return Judgement(Level.TROUBLE, ready.reason, ready.message)
    is_well = polling.reason in {PoolReason.POLLING, PoolReason.AT_CAPACITY}
    return Judgement(Level.WELL if is_well else Level.UNDER_WAY, polling.reason, polling.message)


def ranked_pools(pools: Sequence[PoolView], now: datetime) -> list[tuple[PoolView, Judgement]]:
    """Return the pools with their judgement: those that need attention first, then by name."""
    rows = [(seen, judge_pool(seen, now)) for seen in pools]
    return sorted(rows, key=lambda row: (row[1].level, row[0].namespace, row[0].name))
