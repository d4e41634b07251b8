"""One turn of one pool after the other: its leases, its breaker, the next poll, its status.

Owns the order within a turn, and the upkeep of a pool: the list of its leases, the Secrets of those that are over, the
queue's numbers, its end. Must not contain rules: those are in ``rules``.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any, Final, assert_never

from pydantic import SecretStr

from worklease.api.models import InvalidResource, WorkLease
from worklease.api.names import Reference
from worklease.api.pool_models import WorkPool
from worklease.cluster.client import Done, Gone, NoAnswer, NotDone, Refused
from worklease.cluster.credentials import Credentials, NoKey
from worklease.cluster.pod_template import pod_body, template_problem
from worklease.cluster.pods import DryRunAccepted, Pods
from worklease.cluster.pool_objects import lease_body, template_digest
from worklease.cluster.pool_reading import read_pool_lease
from worklease.cluster.pool_writes import PoolWrites
from worklease.cluster.proxy_sidecar import ProxyOptions
from worklease.cluster.session_tokens import NoToken, TokenFound, look_for_token
from worklease.cluster.workspace_claims import WorkspaceClaims
from worklease.pools import pool_status
from worklease.pools.kept_pool import KeptPool, PublishedPool, Upkeep
from worklease.pools.taker import Taker
from worklease.rules import pool_items
from worklease.rules.acts import Act
from worklease.rules.breaker import note_edit, note_failure, note_started
from worklease.rules.pool import (
    STATS_AGE,
    NoPoll,
    Poll,
    Polls,
    PoolCensus,
    PoolLease,
    Stage,
    TryTemplate,
    after_try,
    decide_poll,
    leases_to_end,
    may_go,
    must_list,
    note_secret,
)
from worklease.rules.pool_items import Make
from worklease.rules.pool_reasons import POOL_TABLE, PoolReason
from worklease.rules.queue import CallFailed, QueuedItem, QueueNumbers
from worklease.rules.reasons import Severity, Verdict
from worklease.rules.situation import DeletionPolicy
from worklease.telemetry import SILENT, PoolChanged, PoolSandboxStarted, Publisher
from worklease.work_api.budget import Budget, BudgetRequest, CallClass, Rank
from worklease.work_api.queue import QueueCalls

REFRESH: Final = 5.0
"""Seconds between two reads of the pool itself: what its watch missed, and whether the Kubernetes API answers, is known
no later."""

LIST_AGE: Final = 60.0
"""Seconds between two consistent lists of a pool's leases: a creation without an answer is cleared up by one."""

LOOK_AGAIN: Final = 1.0
"""Seconds after which a process looks again whether a pool is its own to serve."""

RETRY: Final = 2.0
"""Seconds before a read or a list that failed is repeated."""

KEY_LOOK: Final = 10.0
"""Seconds after which the Secret of a missing or refused key is read again."""

STATS_TIMEOUT: Final = 10.0
"""Seconds for the queue's numbers, as for any other call."""

STATUS_GAP: Final = 1.0
"""Seconds between two writes of a pool's status at least: a pool that starts many sandboxes changes often."""

STATUS_AGE: Final = 30.0
"""Seconds after which a status is written though nothing but the time of the last poll has changed."""

SPELL: Final = 600.0
"""Seconds for which a pool that is full, has room and is full again makes no further event."""

