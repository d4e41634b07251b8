"""What an answer to a beat means for the lease.

Owns the reading of every outcome; what a 412 means is read in ``conflicts``. Pure. Must not say what to send next.
"""

import math
from dataclasses import replace
from typing import assert_never

from worklease.rules.clock_error import corrected
from worklease.rules.conflicts import overruled, read_conflict, read_list
from worklease.rules.deadlines import (
    changed_ttl,
    dense_retry,
    own_fence,
    rhythm,
    routine,
    slow_retry,
    timeout,
    try_again,
)
from worklease.rules.lease import (
    ASSUMED_TTL,
    CLOCK_SKEW,
    STOPPED_MESSAGE,
    WHOLE_SECOND,
    Adoption,
    Cut,
    End,
    Lease,
    ServerClock,
    Trouble,
    Unplaced,
    Window,
    Words,
    clock_by_stamp,
    ended,
    shorter,
    troubled,
)
from worklease.rules.outcomes import (
    Answered,
    Conflicted,
    CredentialsMissing,
    Exchange,
    ListAnswer,
    ListedItem,
    ListRefused,
    Missing,
    NoKeyForList,
    NotListed,
    NotReady,
    Outcome,
    Rejected,
    Throttled,
    Unanswered,
    Unauthorized,
    Unsent,
)


def observe(lease: Lease, outcome: Outcome, seen: ListAnswer | None = None) -> Lease:
    """Return the lease after ``outcome``; ``seen`` is what the list shows of the item, if the list was asked."""
    if lease.end is not None:
        return lease
    if isinstance(outcome, Answered) and _is_renewal(outcome):
        return _renewed(lease, outcome)
    known = lease.clock
    lease = _place(replace(lease, clock=_read_clock(known, outcome), words=_read_words(lease.words, outcome)))
    lease = corrected(lease, known)
    listed = seen if isinstance(seen, ListedItem) else None
    match outcome:
        case Answered():
            return _answered(lease, outcome)
        case Conflicted():
            return read_conflict(replace(lease, missing_since=None), outcome, listed)
        case Missing():
            is_held = lease.held
            return _missing(lease, outcome, seen) if is_held else _not_there_yet(lease, Trouble.NOT_FOUND, outcome)
        case NotReady() if lease.held and listed is not None:
            return _listed(replace(lease, missing_since=None), outcome, listed)
        case NotReady() if not lease.held:
            return _not_there_yet(lease, Trouble.NOT_ACKNOWLEDGED, outcome)
        case Rejected() if lease.held and outcome.exchange.asked is not None:
            asked = outcome.exchange.asked
            message = f"{outcome.message}; ttlSeconds {asked} may be refused: going on without it"
            refused = replace(lease, refused_ttls=tuple(sorted({*lease.refused_ttls, asked})))
            return try_again(refused, Trouble.REJECTED, outcome.exchange, message)
        case NotReady() | Rejected():
            return try_again(lease, Trouble.REJECTED, outcome.exchange, outcome.message)
        case Unauthorized():
            return try_again(lease, Trouble.UNAUTHORIZED, outcome.exchange, outcome.message)
        case CredentialsMissing():
            return try_again(lease, Trouble.CREDENTIALS_MISSING, outcome.exchange, outcome.message)
        case Throttled():
            return try_again(lease, Trouble.THROTTLED, outcome.exchange, outcome.message, outcome.retry_after)
        case Unsent():
            return try_again(lease, Trouble.UNREACHABLE, outcome.exchange, outcome.message)
        case Unanswered(exchange, message, retry_after):
            return try_again(_doubted(lease, exchange), Trouble.IN_DOUBT, exchange, message, retry_after)
        case _:
            assert_never(outcome)


def is_doubtful(lease: Lease, outcome: Outcome) -> bool:
    """Whether the list must be asked before ``outcome`` is observed.

    It must before a value is adopted, where a 412 or a 409 does not say what the server has, and before a 404 ends the
    lease. The list changes nothing, and may show that the item is another delivery by now, or that it is stopping.
    """
    if not lease.held:
        return lease.end is None and isinstance(outcome, Conflicted) and outcome.current is None
    return isinstance(outcome, Conflicted | NotReady | Missing) and observe(lease, outcome).end is None


