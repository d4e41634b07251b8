"""What a user of kubectl sees of a pool: columns, explanations, scaling, refusals."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import pytest
import yaml

from controlplane import ControlPlane, KubectlError
from support.cluster import ALL_CUSTOM_RESOURCES
from worklease.api.models import ConditionStatus, StatusCondition
from worklease.api.pool_models import QueueStatus, WorkPoolStatus

POOL: Final[dict[str, Any]] = {"environmentID": "env_demo", "maxConcurrent": 20}
NARROW: Final = ["NAME", "ACTIVE", "MAX", "RUNNING", "QUEUED", "POLLING", "READY", "AGE"]
WIDE: Final = [*NARROW[:-1], "REASON", "ENVIRONMENT", "AGE"]
SELECTOR: Final = "worklease.dev/pool=agents"


@dataclass(frozen=True, slots=True)
class PoolKubectl:
    """kubectl in the namespace of one test, which may have a pool named agents."""

    control_plane: ControlPlane
    namespace: str

    def __call__(self, *args: str, stdin: str | None = None) -> str:
        return self.control_plane.kubectl("--namespace", self.namespace, *args, input=stdin)

    def create(self, spec: object, *options: str, name: str = "agents") -> None:
        kind = {"apiVersion": "worklease.dev/v1alpha1", "kind": "WorkPool"}
        manifest = json.dumps(kind | {"metadata": {"name": name}, "spec": spec})
        self("create", "--filename=-", *options, stdin=manifest)

    def write_status(self, status: WorkPoolStatus) -> None:
        patch = json.dumps({"status": status.as_merge_patch()})
        self("patch", "workpool", "agents", "--subresource=status", "--type=merge", f"--patch={patch}")

    def row(self, *args: str) -> dict[str, str]:
        """Return the only row of a table, by its headings."""
        heading, row = self("get", *args).splitlines()
        starts = [match.start() for match in re.finditer(r"\S+", heading)]
        ends = [*starts[1:], None]
        return {heading[start:end].strip(): row[start:end].strip() for start, end in zip(starts, ends, strict=True)}


@pytest.fixture
def kubectl(control_plane: ControlPlane, namespace: str) -> PoolKubectl:
    return PoolKubectl(control_plane, namespace)


def _condition(kind: str, status: ConditionStatus, reason: str) -> StatusCondition:
    return StatusCondition(
        type=kind, status=status, reason=reason, message="For this test.", last_transition_time=datetime.now(UTC)
    )


def _full() -> WorkPoolStatus:
    return WorkPoolStatus(
        active=20,
        claiming=1,
        starting=2,
        running=16,
        ending=1,
        selector=SELECTOR,
        queue=QueueStatus(depth=180, pending=0, observed_time=datetime.now(UTC)),
        conditions=(
            _condition("Polling", ConditionStatus.FALSE, "AtCapacity"),
            _condition("Ready", ConditionStatus.TRUE, "AtCapacity"),
        ),
    )


def test_get_shows_the_pool_at_a_glance(kubectl: PoolKubectl) -> None:
    kubectl.create(POOL)
    kubectl.write_status(_full())
    row = kubectl.row("wp")
    assert list(row) == NARROW
    assert [row[column] for column in NARROW[:-1]] == ["agents", "20", "20", "16", "180", "False", "True"]


def test_get_wide_adds_the_reason_and_the_environment(kubectl: PoolKubectl) -> None:
    kubectl.create(POOL)
    kubectl.write_status(_full())
    row = kubectl.row("workpools", "--output=wide")
    assert list(row) == WIDE
    assert (row["REASON"], row["ENVIRONMENT"]) == ("AtCapacity", "env_demo")


def test_scaling_to_0_is_a_pause_and_reads_how_many_work(kubectl: PoolKubectl, control_plane: ControlPlane) -> None:
    kubectl.create(POOL)
    kubectl.write_status(_full())
    path = f"/apis/worklease.dev/v1alpha1/namespaces/{kubectl.namespace}/workpools/agents/scale"
    scale = control_plane.demand("GET", path)
    assert (scale["spec"]["replicas"], scale["status"]) == (20, {"replicas": 20, "selector": SELECTOR})
    kubectl("scale", "workpool", "agents", "--replicas=0")
    assert kubectl.row("workpool")["MAX"] == "0"
    with pytest.raises(KubectlError, match="less than or equal to 1000"):
        kubectl("scale", "workpool", "agents", "--replicas=1001")


def _objects(node: dict[str, Any], path: str) -> Iterator[str]:
    """Return the path of every field that has fields, but those of a WorkLease."""
    members = node.get("items", node)
    if members.get("properties"):
        yield path
    for name, member in members.get("properties", {}).items():
        if name != "sandbox":
            yield from _objects(member, f"{path}.{name}")


def _explainable() -> list[str]:
    crd = yaml.safe_load((ALL_CUSTOM_RESOURCES / "workpools.yaml").read_text(encoding="utf-8"))
    return list(_objects(crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"], "workpool"))


@pytest.mark.parametrize("path", _explainable())
def test_explain_describes_each_field_of_a_pool(kubectl: PoolKubectl, path: str) -> None:
    text = kubectl("explain", path)
    description, _, fields = text.partition("FIELDS:")
    assert "DESCRIPTION:" in description
    assert re.search(r"^  \w+\t<", fields, re.MULTILINE), text
    assert "<no description>" not in text
    assert "<empty>" not in text


@pytest.mark.parametrize(
    ("change", "field", "advice"),
    [
        ({"maxConcurrent": None}, "spec.maxConcurrent", "Required value"),
        ({"maxConcurrent": -1}, "spec.maxConcurrent", "greater than or equal to 0"),
        ({"environmentID": "a b"}, "spec.environmentID", "should match"),
        ({"deletionPolicy": "Keep"}, "spec.deletionPolicy", '"Release", "Stop"'),
        ({"limits": {"pauseSeconds": 901}}, "spec.limits.pauseSeconds", "less than or equal to 900"),
        ({"leaseTemplate": {"spec": {"workID": "work_1"}}}, "spec.leaseTemplate.spec.workID", "unknown field"),
        (
            {"leaseTemplate": {"metadata": {"labels": {"worklease.dev/pool": "a"}}}},
            "spec.leaseTemplate.metadata.labels",
            "labels of worklease.dev are the operator's own: leave them out",
        ),
        (
            {
                "leaseTemplate": {
                    "spec": {
                        "sandbox": {
                            "template": {
                                "metadata": {"labels": {"worklease.dev/work-id": "work_1"}},
                                "spec": {"containers": [{"name": "a", "image": "b"}]},
                            }
                        }
                    }
                }
            },
            "spec.leaseTemplate.spec.sandbox.template.metadata.labels",
            "leave it out, the operator sets it for each item",
        ),
    ],
)
def test_a_mistake_in_a_pool_is_refused_by_its_field(
    kubectl: PoolKubectl, change: dict[str, Any], field: str, advice: str
) -> None:
    with pytest.raises(KubectlError) as refused:
        kubectl.create(POOL | change, "--dry-run=server")
    assert field in str(refused.value)
    assert advice in str(refused.value)


def test_a_name_that_is_too_long_is_refused(kubectl: PoolKubectl) -> None:
    with pytest.raises(KubectlError, match="at most 40 characters"):
        kubectl.create(POOL, "--dry-run=server", name="a" * 41)
