"""When an item is acknowledged, and what each answer means; after a crash the noted intent and the list tell."""

from dataclasses import replace

import pytest

from worklease.rules.acknowledging import (
    CLAIM_WITHIN,
    Acknowledgement,
    AckStep,
    AckVerdict,
    answered,
    decide_ack,
    intended,
    listed,
    looked,
    not_listed,
    restarted,
)
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
        (replace(answered(SENT, AckAccepted(), NOW - CLAIM_WITHIN), accepted=NOW - CLAIM_WITHIN), AckStep.END),
        (answered(SENT, CONFLICTED, NOW), AckStep.END),
        (answered(SENT, CallFailed(QueueFailure.NOT_FOUND, "no"), NOW), AckStep.END),
        (answered(SENT, CallFailed(QueueFailure.UNAUTHORIZED, "no"), NOW - 1), AckStep.SEND),
        (answered(SENT, CallFailed(QueueFailure.THROTTLED, "no", 7), NOW), AckStep.WAIT),
        (answered(SENT, lost(), NOW - 1), AckStep.ASK_LIST),
    ],
)
def test_each_state_of_an_acknowledgement_has_its_step(ack: Acknowledgement, step: AckStep) -> None:
    assert decide_ack(ack, NOW) is step


def test_a_claim_that_was_accepted_ends_no_lease_later() -> None:
    accepted = answered(SENT, AckAccepted(), NOW)
    assert decide_ack(accepted, NOW + 1e6, is_claimed=True) is AckStep.CLAIM


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
        (NOW + 9, "starting", AckVerdict.OTHERS),
        (NOW - 9, "starting", AckVerdict.OTHERS),
        (None, "starting", AckVerdict.OTHERS),
        (None, "queued", AckVerdict.NONE),
    ],
)
def test_the_list_tells_whose_an_acknowledgement_was(at: float | None, state: str, verdict: AckVerdict) -> None:
    in_doubt = answered(SENT, lost(), NOW + 2)
    assert listed(in_doubt, at, state, NOW + 3).verdict is verdict


def test_without_a_list_nothing_is_claimed() -> None:
    in_doubt = not_listed(answered(SENT, lost(), NOW + 2), NOW + 3)
    assert decide_ack(in_doubt, NOW + 1e6) is AckStep.ASK_LIST


def test_a_lost_acknowledgement_that_arrives_after_the_list_is_still_ours() -> None:
    waiting = listed(answered(SENT, lost(), NOW + 2), None, "queued", NOW + 2.2)
    again = answered(intended(waiting, NOW + 2.3), CONFLICTED, NOW + 2.4)
    assert decide_ack(again, NOW + 2.5) is AckStep.ASK_LIST
    assert listed(again, NOW + 2.25, "starting", NOW + 2.5).verdict is AckVerdict.OURS


def test_after_a_crash_the_intent_that_was_noted_asks_the_list() -> None:
    found = restarted(SENT, NOW + 5)
    assert found.windows == ((NOW, NOW + 5),)
    assert decide_ack(found, NOW + 5) is AckStep.ASK_LIST
    assert listed(found, NOW + 0.1, "starting", NOW + 5).verdict is AckVerdict.OURS
