"""docs/what-happens-when.md, "The sandbox ends": each test is the row of its name."""

import json
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from controlplane import ControlPlane, components, wait_for
from support.judge import check_history
from support.kube_proxy import Hold, KubeProxy
from support.operator import Leases
from support.sandboxes import (
    ITEM,
    STARTED,
    await_event,
    await_gone,
    await_reasons,
    await_state,
    calls,
    current,
    deletions,
    disrupt,
    end_containers,
    end_worker,
    first_written,
    hold,
    remove_pod,
    stops,
)
from support.simulator import Simulator

pytestmark = pytest.mark.usefixtures("operator")

TTL = 15.0  # seconds, as the simulator grants


def stopped_at(simulator: Simulator) -> float:
    """Return when the item was stopped, by the monotonic clock."""
    return float(next(entry["applied_monotonic"] for entry in calls(simulator, "stop")))


def has_failed(leases: Leases, simulator: Simulator, pod: str, reason: str) -> str:
    """Check a failure: the reason is shown, the item stopped and the pod deleted; return the condition's message."""
    message = leases.await_condition(ITEM, "Finished", "True", "Stopped", seconds=60)
    assert simulator.item(ITEM)["state"] == "stopped"
    assert stops(simulator)[-1] == "stopped"
    assert leases.pods() == {}
    assert (current(leases)["podName"], current(leases)["reason"]) == (pod, "Error" if reason == "Failed" else reason)
    failed = await_event(leases, "SandboxFailed")
    assert failed["type"] == "Warning"
    assert failed["related"]["name"] == pod
    names_reason(failed, reason)
    assert check_history(simulator.history()) == []
    return message


def names_reason(failed: Mapping[str, Any], reason: str) -> None:
    """Check that the event of a failure names its reason."""
    assert f"({reason})" in failed["note"] or reason.lower() in failed["note"].lower()


def ends_in_order(simulator: Simulator, proxy: KubeProxy, pod: str, words: str) -> None:
    """Check the order: the sandbox's end is written, and the item stopped, before the pod's deletion is requested."""
    (deletion, *_) = deletions(proxy, pod)
    assert first_written(proxy, words) < deletion.at
    assert stopped_at(simulator) < deletion.at


def test_the_sandbox_finishes(leases: Leases, simulator: Simulator, proxy: KubeProxy) -> None:
    pod = hold(leases, simulator, template=leases.template(exit_code="0", exit_after="3s"))
    message = leases.await_condition(ITEM, "Finished", "True", "Stopped")
    assert f"Pod {pod} has finished" in message
    assert simulator.item(ITEM)["state"] == "stopped"
    assert stops(simulator) == ["stopped"]
    assert (current(leases)["phase"], current(leases)["exitCode"]) == ("Succeeded", 0)
    assert leases.pods() == {}
    ends_in_order(simulator, proxy, pod, '"exitCode": 0')
    await_reasons(leases, *STARTED, "SandboxSucceeded", "Stopped", "TearingDown", "TornDown")


def test_the_sandbox_finishes_beside_an_injected_container(leases: Leases, simulator: Simulator) -> None:
    template = leases.template()
    template["spec"]["containers"].append({"name": "mesh", "image": "busybox"})
    template["metadata"]["annotations"] |= {"worklease.dev/sandbox-containers": "sandbox"}
    pod = hold(leases, simulator, template=template)
    ended = {"exitCode": 0, "reason": "Completed", "finishedAt": "2026-11-24T20:00:00Z"}
    state = {"running": None, "terminated": ended}
    leases.play(pod, containerStatuses=[{"name": "sandbox", "ready": False, "state": state}])
    message = leases.await_condition(ITEM, "Finished", "True", "Stopped")
    assert f"Pod {pod} has finished" in message
    assert stops(simulator) == ["stopping", "stopped"]
    assert (current(leases)["exitCode"], current(leases)["reason"]) == (0, "Completed")
    assert leases.pods() == {}
    assert check_history(simulator.history()) == []


def test_the_sandbox_fails(leases: Leases, simulator: Simulator, proxy: KubeProxy) -> None:
    simulator.create_item(ITEM)
    leases.create(ITEM, sandbox={"template": leases.template(waits=True)})
    pod = leases.await_pod()
    leases.await_condition(ITEM, "SandboxReady", "False", "Pending")
    with proxy.fault(Hold(), verb="patch", resource="workleases/status"):
        end_containers(leases, pod, exit_code=3, message="x" * 2000 + "The disk is full.")
        await_state(simulator, "stopped")
        until = time.monotonic()
    message = has_failed(leases, simulator, pod, "Failed")
    assert deletions(proxy, pod)[0].at > until
    assert "failed with exit code 3" in message
    assert stops(simulator) == ["stopped"]
    assert (current(leases)["phase"], current(leases)["exitCode"]) == ("Failed", 3)
    assert current(leases)["message"].endswith("The disk is full.")
    assert current(leases)["finishTime"] == "2026-11-24T20:00:00Z"
    ends_in_order(simulator, proxy, pod, "The disk is full.")


