"""What a 412 means: the server holds another value than the beat carried.

Owns two tables, in the words of the design document. Their rows are read from top to bottom, and the first row that
applies gives the verdict. A 412 is an observation and not a verdict: what we know decides what it means. Pure.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from worklease.rules.deadlines import (
    FIRST_RETRY,
    LONGEST_RETRY_BESIDE_A_HOLDER,
    expiry,
    least_ttl,
    slow_retry,
    try_again,
)
from worklease.rules.lease import (
    ASSUMED_TTL,
    CLOCK_SKEW,
    STOPPED_MESSAGE,
    Adoption,
    End,
    Lease,
    Trouble,
    ended,
    instant,
    troubled,
)
from worklease.rules.outcomes import Conflicted, Exchange, ListedItem

LONGEST_LAG: Final = 10.0
"""Seconds by which a list may be behind: what it shows of an item may be from before the item was claimed."""

MUTE_MESSAGE: Final = "the server refused the value and does not say what it has"


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedBeat:
    """A refused beat, and all that is known of the item then."""

    lease: Lease
    exchange: Exchange
    listed: ListedItem | None
    """What the list shows of the item, if the list was asked."""
    is_mute: bool = True
    """The answer does not say what the server has."""
    value: str | None = None
    state: str = ""
    ttl: float | None = None


@dataclass(frozen=True, slots=True)
class ConflictRow:
    """One row of a table: what is seen, the verdict, and the function that makes the next lease of it."""

    seen: str
    applies: Callable[[RefusedBeat], bool]
    verdict: End | Trouble | Adoption
    conclude: Callable[[RefusedBeat], Lease]


def read_conflict(lease: Lease, answer: Conflicted, listed: ListedItem | None) -> Lease:
    """Return the lease after a 412: the verdict of the first row that applies."""
    if (current := answer.current) is None:
        if listed is not None and not lease.held:
            return read_list(lease, listed, answer.exchange, is_refused=True)
        refused = RefusedBeat(lease=lease, exchange=answer.exchange, listed=listed)
    else:
        refused = RefusedBeat(
            lease=lease,
            exchange=answer.exchange,
            listed=listed,
            is_mute=False,
            value=current.last_heartbeat,
            state=current.state,
            ttl=current.ttl_seconds,
        )
    return first_row(AFTER_HOLDING if lease.held else TO_A_FIRST_CLAIM, refused).conclude(refused)


def read_list(lease: Lease, listed: ListedItem, exchange: Exchange, *, is_refused: bool = False) -> Lease:
    """Return the lease that is not held, as the list alone tells; unchanged where the next claim is to tell.

    ``is_refused``: the claim was refused without a word, so that the list is all there is.
    """
    value = listed.latest_heartbeat_at or None
    refused = RefusedBeat(lease=lease, exchange=exchange, listed=listed, is_mute=False, value=value, state=listed.state)
    if listed.state == "stopped" and not _is_claimed_by_us(refused):
        # A list that lags may show the former delivery of an id.
        refused = replace(refused, is_mute=True, state="")
    row = first_row(TO_A_FIRST_CLAIM, refused)
    is_sure = lease.clock is not None and row.verdict not in {Trouble.NOT_ACKNOWLEDGED, Trouble.IN_DOUBT}
    if not is_sure and row.verdict is not End.REQUEUED and not is_refused:
        return lease  # the refusal of a claim may name the TTL too, by which a live holder's silence is judged
    return row.conclude(refused)


def overruled(lease: Lease, exchange: Exchange, listed: ListedItem) -> Lease | None:
    """Return the lease, ended because the list shows that it is over; None if the list does not."""
    refused = RefusedBeat(lease=lease, exchange=exchange, listed=listed)
    return next((row.conclude(refused) for row in LISTED_AS_OVER if row.applies(refused)), None)


def first_row(table: tuple[ConflictRow, ...], refused: RefusedBeat) -> ConflictRow:
    """Return the row of the table that decides: the first that applies. The last row of a table always does."""
    return next(row for row in table if row.applies(refused))


def _always(_: RefusedBeat) -> bool:
    return True


# --- What is seen ------------------------------------------------------------------------------------------------


def _is_listed_as_stopped(refused: RefusedBeat) -> bool:
    """Whether the list shows our delivery as stopped: a list that lags may still show the former delivery of the id.

    The last heartbeat of our delivery is no older than the last value that we know. Where the row names none, it counts
    unless the 412 itself names the stamp of a beat of ours.
    """
    listed = refused.listed
    if listed is None or listed.state != "stopped":
        return False
    beaten, known = instant(listed.latest_heartbeat_at), instant(refused.lease.value)
    if beaten is None or known is None:
        return not _is_our_beat(refused)
    return beaten >= known - CLOCK_SKEW  # some servers list fewer digits


def _is_another_delivery(refused: RefusedBeat) -> bool:
    """Whether the item was queued or acknowledged after we first held it: its id recurs, its delivery does not.

    Some servers stamp the first beat instead of the entry to the queue, some microseconds after its value. So a second
    is allowed.
    """
    # A lease restored from a status knows its last value only. That is later, and rules out other deliveries as surely.
    first = instant(refused.lease.first or refused.lease.value)
    return first is not None and any(at > first + CLOCK_SKEW for at, _ in _entries(refused))


def _entries(refused: RefusedBeat) -> list[tuple[float, str]]:
    """Return when the item entered the queue and was acknowledged, as listed, as far as these are times."""
    listed = refused.listed
    stamps = () if listed is None else (listed.started_at, listed.acknowledged_at)
    return [(at, stamp) for stamp in stamps if stamp is not None and (at := instant(stamp)) is not None]


def _is_another_delivery_in_the_queue(refused: RefusedBeat) -> bool:
    return refused.listed is not None and _waits(refused.listed.state) and _is_another_delivery(refused)


def _is_mute(refused: RefusedBeat) -> bool:
    return refused.is_mute


def _is_mute_and_listed_as_ours(refused: RefusedBeat) -> bool:
    listed = refused.listed
    return refused.is_mute and listed is not None and _is_ours(refused.lease, listed.latest_heartbeat_at)


def _is_mute_and_listed_as_queued(refused: RefusedBeat) -> bool:
    """Whether a 412 says nothing, and the list shows that nobody holds the item, as not even an older list would."""
    lease, listed = refused.lease, refused.listed
    if not refused.is_mute or listed is None or listed.state != "queued" or listed.latest_heartbeat_at:
        return False
    return lease.claimed is not None and refused.exchange.sent > lease.claimed + LONGEST_LAG


def _is_stopped(refused: RefusedBeat) -> bool:
    return refused.state == "stopped"  # some servers compare even then


def _is_back_in_the_queue(refused: RefusedBeat) -> bool:
    return not refused.value or _waits(refused.state)


def _waits(state: str) -> bool:
    return state in {"queued", "starting"}


def _is_our_beat(refused: RefusedBeat) -> bool:
    return _is_ours(refused.lease, refused.value)


def _is_ours(lease: Lease, found: str | None) -> bool:
    """Whether the value found is the stamp of an unanswered beat that we sent, within the life of the lease.

    Before the lease can have lapsed nobody else can have claimed it. It lapses no sooner than its TTL after the value
    that we know. If an unanswered beat asked for a shorter TTL, that TTL counts, from the value that we know or from
    the sending of that beat, whichever is later.
    """
    theirs, ours = instant(found), instant(lease.value)
    if theirs is None or ours is None or lease.clock is None or not _in_a_window(lease, theirs):
        return False
    lapses = ours + lease.ttl
    if lease.cut is not None:
        lapses = min(lapses, max(ours + lease.cut.ttl, lease.clock.earliest(lease.cut.ends)))
    return ours < theirs < lapses


def _in_a_window(lease: Lease, stamp: float) -> bool:
    return any(window.opens <= stamp <= window.closes for window in lease.unanswered)


def _is_a_later_delivery(refused: RefusedBeat) -> bool:
    """Whether the item was queued once more since a claim of ours was lost, or since somebody held it.

    Somebody else may have polled it by now. Whoever made the resource had polled the item before the first claim.
    """
    lease, listed = refused.lease, refused.listed
    if listed is None or listed.latest_heartbeat_at or not _waits(listed.state):
        return False
    queued, found = instant(listed.started_at), instant(lease.refused_value)
    if found is not None:
        acknowledged = instant(listed.acknowledged_at)
        return max(queued or -math.inf, acknowledged or -math.inf) > found
    if queued is None or lease.clock is None or not lease.unanswered:
        return False
    slack = lease.clock.most - lease.clock.least
    return queued > min(window.opens for window in lease.unanswered) + slack


def _is_claimed_by_us(refused: RefusedBeat) -> bool:
    stamp = instant(refused.value)
    return stamp is not None and _in_a_window(refused.lease, stamp)


def _has_no_value(refused: RefusedBeat) -> bool:
    return not refused.value


def _is_anothers(refused: RefusedBeat) -> bool:
    return refused.lease.clock is None or not _is_claimed_by_us(refused)


def _silence(refused: RefusedBeat) -> float:
    """Return for how long at least, in seconds of the server's time, nobody has beaten; 0 if that is not known."""
    clock, stamp = refused.lease.clock, instant(refused.value)
    return 0.0 if clock is None or stamp is None else clock.earliest(refused.exchange.sent) - stamp


