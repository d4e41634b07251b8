"""The simulator's one clock: wall time that runs as evenly as the monotonic clock.

This module owns every reading of time. A step of the machine's wall clock moves no lease.
"""

import time

from work_api_simulator.instants import SECOND


class Clock:
    """Microseconds since the epoch, anchored once at the start and monotonic from there."""

    def __init__(self) -> None:
        self._offset = (time.time_ns() - time.monotonic_ns()) // 1000

    def now(self) -> int:
        """The time now."""
        return time.monotonic_ns() // 1000 + self._offset

    def monotonic(self, instant: int) -> float:
        """An instant on this machine's monotonic clock, in seconds: other processes may compare with theirs."""
        return (instant - self._offset) / SECOND
