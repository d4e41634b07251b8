"""How long to wait for the answer to a beat, before it is given up and sent again.

Owns what the server's answers took lately. Must not send anything. A lease that is at risk needs many tries: a server
that answers within a tenth of a second and has not within one second will hardly do so. But a server that is slow must
be waited for, or no answer would ever be read.
"""

from collections import deque
from typing import Final

from worklease.rules.outcomes import Answered, Conflicted, Outcome, Unanswered, Unsent

LEAST: Final = 1.0
"""Seconds to wait at least: a new connection with TLS around the world takes less."""

PART: Final = 1 / 5
"""The part of the longest wait that is enough if the server answers fast."""

SLOWEST_TIMES: Final = 4
"""How many times as long as the slowest of the recent answers to wait."""

RECENT: Final = 20
"""How many answers are recent."""

MOST_HUNG: Final = 4
"""How many calls in a row may be given up early: with a fifth of all that hang, so many do in one of 625 cases."""


class Patience:
    """What the answers to beats took, of all leases of this process."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=RECENT)
        """Seconds that each of the recent answers took."""
        self._hung = 0
        """Calls in a row that had no answer in the time given to them."""

    def timeout(self, longest: float) -> float:
        """Return after how many seconds to give up a beat; all of ``longest`` as long as the server may be slow."""
        if not self._recent or self._hung >= MOST_HUNG:
            return longest
        return min(longest, max(LEAST, longest * PART, SLOWEST_TIMES * max(self._recent)))

    def note(self, outcome: Outcome) -> None:
        """Note what became of a beat.

        A lost connection does not tell how fast the server is, nor does a refusal that needs no look at the lease, such
        as that of a key or of too many requests.
        """
        took = outcome.exchange.done - outcome.exchange.sent
        if isinstance(outcome, Answered | Conflicted):
            self._recent.append(took)
            self._hung = 0
        elif isinstance(outcome, Unanswered | Unsent) and took >= LEAST:
            self._hung += 1
