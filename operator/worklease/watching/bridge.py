"""The bridge from Kopf's thread to the keeper's loop: what Kopf reports is passed on in its order.

Owns that way and its pace. Must not decide anything about a lease.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

from worklease.keeper.keeper import Keeper
from worklease.watching.census import Census

AT_ONCE: Final = 5
"""Things told that are heard in one go: some milliseconds, in which no beat is sent."""

_log = logging.getLogger(__name__)


class Bridge:
    """The way from Kopf's thread to the keeper's loop.

    What is told is heard in its order. The keeper's loop is woken once for all that has come by then: to wake it costs
    a system call and the interpreter's lock, which is more than most of what is told.
    """

    def __init__(self, keeper: Keeper, census: Census, loop: asyncio.AbstractEventLoop) -> None:
        self.census = census
        self.loop = loop
        self.heard = 0
        """Objects of Kopf's lists that the keeper's loop heard of."""
        self.found = asyncio.Event()
        """Is set once all is heard that was there at the start."""
        self._keeper = keeper
        self._told: deque[tuple[Callable[[Any], None], Any]] = deque()
        self._is_heard = False

    def tell(self, what: Callable[[Any], None], argument: object) -> None:
        """Tell the keeper's loop something, in order, without waiting."""
        self._told.append((what, argument))
        if not self._is_heard:
            self._is_heard = True
            self.loop.call_soon_threadsafe(self._hear)

    # --- In the keeper's loop ----------------------------------------------------------------------------------

    async def find(self) -> int:
        """Pass on what is there before Kopf tells of it, which takes it many seconds where there are thousands.

        Gives how many resources there are.
        """
        found = 0
        try:
            async for page in self.census.first():
                found += len(page)
                for body in page:
                    self.tell(self.see_found, body)
                while self._told:  # noqa: ASYNC110 (it empties within the loop's next passes)
                    await asyncio.sleep(0)
        finally:
            self.found.set()
        return found

    def _hear(self) -> None:
        """Hear what was told, some of it at a time: the first list is long, and beats go on meanwhile."""
        self._is_heard = False
        for _ in range(AT_ONCE):
            if not self._told:
                return
            what, argument = self._told.popleft()
            try:
                what(argument)
            except Exception:  # noqa: BLE001 (told; one object's trouble keeps no other from being heard of)
                _log.exception("an event was not understood, which is a mistake of the operator's")
        self._is_heard = True
        self.loop.call_soon(self._hear)

    def carry(self, uid: str) -> None:
        """Let the keeper take the turns of a resource."""
        self._keeper.carry(uid)

    def see(self, body: Mapping[str, Any]) -> None:
        """Pass a resource on, unless it is known to be gone: a timer's body, or a list, may be older than that."""
        metadata = body["metadata"]
        if self.census.saw(metadata["namespace"], metadata["name"], metadata["uid"]):
            self._keeper.see(body)

    def see_found(self, body: Mapping[str, Any]) -> None:
        """Pass a resource of the first list on."""
        metadata = body["metadata"]
        if self.census.saw(metadata["namespace"], metadata["name"], metadata["uid"], by_watch=False):
            self._keeper.see(body)

    def see_listed(self, body: Mapping[str, Any]) -> None:
        """Pass a resource of Kopf's list on: what vanished before a list makes no event, so a census is due."""
        self.heard += 1
        self.census.want()
        self.see(body)

    def unsee(self, body: Mapping[str, Any]) -> None:
        """Pass on that a resource is no more."""
        self.census.gone(body["metadata"]["uid"])
        self._keeper.unsee(body["metadata"]["uid"])

    def see_pod(self, body: Mapping[str, Any]) -> None:
        """Pass a pod on."""
        metadata = body["metadata"]
        self.census.saw_pod(metadata["namespace"], metadata["name"], metadata["uid"])
        self._keeper.see_pod(body)

    def see_listed_pod(self, body: Mapping[str, Any]) -> None:
        """Pass a pod of Kopf's list on: another that was bound may have vanished before it."""
        self.heard += 1
        self.census.want()
        self.see_pod(body)

    def unsee_pod(self, body: Mapping[str, Any]) -> None:
        """Pass on that a pod is gone, or its labels are."""
        self.census.lost_pod(body["metadata"]["uid"])
        self._keeper.unsee_pod(body)
