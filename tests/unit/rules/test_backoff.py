"""The one back-off doubles from its first wait to its longest."""

import pytest

from worklease.rules.backoff import backoff


@pytest.mark.parametrize(("number", "seconds"), [(0, 0.5), (1, 1.0), (2, 2.0), (4, 8.0), (5, 10.0), (10_000, 10.0)])
def test_a_backoff_doubles_from_the_first_wait_to_the_longest(number: int, seconds: float) -> None:
    assert backoff(number, 0.5, 10.0) == seconds
