"""docs/what-happens-when.md, "Before the sandbox runs": each test is the row of its name."""

import time
from typing import Any

import pytest

from controlplane import ControlPlane, wait_for
from support.admission import WEBHOOK, allow_all_pods, allow_pods, silent_webhook
from support.cluster import path_of
from support.judge import check_history
from support.kube_proxy import Answer, Hold, KubeProxy
from support.operator import Leases
from support.sandboxes import (
    ITEM,
    STARTED,
    await_event,
    await_reasons,
    calls,
    current,
    let_wait,
    mounted,
    stops,
    with_workspace,
    written,
)
from support.simulator import Simulator

pytestmark = pytest.mark.usefixtures("operator")


def fails_at_the_deadline(leases: Leases, simulator: Simulator, words: str) -> None:
    """Check that an obstacle until the start deadline is a failure, and stops the item."""
    message = leases.await_condition(ITEM, "Finished", "True", "Stopped", seconds=60)
    assert words in message
    assert leases.pods() == {}
    assert stops(simulator)[-1] == "stopped"
    assert await_event(leases, "SandboxFailed")["type"] == "Warning"
    assert check_history(simulator.history()) == []


def test_the_template_is_refused(leases: Leases, simulator: Simulator) -> None:
    simulator.create_item(ITEM)
    wrong = leases.template()
    wrong["spec"]["containers"][0]["imagePullPolicy"] = "Sometimes"
    leases.create(ITEM, sandbox={"template": wrong})
    message = leases.await_condition(ITEM, "LeaseHeld", "False", "InvalidSpec")
    assert "imagePullPolicy" in message
    assert "the item is not claimed" in message
    assert calls(simulator, "heartbeat") == []
    leases.edit(ITEM, {"sandbox": {"template": leases.template()}})
    leases.await_condition(ITEM, "SandboxReady", "True")


def test_another_worker_holds_the_item(leases: Leases, simulator: Simulator) -> None:
    simulator.create_item(ITEM)
    simulator.steal_item(ITEM)
    leases.create(ITEM, sandbox={"template": leases.template()})
    leases.await_condition(ITEM, "LeaseHeld", "False", "HeldByAnother")
    assert {entry["expected"] for entry in calls(simulator, "heartbeat")} == {"NO_HEARTBEAT"}
    assert leases.pods() == {}
    assert leases.condition(ITEM, "SandboxReady")[1] == "Creating"
    await_reasons(leases, "HeldByAnother")
    simulator.requeue_item(ITEM)
    leases.await_condition(ITEM, "Finished", "True", "Requeued", seconds=75)
    assert calls(simulator, "stop") == []


def test_one_key_is_asked_to_wait(leases: Leases, simulator: Simulator) -> None:
    simulator.set_environment_keys(simulator.environment_id, simulator.environment_key, "another-key")
    leases.put_key("another-key", secret="other")
    for item in ("work_b", "work_c", "work_d"):
        simulator.create_item(item)
    simulator.inject("status", status=429, retry_after=3600, item="work_b", times=1)
    other = {"name": "other"}
    leases.create("work_b", credentialsSecretRef=other)
    simulator.wait_for(lambda entries: any(e.get("status") == 429 for e in entries), timeout=20)
    leases.create("work_c", credentialsSecretRef=other)
    leases.create("work_d")
    message = leases.await_condition("work_c", "LeaseHeld", "False", "Throttled")
    assert "Retry-After" in message
    leases.await_condition("work_d", "LeaseHeld", "True", "Renewed")
    assert calls(simulator, "heartbeat", "work_c") == []


def test_the_checkpoint_cannot_be_written(leases: Leases, simulator: Simulator, proxy: KubeProxy) -> None:
    simulator.create_item(ITEM)
    no_room = Answer(403, "exceeded quota: objects, requested: count/configmaps=1")
    with proxy.fault(no_room, verb="patch", resource="configmaps"):
        leases.create(ITEM, sandbox={"template": leases.template()})
        message = leases.await_condition(ITEM, "LeaseHeld", "False", "CheckpointUnavailable")
        assert "worklease-bucket-" in message
        assert "exceeded quota" in message
        assert calls(simulator, "heartbeat") == []
    leases.await_condition(ITEM, "SandboxReady", "True")
    await_reasons(leases, "CheckpointUnavailable", "Claimed", "SandboxCreated", "SandboxStarted")


