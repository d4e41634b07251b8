"""The operator's finalizer on a WorkLease: added before the first claim, removed when nothing is left to end.

Owns these writes. The label of the resource's bucket comes with it: who takes the bucket lists by it. The finalizer of
Kopf's timers (``worklease.dev/timer``) is Kopf's: Kopf removes it as soon as a timer's handler returns, so a teardown
depends on the operator's own.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, assert_never

from worklease.api.names import BUCKET_LABEL, FINALIZER, PoolReference, Reference
from worklease.cluster.client import (
    GIVEN_UP,
    WRITE_TIMEOUT,
    Done,
    Gone,
    KubernetesApi,
    NoAnswer,
    NotDone,
    PatchType,
    Refused,
    Reply,
)
from worklease.cluster.guarded_write import Metadata, write_guarded
from worklease.rules.acts import NOT_VALID
from worklease.rules.buckets import bucket_of

NO_LABELS: Final[Mapping[str, str]] = MappingProxyType({})


class Set:
    """The finalizer is as it was asked to be."""


async def add(api: KubernetesApi, reference: Reference, may: Callable[[], bool]) -> Set | Gone | NotDone:
    """Add finalizer and label, unless they are there or the object is being deleted, if ``may`` allows the write."""
    return await _write(api, reference, may, wanted=True)


async def remove(api: KubernetesApi, reference: Reference, may: Callable[[], bool]) -> Set | Gone | NotDone:
    """Remove the finalizer, if ``may`` allows the write: the object may go."""
    return await _write(api, reference, may, wanted=False)


async def replace(
    api: KubernetesApi, reference: Reference | PoolReference, metadata: Metadata, finalizers: list[str]
) -> Set | Gone | NotDone:
    """Write the whole list of finalizers to the version of ``metadata``; a conflict is not tried again."""
    return _outcome(await _patch(api, reference, metadata, finalizers))


async def _write(
    api: KubernetesApi, reference: Reference, may: Callable[[], bool], *, wanted: bool
) -> Set | Gone | NotDone:
    labels = {BUCKET_LABEL: str(bucket_of(reference.uid))} if wanted else {}

    async def write(metadata: Metadata) -> Reply | Set | Gone | NotDone:
        present, is_deleting = list(metadata.get("finalizers") or ()), metadata.get("deletionTimestamp") is not None
        is_labelled = is_deleting or labels.items() <= (metadata.get("labels") or {}).items()
        if (FINALIZER in present) is wanted and is_labelled:
            # Also on an object that is being deleted: a finalizer that is there has to be removed later.
            return Set()
        if wanted and is_deleting:
            return Gone()
        others = [name for name in present if name != FINALIZER]
        finalizers = [*others, FINALIZER] if wanted else others
        if not may():
            return NotDone(NOT_VALID)
        return await _patch(api, reference, metadata, finalizers, labels)

    async with api.low_priority.taken(reference.namespace):
        return _outcome(await write_guarded(api, reference, write))


async def _patch(
    api: KubernetesApi,
    reference: Reference | PoolReference,
    metadata: Metadata,
    finalizers: list[str],
    labels: Mapping[str, str] = NO_LABELS,
) -> Reply:
    """Write the whole list, guarded by the version that was read: others put their finalizers there too."""
    guard: dict[str, Any] = {"uid": reference.uid, "resourceVersion": metadata["resourceVersion"]}
    body = {"metadata": guard | {"finalizers": finalizers} | ({"labels": dict(labels)} if labels else {})}
    return await api.call(
        "PATCH", reference.path, query=GIVEN_UP, body=body, patch=PatchType.MERGE, timeout=WRITE_TIMEOUT
    )


def _outcome(answer: Reply | Set | Gone | NotDone) -> Set | Gone | NotDone:
    match answer:
        case Set() | Gone() | NotDone():
            return answer
        case Done():
            return Set()
        case Refused() as refused if refused.is_absence:
            return Gone()
        case Refused(_, message) | NoAnswer(message):
            return NotDone(message)
        case _:
            assert_never(answer)
