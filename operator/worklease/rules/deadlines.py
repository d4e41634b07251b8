"""When: how long a lease and a request last, when the sandbox must end, when the next beat is due.

Owns every rule about time. Pure: ``now`` is passed in. Must not say what to send, nor what an answer means.
"""

import math
import zlib
from dataclasses import replace
from typing import Final

from worklease.rules.backoff import backoff
from worklease.rules.lease import ASSUMED_TTL, Lease, Trouble, troubled
from worklease.rules.outcomes import Exchange

LONGEST_TIMEOUT: Final = 10.0
"""Seconds after which a request is given up, however long the TTL: a healthy answer takes far less."""

FIRST_RETRY: Final = 0.25
"""Seconds before the first retry: most failures are one lost connection."""

LONGEST_UNCLAIMED_RETRY: Final = 8.0
"""Seconds, give or take a fifth, between tries for a lease not held yet: nothing is at risk, but somebody waits."""

LONGEST_KEY_RETRY: Final = 10.0
"""Seconds after which a missing or refused Secret is read again at the latest, however long the TTL."""

FIRST_CLAIM_RETRY: Final = 1.0
"""Seconds before a refused claim is tried again: an acknowledgement may be on its way."""

LONGEST_CLAIM_RETRY: Final = 8.0
"""Seconds, give or take a fifth, between refused claims while nobody is known to hold the item.

Some servers queue an item again that is not claimed within 30 s of its acknowledgement.
"""

LONGEST_RETRY_BESIDE_A_HOLDER: Final = 60.0
"""Seconds between claims on an item that another worker holds at most: it may be at work for hours."""

SHORTEST_GAP: Final = 1 / 3
"""The least part of an interval between two routine beats, when crowded beats are spread."""


# --- The TTL and the time-out ------------------------------------------------------------------------------------


def timeout(lease: Lease) -> float:
    """Return how long a request for this lease may take, in seconds: a sixth of the TTL, so that retries fit."""
    return min(LONGEST_TIMEOUT, _next_ttl(lease) / 6)


def wish(lease: Lease) -> float | None:
    """Return the TTL, in seconds, that the next beat asks to change to; None without a change, or if never held.

    A spec that no longer names a TTL asks for the server's default, which is not known: the assumed TTL stands for it.
    """
    return changed_ttl(lease, asked_ttl(lease))


def changed_ttl(lease: Lease, asked: int | None) -> float | None:
    """Return the TTL, in seconds, that a beat that asks for ``asked`` may have changed to; None without a change."""
    if asked == lease.granted_for or not lease.held:
        return None
    return max(1.0, ASSUMED_TTL if asked is None else asked)


def asked_ttl(lease: Lease) -> int | None:
    """Return the TTL to ask for: never one that the server refused, since the beat must renew the lease."""
    refused = lease.refused_ttls
    if refused and lease.held and lease.desired_ttl in refused:
        return None if lease.granted_for in refused else lease.granted_for
    return lease.desired_ttl


def least_ttl(lease: Lease) -> float:
    """Return the least TTL that may be in force, in seconds."""
    return lease.ttl if lease.cut is None else min(lease.ttl, lease.cut.ttl)


def _next_ttl(lease: Lease) -> float:
    """Return the TTL to hurry for: a shorter TTL may be in force as soon as the beat that asks for it is sent."""
    if (wished := wish(lease)) is not None:
        return min(lease.ttl, wished)
    return lease.ttl if lease.desired_ttl is None or lease.held else max(1.0, lease.desired_ttl)


# --- The end and the fence ---------------------------------------------------------------------------------------


def expiry(lease: Lease) -> float | None:
    """Return the earliest end of the lease, counted from the *sending* of the last beat accepted or found applied.

    An unanswered beat that asked for a shorter TTL may have been applied, and counts as if it was.
    """
    if lease.sent is None:
        return None
    ends = lease.sent + lease.ttl
    return ends if lease.cut is None else min(ends, lease.cut.ends)


def giving_up(lease: Lease) -> float | None:
    """Return when the lease is given up unless a beat is accepted: at its end, or at the end of its reprieve."""
    ends = expiry(lease)
    return ends if ends is None or lease.reprieve is None else max(ends, lease.reprieve)


def grace(lease: Lease) -> float:
    """Return how much of its grace, in seconds, a pod can be given at the fence: at most a fifth of the TTL."""
    return min(lease.pod_grace, least_ttl(lease) / 5)


def fence(lease: Lease) -> float | None:
    """Return when the sandbox must be told to end, so that its grace is over before the lease can end."""
    at = own_fence(lease)
    return at if at is None or lease.reprieve is None else max(at, lease.reprieve)


def own_fence(lease: Lease) -> float | None:
    """Return the fence that the last beat accepted or found applied sets, without the reprieve of a restored lease."""
    ends = expiry(lease)
    return None if ends is None else ends - _margin(lease) - grace(lease)


def _margin(lease: Lease) -> float:
    """Return 1 s + T/50: the time that the deletion itself takes, and the difference of two clocks' rates."""
    return 1.0 + least_ttl(lease) / 50


