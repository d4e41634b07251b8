"""The state of the benchmark's Work API: real compare-and-set, real lapses, and a time for each accepted beat.

Pure: time is passed in. Must not know about HTTP. Lean on purpose, so that the benchmark does not measure the load
generator. The rules are those of the simulator's default profile, and a test checks that the two agree.
"""

from array import array
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import Final

NO_HEARTBEAT: Final = "NO_HEARTBEAT"

IN_AN_ENVIRONMENT: Final = 1000
"""Items of one environment: a user with ten thousand sandboxes has several environments."""


@dataclass(slots=True)
class Item:
    """A work item and its lease; times are monotonic seconds."""

    number: int
    state: str = "starting"
    value: str = ""
    ends: float = float("inf")
    stopping_told: float | None = None
    """When the answer to a beat first said that the item is stopping, in seconds since the epoch."""
    stop_heard: float | None = None
    """When a stop call first arrived, in seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Beaten:
    """The answer to a beat: the HTTP ``status``, and the item's new state."""

    status: int
    state: str
    value: str
    extended: bool


@dataclass(slots=True)
class Books:
    """All items, by id, with one TTL in seconds."""

    ttl: float = 90.0
    opened: str = ""
    """When the items entered the queue, in the server's time format."""
    items: dict[str, Item] = field(default_factory=dict)
    lapses: int = 0
    conflicts: int = 0
    numbers: "array[int]" = field(default_factory=lambda: array("l"))
    """The item of each accepted beat, in the order in which they came."""
    times: "array[float]" = field(default_factory=lambda: array("d"))
    """When each of these beats was accepted."""
    _last: int = 0

    def open(self, ids: list[str], ttl: float, wall: float) -> None:
        """Start again with these items, acknowledged and without a beat."""
        self.ttl, self.lapses, self.conflicts = ttl, 0, 0
        self.items = {name: Item(number) for number, name in enumerate(ids)}
        self.opened = self._stamp(wall)
        del self.numbers[:], self.times[:]

    def of(self, environment: str) -> list[tuple[str, Item]]:
        """Return an environment's items: each environment has the next IN_AN_ENVIRONMENT of them, by number."""
        number = int(environment.rpartition("_")[2])
        return list(islice(self.items.items(), number * IN_AN_ENVIRONMENT, (number + 1) * IN_AN_ENVIRONMENT))

    def beat(self, name: str, expected: str, now: float, wall: float) -> Beaten | None:
        """Apply a beat (Record Heartbeat in the API reference); return None if there is no such item."""
        item = self.items.get(name)
        if item is None:
            return None
        if item.state in {"stopping", "stopped"}:
            item.stopping_told = item.stopping_told or wall
            return Beaten(200, item.state, item.value, extended=False)
        self._lapse(item, now)
        if expected != (item.value or NO_HEARTBEAT):
            self.conflicts += 1
            return Beaten(412, item.state, item.value, extended=False)
        item.state, item.value, item.ends = "active", self._stamp(wall), now + self.ttl
        self.numbers.append(item.number)
        self.times.append(now)
        return Beaten(200, "active", item.value, extended=True)

    def stop(self, name: str, wall: float, *, force: bool) -> str | None:
        """Stop an item, gracefully or at once; return its state, None if there is no such item."""
        item = self.items.get(name)
        if item is None:
            return None
        item.stop_heard = item.stop_heard or wall
        self.end(name, "stopped" if force else "stopping")
        return item.state

    def end(self, name: str, state: str) -> None:
        """Set an item to ``stopping`` or ``stopped``; neither lapses."""
        item = self.items[name]
        if item.state != "stopped":
            item.state, item.ends = state, float("inf")

    def sweep(self, now: float) -> None:
        """Let every lease lapse whose time is up, whether or not anybody sends a beat for it."""
        for item in self.items.values():
            self._lapse(item, now)

    def _lapse(self, item: Item, now: float) -> None:
        if now >= item.ends:
            self.lapses += 1
            item.state, item.value, item.ends = "queued", "", float("inf")

    def _stamp(self, wall: float) -> str:
        """Return a new value: the server's time in microseconds, never the same twice."""
        self._last = max(self._last + 1, int(wall * 1e6))
        seconds, micros = divmod(self._last, 1_000_000)
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{micros:06}Z"