def is_claim_in_doubt(lease: Lease) -> bool:
    """Whether the list must be asked before the next claim is sent.

    An earlier claim may have been applied, or somebody held the item. It may be another delivery by now that somebody
    else has just polled, and a claim takes whatever is there. A value that was found takes nothing but itself.
    """
    has_history = bool(lease.unanswered or lease.unplaced) or lease.refused_value is not None
    return has_history and not lease.held and lease.end is None and lease.watched is None


def look_before_claim(lease: Lease, seen: ListAnswer | None, now: float) -> Lease:
    """Return the lease after a look at the list before a claim: the claim is due still, later, or never."""
    if not isinstance(seen, ListedItem) or not is_claim_in_doubt(lease):
        return lease
    return read_list(_place(lease), seen, Exchange(sent=now, done=now))


def adoption(before: Lease, outcome: Outcome, after: Lease) -> Adoption | None:
    """Return the rule by which ``outcome`` had ``before`` adopt the value of ``after``; None without an adoption."""
    if not before.held:
        return Adoption.LOST_CLAIM if after.held and before.watched is not None else None
    if not isinstance(outcome, Conflicted) or after.end is not None or after.value in {None, before.value}:
        return None
    return Adoption.LISTED if outcome.current is None else Adoption.UNANSWERED_BEAT


def is_adopted(lease: Lease) -> bool:
    """Whether the next beat carries an adopted value: a 412 or the list named it, and no answer gave it to us."""
    return lease.words is not None and lease.value != lease.words.last_heartbeat


# --- What every answer tells -------------------------------------------------------------------------------------


def _read_clock(known: ServerClock | None, outcome: Outcome) -> ServerClock | None:
    """Return the clock that stamps beats, as the newest answer shows it.

    A ``Date`` header names a whole second, and another clock may write it: each moves the bounds by a second, and the
    round trip by its length. Where a server sends none, the stamp of an accepted beat tells the time. Older answers do
    not narrow the bounds: two clocks drift, and a bound that is too narrow gives up a lease that is still ours.
    """
    exchange = outcome.exchange
    if exchange.date is not None:
        earliest, latest = exchange.date - CLOCK_SKEW, exchange.date + WHOLE_SECOND + CLOCK_SKEW
        return ServerClock(earliest - exchange.done, latest - exchange.sent, exchange.done)
    if not isinstance(outcome, Answered) or not outcome.lease_extended:
        return known
    return clock_by_stamp(outcome.last_heartbeat, exchange.sent, exchange.done) or known


def _read_words(known: Words | None, outcome: Outcome) -> Words | None:
    """Return what the server last said of the item, whatever follows from it."""
    if not isinstance(outcome, Answered):
        return known
    return Words(
        last_heartbeat=outcome.last_heartbeat,
        state=outcome.state,
        lease_extended=outcome.lease_extended,
        ttl_seconds=outcome.ttl_seconds,
        at=outcome.exchange.sent,
    )


def _not_there_yet(lease: Lease, trouble: Trouble, refusal: Missing | NotReady) -> Lease:
    """Return the lease that cannot be claimed yet; a value found for its lost claim is the server's no more."""
    due = refusal.exchange.done + slow_retry(lease)
    return troubled(replace(lease, watched=None), trouble, refusal.message, due)


# --- 200 ---------------------------------------------------------------------------------------------------------


def _answered(lease: Lease, answer: Answered) -> Lease:
    match answer.state:
        case "stopped":
            # The item is over, whoever held it.
            return ended(lease, End.STOPPED, STOPPED_MESSAGE)
        case "stopping":
            return _stopping(lease, answer)
        case _ if not answer.lease_extended:
            return _not_extended(lease, answer)
        case _:
            # A beat with an empty value would claim or extend the lease without comparison. We never send one.
            message = "the server extended the lease and does not say its value"
            return try_again(_doubted(lease, answer.exchange), Trouble.IN_DOUBT, answer.exchange, message)


def _is_renewal(answer: Answered) -> bool:
    return bool(answer.lease_extended and answer.last_heartbeat) and answer.state not in {"stopped", "stopping"}


