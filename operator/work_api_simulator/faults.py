"""Faults that tests ask for, and which request gets which fault.

This module owns the kinds of fault and the matching. `routes` carries them out, because that needs the connection.
"""

import random
from dataclasses import dataclass
from enum import StrEnum

from work_api_simulator.credentials import Operation
from work_api_simulator.profiles import RetryAfter


class When(StrEnum):
    """Whether a fault acts before or after the request takes effect."""

    BEFORE = "before"
    AFTER = "after"


@dataclass(frozen=True, slots=True)
class Delay:
    """Wait, then continue."""

    when: When
    seconds: float


@dataclass(frozen=True, slots=True)
class Drop:
    """Close the connection without an answer."""

    when: When


@dataclass(frozen=True, slots=True)
class Hang:
    """Do not answer. The connection stays open until the client leaves or the fault is removed."""

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
    """Apply the request, then answer 200 with a malformed body."""

    body: str = '{"type": "work_heart'


@dataclass(frozen=True, slots=True)
class Gateway:
    """Answer as a gateway before the API does, by itself: in its own words, with its own clock."""

    when: When
    status: int
    body: str
    clock_ahead: float = 0.0
    """Seconds by which its `Date` is ahead of the API's."""
    retry_after: int | None = None


Effect = Delay | Drop | Hang | Fail | Garble | Gateway


@dataclass(slots=True)
class Fault:
    """An effect and the requests that get it. `times` None: until removed; `call` or `item_id` None: any."""

    id: int
    kind: str
    effect: Effect
    call: Operation | None
    item_id: str | None
    times: int | None
    share: float = 1.0
    """The part of those requests that get it, at random."""
    is_for_accepted: bool = False
    """Whether it meets only beats that extended a lease, after their effect; the others are answered."""
    removed: bool = False
    """Whether the fault was removed; this ends the requests that it holds."""


class Faults:
    """The faults that are set, the oldest first."""

    def __init__(self) -> None:
        self._faults: dict[int, Fault] = {}
        self._next_id = 1
        self._chance = random.Random()  # noqa: S311 (it chooses faults, no secrets)

    def add(
        self,
        kind: str,
        effect: Effect,
        call: Operation | None,
        item_id: str | None,
        *,
        times: int | None,
        share: float = 1.0,
        is_for_accepted: bool = False,
    ) -> Fault:
        """Set a fault, and return it."""
        fault = Fault(self._next_id, kind, effect, call, item_id, times, share, is_for_accepted)
        self._next_id += 1
        self._faults[fault.id] = fault
        return fault

    def remove(self, fault_id: int) -> bool:
        """Remove a fault; return False if none has that id."""
        fault = self._faults.pop(fault_id, None)
        if fault is None:
            return False
        fault.removed = True
        return True

    def clear(self) -> None:
        """Remove all faults."""
        for fault_id in tuple(self._faults):
            self.remove(fault_id)

    def listed(self) -> tuple[Fault, ...]:
        """Return all faults. A used-up fault stays until it is removed, because it may still hold requests."""
        return tuple(self._faults.values())

    def take(self, call: Operation, item_id: str | None) -> Fault | None:
        """Return the first fault that applies to this request, and use up one of its times."""
        for fault in self._faults.values():
            is_meant = fault.call in (None, call) and fault.item_id in (None, item_id) and fault.times != 0
            if is_meant and self._chance.random() < fault.share:
                if fault.times is not None:
                    fault.times -= 1
                return fault
        return None