def test_an_older_resource_cannot_claim_the_item(leases: Leases, simulator: Simulator) -> None:
    simulator.create_item(ITEM)
    leases.create(ITEM, credentialsSecretRef={"name": "missing"})
    leases.await_condition(ITEM, "LeaseHeld", "False", "CredentialsMissing")
    body = leases.get(ITEM) or {}
    spec = {key: value for key, value in body["spec"].items() if key != "credentialsSecretRef"}
    leases.apply({"apiVersion": body["apiVersion"], "kind": body["kind"], "metadata": {"name": "young"}, "spec": spec})
    leases.await_condition("young", "LeaseHeld", "True", "Renewed")
    leases.await_condition(ITEM, "LeaseHeld", "False", "Duplicate")


def queued(leases: Leases, simulator: Simulator, **spec: Any) -> None:
    """Create an item that waits in the queue, and a resource that acknowledges it."""
    simulator.create_item(ITEM, state="queued")
    named = {"name": "token"}
    leases.create(ITEM, sandbox={"template": leases.template()}, acknowledge=True, sessionsTokenSecretRef=named, **spec)


def token(name: str = "token") -> dict[str, Any]:
    """Return a Secret with an item's own token."""
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {"sessions-token": "t"}}


def test_the_item_is_to_be_acknowledged(leases: Leases, simulator: Simulator) -> None:
    leases.apply(token())
    queued(leases, simulator, sessionID="sesn_1")
    leases.await_condition(ITEM, "SandboxReady", "True", "Running")
    assert [entry["call"] for entry in simulator.history(ITEM) if "call" in entry][:2] == ["ack", "heartbeat"]
    (pod,) = leases.pods().values()
    told = {entry["name"]: entry for entry in pod["spec"]["containers"][0]["env"]}
    assert told["ANTHROPIC_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"]["name"] == "token"
    assert told["ANTHROPIC_SESSION_ID"]["value"] == "sesn_1"
    assert check_history(simulator.history()) == []


def test_the_token_of_the_item_is_missing(leases: Leases, simulator: Simulator) -> None:
    queued(leases, simulator)
    message = leases.await_condition(ITEM, "LeaseHeld", "False", "TokenMissing")
    assert "sessions-token" in message
    assert simulator.item(ITEM)["state"] == "queued"
    leases.apply(token())
    leases.await_condition(ITEM, "LeaseHeld", "True", "Renewed")


def test_another_worker_acknowledged_the_item(leases: Leases, simulator: Simulator) -> None:
    simulator.create_item(ITEM)
    leases.create(ITEM, acknowledge=True)
    leases.await_condition(ITEM, "Finished", "True", "AckRefused")
    assert simulator.item(ITEM)["state"] == "starting"
    assert calls(simulator, "heartbeat") == calls(simulator, "stop") == []


def test_an_earlier_pod_of_the_session_has_not_ended(leases: Leases, simulator: Simulator) -> None:
    first, second = "work_b", "work_c"
    for item in (first, second):
        simulator.create_item(item)
    leases.create(first, sandbox={"template": leases.template()}, sessionID="sesn_1")
    leases.await_condition(first, "SandboxReady", "True", "Running")
    (earlier,) = leases.pods()
    leases.create(second, sandbox={"template": leases.template()}, sessionID="sesn_1")
    assert earlier in leases.await_condition(second, "SandboxReady", "False", "PredecessorEnding")
    assert list(leases.pods()) == [earlier]
    simulator.stop_item(first)
    leases.await_condition(second, "SandboxReady", "True", "Running")
    assert earlier not in leases.pods()


def test_the_volume_of_the_session_is_being_deleted(
    leases: Leases, simulator: Simulator, control_plane: ControlPlane
) -> None:
    labels = {"worklease.dev/session-id": ITEM, "worklease.dev/environment-id": simulator.environment_id}
    sandbox = with_workspace(leases, keep=3600)
    metadata = {"name": "former", "labels": labels, "finalizers": ["tests.worklease.dev/held-up"]}
    claim = sandbox["workspace"]["volumeClaimTemplate"]
    leases.apply({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata} | claim)
    path = f"{path_of(leases.namespace, 'PersistentVolumeClaim')}/former"
    control_plane.demand("DELETE", path)
    simulator.create_item(ITEM)
    leases.create(ITEM, sandbox=sandbox)
    message = leases.await_condition(ITEM, "SandboxReady", "False", "VolumeBusy")
    assert "PersistentVolumeClaim former of the session is being deleted" in message
    assert leases.pods() == {}
    unheld = {"metadata": {"finalizers": None}}
    control_plane.demand("PATCH", path, unheld, content_type="application/merge-patch+json")
    leases.await_condition(ITEM, "SandboxReady", "True", "Running")
    (pod,) = leases.pods().values()
    assert [mounted(pod)] == list(leases.volumes())
    assert check_history(simulator.history()) == []


