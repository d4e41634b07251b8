"""What the calls about an environment's queue and its sessions bring back, as values: poll, ack, stats, session.

Owns these values. Must not know how a call is made, nor decide what follows: ``pool`` does.
"""

from dataclasses import dataclass
from enum import Enum, auto


class QueueFailure(Enum):
    """Why a call brought nothing that can be used."""

    UNAUTHORIZED = auto()
    """401 or 403: the key is refused."""
    NOT_FOUND = auto()
    """404, in the API's own words."""
    THROTTLED = auto()
    """429, or 503 with a time to wait."""
    UNANSWERED = auto()
    """The server may have carried it out, and no answer was read: time-out, reset, 5xx, a body that is no answer."""
    UNSENT = auto()
    """It surely did not reach the server."""
    REJECTED = auto()
    """Any other refusal: the request itself is wrong for this server."""


@dataclass(frozen=True, slots=True)
class CallFailed:
    """A call that brought nothing: why, in words, and for how long the server asks to wait."""

    failure: QueueFailure
    message: str
    retry_after: float | None = None

    @property
    def is_in_doubt(self) -> bool:
        """Whether the server may have carried it out nevertheless."""
        return self.failure is QueueFailure.UNANSWERED


# --- Poll ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedItem:
    """An item as a poll shows it, without its secret. It stays in the queue until it is acknowledged."""

    id: str
    environment_id: str
    data_type: str
    """``session``, or what else the server queues."""
    data_id: str
    """The session's id, where it is one."""
    created_at: str | None
    started_at: str | None
    """The entry to the queue, or null, or the first beat: servers differ."""


@dataclass(frozen=True, slots=True)
class NothingQueued:
    """The queue had nothing for this poll."""


# --- Ack -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AckAccepted:
    """The item left the queue; on some servers every ack is answered so, and only a claim proves it."""


@dataclass(frozen=True, slots=True)
class AckConflicted:
    """409: the item is not in the queue; who acknowledged it, the list tells."""

    message: str


AckOutcome = AckAccepted | AckConflicted | CallFailed
"""``CallFailed`` with ``NOT_FOUND``: the item is offered again under another id, on some servers."""


# --- Stats -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class QueueNumbers:
    """The numbers of a queue, as the server counts them."""

    depth: int
    """Items that wait."""
    pending: int
    """Items that were polled and not acknowledged."""
    oldest_queued_at: str | None
    workers_polling: int | None


# --- Session ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SessionState:
    """A session as it is now."""

    status: str
    """``rescheduling``, ``running``, ``idle``, ``terminated``, or a word that we do not know yet."""
    is_archived: bool


@dataclass(frozen=True, slots=True)
class IdleReason:
    """Why a session is idle, such as ``end_turn`` or ``requires_action``; None: no event tells."""

    reason: str | None
    event: str | None = None
    """The id of that event: it is another one each time that the session becomes idle."""


REQUIRES_ACTION = "requires_action"
"""Somebody must confirm a tool, or answer it, before the session goes on."""
