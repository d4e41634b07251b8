"""Times that another machine's wall clock told, and a wall clock that jumps: no lease is taken to last too long."""

import random
from dataclasses import replace

import pytest

from support.lease_samples import AHEAD, answered, exchange, held, restored, stamp, throttled
from worklease.rules.answers import observe
from worklease.rules.beats import Beat, decide, lapse
from worklease.rules.clock_error import LONGEST_MARGIN, SPREAD, jumped, unsure
from worklease.rules.deadlines import expiry, fence, is_fenced, timeout
from worklease.rules.lease import End, Lease
from worklease.rules.outcomes import Exchange, Throttled


def restored_late(seconds: float, *, now: float = 130.0, ttl: float = 90.0) -> Lease:
    """Return a lease whose beat was sent at 100, restored by a wall clock that is behind by so many seconds."""
    late = restored(now, sent=100.0 + seconds, ttl=ttl)
    return unsure(replace(late, value=stamp(100.05)), now)


def test_until_an_answer_tells_the_time_a_restored_lease_is_taken_to_end_sooner() -> None:
    assert expiry(restored_late(0.0)) == 190 - LONGEST_MARGIN
    assert expiry(restored_late(0.0, now=105.0, ttl=20.0)) == 120 - 2, "a tenth of the TTL at most"
    assert fence(restored_late(0.0, ttl=300)) == pytest.approx((fence(restored(130, ttl=300)) or 0) - LONGEST_MARGIN)


def test_the_first_answer_that_tells_the_time_corrects_a_wall_clock_that_is_behind() -> None:
    lease = restored_late(20.0)
    assert (expiry(lease) or 0) > 190, "nobody knows better before an answer"
    told = observe(lease, throttled(130, None))
    assert 187 < (expiry(told) or 0) < 190
    assert expiry(observe(told, throttled(135, None))) == expiry(told), "once"


def test_a_wall_clock_that_is_ahead_makes_no_lease_last_longer() -> None:
    lease = restored_late(-20.0)
    assert expiry(observe(lease, throttled(130, None))) == expiry(lease)


def test_an_answer_without_the_time_leaves_the_margin_and_so_does_a_value_that_is_no_time() -> None:
    silent = Throttled(exchange(130, dated=False), "too many requests", None)
    assert expiry(observe(restored_late(0.0), silent)) == 190 - LONGEST_MARGIN
    opaque = replace(restored_late(0.0), value="opaque")
    assert expiry(observe(opaque, throttled(130, None))) == 190 - LONGEST_MARGIN


def test_an_accepted_beat_counts_from_its_own_sending() -> None:
    assert expiry(observe(restored_late(20.0), answered(131))) == 221


def test_whatever_the_wall_clock_showed_no_lease_is_taken_to_last_longer_than_at_the_server() -> None:
    any_number = random.Random(8)  # noqa: S311 (the same cases each time)
    for _ in range(2000):
        now, ttl = any_number.uniform(100.0, 190.0), any_number.choice([10.0, 30.0, 300.0])
        lease = restored_late(any_number.uniform(-60.0, 60.0), now=now, ttl=ttl)
        took, skew = any_number.uniform(0.0, 1.0), any_number.uniform(-1.0, 0.0)
        sent = now + any_number.uniform(0.0, 5.0)
        date = float(int(AHEAD + sent + any_number.uniform(0.0, took) + skew + 1.0))
        after = observe(lease, Throttled(Exchange(sent=sent, done=sent + took, date=date), "wait", None))
        assert (expiry(after) or 0.0) <= 100.05 + ttl + 1e-6


def test_a_margin_that_brings_the_fence_leaves_one_beat_its_chance() -> None:
    lease = restored_late(0.0, now=165.0)
    assert lease.reprieve == 165.0 + 2 * timeout(lease)
    assert not is_fenced(lease, 184.9)
    assert is_fenced(restored(165.0), 188.0), "as late as without the margin, and no later"


def test_after_a_jump_a_lease_ends_so_much_sooner_and_a_beat_tells_first() -> None:
    lease = jumped(held(100, ttl=300), 60.0, 110.0)
    assert expiry(lease) == 340
    assert 110.0 <= lease.due <= 110.0 + SPREAD
    assert isinstance(decide(lease, 115.0), Beat)
    renewed = observe(lease, answered(115.0, ttl=300))
    assert (expiry(renewed), renewed.reprieve) == (415, None)


def test_after_a_jump_beyond_its_end_a_lease_has_the_time_of_a_beat_and_no_more() -> None:
    lease = jumped(held(100), 3600.0, 110.0)
    assert not is_fenced(lease, 110.0)
    assert lapse(lease, 129.9).end is None
    assert lapse(lease, 130.0).end is End.EXPIRED
    again = jumped(lease, 3600.0, 120.0)
    assert lapse(again, 130.0).end is End.EXPIRED, "a second jump gives no more time"


def test_a_jump_matters_to_no_lease_that_is_not_held() -> None:
    assert jumped(Lease(), 60.0, 110.0) == Lease()


def test_a_beat_that_was_lost_before_a_pause_is_found_after_it() -> None:
    # The server's clock went on for the minute in which ours stood still.
    lease = jumped(held(100, ttl=300), 60.0, 110.0)
    assert lease.clock is not None
    assert lease.clock.least <= AHEAD < AHEAD + 60.0 <= lease.clock.most
