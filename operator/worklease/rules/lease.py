"""The lease, read top to bottom like a specification: what to send next, and what an answer means.

Owns every rule about the value a beat carries, about time, and about a 412. Pure: no clock, no socket, no
randomness; ``now`` and everything that happened are passed in. Must not know Kubernetes, HTTP or asyncio.

Times named ``now``, ``sent``, ``due`` and the like are seconds of one monotonic clock; times of the server are
seconds since the epoch, by its own clock. A lease is driven by three calls: :func:`decide` says what to do,
:func:`observe` takes what came of it, and :func:`standing` says how we stand.
"""

import math
import zlib
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Final, assert_never

from worklease.rules.outcomes import (
    Answered,
    Conflicted,
    CredentialsMissing,
    Current,
    Exchange,
    ListedItem,
    Missing,
    NotReady,
    Outcome,
    Rejected,
    Throttled,
    Unanswered,
    Unauthorized,
    Unsent,
)

NO_HEARTBEAT: Final = "NO_HEARTBEAT"
"""What a first beat carries ("claim an unclaimed lease": Record Heartbeat reference)."""

ASSUMED_TTL: Final = 90.0
"""The TTL in seconds before the server named one, as the public SDK assumes it."""

LONGEST_TIMEOUT: Final = 10.0
"""Seconds after which a request is given up, however long the TTL: a healthy answer takes far less."""

FIRST_RETRY: Final = 0.25
"""Seconds before the first retry: most failures are one lost connection."""

RESTART_SPREAD: Final = 5.0
"""Seconds after a start within which every restored lease is beaten, as far as the budget allows."""

SHORTEST_GAP: Final = 1 / 3
"""Part of an interval that is between two routine beats at least."""

LONGEST_UNCLAIMED_RETRY: Final = 8.0
"""Seconds, give or take a fifth, between tries for a lease not held yet: nothing is at risk, but somebody waits."""

LONGEST_KEY_RETRY: Final = 10.0
"""Seconds after which a missing or refused Secret is read again at the latest, however long the TTL."""

FIRST_CLAIM_RETRY: Final = 1.0
"""Seconds before a refused claim is tried again: an acknowledgement may be on its way."""

LONGEST_CLAIM_RETRY: Final = 60.0
"""Seconds between refused claims at most: the holder may be at work for hours."""

SKEW: Final = 1.0
"""Seconds by which the clock that stamps beats (the database's) and the one that dates answers may differ."""

STOPPED_MESSAGE: Final = "the work item is stopped"


# --- The server's clock ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ServerClock:
    """What is known of (server's time - our monotonic time): between ``least`` and ``most`` seconds."""

    least: float
    most: float

    def earliest(self, now: float) -> float:
        """Give the earliest that the server's clock may show at ``now``."""
        return now + self.least

    def latest(self, now: float) -> float:
        """Give the latest that the server's clock may show at ``now``."""
        return now + self.most


def _read_clock(known: ServerClock | None, outcome: Outcome) -> ServerClock | None:
    """Read the server's clock from the newest answer, give or take a second and the round trip.

    A ``Date`` header names a whole second. Where a server sends none, the stamp of an accepted beat tells the time.
    Older answers do not narrow the bounds: two clocks drift, and a bound that is too narrow gives up what is ours.
    """
    exchange = outcome.exchange
    if exchange.date is not None:
        return ServerClock(exchange.date - SKEW - exchange.done, exchange.date + SKEW - exchange.sent)
    if not isinstance(outcome, Answered) or not outcome.lease_extended:
        return known
    return _clock_by_stamp(outcome.last_heartbeat, exchange.sent, exchange.done) or known


def _clock_by_stamp(value: str, sent: float, done: float) -> ServerClock | None:
    """Read the server's clock from the value of a beat that was accepted between ``sent`` and ``done``."""
    stamp = instant(value)
    return None if stamp is None else ServerClock(stamp - SKEW - done, stamp + SKEW - sent)


def instant(value: str | None) -> float | None:
    """Read a value as a time, in seconds since the epoch; None where it is not an RFC 3339 time with an offset.

    For comparison only: a value is never re-written ("echo the server's previous last_heartbeat value exactly").
    """
    if value is None:
        return None
    try:
        read = datetime.fromisoformat(value.upper())  # RFC 3339 allows "t" and "z" as well
    except ValueError:
        return None
    return read.timestamp() if read.tzinfo is not None else None


# --- The lease ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Window:
    """Where the time stamp of an unanswered beat lies, if it was applied; server's time."""

    opens: float
    closes: float


