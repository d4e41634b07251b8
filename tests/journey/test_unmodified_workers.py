"""Workers of the public SDK, unchanged, under a lease that the operator keeps: the pods' containers are processes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.judge import check_history, heartbeats
from support.operator import Leases
from support.sandboxes import end_containers, end_worker
from support.simulator import Simulator
from support.workers import (
    SDKS,
    SESSION,
    WORK,
    RunningProxy,
    RunningWorker,
    end_turn,
    proxy_process,
    result_of,
    use_bash,
    worker_process,
)

pytestmark = pytest.mark.usefixtures("operator")


@contextmanager
def containers(simulator: Simulator, token: str, folder: Path) -> Iterator[tuple[RunningProxy, RunningWorker]]:
    """Run a pod's containers, as a kubelet does."""
    with (
        proxy_process(folder, f"--upstream={simulator.url}") as proxy,
        worker_process(folder, max(SDKS), proxy.url, token) as worker,
    ):
        yield proxy, worker


def test_a_worker_that_crashes_is_replaced_under_the_same_lease_and_the_next_one_finishes(
    leases: Leases, simulator: Simulator, tmp_path: Path
) -> None:
    token = str(simulator.create_item(WORK, data_id=SESSION)["sessions_token"])
    sandbox = {"template": leases.template(), "worker": {"proxy": True}, "onFailure": "Restart"}
    leases.create(WORK, sandbox=sandbox)
    leases.await_condition(WORK, "SandboxReady", "True", "Running", seconds=60)
    first = leases.await_pod()
    with containers(simulator, token, tmp_path / "first") as (proxy, worker):
        assert result_of(simulator, use_bash(simulator, "echo first")) == "first"
        worker.process.kill()
        worker.end()
        assert proxy.end() == 0
    end_containers(leases, first, exit_code=137)
    second = leases.await_pod(besides={first})
    leases.await_condition(WORK, "SandboxReady", "True", "Running", seconds=60)
    with containers(simulator, token, tmp_path / "second") as (proxy, worker):
        assert result_of(simulator, use_bash(simulator, "echo second")) == "second"
        end_turn(simulator)
        assert worker.end() == 0, worker.said
        assert proxy.end() == 0
        end_worker(leases, second, said=proxy.message)
    leases.await_condition(WORK, "Finished", "True", "Stopped")
    assert leases.status(WORK)["restarts"] == 1
    history = simulator.history(WORK)
    assert [beat["expected"] for beat in heartbeats(history)].count("NO_HEARTBEAT") == 1
    assert [entry["after"]["state"] for entry in history if entry.get("call") == "stop"] == ["stopped"]
    assert check_history(simulator.history()) == []
