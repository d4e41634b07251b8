"""The schema of WorkPool and its models say the same, as the real API server judges."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from hypothesis import event, example, given
from pydantic import ValidationError

from controlplane import ControlPlane
from support.crd_schema import REFUSED, JudgedResources, all_facts, on_the_server, schema_in, schema_of, walk
from support.worklease_strategies import identifiers
from support.workpool_strategies import mutated_pool_specs, mutated_pool_statuses, pool_specs, pool_statuses
from worklease.api.models import ClaimTemplate, PodTemplate
from worklease.api.pool_models import LONGEST_NAME, WorkPoolSpec, WorkPoolStatus

CRDS: Final = Path(__file__).parents[2] / "crds"
CRD: Final = CRDS / "workpools.yaml"
MINIMAL: Final[dict[str, Any]] = {"environmentID": "env_demo", "maxConcurrent": 1}
POD: Final[dict[str, Any]] = {"containers": [{"name": "sandbox", "image": "busybox"}]}
SET_BY_THE_POOL: Final = {
    *("environmentID", "workID", "sessionID", "delivery", "acknowledge"),
    *("credentialsSecretRef", "sessionsTokenSecretRef"),
}


@pytest.fixture
def pools(control_plane: ControlPlane, namespace: str) -> Iterator[JudgedResources]:
    with JudgedResources.of(control_plane, namespace, "WorkPool", "workpools") as judged:
        yield judged


@pytest.fixture
def existing(pools: JudgedResources) -> JudgedResources:
    created = pools.create(MINIMAL, dry=False)
    assert created.status_code == httpx.codes.CREATED, created.text
    return pools


def _model_reads(spec: object) -> WorkPoolSpec | ValidationError:
    try:
        return WorkPoolSpec.from_wire(json.loads(json.dumps(spec)))
    except ValidationError as error:
        return error


def _without_pod(spec: WorkPoolSpec) -> dict[str, Any]:
    excluded: Any = {
        "lease_template": {"spec": {"sandbox": {"template": True, "workspace": {"volume_claim_template"}}}}
    }
    return spec.model_dump(mode="json", exclude_none=True, exclude=excluded)


def _assert_both_agree(spec: object, answer: httpx.Response) -> None:
    read = _model_reads(spec)
    match read:
        case ValidationError():
            assert answer.status_code in REFUSED, f"only the model refuses {spec}: {read}"
            event("both refuse")
        case WorkPoolSpec():
            assert answer.status_code == httpx.codes.CREATED, f"only the server refuses {spec}: {answer.text}"
            event("both accept")
            stored = answer.json()["spec"]
            sandbox = stored["leaseTemplate"]["spec"].get("sandbox", {})
            sandbox.pop("template", None)
            sandbox.get("workspace", {}).pop("volumeClaimTemplate", None)
            assert stored == _without_pod(read), "the server's defaults are the model's"


def _with_labels(**labels: str | None) -> dict[str, Any]:
    pod = {"metadata": {"labels": {f"worklease.dev/{name}": value for name, value in labels.items()}}, "spec": POD}
    return MINIMAL | {"leaseTemplate": {"spec": {"sandbox": {"template": pod}}}}


@on_the_server(examples=40)
@given(spec=pool_specs())
@example(spec=MINIMAL)
def test_a_sound_pool_is_accepted_and_defaulted_alike(pools: JudgedResources, spec: dict[str, Any]) -> None:
    assert isinstance(_model_reads(spec), WorkPoolSpec)
    _assert_both_agree(spec, pools.create(spec))


@on_the_server(examples=150)
@given(spec=mutated_pool_specs())
@example(spec=None)
@example(spec={})
@example(spec=MINIMAL | {"maxConcurrent": None})
@example(spec=MINIMAL | {"maxConcurrent": 1001})
@example(spec=MINIMAL | {"limits": None, "leaseTemplate": None, "suspend": None})
@example(spec=MINIMAL | {"leaseTemplate": {"spec": {"workID": "work_1"}}})
@example(spec=MINIMAL | {"leaseTemplate": {"spec": {"credentialsSecretRef": {"name": "a"}}}})
@example(spec=MINIMAL | {"leaseTemplate": {"metadata": {"labels": {"worklease.dev/pool": "a"}}}})
@example(spec=MINIMAL | {"leaseTemplate": {"metadata": {"labels": {"worklease.dev/pool": None}}}})
@example(spec=MINIMAL | {"leaseTemplate": {"metadata": {"annotations": {"worklease.dev/refused": ""}}}})
@example(spec=_with_labels(**{"work-id": "work_1"}))
@example(spec=_with_labels(**{"session-id": ""}))
@example(spec=_with_labels(pool=None))
@example(spec=_with_labels(**{"environment-id": "env_demo"}))
@example(spec=_with_labels(**{"environment-id": "env_other"}))
def test_the_server_and_the_model_accept_the_same_pools(pools: JudgedResources, spec: object) -> None:
    _assert_both_agree(spec, pools.create(spec))


@pytest.mark.parametrize("length", [LONGEST_NAME, LONGEST_NAME + 1])
def test_a_pool_has_a_short_name(pools: JudgedResources, length: int) -> None:
    answer = pools.create(MINIMAL, name="a" * length)
    assert (answer.status_code == httpx.codes.CREATED) is (length <= LONGEST_NAME)
    assert ("at most 40 characters" in answer.text) is (length > LONGEST_NAME)


@on_the_server(examples=15)
@given(environment_id=identifiers())
@example(environment_id="env_demo")
def test_the_environment_of_a_pool_never_changes(existing: JudgedResources, environment_id: str) -> None:
    answer = existing.replace_spec(MINIMAL | {"environmentID": environment_id})
    assert ("environmentID is immutable" in answer.text) is (environment_id != "env_demo")


@on_the_server(examples=25)
@given(spec=pool_specs())
def test_all_else_of_a_pool_may_be_edited(existing: JudgedResources, spec: dict[str, Any]) -> None:
    sandbox = spec.get("leaseTemplate", {}).get("spec", {}).get("sandbox", {})
    sandbox.get("template", {}).get("metadata", {}).pop("labels", None)
    answer = existing.replace_spec(spec | {"environmentID": "env_demo"})
    assert answer.status_code == httpx.codes.OK, answer.text


@on_the_server(examples=60)
@given(status=pool_statuses())
def test_a_pools_status_that_the_operator_may_write_is_never_refused(
    existing: JudgedResources, status: WorkPoolStatus
) -> None:
    answer = existing.patch_status(status.as_merge_patch())
    assert answer.status_code == httpx.codes.OK, answer.text
    read = WorkPoolStatus.from_wire(answer.json().get("status", {}))
    assert read.as_merge_patch() == status.as_merge_patch()


@on_the_server(examples=80)
@given(status=mutated_pool_statuses())
def test_a_pools_status_that_the_server_accepts_can_be_read_but_for_odd_times(
    existing: JudgedResources, status: dict[str, Any]
) -> None:
    answer = existing.patch_status(status)
    assert answer.status_code in {httpx.codes.OK, *REFUSED}, answer.text
    event(f"the server answers {answer.status_code}")
    if answer.status_code == httpx.codes.OK:
        assert {field[-4:] for field in _unreadable(answer.json().get("status", {}))} <= {"Time"}


def _unreadable(status: object) -> list[str]:
    try:
        WorkPoolStatus.from_wire(status)
    except ValidationError as error:
        return [str(problem["loc"][-1]) for problem in error.errors()]
    return []


# What follows needs no server: the texts are compared field by field, so that a disagreement names its field.


def _models() -> dict[str, dict[str, Any]]:
    spec, status = schema_of(WorkPoolSpec), schema_of(WorkPoolStatus)
    lease = spec["properties"]["leaseTemplate"]["properties"]["spec"]
    sandbox = lease["properties"]["sandbox"]["properties"]
    sandbox["template"] = schema_of(PodTemplate)
    sandbox["workspace"]["properties"]["volumeClaimTemplate"] = schema_of(ClaimTemplate)
    return {"spec": spec, "status": status}


@pytest.mark.parametrize("root", ["spec", "status"])
def test_each_field_of_the_pools_schema_is_one_of_the_model_and_bounded_alike(root: str) -> None:
    assert all_facts(root, schema_in(CRD)[root]) == all_facts(root, _models()[root])


def test_a_lease_template_has_the_fields_of_a_worklease_but_those_that_the_pool_sets() -> None:
    lease = schema_in(CRDS / "workleases.yaml")["spec"]["properties"]
    template = schema_in(CRD)["spec"]["properties"]["leaseTemplate"]["properties"]["spec"]["properties"]
    assert template == {name: field for name, field in lease.items() if name not in SET_BY_THE_POOL}


@pytest.mark.parametrize("root", ["spec", "status"])
def test_each_field_of_a_pool_is_described_in_a_sentence(root: str) -> None:
    for path, node in walk(schema_in(CRD)[root], root):
        if path.endswith("{}"):
            continue  # the value of a map has no place in kubectl explain
        description = node.get("description", "")
        assert description.endswith("."), f"{path} needs a description that ends as a sentence does"
        assert "  " not in description
