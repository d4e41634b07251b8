"""What the list shows overrules what the windows say, and nothing else."""

from dataclasses import replace

import pytest

from support.lease_samples import exchange, held, refused, stamp, unanswered
from worklease.rules.answers import is_claim_in_doubt, is_doubtful, look_before_claim, observe
from worklease.rules.beats import NO_HEARTBEAT, Beat, decide
from worklease.rules.lease import End, Lease, Trouble
from worklease.rules.outcomes import Conflicted, ListAnswer, ListedItem, ListNotRead, NotListed, NotReady


def test_the_list_is_asked_before_an_adoption() -> None:
    lease = observe(held(), unanswered(130))
    assert is_doubtful(lease, refused(141, stamp(130.2)))


def test_the_list_is_asked_where_a_412_does_not_say_what_is() -> None:
    assert is_doubtful(held(), Conflicted(exchange(130), None))


def test_the_list_is_not_asked_where_nothing_is_in_doubt() -> None:
    lease = observe(held(), unanswered(130))
    assert not is_doubtful(lease, refused(141, None))
    assert not is_doubtful(lease, refused(141, stamp(400)))
    assert not is_doubtful(held(), unanswered(130))


def test_the_same_delivery_is_adopted() -> None:
    lease = observe(held(), unanswered(130))
    lease = observe(lease, refused(141, stamp(130.2)), ListedItem("active", stamp(10)))
    assert lease.end is None
    assert lease.value == stamp(130.2)


@pytest.mark.parametrize("state", ["active", "stopping"])
def test_what_was_queued_after_our_first_value_and_taken_is_another_delivery(state: str) -> None:
    lease = observe(held(), unanswered(130))
    lease = observe(lease, refused(141, stamp(130.2)), ListedItem(state, stamp(129.9)))
    assert lease.end is End.TAKEN_OVER


def test_what_was_acknowledged_after_our_first_value_is_another_delivery() -> None:
    lease = observe(held(), unanswered(130))
    seen = ListedItem("active", stamp(100.9), acknowledged_at=stamp(101.1))
    assert observe(lease, refused(141, stamp(130.2)), seen).end is End.TAKEN_OVER


def test_an_entry_that_is_stamped_just_after_the_first_value_is_of_the_same_delivery() -> None:
    lease = observe(held(), unanswered(130))
    lease = observe(lease, refused(141, stamp(130.2)), ListedItem("active", stamp(100.051)))
    assert (lease.end, lease.value) == (None, stamp(130.2))


@pytest.mark.parametrize("state", ["queued", "starting"])
def test_what_waits_in_the_queue_again_is_requeued(state: str) -> None:
    lease = observe(held(), Conflicted(exchange(130), None), ListedItem(state, stamp(129.9)))
    assert lease.end is End.REQUEUED


def test_what_the_list_shows_as_stopped_is_over() -> None:
    assert observe(held(), Conflicted(exchange(130), None), ListedItem("stopped", stamp(10))).end is End.STOPPED


@pytest.mark.parametrize("started", [None, "", "yesterday", "2026-11-22T03:00:00"])
def test_a_list_that_does_not_tell_the_delivery_leaves_it_to_the_windows(started: str | None) -> None:
    lease = observe(held(), unanswered(130))
    assert observe(lease, refused(141, stamp(130.2)), ListedItem("active", started)).value == stamp(130.2)


def test_a_mute_412_and_a_list_of_the_same_delivery_decide_nothing() -> None:
    lease = observe(held(), Conflicted(exchange(130), None), ListedItem("active", stamp(10)))
    assert lease.end is None
    assert lease.trouble is Trouble.IN_DOUBT
    assert lease.value == held().value


def test_a_value_that_only_the_list_names_is_adopted_like_one_of_a_412() -> None:
    lease = observe(held(), unanswered(130))
    mute = Conflicted(exchange(141), None)
    assert observe(lease, mute, ListedItem("active", stamp(10), stamp(130.2))).value == stamp(130.2)
    assert observe(lease, mute, ListedItem("active", stamp(10), stamp(400))).value == held().value
    assert observe(held(), mute, ListedItem("active", stamp(10), stamp(130.2))).value == held().value


def test_a_409_while_we_hold_is_read_by_the_list() -> None:
    refusal = NotReady(exchange(130), "not now")
    assert is_doubtful(held(), refusal)
    stopping = observe(held(), refusal, ListedItem("stopping", stamp(10)))
    assert stopping.stopping_seen
    assert stopping.end is None
    assert observe(held(), refusal, ListedItem("stopped", stamp(10))).end is End.STOPPED
    assert observe(held(), refusal, ListedItem("starting", stamp(120))).end is End.REQUEUED
    assert observe(held(), refusal, ListedItem("active", stamp(10))).trouble is Trouble.REJECTED


def test_a_409_past_the_fence_is_no_stop_to_confirm() -> None:
    assert not observe(
        held(100, ttl=90), NotReady(exchange(189), "not now"), ListedItem("stopping", stamp(10))
    ).stopping_seen


def test_what_the_list_says_of_a_stopping_item_is_a_word_of_the_server() -> None:
    """Some servers then answer a beat with 409: a stop that may have been applied waits for such an answer."""
    listed = observe(held(), NotReady(exchange(120), "the item is stopping"), ListedItem("stopping", stamp(90)))
    assert listed.stopping_seen
    assert listed.words is not None
    assert (listed.words.state, listed.words.lease_extended, listed.words.at) == ("stopping", False, 120)


def test_the_list_rules_out_another_delivery_even_if_only_the_last_value_is_known() -> None:
    lease = replace(observe(held(), unanswered(130)), first=None)
    lease = observe(lease, refused(141, stamp(130.2)), ListedItem("active", stamp(120)))
    assert lease.end is End.TAKEN_OVER


