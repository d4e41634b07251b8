"""Our finalizer on a WorkLease: set before the first claim, taken off when nothing is left to end.

Owns these guarded writes. The one of Kopf's timers is Kopf's (``worklease.dev/timer``), and is let go as soon as a
timer's handler returns, so ours is what a teardown hangs on.
"""

from http import HTTPStatus
from typing import Any, Final, assert_never

from worklease.api.names import FINALIZER, Reference
from worklease.cluster.client import Done, Gone, KubernetesApi, NoAnswer, NotDone, PatchType, Refused

CONFLICTS: Final = 5
"""Versions read in a row before a pause: others write at the same moment, as a rule Kopf its own finalizer."""


class _Conflict(NotDone):
    """Somebody else wrote in between."""


class Set:
    """The finalizer is as it was asked to be."""


async def put_on(api: KubernetesApi, reference: Reference) -> Set | Gone | NotDone:
    """Put the finalizer on, unless it is there or the object is on its way out."""
    return await _write(api, reference, wanted=True)


async def take_off(api: KubernetesApi, reference: Reference) -> Set | Gone | NotDone:
    """Take the finalizer off: the object may go."""
    return await _write(api, reference, wanted=False)


async def _write(api: KubernetesApi, reference: Reference, *, wanted: bool) -> Set | Gone | NotDone:
    outcome: Set | Gone | NotDone = NotDone("")
    async with api.leisure:
        for _ in range(CONFLICTS):
            outcome = await _try(api, reference, wanted=wanted)
            if not isinstance(outcome, _Conflict):
                break
    return outcome


async def _try(api: KubernetesApi, reference: Reference, *, wanted: bool) -> Set | Gone | NotDone:
    match await api.call("GET", reference.path):
        case Done(body):
            metadata = body.get("metadata") or {}
        case Refused() as refused if refused.is_absence:
            return Gone()
        case Refused(_, message) | NoAnswer(message):
            return NotDone(message)
        case reply:
            assert_never(reply)
    if metadata.get("uid") != reference.uid:
        return Gone()
    present = list(metadata.get("finalizers") or ())
    if (FINALIZER in present) is wanted:
        # Also on an object that is on its way out: what is on has to be taken off.
        return Set()
    if wanted and metadata.get("deletionTimestamp") is not None:
        return Gone()
    finalizers = [*present, FINALIZER] if wanted else [name for name in present if name != FINALIZER]
    return await replace(api, reference, metadata, finalizers)


async def replace(
    api: KubernetesApi, reference: Reference, metadata: dict[str, Any], finalizers: list[str]
) -> Set | Gone | NotDone:
    """Write the whole list, guarded by the version that was read: others put theirs there too."""
    guard = {"uid": reference.uid, "resourceVersion": metadata["resourceVersion"]}
    body = {"metadata": guard | {"finalizers": finalizers}}
    match await api.call("PATCH", reference.path, body=body, patch=PatchType.MERGE):
        case Done():
            return Set()
        case Refused() as refused if refused.is_absence:
            return Gone()
        case Refused(status=HTTPStatus.CONFLICT, message=message):
            return _Conflict(message)
        case Refused(_, message) | NoAnswer(message):
            return NotDone(message)
        case reply:
            assert_never(reply)
