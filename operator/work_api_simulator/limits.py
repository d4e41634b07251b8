"""The organization's request limits.

This module owns the counting: a token bucket that refills evenly. It must not read a clock.
"""

from work_api_simulator.instants import SECOND
from work_api_simulator.refusals import RefusalKind, RequestRefusal

MINUTE = 60 * SECOND


class RateLimit:
    """A number of requests a minute, with bursts of up to one minute's requests; 0 means no limit."""

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._used = 0  # in microseconds of refill
        self._at = 0

    def take(self, now: int) -> RequestRefusal | None:
        """Count one request; or refuse it, with the whole seconds until the next one is allowed."""
        if self._per_minute == 0:
            return None
        cost = MINUTE // self._per_minute
        self._used = max(0, self._used - (now - self._at))
        self._at = now
        if self._used + cost > MINUTE:
            wait = -(-(self._used + cost - MINUTE) // SECOND)
            message = f"This request would exceed your organization's rate limit of {self._per_minute} a minute"
            return RequestRefusal(RefusalKind.LIMITED, message, retry_after=max(1, wait))
        self._used += cost
        return None
