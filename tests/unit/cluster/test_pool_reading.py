"""What a WorkLease says to its pool: its stage, its session, and how its delivery ended."""

from typing import Any

import pytest

from worklease.cluster.pool_reading import pool_of, read_pool_lease
from worklease.rules.pool import PoolLease, Stage
from worklease.rules.pool_items import abandoned

AT = "2026-11-29T07:00:00Z"


def lease(
    *conditions: tuple[str, str, str],
    labels: dict[str, str] | None = None,
    annotations: dict[str, str] | None = None,
    deleted: bool = False,
    **status: Any,
) -> dict[str, Any]:
    metadata = {
        "name": "agents-1",
        "namespace": "team",
        "uid": "uid-1",
        "generation": 1,
        "creationTimestamp": AT,
        "labels": {"worklease.dev/pool": "agents", "worklease.dev/session-id": "sesn_1"} | (labels or {}),
        "annotations": annotations or {},
    }
    if deleted:
        metadata["deletionTimestamp"] = AT
    told = [
        {"type": kind, "status": verdict, "reason": reason, "message": "", "lastTransitionTime": AT}
        for kind, verdict, reason in conditions
    ]
    spec = {"environmentID": "env_1", "workID": "work_1"}
    return {"metadata": metadata, "spec": spec, "status": {"conditions": told} | status}


def read(*conditions: tuple[str, str, str], **more: Any) -> PoolLease:
    return read_pool_lease(lease(*conditions, **more))


HELD = ("LeaseHeld", "True", "Renewed")
READY = ("SandboxReady", "True", "Running")
STOPPED = ("Finished", "True", "Stopped")


@pytest.mark.parametrize(
    ("conditions", "stage"),
    [
        ([], Stage.CLAIMING),
        ([("LeaseHeld", "False", "Claiming")], Stage.CLAIMING),
        ([HELD], Stage.STARTING),
        ([HELD, ("SandboxReady", "False", "ImagePullFailed")], Stage.STARTING),
        ([HELD, READY], Stage.RUNNING),
        ([HELD, READY, ("Finished", "False", "InProgress")], Stage.RUNNING),
        ([HELD, READY, ("Finished", "False", "TearingDown")], Stage.ENDING),
        ([("LeaseHeld", "True", "Draining"), READY], Stage.ENDING),
        ([("LeaseHeld", "False", "Stopped"), STOPPED], None),
    ],
)
def test_the_conditions_say_the_stage(conditions: list[tuple[str, str, str]], stage: Stage | None) -> None:
    assert read(*conditions).stage is stage


def test_a_sandbox_that_waits_for_an_earlier_delivery_says_nothing_of_starts() -> None:
    assert read(HELD, ("SandboxReady", "False", "PredecessorEnding")).is_waiting
    assert not read(HELD, ("SandboxReady", "False", "ImagePullFailed")).is_waiting


def test_a_deleted_lease_is_ending_until_it_is_finished() -> None:
    assert (read(HELD, READY, deleted=True).stage, read(HELD, deleted=True).is_deleting) == (Stage.ENDING, True)
    assert read(STOPPED, deleted=True).stage is None


@pytest.mark.parametrize("reason", ["SessionIdle", "SessionEnded"])
def test_a_delivery_that_was_stopped_because_of_its_session_has_not_failed(reason: str) -> None:
    pod = {"podUID": "pod-1", "phase": "Failed", "exitCode": 143}
    found = read(("SandboxReady", "False", reason), STOPPED, sandboxes=[pod])
    assert (found.has_failed, found.has_succeeded) == (False, True)


@pytest.mark.parametrize(
    ("pod", "has_failed", "has_succeeded"),
    [
        (None, False, True),
        ({"phase": "Succeeded", "exitCode": 0}, False, True),
        ({"phase": "Failed", "exitCode": 1}, True, False),
        ({"phase": "Failed", "reason": "NodeAffinity"}, False, False),
    ],
)
def test_a_finished_delivery_failed_only_if_its_sandbox_ran(
    pod: dict[str, Any] | None, *, has_failed: bool, has_succeeded: bool
) -> None:
    sandboxes = [] if pod is None else [{"podUID": "uid-pod", **pod}]
    found = read(STOPPED, sandboxes=sandboxes)
    assert (found.has_failed, found.has_succeeded) == (has_failed, has_succeeded)
    going_on = read(HELD, sandboxes=sandboxes)
    assert (going_on.has_failed, going_on.has_succeeded) == (False, False)


def test_a_released_delivery_neither_failed_nor_succeeded() -> None:
    found = read(("Finished", "True", "Released"))
    assert (found.stage, found.has_failed, found.has_succeeded) == (None, False, False)


@pytest.mark.parametrize(("text", "number"), [("2", 2), ("", 0), ("-1", 0), ("two", 0), ("9" * 40, 0), ("\u0662", 0)])
def test_a_count_that_somebody_edited_costs_nothing(text: str, number: int) -> None:
    assert read(annotations={"worklease.dev/failed-deliveries": text}).failed_deliveries == number


def test_what_else_a_lease_says() -> None:
    found = read(annotations={"worklease.dev/refused": "why", "worklease.dev/template": "t"}, claimTime=AT)
    assert (found.name, found.uid, found.work_id, found.session_id) == ("agents-1", "uid-1", "work_1", "sesn_1")
    assert (found.is_refused, found.template, found.is_acknowledged) == (True, "t", True)
    assert found.created == 1795935600.0


@pytest.mark.parametrize(("reason", "is_acknowledged"), [("Acknowledging", False), ("Claiming", True)])
def test_a_lease_that_is_claimed_has_been_acknowledged_whoever_keeps_it(reason: str, *, is_acknowledged: bool) -> None:
    body = lease(("LeaseHeld", "False", reason))
    body["spec"]["acknowledge"] = True
    assert read_pool_lease(body).is_acknowledged is is_acknowledged


def test_a_lease_of_somebody_else_is_of_no_pool() -> None:
    assert pool_of(lease()) == "agents"
    assert pool_of(lease(labels={"worklease.dev/pool": ""})) is None
    assert pool_of({"metadata": {}}) is None


def test_a_lease_that_cannot_be_read_counts_and_is_never_abandoned() -> None:
    newer = lease(STOPPED)
    newer["spec"]["aFieldOfTomorrow"] = 1
    found = read_pool_lease(newer)
    assert (found.name, found.counts) == ("agents-1", True)
    assert abandoned([found], being_written=None, now=1e12) == []
