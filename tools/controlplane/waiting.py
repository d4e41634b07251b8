"""Waiting for a condition with a deadline: the one place that sleeps.

Must not swallow an error of the condition: what may fail on the way is for the condition itself to turn into False.
"""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

INTERVAL = 0.1  # short beside any step of a control plane, long beside what a look costs


class DeadlineError(AssertionError):
    """A condition did not come true in time."""


def wait_for(condition: Callable[[], T], *, seconds: float, what: str) -> T:
    """Return the condition's first true value, or raise DeadlineError that names what was waited for."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise DeadlineError(f"{what} did not come true within {seconds:g} s; last seen: {value!r}")
        time.sleep(INTERVAL)
    return value
