"""What a 412 means: the server holds another value than the beat carried.

Owns two tables, in the words of the design document. Their rows are read from top to bottom, and the first row that
applies gives the verdict. A 412 is an observation and not a verdict: what we know decides what it means. Pure.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from worklease.rules.deadlines import FIRST_RETRY, slow_retry, try_again
from worklease.rules.lease import ASSUMED_TTL, STOPPED_MESSAGE, Adoption, End, Lease, Trouble, ended, instant, troubled
from worklease.rules.outcomes import Conflicted, Exchange, ListedItem

MUTE_MESSAGE: Final = "the server refused the value and does not say what it has"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
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
class Row:
    """One row of a table: what is seen, the verdict, and the function that makes the next lease of it."""

    seen: str
    applies: Callable[[Refusal], bool]
    verdict: End | Trouble | Adoption
    conclude: Callable[[Refusal], Lease]


def read_conflict(lease: Lease, answer: Conflicted, listed: ListedItem | None) -> Lease:
    """Return the lease after a 412: the verdict of the first row that applies."""
    if (current := answer.current) is None:
        refusal = Refusal(lease=lease, exchange=answer.exchange, listed=listed)
    else:
        refusal = Refusal(
            lease=lease,
            exchange=answer.exchange,
            listed=listed,
            is_mute=False,
            value=current.last_heartbeat,
            state=current.state,
            ttl=current.ttl_seconds,
        )
    return first_row(AFTER_HOLDING if lease.held else TO_A_FIRST_CLAIM, refusal).conclude(refusal)


def overruled(lease: Lease, exchange: Exchange, listed: ListedItem) -> Lease | None:
    """Return the lease, ended because the list shows that it is over; None if the list does not."""
    refusal = Refusal(lease=lease, exchange=exchange, listed=listed)
    return next((row.conclude(refusal) for row in LISTED_AS_OVER if row.applies(refusal)), None)


def first_row(table: tuple[Row, ...], refusal: Refusal) -> Row:
    """Return the row of the table that decides: the first that applies. The last row of a table always does."""
    return next(row for row in table if row.applies(refusal))


def _always(_: Refusal) -> bool:
    return True


# --- What is seen ------------------------------------------------------------------------------------------------


def _is_listed_as_stopped(refusal: Refusal) -> bool:
    return refusal.listed is not None and refusal.listed.state == "stopped"


def _is_another_delivery(refusal: Refusal) -> bool:
    """Whether the item entered the queue after we first held it: its id recurs, its delivery does not."""
    if refusal.listed is None:
        return False
    # A lease restored from a status knows its last value only. That is later, and rules out other deliveries as surely.
    queued, first = instant(refusal.listed.started_at), instant(refusal.lease.first or refusal.lease.value)
    return queued is not None and first is not None and queued > first


def _is_another_delivery_in_the_queue(refusal: Refusal) -> bool:
    return refusal.listed is not None and _waits(refusal.listed.state) and _is_another_delivery(refusal)


def _is_mute(refusal: Refusal) -> bool:
    return refusal.is_mute


def _is_mute_and_listed_as_ours(refusal: Refusal) -> bool:
    listed = refusal.listed
    return refusal.is_mute and listed is not None and _is_ours(refusal.lease, listed.latest_heartbeat_at)


def _is_stopped(refusal: Refusal) -> bool:
    return refusal.state == "stopped"  # some servers compare even then


def _is_back_in_the_queue(refusal: Refusal) -> bool:
    return not refusal.value or _waits(refusal.state)


def _waits(state: str) -> bool:
    return state in {"queued", "starting"}


def _is_our_beat(refusal: Refusal) -> bool:
    return _is_ours(refusal.lease, refusal.value)


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


def _has_no_value(refusal: Refusal) -> bool:
    return not refusal.value


def _is_anothers(refusal: Refusal) -> bool:
    lease, stamp = refusal.lease, instant(refusal.value)
    return stamp is None or lease.clock is None or not _in_a_window(lease, stamp)


def _is_our_lost_claim(refusal: Refusal) -> bool:
    known = refusal.lease.refused_value
    return refusal.value == known and _silence(refusal) > _longest_silence(_ttl_of_claim(refusal))


def _silence(refusal: Refusal) -> float:
    """Return for how long at least, in seconds of the server's time, nobody has beaten; 0 if that is not known."""
    clock, stamp = refusal.lease.clock, instant(refusal.value)
    return 0.0 if clock is None or stamp is None else clock.earliest(refusal.exchange.sent) - stamp


def _longest_silence(ttl: float) -> float:
    """Return the seconds for which a worker that lives may be silent.

    A worker beats every max(1, min(ttl/2, 30)) s (public SDK). If it is silent for longer, the value is that of our own
    lost claim.
    """
    return 1.25 * min(ttl / 2, 30.0) + 1.0


def _ttl_of_claim(refusal: Refusal) -> float:
    return max(1.0, refusal.ttl or ASSUMED_TTL)


# --- What follows ------------------------------------------------------------------------------------------------


def _stop(refusal: Refusal) -> Lease:
    return ended(refusal.lease, End.STOPPED, STOPPED_MESSAGE)  # whoever held it


def _requeue_by_the_list(refusal: Refusal) -> Lease:
    return ended(refusal.lease, End.REQUEUED, f"the work item went back to the queue at {_queued_at(refusal)}")


def _take_over_by_the_list(refusal: Refusal) -> Lease:
    return ended(refusal.lease, End.TAKEN_OVER, f"the work item was queued again at {_queued_at(refusal)}, and taken")


