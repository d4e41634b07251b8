"""docs/what-happens-when.md, "Afterwards": each test is the row of its name."""

import pytest

from controlplane import wait_for
from support.judge import check_history
from support.operator import RESTARTED, Leases, Operator
from support.sandboxes import ITEM, calls, current, hold, mounted, stops, with_workspace
from support.simulator import Simulator, accepted


def test_the_resource_has_finished(leases: Leases, simulator: Simulator, operator: Operator) -> None:
    simulator.create_item("work_b")
    leases.create("work_b", ttlSeconds=RESTARTED)
    hold(leases, simulator)
    simulator.stop_item(ITEM, force=True)
    leases.await_condition(ITEM, "Finished", "True", "Stopped")
    finished, beats = leases.status(ITEM), len(calls(simulator, "heartbeat"))
    leases.edit(ITEM, {"ttlSeconds": 40})
    leases.apply(leases.pod("late", ITEM))
    simulator.requeue_item(ITEM, state="starting")
    operator.kill()
    operator.start()
    renewed = len(accepted(simulator, "work_b"))
    wait_for(lambda: len(accepted(simulator, "work_b")) > renewed + 1, seconds=60, what="the other lease's beats")
    assert len(calls(simulator, "heartbeat")) == beats
    assert stops(simulator) == []
    assert "late" in leases.pods()
    told = leases.status(ITEM)
    assert [entry["reason"] for entry in told["conditions"]] == [entry["reason"] for entry in finished["conditions"]]
    assert told["sandboxes"] == finished["sandboxes"]
    assert told["lastHeartbeat"] == finished["lastHeartbeat"]
    leases.delete(ITEM, wait=True)
    leases.create(ITEM)
    leases.await_condition(ITEM, "LeaseHeld", "True", "Renewed")


@pytest.mark.usefixtures("operator")
def test_a_finished_resource_has_been_kept_long_enough(leases: Leases, simulator: Simulator) -> None:
    for item in (ITEM, "work_b"):
        simulator.create_item(item)
    leases.create(ITEM, "work_b", ttlSecondsAfterFinished=3)
    leases.await_condition(ITEM, "LeaseHeld", "True")
    leases.await_condition("work_b", "LeaseHeld", "True")
    simulator.stop_item(ITEM, force=True)
    leases.await_condition(ITEM, "Finished", "True", "Stopped")
    wait_for(lambda: leases.get(ITEM) is None, seconds=30, what="the deletion of the finished resource")
    assert leases.condition("work_b", "LeaseHeld")[0] == "True"


@pytest.mark.usefixtures("operator")
def test_the_volume_of_a_session_is_not_used_any_more(leases: Leases, simulator: Simulator) -> None:
    simulator.create_item(ITEM)
    leases.create(ITEM, sandbox=with_workspace(leases, keep=1))
    leases.await_condition(ITEM, "SandboxReady", "True")
    (pod,) = leases.pods().values()
    assert [mounted(pod)] == list(leases.volumes())
    simulator.stop_item(ITEM, force=True)
    leases.await_condition(ITEM, "Finished", "True", "Stopped")
    wait_for(lambda: not leases.volumes(), seconds=30, what="the end of the volume")
    assert leases.get(ITEM) is not None, "it goes before the resource does"


def test_the_operator_is_started_again(leases: Leases, simulator: Simulator, operator: Operator) -> None:
    hold(leases, simulator, ttlSeconds=RESTARTED)
    uid, claimed = current(leases)["podUID"], leases.status(ITEM)["claimTime"]
    operator.kill()
    operator.start()
    beats = len(accepted(simulator, ITEM))
    wait_for(lambda: len(accepted(simulator, ITEM)) > beats + 2, seconds=90, what="beats of the new process")
    (pod,) = leases.pods().values()
    assert (pod["metadata"]["uid"], current(leases)["podUID"]) == (uid, uid)
    assert leases.condition(ITEM, "SandboxReady")[0] == "True"
    assert leases.status(ITEM)["claimTime"] == claimed
    assert leases.status(ITEM)["restarts"] == 0
    assert leases.reasons(ITEM).count("Claimed") == 1
    assert leases.reasons(ITEM).count("SandboxCreated") == 1
    assert check_history(simulator.history()) == []
