"""The organization's request limit."""

from hypothesis import given
from hypothesis import strategies as st

from work_api_simulator.instants import SECOND
from work_api_simulator.limits import RateLimit


def test_a_minutes_worth_is_there_at_once_and_refills_evenly() -> None:
    limit = RateLimit(60)
    assert [limit.take(0) for _ in range(60)] == [None] * 60
    refusal = limit.take(0)
    assert refusal is not None
    assert refusal.retry_after == 1
    assert limit.take(SECOND) is None
    assert limit.take(SECOND) is not None


def test_no_limit_refuses_nothing() -> None:
    limit = RateLimit(0)
    assert all(limit.take(0) is None for _ in range(1000))


@given(st.lists(st.integers(min_value=0, max_value=2 * SECOND), max_size=400))
def test_never_more_than_two_minutes_worth_within_one_minute(pauses: list[int]) -> None:
    limit, now, granted = RateLimit(30), 0, []
    for pause in pauses:
        now += pause
        if limit.take(now) is None:
            granted.append(now)
    for start in granted:
        assert sum(start <= at < start + 60 * SECOND for at in granted) <= 60