def time_left(lease: Lease, now: float) -> float:
    """Return how long, in seconds, a sandbox may still run; 0 once the lease may have ended."""
    ends = expiry(lease)
    return math.inf if ends is None else max(0.0, ends - _margin(lease) - now)


def is_fenced(lease: Lease, now: float) -> bool:
    """Whether a lease that was held is past its fence: its sandbox must be ending."""
    at = fence(lease)
    return at is not None and now >= at


def list_timeout(lease: Lease, now: float) -> float:
    """Return how long to wait for the list before an adoption, in seconds; 0: the windows must decide alone.

    A list that hangs must leave two time-outs before the fence, for the beat that carries the adopted value.
    """
    at = fence(lease)
    longest = timeout(lease)
    return longest if at is None else max(0.0, min(longest, at - 2 * longest - now))


def may_stop(lease: Lease, now: float) -> bool:
    """Whether the operator may send a stop of the item: while the lease is held, less a time-out for the stop."""
    return now < may_stop_until(lease)


def may_stop_until(lease: Lease) -> float:
    """Return the last moment at which the operator may send a stop; -inf if never."""
    ends = expiry(lease)
    return -math.inf if not lease.held or ends is None else ends - timeout(lease)


# --- The next beat -----------------------------------------------------------------------------------------------


def routine(lease: Lease) -> float:
    """Return the seconds between two routine beats: a third of the TTL, at most the interval."""
    return min(lease.ttl / 3, lease.interval)


def rhythm(lease: Lease, sent: float, ttl: float) -> tuple[float, bool]:
    """Return the seconds from an accepted beat to the next, and whether the next is crowded as well.

    After a start or an outage the beats of all leases come close together, and would do so for ever. Each lease goes
    back to its own moment within the interval, which spreads them evenly. Where that moment comes too soon, the lease
    sends one beat in between.
    """
    interval = min(ttl / 3, lease.interval)
    if not lease.is_crowded and not lease.failures:
        return interval, False
    own = zlib.crc32(f"{lease.seed}".encode()) / 2**32
    part = (own - sent / interval) % 1.0
    if part < SHORTEST_GAP:
        # Stretched over all the time that is left, so that these beats do not crowd in turn.
        return interval * (SHORTEST_GAP + part * (1 - SHORTEST_GAP) / SHORTEST_GAP), True
    return interval * part, False


def latest(lease: Lease) -> float:
    """Return how far a routine beat may be put off if the budget is short; later, the lease is at risk.

    Two time-outs before the fence, so that one lost beat and its repetition still fit; infinite if never held.
    """
    at = fence(lease)
    if at is None or lease.sent is None:
        return math.inf
    return min(lease.sent + lease.ttl * 3 / 5, at - 2 * timeout(lease))


# --- Retries -----------------------------------------------------------------------------------------------------


def try_again(
    lease: Lease, trouble: Trouble, exchange: Exchange, message: str, retry_after: float | None = None
) -> Lease:
    """Return the lease with its next try due: soon, but no sooner than the server asked for.

    What a beat waited for its answer counts as waiting. If the lease would reach its fence before the server's time,
    one attempt is made all the same, two time-outs before the fence.
    """
    is_keyless = trouble in {Trouble.CREDENTIALS_MISSING, Trouble.UNAUTHORIZED}
    wait = min(dense_retry(lease), LONGEST_KEY_RETRY if is_keyless else math.inf)
    dense = max(exchange.sent + wait, exchange.done + min(wait, FIRST_RETRY)) if lease.held else exchange.done + wait
    held_back = lease.held_back if retry_after is None else max(lease.held_back or 0.0, exchange.done + retry_after)
    if held_back is None or held_back <= dense:
        return troubled(replace(lease, held_back=held_back), trouble, message, dense)
    at = fence(lease)
    is_attempt = lease.held_back is not None and exchange.sent < lease.held_back
    due = held_back if at is None or is_attempt else min(held_back, max(dense, at - 2 * timeout(lease)))
    return troubled(replace(lease, held_back=held_back), trouble, message, due)


def dense_retry(lease: Lease) -> float:
    """Return the seconds before the next try; for a lease at risk never more than a twentieth of its TTL."""
    if not lease.held:
        return _retry(lease, FIRST_RETRY, LONGEST_UNCLAIMED_RETRY)
    longest = _next_ttl(lease) / 20
    return _retry(lease, min(FIRST_RETRY, longest), longest)


def slow_retry(lease: Lease, longest: float = LONGEST_CLAIM_RETRY) -> float:
    """Return the seconds before a refused claim is tried again: nothing that we hold is at risk."""
    return _retry(lease, FIRST_CLAIM_RETRY, longest)


def _retry(lease: Lease, first: float, longest: float) -> float:
    """Return the back-off from ``first`` to ``longest`` seconds, give or take a fifth."""
    spread = zlib.crc32(f"{lease.seed}/{lease.failures}".encode()) / 0xFFFFFFFF
    return backoff(lease.failures, first, longest) * (0.8 + 0.4 * spread)
