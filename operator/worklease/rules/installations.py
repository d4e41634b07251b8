"""Installations: whose a resource is where a second operator watches the same namespaces, and when the first is gone.

Owns the names of installations, the times of the Lease by which one shows that it lives, and the rule of whose a
resource is. The processes of one installation share a checkpoint, and settle among themselves who keeps what
(``takes``); two installations share nothing but the resources. Pure: no clock, no socket; ``now`` is passed in, and is
always the reader's own clock. Must not write anything.

Each process of an installation renews its Lease before it counts as valid. Whoever sees it unchanged for
``GONE_AFTER`` writes its own name into a resource that was the other's, and only then acts for it.
"""

import re
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Final

from worklease.rules.takes import LONGEST_GLANCE
from worklease.rules.tenure import CALL_TIMEOUT

LEASE_NAME: Final = "worklease-installation"
"""The Lease by which an installation shows that it lives: one name everywhere, so that a right to read it can name it.
"""

RENEW_EVERY: Final = 4.0
"""Seconds between two renewals of it by one process: the liveness of its processes is finer, and others' to see."""

GONE_AFTER: Final = 15.0
"""Seconds without a change after which an installation is gone. A valid process has renewed the Lease in the last 13 s:
within ``RENEW_EVERY``, its validity and the time of a call. A call that it begins then ends within two more."""

LONGEST_GAP: Final = GONE_AFTER - CALL_TIMEOUT
"""Seconds after its own last renewal after which a process must suppose that its installation counted as gone."""

FRESH: Final = 1.0
"""Seconds for which it counts that an installation was read to be gone: the write of a name begins within them."""

SETTLED: Final = FRESH + CALL_TIMEOUT
"""Seconds after the renewal that ends a gap after which nobody's write of a name is under way any more."""

_NAME: Final = re.compile(r"(?P<namespace>[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)/" + LEASE_NAME)


def installation_in(namespace: str) -> str:
    """Return the name of the installation whose checkpoint is in a namespace: two with one checkpoint are one."""
    return f"{namespace}/{LEASE_NAME}"


def namespace_of(name: str) -> str | None:
    """Return the namespace of an installation's checkpoint; None if this version does not understand the name."""
    found = _NAME.fullmatch(name)
    return None if found is None else found["namespace"]


# --- Whether another installation lives --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LeaseFound:
    """The Lease of an installation, as a consistent read shows it."""

    version: str
    has_ended: bool
    """Whether it has no holder: the last process of the installation ended in order."""


@dataclass(frozen=True, slots=True)
class LeaseHidden:
    """The Lease may not be read; ``message`` says why."""

    message: str


@dataclass(frozen=True, slots=True)
class LeaseAbsent:
    """There is no such Lease. If its installation lives, it makes it again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenInstallation:
    """Another installation, as it was last seen."""

    version: str = ""
    """The resource version of its Lease; empty if it was never seen."""
    since: float
    """Since when the Lease has been seen unchanged."""
    looked: float
    """When it was looked at last."""
    has_ended: bool = False
    hidden: str = ""
    """Why its Lease may not be read; empty if it may."""


def see_installation(
    before: SeenInstallation | None, look: LeaseFound | LeaseHidden | LeaseAbsent, now: float
) -> SeenInstallation:
    """Return what is seen of an installation after a look at its Lease that was begun at ``now``.

    Time in which the reader could not look does not count: perhaps nobody could renew a Lease.
    """
    if before is None or before.hidden:
        before = SeenInstallation(since=now, looked=now)
    blind = max(0.0, now - before.looked - LONGEST_GLANCE)
    since = min(now, before.since + blind)
    match look:
        case LeaseHidden(message):
            return SeenInstallation(since=now, looked=now, hidden=message)
        case LeaseAbsent():
            return replace(before, since=since, looked=now, has_ended=False)
        case LeaseFound(version, has_ended):
            is_same = version == before.version
            return SeenInstallation(version=version, since=since if is_same else now, looked=now, has_ended=has_ended)


def is_gone(seen: SeenInstallation | None, now: float) -> bool:
    """Whether an installation is gone, by a look that was just made: it ended in order, or is silent for too long."""
    if seen is None or seen.hidden or now > seen.looked + FRESH:
        return False
    return seen.has_ended or seen.looked - seen.since >= GONE_AFTER


# --- Whether one's own may have counted as gone ------------------------------------------------------------------


def is_gap(renewed: float | None, now: float) -> bool:
    """Whether others may have taken this installation for gone, whose last renewal was sent at ``renewed``."""
    return renewed is not None and now > renewed + LONGEST_GAP


# --- Whose a resource is -----------------------------------------------------------------------------------------


class Whose(Enum):
    """Whose a resource is."""

    OURS = auto()
    TO_BE_NAMED = auto()
    """Nobody's, or of an installation that is gone: our name is written into it before anything is sent for it."""
    ANOTHERS = auto()
    """It is left alone."""


def whose(own: str, named: str, *, is_known: bool, is_over: bool, is_other_gone: bool) -> Whose:
    """Return whose a resource is.

    Args:
        own: The name of the installation that asks.
        named: The name in the resource's status; empty if there is none.
        is_known: Whether this installation has a record of the resource: an earlier version wrote no name.
        is_over: Whether nothing is sent for the resource any more, by its status.
        is_other_gone: Whether the installation that is named is gone.
    """
    if named == own:
        return Whose.OURS
    if not named:
        return Whose.OURS if is_known or is_over else Whose.TO_BE_NAMED
    return Whose.TO_BE_NAMED if is_other_gone else Whose.ANOTHERS
