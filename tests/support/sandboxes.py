"""Sandboxes in journeys: a held lease with a sandbox, and how it appears at each of the three sides.

This module reads the server's history, the pods, and the operator's writes through the proxy, in their order. It must
not assert: the tests say what they expect.
"""

import json
from datetime import UTC, datetime
from http import HTTPStatus
from itertools import groupby
from typing import Any

from controlplane import ControlPlane, wait_for
from support.kube_proxy import KubeProxy, ProxiedRequest
from support.operator import Leases
from support.simulator import Simulator
from worklease.api.names import PROXY_CONTAINER

ITEM = "work_a"
STARTED = ("Claimed", "SandboxCreated", "SandboxStarted")  # the events of a sandbox that runs
FINALIZER = "tests.worklease.dev/held-up"


def hold(
    leases: Leases, simulator: Simulator, item: str = ITEM, *, template: dict[str, Any] | None = None, **spec: Any
) -> str:
    """Create an item and a resource, wait until it is held with a running sandbox, and return the pod's name."""
    sandbox = spec.pop("sandbox", {}) | {"template": template or leases.template()}
    before = set(leases.pods())
    simulator.create_item(item)
    leases.create(item, sandbox=sandbox, **spec)
    leases.await_condition(item, "SandboxReady", "True", "Running", seconds=60)
    return leases.await_pod(besides=before)


# --- At the server -----------------------------------------------------------------------------------------------


