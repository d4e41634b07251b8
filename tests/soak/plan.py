"""A schedule of troubles, drawn from a seed.

This module is pure: the same seed and length give the same schedule. It must not know how a trouble is made.
"""

import random
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

SMALL_PAUSE: Final = 1.5
"""Seconds between two small troubles, on average: about the interval between the beats of a dozen leases."""

TAKING_PAUSE: Final = 15.0
"""Seconds between two items that are taken, stopped or deleted, on average: each ends a lease of the fleet."""

BIG_PAUSE: Final = 12.0
"""Least seconds between the end of a big trouble and the next one, so that leases get a beat in between."""

SETTLING: Final = 20.0
"""Seconds without trouble at the end, so that the effects of the last troubles are seen."""


class Trouble(StrEnum):
    """Every kind of trouble, by its name in the final table."""

    # in one call to the Work API
    REPLY_LOST = "reply lost after applying"
    REPLIES_LOST = "four replies in a row lost"
    REQUEST_LOST = "request lost before applying"
    ANSWERED_500 = "answered 500 before applying"
    APPLIED_500 = "answered 500 after applying"
    RETRY_LATER_SECONDS = "answered 503, Retry-After in seconds"
    RETRY_LATER_DATE = "answered 503, Retry-After as a date"
    THROTTLED = "answered 429"
    SLOW = "delayed beyond the time-out"
    HUNG = "hung before applying"
    HUNG_AFTER = "hung after applying"
    MALFORMED = "malformed body"
    STOP_LOST = "reply to a stop lost"
    # with one item
    STOLEN = "taken by another worker"
    REDELIVERED = "delivered again while held"
    STOPPED = "stopped in order"
    FORCED = "stopped at once"
    UNKNOWN = "deleted at the server"
    RESOURCE_DELETED = "resource deleted"
    TTL_CHANGED = "TTL changed by the server"
    # with a process or a network
    OUTAGE = "Work API away for a while"
    LONG_OUTAGE = "Work API away past the TTL"
    KILLED = "operator killed by SIGKILL"
    SLEPT = "operator stopped for a while"
    SLEPT_LONG = "operator stopped past the TTL"
    API_SERVER_KILLED = "API server killed"


SMALL: Final = (
    Trouble.REPLY_LOST,
    Trouble.REPLY_LOST,  # the trouble for which this project exists
    Trouble.REPLIES_LOST,
    Trouble.REQUEST_LOST,
    Trouble.ANSWERED_500,
    Trouble.APPLIED_500,
    Trouble.RETRY_LATER_SECONDS,
    Trouble.RETRY_LATER_DATE,
    Trouble.THROTTLED,
    Trouble.SLOW,
    Trouble.HUNG,
    Trouble.HUNG_AFTER,
    Trouble.MALFORMED,
    Trouble.STOP_LOST,
    Trouble.TTL_CHANGED,
)

TAKING: Final = (
    Trouble.STOLEN,
    Trouble.REDELIVERED,
    Trouble.STOPPED,
    Trouble.FORCED,
    Trouble.UNKNOWN,
    Trouble.RESOURCE_DELETED,
)

SHORT_BIG: Final = (Trouble.OUTAGE, Trouble.SLEPT, Trouble.API_SERVER_KILLED)


@dataclass(frozen=True, slots=True, order=True)
class Step:
    """One trouble, `at` seconds after the start."""

    at: float
    trouble: Trouble


def schedule(chance: random.Random, *, seconds: float, kills: int) -> list[Step]:
    """Draw the troubles of a soak, timed by a clock that stops during absences: big troubles take no time of it."""
    end = max(0.0, seconds - SETTLING)
    steps = [*_often(chance, SMALL, SMALL_PAUSE, end), *_often(chance, TAKING, TAKING_PAUSE, end)]
    return sorted(steps + _big(chance, kills, end))


def _often(chance: random.Random, kinds: tuple[Trouble, ...], pause: float, end: float) -> list[Step]:
    """Yield every kind in a random order, repeatedly, at random moments."""
    steps: list[Step] = []
    rest: list[Trouble] = []
    at = chance.expovariate(1 / pause)
    while at < end:
        if not rest:
            rest = chance.sample(kinds, len(kinds))
        steps.append(Step(at, rest.pop()))
        at += chance.expovariate(1 / pause)
    return steps


def _big(chance: random.Random, kills: int, end: float) -> list[Step]:
    """The kills that were asked for, the two long absences once, and short ones as far as there is share."""
    wanted = [Trouble.KILLED] * kills
    if end > (kills + 5) * BIG_PAUSE:
        wanted += [Trouble.LONG_OUTAGE, Trouble.SLEPT_LONG]
    short = list(SHORT_BIG)
    while (len(wanted) + 1) * BIG_PAUSE <= end:
        wanted.append(short[0])
        short.append(short.pop(0))
    chance.shuffle(wanted)
    share = end / max(1, len(wanted))
    return [Step(number * share + chance.uniform(0, share / 2), trouble) for number, trouble in enumerate(wanted)]
