"""A token bucket lets a burst go at once, and then one at a time; a fair queue takes turns between owners."""

import pytest

from worklease.pace import FairQueue, TokenBucket

NOW = 1000.0


def test_a_burst_goes_at_once_and_the_next_ones_at_the_rate() -> None:
    bucket = TokenBucket(4.0, 3.0, NOW)
    assert [bucket.reserve(NOW) for _ in range(6)] == [0.0, 0.0, 0.0, 0.25, 0.5, 0.75]


def test_what_is_reserved_in_advance_is_not_given_twice() -> None:
    bucket = TokenBucket(4.0, 1.0, NOW)
    assert [bucket.reserve(NOW) for _ in range(3)] == [0.0, 0.25, 0.5]
    assert bucket.reserve(NOW + 0.5) == 0.25
    assert bucket.reserve(NOW + 10.0) == 0.0


def test_a_pause_fills_the_bucket_to_its_burst_and_no_further() -> None:
    bucket = TokenBucket(4.0, 2.0, NOW)
    for _ in range(2):
        bucket.take()
    assert bucket.wait(NOW) == 0.25
    assert [bucket.reserve(NOW + 3600.0) for _ in range(3)] == [0.0, 0.0, 0.25]


def test_asking_how_long_to_wait_takes_nothing() -> None:
    bucket = TokenBucket(4.0, 1.0, NOW)
    assert [bucket.wait(NOW) for _ in range(3)] == [0.0, 0.0, 0.0]
    bucket.take()
    assert [bucket.wait(NOW) for _ in range(3)] == [0.25, 0.25, 0.25]
    assert bucket.wait(NOW + 0.125) == 0.125


def test_a_token_that_is_taken_before_it_came_puts_the_next_ones_off() -> None:
    bucket = TokenBucket(4.0, 1.0, NOW)
    for _ in range(3):
        bucket.take()
    assert bucket.wait(NOW) == 0.75
    assert bucket.wait(NOW + 0.75) == 0.0


def test_a_clock_that_stands_still_gives_nothing() -> None:
    bucket = TokenBucket(4.0, 1.0, NOW)
    bucket.take()
    assert bucket.wait(NOW) == bucket.wait(NOW) == 0.25


@pytest.mark.parametrize("rate", [0.1, 20.0, 1000.0])
def test_over_a_long_time_no_more_go_than_the_rate_and_the_burst(rate: float) -> None:
    bucket, burst, seconds = TokenBucket(rate, 5.0, NOW), 5.0, 60.0
    now, gone = NOW, 0
    while now <= NOW + seconds:
        now += bucket.reserve(now)
        gone += 1
    assert gone <= burst + rate * seconds + 2


def queue(**waiting: int) -> FairQueue[str]:
    made: FairQueue[str] = FairQueue()
    for owner, number in waiting.items():
        for each in range(number):
            made.put(owner, f"{owner}{each}")
    return made


def taken(waiting: FairQueue[str]) -> list[str]:
    return [found[1] for found in iter(waiting.take, None)]


def test_owners_have_their_turns_one_after_the_other_and_each_keeps_its_order() -> None:
    waiting = queue(a=4, b=2, c=1)
    assert len(waiting) == 7
    assert taken(waiting) == ["a0", "b0", "c0", "a1", "b1", "a2", "a3"]
    assert len(waiting) == 0


def test_an_owner_that_comes_late_waits_for_one_item_of_each_other_one() -> None:
    waiting = queue(a=1000, b=1000)
    assert [waiting.take() for _ in range(3)] == [("a", "a0"), ("b", "b0"), ("a", "a1")]
    waiting.put("late", "at last")
    assert [waiting.take() for _ in range(3)] == [("b", "b1"), ("a", "a2"), ("late", "at last")]


def test_an_item_that_waits_already_keeps_its_place_and_counts_once() -> None:
    waiting = queue(a=3)
    waiting.put("a", "a1")
    assert (len(waiting), taken(waiting)) == (3, ["a0", "a1", "a2"])


def test_an_owner_that_is_not_free_is_passed_over_and_keeps_its_place() -> None:
    waiting = queue(a=2, b=2)
    assert waiting.take(lambda owner: owner != "a") == ("b", "b0")
    assert waiting.take(lambda _: False) is None
    assert taken(waiting) == ["a0", "b1", "a1"]


def test_what_is_dropped_is_not_taken_and_unknown_things_can_be_dropped() -> None:
    waiting = queue(a=2, b=1)
    for owner, item in (("a", "a0"), ("b", "b0"), ("b", "b0"), ("nobody", "nothing")):
        waiting.drop(owner, item)
    assert (len(waiting), taken(waiting)) == (1, ["a1"])


def test_where_too_many_wait_the_newest_of_the_owner_with_most_goes() -> None:
    waiting = queue(a=1, b=3, c=2)
    waiting.drop_newest_of_most()
    waiting.drop_newest_of_most()
    assert taken(waiting) == ["a0", "b0", "c0", "c1"]