@pytest.mark.parametrize("beaten", [None, stamp(40)])
def test_a_list_that_lags_by_a_delivery_does_not_overrule_a_412_that_names_our_stamp(beaten: str | None) -> None:
    lease = observe(held(), unanswered(130))
    adopted = observe(lease, refused(141, stamp(130.2)), ListedItem("stopped", stamp(10), beaten))
    assert (adopted.end, adopted.value) == (None, stamp(130.2))


def test_a_mute_412_beside_the_former_deliverys_row_decides_nothing() -> None:
    listed = ListedItem("stopped", stamp(10), stamp(40))
    assert observe(held(), Conflicted(exchange(130), None), listed).trouble is Trouble.IN_DOUBT


@pytest.mark.parametrize("started", [None, stamp(10)])
def test_a_412_without_a_word_and_a_list_that_says_queued_are_requeued_at_once(started: str | None) -> None:
    refusal = Conflicted(exchange(130), None)
    assert observe(held(), refusal, ListedItem("queued", started)).end is End.REQUEUED
    young = observe(held(), Conflicted(exchange(105), None), ListedItem("queued", started))
    assert young.trouble is Trouble.IN_DOUBT, "the list may be from before the claim"


# --- To a first claim --------------------------------------------------------------------------------------------

MUTE = Conflicted(exchange(111), None)


def test_a_lost_claim_is_found_by_the_list_where_a_412_says_nothing() -> None:
    lease = observe(Lease(desired_ttl=15), unanswered(100, 2.5, asked=15))
    assert is_doubtful(lease, MUTE)
    lease = observe(lease, MUTE, ListedItem("active", None, stamp(100.2)))
    assert lease.trouble is Trouble.IN_DOUBT
    again = decide(lease, lease.due)
    assert isinstance(again, Beat)
    assert again.expected == stamp(100.2)
    assert lease.due <= 100.2 + 15 - 1.25, "by the TTL that was asked for: there is time for this beat"


@pytest.mark.parametrize(
    ("listed", "trouble"),
    [
        (ListedItem("queued", stamp(10)), Trouble.NOT_ACKNOWLEDGED),
        (ListedItem("starting", None), Trouble.NOT_ACKNOWLEDGED),
        (ListedItem("active", None, stamp(105)), Trouble.HELD_BY_ANOTHER),
        (ListedItem("stopped", stamp(10), stamp(20)), Trouble.IN_DOUBT),
        (NotListed(), Trouble.IN_DOUBT),
        (None, Trouble.IN_DOUBT),
    ],
)
def test_the_list_tells_who_holds_an_item_where_a_412_says_nothing(listed: ListAnswer | None, trouble: Trouble) -> None:
    lease = observe(Lease(), MUTE, listed)
    assert (lease.trouble, lease.held, lease.end) == (trouble, False, None)


def test_a_stopped_row_ends_a_claim_only_with_a_value_of_that_claim() -> None:
    lease = observe(Lease(), unanswered(100))
    assert observe(lease, MUTE, ListedItem("stopped", stamp(10), stamp(20))).end is None
    assert observe(lease, MUTE, ListedItem("stopped", stamp(10), stamp(100.2))).end is End.STOPPED


LOST = observe(observe(Lease(), unanswered(100, 1)), NotReady(exchange(101.2), "not now"))
FOUND = observe(Lease(), Conflicted(exchange(101.2), None), ListedItem("active", None, stamp(95)))


@pytest.mark.parametrize(
    ("lease", "listed"),
    [
        (LOST, ListedItem("starting", stamp(130))),
        (LOST, ListedItem("queued", stamp(130))),
        (FOUND, ListedItem("starting", stamp(130))),
        (FOUND, ListedItem("starting", None, None, stamp(140))),
    ],
)
def test_a_claim_that_was_never_held_does_not_take_a_later_delivery(lease: Lease, listed: ListedItem) -> None:
    assert is_claim_in_doubt(lease)
    assert look_before_claim(lease, listed, 150).end is End.REQUEUED


@pytest.mark.parametrize("lease", [LOST, FOUND])
@pytest.mark.parametrize(
    "seen", [ListedItem("starting", stamp(94), None, stamp(94.5)), ListedItem("starting", None), NotListed(), None]
)
def test_a_look_that_tells_of_no_other_delivery_leaves_the_claim_as_it_is(
    lease: Lease, seen: ListAnswer | None
) -> None:
    assert look_before_claim(lease, seen, 150) == lease
    again = decide(lease, 1000)
    assert isinstance(again, Beat)
    assert again.expected == NO_HEARTBEAT


def test_an_item_that_is_claimed_within_a_second_of_its_entry_to_the_queue_is_no_later_delivery() -> None:
    assert look_before_claim(LOST, ListedItem("starting", stamp(99.5)), 150) == LOST


def test_a_look_at_the_list_before_a_claim_finds_what_became_of_the_lost_one() -> None:
    maybe_ours = ListedItem("active", stamp(90), stamp(100.2))
    assert look_before_claim(LOST, maybe_ours, 110) == LOST, "the refusal of a claim names the TTL as well"
    watched = observe(LOST, MUTE, maybe_ours)
    assert watched.watched == stamp(100.2), "where it does not, the list is all there is"
    assert not is_claim_in_doubt(watched), "a value takes nothing but itself"
    others = look_before_claim(LOST, ListedItem("active", stamp(90), stamp(120)), 125)
    assert others.trouble is Trouble.HELD_BY_ANOTHER


def test_a_first_claim_needs_no_look_at_the_list() -> None:
    assert not is_claim_in_doubt(Lease())
    assert not is_claim_in_doubt(observe(Lease(), MUTE, ListNotRead("no")))
    assert not is_claim_in_doubt(held())
