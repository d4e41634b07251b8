"""The organization's request limits.

This module owns the counting: a bucket that refills evenly. It must not read a clock.
"""

from work_api_simulator.instants import SECOND
from work_api_simulator.refusals import Refusal, RefusalKind

MINUTE = 60 * SECOND


class Allowance:
    """So many requests a minute, a minute's worth at once; 0 is no limit."""

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._used = 0  # microseconds of refill that are spent
        self._at = 0

    def spend(self, now: int) -> Refusal | None:
        """Take one request off the allowance, or refuse it and say in how many whole seconds one is free."""
        if self._per_minute == 0:
            return None
        cost = MINUTE // self._per_minute
        self._used = max(0, self._used - (now - self._at))
        self._at = now
        if self._used + cost > MINUTE:
            wait = -(-(self._used + cost - MINUTE) // SECOND)
            message = f"This request would exceed your organization's rate limit of {self._per_minute} a minute"
            return Refusal(RefusalKind.LIMITED, message, retry_after=max(1, wait))
        self._used += cost
        return None
