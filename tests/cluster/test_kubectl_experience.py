"""What a user of kubectl sees: columns, explanations, refusals, waiting, and the examples."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from controlplane import ControlPlane, KubectlError
from worklease.api.models import ConditionStatus, SandboxStatus, StatusCondition, WorkLeaseSpec, WorkLeaseStatus
from worklease.api.names import ENVIRONMENT_LABEL, WORK_LABEL

REPOSITORY: Final = Path(__file__).parents[2]
EXAMPLES: Final = sorted((REPOSITORY / "examples").glob("*.yaml"))
SPEC: Final = {"environmentID": "env_demo", "workID": "work_demo1"}
NARROW: Final = ["NAME", "STATE", "HELD", "EXTENDED", "LAST-HEARTBEAT", "SANDBOX", "AGE"]
WIDE: Final = [*NARROW[:-1], "ENVIRONMENT", "WORK", "TTL", "REASON", "AGE"]


@dataclass(frozen=True, slots=True)
class Kubectl:
    """kubectl in the namespace of one test."""

    control_plane: ControlPlane
    namespace: str

    def __call__(self, *args: str, stdin: str | None = None) -> str:
        return self.control_plane.kubectl("--namespace", self.namespace, *args, input=stdin)

    def create(self, spec: object) -> None:
        self("create", "--filename=-", stdin=_manifest(spec))

    def write_status(self, status: WorkLeaseStatus) -> None:
        patch = json.dumps({"status": status.as_merge_patch()})
        self("patch", "worklease", "demo", "--subresource=status", "--type=merge", f"--patch={patch}")

    def row(self, *args: str) -> dict[str, str]:
        """Return the only row of a table, by its headings."""
        heading, row = self("get", *args).splitlines()
        starts = [match.start() for match in re.finditer(r"\S+", heading)]
        ends = [*starts[1:], None]
        return {heading[start:end].strip(): row[start:end].strip() for start, end in zip(starts, ends, strict=True)}

    def refusal(self, spec: object) -> str:
        """Return what kubectl prints for a spec that the API server refuses."""
        with pytest.raises(KubectlError) as refused:
            self("create", "--dry-run=server", "--filename=-", stdin=_manifest(spec))
        return str(refused.value)


@pytest.fixture
def kubectl(control_plane: ControlPlane, namespace: str) -> Kubectl:
    return Kubectl(control_plane, namespace)


def _manifest(spec: object) -> str:
    kind = {"apiVersion": "worklease.dev/v1alpha1", "kind": "WorkLease"}
    return json.dumps(kind | {"metadata": {"name": "demo"}, "spec": spec})


def _condition(kind: str, status: ConditionStatus, reason: str) -> StatusCondition:
    return StatusCondition(
        type=kind, status=status, reason=reason, message="For this test.", last_transition_time=datetime.now(UTC)
    )


def _held() -> WorkLeaseStatus:
    earlier = datetime.now(UTC) - timedelta(minutes=5, seconds=5)
    return WorkLeaseStatus(
        last_heartbeat=earlier.astimezone().isoformat(),
        state="active",
        lease_extended=True,
        ttl_seconds=300,
        granted_ttl_seconds=300,
        sandboxes=(SandboxStatus(pod_uid="u1", pod_name="new-pod"), SandboxStatus(pod_uid="u0", pod_name="old-pod")),
        conditions=(
            _condition("Ready", ConditionStatus.UNKNOWN, "Claiming"),
            _condition("LeaseHeld", ConditionStatus.TRUE, "Renewed"),
        ),
    )


def test_get_shows_the_lease_at_a_glance(kubectl: Kubectl) -> None:
    kubectl.create(SPEC)
    kubectl.write_status(_held())
    row = kubectl.row("worklease")
    assert list(row) == NARROW
    assert (row["NAME"], row["STATE"], row["HELD"], row["EXTENDED"]) == ("demo", "active", "True", "true")
    assert row["SANDBOX"] == "new-pod"
    assert re.fullmatch(r"5m\d+s", row["LAST-HEARTBEAT"])


def test_get_wide_adds_the_item_and_the_reason(kubectl: Kubectl) -> None:
    kubectl.create(SPEC)
    kubectl.write_status(_held())
    row = kubectl.row("worklease", "--output=wide")
    assert list(row) == WIDE
    assert (row["ENVIRONMENT"], row["WORK"], row["TTL"]) == ("env_demo", "work_demo1", "300")
    assert row["REASON"] == "Renewed"


def test_a_resource_without_a_status_claims_nothing(kubectl: Kubectl) -> None:
    kubectl.create(SPEC)
    row = kubectl.row("worklease")
    assert {row[column] for column in NARROW[1:-1]} == {""}


@pytest.mark.parametrize("value", ["", "hb-1"])
def test_a_heartbeat_that_is_no_time_has_no_age(kubectl: Kubectl, value: str) -> None:
    kubectl.create(SPEC)
    kubectl.write_status(WorkLeaseStatus(last_heartbeat=value))
    assert kubectl.row("worklease")["LAST-HEARTBEAT"] in {"<unknown>", "<invalid>"}


@pytest.mark.parametrize("name", ["worklease", "workleases", "wl", "workleases.worklease.dev"])
def test_each_of_its_names_finds_it(kubectl: Kubectl, name: str) -> None:
    kubectl.create(SPEC)
    assert kubectl("get", f"{name}/demo", "--output=name") == "worklease.worklease.dev/demo\n"


def test_the_defaults_are_shown_and_no_sandbox_is_invented(kubectl: Kubectl) -> None:
    kubectl.create(SPEC)
    shown = json.loads(kubectl("get", "worklease", "demo", "--output=json"))["spec"]
    assert shown == SPEC | {"heartbeat": {"mode": "Operator"}, "deletionPolicy": "Stop", "acknowledge": False}


def test_describe_tells_the_whole_story(kubectl: Kubectl) -> None:
    kubectl.create(SPEC)
    kubectl.write_status(_held())
    text = kubectl("describe", "worklease", "demo")
    for line in (r"Work ID: +work_demo1", r"Lease Extended: +true", r"Reason: +Renewed", r"Pod Name: +new-pod"):
        assert re.search(line, text), f"{line} is not in:\n{text}"


def _objects(node: dict[str, Any], path: str) -> Iterator[str]:
    """Return the path of every field that has fields."""
    members = node.get("items", node)
    if members.get("properties"):
        yield path
    for name, member in members.get("properties", {}).items():
        yield from _objects(member, f"{path}.{name}")


def _explainable() -> list[str]:
    crd = yaml.safe_load((REPOSITORY / "crds" / "workleases.yaml").read_text(encoding="utf-8"))
    return list(_objects(crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"], "worklease"))


@pytest.mark.parametrize("path", _explainable())
def test_explain_describes_each_field(kubectl: Kubectl, path: str) -> None:
    text = kubectl("explain", path)
    description, _, fields = text.partition("FIELDS:")
    assert "DESCRIPTION:" in description
    assert re.search(r"^  \w+\t<", fields, re.MULTILINE), text
    assert "<no description>" not in text
    assert "<empty>" not in text


def test_explain_knows_every_object() -> None:
    assert {"worklease.spec.sandbox.template.spec.containers", "worklease.status.sandboxes"} <= set(_explainable())


def test_waiting_for_the_end_ends_with_it(kubectl: Kubectl) -> None:
    kubectl.create(SPEC)
    kubectl.write_status(WorkLeaseStatus(conditions=(_condition("Finished", ConditionStatus.TRUE, "Stopped"),)))
    waited = kubectl("wait", "worklease/demo", "--for=condition=Finished", "--timeout=20s")
    assert waited == "worklease.worklease.dev/demo condition met\n"


def _template(**labels: str) -> dict[str, Any]:
    return {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "sandbox", "image": "busybox"}]}}


@pytest.mark.parametrize(
    ("change", "field", "advice"),
    [
        ({"workID": None}, "spec.workID", "Required value"),
        ({"workID": "a b"}, "spec.workID", "should match"),
        ({"environmentID": "x" * 64}, "spec.environmentID", "may not be more than 63"),
        ({"ttlSeconds": 0}, "spec.ttlSeconds", "greater than or equal to 1"),
        ({"ttlSeconds": 86401}, "spec.ttlSeconds", "less than or equal to 86400"),
        ({"heartbeat": {"mode": "Off"}}, "spec.heartbeat.mode", '"Operator", "Suspended"'),
        ({"deletionPolicy": "Keep"}, "spec.deletionPolicy", '"Stop", "Release"'),
        ({"credentialsSecretRef": {}}, "spec.credentialsSecretRef.name", "Required value"),
        ({"credentialsSecretRef": {"name": "A_b"}}, "spec.credentialsSecretRef.name", "should match"),
        ({"ttlSecondsAfterFinished": -1}, "spec.ttlSecondsAfterFinished", "greater than or equal to 0"),
        ({"sandbox": {"drainSecond": 3}}, "spec.sandbox.drainSecond", "unknown field"),
        ({"sandbox": {"onFailure": "Restart", "maxRestarts": 0}}, "spec.sandbox.maxRestarts", "equal to 1"),
        ({"sandbox": {"template": {}}}, "spec.sandbox.template.spec", "Required value"),
        ({"sandbox": {"template": {"spec": {"containers": []}}}}, "spec.sandbox.template.spec.containers", "at least"),
        ({"sandbox": {"template": {"metadata": {"name": "a"}}}}, "spec.sandbox.template.metadata.name", "unknown"),
        (
            {"sandbox": {"template": _template(**{WORK_LABEL: "work_demo2"})}},
            "spec.sandbox.template.metadata.labels",
            "contradicts workID: leave the label out",
        ),
        (
            {"sandbox": {"template": _template(**{ENVIRONMENT_LABEL: "env_other"})}},
            "spec.sandbox.template.metadata.labels",
            "contradicts environmentID: leave the label out",
        ),
    ],
)
def test_a_mistake_is_refused_by_its_field(kubectl: Kubectl, change: dict[str, Any], field: str, advice: str) -> None:
    said = kubectl.refusal(SPEC | change)
    assert field in said
    assert advice in said


def _documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def _all_documents(kind: str) -> list[dict[str, Any]]:
    return [document for path in EXAMPLES for document in _documents(path) if document["kind"] == kind]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_accepted_to_the_letter(kubectl: Kubectl, path: Path) -> None:
    applied = kubectl("apply", "--dry-run=server", "--validate=strict", f"--filename={path}")
    assert len(applied.splitlines()) == len(_documents(path))


def test_the_examples_are_leases_of_different_items() -> None:
    items = [WorkLeaseSpec.from_wire(document["spec"]).work_id for document in _all_documents("WorkLease")]
    assert items == sorted(set(items), key=items.index)
    assert set(items) >= {"work_demo1", "work_demo2", "work_demo3"}


def test_each_pod_of_the_examples_is_the_sandbox_of_a_lease_without_a_template() -> None:
    leases = [WorkLeaseSpec.from_wire(document["spec"]) for document in _all_documents("WorkLease")]
    expecting = {
        (lease.environment_id, lease.work_id)
        for lease in leases
        if lease.sandbox is not None and lease.sandbox.template is None
    }
    labels = [document["metadata"]["labels"] for document in _all_documents("Pod")]
    assert {(label[ENVIRONMENT_LABEL], label[WORK_LABEL]) for label in labels} == expecting
    assert len(labels) == len(expecting)
