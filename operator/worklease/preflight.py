"""What must be so before the operator can work: the resource is installed, and its rights are granted.

Owns these checks and their words. A missing thing stops the process at start, with one clear line for each.
"""

import asyncio
import logging
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, assert_never

from worklease.api.names import GROUP, RESOURCE_PATH
from worklease.cluster.client import Done, KubernetesApi, NoAnswer, Refused

START_TIMEOUT: Final = 60.0
"""Seconds to wait for an API server that does not answer: it may be starting too."""

RETRY: Final = 1.0
"""Seconds between two tries."""

_log = logging.getLogger(__name__)


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
    """The one object that it is about; none: any."""

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


CHECKPOINT: Final = "worklease-checkpoint-00"
"""The first ConfigMap of the checkpoint: who may read and write it, but for its creation, may do so by name only."""

OWN_RIGHTS: Final = (
    Right("create", "", "configmaps"),
    *(Right(verb, "", "configmaps", name=CHECKPOINT) for verb in ("get", "patch")),
)
"""What is used in the operator's own namespace: the checkpoint."""


async def check(api: KubernetesApi, namespaces: tuple[str, ...], own: str, *, patience: float = START_TIMEOUT) -> None:
    """Look whether the cluster is ready for the operator, which lives in ``own``; ``patience`` is in seconds.

    Raises:
        PreflightFailed: It is not; the message says what is missing.
    """
    deadline = asyncio.get_running_loop().time() + patience
    await _find_resource(api, deadline)
    wanted = [(right, namespace) for namespace in namespaces or (None,) for right in RIGHTS]
    wanted += [(right, own) for right in OWN_RIGHTS]
    granted = await asyncio.gather(*(_is_granted(api, deadline, right, namespace) for right, namespace in wanted))
    missing = [
        f"{right} in {'all namespaces' if namespace is None else f'namespace {namespace}'}"
        for (right, namespace), is_granted in zip(wanted, granted, strict=True)
        if not is_granted
    ]
    if missing:
        raise PreflightFailed(
            f"missing rights: the operator may not {', '.join(missing)}; grant them to its service account"
        )


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
    """Make a call, with patience for an API server that is on its way up or has too much to do."""
    while True:
        match await api.call(method, path, body=body):
            case Refused(status=HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN, message=message):
                raise PreflightFailed(
                    f"the Kubernetes API at {api.server} refuses the operator's credentials: {message}"
                )
            case Done() | Refused(status=HTTPStatus.NOT_FOUND | HTTPStatus.BAD_REQUEST) as verdict:
                return verdict
            case Refused(_, message) | NoAnswer(message):
                if asyncio.get_running_loop().time() > deadline:
                    raise PreflightFailed(message)
                _log.warning("waiting for the Kubernetes API: %s", message)
                await asyncio.sleep(RETRY)
            case reply:
                assert_never(reply)


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
