"""The acknowledgement of an item by the turns of its lease: when it is sent, and what its answer means.

Owns the step between the token and the claim. An acknowledgement is noted before it is sent, so that a crash leaves the
intent; a 409 alone does not say whose it was. Must not claim: ``claims`` does. Pure.
"""

from dataclasses import dataclass, replace
from enum import Enum, StrEnum, auto
from typing import Final

from worklease.rules.backoff import backoff
from worklease.rules.lease import Lease, Trouble
from worklease.rules.pool_items import ACK_WITHIN
from worklease.rules.queue import AckAccepted, AckConflicted, AckOutcome, QueueFailure

ACK_TIMEOUT: Final = 5.0
"""Seconds after which an acknowledgement is given up: then the list tells, and a strand must be short."""

LANDS_WITHIN: Final = 5.0
"""Seconds after it was given up in which an acknowledgement may still arrive: another time-out, as for a beat."""

SEND_WITHIN: Final = 30.0
"""Seconds from the intent within which an acknowledgement is sent that no poll limits: its record is waited for."""

FIRST_LOOK: Final = 0.1
LONGEST_LOOK: Final = 2.0
"""Seconds between two looks for a token; they double. The pool writes it a moment after the lease."""

CLAIM_WITHIN: Final = 60.0
"""Seconds from an accepted acknowledgement after which a claim that the server still refuses is another worker's."""

SAME_POLL: Final = 0.5
"""Seconds by which the time of one poll may differ from one look to the next: two clocks translate it."""

LOOKS_SHOWN: Final = 4
"""Looks for a token after which it is shown as missing: it comes a moment after its lease, as a rule."""

SLACK: Final = 1.0
"""Seconds by which the server's clock may differ from what its ``Date`` tells."""


class AckVerdict(StrEnum):
    """What is known of the acknowledgement, as the checkpoint writes it."""

    NONE = "None"
    IN_DOUBT = "InDoubt"
    """One was sent, and its answer is not known, or says only that somebody's was accepted."""
    OURS = "Ours"
    OTHERS = "Others"
    """Another worker acknowledged the item, or it is offered under another id: nothing is ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledgement:
    """What a lease knows of its item's acknowledgement; times are of one clock."""

    verdict: AckVerdict = AckVerdict.NONE
    needs_token: bool = True
    has_token: bool = False
    polled: float | None = None
    """When the poll that brought the item was sent; None: no pool made the lease, and no poll limits it."""
    windows: tuple[tuple[float, float], ...] = ()
    """From when until when the acknowledgements without an answer may have arrived, or may still."""
    is_queued: bool = False
    """Whether the list has shown the item in the queue since the last one was sent, so that another one is no harm."""
    accepted: float | None = None
    message: str = ""
    """Why the last step led to nothing."""
    looks: int = 0
    refusals: int = 0
    next_at: float = 0.0


class AckStep(Enum):
    """What the lease's turn does about the acknowledgement."""

    WAIT = auto()
    LOOK_FOR_TOKEN = auto()
    """Read the Secret: is the token there, and when was the poll that brought it?"""
    SEND = auto()
    """Note the intent, then send."""
    ASK_LIST = auto()
    """Ask the list when it was acknowledged, and by that whose it is."""
    CLAIM = auto()
    END = auto()
    """The lease is over: ``AckRefused``."""


@dataclass(frozen=True, slots=True)
class AckView:
    """What a decision about the lease's pods, and its status, need to know of the acknowledgement."""

    verdict: AckVerdict
    is_token_missing: bool
    message: str

    @property
    def has_left_queue(self) -> bool:
        """Whether the item left the queue for this lease, or may have."""
        return self.verdict in {AckVerdict.OURS, AckVerdict.IN_DOUBT}


def view(ack: Acknowledgement) -> AckView:
    """Return what is shown of an acknowledgement: it stays the same from one look to the next."""
    is_missing = ack.needs_token and not ack.has_token and ack.looks >= LOOKS_SHOWN
    return AckView(ack.verdict, is_missing, ack.message)


def is_claim_refused(ack: Acknowledgement, lease: Lease, now: float) -> bool:
    """Whether the item is another worker's although it was acknowledged: on some servers that proves nothing.

    Only the server's own refusals count: while it does not answer, or refuses the key, the item is still ours.
    """
    if ack.verdict is not AckVerdict.OURS or lease.sent is not None or lease.end is not None:
        return False
    has_tried = bool(lease.unanswered or lease.unplaced)
    if lease.trouble is Trouble.HELD_BY_ANOTHER and not has_tried:
        return True
    is_refused = lease.trouble in {Trouble.HELD_BY_ANOTHER, Trouble.NOT_ACKNOWLEDGED, Trouble.NOT_FOUND}
    is_late = ack.accepted is not None and now >= ack.accepted + CLAIM_WITHIN
    return is_late and is_refused and lease.watched is None


def decide_ack(ack: Acknowledgement, now: float, *, is_claim_refused: bool = False, is_wanted: bool = True) -> AckStep:
    """Return what to do now. One that is not wanted any more is not sent again, and what was sent is cleared up."""
    if ack.verdict is AckVerdict.OTHERS:
        return AckStep.END
    if ack.verdict is AckVerdict.OURS:
        return AckStep.END if is_claim_refused else AckStep.CLAIM
    if now < ack.next_at:
        return AckStep.WAIT
    if ack.verdict is AckVerdict.IN_DOUBT and not (ack.is_queued and is_wanted):
        return AckStep.ASK_LIST
    has_all = ack.has_token or not ack.needs_token
    return AckStep.SEND if has_all and is_in_time(ack, now) else AckStep.LOOK_FOR_TOKEN


