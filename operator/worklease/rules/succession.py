"""Succession: what a refused beat means while two processes may know one lease.

Owns two readings beyond ``answers``: that of a taker, whose predecessor may live and beat on, and that of a holder that
is not valid, whose bucket may have been taken. Pure: no clock, no socket. Must not say what either may do: ``acts``
does.
"""

import math
from dataclasses import dataclass, replace
from typing import Final

from worklease.rules.answers import adoption, is_doubtful, observe
from worklease.rules.deadlines import list_timeout, timeout, try_again
from worklease.rules.lease import CLOCK_SKEW, End, Lease, Trouble, instant
from worklease.rules.outcomes import Answered, Conflicted, Current, ListAnswer, ListedItem, NotListed, Outcome

UNRULY_TTLS: Final = 2.0
"""For how many TTLs after a take the holder before may disturb: by then its own lease is over, by its own clock."""

MOST_TAKEN_BACK: Final = 3
"""How often in a TTL a value is taken back at most: a process that beats blindly stops at its first refusal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Succession:
    """What a lease still has to expect of the holder before, whose bucket was taken.

    Its last beats may be much newer than its last record: it could not write one while the API server was away.
    """

    taken: float | None = None
    """When the bucket was last taken from a holder that may live on, and beat (monotonic); None: it never was."""
    begun: float | None = None
    """When this tenure began: its record may be older than the lease, until a beat of it is accepted."""
    is_told: bool = False
    """Whether a beat of this tenure was accepted."""
    taken_back: tuple[float, ...] = ()
    """When a value was taken back."""


def is_over(succession: Succession | None, lease: Lease, now: float) -> bool:
    """Whether nothing is left to expect of the holder before: from then on a 412 is read as ever."""
    if succession is None:
        return True
    takes = (succession.taken, None if succession.is_told else succession.begun)
    return now >= max((at for at in takes if at is not None), default=-math.inf) + UNRULY_TTLS * lease.ttl


def may_fall_silent(succession: Succession | None, lease: Lease, now: float) -> bool:
    """Whether beats may stop by choice, as at a release: the holder before would beat on until a beat refused its."""
    return succession is None or succession.is_told or is_over(succession, lease, now)


# --- The taker ---------------------------------------------------------------------------------------------------


def list_seconds(lease: Lease, outcome: Outcome, succession: Succession | None) -> float:
    """Return how long to wait for the list before ``outcome`` is observed, in seconds; 0: it is not asked."""
    is_mute = isinstance(outcome, Conflicted) and outcome.current is None
    is_doubted = is_doubtful(lease, outcome)
    # Where nothing but the list can tell whose the value is, it is asked to the last.
    if _is_perhaps_the_former_holders(lease, outcome, succession) or (is_doubted and is_mute):
        return timeout(lease)
    return list_timeout(lease, outcome.exchange.done) if is_doubted else 0.0


def observe_as_taker(
    lease: Lease, outcome: Outcome, seen: ListAnswer | None, succession: Succession | None
) -> tuple[Lease, Succession | None]:
    """Return the lease after ``outcome``, and what is to be expected of the holder before from then on."""
    after, now = observe(lease, outcome, seen), outcome.exchange.done
    if succession is None or is_over(succession, lease, now):
        return after, None
    if isinstance(outcome, Answered) and after.sent == outcome.exchange.sent:
        return after, replace(succession, is_told=True)
    current = outcome.current if isinstance(outcome, Conflicted) else None
    if current is None or not _is_perhaps_the_former_holders(lease, outcome, succession):
        return after, succession
    if after.end is not End.TAKEN_OVER or isinstance(seen, NotListed):
        return after, succession
    if not isinstance(seen, ListedItem):
        message = "the value may be of the process that held the bucket before; the list could not tell"
        undecided = replace(after, end=None, failures=lease.failures)
        return try_again(undecided, Trouble.IN_DOUBT, outcome.exchange, message), succession
    if not is_same_delivery(lease, seen):
        return after, succession
    carried_on = _carry_on(after, current, now)
    if not succession.is_told:
        return carried_on, succession
    recent = tuple(at for at in succession.taken_back if at > now - lease.ttl)
    return carried_on, replace(succession, taken_back=(*recent, now))


def _is_perhaps_the_former_holders(lease: Lease, outcome: Outcome, succession: Succession | None) -> bool:
    """Whether a value that ``answers`` takes for another worker's may be the former holder's.

    Before the first accepted beat of the tenure it may be of any age. From then on it must lie within the life of the
    lease, and a value is taken back a few times at most.
    """
    now = outcome.exchange.done
    if not lease.held or succession is None or is_over(succession, lease, now) or not isinstance(outcome, Conflicted):
        return False
    if outcome.current is None or observe(lease, outcome).end is not End.TAKEN_OVER:
        return False
    if not succession.is_told:
        return True
    recent = [at for at in succession.taken_back if at > now - lease.ttl]
    ours, theirs = instant(lease.value), instant(outcome.current.last_heartbeat)
    is_within = ours is not None and theirs is not None and ours < theirs < ours + lease.ttl
    return is_within and len(recent) < MOST_TAKEN_BACK


def is_same_delivery(lease: Lease, listed: ListedItem) -> bool:
    """Whether the list proves that the item was not queued again since we first held it.

    Some servers stamp the first beat instead of the entry to the queue, some microseconds after its value. So a second
    is allowed. An item that is stopping is still of its delivery: nobody else can hold it.
    """
    first = instant(lease.first or lease.value)
    stamps = [instant(each) for each in (listed.started_at, listed.acknowledged_at) if each is not None]
    if listed.state not in {"active", "stopping"} or first is None or not stamps:
        return False
    return all(stamp is not None and stamp <= first + CLOCK_SKEW for stamp in stamps)


def _carry_on(ended: Lease, current: Current, now: float) -> Lease:
    """Return the lease with the value found, to be beaten at once. As ever, an adoption moves no deadline."""
    return replace(
        ended,
        end=None,
        message="",
        value=current.last_heartbeat,
        unanswered=(),
        unplaced=(),
        refused_value=None,
        stopping_seen=ended.stopping_seen and current.state == "stopping",
        due=now,
    )


# --- The holder that is not valid --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Blind:
    """A lease that is beaten by a holder that is not valid."""

    lease: Lease
    adopted: float | None = None
    """When it last adopted a value since it is not valid (monotonic)."""


def observe_as_invalid(blind: Blind, outcome: Outcome, seen: ListAnswer | None = None) -> Blind | None:
    """Return the lease after ``outcome``; None: it is let go in silence, because it may be the taker's by now.

    Silence means no further beat. Nothing is told and nothing is touched, except that the fence stands.
    """
    before = blind.lease
    after, now = observe(before, outcome, seen), outcome.exchange.done
    if after.end is not None:
        return None
    if adoption(before, outcome, after) is None:
        return replace(blind, lease=after)
    if blind.adopted is not None and now < blind.adopted + before.ttl:
        return None
    return Blind(after, now)
