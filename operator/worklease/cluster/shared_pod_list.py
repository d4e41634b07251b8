"""The pods with an item's labels, as the API server lists them: one list for all leases that ask at the same time.

Owns the sharing of lists among all that ask, and their pace. Must not know what the lists are for. A list that is
returned began after the question: an older one may lack what the question is about.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Final

from worklease.api.names import ENVIRONMENT_LABEL, WORK_LABEL, Address, pod_address
from worklease.cluster.client import NotDone
from worklease.cluster.pod_reading import read_pod
from worklease.cluster.pods import Pods
from worklease.rules.pods import Pod

FEW: Final = 10
"""Items of a namespace at most that get a list each: it is short, but the API server reads every pod for it."""

GAP_FACTOR: Final = 4.0
"""The pause after a round of lists, as a multiple of the time that the round took."""

LONGEST_GAP: Final = 10.0
"""Seconds of such a pause at most."""

ListedPods = Sequence[Pod] | NotDone


class SharedPodList:
    """Makes one round of lists at a time, for all items that were asked about before it began."""

    def __init__(self, sandboxes: Pods) -> None:
        self._sandboxes = sandboxes
        self._wanted: set[Address] = set()
        self._next: asyncio.Task[Mapping[Address, ListedPods]] | None = None
        self._round = asyncio.Lock()
        self._pause_until = 0.0

    async def ask(self, item: Address) -> ListedPods:
        """Return the pods of an item, or why they could not be listed."""
        self._wanted.add(item)
        if self._next is None or self._next.done():
            self._next = asyncio.create_task(self._fetch(), name="list of pods")
        # Shielded: the lists are shared, and go on when one that waits for them is cancelled.
        return (await asyncio.shield(self._next))[item]

    async def _fetch(self) -> Mapping[Address, ListedPods]:
        loop = asyncio.get_running_loop()
        async with self._round:
            await asyncio.sleep(max(0.0, self._pause_until - loop.time()))
            # From here on no other question can join.
            items, self._wanted, self._next = self._wanted, set(), None
            began = loop.time()
            try:
                return await self._list(items)
            finally:
                self._pause_until = loop.time() + min(LONGEST_GAP, GAP_FACTOR * (loop.time() - began))

    async def _list(self, items: set[Address]) -> Mapping[Address, ListedPods]:
        """Make the lists one after the other; after one that fails, make no more."""
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
    """Yield the selectors for the lists of a namespace, each with the items that its list is about."""
    if len(items) > FEW:
        yield f"{ENVIRONMENT_LABEL},{WORK_LABEL}", items
        return
    for item in items:
        yield f"{ENVIRONMENT_LABEL}={item[1]},{WORK_LABEL}={item[2]}", [item]