def test_a_worker_behind_the_proxy_gives_up(leases: Leases, simulator: Simulator) -> None:
    pod = hold(leases, simulator, sandbox={"worker": {"proxy": True}})
    end_worker(leases, pod, said="worker gave up: 412 heartbeat")
    message = has_failed(leases, simulator, pod, "WorkerGaveUp")
    assert "worker gave up: 412 heartbeat" in message
    assert current(leases)["exitCode"] == 0


def is_stopped_for_its_session(leases: Leases, simulator: Simulator, event: str) -> str:
    """Check that a sandbox that runs is drained and its item stopped; return the condition's message."""
    message = leases.await_condition(ITEM, "Finished", "True", "Stopped")
    assert stops(simulator) == ["stopping", "stopped"]
    assert leases.pods() == {}
    await_reasons(leases, *STARTED, event, "Draining", "TearingDown", "TornDown", "Stopped")
    assert check_history(simulator.history()) == []
    return message


def test_the_session_has_been_idle_for_long_enough(leases: Leases, simulator: Simulator) -> None:
    simulator.create_item(ITEM)
    simulator.add_event(ITEM, type="session.status_idle", stop_reason={"type": "end_turn"})
    leases.create(ITEM, sandbox={"template": leases.template(), "idleSeconds": 1})
    assert "Session work_a has been idle for" in is_stopped_for_its_session(leases, simulator, "SessionIdle")


def test_the_session_is_over(leases: Leases, simulator: Simulator) -> None:
    simulator.create_item(ITEM)
    simulator.archive_session(ITEM)
    leases.create(ITEM, sandbox={"template": leases.template(), "waitingSeconds": 3600})
    assert "Session work_a is archived" in is_stopped_for_its_session(leases, simulator, "SessionEnded")


def test_the_sandbox_runs_out_of_memory(leases: Leases, simulator: Simulator, proxy: KubeProxy) -> None:
    oom = leases.template(exit_code="137", exit_after="3s", exit_reason="OOMKilled")
    pod = hold(leases, simulator, template=oom)
    message = has_failed(leases, simulator, pod, "OOMKilled")
    assert "ran out of memory" in message
    assert (current(leases)["exitCode"], bool(current(leases)["finishTime"])) == (137, True)
    assert stops(simulator) == ["stopped"]
    ends_in_order(simulator, proxy, pod, '"exitCode": 137')


def test_the_pod_exceeds_a_limit_of_its_own(leases: Leases, simulator: Simulator, proxy: KubeProxy) -> None:
    pod = hold(leases, simulator)
    leases.play(pod, phase="Failed", reason="Evicted", message="Usage of EmptyDir volume exceeds the limit.")
    message = has_failed(leases, simulator, pod, "Evicted")
    assert "was evicted: Usage of EmptyDir volume exceeds the limit." in message
    assert stops(simulator) == ["stopped"]
    ends_in_order(simulator, proxy, pod, "Usage of EmptyDir volume exceeds the limit.")


def is_replaced(leases: Leases, simulator: Simulator, pod: str, reason: str) -> None:
    """Check that a disrupted pod is replaced under the same lease, and that no restart is counted."""
    second = leases.await_pod(besides=[pod], seconds=60)
    leases.await_condition(ITEM, "SandboxReady", "True", "Running", seconds=60)
    assert set(leases.pods()) == {second}
    status = leases.status(ITEM)
    assert (status["attempt"], status["disruptions"], status["restarts"]) == (1, 1, 0)
    assert [entry["podName"] for entry in status["sandboxes"]] == [second, pod]
    assert stops(simulator) == []
    failed = await_event(leases, "SandboxFailed")
    names_reason(failed, reason)
    assert check_history(simulator.history()) == []


def test_the_pod_is_evicted(leases: Leases, simulator: Simulator, control_plane: ControlPlane) -> None:
    """The program ends with 0 when it is told to, as those of our examples do."""
    pod = hold(leases, simulator, template=leases.template(termination="Never"))
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}}
    path = f"/api/v1/namespaces/{leases.namespace}/pods/{pod}/eviction"
    control_plane.kubectl("create", "--raw", path, "-f", "-", input=json.dumps(eviction))
    end_containers(leases, pod, exit_code=0, reason="Completed", at=datetime.now(UTC))
    remove_pod(control_plane, leases, pod)
    is_replaced(leases, simulator, pod, "Evicted")


