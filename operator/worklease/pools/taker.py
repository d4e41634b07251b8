"""The first four steps of an item's way: the poll, the check, the WorkLease, the Secret of its token.

Owns their order: what is needed to work on an item is in Kubernetes before the item leaves the queue. It never
acknowledges: the WorkLease's own turns do that, once the token is there. Must not decide what the rules decide.
"""

import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from math import inf
from typing import Any, Final, assert_never

from pydantic import SecretStr

from worklease.api.names import Reference
from worklease.cluster.client import Done
from worklease.cluster.pool_objects import lease_body, secret_body
from worklease.cluster.pool_reading import pool_of, read_pool_lease
from worklease.cluster.pool_writes import LeaseExists, LeaseMade, LeaseMaybeMade, LeaseNotMade, PoolWrites
from worklease.pools.kept_pool import KeptPool
from worklease.rules import breaker, pool_items
from worklease.rules.acts import Act
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
from worklease.rules.queue import CallFailed, NothingQueued, QueuedItem, QueueFailure
from worklease.rules.words import one_line
from worklease.telemetry import SILENT, ItemHandled, ItemResult, PollResult, PoolPolled, Publisher
from worklease.work_api.budget import Budget, BudgetRequest, CallClass, Rank
from worklease.work_api.client import StopAcknowledged, WorkApi, WorkItem
from worklease.work_api.queue import Polled, QueueCalls, work_secret

POLL_TIMEOUT: Final = 11.0
"""Seconds for a poll: the second for which the server may hold it, and as long as any other call."""

STOP_TIMEOUT: Final = 10.0
"""Seconds for a stop, as for any other call."""

TERMINATING: Final = "being terminated"
"""The API server's words where a namespace is being deleted: nothing is made in it any more."""

_log = logging.getLogger(__name__)
_chance: Final = random.SystemRandom()


@dataclass(frozen=True, slots=True, kw_only=True)
class TakerClients:
    """What a taker calls."""

    work_api: WorkApi
    queue: QueueCalls
    budget: Budget
    writes: PoolWrites
    publisher: Publisher = SILENT


def _as_it_is(lease: PoolLease) -> PoolLease:
    return lease


def _to_nobody(_: Mapping[str, Any]) -> None:
    return None


_RESULT_OF: Final[Mapping[QueueFailure, PollResult]] = {
    QueueFailure.UNAUTHORIZED: PollResult.REFUSED,
    QueueFailure.REJECTED: PollResult.REFUSED,
    QueueFailure.NOT_FOUND: PollResult.REFUSED,
    QueueFailure.THROTTLED: PollResult.THROTTLED,
    QueueFailure.UNANSWERED: PollResult.UNANSWERED,
    QueueFailure.UNSENT: PollResult.UNANSWERED,
}


