"""From the queue to a tool's result with real containers: a pool, the public SDK's programs, and a volume."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from controlplane import wait_for
from controlplane.progress import progress
from node import NodeCluster
from support import sdk_image
from support.judge import check_history, heartbeats
from support.operator import Leases
from support.pools import Pool
from support.simulator import Simulator
from support.workers import SESSION, end_turn, result_of, use_bash

pytestmark = [pytest.mark.usefixtures("proxying_operator"), pytest.mark.long(seconds=140)]

TTL = 30  # seconds: a worker of the SDK beats as seldom as it likes


@pytest.fixture(scope="module")
def image(node_cluster: NodeCluster, tmp_path_factory: pytest.TempPathFactory) -> str:
    with progress() as shown, shown.step("The image of the SDK", "30 s") as step:
        node_cluster.load(sdk_image.build(tmp_path_factory.mktemp("sdk"), step))
    return sdk_image.REFERENCE


@dataclass(frozen=True, slots=True)
class Way:
    """A pool's way: its objects, its images, and the address of the Work API for pods."""

    cluster: NodeCluster
    image: str
    api: str
    pool: Pool
    simulator: Simulator

    def program(self, name: str) -> dict[str, Any]:
        """Return the template of a pod that runs one of the examples' programs."""
        settings = {"ANTHROPIC_BASE_URL": self.api, "SANDBOX_MAX_IDLE": "0.2", "WORKER_MAX_IDLE": "0.2"}
        container = {
            "name": "sandbox",
            "image": self.image,
            "imagePullPolicy": "IfNotPresent",
            "command": ["python3", f"{sdk_image.PROGRAMS}/{name}.py"],
            "env": [{"name": key, "value": value} for key, value in settings.items()],
        }
        return {"spec": {"terminationGracePeriodSeconds": 5, "containers": [container]}}

    def put_volume(self) -> dict[str, Any]:
        """Make a volume on the node, for nothing provisions one here, and return a claim that gets it."""
        name = f"volume-{self.pool.namespace}"
        folder = self.cluster.folder.path / name
        folder.mkdir()
        common = {"accessModes": ["ReadWriteOnce"], "storageClassName": name}
        spec = common | {"capacity": {"storage": "1Gi"}, "hostPath": {"path": str(folder)}}
        body = {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec}
        self.cluster.demand("POST", "/api/v1/persistentvolumes", body)
        return {"spec": common | {"resources": {"requests": {"storage": "1Gi"}}}}

    def ends(self, item: str) -> None:
        """Let the session's turn end, and wait until its item is stopped for good."""
        end_turn(self.simulator)
        wait_for(lambda: not self.pool.unfinished(), seconds=60, what="the end of the WorkLease")
        assert self.simulator.item(item)["state"] == "stopped"


@pytest.fixture
def way(node_cluster: NodeCluster, image: str, leases: Leases, simulator: Simulator) -> Iterator[Way]:
    pool = Pool(node_cluster, leases, simulator)
    with node_cluster.reaching(int(simulator.url.rpartition(":")[2])) as address:
        yield Way(node_cluster, image, f"http://{address}", pool, simulator)


def test_a_sessions_next_message_finds_the_file_that_a_tool_wrote(way: Way, leases: Leases, told: Any) -> None:
    workspace = {
        "mountPath": "/workspace",
        "volumeClaimTemplate": way.put_volume(),
        "retention": {"idleSeconds": 3600},
    }
    way.pool.create(template=way.program("sandbox"), workspace=workspace)
    way.pool.await_condition("Polling", "True", "Polling")
    queued = time.monotonic()
    first = way.simulator.create_session(SESSION, ttl_seconds=TTL)["id"]
    assert result_of(way.simulator, use_bash(way.simulator, "echo 42 > answer; echo written")) == "written"
    told(f"from queued to the first tool's result: {time.monotonic() - queued:.1f} s")
    way.ends(first)
    queued = time.monotonic()
    second = way.simulator.message(SESSION)
    assert second is not None
    assert result_of(way.simulator, use_bash(way.simulator, "cat answer")) == "42"
    told(f"from the next message to its tool's result: {time.monotonic() - queued:.1f} s")
    way.ends(second)
    assert len(leases.volumes()) == 1
    assert check_history(way.simulator.history()) == []


def test_an_unmodified_worker_of_the_sdk_runs_a_tool_behind_the_proxy(way: Way, told: Any) -> None:
    sandbox = {"template": way.program("worker"), "worker": {"proxy": True}}
    way.pool.create(leaseTemplate={"spec": {"sandbox": sandbox}})
    way.pool.await_condition("Polling", "True", "Polling")
    queued = time.monotonic()
    item = way.simulator.create_session(SESSION, ttl_seconds=TTL)["id"]
    assert result_of(way.simulator, use_bash(way.simulator, "echo worked")) == "worked"
    told(f"from queued to the first tool's result: {time.monotonic() - queued:.1f} s")
    way.ends(item)
    assert [beat["expected"] for beat in heartbeats(way.simulator.history(item))].count("NO_HEARTBEAT") == 1
    assert check_history(way.simulator.history()) == []
