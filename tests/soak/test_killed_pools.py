"""The operator of a pool is killed again and again: a short form of the soak."""

import random

import pytest

from controlplane import ControlPlane
from soak.killed_pools import LONGEST_STRAND, Siege, besiege, strands
from support.judge import Entry

SIEGE = Siege(kills=3, sessions=9, lasts="2s")


@pytest.mark.journey
@pytest.mark.long(seconds=30)
def test_three_kills_among_sessions_strand_none_lose_no_token_and_start_no_sandbox_twice(
    control_plane: ControlPlane, namespace: str
) -> None:
    found = besiege(control_plane, namespace, SIEGE, random.Random(4))  # noqa: S311 - it chooses moments
    assert found.faults == []
    assert found.sandboxes == SIEGE.sessions + found.interrupted


def entry(order: int, state: str, at: float) -> Entry:
    return {"event": "request", "order": order, "item": "work_a", "after": {"state": state}, "applied_monotonic": at}


def test_an_item_that_was_acknowledged_and_held_too_late_or_never_is_a_strand() -> None:
    late = LONGEST_STRAND + 1
    assert strands([entry(1, "starting", 0.0), entry(2, "active", late)], late) == [("work_a", late)]
    assert strands([entry(1, "starting", 0.0)], late) == [("work_a", late)]
    assert strands([entry(1, "starting", 0.0), entry(2, "active", 1.0)], late) == []
