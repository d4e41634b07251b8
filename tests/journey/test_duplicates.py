import pytest

from controlplane import wait_for
from support.judge import check_history, heartbeats
from support.operator import Leases
from support.simulator import Simulator

pytestmark = pytest.mark.usefixtures("operator")


def twin(leases: Leases, name: str) -> dict[str, object]:
    body = leases.get("work_a") or {}
    return {**{key: body[key] for key in ("apiVersion", "kind", "spec")}, "metadata": {"name": name}}


@pytest.mark.long(seconds=35)
def test_the_older_of_two_keeps_the_lease_and_the_younger_takes_no_later_delivery_when_it_goes(
    leases: Leases, simulator: Simulator
) -> None:
    simulator.create_item("work_a")
    leases.create("work_a", deletionPolicy="Release")
    leases.await_condition("work_a", "LeaseHeld", "True", "Renewed")
    young = twin(leases, "twin")
    leases.apply(young)
    message = leases.await_condition("twin", "LeaseHeld", "False", "Duplicate")
    assert f"{leases.namespace}/work-a" in message
    assert leases.condition("work_a", "LeaseHeld")[:2] == ("True", "Renewed")
    leases.delete("work_a", wait=True)
    wait_for(lambda: leases.condition("twin", "LeaseHeld")[1] != "Duplicate", seconds=10, what="the younger's turn")
    # The released lease lapses, and the item is queued again: its next delivery is whose worker polls it.
    simulator.wait_for(lambda entries: entries[-1]["event"] == "lapsed" or len(entries) > 40, item="work_a", timeout=30)
    leases.await_condition("twin", "Finished", "True", "Requeued", seconds=90)
    simulator.requeue_item("work_a", state="starting")
    leases.apply(young | {"metadata": {"name": "next"}})
    leases.await_condition("next", "LeaseHeld", "True", "Renewed")
    assert leases.condition("twin", "Finished")[:2] == ("True", "Requeued")
    assert check_history(simulator.history(), released=["work_a"]) == []


def test_a_finished_resource_is_nobodys_rival(leases: Leases, simulator: Simulator) -> None:
    simulator.create_item("work_a")
    leases.create("work_a")
    leases.await_condition("work_a", "LeaseHeld", "True", "Renewed")
    simulator.stop_item("work_a", force=True)
    leases.await_condition("work_a", "Finished", "True")
    simulator.requeue_item("work_a", state="starting")
    told = len(heartbeats(simulator.history("work_a")))
    leases.apply(twin(leases, "twin"))
    leases.await_condition("twin", "LeaseHeld", "True", "Renewed")
    assert heartbeats(simulator.history("work_a"))[told]["expected"] == "NO_HEARTBEAT"
    assert leases.condition("work_a", "Finished")[0] == "True"
