"""What is sent next after an edit, a suspension, a TTL that the server refuses, and a stop."""

import pytest

from support.lease_samples import answered, exchange, held, stamp
from worklease.rules.answers import observe
from worklease.rules.beats import (
    Beat,
    Wait,
    beat_at_once,
    decide,
    edit,
    lapse,
    note_unrecorded,
    release,
    stop_acknowledged,
)
from worklease.rules.deadlines import is_fenced
from worklease.rules.lease import End, Lease, Trouble
from worklease.rules.outcomes import Rejected


def wish_of(lease: Lease, now: float) -> int | None:
    action = decide(lease, now)
    assert isinstance(action, Beat)
    return action.desired_ttl


def test_a_suspended_lease_is_left_to_lapse() -> None:
    lease = edit(held(100), Lease(suspended=True))
    assert decide(lease, 150) == Wait(float("inf"))
    assert is_fenced(lease, 189)
    assert lapse(lease, 190).end is End.EXPIRED


def test_a_resumed_lease_beats_at_once() -> None:
    lease = edit(edit(held(100), Lease(suspended=True)), Lease())
    assert isinstance(decide(lease, 150), Beat)


def test_an_edit_reaches_the_next_beat() -> None:
    lease = edit(held(100), Lease(desired_ttl=120, interval=10))
    beat = decide(lease, 130)
    assert isinstance(beat, Beat)
    assert (beat.desired_ttl, beat.expected) == (120, stamp(100.05))


def test_a_hastened_beat_is_due_now_and_none_is_put_off() -> None:
    assert beat_at_once(held(100), 105).due == 105
    assert beat_at_once(held(100), 155).due == 130


def test_a_ttl_that_the_server_refuses_does_not_cost_the_lease_that_it_would_renew() -> None:
    lease = edit(held(), Lease(desired_ttl=86_400))
    assert wish_of(lease, 130) == 86_400
    lease = observe(lease, Rejected(exchange(130, asked=86_400), "the Work API answered 400"))
    assert "ttlSeconds 86400" in lease.message
    for _ in range(3):
        assert wish_of(lease, lease.due) is None
        lease = observe(lease, answered(lease.due, ttl=90))
    assert lease.held
    assert wish_of(lease, lease.due) is None


def test_a_ttl_that_is_refused_although_it_was_granted_before_is_asked_for_no_more() -> None:
    lease = observe(held(wish=60, ttl=60), Rejected(exchange(120, asked=60), "the Work API answered 400"))
    assert wish_of(lease, lease.due) is None


def test_if_the_ttl_that_was_granted_before_is_refused_as_well_none_is_asked_for() -> None:
    lease = edit(held(wish=60, ttl=60), Lease(desired_ttl=86_400))
    for asked in (86_400, 60):
        assert wish_of(lease, 150) == asked
        lease = observe(lease, Rejected(exchange(120, asked=asked), "the Work API answered 400"))
    assert wish_of(lease, 150) is None


def test_a_new_wish_is_asked_for_after_a_refused_one() -> None:
    lease = edit(held(), Lease(desired_ttl=86_400))
    lease = observe(lease, Rejected(exchange(130, asked=86_400), "no"))
    assert wish_of(edit(lease, Lease(desired_ttl=60)), 140) == 60


def test_a_claim_keeps_asking_for_the_ttl_that_its_author_wants() -> None:
    lease = observe(Lease(desired_ttl=86_400), Rejected(exchange(100), "no"))
    assert wish_of(lease, lease.due) == 86_400


def test_the_answer_to_our_stop_tells_that_the_item_is_stopping() -> None:
    lease = stop_acknowledged(held(), "stopping", 110)
    assert lease.stopping_seen
    assert lease.due == 110


def test_the_answer_to_a_stop_proves_nothing_of_a_lease_that_we_do_not_hold() -> None:
    assert not stop_acknowledged(Lease(), "stopping", 110).stopping_seen


@pytest.mark.parametrize("state", [None, "active", "queued"])
def test_an_answer_that_does_not_say_it_is_stopped_leaves_it_to_the_next_beat(state: str | None) -> None:
    lease = stop_acknowledged(held(), state, 110)
    assert lease.end is None
    assert lease.due == 110


def test_the_answer_to_a_stop_that_says_stopped_ends_the_lease() -> None:
    assert stop_acknowledged(held(), "stopped", 110).end is End.STOPPED


def test_a_claim_that_cannot_be_written_down_is_tried_every_ten_seconds_at_least_and_a_held_lease_is_untouched() -> (
    None
):
    lease, now, waits = Lease(), 100.0, []
    for _ in range(20):
        lease = note_unrecorded(lease, "full", now)
        waits.append(lease.due - now)
        now = lease.due
    assert lease.trouble is Trouble.CHECKPOINT_UNAVAILABLE
    assert waits[0] < 1.0
    assert max(waits) <= 10.0
    assert waits[-1] > 5.0
    for other in (held(100), release(held(100), "on failure")):
        assert note_unrecorded(other, "full", 110.0) == other
