"""Telemetry: what happened to the leases and their sandboxes, as values that are published in one place.

Owns these values and how they are published. The listeners make metrics, Kubernetes events and log lines of them; the
code that publishes knows nothing of that. Must not decide anything, and must not wait: a listener stores what it needs
and returns.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal, NamedTuple

from worklease.rules.lease import Adoption
from worklease.rules.outcomes import Outcome


class About(NamedTuple):
    """The resource that an event is about, and its work item."""

    namespace: str
    name: str
    uid: str
    environment_id: str
    work_id: str

    def __str__(self) -> str:
        """Return them as a log line names them."""
        return f"namespace={self.namespace} name={self.name} environment={self.environment_id} work={self.work_id}"


class AboutPool(NamedTuple):
    """The pool that an event is about, and its environment."""

    namespace: str
    name: str
    uid: str
    environment_id: str

    def __str__(self) -> str:
        """Return them as a log line names them."""
        return f"namespace={self.namespace} pool={self.name} environment={self.environment_id}"


@dataclass(frozen=True, slots=True)
class BeatEnded:
    """A beat was sent and has ended."""

    about: About
    outcome: Outcome
    late: float
    """How many seconds after its due time it was sent."""


@dataclass(frozen=True, slots=True)
class ConditionChanged:
    """A condition's status or reason has changed."""

    about: About
    type: str
    status: str
    reason: str
    message: str
    former_reason: str | None
    """None: the condition is new."""
    former_status: str | None = None


@dataclass(frozen=True, slots=True)
class LeaseAdopted:
    """The operator recognized a value as its own although no answer gave it."""

    about: About
    rule: Adoption


@dataclass(frozen=True, slots=True)
class LeaseEnded:
    """A lease has ended for good."""

    about: About
    reason: str
    """The value of ``lease.End``."""


@dataclass(frozen=True, slots=True)
class SandboxMade:
    """A pod was created from the template; ``attempt`` counts from 0."""

    about: About
    pod: str
    attempt: int


@dataclass(frozen=True, slots=True)
class SandboxEnded:
    """A sandbox ended without being asked to: it finished or failed."""

    about: About
    pod: str
    """Empty if no pod ever appeared."""
    cause: str
    """Such as ``Succeeded``, ``OOMKilled`` or ``Evicted``."""
    message: str


@dataclass(frozen=True, slots=True)
class DeletionAsked:
    """The API server accepted a pod's deletion for the first time."""

    about: About
    pod: str
    cause: str
    """Why the pod must go, such as ``Stopped`` or ``Fenced``."""
    grace: float
    """Seconds."""
    late: float | None
    """Seconds from the beat that said the cause to the answer; None if no beat did."""


@dataclass(frozen=True, slots=True)
class DeletionRefused:
    """The API server refused a pod's deletion, for the first time in a row; the operator retries."""

    about: About
    pod: str
    message: str


@dataclass(frozen=True, slots=True)
class DrainNotAnnounced:
    """The API server refused the annotation by which a worker hears of a drain; its pod is deleted at once instead."""

    about: About
    pod: str
    message: str


@dataclass(frozen=True, slots=True)
class SandboxGone:
    """A pod that had to end is gone."""

    about: About
    pod: str


@dataclass(frozen=True, slots=True)
class PodIgnored:
    """The operator ignores a pod that has the item's labels; the message says why."""

    about: About
    pod: str
    message: str


@dataclass(frozen=True, slots=True)
class StopEnded:
    """A stop of the item was sent and has ended."""

    about: About
    force: bool
    is_acknowledged: bool
    message: str


@dataclass(frozen=True, slots=True)
class Orphaned:
    """The finalizer was removed with something left; the message says what, and what happens to it."""

    about: About
    message: str


@dataclass(frozen=True, slots=True)
class LeftAlone:
    """Another installation keeps a resource, so this one leaves it alone; the message says what would change that."""

    about: About | AboutPool
    installation: str
    message: str


class WorkApiCall(StrEnum):
    """The calls to the Work API."""

    HEARTBEAT = "heartbeat"
    STOP = "stop"
    LIST = "list"
    POLL = "poll"
    ACK = "ack"
    STATS = "stats"
    SESSION = "session"


@dataclass(frozen=True, slots=True)
class CallRefused:
    """The Work API answered a call with an error."""

    call: WorkApiCall
    code: int
    """The HTTP status code."""


@dataclass(frozen=True, slots=True)
class TurnGiven:
    """The budget let a call to the Work API through; published only under a limit, or if the server asked to wait."""

    rank: Literal["first", "routine", "last"]
    waited: float
    """Seconds."""


