"""What a 412 means without the list, row by row, and what lies in a window."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest

from support.lease_samples import (
    AHEAD,
    answered,
    exchange,
    held,
    refused,
    restored,
    stamp,
    unanswered,
    unsent,
)
from worklease.rules.answers import adoption, observe
from worklease.rules.beats import NO_HEARTBEAT, Beat, Rest, beat_at_once, decide, edit
from worklease.rules.deadlines import expiry
from worklease.rules.lease import Adoption, End, Lease, Trouble, Window
from worklease.rules.outcomes import Conflicted, Current, Exchange, Missing, NotReady


def beat_of(lease: Lease, now: float) -> Beat:
    action = decide(lease, now)
    assert isinstance(action, Beat)
    return action


# --- After having held -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "state"),
    [(None, "queued"), (None, "active"), ("", "active"), (stamp(100.05), "queued"), (stamp(120), "starting")],
)
def test_a_lease_that_lapsed_at_the_server_is_requeued_for_good(value: str | None, state: str) -> None:
    lease = observe(held(), refused(130, value, state=state))
    assert lease.end is End.REQUEUED
    assert decide(lease, 131) == Rest()


def test_a_lost_reply_is_not_a_lost_lease() -> None:
    lease = observe(held(), unanswered(130))
    lease = observe(lease, refused(141, stamp(130.2)))
    assert lease.end is None
    assert beat_of(lease, 141.1).expected == stamp(130.2)
    assert observe(lease, answered(141.2)).sent == 141.2


def test_an_adopted_beat_counts_from_its_sending() -> None:
    lease = observe(held(), unanswered(130))
    adopted = observe(lease, refused(141, stamp(130.2)))
    assert expiry(lease) == 190
    assert expiry(adopted) == 220
    assert adopted.value == stamp(130.2)


def test_of_several_beats_that_may_have_been_applied_the_earliest_sending_counts() -> None:
    lease = observe(held(), unanswered(130, 1))
    for sent in (131.3, 160.0):
        lease = observe(lease, unanswered(sent, 1))
    assert expiry(observe(lease, refused(162, stamp(131.5)))) == 220
    assert expiry(observe(lease, refused(162, stamp(160.5)))) == 250


def test_an_adopted_beat_has_the_least_ttl_that_may_be_in_force() -> None:
    wished = observe(edit(held(ttl=300, wish=300), Lease(desired_ttl=60)), unanswered(130, asked=60))
    assert expiry(observe(wished, refused(141, stamp(130.2), ttl=300))) == 190
    assert expiry(observe(observe(held(), unanswered(130)), refused(141, stamp(130.2), ttl=30))) == 160
    assert expiry(observe(observe(held(), unanswered(130)), refused(141, stamp(130.2), ttl=None))) == 220


def test_an_adoption_brings_the_end_no_nearer() -> None:
    """Either beat may have been applied, so the lease ends at 130 at the earliest, and the pod's grace counts on it."""
    lease = observe(held(ttl=30), unanswered(110, 2))
    lease = observe(edit(lease, Lease(desired_ttl=10)), unanswered(120, 2, asked=10))
    assert expiry(lease) == 130
    assert expiry(observe(lease, refused(123, stamp(110.2), ttl=30))) == 130
    assert expiry(observe(lease, refused(123, stamp(110.2), ttl=5))) == 115, "what the server says is no guess"


def test_where_the_servers_time_is_known_from_stamps_only_an_adoption_moves_no_deadline() -> None:
    undated = observe(Lease(), answered(100, dated=False))
    refusal = Conflicted(exchange(141, dated=False), Current(stamp(130.2), "active", 90))
    adopted = observe(observe(undated, unanswered(130)), refusal)
    assert (adopted.value, expiry(adopted)) == (stamp(130.2), 190)


def test_the_window_of_a_start_alone_moves_no_deadline() -> None:
    lease = restored(160)
    adopted = observe(lease, refused(161, stamp(150)))
    assert (adopted.value, expiry(adopted)) == (stamp(150), expiry(lease))