@pytest.mark.parametrize("code", [0, 137])
def test_the_pod_is_evicted_by_its_kubelet(leases: Leases, simulator: Simulator, code: int) -> None:
    pod = hold(leases, simulator)
    leases.end_pod(pod, exit_code=code, taken_by="Kubelet")
    is_replaced(leases, simulator, pod, "Evicted")


def test_the_disruptions_are_used_up(leases: Leases, simulator: Simulator) -> None:
    first = hold(leases, simulator, sandbox={"maxDisruptions": 1, "onFailure": "Release"})
    disrupt(leases, first, "EvictionByEvictionAPI", "Eviction API: evicting")
    second = leases.await_pod(besides=[first], seconds=60)
    leases.await_condition(ITEM, "SandboxReady", "True", "Running", seconds=60)
    disrupt(leases, second, "EvictionByEvictionAPI", "Eviction API: evicting")
    leases.await_condition(ITEM, "Finished", "True", "Stopped", seconds=60)
    assert leases.status(ITEM)["disruptions"] == 1
    assert stops(simulator)[-1] == "stopped"
    assert leases.pods() == {}


def test_a_disrupted_sandbox_is_to_be_stopped(leases: Leases, simulator: Simulator) -> None:
    template = leases.template(grace=4, termination="Stubborn")
    pod = hold(leases, simulator, template=template, sandbox={"onDisruption": "Stop", "onFailure": "Restart"})
    disrupt(leases, pod, "EvictionByEvictionAPI", "Eviction API: evicting")
    message = has_failed(leases, simulator, pod, "Evicted")
    assert "was evicted: Eviction API: evicting" in message
    assert stops(simulator)[-1] == "stopped"


def test_the_pod_is_preempted(leases: Leases, simulator: Simulator) -> None:
    pod = hold(leases, simulator)
    disrupt(leases, pod, "PreemptionByScheduler", "default-scheduler: preempting to accommodate a higher priority pod")
    is_replaced(leases, simulator, pod, "Preempted")
    note = await_event(leases, "SandboxFailed")["note"]
    assert note.startswith(f"Pod {pod} was preempted by a pod of higher priority")
    assert "preempting to accommodate" in note


def test_the_pod_is_deleted_by_somebody(leases: Leases, simulator: Simulator) -> None:
    pod = hold(leases, simulator, template=leases.template(grace=6, termination="Stubborn"))
    leases.delete_pod(pod)
    await_state(simulator, "stopping")
    assert pod in leases.pods()
    message = has_failed(leases, simulator, pod, "Deleted")
    assert "was deleted by somebody else" in message
    assert stops(simulator) == ["stopping", "stopped"]


@pytest.fixture
def node(control_plane: ControlPlane, namespace: str) -> Iterator[str]:
    """A node of the test's own, to which no scheduler brings other pods."""
    name = f"z-{namespace}"
    taint = {"key": "tests.worklease.dev/own", "effect": "NoSchedule"}
    body = components.node(name)
    control_plane.kubectl("create", "-f", "-", input=json.dumps(body | {"spec": {"taints": [taint]}}))
    yield name
    control_plane.kubectl("delete", "node", name, "--ignore-not-found", "--wait=false")


def test_the_node_is_lost(leases: Leases, simulator: Simulator, control_plane: ControlPlane, node: str) -> None:
    template = leases.template(termination="Never")
    template["spec"]["nodeName"] = node
    pod = hold(leases, simulator, template=template)
    disrupt(leases, pod, "DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint")
    remove_pod(control_plane, leases, pod)
    message = leases.await_condition(ITEM, "SandboxReady", "False", "Restarting")
    assert "was lost with its node" in message
    assert f"Node {node} is lost, and the earlier pod may still run there" in message
    assert leases.pods() == {}
    control_plane.kubectl("taint", "node", node, "node.kubernetes.io/out-of-service=nodeshutdown:NoSchedule")
    second = leases.await_pod(besides=[pod], seconds=60)
    leases.await_condition(ITEM, "SandboxReady", "True", "Running", seconds=60)
    assert second != pod
    assert stops(simulator) == []
    assert check_history(simulator.history()) == []


