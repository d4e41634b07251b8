"""The one token bucket: how often something may be done, after a burst that may be done at once.

Owns the formula. Each caller names its own rate and burst, with their reasons, and reads its own clock.
"""


class TokenBucket:
    """Tokens that come at a steady rate, up to a burst; the bucket is full at first.

    Args:
        rate: Tokens a second.
        burst: Tokens that the bucket holds at most.
        now: The time, in monotonic seconds, as in all its methods.
    """

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate, self._burst, self._level, self._at = rate, burst, burst, now

    def wait(self, now: float) -> float:
        """Return the seconds until the next whole token; take none."""
        self._level = min(self._burst, self._level + max(0.0, now - self._at) * self._rate)
        self._at = now
        return max(0.0, (1.0 - self._level) / self._rate)

    def take(self) -> None:
        """Take a token; one that has not come yet is taken in advance, and the next ones come later."""
        self._level -= 1.0

    def reserve(self, now: float) -> float:
        """Take the next token, and return the seconds until it comes."""
        wait = self.wait(now)
        self.take()
        return wait