class Write(StrEnum):
    """The result of a status write."""

    WRITTEN = "written"
    COALESCED = "coalesced"
    """Never sent: a newer status replaced it."""
    FAILED = "failed"
    """Refused or not answered; the operator retries."""


@dataclass(frozen=True, slots=True)
class StatusWrite:
    """A status write has ended."""

    result: Write


class BucketMove(StrEnum):
    """How a bucket of leases came to this process, or went."""

    VACANT = "vacant"
    """Taken: nobody held it."""
    DEAD = "dead"
    """Taken: its holder was proved to be dead."""
    LAPSED = "lapsed"
    """Taken: its holder had not shown for long enough that it lives."""
    RECEIVED = "received"
    """Handed over by another process."""
    HANDED_OVER = "handed_over"
    """Handed over to another process, or to whoever comes next."""
    LOST = "lost"
    """Another process took it."""


@dataclass(frozen=True, slots=True)
class BucketMoved:
    """A bucket of leases came to this process, or went."""

    bucket: int
    move: BucketMove


@dataclass(frozen=True, slots=True)
class LeaseTakenOver:
    """The first beat of a lease was accepted after its bucket came to this process."""

    seconds: float
    """How long after that."""


@dataclass(frozen=True, slots=True)
class KopfEnded:
    """Kopf ended without being asked to, and is restarted."""

    why: str


@dataclass(frozen=True, slots=True)
class LoopLagged:
    """The event loop's lag was measured: how much later than asked it woke a sleeping task."""

    seconds: float


class PollResult(StrEnum):
    """What a poll brought."""

    ITEM = "item"
    EMPTY = "empty"
    REFUSED = "refused"
    THROTTLED = "throttled"
    UNANSWERED = "unanswered"


@dataclass(frozen=True, slots=True)
class PoolPolled:
    """A poll for a pool has ended."""

    about: AboutPool
    result: PollResult


class ItemResult(StrEnum):
    """What became of an item that a poll brought."""

    TAKEN = "taken"
    """Its WorkLease and its token are in Kubernetes."""
    REFUSED = "refused"
    """No sandbox can work on it, and it was stopped."""
    LEFT = "left"
    """It stays in the queue, and is offered again."""
    NOT_WRITTEN = "not_written"
    """Kubernetes did not take all of it. Nothing left the queue, and the next poll that brings it goes on."""


@dataclass(frozen=True, slots=True)
class ItemHandled:
    """A pool is done with an item that a poll brought."""

    about: AboutPool
    work_id: str
    result: ItemResult
    message: str
    """Why, where it was not taken; else the WorkLease."""


@dataclass(frozen=True, slots=True)
class PoolChanged:
    """The reason of a pool's conditions has changed."""

    about: AboutPool
    reason: str
    message: str
    is_warning: bool


@dataclass(frozen=True, slots=True)
class PoolSandboxStarted:
    """A sandbox of a pool was ready for the first time, so many seconds after the poll that brought its item."""

    about: AboutPool
    seconds: float


@dataclass(frozen=True, slots=True)
class PoolGone:
    """A pool is not kept any more."""

    about: AboutPool


PoolEvent = PoolPolled | ItemHandled | PoolChanged | PoolSandboxStarted | PoolGone
"""What happens to a pool."""

SandboxEvent = (
    SandboxMade
    | SandboxEnded
    | DeletionAsked
    | DeletionRefused
    | DrainNotAnnounced
    | SandboxGone
    | PodIgnored
    | StopEnded
    | Orphaned
)
"""What happens to a lease's sandboxes, and to its item because of them."""

TelemetryEvent = (
    BeatEnded
    | TurnGiven
    | StatusWrite
    | LoopLagged
    | ConditionChanged
    | LeaseAdopted
    | LeaseEnded
    | CallRefused
    | KopfEnded
    | BucketMoved
    | LeaseTakenOver
    | SandboxMade
    | SandboxEnded
    | DeletionAsked
    | DeletionRefused
    | DrainNotAnnounced
    | SandboxGone
    | PodIgnored
    | StopEnded
    | Orphaned
    | LeftAlone
    | PoolEvent
)
Listener = Callable[[TelemetryEvent], None]


class Publisher:
    """Passes each event to all listeners, in the order in which they were added."""

    def __init__(self, *listeners: Listener) -> None:
        self._listeners = listeners

    def add(self, listener: Listener) -> None:
        """Add a listener, from now on."""
        self._listeners = (*self._listeners, listener)

    def publish(self, event: TelemetryEvent) -> None:
        """Pass an event to all listeners."""
        for listener in self._listeners:
            listener(event)


SILENT: Final = Publisher()
"""A publisher without listeners."""
