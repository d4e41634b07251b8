"""Whether the process is alive and ready, and why not: the answers to its probes.

Owns the pulse, a task that measures the event loop and the keeper's turns. Only a standstill makes the process
unhealthy: a refused key or an unreachable API server is no reason to end the process that keeps the other leases. Must
not know HTTP. The answers may be asked for in any thread: a loop that stands still cannot report that itself.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from worklease.telemetry import LoopLagged, Publisher

PULSE: Final = 0.5
"""Seconds between two measurements: many within ``STANDSTILL``."""

STANDSTILL: Final = 10.0
"""Seconds after which the event loop, or a turn that is due, counts as standing still. No call blocks for so long."""

POLL_INTERVAL: Final = 5.0
"""Seconds between two looks at the turns: each look goes through all leases."""

STALL: Final = 1.0
"""Seconds of lag from which turns are not judged until the next pulse: the turns that are due are about to be taken."""


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """An answer to a probe, with a reason for people."""

    is_good: bool
    reason: str


class Health:
    """Answers the probes, from the first moment of the process to its last."""

    def __init__(self, publisher: Publisher, clock: Callable[[], float] = time.monotonic) -> None:
        self._publisher = publisher
        self._clock = clock
        self._pulse_at = clock()
        self._step = "the start"
        self._overdue: Callable[[], float] | None = None
        self._awaited: Callable[[], int | None] | None = None
        self._obstacle: Callable[[], str] = str
        self._turn_overdue = 0.0
        self._next_look = 0.0
        self._missing: str | None = None

    def say(self, step: str) -> None:
        """Set what keeps the process from being ready, such as ``reading the checkpoint``."""
        self._step = step
        self._awaited = None
        self._missing = None

    def attend(
        self, overdue: Callable[[], float], awaited: Callable[[], int | None], obstacle: Callable[[], str] = str
    ) -> None:
        """Check the keeper's turns and the first list from now on; both are called in the pulse's loop.

        Args:
            overdue: Returns by how many seconds the most overdue turn is late.
            awaited: Returns how many resources of the first list the watch has not reported yet; None: there is no
                list yet.
            obstacle: Returns what keeps the process from its share of the leases; empty if nothing does.
        """
        self._overdue, self._awaited, self._next_look = overdue, awaited, self._pulse_at
        self._obstacle = obstacle
        self._check()

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            wanted = self._clock() + PULSE
            await asyncio.sleep(PULSE)
            self._pulse_at = self._clock()
            lag = max(0.0, self._pulse_at - wanted)
            self._publisher.publish(LoopLagged(lag))
            if lag < STALL:
                self._check()

    def _check(self) -> None:
        if self._overdue is not None and self._pulse_at >= self._next_look:
            self._turn_overdue, self._next_look = self._overdue(), self._pulse_at + POLL_INTERVAL
        if self._awaited is None:
            return
        match self._awaited():
            case None:
                self._missing = "the first list of WorkLeases has not arrived: is the Kubernetes API reachable?"
            case 0:
                self._missing = self._obstacle()
            case count:
                self._missing = f"the watch has not reported {count} WorkLeases of the first list yet"

    def alive(self) -> ProbeResult:
        """Return whether the event loop and the keeper make progress."""
        still = self._clock() - self._pulse_at
        if still > STANDSTILL:
            return ProbeResult(is_good=False, reason=f"the event loop has stood still for {still:.0f} s")
        if self._turn_overdue > STANDSTILL:
            return ProbeResult(is_good=False, reason=f"a lease's turn is {self._turn_overdue:.0f} s overdue")
        return ProbeResult(is_good=True, reason="the event loop and the keeper make progress")

    def ready(self) -> ProbeResult:
        """Return whether the process keeps all the leases that it should keep."""
        if self._missing is None:
            return ProbeResult(is_good=False, reason=f"not ready: {self._step}")
        if self._missing:
            return ProbeResult(is_good=False, reason=self._missing)
        return ProbeResult(is_good=True, reason="the first list has arrived")
