"""Takes and hand-overs: when a bucket changes hands, and who gets it.

Owns what a process sees of the others' liveness Leases, when it takes a bucket, and which bucket it hands over next.
Pure: no clock, no socket; ``now`` is passed in, and is always the observer's own clock. Must not write anything.

Each take goes in this order, which keeps a bucket from being taken from a holder that is valid: the bucket is read,
then its holder's liveness Lease, and both by consistent reads; then the bucket is written, if it is still as it was
read.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Final

from worklease.rules.buckets import distribute
from worklease.rules.tenure import LEASE_DURATION, VACANT

SECOND_CHOICE: Final = 2.0
"""Seconds for which the process that should hold a bucket goes ahead of any other one."""

HAND_OVER_EVERY: Final = 1.0
"""Seconds between two hand-overs that only balance: each costs some leases a beat that comes a little late."""

HAND_OVER_TIME: Final = 10.0
"""Seconds within which a process that ends has handed its buckets over."""

FORGET_AFTER: Final = 3600.0
"""Seconds without a change after which the liveness Lease of a dead process is deleted."""


LONGEST_GLANCE: Final = 2.5
"""Seconds between two looks at the liveness Leases that count in full: a look each second, and the way of its answer.

What goes beyond them does not count, since nobody may have been able to renew a Lease: so after an outage a holder has
time to do so.
"""


# --- Who lives ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SeenLease:
    """Another process's liveness Lease, as it was last seen."""

    version: str
    """Its resource version; empty if it was never seen."""
    since: float
    """Since when it has been seen unchanged."""
    is_ready: bool = False
    """Whether its process says that it can keep more buckets."""


Seen = Mapping[str, SeenLease]
"""What a process has seen of the others, by the names of the holders."""


def see(
    before: Seen, leases: Mapping[str, tuple[str, bool]], holders: Collection[str], now: float, *, last: float
) -> Seen:
    """Return what is seen of the other processes after a look at all liveness Leases.

    A Lease that is gone counts as unchanged: its owner makes it again, if it lives. Time in which the observer could
    not look does not count: perhaps nobody could reach the API server.

    Args:
        before: What was seen before.
        leases: The version of each liveness Lease, and whether its process is ready.
        holders: The names that stand in the buckets: of a holder without a Lease, the time counts from now.
        now: Monotonic seconds of the observer.
        last: When it looked before.
    """
    blind = now - last - LONGEST_GLANCE
    if blind > 0:
        before = {name: replace(each, since=min(now, each.since + blind)) for name, each in before.items()}
    seen = {name: each for name, each in before.items() if name in leases or name in holders}
    for name in holders:
        seen.setdefault(name, SeenLease("", now))
    for name, (version, is_ready) in leases.items():
        known = before.get(name)
        is_same = known is not None and known.version == version
        seen[name] = replace(known, is_ready=is_ready) if known and is_same else SeenLease(version, now, is_ready)
    return seen


def living(own: str, seen: Seen, now: float) -> frozenset[str]:
    """Return the processes that live, as far as ``own`` has seen, itself included."""
    return frozenset({own, *(name for name, each in seen.items() if each.version and _age(each, now) < LEASE_DURATION)})


def _age(seen: SeenLease, now: float) -> float:
    return now - seen.since


def is_to_be_forgotten(seen: SeenLease, now: float, *, is_holder: bool, is_proved_dead: bool) -> bool:
    """Whether the liveness Lease of a process is to be deleted: it is dead, and holds nothing."""
    return not is_holder and (is_proved_dead or _age(seen, now) >= FORGET_AFTER)


# --- Takes -------------------------------------------------------------------------------------------------------


class TakeCause(Enum):
    """Why a bucket is taken."""

    VACANT = auto()
    """Nobody holds it."""
    DEAD = auto()
    """Its holder is proved to be dead."""
    LAPSED = auto()
    """Its holder's liveness Lease has not changed for long enough. The holder may live, and send beats blindly."""

    @property
    def may_live(self) -> bool:
        """Whether the holder before may live on."""
        return self is TakeCause.LAPSED


def take(holder: str, own: str, preferred: str, seen: Seen, now: float, *, is_proved_dead: bool) -> TakeCause | None:
    """Return why a bucket is to be taken now; None: it is not.

    Args:
        holder: The name that stands in the bucket.
        own: The process that asks. It must be valid.
        preferred: The process that should hold the bucket.
        seen: What it has seen of the others.
        now: Its monotonic seconds.
        is_proved_dead: Whether it can prove that the holder is dead.
    """
    wait = 0.0 if preferred == own else SECOND_CHOICE
    if holder == own:
        return None
    if holder == VACANT:
        return TakeCause.VACANT
    if is_proved_dead:
        return TakeCause.DEAD
    known = seen.get(holder)
    return TakeCause.LAPSED if known is not None and _age(known, now) >= LEASE_DURATION + wait else None


def is_unchanged(seen: SeenLease, version: str | None) -> bool:
    """Whether a holder's Lease, as a consistent read of it shows it, is the one that was seen; None: it is gone."""
    return version is None or version == seen.version


# --- Hand-overs --------------------------------------------------------------------------------------------------


def next_hand_over(
    own: str, held: Mapping[int, str], ready: Collection[str], last: float, now: float
) -> tuple[int, str] | None:
    """Return the next bucket to hand over so that the buckets become even, and its successor; None: none now.

    Args:
        own: The process that asks. It must be valid.
        held: The holder of each bucket.
        ready: The living processes that can keep more buckets.
        last: When the last hand-over of ``own`` was answered.
        now: Monotonic seconds.
    """
    if now < last + HAND_OVER_EVERY:
        return None
    preferred = distribute({own, *ready})
    return next(
        ((bucket, preferred[bucket]) for bucket, holder in sorted(held.items()) if holder == own != preferred[bucket]),
        None,
    )


def heirs(own: str, held: Mapping[int, str], ready: Collection[str]) -> Mapping[int, str]:
    """Return the successor of each bucket that a process holds which is about to end; ``VACANT`` if there is none."""
    preferred = distribute(frozenset(ready) - {own})
    return {bucket: preferred.get(bucket, VACANT) for bucket, holder in sorted(held.items()) if holder == own}
