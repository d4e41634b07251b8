"""Whose pod it is: which pods with an item's labels belong to a lease, and why another one is ignored.

Owns these rules. Pure: no clock, no socket. Must not say what is done with a pod: ``lifecycle`` does.
"""

from datetime import datetime

from worklease.rules.lease import End, Lease
from worklease.rules.pods import Pod


def is_bindable(pod: Pod, uid: str, lease: Lease, claimed: datetime | None = None) -> bool:
    """Whether a pod with this item's labels is its sandbox: the lease is held, and no other WorkLease controls the pod.

    A pod that this resource (``uid``) controls is its own, held or not. A restored lease whose time is up binds nothing
    new before a beat was accepted: the pod may be the next holder's. A pod that was there before the item was
    ``claimed``, and is over or terminating, worked for an earlier delivery.
    """
    if pod.controller == uid:
        return True
    is_ending = pod.is_over or pod.terminating
    if is_ending and claimed is not None and (pod.created is None or pod.created < claimed):
        return False
    return lease.held and lease.reprieve is None and not pod.controller


def is_left_of_stopped(pod: Pod, lease: Lease, stopped: datetime | None) -> bool:
    """Whether a pod is left of a stopped item: nobody holds the item, and the pod was there when it was stopped.

    ``stopped`` is the time of day at which the server said so.
    """
    if lease.end is not End.STOPPED or stopped is None or pod.controller or not pod.is_at_work:
        return False
    return pod.created is not None and pod.created <= stopped


def is_stray(pod: Pod, uid: str, *, is_known: bool, keeps_failed: bool) -> bool:
    """Whether a pod that shows up after everything was finished is the resource's own, and must not stay.

    The resource (``uid``) controls it, and it is not the failed pod that the status names and keeps for its logs.
    """
    is_kept = keeps_failed and is_known and pod.phase == "Failed"
    return pod.controller == uid and not pod.gone and not pod.terminating and not is_kept


def why_ignored(pod: Pod, uid: str, lease: Lease, *, is_done: bool, is_wanted: bool) -> str:
    """Return why a pod that carries the item's labels, and is not bound, is ignored; empty if no event need say so.

    Args:
        pod: The pod, which is not bound to the resource.
        uid: The resource's.
        lease: The resource's.
        is_done: Whether nothing is left to do for the resource.
        is_wanted: Whether some resource keeps the item's lease, or is about to.
    """
    if not pod.is_at_work:
        return ""
    if pod.controller not in {"", uid} and not is_done:
        return f"another WorkLease (uid {pod.controller}) controls it"
    if is_done and lease.end is not None and not is_wanted:
        return "it came after this lease had finished; delete it if nobody needs it"
    return ""
