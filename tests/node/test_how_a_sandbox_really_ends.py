"""Ends of a sandbox that only a kubelet, a runtime and a kernel can play: what the status says, and that it is true."""

import time
from typing import Any

import pytest

from controlplane import wait_for
from node import NodeCluster
from node.configuration import SANDBOX
from support.containers import Containers
from support.operator import Leases
from support.real_sandboxes import DEAF, HANDLERLESS, MEMORY, WORKS, Scene, beside, template
from support.sandboxes import ITEM, await_gone, current, stops
from support.simulator import Simulator

pytestmark = [pytest.mark.usefixtures("operator"), pytest.mark.long(seconds=160)]

TOLD_SECONDS = 5.0  # from a container's end to the item's stop: the kubelet reports it within one or two
GRACE = 3
PAUSE = 10.0  # seconds before a container that crashed twice is started again (pkg/kubelet: initialCrashLoopBackOff)
PAUSE = 10.0  # seconds before a container that crashed twice is started again (pkg/kubelet: initialCrashLoopBackOff)
HOOK = {"preStop": {"exec": {"command": ["sleep", "1000"]}}}
SIDECAR = {"initContainers": [beside("helper", DEAF, restartPolicy="Always")]}


@pytest.fixture
def scene(leases: Leases, simulator: Simulator, containers: Containers) -> Scene:
    return Scene(leases, simulator, containers)


def stops_soon_after(scene: Scene, ended: float, told: Any) -> None:
    """Check that the item was stopped after the container's end, and soon."""
    delay = scene.called("stop", "stopped") - ended
    told(f"stopped {delay:.1f} s after the container's end")
    assert -0.1 < delay < TOLD_SECONDS


@pytest.mark.parametrize(("code", "phase"), [(0, "Succeeded"), (3, "Failed")])
def test_a_program_that_exits_is_over_with_its_code(scene: Scene, told: Any, code: int, phase: str) -> None:
    pod = scene.run(template(f"sleep 2; echo 'The disk is full.' > /dev/termination-log; exit {code}"))
    scene.stopped()
    assert (current(scene.leases)["phase"], current(scene.leases)["exitCode"]) == (phase, code)
    assert current(scene.leases)["reason"] == ("Completed" if code == 0 else "Error")
    assert current(scene.leases)["message"].strip() == "The disk is full."
    stops_soon_after(scene, scene.ended(pod), told)
    scene.holds()


def test_the_kernel_ends_a_program_that_is_out_of_memory(scene: Scene, told: Any) -> None:
    pod = scene.run(template("sleep 2; exec tail /dev/zero", resources=MEMORY))
    scene.stopped()
    assert (current(scene.leases)["reason"], current(scene.leases)["exitCode"]) == ("OOMKilled", 137)
    stops_soon_after(scene, scene.ended(pod), told)
    scene.holds()


@pytest.mark.parametrize(
    ("script", "seconds"),
    [(WORKS, 1.0), (DEAF, GRACE + 1.0), (HANDLERLESS, GRACE + 1.0)],
    ids=["honoured", "ignored", "no handler"],
)
def test_a_stop_is_confirmed_once_the_program_has_ended_however_it_takes_sigterm(
    scene: Scene, told: Any, script: str, seconds: float
) -> None:
    pod = scene.run(template(script, grace=GRACE), drainSeconds=GRACE)
    scene.simulator.stop_item(ITEM)
    wait_for(
        lambda: (
            "deletionTimestamp" in (scene.leases.pods().get(pod) or {"metadata": {"deletionTimestamp": 0}})["metadata"]
        ),
        seconds=20,
        what="the deletion",
    )
    asked = time.monotonic()
    scene.stopped()
    ended = scene.ended(pod)
    confirmed = scene.called("stop", "stopped")
    told(f"ended {ended - asked:.1f} s after the deletion, confirmed {confirmed - ended:.1f} s later")
    assert ended - asked < seconds + 1
    assert confirmed > ended - 0.1
    scene.holds()


