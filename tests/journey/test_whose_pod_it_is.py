"""Proof of ownership beyond the labels: a pod of another item or namespace is never deleted."""

from controlplane import ControlPlane
from support.cluster import leave_namespace, make_namespace
from support.operator import Leases, Operator
from support.sandboxes import ITEM
from support.simulator import Simulator


def test_a_pod_of_another_namespace_is_left_alone_though_it_carries_both_labels_and_is_watched(
    control_plane: ControlPlane, namespace: str, simulator: Simulator
) -> None:
    second = make_namespace(control_plane)
    here, there = (Leases(control_plane, name, simulator) for name in (namespace, second))
    with Operator(control_plane, f"{namespace},{second}", simulator.url, WORKLEASE_NAMESPACE=namespace):
        for item in (ITEM, "work_b"):
            simulator.create_item(item)
        there.create("work_b", pods=True)
        there.apply(there.pod("elsewhere", ITEM))
        here.create(ITEM, pods=True)
        here.await_condition(ITEM, "SandboxReady", "True", "Running")
        there.await_condition("work_b", "SandboxReady", "True", "Running")
        there.await_running("elsewhere")
        assert [entry["podName"] for entry in here.status(ITEM)["sandboxes"]] == ["pod-work-a"]
        simulator.stop_item(ITEM, force=True)
        here.await_condition(ITEM, "Finished", "True", "Stopped")
        # The other namespace's pods are watched too, and torn down when they should be.
        simulator.stop_item("work_b", force=True)
        there.await_condition("work_b", "Finished", "True", "Stopped")
        assert here.pods() == {}
        assert set(there.pods()) == {"elsewhere"}
        assert not there.pods()["elsewhere"]["metadata"].get("deletionTimestamp")
    leave_namespace(control_plane, second)
