"""Which containers of a pod speak for the sandbox: those that the template names, and none that was injected."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from worklease.cluster import pod_reading
from worklease.cluster.pod_reading import read_pod
from worklease.rules.pods import Ailment, Cause, Pod, Result, cause_of, ending_of, is_disruption
from worklease_proxy import answers

TOLD = {"worklease.dev/sandbox-containers": "sandbox"}
EARLY, LATE = "2026-11-22T03:52:26Z", "2026-11-22T03:52:36Z"


def pod(
    *statuses: dict[str, Any],
    phase: str = "Running",
    initial: tuple[dict[str, Any], ...] = (),
    spec: dict[str, Any] | None = None,
    metadata: dict[str, Any] | None = None,
    **status: Any,
) -> Pod:
    names = [entry["name"] for entry in statuses] or ["sandbox"]
    asked = {"restartPolicy": "Never", "containers": [{"name": name} for name in names]}
    asked["initContainers"] = [{"name": entry["name"]} for entry in initial]
    shown = {"containerStatuses": list(statuses), "initContainerStatuses": list(initial)}
    return read_pod(
        {
            "metadata": {"name": "sandbox-1", "uid": "u", "annotations": TOLD} | (metadata or {}),
            "spec": asked | (spec or {}),
            "status": {"phase": phase} | shown | status,
        }
    )


def entry(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "restartCount": 0} | more


def runs(name: str, **more: Any) -> dict[str, Any]:
    return entry(name, state={"running": {"startedAt": EARLY}}, ready=True, **more)


def ended(name: str, code: int, at: str | None = EARLY, **more: Any) -> dict[str, Any]:
    said = {"exitCode": code, "reason": "Error" if code else "Completed"} | ({"finishedAt": at} if at else {})
    return entry(name, state={"terminated": said | more})


def waits(name: str, reason: str, **more: Any) -> dict[str, Any]:
    return entry(name, state={"waiting": {"reason": reason, "message": "in the kubelet's words"}}, **more)


MESH = runs("mesh")
CRASHES = waits("mesh", "CrashLoopBackOff", lastState={"terminated": {"exitCode": 1}})


# --- How long it may run on --------------------------------------------------------------------------------------

HOOK = {"preStop": {"exec": {"command": ["save"]}}}


@pytest.mark.parametrize(
    ("spec", "overtime"),
    [
        ({"containers": [{"name": "sandbox"}]}, 0.0),
        ({"containers": [{"name": "sandbox"}], "terminationGracePeriodSeconds": 0}, 2.0),
        ({"containers": [{"name": "sandbox"}], "terminationGracePeriodSeconds": 1}, 1.0),
        ({"containers": [{"name": "sandbox", "lifecycle": HOOK}]}, 2.0),
        ({"containers": [{"name": "sandbox", "lifecycle": {"postStart": {}}}]}, 0.0),
        ({"initContainers": [{"name": "mesh", "restartPolicy": "Always"}]}, 2.0),
        ({"initContainers": [{"name": "prepare"}]}, 0.0),
    ],
)
def test_a_hook_and_a_native_sidecar_may_run_beyond_the_pods_grace(spec: dict[str, Any], overtime: float) -> None:
    assert pod(spec=spec).overtime == overtime


# --- The end -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "result"), [(0, Result.SUCCEEDED), (3, Result.FAILED)])
def test_a_sandbox_has_ended_though_an_injected_container_keeps_its_pod_running(code: int, result: Result) -> None:
    seen = pod(MESH, ended("sandbox", code, message="the last words"))
    assert (seen.phase, seen.result, seen.exit_code, seen.message) == ("Running", result, code, "the last words")
    assert seen.finish_time == datetime(2026, 11, 22, 3, 52, 26, tzinfo=UTC)


def test_an_injected_container_that_failed_does_not_fail_the_sandbox() -> None:
    seen = pod(ended("mesh", 137), ended("sandbox", 0), phase="Failed")
    assert (seen.result, seen.exit_code, cause_of(seen)) == (Result.SUCCEEDED, 0, Cause.SUCCEEDED)


def test_a_native_sidecar_that_was_killed_says_nothing_of_a_pod_that_finished() -> None:
    sidecar = {"initContainers": [{"name": "mesh", "restartPolicy": "Always"}]}
    for annotations in (TOLD, {}):
        seen = pod(
            ended("sandbox", 0),
            phase="Succeeded",
            initial=(ended("mesh", 137),),
            spec=sidecar,
            metadata={"annotations": annotations},
        )
        assert (seen.exit_code, seen.reason, cause_of(seen)) == (0, "Completed", Cause.SUCCEEDED)


def test_a_sandbox_of_several_containers_ends_with_the_last_and_fails_with_the_first_that_failed() -> None:
    both = {"annotations": {"worklease.dev/sandbox-containers": "agent,tools"}}
    goes_on = pod(ended("agent", 0), runs("tools"), MESH, metadata=both)
    assert (goes_on.result, cause_of(goes_on)) == (None, None)
    over = pod(ended("agent", 1, LATE, message="second"), ended("tools", 2, message="first"), MESH, metadata=both)
    assert (over.result, over.exit_code, over.message) == (Result.FAILED, 2, "first")
    assert over.finish_time == datetime(2026, 11, 22, 3, 52, 36, tzinfo=UTC)


@pytest.mark.parametrize(
    ("policy", "code", "is_over"),
    [
        ({"restartPolicy": "Never"}, 1, True),
        ({"restartPolicy": "OnFailure"}, 1, False),
        ({"restartPolicy": "OnFailure"}, 0, True),
        ({"restartPolicy": "Always"}, 0, False),
        ({}, 0, False),
    ],
    ids=["never", "on failure, and failed", "on failure, and finished", "always", "by default, always"],
)
def test_a_container_that_is_started_again_has_not_ended(policy: dict[str, Any], code: int, *, is_over: bool) -> None:
    spec = {"containers": [{"name": "mesh"}, {"name": "sandbox"}], "restartPolicy": None} | policy
    assert (pod(MESH, ended("sandbox", code), spec=spec).result is not None) is is_over
    mark = {"deletionTimestamp": LATE, "annotations": TOLD}
    assert pod(ended("sandbox", code), spec=spec, metadata=mark).result is not None, "what is deleted is not started"


@pytest.mark.parametrize(
    ("policy", "restarts", "code", "ailment"),
    [
        ("Always", 0, 1, None),
        ("Always", 1, 1, Ailment.CRASH_LOOP),
        ("OnFailure", 3, 1, Ailment.CRASH_LOOP),
        ("Always", 3, 0, None),
        ("Never", 1, 1, None),
    ],
)
def test_a_container_that_failed_after_a_restart_waits_for_the_next_one(
    policy: str, restarts: int, code: int, ailment: Ailment | None
) -> None:
    status = ended("sandbox", code) | {"restartCount": restarts}
    assert pod(status, spec={"restartPolicy": policy}).ailment is ailment
    mark = {"deletionTimestamp": LATE, "annotations": TOLD}
    assert pod(status, spec={"restartPolicy": policy}, metadata=mark).ailment is None, "what is deleted is not started"


@pytest.mark.parametrize(
    ("container", "code", "is_over"),
    [
        ({"restartPolicy": "Always"}, 0, False),
        ({"restartPolicy": "OnFailure"}, 0, True),
        ({"restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]}, 42, False),
        ({"restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]}, 43, True),
        ({"restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "NotIn", "values": [0]}}]}, 1, False),
    ],
)
def test_a_container_may_have_a_restart_policy_of_its_own(
    container: dict[str, Any], code: int, *, is_over: bool
) -> None:
    spec = {"containers": [{"name": "mesh"}, {"name": "sandbox"} | container]}
    assert (pod(MESH, ended("sandbox", code), spec=spec).result is not None) is is_over


@pytest.mark.parametrize("code", [0, 137])
def test_a_pod_of_which_nothing_runs_has_ended_with_its_phase_which_says_why(code: int) -> None:
    assert cause_of(pod(ended("sandbox", code))) is None
    evicted = {"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet"}
    after: dict[str, Any] = {"conditions": [evicted | {"lastTransitionTime": LATE}]}
    phase = "Failed" if code else "Succeeded"
    assert cause_of(pod(ended("sandbox", code, EARLY), phase=phase, **after)) is Cause.EVICTED


def test_a_pod_that_a_restarted_kubelet_refuses_was_evicted_though_its_containers_have_run() -> None:
    why: dict[str, Any] = {
        "reason": "Evicted",
        "message": "Pod was rejected: The node had condition: [MemoryPressure]. ",
    }
    seen = replace(pod(ended("sandbox", 137), phase="Failed", **why), had_run=True)
    assert (cause_of(seen), is_disruption(seen, Cause.EVICTED)) == (Cause.EVICTED, True)
    its_own = replace(seen, message="Usage of EmptyDir volume exceeds the limit")
    assert (cause_of(its_own), is_disruption(its_own, Cause.EVICTED)) == (Cause.EVICTED, False)


def test_a_pod_that_failed_as_a_whole_failed_whatever_its_containers_say() -> None:
    seen = pod(ended("sandbox", 0), phase="Failed", reason="DeadlineExceeded", message="Pod was active for too long")
    assert (seen.result, cause_of(seen)) == (None, Cause.FAILED)


def test_an_initial_container_that_failed_fails_a_sandbox_that_never_ran() -> None:
    seen = pod(waits("sandbox", "PodInitializing"), phase="Failed", initial=(ended("prepare", 3, message="no disk"),))
    assert (seen.exit_code, seen.message, cause_of(seen)) == (3, "no disk", Cause.FAILED)


# --- A labelled pod ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("annotations", "result"),
    [
        ({}, None),
        ({"kubectl.kubernetes.io/default-container": "sandbox"}, Result.SUCCEEDED),
        ({"kubectl.kubernetes.io/default-container": "mesh"}, None),
        (TOLD | {"kubectl.kubernetes.io/default-container": "mesh"}, Result.SUCCEEDED),
        ({"worklease.dev/sandbox-containers": "nobody"}, None),
    ],
    ids=["nothing", "the default container", "another default container", "our annotation first", "an unknown name"],
)
def test_without_a_word_which_containers_are_the_sandbox_the_pods_phase_tells(
    annotations: dict[str, str], result: Result | None
) -> None:
    seen = pod(ended("sandbox", 0), MESH, metadata={"annotations": annotations})
    assert seen.result is result


# --- While it goes on --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_native", [False, True])
def test_a_crash_loop_beside_the_sandbox_is_not_the_sandboxs(*, is_native: bool) -> None:
    sidecars = {"initContainers": [{"name": "mesh", "restartPolicy": "Always"}]}
    initial, beside = ((CRASHES,), ()) if is_native else ((), (CRASHES,))
    conditions = [{"type": "Ready", "status": "False"}, {"type": "ContainersReady", "status": "False"}]
    seen = pod(runs("sandbox"), *beside, initial=initial, spec=sidecars if is_native else {}, conditions=conditions)
    assert (seen.ailment, seen.reason, seen.message, seen.ready) == (None, "", "", True)


def test_a_native_sidecars_crash_loop_is_not_that_of_a_labelled_pod() -> None:
    sidecars = {"initContainers": [{"name": "mesh", "restartPolicy": "Always"}]}
    seen = pod(runs("sandbox"), initial=(CRASHES,), spec=sidecars, metadata={"annotations": {}})
    assert (seen.ailment, seen.reason) == (None, "")


def test_an_injected_container_that_keeps_the_sandbox_from_starting_is_told() -> None:
    seen = pod(waits("sandbox", "PodInitializing"), phase="Pending", initial=(waits("mesh", "ImagePullBackOff"),))
    assert (seen.ailment, seen.reason, seen.has_started) == (Ailment.IMAGE_PULL_FAILED, "ImagePullBackOff", False)


def test_a_sandbox_that_runs_has_started_though_its_pod_waits_for_an_injected_container() -> None:
    seen = pod(runs("sandbox"), waits("mesh", "ImagePullBackOff"), phase="Pending")
    assert (seen.has_started, seen.ailment, seen.reason) == (True, None, "")


def test_a_readiness_gate_counts_though_the_sandbox_is_ready() -> None:
    conditions = [{"type": "Ready", "status": "False"}, {"type": "ContainersReady", "status": "True"}]
    assert not pod(runs("sandbox"), conditions=conditions).ready


def test_restarts_of_other_containers_are_not_counted() -> None:
    assert pod(runs("sandbox", restartCount=2), runs("mesh", restartCount=40)).restarts == 2


def test_a_pod_names_the_gates_that_keep_it_from_its_scheduler() -> None:
    gates = {"schedulingGates": [{"name": "kueue.x-k8s.io/admission"}, {"name": "example.com/other"}]}
    assert pod(phase="Pending", spec=gates).gates == ("kueue.x-k8s.io/admission", "example.com/other")
    assert pod(phase="Pending").gates == ()


# --- What takes it away ------------------------------------------------------------------------------------------


def disrupted(reason: str, at: str | None = LATE) -> list[dict[str, Any]]:
    condition = {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": "for others"}
    return [condition | ({"lastTransitionTime": at} if at else {})]


@pytest.mark.parametrize(
    ("ends", "at", "cause"),
    [
        (EARLY, LATE, Cause.SUCCEEDED),
        (LATE, LATE, Cause.EVICTED),
        (LATE, EARLY, Cause.EVICTED),
        (None, LATE, Cause.EVICTED),
        (EARLY, None, Cause.EVICTED),
    ],
    ids=["it had finished", "in the same second", "on SIGTERM", "nobody knows when", "disrupted nobody knows when"],
)
def test_a_program_that_ends_with_0_on_its_eviction_has_not_finished(
    ends: str | None, at: str | None, cause: Cause
) -> None:
    seen = pod(ended("sandbox", 0, ends), phase="Succeeded", conditions=disrupted("EvictionByEvictionAPI", at))
    assert cause_of(seen) is cause


def test_a_program_that_ends_with_0_on_its_nodes_shutdown_has_not_finished() -> None:
    seen = pod(ended("sandbox", 0), phase="Succeeded", reason="Terminated")
    assert cause_of(seen) is Cause.EVICTED


def test_a_disruption_of_a_kind_that_is_not_known_is_a_disruption() -> None:
    seen = pod(runs("sandbox"), conditions=disrupted("DeletionByAnotherController"))
    assert seen.disruption is Cause.EVICTED


def test_the_time_of_a_deletion_is_that_of_its_request() -> None:
    mark = {"deletionTimestamp": LATE, "deletionGracePeriodSeconds": 10, "annotations": TOLD}
    seen = pod(runs("sandbox"), metadata=mark)
    assert seen.deleted_at == datetime(2026, 11, 22, 3, 52, 26, tzinfo=UTC)


@pytest.mark.parametrize(
    "shown",
    [runs("sandbox"), ended("sandbox", 0), waits("sandbox", "Error", lastState={"terminated": {"exitCode": 1}})],
)
def test_a_container_that_ran_is_seen(shown: dict[str, Any]) -> None:
    assert pod(shown).has_run
    assert not pod(waits("sandbox", "ContainerCreating"), phase="Pending").has_run
    assert not pod(phase="Failed", reason="OutOfcpu").has_run


# --- The proxy beside a worker -----------------------------------------------------------------------------------


def behind_proxy(*statuses: dict[str, Any], proxy: dict[str, Any], phase: str = "Running", **more: Any) -> Pod:
    sidecar = {"initContainers": [{"name": "worklease-proxy", "restartPolicy": "Always"}]}
    return pod(*statuses, initial=(proxy,), spec=sidecar, phase=phase, **more)


TOLD_WHY = "worker gave up: 412 heartbeat\n"


def test_the_operator_reads_the_words_that_the_proxy_writes() -> None:
    assert pod_reading.GAVE_UP == answers.GAVE_UP


def test_a_worker_that_ended_with_0_has_finished_only_when_its_proxy_has_ended_and_says_nothing() -> None:
    done = ended("sandbox", 0)
    assert behind_proxy(done, proxy=runs("worklease-proxy")).result is None
    finished = behind_proxy(done, proxy=ended("worklease-proxy", 0), phase="Succeeded")
    assert (finished.result, cause_of(finished)) == (Result.SUCCEEDED, Cause.SUCCEEDED)


@pytest.mark.parametrize("code", [0, 1])
def test_a_worker_whose_proxy_says_that_it_gave_up_has_failed_whatever_its_exit_code(code: int) -> None:
    told = ended("worklease-proxy", 0, message=TOLD_WHY)
    gave_up = behind_proxy(ended("sandbox", code), proxy=told, phase="Failed" if code else "Succeeded")
    assert (cause_of(gave_up), gave_up.message) == (Cause.GAVE_UP, TOLD_WHY.strip())
    ending = ending_of(gave_up, Cause.GAVE_UP)
    assert ending.message == (
        f"Pod sandbox-1 ended before its work was done with exit code {code}: worker gave up: 412 heartbeat"
    )


def test_a_worker_that_ended_beside_an_injected_container_that_runs_on_waits_for_no_proxy() -> None:
    done = behind_proxy(ended("sandbox", 0), MESH, proxy=runs("worklease-proxy"))
    assert done.result is Result.SUCCEEDED


def test_a_worker_that_fails_has_failed_at_once() -> None:
    assert behind_proxy(ended("sandbox", 1), proxy=runs("worklease-proxy")).result is Result.FAILED


def test_what_a_proxy_said_before_it_was_started_again_does_not_count() -> None:
    again = runs("worklease-proxy", lastState={"terminated": {"exitCode": 137, "message": TOLD_WHY}})
    assert behind_proxy(ended("sandbox", 1), proxy=again).gave_up == ""


def test_a_pod_that_is_over_waits_for_no_proxy() -> None:
    done = behind_proxy(ended("sandbox", 0), proxy=runs("worklease-proxy"), phase="Succeeded")
    assert done.result is Result.SUCCEEDED