def with_workspace(leases: Leases, *, keep: int) -> dict[str, Any]:
    """Return a sandbox with a workspace that is kept for so many seconds; no scheduler waits for its volume."""
    template = leases.template()
    template["spec"]["nodeName"] = "node-1"
    claim = {"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}
    return {"template": template, "workspace": {"volumeClaimTemplate": claim, "retention": {"idleSeconds": keep}}}


def mounted(pod: dict[str, Any]) -> str:
    """Return the claim of the volume that a pod has."""
    return next(str(each["persistentVolumeClaim"]["claimName"]) for each in pod["spec"]["volumes"] if _is_claim(each))


def _is_claim(volume: dict[str, Any]) -> bool:
    return "persistentVolumeClaim" in volume


def calls(simulator: Simulator, call: str, item: str = ITEM) -> list[dict[str, Any]]:
    """Return the history's entries of a kind of call, in order."""
    return [entry for entry in simulator.history(item) if entry.get("call") == call]


def stops(simulator: Simulator, item: str = ITEM) -> list[str]:
    """Return the item's state after each stop, in order: after a graceful stop it is ``stopping``."""
    return [entry["after"]["state"] for entry in calls(simulator, "stop", item)]


def await_state(simulator: Simulator, state: str, item: str = ITEM) -> None:
    """Wait until the item is in a state."""
    wait_for(lambda: simulator.item(item)["state"] == state, seconds=60, what=f"{item} in state {state}")


# --- In Kubernetes -----------------------------------------------------------------------------------------------


def pods_made(plane: ControlPlane, namespace: str, *, since: int = 0) -> list[str]:
    """Return the names of all pods that were ever created in a namespace, dry runs left out.

    Args:
        plane: The control plane, whose audit log tells.
        namespace: The namespace.
        since: From which byte of the audit log on.
    """
    with plane.audit_log.open("rb") as log:
        log.seek(since)
        lines = log.read().decode().splitlines()
    path = f"/api/v1/namespaces/{namespace}/pods"
    entries = (json.loads(line) for line in lines if path in line and '"create"' in line)
    return [
        (entry["objectRef"].get("name") or "")
        for entry in entries
        if entry["verb"] == "create"
        and entry["objectRef"].get("subresource") is None
        and entry["responseStatus"]["code"] == HTTPStatus.CREATED
        and "dryRun" not in entry["requestURI"]
    ]


def current(leases: Leases, item: str = ITEM) -> dict[str, Any]:
    """Return the first sandbox of the status; empty if there is none."""
    return dict((leases.status(item).get("sandboxes") or [{}])[0])


PAST = datetime(2026, 11, 24, 20, tzinfo=UTC)


def end_containers(
    leases: Leases, pod: str, *, exit_code: int, reason: str = "Error", message: str = "", at: datetime = PAST
) -> None:
    """End the pod's only container, as the kubelet reports it."""
    finished = at.strftime("%Y-%m-%dT%H:%M:%SZ")
    ended = {"exitCode": exit_code, "reason": reason, "message": message, "finishedAt": finished}
    container = {"name": "sandbox", "image": "busybox", "imageID": "", "ready": False, "restartCount": 0}
    phase = "Failed" if exit_code else "Succeeded"
    leases.play(pod, phase=phase, containerStatuses=[container | {"state": {"terminated": ended}}])


def end_worker(leases: Leases, pod: str, *, said: str = "") -> None:
    """End the worker of a pod with 0, and then its proxy, which says how it went, as the kubelet reports them."""
    ended = {"exitCode": 0, "reason": "Completed", "finishedAt": PAST.strftime("%Y-%m-%dT%H:%M:%SZ")}
    leases.play(
        pod,
        phase="Succeeded",
        containerStatuses=[_ended("sandbox", ended)],
        initContainerStatuses=[_ended(PROXY_CONTAINER, ended | {"message": said})],
    )


def _ended(name: str, how: dict[str, Any]) -> dict[str, Any]:
    state = {"running": None, "terminated": how}
    return {"name": name, "image": "busybox", "imageID": "", "ready": False, "restartCount": 0, "state": state}


def let_wait(leases: Leases, pod: str, reason: str, message: str, *, phase: str = "Pending", restarts: int = 0) -> None:
    """Make the pod's only container wait for a reason, as the kubelet reports it."""
    waiting = {"reason": reason, "message": message}
    container = {"name": "sandbox", "image": "busybox", "imageID": "", "ready": False, "restartCount": restarts}
    not_ready = {"type": "Ready", "status": "False", "reason": "ContainersNotReady"}
    leases.play(
        pod, phase=phase, conditions=[not_ready], containerStatuses=[container | {"state": {"waiting": waiting}}]
    )


def await_gone(leases: Leases, *pods: str) -> None:
    """Wait until the pods are gone."""
    wait_for(lambda: not set(pods) & set(leases.pods()), seconds=60, what=f"the end of {', '.join(pods)}")


def await_terminating(leases: Leases, pod: str) -> dict[str, Any]:
    """Wait until a pod is being deleted, and return its metadata."""

    def metadata() -> dict[str, Any]:
        return dict(leases.pods()[pod]["metadata"])

    wait_for(lambda: metadata().get("deletionTimestamp"), seconds=60, what=f"the deletion of pod {pod}")
    return metadata()


def await_event(leases: Leases, reason: str, item: str = ITEM) -> dict[str, Any]:
    """Wait for the only event of a reason, and return it."""
    wait_for(lambda: reason in leases.reasons(item), seconds=30, what=f"the event {reason} of {item}")
    (event,) = (event for event in leases.events(item) if event["reason"] == reason)
    return event


def await_reasons(leases: Leases, *reasons: str, item: str = ITEM) -> None:
    """Wait until a resource's events have these reasons, in this order. Events are written after the status."""
    try:
        wait_for(lambda: leases.reasons(item) == list(reasons), seconds=30, what=f"the events {', '.join(reasons)}")
    except AssertionError as error:
        error.add_note(f"There are: {', '.join(leases.reasons(item))}")
        raise


def drop_finalizers(plane: ControlPlane, leases: Leases, pod: str) -> None:
    """Remove the test's own finalizer from a pod, so that the pod can be removed."""
    patch = json.dumps({"metadata": {"finalizers": None}})
    plane.kubectl("--namespace", leases.namespace, "patch", "pod", pod, "--type=merge", "-p", patch)


def remove_pod(plane: ControlPlane, leases: Leases, pod: str) -> None:
    """Remove a pod's object at once, even if its containers run."""
    plane.kubectl("--namespace", leases.namespace, "delete", "pod", pod, "--grace-period=0", "--force", "--wait=false")


def disrupt(leases: Leases, pod: str, reason: str, message: str) -> None:
    """Disrupt a pod as a controller does: write the condition, then delete the pod.

    The condition has a time, because the disruption controller removes a condition that seems out of date.
    """
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    disrupted = {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message}
    leases.play(pod, conditions=[disrupted | {"lastTransitionTime": now}])
    leases.delete_pod(pod)


# --- Through the proxy -------------------------------------------------------------------------------------------


def written(proxy: KubeProxy, kind: str) -> list[tuple[str, str]]:
    """Return the status and reason of a condition in each written status, in order, without repetitions."""
    patches = [json.loads(asked.body)["status"] for asked in proxy.requests("patch", "workleases/status")]
    shown = [
        (entry["status"], entry["reason"])
        for status in patches
        for entry in status.get("conditions") or ()
        if entry["type"] == kind
    ]
    return [each for each, _ in groupby(shown)]


def first_written(proxy: KubeProxy, words: str) -> float:
    """Return when a status with ``words`` was first written, by the monotonic clock."""
    return next(asked.at for asked in proxy.requests("patch", "workleases/status") if words in asked.body)


def deletions(proxy: KubeProxy, pod: str) -> list[ProxiedRequest]:
    """Return the deletion requests of a pod, in order."""
    return [asked for asked in proxy.requests("delete", "pods") if asked.name == pod]


def grace_asked(proxy: KubeProxy, pod: str) -> list[int | None]:
    """Return the grace period in seconds of each deletion request of a pod; None: the pod's own."""
    return [json.loads(asked.body).get("gracePeriodSeconds") for asked in deletions(proxy, pod)]
