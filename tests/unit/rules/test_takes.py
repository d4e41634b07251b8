"""A bucket is taken from a holder that was seen to be silent for long enough, and from nobody else."""

import pytest

from worklease.rules.buckets import BUCKETS, distribute
from worklease.rules.takes import (
    LONGEST_GLANCE,
    Seen,
    SeenLease,
    TakeCause,
    heirs,
    is_unchanged,
    living,
    next_hand_over,
    see,
    take,
)
from worklease.rules.tenure import VACANT

SEEN = {"a": SeenLease("1", 100.0), "b": SeenLease("5", 100.0, is_ready=True)}


def cause(now: float, *, holder: str = "a", preferred: str = "own", proved: bool = False, seen: Seen = SEEN) -> object:
    return take(holder, "own", preferred, seen, now, is_proved_dead=proved)


# --- Who lives ---------------------------------------------------------------------------------------------------


def test_time_counts_from_the_last_change_that_was_seen() -> None:
    seen = see(SEEN, {"a": ("1", False), "b": ("6", True)}, {"a", "b"}, 104.0, last=103.0)
    assert seen == {"a": SeenLease("1", 100.0), "b": SeenLease("6", 104.0, is_ready=True)}


def test_a_lease_that_is_gone_counts_as_unchanged() -> None:
    assert see(SEEN, {"b": ("5", True)}, {"a"}, 104.0, last=103.0)["a"] == SEEN["a"]


def test_a_lease_that_is_gone_and_whose_process_holds_nothing_is_forgotten() -> None:
    assert "a" not in see(SEEN, {}, set(), 104.0, last=103.0)


def test_of_a_holder_without_a_lease_the_time_counts_from_when_it_was_missed_first() -> None:
    seen = see({}, {}, {"c"}, 104.0, last=103.0)
    assert see(seen, {}, {"c"}, 106.0, last=104.0)["c"] == SeenLease("", 104.0)


def test_that_a_process_is_ready_is_no_sign_of_life() -> None:
    assert see(SEEN, {"a": ("1", True)}, set(), 104.0, last=103.0)["a"] == SeenLease("1", 100.0, is_ready=True)


def test_time_in_which_the_observer_could_not_look_does_not_count() -> None:
    seen = see(SEEN, {"a": ("1", False), "b": ("6", True)}, {"a"}, 130.0, last=104.0)
    assert seen["a"].since == 130.0 - 4.0 - LONGEST_GLANCE, "four seconds were seen, and as many as one look may take"
    assert seen["b"].since == 130.0
    assert see(SEEN, {"a": ("1", False)}, {"a"}, 106.5, last=104.0)["a"] == SEEN["a"], "one look may take its time"


def test_a_process_lives_for_nine_seconds_after_the_last_change() -> None:
    assert living("own", SEEN, 108.9) == {"own", "a", "b"}
    assert living("own", SEEN, 109.0) == {"own"}
    assert living("own", {"c": SeenLease("", 100.0)}, 101.0) == {"own"}, "it was never seen"


# --- Takes -------------------------------------------------------------------------------------------------------


def test_who_should_hold_a_bucket_takes_it_after_nine_seconds_and_any_other_after_eleven() -> None:
    assert cause(108.9) is None
    assert cause(109.0) is TakeCause.LAPSED
    assert cause(110.9, preferred="b") is None
    assert cause(111.0, preferred="b") is TakeCause.LAPSED


def test_a_bucket_of_a_dead_process_is_taken_at_once_by_who_can_prove_it() -> None:
    assert cause(100.0, proved=True) is TakeCause.DEAD


def test_a_bucket_that_nobody_holds_is_taken_at_once_by_anybody() -> None:
    assert cause(100.0, holder=VACANT) is TakeCause.VACANT
    assert cause(100.0, holder=VACANT, preferred="b") is TakeCause.VACANT


def test_nobody_takes_its_own_bucket_or_one_of_a_holder_that_it_never_looked_at() -> None:
    assert cause(999.0, holder="own") is None
    assert cause(999.0, holder="c") is None


def test_only_a_holder_that_was_silent_may_live_on() -> None:
    assert [each for each in TakeCause if each.may_live] == [TakeCause.LAPSED]


def test_a_lagging_watch_takes_nothing_from_the_living() -> None:
    assert is_unchanged(SEEN["a"], "1")
    assert not is_unchanged(SEEN["a"], "2")
    assert is_unchanged(SEEN["a"], None), "a Lease that is gone counts as unchanged"
    assert not is_unchanged(SeenLease("", 100.0), "1"), "it was made only now"


# --- Hand-overs --------------------------------------------------------------------------------------------------


def test_a_new_process_gets_its_share_one_bucket_at_a_time_and_one_second_apart() -> None:
    held = dict.fromkeys(range(BUCKETS), "own")
    moves, now = [], 100.0
    while (move := next_hand_over("own", held, {"b"}, now - 1.0, now)) is not None:
        bucket, successor = move
        held[bucket] = successor
        moves.append(move)
        assert next_hand_over("own", held, {"b"}, now, now + 0.9) is None, "one second has not passed"
        now += 1.0
    assert held == distribute({"own", "b"})
    assert len(moves) == BUCKETS / 2


def test_nothing_is_handed_over_where_nobody_else_is_ready() -> None:
    assert next_hand_over("own", dict.fromkeys(range(BUCKETS), "own"), set(), 0.0, 100.0) is None


def test_only_who_holds_a_bucket_hands_it_over() -> None:
    assert next_hand_over("own", dict.fromkeys(range(BUCKETS), "a"), {"a", "b"}, 0.0, 100.0) is None


def test_a_process_that_ends_hands_all_its_buckets_to_those_that_stay() -> None:
    held = distribute({"own", "a", "b"})
    left = heirs("own", held, {"own", "a", "b"})
    assert set(left) == {bucket for bucket, holder in held.items() if holder == "own"}
    assert left == {bucket: distribute({"a", "b"})[bucket] for bucket in left}


@pytest.mark.parametrize("ready", [set(), {"own"}])
def test_the_last_process_leaves_its_buckets_to_nobody(ready: set[str]) -> None:
    assert heirs("own", {0: "own", 1: "a"}, ready) == {0: VACANT}