def test_the_item_is_claimed(leases: Leases, simulator: Simulator, proxy: KubeProxy) -> None:
    simulator.create_item(ITEM)
    with proxy.fault(Hold(), verb="create", resource="pods", skip=1):  # the dry run comes first
        leases.create(ITEM, sandbox={"template": leases.template(waits=True)})
        leases.await_condition(ITEM, "SandboxReady", "False", "Creating")
    leases.await_condition(ITEM, "SandboxReady", "False", "Pending")
    assert leases.condition(ITEM, "LeaseHeld")[:2] == ("True", "Renewed")
    leases.bind_pod(leases.await_pod())
    leases.await_condition(ITEM, "SandboxReady", "True", "Running")
    shown = written(proxy, "SandboxReady")
    assert shown[shown.index(("False", "Creating")) :] == [
        ("False", "Creating"),
        ("False", "Pending"),
        ("True", "Running"),
    ]
    (pod,) = leases.pods().values()
    assert [entry["podUID"] for entry in leases.status(ITEM)["sandboxes"]] == [pod["metadata"]["uid"]]
    assert leases.status(ITEM)["restarts"] == 0
    await_reasons(leases, *STARTED)
    is_as_the_template_asks(leases, simulator, pod)
    assert check_history(simulator.history()) == []


def is_as_the_template_asks(leases: Leases, simulator: Simulator, pod: dict[str, Any]) -> None:
    """Check the pod's name, labels, owner and variables, and that the environment's key is not in it."""
    owner = (leases.get(ITEM) or {})["metadata"]
    assert pod["metadata"]["name"].startswith("work-a-")
    assert pod["metadata"]["labels"] == {
        "app": "sandbox",
        "worklease.dev/environment-id": simulator.environment_id,
        "worklease.dev/work-id": ITEM,
    }
    (reference,) = pod["metadata"]["ownerReferences"]
    assert (reference["uid"], reference["controller"]) == (owner["uid"], True)
    assert pod["spec"]["restartPolicy"] == "Never"
    assert pod["spec"]["automountServiceAccountToken"] is False
    told = {entry["name"]: entry for entry in pod["spec"]["containers"][0]["env"]}
    assert told["ANTHROPIC_WORK_ID"]["value"] == ITEM
    assert told["ANTHROPIC_ENVIRONMENT_ID"]["value"] == simulator.environment_id
    assert told["ANTHROPIC_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"]["key"] == "sessions-token"
    assert simulator.environment_key not in str(pod)


def test_a_labelled_pod_arrives_later(leases: Leases, simulator: Simulator) -> None:
    simulator.create_item(ITEM)
    leases.create(ITEM, sandbox={})
    leases.await_condition(ITEM, "SandboxReady", "False", "NoPod")
    leases.apply(leases.pod("somebodys", ITEM))
    leases.await_condition(ITEM, "SandboxReady", "True", "Running")
    uid = leases.pods()["somebodys"]["metadata"]["uid"]
    assert (current(leases)["podName"], current(leases)["podUID"]) == ("somebodys", uid)
    assert set(leases.pods()) == {"somebodys"}


def test_the_pod_s_creation_is_refused(
    leases: Leases, simulator: Simulator, proxy: KubeProxy, control_plane: ControlPlane
) -> None:
    simulator.create_item(ITEM)
    simulator.create_item("work_patient")
    leases.drop_key()
    leases.create(ITEM, sandbox={"template": leases.template(), "startDeadlineSeconds": 8})
    leases.create("work_patient", sandbox={"template": leases.template()})
    for item in (ITEM, "work_patient"):  # the template is checked before
        leases.await_condition(item, "LeaseHeld", "False", "CredentialsMissing")
    label = ("--namespace", leases.namespace, "label", "namespace", leases.namespace, "--overwrite")
    control_plane.kubectl(*label, "pod-security.kubernetes.io/enforce=restricted")
    rehearsed = len(proxy.requests("create", "pods"))
    leases.put_key(simulator.environment_key)
    for item in (ITEM, "work_patient"):
        message = leases.await_condition(item, "SandboxReady", "False", "CreationRefused", seconds=60)
        assert "violates PodSecurity" in message
    fails_at_the_deadline(leases, simulator, "violates PodSecurity")
    assert len(proxy.requests("create", "pods")) > rehearsed + 3
    control_plane.kubectl(*label, "pod-security.kubernetes.io/enforce=privileged")
    leases.await_condition("work_patient", "SandboxReady", "True", "Running")


