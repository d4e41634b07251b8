"""How the models read a resource: its defaults, its mistakes, and a status that is written or read."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from types import MappingProxyType
from typing import Any

import pytest
from pydantic import ValidationError

from worklease.api.models import (
    LONGEST_HEARTBEAT,
    LONGEST_MESSAGE,
    LONGEST_SANDBOX_MESSAGE,
    MOST_SANDBOXES,
    ConditionStatus,
    HeartbeatMode,
    InvalidResource,
    SandboxStatus,
    StatusCondition,
    WorkLease,
    WorkLeaseSpec,
    WorkLeaseStatus,
)
from worklease.api.names import ENVIRONMENT_LABEL, WORK_LABEL
from worklease.rules.situation import DeletionPolicy, OnFailure

METADATA = {
    "name": "demo",
    "namespace": "sandboxes",
    "uid": "6f5c2a1e-0000-0000-0000-000000000001",
    "generation": 3,
    "creationTimestamp": "2026-11-22T03:52:26Z",
}
SPEC = {"environmentID": "env_demo", "workID": "work_demo1"}
NOON = datetime(2026, 11, 22, 12, 0, 0, 172343, tzinfo=UTC)


def _body(spec: object = SPEC, **more: object) -> dict[str, Any]:
    return {"metadata": METADATA, "spec": spec} | more


def _problem(spec: object) -> str:
    with pytest.raises(InvalidResource) as refused:
        WorkLease.parse(_body(spec))
    return refused.value.problem


def _template(**labels: str) -> dict[str, Any]:
    return {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "sandbox", "image": "busybox"}]}}


def test_the_smallest_spec_has_every_default() -> None:
    spec = WorkLease.parse(_body()).spec
    assert (spec.environment_id, spec.work_id) == ("env_demo", "work_demo1")
    assert spec.heartbeat.mode is HeartbeatMode.OPERATOR
    assert spec.deletion_policy is DeletionPolicy.STOP
    assert (spec.ttl_seconds, spec.credentials_secret_ref, spec.ttl_seconds_after_finished) == (None, None, None)


def test_an_absent_sandbox_stays_absent() -> None:
    assert WorkLease.parse(_body()).spec.sandbox is None


def test_an_empty_sandbox_has_every_default() -> None:
    sandbox = WorkLease.parse(_body(SPEC | {"sandbox": {}})).spec.sandbox
    assert sandbox is not None
    assert (sandbox.start_deadline_seconds, sandbox.drain_seconds, sandbox.max_restarts) == (600, 30, 3)
    assert sandbox.on_failure is OnFailure.STOP
    assert sandbox.keep_failed_pod is False
    assert sandbox.template is None


def test_a_template_is_kept_as_it_is() -> None:
    template = _template(app="sandbox") | {"spec": {"containers": [{"name": "a", "image": "b", "tty": True}], "x": [1]}}
    sandbox = WorkLease.parse(_body(SPEC | {"sandbox": {"template": template}})).spec.sandbox
    assert sandbox is not None
    assert sandbox.template == template


def test_the_metadata_are_read() -> None:
    lease = WorkLease.parse(_body())
    assert (lease.name, lease.namespace, lease.generation) == ("demo", "sandboxes", 3)
    assert lease.uid == METADATA["uid"]
    assert lease.creation_timestamp == datetime(2026, 11, 22, 3, 52, 26, tzinfo=UTC)
    assert (lease.deletion_timestamp, lease.finalizers) == (None, ())


def test_a_deletion_and_its_finalizers_are_read() -> None:
    metadata = METADATA | {"deletionTimestamp": "2026-11-22T03:53:00Z", "finalizers": ["worklease.dev/lease"]}
    lease = WorkLease.parse(_body() | {"metadata": metadata})
    assert lease.deletion_timestamp == datetime(2026, 11, 22, 3, 53, tzinfo=UTC)
    assert lease.finalizers == ("worklease.dev/lease",)


def test_any_mapping_will_do() -> None:
    body: Mapping[str, Any] = MappingProxyType({key: MappingProxyType(value) for key, value in _body().items()})
    assert WorkLease.parse(body).spec.work_id == "work_demo1"


def test_a_resource_is_immutable() -> None:
    with pytest.raises(ValidationError):
        WorkLease.parse(_body()).spec.work_id = "work_demo2"  # type: ignore[misc] # the point of the test


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"workID": None}, "spec.workID: is required"),
        ({"workID": "a b"}, "spec.workID: String should match pattern"),
        ({"environmentID": "x" * 64}, "spec.environmentID: String should have at most 63 characters"),
        ({"ttlSeconds": 0}, "spec.ttlSeconds: Input should be greater than or equal to 1"),
        ({"ttlSeconds": "30"}, "spec.ttlSeconds: Input should be a valid integer"),
        ({"ttlSeconds": True}, "spec.ttlSeconds: Input should be a valid integer"),
        ({"ttlSeconds": 30.5}, "spec.ttlSeconds: Input should be a valid integer"),
        ({"heartbeat": {"mode": "Off"}}, "spec.heartbeat.mode: Input should be 'Operator' or 'Suspended'"),
        ({"sandbox": []}, "spec.sandbox: Input should be an object"),
        ({"sandbox": {"drainSecond": 3}}, "spec.sandbox.drainSecond: is not a field of the resource"),
        ({"sandbox": {"drain_seconds": 3}}, "spec.sandbox[drain_seconds]: is not a field of the resource"),
        ({"sandbox": {"keepFailedPod": "yes"}}, "spec.sandbox.keepFailedPod: Input should be a valid boolean"),
        (
            {"sandbox": {"onFailure": "Restart", "maxRestarts": 0}},
            "spec.sandbox.maxRestarts: Input should be greater than or equal to 1",
        ),
        (
            {"sandbox": {"template": {"spec": {"containers": []}}}},
            "spec.sandbox.template.spec.containers: List should have at least 1 item",
        ),
        (
            {"sandbox": {"template": {"spec": {"containers": [{"name": "a"}]}}}},
            "spec.sandbox.template.spec.containers[0].image: is required",
        ),
        (
            {"sandbox": {"template": _template(**{WORK_LABEL: "work_demo2"})}},
            f"spec.sandbox.template.metadata.labels[{WORK_LABEL}]: contradicts the spec",
        ),
        (
            {"sandbox": {"template": _template(**{ENVIRONMENT_LABEL: "env_other"})}},
            f"spec.sandbox.template.metadata.labels[{ENVIRONMENT_LABEL}]: contradicts the spec",
        ),
    ],
)
def test_a_mistake_is_told_by_its_field(change: dict[str, Any], problem: str) -> None:
    said = _problem(SPEC | change)
    assert said.startswith(problem)
    assert "\n" not in said


def test_every_mistake_is_told() -> None:
    assert _problem({}) == "spec.environmentID: is required; spec.workID: is required"


def test_a_spec_that_is_missing_is_told() -> None:
    assert _problem(None) == "spec: Input should be an object"


def test_a_mistake_names_its_object_and_not_its_value() -> None:
    with pytest.raises(InvalidResource) as refused:
        WorkLease.parse(_body(SPEC | {"workID": "oops secret"}))
    assert str(refused.value).startswith("WorkLease sandboxes/demo is invalid: spec.workID: ")
    assert "oops secret" not in str(refused.value)


def test_metadata_that_cannot_be_read_are_told() -> None:
    with pytest.raises(InvalidResource, match=r"WorkLease None/x is invalid: metadata.namespace: is required"):
        WorkLease.parse(_body() | {"metadata": {"name": "x"}})


def test_a_null_counts_as_absent() -> None:
    nulls = {"heartbeat": None, "sandbox": None, "deletionPolicy": None, "ttlSeconds": None}
    assert WorkLeaseSpec.from_wire(SPEC | nulls) == WorkLeaseSpec.from_wire(SPEC)


def test_an_integer_may_come_with_a_point() -> None:
    assert WorkLeaseSpec.from_wire(SPEC | {"ttlSeconds": 30.0}).ttl_seconds == 30


def test_a_zero_with_a_sign_is_refused_as_the_api_server_refuses_it() -> None:
    with pytest.raises(ValidationError, match="Input should be a valid integer"):
        WorkLeaseSpec.from_wire(SPEC | {"sandbox": {"drainSeconds": -0.0}})


def test_a_template_may_repeat_its_item() -> None:
    labels = {WORK_LABEL: "work_demo1", ENVIRONMENT_LABEL: "env_demo"}
    sandbox = WorkLeaseSpec.from_wire(SPEC | {"sandbox": {"template": _template(**labels)}}).sandbox
    assert sandbox is not None
    assert sandbox.template_labels() == labels


@pytest.mark.parametrize("raw", [None, {}])
def test_a_status_that_is_absent_is_empty(raw: object) -> None:
    lease = WorkLease.parse(_body(status=raw))
    assert lease.status == WorkLeaseStatus()
    assert lease.status_problem is None


def test_a_field_of_a_newer_operator_does_no_harm() -> None:
    lease = WorkLease.parse(_body(status={"state": "active", "mood": "good", "conditions": [], "sandboxes": []}))
    assert lease.status == WorkLeaseStatus(state="active")
    assert lease.status_problem is None


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        ({"lastHeartbeat": "v", "ttlSeconds": -1}, "status.ttlSeconds: "),
        ({"lastHeartbeat": "v", "claimTime": []}, "status.claimTime: "),
        ({"lastHeartbeat": "v", "claimTime": "0000-01-01T00:00:00Z"}, "status.claimTime: "),
        ({"lastHeartbeat": "v", "claimTime": "9999-12-31T23:59:59-05:00"}, "status.claimTime: "),
        ({"conditions": [{"type": "Ready"}]}, "status.conditions[0].status: is required"),
        ("active", "status: Input should be an object"),
    ],
)
def test_a_status_that_cannot_be_read_counts_as_empty_and_says_so(raw: object, field: str) -> None:
    lease = WorkLease.parse(_body(status=raw))
    assert lease.status == WorkLeaseStatus()
    assert lease.status_problem is not None
    assert lease.status_problem.startswith(field)


@pytest.mark.parametrize("value", ["", "2026-11-22T03:52:26.172343+05:30", "hb-1", "2026-11-22T03:52:26.100Z"])
def test_a_heartbeat_is_never_rewritten(value: str) -> None:
    written = WorkLeaseStatus(last_heartbeat=value).as_merge_patch()
    assert written["lastHeartbeat"] == value
    assert WorkLease.parse(_body(status=written)).status.last_heartbeat == value


def test_a_heartbeat_that_does_not_fit_is_refused_rather_than_cut() -> None:
    with pytest.raises(ValidationError):
        WorkLeaseStatus(last_heartbeat="x" * (LONGEST_HEARTBEAT + 1))


def test_a_new_state_is_shown() -> None:
    assert WorkLeaseStatus(state="hibernating").as_merge_patch()["state"] == "hibernating"


def test_a_status_leaves_the_name_of_the_installation_as_it_is() -> None:
    assert "operator" not in WorkLeaseStatus(operator="a/worklease-installation").as_merge_patch()


def test_a_patch_takes_away_what_the_status_does_not_say() -> None:
    patch = WorkLeaseStatus(last_heartbeat="", lease_extended=False, restarts=0).as_merge_patch()
    assert {field for field, value in patch.items() if value is not None} == {
        "lastHeartbeat",
        "leaseExtended",
        "restarts",
    }
    assert patch["lastHeartbeat"] == ""
    assert patch["leaseExtended"] is False
    assert {"claimTime", "conditions", "sandboxes", "observedGeneration"} <= patch.keys()


def test_a_patch_keeps_no_null_inside_a_list() -> None:
    status = WorkLeaseStatus(sandboxes=(SandboxStatus(pod_uid="u", pod_name="sandbox"),))
    assert status.as_merge_patch()["sandboxes"] == [{"podUID": "u", "podName": "sandbox"}]


def test_a_condition_is_written_as_kubernetes_shapes_it() -> None:
    condition = StatusCondition(
        type="LeaseHeld",
        status=ConditionStatus.TRUE,
        reason="Renewed",
        message="The lease was extended.",
        last_transition_time=NOON,
        observed_generation=3,
    )
    assert WorkLeaseStatus(conditions=(condition,)).as_merge_patch()["conditions"] == [
        {
            "type": "LeaseHeld",
            "status": "True",
            "reason": "Renewed",
            "message": "The lease was extended.",
            "lastTransitionTime": "2026-11-22T12:00:00.172343Z",
            "observedGeneration": 3,
        }
    ]


def test_a_time_is_written_in_utc() -> None:
    local = NOON.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert WorkLeaseStatus(observed_time=local).as_merge_patch()["observedTime"] == "2026-11-22T12:00:00.172343Z"


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValidationError):
        WorkLeaseStatus(observed_time=NOON.replace(tzinfo=None))


def test_a_text_for_people_is_cut_to_fit() -> None:
    condition = StatusCondition(
        type="Ready",
        status=ConditionStatus.FALSE,
        reason="Rejected",
        message="é" * (LONGEST_MESSAGE + 1),
        last_transition_time=NOON,
    )
    sandbox = SandboxStatus(pod_uid="u", message="é" * 5000)
    assert condition.message == "é" * (LONGEST_MESSAGE - 1) + "…"
    assert sandbox.message == "é" * (LONGEST_SANDBOX_MESSAGE - 1) + "…"


def test_the_earliest_pods_are_forgotten() -> None:
    pods = tuple(SandboxStatus(pod_uid=f"uid-{number}") for number in range(MOST_SANDBOXES + 1))
    assert WorkLeaseStatus(sandboxes=pods).sandboxes == pods[:MOST_SANDBOXES]


def test_a_pod_is_listed_once() -> None:
    with pytest.raises(ValidationError, match="each podUID once"):
        WorkLeaseStatus(sandboxes=(SandboxStatus(pod_uid="u"), SandboxStatus(pod_uid="u")))


def test_a_type_of_condition_is_listed_once() -> None:
    ready = StatusCondition(
        type="Ready", status=ConditionStatus.TRUE, reason="Renewed", message="", last_transition_time=NOON
    )
    with pytest.raises(ValidationError, match="each type of condition once"):
        WorkLeaseStatus(conditions=(ready, ready))
