"""Sandboxes in journeys: a lease that is held with one, and what of it is seen at each of the three sides.

Owns these looks: at the server's history, at the pods, and at what the operator wrote through the proxy, in its order.
Must not judge: the tests say what they expect.
"""

import json
from itertools import groupby
from typing import Any

from controlplane import ControlPlane, wait_for
from support.kube_proxy import Asked, KubeProxy
from support.operator import Leases
from support.simulator import Simulator

ITEM = "work_a"
STARTED = ("Claimed", "SandboxCreated", "SandboxStarted")  # the events of a sandbox that runs
FINALIZER = "tests.worklease.dev/held-up"


def hold(
    leases: Leases, simulator: Simulator, item: str = ITEM, *, template: dict[str, Any] | None = None, **spec: Any
) -> str:
    """Let a resource hold an item, with a running sandbox of a template; returns the pod's name."""
    sandbox = spec.pop("sandbox", {}) | {"template": template or leases.template()}
    before = set(leases.pods())
    simulator.create_item(item)
    leases.create(item, sandbox=sandbox, **spec)
    leases.await_condition(item, "SandboxReady", "True", "Running", seconds=60)
    return leases.await_pod(besides=before)


# --- At the server -----------------------------------------------------------------------------------------------


def calls(simulator: Simulator, call: str, item: str = ITEM) -> list[dict[str, Any]]:
    """Give the server's entries of a kind of call, in order."""
    return [entry for entry in simulator.history(item) if entry.get("call") == call]


def stops(simulator: Simulator, item: str = ITEM) -> list[str]:
    """Give the state that each stop left the item in, in order: a graceful one leaves it ``stopping``."""
    return [entry["after"]["state"] for entry in calls(simulator, "stop", item)]


def await_state(simulator: Simulator, state: str, item: str = ITEM) -> None:
    """Wait until the item is in a state."""
    wait_for(lambda: simulator.item(item)["state"] == state, seconds=60, what=f"{item} in state {state}")


# --- In Kubernetes -----------------------------------------------------------------------------------------------


def current(leases: Leases, item: str = ITEM) -> dict[str, Any]:
    """Give the first sandbox of the status; empty if there is none."""
    return dict((leases.status(item).get("sandboxes") or [{}])[0])


def end_containers(leases: Leases, pod: str, *, exit_code: int, reason: str = "Error", message: str = "") -> None:
    """Play the kubelet: the pod's only container has ended."""
    ended = {"exitCode": exit_code, "reason": reason, "message": message, "finishedAt": "2026-11-24T20:00:00Z"}
    container = {"name": "sandbox", "image": "busybox", "imageID": "", "ready": False, "restartCount": 0}
    phase = "Failed" if exit_code else "Succeeded"
    leases.play(pod, phase=phase, containerStatuses=[container | {"state": {"terminated": ended}}])


def let_wait(leases: Leases, pod: str, reason: str, message: str, *, phase: str = "Pending", restarts: int = 0) -> None:
    """Play the kubelet: the pod's only container waits, and why."""
    waiting = {"reason": reason, "message": message}
    container = {"name": "sandbox", "image": "busybox", "imageID": "", "ready": False, "restartCount": restarts}
    not_ready = {"type": "Ready", "status": "False", "reason": "ContainersNotReady"}
    leases.play(
        pod, phase=phase, conditions=[not_ready], containerStatuses=[container | {"state": {"waiting": waiting}}]
    )


def await_gone(leases: Leases, *pods: str) -> None:
    """Wait until pods are gone."""
    wait_for(lambda: not set(pods) & set(leases.pods()), seconds=60, what=f"the end of {', '.join(pods)}")


def await_terminating(leases: Leases, pod: str) -> dict[str, Any]:
    """Wait until a pod was told to end; returns its metadata."""

    def metadata() -> dict[str, Any]:
        return dict(leases.pods()[pod]["metadata"])

    wait_for(lambda: metadata().get("deletionTimestamp"), seconds=60, what=f"the deletion of pod {pod}")
    return metadata()


def await_event(leases: Leases, reason: str, item: str = ITEM) -> dict[str, Any]:
    """Wait for the one event of a reason; returns it."""
    wait_for(lambda: reason in leases.reasons(item), seconds=30, what=f"the event {reason} of {item}")
    (event,) = (event for event in leases.events(item) if event["reason"] == reason)
    return event


def await_reasons(leases: Leases, *reasons: str, item: str = ITEM) -> None:
    """Wait until these are the reasons of a resource's events, in this order; they are written after its status."""
    try:
        wait_for(lambda: leases.reasons(item) == list(reasons), seconds=30, what=f"the events {', '.join(reasons)}")
    except AssertionError as error:
        error.add_note(f"There are: {', '.join(leases.reasons(item))}")
        raise


def drop_finalizers(plane: ControlPlane, leases: Leases, pod: str) -> None:
    """Let a pod go that a finalizer of the test's own holds up."""
    patch = json.dumps({"metadata": {"finalizers": None}})
    plane.kubectl("--namespace", leases.namespace, "patch", "pod", pod, "--type=merge", "-p", patch)


def remove_pod(plane: ControlPlane, leases: Leases, pod: str) -> None:
    """Remove a pod's object at once, whatever runs of it."""
    plane.kubectl("--namespace", leases.namespace, "delete", "pod", pod, "--grace-period=0", "--force", "--wait=false")


# --- Through the proxy -------------------------------------------------------------------------------------------


def written(proxy: KubeProxy, kind: str) -> list[tuple[str, str]]:
    """Give the status and reason of a condition in each status that was written, in order, without repetitions."""
    patches = [json.loads(asked.body)["status"] for asked in proxy.asked("patch", "workleases/status")]
    shown = [
        (entry["status"], entry["reason"])
        for status in patches
        for entry in status.get("conditions") or ()
        if entry["type"] == kind
    ]
    return [each for each, _ in groupby(shown)]


def first_written(proxy: KubeProxy, words: str) -> float:
    """Say when a status that contains ``words`` was written first, by the monotonic clock."""
    return next(asked.at for asked in proxy.asked("patch", "workleases/status") if words in asked.body)


def deletions(proxy: KubeProxy, pod: str) -> list[Asked]:
    """Give the deletions of a pod that were asked for, in order."""
    return [asked for asked in proxy.asked("delete", "pods") if asked.name == pod]


def grace_asked(proxy: KubeProxy, pod: str) -> list[int | None]:
    """Give the grace in seconds of each deletion of a pod that was asked for; None: the pod's own."""
    return [json.loads(asked.body).get("gracePeriodSeconds") for asked in deletions(proxy, pod)]
