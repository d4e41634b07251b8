"""Each problem is shown as a condition whose message says what to do, and ends without a restart."""

import socket

import pytest

from controlplane import ControlPlane
from support.operator import Leases, Operator
from support.simulator import Simulator


@pytest.mark.usefixtures("operator")
def test_a_missing_secret_is_named_and_its_arrival_is_enough(leases: Leases, simulator: Simulator) -> None:
    leases.drop_key()
    simulator.create_item("work_a")
    leases.create("work_a")
    message = leases.await_condition("work_a", "LeaseHeld", "False", "CredentialsMissing")
    assert f"Secret {leases.namespace}/worklease-credentials does not exist" in message
    assert "environment-key" in message
    leases.put_key(simulator.environment_key)
    leases.await_condition("work_a", "LeaseHeld", "True", "Renewed")


@pytest.mark.usefixtures("operator")
def test_a_bad_key_is_named_and_a_good_one_is_enough(leases: Leases, simulator: Simulator) -> None:
    leases.put_key("no-such-key")
    simulator.create_item("work_a")
    leases.create("work_a")
    message = leases.await_condition("work_a", "LeaseHeld", "False", "Unauthorized")
    assert f"key environment-key of Secret {leases.namespace}/worklease-credentials" in message
    assert "no-such-key" not in message
    leases.put_key(simulator.environment_key)
    leases.await_condition("work_a", "LeaseHeld", "True", "Renewed")


@pytest.mark.usefixtures("operator")
def test_a_rotated_key_is_read_again_and_no_lease_suffers(leases: Leases, simulator: Simulator) -> None:
    simulator.create_item("work_a")
    leases.create("work_a")
    leases.await_condition("work_a", "LeaseHeld", "True", "Renewed")
    leases.put_key("another-key")
    simulator.set_environment_keys(simulator.environment_id, "another-key")
    since = simulator.last_seq()
    history = simulator.wait_for(
        lambda entries: any(entry["status"] == 200 for entry in entries if entry.get("call") == "heartbeat"),
        item="work_a",
        since=since,
        timeout=20,
    )
    assert [entry["status"] for entry in history if entry.get("call") == "heartbeat"] == [401, 200]
    assert leases.condition("work_a", "LeaseHeld")[:2] == ("True", "Renewed")


@pytest.mark.usefixtures("operator")
def test_an_unknown_item_says_which_ids_to_check(leases: Leases, simulator: Simulator) -> None:
    leases.create("work_unknown")
    message = leases.await_condition("work_unknown", "LeaseHeld", "False", "NotFound")
    assert "404" in message
    assert "work_unknown" in message
    simulator.create_item("work_unknown")
    leases.await_condition("work_unknown", "LeaseHeld", "True", "Renewed")


@pytest.mark.usefixtures("operator")
def test_an_item_that_nobody_acknowledged_waits_for_it(leases: Leases, simulator: Simulator) -> None:
    simulator.create_item("work_a")
    simulator.steal_item("work_a")
    leases.create("work_a", pods=True)
    message = leases.await_condition("work_a", "LeaseHeld", "False", "HeldByAnother")
    assert "Another worker" in message
    assert list(leases.pods()) == ["pod-work-a"]


def test_an_unreachable_api_is_named_and_its_return_is_enough(
    control_plane: ControlPlane, namespace: str, leases: Leases, simulator: Simulator
) -> None:
    simulator.create_item("work_a")
    leases.create("work_a")
    simulator.outage("refuse")
    with Operator(control_plane, namespace, simulator.url):
        message = leases.await_condition("work_a", "LeaseHeld", "False", "Unreachable")
        assert simulator.url in message
        assert "WORKLEASE_API_URL" in message
        simulator.outage("off")
        leases.await_condition("work_a", "LeaseHeld", "True", "Renewed")


def test_a_silent_api_is_doubt_only_about_what_was_sent(
    control_plane: ControlPlane, namespace: str, leases: Leases
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        leases.create("work_a")
        with Operator(control_plane, namespace, f"http://127.0.0.1:{silent.getsockname()[1]}"):
            message = leases.await_condition("work_a", "LeaseHeld", "Unknown", "InDoubt", seconds=60)
            assert "no answer within" in message


@pytest.mark.usefixtures("operator")
def test_suspended_heartbeats_claim_nothing_until_they_are_resumed(leases: Leases, simulator: Simulator) -> None:
    simulator.create_item("work_a")
    leases.create("work_a", heartbeat={"mode": "Suspended"})
    leases.await_condition("work_a", "LeaseHeld", "False", "Suspended")
    assert simulator.history("work_a")[1:] == []
    leases.edit("work_a", {"heartbeat": {"mode": "Operator"}})
    leases.await_condition("work_a", "LeaseHeld", "True", "Renewed")
