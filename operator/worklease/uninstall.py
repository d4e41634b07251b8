"""The uninstallation: the operator ends, and its finalizers are removed, so that WorkLeases can be deleted without it.

Owns the order of that, and the proof that it is asked for. Must not talk to the Work API: no item is stopped, and
leases that are held expire. Must not delete a WorkLease, nor touch finalizers that are not the operator's.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, assert_never

from worklease.api.names import (
    FINALIZER,
    POOL_FINALIZER,
    TIMER_FINALIZER,
    PoolReference,
    Reference,
    workleases_path,
    workpools_path,
)
from worklease.cluster import finalizer
from worklease.cluster.client import Done, Gone, KubernetesApi, NoAnswer, NotDone, Refused
from worklease.cluster.paging import list_pages
from worklease.cluster.polling import deadline_in, has_passed, poll

OPERATOR_FINALIZERS: Final = frozenset({FINALIZER, TIMER_FINALIZER})

POLL_INTERVAL: Final = 0.5
"""Seconds between two tries: the operator's pod takes some seconds to end."""

HELM_RELEASE: Final = "meta.helm.sh/release-name"
"""The annotation that Helm sets on each object of a release, and that no rendered manifest has."""

OTHER_MANAGERS: Final = frozenset({"kubectl", "kubectl-client-side-apply", "argocd-controller", "kustomize-controller"})
"""The field managers of tools that apply rendered manifests: ``kubectl apply``, Argo CD, Flux's Kustomizations. Helm's
annotation stays on an object that one of them has taken over, so it proves nothing then. The other commands of kubectl
have other names, such as ``kubectl-edit``."""

PULUMI: Final = "pulumi-"
"""How Pulumi's field managers begin."""

_log = logging.getLogger(__name__)


class NotManagedByHelm(Exception):
    """Nothing proves that Helm is uninstalling the operator: what speaks against it, and what to do."""


class NotReleased(Exception):
    """Not everything was released in time: why, and what to do."""


@dataclass(frozen=True, slots=True)
class Released:
    """A WorkLease that can be deleted without the operator; ``held_until`` is empty where no lease is held."""

    namespace: str
    name: str
    work_id: str
    held_until: str

    def __str__(self) -> str:
        """Return in one line what was done, and what happens to the item."""
        done = f"{self.namespace}/{self.name}: finalizers removed"
        if not self.held_until:
            return f"{done}; no lease was held"
        return (
            f"{done}; the lease of {self.work_id} expires at {self.held_until}, and then the item is queued again, "
            "unless an operator is installed before that"
        )


async def prove_helm_manages(api: KubernetesApi, namespace: str, name: str, *, timeout: float) -> None:  # noqa: ASYNC109 (all tries share it)
    """Check that Helm manages the operator's Deployment; one that is gone needs no proof.

    The chart's uninstall hook is a Job like any other for a tool that applies what ``helm template`` renders. Without
    this check, it would end the operator at its installation.

    Raises:
        NotManagedByHelm: Another tool manages it.
        NotReleased: It could not be read in time.
    """

    async def attempt() -> Mapping[str, Any] | NotDone | None:
        match await api.call("GET", f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}"):
            case Refused(status=HTTPStatus.NOT_FOUND):
                return None
            case Done(body):
                return body
            case Refused(_, message) | NoAnswer(message):
                return NotDone(message)
            case reply:
                assert_never(reply)

    outcome = await poll(attempt, deadline=deadline_in(timeout), interval=POLL_INTERVAL)
    if isinstance(outcome, NotDone):
        raise NotReleased(f"Deployment {namespace}/{name} could not be read: {outcome.message}")
    if outcome is not None and (against := _against_helm(outcome["metadata"])):
        raise NotManagedByHelm(
            f"nothing was changed, because Deployment {namespace}/{name} {against}: a tool that is not Helm has "
            "applied the uninstall hook like an ordinary object. Render the chart without hooks (helm template "
            "--no-hooks), or with uninstall.policy=Keep. To end the operator and release its WorkLeases nevertheless, "
            "add --without-helm"
        )


def _against_helm(metadata: Mapping[str, Any]) -> str:
    """Return what speaks against Helm as the manager of an object; nothing if Helm manages it."""
    if HELM_RELEASE not in (metadata.get("annotations") or {}):
        return f"lacks the annotation {HELM_RELEASE}"
    managers = (str(entry.get("manager")) for entry in metadata.get("managedFields") or ())
    other = next((each for each in managers if each in OTHER_MANAGERS or each.startswith(PULUMI)), None)
    return f"is managed by {other}" if other is not None else ""


async def end_operator(api: KubernetesApi, namespace: str, name: str, *, timeout: float) -> None:  # noqa: ASYNC109 (all tries share it)
    """Delete the operator's Deployment and wait, ``timeout`` seconds at most, until its pods are gone.

    A running operator would add the finalizers again.

    Raises:
        NotReleased: It did not end in time.
    """
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}"
    # Foreground: the Deployment is there until the last of its pods is gone.
    options = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Foreground"}
    method: str = "DELETE"

    async def attempt() -> NotDone | None:
        nonlocal method
        match await api.call(method, path, body=options if method == "DELETE" else None):
            case Refused(status=HTTPStatus.NOT_FOUND):
                return None
            case Done():
                method = "GET"
                return NotDone("one of its pods has not ended; is its node alive?")
            case Refused(_, message) | NoAnswer(message):
                return NotDone(message)
            case reply:
                assert_never(reply)

    outcome = await poll(attempt, deadline=deadline_in(timeout), interval=POLL_INTERVAL)
    if outcome is not None:
        raise NotReleased(f"Deployment {namespace}/{name} was not gone after {timeout:.0f} s: {outcome.message}")
    _log.info("the operator has ended deployment=%s/%s", namespace, name)


