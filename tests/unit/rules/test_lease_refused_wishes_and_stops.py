"""What the review of a lease's edges asked for: a TTL that is refused, and when a stop is ours to send."""

from dataclasses import replace

import pytest

from support.lease_samples import answered, exchange, held, refused, stamp, unanswered
from worklease.rules.answers import observe
from worklease.rules.beats import Beat, decide, edit, stop_acknowledged
from worklease.rules.deadlines import latest, may_stop
from worklease.rules.lease import End, Lease
from worklease.rules.outcomes import ListedItem, Rejected


def wish_of(lease: Lease, now: float) -> int | None:
    action = decide(lease, now)
    assert isinstance(action, Beat)
    return action.desired_ttl


def test_a_ttl_that_the_server_refuses_does_not_cost_the_lease_that_it_would_renew() -> None:
    lease = edit(held(), Lease(desired_ttl=86_400))
    assert wish_of(lease, 130) == 86_400
    lease = observe(lease, Rejected(exchange(130), "the Work API answered 400"))
    assert "ttlSeconds 86400" in lease.message
    assert wish_of(lease, lease.due) is None
    lease = observe(lease, answered(lease.due, ttl=90))
    assert lease.held
    assert wish_of(lease, lease.due) is None


def test_a_new_wish_is_asked_for_after_a_refused_one() -> None:
    lease = edit(held(), Lease(desired_ttl=86_400))
    lease = observe(lease, Rejected(exchange(130), "no"))
    assert wish_of(edit(lease, Lease(desired_ttl=60)), 140) == 60


def test_a_claim_keeps_asking_for_the_ttl_that_its_author_wants() -> None:
    lease = observe(Lease(desired_ttl=86_400), Rejected(exchange(100), "no"))
    assert wish_of(lease, lease.due) == 86_400


def test_a_stop_is_ours_to_send_while_we_hold_less_a_time_out() -> None:
    lease = held(100, ttl=90)
    assert may_stop(lease, 179.9)
    assert not may_stop(lease, 180)
    assert not may_stop(Lease(), 100)
    assert not may_stop(observe(lease, refused(130, None)), 131)


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


def test_a_routine_beat_may_be_stretched_to_three_fifths_of_the_ttl_or_two_time_outs_before_the_fence() -> None:
    assert latest(held(100, ttl=300, pod_grace=30)) == pytest.approx(100 + 180)
    assert latest(held(100, ttl=30, pod_grace=30)) == pytest.approx(100 + 30 - 6 - 1.6 - 10)
    assert latest(Lease()) == float("inf")


def test_the_list_rules_out_another_delivery_even_if_only_the_last_value_is_known() -> None:
    lease = replace(observe(held(), unanswered(130)), first=None)
    lease = observe(lease, refused(141, stamp(130.2)), ListedItem("active", stamp(120)))
    assert lease.end is End.TAKEN_OVER
