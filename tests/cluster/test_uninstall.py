"""Uninstalling on the real API server: the operator ends first, and only its own finalizers are removed."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from controlplane import ControlPlane
from support.cluster import make_namespace, path_of
from support.scripted_server import kubernetes_at
from worklease.api.names import FINALIZER, POOL_FINALIZER, TIMER_FINALIZER
from worklease.cluster.client import KubernetesApi
from worklease.uninstall import (
    HELM_RELEASE,
    NotManagedByHelm,
    NotReleased,
    Released,
    end_operator,
    prove_helm_manages,
    release,
)

OTHER = "example.com/backup"
TIMEOUT = 60.0


@pytest.fixture
async def api(control_plane: ControlPlane) -> AsyncIterator[KubernetesApi]:
    async with kubernetes_at(control_plane.url, token=control_plane.token, ca=control_plane.ca) as opened:
        yield opened


def apply(plane: ControlPlane, namespace: str, *objects: dict[str, Any]) -> None:
    body = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    plane.kubectl("apply", "--namespace", namespace, "-f", "-", input=body)


def lease(name: str, *finalizers: str) -> dict[str, Any]:
    return {
        "apiVersion": "worklease.dev/v1alpha1",
        "kind": "WorkLease",
        "metadata": {"name": name, "finalizers": list(finalizers)},
        "spec": {"environmentID": "env_a", "workID": f"work_{name}"},
    }


def finalizers(plane: ControlPlane, namespace: str) -> dict[str, list[str]]:
    found = plane.get(f"/apis/worklease.dev/v1alpha1/namespaces/{namespace}/workleases")
    return {each["metadata"]["name"]: each["metadata"].get("finalizers", []) for each in found["items"]}


def deployment(*, termination: str = "Prompt") -> dict[str, Any]:
    labels = {"app": "the-operator"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "the-operator"},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels, "annotations": {"controlplane.worklease.dev/termination": termination}},
                "spec": {"containers": [{"name": "operator", "image": "operator"}]},
            },
        },
    }


def held(plane: ControlPlane, namespace: str, name: str, status: str) -> None:
    condition = {"reason": "Renewed", "message": "", "lastTransitionTime": "2026-11-24T12:00:00Z"}
    body = {
        "status": {
            "leaseExpiryTime": "2026-11-24T12:05:00Z",
            "conditions": [condition | {"type": "LeaseHeld", "status": status}],
        }
    }
    patch = ("patch", "worklease", name, "--subresource=status", "--type=merge", "-p", json.dumps(body))
    plane.kubectl("--namespace", namespace, *patch)


async def test_only_our_finalizers_come_off_and_only_in_the_namespaces_that_are_ours(
    api: KubernetesApi, control_plane: ControlPlane, namespace: str
) -> None:
    elsewhere = make_namespace(control_plane)
    apply(control_plane, namespace, lease("a", FINALIZER, TIMER_FINALIZER), lease("b", OTHER, FINALIZER), lease("c"))
    apply(control_plane, elsewhere, lease("d", FINALIZER))
    released = await release(api, (namespace,), timeout=TIMEOUT)
    assert [each.name for each in released] == ["a", "b"]
    assert finalizers(control_plane, namespace) == {"a": [], "b": [OTHER], "c": []}
    assert finalizers(control_plane, elsewhere) == {"d": [FINALIZER]}


async def test_the_finalizer_of_a_pool_comes_off_too(
    api: KubernetesApi, control_plane: ControlPlane, namespace: str
) -> None:
    path = path_of(namespace, "WorkPool")
    metadata = {"name": "agents", "finalizers": [POOL_FINALIZER, "tests.worklease.dev/theirs"]}
    spec = {"environmentID": "env_1", "maxConcurrent": 1}
    body = {"apiVersion": "worklease.dev/v1alpha1", "kind": "WorkPool", "metadata": metadata, "spec": spec}
    control_plane.demand("POST", path, body)
    await release(api, (namespace,), timeout=20)
    assert control_plane.get(f"{path}/agents")["metadata"]["finalizers"] == ["tests.worklease.dev/theirs"]


async def test_what_is_held_is_said_to_run_out(api: KubernetesApi, control_plane: ControlPlane, namespace: str) -> None:
    apply(control_plane, namespace, *(lease(name, FINALIZER) for name in ("held", "in-doubt", "over")))
    for name, status in (("held", "True"), ("in-doubt", "Unknown"), ("over", "False")):
        held(control_plane, namespace, name, status)
    released = await release(api, (namespace,), timeout=TIMEOUT)
    until = "2026-11-24T12:05:00Z"
    assert released == [
        Released(namespace, "held", "work_held", until),
        Released(namespace, "in-doubt", "work_in-doubt", until),
        Released(namespace, "over", "work_over", ""),
    ]
    assert f"the lease of work_held expires at {until}" in str(released[0])
    assert str(released[2]).endswith("no lease was held")


async def test_what_waits_in_terminating_goes(api: KubernetesApi, control_plane: ControlPlane, namespace: str) -> None:
    apply(control_plane, namespace, lease("a", FINALIZER, TIMER_FINALIZER))
    control_plane.kubectl("--namespace", namespace, "delete", "worklease", "a", "--wait=false")
    assert finalizers(control_plane, namespace) != {}
    await release(api, (namespace,), timeout=TIMEOUT)
    assert finalizers(control_plane, namespace) == {}


async def test_a_deployment_that_helm_does_not_manage_is_not_ended_as_if_helm_uninstalled_it(
    api: KubernetesApi, control_plane: ControlPlane, namespace: str
) -> None:
    where = ("--namespace", namespace)
    await prove_helm_manages(api, namespace, "the-operator", timeout=TIMEOUT)  # it is gone already
    control_plane.kubectl("create", *where, "-f", "-", input=json.dumps(deployment()))
    with pytest.raises(NotManagedByHelm, match=rf"lacks the annotation {HELM_RELEASE}.*--no-hooks"):
        await prove_helm_manages(api, namespace, "the-operator", timeout=TIMEOUT)
    control_plane.kubectl("annotate", *where, "deployment", "the-operator", f"{HELM_RELEASE}=worklease")
    control_plane.kubectl("scale", *where, "deployment/the-operator", "--replicas=0")
    await prove_helm_manages(api, namespace, "the-operator", timeout=TIMEOUT)
    # Another tool takes over what Helm has installed: the annotation stays.
    taken = ("apply", *where, "--server-side", "--force-conflicts", "--field-manager", "argocd-controller", "-f", "-")
    control_plane.kubectl(*taken, input=json.dumps(deployment()))
    with pytest.raises(NotManagedByHelm, match=r"is managed by argocd-controller.*--without-helm"):
        await prove_helm_manages(api, namespace, "the-operator", timeout=TIMEOUT)


async def test_the_operators_pods_are_gone_when_its_end_is_told(
    api: KubernetesApi, control_plane: ControlPlane, namespace: str
) -> None:
    apply(control_plane, namespace, deployment())
    control_plane.kubectl("--namespace", namespace, "rollout", "status", "deployment/the-operator", "--timeout=60s")
    await end_operator(api, namespace, "the-operator", timeout=TIMEOUT)
    assert control_plane.get(f"/api/v1/namespaces/{namespace}/pods")["items"] == []
    # An operator that is gone already is no mistake.
    await end_operator(api, namespace, "the-operator", timeout=TIMEOUT)


async def test_an_operator_that_does_not_end_is_told(
    api: KubernetesApi, control_plane: ControlPlane, namespace: str
) -> None:
    apply(control_plane, namespace, deployment(termination="Never"))
    control_plane.kubectl("--namespace", namespace, "rollout", "status", "deployment/the-operator", "--timeout=60s")
    with pytest.raises(NotReleased, match=rf"{namespace}/the-operator was not gone after 1 s.*is its node alive"):
        await end_operator(api, namespace, "the-operator", timeout=1)
    control_plane.kubectl("--namespace", namespace, "delete", "pods", "--all", "--grace-period=0", "--force")


async def test_without_the_right_it_says_what_is_missing(control_plane: ControlPlane, namespace: str) -> None:
    token = control_plane.kubectl("create", "token", "default", "-n", namespace).strip()
    async with kubernetes_at(control_plane.url, token=token, ca=control_plane.ca) as limited:
        with pytest.raises(NotReleased, match=r'cannot list resource "workleases"'):
            await release(limited, (namespace,), timeout=1)
