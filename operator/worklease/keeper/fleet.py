"""The kept resources by uid and by work item, and which of several for one item are rivals.

Owns these indexes. Must not decide anything about a lease, and must not make calls.
"""

from collections import defaultdict
from collections.abc import Iterator

from worklease.api.names import Address
from worklease.keeper.kept import Kept
from worklease.keeper.pod_index import drop
from worklease.rules.claims import rival_of
from worklease.rules.pods import Pod


class Fleet:
    """All kept resources of this process."""

    def __init__(self) -> None:
        self._kept: dict[str, Kept] = {}
        self._by_item: defaultdict[Address, dict[str, Kept]] = defaultdict(dict)

    def __iter__(self) -> Iterator[Kept]:
        """Iterate over all kept resources."""
        return iter(self._kept.values())

    def get(self, uid: str) -> Kept | None:
        """Return the resource with this uid; None if it is not kept."""
        return self._kept.get(uid)

    def add(self, kept: Kept) -> None:
        """Keep a resource; its rivals look again which of them is first."""
        uid = kept.resource.uid
        self._kept[uid] = self._by_item[kept.item][uid] = kept
        self.wake_rivals(kept)

    def remove(self, uid: str) -> Kept | None:
        """Stop keeping a resource; return it, if it was kept. Its rivals look again which of them is first."""
        kept = self._kept.pop(uid, None)
        if kept is not None:
            drop(self._by_item, kept.item, uid)
            self.wake_rivals(kept)
        return kept

    # --- By item -----------------------------------------------------------------------------------------------

    def of_item(self, *items: Address) -> list[Kept]:
        """Return the resources of these items, each once."""
        return list({uid: kept for item in items for uid, kept in self._by_item.get(item, {}).items()}.values())

    def is_wanted(self, item: Address) -> bool:
        """Whether a resource keeps the item's lease, or is about to."""
        return any(each.lease.end is None for each in self._by_item.get(item, {}).values())

    def is_anothers(self, kept: Kept, pod: Pod) -> bool:
        """Whether another resource of the item has bound this pod, and the pod is not gone."""
        bound = (each.pods.bound.get(pod.uid) for each in self.of_item(kept.item) if each is not kept)
        return any(known is not None and not known.gone for known in bound)

    # --- Rivals ------------------------------------------------------------------------------------------------

    def rival(self, kept: Kept) -> str | None:
        """Return, as namespace/name, the resource of the namespace that keeps the item's lease instead of this one.

        A resource of another namespace is no rival: the tenants of two namespaces need not know of each other, and the
        server lets one of them hold the lease.
        """
        same = self._by_item.get(kept.item, {})
        if len(same) <= 1:
            return None
        rival = rival_of(kept.claimant(), (each.claimant() for each in same.values()))
        return None if rival is None else rival.name

    def wake_rivals(self, kept: Kept) -> None:
        """Have the other resources of the namespace for the same work item take a turn."""
        for other in self._by_item.get(kept.item, {}).values():
            if other is not kept:
                other.turn.add()
