"""A taker reads a 412 by the list where the holder before may have beaten on; one that is not valid goes in silence."""

from dataclasses import replace

import pytest

from support.lease_samples import answered, held, refused, restored, stamp, unanswered
from worklease.rules import answers
from worklease.rules.deadlines import list_timeout, timeout
from worklease.rules.lease import End, Lease, Trouble
from worklease.rules.outcomes import ListAnswer, ListedItem, ListNotRead, NoKeyForList, NotListed
from worklease.rules.succession import (
    MOST_TAKEN_BACK,
    Blind,
    Succession,
    is_over,
    is_same_delivery,
    list_seconds,
    may_fall_silent,
    observe_as_invalid,
    observe_as_taker,
)

TAKEN = 400.0
SAME = ListedItem("active", stamp(50.0))
ANOTHER = ListedItem("active", stamp(350.0))


def taken(at: float = TAKEN) -> tuple[Lease, Succession]:
    """Return a lease of TTL 90, whose record is 300 s old, and which a process begins after a take."""
    lease = replace(restored(at), first=stamp(100.0))
    return lease, Succession(taken=at)


def told() -> tuple[Lease, Succession | None]:
    """Return such a lease after its first accepted beat."""
    lease, succession = taken()
    return observe_as_taker(lease, answered(401.0), None, succession)


# --- Before the first accepted beat ------------------------------------------------------------------------------


def test_a_value_that_is_too_new_for_the_record_is_adopted_if_the_list_shows_the_same_delivery() -> None:
    lease, succession = taken()
    found = refused(401.0, stamp(390.0))
    assert answers.observe(lease, found, SAME).end is End.TAKEN_OVER, "without the list it would be another's"
    after, left = observe_as_taker(lease, found, SAME, succession)
    assert (after.end, after.value, after.due) == (None, stamp(390.0), found.exchange.done)
    assert left == succession, "it may be so as often as it takes, until a beat is accepted"


def test_an_adoption_by_the_list_moves_no_deadline_and_leaves_the_reprieve() -> None:
    lease, succession = taken()
    after, _ = observe_as_taker(lease, refused(401.0, stamp(390.0)), SAME, succession)
    assert (after.sent, after.ttl, after.reprieve) == (lease.sent, lease.ttl, lease.reprieve)


def test_another_delivery_is_taken_over() -> None:
    lease, succession = taken()
    after, _ = observe_as_taker(lease, refused(401.0, stamp(390.0)), ANOTHER, succession)
    assert after.end is End.TAKEN_OVER


@pytest.mark.parametrize("seen", [None, ListNotRead("time-out"), NoKeyForList()])
def test_without_the_list_nothing_is_decided_and_the_next_beat_follows_soon(seen: ListAnswer | None) -> None:
    lease, succession = taken()
    found = refused(401.0, stamp(390.0))
    after, left = observe_as_taker(lease, found, seen, succession)
    assert (after.end, after.trouble, after.value) == (None, Trouble.IN_DOUBT, lease.value)
    assert after.due < found.exchange.done + 5.0
    assert (after.sent, after.reprieve, left) == (lease.sent, lease.reprieve, succession)


def test_what_a_complete_list_does_not_have_is_not_ours() -> None:
    lease, succession = taken()
    assert observe_as_taker(lease, refused(401.0, stamp(390.0)), NotListed(), succession)[0].end is End.TAKEN_OVER


@pytest.mark.parametrize("state", ["queued", "starting", "stopped"])
def test_an_item_that_is_not_at_work_ends_as_ever(state: str) -> None:
    lease, succession = taken()
    found = refused(401.0, None if state != "stopped" else stamp(390.0), state=state)
    after, _ = observe_as_taker(lease, found, None, succession)
    assert after.end is (End.STOPPED if state == "stopped" else End.REQUEUED)


def test_the_list_is_asked_for_where_it_decides() -> None:
    lease, succession = taken()
    found = refused(401.0, stamp(390.0))
    assert list_timeout(lease, 401.0) == 0, "its record is older than its TTL"
    assert list_seconds(lease, found, succession) == timeout(lease), "to the last: nothing else can tell"
    assert not answers.is_doubtful(lease, found)
    assert list_seconds(lease, found, None) == 0
    assert list_seconds(lease, answered(401.0), succession) == 0
    assert list_seconds(restored(150.0), refused(151.0, stamp(140.0)), None) > 0, "as ever, before an adoption"


# --- The same delivery -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("listed", "is_same"),
    [
        (ListedItem("active", stamp(50.0)), True),
        (ListedItem("stopping", stamp(50.0)), True),
        (ListedItem("starting", stamp(50.0)), False),
        (ListedItem("active", stamp(101.0)), True),
        (ListedItem("active", stamp(101.1)), False),
        (ListedItem("active", None), False),
        (ListedItem("active", None, acknowledged_at=stamp(60.0)), True),
        (ListedItem("active", stamp(50.0), acknowledged_at=stamp(300.0)), False),
        (ListedItem("active", "yesterday"), False),
    ],
)
def test_the_list_proves_the_same_delivery(listed: ListedItem, *, is_same: bool) -> None:
    assert is_same_delivery(replace(held(100.0), first=stamp(100.0)), listed) is is_same


