"""Waiting for a condition with a deadline: the only place that sleeps.

Must not swallow an error of the condition: if an error is expected, the condition itself must return False for it.
"""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

INTERVAL = 0.1  # short compared with any step of a control plane, long compared with the cost of a check


class DeadlineError(AssertionError):
    """A condition did not become true in time."""


def wait_for(condition: Callable[[], T], *, seconds: float, what: str) -> T:
    """Return the condition's first true value, or raise a DeadlineError that says what was awaited."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise DeadlineError(f"{what}: not seen within {seconds:g} s; the last value was {value!r}")
        time.sleep(INTERVAL)
    return value
