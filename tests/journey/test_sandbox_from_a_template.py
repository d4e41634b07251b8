"""A sandbox that the operator makes: when, what it is told, and what becomes of it and of its item."""

from typing import Any

import pytest

from controlplane import ControlPlane, wait_for
from support.judge import check_history
from support.operator import Leases, Operator
from support.simulator import Simulator

pytestmark = pytest.mark.usefixtures("operator")


def stops(simulator: Simulator, item: str = "work_a") -> list[str]:
    """Give the state that each stop left the item in, in order."""
    return [entry["after"]["state"] for entry in simulator.history(item) if entry.get("call") == "stop"]


def current(leases: Leases) -> dict[str, Any]:
    """Give the first sandbox of the status."""
    sandboxes = leases.status("work_a").get("sandboxes") or [{}]
    return dict(sandboxes[0])


def test_the_pod_is_made_once_the_lease_is_held_and_is_told_its_item(leases: Leases, simulator: Simulator) -> None:
    simulator.create_item("work_a")
    leases.create("work_a", sandbox={"template": leases.template()})
    leases.await_condition("work_a", "SandboxReady", "True", "Running")
    (pod,) = leases.pods().values()
    owner = (leases.get("work_a") or {})["metadata"]
    assert pod["metadata"]["name"].startswith("work-a-")
    assert pod["metadata"]["labels"] == {
        "app": "sandbox",
        "worklease.dev/environment-id": simulator.environment_id,
        "worklease.dev/work-id": "work_a",
    }
    (reference,) = pod["metadata"]["ownerReferences"]
    assert (reference["uid"], reference["controller"]) == (owner["uid"], True)
    assert pod["spec"]["restartPolicy"] == "Never"
    assert pod["spec"]["automountServiceAccountToken"] is False
    told = {entry["name"]: entry for entry in pod["spec"]["containers"][0]["env"]}
    assert told["ANTHROPIC_WORK_ID"]["value"] == "work_a"
    assert told["ANTHROPIC_ENVIRONMENT_ID"]["value"] == simulator.environment_id
    assert told["ANTHROPIC_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"]["key"] == "sessions-token"
    assert simulator.environment_key not in str(pod)
    status = leases.status("work_a")
    assert [entry["podUID"] for entry in status["sandboxes"]] == [pod["metadata"]["uid"]]
    assert status["restarts"] == 0
    assert check_history(simulator.history()) == []


def test_no_pod_is_made_for_an_item_that_another_holds(leases: Leases, simulator: Simulator) -> None:
    simulator.create_item("work_a")
    simulator.steal_item("work_a")
    leases.create("work_a", sandbox={"template": leases.template()})
    leases.await_condition("work_a", "LeaseHeld", "False", "HeldByAnother")
    assert leases.pods() == {}
    assert leases.condition("work_a", "SandboxReady")[1] == "Creating"


def test_the_template_is_refused(leases: Leases, simulator: Simulator) -> None:
    simulator.create_item("work_a")
    wrong = leases.template()
    wrong["spec"]["containers"][0]["imagePullPolicy"] = "Sometimes"
    leases.create("work_a", sandbox={"template": wrong})
    message = leases.await_condition("work_a", "LeaseHeld", "False", "InvalidSpec")
    assert "imagePullPolicy" in message
    assert [entry for entry in simulator.history("work_a") if entry.get("call") == "heartbeat"] == []
    leases.edit("work_a", {"sandbox": {"template": leases.template()}})
    leases.await_condition("work_a", "SandboxReady", "True")


def test_a_sandbox_that_has_finished_stops_its_item(leases: Leases, simulator: Simulator) -> None:
    simulator.create_item("work_a")
    leases.create("work_a", sandbox={"template": leases.template(exit_code="0", exit_after="2s")})
    message = leases.await_condition("work_a", "Finished", "True", "Stopped")
    assert "has finished" in message
    assert simulator.item("work_a")["state"] == "stopped"
    assert (current(leases)["phase"], current(leases)["exitCode"]) == ("Succeeded", 0)
    assert leases.pods() == {}
    assert stops(simulator) == ["stopped"]
    assert "SandboxSucceeded" in leases.reasons("work_a")


def test_a_sandbox_that_ran_out_of_memory_stops_its_item_and_says_why(leases: Leases, simulator: Simulator) -> None:
    simulator.create_item("work_a")
    oom = leases.template(exit_code="137", exit_after="2s", exit_reason="OOMKilled")
    leases.create("work_a", sandbox={"template": oom})
    message = leases.await_condition("work_a", "Finished", "True", "Stopped")
    assert "ran out of memory" in message
    assert (current(leases)["reason"], current(leases)["exitCode"]) == ("OOMKilled", 137)
    assert current(leases)["finishTime"]
    assert leases.pods() == {}
    assert "SandboxFailed" in leases.reasons("work_a")


def test_a_failed_sandbox_is_made_anew_under_the_same_lease_as_often_as_the_spec_says(
    leases: Leases, simulator: Simulator
) -> None:
    simulator.create_item("work_a")
    failing = leases.template(exit_code="1", exit_after="1s")
    leases.create("work_a", sandbox={"template": failing, "onFailure": "Restart", "maxRestarts": 2})
    leases.await_condition("work_a", "SandboxReady", "False", "Restarting")
    message = leases.await_condition("work_a", "Finished", "True", "Stopped", seconds=60)
    assert "exit code 1" in message
    assert leases.status("work_a")["restarts"] == 2
    assert len({entry["podUID"] for entry in leases.status("work_a")["sandboxes"]}) == 3
    assert leases.pods() == {}
    assert check_history(simulator.history()) == []
    assert leases.reasons("work_a").count("SandboxCreated") == 3