# --- After the first accepted beat -------------------------------------------------------------------------------


def test_an_accepted_beat_of_the_tenure_is_noted() -> None:
    _, succession = told()
    assert succession is not None
    assert succession.is_told


def test_a_value_that_moved_within_the_life_of_the_lease_is_taken_back_three_times_a_ttl() -> None:
    lease, succession = told()
    for number in range(MOST_TAKEN_BACK):
        lease, succession = observe_as_taker(lease, refused(410.0 + number, stamp(409.9 + number)), SAME, succession)
        assert (lease.end, lease.value) == (None, stamp(409.9 + number))
    assert list_seconds(lease, refused(420.0, stamp(419.9)), succession) == 0
    ended, _ = observe_as_taker(lease, refused(420.0, stamp(419.9)), SAME, succession)
    assert ended.end is End.TAKEN_OVER


def test_a_value_from_beyond_the_life_of_the_lease_is_not_taken_back() -> None:
    lease, succession = told()
    ended, _ = observe_as_taker(lease, refused(500.0, stamp(499.0)), SAME, succession)
    assert ended.end is End.TAKEN_OVER


# --- Two TTLs later ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seen", [None, SAME, ANOTHER, NotListed()])
def test_two_ttls_after_the_take_a_refusal_is_read_as_ever(seen: ListAnswer | None) -> None:
    lease, succession = taken()
    late = refused(TAKEN + 180.0, stamp(TAKEN + 170.0))
    assert is_over(succession, lease, TAKEN + 180.0)
    assert observe_as_taker(lease, late, seen, succession) == (answers.observe(lease, late, seen), None)


def test_a_tenure_that_no_living_holder_precedes_reads_a_refusal_as_ever() -> None:
    lease, _ = taken()
    found = refused(401.0, stamp(390.0))
    assert observe_as_taker(lease, found, SAME, None) == (answers.observe(lease, found, SAME), None)


def test_a_tenure_that_no_living_holder_precedes_reads_as_ever_after_its_first_accepted_beat() -> None:
    lease, succession = taken()
    dead = Succession(begun=succession.taken)
    after, left = observe_as_taker(lease, refused(401.0, stamp(390.0)), SAME, dead)
    assert (after.value, left) == (stamp(390.0), dead), "its record may be old all the same"
    told, left = observe_as_taker(after, answered(402.0), None, dead)
    assert is_over(left, told, 403.0)


def test_a_tenure_that_begins_long_after_the_last_take_may_find_an_old_record_too() -> None:
    lease, _ = taken()
    left = Succession(taken=TAKEN - 500.0, begun=TAKEN)
    assert not is_over(left, lease, 401.0)
    assert observe_as_taker(lease, refused(401.0, stamp(390.0)), SAME, left)[0].end is None


def test_a_release_in_a_taken_tenure_begins_with_one_accepted_beat() -> None:
    lease, succession = taken()
    assert not may_fall_silent(succession, lease, TAKEN + 1.0)
    assert may_fall_silent(succession, lease, TAKEN + 180.0)
    assert may_fall_silent(None, lease, TAKEN + 1.0)
    after, heard = told()
    assert may_fall_silent(heard, after, TAKEN + 1.0)


# --- The holder that is not valid --------------------------------------------------------------------------------


def test_an_accepted_beat_keeps_the_lease_of_a_holder_that_is_not_valid() -> None:
    after = observe_as_invalid(Blind(held(100.0)), answered(130.0))
    assert after is not None
    assert after.lease.sent == 130.0


def test_a_holder_that_is_not_valid_adopts_its_own_unanswered_beat_once_a_ttl() -> None:
    doubted = Blind(answers.observe(held(100.0), unanswered(130.0)))
    after = observe_as_invalid(doubted, refused(141.0, stamp(130.1)))
    assert after is not None
    assert (after.lease.value, after.adopted) == (stamp(130.1), 141.1)
    doubted = replace(after, lease=answers.observe(after.lease, unanswered(142.0)))
    assert observe_as_invalid(doubted, refused(153.0, stamp(142.1))) is None


@pytest.mark.parametrize("state", ["active", "queued", "stopped"])
def test_any_other_refusal_to_a_holder_that_is_not_valid_lets_the_lease_go_in_silence(state: str) -> None:
    assert observe_as_invalid(Blind(held(100.0)), refused(130.0, stamp(120.0), state=state)) is None


def test_a_stopped_item_is_let_go_in_silence_too() -> None:
    assert observe_as_invalid(Blind(held(100.0)), answered(130.0, state="stopped", extended=False)) is None