@dataclass(frozen=True, slots=True)
class Unplaced:
    """An unanswered beat from before the server's clock was known; monotonic time."""

    sent: float
    """Minus infinity: any time since the last accepted value."""
    closes: float


@dataclass(frozen=True, slots=True)
class Cut:
    """What unanswered beats that asked for a shorter TTL may have brought, if one of them was applied."""

    ttl: float
    """The least TTL that was asked for, in seconds."""
    ends: float
    """The earliest end of the lease (monotonic): a beat's sending and what it asked for."""


class Trouble(StrEnum):
    """Why the last beat did not renew the lease, though nothing is decided by it."""

    IN_DOUBT = "InDoubt"
    UNREACHABLE = "Unreachable"
    UNAUTHORIZED = "Unauthorized"
    CREDENTIALS_MISSING = "CredentialsMissing"
    REJECTED = "Rejected"
    THROTTLED = "Throttled"
    NOT_EXTENDED = "NotExtended"
    NOT_ACKNOWLEDGED = "NotAcknowledged"
    HELD_BY_ANOTHER = "HeldByAnother"
    NOT_FOUND = "NotFound"
    BUDGET_SHORT = "BudgetShort"


class End(StrEnum):
    """How a lease ended, for good: a new delivery of the item is a new resource."""

    STOPPED = "Stopped"
    REQUEUED = "Requeued"
    TAKEN_OVER = "TakenOver"
    NOT_FOUND = "NotFound"
    EXPIRED = "Expired"
    RELEASED = "Released"


class Adoption(StrEnum):
    """The rule by which a value that no answer gave us is taken as ours."""

    UNANSWERED_BEAT = "UnansweredBeat"
    """A 412 has the stamp of a beat of ours that was not answered."""
    LISTED = "Listed"
    """A 412 does not say the value, and the list has such a stamp."""
    LOST_CLAIM = "LostClaim"
    """A first claim's answer was lost, and nobody else beats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """The server's last words about the item, verbatim, and when they were true (monotonic)."""

    last_heartbeat: str
    state: str
    lease_extended: bool
    ttl_seconds: float
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """One lease as this process knows it. Values are replaced, never changed."""

    desired_ttl: int | None = None
    """What is asked for, in seconds; None leaves the choice to the server."""
    interval: float = 30.0
    """The longest time between routine beats, in seconds."""
    suspended: bool = False
    """By hand: no beats, the lease is left to lapse."""
    seed: int = 0
    """Spreads the retries of many leases; any number that differs between them."""
    pod_grace: float = 0.0
    """The longest termination grace of the pods bound to this lease, in seconds; 0 without a pod."""

    value: str | None = None
    """What the next beat carries, byte for byte; None: ``NO_HEARTBEAT``."""
    ttl: float = ASSUMED_TTL
    """The TTL of the last accepted answer, in seconds, kept together with ``value``."""
    granted_for: int | None = None
    """What was asked for when ``ttl`` was granted, 0 if that is not known: the same wish is granted alike."""
    refused_ttl: int | None = None
    """What the spec asks for and the server refused (400): the lease goes on as it was granted before."""
    is_edited: bool = False
    """``desired_ttl`` was edited since the last accepted answer, so the next one may still be to the former wish."""
    cut: Cut | None = None
    """How a beat that was not answered since the last accepted one may have shortened the lease."""
    sent: float | None = None
    """When the last beat that was answered 200 and extended the lease was sent. None: never held."""
    reprieve: float | None = None
    """A restored lease is given up no earlier than this: one beat must be able to tell. None: it has told."""

    clock: ServerClock | None = None
    unanswered: tuple[Window, ...] = ()
    unplaced: tuple[Unplaced, ...] = ()
    refused_value: str | None = None
    """The value that another holder, or an unanswered claim of ours, was last seen to have."""

    words: Words | None = None
    claimed: float | None = None
    """When this lease was first held (monotonic)."""
    first: str | None = None
    """The first accepted value: what entered the queue later is another delivery of the item."""
    due: float = 0.0
    is_crowded: bool = False
    """Its beats come close to those of many others, as all do after a start, or when the server is back."""
    failures: int = 0
    """Beats in a row that did not do what they should: the longer, the slower."""
    held_back: float | None = None
    """Until when the server wants no request (``Retry-After``)."""
    trouble: Trouble | None = None
    message: str = ""
    stopping_seen: bool = False
    """The server's last word is ``stopping``, and it was first said while the lease was ours."""
    end: End | None = None

    @property
    def held(self) -> bool:
        """Whether a beat of ours ever extended this lease and nothing has ended it since."""
        return self.sent is not None and self.end is None

    @property
    def state(self) -> str:
        """The item's state as the server last said it; empty before it said anything."""
        return self.words.state if self.words is not None else ""


