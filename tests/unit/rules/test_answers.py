"""What an answer means: lost answers, answers that say little, the server's clock, and an item that is stopping.

Each of these cases was once a mistake in the rules.
"""

import math
from dataclasses import replace

import pytest

from support.lease_samples import AHEAD, answered, exchange, held, refused, stamp, unanswered
from worklease.rules import beats
from worklease.rules.answers import adoption, observe
from worklease.rules.beats import NO_HEARTBEAT, Beat, decide
from worklease.rules.deadlines import expiry, timeout
from worklease.rules.lease import Adoption, End, Lease, Trouble, instant
from worklease.rules.outcomes import Answered, Conflicted, ListedItem


def test_an_unanswered_beat_is_repeated_with_the_same_value() -> None:
    lease = observe(held(), unanswered(130))
    beat = decide(lease, lease.due)
    assert isinstance(beat, Beat)
    assert (beat.expected, lease.trouble) == (stamp(100.05), Trouble.IN_DOUBT)


def test_an_accepted_beat_ends_all_doubt() -> None:
    lease = observe(observe(held(), unanswered(130)), answered(141))
    assert (lease.unanswered, lease.unplaced, lease.trouble, lease.failures) == ((), (), None, 0)


def test_hours_without_an_answer_are_one_window() -> None:
    lease = Lease()
    for number in range(1000):
        lease = observe(lease, unanswered(100 + 11.0 * number))
    assert len(lease.unplaced) == 1


def test_each_unanswered_beat_keeps_its_sending_and_is_dropped_a_ttl_later() -> None:
    lease = held(ttl=30)
    for sent in (110.0, 120.0, 130.0, 145.0):
        lease = observe(lease, unanswered(sent, 1))
    assert [window.sent for window in lease.unanswered] == [120, 130, 145]


def test_a_beat_that_is_still_under_way_may_move_a_value_that_was_not_extended() -> None:
    lease = observe(held(), unanswered(130))
    lease = observe(lease, answered(141, stamp(100.05), extended=False))
    assert observe(lease, refused(145, stamp(143))).end is None


def test_a_beat_that_was_given_up_early_may_come_as_late_as_one_that_was_waited_for() -> None:
    lease = observe(held(), unanswered(130, 1.0))
    assert observe(lease, refused(149, stamp(130 + 2 * timeout(lease)))).end is None


def test_a_value_that_moves_without_an_extension_is_carried_on() -> None:
    lease = observe(held(), answered(130, extended=False))
    assert (lease.value, expiry(lease)) == (stamp(130.05), 190)


@pytest.mark.parametrize("state", ["active", "stopping", "stopped", "a state of next year"])
@pytest.mark.parametrize("extended", [True, False])
def test_the_servers_words_are_noted_verbatim_whatever_follows_from_them(state: str, *, extended: bool) -> None:
    said = answered(130, "a value", state=state, extended=extended, ttl=61)
    words = observe(held(), said).words
    assert words is not None
    assert (words.last_heartbeat, words.state, words.lease_extended) == ("a value", state, extended)
    assert (words.ttl_seconds, words.at) == (61, 130)
    assert observe(observe(held(), said), unanswered(141)).words == words


def test_a_first_claim_that_extends_nothing_carries_no_value_of_others() -> None:
    lease = observe(Lease(), answered(100, stamp(95), extended=False))
    assert (lease.held, lease.value, lease.trouble) == (False, None, Trouble.NOT_EXTENDED)
    assert "the item is active" in lease.message


def test_an_extension_without_a_value_is_doubt_and_never_an_omitted_value() -> None:
    lease = observe(held(), answered(130, ""))
    beat = decide(lease, lease.due)
    assert isinstance(beat, Beat)
    assert beat.expected == stamp(100.05)
    assert observe(lease, refused(131, stamp(130.05))).end is None


def test_a_first_claim_extended_without_a_value_stays_a_claim() -> None:
    lease = observe(Lease(), answered(100, ""))
    beat = decide(lease, lease.due)
    assert isinstance(beat, Beat)
    assert (beat.expected, lease.held) == (NO_HEARTBEAT, False)


# --- The server's clock ------------------------------------------------------------------------------------------


def test_two_clocks_that_drift_apart_lose_no_lease() -> None:
    """Bounds that only ever narrow exclude the truth as soon as a clock is slewed."""
    lease, sent, drift = Lease(), 70.0, 0.0
    for _ in range(400):
        sent += 30
        drift = -200e-6 * (sent - 100)  # NTP slews by up to 500 ppm
        answer = answered(sent, stamp(sent + 0.05 + drift))
        date = float(int(instant(stamp(sent + 0.05 + drift)) or 0))
        lease = observe(lease, replace(answer, exchange=replace(answer.exchange, date=date)))
    sent += 30
    lost = observe(lease, unanswered(sent))
    assert observe(lost, refused(sent + 11, stamp(sent + 0.05 + drift))).end is None


