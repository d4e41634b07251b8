"""The judge finds each violation in a history that contains it."""

from typing import Any

import pytest

from support.judge import (
    OPERATOR,
    BeatAfterEnd,
    BrokenChain,
    Gap,
    Outlived,
    Overlap,
    Stay,
    WrongStop,
    WrongTakeover,
    check_history,
    check_sandboxes,
)


class HistoryBuilder:
    """A history that is built entry by entry."""

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []

    def beat(
        self,
        at: float,
        expected: str,
        before: str | None,
        after: str | None,
        *,
        extended: bool = True,
        state: str = "active",
        took: float = 0.01,
        agent: str = "a",
        answered: bool = True,
        status: int = 200,
    ) -> None:
        seq = len(self.entries) + 1
        self.entries.append(
            {
                "seq": seq,
                "order": seq,
                "event": "request",
                "call": "heartbeat",
                "item": "work_1",
                "agent": agent,
                "expected": expected,
                "fault": None,
                "arrived_monotonic": at,
                "applied_monotonic": at,
                "answered_monotonic": at + took,
                "status": status,
                "outcome": "answered" if answered else "dropped-after",
                "credentials": "environment-key",
                "before": {"state": "active", "value": before},
                "after": {"state": state, "value": after},
                "ttl_seconds": 10,
                "lease_extended": extended,
            }
        )

    def stop(self, at: float, *, before: str = "active", after: str = "stopped", agent: str = "a") -> None:
        self.beat(at, "", None, None, extended=False, agent=agent)
        self.entries[-1] |= {"call": "stop", "before": {"state": before}, "after": {"state": after}}

    def refused(self, at: float) -> None:
        self.beat(at, "v1", "v9", "v9", extended=False, status=412)

    def event(self, at: float, event: str, detail: str | None = None) -> None:
        seq = len(self.entries) + 1
        item = None if event == "outage" else "work_1"
        after = None if item is None else {"state": "queued", "value": None, "ttl_seconds": None}
        self.entries.append(
            {
                "seq": seq,
                "order": seq,
                "event": event,
                "item": item,
                "at_monotonic": at,
                "after": after,
                "detail": detail,
            }
        )

    def violations(self, **more: Any) -> list[type]:
        return [type(violation) for violation in check_history(self.entries, **more)]

    def outlived(self, first: float, last: float, **more: Any) -> list[type]:
        stay = Stay("work_1", "pod", "uid", first, last)
        return [type(violation) for violation in check_sandboxes(self.entries, [stay], agent="a", **more)]


def held() -> HistoryBuilder:
    history = HistoryBuilder()
    history.beat(0, "NO_HEARTBEAT", None, "v1")
    return history


def test_a_chain_without_a_fault_has_no_violation() -> None:
    history = held()
    history.beat(9, "v1", "v1", "v2")
    assert history.violations() == []


def test_an_accepted_beat_that_did_not_carry_the_value_before_it_is_found() -> None:
    history = held()
    history.beat(5, "v0", "v1", "v2")
    assert history.violations() == [BrokenChain]
    assert "v0" in str(check_history(history.entries)[0])


def test_a_gap_longer_than_the_ttl_is_found_even_where_the_server_did_not_mind() -> None:
    history = held()
    history.beat(10.5, "v1", "v1", "v2")
    assert history.violations() == [Gap]
    assert history.violations(released={"work_1"}) == []


def test_a_lapse_is_found() -> None:
    history = held()
    history.event(10, "lapsed")
    assert history.violations() == [Gap]


def test_an_outage_excuses_a_gap() -> None:
    history = held()
    history.event(5, "outage", "refuse")
    history.event(10, "lapsed")
    history.event(20, "outage", "off")
    assert history.violations() == []
    history.beat(30, "NO_HEARTBEAT", None, "v2")
    history.event(40, "lapsed")
    assert history.violations() == [Gap]


def test_a_beat_after_the_end_was_told_is_found_until_the_item_comes_again() -> None:
    history = held()
    history.beat(1, "v1", "v1", "v1", extended=False, state="stopped")
    history.event(2, "requeued")
    history.beat(3, "NO_HEARTBEAT", None, "v2")
    assert history.violations() == []
    history.beat(4, "v2", "v2", "v2", extended=False, state="stopped")
    history.beat(5, "v2", "v2", "v2", extended=False, state="stopped")
    assert history.violations() == [BeatAfterEnd]


@pytest.mark.parametrize(("killed", "found"), [(4.5, []), (3.5, [BeatAfterEnd]), (5.5, [BeatAfterEnd])])
def test_who_was_killed_before_the_end_was_written_down_may_ask_once_more(killed: float, found: list[type]) -> None:
    history = held()
    history.beat(4, "v1", "v1", "v1", extended=False, state="stopped")
    history.beat(5, "v1", "v1", "v1", extended=False, state="stopped")
    assert history.violations(killed=[killed]) == found


