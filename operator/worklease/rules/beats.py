"""What to send next, and what happens to a lease apart from the answers to its beats.

Owns the decision whether a beat is due and what it carries, the restart, edits, stops, and the end by time or by
choice. Pure: ``now`` is passed in. Must not read an answer to a beat: that is ``answers``.
"""

import math
from dataclasses import dataclass, replace
from typing import Final

from worklease.rules.deadlines import asked_ttl, dense_retry, fence, giving_up, routine, timeout
from worklease.rules.lease import (
    STOPPED_MESSAGE,
    Cut,
    End,
    Lease,
    Trouble,
    Unplaced,
    Words,
    clock_by_stamp,
    ended,
    shorter,
    troubled,
)

NO_HEARTBEAT: Final = "NO_HEARTBEAT"
"""What a first beat carries ("claim an unclaimed lease": Record Heartbeat reference)."""

RESTART_SPREAD: Final = 5.0
"""Seconds after a start within which every restored lease is beaten, as far as the budget allows."""


# --- What to do next ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Beat:
    """Send a heartbeat with just this value; give it up after ``timeout`` seconds."""

    expected: str
    desired_ttl: int | None
    timeout: float


@dataclass(frozen=True, slots=True)
class Wait:
    """Do nothing before ``until``."""

    until: float


@dataclass(frozen=True, slots=True)
class Rest:
    """Never beat again: the lease is over."""


def due_at(lease: Lease) -> float:
    """Return when the next beat is due; infinite: never, as things are."""
    return math.inf if lease.suspended or lease.end is not None else lease.due


def decide(lease: Lease, now: float) -> Beat | Wait | Rest:
    """Return what to do for the lease at ``now``, provided that none of its beats is in flight."""
    if lease.end is not None:
        return Rest()
    if now < (at := due_at(lease)):
        return Wait(at)
    expected = lease.value if lease.value is not None else lease.watched or NO_HEARTBEAT
    return Beat(expected, asked_ttl(lease), timeout(lease))


def beat_at_once(lease: Lease, now: float) -> Lease:
    """Return the lease with its next beat due at once: something happened that the beat will tell about.

    A claim in doubt waits all the same: sooner, it would take the lease of a holder that lives.
    """
    return lease if lease.watched is not None else replace(lease, due=min(lease.due, now))


def note_crowded(lease: Lease) -> Lease:
    """Return the lease with a note that its next beat is sent together with many others, as after a hold."""
    return replace(lease, is_crowded=True)


def note_budget_short(lease: Lease, message: str) -> Lease:
    """Return the lease with a note that its beat waits too long for the budget; the next answer clears the note."""
    return replace(lease, trouble=Trouble.BUDGET_SHORT, message=message)


def note_held_back(lease: Lease, message: str) -> Lease:
    """Return the lease with a note that its claim waits because the server asked for that (``Retry-After``)."""
    return lease if lease.held or lease.end is not None else replace(lease, trouble=Trouble.THROTTLED, message=message)


def note_unrecorded(lease: Lease, message: str, now: float) -> Lease:
    """Return the lease with a note that its claim was not sent: a restart could not tell that it was."""
    if lease.held or lease.end is not None:
        return lease
    why = f"the item is not claimed, because that could not be written down before: {message}"
    return troubled(lease, Trouble.CHECKPOINT_UNAVAILABLE, why, now + dense_retry(lease))


def edit(lease: Lease, fresh: Lease) -> Lease:
    """Return the lease with what the spec says now, from a fresh lease made of the spec; running work is untouched."""
    return replace(
        lease,
        desired_ttl=fresh.desired_ttl,
        refused_ttls=lease.refused_ttls if fresh.desired_ttl == lease.desired_ttl else (),
        interval=fresh.interval,
        suspended=fresh.suspended,
    )


# --- A restart ---------------------------------------------------------------------------------------------------


def restore(
    fresh: Lease,
    *,
    value: str,
    ttl: float,
    sent: float,
    claimed: float | None,
    words: Words,
    now: float,
    known_cut: Cut | None = None,
) -> Lease:
    """Return the lease that an earlier process held, for this process to carry on with.

    A start adds one more unanswered window, from the last known value to the start: the earlier process may have
    sent beats that nobody here knows of, and asked in them for the TTL that the spec has now. The lease's own
    deadlines stand. Where they have come, or nearly, one beat may tell first.
    """
    ttl, sent = max(1.0, ttl), min(sent, now)
    wish = fresh.desired_ttl
    kept = replace(
        fresh,
        value=value,
        ttl=ttl,
        granted_for=wish,
        cut=shorter(known_cut, None if wish is None or wish >= ttl else Cut(float(wish), sent + wish)),
        sent=sent,
        claimed=claimed,
        words=words,
        # Which pods there are is not known yet, so the longest grace is assumed.
        pod_grace=math.inf,
    )
    told = now + 2 * timeout(kept)
    earliest = fence(kept)
    assert earliest is not None  # noqa: S101 (it was held: ``sent`` is set)
    return replace(
        kept,
        pod_grace=fresh.pod_grace,
        clock=clock_by_stamp(value, sent, sent + timeout(kept)),
        unplaced=(Unplaced(-math.inf, now + timeout(kept)),),
        stopping_seen=words.state == "stopping" and words.at < earliest,
        reprieve=told if earliest < told else None,
        # Until a beat tells, nobody knows whether the lease is still ours. So soon, and what was due first goes first.
        due=now + max(0.0, sent + routine(kept) - now) * min(1.0, RESTART_SPREAD / routine(kept)),
        is_crowded=True,
    )


# --- The end -----------------------------------------------------------------------------------------------------


def lapse(lease: Lease, now: float) -> Lease:
    """Return the lease, ended if its time is up by our clock: we do not act upon a lease not extended in time."""
    at = giving_up(lease)
    if lease.end is not None or at is None or now < at:
        return lease
    return ended(lease, End.EXPIRED, "no beat was accepted before the lease ended")


def stop_acknowledged(lease: Lease, state: str | None, now: float) -> Lease:
    """Return the lease after the answer to a stop that we sent: the state in its body is proof, else a beat tells."""
    match state:
        case "stopped":
            return stopped(lease)
        case "stopping" if lease.held:
            return replace(beat_at_once(lease, now), stopping_seen=True)
        case _:
            return beat_at_once(lease, now)


def stopped(lease: Lease) -> Lease:
    """Return the lease, ended because the answer to a stop said that the item is stopped."""
    words = None if lease.words is None else replace(lease.words, state="stopped", lease_extended=False)
    return lease if lease.end is not None else ended(replace(lease, words=words), End.STOPPED, STOPPED_MESSAGE)


def supersede(lease: Lease, later: str) -> Lease:
    """Return the lease, ended because the item left the queue once more, for the resource ``later``."""
    message = f"the work item went back to the queue, and WorkLease {later} has acknowledged its later delivery"
    return lease if lease.end is not None else ended(lease, End.REQUEUED, message)


def end_unclaimed(lease: Lease, message: str) -> Lease:
    """Return the lease, ended because the item is another worker's: nothing is sent for it."""
    why = f"the work item is another worker's: {message or lease.message or 'its claim was refused'}"
    return lease if lease.end is not None or lease.held else ended(lease, End.ACK_REFUSED, why)


def release(lease: Lease, message: str) -> Lease:
    """Return the lease, ended by choice: it is left to lapse at the server, and the item to be queued again."""
    return lease if lease.end is not None else ended(lease, End.RELEASED, message)
