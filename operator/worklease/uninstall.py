"""The way out: the operator ends, and its finalizers come off, so that WorkLeases can be deleted without it.

Owns the order of that. Must not talk to the Work API: no item is stopped, and leases that are held run out. Must not
delete a WorkLease, nor touch anybody else's finalizers.
"""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, assert_never

from worklease.api.names import FINALIZER, TIMER_FINALIZER, Reference, workleases_path
from worklease.cluster import finalizer
from worklease.cluster.client import Done, Gone, KubernetesApi, NoAnswer, NotDone, Refused
from worklease.cluster.paging import list_pages

OURS: Final = frozenset({FINALIZER, TIMER_FINALIZER})

PAUSE: Final = 0.5
"""Seconds between two looks, or two tries: the operator's pod takes some seconds to end."""

_log = logging.getLogger(__name__)


class NotReleased(Exception):
    """Not everything could be released in time: what is in the way, and what to do."""


@dataclass(frozen=True, slots=True)
class Released:
    """A WorkLease that can be deleted without the operator; ``held_until`` is empty where no lease is held."""

    namespace: str
    name: str
    work_id: str
    held_until: str

    def __str__(self) -> str:
        """Say what was done, and what becomes of the item, in one line."""
        done = f"{self.namespace}/{self.name}: finalizers taken off"
        if not self.held_until:
            return f"{done}, no lease was held"
        return (
            f"{done}; the lease of {self.work_id} runs out at {self.held_until}, and the item is queued again, unless "
            "an operator is installed again before"
        )


async def end_operator(api: KubernetesApi, namespace: str, name: str, *, patience: float) -> None:
    """Delete the operator's Deployment and wait until its pods are gone; ``patience`` is in seconds.

    A running operator would put the finalizers on again.

    Raises:
        NotReleased: It did not end in time.
    """
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}"
    # Foreground: the Deployment is there until the last of its pods is gone.
    options = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Foreground"}
    deadline = asyncio.get_running_loop().time() + patience
    method: str = "DELETE"
    while True:
        match await api.call(method, path, body=options if method == "DELETE" else None):
            case Refused(status=HTTPStatus.NOT_FOUND):
                _log.info("the operator has ended deployment=%s/%s", namespace, name)
                return
            case Done():
                method, problem = "GET", "one of its pods has not ended; is its node alive?"
            case Refused(_, message) | NoAnswer(message):
                problem = message
            case reply:
                assert_never(reply)
        if asyncio.get_running_loop().time() > deadline:
            raise NotReleased(f"Deployment {namespace}/{name} was not gone after {patience:.0f} s: {problem}")
        await asyncio.sleep(PAUSE)


async def release(api: KubernetesApi, namespaces: tuple[str, ...], *, patience: float) -> list[Released]:
    """Take our finalizers off all WorkLeases of ``namespaces`` (none: of all), until a list shows none with them.

    Returns what was released, by namespace and name. ``patience`` is in seconds.

    Raises:
        NotReleased: Some could not be released in time.
    """
    deadline = asyncio.get_running_loop().time() + patience
    released: dict[str, Released] = {}
    while True:
        try:
            left = [bearer for scope in namespaces or (None,) for bearer in await _bearers(api, scope)]
            if not left:
                return sorted(released.values(), key=lambda each: (each.namespace, each.name))
            problem = await _take_off(api, left, released)
        except _NotListed as error:
            problem = str(error)
        if asyncio.get_running_loop().time() > deadline:
            raise NotReleased(f"not all WorkLeases could be released within {patience:.0f} s: {problem}")
        if problem:
            _log.warning("trying again: %s", problem)
            await asyncio.sleep(PAUSE)


class _NotListed(Exception):
    """The list could not be had."""


async def _bearers(api: KubernetesApi, namespace: str | None) -> list[Mapping[str, Any]]:
    """List, page by page, the WorkLeases that carry a finalizer of ours."""
    path = workleases_path(namespace)
    found: list[Mapping[str, Any]] = []
    async for page in list_pages(api, path, {}):
        match page:
            case Refused(status=HTTPStatus.NOT_FOUND):
                # The CRD is gone, and every WorkLease with it.
                return []
            case Refused(_, message) | NoAnswer(message):
                raise _NotListed(f"WorkLeases could not be listed at {path}: {message}")
            case items:
                found += [item for item in items if OURS & set(item["metadata"].get("finalizers") or ())]
    return found


async def _take_off(api: KubernetesApi, left: list[Mapping[str, Any]], released: dict[str, Released]) -> str:
    """Take our finalizers off each; returns what was in the way of one, or nothing."""
    problem = ""
    for item in left:
        metadata = item["metadata"]
        reference = Reference(metadata["namespace"], metadata["name"], metadata["uid"])
        kept = [name for name in metadata["finalizers"] if name not in OURS]
        match await finalizer.replace(api, reference, metadata, kept):
            case finalizer.Set() | Gone():
                released[metadata["uid"]] = _read(item)
            case NotDone(message):
                problem = f"{metadata['namespace']}/{metadata['name']}: {message}"
            case outcome:
                assert_never(outcome)
    return problem


def _read(item: Mapping[str, Any]) -> Released:
    status = item.get("status") or {}
    held = {entry["type"]: entry["status"] for entry in status.get("conditions") or ()}
    # Unknown counts too: the lease may be ours, and then it runs out like the others.
    is_held = held.get("LeaseHeld", "False") != "False" and held.get("Finished") != "True"
    return Released(
        namespace=item["metadata"]["namespace"],
        name=item["metadata"]["name"],
        work_id=item["spec"]["workID"],
        held_until=str(status.get("leaseExpiryTime") or "an unknown time") if is_held else "",
    )
