"""What happened to the leases and their sandboxes, as values, told once at one place.

Owns these values and their telling. Metrics, Kubernetes events and log lines are made by who listens; whoever tells
knows nothing of them. Must not decide anything, and must not wait: a listener takes note and returns.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal, NamedTuple

from worklease.rules.lease import Adoption
from worklease.rules.outcomes import Outcome


class About(NamedTuple):
    """The resource that something happened to, and its work item."""

    namespace: str
    name: str
    uid: str
    environment_id: str
    work_id: str

    def __str__(self) -> str:
        """Name them as a log line does."""
        return f"namespace={self.namespace} name={self.name} environment={self.environment_id} work={self.work_id}"


@dataclass(frozen=True, slots=True)
class BeatEnded:
    """A beat was sent, and came to an end. Its times are seconds."""

    about: About
    outcome: Outcome
    late: float
    """How long after it was due it was sent."""
    took: float


@dataclass(frozen=True, slots=True)
class ConditionChanged:
    """A condition's status or reason is not what it was."""

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
    """A value that no answer gave us was taken as ours."""

    about: About
    rule: Adoption


@dataclass(frozen=True, slots=True)
class LeaseEnded:
    """A lease is over, for good."""

    about: About
    reason: str
    """As ``lease.End`` has it."""


@dataclass(frozen=True, slots=True)
class SandboxMade:
    """A pod was made from the template; ``attempt`` counts from 0."""

    about: About
    pod: str
    attempt: int


@dataclass(frozen=True, slots=True)
class SandboxEnded:
    """A sandbox came to an end that was not asked for: it finished or failed, and what its item gets for it."""

    about: About
    pod: str
    """Empty where no pod ever came."""
    cause: str
    """Such as ``Succeeded``, ``OOMKilled`` or ``Evicted``."""
    message: str


@dataclass(frozen=True, slots=True)
class DeletionAsked:
    """The API server took a pod's deletion, for the first time."""

    about: About
    pod: str
    cause: str
    """Why the pod must go, such as ``Stopped`` or ``Fenced``."""
    grace: float
    """Seconds."""
    late: float | None
    """Seconds from the beat that said the cause to the answer; None where no beat did."""


@dataclass(frozen=True, slots=True)
class DeletionRefused:
    """The API server refused a pod's deletion, for the first time in a row; it is asked for again."""

    about: About
    pod: str
    message: str


@dataclass(frozen=True, slots=True)
class SandboxGone:
    """A pod that had to go is gone."""

    about: About
    pod: str


@dataclass(frozen=True, slots=True)
class PodIgnored:
    """A pod carries the item's labels and is not touched: why."""

    about: About
    pod: str
    message: str


@dataclass(frozen=True, slots=True)
class StopEnded:
    """A stop of the item was sent, and came to an end."""

    about: About
    force: bool
    is_acknowledged: bool
    message: str


@dataclass(frozen=True, slots=True)
class Orphaned:
    """The resource was let go of with something left: what, and what becomes of it."""

    about: About
    message: str


class WorkApiCall(StrEnum):
    """The calls to the Work API."""

    HEARTBEAT = "heartbeat"
    STOP = "stop"
    LIST = "list"


@dataclass(frozen=True, slots=True)
class CallRefused:
    """The Work API answered a call with an error."""

    call: WorkApiCall
    code: int
    """HTTP's."""


@dataclass(frozen=True, slots=True)
class TurnGiven:
    """A call to the Work API was given its turn within the budget, where there is one or the server asked to wait."""

    rank: Literal["first", "routine"]
    waited: float
    """Seconds."""


class Write(StrEnum):
    """What became of a status that was to be written."""

    WRITTEN = "written"
    COALESCED = "coalesced"
    """Never sent: a newer one took its place."""
    FAILED = "failed"
    """Refused or not answered; it is tried again."""


@dataclass(frozen=True, slots=True)
class StatusWrite:
    """A status was written, or was not."""

    result: Write


@dataclass(frozen=True, slots=True)
class KopfEnded:
    """Kopf came to an end that was not asked for, and is started again."""

    why: str


@dataclass(frozen=True, slots=True)
class LoopLagged:
    """The event loop was measured: how much later than asked it woke who slept."""

    seconds: float


SandboxEvent = (
    SandboxMade | SandboxEnded | DeletionAsked | DeletionRefused | SandboxGone | PodIgnored | StopEnded | Orphaned
)
"""What happens to a lease's sandboxes, and to its item for their sake."""

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
    | SandboxMade
    | SandboxEnded
    | DeletionAsked
    | DeletionRefused
    | SandboxGone
    | PodIgnored
    | StopEnded
    | Orphaned
)
Listener = Callable[[TelemetryEvent], None]


class Publisher:
    """Tells each event to all who listen, in the order in which they were given."""

    def __init__(self, *listeners: Listener) -> None:
        self._listeners = listeners

    def add(self, listener: Listener) -> None:
        """Have another one listen, from now on."""
        self._listeners = (*self._listeners, listener)

    def publish(self, event: TelemetryEvent) -> None:
        """Tell all listeners."""
        for listener in self._listeners:
            listener(event)


SILENT: Final = Publisher()
"""Tells nobody."""