def _longest_silence(ttl: float) -> float:
    """Return the seconds for which a worker that lives may be silent.

    A worker beats every max(1, min(ttl/2, 30)) s (public SDK). If it is silent for longer, the value is that of our own
    lost claim.
    """
    return 1.25 * min(ttl / 2, 30.0) + 1.0


def _ttl_of_claim(refused: RefusedBeat) -> float:
    """Return the TTL that the claim has if it was applied: the one that the server names, else the one asked for."""
    if refused.ttl:
        return max(1.0, refused.ttl)
    lease, stamp = refused.lease, instant(refused.value)
    around = [each.ttl for each in lease.unanswered if stamp is not None and each.opens <= stamp <= each.closes]
    return max((ttl or lease.desired_ttl or ASSUMED_TTL for ttl in around), default=ASSUMED_TTL)


# --- What follows ------------------------------------------------------------------------------------------------


def _stop(refused: RefusedBeat) -> Lease:
    return ended(refused.lease, End.STOPPED, STOPPED_MESSAGE)  # whoever held it


def _requeue_by_the_list(refused: RefusedBeat) -> Lease:
    return ended(refused.lease, End.REQUEUED, f"the work item went back to the queue at {_queued_at(refused)}")


def _take_over_by_the_list(refused: RefusedBeat) -> Lease:
    return ended(refused.lease, End.TAKEN_OVER, f"the work item was queued again at {_queued_at(refused)}, and taken")