def test_a_beat_of_an_earlier_process_counts_from_the_beginning_of_its_window() -> None:
    lease = restored(160)
    lease = replace(lease, unanswered=(Window(AHEAD + 149, AHEAD + 153), *lease.unanswered))
    ends = expiry(observe(lease, refused(161, stamp(150))))
    assert ends is not None
    assert 149 + 90 - 3 < ends <= 149 + 90


@pytest.mark.parametrize("opens", [149, -math.inf])
def test_a_beat_of_an_earlier_process_counts_no_later_where_the_dating_clock_is_behind(opens: float) -> None:
    lease = restored(160)
    own = Window(AHEAD + 149, AHEAD + 170, 160.1)
    lease = replace(lease, unanswered=(Window(AHEAD + opens, AHEAD + 153), own), unplaced=())
    behind = Exchange(sent=161.9, done=161.95, date=AHEAD + 160)
    ends = expiry(observe(lease, Conflicted(behind, Current(stamp(149), "active", 90))))
    assert ends is not None
    assert 149 + 90 - 4 < ends <= 149 + 90


def test_an_adoption_of_a_claim_that_was_never_held_gives_it_no_end() -> None:
    lease = observe(observe(Lease(), unanswered(100, 1)), refused(101.5, stamp(100.2), ttl=30))
    assert beat_of(lease, lease.due).expected == stamp(100.2)
    assert expiry(lease) is None


def test_an_adoption_spends_all_unanswered_beats() -> None:
    lease = observe(observe(held(), unanswered(130)), unanswered(141))
    adopted = observe(lease, refused(152, stamp(130.2)))
    assert observe(adopted, refused(153, stamp(141.2))).end is End.TAKEN_OVER


@pytest.mark.parametrize(
    ("moment", "end"),
    [
        (126.0, End.TAKEN_OVER),  # before the window opens
        (130.0, None),
        (140.0, None),  # given up
        (149.9, None),  # and one time-out more
        (153.5, End.TAKEN_OVER),  # after it closed
    ],
)
def test_only_a_stamp_in_the_window_of_an_unanswered_beat_is_ours(moment: float, end: End | None) -> None:
    lease = observe(held(), unanswered(130))
    assert observe(lease, refused(160, stamp(moment))).end is end


def test_without_an_unanswered_beat_a_412_is_never_ours() -> None:
    assert observe(held(), refused(130, stamp(129.9))).end is End.TAKEN_OVER


def test_a_beat_that_surely_did_not_reach_the_server_opens_no_window() -> None:
    lease = observe(held(), unsent(130))
    assert observe(lease, refused(131, stamp(130.0))).end is End.TAKEN_OVER


@pytest.mark.parametrize("age", [-3.0, 0.0, 90.0, 95.0])
def test_a_stamp_outside_the_life_of_the_lease_is_not_ours(age: float) -> None:
    lease = held(took_now := 100.0)
    for sent in (101.0, 125.0, 150.0, 175.0):
        lease = observe(lease, unanswered(sent, 10))
    assert observe(lease, refused(196, stamp(took_now + 0.05 + age))).end is End.TAKEN_OVER


def test_an_unanswered_beat_that_asked_for_less_bounds_what_can_be_ours() -> None:
    lease = replace(held(ttl=300, wish=300), desired_ttl=15)
    lease = observe(lease, unanswered(130, 2.5, asked=15))
    lease = observe(lease, unanswered(150, 2.5, asked=15))
    ours, anothers = stamp(130.1), stamp(150.1)
    # Applied at 130 the lease lapsed at 145, and whoever beats at 150 may be its next holder.
    assert observe(lease, refused(154, ours)).end is None
    assert observe(lease, refused(154, anothers)).end is End.TAKEN_OVER


@pytest.mark.parametrize("value", ["hb-2", "2026-09-21T14:15:30", "1790000130.2", "2026-09-21T23:59:60Z"])
def test_a_value_that_is_no_time_is_never_adopted(value: str) -> None:
    assert observe(observe(held(), unanswered(130)), refused(141, value)).end is End.TAKEN_OVER