def test_the_quota_has_no_room(leases: Leases, simulator: Simulator, control_plane: ControlPlane) -> None:
    allow_pods(control_plane, leases, 0)
    simulator.create_item(ITEM)
    leases.create(ITEM, sandbox={"template": leases.template()})
    message = leases.await_condition(ITEM, "LeaseHeld", "False", "QuotaExceeded")
    assert "exceeded quota: some-pods" in message
    assert "the item is not claimed" in message
    assert calls(simulator, "heartbeat") == []
    allow_all_pods(control_plane, leases)
    leases.await_condition(ITEM, "SandboxReady", "True", "Running", seconds=60)


def test_the_quota_is_used_up_after_the_claim(
    leases: Leases, simulator: Simulator, control_plane: ControlPlane
) -> None:
    """Two leases claim where one pod fits: a dry run reserves nothing."""
    both = {ITEM, "work_b"}
    leases.drop_key()
    for item in both:
        simulator.create_item(item)
        leases.create(item, sandbox={"template": leases.template(), "startDeadlineSeconds": 6, "onFailure": "Stop"})
        leases.await_condition(item, "LeaseHeld", "False", "CredentialsMissing")
    allow_pods(control_plane, leases, 1)
    leases.put_key(simulator.environment_key)

    def shown() -> list[str]:
        return [leases.condition(item, "SandboxReady")[1] for item in both]

    wait_for(lambda: "QuotaExceeded" in shown(), seconds=60, what="a refusal")
    (late,) = [item for item in both if leases.condition(item, "SandboxReady")[1] == "QuotaExceeded"]
    (first,) = both - {late}
    assert leases.condition(late, "LeaseHeld")[:2] == ("True", "Renewed")
    message = leases.await_condition(late, "Finished", "True", "Released", seconds=60)
    assert "exceeded quota: some-pods" in message
    assert stops(simulator, late) == []
    leases.await_condition(first, "SandboxReady", "True", "Running")
    assert check_history(simulator.history(), released=[late]) == []


def test_an_admission_webhook_does_not_answer(
    leases: Leases, simulator: Simulator, proxy: KubeProxy, control_plane: ControlPlane
) -> None:
    simulator.create_item(ITEM)
    with silent_webhook(control_plane, leases.namespace):
        leases.create(ITEM, sandbox={"template": leases.template()})
        message = leases.await_condition(ITEM, "LeaseHeld", "False", "AdmissionUnavailable")
        assert f'failed calling webhook "{WEBHOOK}"' in message
        assert calls(simulator, "heartbeat") == []
        wait_for(lambda: len(proxy.requests("create", "pods")) >= 3, seconds=30, what="three dry runs")
        first, second, third = [asked.at for asked in proxy.requests("create", "pods")][:3]
        assert second - first > 0.9
        assert third - second > 1.9
    leases.await_condition(ITEM, "SandboxReady", "True", "Running", seconds=60)


def test_a_scheduling_gate_holds_the_pod_back(
    leases: Leases, simulator: Simulator, control_plane: ControlPlane
) -> None:
    simulator.create_item(ITEM)
    template = leases.template()
    template["spec"]["schedulingGates"] = [{"name": "tests.worklease.dev/admission"}]
    leases.create(ITEM, sandbox={"template": template, "startDeadlineSeconds": 3})
    message = leases.await_condition(ITEM, "SandboxReady", "False", "SchedulingGated")
    assert "tests.worklease.dev/admission" in message
    made = time.monotonic()
    wait_for(lambda: time.monotonic() > made + 4, seconds=30, what="what would be the start deadline")
    assert leases.condition(ITEM, "SandboxReady")[1] == "SchedulingGated"
    assert leases.condition(ITEM, "LeaseHeld")[:2] == ("True", "Renewed")
    ungated = ("patch", "pod", leases.await_pod(), "--type=merge", "-p", '{"spec":{"schedulingGates":[]}}')
    control_plane.kubectl("--namespace", leases.namespace, *ungated)
    leases.await_condition(ITEM, "SandboxReady", "True", "Running", seconds=60)
    assert stops(simulator) == []


