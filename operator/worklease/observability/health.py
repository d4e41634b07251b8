"""Whether the process is alive and ready, and why not: what its probes are told.

Owns the pulse, a task that measures the event loop and the keeper's turns. Only a standstill counts as illness: a key
that is refused, or an API server that is away, is no reason to end the process that keeps the other leases. Must not
know HTTP. The verdicts may be asked for in any thread: who watches a loop cannot live in it.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from worklease.telemetry import LoopLagged, Publisher

PULSE: Final = 0.5
"""Seconds between two measurements: many within the time that a standstill may take."""

STANDSTILL: Final = 10.0
"""Seconds after which the event loop, or a turn that is due, stands still. No call of ours blocks for so long."""

POLL_INTERVAL: Final = 5.0
"""Seconds between two looks at the turns, of which there is one for each lease."""

STALL: Final = 1.0
"""Seconds of lag after which turns are not judged until the next pulse: those that became due are about to be taken."""


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """An answer to a probe, and its reason for people."""

    is_good: bool
    reason: str


class Health:
    """What the probes are told, from the first moment of the process to its last."""

    def __init__(self, publisher: Publisher, clock: Callable[[], float] = time.monotonic) -> None:
        self._publisher = publisher
        self._clock = clock
        self._at = clock()
        self._step = "the start"
        self._overdue: Callable[[], float] | None = None
        self._awaited: Callable[[], int | None] | None = None
        self._turn_overdue = 0.0
        self._look_at = 0.0
        self._missing: str | None = None

    def say(self, step: str) -> None:
        """Say what the process is not ready for or because of, such as ``reading the checkpoint``."""
        self._step = step
        self._awaited = None
        self._missing = None

    def attend(self, overdue: Callable[[], float], awaited: Callable[[], int | None]) -> None:
        """Look from now on at the keeper's turns and the first list; both are asked in the pulse's loop.

        Args:
            overdue: How many seconds the most overdue turn is late.
            awaited: How many resources of the first list nobody told of yet; None: the list is not in.
        """
        self._overdue, self._awaited, self._look_at = overdue, awaited, self._at
        self._look()

    async def run(self) -> None:
        """Measure, until cancelled."""
        while True:
            wanted = self._clock() + PULSE
            await asyncio.sleep(PULSE)
            self._at = self._clock()
            lag = max(0.0, self._at - wanted)
            self._publisher.publish(LoopLagged(lag))
            if lag < STALL:
                self._look()

    def _look(self) -> None:
        if self._overdue is not None and self._at >= self._look_at:
            self._turn_overdue, self._look_at = self._overdue(), self._at + POLL_INTERVAL
        if self._awaited is None:
            return
        match self._awaited():
            case None:
                self._missing = "the first list of WorkLeases is not in: is the Kubernetes API there?"
            case 0:
                self._missing = ""
            case count:
                self._missing = f"{count} WorkLeases of the first list are not seen by the watch yet"

    def alive(self) -> ProbeResult:
        """Say whether the process does anything at all."""
        still = self._clock() - self._at
        if still > STANDSTILL:
            return ProbeResult(is_good=False, reason=f"the event loop stands still for {still:.0f} s")
        if self._turn_overdue > STANDSTILL:
            return ProbeResult(is_good=False, reason=f"a lease's turn is overdue for {self._turn_overdue:.0f} s")
        return ProbeResult(is_good=True, reason="the event loop and the keeper's turns go on")

    def ready(self) -> ProbeResult:
        """Say whether the process keeps all the leases that there are."""
        if self._missing is None:
            return ProbeResult(is_good=False, reason=f"not ready: {self._step}")
        if self._missing:
            return ProbeResult(is_good=False, reason=self._missing)
        return ProbeResult(is_good=True, reason="the first list is in")
