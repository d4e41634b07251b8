"""The one back-off: how long to wait before the next try, after so many in a row that failed.

Owns the formula. Each caller names its own bounds, with their reasons. Pure.
"""

from typing import Final

MOST_DOUBLINGS: Final = 16
"""Doublings that are computed at most: every bound is reached long before, and a float does not overflow."""


def backoff(number: int, first: float, longest: float) -> float:
    """Return the seconds before try ``number`` (from 0) is repeated: ``first``, doubling up to ``longest``."""
    return min(longest, first * 2.0 ** min(number, MOST_DOUBLINGS))