MOST_SECRETS: Final = 5
"""Secrets of finished leases that one turn deletes: the next poll must not wait for hundreds."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolClients:
    """What the turns of pools call."""

    writes: PoolWrites
    pods: Pods
    credentials: Credentials
    queue: QueueCalls
    budget: Budget
    publisher: Publisher = SILENT


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolOptions:
    """What the settings say of every pool."""

    credentials_secret: str
    """The Secret where a pool names none."""
    proxy: ProxyOptions = field(default_factory=ProxyOptions)
    """What each proxy beside a worker is made of."""


async def _is_never(_: str) -> bool:
    return False


class PoolTurns:
    """Takes the turns of pools."""

    def __init__(
        self,
        clients: PoolClients,
        options: PoolOptions,
        taker: Taker,
        complete: Callable[[PoolLease], PoolLease],
        clock: Callable[[], float],
        *,
        is_begun_elsewhere: Callable[[str], Awaitable[bool]] = _is_never,
    ) -> None:
        """``is_begun_elsewhere`` says of a lease's uid whether another process may have acknowledged its item."""
        self._is_begun_elsewhere = is_begun_elsewhere
        self._clients = clients
        self._options = options
        self._taker = taker
        self._complete = complete
        self._clock = clock
        self._counting: set[asyncio.Task[None]] = set()

    async def take(self, kept: KeptPool) -> float:
        """Do what is due for a pool, and return when to take the next turn, if nothing happens before."""
        now, began = self._clock(), kept.began()
        if not kept.may_act(Act.POLL):
            # Its leases go on being seen; what is known of it by other ways is the holder's to say.
            kept.is_served = False
            return now + LOOK_AGAIN
        is_new = not kept.is_served or kept.tenure != began
        if is_new:
            kept.is_served, kept.tenure, kept.upkeep = True, began, Upkeep()
            kept.census, kept.polls, kept.published = PoolCensus(), Polls(), PublishedPool()
        if now >= kept.upkeep.refresh_at:
            await self._refresh(kept)
        if is_new:
            pool_status.resume(kept)
        if kept.is_gone:
            return inf
        if kept.resource.deletion_timestamp is None and not kept.has_finalizer:
            await self._clients.writes.set_finalizer(kept.reference, kept.may_write, wanted=True)
            kept.upkeep.refresh_at = 0.0
        if self._clock() >= kept.upkeep.list_at or must_list(kept.census, kept.tenure, self._clock()):
            await self._list(kept)
        await self._clean_up(kept)
        if kept.resource.deletion_timestamp is not None:
            await self._end(kept)
            await self._publish(kept)
            return self._clock() + RETRY
        key = await self._key(kept)
        step = decide_poll(kept.state(), self._clock())
        self._tell(kept, step)
        await self._publish(kept)
        match step:
            case TryTemplate():
                await self._try_template(kept)
                return self._clock()
            case Poll() if key is not None:
                self._count_queue(kept, key)
                await self._taker.poll(kept, key)
                return kept.polls.next_at
            case Poll():
                return self._clock() + KEY_LOOK
            case NoPoll(until):
                if key is not None:
                    self._count_queue(kept, key)
                return until
            case _:
                assert_never(step)

    def close(self) -> None:
        """Leave the queues uncounted that are being counted."""
        for task in self._counting:
            task.cancel()

    def next_upkeep(self, kept: KeptPool) -> float:
        """Return when something is due for a pool, whatever its next poll waits for."""
        if not kept.is_served:
            return self._clock() + LOOK_AGAIN
        due = [kept.upkeep.refresh_at, kept.upkeep.list_at]
        if pool_status.steady(self._patch(kept)) != kept.published.status:
            due.append(kept.published.at + STATUS_GAP)
        if any(each.stage is Stage.CLAIMING for each in kept.census.leases.values()):
            due.append(self._clock() + RETRY)
        return min(due)

    # --- The pool and its leases -------------------------------------------------------------------------------

    async def _refresh(self, kept: KeptPool) -> None:
        """Read the pool itself: a watch may have missed its edit or its end."""
        read = await self._clients.writes.read_pool(kept.reference)
        now = self._clock()
        match read:
            case Gone():
                kept.is_gone = True
            case NotDone(message):
                if kept.kubernetes_answers:
                    _log.warning("pool not read %s: %s", kept.about, message)
                kept.kubernetes_answers = False
                kept.upkeep.refresh_at = now + RETRY
            case body:
                kept.kubernetes_answers = True
                kept.upkeep.refresh_at = now + REFRESH
                self.note(kept, body)

    def note(self, kept: KeptPool, body: Mapping[str, Any]) -> None:
        """Take over a version of the pool, unless it is older than the one that is known."""
        try:
            resource = WorkPool.parse(body)
        except InvalidResource as error:
            kept.problem = str(error)
            return
        if resource.generation < kept.resource.generation:
            return
        former = template_digest(kept.resource)
        kept.problem, kept.resource = None, resource
        if template_digest(resource) != former:
            # A trial may begin at once: whoever edited the template has repaired it, perhaps.
            kept.breaker = note_edit(kept.breaker, self._clock())

    async def _list(self, kept: KeptPool) -> None:
        """Read all leases of the pool, consistently."""
        began = self._clock()
        listed = await self._clients.writes.list_leases(kept.resource.namespace, kept.resource.name)
        if isinstance(listed, NotDone):
            kept.kubernetes_answers = False
            kept.upkeep.list_at = self._clock() + RETRY
            return
        is_first = not kept.census.is_complete
        kept.kubernetes_answers, kept.is_namespace_ending = True, False
        kept.upkeep.list_at = self._clock() + LIST_AGE
        leases = [read_pool_lease(body) for body in listed]
        if is_first:
            # What an earlier process saw fail is in the breaker that it wrote.
            kept.failed |= {each.uid for each in leases if each.failure is not None}
            kept.started |= {each.uid for each in leases if each.stage is Stage.RUNNING}
        kept.census = kept.census.listed(leases, began)
        for each in leases:
            self.judge(kept, each)
        there = {each.uid for each in leases}
        kept.failed &= there
        kept.started &= there
        for known in (kept.taken, kept.tokens):
            for uid in [uid for uid in known if uid not in there]:
                del known[uid]

    def judge(self, kept: KeptPool, lease: PoolLease) -> None:
        """Let the breaker hear of a lease: its sandbox started, or does not."""
        limits, now = kept.resource.spec.limits, self._clock()
        if lease.stage is Stage.RUNNING and lease.uid not in kept.started:
            kept.started.add(lease.uid)
            if (taken := kept.taken.pop(lease.uid, None)) is not None:
                self._clients.publisher.publish(PoolSandboxStarted(kept.about, max(0.0, now - taken)))
            if lease.template == template_digest(kept.resource):
                kept.proven_template = lease.template
                kept.breaker = note_started(kept.breaker)
        if lease.failure is None or lease.uid in kept.failed or lease.uid in kept.started or lease.is_waiting:
            return
        kept.failed.add(lease.uid)
        kept.breaker = note_failure(
            kept.breaker,
            session=lease.session_id,
            created=lease.created,
            cause=lease.failure.cause,
            message=lease.failure.message,
            limit=limits.failures_before_pause,
            pause=float(limits.pause_seconds),
            now=now,
        )

    async def _clean_up(self, kept: KeptPool) -> None:
        """Delete what nothing was begun for, and the tokens of what is over."""
        done = kept.upkeep.without_token
        over = [each for each in kept.census.leases.values() if each.stage is None and each.uid not in done]
        for lease in over[:MOST_SECRETS]:
            if isinstance(await self._clients.writes.delete_token(_reference(kept, lease), kept.may_write), Gone):
                done.add(lease.uid)
        for lease in kept.census.leases.values():
            if await self._is_abandoned(kept, lease):
                await self._abandon(kept, lease)

    async def _is_abandoned(self, kept: KeptPool, lease: PoolLease) -> bool:
        known = self._known(kept, lease)
        if not pool_items.abandoned([known], being_written=None, now=self._clock()):
            return False
        if known.needs_token and not known.has_token:
            # An earlier process may have written the Secret.
            found = await look_for_token(self._clients.writes.api, kept.resource.namespace, lease.name)
            if isinstance(found, NoToken) and not found.is_sure:
                return False
            if isinstance(found, TokenFound):
                kept.tokens[lease.uid] = lease.created if found.polled is None else found.polled.timestamp()
                known = self._known(kept, lease)
        return bool(pool_items.abandoned([known], being_written=None, now=self._clock()))

    def _known(self, kept: KeptPool, lease: PoolLease) -> PoolLease:
        """Return a lease with what only this process knows of it."""
        polled = kept.tokens.get(lease.uid, lease.polled)
        has_token = lease.has_token or lease.uid in kept.tokens
        return self._complete(replace(lease, has_token=has_token, polled=polled))

    async def _abandon(self, kept: KeptPool, lease: PoolLease) -> None:
        """Delete a lease, unless something has happened to it since it was seen last.

        Should its turn acknowledge its item at this very moment, the item is claimed and released: never stopped.
        """
        reference = _reference(kept, lease)
        body = await self._clients.writes.read_lease(reference)
        if isinstance(body, Gone | NotDone):
            return
        if await self._is_begun_elsewhere(lease.uid):
            return
        newest = self._known(kept, read_pool_lease(body))
        if pool_items.abandoned([newest], being_written=None, now=self._clock()):
            done = await self._clients.writes.end_lease(reference, DeletionPolicy.RELEASE.value, kept.may_write)
            _log.info("lease deleted, since nothing was begun for it %s lease=%s", kept.about, lease.name)
            if isinstance(done, Done | Gone):
                kept.upkeep.list_at = 0.0

    async def _end(self, kept: KeptPool) -> None:
        """End the leases of a deleted pool, and let it go when none is left."""
        deleted = kept.resource.deletion_timestamp
        policy = kept.resource.spec.deletion_policy.value
        for lease in leases_to_end(kept.census):
            await self._clients.writes.end_lease(_reference(kept, lease), policy, kept.may_write)
        if kept.census.active:
            kept.upkeep.list_at = 0.0
        if deleted is not None and may_go(kept.census, deleted.timestamp(), self._clock()):
            outcome = await self._clients.writes.set_finalizer(kept.reference, kept.may_write, wanted=False)
            kept.is_gone = isinstance(outcome, Done | Gone)

    # --- What comes before a poll ------------------------------------------------------------------------------

    async def _key(self, kept: KeptPool) -> SecretStr | None:
        """Return the key of the environment; a refused one is tried at once when its Secret has another."""
        named = kept.resource.spec.credentials_secret_ref
        name = self._options.credentials_secret if named is None else named.name
        place = (kept.resource.namespace, name)
        is_doubtful = not kept.has_key or kept.polls.last is not None
        credentials = self._clients.credentials
        found = await (credentials.key_within(*place, KEY_LOOK) if is_doubtful else credentials.key(*place))
        key = None if isinstance(found, NoKey) else found.environment
        if key is not None and kept.upkeep.key is not None and key != kept.upkeep.key:
            kept.polls = note_secret(kept.polls, self._clock())
        kept.has_key = key is not None
        kept.upkeep.key = key or kept.upkeep.key
        return key

    async def _try_template(self, kept: KeptPool) -> None:
        """Ask the API server whether it would make the WorkLease of an item, and its pod."""
        digest = template_digest(kept.resource)
        refusal = await self._refusal(kept)
        if isinstance(refusal, NoAnswer):
            kept.kubernetes_answers = False
            kept.upkeep.refresh_at = self._clock() + RETRY
            return
        kept.tried = after_try(kept.tried, digest, refusal, self._clock())

    async def _refusal(self, kept: KeptPool) -> str | NoAnswer | None:
        pool = kept.resource
        item = QueuedItem(
            id="work_template",
            environment_id=pool.spec.environment_id,
            data_type=pool_items.SESSION,
            data_id="sesn_template",
            created_at=None,
            started_at=None,
        )
        plan = Make(f"{pool.name}-template", pool_items.delivery_of(item, 0), 0, 0)
        reply = await self._clients.writes.try_lease(lease_body(pool, item, plan, has_token=True))
        if isinstance(reply, Refused):
            return reply.message
        if isinstance(reply, NoAnswer):
            return reply
        if pool.spec.lease_template.spec.sandbox is None or pool.spec.lease_template.spec.sandbox.template is None:
            return None
        lease = WorkLease.parse(reply.body)
        if problem := template_problem(lease, self._options.proxy):
            return problem
        body = pod_body(lease, 0, plan.name, proxy=self._options.proxy)
        outcome = await self._clients.pods.dry_run(pool.namespace, body)
        if isinstance(outcome, DryRunAccepted):
            outcome = await WorkspaceClaims(self._clients.writes.api).dry_run(lease)
        return None if isinstance(outcome, DryRunAccepted) else outcome.message

    def _count_queue(self, kept: KeptPool, key: SecretStr) -> None:
        """Ask for the queue's numbers once a minute, beside the polls."""
        now = self._clock()
        if now >= kept.upkeep.stats_at:
            kept.upkeep.stats_at = now + STATS_AGE
            task = asyncio.create_task(self._read_queue(kept, key), name=f"queue of {kept.about}")
            self._counting.add(task)
            task.add_done_callback(self._counting.discard)

    async def _read_queue(self, kept: KeptPool, key: SecretStr) -> None:
        await self._clients.budget.turn(
            BudgetRequest(
                key=f"stats {kept.resource.uid}",
                rank=Rank.LAST,
                fence=inf,
                end=inf,
                urgent=inf,
                payer=key.get_secret_value(),
                kind=CallClass.READING,
            )
        )
        environment = kept.resource.spec.environment_id
        numbers = await self._clients.queue.stats(environment, key, timeout=STATS_TIMEOUT)
        match numbers:
            case QueueNumbers():
                kept.upkeep.queue, kept.upkeep.queue_observed = numbers, self._clock()
                kept.other_workers = max(0, (numbers.workers_polling or 0) - 1)
            case CallFailed(_, message):
                # Some servers refuse it to this key: then the pool works without.
                _log.debug("queue not counted %s: %s", kept.about, message)
                kept.upkeep.queue, kept.other_workers = None, 0
            case _:
                assert_never(numbers)

    # --- What is published -------------------------------------------------------------------------------------

    def _tell(self, kept: KeptPool, step: Poll | TryTemplate | NoPoll) -> None:
        """Publish the reason why the pool polls or does not, if it has changed."""
        if isinstance(step, TryTemplate) or step.reason is None:
            return
        published, now = kept.published, self._clock()
        former, published.reason, published.message = published.reason, step.reason, step.message
        if former is step.reason:
            return
        row = POOL_TABLE[step.reason]
        published.is_ready = row.ready is Verdict.TRUE
        if step.reason is PoolReason.AT_CAPACITY:
            if now < published.full_told + SPELL:
                return
            published.full_told = now
        if row.event is not Severity.QUIET or former is not None:
            is_warning = row.event is Severity.WARNING
            self._clients.publisher.publish(
                PoolChanged(kept.about, step.reason.value, step.message, is_warning=is_warning)
            )

    async def _publish(self, kept: KeptPool) -> None:
        """Write the status if it has changed, or is old."""
        published, now = kept.published, self._clock()
        patch = self._patch(kept)
        is_news = pool_status.steady(patch) != published.status
        gap = STATUS_GAP if is_news else STATUS_AGE
        if now < published.at + gap or not kept.kubernetes_answers:
            return
        written = await self._clients.writes.write_status(kept.reference, patch, kept.may_write)
        match written:
            case Done():
                published.status, published.at = pool_status.steady(patch), now
            case Gone():
                kept.upkeep.refresh_at = 0.0
            case NotDone(message):
                published.at = now
                _log.warning("status of a pool not written, retrying %s: %s", kept.about, message)
            case _:
                assert_never(written)

    def _patch(self, kept: KeptPool) -> dict[str, object]:
        return pool_status.status(kept, self._clock()).as_merge_patch()


def _reference(kept: KeptPool, lease: PoolLease) -> Reference:
    return Reference(kept.resource.namespace, lease.name, lease.uid)