def _queued_at(refused: RefusedBeat) -> str | None:
    return max(_entries(refused), default=(0.0, None))[1]


def _requeue(refused: RefusedBeat) -> Lease:
    return ended(refused.lease, End.REQUEUED, "the lease lapsed and the work item went back to the queue")


def _take_over(refused: RefusedBeat) -> Lease:
    return ended(refused.lease, End.TAKEN_OVER, f"another worker holds the lease since {refused.value}")


def _decide_nothing(refused: RefusedBeat) -> Lease:
    return try_again(refused.lease, Trouble.IN_DOUBT, refused.exchange, MUTE_MESSAGE)


def _adopt(refused: RefusedBeat) -> Lease:
    return _adopted(_found_applied(refused, refused.value), refused.value, refused.state, refused.exchange.done)


def _adopt_from_the_list(refused: RefusedBeat) -> Lease:
    # If the list writes the value otherwise, the next 412 names the value and nothing has changed.
    assert refused.listed is not None  # noqa: S101 (the row applies only then)
    value, state = refused.listed.latest_heartbeat_at, refused.listed.state
    return _adopted(_found_applied(refused, value), value, state, refused.exchange.done)


def _found_applied(refused: RefusedBeat, value: str | None) -> Lease:
    """Return the lease with the end that the beat gives it whose stamp was found: its sending, and the least TTL.

    That TTL is the least of the one granted last, those that were asked for since, and the one that the server names.
    The end that was known before is no later than the server's, whichever beat was applied. So it comes no earlier by
    what an adoption tells, unless the server shortened the TTL by itself.
    """
    lease, stamp = refused.lease, instant(value)
    sent = None if stamp is None else _earliest_sending(lease, stamp, refused.exchange.done)
    before = expiry(lease)
    if sent is None or before is None:
        return lease
    in_force = least_ttl(lease)
    named = in_force if refused.ttl is None else max(1.0, refused.ttl)
    ttl = min(in_force, named)
    ends = sent + ttl if named < in_force else max(before, sent + ttl)
    return replace(lease, sent=ends - ttl, ttl=ttl, cut=None)


