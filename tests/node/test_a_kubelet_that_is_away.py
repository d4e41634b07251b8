"""A kubelet that stops, and a node that is lost: what runs on, and what the status says of it."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from controlplane import wait_for
from controlplane.reaper import bind_to_parent
from node import NodeCluster
from support.containers import Containers
from support.neighbour import Neighbour
from support.operator import Leases
from support.real_sandboxes import WORKS, Scene, template
from support.sandboxes import ITEM, current, stops
from support.simulator import Simulator

pytestmark = [pytest.mark.usefixtures("operator"), pytest.mark.long(seconds=150)]

TTL = 15.0
MARGIN = 512 << 20  # bytes of memory that others may take before a kubelet evicts
STEP = 128 << 20  # bytes that the ballast grows by each second
BALLAST = """
import sys, time
step, most = map(int, sys.argv[1:])
held = []
while True:
    if len(held) < most:
        held.append(b"x" * step)
    time.sleep(1)
"""
UNREACHABLE = {
    "key": "node.kubernetes.io/unreachable",
    "operator": "Exists",
    "effect": "NoExecute",
    "tolerationSeconds": 1,
}


@pytest.fixture
def neighbour(node_cluster: NodeCluster) -> Iterator[None]:
    with Neighbour(node_cluster):
        yield


@pytest.fixture
def scene(leases: Leases, simulator: Simulator, containers: Containers) -> Scene:
    return Scene(leases, simulator, containers)


def test_a_sandbox_runs_on_while_the_kubelet_is_restarted(scene: Scene, node_cluster: NodeCluster, told: Any) -> None:
    pod = scene.run(template())
    node_cluster.stop("kubelet")
    stopped = time.monotonic()
    wait_for(lambda: time.monotonic() - stopped > TTL / 2, seconds=TTL, what="a beat while it is away")
    node_cluster.start("kubelet")
    scene.leases.await_running(pod)
    scene.simulator.stop_item(ITEM)
    scene.stopped()
    told(f"the container ran for {scene.ended(pod) - scene.container(pod).first:.1f} s")
    assert scene.container(pod).first < stopped < scene.ended(pod)
    scene.holds()


def test_an_end_while_the_kubelet_is_away_is_told_once_it_is_back(
    scene: Scene, node_cluster: NodeCluster, told: Any
) -> None:
    pod = scene.run(template("sleep 6; exit 3"))
    node_cluster.stop("kubelet")
    ended = scene.ended(pod)
    assert scene.leases.condition(ITEM, "SandboxReady")[0] == "True"
    node_cluster.start("kubelet")
    scene.stopped()
    told(f"stopped {scene.called('stop', 'stopped') - ended:.1f} s after the container's end")
    assert (current(scene.leases)["phase"], current(scene.leases)["exitCode"]) == ("Failed", 3)
    scene.holds()


@contextmanager
def ballast(most: int) -> Iterator[None]:
    """Take memory bit by bit while the block runs, no more than that, in a process of its own."""
    words = [sys.executable, "-c", BALLAST, str(STEP), str(most // STEP)]
    with subprocess.Popen(words, preexec_fn=bind_to_parent()) as growing:  # noqa: PLW1509  # see reaper.py
        yield
        growing.kill()


@contextmanager
def kubelet_with(cluster: NodeCluster, **settings: Any) -> Iterator[None]:
    """Restart the kubelet with other settings, and again with its own after the block."""
    path = cluster.folder.path / "kubelet.yaml"
    own = path.read_text()
    cluster.stop("kubelet")
    try:
        path.write_text(json.dumps(json.loads(own) | settings))
        cluster.start("kubelet")
        yield
        cluster.stop("kubelet")
    finally:
        path.write_text(own)
        cluster.start("kubelet")


def soft_eviction(threshold: str) -> dict[str, Any]:
    """Return a kubelet's settings by which it ends a pod in order once less memory than this is available."""
    return {
        "evictionSoft": {"memory.available": threshold},
        "evictionSoftGracePeriod": {"memory.available": "1s"},
        "evictionMaxPodGracePeriod": 10,
        "evictionPressureTransitionPeriod": "1s",
    }


