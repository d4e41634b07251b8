import json

from controlplane import ControlPlane, wait_for
from support.judge import check_history, heartbeats
from support.operator import RESTARTED, Leases, Operator
from support.simulator import Simulator

SELECTOR = "app.kubernetes.io/managed-by=worklease-operator"


def extended(simulator: Simulator, item: str, *, since: int = 0) -> int:
    return sum(bool(entry["lease_extended"]) for entry in heartbeats(simulator.history(item, since=since)))


def records(plane: ControlPlane, namespace: str) -> dict[str, dict[str, object]]:
    found = json.loads(plane.kubectl("--namespace", namespace, "get", "configmaps", "-l", SELECTOR, "-o", "json"))
    return {
        uid: json.loads(text) for each in found["items"] for uid, text in (each.get("data") or {}).items() if "-" in uid
    }


def test_a_restart_goes_on_from_the_checkpoint_where_the_status_is_stale(
    control_plane: ControlPlane, namespace: str, leases: Leases, simulator: Simulator
) -> None:
    simulator.create_item("work_a")
    with Operator(control_plane, namespace, simulator.url, WORKLEASE_NAMESPACE=namespace) as operator:
        leases.create("work_a", pods=True, ttlSeconds=RESTARTED)
        leases.await_condition("work_a", "SandboxReady", "True")
        uid = (leases.get("work_a") or {})["metadata"]["uid"]
        wait_for(
            lambda: records(control_plane, namespace).get(uid, {}).get("value"),
            seconds=40,
            what="a checkpoint of a value",
        )
        operator.kill()
        recorded = records(control_plane, namespace)[uid]["value"]
        patch = json.dumps({"status": {"lastHeartbeat": None, "leaseExpiryTime": None, "observedTime": None}})
        control_plane.kubectl(
            "--namespace",
            namespace,
            "patch",
            "worklease",
            "work-a",
            "--subresource=status",
            "--type=merge",
            "-p",
            patch,
        )
        since = simulator.last_seq()
        operator.start()
        wait_for(lambda: extended(simulator, "work_a", since=since) >= 2, seconds=60, what="beats of the new process")
    history = simulator.history()
    assert heartbeats(simulator.history("work_a", since=since))[0]["expected"] == recorded
    assert "NO_HEARTBEAT" not in {entry["expected"] for entry in heartbeats(history)[1:]}
    assert check_history(history) == []


def test_without_any_of_its_configmaps_a_restart_goes_on_from_the_status(
    control_plane: ControlPlane, namespace: str, leases: Leases, simulator: Simulator
) -> None:
    simulator.create_item("work_a")
    with Operator(control_plane, namespace, simulator.url, WORKLEASE_NAMESPACE=namespace) as operator:
        leases.create("work_a", pods=True, ttlSeconds=RESTARTED)
        leases.await_condition("work_a", "SandboxReady", "True")
        operator.kill()
        control_plane.kubectl("--namespace", namespace, "delete", "configmaps", "-l", SELECTOR)
        since = simulator.last_seq()
        operator.start()
        wait_for(lambda: extended(simulator, "work_a", since=since) >= 2, seconds=60, what="beats of the new process")
        assert list(leases.pods()) == ["pod-work-a"]
        # A checkpoint that is deleted while the operator runs is created again.
        control_plane.kubectl("--namespace", namespace, "delete", "configmaps", "-l", SELECTOR)
        wait_for(lambda: records(control_plane, namespace), seconds=20, what="the checkpoint created again")
    assert check_history(simulator.history()) == []


def test_a_claim_whose_answer_was_lost_before_a_crash_is_found_to_be_ours(
    control_plane: ControlPlane, namespace: str, leases: Leases, simulator: Simulator
) -> None:
    simulator.create_item("work_a")
    simulator.inject("drop-after", item="work_a", times=1)
    with Operator(control_plane, namespace, simulator.url, WORKLEASE_NAMESPACE=namespace) as operator:
        leases.create("work_a", ttlSeconds=30)
        simulator.wait_for(lambda entries: bool(heartbeats(entries)), item="work_a", timeout=20)
        operator.kill()
        operator.start()
        leases.await_condition("work_a", "LeaseHeld", "True", "Renewed", seconds=60)
    history = simulator.history("work_a")
    assert [entry["event"] for entry in history if entry["event"] in ("lapsed", "stolen")] == []
    assert check_history(history) == []


def test_the_checkpoint_holds_no_key_and_forgets_what_is_over(
    control_plane: ControlPlane, namespace: str, leases: Leases, simulator: Simulator
) -> None:
    simulator.create_item("work_a")
    with Operator(control_plane, namespace, simulator.url, WORKLEASE_NAMESPACE=namespace):
        leases.create("work_a")
        wait_for(lambda: records(control_plane, namespace), seconds=20, what="a checkpoint")
        written = control_plane.kubectl("--namespace", namespace, "get", "configmaps", "-o", "yaml")
        assert simulator.environment_key not in written
        simulator.stop_item("work_a", force=True)
        leases.await_condition("work_a", "Finished", "True")
        wait_for(lambda: not records(control_plane, namespace), seconds=30, what="the end of the record")
