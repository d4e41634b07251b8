"""The first four steps of an item's way: the poll, the check, the WorkLease, the Secret of its token.

Owns their order: what is needed to work on an item is in Kubernetes before the item leaves the queue. It never
acknowledges: the WorkLease's own turns do that, once the token is there. Must not decide what the rules decide.
"""

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from math import inf
from typing import Final, assert_never

from pydantic import SecretStr

from worklease.api.names import Reference
from worklease.cluster.client import Done
from worklease.cluster.pool_objects import lease_body, secret_body
from worklease.cluster.pool_reading import pool_of, read_pool_lease
from worklease.cluster.pool_writes import LeaseExists, LeaseMade, LeaseMaybeMade, LeaseNotMade, PoolWrites
from worklease.pools.kept_pool import KeptPool
from worklease.rules import breaker, pool_items
from worklease.rules.pool import (
    BLOCK_MS,
    LONGEST_REST,
    RECLAIM_MS,
    SHORTEST_REST,
    Poll,
    PoolLease,
    after_poll,
    decide_poll,
    may_take,
)
from worklease.rules.pool_items import LeaveItem, Make, RefuseItem
from worklease.rules.queue import CallFailed, NothingQueued, QueuedItem
from worklease.work_api.budget import Budget, BudgetRequest, CallClass, Rank
from worklease.work_api.client import StopAcknowledged, WorkApi, WorkItem
from worklease.work_api.queue import Polled, QueueCalls, work_secret

POLL_TIMEOUT: Final = 11.0
"""Seconds for a poll: the second for which the server may hold it, and as long as any other call."""

STOP_TIMEOUT: Final = 10.0

_log = logging.getLogger(__name__)
_chance: Final = random.SystemRandom()


