from itertools import pairwise

import pytest

from controlplane import wait_for
from support.judge import check_history, heartbeats
from support.operator import RESTARTED, Leases, Operator
from support.simulator import Simulator, accepted

pytestmark = pytest.mark.usefixtures("operator")

INTERVAL = 5.0  # a third of the simulator's TTL


def refused(simulator: Simulator) -> list[object]:
    return [entry for entry in heartbeats(simulator.history()) if entry["status"] == 412]


def test_a_lease_is_claimed_and_renewed_at_a_third_of_its_ttl(leases: Leases, simulator: Simulator) -> None:
    simulator.create_item("work_a")
    leases.create("work_a")
    leases.await_condition("work_a", "LeaseHeld", "True", "Renewed")
    wait_for(lambda: len(accepted(simulator, "work_a")) >= 4, seconds=30, what="four beats")
    beats = heartbeats(simulator.history("work_a"))
    times = accepted(simulator, "work_a")
    assert beats[0]["expected"] == "NO_HEARTBEAT"
    assert all(INTERVAL - 0.5 < later - earlier < INTERVAL + 1.5 for earlier, later in pairwise(times))
    assert check_history(simulator.history()) == []


def test_the_status_says_what_the_server_said(leases: Leases, simulator: Simulator) -> None:
    simulator.create_item("work_a")
    leases.create("work_a", ttlSeconds=40)
    leases.await_condition("work_a", "Ready", "True")
    status, item = leases.status("work_a"), simulator.item("work_a")
    assert status["lastHeartbeat"] == item["last_heartbeat"]
    assert (status["state"], status["leaseExtended"], status["ttlSeconds"]) == ("active", True, 40)
    assert status["observedTime"] < status["leaseExpiryTime"]
    assert status["claimTime"]
    assert status["observedGeneration"] == 1
    assert [entry["desired_ttl"] for entry in heartbeats(simulator.history("work_a"))] == ["40"]


def test_a_stopped_item_takes_its_own_pod_down_and_no_other(leases: Leases, simulator: Simulator) -> None:
    for item in ("work_a", "work_b"):
        simulator.create_item(item)
    leases.create("work_a", "work_b", pods=True)
    leases.apply(
        leases.pod("one-label-only", None),
        leases.pod("of-another-environment", "work_a", environment_id="env_other"),
        leases.pod(
            "of-another-worklease",
            "work_a",
            ownerReferences=[
                {
                    "apiVersion": "worklease.dev/v1alpha1",
                    "kind": "WorkLease",
                    "name": "work-b",
                    "uid": (leases.get("work_b") or {})["metadata"]["uid"],
                    "controller": True,
                }
            ],
        ),
    )
    leases.await_condition("work_a", "SandboxReady", "True")
    leases.await_condition("work_b", "SandboxReady", "True")
    simulator.stop_item("work_a", force=True)
    leases.await_condition("work_a", "Finished", "True", "Stopped")
    assert set(leases.pods()) == {"pod-work-b", "one-label-only", "of-another-environment", "of-another-worklease"}
    assert [entry for entry in simulator.history("work_a") if entry.get("call") == "stop"] == []
    told = len(heartbeats(simulator.history("work_a")))
    renewed = len(accepted(simulator, "work_b"))
    wait_for(lambda: len(accepted(simulator, "work_b")) > renewed + 1, seconds=20, what="the other lease's beats")
    assert len(heartbeats(simulator.history("work_a"))) == told


def test_a_lost_reply_is_not_a_lost_lease(leases: Leases, simulator: Simulator) -> None:
    simulator.create_item("work_a")
    leases.create("work_a", pods=True)
    leases.await_condition("work_a", "SandboxReady", "True")
    simulator.inject("drop-after", item="work_a", times=1)
    wait_for(lambda: refused(simulator), seconds=15, what="the 412 to the beat after the lost reply")
    renewed = len(accepted(simulator, "work_a"))
    wait_for(
        lambda: len(accepted(simulator, "work_a")) >= renewed + 2, seconds=20, what="renewals by the adopted value"
    )
    assert leases.condition("work_a", "LeaseHeld")[:2] == ("True", "Renewed")
    assert check_history(simulator.history()) == []


def test_a_restart_in_order_goes_on_from_the_status(leases: Leases, simulator: Simulator, operator: Operator) -> None:
    simulator.create_item("work_a")
    leases.create("work_a", pods=True, ttlSeconds=RESTARTED)
    leases.await_condition("work_a", "SandboxReady", "True")
    claimed = leases.status("work_a")["claimTime"]
    uid = leases.pods()["pod-work-a"]["metadata"]["uid"]
    assert operator.terminate() == 0
    operator.start()
    renewed = len(accepted(simulator, "work_a"))
    wait_for(lambda: len(accepted(simulator, "work_a")) >= renewed + 2, seconds=60, what="beats of the new process")
    assert refused(simulator) == []
    assert leases.pods()["pod-work-a"]["metadata"]["uid"] == uid
    assert leases.status("work_a")["claimTime"] == claimed
    assert check_history(simulator.history()) == []
