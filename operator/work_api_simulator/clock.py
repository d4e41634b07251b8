"""The simulator's only clock: wall time that advances as evenly as the monotonic clock.

All time is read here. A step of the machine's wall clock changes no lease.
"""

import time

from work_api_simulator.instants import SECOND


class Clock:
    """Microseconds since the epoch: read once at the start, then advanced by the monotonic clock."""

    def __init__(self) -> None:
        self._offset = (time.time_ns() - time.monotonic_ns()) // 1000

    def now(self) -> int:
        """Return the current time."""
        return time.monotonic_ns() // 1000 + self._offset

    def monotonic(self, instant: int) -> float:
        """Return an instant as seconds of this machine's monotonic clock, which other processes can compare with."""
        return (instant - self._offset) / SECOND
