"""A PodDisruptionBudget over sandboxes: the disruption controller asks for a number that no WorkLease has.

docs/operations.md says which budgets work; this holds it, on a real API server and controller manager.
"""

import json
from typing import Any

import pytest

from controlplane import ControlPlane, wait_for
from controlplane.kubectl import KubectlError

SELECTOR = {"matchExpressions": [{"key": "worklease.dev/work-id", "operator": "Exists"}]}


@pytest.fixture
def sandbox(control_plane: ControlPlane, namespace: str) -> str:
    """A running pod whose controller is a WorkLease."""

    def make(body: dict[str, Any]) -> None:
        control_plane.kubectl("-n", namespace, "create", "-f", "-", input=json.dumps(body))

    spec = {"environmentID": "env_1", "workID": "work_1"}
    version = "worklease.dev/v1alpha1"
    make({"apiVersion": version, "kind": "WorkLease", "metadata": {"name": "owner"}, "spec": spec})
    path = f"/apis/{version}/namespaces/{namespace}/workleases/owner"
    uid = (control_plane.get(path) or {})["metadata"]["uid"]
    owner = {"apiVersion": version, "kind": "WorkLease", "name": "owner", "uid": uid, "controller": True}
    labels = {"worklease.dev/environment-id": "env_1", "worklease.dev/work-id": "work_1"}
    metadata = {"name": "sandbox", "labels": labels, "ownerReferences": [owner]}
    containers = [{"name": "sandbox", "image": "busybox"}]
    make({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": containers}})
    pod = f"/api/v1/namespaces/{namespace}/pods/sandbox"
    wait_for(
        lambda: (control_plane.get(pod) or {}).get("status", {}).get("phase") == "Running",
        seconds=60,
        what="a running sandbox",
    )
    return "sandbox"


def budget(plane: ControlPlane, namespace: str, **asked: Any) -> dict[str, Any]:
    """Create a budget, and return its status once the controller has judged it."""
    body = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "sandboxes"},
        "spec": {"selector": SELECTOR} | asked,
    }
    plane.kubectl("-n", namespace, "create", "-f", "-", input=json.dumps(body))
    path = f"/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets/sandboxes"

    def status() -> dict[str, Any]:
        found = (plane.get(path) or {}).get("status") or {}
        return dict(found) if found.get("conditions") else {}

    return wait_for(status, seconds=60, what="the controller's judgement of the budget")


def evict(plane: ControlPlane, namespace: str, pod: str) -> None:
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}}
    path = f"/api/v1/namespaces/{namespace}/pods/{pod}/eviction"
    plane.kubectl("create", "--raw", path, "-f", "-", input=json.dumps(body))


def test_a_whole_number_of_sandboxes_is_kept(control_plane: ControlPlane, namespace: str, sandbox: str) -> None:
    status = budget(control_plane, namespace, minAvailable=10000)
    assert (status["currentHealthy"], status["disruptionsAllowed"]) == (1, 0)
    assert [each["reason"] for each in status["conditions"]] == ["InsufficientPods"]
    with pytest.raises(KubectlError, match="disruption budget"):
        evict(control_plane, namespace, sandbox)


@pytest.mark.parametrize("asked", [{"maxUnavailable": 1}, {"minAvailable": "50%"}], ids=str)
def test_what_needs_a_number_of_replicas_allows_no_eviction_and_says_why(
    control_plane: ControlPlane, namespace: str, sandbox: str, asked: dict[str, Any]
) -> None:
    status = budget(control_plane, namespace, **asked)
    (condition,) = status["conditions"]
    assert (condition["reason"], condition["status"]) == ("SyncFailed", "False")
    # The controller manager discovers kinds now and then; before it knows this one, it says that there is no such kind.
    words = ("does not implement the scale subresource", 'no matches for kind "WorkLease"')
    assert any(each in condition["message"] for each in words), condition["message"]
    with pytest.raises(KubectlError, match="disruption budget"):
        evict(control_plane, namespace, sandbox)
