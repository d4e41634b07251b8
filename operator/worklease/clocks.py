"""The two clocks: a monotonic one for every deadline, and the wall clock for what people read.

Owns the reading of both, and the translation between them. No other module reads a clock for a lease.
"""

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


@dataclass(frozen=True, slots=True)
class ClockPair:
    """Writes a moment of the monotonic clock as a time of day; the two were read at the same moment."""

    monotonic: float
    utc: datetime

    def time(self, moment: float) -> datetime:
        """Give the time of day of ``moment``."""
        return self.utc + timedelta(seconds=moment - self.monotonic)

    def epoch(self, seconds: float) -> float:
        """Give the moment of seconds since the epoch."""
        return self.monotonic + seconds - self.utc.timestamp()

    def moment(self, time: datetime) -> float:
        """Give the moment of ``time``."""
        return self.monotonic + (time - self.utc).total_seconds()


def monotonic() -> float:
    """Give the time, in seconds, of a clock that goes on while the machine is suspended, as a lease does."""
    return time.clock_gettime(_CLOCK)


def wall() -> ClockPair:
    """Read both clocks at once."""
    return ClockPair(monotonic(), datetime.now(UTC))
