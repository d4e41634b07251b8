"""What happened to the leases and their sandboxes, as values, told once at one place.

Owns these values and their telling. Metrics, Kubernetes events and log lines are made by who listens; whoever tells
knows nothing of them. Must not decide anything, and must not wait: a listener takes note and returns.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from worklease.outcomes import Outcome


class About(NamedTuple):
    """The resource that something happened to, and its work item."""

    namespace: str
    name: str
    uid: str
    environment_id: str
    work_id: str


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


Happening = BeatEnded | ConditionChanged
Listener = Callable[[Happening], None]


class Telling:
    """Tells each happening to all who listen, in the order in which they were given."""

    def __init__(self, *listeners: Listener) -> None:
        self._listeners = listeners

    def tell(self, happening: Happening) -> None:
        """Tell all listeners."""
        for listener in self._listeners:
            listener(happening)
