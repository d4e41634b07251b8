"""The breaker of a pool: sandboxes that do not start must not empty the queue.

Owns when it opens, for how long, and what closes it. Times are of one clock, which the caller chooses. Must not know
what a pool is beyond that: ``pool`` asks it before each poll. Pure.
"""

from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Final

LONGEST_PAUSE: Final = 900.0
"""Seconds of a pause at most: who repairs the template waits no longer for the trial that shows it."""

TIMESTAMP: Final = 1.0
"""Seconds by which a time of the cluster's may be too early: it has whole seconds only."""

TOKENS_MISSING: Final = 3
"""Items without a token in a row that open it: one may be a server's mistake, three are its manner."""


class BreakerCause(Enum):
    """Why a breaker opened, or may open."""

    NOT_STARTED = auto()
    """Sandboxes of different sessions in a row did not start."""
    NO_ROOM = auto()
    """A quota or an admission refused a pod: that does not get better by the next item."""
    TOKEN_MISSING = auto()
    """Items come without a token of their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Breaker:
    """What is known of starts that failed. The first three fields are in the status, and a start reads them there."""

    failures: int = 0
    """Sandboxes of different sessions in a row that did not start."""
    pause: float = 0.0
    """Seconds of the present pause; 0: it has not opened since a sandbox started."""
    open_until: float | None = None
    """Until when nothing is taken. It stays after that: what is taken then is on trial."""
    cause: BreakerCause = BreakerCause.NOT_STARTED
    message: str = ""
    """What the last failure said."""
    sessions: frozenset[str] = frozenset()
    """The sessions whose failures count."""
    tokens_missing: int = 0
    """Items without a token in a row."""

    def pauses_until(self, now: float) -> float | None:
        """Return until when nothing is taken; None: something is."""
        return self.open_until if self.open_until is not None and now < self.open_until else None

    def trials_since(self) -> float | None:
        """Return since when what is taken is on trial; None: nothing is."""
        return None if self.open_until is None else self.open_until - TIMESTAMP


CLOSED: Final = Breaker()
"""A breaker of which nothing is known."""


def note_failure(
    breaker: Breaker,
    *,
    session: str,
    created: float,
    cause: BreakerCause,
    message: str,
    limit: int,
    pause: float,
    now: float,
) -> Breaker:
    """Return the breaker after a sandbox, whose lease was created at ``created``, did not start.

    A failure counts once a session, and a refusal of the cluster at once. Only the failure of a trial doubles the
    pause: what was taken before fails for the reason that is known already.
    """
    if (since := breaker.trials_since()) is not None:
        is_trial = created >= since and breaker.pauses_until(now) is None
        return _open_longer(breaker, cause, message, now) if is_trial else breaker
    if session in breaker.sessions:
        return breaker
    counted = replace(
        breaker,
        failures=breaker.failures + 1,
        sessions=breaker.sessions | {session},
        cause=cause,
        message=message,
    )
    if counted.failures >= limit or cause is BreakerCause.NO_ROOM:
        return replace(counted, pause=pause, open_until=now + pause)
    return counted


def note_started(breaker: Breaker) -> Breaker:
    """Return the breaker after a sandbox of the present template was ready: all is forgotten but missing tokens."""
    return replace(CLOSED, tokens_missing=breaker.tokens_missing)


def note_token(breaker: Breaker, *, is_there: bool, pause: float, now: float) -> Breaker:
    """Return the breaker after an item came with or without a token."""
    was_opened_for_it = breaker.cause is BreakerCause.TOKEN_MISSING and breaker.open_until is not None
    if is_there:
        return CLOSED if was_opened_for_it else replace(breaker, tokens_missing=0)
    counted = replace(breaker, tokens_missing=breaker.tokens_missing + 1)
    words = f"{counted.tokens_missing} items in a row came without a token"
    if breaker.pauses_until(now) is not None:
        return counted
    if was_opened_for_it:
        return _open_longer(counted, BreakerCause.TOKEN_MISSING, words, now)
    if counted.tokens_missing < TOKENS_MISSING:
        return counted
    return replace(counted, cause=BreakerCause.TOKEN_MISSING, message=words, pause=pause, open_until=now + pause)


def note_edit(breaker: Breaker, now: float) -> Breaker:
    """Return the breaker after the template was edited: a trial may begin at once, and the pause is not forgotten."""
    if breaker.open_until is None:
        return replace(breaker, failures=0, sessions=frozenset())
    return replace(breaker, open_until=now)


def _open_longer(breaker: Breaker, cause: BreakerCause, message: str, now: float) -> Breaker:
    pause = min(LONGEST_PAUSE, breaker.pause * 2)
    return replace(
        breaker, failures=breaker.failures + 1, pause=pause, open_until=now + pause, cause=cause, message=message
    )
