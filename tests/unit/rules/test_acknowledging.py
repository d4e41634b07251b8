"""When an item is acknowledged, and what each answer means; after a crash the noted intent and the list tell."""

from dataclasses import replace

import pytest

from worklease.rules.acknowledging import (
    ACK_TIMEOUT,
    CLAIM_WITHIN,
    LANDS_WITHIN,
    LOOKS_SHOWN,
    SEND_WITHIN,
    Acknowledgement,
    AckStep,
    AckVerdict,
    answered,
    decide_ack,
    intended,
    is_claim_refused,
    is_covered,
    listed,
    looked,
    not_listed,
    postponed,
    restarted,
    view,
)
from worklease.rules.lease import Lease, Trouble, Unplaced
from worklease.rules.pool_items import ACK_WITHIN
from worklease.rules.queue import AckAccepted, AckConflicted, CallFailed, QueueFailure

NOW = 1000.0
NEW = Acknowledgement()
READY = Acknowledgement(has_token=True, polled=NOW)
SENT = intended(READY, NOW)
CONFLICTED = AckConflicted("it is starting")


def lost() -> CallFailed:
    return CallFailed(QueueFailure.UNANSWERED, "time-out")


@pytest.mark.parametrize(
    ("ack", "step"),
    [
        (NEW, AckStep.LOOK_FOR_TOKEN),
        (replace(NEW, next_at=NOW + 1), AckStep.WAIT),
        (READY, AckStep.SEND),
        (replace(READY, polled=NOW - ACK_WITHIN), AckStep.LOOK_FOR_TOKEN),
        (Acknowledgement(needs_token=False), AckStep.SEND),
        (SENT, AckStep.ASK_LIST),
        (answered(SENT, AckAccepted(), NOW), AckStep.CLAIM),
        (answered(SENT, CONFLICTED, NOW), AckStep.END),
        (answered(SENT, CallFailed(QueueFailure.NOT_FOUND, "no"), NOW), AckStep.END),
        (answered(SENT, CallFailed(QueueFailure.UNAUTHORIZED, "no"), NOW - 1), AckStep.SEND),
        (answered(SENT, CallFailed(QueueFailure.THROTTLED, "no", 7), NOW), AckStep.WAIT),
        (answered(SENT, lost(), NOW - 1), AckStep.ASK_LIST),
    ],
)
def test_each_state_of_an_acknowledgement_has_its_step(ack: Acknowledgement, step: AckStep) -> None:
    assert decide_ack(ack, NOW) is step


OURS = answered(SENT, AckAccepted(), NOW)
LATE = NOW + CLAIM_WITHIN
CLAIMING = Lease()
HELD = replace(CLAIMING, sent=NOW + 1, value="hb-1")
LOST_CLAIM = replace(CLAIMING, unplaced=(Unplaced(NOW, NOW + 10),))


def in_trouble(trouble: Trouble, lease: Lease = CLAIMING) -> Lease:
    return replace(lease, trouble=trouble)


@pytest.mark.parametrize(
    ("lease", "now", "is_refused"),
    [
        (CLAIMING, LATE, False),
        (HELD, LATE + 1e6, False),
        (in_trouble(Trouble.NOT_ACKNOWLEDGED), LATE - 1, False),
        (in_trouble(Trouble.NOT_ACKNOWLEDGED), LATE, True),
        (in_trouble(Trouble.NOT_FOUND), LATE, True),
        (in_trouble(Trouble.UNREACHABLE), LATE, False),
        (in_trouble(Trouble.UNAUTHORIZED), LATE, False),
        (in_trouble(Trouble.HELD_BY_ANOTHER), NOW, True),
        (in_trouble(Trouble.HELD_BY_ANOTHER, LOST_CLAIM), NOW, False),
        (in_trouble(Trouble.HELD_BY_ANOTHER, LOST_CLAIM), LATE, True),
        (replace(in_trouble(Trouble.HELD_BY_ANOTHER, LOST_CLAIM), watched="hb-1"), LATE, False),
    ],
)
def test_only_refused_claims_show_that_an_acknowledged_item_is_anothers(
    lease: Lease, now: float, *, is_refused: bool
) -> None:
    assert is_claim_refused(OURS, lease, now) is is_refused
    step = decide_ack(OURS, now, is_claim_refused=is_refused)
    assert step is (AckStep.END if is_refused else AckStep.CLAIM)


def test_before_an_acknowledgement_no_claim_counts_as_refused() -> None:
    assert not is_claim_refused(READY, in_trouble(Trouble.HELD_BY_ANOTHER), LATE)


def test_a_token_is_shown_as_missing_after_some_looks() -> None:
    ack = NEW
    for _ in range(LOOKS_SHOWN):
        assert not view(ack).is_token_missing
        ack = looked(ack, has_token=False, polled=None, now=NOW)
    assert view(ack).is_token_missing


def test_one_poll_has_one_time_though_two_clocks_translate_it() -> None:
    first = looked(NEW, has_token=True, polled=NOW, now=NOW)
    again = looked(first, has_token=True, polled=NOW + 0.01, now=NOW)
    assert again.polled == NOW
    assert again.next_at > NOW, "it is no news"