def restore(
    fresh: Lease,
    *,
    value: str,
    ttl: float,
    sent: float,
    claimed: float | None,
    words: Words,
    now: float,
    known_cut: Cut | None = None,
) -> Lease:
    """Go on with a lease that an earlier process held.

    A start adds one more unanswered window, from the last known value to the start: the earlier process may have
    sent beats that nobody here knows of, and asked in them for the TTL that the spec has now. The lease's own
    deadlines stand, but where they have come, or nearly, one beat may tell first.
    """
    ttl, sent = max(1.0, ttl), min(sent, now)
    wish = fresh.desired_ttl
    kept = replace(
        fresh,
        value=value,
        ttl=ttl,
        granted_for=wish,
        cut=_deeper(known_cut, None if wish is None or wish >= ttl else Cut(float(wish), sent + wish)),
        sent=sent,
        claimed=claimed,
        words=words,
        # Which pods there are is not known yet, so the longest grace is reckoned with.
        pod_grace=math.inf,
    )
    told = now + 2 * timeout(kept)
    earliest = fence(kept)
    assert earliest is not None  # noqa: S101 (it was held: ``sent`` is set)
    return replace(
        kept,
        pod_grace=fresh.pod_grace,
        clock=_clock_by_stamp(value, sent, sent + timeout(kept)),
        unplaced=(Unplaced(-math.inf, now + timeout(kept)),),
        stopping_seen=words.state == "stopping" and words.at < earliest,
        reprieve=told if earliest < told else None,
        # Until a beat tells, nobody knows whether the lease is still ours: so soon, what is due first first.
        due=now + max(0.0, sent + _routine(kept) - now) * min(1.0, RESTART_SPREAD / _routine(kept)),
        is_crowded=True,
    )


def _deeper(one: Cut | None, other: Cut | None) -> Cut | None:
    if one is None or other is None:
        return one or other
    return Cut(min(one.ttl, other.ttl), min(one.ends, other.ends))


# --- Time --------------------------------------------------------------------------------------------------------


def timeout(lease: Lease) -> float:
    """Say how long a request for this lease may take, in seconds: a sixth of the TTL, so that retries fit."""
    return min(LONGEST_TIMEOUT, _next_ttl(lease) / 6)


def _ttl(lease: Lease) -> float:
    """Give the least TTL that may be in force, in seconds."""
    return lease.ttl if lease.cut is None else min(lease.ttl, lease.cut.ttl)


def _wish(lease: Lease) -> float | None:
    """Give the TTL, in seconds, that the next beat asks for; None where it is as granted, or nothing is at stake yet.

    Who asks for none after a wish gets a default that is not known.
    """
    if not lease.held or lease.desired_ttl == lease.granted_for or _is_refused(lease):
        return None
    return max(1.0, ASSUMED_TTL if lease.desired_ttl is None else lease.desired_ttl)


def _next_ttl(lease: Lease) -> float:
    """Give the TTL to hurry for: a shorter one that is asked for may be in force as soon as the beat is sent."""
    wish = _wish(lease)
    return lease.ttl if wish is None else min(lease.ttl, wish)


def expiry(lease: Lease) -> float | None:
    """Say when the lease ends at the earliest: counted from the *sending* of the last accepted beat.

    A beat that asked for a shorter TTL and was not answered may have been applied, and counts as if it was.
    """
    if lease.sent is None:
        return None
    ends = lease.sent + lease.ttl
    return ends if lease.cut is None else min(ends, lease.cut.ends)


def giving_up(lease: Lease) -> float | None:
    """Say when the lease is given up unless a beat is accepted: at its end, or when one beat could have told."""
    ends = expiry(lease)
    return ends if ends is None or lease.reprieve is None else max(ends, lease.reprieve)


def grace(lease: Lease) -> float:
    """Say how much of its grace, in seconds, a pod can be given at the fence: at most a fifth of the TTL."""
    return min(lease.pod_grace, _ttl(lease) / 5)


def fence(lease: Lease) -> float | None:
    """Say when the sandbox must be told to end, so that its grace is over before the lease can be."""
    at = _own_fence(lease)
    return at if at is None or lease.reprieve is None else max(at, lease.reprieve)


def _own_fence(lease: Lease) -> float | None:
    """Give the fence as the last accepted beat sets it, whether or not a restored lease may still be told more."""
    ends = expiry(lease)
    return None if ends is None else ends - _margin(lease) - grace(lease)


