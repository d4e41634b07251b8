"""When beats are due, how long they may take, and when a lease reaches its fence and its end."""

from dataclasses import replace

import pytest

from support.lease_samples import answered, exchange, held, refused, stamp, throttled, unanswered, unsent
from worklease.rules.answers import observe
from worklease.rules.beats import Beat, Rest, Wait, decide, edit, lapse
from worklease.rules.deadlines import (
    expiry,
    fence,
    grace,
    is_fenced,
    latest,
    list_timeout,
    may_stop,
    time_left,
    timeout,
)
from worklease.rules.lease import End, Lease, Trouble
from worklease.rules.outcomes import CredentialsMissing, Outcome, Rejected, Unauthorized

YEAR = 31_536_000.0


@pytest.mark.parametrize(
    ("ttl", "interval", "due"),
    [(300, 30, 30), (90, 30, 30), (60, 30, 20), (15, 30, 5), (1, 30, 1 / 3), (300, 100, 100)],
)
def test_a_beat_is_due_at_a_third_of_the_ttl_at_most_the_interval(ttl: float, interval: float, due: float) -> None:
    lease = observe(Lease(interval=interval), answered(100, ttl=ttl, took=0.3))
    assert decide(lease, 100.3) == Wait(100 + due)
    assert isinstance(decide(lease, 100 + due), Beat)


@pytest.mark.parametrize(("ttl", "seconds"), [(300, 10), (60, 10), (30, 5), (6, 1), (1, 1 / 6)])
def test_a_request_may_take_a_sixth_of_the_ttl_at_most_ten_seconds(ttl: float, seconds: float) -> None:
    assert timeout(held(ttl=ttl)) == pytest.approx(seconds)


def test_a_lease_counts_from_the_sending_of_its_beat() -> None:
    lease = observe(Lease(), answered(100, took=8.0, ttl=90))
    assert expiry(lease) == 190


@pytest.mark.parametrize(
    ("ttl", "pod_grace", "at", "allowed"),
    [
        (300, 30, 300 - 30 - 7, 30),
        (300, 600, 300 - 60 - 7, 60),
        (90, 30, 90 - 18 - 2.8, 18),
        (15, 30, 15 - 3 - 1.3, 3),
        (15, 0, 15 - 1.3, 0),
        (1, 30, 1 - 0.2 - 1.02, 0.2),
    ],
)
def test_the_fence_leaves_the_grace_and_a_margin(ttl: float, pod_grace: float, at: float, allowed: float) -> None:
    lease = held(100, ttl=ttl, pod_grace=pod_grace)
    assert fence(lease) == pytest.approx(100 + at)
    assert grace(lease) == pytest.approx(allowed)
    assert not is_fenced(lease, 100 + at - 0.01)
    assert is_fenced(lease, 100 + at + 0.01)


def test_a_lease_never_held_has_no_fence_and_no_end() -> None:
    lease = observe(Lease(pod_grace=30), unanswered(100))
    assert (fence(lease), expiry(lease), is_fenced(lease, 1e9)) == (None, None, False)
    assert lapse(lease, 1e9) == lease


def test_a_lease_ends_when_its_time_is_up() -> None:
    lease = held(100, ttl=90)
    assert lapse(lease, 189.99) == lease
    assert lapse(lease, 190.0).end is End.EXPIRED
    assert decide(lapse(lease, 190.0), 190.0) == Rest()


def test_beats_go_on_from_the_fence_to_the_end_and_can_save_the_lease() -> None:
    lease = observe(held(100, ttl=90, pod_grace=30), unanswered(160))
    assert is_fenced(lease, 175)
    assert isinstance(decide(lease, 175), Beat)
    lease = observe(lease, answered(175))
    assert not is_fenced(lease, 175.1)
    assert (lease.held, lease.trouble) == (True, None)


def test_an_answer_that_comes_after_the_end_saves_nothing() -> None:
    lease = observe(held(100, ttl=10), answered(103, took=60, ttl=10))
    assert lapse(lease, 163).end is End.EXPIRED


