"""All pools of this process: each has a task that takes its turns; the watches report pools and their leases here.

Owns the tasks, and which pools there are. Must not decide anything about a pool.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from math import inf
from typing import Any, Final

from worklease.api.models import InvalidResource
from worklease.api.names import PoolReference
from worklease.api.pool_models import WorkPool
from worklease.cluster.pool_reading import pool_of, read_pool_lease
from worklease.cluster.pool_writes import PoolWrites
from worklease.pools import pool_status
from worklease.pools.kept_pool import KeptPool
from worklease.pools.pool_turns import PoolTurns
from worklease.rules.acts import Act
from worklease.telemetry import SILENT, PoolGone, Publisher

BUG_RETRY: Final = 5.0
"""Seconds until the turn of a pool is tried again after a bug of the operator's ended it."""

SHORTEST_WAIT: Final = 0.05
"""Seconds between two turns of a pool at least: what happens meanwhile is taken over together."""

SHUTDOWN_TIMEOUT: Final = 4.0
"""Seconds for a poll under way at the end: its item is written, or left to the next process, within that."""

_log = logging.getLogger(__name__)


class Pools:
    """The kept pools."""

    def __init__(
        self,
        turns: PoolTurns,
        writes: PoolWrites,
        clock: Callable[[], float],
        publisher: Publisher = SILENT,
        *,
        may_act: Callable[[Act, str], bool] = lambda _, __: True,
        began: Callable[[str], float] = lambda _: -inf,
    ) -> None:
        """``may_act`` says whether this process may do something now for the pool with that uid.

        ``began`` says when its tenure of that pool's bucket began; minus infinity: no other process had it before.
        """
        self._may_act, self._began = may_act, began
        self._turns = turns
        self._writes = writes
        self._clock = clock
        self._publisher = publisher
        self._kept: dict[str, KeptPool] = {}
        self._by_name: dict[tuple[str, str], KeptPool] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._refusals: set[asyncio.Task[Any]] = set()
        self._may_begin = asyncio.Event()
        self._is_closing = False

    def __iter__(self) -> Iterator[KeptPool]:
        """Iterate over all kept pools."""
        return iter(tuple(self._kept.values()))

    def begin(self) -> None:
        """Let the turns begin: the leases that are there were all found."""
        self._may_begin.set()

    # --- What the watches report -------------------------------------------------------------------------------

    def see(self, body: Mapping[str, Any]) -> None:
        """Take over a pool as the API server has it."""
        uid = body["metadata"]["uid"]
        kept = self._kept.get(uid)
        if kept is not None:
            self._turns.note(kept, body)
            kept.news.set()
            return
        if self._is_closing:
            return
        try:
            resource = WorkPool.parse(body)
        except InvalidResource as error:
            self._refuse(body["metadata"], str(error))
            return
        kept = KeptPool(
            resource=resource,
            breaker=pool_status.saved_breaker(resource.status),
            may_act=lambda act: self._may_act(act, uid),
            began=partial(self._began, uid),
        )
        self._kept[uid] = self._by_name[resource.namespace, resource.name] = kept
        self._tasks[uid] = asyncio.create_task(self._run(kept), name=f"pool {resource.namespace}/{resource.name}")
        _log.info("pool found %s", kept.about)

    def unsee(self, uid: str) -> None:
        """Take over that a pool is gone."""
        if (kept := self._kept.get(uid)) is not None:
            kept.is_gone = True
            kept.news.set()

    def see_lease(self, body: Mapping[str, Any]) -> None:
        """Take over a WorkLease, if a pool made it."""
        if (kept := self._of(body)) is not None:
            lease = read_pool_lease(body)
            before = kept.census.leases.get(lease.name)
            kept.census = kept.census.seen(lease)
            self._turns.judge(kept, lease)
            if before != lease:
                kept.news.set()

    def unsee_lease(self, body: Mapping[str, Any]) -> None:
        """Take over that a WorkLease of a pool is gone."""
        if (kept := self._of(body)) is not None:
            metadata = body["metadata"]
            kept.census = kept.census.deleted(metadata["name"], metadata["uid"])
            kept.news.set()

    def _of(self, body: Mapping[str, Any]) -> KeptPool | None:
        name = pool_of(body)
        return None if name is None else self._by_name.get((body["metadata"]["namespace"], name))

    def _refuse(self, metadata: Mapping[str, Any], message: str) -> None:
        """Say of a pool that this version cannot read that it does nothing."""
        may_write = partial(self._may_act, Act.WRITE_RESOURCE, metadata["uid"])
        if not may_write():
            return
        _log.warning("pool invalid namespace=%s pool=%s: %s", metadata["namespace"], metadata["name"], message)
        reference = PoolReference(metadata["namespace"], metadata["name"], metadata["uid"])
        status = pool_status.invalid(message, datetime.fromtimestamp(self._clock(), UTC))
        task = asyncio.create_task(self._writes.write_status(reference, status, may_write))
        self._refusals.add(task)
        task.add_done_callback(self._refusals.discard)

    # --- Turns -------------------------------------------------------------------------------------------------

    async def _run(self, kept: KeptPool) -> None:
        """Take a pool's turns until it is gone. A bug in one is logged, and ends no pool's turns."""
        await self._may_begin.wait()
        try:
            while not (kept.is_gone or self._is_closing):
                kept.news.clear()
                try:
                    until = await self._turns.take(kept)
                    until = min(until, self._turns.next_upkeep(kept))
                except Exception:  # noqa: BLE001 (logged, and tried again: nothing is swallowed)
                    _log.exception("turn of a pool failed, which is a bug of the operator's %s", kept.about)
                    until = self._clock() + BUG_RETRY
                with suppress(TimeoutError):
                    async with asyncio.timeout(max(SHORTEST_WAIT, until - self._clock())):
                        await kept.news.wait()
                await asyncio.sleep(SHORTEST_WAIT)
        finally:
            self._drop(kept)

    def _drop(self, kept: KeptPool) -> None:
        resource = kept.resource
        self._tasks.pop(resource.uid, None)
        if self._kept.pop(resource.uid, None) is not None:
            _log.info("pool gone %s", kept.about)
            self._publisher.publish(PoolGone(kept.about))
        if self._by_name.get((resource.namespace, resource.name)) is kept:
            del self._by_name[resource.namespace, resource.name]

    async def close(self) -> None:
        """Begin no further turn; wait for a poll under way and for what is written of its item."""
        self._is_closing = True
        self._may_begin.set()
        for kept in self._kept.values():
            kept.news.set()
        tasks = set(self._tasks.values())
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=SHUTDOWN_TIMEOUT)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        self._turns.close()
