"""Whose turn it is to make a session's sandbox: a label on the WorkLease while it is made, which every process lists.

Owns that label, its two writes, and its list. Must not decide who goes first: ``rules.claims`` does.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, assert_never

from worklease.api.names import TURN_LABEL, Reference, workleases_path
from worklease.cluster.client import METADATA, Done, KubernetesApi, NoAnswer, NotDone, PatchType, Refused
from worklease.cluster.paging import list_pages
from worklease.rules.acts import NOT_VALID

PAGE_TRIES: Final = 3
"""How often a page after the first is asked for before a list is given up."""


@dataclass(frozen=True, slots=True)
class Maker:
    """A WorkLease that is not finished, and makes a sandbox of the session, or may be about to."""

    name: str
    uid: str
    created: datetime


async def show(api: KubernetesApi, reference: Reference, session: str | None, may: Callable[[], bool]) -> str | NotDone:
    """Show that this very WorkLease makes a sandbox of the session, None: of none; return its resource version."""
    body = {"metadata": {"uid": reference.uid, "labels": {TURN_LABEL: session}}}
    if not may():
        return NotDone(NOT_VALID)
    match await api.call("PATCH", reference.path, body=body, patch=PatchType.MERGE, accept=METADATA):
        case Done(written):
            return str((written.get("metadata") or {}).get("resourceVersion"))
        case Refused(_, message) | NoAnswer(message):
            return NotDone(message)
        case reply:
            assert_never(reply)


async def makers(api: KubernetesApi, namespace: str, session: str) -> list[Maker] | NotDone:
    """Return who makes a sandbox of the session in a namespace, by a consistent list."""
    found: list[Maker] = []
    query = {"labelSelector": f"{TURN_LABEL}={session}"}
    async for page in list_pages(api, workleases_path(namespace), query, tries=PAGE_TRIES):
        if isinstance(page, Refused | NoAnswer):
            return NotDone(page.message)
        for body in page:
            metadata, conditions = body["metadata"], (body.get("status") or {}).get("conditions") or ()
            if not any((each.get("type"), each.get("status")) == ("Finished", "True") for each in conditions):
                created = datetime.fromisoformat(metadata["creationTimestamp"])
                found.append(Maker(metadata["name"], metadata["uid"], created))
    return found