def test_a_known_value_that_is_no_time_adopts_nothing() -> None:
    lease = observe(replace(held(), value="hb-1"), unanswered(130))
    assert observe(lease, refused(141, stamp(130.2))).end is End.TAKEN_OVER


@pytest.mark.parametrize(
    "value",
    [
        "2026-09-21T14:15:30.200000Z",
        "2026-09-21T14:15:30.2Z",
        "2026-09-21T14:15:30.200Z",
        "2026-09-21T14:15:30.200000+00:00",
        "2026-09-21T19:45:30.200000123+05:30",
        "2026-09-21t14:15:30.2z",
    ],
)
def test_an_adopted_value_is_carried_byte_for_byte(value: str) -> None:
    shifted = replace(held(130.0 - 30), clock=None)
    assert stamp(130.2).startswith("2026-09-21T14:15:30.2")
    lease = observe(observe(shifted, unanswered(130)), refused(141, value))
    assert lease.end is None
    assert beat_of(lease, 141.1).expected == value


def test_a_412_that_does_not_say_what_is_decides_nothing() -> None:
    lease = observe(observe(held(), unanswered(130)), Conflicted(exchange(141), None))
    assert (lease.end, lease.trouble, lease.value) == (None, Trouble.IN_DOUBT, held().value)
    assert observe(lease, refused(142, stamp(130.2))).end is None, "the window is still open"


def test_a_412_in_stopped_ends_the_item() -> None:
    assert observe(held(), refused(130, stamp(120), state="stopped")).end is End.STOPPED


def test_a_409_after_having_held_decides_nothing() -> None:
    lease = observe(held(), NotReady(exchange(130), "not now"))
    assert (lease.end, lease.trouble) == (None, Trouble.REJECTED)


@pytest.mark.parametrize("end", list(End))
def test_what_is_final_stays_final(end: End) -> None:
    over = replace(held(), end=end)
    assert observe(over, answered(130)) == over
    assert observe(over, refused(130, None)) == over


# --- To a first claim --------------------------------------------------------------------------------------------


def test_a_first_claim_carries_no_heartbeat() -> None:
    assert beat_of(Lease(), 0).expected == NO_HEARTBEAT


@pytest.mark.parametrize(
    "outcome",
    [refused(100, None, state="queued"), refused(100, "", state="starting"), NotReady(exchange(100), "not acked")],
)
def test_a_claim_before_the_acknowledgement_is_tried_again_slower_and_slower(outcome: Conflicted | NotReady) -> None:
    lease, waits = Lease(), []
    for _ in range(12):
        lease = observe(lease, outcome)
        waits.append(lease.due - outcome.exchange.done)
    assert lease.trouble is Trouble.NOT_ACKNOWLEDGED
    assert waits[0] <= 1.2
    assert all(later > earlier for earlier, later in pairwise(waits[:3]))
    assert 6 <= max(waits) <= 10, "some servers queue an item again that is not claimed within 30 s"


def test_beside_a_holder_claims_slow_down_to_a_minute() -> None:
    lease = Lease()
    for _ in range(12):
        lease = observe(lease, refused(100, stamp(95)))
    assert lease.trouble is Trouble.HELD_BY_ANOTHER
    assert 48 <= lease.due - 100.1 <= 72


def test_an_unknown_item_is_looked_for_again() -> None:
    lease = observe(Lease(), Missing(exchange(100), "no such item"))
    assert (lease.end, lease.trouble) == (None, Trouble.NOT_FOUND)


def test_a_claim_on_a_lease_of_another_holds_nothing() -> None:
    lease = observe(Lease(), refused(100, stamp(95)))
    assert (lease.end, lease.trouble, lease.held, lease.value) == (None, Trouble.HELD_BY_ANOTHER, False, None)


