"""A write that is guarded by a resource version: it changes the object that was read, or nothing.

Owns the reading of a version, the check that it is the version of this very object, and the further tries after a
conflict (409). Must not know what is written.
"""

from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any, Final, TypeVar

from worklease.api.names import Reference
from worklease.cluster.client import Done, Gone, KubernetesApi, NoAnswer, Refused, Reply

MOST_VERSIONS: Final = 5
"""Versions tried in a row before a pause: others write at the same moment, as a rule Kopf its own finalizer."""

Metadata = Mapping[str, Any]
"""An object's metadata; of a version that was known already, its ``resourceVersion`` alone."""

Verdict = TypeVar("Verdict")


async def write_guarded(
    api: KubernetesApi,
    reference: Reference,
    write: Callable[[Metadata], Awaitable[Reply | Verdict]],
    *,
    version: str | None = None,
) -> Reply | Gone | Verdict:
    """Read the object and call ``write`` with its metadata, again after each conflict; return the last answer.

    ``write`` guards its call by the ``resourceVersion``, or returns a verdict of its own without a call. With a known
    ``version``, the first write needs no read. A successor of the same name is never written to: the object is gone.
    """
    known: Metadata | None = None if version is None else {"resourceVersion": version}
    reply: Reply | Verdict = NoAnswer("")
    for _ in range(MOST_VERSIONS):
        if known is None:
            read = await api.call("GET", reference.path)
            if not isinstance(read, Done):
                reply = read
                break
            known = read.body.get("metadata") or {}
            if known.get("uid") != reference.uid:
                return Gone()
        reply = await write(known)
        if not (isinstance(reply, Refused) and reply.status == HTTPStatus.CONFLICT):
            break
        known = None
    return Gone() if isinstance(reply, Refused) and reply.is_absence else reply
