"""What the holder of a bucket may do: the table of acts.

Owns that table. Whoever is valid may do everything. Whoever is not may only keep the leases alive, because its bucket
may be another's by now, and a beat by either of them is good for the lease. Pure: no clock, no socket; ``now`` is
passed in. Must not say how an act is done.
"""

from collections.abc import Mapping
from enum import Enum, auto
from typing import Final

from worklease.rules.tenure import Liveness, Tenure, is_confirmed, is_valid

QUIET: Final = 0.5
"""Seconds before a hand-over is sent in which no beat begins, so that nearly all are answered by then."""

HASTE: Final = 0.4
"""Seconds before that in which each beat is sent that would come due soon: else it would come late."""

SOON: Final = HASTE + QUIET + 1.0
"""Seconds within which such a beat would come due: before the successor, which begins with a list, sends its first."""

PATIENCE: Final = 1.0
"""Seconds after a hand-over without an answer after which its sender beats on: the successor may never have heard."""

CREATION_TIME: Final = 3.0
"""Seconds of validity that a creation needs: the API server gives it up after two, and clocks and ways differ."""

NOT_VALID: Final = "this process could not show in time that it lives, so another one may keep the lease by now"
"""Why an act is put off that cannot be undone."""


class Standing(Enum):
    """How a process stands to a bucket that it holds, or held."""

    __hash__ = object.__hash__  # Enum's own is Python code, and each beat looks a few members up

    VALID = auto()
    """It is the holder, and nobody else can be."""
    LEAVING = auto()
    """It is valid, and about to hand the bucket over: what is under way may end, and nothing new begins.

    It lasts as long as a call may take, so that nothing of this holder is done after its successor has begun.
    """
    HANDED_OVER = auto()
    """It sent the hand-over, or is about to, and its successor may be at work.

    It stays so until a look shows that the successor has begun. If the API server goes away before that, the successor
    may never have heard of it, and so the former holder counts as cut off: it beats on.
    """
    INVALID = auto()
    """It is the holder as far as it knows, but its validity has a gap. It can reach the API server."""
    CUT_OFF = auto()
    """As before, but it cannot reach the API server."""
    FORMER = auto()
    """It knows that another process is the holder."""


class Act(Enum):
    """What is done for a resource, in the bucket of its uid."""

    __hash__ = object.__hash__  # as above

    ROUTINE_BEAT = auto()
    """A beat that carries a value which the holder knows."""
    FIRST_CLAIM = auto()
    """A beat that carries ``NO_HEARTBEAT``."""
    READ = auto()
    """A read of anything, such as the list of items."""
    POLL = auto()
    """A poll of the queue, which reserves an item."""
    ACKNOWLEDGE = auto()
    STOP = auto()
    """A stop of the item, graceful or not."""
    MAKE_POD = auto()
    MAKE_LEASE = auto()
    """The creation of a WorkLease by a pool."""
    END_POD_AT_FENCE = auto()
    """The deletion of a pod whose lease is past its fence."""
    END_POD = auto()
    """Any other deletion of a pod."""
    WRITE_RESOURCE = auto()
    """A write of the resource: its status, its finalizer, its deletion."""
    WRITE_VOLUME = auto()
    """The creation, the mark or the deletion of a session's volume."""
    WRITE_RECORD = auto()
    EMIT_EVENT = auto()


class Leave(Enum):
    """Whether a holder may do something."""

    YES = auto()
    AFTER_READING = auto()
    """If it still stands in the bucket as the holder, as a read of the bucket shows that is answered just before."""
    NO = auto()


_CREATIONS: Final = frozenset({Act.MAKE_POD, Act.MAKE_LEASE})
_IRREVERSIBLE: Final = {act: Leave.NO for act in Act if act is not Act.READ} | {Act.READ: Leave.YES}

TABLE: Final[Mapping[Standing, Mapping[Act, Leave]]] = {
    Standing.VALID: dict.fromkeys(Act, Leave.YES),
    Standing.LEAVING: _IRREVERSIBLE
    | dict.fromkeys((Act.ROUTINE_BEAT, Act.END_POD_AT_FENCE, Act.WRITE_RECORD), Leave.YES),
    Standing.HANDED_OVER: _IRREVERSIBLE | {Act.END_POD_AT_FENCE: Leave.AFTER_READING},
    Standing.INVALID: _IRREVERSIBLE
    | {Act.ROUTINE_BEAT: Leave.AFTER_READING, Act.END_POD_AT_FENCE: Leave.AFTER_READING},
    Standing.CUT_OFF: _IRREVERSIBLE | {Act.ROUTINE_BEAT: Leave.YES, Act.END_POD_AT_FENCE: Leave.AFTER_READING},
    Standing.FORMER: _IRREVERSIBLE,
}
"""What a holder may do, by how it stands to the bucket."""


def standing(tenure: Tenure, liveness: Liveness, now: float, *, hands_over_at: float | None, reaches: bool) -> Standing:
    """Return how a process stands to a bucket that it holds as far as it knows.

    Args:
        tenure: Its tenure of the bucket.
        liveness: Its own liveness Lease.
        now: Monotonic seconds.
        hands_over_at: When it will send the hand-over of the bucket; None: it will not, or has.
        reaches: Whether its last call to the API server was answered.
    """
    if tenure.offered is not None and (now < tenure.offered + PATIENCE or (tenure.given is not None and reaches)):
        return Standing.HANDED_OVER
    if not is_valid(liveness, now) or not is_confirmed(tenure, liveness):
        return Standing.INVALID if reaches else Standing.CUT_OFF
    if hands_over_at is not None and now >= hands_over_at - QUIET:
        return Standing.HANDED_OVER
    return Standing.LEAVING if tenure.is_leaving else Standing.VALID


def may(act: Act, stands: Standing, liveness: Liveness, now: float) -> Leave:
    """Return whether an act may begin now. It is asked in the same step in which the request is sent."""
    leave = TABLE[stands][act]
    if act in _CREATIONS and leave is Leave.YES and now + CREATION_TIME > liveness.valid_until:
        return Leave.NO
    return leave
