"""What a restart reads from a status: the operator keeps a lease that it still holds, and no other.

Each of these cases was once a mistake in the rules.
"""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest

from support.lease_samples import answered, exchange, held, refused, restored, stamp, unanswered, words
from worklease.rules.answers import observe
from worklease.rules.beats import Beat, decide, lapse, restore
from worklease.rules.deadlines import expiry, fence, giving_up, is_fenced
from worklease.rules.lease import End, Lease


def test_a_restored_lease_beats_at_once_with_the_value_it_knows() -> None:
    lease = restored(130)
    beat = decide(lease, 130)
    assert isinstance(beat, Beat)
    assert (beat.expected, lease.held, expiry(lease)) == (stamp(100), True, 190)


def test_a_start_is_one_unanswered_window_from_the_known_value_to_the_start() -> None:
    lease = restored(130)
    assert observe(lease, refused(130, stamp(100.01))).end is None
    assert observe(lease, refused(130, stamp(129.9))).end is None
    assert observe(lease, refused(160, stamp(145))).end is End.TAKEN_OVER


def test_what_was_taken_after_the_lease_lapsed_is_not_ours_again() -> None:
    lease = restored(250)
    assert observe(lease, refused(250, stamp(240))).end is End.TAKEN_OVER


def test_a_server_that_does_not_tell_the_time_loses_no_restored_lease() -> None:
    answer = refused(130, stamp(120))
    lease = observe(restored(130), replace(answer, exchange=exchange(130, dated=False)))
    assert lease.end is None


def test_a_status_that_says_expired_leaves_one_beat_its_chance() -> None:
    lease = restored(500)
    assert not is_fenced(lease, 500)
    assert lapse(lease, 519.9).end is None
    assert lapse(lease, 520).end is End.EXPIRED
    assert (expiry(lease), fence(lease), giving_up(lease)) == (190, 520, 520)
    kept = observe(lease, answered(500))
    assert (kept.reprieve, expiry(kept)) == (None, 590)


def test_a_lease_with_time_left_needs_no_reprieve() -> None:
    assert restored(101, ttl=300).reprieve is None


def test_a_start_far_from_the_end_moves_no_fence() -> None:
    assert fence(restored(110, ttl=300)) == fence(held(100, ttl=300))


def test_an_earlier_process_may_have_asked_for_the_ttl_that_the_spec_has_now() -> None:
    lease = restored(105, ttl=300, wish=15)
    assert expiry(lease) == 115
    assert observe(lease, refused(105, stamp(104))).end is None
    assert observe(restored(130, ttl=300, wish=15), refused(130, stamp(129))).end is End.TAKEN_OVER


def test_a_drain_is_gone_on_with() -> None:
    assert restored(130, state="stopping").stopping_seen


def test_a_stop_that_was_seen_after_the_fence_is_not_confirmed_by_the_next_process_either() -> None:
    lease = restore(
        Lease(),
        value=stamp(187),
        ttl=90,
        sent=100,
        claimed=100,
        words=words(188, state="stopping"),
        now=189,
    )
    assert not lease.stopping_seen


def test_a_reprieve_makes_no_stop_ours() -> None:
    lease = observe(restored(500), answered(500, stamp(499), state="stopping", extended=False))
    assert (lease.stopping_seen, lease.value) == (False, stamp(100))


def test_a_status_of_the_future_is_not_believed() -> None:
    assert expiry(restored(90, sent=200.0)) == 180


def test_a_second_restart_knows_as_much_as_the_first() -> None:
    first = observe(restored(130), unanswered(130))
    assert first.end is None
    assert observe(restored(145), refused(145, stamp(130.2))).end is None


@pytest.mark.parametrize("ttl", [0.0, -1.0])
def test_a_ttl_that_makes_no_sense_is_a_second(ttl: float) -> None:
    assert restored(100, ttl=ttl).ttl == 1


def test_every_restored_lease_is_beaten_soon_in_the_order_in_which_it_was_due() -> None:
    due = [restored(now, ttl=300).due - now for now in (129, 120, 110, 101, 100)]
    assert due == pytest.approx([1 / 6, 10 / 6, 20 / 6, 29 / 6, 5])
    assert restored(140, ttl=300).due == 140
    # If the interval is short, a lease is beaten as soon as it is due.
    assert restored(101, ttl=15).due == 105


def after_an_outage(now: float) -> Lease:
    return replace(held(ttl=300), failures=3, due=now)


@pytest.mark.parametrize("crowd", [lambda now: restored(now, ttl=300), after_an_outage])
def test_what_was_beaten_together_is_spread_evenly_over_the_interval_again(
    crowd: Callable[[float], Lease],
) -> None:
    number = 2000
    seeds = random.Random(7)  # noqa: S311
    leases = [replace(crowd(110), seed=seeds.getrandbits(32), due=110 + each / number) for each in range(number)]
    beats: list[list[float]] = []
    for lease in leases:
        moments = [lease.due]
        while moments[-1] < 200:
            lease = observe(lease, answered(lease.due))  # noqa: PLW2901 (one lease, later)
            moments.append(lease.due)
        beats.append(moments)
    gaps = [later - earlier for moments in beats for earlier, later in pairwise(moments)]
    assert min(gaps) >= 10 - 1e-6
    assert max(gaps) <= 30 + 1e-6
    for begin, most in (111, 1.7), (141, 1.25), (171, 1.25):
        counts = Counter((moment - begin) // 3 for each in beats for moment in each if begin <= moment < begin + 30)
        assert max(counts.values()) <= most * number / 10
    assert all(later - earlier == pytest.approx(30) for *_, earlier, later in beats), "the rhythm is the usual again"
