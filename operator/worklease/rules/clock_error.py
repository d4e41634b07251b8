"""What clocks that cannot be trusted mean for a lease that was held: at a start elsewhere, and after a jump.

Owns the margin of a start whose times come from two wall clocks, its correction by the server's time, and what follows
from a jump of the wall clock. Pure: ``now`` is passed in. Must not say what to send.
"""

from dataclasses import replace
from typing import Final

from worklease.rules.deadlines import expiry, own_fence, timeout
from worklease.rules.lease import Cut, Lease, ServerClock, instant, shorter

LONGEST_MARGIN: Final = 5.0
"""Seconds by which the wall clocks of two nodes are taken to differ at most: NTP keeps them within a tenth of that."""

LARGEST_PART: Final = 0.1
"""The part of a TTL that the margin may take: a short lease must outlive a restart."""

SPREAD: Final = 5.0
"""Seconds within which all leases are beaten after a jump, as after a start."""


def unsure(lease: Lease, now: float) -> Lease:
    """Return a lease restored by wall clocks: until a beat is accepted, it is taken to end sooner."""
    ends = expiry(lease)
    if ends is None:
        return lease
    margin = min(LONGEST_MARGIN, lease.ttl * LARGEST_PART)
    clock = None if lease.clock is None else replace(lease.clock, is_restored=True)
    # As if a beat that is not answered had shortened it: so the next process knows of it, and an accepted beat ends it.
    cut = shorter(lease.cut, Cut(lease.ttl, ends - margin))
    return _reprieved(replace(lease, clock=clock, cut=cut), now)


def corrected(lease: Lease, known: ServerClock | None) -> Lease:
    """Return the lease after the first answer that tells the server's time; ``known`` is the clock before it.

    A beat was sent before the server stamped it. So a restored time of sending that is later than the stamp can be is
    wrong, and the earliest time that the stamp can be is put in its place. One that is earlier is left: it only makes
    the lease end sooner.
    """
    if known is None or not known.is_restored or lease.clock is None or lease.clock.is_restored:
        return lease
    stamp = instant(lease.value)
    if lease.sent is None or stamp is None or lease.sent <= stamp - lease.clock.most:
        return lease
    # What cut no TTL is the margin alone, which is not needed any more.
    is_margin = lease.cut is not None and lease.cut.ttl >= lease.ttl
    certain = replace(lease, cut=None) if is_margin else lease
    return _earlier(certain, lease.sent - (stamp - lease.clock.most))


def jumped(lease: Lease, seconds: float, now: float) -> Lease:
    """Return a held lease after the wall clock has jumped ahead of the monotonic one.

    The machine may have been paused for so long, and the lease gone on. As after a start, a beat tells first.
    """
    if not lease.held:
        return lease
    clock = None if lease.clock is None else replace(lease.clock, most=lease.clock.most + seconds)
    due = min(lease.due, now + SPREAD * (lease.seed % 1000) / 1000)
    return _reprieved(replace(_earlier(lease, seconds), clock=clock, due=due, is_crowded=True), now)


def _earlier(lease: Lease, seconds: float) -> Lease:
    """Return the lease with its last beat, and what was counted from it, so much earlier."""
    cut = None if lease.cut is None else Cut(lease.cut.ttl, lease.cut.ends - seconds)
    return replace(lease, sent=(lease.sent or 0.0) - seconds, cut=cut)


def _reprieved(lease: Lease, now: float) -> Lease:
    """Return the lease with time for a beat to tell, where its fence has come only by what is not certain."""
    told, at = now + 2 * timeout(lease), own_fence(lease)
    return replace(lease, reprieve=told) if lease.reprieve is None and at is not None and at < told else lease