@pytest.mark.parametrize("off", [-0.9, -0.4, 0.4, 0.9])
def test_the_clock_that_stamps_may_differ_from_the_one_that_dates(off: float) -> None:
    lease = observe(held(), unanswered(130))
    assert observe(lease, refused(141, stamp(130.2 + off))).end is None


@pytest.mark.parametrize("behind", [0.0, 0.4, 0.9])
def test_a_beat_that_is_stamped_at_the_last_moment_is_ours_though_the_dates_are_behind(behind: float) -> None:
    """A ``Date`` names no fraction, and the clock that writes it may be behind the one that stamps."""
    claimed, lost = answered(100.94 + behind), unanswered(130)
    date = math.floor(AHEAD + 100.99)
    assert instant(claimed.last_heartbeat) == pytest.approx(date + 0.99 + behind)
    lease = observe(Lease(), replace(claimed, exchange=replace(claimed.exchange, date=float(date))))
    last_moment = lost.exchange.done + timeout(lease)
    assert observe(observe(lease, lost), refused(150, stamp(last_moment))).end is None


def test_without_a_date_the_stamps_tell_the_time() -> None:
    lease = observe(Lease(), answered(100, dated=False))
    lease = observe(lease, unanswered(130))
    answer = refused(141, stamp(130.2))
    assert observe(lease, replace(answer, exchange=exchange(141, dated=False))).end is None


# --- Stopping and stopped ----------------------------------------------------------------------------------------


def stopping(sent: float, value: str) -> Answered:
    return answered(sent, value, state="stopping", extended=False)


def test_the_operator_may_end_a_stopping_item_while_it_holds_the_lease() -> None:
    lease = observe(held(), stopping(130, stamp(100.05)))
    assert (lease.stopping_seen, lease.end, expiry(lease)) == (True, None, 190)
    assert lease.due == pytest.approx(160.1)


def test_a_drain_that_began_before_the_fence_goes_on_after_it() -> None:
    lease = observe(observe(held(), stopping(130, stamp(100.05))), stopping(188.5, stamp(100.05)))
    assert lease.stopping_seen


def test_a_stop_that_is_seen_after_the_fence_is_not_confirmed() -> None:
    lease = observe(held(), stopping(188, stamp(187)))
    assert (lease.stopping_seen, lease.value, lease.end) == (False, stamp(100.05), None)
    assert lease.due > 188.8, "slowly"


def test_a_stop_of_what_was_never_held_is_not_confirmed() -> None:
    lease = observe(Lease(), stopping(100, ""))
    assert (lease.stopping_seen, lease.held, lease.value, lease.trouble) == (False, False, None, None)
    beat = decide(lease, lease.due)
    assert isinstance(beat, Beat)
    assert beat.expected == NO_HEARTBEAT


def test_an_item_that_runs_again_is_no_longer_stopping() -> None:
    lease = observe(observe(held(), stopping(130, stamp(100.05))), answered(160))
    assert not lease.stopping_seen


@pytest.mark.parametrize("lease", [Lease(), held(), observe(held(), unanswered(130))])
def test_a_stopped_item_is_over_whoever_held_it(lease: Lease) -> None:
    over = observe(lease, answered(150, stamp(149), state="stopped", extended=False))
    assert over.end is End.STOPPED
    assert over.words is not None
    assert over.words.last_heartbeat == stamp(149), "verbatim"


def test_the_answer_to_a_stop_ends_the_lease_as_well() -> None:
    over = beats.stopped(held())
    assert (over.end, over.state) == (End.STOPPED, "stopped")
    assert beats.stopped(Lease()).end is End.STOPPED


def test_an_adoption_has_its_rule() -> None:
    doubted = observe(held(), unanswered(130))
    found = refused(141, stamp(130.2))
    assert adoption(doubted, found, observe(doubted, found)) is Adoption.UNANSWERED_BEAT
    mute, listed = Conflicted(exchange(141), None), ListedItem("active", stamp(50), stamp(130.2))
    assert adoption(doubted, mute, observe(doubted, mute, listed)) is Adoption.LISTED


def test_what_is_renewed_refused_or_over_is_no_adoption() -> None:
    for outcome in (answered(130), unanswered(130), refused(130, stamp(129)), refused(130, None)):
        assert adoption(held(), outcome, observe(held(), outcome)) is None
