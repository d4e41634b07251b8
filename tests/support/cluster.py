"""The tests' own cluster: what is installed into it, and the refusal of any other cluster.

This module must not read KUBECONFIG: tests touch no cluster that they did not start.
"""

import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from controlplane import ControlPlane, wait_for
from controlplane.existing import VARIABLE, wants_existing_cluster

CUSTOM_RESOURCES = Path(__file__).parents[2] / "crds" / "workleases.yaml"
ALL_CUSTOM_RESOURCES = CUSTOM_RESOURCES.parent
# Pods are created only once the namespace's default service account exists; its controller takes milliseconds.
SERVICE_ACCOUNT_SECONDS = 30.0
WORKLEASES = "/apis/worklease.dev/v1alpha1/namespaces/{}/workleases"
WORKPOOLS = "/apis/worklease.dev/v1alpha1/namespaces/{}/workpools"
OPENAPI = "/openapi/v3/apis/worklease.dev/v1alpha1"
OPENAPI_SECONDS = 60.0  # it takes a second or two
ESTABLISHED_TIMEOUT = "--timeout=30s"  # usually 50 ms


class ForeignClusterError(Exception):
    """The environment asks the tests to use a cluster that they did not start."""


def refuse_existing_cluster(environ: Mapping[str, str] = os.environ) -> None:
    """Raise ForeignClusterError if the environment asks for a cluster that is not the tests' own."""
    if wants_existing_cluster(environ):
        raise ForeignClusterError(
            f"{VARIABLE} is set: tests delete what they find, so they run only on a control plane that they start "
            f"themselves. Unset {VARIABLE}; the demo can use an existing cluster."
        )


def keep_away_from_other_clusters(environ: dict[str, str] | os._Environ[str]) -> None:
    """Hide the user's kubeconfig and a pod's service account from client libraries."""
    environ["KUBECONFIG"] = os.devnull
    environ.pop("KUBERNETES_SERVICE_HOST", None)
    environ.pop("KUBERNETES_SERVICE_PORT", None)


def install_custom_resources(plane: ControlPlane) -> None:
    """Install the custom resources and wait until they are served."""
    if CUSTOM_RESOURCES.exists():
        plane.kubectl("apply", "--server-side", "-f", str(ALL_CUSTOM_RESOURCES))
        plane.kubectl("wait", "--for=condition=Established", ESTABLISHED_TIMEOUT, "-f", str(ALL_CUSTOM_RESOURCES))
        # The schema that `kubectl explain` reads is published a little later.
        wait_for(lambda: plane.get(OPENAPI), seconds=OPENAPI_SECONDS, what="the resource's published schema")


def make_namespace(plane: ControlPlane) -> str:
    """Create a namespace for one test, ready for pods, and return its name."""
    name = f"test-{uuid.uuid4().hex[:10]}"
    plane.demand("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    account = f"/api/v1/namespaces/{name}/serviceaccounts/default"
    wait_for(lambda: plane.get(account), seconds=SERVICE_ACCOUNT_SECONDS, what=f"the default account of {name}")
    return name


def apply(plane: ControlPlane, namespace: str, resource: Mapping[str, Any]) -> None:
    """Apply an object on the server's side, as `kubectl apply --server-side` does, without the cost of a process."""
    path = f"{path_of(namespace, resource['kind'])}/{resource['metadata']['name']}?fieldManager=tests&force=true"
    plane.demand("PATCH", path, resource, content_type="application/apply-patch+yaml")


def path_of(namespace: str, kind: str) -> str:
    """Return the path of the objects of a kind in a namespace."""
    if kind == "WorkLease":
        return WORKLEASES.format(namespace)
    if kind == "WorkPool":
        return WORKPOOLS.format(namespace)
    return f"/api/v1/namespaces/{namespace}/{kind.lower()}s"


def leave_namespace(plane: ControlPlane, name: str) -> None:
    """Delete what others of the control plane would see of a namespace that no test uses any more.

    It goes with the control plane. To delete a namespace, a hundred requests look for objects of each kind, twice.
    """
    body = {"metadata": {"finalizers": None}}
    for objects in (WORKPOOLS.format(name), WORKLEASES.format(name)):
        for each in (plane.get(objects) or {"items": ()})["items"]:
            path = f"{objects}/{each['metadata']['name']}"
            plane.request("PATCH", path, body, content_type="application/merge-patch+json")
        plane.demand("DELETE", objects)
    plane.demand("DELETE", f"{path_of(name, 'Pod')}?gracePeriodSeconds=0")
