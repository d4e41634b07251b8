"""A token bucket lets a burst go at once, and then one at a time, at its rate."""

import pytest

from worklease.pace import TokenBucket

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