def _queued_at(refusal: Refusal) -> str | None:
    return None if refusal.listed is None else refusal.listed.started_at


def _requeue(refusal: Refusal) -> Lease:
    return ended(refusal.lease, End.REQUEUED, "the lease lapsed and the work item went back to the queue")


def _take_over(refusal: Refusal) -> Lease:
    return ended(refusal.lease, End.TAKEN_OVER, f"another worker holds the lease since {refusal.value}")


def _decide_nothing(refusal: Refusal) -> Lease:
    return try_again(refusal.lease, Trouble.IN_DOUBT, refusal.exchange, MUTE_MESSAGE)


def _adopt(refusal: Refusal) -> Lease:
    return _adopted(refusal.lease, refusal.value, refusal.state, refusal.exchange.done)


def _adopt_from_the_list(refusal: Refusal) -> Lease:
    # If the list writes the value otherwise, the next 412 names the value and nothing has changed.
    assert refusal.listed is not None  # noqa: S101 (the row applies only then)
    return _adopted(refusal.lease, refusal.listed.latest_heartbeat_at, refusal.listed.state, refusal.exchange.done)


def _adopted(lease: Lease, value: str | None, state: str, now: float) -> Lease:
    """Return the lease with the value found as ours, to be beaten at once.

    An adoption moves no deadline, and spends all unanswered beats.
    """
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
    """Return the lease without the value that was taken for our lost claim's: the next try is a first claim again."""
    return replace(lease, value=None)


def _claim_again(refusal: Refusal) -> Lease:
    return _claim_slowly(_unclaimed(refusal.lease), refusal, Trouble.IN_DOUBT, MUTE_MESSAGE)


def _claim_when_acknowledged(refusal: Refusal) -> Lease:
    message = f"the work item is {refusal.state} and cannot be claimed yet: it must be polled and acknowledged"
    return _claim_slowly(_refused(refusal), refusal, Trouble.NOT_ACKNOWLEDGED, message)


def _leave_it_to_the_holder(refusal: Refusal) -> Lease:
    message = f"another worker holds the lease; its last heartbeat is {refusal.value}"
    return _claim_slowly(_refused(refusal), refusal, Trouble.HELD_BY_ANOTHER, message)


def _claim_slowly(lease: Lease, refusal: Refusal, trouble: Trouble, message: str) -> Lease:
    return troubled(lease, trouble, message, refusal.exchange.done + slow_retry(lease))


def _refused(refusal: Refusal) -> Lease:
    """Return the lease with a note of the value that refused its claim: whether nobody beats shows at the next 412."""
    return replace(_unclaimed(refusal.lease), refused_value=refusal.value)


def _adopt_the_lost_claim(refusal: Refusal) -> Lease:
    lease = replace(refusal.lease, ttl=_ttl_of_claim(refusal))
    return _adopted(lease, refusal.value, refusal.state, refusal.exchange.done)


def _watch(refusal: Refusal) -> Lease:
    message = f"the claim's answer was lost; whether {refusal.value} is ours shows if nobody beats meanwhile"
    done, silent = refusal.exchange.done, _silence(refusal)
    due = max(done + FIRST_RETRY, done + _longest_silence(_ttl_of_claim(refusal)) - silent)
    return troubled(_refused(refusal), Trouble.IN_DOUBT, message, due)


# --- The tables --------------------------------------------------------------------------------------------------

LISTED_AS_OVER: Final = (
    Row("listed as `stopped`", _is_listed_as_stopped, End.STOPPED, _stop),
    Row(
        "listed with a later entry to the queue than our first value, and waiting there",
        _is_another_delivery_in_the_queue,
        End.REQUEUED,
        _requeue_by_the_list,
    ),
    Row(
        "listed with a later entry to the queue than our first value, and not waiting",
        _is_another_delivery,
        End.TAKEN_OVER,
        _take_over_by_the_list,
    ),
)
"""What the list alone decides: it overrules whatever a refusal says."""

AFTER_HOLDING: Final = (
    *LISTED_AS_OVER,
    Row(
        "it does not say its value, and is listed with one that is ours",
        _is_mute_and_listed_as_ours,
        Adoption.LISTED,
        _adopt_from_the_list,
    ),
    Row("it does not say its value", _is_mute, Trouble.IN_DOUBT, _decide_nothing),
    Row("it is `stopped`", _is_stopped, End.STOPPED, _stop),
    Row("it has no value, or is `queued` or `starting`", _is_back_in_the_queue, End.REQUEUED, _requeue),
    Row("its value is ours", _is_our_beat, Adoption.UNANSWERED_BEAT, _adopt),
    Row("anything else", _always, End.TAKEN_OVER, _take_over),
)
"""A 412 to a beat of a lease that is held."""

TO_A_FIRST_CLAIM: Final = (
    Row("it does not say its value", _is_mute, Trouble.IN_DOUBT, _claim_again),
    Row("it is `stopped`", _is_stopped, End.STOPPED, _stop),
    Row("it has no value", _has_no_value, Trouble.NOT_ACKNOWLEDGED, _claim_when_acknowledged),
    Row(
        "its value is not in the window of an unanswered claim",
        _is_anothers,
        Trouble.HELD_BY_ANOTHER,
        _leave_it_to_the_holder,
    ),
    Row(
        "its value was met before, and is older than a worker would let it become",
        _is_our_lost_claim,
        Adoption.LOST_CLAIM,
        _adopt_the_lost_claim,
    ),
    Row("anything else", _always, Trouble.IN_DOUBT, _watch),
)
"""A 412 to a beat of a lease that is not held: whatever the list may show, nothing is at stake."""
