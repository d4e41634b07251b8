"""The process and its machine: when Python collects garbage, and whether the machine was suspended or paused.

Owns the settings of the garbage collector and the comparison of clocks. Must not know what follows from a suspend.

A collection of all objects of ten thousand leases takes a second, in which no beat is sent, and finds next to nothing:
what a beat leaves behind has no cycles. While a machine is suspended the event loop's timers stand still, but leases go
on.
"""

import asyncio
import gc
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

YOUNG_OBJECTS: Final = 10_000
"""New objects after which the youngest generation is collected: by Python's default of 700, three beats would do."""

OLDEST_GENERATION: Final = 2
"""The generation of the objects that have stayed."""

START_PERIOD: Final = 300.0
"""Seconds in which all that survives is set aside and never collected: the fleet is read then, and it stays."""


class _FreezeSurvivors:
    """Sets aside what survives a full collection; once that has doubled, the next one looks at all again."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._settled = clock() + START_PERIOD
        self._again = 0

    def __call__(self, phase: str, info: Mapping[str, Any]) -> None:
        if phase != "stop" or info["generation"] != OLDEST_GENERATION:
            return
        gc.freeze()
        if self._clock() < self._settled:
            return
        if self._again == 0:
            self._again = 2 * gc.get_freeze_count()
        elif gc.get_freeze_count() > self._again:
            gc.unfreeze()
            self._again = 0


def tune_gc(clock: Callable[[], float] = time.monotonic) -> None:
    """Set up the garbage collector so that a full collection looks at each object once, and not every time."""
    gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])
    gc.callbacks.append(_FreezeSurvivors(clock))


# --- Suspends --------------------------------------------------------------------------------------------------------

POLL_INTERVAL: Final = 1.0
"""Seconds between two comparisons of the clocks: a fence is late by so much at most after a suspend."""

SHORTEST_SUSPEND: Final = 0.5
"""Seconds by which the clock that goes on must get ahead of the loop's to count as a suspend."""

_log = logging.getLogger(__name__)


async def notice_suspends(
    clock: Callable[[], float], wake_all: Callable[[], None], *, every: float = POLL_INTERVAL
) -> None:
    """Call ``wake_all`` after each suspend, until cancelled; ``clock`` goes on in one, the loop's own does not."""
    loop = asyncio.get_running_loop()
    known = clock() - loop.time()
    while True:
        await asyncio.sleep(every)
        ahead = clock() - loop.time()
        if ahead - known > SHORTEST_SUSPEND:
            _log.warning("the machine was suspended for %.1f s: checking every lease", ahead - known)
            wake_all()
        known = ahead


# --- Pauses ----------------------------------------------------------------------------------------------------------

SHORTEST_JUMP: Final = 1.0
"""Seconds by which the wall clock must get ahead to count as a jump: as much as the margin of the shortest lease."""


async def notice_jumps(
    clock: Callable[[], float],
    wall: Callable[[], float],
    note_jump: Callable[[float], None],
    *,
    every: float = POLL_INTERVAL,
) -> None:
    """Report each jump of the wall clock ahead of the monotonic one, in seconds, until cancelled.

    While a virtual machine is paused, all of its clocks stand still. When it goes on, its host or NTP sets the wall
    clock, and nothing else tells of the pause.
    """
    known = wall() - clock()
    while True:
        await asyncio.sleep(every)
        ahead = wall() - clock()
        if ahead - known > SHORTEST_JUMP:
            _log.warning("the wall clock went ahead by %.1f s, as after a pause: asking for every lease", ahead - known)
            note_jump(ahead - known)
        known = ahead
