"""The status of each object, for people: written within a budget, the newest only, and never in the way of a beat.

Owns the writing and its repetition. Kopf's patch stays empty: a write of Kopf's that fails ends the object's timer.
Must not decide what a status says.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from http import HTTPStatus
from typing import Any, Final

from worklease.api.names import Reference
from worklease.cluster.client import (
    GIVEN_UP,
    METADATA,
    WRITE_TIMEOUT,
    Done,
    Gone,
    KubernetesApi,
    NoAnswer,
    PatchType,
    Refused,
    Reply,
)
from worklease.cluster.guarded_write import Metadata, write_guarded
from worklease.pace import FairQueue, TokenBucket
from worklease.rules.acts import NOT_VALID
from worklease.rules.backoff import backoff
from worklease.telemetry import SILENT, Publisher, StatusWrite, Write

MOST_OF_ONE: Final = 8
"""Writes under way at once for one namespace: one that hangs must not hold back the others."""

IN_FLIGHT: Final = 12
"""Writes under way at once: a namespace whose writes all hang, as behind a webhook, must not hold back the others."""

BURST: Final = 20.0
"""Writes that may go at once after a pause, so that the news of a small fleet is not delayed."""

ROUTINE_SHARE: Final = 0.5
"""The part of the budget that the beats of steady leases may use: the rest is left for changes."""

FIRST_RETRY: Final = 0.5
"""Seconds before a write that failed is repeated, with the newest state."""

LONGEST_RETRY: Final = 10.0
"""Seconds between repetitions at most: so soon after an outage the status is right. The budget holds for them too."""

PUT_OFF: Final = 0.25
"""Seconds until it is asked again whether this process may write: another one may keep the lease."""

SCHEMA_RETRY: Final = 30.0
"""Seconds before a status that the schema refused is tried again: somebody may have fixed the schema."""

_log = logging.getLogger(__name__)


class Urgency(Enum):
    """Which write goes first when there are more than the budget allows."""

    CHANGE = auto()
    """Something that a person waits for: a condition or the state changed."""
    ROUTINE = auto()
    """Another beat of a steady lease."""


Status = Mapping[str, Any]
"""The body of a merge patch."""

Maker = Callable[[], Status]
"""Makes a status at the time of its write. One that waits already makes the same as a newer one."""


@dataclass(slots=True)
class _Entry:
    reference: Reference
    newest: Status | Maker | None = None
    """What was published last, whether it waits, is being written, was written or was refused."""
    wanted: Status | Maker | None = None
    """What waits to be written."""
    urgency: Urgency = Urgency.ROUTINE
    """The greatest urgency of all changes that the next write has."""
    failures: int = 0
    busy: bool = False
    held_until: float = 0.0
    version: str | None = None
    """The resource version that guards the next write; None: it must be read first."""

    def saw(self, version: str | None) -> None:
        """Guard the next write by a version, unless a newer one is known: a watch may report late."""
        known = self.version or ""
        is_late = version is not None and version.isdecimal() and known.isdecimal() and int(version) < int(known)
        if not is_late:
            self.version = version

    def raise_to(self, urgency: Urgency) -> None:
        """Make the next write at least so urgent."""
        if urgency is Urgency.CHANGE:
            self.urgency = urgency


@dataclass(slots=True)
class _Queue:
    """Uids whose writes were asked for: the changes before the routine, and each by turns between the namespaces."""

    changes: FairQueue[str] = field(default_factory=FairQueue)
    routine: FairQueue[str] = field(default_factory=FairQueue)
    under_way: Counter[str] = field(default_factory=Counter)
    """Writes under way by namespace."""

    def __bool__(self) -> bool:
        """Whether any write waits."""
        return bool(self.changes) or bool(self.routine)

    def put(self, reference: Reference, urgency: Urgency) -> None:
        if urgency is Urgency.CHANGE:
            self.routine.drop(reference.namespace, reference.uid)
            self.changes.put(reference.namespace, reference.uid)
        else:
            self.routine.put(reference.namespace, reference.uid)

    def take(self) -> str | None:
        """Return the uid of the next write, which is under way from now on."""
        for waiting in (self.changes, self.routine):
            if (found := waiting.take(self._is_free)) is not None:
                namespace, uid = found
                self.under_way[namespace] += 1
                return uid
        return None

    def ended(self, namespace: str) -> None:
        """Note that a write is not under way any more."""
        self.under_way[namespace] -= 1
        if not self.under_way[namespace]:
            del self.under_way[namespace]

    def drop(self, reference: Reference) -> None:
        self.changes.drop(reference.namespace, reference.uid)
        self.routine.drop(reference.namespace, reference.uid)

    def _is_free(self, namespace: str) -> bool:
        return self.under_way[namespace] < MOST_OF_ONE


class StatusWriter:
    """Writes the newest status of each object, and drops older ones; ``may_write`` says whether it may, by uid."""

    def __init__(
        self,
        api: KubernetesApi,
        writes_per_second: float,
        clock: Callable[[], float],
        publisher: Publisher = SILENT,
        *,
        may_write: Callable[[str], bool] = lambda _: True,
    ) -> None:
        self._publisher, self._may_write = publisher, may_write
        self._api = api
        self._clock = clock
        self._rate = writes_per_second
        self._pace = TokenBucket(writes_per_second, BURST, clock())
        self._routine_pace = TokenBucket(writes_per_second * ROUTINE_SHARE, BURST, clock())
        self._entries: dict[str, _Entry] = {}
        self._queue = _Queue()
        self._news = asyncio.Semaphore(0)
        """Counts what may be taken from the queue: it wakes one writer for each write, not all of them."""
        self._wrote = asyncio.Event()

    def use(self, part: float) -> None:
        """Use that part of the writes from now on: the rest is for the other processes of the installation."""
        now = self._clock()
        self._pace.change(self._rate * part, BURST, now)
        self._routine_pace.change(self._rate * part * ROUTINE_SHARE, BURST, now)

    def publish(self, reference: Reference, status: Status | Maker, urgency: Urgency) -> None:
        """Have ``status``, or what it makes, written as soon as the budget allows; do not wait for that."""
        entry = self._entries.setdefault(reference.uid, _Entry(reference))
        if status == entry.newest or (callable(status) and callable(entry.wanted)):
            return
        if entry.wanted is not None:
            self._publisher.publish(StatusWrite(Write.COALESCED))
        entry.newest = entry.wanted = status
        entry.raise_to(urgency)
        self._want(entry)

    def saw(self, reference: Reference, version: str) -> None:
        """Take note of an object's resource version, so that it need not be read before the next write."""
        self._entries.setdefault(reference.uid, _Entry(reference)).saw(version)

    def forget(self, uid: str) -> None:
        """Write nothing more to an object that is gone."""
        entry = self._entries.pop(uid, None)
        if entry is not None:
            self._queue.drop(entry.reference)
        self._wrote.set()

    async def run(self) -> None:
        """Write until cancelled."""
        async with asyncio.TaskGroup() as writers:
            for number in range(IN_FLIGHT):
                writers.create_task(self._write_on(), name=f"status writer {number}")

    async def flush(self) -> None:
        """Wait until every status is written, or was tried and will be repeated."""
        while any((entry.wanted is not None or entry.busy) and entry.failures == 0 for entry in self._entries.values()):
            self._wrote.clear()
            await self._wrote.wait()

    async def settle(self, uid: str, *, seconds: float) -> None:
        """Wait until an object's newest status is written, ``seconds`` at most."""
        try:
            async with asyncio.timeout(seconds):
                while (entry := self._entries.get(uid)) is not None and (entry.wanted is not None or entry.busy):
                    self._wrote.clear()
                    await self._wrote.wait()
        except TimeoutError:
            _log.warning("status not written in time: what it should say first may be lost uid=%s", uid)

    def _want(self, entry: _Entry) -> None:
        if entry.busy:
            return  # it is queued again when the write under way has ended
        wait = entry.held_until - self._clock()
        if wait > 0:
            asyncio.get_running_loop().call_later(wait, self._put, entry)
        else:
            self._put(entry)

    def _put(self, entry: _Entry) -> None:
        if self._is_known(entry):
            self._queue.put(entry.reference, entry.urgency)
            self._news.release()

    def _is_known(self, entry: _Entry) -> bool:
        """Whether the object was not forgotten meanwhile."""
        return self._entries.get(entry.reference.uid) is entry

    async def _write_on(self) -> None:
        while True:
            await self._news.acquire()
            uid = self._queue.take()
            if uid is None:
                continue  # its namespace has enough writes under way: the end of one of them is news again
            entry = self._entries[uid]
            if not entry.busy and entry.wanted is not None:
                entry.busy = True
                await self._await_budget(entry.urgency)
                while self._is_known(entry) and not self._may_write(uid):  # noqa: ASYNC110 (time alone may change it)
                    await asyncio.sleep(PUT_OFF)
                if self._is_known(entry):
                    await self._write(entry)
            self._queue.ended(entry.reference.namespace)
            if self._queue:
                self._news.release()

    async def _await_budget(self, urgency: Urgency) -> None:
        """Wait until the budget allows a write."""
        now = self._clock()
        seconds = self._pace.reserve(now)
        if urgency is Urgency.ROUTINE:
            seconds = max(seconds, self._routine_pace.reserve(now))
        if seconds > 0:
            await asyncio.sleep(seconds)

    async def _write(self, entry: _Entry) -> None:
        status, entry.wanted = entry.wanted, None
        urgency, entry.urgency = entry.urgency, Urgency.ROUTINE
        try:
            body = status() if callable(status) else status
        except Exception:  # noqa: BLE001 (logged; one status that cannot be made must not hold back the others)
            _log.exception("status not made, which is a bug of the operator's name=%s", entry.reference.name)
            entry.busy = False
            self._wrote.set()
            return
        reply = await self._patch(entry, body)
        entry.busy = False
        self._wrote.set()
        if isinstance(reply, Done):
            entry.failures = 0
            self._publisher.publish(StatusWrite(Write.WRITTEN))
        elif isinstance(reply, Gone):
            _log.debug("status not written: the object is gone namespace=%s name=%s", *entry.reference[:2])
            self.forget(entry.reference.uid)
            return
        else:
            self._failed(entry, reply)
            entry.raise_to(urgency)
        if entry.wanted is not None:
            self._want(entry)

    async def _patch(self, entry: _Entry, status: Status | None) -> Reply | Gone:
        """Write the status of this very object, and never that of a successor.

        On the status of a custom resource the API server ignores a ``metadata.uid`` that does not match (measured with
        1.37), but not a ``metadata.resourceVersion``: so a version that was seen together with the uid guards the
        write. As a rule the last write returned it, or a watch reported it, and a write is one call.
        """

        async def write(metadata: Metadata) -> Reply:
            entry.saw(metadata["resourceVersion"])
            body = {"metadata": {"resourceVersion": entry.version}, "status": status}
            path = f"{entry.reference.path}/status"
            if not self._may_write(entry.reference.uid):
                return NoAnswer(NOT_VALID)  # since it was read
            reply = await self._api.call(
                "PATCH",
                path,
                query=GIVEN_UP,
                body=body,
                patch=PatchType.MERGE,
                accept=METADATA,
                timeout=WRITE_TIMEOUT,
            )
            if isinstance(reply, Done):
                entry.saw((reply.body.get("metadata") or {}).get("resourceVersion"))
            else:
                entry.version = None
            return reply

        return await write_guarded(self._api, entry.reference, write, version=entry.version)

    def _repeat(self, entry: _Entry, refused: Status | Maker | None) -> None:
        """Write a refused status once more, unless there is a newer one."""
        if self._is_known(entry) and entry.newest is refused and entry.wanted is None and not entry.busy:
            entry.wanted = refused
            self._want(entry)

    def _failed(self, entry: _Entry, reply: Reply) -> None:
        """Repeat with the newest state, ever more slowly; rarely with a status that the schema refused."""
        self._publisher.publish(StatusWrite(Write.FAILED))
        entry.failures += 1
        wait = backoff(entry.failures - 1, FIRST_RETRY, LONGEST_RETRY)
        match reply:
            case Refused(status=HTTPStatus.UNPROCESSABLE_ENTITY):
                asyncio.get_running_loop().call_later(SCHEMA_RETRY, self._repeat, entry, entry.newest)
            case Refused(retry_after=after):
                wait = max(wait, after or 0.0)
                entry.wanted = entry.newest
            case _:
                entry.wanted = entry.newest
        entry.held_until = self._clock() + wait
        if entry.failures in {1, 5} or entry.failures % 100 == 0:
            said = reply.message if isinstance(reply, Refused | NoAnswer) else ""
            _log.warning(
                "status not written, will try again namespace=%s name=%s failures=%d: %s",
                *entry.reference[:2],
                entry.failures,
                said,
            )
