"""docs/what-happens-when.md, "Whose pod it is": each test is the row of its name."""

import json

import pytest

from controlplane import ControlPlane, wait_for
from support.judge import check_history
from support.kube_proxy import Answer, Hold, KubeProxy
from support.operator import Leases
from support.sandboxes import (
    FINALIZER,
    ITEM,
    await_event,
    await_terminating,
    current,
    deletions,
    drop_finalizers,
    end_containers,
    hold,
    remove_pod,
    stops,
    written,
)
from support.simulator import Simulator

pytestmark = pytest.mark.usefixtures("operator")


def test_the_deletion_of_a_pod_is_refused(leases: Leases, simulator: Simulator, proxy: KubeProxy) -> None:
    pod = hold(leases, simulator)
    with proxy.fault(Answer(403, 'admission webhook "no" denied the request'), verb="delete", resource="pods"):
        simulator.stop_item(ITEM, force=True)
        message = leases.await_condition(ITEM, "SandboxReady", "False", "DeletionRefused")
        assert f"Deleting pod {pod} was refused" in message
        assert 'dmission webhook "no" denied the request' in message
        leases.await_condition(ITEM, "SandboxReady", "Unknown", "FencePending")
        assert leases.condition(ITEM, "Finished")[:2] == ("False", "TearingDown")
        assert len(deletions(proxy, pod)) > 3
    leases.await_condition(ITEM, "Finished", "True", "Stopped")
    assert leases.pods() == {}
    refused = await_event(leases, "DeletionRefused")
    assert refused["type"] == "Warning"
    assert 'admission webhook "no" denied the request' in refused["note"]


def test_a_pod_is_held_up_by_a_finalizer(
    leases: Leases, simulator: Simulator, proxy: KubeProxy, control_plane: ControlPlane
) -> None:
    simulator.create_item(ITEM)
    leases.create(ITEM, sandbox={})
    leases.apply(leases.pod("held-up", ITEM, finalizers=[FINALIZER]))
    leases.await_condition(ITEM, "SandboxReady", "True", "Running")
    simulator.stop_item(ITEM)
    await_terminating(leases, "held-up")
    end_containers(leases, "held-up", exit_code=0, reason="Completed")
    message = leases.await_condition(ITEM, "Finished", "False", "TearingDown")
    assert "held-up" in message
    assert stops(simulator) == ["stopped"]
    asked = len(deletions(proxy, "held-up"))
    wait_for(lambda: len(deletions(proxy, "held-up")) > asked, seconds=30, what="another deletion")
    drop_finalizers(control_plane, leases, "held-up")
    leases.await_condition(ITEM, "Finished", "True", "Stopped")
    assert check_history(simulator.history()) == []


def test_a_pod_of_another_worklease_carries_the_labels(leases: Leases, simulator: Simulator) -> None:
    simulator.create_item(ITEM)
    simulator.create_item("work_b")
    leases.create("work_b")
    owner = {
        "apiVersion": "worklease.dev/v1alpha1",
        "kind": "WorkLease",
        "name": "work-b",
        "uid": (leases.get("work_b") or {})["metadata"]["uid"],
        "controller": True,
    }
    leases.create(ITEM, sandbox={})
    leases.apply(leases.pod("of-another", ITEM, ownerReferences=[owner]), leases.pod("own", ITEM))
    leases.await_condition(ITEM, "SandboxReady", "True", "Running")
    assert [entry["podName"] for entry in leases.status(ITEM)["sandboxes"]] == ["own"]
    simulator.stop_item(ITEM, force=True)
    leases.await_condition(ITEM, "Finished", "True", "Stopped")
    assert set(leases.pods()) == {"of-another"}
    assert not leases.pods()["of-another"]["metadata"].get("deletionTimestamp")
    ignored = await_event(leases, "PodIgnored")
    assert ignored["related"]["name"] == "of-another"
    assert "another WorkLease" in ignored["note"]


def test_a_successor_has_the_pod_s_name(
    leases: Leases, simulator: Simulator, proxy: KubeProxy, control_plane: ControlPlane
) -> None:
    simulator.create_item(ITEM)
    leases.create(ITEM, sandbox={})
    leases.apply(leases.pod("sandbox", ITEM))
    leases.await_condition(ITEM, "SandboxReady", "True", "Running")
    former = leases.pods()["sandbox"]["metadata"]["uid"]
    with proxy.fault(Hold(), verb="delete", resource="pods", name="sandbox") as held:
        simulator.stop_item(ITEM, force=True)
        wait_for(lambda: held.times, seconds=30, what="the operator's deletion, which is on its way")
        remove_pod(control_plane, leases, "sandbox")
        wait_for(lambda: leases.pods() == {}, seconds=30, what="the end of the pod")
        leases.apply(leases.pod("sandbox", ITEM))
    leases.await_condition(ITEM, "Finished", "True", "Stopped")
    leases.await_running("sandbox")
    successor = leases.pods()["sandbox"]["metadata"]
    assert successor["uid"] != former
    assert not successor.get("deletionTimestamp")
    assert {json.loads(asked.body)["preconditions"]["uid"] for asked in deletions(proxy, "sandbox")} == {former}


def test_a_pod_comes_after_the_end(leases: Leases, simulator: Simulator, proxy: KubeProxy) -> None:
    pod = hold(leases, simulator)
    simulator.stop_item(ITEM, force=True)
    leases.await_condition(ITEM, "Finished", "True", "Stopped")
    leases.apply(leases.pod("late", ITEM))
    ignored = await_event(leases, "PodIgnored")
    assert "delete it if nobody needs it" in ignored["note"]
    leases.await_running("late")
    assert deletions(proxy, "late") == []
    assert [entry["podName"] for entry in leases.status(ITEM)["sandboxes"]] == [pod]
    assert written(proxy, "Finished")[-1] == ("True", "Stopped")


def test_a_made_pod_comes_after_the_end(leases: Leases, simulator: Simulator, proxy: KubeProxy) -> None:
    hold(leases, simulator)
    simulator.stop_item(ITEM, force=True)
    leases.await_condition(ITEM, "Finished", "True", "Stopped")
    metadata = (leases.get(ITEM) or {})["metadata"]
    owner = {
        "apiVersion": "worklease.dev/v1alpha1",
        "kind": "WorkLease",
        "name": metadata["name"],
        "uid": metadata["uid"],
        "controller": True,
    }
    leases.apply(leases.pod("labelled", ITEM), leases.pod("made", ITEM, ownerReferences=[owner]))
    wait_for(lambda: "made" not in leases.pods(), seconds=30, what="the end of the pod that was made")
    assert len(deletions(proxy, "made")) == 1
    assert deletions(proxy, "labelled") == []
    assert written(proxy, "Finished")[-1] == ("True", "Stopped")


def test_a_sandbox_loses_a_label(leases: Leases, simulator: Simulator, control_plane: ControlPlane) -> None:
    pod = hold(leases, simulator)
    remove = json.dumps({"metadata": {"labels": {"worklease.dev/work-id": None}}})
    control_plane.kubectl("-n", leases.namespace, "patch", "pod", pod, "--type=merge", "-p", remove)
    end_containers(leases, pod, exit_code=0, reason="Completed")
    leases.await_condition(ITEM, "Finished", "True", "Stopped", seconds=60)
    assert current(leases)["phase"] == "Succeeded"
    assert stops(simulator) == ["stopped"]
    assert leases.pods() == {}