@pytest.mark.parametrize("ttl", [1.0, 10.0, 30.0, 300.0, YEAR])
def test_retries_start_at_once_and_double_up_to_a_twentieth_of_the_ttl(ttl: float) -> None:
    lease, waits = held(100, ttl=ttl), []
    for _ in range(30):
        lease = observe(lease, unsent(101))
        waits.append(lease.due - 101)
    first, longest = min(0.25, ttl / 20), ttl / 20
    for number, wait in enumerate(waits):
        step = min(longest, first * 2.0 ** min(number, 16))
        assert 0.8 * step <= wait <= 1.2 * step + 1e-9


def test_what_a_beat_waited_for_its_answer_counts_as_waiting() -> None:
    lease = observe(observe(held(100, ttl=60), unsent(101)), unsent(102))
    assert lease.due - 102 == pytest.approx(0.5, rel=0.21)
    assert observe(lease, unanswered(103, 10.0)).due == 113.25
    assert observe(lease, unanswered(103, 0.1)).due == pytest.approx(104.0, abs=0.21)


def test_retries_of_many_leases_are_spread() -> None:
    dues = {observe(replace(held(), seed=seed), unsent(101)).due for seed in range(100)}
    assert len(dues) > 90


@pytest.mark.parametrize(
    ("outcome", "trouble"),
    [
        (unsent(130), Trouble.UNREACHABLE),
        (unanswered(130, 1.0), Trouble.IN_DOUBT),
        (throttled(130, None), Trouble.THROTTLED),
        (Unauthorized(exchange(130), "no"), Trouble.UNAUTHORIZED),
        (CredentialsMissing(exchange(130), "none"), Trouble.CREDENTIALS_MISSING),
        (Rejected(exchange(130), "bad"), Trouble.REJECTED),
        (answered(130, stamp(100.05), extended=False), Trouble.NOT_EXTENDED),
    ],
)
def test_every_failure_of_a_held_lease_is_retried_densely_and_ends_nothing(outcome: Outcome, trouble: Trouble) -> None:
    lease = observe(held(), outcome)
    assert (lease.end, lease.trouble, lease.value) == (None, trouble, stamp(100.05))
    assert lease.due <= outcome.exchange.done + 0.3


def test_an_unclaimed_lease_is_tried_every_ten_seconds_at_least() -> None:
    lease = Lease()
    for _ in range(20):
        lease = observe(lease, unsent(100))
    assert 6 <= lease.due - 100 <= 10


def test_no_time_is_left_to_a_sandbox_after_the_end() -> None:
    lease = held(100, ttl=90)
    assert time_left(lease, 150) == pytest.approx(40 - 2.8)
    assert time_left(lease, 500) == 0
    assert observe(lease, refused(120, None)).end is End.REQUEUED


def test_a_stop_may_be_sent_while_the_lease_is_held_less_a_time_out() -> None:
    lease = held(100, ttl=90)
    assert may_stop(lease, 179.9)
    assert not may_stop(lease, 180)
    assert not may_stop(Lease(), 100)
    assert not may_stop(observe(lease, refused(130, None)), 131)


def test_a_routine_beat_may_be_stretched_to_three_fifths_of_the_ttl_or_two_time_outs_before_the_fence() -> None:
    assert latest(held(100, ttl=300, pod_grace=30)) == pytest.approx(100 + 180)
    assert latest(held(100, ttl=30, pod_grace=30)) == pytest.approx(100 + 30 - 6 - 1.6 - 10)
    assert latest(Lease()) == float("inf")


# --- A TTL that changes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ttl", [1.0, 15.0, 600.0, YEAR])
def test_a_ttl_that_the_server_changes_takes_effect_at_once(ttl: float) -> None:
    lease = observe(held(100, ttl=90), answered(120, ttl=ttl))
    assert expiry(lease) == 120 + ttl
    assert lease.due == pytest.approx(120 + min(ttl / 3, 30))
    assert timeout(lease) == pytest.approx(min(10, ttl / 6))


