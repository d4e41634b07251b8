"""From the queue to the sandbox: what a pool does with the items of its environment."""

import base64
import json

import pytest

from controlplane import ControlPlane, wait_for
from support.judge import check_history
from support.operator import Leases, Operator
from support.pools import NAME, Pool
from support.simulator import Simulator

pytestmark = pytest.mark.usefixtures("operator")


@pytest.fixture
def pool(control_plane: ControlPlane, leases: Leases, simulator: Simulator) -> Pool:
    return Pool(control_plane, leases, simulator)


def test_a_session_comes_through_the_queue_to_a_sandbox(pool: Pool, leases: Leases, simulator: Simulator) -> None:
    pool.create()
    pool.await_condition("Polling", "True", "Polling")
    session = simulator.create_session()["data"]["id"]
    (name,) = pool.await_running(1)
    assert name.startswith(f"{NAME}-")
    (secret,) = pool.secrets().values()
    assert secret["metadata"]["name"] == name
    assert json.loads(base64.urlsafe_b64decode(base64.b64decode(secret["data"]["work-secret"])))["sessions_token"]
    (body,) = leases.pods().values()
    told = {entry["name"]: entry for entry in body["spec"]["containers"][0]["env"]}
    assert told["ANTHROPIC_SESSION_ID"]["value"] == session
    assert told["ANTHROPIC_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"]["name"] == name
    assert simulator.environment_key not in str(body)
    wait_for(lambda: pool.status().get("running") == 1, seconds=10, what="the pool's count")
    assert pool.status()["active"] == 1
    item = pool.leases()[name]["spec"]["workID"]
    calls = [entry["call"] for entry in simulator.history(item) if "call" in entry]
    assert calls[:3] == ["poll", "ack", "heartbeat"]
    leases.end_pod(next(iter(leases.pods())), exit_code=0)
    wait_for(lambda: not pool.unfinished(), seconds=20, what="the end of the WorkLease")
    wait_for(lambda: not pool.secrets(), seconds=20, what="the end of the token")
    assert simulator.item(item)["state"] == "stopped"
    assert check_history(simulator.history()) == []


def test_the_cap_is_a_cap_and_a_pause_takes_nothing(pool: Pool, leases: Leases, simulator: Simulator) -> None:
    for _ in range(4):
        simulator.create_session()
    pool.create(most=2)
    pool.await_running(2)
    pool.await_condition("Polling", "False", "AtCapacity")
    assert pool.condition("Ready")[0] == "True"
    assert len(pool.unfinished()) == 2
    pool.edit(maxConcurrent=0)
    pool.await_condition("Polling", "False", "Suspended")
    leases.end_pod(next(iter(leases.pods())), exit_code=0)
    wait_for(lambda: len(pool.unfinished()) == 1, seconds=20, what="the end of one")
    pool.edit(maxConcurrent=4)
    pool.await_running(3)
    wait_for(lambda: len(pool.leases()) == 4, seconds=20, what="all four")
    assert len(pool.unfinished()) == 3
    assert check_history(simulator.history()) == []


def test_a_killed_operator_strands_nothing(pool: Pool, simulator: Simulator, operator: Operator) -> None:
    pool.create(most=3)
    for _ in range(3):
        simulator.create_session()
    wait_for(pool.leases, seconds=20, what="the first WorkLease")
    operator.kill()
    operator.start()
    pool.await_running(3)
    assert len(pool.leases()) == 3
    assert check_history(simulator.history()) == []