def test_the_node_is_lost_and_the_item_is_to_be_stopped(
    leases: Leases, simulator: Simulator, proxy: KubeProxy, control_plane: ControlPlane
) -> None:
    template = leases.template(termination="Never")
    pod = hold(leases, simulator, template=template, sandbox={"onDisruption": "Stop"})
    disrupt(leases, pod, "DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint")
    await_state(simulator, "stopped")
    names_reason(await_event(leases, "SandboxFailed"), "NodeLost")
    assert stops(simulator) == ["stopping", "stopped"]
    first, last = calls(simulator, "stop")
    assert last["applied_monotonic"] - first["applied_monotonic"] < TTL
    message = leases.await_condition(ITEM, "Finished", "False", "TearingDown")
    assert pod in message
    asked = len(deletions(proxy, pod))
    wait_for(lambda: len(deletions(proxy, pod)) > asked, seconds=30, what="another deletion")
    remove_pod(control_plane, leases, pod)
    message = leases.await_condition(ITEM, "Finished", "True", "Stopped")
    assert "was lost with its node" in message
    assert check_history(simulator.history()) == []


def test_a_failed_sandbox_is_to_be_restarted(leases: Leases, simulator: Simulator, proxy: KubeProxy) -> None:
    first = hold(leases, simulator, sandbox={"onFailure": "Restart"})
    failed = time.monotonic()
    leases.play(first, phase="Failed", reason="Evicted", message="The node was low on resource: memory.")
    message = leases.await_condition(ITEM, "SandboxReady", "False", "Restarting")
    assert "restart 1 of 3" in message
    second = leases.await_pod(besides=[first], seconds=60)
    leases.await_condition(ITEM, "SandboxReady", "True", "Running", seconds=60)
    assert set(leases.pods()) == {second}
    (deletion, *_) = deletions(proxy, first)
    made = [asked.at for asked in proxy.requests("create", "pods")]
    assert deletion.at < made[-1]
    assert made[-1] - failed > 2.0
    status = leases.status(ITEM)
    assert status["restarts"] == 1
    assert [entry["podName"] for entry in status["sandboxes"]] == [second, first]
    assert status["sandboxes"][1]["reason"] == "Evicted"
    assert stops(simulator) == []
    assert leases.condition(ITEM, "LeaseHeld")[:2] == ("True", "Renewed")
    assert await_event(leases, "Claimed")["note"]


def test_the_restarts_are_used_up(leases: Leases, simulator: Simulator) -> None:
    failing = leases.template(exit_code="1", exit_after="1s")
    simulator.create_item(ITEM)
    leases.create(ITEM, sandbox={"template": failing, "onFailure": "Restart", "maxRestarts": 2})
    message = leases.await_condition(ITEM, "Finished", "True", "Stopped", seconds=90)
    assert "exit code 1" in message
    assert leases.status(ITEM)["restarts"] == 2
    assert len({entry["podUID"] for entry in leases.status(ITEM)["sandboxes"]}) == 3
    assert leases.pods() == {}
    assert stops(simulator) == ["stopped"]
    fates = ("SandboxCreated", "SandboxFailed")
    wait_for(
        lambda: [reason for reason in leases.reasons(ITEM) if reason in fates] == [*fates] * 3,
        seconds=30,
        what="three sandboxes that were made and failed, in the events",
    )
    assert check_history(simulator.history()) == []


def test_a_failed_sandbox_is_to_be_released(leases: Leases, simulator: Simulator) -> None:
    failing = leases.template(exit_code="1", exit_after="3s")
    pod = hold(leases, simulator, template=failing, sandbox={"onFailure": "Release"})
    leases.await_condition(ITEM, "Finished", "True", "Released")
    await_gone(leases, pod)
    beats = len(calls(simulator, "heartbeat"))
    await_state(simulator, "queued")
    assert stops(simulator) == []
    assert len(calls(simulator, "heartbeat")) == beats
    assert check_history(simulator.history(), released=[ITEM]) == []


def test_a_failed_pod_is_to_be_kept(leases: Leases, simulator: Simulator, proxy: KubeProxy) -> None:
    pod = hold(
        leases,
        simulator,
        template=leases.template(exit_code="1", exit_after="3s"),
        sandbox={"keepFailedPod": True},
    )
    labels: dict[str, Any] = leases.pods()[pod]["metadata"]["labels"]
    leases.await_condition(ITEM, "Finished", "True", "Stopped")
    verdict, reason, message = leases.condition(ITEM, "SandboxReady")
    assert (verdict, reason) == ("False", "Ended")
    assert f"Pod {pod} is kept for its logs" in message
    assert simulator.item(ITEM)["state"] == "stopped"
    assert leases.pods()[pod]["metadata"]["labels"] == labels
    assert deletions(proxy, pod) == []
    assert current(leases)["podUID"] == leases.pods()[pod]["metadata"]["uid"]