def test_a_lost_claim_is_watched_before_it_is_ours() -> None:
    lease = observe(Lease(), unanswered(100))
    lease = observe(lease, refused(111, stamp(100.2), ttl=90))
    assert (lease.trouble, lease.value) == (Trouble.IN_DOUBT, None)
    # A worker beats every 30 s at this TTL: 1.25 x 30 s + 1 s of silence, by a clock that may be a second behind.
    assert 138.7 + 1 <= lease.due <= 138.7 + 3.2
    assert beat_of(lease, lease.due).expected == stamp(100.2)
    accepted = answered(lease.due)
    after = observe(lease, accepted)
    assert after.held
    assert adoption(lease, accepted, after) is Adoption.LOST_CLAIM


def test_a_claim_in_doubt_is_not_hastened() -> None:
    lease = observe(observe(Lease(), unanswered(100)), refused(111, stamp(100.2)))
    assert beat_at_once(lease, 112) == lease


def test_where_a_412_names_no_ttl_a_doubtful_claim_is_watched_for_the_ttl_that_was_asked_for() -> None:
    lease = observe(Lease(desired_ttl=15), unanswered(100, 1.0, asked=15))
    lease = observe(lease, refused(101.5, stamp(100.2), ttl=None))
    assert lease.due == pytest.approx(100.2 + 10.375 + 1.6, abs=1.1)


@pytest.mark.parametrize(("ttl", "silence"), [(1.0, 1.625), (15.0, 10.375), (300.0, 38.5), (None, 38.5)])
def test_how_long_a_doubtful_claim_is_watched_goes_by_its_ttl(ttl: float | None, silence: float) -> None:
    lease = observe(Lease(), unanswered(100, 1.0))
    lease = observe(lease, refused(101.5, stamp(100.2), ttl=ttl))
    assert lease.due == pytest.approx(max(101.85, 100.2 + silence + 1.6), abs=1.1)


def test_a_live_holder_in_the_window_of_a_lost_claim_is_not_robbed() -> None:
    lease = observe(Lease(), unanswered(100))
    for moment in (105.0, 135.0, 165.0, 195.0):  # another worker, every 30 s
        lease = observe(lease, refused(moment + 29.9, stamp(moment), ttl=90))
        assert lease.value is None
    assert lease.trouble is Trouble.HELD_BY_ANOTHER


def test_a_claim_is_not_adopted_at_first_sight_however_old() -> None:
    lease = observe(observe(Lease(), unanswered(100)), refused(500, stamp(100.2)))
    assert not lease.held
    assert lease.due > 500.1


def test_a_claim_that_was_watched_and_is_refused_begins_again() -> None:
    lease = observe(observe(Lease(), unanswered(100)), refused(150.0, stamp(100.2)))
    assert beat_of(lease, lease.due).expected == stamp(100.2)
    lapsed = observe(lease, refused(200, None, state="starting"))
    assert beat_of(lapsed, lapsed.due).expected == NO_HEARTBEAT
    taken = observe(lease, refused(200, stamp(199)))
    assert beat_of(taken, taken.due).expected == NO_HEARTBEAT


def test_a_claim_refused_without_a_word_is_tried_again_within_ten_seconds() -> None:
    lease = Lease()
    for _ in range(10):
        lease = observe(lease, Conflicted(exchange(100), None))
    assert lease.trouble is Trouble.IN_DOUBT
    assert 6 <= lease.due - 100.1 <= 10


def test_a_ttl_that_makes_no_sense_shortens_no_watch() -> None:
    lease = observe(Lease(), unanswered(100, 1.0))
    lease = observe(lease, Conflicted(exchange(101.5), Current(stamp(100.2), "active", -50.0)))
    assert lease.due > 101.6


def test_the_time_of_the_server_is_not_known_before_it_said_so() -> None:
    lease = observe(Lease(), unanswered(100))
    assert (lease.clock, len(lease.unplaced), lease.unanswered) == (None, 1, ())
    lease = observe(lease, refused(111, stamp(100.2)))
    assert lease.clock is not None
    assert lease.clock.least <= AHEAD <= lease.clock.most
    assert lease.unplaced == ()