async def release(api: KubernetesApi, namespaces: tuple[str, ...], *, timeout: float) -> list[Released]:  # noqa: ASYNC109 (all tries share it)
    """Remove the operator's finalizers from all WorkLeases and WorkPools of ``namespaces`` (none: of all namespaces).

    Returns what was released, by namespace and name, once a list shows no finalizer of the operator's any more.

    Raises:
        NotReleased: Some WorkLeases were not released within ``timeout`` seconds.
    """
    deadline = deadline_in(timeout)
    released: dict[str, Released] = {}

    async def attempt() -> list[Released] | NotDone:
        while left := await _list_held_back(api, namespaces):
            if isinstance(left, NotDone):
                return left
            if (problem := await _remove_finalizers(api, left, released)) is not None:
                return problem
            if has_passed(deadline):
                return NotDone("the time was over before a list showed that no finalizer is left")
        if (held_back := await _release_pools(api, namespaces)) is not None:
            return held_back
        return sorted(released.values(), key=lambda each: (each.namespace, each.name))

    outcome = await poll(
        attempt, deadline=deadline, interval=POLL_INTERVAL, waiting_for="all WorkLeases to be released"
    )
    if isinstance(outcome, NotDone):
        raise NotReleased(f"not all WorkLeases were released within {timeout:.0f} s: {outcome.message}")
    return outcome


async def _list_held_back(api: KubernetesApi, namespaces: tuple[str, ...]) -> list[Mapping[str, Any]] | NotDone:
    """List the WorkLeases of all namespaces meant that have a finalizer of the operator's."""
    found: list[Mapping[str, Any]] = []
    refused: list[str] = []
    for namespace in namespaces or (None,):
        match await _list_held_back_in(api, namespace):
            case NotDone() as problem:
                return problem
            case Refused(_, message):
                refused.append(message)
            case there:
                found += there
    if refused and len(refused) == len(namespaces or (None,)):
        return NotDone(refused[0])
    for message in refused:
        # As a rule the namespace is deleted, and the rights went with it.
        _log.warning("namespace left out, WorkLeases that are left there keep their finalizers: %s", message)
    return found


async def _list_held_back_in(api: KubernetesApi, namespace: str | None) -> list[Mapping[str, Any]] | Refused | NotDone:
    """List a namespace's; ``Refused`` where it does not grant its rights any more."""
    path = workleases_path(namespace)
    found: list[Mapping[str, Any]] = []
    async for page in list_pages(api, path, {}):
        match page:
            case Refused(status=HTTPStatus.NOT_FOUND):
                # The CRD is gone, and every WorkLease with it.
                return []
            case Refused(status=HTTPStatus.FORBIDDEN) as refused:
                return refused
            case Refused(_, message) | NoAnswer(message):
                where = "all namespaces" if namespace is None else f"namespace {namespace}"
                return NotDone(f"WorkLeases of {where} could not be listed: {message}")
            case items:
                found += [item for item in items if _has_finalizer(item)]
    return found


async def _release_pools(api: KubernetesApi, namespaces: tuple[str, ...]) -> NotDone | None:
    """Remove the operator's finalizer from all WorkPools; return why one has it still."""
    for namespace in namespaces or (None,):
        async for page in list_pages(api, workpools_path(namespace), {}):
            match page:
                case Refused(status=HTTPStatus.NOT_FOUND | HTTPStatus.FORBIDDEN):
                    break  # there are no pools, or their namespace is deleted and its rights went with it
                case Refused(_, message) | NoAnswer(message):
                    return NotDone(f"WorkPools could not be listed: {message}")
                case items:
                    for item in items:
                        if (problem := await _release_pool(api, item["metadata"])) is not None:
                            return problem
    return None


async def _release_pool(api: KubernetesApi, metadata: Mapping[str, Any]) -> NotDone | None:
    present = metadata.get("finalizers") or ()
    if POOL_FINALIZER not in present:
        return None
    reference = PoolReference(metadata["namespace"], metadata["name"], metadata["uid"])
    outcome = await finalizer.replace(api, reference, metadata, [name for name in present if name != POOL_FINALIZER])
    return outcome if isinstance(outcome, NotDone) else None


def _has_finalizer(item: Mapping[str, Any]) -> bool:
    return not OPERATOR_FINALIZERS.isdisjoint(item["metadata"].get("finalizers") or ())


async def _remove_finalizers(
    api: KubernetesApi, left: list[Mapping[str, Any]], released: dict[str, Released]
) -> NotDone | None:
    """Remove the operator's finalizers from each; return why one of them could not be removed."""
    problem: NotDone | None = None
    for item in left:
        metadata = item["metadata"]
        reference = Reference(metadata["namespace"], metadata["name"], metadata["uid"])
        kept = [name for name in metadata["finalizers"] if name not in OPERATOR_FINALIZERS]
        match await finalizer.replace(api, reference, metadata, kept):
            case finalizer.Set() | Gone():
                released[metadata["uid"]] = _read(item)
            case NotDone(message):
                problem = NotDone(f"{metadata['namespace']}/{metadata['name']}: {message}")
            case outcome:
                assert_never(outcome)
    return problem


def _read(item: Mapping[str, Any]) -> Released:
    status = item.get("status") or {}
    held = {entry["type"]: entry["status"] for entry in status.get("conditions") or ()}
    # Unknown counts too: the operator may hold the lease, which then expires like the others.
    is_held = held.get("LeaseHeld", "False") != "False" and held.get("Finished") != "True"
    return Released(
        namespace=item["metadata"]["namespace"],
        name=item["metadata"]["name"],
        work_id=item["spec"]["workID"],
        held_until=str(status.get("leaseExpiryTime") or "an unknown time") if is_held else "",
    )
