"""The pods that the watches told of, by the work item that their labels name.

Owns that index. Must not know which of them anybody has bound.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import TypeVar

from worklease.api.names import NOWHERE, Address
from worklease.rules.pods import Pod

Place = TypeVar("Place")
Entry = TypeVar("Entry")


class PodIndex:
    """The pods as they were last told of."""

    def __init__(self) -> None:
        self._pods: defaultdict[Address, dict[str, Pod]] = defaultdict(dict)
        self._places: dict[str, Address] = {}

    def see(self, pod: Pod, item: Address) -> tuple[Address, Address]:
        """Take note of a pod; returns where it belongs, and where it did: its labels may have been changed."""
        before = self._places.get(pod.uid, item)
        if before != item:
            drop(self._pods, before, pod.uid)
        self._places[pod.uid] = item
        self._pods[item][pod.uid] = pod
        return item, before

    def lose(self, uid: str) -> Address:
        """Forget a pod; returns where it belonged."""
        item = self._places.pop(uid, NOWHERE)
        drop(self._pods, item, uid)
        return item

    def place(self, uid: str) -> Address:
        """Say where a pod belongs; nowhere if it was not told of."""
        return self._places.get(uid, NOWHERE)

    def of(self, item: Address) -> Iterable[Pod]:
        """Give the pods of an item."""
        return self._pods.get(item, {}).values()


def drop(places: dict[Place, dict[str, Entry]], place: Place, uid: str) -> None:
    """Take an entry out, and its place with the last one."""
    entries = places.get(place, {})
    entries.pop(uid, None)
    if not entries:
        places.pop(place, None)