def _margin(lease: Lease) -> float:
    """Give 1 s + T/50, which covers the deletion's own way and the difference of two clocks' rates."""
    return 1.0 + _ttl(lease) / 50


def time_left(lease: Lease, now: float) -> float:
    """Say how long, in seconds, a sandbox may run from now on; none is left once the lease may have ended."""
    ends = expiry(lease)
    return math.inf if ends is None else max(0.0, ends - _margin(lease) - now)


def is_fenced(lease: Lease, now: float) -> bool:
    """Tell whether a lease that we held is past its fence: its sandbox must be ending."""
    at = fence(lease)
    return at is not None and now >= at


def latest(lease: Lease) -> float:
    """Say until when a routine beat may be stretched, if the budget is short: later the lease is at risk.

    Two time-outs before the fence, so that one lost beat and its repetition still fit; infinite if never held.
    """
    at = fence(lease)
    if at is None or lease.sent is None:
        return math.inf
    return min(lease.sent + lease.ttl * 3 / 5, at - 2 * timeout(lease))


def _routine(lease: Lease) -> float:
    return min(lease.ttl / 3, lease.interval)


def _retry(lease: Lease, first: float, longest: float) -> float:
    """Give a back-off that doubles from ``first`` to ``longest`` seconds, give or take a fifth."""
    step = min(longest, first * 2.0 ** min(lease.failures, 16))
    spread = zlib.crc32(f"{lease.seed}/{lease.failures}".encode()) / 0xFFFFFFFF
    return step * (0.8 + 0.4 * spread)


def _densely(lease: Lease) -> float:
    """Give the back-off of a lease that is at risk: it never waits longer than a twentieth of its TTL."""
    if not lease.held:
        return _retry(lease, FIRST_RETRY, LONGEST_UNCLAIMED_RETRY)
    longest = _next_ttl(lease) / 20
    return _retry(lease, min(FIRST_RETRY, longest), longest)


def _slowly(lease: Lease) -> float:
    """Give the back-off of a claim that was refused: nothing of ours is at risk."""
    return _retry(lease, FIRST_CLAIM_RETRY, LONGEST_CLAIM_RETRY)


# --- What to do next ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Beat:
    """Send a heartbeat with just this value; give it up after ``timeout`` seconds."""

    expected: str
    desired_ttl: int | None
    timeout: float


@dataclass(frozen=True, slots=True)
class Wait:
    """Do nothing before ``until``."""

    until: float


@dataclass(frozen=True, slots=True)
class Rest:
    """Never beat again: the lease is over."""


def decide(lease: Lease, now: float) -> Beat | Wait | Rest:
    """Say what the lease asks for at ``now``, provided that none of its beats is in flight."""
    if lease.end is not None:
        return Rest()
    if lease.suspended:
        return Wait(math.inf)
    if now < lease.due:
        return Wait(lease.due)
    return Beat(lease.value if lease.value is not None else NO_HEARTBEAT, _asked_ttl(lease), timeout(lease))


def _asked_ttl(lease: Lease) -> int | None:
    """Give the TTL to ask for: not one that the server refused, at the price of a lease that it would renew."""
    if lease.held and _is_refused(lease):
        return lease.granted_for or None
    return lease.desired_ttl


def _is_refused(lease: Lease) -> bool:
    return lease.refused_ttl is not None and lease.desired_ttl == lease.refused_ttl


def may_stop(lease: Lease, now: float) -> bool:
    """Tell whether a stop of the item is ours to send: while we hold, less a time-out for the stop's own way."""
    return now < may_stop_until(lease)


def may_stop_until(lease: Lease) -> float:
    """Say until when that is so; infinitely long ago if it is not at all."""
    ends = expiry(lease)
    return -math.inf if not lease.held or ends is None else ends - timeout(lease)


def lapse(lease: Lease, now: float) -> Lease:
    """End a lease whose time is up by our clock: what is not extended in time is not ours to act upon."""
    at = giving_up(lease)
    if lease.end is not None or at is None or now < at:
        return lease
    return _over(lease, End.EXPIRED, "no beat was accepted before the lease ended")


def beat_at_once(lease: Lease, now: float) -> Lease:
    """Let the next beat be due at once: something happened that it will tell about."""
    return replace(lease, due=min(lease.due, now))


def note_crowded(lease: Lease) -> Lease:
    """Note that the next beat is sent together with many others, as after a hold."""
    return replace(lease, is_crowded=True)


