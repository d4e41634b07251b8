"""The judge finds what it should in histories that are not as they should be."""

from typing import Any

from support.judge import BeatAfterEnd, BrokenChain, Gap, Overlap, check_history


class Told:
    """Builds a history, entry by entry."""

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
                "status": 200,
                "outcome": "answered",
                "before": {"state": "active", "value": before},
                "after": {"state": state, "value": after},
                "ttl_seconds": 10,
                "lease_extended": extended,
            }
        )

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


def held() -> Told:
    told = Told()
    told.beat(0, "NO_HEARTBEAT", None, "v1")
    return told


def test_a_chain_without_a_fault_has_no_violation() -> None:
    told = held()
    told.beat(9, "v1", "v1", "v2")
    assert told.violations() == []


def test_an_accepted_beat_that_did_not_carry_the_value_before_it_is_found() -> None:
    told = held()
    told.beat(5, "v0", "v1", "v2")
    assert told.violations() == [BrokenChain]
    assert "v0" in str(check_history(told.entries)[0])


def test_a_gap_longer_than_the_ttl_is_found_even_where_the_server_did_not_mind() -> None:
    told = held()
    told.beat(10.5, "v1", "v1", "v2")
    assert told.violations() == [Gap]
    assert told.violations(released={"work_1"}) == []


def test_a_lapse_is_found() -> None:
    told = held()
    told.event(10, "lapsed")
    assert told.violations() == [Gap]


def test_an_outage_excuses_a_gap() -> None:
    told = held()
    told.event(5, "outage", "refuse")
    told.event(10, "lapsed")
    told.event(20, "outage", "off")
    assert told.violations() == []
    told.beat(30, "NO_HEARTBEAT", None, "v2")
    told.event(40, "lapsed")
    assert told.violations() == [Gap]


def test_a_beat_after_the_end_was_told_is_found_until_the_item_comes_again() -> None:
    told = held()
    told.beat(1, "v1", "v1", "v1", extended=False, state="stopped")
    told.event(2, "requeued")
    told.beat(3, "NO_HEARTBEAT", None, "v2")
    assert told.violations() == []
    told.beat(4, "v2", "v2", "v2", extended=False, state="stopped")
    told.beat(5, "v2", "v2", "v2", extended=False, state="stopped")
    assert told.violations() == [BeatAfterEnd]


def test_two_beats_of_one_client_in_flight_are_found() -> None:
    told = held()
    told.beat(1, "v1", "v1", "v2", took=1)
    told.beat(1.5, "v2", "v2", "v3", agent="another")
    assert told.violations() == []
    told.beat(1.6, "v3", "v3", "v4")
    assert told.violations() == [Overlap]
