"""The checkpoint: what a restart needs, many leases to one write, in ConfigMaps of the operator's own namespace.

Owns those ConfigMaps: their names, when they are written, and the shared write for which a first claim waits. Must not
know what a record says. A ConfigMap that is gone is created again from memory; a write that fails is repeated.
"""

import asyncio
import logging
import math
import zlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from typing import Any, Final, assert_never

from worklease.cluster.client import METADATA, Done, KubernetesApi, NoAnswer, NotDone, PatchType, Refused
from worklease.cluster.polling import deadline_in, poll

SHARDS: Final = 16
"""ConfigMaps. Each has room for 1 MiB, some 2,500 records: together enough for 40,000 leases, and few to write."""

LONGEST_DELAY: Final = 10.0
"""Seconds for which a change is held back at most, so that many changes share a write."""

MINIMUM_GAP: Final = 1.0
"""Seconds after a write in which only records that a claim waits for are written: a start may adopt hundreds."""

CHARACTERS_PER_SECOND: Final = 65_536
"""Characters a second written to one ConfigMap at most, whatever waits: each write stores all of the ConfigMap, and
etcd keeps the former one for minutes. Thousands of claims at once would fill etcd; instead they share fewer writes."""

START_TIMEOUT: Final = 60.0
"""Seconds to wait for an API server that refuses or is silent: without the checkpoint the operator knows less."""

UNKNOWN_FOR: Final = 3600.0
"""Seconds for which a record stays whose resource no list has: ``watchNamespaces`` may be narrowed by mistake."""

RETRY: Final = 1.0
"""Seconds before a call that failed is repeated."""

_log = logging.getLogger(__name__)


class NotReadable(Exception):
    """The checkpoint could not be read: starting without it could lose leases that the operator holds."""


@dataclass(slots=True)
class _Shard:
    """One ConfigMap: its records, and which of them are not written yet."""

    name: str
    records: dict[str, str] = field(default_factory=dict)
    unwritten: set[str] = field(default_factory=set)
    due: float = float("inf")
    rested: float = 0.0
    """When it may be written again if nothing waits for that."""
    free: float = 0.0
    """When it may be written again at all."""
    news: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: list["asyncio.Future[None]"] = field(default_factory=list)
    writing: bool = False
    wrote: asyncio.Event = field(default_factory=asyncio.Event)