class ItemResult(StrEnum):
    """What became of an item that a poll brought."""

    TAKEN = "taken"
    """Its WorkLease and its token are in Kubernetes."""
    REFUSED = "refused"
    """No sandbox can work on it, and it was stopped."""
    LEFT = "left"
    """It stays in the queue, and is offered again."""
    NOT_WRITTEN = "not-written"
    """Kubernetes did not take all of it. Nothing left the queue, and the next poll that brings it goes on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TakerClients:
    """What a taker calls."""

    work_api: WorkApi
    queue: QueueCalls
    budget: Budget
    writes: PoolWrites


def _as_it_is(lease: PoolLease) -> PoolLease:
    return lease


class Taker:
    """Polls for pools, and writes what comes; one poll of a pool at a time."""

    def __init__(
        self,
        clients: TakerClients,
        clock: Callable[[], float],
        complete: Callable[[PoolLease], PoolLease] = _as_it_is,
    ) -> None:
        """``complete`` adds what the memory and the checkpoint know of a lease's acknowledgement."""
        self._clients = clients
        self._clock = clock
        self._complete = complete

    async def poll(self, kept: KeptPool, key: SecretStr) -> ItemResult | None:
        """Send one poll if it may go when its turn comes, and write what it brings; None: it brought nothing."""
        if not isinstance(decide_poll(kept.state(), self._clock()), Poll):
            return None
        kept.is_poll_in_flight = True
        try:
            await self._clients.budget.turn(self._request(kept, key, Rank.LAST))
            # What was true when it asked for its turn may be so no more.
            if not isinstance(decide_poll(replace(kept.state(), is_poll_in_flight=False), self._clock()), Poll):
                return None
            sent = self._clock()
            found = await self._send(kept, key)
            if found is None:
                return None
            kept.is_item_in_hand = True
            return await self._take(kept, found, key, sent)
        finally:
            kept.is_poll_in_flight = kept.is_item_in_hand = False

    async def _send(self, kept: KeptPool, key: SecretStr) -> Polled | None:
        budget, payer, began = self._clients.budget, key.get_secret_value(), self._clients.budget.now
        outcome = await self._clients.queue.poll(
            kept.resource.spec.environment_id,
            key,
            block_ms=BLOCK_MS,
            reclaim_older_than_ms=RECLAIM_MS,
            timeout=POLL_TIMEOUT,
        )
        failed = outcome if isinstance(outcome, CallFailed) else None
        if failed is None:
            budget.note_accepted(payer, began, CallClass.READING)
        elif failed.retry_after is not None:
            budget.hold(failed.retry_after, payer, CallClass.READING)
        rest = _chance.uniform(SHORTEST_REST, LONGEST_REST)
        is_empty = isinstance(outcome, NothingQueued)
        kept.polls = after_poll(kept.polls, failed, is_empty=is_empty, rest=rest, now=self._clock())
        return outcome if isinstance(outcome, Polled) else None

    async def _take(self, kept: KeptPool, polled: Polled, key: SecretStr, sent: float) -> ItemResult:
        """Check an item, and write it or leave it."""
        spec, now = kept.resource.spec, self._clock()
        if not may_take(kept.state(), now):
            return ItemResult.LEFT
        if spec.require_token:
            pause = float(spec.limits.pause_seconds)
            is_there = polled.token is not None
            kept.breaker = breaker.note_token(kept.breaker, is_there=is_there, pause=pause, now=now)
        plan = pool_items.plan_item(
            polled.item,
            pool=kept.resource.name,
            environment_id=spec.environment_id,
            has_token=polled.token is not None,
            requires_token=spec.require_token,
            deliveries_per_session=spec.limits.deliveries_per_session,
            leases={name: self._complete(lease) for name, lease in kept.census.leases.items()},
        )
        match plan:
            case LeaveItem(message):
                self._tell(kept, polled.item, message)
                return ItemResult.LEFT
            case RefuseItem(_, message):
                self._tell(kept, polled.item, message)
                return await self._refuse(kept, polled.item, key)
            case Make():
                return await self._write(kept, polled, plan, sent)
            case _:
                assert_never(plan)

    async def _write(self, kept: KeptPool, polled: Polled, plan: Make, sent: float) -> ItemResult:
        lease = await self._lease(kept, polled, plan)
        while lease is not None and not pool_items.is_same_delivery(lease):
            known = {name: self._complete(each) for name, each in kept.census.leases.items()} | {lease.name: lease}
            plan = pool_items.make(
                polled.item,
                pool=kept.resource.name,
                failed=plan.failed_deliveries,
                leases=known,
                after=plan.counter,
            )
            lease = await self._lease(kept, polled, plan)
        if lease is None:
            return ItemResult.NOT_WRITTEN
        if polled.token is None:
            return ItemResult.TAKEN
        reference = Reference(kept.resource.namespace, lease.name, lease.uid)
        at = datetime.fromtimestamp(sent, UTC)
        body = secret_body(reference, kept.resource.name, polled.token, work_secret(polled.token), at)
        written = await self._clients.writes.write_token(body)
        if isinstance(written, Done):
            return ItemResult.TAKEN
        self._tell(kept, polled.item, written.message)
        return ItemResult.NOT_WRITTEN

    async def _lease(self, kept: KeptPool, polled: Polled, plan: Make) -> PoolLease | None:
        """Make the lease of a plan; return what has its name now, None if that is not known."""
        kept.census = kept.census.creating(plan.name)
        body = lease_body(kept.resource, polled.item, plan, has_token=polled.token is not None)
        made = await self._clients.writes.make_lease(body)
        match made:
            case LeaseMade(shown) | LeaseExists(shown):
                lease = read_pool_lease(shown)
                if pool_of(shown) != kept.resource.name:
                    # By chance, or by intent: it is no lease of this pool, and takes none of its places.
                    kept.census = kept.census.not_created(plan.name)
                    return replace(lease, is_acknowledged=True)
                kept.census = kept.census.answered(lease)
                return self._complete(lease)
            case LeaseNotMade(message):
                kept.census = kept.census.not_created(plan.name)
            case LeaseMaybeMade(message):
                kept.census = kept.census.unanswered(plan.name, self._clock())
            case _:
                assert_never(made)
        self._tell(kept, polled.item, message)
        return None

    async def _refuse(self, kept: KeptPool, item: QueuedItem, key: SecretStr) -> ItemResult:
        """Stop an item by force, which nobody works on."""
        await self._clients.budget.turn(self._request(kept, key, Rank.FIRST))
        address = WorkItem(item.environment_id, item.id, key)
        outcome = await self._clients.work_api.stop(address, force=True, timeout=STOP_TIMEOUT)
        if isinstance(outcome, StopAcknowledged):
            return ItemResult.REFUSED
        self._tell(kept, item, outcome.message)
        return ItemResult.LEFT

    def _request(self, kept: KeptPool, key: SecretStr, rank: Rank) -> BudgetRequest:
        kind = CallClass.READING if rank is Rank.LAST else CallClass.CREATING
        name = f"pool {kept.resource.uid}"
        payer = key.get_secret_value()
        return BudgetRequest(key=name, rank=rank, fence=inf, end=inf, urgent=inf, payer=payer, kind=kind)

    def _tell(self, kept: KeptPool, item: QueuedItem, message: str) -> None:
        pool = kept.resource
        # An id comes from outside: its escape sequences must not get into a log.
        _log.warning("item not taken namespace=%s pool=%s work=%r: %s", pool.namespace, pool.name, item.id, message)