def _earliest_sending(lease: Lease, stamp: float, now: float) -> float | None:
    """Return when the beat with this stamp was sent at the earliest; None where that is not known well enough.

    It is one of the beats whose windows contain the stamp, a second and the round trip wider on each side. The window
    of a start alone does not say when its beats were sent. Nor does the server's time if it was only read from a stamp,
    or longer than a TTL ago. The beats of an earlier process were sent no earlier than their windows open, where the
    clock that stamps may be ahead of the one that dates.
    """
    clock = lease.clock
    if lease.sent is None or clock is None or clock.dated_at is None or now - clock.dated_at > lease.ttl:
        return None
    slack = clock.most - clock.least - 2 * CLOCK_SKEW
    around = [each for each in lease.unanswered if each.opens - slack <= stamp <= each.closes + slack]
    known = [each.opens - clock.most if each.sent is None else each.sent for each in around if each.opens > -math.inf]
    if not known:
        return None
    if len(known) < len(around):
        # A beat of an earlier process may have come late: then only the stamp says when.
        known.append(stamp - clock.most)
    return max(lease.sent, min(known))


def _adopted(lease: Lease, value: str | None, state: str, now: float) -> Lease:
    """Return the lease with the value found as ours, to be beaten at once; an adoption spends all unanswered beats."""
    return replace(
        lease,
        value=value,
        unanswered=(),
        unplaced=(),
        refused_value=None,
        stopping_seen=lease.stopping_seen and state == "stopping",
        due=now,
    )


def _unclaimed(lease: Lease) -> Lease:
    """Return the lease without the value that may be our lost claim's: the next try is a first claim again."""
    return replace(lease, watched=None)


def _leave_it_to_the_next(refused: RefusedBeat) -> Lease:
    message = "the work item went back to the queue before its claim was answered; a new delivery is a new resource"
    return ended(refused.lease, End.REQUEUED, message)


def _claim_again(refused: RefusedBeat) -> Lease:
    return _claim_slowly(_unclaimed(refused.lease), refused, Trouble.IN_DOUBT, MUTE_MESSAGE)


def _claim_when_acknowledged(refused: RefusedBeat) -> Lease:
    message = f"the work item is {refused.state} and cannot be claimed yet: it must be polled and acknowledged"
    return _claim_slowly(_unclaimed(refused.lease), refused, Trouble.NOT_ACKNOWLEDGED, message)


