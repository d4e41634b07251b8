"""Waiting for a condition with a deadline: the only place that sleeps.

Must not swallow an error of the condition: if an error is expected, the condition itself must return False for it.
"""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

INTERVAL = 0.1  # seconds; short compared with any step of a control plane, long compared with the cost of a check
LONGEST_INTERVAL = 0.5  # seconds
SHARE = 0.15  # a check comes late by this part of what was waited, at most: long waits would fill the API server's log


class DeadlineError(AssertionError):
    """A condition did not become true in time."""


def wait_for(condition: Callable[[], T], *, seconds: float, what: str) -> T:
    """Return the condition's first true value, or raise a DeadlineError that says what was awaited."""
    began = time.monotonic()
    while not (value := condition()):
        waited = time.monotonic() - began
        if waited > seconds:
            raise DeadlineError(f"{what}: not seen within {seconds:g} s; the last value was {value!r}")
        time.sleep(min(max(INTERVAL, waited * SHARE), LONGEST_INTERVAL))
    return value