def is_adopted(lease: Lease) -> bool:
    """Tell whether the next beat carries a value that no answer gave us: it was found in a 412."""
    return lease.words is not None and lease.value != lease.words.last_heartbeat


def adoption(before: Lease, outcome: Outcome, after: Lease) -> Adoption | None:
    """Say by which rule ``outcome`` had ``before`` adopt the value of ``after``; None: nothing was adopted."""
    if not isinstance(outcome, Conflicted) or after.end is not None or after.value in {None, before.value}:
        return None
    if not before.held:
        return Adoption.LOST_CLAIM
    return Adoption.LISTED if outcome.current is None else Adoption.UNANSWERED_BEAT


def note_budget_short(lease: Lease, message: str) -> Lease:
    """Note that a beat waits for its turn longer than is good for the lease; its next answer clears that."""
    return replace(lease, trouble=Trouble.BUDGET_SHORT, message=message)


def edit(lease: Lease, fresh: Lease) -> Lease:
    """Take over what the spec says, from a fresh lease made of it; what runs is not touched."""
    return replace(
        lease,
        desired_ttl=fresh.desired_ttl,
        is_edited=lease.is_edited or fresh.desired_ttl != lease.desired_ttl,
        refused_ttl=lease.refused_ttl if fresh.desired_ttl == lease.desired_ttl else None,
        interval=fresh.interval,
        suspended=fresh.suspended,
    )


def stop_acknowledged(lease: Lease, state: str | None, now: float) -> Lease:
    """Read the answer to a stop that we sent while we held: its body's state is proof; else the next beat tells."""
    match state:
        case "stopped":
            return stopped(lease)
        case "stopping" if lease.held:
            return replace(beat_at_once(lease, now), stopping_seen=True)
        case _:
            return beat_at_once(lease, now)


def stopped(lease: Lease) -> Lease:
    """End a lease whose item is stopped, as the answer to a stop said."""
    words = None if lease.words is None else replace(lease.words, state="stopped", lease_extended=False)
    return lease if lease.end is not None else _over(replace(lease, words=words), End.STOPPED, STOPPED_MESSAGE)


def release(lease: Lease, message: str) -> Lease:
    """Beat no more, by choice: the lease is left to lapse, and the item to be queued again."""
    return lease if lease.end is not None else _over(lease, End.RELEASED, message)


# --- What an answer means ----------------------------------------------------------------------------------------


def is_doubtful(lease: Lease, outcome: Outcome) -> bool:
    """Tell whether the list is to be asked before ``outcome`` is observed.

    It is before a value is adopted, and where a 412 or a 409 does not say what the server has: the neutral read may
    show that the item is another delivery by now, or that it is stopping.
    """
    return lease.held and isinstance(outcome, Conflicted | NotReady) and observe(lease, outcome).end is None


def observe(lease: Lease, outcome: Outcome, seen: ListedItem | None = None) -> Lease:
    """Give the lease as it is after ``outcome``; ``seen`` is what the list shows of the item, if it was asked."""
    if lease.end is not None:
        return lease
    lease = _place(replace(lease, clock=_read_clock(lease.clock, outcome), words=_read_words(lease.words, outcome)))
    match outcome:
        case Answered():
            return _answered(lease, outcome)
        case Conflicted():
            return _conflicted(lease, outcome, seen)
        case Missing() if lease.held:
            return _over(lease, End.NOT_FOUND, outcome.message)
        case Missing():
            return _troubled(lease, Trouble.NOT_FOUND, outcome.message, outcome.exchange.done + _slowly(lease))
        case NotReady() if lease.held and seen is not None:
            return _listed(lease, outcome, seen)
        case NotReady() if not lease.held:
            return _troubled(lease, Trouble.NOT_ACKNOWLEDGED, outcome.message, outcome.exchange.done + _slowly(lease))
        case Rejected() if lease.held and _asked_ttl(lease) is not None and _asked_ttl(lease) != lease.granted_for:
            message = f"{outcome.message}; ttlSeconds {lease.desired_ttl} may be refused: going on without it"
            refused = replace(lease, refused_ttl=lease.desired_ttl)
            return _failed(refused, Trouble.REJECTED, outcome.exchange, message)
        case NotReady() | Rejected():
            return _failed(lease, Trouble.REJECTED, outcome.exchange, outcome.message)
        case Unauthorized():
            return _failed(lease, Trouble.UNAUTHORIZED, outcome.exchange, outcome.message)
        case CredentialsMissing():
            return _failed(lease, Trouble.CREDENTIALS_MISSING, outcome.exchange, outcome.message)
        case Throttled():
            return _failed(lease, Trouble.THROTTLED, outcome.exchange, outcome.message, outcome.retry_after)
        case Unsent():
            return _failed(lease, Trouble.UNREACHABLE, outcome.exchange, outcome.message)
        case Unanswered(exchange, message, retry_after):
            return _failed(_doubted(lease, exchange), Trouble.IN_DOUBT, exchange, message, retry_after)
        case _:
            assert_never(outcome)


