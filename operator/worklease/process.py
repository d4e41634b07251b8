"""When Python looks for garbage in cycles: seldom, and not again among what has stayed.

Owns the collector's settings. A look at all objects of ten thousand leases takes a second, in which no beat is sent,
and finds next to nothing: what a beat leaves behind is free of cycles.
"""

import gc
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
