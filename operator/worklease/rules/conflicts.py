"""What a 412 means: the server holds another value than the beat carried.

Owns that reading. Pure. A 412 is an observation, and not a verdict: what we know decides.
"""

from dataclasses import replace

from worklease.rules.deadlines import FIRST_RETRY, slow_retry, try_again
from worklease.rules.lease import ASSUMED_TTL, STOPPED_MESSAGE, End, Lease, Trouble, ended, instant, troubled
from worklease.rules.outcomes import Conflicted, Current, Exchange, ListedItem


def read_conflict(lease: Lease, answer: Conflicted, seen: ListedItem | None) -> Lease:
    """Read a 412 as an observation: only a beat of ours that was not answered can make it ours.

    The list overrules: what is stopped, or entered the queue after our first accepted value, is not what we hold.
    Where it cannot be had, the windows decide alone.
    """
    exchange, current = answer.exchange, answer.current
    if lease.held and seen is not None and (over := overruled(lease, exchange, seen)) is not None:
        return over
    if current is None and lease.held and seen is not None and _is_ours(lease, seen.latest_heartbeat_at):
        # What the 412 does not say the list does; should it write the value otherwise, the next 412 changes nothing.
        return _adopted(lease, Current(seen.latest_heartbeat_at, seen.state, None), exchange.done)
    if current is None:
        # Nothing is decided without a value: not adopted, not given up.
        message = "the server refused the value and does not say what it has"
        if lease.held:
            return try_again(lease, Trouble.IN_DOUBT, exchange, message)
        return troubled(_unclaimed(lease), Trouble.IN_DOUBT, message, exchange.done + slow_retry(lease))
    if current.state == "stopped":
        # Some servers compare even here. The item is over, whoever held it.
        return ended(lease, End.STOPPED, STOPPED_MESSAGE)
    if not lease.held:
        return _claim_refused(lease, exchange, current)
    if current.last_heartbeat in (None, "") or current.state in {"queued", "starting"}:
        return ended(lease, End.REQUEUED, "the lease lapsed and the work item went back to the queue")
    if _is_ours(lease, current.last_heartbeat):
        return _adopted(lease, current, exchange.done)
    return ended(lease, End.TAKEN_OVER, f"another worker holds the lease since {current.last_heartbeat}")


def overruled(lease: Lease, _exchange: Exchange, seen: ListedItem) -> Lease | None:
    """End a lease that the list shows to be over; None where it does not."""
    if seen.state == "stopped":
        return ended(lease, End.STOPPED, STOPPED_MESSAGE)
    if not _is_another_delivery(lease, seen):
        return None
    if seen.state in {"queued", "starting"}:
        return ended(lease, End.REQUEUED, f"the work item went back to the queue at {seen.started_at}")
    return ended(lease, End.TAKEN_OVER, f"the work item was queued again at {seen.started_at}, and taken")


def _is_another_delivery(lease: Lease, seen: ListedItem) -> bool:
    """Tell whether the item entered the queue after we first held it; its id recurs, its delivery does not."""
    # A lease that was restored from a status knows its last value only; that is later, and rules out as surely.
    queued, first = instant(seen.started_at), instant(lease.first or lease.value)
    return queued is not None and first is not None and queued > first


def _is_ours(lease: Lease, found: str | None) -> bool:
    """Tell whether the value found is the stamp of an unanswered beat of ours, within the life of the lease.

    Before the lease can have lapsed nobody else can have claimed it: neither within its TTL, nor within a shorter one
    that an unanswered beat asked for, counted from the value that we know or, later, from that beat's sending.
    """
    theirs, ours = instant(found), instant(lease.value)
    if theirs is None or ours is None or lease.clock is None or not _in_a_window(lease, theirs):
        return False
    lapses = ours + lease.ttl
    if lease.cut is not None:
        lapses = min(lapses, max(ours + lease.cut.ttl, lease.clock.earliest(lease.cut.ends)))
    return ours < theirs < lapses


def _in_a_window(lease: Lease, stamp: float) -> bool:
    return any(window.opens <= stamp <= window.closes for window in lease.unanswered)


def _adopted(lease: Lease, current: Current, now: float) -> Lease:
    """Take the value found as ours, and beat at once. It moves no deadline, and spends all unanswered beats."""
    return replace(
        lease,
        value=current.last_heartbeat,
        unanswered=(),
        unplaced=(),
        refused_value=None,
        stopping_seen=lease.stopping_seen and current.state == "stopping",
        due=now,
    )


def _unclaimed(lease: Lease) -> Lease:
    """Forget a value that was taken for our lost claim's: the next try is a first claim again."""
    return replace(lease, value=None)


def _claim_refused(lease: Lease, exchange: Exchange, current: Current) -> Lease:
    """Read a 412 to a first claim: not there yet, held by another, or by a claim of ours whose answer was lost."""
    lease, known = replace(_unclaimed(lease), refused_value=current.last_heartbeat), lease.refused_value
    if current.last_heartbeat in (None, ""):
        message = f"the work item is {current.state} and cannot be claimed yet: it must be polled and acknowledged"
        return troubled(lease, Trouble.NOT_ACKNOWLEDGED, message, exchange.done + slow_retry(lease))
    stamp = instant(current.last_heartbeat)
    message = f"another worker holds the lease; its last heartbeat is {current.last_heartbeat}"
    if stamp is None or lease.clock is None or not _in_a_window(lease, stamp):
        return troubled(lease, Trouble.HELD_BY_ANOTHER, message, exchange.done + slow_retry(lease))
    # A worker beats every max(1, min(ttl/2, 30)) s (public SDK). Silent for longer, the value is our own lost claim's.
    ttl = max(1.0, current.ttl_seconds or ASSUMED_TTL)
    interval = 1.25 * min(ttl / 2, 30.0) + 1.0
    silent = lease.clock.earliest(exchange.sent) - stamp
    if current.last_heartbeat == known and silent > interval:
        return _adopted(replace(lease, ttl=ttl), current, exchange.done)
    message = f"the claim's answer was lost; whether {current.last_heartbeat} is ours shows if nobody beats meanwhile"
    wait = max(exchange.done + FIRST_RETRY, exchange.done + interval - silent)
    return troubled(lease, Trouble.IN_DOUBT, message, wait)
