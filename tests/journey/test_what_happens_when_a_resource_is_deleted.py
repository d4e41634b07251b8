"""docs/what-happens-when.md, "The resource is deleted": each test is the row of its name.

Two of them wait for the minute in which the server may acknowledge a stop.
"""

import signal
from collections.abc import Callable
from datetime import datetime

import pytest

from controlplane import ControlPlane, wait_for
from support.cluster import make_namespace
from support.judge import check_history
from support.operator import RESTARTED, Leases, Operator
from support.sandboxes import ITEM, await_event, await_gone, await_state, await_terminating, calls, hold, stops
from support.simulator import Simulator

STOP_TIMEOUT = 60.0  # seconds in which the server may acknowledge a stop


def await_removed(leases: Leases, *, seconds: float = 60) -> None:
    wait_for(lambda: leases.get(ITEM) is None, seconds=seconds, what="the end of the resource")


@pytest.mark.usefixtures("operator")
def test_the_resource_is_deleted(leases: Leases, simulator: Simulator) -> None:
    stubborn = leases.template(grace=20, termination="Stubborn")
    pod = hold(leases, simulator, template=stubborn, sandbox={"drainSeconds": 8})
    leases.delete(ITEM)
    leases.await_condition(ITEM, "LeaseHeld", "True", "Draining")
    assert await_terminating(leases, pod)["deletionGracePeriodSeconds"] <= 8
    assert simulator.item(ITEM)["state"] == "stopping"
    draining = len(calls(simulator, "heartbeat"))
    wait_for(lambda: len(calls(simulator, "heartbeat")) > draining, seconds=30, what="a beat while draining")
    assert leases.get(ITEM) is not None
    await_removed(leases)
    assert leases.pods() == {}
    assert stops(simulator) == ["stopping", "stopped"]
    assert check_history(simulator.history()) == []


@pytest.mark.usefixtures("operator")
def test_the_resource_is_deleted_with_deletionpolicy_release(leases: Leases, simulator: Simulator) -> None:
    hold(leases, simulator, deletionPolicy="Release")
    leases.delete(ITEM)
    await_removed(leases)
    assert leases.pods() == {}
    await_state(simulator, "queued")
    assert stops(simulator) == []


@pytest.mark.usefixtures("operator")
def test_the_resource_is_deleted_while_another_holds_the_item(leases: Leases, simulator: Simulator) -> None:
    simulator.create_item(ITEM)
    simulator.steal_item(ITEM)
    leases.create(ITEM, sandbox={"template": leases.template()})
    leases.await_condition(ITEM, "LeaseHeld", "False", "HeldByAnother")
    leases.delete(ITEM)
    await_removed(leases, seconds=30)
    assert stops(simulator) == []
    assert simulator.item(ITEM)["state"] == "active"


def leaves_behind_after_a_minute(
    plane: ControlPlane, namespace: str, *, block_stops: Callable[[Simulator], None], words: str
) -> None:
    """Delete a resource whose stop is not acknowledged: its sandbox drains, and the finalizer goes a minute later."""
    with Simulator("--ttl", "300") as simulator, Operator(plane, namespace, simulator.url):
        leases = Leases(plane, namespace, simulator)
        pod = hold(leases, simulator)
        block_stops(simulator)
        leases.delete(ITEM)
        await_gone(leases, pod)
        wait_for(
            lambda: "has not acknowledged the stop" in leases.condition(ITEM, "LeaseHeld")[2].lower(),
            seconds=30,
            what="a message that tells of the stop",
        )
        await_removed(leases, seconds=STOP_TIMEOUT + 40)
        left, gone = await_event(leases, "Orphaned"), await_event(leases, "TornDown")
        assert left["type"] == "Warning"
        assert words in left["note"]
        assert "its lease lapses" in left["note"]
        assert simulator.environment_key not in str(leases.events(ITEM))
        assert stops(simulator).count("stopped") == 0
        assert _seconds(left["eventTime"]) - _seconds(gone["eventTime"]) > STOP_TIMEOUT - 2


def _seconds(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()


@pytest.mark.long(seconds=60)
def test_the_resource_is_deleted_and_the_work_api_is_down(control_plane: ControlPlane, namespace: str) -> None:
    leaves_behind_after_a_minute(
        control_plane,
        namespace,
        block_stops=lambda simulator: simulator.outage("refuse"),
        words="did not acknowledge",
    )


@pytest.mark.long(seconds=60)
def test_the_resource_is_deleted_and_the_key_is_revoked(control_plane: ControlPlane, namespace: str) -> None:
    def revoke(simulator: Simulator) -> None:
        simulator.set_environment_keys(simulator.environment_id)

    leaves_behind_after_a_minute(control_plane, namespace, block_stops=revoke, words="401")


def test_the_resource_is_deleted_while_the_operator_is_away(
    leases: Leases, simulator: Simulator, operator: Operator
) -> None:
    # Kopf removes its own finalizer from such an object at once, and never runs its timer.
    hold(leases, simulator, ttlSeconds=RESTARTED)
    other = hold(leases, simulator, "work_b", ttlSeconds=RESTARTED)
    operator.kill()
    leases.delete(ITEM)
    assert (leases.get(ITEM) or {})["metadata"]["deletionTimestamp"]
    assert len(leases.pods()) == 2
    operator.start()
    await_removed(leases)
    assert simulator.item(ITEM)["state"] == "stopped"
    assert set(leases.pods()) == {other}
    assert leases.condition("work_b", "LeaseHeld")[0] == "True"
    assert check_history(simulator.history()) == []


def test_the_resource_vanishes_while_its_lease_is_held(
    leases: Leases, simulator: Simulator, operator: Operator, control_plane: ControlPlane
) -> None:
    simulator.create_item(ITEM)
    leases.create(ITEM, pods=True)
    leases.await_condition(ITEM, "SandboxReady", "True", "Running")
    patch = '{"metadata":{"finalizers":null}}'
    operator.signal(signal.SIGSTOP)
    leases.delete(ITEM)
    control_plane.kubectl("-n", leases.namespace, "patch", "worklease", "work-a", "--type=merge", "-p", patch)
    operator.signal(signal.SIGCONT)
    await_gone(leases, "pod-work-a")
    assert [entry for entry in simulator.history(ITEM) if entry["event"] == "lapsed"] == []


def test_the_namespace_is_deleted(control_plane: ControlPlane, simulator: Simulator) -> None:
    namespace = make_namespace(control_plane)
    leases = Leases(control_plane, namespace, simulator)
    # The checkpoint is in another namespace, as that of an operator usually is.
    with Operator(control_plane, namespace, simulator.url, WORKLEASE_NAMESPACE="default"):
        hold(leases, simulator)
        control_plane.kubectl("delete", "namespace", namespace, "--wait=false")
        path = f"/api/v1/namespaces/{namespace}"
        wait_for(lambda: control_plane.get(path) is None, seconds=90, what="the end of the namespace")
    assert simulator.item(ITEM)["state"] == "stopped"
    assert stops(simulator) == ["stopping", "stopped"]
    assert check_history(simulator.history()) == []


def test_the_operator_is_gone_for_good(
    leases: Leases, simulator: Simulator, operator: Operator, control_plane: ControlPlane
) -> None:
    pod = hold(leases, simulator)
    operator.kill()
    leases.delete(ITEM)
    patch = '[{"op":"remove","path":"/metadata/finalizers"}]'
    control_plane.kubectl("-n", leases.namespace, "patch", "worklease", "work-a", "--type=json", "-p", patch)
    assert leases.get(ITEM) is None
    await_gone(leases, pod)
    await_state(simulator, "queued")
