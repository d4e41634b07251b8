"""Faults that tests ask for: which request meets which.

This module owns the kinds of fault and the matching. It must not carry them out: that needs the connection, which is
`routes`'s.
"""

from dataclasses import dataclass
from enum import StrEnum

from work_api_simulator.credentials import Operation
from work_api_simulator.profiles import RetryAfter


class When(StrEnum):
    """On which side of the request's effect a fault strikes."""

    BEFORE = "before"
    AFTER = "after"


@dataclass(frozen=True, slots=True)
class Delay:
    """Wait, then go on."""

    when: When
    seconds: float


@dataclass(frozen=True, slots=True)
class Drop:
    """Close the connection without an answer."""

    when: When


@dataclass(frozen=True, slots=True)
class Hang:
    """Neither answer nor close the connection, until the client leaves or the fault is removed."""

    when: When


@dataclass(frozen=True, slots=True)
class Fail:
    """Answer with this status and an error body."""

    when: When
    status: int
    retry_after: int | None = None
    retry_after_form: RetryAfter | None = None
    should_retry: str | None = None


@dataclass(frozen=True, slots=True)
class Garble:
    """Apply the request, then answer 200 with a body that is not the answer."""

    body: str = '{"type": "work_heart'


Effect = Delay | Drop | Hang | Fail | Garble


@dataclass(slots=True)
class Fault:
    """An effect and the requests that meet it; `times` None is until removed, call or item None is any."""

    id: int
    kind: str
    effect: Effect
    call: Operation | None
    item_id: str | None
    times: int | None
    lifted: bool = False
    """Taken away: requests that hang by it are let go."""


class Faults:
    """The faults that are set, the oldest first."""

    def __init__(self) -> None:
        self._faults: dict[int, Fault] = {}
        self._next_id = 1

    def add(self, kind: str, effect: Effect, call: Operation | None, item_id: str | None, times: int | None) -> Fault:
        """Set a fault."""
        fault = Fault(self._next_id, kind, effect, call, item_id, times)
        self._next_id += 1
        self._faults[fault.id] = fault
        return fault

    def remove(self, fault_id: int) -> bool:
        """Take a fault away; False if there is none of that id."""
        fault = self._faults.pop(fault_id, None)
        if fault is None:
            return False
        fault.lifted = True
        return True

    def clear(self) -> None:
        """Take all faults away."""
        for fault_id in tuple(self._faults):
            self.remove(fault_id)

    def listed(self) -> tuple[Fault, ...]:
        """The faults that are set; one that is used up stays until it is removed, for what hangs by it."""
        return tuple(self._faults.values())

    def take(self, call: Operation, item_id: str | None) -> Fault | None:
        """The first fault that this request meets, one of its times used up."""
        for fault in self._faults.values():
            if fault.call in (None, call) and fault.item_id in (None, item_id) and fault.times != 0:
                if fault.times is not None:
                    fault.times -= 1
                return fault
        return None
