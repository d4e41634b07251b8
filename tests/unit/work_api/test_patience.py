"""How long a beat is waited for: as long as the server's answers suggest, and never longer than its lease allows."""

import pytest

from support.lease_samples import answered, exchange, refused, throttled, unanswered, unsent
from worklease.rules.outcomes import Outcome, Unauthorized
from worklease.work_api.patience import LEAST, MOST_HUNG, PART, RECENT, SLOWEST_TIMES, Patience

LONGEST = 10.0


@pytest.fixture
def patience() -> Patience:
    """The server answered fast."""
    patience = Patience()
    patience.note(answered(100, took=0.05))
    return patience


def test_the_first_beat_is_waited_for_as_long_as_its_lease_allows() -> None:
    assert Patience().timeout(LONGEST) == LONGEST


@pytest.mark.parametrize(("longest", "wait"), [(LONGEST, LONGEST * PART), (3.3, LEAST), (0.5, 0.5)])
def test_where_the_server_is_fast_a_beat_is_given_up_early(patience: Patience, longest: float, wait: float) -> None:
    assert patience.timeout(longest) == wait


def test_a_server_that_is_slow_is_waited_for(patience: Patience) -> None:
    patience.note(refused(110, "a value"))
    patience.note(answered(120, took=2.0))
    assert patience.timeout(LONGEST) == SLOWEST_TIMES * 2.0
    assert patience.timeout(5.0) == 5.0


def test_answers_that_are_long_past_do_not_count(patience: Patience) -> None:
    patience.note(answered(110, took=2.0))
    for number in range(RECENT):
        patience.note(answered(120 + number))
    assert patience.timeout(LONGEST) == LONGEST * PART


def test_after_four_calls_that_hang_the_server_may_be_slow_until_one_is_answered(patience: Patience) -> None:
    for number in range(MOST_HUNG):
        assert patience.timeout(LONGEST) == LONGEST * PART
        patience.note(unanswered(110 + 5 * number, LONGEST * PART))
    assert patience.timeout(LONGEST) == LONGEST
    patience.note(answered(150, took=1.0))
    assert patience.timeout(LONGEST) == SLOWEST_TIMES * 1.0


@pytest.mark.parametrize("refusal", [throttled(150, None), Unauthorized(exchange(150), "no")])
def test_a_refusal_that_needs_no_look_at_the_lease_does_not_show_that_the_server_is_fast(refusal: Outcome) -> None:
    patience = Patience()
    patience.note(refusal)
    assert patience.timeout(LONGEST) == LONGEST
    patience.note(answered(160))
    for number in range(MOST_HUNG):
        patience.note(unanswered(170 + 5 * number, LONGEST * PART))
    patience.note(refusal)
    assert patience.timeout(LONGEST) == LONGEST


def test_connections_that_are_lost_say_nothing_about_how_fast_the_server_is(patience: Patience) -> None:
    for number in range(MOST_HUNG):
        patience.note(unanswered(110 + number, 0.1))
        patience.note(unsent(110.5 + number))
    assert patience.timeout(LONGEST) == LONGEST * PART
