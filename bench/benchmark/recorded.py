"""What the simulated Work API has recorded: beats of kept leases, polls, lapses. Owns how its history is read."""

import time
from dataclasses import dataclass, field
from typing import Any, Final

from benchmark.figures import lateness
from benchmark.fleet import item
from benchmark.simulated import SimulatedApi

AGAIN: Final = 0.2
"""Seconds until a history is read again that has an unanswered call: most polls wait for a second."""


@dataclass(slots=True, kw_only=True)
class Recorded:
    """The history up to the first call that is not answered yet; times are of the monotonic clock."""

    api: SimulatedApi
    kept: int
    """How many leases are kept beside: their items have numbers."""
    numbers: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    """Of which kept lease each accepted beat was, and when."""
    polls: list[float] = field(default_factory=list)
    lapses: list[float] = field(default_factory=list)
    queued: dict[str, float] = field(default_factory=dict)
    """When each item of a session began to wait."""
    picked_up: dict[str, float] = field(default_factory=dict)
    """When a poll first brought it."""
    _seq: int = field(default=0, init=False)
    _number_of: dict[str, int] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        """Number the kept items."""
        self._number_of = {item(number): number for number in range(self.kept)}

    def read(self) -> float:
        """Read what is new, and return until when everything is known."""
        now = time.monotonic()
        for entry in self.api.history(self._seq):
            if entry["event"] == "request" and entry["outcome"] is None:
                return min(now, float(entry["arrived_monotonic"]))
            self._add(entry)
            self._seq = entry["seq"]
        return now

    def read_until(self, moment: float) -> None:
        """Read until everything that arrived before a moment is known."""
        while self.read() < moment:
            time.sleep(AGAIN)

    def _add(self, entry: dict[str, Any]) -> None:
        name, what = entry["item"], entry.get("call", entry["event"])
        match what:
            case "heartbeat" if entry["lease_extended"] and name in self._number_of:
                self.numbers.append(self._number_of[name])
                self.times.append(entry["applied_monotonic"])
            case "poll":
                self.polls.append(entry["arrived_monotonic"])
                if name is not None:
                    self.picked_up.setdefault(name, entry["applied_monotonic"])
            case "created" if entry["after"]["state"] == "queued":
                self.queued[name] = entry["at_monotonic"]
            case "lapsed":
                self.lapses.append(entry["at_monotonic"])
            case _:
                pass

    def beats(self, began: float, ended: float) -> int:
        """Return how many beats of kept leases were accepted in this time."""
        return sum(began <= at < ended for at in self.times)

    def late(self, began: float, ended: float, interval: float) -> list[float]:
        """Return how late each beat of a kept lease was that came in this time."""
        until = sum(at < ended for at in self.times)
        return lateness(self.numbers[:until], self.times[:until], began, interval)
