"""The pods that carry an item's labels, as the API server lists them: asked once for all leases that ask together.

Owns the sharing of lists among those who ask, and their pace. Must not know what they are asked for. Whoever asks gets
a list that was begun after the asking: an older one may not have yet what it is asked for.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Final

from worklease.api.names import ENVIRONMENT_LABEL, WORK_LABEL, Address, pod_address
from worklease.cluster.client import NotDone
from worklease.cluster.pods import Pods, read_pod
from worklease.rules.pods import Pod

FEW: Final = 10
"""Items of a namespace at most that each have a list of their own; it is short, but costs a look at every pod."""

GAP_FACTOR: Final = 4.0
"""How many times as long as the last lists took nothing is listed."""

LONGEST_GAP: Final = 10.0
"""Seconds of such a rest at most."""

ListedPods = Sequence[Pod] | NotDone


class SharedPodList:
    """One round of lists at a time, for all that were asked for by its beginning."""

    def __init__(self, sandboxes: Pods) -> None:
        self._sandboxes = sandboxes
        self._wanted: set[Address] = set()
        self._next: asyncio.Task[Mapping[Address, ListedPods]] | None = None
        self._round = asyncio.Lock()
        self._rests_until = 0.0

    async def ask(self, item: Address) -> ListedPods:
        """Give the pods of an item, or why they cannot be had."""
        self._wanted.add(item)
        if self._next is None or self._next.done():
            self._next = asyncio.create_task(self._fetch(), name="list of pods")
        # Shielded: the lists are shared, and outlive one of those who wait for them.
        return (await asyncio.shield(self._next))[item]

    async def _fetch(self) -> Mapping[Address, ListedPods]:
        loop = asyncio.get_running_loop()
        async with self._round:
            await asyncio.sleep(max(0.0, self._rests_until - loop.time()))
            # From here on it is too late to join.
            items, self._wanted, self._next = self._wanted, set(), None
            began = loop.time()
            try:
                return await self._list(items)
            finally:
                self._rests_until = loop.time() + min(LONGEST_GAP, GAP_FACTOR * (loop.time() - began))

    async def _list(self, items: set[Address]) -> Mapping[Address, ListedPods]:
        """List one after the other; where one list cannot be had, the others are not asked for."""
        found: dict[Address, ListedPods] = {}
        for namespace, there in groupby(sorted(items), itemgetter(0)):
            for selector, some in _lists(list(there)):
                pods = await self._find(namespace, selector, some)
                if isinstance(pods, NotDone):
                    return dict.fromkeys(items, pods) | found
                found |= pods
        return found

    async def _find(
        self, namespace: str, selector: str, items: list[Address]
    ) -> Mapping[Address, ListedPods] | NotDone:
        found: dict[Address, list[Pod]] = {item: [] for item in items}
        async for page in self._sandboxes.pages(namespace, selector):
            if isinstance(page, NotDone):
                return page
            for body in page:
                if (pods := found.get(pod_address(body))) is not None:
                    pods.append(read_pod(body))
        return found


def _lists(items: list[Address]) -> Iterator[tuple[str, list[Address]]]:
    """Give the selectors by which a namespace's pods are listed, and of which items each tells."""
    if len(items) > FEW:
        yield f"{ENVIRONMENT_LABEL},{WORK_LABEL}", items
        return
    for item in items:
        yield f"{ENVIRONMENT_LABEL}={item[1]},{WORK_LABEL}={item[2]}", [item]
