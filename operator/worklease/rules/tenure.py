"""Tenure: who holds a bucket, and whether a holder is valid, by its own clock.

Owns the names of holders, the times of the liveness Lease, and the rule of validity. Others take a bucket only after
its holder's validity is over, by its own clock, so two processes never act for one bucket. Pure: no clock, no socket;
``now`` is passed in. Must not say what a holder may do: ``acts`` does.

A process renews its liveness Lease every ``RENEW_EVERY`` seconds. It is valid from the answer to a renewal until
``VALIDITY`` seconds after that renewal was *sent*: the API server stored it no earlier, and nobody saw it earlier.
"""

import math
import re
from dataclasses import dataclass, replace
from typing import Final

RENEW_EVERY: Final = 2.0
"""Seconds between two renewals of the liveness Lease: two of them in a row may fail and its holder stays valid."""

RENEWAL_TIMEOUT: Final = 1.5
"""Seconds after which a renewal is given up: the next one is not to wait for it."""

CALL_TIMEOUT: Final = 2.0
"""Seconds after which a call that cannot be undone is given up: it must end before anybody else takes the bucket."""

LEASE_DURATION: Final = 9.0
"""Seconds without a change of its liveness Lease after which others take a holder's buckets."""

VALIDITY: Final = LEASE_DURATION - CALL_TIMEOUT
"""Seconds for which a renewal makes its sender valid: a call that begins at the last moment ends before a take."""


# --- Names -------------------------------------------------------------------------------------------------------

VACANT: Final = ""
"""The holder of a bucket that nobody holds: its last holder ended in order, without a successor."""


@dataclass(frozen=True, slots=True)
class Holder:
    """The name of a process: where it runs, and which process it is there. Written as ``place/incarnation``."""

    place: str
    """The uid of its pod, else the boot and the pid namespace: no two processes of one place have the same pid."""
    pid: int
    started: int
    """When the process was started, as the system counts it: a pid is used again, pid and start are not."""
    random: str
    """Tells two starts apart where the system does not."""

    def __str__(self) -> str:
        return f"{self.place}/{self.incarnation}"

    @property
    def incarnation(self) -> str:
        """The process, in words that may be part of an object's name."""
        return f"{self.pid}-{self.started}-{self.random}"

    @property
    def lease_name(self) -> str:
        """The name of its liveness Lease."""
        return f"worklease-{self.incarnation}"


_NAME: Final = re.compile(r"(?P<place>[^/]+)/(?P<pid>\d+)-(?P<started>\d+)-(?P<random>[a-z0-9]+)")


def read_holder(name: str) -> Holder | None:
    """Return the holder that a name tells of; None if it is not a name that this version understands."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    return Holder(found["place"], int(found["pid"]), int(found["started"]), found["random"])


def is_heir(own: Holder, holder: str, running: frozenset[tuple[int, int]]) -> bool:
    """Whether ``own`` can prove that a holder is dead: it ran in the same place, and runs there no more.

    Args:
        own: The process that asks.
        holder: The name of the holder.
        running: Pid and start of each process that runs in this place now.
    """
    former = read_holder(holder)
    return former is not None and former.place == own.place and (former.pid, former.started) not in running


# --- Validity ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Liveness:
    """A process's own liveness Lease, as far as its renewals were answered. All times are of its own clock."""

    renewed: float = -math.inf
    """When the last renewal was sent that was answered."""
    unbroken_since: float = math.inf
    """Since when the process is valid without a gap: since the answer to the renewal that ended the last gap."""

    @property
    def valid_until(self) -> float:
        """Return until when the process is valid unless another renewal is answered."""
        return self.renewed + VALIDITY


def renewed(liveness: Liveness, sent: float, done: float) -> Liveness:
    """Return the liveness after a renewal that was sent and answered then; an answer may come too late to count."""
    if sent <= liveness.renewed:
        return liveness
    is_gap = done >= liveness.valid_until
    return Liveness(sent, done if is_gap else liveness.unbroken_since)


def is_valid(liveness: Liveness, now: float) -> bool:
    """Whether nobody else can have taken a bucket that the process held when its validity began."""
    return liveness.unbroken_since <= now < liveness.renewed + VALIDITY


# --- Tenure ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenure:
    """The time for which one process holds a bucket. Nothing of an earlier tenure acts in a later one."""

    bucket: int
    epoch: int
    """Counts the tenures of the bucket: each take and each hand-over begins one."""
    confirmed: float = -math.inf
    """When the last write of the bucket was sent that was accepted, and names this process as the holder."""
    taken: float | None = None
    """When the bucket was last taken from a holder that may live, by this process's clock; None: never."""
    offered: float | None = None
    """When a hand-over was sent that is not answered; None: none was."""
    is_leaving: bool = False
    """Whether the bucket is about to be handed over."""
    given: str | None = None
    """The resource version with which the bucket was handed over; None: it was not, as far as is known."""


def is_same(tenure: Tenure, own: str, holder: str, epoch: int) -> bool:
    """Whether a bucket that names ``holder`` and ``epoch`` is still held in this tenure by ``own``.

    The name alone does not tell: the bucket may have gone to another process and come back, with another record.
    """
    return holder == own and epoch == tenure.epoch


def confirm(tenure: Tenure, sent: float) -> Tenure:
    """Return the tenure after an accepted write of the bucket, which was sent then.

    The write gives the bucket another resource version. So it refuses each take, and each hand-over, that began before.
    """
    return replace(tenure, confirmed=max(tenure.confirmed, sent), offered=None)


def is_confirmed(tenure: Tenure, liveness: Liveness) -> bool:
    """Whether the bucket was written since the last gap in its holder's validity.

    A read is not enough: who read the holder's liveness Lease during the gap may take the bucket after that read.
    """
    return tenure.confirmed >= liveness.unbroken_since and tenure.offered is None


def needs_write(tenure: Tenure, liveness: Liveness, now: float) -> bool:
    """Whether a holder has to write its bucket before it may act: it is valid, and its tenure is not confirmed."""
    return tenure.given is None and is_valid(liveness, now) and not is_confirmed(tenure, liveness)


def is_unheard(tenure: Tenure, version: str | None, now: float) -> bool:
    """Whether the successor has not written a bucket yet that was handed over: perhaps it has not heard of it.

    As long as it lives it hears of it, so this does not last.

    Args:
        tenure: The tenure that ended with the hand-over.
        version: The bucket's resource version, as a read or a list shows it.
        now: Monotonic seconds.
    """
    if tenure.given is None or tenure.offered is None:
        return False
    return tenure.given == version and now < tenure.offered + LEASE_DURATION
