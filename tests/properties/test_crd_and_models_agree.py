"""The custom resource's schema and its models say the same, as the real API server judges."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from hypothesis import event, example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from controlplane import ControlPlane
from support.crd_schema import REFUSED, JudgedResources, all_facts, on_the_server, schema_in, schema_of, walk
from support.worklease_strategies import heartbeats, identifiers, mutated_specs, mutated_statuses, specs, statuses
from worklease.api.models import ClaimTemplate, PodTemplate, StatusCondition, WorkLeaseSpec, WorkLeaseStatus

CRD: Final = Path(__file__).parents[2] / "crds" / "workleases.yaml"
MINIMAL: Final = {"environmentID": "env_demo", "workID": "work_demo1"}
POD: Final[dict[str, object]] = {"spec": {"containers": [{"name": "sandbox", "image": "busybox"}]}}
ALWAYS: Final = {"spec": {"containers": [{"name": "sandbox", "image": "busybox"}], "restartPolicy": "Always"}}

CLAIM: Final[dict[str, object]] = {"volumeClaimTemplate": {"spec": {"accessModes": ["ReadWriteOnce"]}}}
TEMPLATES: Final[Any] = {"template": True, "workspace": {"volume_claim_template"}}
"""What the models keep as it is: the API server drops nulls in it, and the models do not."""


@pytest.fixture
def work_leases(control_plane: ControlPlane, namespace: str) -> Iterator[JudgedResources]:
    with JudgedResources.of(control_plane, namespace, "WorkLease", "workleases") as judged:
        yield judged


@pytest.fixture
def existing(work_leases: JudgedResources) -> JudgedResources:
    created = work_leases.create(MINIMAL, dry=False)
    assert created.status_code == httpx.codes.CREATED, created.text
    return work_leases


def _model_reads(spec: object) -> WorkLeaseSpec | ValidationError:
    try:
        return WorkLeaseSpec.from_wire(json.loads(json.dumps(spec)))
    except ValidationError as error:
        return error


def _without_template(spec: WorkLeaseSpec) -> dict[str, Any]:
    return spec.model_dump(mode="json", exclude_none=True, exclude={"sandbox": TEMPLATES})


def _assert_both_agree(spec: object, answer: httpx.Response) -> None:
    read = _model_reads(spec)
    match read:
        case ValidationError():
            assert answer.status_code in REFUSED, f"only the model refuses {spec}: {read}"
            event("both refuse")
        case WorkLeaseSpec():
            assert answer.status_code == httpx.codes.CREATED, f"only the server refuses {spec}: {answer.text}"
            event("both accept")
            stored = answer.json()["spec"]
            assert _without_template(WorkLeaseSpec.from_wire(stored)) == _without_template(read)
            stored.get("sandbox", {}).pop("template", None)
            stored.get("sandbox", {}).get("workspace", {}).pop("volumeClaimTemplate", None)
            assert stored == _without_template(read), "the server's defaults are the model's"


@on_the_server(examples=150)
@given(spec=specs())
@example(spec=MINIMAL)
@example(spec=MINIMAL | {"sandbox": {}})
def test_a_sound_spec_is_accepted_and_defaulted_alike(work_leases: JudgedResources, spec: dict[str, Any]) -> None:
    assert isinstance(_model_reads(spec), WorkLeaseSpec)
    _assert_both_agree(spec, work_leases.create(spec))


@on_the_server(examples=600)
@given(spec=mutated_specs())
@example(spec=None)
@example(spec=[])
@example(spec={})
@example(spec=MINIMAL | {"sandbox": None, "heartbeat": None, "deletionPolicy": None, "ttlSeconds": None})
@example(spec=MINIMAL | {"environment_id": None})
@example(spec=MINIMAL | {"ttlSeconds": 30.0})
@example(spec=MINIMAL | {"ttlSeconds": 30.5})
@example(spec=MINIMAL | {"ttlSeconds": True})
@example(spec=MINIMAL | {"environmentID": "a\n"})
@example(spec=MINIMAL | {"sandbox": {"onFailure": "Restart", "maxRestarts": 1.0}})
@example(spec=MINIMAL | {"sandbox": {"worker": {"proxy": True}}})
@example(spec=MINIMAL | {"sandbox": {"worker": {"proxy": True}, "template": POD}})
@example(spec=MINIMAL | {"sandbox": {"worker": {"proxy": True}, "template": ALWAYS}})
@example(spec=MINIMAL | {"sandbox": {"worker": {"proxy": False}, "template": ALWAYS}})
@example(spec=MINIMAL | {"sandbox": {"workspace": CLAIM}})
@example(spec=MINIMAL | {"sandbox": {"workspace": {}, "template": POD}})
@example(spec=MINIMAL | {"sandbox": {"workspace": CLAIM | {"mountPath": "a:b"}, "template": POD}})
@example(spec=MINIMAL | {"sandbox": {"workspace": CLAIM | {"retention": None, "containers": None}, "template": POD}})
@example(spec=MINIMAL | {"sandbox": {"template": {"spec": {"containers": []}}}})
@example(spec=MINIMAL | {"sandbox": {"template": {"spec": {"containers": [None]}}}})
@example(spec=MINIMAL | {"sandbox": {"template": {"metadata": {"name": "pod"}}}})
@example(spec=MINIMAL | {"sandbox": {"template": POD | {"metadata": {"labels": {"worklease.dev/work-id": None}}}}})
@example(spec=MINIMAL | {"sandbox": {"template": POD | {"metadata": {"annotations": {"a": None}}}}})
def test_the_server_and_the_model_accept_the_same_specs(work_leases: JudgedResources, spec: object) -> None:
    _assert_both_agree(spec, work_leases.create(spec))


@on_the_server(examples=60)
@given(label=st.sampled_from(["worklease.dev/work-id", "worklease.dev/environment-id"]), value=identifiers())
@example(label="worklease.dev/work-id", value="work_demo1")
@example(label="worklease.dev/environment-id", value="env_demo")
def test_a_template_cannot_claim_another_item(work_leases: JudgedResources, label: str, value: str) -> None:
    spec = MINIMAL | {"sandbox": {"template": POD | {"metadata": {"labels": {label: value}}}}}
    answer = work_leases.create(spec)
    _assert_both_agree(spec, answer)
    own = MINIMAL["workID" if label == "worklease.dev/work-id" else "environmentID"]
    assert (answer.status_code == httpx.codes.CREATED) is (value == own)


@pytest.mark.parametrize(
    ("sandbox", "words"),
    [
        ({"worker": {"proxy": True}}, "worker.proxy needs a template"),
        ({"workspace": CLAIM}, "workspace needs a template"),
        ({"worker": {"proxy": True}, "template": ALWAYS}, "use onFailure Restart"),
    ],
)
def test_a_proxy_that_cannot_work_is_refused_in_words(
    work_leases: JudgedResources, sandbox: dict[str, Any], words: str
) -> None:
    answer = work_leases.create(MINIMAL | {"sandbox": sandbox})
    assert answer.status_code == httpx.codes.UNPROCESSABLE_ENTITY
    assert words in answer.text


@on_the_server(examples=60)
@given(environment_id=identifiers(), work_id=identifiers())
@example(environment_id="env_demo", work_id="work_demo1")
@example(environment_id="env_demo", work_id="work_demo2")
@example(environment_id="env_other", work_id="work_demo1")
def test_the_item_of_a_resource_never_changes(existing: JudgedResources, environment_id: str, work_id: str) -> None:
    answer = existing.replace_spec({"environmentID": environment_id, "workID": work_id})
    for field, value in (("environmentID", environment_id), ("workID", work_id)):
        assert (f"{field} is immutable" in answer.text) is (value != MINIMAL[field])
    same = (environment_id, work_id) == ("env_demo", "work_demo1")
    assert answer.status_code == (httpx.codes.OK if same else httpx.codes.UNPROCESSABLE_ENTITY)


@pytest.mark.parametrize(("field", "value"), [("sessionID", "sesn_1"), ("acknowledge", True), ("delivery", "0f3a")])
def test_what_a_resource_is_for_never_changes(existing: JudgedResources, field: str, value: object) -> None:
    answer = existing.replace_spec(MINIMAL | {field: value})
    assert answer.status_code == httpx.codes.UNPROCESSABLE_ENTITY
    assert f"{field} is immutable" in answer.text


@on_the_server(examples=100)
@given(spec=specs())
def test_all_else_may_be_edited(existing: JudgedResources, spec: dict[str, Any]) -> None:
    spec.get("sandbox", {}).get("template", {}).get("metadata", {}).pop("labels", None)
    for fixed in ("sessionID", "acknowledge", "delivery"):
        spec.pop(fixed, None)
    answer = existing.replace_spec(spec | MINIMAL)
    assert answer.status_code == httpx.codes.OK, answer.text


@on_the_server(examples=300)
@given(status=statuses())
def test_a_status_that_the_operator_may_write_is_never_refused(
    existing: JudgedResources, status: WorkLeaseStatus
) -> None:
    answer = existing.patch_status(status.as_merge_patch())
    assert answer.status_code == httpx.codes.OK, answer.text
    written = status.model_copy(update={"operator": None})  # it has a write of its own
    assert WorkLeaseStatus.from_wire(answer.json().get("status", {})) == written


@on_the_server(examples=150)
@given(value=heartbeats())
def test_a_heartbeat_comes_back_byte_for_byte(existing: JudgedResources, value: str) -> None:
    answer = existing.patch_status(WorkLeaseStatus(last_heartbeat=value).as_merge_patch())
    assert answer.json()["status"]["lastHeartbeat"] == value


@on_the_server(examples=300)
@given(status=mutated_statuses())
@example(status={"claimTime": []})
@example(status={"claimTime": "0000-01-01T00:00:00Z"})
@example(status={"claimTime": "2026-11-22T03:52:26+24:00"})
def test_a_status_that_the_server_accepts_can_be_read_but_for_odd_times(
    existing: JudgedResources, status: dict[str, Any]
) -> None:
    answer = existing.patch_status(status)
    assert answer.status_code in {httpx.codes.OK, *REFUSED}, answer.text
    event(f"the server answers {answer.status_code}")
    if answer.status_code == httpx.codes.OK:
        # The server's own date-time is wider than RFC 3339: the examples above are what it lets pass.
        assert {field[-4:] for field in _unreadable(answer.json().get("status", {}))} <= {"Time"}


def _unreadable(status: object) -> list[str]:
    try:
        WorkLeaseStatus.from_wire(status)
    except ValidationError as error:
        return [str(problem["loc"][-1]) for problem in error.errors()]
    return []


# What follows needs no server: the two texts are compared field by field, so that a disagreement names its field.


def _models() -> dict[str, dict[str, Any]]:
    spec, status = schema_of(WorkLeaseSpec), schema_of(WorkLeaseStatus)
    sandbox = spec["properties"]["sandbox"]["properties"]
    sandbox["template"] = schema_of(PodTemplate)
    sandbox["workspace"]["properties"]["volumeClaimTemplate"] = schema_of(ClaimTemplate)
    return {"spec": spec, "status": status}


@pytest.mark.parametrize("root", ["spec", "status"])
def test_each_field_of_the_schema_is_one_of_the_model_and_bounded_alike(root: str) -> None:
    assert all_facts(root, schema_in(CRD)[root]) == all_facts(root, _models()[root])


@pytest.mark.parametrize("root", ["spec", "status"])
def test_each_field_is_described_in_a_sentence(root: str) -> None:
    for path, node in walk(schema_in(CRD)[root], root):
        if path.endswith("{}"):
            continue  # the value of a map has no place in kubectl explain
        description = node.get("description", "")
        assert description.endswith("."), f"{path} needs a description that ends as a sentence does"
        assert "  " not in description


@pytest.mark.parametrize("root", ["spec", "status"])
def test_each_string_list_map_and_number_is_bounded(root: str) -> None:
    for path, node in walk(schema_in(CRD)[root], root):
        match node["type"]:
            case "string":
                assert "maxLength" in node or "enum" in node, path
            case "array":
                assert "maxItems" in node, path
            case "integer":
                assert {"minimum", "maximum"} <= node.keys(), path
            case "object":
                assert "properties" in node or "maxProperties" in node, path
            case other:
                assert other == "boolean", path


def test_only_a_pod_keeps_unknown_fields() -> None:
    keeping = [
        path for path, node in walk(schema_in(CRD)["spec"], "spec") if "x-kubernetes-preserve-unknown-fields" in node
    ]
    assert keeping == [
        "spec.sandbox.template.spec",
        "spec.sandbox.template.spec.containers[]",
        "spec.sandbox.workspace.volumeClaimTemplate.spec",
    ]
    assert not [path for path, node in walk(schema_in(CRD)["status"], "status") if "additionalProperties" in node]


def test_what_the_server_says_is_neither_parsed_nor_enumerated() -> None:
    said = schema_in(CRD)["status"]["properties"]
    assert "format" not in said["lastHeartbeat"]
    assert "enum" not in said["state"]


def test_conditions_are_a_list_map_by_type() -> None:
    conditions = schema_in(CRD)["status"]["properties"]["conditions"]
    assert conditions["x-kubernetes-list-type"] == "map"
    assert conditions["x-kubernetes-list-map-keys"] == ["type"]
    assert set(conditions["items"]["properties"]) == {
        shape.alias or name for name, shape in StatusCondition.model_fields.items()
    }
