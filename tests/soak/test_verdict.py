"""Every violation that a soak finds is counted and shown, and fails the soak."""

import io
from typing import Any

from rich.console import Console

from soak.plan import Trouble
from soak.verdict import Record, Verdict, evidence, judge, table
from support.judge import OPERATOR, Gap, Outlived, Stay


def beat(seq: int, at: float, expected: str, value: str | None) -> dict[str, Any]:
    return {
        "seq": seq,
        "order": seq,
        "event": "request",
        "call": "heartbeat",
        "item": "work_1",
        "agent": OPERATOR,
        "credentials": "environment-key",
        "expected": expected,
        "fault": None,
        "arrived": "2026-11-22T04:00:00Z",
        "arrived_monotonic": at,
        "applied_monotonic": at,
        "answered_monotonic": at,
        "status": 200,
        "outcome": "answered",
        "before": {"state": "active", "value": None if expected == "NO_HEARTBEAT" else expected},
        "after": {"state": "active", "value": value},
        "ttl_seconds": 10,
        "lease_extended": True,
    }


HELD = [beat(1, 0, "NO_HEARTBEAT", "v1"), beat(2, 5, "v1", "v2")]


def printed(verdict: Verdict) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(table(verdict))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_clean_soak_says_so_with_its_numbers() -> None:
    stays = [Stay("work_1", "pod", "uid", 1, 14)]
    verdict = judge(Record(HELD, stays, until=14), [Trouble.KILLED, Trouble.KILLED, Trouble.STOLEN])
    assert verdict.is_clean
    assert (verdict.leases, verdict.beats) == (1, 2)
    lines = printed(verdict).splitlines()
    assert any(Trouble.KILLED.value in line and line.rstrip().endswith("2") for line in lines)
    assert any("lapses of the operator's leases" in line and line.rstrip().endswith("0") for line in lines)
    assert evidence(verdict, HELD) == []


def test_a_lapse_and_a_sandbox_that_outlived_it_fail_the_soak_and_are_shown_with_the_history() -> None:
    stays = [Stay("work_1", "pod", "uid", 1, 17)]
    verdict = judge(Record(HELD, stays, until=20), [])
    assert not verdict.is_clean
    assert [type(violation) for violation in verdict.violations] == [Gap, Outlived]
    told = evidence(verdict, HELD)
    assert any("15.000 s without an accepted beat" in line for line in told)
    assert any("#2 2026-11-22T04:00:00Z work_1" in line for line in told)


def test_what_was_away_by_order_is_excused() -> None:
    stays = [Stay("work_1", "pod", "uid", 1, 17)]
    record = Record(HELD, stays, asleep=[(6, 18)], away=[(6, 18)], until=20)
    assert judge(record, []).is_clean


def test_every_kind_of_trouble_has_its_line() -> None:
    shown = printed(judge(Record(HELD, until=14), []))
    assert all(trouble.value in shown for trouble in Trouble)
