"""The pods that carry an item's labels, as the API server lists them: asked once for all leases that ask together.

Owns the sharing of lists among those who ask, and their pace. Must not know what they are asked for. Whoever asks gets
a list that was begun after the asking: who ended must know of each pod that was there by then.
"""

import asyncio
from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Final

from worklease.fate import Pod
from worklease.resource import ENVIRONMENT_LABEL, WORK_LABEL
from worklease.sandbox import NotDone, Sandboxes, read_pod
from worklease.sightings import Address, address

FEW: Final = 10
"""Items at most that each have a list of their own; it is short, but the API server looks at each pod for it."""

REST: Final = 4.0
"""How many times as long as the last list took nothing is listed: a fleet's end costs the API server a fifth of it."""

LONGEST_REST: Final = 10.0
"""Seconds of such a rest at most."""

Found = Sequence[Pod] | NotDone


class Roster:
    """One round of lists at a time, for all that were asked for by its beginning."""

    def __init__(self, sandboxes: Sandboxes) -> None:
        self._sandboxes = sandboxes
        self._wanted: set[Address] = set()
        self._next: asyncio.Task[Mapping[Address, Found]] | None = None
        self._round = asyncio.Lock()
        self._rests_until = 0.0

    async def ask(self, item: Address) -> Found:
        """Give the pods of an item, or why they cannot be had."""
        self._wanted.add(item)
        if self._next is None:
            self._next = asyncio.create_task(self._fetch(), name="list of pods")
        # Shielded: the list is shared, and outlives one of those who wait for it.
        return (await asyncio.shield(self._next))[item]

    async def _fetch(self) -> Mapping[Address, Found]:
        loop = asyncio.get_running_loop()
        async with self._round:
            await asyncio.sleep(max(0.0, self._rests_until - loop.time()))
            # From here on it is too late to join.
            items, self._wanted, self._next = self._wanted, set(), None
            began = loop.time()
            try:
                return await self._list(items)
            finally:
                self._rests_until = loop.time() + min(LONGEST_REST, REST * (loop.time() - began))

    async def _list(self, items: set[Address]) -> Mapping[Address, Found]:
        if len(items) <= FEW:
            asked = [(item[0], {item}, f"{ENVIRONMENT_LABEL}={item[1]},{WORK_LABEL}={item[2]}") for item in items]
        else:
            places = groupby(sorted(items), itemgetter(0))
            asked = [(namespace, set(there), f"{ENVIRONMENT_LABEL},{WORK_LABEL}") for namespace, there in places]
        found: dict[Address, Found] = {}
        for each in await asyncio.gather(*(self._find(*one) for one in asked)):
            found |= each
        return found

    async def _find(self, namespace: str, items: set[Address], selector: str) -> Mapping[Address, Found]:
        found: dict[Address, list[Pod]] = {item: [] for item in items}
        async for page in self._sandboxes.pages(namespace, selector):
            if isinstance(page, NotDone):
                return dict.fromkeys(items, page)
            for body in page:
                if (pods := found.get(address(body))) is not None:
                    pods.append(read_pod(body))
        return found