def test_what_could_not_be_sent_is_tried_again_later_and_says_why() -> None:
    later = postponed(READY, "there is no key", NOW)
    assert decide_ack(later, NOW) is AckStep.WAIT
    assert decide_ack(later, NOW + 1) is AckStep.SEND
    assert view(later).message == "there is no key"


def test_a_token_is_looked_for_slower_and_slower_and_a_new_poll_gives_time_once_more() -> None:
    ack, waits = NEW, []
    for _ in range(7):
        ack = looked(ack, has_token=False, polled=None, now=NOW)
        waits.append(round(ack.next_at - NOW, 3))
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    late = looked(replace(READY, polled=NOW - 9), has_token=True, polled=NOW - 1, now=NOW)
    assert decide_ack(late, NOW) is AckStep.SEND


@pytest.mark.parametrize(
    ("at", "state", "verdict"),
    [
        (NOW + 0.5, "starting", AckVerdict.OURS),
        (NOW + 0.5, "active", AckVerdict.OURS),
        (NOW + 2 + LANDS_WITHIN, "starting", AckVerdict.OURS),
        (NOW + 9, "starting", AckVerdict.OTHERS),
        (NOW - 9, "starting", AckVerdict.OTHERS),
        (None, "starting", AckVerdict.OTHERS),
    ],
)
def test_the_list_tells_whose_an_acknowledgement_was(at: float | None, state: str, verdict: AckVerdict) -> None:
    in_doubt = answered(SENT, lost(), NOW + 2)
    assert listed(in_doubt, at, state, asked=NOW + 9, now=NOW + 9).verdict is verdict


def test_a_list_that_shows_the_item_as_queued_proves_nothing_while_an_acknowledgement_may_arrive() -> None:
    in_doubt = answered(replace(SENT, polled=NOW - 3.9), lost(), NOW + 2)
    lands = NOW + 2 + LANDS_WITHIN
    seen = listed(in_doubt, None, "queued", asked=lands - 0.1, now=lands + 1)
    assert seen.verdict is AckVerdict.IN_DOUBT
    assert view(seen).has_left_queue, "who deletes its resource waits"
    assert decide_ack(seen, lands + 2) is AckStep.LOOK_FOR_TOKEN, "the item may have been polled again"
    again = looked(seen, has_token=True, polled=NOW - 3.9, now=lands + 2)
    assert decide_ack(again, lands + 3) is AckStep.ASK_LIST
    assert listed(again, lands - 0.05, "starting", asked=lands + 3, now=lands + 3).verdict is AckVerdict.OURS
    assert listed(again, None, "queued", asked=lands, now=lands).verdict is AckVerdict.NONE


def test_while_one_may_arrive_another_is_sent_if_the_item_was_polled_again() -> None:
    in_doubt = answered(replace(SENT, polled=NOW - 3.9), lost(), NOW + 2)
    seen = listed(in_doubt, None, "queued", asked=NOW + 3, now=NOW + 3)
    again = looked(seen, has_token=True, polled=NOW + 3, now=NOW + 4)
    assert decide_ack(again, NOW + 4) is AckStep.SEND
    assert decide_ack(again, NOW + 4, is_wanted=False) is AckStep.ASK_LIST, "a deleted resource's is not sent again"


def test_an_intent_covers_what_is_sent_late_and_a_poll_bounds_it() -> None:
    for ack, latest in ((READY, NOW + ACK_WITHIN), (Acknowledgement(needs_token=False), NOW + SEND_WITHIN)):
        intent = intended(ack, NOW)
        assert intent.windows == ((NOW, latest + ACK_TIMEOUT + LANDS_WITHIN),)
        assert is_covered(intent, latest - 0.01)
        assert not is_covered(intent, latest)


def test_without_a_list_nothing_is_claimed() -> None:
    in_doubt = not_listed(answered(SENT, lost(), NOW + 2), NOW + 3)
    assert decide_ack(in_doubt, NOW + 1e6) is AckStep.ASK_LIST


def test_a_lost_acknowledgement_that_arrives_after_the_list_is_still_ours() -> None:
    waiting = listed(answered(SENT, lost(), NOW + 2), None, "queued", asked=NOW + 2.1, now=NOW + 2.2)
    again = answered(intended(waiting, NOW + 2.3), CONFLICTED, NOW + 2.4)
    assert decide_ack(again, NOW + 2.5) is AckStep.ASK_LIST
    assert listed(again, NOW + 2.25, "starting", asked=NOW + 2.5, now=NOW + 2.5).verdict is AckVerdict.OURS


def test_after_a_crash_the_intent_that_was_noted_asks_the_list() -> None:
    found = restarted(SENT, NOW + 5)
    assert decide_ack(found, NOW + 5) is AckStep.ASK_LIST
    assert listed(found, NOW + 0.1, "starting", asked=NOW + 5, now=NOW + 5).verdict is AckVerdict.OURS


def test_a_list_that_shows_the_item_as_queued_is_not_asked_at_once_again() -> None:
    queued = listed(answered(SENT, lost(), NOW), None, "queued", asked=NOW, now=NOW)
    assert decide_ack(queued, NOW) is AckStep.WAIT
