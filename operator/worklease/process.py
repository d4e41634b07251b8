"""The process and its machine: when Python looks for garbage, and whether the machine was suspended.

Owns the collector's settings and the comparison of the two clocks. Must not know what is done about a suspend.

A look at all objects of ten thousand leases takes a second, in which no beat is sent, and finds next to nothing: what a
beat leaves behind is free of cycles. While a machine is suspended the loop's timers stand still, and leases run on.
"""

import asyncio
import gc
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

YOUNG: Final = 10_000
"""New objects after which the youngest are looked at: Python's 700 is three beats' worth."""

OLDEST: Final = 2
"""The generation of what has stayed."""


START: Final = 300.0
"""Seconds in which all that comes is set aside and not looked at again: a whole fleet is found, and it stays."""


class _FreezeSurvivors:
    """Sets aside what a look at everything has left, until that has doubled: then all is looked at once more."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._settled = clock() + START
        self._again = 0

    def __call__(self, phase: str, info: Mapping[str, Any]) -> None:
        if phase != "stop" or info["generation"] != OLDEST:
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
    """Have each object looked at once, not at every full collection, from now on."""
    gc.set_threshold(YOUNG, *gc.get_threshold()[1:])
    gc.callbacks.append(_FreezeSurvivors(clock))


# --- Suspends --------------------------------------------------------------------------------------------------------

POLL_INTERVAL: Final = 1.0
"""Seconds between two looks at the two clocks: so late is a fence at most after a suspend."""

SUSPENDED: Final = 0.5
"""Seconds by which the clock that goes on must run ahead to have been a suspend."""

_log = logging.getLogger(__name__)


async def notice_suspends(
    clock: Callable[[], float], wake_all: Callable[[], None], *, every: float = POLL_INTERVAL
) -> None:
    """Wake everything, until cancelled, after each suspend; ``clock`` goes on meanwhile, the loop's own does not."""
    loop = asyncio.get_running_loop()
    known = clock() - loop.time()
    while True:
        await asyncio.sleep(every)
        ahead = clock() - loop.time()
        if ahead - known > SUSPENDED:
            _log.warning("the machine was suspended for %.1f s: looking at every lease", ahead - known)
            wake_all()
        known = ahead
