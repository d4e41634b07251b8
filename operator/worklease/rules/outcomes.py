"""How a beat went: one value for each thing that can happen.

Owns these values only: ``answers`` says what they mean for a lease. Pure.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """When a beat was sent and done (monotonic), what it asked for, and what the server's clock said, if it answered.

    ``date`` is the ``Date`` header in seconds since the epoch: a whole second, so the server's time lay in
    [date, date + 1) at some moment between ``sent`` and ``done``. Only the API's own answers have one.
    """

    sent: float
    done: float
    date: float | None = None
    asked: int | None = None
    """The TTL that the beat asked for; None: it left the choice to the server."""
    key: int = field(default=0, repr=False)
    """Tells whether two beats had one key, within this process; 0: not known. The key does not follow from it."""


@dataclass(frozen=True, slots=True)
class Current:
    """What a 412 says of the lease: ``error.details.current_state``."""

    last_heartbeat: str | None
    state: str
    ttl_seconds: float | None


@dataclass(frozen=True, slots=True)
class Answered:
    """200: the server's words, verbatim."""

    exchange: Exchange
    last_heartbeat: str
    state: str
    lease_extended: bool
    ttl_seconds: float


@dataclass(frozen=True, slots=True)
class Conflicted:
    """412: the beat's value is not the server's. ``current`` is None if the answer does not say what the server has."""

    exchange: Exchange
    current: Current | None


@dataclass(frozen=True, slots=True)
class NotReady:
    """409: the item is not acknowledged, not started, or over; nothing was changed."""

    exchange: Exchange
    message: str


@dataclass(frozen=True, slots=True)
class Missing:
    """404: there is no such item."""

    exchange: Exchange
    message: str


@dataclass(frozen=True, slots=True)
class Unauthorized:
    """401 or 403, after the Secret was read again: the server does not accept the key for this item."""

    exchange: Exchange
    message: str


@dataclass(frozen=True, slots=True)
class CredentialsMissing:
    """There is no key to send: the Secret, or its key, is missing or may not be read. Nothing was sent."""

    exchange: Exchange
    message: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """400 or another refusal that a retry alone does not fix; nothing was changed."""

    exchange: Exchange
    message: str


@dataclass(frozen=True, slots=True)
class Throttled:
    """429: nothing was changed. ``retry_after`` is in seconds, if the server named it."""

    exchange: Exchange
    message: str
    retry_after: float | None


@dataclass(frozen=True, slots=True)
class Unsent:
    """The request surely did not reach the server: connection refused, name not resolved."""

    exchange: Exchange
    message: str


@dataclass(frozen=True, slots=True)
class Unanswered:
    """The request may have been applied, but no answer was read: time-out, reset, 5xx, malformed body."""

    exchange: Exchange
    message: str
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class ListedItem:
    """A work item as the list shows it. ``started_at`` is its entry to the queue: id and entry name the delivery.

    Some servers stamp it with the first beat instead, and there an item that waits has none.
    """

    state: str
    started_at: str | None
    latest_heartbeat_at: str | None = None
    acknowledged_at: str | None = None


@dataclass(frozen=True, slots=True)
class NotListed:
    """The list was read to its end with this key, and does not show the item."""


@dataclass(frozen=True, slots=True)
class ListRefused:
    """401, 403 or 404, in the API's own words: the server refuses the list to this key, so the key is suspect."""

    message: str


@dataclass(frozen=True, slots=True)
class ListNotRead:
    """The list could not be read, or not to its end: it decides nothing."""

    message: str
    is_worth_a_try: bool = False
    """Whether the same page may be had at once: its answer was lost, or a gateway failed."""
    retry_after: float | None = None
    """For how many seconds the server asks to wait, if it does."""


@dataclass(frozen=True, slots=True)
class NoKeyForList:
    """The Secret has no key of the environment, and the item's own token reads no list."""


ListAnswer = ListedItem | NotListed | ListRefused | ListNotRead | NoKeyForList


Outcome = (
    Answered
    | Conflicted
    | NotReady
    | Missing
    | Unauthorized
    | CredentialsMissing
    | Rejected
    | Throttled
    | Unsent
    | Unanswered
)
