"""The claims that only the journey makes, in addition to those of the demo.

Owns the checks: pure functions of what kubectl showed and what the simulator recorded. Must not fetch either.
"""

from collections.abc import Collection
from itertools import pairwise

from demo.claims import Claim
from demo.record import Record, renewals
from demo.snapshot import Snapshot
from e2e.helm import RELEASE

REPLICAS = 2
"""How many processes share the leases: the chart's default."""


def operator_pods(snapshot: Snapshot) -> frozenset[str]:
    """Return the uids of the operator's running pods, of those that are ready."""
    return frozenset(
        pod.uid
        for pod in snapshot.pods
        if pod.name.startswith(f"{RELEASE}-")
        and not pod.name.startswith(f"{RELEASE}-simulator-")
        and (pod.status, pod.ready) == ("Running", pod.containers)
    )


def operator_runs(snapshot: Snapshot) -> Claim:
    """Check that all pods of the operator are ready, under the restricted Pod Security Standard."""
    count = len(operator_pods(snapshot))
    text = f"the operator's {REPLICAS} pods were admitted under restricted Pod Security, and are ready"
    return Claim(text, "" if count == REPLICAS else f"there are {count}")


def operator_replaced(before: Snapshot, after: Snapshot) -> Claim:
    """Check that the operator now runs in new pods only."""
    old, new = operator_pods(before), operator_pods(after)
    is_so = old and len(new) == REPLICAS and not old & new
    return Claim(
        f"the operator runs in {REPLICAS} new pods", "" if is_so else f"{', '.join(old)}, then {', '.join(new)}"
    )


def ended_by(snapshot: Snapshot, item: str, reason: str) -> Claim:
    """Check that the resource says how its sandbox ended."""
    lease = snapshot.lease(item)
    seen = lease.sandbox_reason if lease else "no WorkLease"
    return Claim(f"the resource says how its sandbox ended: {reason}", "" if seen == reason else seen or "nothing")


def longest_gap(record: Record, item: str, since: int, limit: float) -> Claim:
    """Check how long nobody renewed a lease, from the last beat before an entry of the record."""
    accepted = renewals(record, item)
    times = [
        each.at for number, each in enumerate(accepted) if each.at is not None and _counts(accepted, number, since)
    ]
    longest = max((later - earlier for earlier, later in pairwise(times)), default=float("inf"))
    text = f"the longest time without a beat was {longest:.1f} s, less than {limit:g} s"
    return Claim(text, "" if longest < limit else f"{longest:.1f} s")


def _counts(accepted: Record, number: int, since: int) -> bool:
    """Return whether a beat came after an entry, or was the last one before it."""
    return accepted[number].seq > since or (number + 1 < len(accepted) and accepted[number + 1].seq > since)


def nothing_left(names: Collection[str]) -> Claim:
    """Check that no object of the release is left."""
    return Claim("helm removed everything but the CRD and the WorkLeases", ", ".join(names))


def leases_stay(before: Snapshot, after: Snapshot) -> Claim:
    """Check that no WorkLease was lost."""
    lost = {lease.name for lease in before.leases} - {lease.name for lease in after.leases}
    return Claim("every WorkLease is still there", ", ".join(sorted(lost)))
