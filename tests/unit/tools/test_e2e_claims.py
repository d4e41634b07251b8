"""The end-to-end journey's claims are checked: each is true on a good run, and each can be refuted by a bad one."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from demo.record import Entry
from demo.snapshot import Lease, Pod, Snapshot, read
from e2e import claims
from e2e.containers import are_played
from e2e.images import Images, ImagesError
from e2e.sandboxes import EVICTED, OUT_OF_MEMORY, STANDING, STOPPED, Sandbox

CREATED = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)
OPERATOR = Pod(name="worklease-operator-6f-abc", uid="u1", created=CREATED, status="Running", ready=1)
OPERATORS = (OPERATOR, replace(OPERATOR, name="worklease-operator-6f-xyz", uid="u5"))
SIMULATOR = replace(OPERATOR, name="worklease-operator-simulator-7d-x", uid="u2")
LEASE = Lease(name="demo3", work_id="work_demo3", created=CREATED, sandbox_reason="OOMKilled")


def renewal(seq: int, at: float) -> Entry:
    return Entry(seq=seq, event="request", item="work_a", at=at, call="heartbeat", extended=True)


def test_two_ready_pods_beside_the_simulators_are_the_operator() -> None:
    assert claims.operator_runs(Snapshot(pods=(*OPERATORS, SIMULATOR))).holds


@pytest.mark.parametrize(
    "pods",
    [
        (SIMULATOR,),
        (OPERATOR, SIMULATOR),
        (OPERATOR, replace(OPERATORS[1], ready=0)),
        (OPERATOR, replace(OPERATORS[1], status="Terminating")),
        (*OPERATORS, replace(OPERATOR, name="worklease-operator-9c-def", uid="u3")),
    ],
)
def test_fewer_or_more_or_one_that_is_not_ready_are_not(pods: tuple[Pod, ...]) -> None:
    assert not claims.operator_runs(Snapshot(pods=pods)).holds


def test_an_operator_is_replaced_by_other_pods_only() -> None:
    before = Snapshot(pods=OPERATORS)
    after = tuple(replace(pod, uid=f"{pod.uid}-new") for pod in OPERATORS)
    assert claims.operator_replaced(before, Snapshot(pods=after)).holds
    assert not claims.operator_replaced(before, Snapshot(pods=(after[0], OPERATORS[1]))).holds
    assert not claims.operator_replaced(before, before).holds
    assert not claims.operator_replaced(before, Snapshot()).holds


def test_how_a_sandbox_ended_is_compared_with_what_the_resource_says() -> None:
    assert claims.ended_by(Snapshot(leases=(LEASE,)), "work_demo3", "OOMKilled").holds
    assert claims.ended_by(Snapshot(leases=(LEASE,)), "work_demo3", "Evicted").objection == "OOMKilled"
    assert not claims.ended_by(Snapshot(), "work_demo3", "Evicted").holds


def test_a_gap_counts_from_the_last_beat_before_the_change() -> None:
    record = [renewal(1, 0.0), renewal(2, 100.0), renewal(3, 110.0), renewal(5, 140.0), renewal(6, 155.0)]
    assert claims.longest_gap(record, "work_a", 4, 31).holds
    assert claims.longest_gap(record, "work_a", 4, 30).objection == "30.0 s"
    assert not claims.longest_gap(record, "work_a", 9, 30).holds


def test_what_helm_has_left_is_named() -> None:
    assert claims.nothing_left([]).holds
    assert claims.nothing_left(["service/x"]).objection == "service/x"


def test_a_lost_worklease_is_named() -> None:
    assert claims.leases_stay(Snapshot(leases=(LEASE,)), Snapshot(leases=(LEASE,))).holds
    assert claims.leases_stay(Snapshot(leases=(LEASE,)), Snapshot()).objection == "demo3"


@pytest.mark.parametrize(
    ("image", "values"),
    [
        ("localhost/worklease-operator:0.1.0", {"repository": "localhost/worklease-operator", "tag": "0.1.0"}),
        (
            "registry.example:5000/team/worklease",
            {"repository": "registry.example:5000/team/worklease", "tag": "latest"},
        ),
        ("registry.example:5000/worklease:1.10", {"repository": "registry.example:5000/worklease", "tag": "1.10"}),
        ("worklease@sha256:abc", {"repository": "worklease", "digest": "sha256:abc"}),
        ("worklease:1.0@sha256:abc", {"repository": "worklease", "digest": "sha256:abc"}),
    ],
)
def test_an_image_is_named_to_the_chart_in_its_parts(image: str, values: dict[str, str]) -> None:
    wanted = {f"image.{name}": value for name, value in values.items()} | {"image.pullPolicy": "IfNotPresent"}
    assert Images.from_environment({"E2E_IMAGE": image}).values == wanted


def test_the_operators_image_must_be_named_and_the_sandboxes_may_be() -> None:
    with pytest.raises(ImagesError, match="E2E_IMAGE is not set"):
        Images.from_environment({})
    assert Images.from_environment({"E2E_IMAGE": "x", "E2E_SANDBOX_IMAGE": "mine"}).sandbox == "mine"


def test_nodes_are_played_if_kwok_plays_all_of_them() -> None:
    played = {"metadata": {"annotations": {"kwok.x-k8s.io/node": "fake"}}}
    real = {"metadata": {"name": "node"}}
    assert are_played(json.dumps({"items": [played, played]}))
    assert not are_played(json.dumps({"items": [played, real]}))
    assert not are_played(json.dumps({"items": []}))


@pytest.mark.parametrize("sandbox", [STANDING, STOPPED, OUT_OF_MEMORY, EVICTED], ids=lambda each: each.item)
def test_a_sandbox_carries_its_items_labels_and_the_image_that_was_named(sandbox: Sandbox) -> None:
    lease, pod = json.loads(sandbox.manifests("team", "mine"))["items"]
    labels = pod["metadata"]["labels"]
    assert (lease["spec"]["environmentID"], lease["spec"]["workID"]) == (
        labels["worklease.dev/environment-id"],
        labels["worklease.dev/work-id"],
    )
    assert [each["image"] for each in pod["spec"]["containers"]] == ["mine"]
    assert {each["metadata"]["namespace"] for each in (lease, pod)} == {"team"}


def test_a_snapshot_tells_how_the_latest_sandbox_ended() -> None:
    body = {
        "kind": "WorkLease",
        "metadata": {"name": "a", "creationTimestamp": "2026-11-22T03:00:00Z"},
        "spec": {"workID": "work_a"},
        "status": {"sandboxes": [{"podName": "p", "reason": "OOMKilled", "exitCode": 137}, {"reason": "Error"}]},
    }
    lease = read(json.dumps({"items": [body]})).leases[0]
    assert (lease.sandbox, lease.sandbox_reason, lease.sandbox_exit_code) == ("p", "OOMKilled", 137)
