"""The lease as a value, and the values that it is made of.

Owns these values, how the server's time is read, and how a lease ends. Pure: it knows no clock, no socket and no
randomness. Must not decide anything: ``deadlines`` says when, ``answers`` and ``conflicts`` what an answer means,
``beats`` what to send. No module of the lease knows Kubernetes, HTTP or asyncio.

Times named ``now``, ``sent``, ``due`` and the like are seconds of one monotonic clock. Times of the server are seconds
since the epoch, by the server's own clock.
"""

from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Final

ASSUMED_TTL: Final = 90.0
"""The TTL in seconds before the server has named one; the public SDK assumes the same."""

CLOCK_SKEW: Final = 1.0
"""Seconds by which two clocks of the server may differ: the database's stamps beats, another one dates answers."""

WHOLE_SECOND: Final = 1.0
"""Seconds by which the time of an answer may be later than its ``Date``, which names no fraction."""

STOPPED_MESSAGE: Final = "the work item is stopped"


# --- The server's time -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ServerClock:
    """Bounds of the difference (server's time - our monotonic time): between ``least`` and ``most`` seconds."""

    least: float
    most: float
    dated_at: float | None = None
    """When one of the API's own answers to this process told it (monotonic); None: it was read from a stamp."""
    is_restored: bool = False
    """Whether it follows from a sending that only wall clocks tell: the server has not told this process its time."""

    def earliest(self, now: float) -> float:
        """Return the earliest time that the server's clock may show at ``now``."""
        return now + self.least

    def latest(self, now: float) -> float:
        """Return the latest time that the server's clock may show at ``now``."""
        return now + self.most


def clock_by_stamp(value: str, sent: float, done: float) -> ServerClock | None:
    """Return the server's clock, as the value of a beat shows it that was accepted between ``sent`` and ``done``."""
    stamp = instant(value)
    return None if stamp is None else ServerClock(stamp - CLOCK_SKEW - done, stamp + CLOCK_SKEW - sent)


def instant(value: str | None) -> float | None:
    """Return a value as a time, in seconds since the epoch; None if it is not an RFC 3339 time with an offset.

    For comparison only: a value is never re-written ("echo the server's previous last_heartbeat value exactly").
    """
    if value is None:
        return None
    try:
        read = datetime.fromisoformat(value.upper())  # RFC 3339 allows "t" and "z" as well
    except ValueError:
        return None
    return read.timestamp() if read.tzinfo is not None else None


# --- Doubt -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Window:
    """The time in which the server stamped an unanswered beat, if the beat was applied; server's time."""

    opens: float
    """Minus infinity: the window of a start, for beats of which nobody knows when they were sent."""
    closes: float
    sent: float | None = None
    """When this process sent the beat (monotonic); None: an earlier process did."""
    ttl: float | None = None
    """The TTL, in seconds, that the beat asked for; None: that is not known."""


@dataclass(frozen=True, slots=True)
class Unplaced:
    """The window of an unanswered beat while the server's clock is not known yet; monotonic time."""

    sent: float
    """Minus infinity means any time since the last accepted value."""
    closes: float
    ttl: float | None = None
    """The TTL, in seconds, that the beat asked for; None: that is not known."""


@dataclass(frozen=True, slots=True)
class Cut:
    """How far unanswered beats that asked for a shorter TTL may have shortened the lease."""

    ttl: float
    """The least TTL that was asked for, in seconds."""
    ends: float
    """The earliest end of the lease (monotonic): the sending of a beat, and the TTL that it asked for."""


def shorter(one: Cut | None, other: Cut | None) -> Cut | None:
    """Return the cut that counts when either may have been made: the lesser TTL, and the earlier end."""
    if one is None or other is None:
        return one or other
    return Cut(min(one.ttl, other.ttl), min(one.ends, other.ends))


# --- The lease ---------------------------------------------------------------------------------------------------


class Trouble(StrEnum):
    """Why the last beat did not renew the lease, while nothing is decided yet."""

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
    CHECKPOINT_UNAVAILABLE = "CheckpointUnavailable"


