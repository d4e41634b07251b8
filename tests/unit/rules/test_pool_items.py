"""What a pool does with an item, by its rows, and what it makes of what an earlier process left."""

from dataclasses import replace
from typing import Any

import pytest

from worklease.rules.pool import PoolLease, Stage
from worklease.rules.pool_items import (
    POLL_PATIENCE,
    TOKEN_PATIENCE,
    ItemFault,
    ItemPlan,
    LeaveItem,
    Make,
    RefuseItem,
    abandoned,
    failed_deliveries,
    is_same_delivery,
    lease_name,
    make,
    plan_item,
    session_leases,
)
from worklease.rules.queue import QueuedItem

NOW = 1000.0
ITEM = QueuedItem(
    id="work_1",
    environment_id="env_1",
    data_type="session",
    data_id="sesn_1",
    created_at="2026-11-22T03:52:26Z",
    started_at=None,
)


def lease(name: str, **more: Any) -> PoolLease:
    fields: dict[str, Any] = {"uid": "uid", "work_id": "work_1", "session_id": "sesn_1", "created": NOW}
    return PoolLease(name=name, **(fields | more))


def plan(item: QueuedItem = ITEM, *leases: PoolLease, **more: Any) -> ItemPlan:
    fields: dict[str, Any] = {"has_token": True, "requires_token": True, "deliveries_per_session": 3}
    known = {each.name: each for each in leases}
    return plan_item(item, pool="agents", environment_id="env_1", leases=known, **(fields | more))


# --- What becomes of an item -----------------------------------------------------------------------------------------


def test_a_sound_item_gets_a_lease_whose_name_follows_from_its_delivery() -> None:
    made = plan()
    assert isinstance(made, Make)
    assert made.name == f"agents-{made.delivery}" == lease_name("agents", ITEM, 0)
    assert len(lease_name("a" * 40, ITEM, 0)) <= 57
    assert plan() == made


@pytest.mark.parametrize(
    ("change", "fault", "can_have_lease"),
    [
        ({"data_type": "healthcheck"}, ItemFault.NO_SESSION, True),
        ({"data_type": ""}, ItemFault.NO_SESSION, True),
        ({"id": "work/1"}, ItemFault.ID_INVALID, False),
        ({"id": "x" * 64}, ItemFault.ID_INVALID, False),
        ({"id": "work_1\n"}, ItemFault.ID_INVALID, False),
        ({"data_id": "sesn 1"}, ItemFault.ID_INVALID, True),
        ({"data_id": ""}, ItemFault.ID_INVALID, True),
    ],
)
def test_an_item_that_no_sandbox_can_work_on_is_refused(
    change: dict[str, str], fault: ItemFault, *, can_have_lease: bool
) -> None:
    refused = plan(replace(ITEM, **change))
    assert isinstance(refused, RefuseItem)
    assert (refused.fault, refused.can_have_lease) == (fault, can_have_lease)


def test_an_item_of_another_environment_is_never_touched() -> None:
    assert isinstance(plan(replace(ITEM, environment_id="env_2", data_type="healthcheck")), LeaveItem)


def test_an_item_without_a_token_is_left_where_one_is_required() -> None:
    assert isinstance(plan(has_token=False), LeaveItem)
    assert isinstance(plan(has_token=False, requires_token=False), Make)


def test_a_session_whose_deliveries_keep_failing_is_given_up() -> None:
    failing = lease("old", stage=None, failed_deliveries=2, has_failed=True)
    refused = plan(ITEM, failing)
    assert isinstance(refused, RefuseItem)
    assert refused.fault is ItemFault.DELIVERIES_EXHAUSTED
    other = plan(replace(ITEM, data_id="sesn_2"), failing)
    assert isinstance(other, Make)
    assert other.failed_deliveries == 0


# --- Whose lease has the name ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "is_same"),
    [
        ({}, True),
        ({"has_token": True}, True),
        ({"is_ack_in_doubt": True}, True),
        ({"is_acknowledged": True}, False),
        ({"stage": None}, False),
        ({"is_deleting": True}, False),
    ],
)
def test_an_existing_lease_is_of_the_same_delivery_unless_something_left_the_queue_for_it(
    change: dict[str, Any], *, is_same: bool
) -> None:
    assert is_same_delivery(lease("a", **change)) is is_same


def test_a_later_delivery_that_nothing_tells_apart_gets_the_next_counter() -> None:
    first = lease(lease_name("agents", ITEM, 0), stage=None)
    made = plan(ITEM, first)
    assert isinstance(made, Make)
    assert (made.name, made.counter) == (lease_name("agents", ITEM, 1), 1)
    known = {each.name: each for each in (first, lease(made.name, is_acknowledged=True))}
    assert make(ITEM, pool="agents", failed=0, leases=known, after=0).counter == 2


def test_each_part_of_a_delivery_makes_another_name() -> None:
    others = [
        replace(ITEM, id="work_2"),
        replace(ITEM, environment_id="env_2"),
        replace(ITEM, created_at=None),
        replace(ITEM, started_at="2026-11-22T03:52:26Z"),
        replace(ITEM, created_at=None, started_at=ITEM.created_at),
    ]
    names = {lease_name("agents", each, 0) for each in [ITEM, *others]} | {lease_name("agents", ITEM, 1)}
    assert len(names) == 7


# --- The deliveries of a session -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "failed"),
    [
        ({"failed_deliveries": 1, "has_failed": True}, 2),
        ({"failed_deliveries": 2}, 2),
        ({"failed_deliveries": 2, "has_succeeded": True}, 0),
    ],
)
def test_failed_deliveries_are_counted_on_from_the_newest_lease(change: dict[str, Any], failed: int) -> None:
    older = lease("old", created=NOW - 9, failed_deliveries=7, has_failed=True)
    newest = lease("new", **change)
    assert failed_deliveries(session_leases([older, newest], "sesn_1")) == failed


def test_a_lease_that_only_stopped_its_item_says_nothing_about_its_session() -> None:
    refused = lease("new", is_refused=True)
    older = lease("old", created=NOW - 9, failed_deliveries=2)
    assert failed_deliveries(session_leases([refused, older], "sesn_1")) == 2
    assert failed_deliveries(session_leases([], "sesn_1")) == 0


# --- What was left ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "after"),
    [
        ({}, TOKEN_PATIENCE),
        ({"polled": NOW + 5}, TOKEN_PATIENCE + 5),
        ({"has_token": True, "polled": NOW}, POLL_PATIENCE),
        ({"needs_token": False}, POLL_PATIENCE),
        ({"is_acknowledged": True}, None),
        ({"is_ack_in_doubt": True}, None),
        ({"is_deleting": True}, None),
        ({"stage": None}, None),
    ],
)
def test_a_lease_for_which_nothing_left_the_queue_goes_after_a_while(
    change: dict[str, Any], after: float | None
) -> None:
    left = [lease("a", **change)]
    late = NOW + 1e6 if after is None else NOW + after
    assert abandoned(left, being_written=None, now=late - 0.1 if after is not None else late) == []
    assert abandoned(left, being_written=None, now=late) == ([] if after is None else left)
    assert abandoned(left, being_written="a", now=late) == []


def test_a_lease_that_claims_is_claiming_for_a_reason_and_stays() -> None:
    assert abandoned([lease("a", stage=Stage.RUNNING, is_acknowledged=True)], being_written=None, now=NOW + 1e6) == []
