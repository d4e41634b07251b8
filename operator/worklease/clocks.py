"""The two clocks: a monotonic one for every deadline, and the wall clock for times that people read.

Owns the reading of both, and the conversion between them. No other module reads a clock for a lease.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final

_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


@dataclass(frozen=True, slots=True)
class ClockPair:
    """Both clocks, read at the same moment; converts the moments of one into the times of the other."""

    monotonic: float
    utc: datetime

    def time(self, moment: float) -> datetime:
        """Return the time of ``moment`` in UTC."""
        return self.utc + timedelta(seconds=moment - self.monotonic)

    def epoch(self, seconds: float) -> float:
        """Return the moment of a time in seconds since the epoch."""
        return self.monotonic + seconds - self.utc.timestamp()

    def moment(self, time: datetime) -> float:
        """Return the moment of ``time``."""
        return self.monotonic + (time - self.utc).total_seconds()


monotonic: Final[Callable[[], float]] = partial(time.clock_gettime, _CLOCK)
"""Returns the seconds of a clock that goes on while the machine is suspended, as a lease does; without Python code,
because each beat reads it many times."""


def wall() -> ClockPair:
    """Read both clocks."""
    return ClockPair(monotonic(), datetime.now(UTC))