def _leave_it_to_the_holder(refused: RefusedBeat) -> Lease:
    message = f"another worker holds the lease; its last heartbeat is {refused.value}"
    lease = _note_refused_value(refused)
    due = refused.exchange.done + slow_retry(lease, LONGEST_RETRY_BESIDE_A_HOLDER)
    return troubled(lease, Trouble.HELD_BY_ANOTHER, message, due)


def _claim_slowly(lease: Lease, refused: RefusedBeat, trouble: Trouble, message: str) -> Lease:
    return troubled(lease, trouble, message, refused.exchange.done + slow_retry(lease))


def _note_refused_value(refused: RefusedBeat) -> Lease:
    """Return the lease with a note of the value that was found: what is queued later is another delivery."""
    return replace(_unclaimed(refused.lease), refused_value=refused.value)


def _watch(refused: RefusedBeat) -> Lease:
    message = f"the claim's answer was lost; whether {refused.value} is ours shows if nobody beats meanwhile"
    done, silent = refused.exchange.done, _silence(refused)
    due = max(done + FIRST_RETRY, done + _longest_silence(_ttl_of_claim(refused)) - silent)
    return troubled(replace(_note_refused_value(refused), watched=refused.value), Trouble.IN_DOUBT, message, due)


# --- The tables --------------------------------------------------------------------------------------------------

LISTED_AS_OVER: Final = (
    ConflictRow("listed as `stopped`, in a row that can be of our delivery", _is_listed_as_stopped, End.STOPPED, _stop),
    ConflictRow(
        "listed as queued or acknowledged more than a second later than our first value, and waiting there",
        _is_another_delivery_in_the_queue,
        End.REQUEUED,
        _requeue_by_the_list,
    ),
    ConflictRow(
        "listed as queued or acknowledged more than a second later than our first value, and not waiting",
        _is_another_delivery,
        End.TAKEN_OVER,
        _take_over_by_the_list,
    ),
)
"""What the list alone decides: it overrules whatever a refused says."""

AFTER_HOLDING: Final = (
    *LISTED_AS_OVER,
    ConflictRow(
        "it does not say its value, and is listed with one that is ours",
        _is_mute_and_listed_as_ours,
        Adoption.LISTED,
        _adopt_from_the_list,
    ),
    ConflictRow(
        "it does not say its value, and is listed as `queued` without one",
        _is_mute_and_listed_as_queued,
        End.REQUEUED,
        _requeue,
    ),
    ConflictRow("it does not say its value", _is_mute, Trouble.IN_DOUBT, _decide_nothing),
    ConflictRow("it is `stopped`", _is_stopped, End.STOPPED, _stop),
    ConflictRow("it has no value, or is `queued` or `starting`", _is_back_in_the_queue, End.REQUEUED, _requeue),
    ConflictRow("its value is ours", _is_our_beat, Adoption.UNANSWERED_BEAT, _adopt),
    ConflictRow("anything else", _always, End.TAKEN_OVER, _take_over),
)
"""A 412 to a beat of a lease that is held."""

TO_A_FIRST_CLAIM: Final = (
    ConflictRow(
        "listed as waiting, and queued or acknowledged later than the claim that was lost or the value that was found",
        _is_a_later_delivery,
        End.REQUEUED,
        _leave_it_to_the_next,
    ),
    ConflictRow("it does not say its value", _is_mute, Trouble.IN_DOUBT, _claim_again),
    ConflictRow("it is `stopped`", _is_stopped, End.STOPPED, _stop),
    ConflictRow("it has no value", _has_no_value, Trouble.NOT_ACKNOWLEDGED, _claim_when_acknowledged),
    ConflictRow(
        "its value is not in the window of an unanswered claim",
        _is_anothers,
        Trouble.HELD_BY_ANOTHER,
        _leave_it_to_the_holder,
    ),
    ConflictRow("anything else", _always, Trouble.IN_DOUBT, _watch),
)
"""A 412 to a beat of a lease that is not held. Where it does not say its value, what the list shows stands for it."""