def test_a_ttl_of_an_answer_that_extends_nothing_moves_no_deadline() -> None:
    lease = observe(held(100, ttl=90), answered(120, stamp(100.05), extended=False, ttl=600))
    lease = observe(lease, answered(121, stamp(100.05), state="stopping", extended=False, ttl=600))
    assert expiry(lease) == 190


def test_a_ttl_cut_in_an_answer_that_got_lost_counts_as_if_it_were_granted() -> None:
    lease = edit(held(100, ttl=300, wish=300), Lease(desired_ttl=15))
    assert timeout(lease) == 2.5, "a shorter lease may be in force as soon as the beat is sent"
    lease = observe(replace(lease, pod_grace=30), unanswered(130, 2.5, asked=15))
    assert expiry(lease) == 145, "counted from the beat that asked, not from the last accepted one"
    assert grace(lease) == 3
    assert fence(lease) == pytest.approx(145 - 3 - 1.3)
    assert expiry(observe(lease, answered(133, ttl=300))) == 433


def test_a_wish_that_the_server_does_not_grant_cuts_nothing() -> None:
    lease = observe(Lease(desired_ttl=5), answered(100, ttl=60, asked=5))
    assert timeout(lease) == 10
    assert expiry(observe(lease, unanswered(120, asked=5))) == 160


def test_an_answer_to_a_former_wish_does_not_grant_the_new_one() -> None:
    lease = edit(held(100, ttl=300, wish=300), Lease(desired_ttl=15))
    lease = observe(lease, answered(130, ttl=300, asked=300))  # sent before the edit
    lease = observe(lease, unanswered(160, 2.5, asked=15))
    assert expiry(lease) == 175


def test_a_wish_that_is_taken_back_leaves_an_unknown_default() -> None:
    lease = edit(held(100, ttl=600, wish=600), Lease())
    assert expiry(observe(lease, unanswered(130))) == 130 + 90


# --- Retry-After -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [5.0, 20.0])
def test_retry_after_is_kept(seconds: float) -> None:
    assert observe(held(100, ttl=300), throttled(130, seconds)).due == pytest.approx(130.1 + seconds)


def test_an_unanswered_beat_may_name_a_time_as_well() -> None:
    assert observe(held(100, ttl=300), unanswered(130, 0.1, retry_after=20)).due == pytest.approx(150.1)


def test_retry_after_beyond_the_fence_leaves_just_one_attempt_before_it() -> None:
    lease = held(100, ttl=90)
    at = fence(lease)
    assert at is not None
    lease = observe(lease, throttled(130, 600))
    assert lease.due == pytest.approx(at - 20)
    again = observe(lease, throttled(lease.due, 600))
    assert again.due == pytest.approx(lease.due + 600.1)


def test_an_attempt_is_owed_even_if_the_server_first_holds_back_shortly_before_the_fence() -> None:
    lease = observe(held(100, ttl=90), unanswered(170))
    lease = observe(lease, throttled(180.4, 600))
    assert 180.5 < lease.due < 190


def test_what_the_server_holds_back_stays_held_back_whatever_else_fails() -> None:
    lease = observe(held(100, ttl=300), throttled(130, 60))
    assert observe(replace(lease, due=140), unsent(140)).due == pytest.approx(190.1)


def test_a_lease_never_held_waits_as_long_as_it_is_told() -> None:
    assert observe(Lease(), throttled(100, 600)).due == pytest.approx(700.1)


def test_an_accepted_beat_ends_all_waiting() -> None:
    lease = observe(observe(held(100, ttl=300), throttled(130, 600)), answered(200, ttl=300))
    assert lease.held_back is None
    assert 210 <= lease.due <= 230


# --- The list ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("now", "seconds"), [(130, 10), (160, 7.2), (167.2, 0), (180, 0)])
def test_the_list_is_waited_for_no_longer_than_leaves_two_time_outs_before_the_fence(
    now: float, seconds: float
) -> None:
    lease = held(100, ttl=90)
    assert fence(lease) == pytest.approx(187.2)
    assert list_timeout(lease, now) == pytest.approx(seconds)
