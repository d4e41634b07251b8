"""A kubelet that stops, and a node that is lost: what runs on, and what the status says of it."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from controlplane import wait_for
from node import NodeCluster
from support.containers import Containers
from support.neighbour import Neighbour
from support.operator import Leases
from support.real_sandboxes import WORKS, Scene, template
from support.sandboxes import ITEM, current, stops
from support.simulator import Simulator

pytestmark = [pytest.mark.usefixtures("operator"), pytest.mark.long(seconds=150)]

TTL = 15.0
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