def is_in_time(ack: Acknowledgement, now: float) -> bool:
    """Whether the poll that brought the item was sent so lately that the item still has this id."""
    return ack.polled is None or now < ack.polled + ACK_WITHIN


def looked(
    ack: Acknowledgement, *, has_token: bool, polled: float | None, now: float, message: str = ""
) -> Acknowledgement:
    """Return it after a look for the token; a later poll of the same item gives it time once more.

    Without one, an acknowledgement that may still arrive is asked for in the list again.
    """
    if polled is not None and ack.polled is not None and abs(polled - ack.polled) < SAME_POLL:
        polled = ack.polled
    is_news = has_token and (not ack.has_token or polled != ack.polled)
    wait = 0.0 if is_news else backoff(ack.looks, FIRST_LOOK, LONGEST_LOOK)
    return replace(
        ack,
        has_token=has_token,
        polled=polled,
        is_queued=ack.is_queued and is_news,
        looks=ack.looks + 1,
        next_at=now + wait,
        message=message,
    )


def postponed(ack: Acknowledgement, message: str, now: float) -> Acknowledgement:
    """Return it after it could not be sent: there is no key, or the intent could not be written down."""
    wait = backoff(ack.refusals, FIRST_LOOK, LONGEST_LOOK)
    return replace(ack, message=message, refusals=ack.refusals + 1, next_at=now + wait)


def intended(ack: Acknowledgement, now: float) -> Acknowledgement:
    """Return it with the intent to send: this is written before the sending, and read after a crash."""
    latest = now + SEND_WITHIN if ack.polled is None else ack.polled + ACK_WITHIN
    window = (now, latest + ACK_TIMEOUT + LANDS_WITHIN)
    return replace(ack, verdict=AckVerdict.IN_DOUBT, windows=(*ack.windows, window), is_queued=False)


def is_covered(intent: Acknowledgement, now: float) -> bool:
    """Whether an acknowledgement that is sent now arrives within the window that its intent tells of, or never."""
    _, until = intent.windows[-1]
    return now < until - LANDS_WITHIN - ACK_TIMEOUT


def answered(ack: Acknowledgement, outcome: AckOutcome, now: float) -> Acknowledgement:
    """Return it after an answer, or after none."""
    sent, _ = ack.windows[-1]
    before = ack.windows[:-1]
    match outcome:
        case AckAccepted():
            return replace(ack, verdict=AckVerdict.OURS, windows=(), accepted=sent, message="")
        case AckConflicted(message):
            # Nothing that was sent before is unanswered: then it was another's.
            verdict = AckVerdict.IN_DOUBT if before else AckVerdict.OTHERS
            return replace(ack, verdict=verdict, windows=before, next_at=now, message=message)
        case failed if failed.failure is QueueFailure.NOT_FOUND:
            return replace(ack, verdict=AckVerdict.OTHERS, windows=before, message=failed.message)
        case failed:
            windows = (*before, (sent, now + LANDS_WITHIN)) if failed.is_in_doubt else before
            wait = max(failed.retry_after or 0.0, backoff(ack.refusals, FIRST_LOOK, LONGEST_LOOK))
            verdict = AckVerdict.IN_DOUBT if windows else AckVerdict.NONE
            refusals, message = ack.refusals + 1, failed.message
            return replace(
                ack, verdict=verdict, windows=windows, refusals=refusals, next_at=now + wait, message=message
            )


def restarted(ack: Acknowledgement, now: float, *, clock_error: float = 0.0) -> Acknowledgement:
    """Return it at a start, or after a take; by so many seconds the clocks of the record and of now may differ."""
    windows = tuple((sent - clock_error, until + clock_error) for sent, until in ack.windows)
    return replace(ack, windows=windows, next_at=now)


def listed(
    ack: Acknowledgement, acknowledged_at: float | None, state: str, *, asked: float, now: float
) -> Acknowledgement:
    """Return it after the list told when the item was acknowledged, by our clock; None: it was not.

    Acknowledged in the window of one without an answer: it was ours. Still in the queue, as the list says that was
    ``asked`` then: what may have arrived before that has not, and never will. While one may still arrive, the list
    proves nothing, and is asked again; another one may be sent meanwhile, since the server accepts one only.
    """
    if state == "queued":
        windows = tuple((sent, until) for sent, until in ack.windows if until > asked)
        verdict = AckVerdict.IN_DOUBT if windows else AckVerdict.NONE
        wait = backoff(ack.refusals, FIRST_LOOK, LONGEST_LOOK)
        return replace(
            ack,
            verdict=verdict,
            windows=windows,
            is_queued=bool(windows),
            refusals=ack.refusals + 1,
            next_at=now + wait,
        )
    is_ours = acknowledged_at is not None and any(
        sent - SLACK <= acknowledged_at <= until + SLACK for sent, until in ack.windows
    )
    if is_ours:
        return replace(ack, verdict=AckVerdict.OURS, windows=(), accepted=now, message="")
    when = "at a time that the list does not tell" if acknowledged_at is None else "when this WorkLease had sent none"
    message = f"the work item is {state}, and was acknowledged {when}"
    return replace(ack, verdict=AckVerdict.OTHERS, windows=(), message=message)


def not_listed(ack: Acknowledgement, now: float) -> Acknowledgement:
    """Return it after the list could not be had: nothing is claimed, and it is asked again."""
    wait = backoff(ack.refusals, FIRST_LOOK, LONGEST_LOOK)
    return replace(ack, refusals=ack.refusals + 1, next_at=now + wait)