def _read_words(known: Words | None, outcome: Outcome) -> Words | None:
    """Take note of what the server said of the item, whatever follows from it."""
    if not isinstance(outcome, Answered):
        return known
    return Words(
        last_heartbeat=outcome.last_heartbeat,
        state=outcome.state,
        lease_extended=outcome.lease_extended,
        ttl_seconds=outcome.ttl_seconds,
        at=outcome.exchange.sent,
    )


def _answered(lease: Lease, answer: Answered) -> Lease:
    match answer.state:
        case "stopped":
            # The item is over, whoever held it.
            return _over(lease, End.STOPPED, STOPPED_MESSAGE)
        case "stopping":
            return _stopping(lease, answer)
        case _ if not answer.lease_extended:
            return _not_extended(lease, answer)
        case _ if not answer.last_heartbeat:
            # To carry an empty value is to carry none, which claims or extends without comparison. We never do.
            message = "the server extended the lease and does not say its value"
            return _failed(_doubted(lease, answer.exchange), Trouble.IN_DOUBT, answer.exchange, message)
        case _:
            return _renewed(lease, answer)


def _renewed(lease: Lease, answer: Answered) -> Lease:
    """Count from the sending: the server may have stamped the beat no later than it answered, but no earlier."""
    sent, ttl = answer.exchange.sent, max(1.0, answer.ttl_seconds)
    gap, is_crowded = _rhythm(lease, sent, ttl)
    return replace(
        lease,
        value=answer.last_heartbeat,
        ttl=ttl,
        granted_for=0 if lease.is_edited else lease.desired_ttl,
        is_edited=False,
        cut=None,
        sent=sent,
        claimed=lease.claimed if lease.claimed is not None else sent,
        first=lease.first if lease.first is not None else answer.last_heartbeat,
        reprieve=None,
        unanswered=(),
        unplaced=(),
        refused_value=None,
        failures=0,
        held_back=None,
        trouble=None,
        message="",
        stopping_seen=False,
        due=sent + gap,
        is_crowded=is_crowded,
    )


def _rhythm(lease: Lease, sent: float, ttl: float) -> tuple[float, bool]:
    """Say how long after a beat the next is due, and whether it is sent in the crowd all the same.

    After a start or an outage the beats of all leases come close together, and would for ever. So each goes back to a
    moment within the interval that is its own, which spreads them evenly; where that comes too soon, by one gap more.
    """
    interval = min(ttl / 3, lease.interval)
    if not lease.is_crowded and not lease.failures:
        return interval, False
    own = zlib.crc32(f"{lease.seed}".encode()) / 2**32
    part = (own - sent / interval) % 1.0
    if part < SHORTEST_GAP:
        # Stretched over all that is left, so that these do not crowd in their turn.
        return interval * (SHORTEST_GAP + part * (1 - SHORTEST_GAP) / SHORTEST_GAP), True
    return interval * part, False


def _not_extended(lease: Lease, answer: Answered) -> Lease:
    """Read a 200 that extended nothing: what we hold was compared and is good, but the time did not move.

    While the value has not moved either, a beat of ours that is still under way may move it. Where nothing was held,
    nothing was compared: the value named is not ours to carry, though the claim may have been applied.
    """
    if not lease.held:
        taken = _doubted(lease, answer.exchange)
    elif answer.last_heartbeat in ("", lease.value):
        taken = lease
    else:
        taken = replace(lease, value=answer.last_heartbeat, unanswered=(), unplaced=())
    message = "the server answered, but did not extend the lease"
    due = answer.exchange.done + _densely(taken)
    return _troubled(replace(taken, stopping_seen=False), Trouble.NOT_EXTENDED, message, due)


def _stopping(lease: Lease, answer: Answered) -> Lease:
    """Read a 200 in ``stopping``: it was not compared, so it proves nothing about who holds.

    Ours is what we hold by our own clock; it keeps the server's value, since some servers do compare here.
    """
    at = _own_fence(lease)
    ours = lease.held and (lease.stopping_seen or (at is not None and answer.exchange.done < at))
    return replace(
        lease,
        value=(answer.last_heartbeat or lease.value) if ours else lease.value,
        stopping_seen=ours,
        failures=0 if ours else lease.failures + 1,
        held_back=None,
        trouble=None,
        message="",
        due=answer.exchange.done + (_routine(lease) if ours else _slowly(lease)),
    )