def _renewed(lease: Lease, answer: Answered) -> Lease:
    """Return the renewed lease, of which an answer that is in order leaves no doubt and no trouble.

    Its time counts from the sending: the server stamped the beat no earlier.
    """
    sent, ttl = answer.exchange.sent, max(1.0, answer.ttl_seconds)
    gap, is_crowded = rhythm(lease, sent, ttl)
    return replace(
        lease,
        clock=_read_clock(lease.clock, answer),
        words=_read_words(lease.words, answer),
        value=answer.last_heartbeat,
        ttl=ttl,
        granted_for=answer.exchange.asked,
        cut=None,
        sent=sent,
        claimed=lease.claimed if lease.claimed is not None else sent,
        first=lease.first if lease.first is not None else answer.last_heartbeat,
        reprieve=None,
        unanswered=(),
        unplaced=(),
        refused_value=None,
        watched=None,
        failures=0,
        held_back=None,
        trouble=None,
        message="",
        stopping_seen=False,
        due=sent + gap,
        is_crowded=is_crowded,
        accepted_key=answer.exchange.key,
        missing_since=None,
    )


def _not_extended(lease: Lease, answer: Answered) -> Lease:
    """Return the lease after a 200 that extended nothing: our value was compared and is good, but no deadline moves.

    If the value is unchanged, one of our beats that is still under way may yet change it, so its window stays. Before
    anything was held, nothing was compared: the claim may have been applied, but the value named may be another's.
    """
    if not lease.held:
        taken = _doubted(lease, answer.exchange)
    elif answer.last_heartbeat in ("", lease.value):
        taken = lease
    else:
        taken = replace(lease, value=answer.last_heartbeat, unanswered=(), unplaced=())
    message = f"the server answered that the item is {answer.state or 'in no state'}, but did not extend the lease"
    due = answer.exchange.done + dense_retry(taken)
    return troubled(replace(taken, stopping_seen=False), Trouble.NOT_EXTENDED, message, due)


def _stopping(lease: Lease, answer: Answered) -> Lease:
    """Return the lease after a 200 in ``stopping``: the value was not compared, so this proves nothing about who holds.

    Our own clock decides whether the lease is still ours. If it is, it takes the server's value, since some servers do
    compare here.
    """
    at = own_fence(lease)
    ours = lease.held and (lease.stopping_seen or (at is not None and answer.exchange.done < at))
    return replace(
        lease,
        value=(answer.last_heartbeat or lease.value) if ours else lease.value,
        stopping_seen=ours,
        failures=0 if ours else lease.failures + 1,
        held_back=None,
        trouble=None,
        message="",
        due=answer.exchange.done + (routine(lease) if ours else slow_retry(lease)),
    )


# --- 404 ---------------------------------------------------------------------------------------------------------


def _missing(lease: Lease, answer: Missing, seen: ListAnswer | None) -> Lease:
    """Return a lease that was held after the API's own 404, which ends it only if nothing else can explain the 404.

    Some servers answer 404 to a key of another environment as well. So the list decides: the key that reads it is good.
    Where the Secret has no key for the list, a key that this lease was renewed with is good, but a server that is being
    restored may not know the item for a moment: a second 404 has to follow.
    """
    said, exchange = answer.message, answer.exchange
    first = exchange.done if lease.missing_since is None else lease.missing_since
    match seen:
        case NotListed():
            return ended(lease, End.NOT_FOUND, f"{said}; the list of the environment's items does not have it either")
        case NoKeyForList() if _is_missing_for_good(lease, exchange):
            return ended(lease, End.NOT_FOUND, f"{said}, twice, to a key that renewed this lease before")
        case ListedItem() if (over := overruled(lease, exchange, seen)) is not None:
            return over
        case ListedItem():
            trouble, why = Trouble.IN_DOUBT, "but the list of the environment's items has it"
        case ListRefused(message):
            advice = "the key may be of another environment; put a valid key into the Secret"
            trouble, why = Trouble.UNAUTHORIZED, f"and refuses the list of items as well ({message}): {advice}"
        case _:
            trouble, why = Trouble.IN_DOUBT, "and the list of the environment's items could not be read to its end"
    return try_again(replace(lease, missing_since=first), trouble, exchange, f"{said}, {why}")