def await_other(scene: Scene, pod: str) -> str:
    """Wait for another sandbox of a pod that its node took away, and return its name; nothing must be stopped."""
    try:
        second = scene.leases.await_pod(besides=[pod], seconds=60)
    except AssertionError as error:
        error.add_note(f"The status: {scene.leases.status(ITEM)}")
        raise
    shown = scene.leases.status(ITEM)
    assert (shown["disruptions"], shown.get("restarts", 0), scene.simulator.item(ITEM)["state"]) == (1, 0, "active")
    assert stops(scene.simulator) == []
    return second


def test_an_eviction_by_the_kubelet_is_the_twin_of_a_graceful_node_shutdown_and_makes_another_sandbox(
    scene: Scene, node_cluster: NodeCluster, told: Any
) -> None:
    """A shutdown needs logind, and a machine to shut down. The kubelet ends a pod in the same way at a soft eviction.

    Both let it end within a grace, fail it whatever its exit code, and mark it with DisruptionTarget after its end. At
    a shutdown the pod's reason is Terminated, here it is Evicted.
    """
    summary = node_cluster.demand("GET", f"/api/v1/nodes/{node_cluster.name}/proxy/stats/summary")
    available = summary["node"]["memory"]["availableBytes"]
    with kubelet_with(node_cluster, **soft_eviction(str(available - MARGIN))):
        pod = scene.run(template("trap 'sleep 1; exit 0' TERM; while :; do sleep 0.2; done"))
        with ballast(available // 2):
            ended = scene.ended(pod, seconds=180)
        second = await_other(scene, pod)
    scene.leases.await_running(second, seconds=120)
    told(f"the next one ran {scene.container(second).first - ended:.1f} s after the first one's end")
    scene.holds()


def test_a_kubelet_that_is_restarted_on_a_node_in_need_refuses_its_pods_and_another_sandbox_is_made(
    scene: Scene, node_cluster: NodeCluster, told: Any
) -> None:
    pod = scene.run(template())
    with kubelet_with(node_cluster, **soft_eviction("99%")):  # any machine uses more than a percent
        ended = scene.ended(pod, seconds=120)
        second = await_other(scene, pod)
    scene.leases.await_running(second, seconds=120)
    told(f"the next one ran {scene.container(second).first - ended:.1f} s after the first one's end")
    scene.holds()


@pytest.mark.usefixtures("neighbour")
def test_a_lost_node_is_shown_and_its_containers_run_on_until_its_kubelet_is_back(
    scene: Scene, node_cluster: NodeCluster, told: Any
) -> None:
    pod = scene.run(template(WORKS, pod={"tolerations": [UNREACHABLE]}))
    node_cluster.kill("kubelet")
    killed = time.monotonic()
    message = scene.leases.await_condition(ITEM, "SandboxReady", "False", "Ending", seconds=90)
    told(f"shown {time.monotonic() - killed:.0f} s after the kubelet's end")
    assert f"Node {node_cluster.name} is lost, and the earlier pod may still run there" in message
    assert set(scene.leases.pods()) == {pod}  # no other one while this one may run
    assert time.monotonic() - scene.container(pod).last < 1
    node_cluster.kubectl("delete", "node", node_cluster.name)
    deleted = time.monotonic()
    second = scene.leases.await_pod(besides=[pod], seconds=90)
    told(f"the next pod came {time.monotonic() - deleted:.0f} s after the node's deletion")
    assert (
        time.monotonic() - scene.container(pod).last < 1
    )  # Kubernetes takes the node's word for it; the kernel does not
    node_cluster.start("kubelet")
    back = time.monotonic()
    told(f"the old container ended {scene.ended(pod) - back:.1f} s after the kubelet's return")
    scene.leases.await_running(second)
    assert (stops(scene.simulator), scene.simulator.item(ITEM)["state"]) == ([], "active")
