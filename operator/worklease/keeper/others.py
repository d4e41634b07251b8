"""The resources that other processes keep, as far as this one must know of them: two resources may be for one item.

Owns the reading of a resource's status for that. It may lag behind: then the server refuses one of two claims, as
between namespaces. Must not decide anything about a lease.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from worklease.api.models import HeartbeatMode
from worklease.api.names import Address, Reference
from worklease.keeper.kept import Kept
from worklease.rules.buckets import bucket_of
from worklease.rules.claims import Claimant
from worklease.rules.lease import End, Lease
from worklease.rules.reasons import Kind, Reason, Verdict

_WAITING: Final = Lease()
_HELD: Final = Lease(sent=0.0)
_OVER: Final = Lease(end=End.STOPPED)
"""The three states of another process's lease that count here; thousands of resources share them."""

_CANNOT_CLAIM: Final = frozenset(
    {
        Reason.ADMISSION_UNAVAILABLE,
        Reason.CHECKPOINT_UNAVAILABLE,
        Reason.CREDENTIALS_MISSING,
        Reason.INVALID_SPEC,
        Reason.NOT_FOUND,
        Reason.QUOTA_EXCEEDED,
        Reason.REJECTED,
        Reason.UNAUTHORIZED,
    }
)
"""Reasons for which a resource keeps no other one from its item."""


@dataclass(frozen=True, slots=True)
class Other:
    """A resource of another process."""

    reference: Reference
    bucket: int
    item: Address
    session: Address
    claimant: Claimant
    bound: frozenset[str]
    """The uids of its pods, as its status shows them."""


def read_other(body: Mapping[str, Any]) -> Other:
    """Return what counts of a resource that another process keeps, as the API server has it."""
    metadata, spec, status = body["metadata"], body.get("spec") or {}, body.get("status") or {}
    uid, namespace, name = metadata["uid"], metadata["namespace"], metadata["name"]
    conditions = {each.get("type"): each for each in status.get("conditions") or ()}
    held = conditions.get(Kind.LEASE_HELD.value) or {}
    finished = conditions.get(Kind.FINISHED.value) or {}
    lease = _lease(held, is_finished=finished.get("status") == Verdict.TRUE, was_held="claimTime" in status)
    is_suspended = (spec.get("heartbeat") or {}).get("mode") == HeartbeatMode.SUSPENDED
    is_deleting = metadata.get("deletionTimestamp") is not None
    return Other(
        Reference(namespace, name, uid),
        bucket_of(uid),
        (namespace, str(spec.get("environmentID", "")), str(spec.get("workID", ""))),
        (namespace, str(spec.get("environmentID", "")), str(spec.get("sessionID") or spec.get("workID", ""))),
        Claimant(
            uid=uid,
            name=f"{namespace}/{name}",
            created=datetime.fromisoformat(metadata["creationTimestamp"]),
            lease=lease,
            is_done=lease is _OVER,
            can_claim=not (is_suspended or is_deleting or held.get("reason") in _CANNOT_CLAIM),
            delivery=spec.get("delivery"),
            has_acknowledged="claimTime" in status or _has_acknowledged(spec, held),
        ),
        frozenset(each["podUID"] for each in status.get("sandboxes") or () if "podUID" in each),
    )


def _has_acknowledged(spec: Mapping[str, Any], held: Mapping[str, Any]) -> bool:
    """Whether the item left the queue for a resource whose lease was never held: it is claimed only after that."""
    return spec.get("acknowledge") is True and held.get("reason") == Reason.CLAIMING


def _lease(held: Mapping[str, Any], *, is_finished: bool, was_held: bool) -> Lease:
    if is_finished or (was_held and held.get("status") == Verdict.FALSE and held.get("reason") in set(End)):
        return _OVER
    return _HELD if was_held and held.get("status") != Verdict.FALSE else _WAITING


def left(kept: Kept) -> Other:
    """Return what counts of a resource whose bucket this process has just left to another one."""
    lease = _OVER if kept.lease.end is not None else _HELD if kept.lease.held else _WAITING
    bound = frozenset(uid for uid, pod in kept.pods.bound.items() if not pod.gone)
    # Nothing is left to do for it here; elsewhere there is, unless it is over.
    claimant = replace(kept.claimant(), lease=lease, is_claiming=False, is_done=lease is _OVER)
    return Other(kept.reference, kept.tenancy.bucket, kept.item, kept.session, claimant, bound)