class Checkpoint:
    """The records of all leases, by the uid of their resource."""

    def __init__(self, api: KubernetesApi, namespace: str, clock: Callable[[], float]) -> None:
        self._api = api
        self._path = f"/api/v1/namespaces/{namespace}/configmaps"
        self._clock = clock
        self._pace = float(CHARACTERS_PER_SECOND)
        self._unknown: dict[str, float] = {}
        """The uids of records whose resource no list has, and since when."""
        self._shards = tuple(_Shard(f"worklease-checkpoint-{number:02}") for number in range(SHARDS))

    async def load(self, *, timeout: float = START_TIMEOUT) -> None:  # noqa: ASYNC109 (all tries share it)
        """Read what an earlier process left, within ``timeout`` seconds.

        Raises:
            NotReadable: The API server refused, or did not answer for so long.
        """
        deadline = deadline_in(timeout)
        await asyncio.gather(*(self._load(shard, deadline) for shard in self._shards))

    async def _load(self, shard: _Shard, deadline: float) -> None:
        outcome = await poll(
            partial(self._read, shard), deadline=deadline, interval=RETRY, waiting_for="the checkpoint"
        )
        if isinstance(outcome, NotDone):
            raise NotReadable(outcome.message)
        shard.records = outcome

    async def _read(self, shard: _Shard) -> dict[str, str] | NotDone:
        match await self._api.call("GET", f"{self._path}/{shard.name}"):
            case Done(body):
                return dict(body.get("data") or {})
            case Refused(status=HTTPStatus.NOT_FOUND):
                return {}
            case Refused(_, message) | NoAnswer(message):
                return NotDone(f"the checkpoint {self._path}/{shard.name} could not be read: {message}")
            case reply:
                assert_never(reply)

    def recall(self, uid: str) -> str | None:
        """Return a resource's record; None if there is none."""
        return self._shard(uid).records.get(uid)

    def put(self, uid: str, record: str, within: float) -> None:
        """Keep a record, and write it ``within`` so many seconds; later after a recent write, or if a write fails."""
        shard = self._shard(uid)
        if shard.records.get(uid) != record:
            shard.records[uid] = record
            self._want(shard, uid, max(min(within, LONGEST_DELAY), shard.rested - self._clock()))

    def drop(self, uid: str) -> None:
        """Forget a resource's record."""
        shard = self._shard(uid)
        if shard.records.pop(uid, None) is not None:
            self._want(shard, uid, LONGEST_DELAY)

    def drop_unknown(self, there: Collection[str]) -> None:
        """Forget the records of resources that were in no complete list for an hour; ``there`` are those in this one.

        They vanished while no process watched them, and nothing else would ever take their room from others.
        """
        now = self._clock()
        self._unknown = {
            uid: self._unknown.get(uid, now) for shard in self._shards for uid in shard.records if uid not in there
        }
        for uid, since in self._unknown.items():
            if now - since > UNKNOWN_FOR:
                self.drop(uid)

    async def commit(self, uid: str, record: str) -> None:
        """Keep a record and wait until it is written; all other changes until then share the write."""
        shard = self._shard(uid)
        shard.records[uid] = record
        await self._written(shard, uid)

    async def forget(self, uid: str) -> None:
        """Forget a resource's record and wait until that is written, unless the record never was."""
        self.drop(uid)
        shard = self._shard(uid)
        if uid in shard.unwritten or shard.writing:
            await self._written(shard, uid)

    async def run(self) -> None:
        """Write until cancelled."""
        async with asyncio.TaskGroup() as writers:
            for shard in self._shards:
                writers.create_task(self._write_on(shard), name=shard.name)

    async def flush(self) -> None:
        """Write all changes at once, and wait for it; no change may come after that."""
        now, self._pace = self._clock(), math.inf
        for shard in self._shards:
            if shard.unwritten:
                shard.due = now
                shard.news.set()
        for shard in self._shards:
            while shard.unwritten or shard.writing:
                shard.wrote.clear()
                await shard.wrote.wait()

    def _shard(self, uid: str) -> _Shard:
        return self._shards[zlib.crc32(uid.encode()) % SHARDS]

    async def _written(self, shard: _Shard, uid: str) -> None:
        done = asyncio.get_running_loop().create_future()
        shard.waiting.append(done)
        self._want(shard, uid, 0.0)
        await done

    def _want(self, shard: _Shard, uid: str, within: float) -> None:
        shard.unwritten.add(uid)
        due = max(self._clock() + within, shard.free)
        if due < shard.due:
            shard.due = due
            shard.news.set()

    async def _write_on(self, shard: _Shard) -> None:
        while True:
            delay = shard.due - self._clock()
            if delay > 0:
                shard.news.clear()
                try:
                    async with asyncio.timeout(None if delay == float("inf") else delay):
                        await shard.news.wait()
                except TimeoutError:
                    pass
                continue
            await self._write(shard)

    async def _write(self, shard: _Shard) -> None:
        changed, shard.unwritten = shard.unwritten, set()
        waiting, shard.waiting = shard.waiting, []
        shard.due, shard.writing = float("inf"), True
        problem = await self._send(shard, changed)
        now = self._clock()
        shard.writing, shard.rested = False, now + MINIMUM_GAP
        shard.free = now + sum(map(len, shard.records.values())) / self._pace
        if problem is None:
            for done in waiting:
                if not done.done():
                    done.set_result(None)
        else:
            _log.warning("checkpoint not written, will try again configmap=%s: %s", shard.name, problem)
            shard.unwritten |= changed
            shard.waiting = [*waiting, *shard.waiting]
            shard.due = now + RETRY
        shard.due = max(shard.due, shard.free)  # also for changes that came meanwhile
        shard.wrote.set()

    async def _send(self, shard: _Shard, changed: set[str]) -> str | None:
        """Write the changed records; return what went wrong, or None."""
        body: dict[str, Any] = {"data": {uid: shard.records.get(uid) for uid in changed}}
        path = f"{self._path}/{shard.name}"
        # Else the answer would be the whole ConfigMap, hundreds of kilobytes for each write.
        match await self._api.call("PATCH", path, body=body, patch=PatchType.MERGE, accept=METADATA):
            case Done():
                return None
            case Refused(status=HTTPStatus.NOT_FOUND):
                return await self._create(shard)
            case Refused(_, message) | NoAnswer(message):
                return message
            case reply:
                assert_never(reply)

    async def _create(self, shard: _Shard) -> str | None:
        """Create the ConfigMap with all its records: it never existed, or somebody deleted it."""
        body = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": shard.name, "labels": {"app.kubernetes.io/managed-by": "worklease-operator"}},
            "data": dict(shard.records),
        }
        match await self._api.call("POST", self._path, body=body):
            case Done():
                return None
            case Refused(_, message) | NoAnswer(message):
                return message
            case reply:
                assert_never(reply)