def test_two_beats_of_one_client_in_flight_are_found() -> None:
    history = held()
    history.beat(1, "v1", "v1", "v2", took=1)
    history.beat(1.5, "v2", "v2", "v3", agent="another")
    assert Overlap not in history.violations()
    history.beat(1.6, "v3", "v3", "v4")
    assert history.violations().count(Overlap) == 1


def test_an_outage_that_was_over_in_time_excuses_no_gap() -> None:
    history = held()
    history.event(1, "outage", "refuse")
    history.event(5, "outage", "off")
    history.event(10, "lapsed")
    assert history.violations() == [Gap]


def test_a_client_that_was_stopped_by_order_is_excused() -> None:
    history = held()
    history.event(10, "lapsed")
    assert history.violations(absent=[(3, 12)]) == []
    assert history.violations(absent=[(3, 5)]) == [Gap]


def test_a_lease_that_was_given_up_is_found_where_the_server_lets_none_lapse() -> None:
    history = held()
    assert history.violations(until=9) == []
    assert history.violations(until=11) == [Gap]
    history.stop(5)
    assert history.violations(until=11) == []


def test_a_stop_by_who_holds_is_right() -> None:
    history = held()
    history.stop(5)
    assert history.violations() == []


def test_a_stop_by_who_never_held_is_found() -> None:
    history = held()
    history.stop(5, agent="b")
    assert history.violations() == [WrongStop]


def test_a_stop_after_the_end_of_the_lease_is_found() -> None:
    history = held()
    history.event(10, "lapsed")
    history.stop(11, before="queued")
    assert history.violations() == [Gap, WrongStop]
    assert "its lease had ended" in str(check_history(history.entries)[-1])


def test_a_stop_after_the_loss_was_told_is_found_and_one_before_that_is_not() -> None:
    history = held()
    history.event(2, "stolen")
    history.entries[-1]["after"] = {"state": "active", "value": "v9", "ttl_seconds": 60}
    history.stop(3, after="stopping")
    assert history.violations() == []
    history.refused(4)
    history.stop(5)
    assert history.violations() == [WrongStop]


def test_a_stop_that_changed_nothing_is_no_wrong_one() -> None:
    history = held()
    history.stop(5, agent="b", before="stopped")
    assert history.violations() == []


def test_a_sandbox_that_is_seen_after_the_end_of_its_lease_is_found() -> None:
    history = held()
    history.beat(5, "v1", "v1", "v2")
    assert history.outlived(1, 14.9) == []
    assert history.outlived(1, 15.1) == [Outlived]
    assert "0.1" in str(check_sandboxes(history.entries, [Stay("work_1", "pod", "uid", 1, 15.1)], agent="a")[0])


def test_a_lease_that_was_taken_leaves_its_sandbox_until_its_fence_and_no_longer() -> None:
    history = held()
    history.event(2, "requeued")
    assert history.outlived(1, 9.9) == []
    assert history.outlived(1, 10.1) == [Outlived]


def test_a_pod_that_came_after_the_end_was_never_part_of_the_lease() -> None:
    history = held()
    history.event(2, "requeued")
    assert history.outlived(3, 60) == []
    history.beat(4, "NO_HEARTBEAT", None, "v2")
    history.beat(13, "v2", "v2", "v3")
    assert history.outlived(3, 22) == []
    assert history.outlived(3, 24) == [Outlived]
    assert history.outlived(1, 22) == [Outlived]


def test_a_lease_that_nobody_knew_to_hold_ends_no_sandbox() -> None:
    history = HistoryBuilder()
    history.beat(0, "NO_HEARTBEAT", None, "v1", answered=False)
    assert history.outlived(0, 60) == []


def test_who_was_away_at_the_end_is_given_time_and_who_was_there_again_before_it_is_not() -> None:
    history = held()
    assert history.outlived(1, 12, absent=[(8, 12)]) == []
    assert history.outlived(1, 60, absent=[(8, 12)]) == [Outlived]
    assert history.outlived(1, 12, absent=[(1, 3)]) == [Outlived]


def test_the_operator_is_judged_unless_another_client_is_named() -> None:
    history = held()
    assert check_sandboxes(history.entries, [Stay("work_1", "pod", "uid", 1, 60)]) == []
    history.entries[-1]["agent"] = OPERATOR
    assert len(check_sandboxes(history.entries, [Stay("work_1", "pod", "uid", 1, 60)])) == 1


def test_who_goes_on_with_the_value_of_another_is_found() -> None:
    history = held()
    history.beat(1, "v1", "v1", "v2")
    assert history.violations() == []
    history.beat(2, "v2", "v2", "v3", agent="b")
    assert history.violations() == [WrongTakeover]
    assert "b went on with the value of a" in str(check_history(history.entries)[0])


def test_who_goes_on_with_the_value_of_a_worker_that_is_not_seen_is_found() -> None:
    history = held()
    history.event(2, "requeued")
    history.beat(3, "v9", "v9", "v10")
    assert history.violations() == [WrongTakeover]
