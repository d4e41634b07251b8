"""The claims that only the journey makes, in addition to those of the demo.

Owns the checks: pure functions of what kubectl showed and what the simulator recorded. Must not fetch either.
"""

from collections.abc import Collection
from itertools import pairwise

from demo.claims import Claim
from demo.record import Record, renewals
from demo.snapshot import Snapshot
from e2e.helm import RELEASE


def operator_pod(snapshot: Snapshot) -> str:
    """Return the uid of the operator's running pod; empty if there is none, or more than one."""
    uids = [
        pod.uid
        for pod in snapshot.pods
        if pod.name.startswith(f"{RELEASE}-")
        and not pod.name.startswith(f"{RELEASE}-simulator-")
        and (pod.status, pod.ready) == ("Running", pod.containers)
    ]
    return uids[0] if len(uids) == 1 else ""


def operator_runs(snapshot: Snapshot) -> Claim:
    """Check that one pod of the operator is ready, under the restricted Pod Security Standard."""
    objection = "" if operator_pod(snapshot) else "there is no such pod, or more than one"
    return Claim("the operator's pod was admitted under restricted Pod Security, and is ready", objection)


def operator_replaced(before: Snapshot, after: Snapshot) -> Claim:
    """Check that the operator now runs in a new pod."""
    old, new = operator_pod(before), operator_pod(after)
    return Claim("the operator runs in a new pod", "" if old and new and old != new else f"{old}, then {new}")


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