def test_a_failed_sandbox_releases_its_item_where_the_spec_says_so(leases: Leases, simulator: Simulator) -> None:
    simulator.create_item("work_a")
    failing = leases.template(exit_code="1", exit_after="1s")
    leases.create("work_a", sandbox={"template": failing, "onFailure": "Release"})
    leases.await_condition("work_a", "Finished", "True", "Released")
    assert leases.pods() == {}
    assert stops(simulator) == []
    wait_for(lambda: simulator.item("work_a")["state"] == "queued", seconds=30, what="the item's return to the queue")


def test_a_failed_pod_is_kept_where_the_spec_says_so(leases: Leases, simulator: Simulator) -> None:
    simulator.create_item("work_a")
    failing = leases.template(exit_code="1", exit_after="1s")
    leases.create("work_a", sandbox={"template": failing, "keepFailedPod": True})
    leases.await_condition("work_a", "Finished", "True", "Stopped")
    (pod,) = leases.pods().values()
    assert pod["metadata"]["labels"]["worklease.dev/work-id"] == "work_a"
    assert "is kept for its logs" in leases.condition("work_a", "SandboxReady")[2]


def test_an_image_that_cannot_be_pulled_is_shown_while_it_lasts_and_fails_at_the_deadline(
    leases: Leases, simulator: Simulator
) -> None:
    simulator.create_item("work_a")
    leases.create("work_a", sandbox={"template": leases.template(waits=True), "startDeadlineSeconds": 8})
    waiting = {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "busybox"'}
    container = {"name": "sandbox", "image": "busybox", "imageID": "", "ready": False, "restartCount": 0}
    leases.play(leases.await_pod(), containerStatuses=[container | {"state": {"waiting": waiting}}])
    message = leases.await_condition("work_a", "SandboxReady", "False", "ImagePullFailed")
    assert 'Back-off pulling image "busybox"' in message
    message = leases.await_condition("work_a", "Finished", "True", "Stopped", seconds=40)
    assert "did not start in time" in message
    assert leases.pods() == {}
    assert simulator.item("work_a")["state"] == "stopped"


def test_a_pod_that_has_no_place_is_shown(leases: Leases, simulator: Simulator) -> None:
    simulator.create_item("work_a")
    template = leases.template()
    template["spec"]["nodeSelector"] = {"tests.worklease.dev/no": "such-node"}
    leases.create("work_a", sandbox={"template": template})
    assert "node" in leases.await_condition("work_a", "SandboxReady", "False", "Unschedulable")


def test_a_pod_that_somebody_deletes_is_a_failure(leases: Leases, simulator: Simulator) -> None:
    simulator.create_item("work_a")
    leases.create("work_a", sandbox={"template": leases.template()})
    leases.await_condition("work_a", "SandboxReady", "True")
    leases.delete_pod(leases.await_pod())
    message = leases.await_condition("work_a", "Finished", "True", "Stopped")
    assert "was deleted by somebody else" in message
    assert simulator.item("work_a")["state"] == "stopped"


def test_an_evicted_pod_is_a_failure_that_a_restart_mends(leases: Leases, simulator: Simulator) -> None:
    simulator.create_item("work_a")
    leases.create("work_a", sandbox={"template": leases.template(), "onFailure": "Restart"})
    leases.await_condition("work_a", "SandboxReady", "True")
    first = leases.await_pod()
    leases.play(first, phase="Failed", reason="Evicted", message="The node was low on resource: memory.")
    second = leases.await_pod(besides=[first], seconds=40)
    leases.await_condition("work_a", "SandboxReady", "True")
    assert set(leases.pods()) == {second}
    status = leases.status("work_a")
    assert status["restarts"] == 1
    assert [entry["reason"] for entry in status["sandboxes"][1:]] == ["Evicted"]
    assert stops(simulator) == []


def test_a_finished_resource_is_deleted_when_it_has_been_kept_long_enough(leases: Leases, simulator: Simulator) -> None:
    simulator.create_item("work_a")
    simulator.create_item("work_b")
    leases.create("work_a", "work_b", ttlSecondsAfterFinished=2)
    leases.await_condition("work_a", "LeaseHeld", "True")
    simulator.stop_item("work_a", force=True)
    wait_for(lambda: leases.get("work_a") is None, seconds=30, what="the deletion of the finished resource")
    assert leases.condition("work_b", "LeaseHeld")[0] == "True"


def test_an_operator_that_starts_again_makes_no_second_pod(
    leases: Leases, simulator: Simulator, operator: Operator
) -> None:
    simulator.create_item("work_a")
    leases.create("work_a", sandbox={"template": leases.template()})
    leases.await_condition("work_a", "SandboxReady", "True")
    uid = current(leases)["podUID"]
    operator.kill()
    operator.start()
    beats = len(simulator.history("work_a"))
    wait_for(lambda: len(simulator.history("work_a")) > beats + 2, seconds=30, what="beats of the new process")
    (pod,) = leases.pods().values()
    assert pod["metadata"]["uid"] == uid
    assert leases.condition("work_a", "SandboxReady")[0] == "True"
    assert leases.reasons("work_a").count("Claimed") == 1


def test_the_way_out_without_an_operator_works(
    leases: Leases, simulator: Simulator, operator: Operator, control_plane: ControlPlane
) -> None:
    simulator.create_item("work_a")
    leases.create("work_a", sandbox={"template": leases.template()})
    leases.await_condition("work_a", "SandboxReady", "True")
    operator.kill()
    leases.delete("work_a")
    patch = '[{"op":"remove","path":"/metadata/finalizers"}]'
    control_plane.kubectl("-n", leases.namespace, "patch", "worklease", "work-a", "--type=json", "-p", patch)
    assert leases.get("work_a") is None
    wait_for(lambda: leases.pods() == {}, seconds=40, what="the end of the pod, with its owner")