class Taker:
    """Polls for pools, and writes what comes; one poll of a pool at a time."""

    def __init__(
        self,
        clients: TakerClients,
        clock: Callable[[], float],
        complete: Callable[[PoolLease], PoolLease] = _as_it_is,
        made: Callable[[Mapping[str, Any]], None] = _to_nobody,
    ) -> None:
        """``complete`` adds what the memory and the checkpoint know of a lease's acknowledgement.

        ``made`` is told of each WorkLease that was made, before a watch reports it.
        """
        self._clients = clients
        self._made = made
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
            kept.is_item_in_hand, kept.last_item = True, self._clock()
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
        kept.last_poll = self._clock()
        result = PollResult.EMPTY if is_empty else PollResult.ITEM
        if failed is not None:
            result = _RESULT_OF[failed.failure]
        self._clients.publisher.publish(PoolPolled(kept.about, result))
        return outcome if isinstance(outcome, Polled) else None

    async def _take(self, kept: KeptPool, polled: Polled, key: SecretStr, sent: float) -> ItemResult:
        """Check an item, and write it or leave it."""
        spec, now = kept.resource.spec, self._clock()
        if not may_take(kept.state(), now):
            return self._told(kept, polled.item, ItemResult.LEFT, "the pool takes nothing any more")
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
                return self._told(kept, polled.item, ItemResult.LEFT, message)
            case RefuseItem(_, message):
                return await self._refuse(kept, polled.item, key, message, sent)
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
            return self._told(kept, polled.item, ItemResult.NOT_WRITTEN, kept.problem_of_writes)
        kept.taken[lease.uid] = kept.last_item
        if polled.token is None:
            return self._told(kept, polled.item, ItemResult.TAKEN, lease.name)
        reference = Reference(kept.resource.namespace, lease.name, lease.uid)
        at = datetime.fromtimestamp(sent, UTC)
        body = secret_body(reference, kept.resource.name, polled.token, work_secret(polled.token), at)
        written = await self._clients.writes.write_token(body, kept.may_make)
        if isinstance(written, Done):
            kept.tokens[lease.uid] = sent
            return self._told(kept, polled.item, ItemResult.TAKEN, lease.name)
        return self._told(kept, polled.item, ItemResult.NOT_WRITTEN, written.message)

    async def _lease(self, kept: KeptPool, polled: Polled, plan: Make) -> PoolLease | None:
        """Make the lease of a plan; return what has its name now, None if that is not known."""
        kept.census = kept.census.creating(plan.name)
        body = lease_body(kept.resource, polled.item, plan, has_token=polled.token is not None)
        made = await self._clients.writes.make_lease(body, kept.may_make)
        match made:
            case LeaseMade(shown) | LeaseExists(shown):
                lease = read_pool_lease(shown)
                kept.kubernetes_answers = True
                if pool_of(shown) != kept.resource.name:
                    # By chance, or by intent: it is no lease of this pool, and takes none of its places.
                    kept.census = kept.census.not_created(plan.name)
                    return replace(lease, is_acknowledged=True)
                kept.census = kept.census.answered(lease)
                self._made(shown)
                return self._complete(lease)
            case LeaseNotMade(message):
                kept.census = kept.census.not_created(plan.name)
                kept.is_namespace_ending = kept.is_namespace_ending or TERMINATING in message
            case LeaseMaybeMade(message):
                kept.census = kept.census.unanswered(plan.name, self._clock())
                kept.kubernetes_answers = False
            case _:
                assert_never(made)
        kept.problem_of_writes = message
        return None

    async def _refuse(self, kept: KeptPool, item: QueuedItem, key: SecretStr, why: str, sent: float) -> ItemResult:
        """Stop an item by force, which nobody works on: long after its poll, which was ``sent`` then, somebody may."""
        await self._clients.budget.turn(self._request(kept, key, Rank.FIRST))
        if not kept.may_act(Act.STOP) or self._clock() >= sent + pool_items.ACK_WITHIN:
            return self._told(kept, item, ItemResult.LEFT, f"{why}, and the time to stop it is over: it comes again")
        address = WorkItem(item.environment_id, item.id, key)
        outcome = await self._clients.work_api.stop(address, force=True, timeout=STOP_TIMEOUT)
        if isinstance(outcome, StopAcknowledged):
            return self._told(kept, item, ItemResult.REFUSED, why)
        return self._told(kept, item, ItemResult.LEFT, f"{why}, and its stop failed: {outcome.message}")

    def _request(self, kept: KeptPool, key: SecretStr, rank: Rank) -> BudgetRequest:
        kind = CallClass.READING if rank is Rank.LAST else CallClass.CREATING
        name = f"pool {kept.resource.uid}"
        payer = key.get_secret_value()
        return BudgetRequest(key=name, rank=rank, fence=inf, end=inf, urgent=inf, payer=payer, kind=kind)

    def _told(self, kept: KeptPool, item: QueuedItem, result: ItemResult, message: str) -> ItemResult:
        """Publish what became of an item, and return it."""
        # An id comes from outside: its escape sequences must not get into a log.
        work_id = one_line(item.id)
        level = logging.INFO if result is ItemResult.TAKEN else logging.WARNING
        _log.log(level, "item %s %s work=%s: %s", result.value, kept.about, work_id, message)
        self._clients.publisher.publish(ItemHandled(kept.about, work_id, result, message))
        return result
