"""docs/what-happens-when.md, "The item ends": each test is the row of its name."""

import time
from collections.abc import Iterator
from datetime import datetime

import pytest

from controlplane import ControlPlane, wait_for
from support.judge import check_history, check_sandboxes
from support.kube_proxy import KubeProxy
from support.operator import Leases
from support.sandboxes import (
    ITEM,
    STARTED,
    await_reasons,
    await_terminating,
    calls,
    deletions,
    end_worker,
    grace_asked,
    hold,
    stops,
    written,
)
from support.simulator import Simulator, accepted
from support.stays import Stays

pytestmark = pytest.mark.usefixtures("operator")

TTL = 15  # seconds, as the simulator grants
LONGER = 20  # seconds of grace period, longer than a fifth of the TTL and than every drain here


@pytest.fixture
def stays(control_plane: ControlPlane, namespace: str) -> Iterator[Stays]:
    with Stays(control_plane, namespace) as looking:
        yield looking


def test_the_item_is_stopped_gracefully(leases: Leases, simulator: Simulator, proxy: KubeProxy) -> None:
    stubborn = leases.template(grace=LONGER, termination="Stubborn")
    pod = hold(leases, simulator, template=stubborn, sandbox={"drainSeconds": 11}, ttlSeconds=30)
    simulator.stop_item(ITEM)
    leases.await_condition(ITEM, "LeaseHeld", "True", "Draining")
    assert await_terminating(leases, pod)["deletionGracePeriodSeconds"] <= 11
    draining = len(calls(simulator, "heartbeat"))
    wait_for(lambda: len(calls(simulator, "heartbeat")) > draining, seconds=30, what="a beat while draining")
    beat = calls(simulator, "heartbeat")[draining]
    leases.await_condition(ITEM, "Finished", "True", "Stopped")
    assert leases.pods() == {}
    assert stops(simulator) == ["stopped"]
    (confirmed,) = calls(simulator, "stop")
    assert deletions(proxy, pod)[0].at < beat["applied_monotonic"] < confirmed["applied_monotonic"]
    assert confirmed["applied_monotonic"] < accepted(simulator, ITEM)[-1] + 30
    await_reasons(leases, *STARTED, "Draining", "TearingDown", "TornDown", "Stopped")
    assert check_history(simulator.history()) == []


def test_the_item_of_a_worker_behind_the_proxy_is_stopped_gracefully(
    leases: Leases, simulator: Simulator, proxy: KubeProxy
) -> None:
    pod = hold(leases, simulator, sandbox={"drainSeconds": 60, "worker": {"proxy": True}}, ttlSeconds=60)
    begun = time.time()
    simulator.stop_item(ITEM)
    wait_for(lambda: proxy.requests("patch", "pods"), seconds=30, what="the pod's annotation")
    told = datetime.fromisoformat(leases.pods()[pod]["metadata"]["annotations"]["worklease.dev/draining"])
    assert begun + 55 < told.timestamp() < time.time() + 61
    leases.await_condition(ITEM, "LeaseHeld", "True", "Draining")
    assert deletions(proxy, pod) == []
    end_worker(leases, pod)
    leases.await_condition(ITEM, "Finished", "True", "Stopped")
    assert len(proxy.requests("patch", "pods")) == 1
    (confirmed,) = calls(simulator, "stop")
    assert confirmed["applied_monotonic"] < deletions(proxy, pod)[0].at
    assert check_history(simulator.history()) == []


def test_the_item_is_stopped_by_force(leases: Leases, simulator: Simulator, proxy: KubeProxy) -> None:
    pod = hold(leases, simulator, template=leases.template(grace=4, termination="Stubborn"))
    simulator.stop_item(ITEM, force=True)
    assert await_terminating(leases, pod)["deletionGracePeriodSeconds"] == 4
    leases.await_condition(ITEM, "Finished", "True", "Stopped")
    assert grace_asked(proxy, pod)[0] is None
    assert leases.pods() == {}
    assert stops(simulator) == []
    await_reasons(leases, *STARTED, "Stopped", "TearingDown", "TornDown")


def is_lost(leases: Leases, simulator: Simulator, proxy: KubeProxy, pod: str, reason: str) -> None:
    """Check a lost lease: the pod is deleted with a grace of at most a fifth of the TTL, and no stop is sent."""
    leases.await_condition(ITEM, "Finished", "True", reason)
    assert leases.condition(ITEM, "LeaseHeld")[:2] == ("False", reason)
    (grace,) = grace_asked(proxy, pod)
    assert grace is not None
    assert 1 <= grace <= TTL / 5
    assert leases.pods() == {}
    assert stops(simulator) == []
    await_reasons(leases, *STARTED, reason, "TearingDown", "TornDown")


def test_another_worker_takes_the_lease(leases: Leases, simulator: Simulator, proxy: KubeProxy) -> None:
    pod = hold(leases, simulator, template=leases.template(grace=LONGER))
    simulator.steal_item(ITEM)
    is_lost(leases, simulator, proxy, pod, "TakenOver")


def test_the_item_goes_back_to_the_queue(leases: Leases, simulator: Simulator, proxy: KubeProxy) -> None:
    pod = hold(leases, simulator, template=leases.template(grace=LONGER))
    simulator.requeue_item(ITEM)
    is_lost(leases, simulator, proxy, pod, "Requeued")
    assert simulator.item(ITEM)["state"] == "queued"


def test_no_beat_is_accepted_in_time(leases: Leases, simulator: Simulator, proxy: KubeProxy, stays: Stays) -> None:
    hold(leases, simulator, template=leases.template(grace=LONGER, termination="Stubborn"))
    simulator.outage("refuse")
    leases.await_condition(ITEM, "LeaseHeld", "Unknown", "Fenced")
    leases.await_condition(ITEM, "Finished", "True", "Expired")
    assert leases.pods() == {}
    assert written(proxy, "LeaseHeld")[-2:] == [("Unknown", "Fenced"), ("False", "Expired")]
    simulator.outage("off")
    assert stops(simulator) == []
    assert check_history(simulator.history(), until=time.monotonic()) == []
    assert check_sandboxes(simulator.history(), stays.seen()) == []


@pytest.mark.long(seconds=40)
def test_the_stop_is_not_acknowledged(leases: Leases, simulator: Simulator) -> None:
    hold(leases, simulator, template=leases.template(exit_code="0", exit_after="3s"))
    simulator.inject("status", call="stop", times=None, status=503)
    wait_for(
        lambda: "has not acknowledged the stop" in leases.condition(ITEM, "LeaseHeld")[2].lower(),
        seconds=30,
        what="a message that tells of the stop",
    )
    wait_for(lambda: len(calls(simulator, "stop")) >= 4, seconds=60, what="repetitions of the stop")
    simulator.clear_faults()
    leases.await_condition(ITEM, "Finished", "True", "Stopped")
    assert stops(simulator)[-1] == "stopped"
    # A stop that may have taken effect is repeated only after a beat showed that the operator still holds the item.
    told = [entry["call"] for entry in simulator.history(ITEM) if entry.get("call") in {"heartbeat", "stop"}]
    assert ["stop", "stop"] not in [told[at : at + 2] for at in range(len(told))]
    assert check_history(simulator.history()) == []