def _conflicted(lease: Lease, answer: Conflicted, seen: ListedItem | None) -> Lease:
    """Read a 412 as an observation: only a beat of ours that was not answered can make it ours.

    The list overrules: what is stopped, or entered the queue after our first accepted value, is not what we hold.
    Where it cannot be had, the windows decide alone.
    """
    exchange, current = answer.exchange, answer.current
    if lease.held and seen is not None and (over := _overruled(lease, seen)) is not None:
        return over
    if current is None and lease.held and seen is not None and _is_ours(lease, seen.latest_heartbeat_at):
        # What the 412 does not say the list does; should it write the value otherwise, the next 412 changes nothing.
        return _adopted(lease, Current(seen.latest_heartbeat_at, seen.state, None), exchange.done)
    if current is None:
        # Nothing is decided without a value: not adopted, not given up.
        message = "the server refused the value and does not say what it has"
        if lease.held:
            return _failed(lease, Trouble.IN_DOUBT, exchange, message)
        return _troubled(_unclaimed(lease), Trouble.IN_DOUBT, message, exchange.done + _slowly(lease))
    if current.state == "stopped":
        # Some servers compare even here. The item is over, whoever held it.
        return _over(lease, End.STOPPED, STOPPED_MESSAGE)
    if not lease.held:
        return _claim_refused(lease, exchange, current)
    if current.last_heartbeat in (None, "") or current.state in {"queued", "starting"}:
        return _over(lease, End.REQUEUED, "the lease lapsed and the work item went back to the queue")
    if _is_ours(lease, current.last_heartbeat):
        return _adopted(lease, current, exchange.done)
    return _over(lease, End.TAKEN_OVER, f"another worker holds the lease since {current.last_heartbeat}")


def _overruled(lease: Lease, seen: ListedItem) -> Lease | None:
    """End a lease that the list shows to be over; None where it does not."""
    if seen.state == "stopped":
        return _over(lease, End.STOPPED, STOPPED_MESSAGE)
    if not _is_another_delivery(lease, seen):
        return None
    if seen.state in {"queued", "starting"}:
        return _over(lease, End.REQUEUED, f"the work item went back to the queue at {seen.started_at}")
    return _over(lease, End.TAKEN_OVER, f"the work item was queued again at {seen.started_at}, and taken")


def _listed(lease: Lease, answer: NotReady, seen: ListedItem) -> Lease:
    """Read a 409 to a beat of a lease that we hold by the list: some servers answer so once the item is stopping."""
    over = _overruled(lease, seen)
    if over is not None:
        return over
    at = _own_fence(lease)
    if seen.state == "stopping" and (lease.stopping_seen or (at is not None and answer.exchange.done < at)):
        words = lease.words and replace(lease.words, state=seen.state, lease_extended=False, at=answer.exchange.sent)
        stopping = replace(lease, words=words, stopping_seen=True, failures=0, trouble=None, message="")
        return replace(stopping, due=answer.exchange.done + _routine(lease))
    return _failed(lease, Trouble.REJECTED, answer.exchange, answer.message)


def _is_another_delivery(lease: Lease, seen: ListedItem) -> bool:
    """Tell whether the item entered the queue after we first held it; its id recurs, its delivery does not."""
    # A lease that was restored from a status knows its last value only; that is later, and rules out as surely.
    queued, first = instant(seen.started_at), instant(lease.first or lease.value)
    return queued is not None and first is not None and queued > first


def _is_ours(lease: Lease, found: str | None) -> bool:
    """Tell whether the value found is the stamp of an unanswered beat of ours, within the life of the lease.

    Before the lease can have lapsed nobody else can have claimed it: neither within its TTL, nor within a shorter one
    that an unanswered beat asked for, counted from the value that we know or, later, from that beat's sending.
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


def _adopted(lease: Lease, current: Current, now: float) -> Lease:
    """Take the value found as ours, and beat at once. It moves no deadline, and spends all unanswered beats."""
    return replace(
        lease,
        value=current.last_heartbeat,
        unanswered=(),
        unplaced=(),
        refused_value=None,
        stopping_seen=lease.stopping_seen and current.state == "stopping",
        due=now,
    )


def _unclaimed(lease: Lease) -> Lease:
    """Forget a value that was taken for our lost claim's: the next try is a first claim again."""
    return replace(lease, value=None)