def test_an_image_cannot_be_pulled(leases: Leases, simulator: Simulator) -> None:
    simulator.create_item(ITEM)
    leases.create(ITEM, sandbox={"template": leases.template(waits=True), "startDeadlineSeconds": 8})
    let_wait(leases, leases.await_pod(), "ImagePullBackOff", 'Back-off pulling image "busybox"')
    message = leases.await_condition(ITEM, "SandboxReady", "False", "ImagePullFailed")
    assert 'Back-off pulling image "busybox"' in message
    assert "counts as failed at" in message
    fails_at_the_deadline(leases, simulator, "did not start in time: ImagePullBackOff: Back-off pulling image")


def test_a_pod_has_no_place(leases: Leases, simulator: Simulator) -> None:
    simulator.create_item(ITEM)
    template = leases.template()
    template["spec"]["nodeSelector"] = {"tests.worklease.dev/no": "such-node"}
    leases.create(ITEM, sandbox={"template": template, "startDeadlineSeconds": 8})
    message = leases.await_condition(ITEM, "SandboxReady", "False", "Unschedulable")
    assert "didn't match Pod's node affinity/selector" in message
    fails_at_the_deadline(leases, simulator, "did not start in time")


def test_a_container_crashes_again_and_again(leases: Leases, simulator: Simulator) -> None:
    simulator.create_item(ITEM)
    template = leases.template(waits=True)
    template["spec"]["restartPolicy"] = "Always"
    leases.create(ITEM, sandbox={"template": template, "startDeadlineSeconds": 6})
    pod, made = leases.await_pod(), time.monotonic()
    leases.play(pod, phase="Running", conditions=[{"type": "Ready", "status": "True"}])
    leases.await_condition(ITEM, "SandboxReady", "True", "Running")
    # The start deadline has passed: a running pod has met it.
    wait_for(lambda: time.monotonic() > made + 7, seconds=30, what="the start deadline")
    assert leases.condition(ITEM, "SandboxReady")[:2] == ("True", "Running")
    let_wait(leases, pod, "CrashLoopBackOff", "back-off 10s restarting", phase="Running", restarts=3)
    message = leases.await_condition(ITEM, "SandboxReady", "False", "CrashLoop")
    assert "restarted 3 times" in message
    assert "counts as failed at" in message
    fails_at_the_deadline(leases, simulator, "CrashLoopBackOff: back-off 10s restarting")


def test_a_container_is_configured_wrong(leases: Leases, simulator: Simulator) -> None:
    simulator.create_item(ITEM)
    leases.create(ITEM, sandbox={"template": leases.template(waits=True), "startDeadlineSeconds": 8})
    let_wait(leases, leases.await_pod(), "CreateContainerConfigError", 'secret "settings" not found')
    message = leases.await_condition(ITEM, "SandboxReady", "False", "ConfigError")
    assert 'secret "settings" not found' in message
    fails_at_the_deadline(leases, simulator, 'secret "settings" not found')


def test_the_pod_is_rejected_by_its_node(leases: Leases, simulator: Simulator) -> None:
    simulator.create_item(ITEM)
    leases.create(ITEM, sandbox={"template": leases.template(waits=True)})
    pod = leases.await_pod()
    first = leases.pods()[pod]["metadata"]["uid"]
    leases.await_condition(ITEM, "SandboxReady", "False", "Pending")
    leases.play(pod, phase="Failed", reason="OutOfcpu", message="Pod was rejected: Node didn't have enough resource")
    message = leases.await_condition(ITEM, "SandboxReady", "False", "PodRejected")
    assert "was rejected by its node: OutOfcpu: Pod was rejected" in message
    wait_for(
        lambda: leases.pods().get(pod, {}).get("metadata", {}).get("uid", first) != first, seconds=30, what="a pod"
    )
    leases.await_condition(ITEM, "SandboxReady", "False", "Pending")
    assert leases.status(ITEM)["restarts"] == 0
    assert [entry["reason"] for entry in leases.status(ITEM)["sandboxes"][1:]] == ["OutOfcpu"]
    assert stops(simulator) == []
    assert leases.reasons(ITEM).count("SandboxFailed") == 0


def test_no_pod_ever_comes(leases: Leases, simulator: Simulator) -> None:
    simulator.create_item(ITEM)
    leases.create(ITEM, sandbox={"startDeadlineSeconds": 6})
    leases.await_condition(ITEM, "LeaseHeld", "True")
    message = leases.await_condition(ITEM, "SandboxReady", "False", "NoPod")
    assert "counts as failed at" in message
    fails_at_the_deadline(leases, simulator, "No sandbox pod appeared within 6 s")
    assert "(StartDeadlineExceeded)" in await_event(leases, "SandboxFailed")["note"]
