"""The checkpoint: what a restart needs, many leases to one write, in ConfigMaps of the operator's own namespace.

Owns the records of the buckets that this process holds, when they are written, and the shared write for which a first
claim waits. Must not know what a record says, nor write by itself: who holds the buckets does. A write that fails is
repeated. What does not fit is left out, and said: ``checkpoint_room`` has the limits.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final, Protocol

from worklease.api.names import Reference
from worklease.cluster.bucket_store import bucket_name
from worklease.cluster.checkpoint_room import Room
from worklease.cluster.client import NoAnswer, NotDone, Refused
from worklease.rules.buckets import BUCKETS, bucket_of

LONGEST_DELAY: Final = 10.0
"""Seconds for which a change is held back at most, so that many changes share a write."""

MINIMUM_GAP: Final = 1.0
"""Seconds after a write in which only records that a claim waits for are written: a start may adopt hundreds."""

CHARACTERS_PER_SECOND: Final = 65_536
"""Characters a second written to one ConfigMap at most, whatever waits: each write stores all of the ConfigMap, and
etcd keeps the former one for minutes. Thousands of claims at once would fill etcd; instead they share fewer writes."""

UNKNOWN_FOR: Final = 3600.0
"""Seconds for which a record stays whose resource no list has: ``watchNamespaces`` may be narrowed by mistake."""

RETRY: Final = 1.0
"""Seconds before a call that failed is repeated."""

COMMIT_TIMEOUT: Final = 30.0
"""Seconds to wait for the write of one record: twice the longest pause after the write of a full ConfigMap."""

REFUSALS: Final = frozenset(
    {
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.FORBIDDEN,
        HTTPStatus.NOT_FOUND,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        HTTPStatus.UNPROCESSABLE_ENTITY,
    }
)
"""Answers that a repetition alone does not change, so nobody waits for one: a missing right, a quota, a size."""

_log = logging.getLogger(__name__)


NotWritten = Refused | NoAnswer | NotDone
"""Why a write was not done: refused, not answered, or not sent at all."""


class RecordWriter(Protocol):
    """Who writes the records of the buckets, such as ``keeper.tenures.Tenures``."""

    async def write(self, bucket: int, changed: Mapping[str, str | None]) -> NotWritten | None:
        """Write changed records, None drops one; return why they were not written, or None."""


@dataclass(slots=True)
class _Shard:
    """One ConfigMap: its records, and which of them are not written yet."""

    number: int
    records: dict[str, str] = field(default_factory=dict)
    unwritten: set[str] = field(default_factory=set)
    under_way: set[str] = field(default_factory=set)
    """Those of a write that is not answered yet."""
    tenure: int = 0
    """Counts how often the records came from somebody else, or went: what was under way then says nothing of them."""
    due: float = math.inf
    rested: float = 0.0
    """When it may be written again if nothing waits for that."""
    free: float = 0.0
    """When it may be written again at all."""
    news: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: list["asyncio.Future[str]"] = field(default_factory=list)
    """Those who wait for a write: each gets an empty string, or what keeps it from being written."""
    writing: bool = False
    wrote: asyncio.Event = field(default_factory=asyncio.Event)
    room: Room = field(default_factory=Room)
    left_out: set[str] = field(default_factory=set)
    """The uids of records that do not fit; of one that grew, an older record stays."""
    failures: int = 0
    """Writes in a row that failed."""
    failing_since: float | None = None
    problem: str = ""
    """Why the last write failed."""


class Checkpoint:
    """The records of all leases, by the uid of their resource."""

    def __init__(
        self,
        writer: RecordWriter,
        namespace: str,
        clock: Callable[[], float],
        *,
        commit_timeout: float = COMMIT_TIMEOUT,
    ) -> None:
        self._commit_timeout = commit_timeout
        self._writer = writer
        self._namespace = namespace
        self._clock = clock
        self._pace = float(CHARACTERS_PER_SECOND)
        self._unknown: dict[str, float] = {}
        """The uids of records whose resource no list has, and since when."""
        self._shards = tuple(_Shard(number) for number in range(BUCKETS))

    # --- Buckets that come and go --------------------------------------------------------------------------------

    def take(self, bucket: int, records: Mapping[str, str]) -> None:
        """Go on with the records of a bucket that this process has taken."""
        self.leave(bucket)
        shard = self._shards[bucket]
        shard.records = dict(records)
        for uid, record in records.items():
            shard.room.load(uid, record)

    def leave(self, bucket: int) -> None:
        """Forget the records of a bucket that is another process's; who waits for a write of it is cancelled."""
        shard = self._shards[bucket]
        shard.records, shard.unwritten, shard.under_way, shard.due = {}, set(), set(), math.inf
        shard.room, shard.left_out = Room(), set()
        shard.failures, shard.failing_since, shard.problem = 0, None, ""
        shard.tenure += 1
        waiting, shard.waiting = shard.waiting, []
        for done in waiting:
            done.cancel()

    def unwritten(self, bucket: int, *, everything: bool) -> Mapping[str, str | None]:
        """Return the records of a bucket that are not written yet, None for one that is dropped; or all of them."""
        shard = self._shards[bucket]
        uids = shard.records.keys() if everything else shard.unwritten | shard.under_way
        return {uid: shard.records.get(uid) for uid in uids}

    # --- Records -------------------------------------------------------------------------------------------------

    def recall(self, uid: str) -> str | None:
        """Return a resource's record; None if there is none."""
        return self._shard(uid).records.get(uid)

    def recorded(self) -> set[str]:
        """Return the uids of all records."""
        return {uid for shard in self._shards for uid in shard.records}

    def put(self, reference: Reference, record: str, within: float) -> None:
        """Keep a record, and write it ``within`` so many seconds; later after a recent write, or if a write fails.

        A record that does not fit is left out, and the resource's former one stays.
        """
        uid = reference.uid
        shard = self._shard(uid)
        if shard.records.get(uid) != record and not self._leave_out(shard, reference, record):
            shard.records[uid] = record
            self._want(shard, uid, max(min(within, LONGEST_DELAY), shard.rested - self._clock()))

    def drop(self, uid: str) -> None:
        """Forget a resource's record."""
        shard = self._shard(uid)
        shard.left_out.discard(uid)
        shard.room.free(uid)
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

    def obstacle(self, reference: Reference) -> NotDone | None:
        """Return what will keep a resource's first record from being written: no room, or half a minute of failures."""
        shard = self._shard(reference.uid)
        if problem := shard.room.lack(reference.uid, reference.namespace):
            return NotDone(self._no_room(shard, problem))
        if shard.failing_since is not None and self._clock() - shard.failing_since >= self._commit_timeout:
            return NotDone(self._not_written(shard, shard.problem))
        return None

    async def commit(self, reference: Reference, record: str) -> NotDone | None:
        """Keep a record and wait until it is written; all other changes until then share the write.

        Returns what keeps it from being written: that there is no room, that the API server refuses it, or what it has
        said for half a minute. Only in the first case the record is not kept, and written later.
        """
        shard = self._shard(reference.uid)
        if problem := self._leave_out(shard, reference, record):
            return NotDone(problem)
        shard.records[reference.uid] = record
        return await self._written(shard, reference.uid)

    async def forget(self, uid: str) -> NotDone | None:
        """Forget a resource's record and wait until that is written, unless the record never was."""
        self.drop(uid)
        shard = self._shard(uid)
        return await self._written(shard, uid) if uid in shard.unwritten or shard.writing else None

    # --- What is measured --------------------------------------------------------------------------------------

    @property
    def largest(self) -> int:
        """The bytes that are taken in the fullest ConfigMap."""
        return max(shard.room.taken for shard in self._shards)

    @property
    def left_out(self) -> int:
        """The number of records for which there is no room."""
        return sum(len(shard.left_out) for shard in self._shards)

    @property
    def failing_for(self) -> float:
        """The seconds since the first of the writes in a row that failed, of the ConfigMap that has failed longest."""
        since = [shard.failing_since for shard in self._shards if shard.failing_since is not None]
        return self._clock() - min(since) if since else 0.0

    # --- Writing -----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Write until cancelled."""
        async with asyncio.TaskGroup() as writers:
            for shard in self._shards:
                writers.create_task(self._write_on(shard), name=bucket_name(shard.number))

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
        return self._shards[bucket_of(uid)]

    def _name(self, shard: _Shard) -> str:
        """Return the namespace and name of a ConfigMap, for people."""
        return f"{self._namespace}/{bucket_name(shard.number)}"

    def _no_room(self, shard: _Shard, problem: str) -> str:
        return f"the checkpoint's ConfigMap {self._name(shard)} has no room: {problem}"

    def _not_written(self, shard: _Shard, problem: str) -> str:
        return f"the checkpoint's ConfigMap {self._name(shard)} could not be written: {problem}"

    def _leave_out(self, shard: _Shard, reference: Reference, record: str) -> str:
        """Take the room for a record; return why there is none, or an empty string."""
        uid = reference.uid
        problem = shard.room.take(uid, reference.namespace, record)
        if not problem:
            shard.left_out.discard(uid)
            return ""
        why = self._no_room(shard, problem)
        if uid not in shard.left_out:
            shard.left_out.add(uid)
            _log.warning("record left out namespace=%s name=%s: %s", reference.namespace, reference.name, why)
        return why

    async def _written(self, shard: _Shard, uid: str) -> NotDone | None:
        done: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        shard.waiting.append(done)
        self._want(shard, uid, 0.0)
        try:
            async with asyncio.timeout(self._commit_timeout):
                problem = await done
        except TimeoutError:
            problem = shard.problem or "the API server has too much to do"
        return NotDone(self._not_written(shard, problem)) if problem else None

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
                    async with asyncio.timeout(None if delay == math.inf else delay):
                        await shard.news.wait()
                except TimeoutError:
                    pass
                continue
            await self._write(shard)

    async def _write(self, shard: _Shard) -> None:
        changed, shard.unwritten = shard.unwritten, set()
        shard.under_way = changed
        waiting, shard.waiting = shard.waiting, []
        shard.due, shard.writing, tenure = math.inf, True, shard.tenure
        problem = await self._writer.write(shard.number, {uid: shard.records.get(uid) for uid in changed})
        now = self._clock()
        shard.writing, shard.rested = False, now + MINIMUM_GAP
        if shard.tenure != tenure:
            for done in waiting:
                done.cancel()
            shard.wrote.set()
            return
        shard.under_way = set()
        shard.free = now + sum(map(len, shard.records.values())) / self._pace
        if problem is None:
            shard.failures, shard.failing_since, shard.problem = 0, None, ""
            _answer(waiting, "")
        else:
            self._note_failure(shard, problem)
            if isinstance(problem, Refused) and problem.status in REFUSALS:
                _answer(waiting, problem.message)
            shard.unwritten |= changed
            shard.waiting = [each for each in (*waiting, *shard.waiting) if not each.done()]
            shard.due = now + RETRY
        shard.due = max(shard.due, shard.free)  # also for changes that came meanwhile
        shard.wrote.set()

    def _note_failure(self, shard: _Shard, problem: NotWritten) -> None:
        shard.failures += 1
        shard.problem = problem.message
        if shard.failing_since is None:
            shard.failing_since = self._clock()
        if shard.failures in {1, 5} or shard.failures % 100 == 0:
            _log.warning(
                "checkpoint not written, will try again configmap=%s failures=%d: %s",
                self._name(shard),
                shard.failures,
                problem.message,
            )


def _answer(waiting: list["asyncio.Future[str]"], problem: str) -> None:
    for each in waiting:
        if not each.done():
            each.set_result(problem)
