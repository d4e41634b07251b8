"""The checks before the start: the resource is installed, the operator has its rights, the Work API answers.

Owns these checks and their words. What is missing stops the process at start, with one clear line; what is missing in
one of several namespaces is a warning.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, assert_never

from worklease.api.names import GROUP, POOL_PLURAL, RESOURCE_PATH
from worklease.cluster.bucket_store import bucket_name
from worklease.cluster.client import Done, KubernetesApi, NoAnswer, NotDone, Refused
from worklease.cluster.polling import deadline_in, poll
from worklease.work_api.client import WorkApi

START_TIMEOUT: Final = 60.0
"""Seconds to wait for an API server that does not answer: it may be starting as well."""

WORK_API_TIMEOUT: Final = 10.0
"""Seconds that the Work API may take to answer: as long as a heartbeat may take."""

RETRY: Final = 1.0
"""Seconds between two tries."""


class PreflightFailed(Exception):
    """The cluster is not prepared for the operator: what is missing, and how to provide it."""


@dataclass(frozen=True, slots=True)
class Right:
    """A verb on a resource that the operator cannot do without."""

    verb: str
    group: str
    resource: str
    subresource: str = ""
    name: str = ""
    """The one object that the right is for; none: any object."""

    def __str__(self) -> str:
        """Write it as RBAC rules are read: the verb, and the resource with its group."""
        kind = f"{self.resource}.{self.group}" if self.group else self.resource
        whole = f"{kind}/{self.subresource}" if self.subresource else kind
        return f"{self.verb} {whole} {self.name}".rstrip()


RIGHTS: Final = (
    *(Right(verb, GROUP, "workleases") for verb in ("get", "list", "watch", "patch", "delete")),
    Right("patch", GROUP, "workleases", "status"),
    *(Right(verb, "", "pods") for verb in ("get", "list", "watch", "create", "delete")),
    Right("create", "events.k8s.io", "events"),
)
"""What is used in every watched namespace. Secrets are granted by name, so a missing right shows on the resource."""


CHECKPOINT: Final = bucket_name(0)
"""The first ConfigMap of the checkpoint. Rights to read and write are granted by name; creation has no name yet."""

OWN_RIGHTS: Final = (
    *(Right(verb, "", "configmaps") for verb in ("create", "list")),
    *(Right(verb, "", "configmaps", name=CHECKPOINT) for verb in ("get", "patch")),
    *(Right(verb, "coordination.k8s.io", "leases") for verb in ("get", "list", "create", "patch", "delete")),
)
"""What is used in the operator's own namespace: the checkpoint, and the Leases by which processes show that they live.
"""


async def check(
    api: KubernetesApi,
    namespaces: tuple[str, ...],
    own: str,
    *,
    timeout: float = START_TIMEOUT,  # noqa: ASYNC109 (all calls share it)
    needs_crd: bool = True,
) -> tuple[str, ...]:
    """Check, within ``timeout`` seconds, that the cluster is ready for the operator, whose namespace is ``own``.

    Returns warnings: which of several namespaces are left out because a right is missing there. One that is deleted has
    taken the rights with it, and must not keep the operator from the leases of the others.

    Raises:
        PreflightFailed: It is not ready; the message says what is missing.
    """
    deadline = deadline_in(timeout)
    if needs_crd:
        await _find_resource(api, deadline)
    wanted = [(right, namespace) for namespace in namespaces or (None,) for right in RIGHTS]
    wanted += [(right, own) for right in OWN_RIGHTS]
    granted = await asyncio.gather(*(_is_granted(api, deadline, right, namespace) for right, namespace in wanted))
    missing: dict[str | None, list[Right]] = {}
    for (right, namespace), is_granted in zip(wanted, granted, strict=True):
        if not is_granted:
            missing.setdefault(namespace, []).append(right)
    is_any_left = any(namespace not in missing for namespace in namespaces)
    if missing and (own in missing or not is_any_left):
        raise PreflightFailed(
            f"missing rights: the operator may not {_listed(missing)}; grant them to its service account"
        )
    return tuple(
        f"namespace {namespace} is left out until it is there and grants its rights: "
        f"the operator may not {_listed({namespace: rights})}"
        for namespace, rights in missing.items()
    )


async def find_pools(
    api: KubernetesApi,
    namespaces: tuple[str, ...],
    *,
    timeout: float = START_TIMEOUT,  # noqa: ASYNC109 (all calls share it)
) -> bool:
    """Whether the cluster has WorkPools, and the operator may list them in one of the namespaces, or in all."""
    deadline = deadline_in(timeout)
    match await _ask(api, deadline, "GET", RESOURCE_PATH):
        case Done(body) if any(entry.get("name") == POOL_PLURAL for entry in body.get("resources") or ()):
            pass
        case _:
            return False
    rights = [(Right("list", GROUP, POOL_PLURAL), namespace) for namespace in namespaces or (None,)]
    granted = await asyncio.gather(*(_is_granted(api, deadline, right, namespace) for right, namespace in rights))
    return any(granted)


def _listed(missing: Mapping[str | None, Sequence[Right]]) -> str:
    return ", ".join(
        f"{right} in {'all namespaces' if namespace is None else f'namespace {namespace}'}"
        for namespace, rights in missing.items()
        for right in rights
    )


async def check_work_api(work_api: WorkApi) -> None:
    """Check that the Work API answers, without a key and without a heartbeat.

    Raises:
        PreflightFailed: It does not; the message says what to look at.
    """
    if (problem := await work_api.probe(timeout=WORK_API_TIMEOUT)) is not None:
        raise PreflightFailed(problem)


async def _find_resource(api: KubernetesApi, deadline: float) -> None:
    match await _ask(api, deadline, "GET", RESOURCE_PATH):
        case Done(body) if any(entry.get("name") == "workleases" for entry in body.get("resources") or ()):
            return
        case Done() | Refused(status=HTTPStatus.NOT_FOUND):
            raise PreflightFailed("the WorkLease CRD is not installed: kubectl apply -f crds/workleases.yaml")
        case Refused(_, message):
            raise PreflightFailed(
                f"the Kubernetes API at {api.server} does not say whether WorkLeases exist: {message}"
            )


async def _ask(api: KubernetesApi, deadline: float, method: str, path: str, body: object = None) -> Done | Refused:
    """Make a call; repeat it while the API server is starting, or has too much to do."""

    async def attempt() -> Done | Refused | NotDone:
        match await api.call(method, path, body=body):
            case Refused(status=HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN, message=message):
                raise PreflightFailed(
                    f"the Kubernetes API at {api.server} refuses the operator's credentials: {message}"
                )
            case Done() | Refused(status=HTTPStatus.NOT_FOUND | HTTPStatus.BAD_REQUEST) as verdict:
                return verdict
            case Refused(_, message) | NoAnswer(message):
                return NotDone(message)
            case reply:
                assert_never(reply)

    outcome: Done | Refused | NotDone = await poll(
        attempt, deadline=deadline, interval=RETRY, waiting_for="the Kubernetes API"
    )
    if isinstance(outcome, NotDone):
        raise PreflightFailed(outcome.message)
    return outcome


async def _is_granted(api: KubernetesApi, deadline: float, right: Right, namespace: str | None) -> bool:
    attributes = {"verb": right.verb, "group": right.group, "resource": right.resource}
    if right.subresource:
        attributes["subresource"] = right.subresource
    if right.name:
        attributes["name"] = right.name
    if namespace is not None:
        attributes["namespace"] = namespace
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }
    match await _ask(api, deadline, "POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review):
        case Done(body):
            return bool((body.get("status") or {}).get("allowed"))
        case Refused(_, message):
            raise PreflightFailed(f"the operator's rights could not be checked: {message}")
        case reply:
            assert_never(reply)
