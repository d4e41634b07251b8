"""The pods that the watches have reported, by the work item that their labels name.

Owns that index. Must not know which resource has bound a pod.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import TypeVar

from worklease.api.names import NOWHERE, Address
from worklease.rules.pods import Pod

Key = TypeVar("Key")
Entry = TypeVar("Entry")


class PodIndex:
    """The last known state of each pod, by work item and by uid."""

    def __init__(self) -> None:
        self._pods: defaultdict[Address, dict[str, Pod]] = defaultdict(dict)
        self._items: dict[str, Address] = {}

    def put(self, pod: Pod, item: Address) -> tuple[Address, Address]:
        """Store a pod; return its item, and its item before: the labels may have changed."""
        before = self._items.get(pod.uid, item)
        if before != item:
            drop(self._pods, before, pod.uid)
        self._items[pod.uid] = item
        self._pods[item][pod.uid] = pod
        return item, before

    def remove(self, uid: str) -> Address:
        """Forget a pod; return the item that it had."""
        item = self._items.pop(uid, NOWHERE)
        drop(self._pods, item, uid)
        return item

    def item_of(self, uid: str) -> Address:
        """Return the item that a pod's labels name; ``NOWHERE`` for a pod that is not in the index."""
        return self._items.get(uid, NOWHERE)

    def pods_of(self, item: Address) -> Iterable[Pod]:
        """Return the pods whose labels name the item."""
        return self._pods.get(item, {}).values()


def drop(index: dict[Key, dict[str, Entry]], key: Key, uid: str) -> None:
    """Remove an entry from an index, and the key with its last entry."""
    entries = index.get(key, {})
    entries.pop(uid, None)
    if not entries:
        index.pop(key, None)
