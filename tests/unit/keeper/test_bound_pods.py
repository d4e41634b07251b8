"""What the keeper knows of a resource's pods: from an answer, from a watch, and from an earlier process."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from worklease.api.models import WorkLease
from worklease.clocks import ClockPair
from worklease.cluster.pod_template import pod_name
from worklease.keeper.bound_pods import MOST_GONE, BoundPods
from worklease.keeper.kept import Kept, LeaseOptions
from worklease.keeper.resume import resume
from worklease.rules.lifecycle import MakePod, decide
from worklease.rules.pods import Cause, Pod
from worklease.rules.situation import Asked, conclude

NOW = datetime(2026, 11, 24, 12, 0, 30, tzinfo=UTC)
WALL = ClockPair(monotonic=100.0, utc=NOW)


def told(seconds: float) -> str:
    return (NOW + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


def body() -> dict[str, Any]:
    metadata = {
        "namespace": "agents",
        "name": "work-a",
        "uid": "resource",
        "generation": 1,
        "creationTimestamp": told(-60),
    }
    spec = {
        "environmentID": "env_a",
        "workID": "work_a",
        "sandbox": {"template": {"spec": {"containers": [{"name": "sandbox", "image": "busybox"}]}}},
    }
    status = {
        "lastHeartbeat": told(-5),
        "state": "active",
        "leaseExtended": True,
        "ttlSeconds": 90,
        "observedTime": told(-5),
        "leaseExpiryTime": told(85),
        "claimTime": told(-30),
        "restarts": 0,
    }
    return {"metadata": metadata, "spec": spec, "status": status}


def resumed(pod: str) -> Kept:
    resource = body()
    resource["status"]["sandboxes"] = [{"podUID": "pod1", "podName": pod, "phase": "Running"}]
    options = LeaseOptions(interval=30.0, credentials_secret="worklease-credentials")
    return resume(WorkLease.parse(resource), options, None, WALL, 100.0)


def made() -> str:
    return pod_name(WorkLease.parse(body()), 0)


def test_a_made_pod_that_went_while_no_process_was_there_is_not_made_again() -> None:
    kept = resumed(made())
    assert decide(kept.gather(), 100.0).steps == ()
    kept.pods.lose("pod1")
    ending = conclude(kept.gather(), 100.0)
    assert ending is not None
    assert ending.cause is Cause.DELETED
    assert MakePod(0) not in decide(kept.gather(), 100.0).steps


def test_a_pod_of_another_name_is_not_taken_for_the_one_that_was_made() -> None:
    kept = resumed("somebody-elses")
    kept.pods.lose("pod1")
    assert MakePod(0) in decide(kept.gather(), 100.0).steps


def test_an_answer_takes_back_nothing_that_a_watch_told_meanwhile() -> None:
    kept = resumed(made())
    before = kept.pods.bound
    running = Pod(uid="pod1", name=made(), phase="Running", ready=True, controller="resource")
    pending = replace(running, phase="Pending", ready=False)
    kept.bind(running, 101.0)
    assert kept.bind_answer(pending, before, 101.0)
    assert kept.pods.bound["pod1"] == replace(running, had_run=True)
    assert kept.bind_answer(pending, kept.pods.bound, 102.0)
    assert kept.pods.bound["pod1"] == replace(pending, had_run=True)


def test_an_event_that_is_older_than_the_answer_brings_no_pod_back() -> None:
    kept = resumed(made())
    running = Pod(uid="pod1", name=made(), phase="Running", ready=True, controller="resource")
    kept.bind(running, 101.0)
    kept.pods.lose("pod1")
    assert kept.bind(replace(running, phase="Failed", exit_code=137), 102.0)
    pod = kept.pods.bound["pod1"]
    assert (pod.gone, pod.ready, pod.exit_code) == (True, False, 137)


def test_a_pod_of_a_finished_resource_is_taken_for_gone_until_a_watch_shows_it() -> None:
    resource = body()
    finished = {"type": "Finished", "status": "True", "reason": "Stopped", "message": "", "observedGeneration": 1}
    resource["status"]["conditions"] = [finished | {"lastTransitionTime": told(-1)}]
    resource["status"]["sandboxes"] = [{"podUID": "pod1", "podName": made(), "phase": "Failed"}]
    kept = resume(
        WorkLease.parse(resource),
        LeaseOptions(interval=30.0, credentials_secret="worklease-credentials"),
        None,
        WALL,
        100.0,
    )
    assert kept.pods.bound["pod1"].gone
    kept.bind(Pod(uid="pod1", name=made(), phase="Failed", controller="resource"), 101.0)
    assert not kept.pods.bound["pod1"].gone


def test_a_pod_that_was_seen_to_run_has_run_though_its_status_no_longer_shows_it() -> None:
    kept = resumed(made())
    rejected = Pod(uid="pod1", name=made(), phase="Failed", reason="OutOfcpu", controller="resource")
    kept.bind(rejected, 101.0)
    ending = conclude(kept.gather(), 101.0)
    assert ending is not None, "the status of an earlier process shows that it ran"
    assert ending.cause is Cause.EVICTED


def test_a_pod_that_was_gated_when_an_earlier_process_ended_has_its_time_from_now_on() -> None:
    resource = body()
    shown = {"type": "SandboxReady", "status": "False", "reason": "SchedulingGated", "message": ""}
    resource["status"]["conditions"] = [shown | {"lastTransitionTime": told(-30)}]
    resource["status"]["sandboxes"] = [{"podUID": "pod1", "podName": made(), "phase": "Pending"}]
    options = LeaseOptions(interval=30.0, credentials_secret="worklease-credentials")
    kept = resume(WorkLease.parse(resource), options, None, WALL, 100.0)
    kept.bind(Pod(uid="pod1", name=made(), phase="Pending", controller="resource"), 101.0)
    assert kept.pods.attempt.begins == 101.0


def test_of_a_thousand_pods_that_came_and_went_within_one_attempt_only_the_last_are_kept() -> None:
    pods = BoundPods()
    pods.note(Pod(uid="at-work", name="at-work", phase="Running"), 100.0)
    for number in range(1000):
        pods.note(Pod(uid=f"uid-{number}", name=f"pod-{number}", phase="Running"), 100.0)
        pods.note_deletion(f"uid-{number}", Asked(100.0))
        pods.lose(f"uid-{number}")
    assert list(pods.bound) == ["at-work", *(f"uid-{number}" for number in range(1000 - MOST_GONE, 1000))]
    assert len(pods.deletions) == MOST_GONE
    pods.lose("at-work")
    assert pods.bound["at-work"].gone, "the pod that went last is known, whenever it came"