def test_kubectl_delete_pod_stops_the_item(scene: Scene, node_cluster: NodeCluster, told: Any) -> None:
    pod = scene.run(template())
    node_cluster.kubectl("--namespace", scene.leases.namespace, "delete", "pod", pod, "--wait=false")
    scene.stopped()
    assert stops(scene.simulator) == ["stopping", "stopped"]
    stops_soon_after(scene, scene.ended(pod), told)
    scene.holds()


def evict(cluster: NodeCluster, namespace: str, pod: str) -> None:
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}}
    cluster.demand("POST", f"/api/v1/namespaces/{namespace}/pods/{pod}/eviction", body)


def test_an_eviction_through_the_api_makes_another_sandbox(scene: Scene, node_cluster: NodeCluster, told: Any) -> None:
    pod = scene.run(template())
    evict(node_cluster, scene.leases.namespace, pod)
    second = scene.leases.await_pod(besides=[pod], seconds=60)
    scene.leases.await_condition(ITEM, "SandboxReady", "True", "Running", seconds=60)
    gap = scene.container(second).first - scene.ended(pod)
    told(f"the next one ran {gap:.1f} s after the first one's end")
    assert gap > 0
    assert (scene.leases.status(ITEM)["disruptions"], scene.simulator.item(ITEM)["state"]) == (1, "active")
    assert stops(scene.simulator) == []
    scene.holds()


def test_an_image_that_comes_later_is_used(scene: Scene, node_cluster: NodeCluster, told: Any) -> None:
    missing = f"localhost/later-{scene.leases.namespace}:1"
    pod = scene.begin(template(image=missing))
    message = scene.leases.await_condition(ITEM, "SandboxReady", "False", "ImagePullFailed", seconds=60)
    assert missing in message
    node_cluster.ctr("images", "tag", SANDBOX, missing)
    tagged = time.monotonic()
    scene.leases.await_condition(ITEM, "SandboxReady", "True", "Running", seconds=120)
    told(f"it ran {scene.container(pod).first - tagged:.1f} s after the image came")
    scene.holds()


def test_an_init_container_that_fails_is_a_failure_of_the_sandbox(scene: Scene, told: Any) -> None:
    pod = scene.begin(template(pod={"initContainers": [beside("prepare", "sleep 1; exit 7")]}))
    message = scene.stopped()
    assert current(scene.leases)["phase"] == "Failed"
    told(f"{message!r}: {current(scene.leases)}")
    stops_soon_after(scene, scene.ended(pod, "prepare"), told)
    scene.holds()


def test_a_volume_of_a_secret_that_is_not_there_is_over_at_the_start_deadline(scene: Scene, told: Any) -> None:
    volume = {"name": "key", "secret": {"secretName": "nowhere"}}
    mounts = [{"name": "key", "mountPath": "/key"}]
    began = time.monotonic()
    pod = scene.begin(template(pod={"volumes": [volume]}, volumeMounts=mounts), startDeadlineSeconds=10)
    message = scene.stopped()
    told(f"{message!r} after {time.monotonic() - began:.1f} s")
    await_gone(scene.leases, pod)
    assert scene.containers.of(scene.leases.namespace, pod) == {}


def test_a_prestop_that_hangs_delays_the_end_by_no_more_than_the_grace_and_two_seconds(scene: Scene, told: Any) -> None:
    pod = scene.run(template(HANDLERLESS, grace=GRACE, lifecycle=HOOK), drainSeconds=GRACE)
    scene.simulator.stop_item(ITEM)
    wait_for(
        lambda: (
            "deletionTimestamp" in (scene.leases.pods().get(pod) or {"metadata": {"deletionTimestamp": 0}})["metadata"]
        ),
        seconds=20,
        what="the deletion",
    )
    asked = time.monotonic()
    scene.stopped()
    took = scene.ended(pod) - asked
    told(f"ended {took:.1f} s after the deletion, with a grace of {GRACE} s")
    assert GRACE + 1 < took < GRACE + 4
    scene.holds()


