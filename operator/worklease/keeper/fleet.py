"""The kept resources by uid and by work item, and which of several for one item are rivals.

Owns these indexes, with those of other processes' resources beside them. Must not decide anything about a lease, and
must not make calls.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator

from worklease.api.names import Address
from worklease.cluster.pod_template import pod_name
from worklease.keeper.kept import Kept
from worklease.keeper.others import Other
from worklease.keeper.pod_index import drop
from worklease.rules.claims import rival_of, successor_of
from worklease.rules.pods import Pod


class Fleet:
    """All kept resources of this process."""

    def __init__(self) -> None:
        self._kept: dict[str, Kept] = {}
        self._by_item: defaultdict[Address, dict[str, Kept]] = defaultdict(dict)
        self._others: dict[str, Other] = {}
        self._others_by_item: defaultdict[Address, dict[str, Other]] = defaultdict(dict)
        self._by_session: defaultdict[Address, dict[str, Kept]] = defaultdict(dict)

    def __iter__(self) -> Iterator[Kept]:
        """Iterate over all kept resources."""
        return iter(self._kept.values())

    def get(self, uid: str) -> Kept | None:
        """Return the resource with this uid; None if it is not kept."""
        return self._kept.get(uid)

    def add(self, kept: Kept) -> None:
        """Keep a resource; its rivals look again which of them is first."""
        uid = kept.resource.uid
        self.forget_other(uid)
        self._kept[uid] = self._by_item[kept.item][uid] = self._by_session[kept.session][uid] = kept
        self.wake_rivals(kept)

    def remove(self, uid: str) -> Kept | None:
        """Stop keeping a resource; return it, if it was kept. Its rivals look again which of them is first."""
        kept = self._kept.pop(uid, None)
        if kept is not None:
            drop(self._by_item, kept.item, uid)
            drop(self._by_session, kept.session, uid)
            self.wake_rivals(kept)
        return kept

    # --- Of other processes --------------------------------------------------------------------------------------

    def note_other(self, other: Other) -> None:
        """Note a resource that another process keeps; its rivals here look again if it has changed."""
        uid, known = other.reference.uid, self._others.get(other.reference.uid)
        if known == other:
            return
        if known is not None and known.item != other.item:
            drop(self._others_by_item, known.item, uid)
        self._others[uid] = self._others_by_item[other.item][uid] = other
        self._wake(other.item)

    def forget_other(self, uid: str) -> None:
        """Forget a resource that another process kept: it is gone, or kept here now."""
        other = self._others.pop(uid, None)
        if other is not None:
            drop(self._others_by_item, other.item, uid)
            self._wake(other.item)

    def others_in(self, buckets: Collection[int]) -> list[Other]:
        """Return the resources of these buckets that are noted as other processes'."""
        return [each for each in self._others.values() if each.bucket in buckets]

    # --- By item -----------------------------------------------------------------------------------------------

    def of_item(self, *items: Address) -> list[Kept]:
        """Return the resources of these items, each once."""
        return list({uid: kept for item in items for uid, kept in self._by_item.get(item, {}).items()}.values())

    def is_wanted(self, item: Address) -> bool:
        """Whether a resource keeps the item's lease, or is about to."""
        kept, others = self._by_item.get(item, {}).values(), self._others_by_item.get(item, {}).values()
        return any(each.lease.end is None for each in kept) or any(each.claimant.lease.end is None for each in others)

    def is_anothers(self, kept: Kept, pod: Pod) -> bool:
        """Whether another resource of the item has bound this pod, and the pod is not gone."""
        bound = (each.pods.bound.get(pod.uid) for each in self.of_item(kept.item) if each is not kept)
        others = self._others_by_item.get(kept.item, {}).values()
        if any(pod.uid in each.bound and each.claimant.lease.held for each in others):
            return True
        return any(known is not None and not known.gone for known in bound)

    # --- Rivals ------------------------------------------------------------------------------------------------

    def rival(self, kept: Kept) -> str | None:
        """Return, as namespace/name, the resource of the namespace that keeps the item's lease instead of this one.

        A resource of another namespace is no rival: the tenants of two namespaces need not know of each other, and the
        server lets one of them hold the lease.
        """
        same, others = self._by_item.get(kept.item, {}), self._others_by_item.get(kept.item, {})
        if len(same) + len(others) <= 1:
            return None
        claimants = [each.claimant() for each in same.values()] + [each.claimant for each in others.values()]
        rival = rival_of(kept.claimant(), claimants)
        return None if rival is None else rival.name

    def successor(self, kept: Kept) -> str | None:
        """Return, as namespace/name, the resource for whose later delivery of the item it left the queue."""
        same, others = self._by_item.get(kept.item, {}), self._others_by_item.get(kept.item, {})
        if len(same) + len(others) <= 1 or kept.spec.delivery is None:
            return None
        claimants = [each.claimant() for each in same.values()] + [each.claimant for each in others.values()]
        later = successor_of(kept.claimant(), claimants)
        return None if later is None else later.name

    def predecessor(self, kept: Kept) -> str | None:
        """Return a pod that may be at work for another delivery of the session; None if there is none.

        As a rule it is an earlier one's. Of two that were made within a second nobody knows which is, so whichever has
        a pod comes first.
        """
        same = self._by_session.get(kept.session, {})
        if len(same) <= 1:
            return None
        others = (each for each in same.values() if each is not kept)
        return next((pod for each in others if (pod := _at_work(each)) is not None), None)

    def open_sessions(self) -> frozenset[Address]:
        """Return the sessions of which a resource is not finished, also of other processes'."""
        kept = {each.session for each in self if each.is_open}
        return frozenset(kept | {each.session for each in self._others.values() if not each.claimant.is_done})

    def workspaces(self) -> frozenset[str]:
        """Return the namespaces in which a kept resource asks for a workspace."""
        sandboxes = ((each.resource.namespace, each.resource.spec.sandbox) for each in self)
        return frozenset(name for name, sandbox in sandboxes if sandbox is not None and sandbox.workspace is not None)

    def wake_rivals(self, kept: Kept) -> None:
        """Have the other resources of the namespace for the same work item take a turn."""
        self._wake(kept.item, kept)

    def _wake(self, item: Address, besides: Kept | None = None) -> None:
        for each in self._by_item.get(item, {}).values():
            if each is not besides:
                each.turn.add()


def _at_work(kept: Kept) -> str | None:
    """Return a pod of a resource that may be at work, or is about to be made."""
    working = next((pod.name for pod in kept.pods.bound.values() if pod.is_at_work and pod.result is None), None)
    if working is None and "make" in kept.calls.under_way:
        return pod_name(kept.resource, kept.pods.attempt.number)
    return working
