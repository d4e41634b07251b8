"""The volumes of sessions: which one a session's next pod gets, and when one that nobody uses is deleted.

Owns both decisions. A volume is known by its labels, and its clock is an annotation on it, so that any process goes on
where another one ended. Pure: no clock, no socket; ``now`` is passed in, in seconds since the epoch. Must not call
anybody.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from math import inf

Session = tuple[str, str]
"""An environment's id and a session's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """The PersistentVolumeClaim of a session, as the API server shows it."""

    name: str
    uid: str
    version: str
    """Its ``resourceVersion``: a write that names it changes this very state, or nothing."""
    session: Session
    created: str
    is_ours: bool
    """Whether the operator made it: another one is its author's, and is mounted, but never deleted."""
    is_ending: bool = False
    """Whether it is being deleted: it goes when no pod uses it any more."""
    idle: float | None = None
    """For how many seconds it is kept without a lease of its session; None: nobody knows, so it is kept."""
    unused_since: float | None = None
    """Since when it has none, as far as the operator saw; None: it has one, or nobody has looked."""


# --- Which one a pod gets ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Mount:
    """Mount this volume."""

    volume: Volume


@dataclass(frozen=True, slots=True)
class AwaitEnd:
    """Wait until this volume is gone: its name is taken until then."""

    volume: Volume


@dataclass(frozen=True, slots=True)
class MakeVolume:
    """Make a volume: the session has none."""


def choose(volumes: Iterable[Volume]) -> Mount | AwaitEnd | MakeVolume:
    """Return what to do for a pod of the session that has these volumes; of several the oldest is the session's."""
    in_order = sorted(volumes, key=lambda each: (each.is_ending, each.created, each.name))
    if not in_order:
        return MakeVolume()
    return AwaitEnd(in_order[0]) if in_order[0].is_ending else Mount(in_order[0])


# --- When one is deleted -----------------------------------------------------------------------------------------


class VolumeStep(Enum):
    """What to do with a volume now."""

    LEAVE = auto()
    MARK = auto()
    """Note since when it is not used."""
    UNMARK = auto()
    """Take that note away: it is used."""
    DELETE = auto()
    """Delete it, provided that no lease of its session is there that is not finished."""


def keep_up(volume: Volume, *, is_used: bool, now: float) -> VolumeStep:
    """Return what to do with a volume; ``is_used``: a lease of its session is not finished."""
    if not volume.is_ours or volume.is_ending:
        return VolumeStep.LEAVE
    if is_used:
        return VolumeStep.LEAVE if volume.unused_since is None else VolumeStep.UNMARK
    if volume.idle is None:
        return VolumeStep.LEAVE
    if volume.idle == 0:
        return VolumeStep.DELETE
    if volume.unused_since is None or volume.unused_since > now:
        return VolumeStep.MARK  # a time to come was written by a clock that was wrong
    return VolumeStep.DELETE if now >= volume.unused_since + volume.idle else VolumeStep.LEAVE


def next_end(volumes: Iterable[Volume]) -> float:
    """Return when the first of these volumes has not been used for long enough; infinite if none is marked."""
    ends = (
        each.unused_since + each.idle
        for each in volumes
        if each.is_ours and not each.is_ending and each.unused_since is not None and each.idle is not None
    )
    return min(ends, default=inf)
