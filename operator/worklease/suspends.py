"""Notices that the machine was suspended: the loop's alarms slept with it, and leases went on ending.

Owns the comparison of the two clocks. Must not know what is done about it.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

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
