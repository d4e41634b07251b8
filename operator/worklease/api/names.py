"""The names that others rely on: the resource's group, paths, labels and finalizers, and references to objects.

Owns these names; no other module spells one. Must not call anybody.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

GROUP: Final = "worklease.dev"
VERSION: Final = "v1alpha1"
PLURAL: Final = "workleases"
KIND: Final = "WorkLease"
API_VERSION: Final = f"{GROUP}/{VERSION}"

POOL_PLURAL: Final = "workpools"
POOL_KIND: Final = "WorkPool"

RESOURCE: Final = (GROUP, VERSION, PLURAL)
POOLS: Final = (GROUP, VERSION, POOL_PLURAL)
PODS: Final = ("", "v1", "pods")

RESOURCE_PATH: Final = f"/apis/{GROUP}/{VERSION}"
"""The path of the resource's API group and version."""

ENVIRONMENT_LABEL: Final = f"{GROUP}/environment-id"
WORK_LABEL: Final = f"{GROUP}/work-id"
POOL_LABEL: Final = f"{GROUP}/pool"
SESSION_LABEL: Final = f"{GROUP}/session-id"

MANAGED_BY_LABEL: Final = "app.kubernetes.io/managed-by"
MANAGER: Final = "worklease-operator"
"""The label of the volumes that the operator made, and its value: no other is deleted."""

USED_BY_ANNOTATION: Final = f"{GROUP}/used-by"
"""The annotation of a session's volume: the uid of the WorkLease that used it last."""

IDLE_ANNOTATION: Final = f"{GROUP}/idle-seconds"
"""The annotation of a session's volume: for how long it is kept without a WorkLease of the session."""

UNUSED_ANNOTATION: Final = f"{GROUP}/unused-since"
"""The annotation of a session's volume: since when it has none."""

DELIVERIES_ANNOTATION: Final = f"{GROUP}/failed-deliveries"
"""The annotation of a pool's WorkLease: how many deliveries of its session had failed in a row."""

REFUSED_ANNOTATION: Final = f"{GROUP}/refused"
"""The annotation of a WorkLease that only acknowledges and stops its item; its value says why."""

TEMPLATE_ANNOTATION: Final = f"{GROUP}/template"
"""The annotation of a pool's WorkLease: a digest of the pod template that it was made from."""

POLLED_ANNOTATION: Final = f"{GROUP}/polled-time"
"""The annotation of a token's Secret: when the poll was sent that brought the token."""

SANDBOX_CONTAINERS: Final = f"{GROUP}/sandbox-containers"
"""The annotation of a pod that lists the containers that are the sandbox, with commas between their names."""

DEFAULT_CONTAINER: Final = "kubectl.kubernetes.io/default-container"
"""The annotation that names the container that matters, for kubectl and others."""

PROXY_CONTAINER: Final = "worklease-proxy"
"""The container that is the proxy beside an unmodified worker, in pods that the operator makes and in others."""

DRAINING: Final = f"{GROUP}/draining"
"""The annotation of a pod with a proxy that asks its worker to finish: the moment at which that must be over."""

FINALIZER: Final = f"{GROUP}/lease"
"""The operator's own finalizer: a teardown depends on it."""

TIMER_FINALIZER: Final = f"{GROUP}/timer"
"""The finalizer that Kopf's timers force. It is Kopf's, so it has another name than the operator's own."""

POOL_FINALIZER: Final = f"{GROUP}/pool"
"""The operator's finalizer on a WorkPool: its leases end first, by its deletion policy."""

CONTROLLER: Final = f"{GROUP}/operator"
"""The controller that events report."""

BUCKET_LABEL: Final = f"{GROUP}/bucket"
"""The label that names the bucket of an object, by its number."""

TURN_LABEL: Final = f"{GROUP}/makes-sandbox-of"
"""The label of a WorkLease whose pod is being made: it names the session, of which no other one makes a pod then."""

LIVENESS_LABEL: Final = f"{GROUP}/liveness"
"""The label of the Leases by which the operator's processes show that they live."""

READY: Final = f"{GROUP}/ready"
"""The annotation of such a Lease that says whether its process can keep more leases."""

Address = tuple[str, str, str]
"""A namespace, an environment's id and a work item's id, as a pod's namespace and labels name them."""

NOWHERE: Final[Address] = ("", "", "")


class Reference(NamedTuple):
    """One very object: the uid keeps a write from a successor of the same name."""

    namespace: str
    name: str
    uid: str

    @property
    def path(self) -> str:
        """The object's path in the API."""
        return f"{workleases_path(self.namespace)}/{self.name}"


class PoolReference(NamedTuple):
    """One very pool: the uid keeps a write from a successor of the same name."""

    namespace: str
    name: str
    uid: str

    @property
    def path(self) -> str:
        """The pool's path in the API."""
        return f"{workpools_path(self.namespace)}/{self.name}"


def workpools_path(namespace: str | None) -> str:
    """Return the path of a namespace's WorkPools; None: of those in all namespaces."""
    return (
        f"{RESOURCE_PATH}/{POOL_PLURAL}"
        if namespace is None
        else (f"{RESOURCE_PATH}/namespaces/{namespace}/{POOL_PLURAL}")
    )


def workleases_path(namespace: str | None) -> str:
    """Return the path of a namespace's WorkLeases; None: of those in all namespaces."""
    return f"{RESOURCE_PATH}/{PLURAL}" if namespace is None else f"{RESOURCE_PATH}/namespaces/{namespace}/{PLURAL}"


def pod_address(body: Mapping[str, Any]) -> Address:
    """Return the address that a pod's namespace and labels name; an absent label is an empty id."""
    metadata = body["metadata"]
    labels = metadata.get("labels") or {}
    return (metadata["namespace"], labels.get(ENVIRONMENT_LABEL, ""), labels.get(WORK_LABEL, ""))