def _is_missing_for_good(lease: Lease, exchange: Exchange) -> bool:
    """Whether a 404 is the second one, a time-out after the first, to a key that an accepted beat of the lease had."""
    is_good = exchange.key != 0 and exchange.key == lease.accepted_key
    return is_good and lease.missing_since is not None and exchange.sent >= lease.missing_since + timeout(lease)


# --- 409 ---------------------------------------------------------------------------------------------------------


def _listed(lease: Lease, answer: NotReady, seen: ListedItem) -> Lease:
    """Return the lease after a 409, as the list tells: some servers answer so once the item is stopping."""
    over = overruled(lease, answer.exchange, seen)
    if over is not None:
        return over
    at = own_fence(lease)
    if seen.state == "stopping" and (lease.stopping_seen or (at is not None and answer.exchange.done < at)):
        words = lease.words and replace(lease.words, state=seen.state, lease_extended=False, at=answer.exchange.sent)
        stopping = replace(lease, words=words, stopping_seen=True, failures=0, trouble=None, message="")
        return replace(stopping, due=answer.exchange.done + routine(lease))
    return try_again(lease, Trouble.REJECTED, answer.exchange, answer.message)


# --- No answer ---------------------------------------------------------------------------------------------------


def _doubted(lease: Lease, exchange: Exchange) -> Lease:
    """Return the lease with the window of a beat that may have been applied: until two time-outs after its sending.

    One for the answer, and one more for a beat that comes late; of a claim, it counts from when that was given up.

    Each beat of a held lease keeps its own window: an adoption counts from the sending of the beat that it finds
    applied. What was sent longer than a TTL ago can have renewed nothing that is still held.
    """
    cut, wished = lease.cut, changed_ttl(lease, exchange.asked)
    if wished is not None:
        cut = shorter(cut, Cut(wished, exchange.sent + wished))
    longest = timeout(lease)
    # The beat of a held lease may be given up early, and comes as late as one that was waited for.
    given_up = max(exchange.done, exchange.sent + longest) if lease.held else exchange.done
    window = Unplaced(exchange.sent, given_up + longest, float(exchange.asked or ASSUMED_TTL))
    if not lease.held:
        return _place(replace(lease, cut=cut, unplaced=_joined(lease.unplaced, window)))
    oldest = exchange.done - lease.ttl
    return _place(
        replace(
            lease,
            cut=cut,
            unplaced=(*(u for u in lease.unplaced if u.sent >= oldest or u.sent == -math.inf), window),
            unanswered=tuple(w for w in lease.unanswered if w.sent is None or w.sent >= oldest),
        )
    )


def _joined(known: tuple[Unplaced, ...], window: Unplaced) -> tuple[Unplaced, ...]:
    """Return the windows of claims, where those that overlap are one: hours without an answer stay one window.

    A claim that was never held has no end that an adoption could move.
    """
    last = known[-1] if known else None
    if last is None or window.sent > last.closes:
        return (*known, window)
    return (*known[:-1], replace(last, closes=max(last.closes, window.closes), ttl=_longer(last.ttl, window.ttl)))


def _longer(one: float | None, other: float | None) -> float | None:
    """Return the longer of two TTLs that claims asked for: for so long the one in doubt is watched."""
    return None if one is None or other is None else max(one, other)


def _place(lease: Lease) -> Lease:
    """Return the lease with its windows in the server's time, once its clock is known."""
    if lease.clock is None or not lease.unplaced:
        return lease
    clock = lease.clock
    placed = [
        Window(clock.earliest(u.sent), clock.latest(u.closes), u.sent if u.sent > -math.inf else None, u.ttl)
        for u in lease.unplaced
    ]
    every = (*lease.unanswered, *placed)
    return replace(lease, unanswered=every if lease.held else _joined_windows(every), unplaced=())


def _joined_windows(windows: tuple[Window, ...]) -> tuple[Window, ...]:
    joined: list[Window] = []
    for window in sorted(windows, key=lambda w: w.opens):
        if joined and window.opens <= joined[-1].closes:
            last = joined[-1]
            ttl = _longer(last.ttl, window.ttl)
            joined[-1] = replace(last, closes=max(last.closes, window.closes), ttl=ttl)
        else:
            joined.append(window)
    return tuple(joined)
