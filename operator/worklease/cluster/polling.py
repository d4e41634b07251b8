"""The one wait for the API server: a call is repeated until it gives a verdict, or until a deadline.

Owns the repetition. Must not know what is called. What a deadline that passed means is the caller's decision.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from worklease.cluster.client import NotDone

Verdict = TypeVar("Verdict")

_log = logging.getLogger(__name__)


def deadline_in(seconds: float) -> float:
    """Return the time of the event loop's clock in so many seconds."""
    return asyncio.get_running_loop().time() + seconds


def has_passed(deadline: float) -> bool:
    """Whether the event loop's clock is past a deadline."""
    return asyncio.get_running_loop().time() > deadline


async def poll(
    attempt: Callable[[], Awaitable[Verdict | NotDone]], *, deadline: float, interval: float, waiting_for: str = ""
) -> Verdict | NotDone:
    """Repeat ``attempt`` every ``interval`` seconds until its verdict; return its last ``NotDone`` after the deadline.

    There is at least one attempt. A warning before each further one says what the operator is ``waiting_for``, if that
    is given, and why.
    """
    while True:
        outcome = await attempt()
        if not isinstance(outcome, NotDone) or has_passed(deadline):
            return outcome
        if waiting_for:
            _log.warning("waiting for %s: %s", waiting_for, outcome.message)
        await asyncio.sleep(interval)