def test_a_native_sidecar_that_crashes_again_and_again_does_not_end_the_sandbox(scene: Scene, told: Any) -> None:
    sidecar = beside("helper", "sleep 2; exit 5", restartPolicy="Always")
    pod = scene.run(template(pod={"initContainers": [sidecar]}))
    since = scene.leases.transition(ITEM, "SandboxReady")
    # The kubelet shows CrashLoopBackOff for a moment only: what it says most of the time is the sidecar's last end.
    wait_for(lambda: len(scene.runs(pod, "helper")) > 2, seconds=120, what="the sidecar's third start")
    first, second, third = scene.runs(pod, "helper")[:3]
    told(f"it was started again after {second.first - first.last:.1f} s and {third.first - second.last:.1f} s")
    assert third.first - second.last > PAUSE - 1
    wait_for(lambda: "BackOff" in scene.said(pod), seconds=30, what="the kubelet's event")
    assert scene.leases.condition(ITEM, "SandboxReady")[:2] == ("True", "Running")
    assert scene.leases.transition(ITEM, "SandboxReady") == since  # all the time, though the pod was not ready
    assert time.monotonic() - scene.container(pod).last < 1
    assert scene.simulator.item(ITEM)["state"] == "active"
    scene.holds()


def test_a_program_that_crashes_again_and_again_is_over_at_the_start_deadline(scene: Scene, told: Any) -> None:
    pod = scene.begin(template("sleep 2; exit 5", pod={"restartPolicy": "Always"}), startDeadlineSeconds=int(PAUSE))
    scene.leases.await_condition(ITEM, "SandboxReady", "False", "CrashLoop", seconds=60)
    shown = time.monotonic()
    second = scene.runs(pod, "sandbox")[1]
    message = scene.stopped()
    took = scene.called("stop", "stopped") - second.last
    told(f"shown {shown - second.last:.1f} s after the second crash, over {took:.1f} s after it: {message!r}")
    assert took > PAUSE - 1
    scene.holds()


def test_a_native_sidecar_ends_after_the_program_and_does_not_make_it_a_failure(scene: Scene, told: Any) -> None:
    sidecar = beside("helper", HANDLERLESS, restartPolicy="Always")
    pod = scene.run(template("sleep 3; exit 0", pod={"initContainers": [sidecar]}))
    scene.stopped()
    assert (current(scene.leases)["phase"], current(scene.leases)["exitCode"]) == ("Succeeded", 0)
    first, last = scene.ended(pod), scene.ended(pod, "helper")
    told(f"the sidecar ended {last - first:.1f} s after the program")
    assert last > first
    stops_soon_after(scene, last, told)
    scene.holds()


def test_the_kubelet_evicts_a_sandbox_that_exceeds_its_storage(scene: Scene, told: Any) -> None:
    waste = "dd if=/dev/zero of=/scratch/waste bs=1M count=8; while :; do sleep 0.2; done"
    volume = {"volumes": [{"name": "scratch", "emptyDir": {"sizeLimit": "1Mi"}}]}
    pod = scene.run(template(waste, pod=volume, volumeMounts=[{"name": "scratch", "mountPath": "/scratch"}]))
    message = scene.stopped(seconds=150)
    assert current(scene.leases)["reason"] == "Evicted"
    told(f"{message!r}: evicted {scene.ended(pod) - scene.container(pod).first:.1f} s after its start")
    stops_soon_after(scene, scene.ended(pod), told)
    scene.holds()


@pytest.mark.parametrize(
    "body",
    [
        template(DEAF, grace=30),
        template(DEAF, grace=30, lifecycle=HOOK),
        template(DEAF, grace=30, pod=SIDECAR),
    ],
    ids=["ignores SIGTERM", "has a preStop that hangs", "has a native sidecar that ignores SIGTERM"],
)
def test_a_fence_ends_every_container_before_the_lease_can_end(scene: Scene, told: Any, body: dict[str, Any]) -> None:
    pod = scene.run(body)
    scene.simulator.outage("refuse")
    scene.leases.await_condition(ITEM, "LeaseHeld", "Unknown", "Fenced", seconds=60)
    scene.ended(pod)
    await_gone(scene.leases, pod)
    ended = max(each.last for each in scene.containers.of(scene.leases.namespace, pod).values())
    told(f"ended {scene.lease_ends() - ended:.1f} s before the lease")
    scene.simulator.outage("off")
    scene.holds()
    assert ended < scene.lease_ends()
