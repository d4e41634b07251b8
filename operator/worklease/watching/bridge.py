"""The bridge from Kopf's thread to the keeper's loop: what Kopf reports is passed on in its order.

Owns that way and its pace. Must not decide anything about a lease.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

from worklease.keeper.keeper import Keeper
from worklease.keeper.named_resources import NamedResources
from worklease.pools.pools import Pools
from worklease.rules.buckets import bucket_of
from worklease.watching.census import Census
from worklease.watching.known_objects import identity

RETRY: Final = 1.0
"""Seconds until the resources of a taken bucket are listed again, if some were not found."""

AT_ONCE: Final = 5
"""Reports that are received in one go: it takes some milliseconds, in which no beat is sent."""

_log = logging.getLogger(__name__)


class Bridge:
    """The way from Kopf's thread to the keeper's loop.

    Reports are received in the order in which they were posted. The keeper's loop is woken once for all reports that
    have come by then: waking it costs a system call and the interpreter's lock, more than most reports themselves.
    """

    def __init__(
        self,
        keeper: Keeper,
        census: Census,
        loop: asyncio.AbstractEventLoop,
        installations: NamedResources | None = None,
    ) -> None:
        self._installations = installations
        self.pools: Pools | None = None
        """Who hears of pools and their leases; None: nobody."""
        self.census = census
        self.loop = loop
        self.received = 0
        """Objects of Kopf's lists that the keeper's loop has received."""
        self.found = asyncio.Event()
        """Is set once the keeper's loop has received all that was there at the start."""
        self._keeper = keeper
        self._queue: deque[tuple[Callable[[Any], None], Any]] = deque()
        self._is_woken = False

    def post(self, what: Callable[[Any], None], argument: object) -> None:
        """Have ``what`` called in the keeper's loop, in the order of all posts, without waiting for it."""
        self._queue.append((what, argument))
        if not self._is_woken:
            self._is_woken = True
            self.loop.call_soon_threadsafe(self._receive)

    # --- In the keeper's loop ----------------------------------------------------------------------------------

    async def find(self) -> int:
        """Pass on the resources that are there at the start, and return how many there are.

        Kopf reports them too, but where there are thousands it takes many seconds.
        """
        found = 0
        self._keeper.pop_taken()  # this list has their resources
        try:
            async for page in self.census.first():
                found += len(page)
                for body in page:
                    self.post(self.see_found, body)
                while self._queue:  # noqa: ASYNC110 (it empties within the loop's next passes)
                    await asyncio.sleep(0)
        finally:
            self.found.set()
            if self.pools is not None:
                self.pools.begin()
        return found

    async def look_again(self) -> bool:
        """Pass all resources on once more, as they are now, and return whether that was possible."""
        async for page in self.census.again():
            if page is None:
                return False
            for body in page:
                self.post(self.see_found, body)
            while self._queue:  # noqa: ASYNC110 (it empties within the loop's next passes)
                await asyncio.sleep(0)
        return True

    async def find_taken(self) -> None:
        """Find the resources of each bucket that is taken later, until cancelled: by their label, then without it."""
        await self.found.wait()
        while True:
            await self._keeper.has_taken.wait()
            buckets, by_label = self._keeper.pop_taken(), True
            while self._keeper.is_any_unfound(buckets):
                async for page in self.census.in_buckets(buckets, by_label=by_label):
                    for body in page:
                        if by_label or bucket_of(body["metadata"]["uid"]) in buckets:
                            self.post(self.see_found, body)
                    while self._queue:  # noqa: ASYNC110 (it empties within the loop's next passes)
                        await asyncio.sleep(0)
                buckets |= self._keeper.pop_taken()
                await asyncio.sleep(0.0 if by_label else RETRY)
                by_label = False
            if self._keeper.is_any_unlisted(buckets):
                await self.census.take()  # what vanished in between has pods perhaps, whose fence does not wait
            self.census.want()  # what the process before knew, and what vanished since, no watch reports

    def _receive(self) -> None:
        """Receive some of the reports: the first list is long, and beats must go on meanwhile."""
        self._is_woken = False
        for _ in range(AT_ONCE):
            if not self._queue:
                return
            what, argument = self._queue.popleft()
            try:
                what(argument)
            except Exception:  # noqa: BLE001 (logged; trouble with one object must not keep back the others)
                _log.exception("an event was not understood, which is a bug of the operator's")
        self._is_woken = True
        self.loop.call_soon(self._receive)

    def carry(self, uid: str) -> None:
        """Let the keeper take the turns of a resource."""
        self._keeper.carry(uid)

    def see(self, body: Mapping[str, Any]) -> None:
        """Pass a resource on, unless it is known to be gone: a timer's body, or a list, may be older than that."""
        if self.census.saw(*identity(body["metadata"])):
            self._see(body)

    def see_found(self, body: Mapping[str, Any]) -> None:
        """Pass a resource of the first list on."""
        if self.census.saw(*identity(body["metadata"]), by_watch=False):
            self._see(body)

    def see_made(self, body: Mapping[str, Any]) -> None:
        """Pass on a resource that a pool has just made: its turns begin before a watch reports it."""
        self.see_found(body)
        self._keeper.carry(body["metadata"]["uid"])

    def _see(self, body: Mapping[str, Any]) -> None:
        self._keeper.see(body)
        if self.pools is not None:
            self.pools.see_lease(body)

    def see_listed(self, body: Mapping[str, Any]) -> None:
        """Pass a resource of Kopf's list on: what vanished before a list makes no event, so a census is due."""
        self.received += 1
        self.census.want()
        self.see(body)

    def unsee(self, body: Mapping[str, Any]) -> None:
        """Pass on that a resource is gone."""
        self.census.gone(body["metadata"]["uid"])
        self._keeper.unsee(body["metadata"]["uid"])
        if self.pools is not None:
            self.pools.unsee_lease(body)

    def see_pool(self, body: Mapping[str, Any]) -> None:
        """Pass a pool on."""
        if self.pools is not None and self._installations is not None:
            self._installations.see_pool(body)
        if self.pools is not None:
            self.pools.see(body)

    def unsee_pool(self, body: Mapping[str, Any]) -> None:
        """Pass on that a pool is gone."""
        if self.pools is not None:
            self.pools.unsee(body["metadata"]["uid"])
        if self._installations is not None:
            self._installations.forget(body["metadata"]["uid"])

    def see_pod(self, body: Mapping[str, Any]) -> None:
        """Pass a pod on."""
        self.census.saw_pod(*identity(body["metadata"]))
        self._keeper.see_pod(body)

    def see_listed_pod(self, body: Mapping[str, Any]) -> None:
        """Pass a pod of Kopf's list on: another bound pod may have vanished before it."""
        self.received += 1
        self.census.want()
        self.see_pod(body)

    def unsee_pod(self, body: Mapping[str, Any]) -> None:
        """Pass on that a pod is gone, or its labels are."""
        self.census.lost_pod(body["metadata"]["uid"])
        self._keeper.unsee_pod(body)