class End(StrEnum):
    """How a lease ended. An end is final: a new delivery of the item is a new resource."""

    STOPPED = "Stopped"
    REQUEUED = "Requeued"
    TAKEN_OVER = "TakenOver"
    NOT_FOUND = "NotFound"
    EXPIRED = "Expired"
    RELEASED = "Released"
    ACK_REFUSED = "AckRefused"
    """The item was never ours: another worker acknowledged it, or holds it."""


class Adoption(StrEnum):
    """The rule by which a value that no answer gave us is taken as ours."""

    UNANSWERED_BEAT = "UnansweredBeat"
    """A 412 names the stamp of a beat that we sent and that was not answered."""
    LISTED = "Listed"
    """A 412 does not name the value, and the list names such a stamp."""
    LOST_CLAIM = "LostClaim"
    """The answer to a first claim was lost, nobody else beats, and a beat with the value found was accepted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """What the server last said of the item, verbatim, and when that was true (monotonic)."""

    last_heartbeat: str
    state: str
    lease_extended: bool
    ttl_seconds: float
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """One lease as this process knows it. Values are replaced, never changed."""

    desired_ttl: int | None = None
    """The TTL to ask for, in seconds; None leaves the choice to the server."""
    interval: float = 30.0
    """The longest time between routine beats, in seconds."""
    suspended: bool = False
    """A person suspended the beats: the lease is left to lapse."""
    seed: int = 0
    """Spreads the retries of many leases; any number that differs between them."""
    pod_grace: float = 0.0
    """The longest termination grace of the pods bound to this lease, in seconds; 0 without a pod."""

    value: str | None = None
    """What the next beat carries, byte for byte; None: ``NO_HEARTBEAT``."""
    ttl: float = ASSUMED_TTL
    """The TTL of the last accepted answer, in seconds, kept together with ``value``."""
    granted_for: int | None = None
    """The TTL that the beat asked for by which ``ttl`` was granted: the same wish is granted alike."""
    refused_ttls: tuple[int, ...] = ()
    """The TTLs that the server refused (400) since the spec names the present one: they are asked for no more."""
    cut: Cut | None = None
    """How a beat that was not answered since the last accepted one may have shortened the lease."""
    sent: float | None = None
    """From when ``ttl`` counts: the sending of the last beat accepted or found applied. None: never held."""
    reprieve: float | None = None
    """A restored lease is given up no earlier, so that one beat can tell. None: a beat has told."""

    clock: ServerClock | None = None
    unanswered: tuple[Window, ...] = ()
    unplaced: tuple[Unplaced, ...] = ()
    refused_value: str | None = None
    """The value that was last found at a claim: another holder's, or that of our own unanswered claim."""
    watched: str | None = None
    """What the next claim carries: a value that may be our lost claim's, once a live holder would have renewed it."""

    words: Words | None = None
    claimed: float | None = None
    """When this lease was first held (monotonic)."""
    first: str | None = None
    """The first accepted value: an item that entered the queue later is another delivery."""
    due: float = 0.0
    is_crowded: bool = False
    """The beats come close to those of many other leases, as all do after a start, or when the server is back."""
    failures: int = 0
    """Beats in a row that failed: the more, the longer the wait for the next."""
    held_back: float | None = None
    """Until when the server wants no request (``Retry-After``)."""
    trouble: Trouble | None = None
    message: str = ""
    accepted_key: int = field(default=0, repr=False)
    """Tells the key of the last accepted beat from others; 0: not known in this process."""
    missing_since: float | None = None
    """When the server first answered 404, of those answers since it last knew the item (monotonic)."""
    stopping_seen: bool = False
    """The server's last word is ``stopping``, and the server first said so while the lease was ours."""
    end: End | None = None

    @property
    def held(self) -> bool:
        """Whether one of our beats extended this lease, and nothing has ended it since."""
        return self.sent is not None and self.end is None

    @property
    def state(self) -> str:
        """The item's state as the server last said it; empty before the server said anything."""
        return self.words.state if self.words is not None else ""


def ended(lease: Lease, end: End, message: str) -> Lease:
    """Return the lease after its end, which is final: nothing is sent for it any more."""
    return replace(lease, end=end, trouble=None, message=message, failures=0)


def troubled(lease: Lease, trouble: Trouble, message: str, due: float) -> Lease:
    """Return the lease after one more failed beat, with the next beat due at ``due``."""
    return replace(lease, failures=lease.failures + 1, trouble=trouble, message=message, due=due)