def _claim_refused(lease: Lease, exchange: Exchange, current: Current) -> Lease:
    """Read a 412 to a first claim: not there yet, held by another, or by a claim of ours whose answer was lost."""
    lease, known = replace(_unclaimed(lease), refused_value=current.last_heartbeat), lease.refused_value
    if current.last_heartbeat in (None, ""):
        message = f"the work item is {current.state} and cannot be claimed yet: it must be polled and acknowledged"
        return _troubled(lease, Trouble.NOT_ACKNOWLEDGED, message, exchange.done + _slowly(lease))
    stamp = instant(current.last_heartbeat)
    message = f"another worker holds the lease; its last heartbeat is {current.last_heartbeat}"
    if stamp is None or lease.clock is None or not _in_a_window(lease, stamp):
        return _troubled(lease, Trouble.HELD_BY_ANOTHER, message, exchange.done + _slowly(lease))
    # A worker beats every max(1, min(ttl/2, 30)) s (public SDK). Silent for longer, the value is our own lost claim's.
    ttl = max(1.0, current.ttl_seconds or ASSUMED_TTL)
    interval = 1.25 * min(ttl / 2, 30.0) + 1.0
    silent = lease.clock.earliest(exchange.sent) - stamp
    if current.last_heartbeat == known and silent > interval:
        return _adopted(replace(lease, ttl=ttl), current, exchange.done)
    message = f"the claim's answer was lost; whether {current.last_heartbeat} is ours shows if nobody beats meanwhile"
    wait = max(exchange.done + FIRST_RETRY, exchange.done + interval - silent)
    return _troubled(lease, Trouble.IN_DOUBT, message, wait)


def _doubted(lease: Lease, exchange: Exchange) -> Lease:
    """Keep the window of a beat that may have been applied: until it was given up, and one time-out more."""
    cut, wish = lease.cut, _wish(lease)
    if wish is not None:
        ends = exchange.sent + wish
        cut = _deeper(cut, Cut(wish, ends))
    window = Unplaced(exchange.sent, exchange.done + timeout(lease))
    last = lease.unplaced[-1] if lease.unplaced else None
    if last is not None and window.sent <= last.closes:
        # Beats follow each other, so windows that overlap are one: hours without an answer stay one window.
        unplaced = (*lease.unplaced[:-1], Unplaced(last.sent, max(last.closes, window.closes)))
    else:
        unplaced = (*lease.unplaced, window)
    return _place(replace(lease, cut=cut, unplaced=unplaced))


def _place(lease: Lease) -> Lease:
    """Put unanswered beats into the server's time, once its clock is known; overlapping windows are joined."""
    if lease.clock is None or not lease.unplaced:
        return lease
    placed = [Window(lease.clock.earliest(u.sent), lease.clock.latest(u.closes)) for u in lease.unplaced]
    joined: list[Window] = []
    for window in sorted((*lease.unanswered, *placed), key=lambda w: w.opens):
        if joined and window.opens <= joined[-1].closes:
            joined[-1] = Window(joined[-1].opens, max(joined[-1].closes, window.closes))
        else:
            joined.append(window)
    return replace(lease, unanswered=tuple(joined), unplaced=())


def _failed(
    lease: Lease, trouble: Trouble, exchange: Exchange, message: str, retry_after: float | None = None
) -> Lease:
    """Try again: densely while a lease is at stake, and no sooner than the server asked for.

    Of a lease that would reach its fence first one attempt is made all the same, two time-outs before it.
    """
    is_keyless = trouble in {Trouble.CREDENTIALS_MISSING, Trouble.UNAUTHORIZED}
    dense = exchange.done + min(_densely(lease), LONGEST_KEY_RETRY if is_keyless else math.inf)
    held_back = lease.held_back if retry_after is None else max(lease.held_back or 0.0, exchange.done + retry_after)
    if held_back is None or held_back <= dense:
        return _troubled(replace(lease, held_back=held_back), trouble, message, dense)
    at = fence(lease)
    is_attempt = lease.held_back is not None and exchange.sent < lease.held_back
    due = held_back if at is None or is_attempt else min(held_back, max(dense, at - 2 * timeout(lease)))
    return _troubled(replace(lease, held_back=held_back), trouble, message, due)


def _troubled(lease: Lease, trouble: Trouble, message: str, due: float) -> Lease:
    return replace(lease, failures=lease.failures + 1, trouble=trouble, message=message, due=due)


def _over(lease: Lease, end: End, message: str) -> Lease:
    return replace(lease, end=end, trouble=None, message=message, failures=0)
