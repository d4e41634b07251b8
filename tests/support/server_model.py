"""The lease at the server, as the Work API protocol tells it: a model to judge the operator's rules by.

Owns what the server would do with each call, on a clock that the test moves, and who really holds the lease. Must
not import the simulator or the operator: three readings of the same protocol that agree are worth more than one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum, auto
from math import floor
from typing import Final

NOTHING: Final = "NO_HEARTBEAT"
"""What a first heartbeat carries (Record Heartbeat reference)."""


class Lapse(Enum):
    """When a lease that nobody extended goes back to the queue: servers differ."""

    AT_ONCE = auto()
    NEXT_POLL = auto()
    """Until somebody polls, the old value is still good."""


class Holder(Enum):
    """Who really holds the lease."""

    NOBODY = auto()
    OURS = auto()
    OTHER = auto()


class RobbedError(AssertionError):
    """One of our beats was accepted on the live lease of another worker."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What the server answers: 200, or 412 with its current state."""

    accepted: bool
    last_heartbeat: str | None
    state: str
    extended: bool
    ttl: float
    date: float | None


@dataclass(frozen=True, slots=True)
class Row:
    """An item as the list shows it."""

    state: str
    started_at: str | None
    latest_heartbeat_at: str | None
    acknowledged_at: str | None


class Listing(Enum):
    """What becomes of a look at the list."""

    LOST = auto()
    SHOWN = auto()
    LAGS = auto()
    """It shows the former delivery of the item, if there was one."""


class TtlRefusedError(Exception):
    """The server answers 400 to the TTL that was asked for, and changes nothing."""


@dataclass(slots=True, kw_only=True)
class ServerModel:
    """One work item, polled and acknowledged, and its lease. Times are of the test's clock."""

    ahead: float
    """Seconds by which the server's clock is ahead of the test's."""
    default_ttl: float
    lapse: Lapse = Lapse.AT_ONCE
    skew: float | None = 0.0
    """Seconds by which the ``Date`` header is ahead of the clock that stamps beats; None: no such header."""

    state: str = "starting"
    value: str | None = None
    stamped: float = float("-inf")
    ttl: float = 0.0
    holder: Holder = Holder.NOBODY
    other_lives: bool = False
    """Whether the other worker still beats."""
    delivery: int = 1
    longest_ttl: float = float("inf")
    """Seconds; a longer TTL is refused for ever."""
    named_ttl: float | None = None
    """The TTL that answers name which extend nothing; None: the one in force."""
    listing: Listing = Listing.LOST
    shows_entries: bool = True
    """Whether ``started_at`` is the entry to the queue; else the first beat's stamp, and nothing before that."""
    queued_at: float = 990.0
    acknowledged_at: float | None = 995.0
    began: str | None = None
    """The stamp of the delivery's first beat, as a server writes it that reads its clock once more for it."""
    is_polled_by_other: bool = False
    """Another worker polled this delivery, so it is that worker's to claim."""
    former: Row | None = None
    """The last row of the former delivery: what a list shows that lags by one."""

    @property
    def ends(self) -> float:
        """Return when the lease lapses unless it is extended."""
        return self.stamped + self.ttl

    def beat(self, now: float, who: Holder, expected: str, desired: float | None) -> Reply:
        """Apply one heartbeat and return the answer."""
        self._lapse(now)
        if self.state in {"stopping", "stopped"}:
            # Nothing is compared, and nothing is extended.
            return self._reply(now, accepted=True, extended=False)
        if self.state == "queued" or expected != (NOTHING if self.value is None else self.value):
            return self._reply(now, accepted=False, extended=False)
        if who is Holder.OURS and self.holder is Holder.OTHER and self.other_lives:
            raise RobbedError(f"at {now}: {expected} of another worker was taken for ours")
        if desired is not None and desired > self.longest_ttl:
            raise TtlRefusedError
        self.state, self.holder = "active", who
        self.ttl = self.default_ttl if desired is None else desired
        self.stamped = max(now, self.stamped + 2e-6)
        self.value = _written(self.stamped + self.ahead)
        self.began = self.began or _written(self.stamped + self.ahead + 5e-6)
        return self._reply(now, accepted=True, extended=True)

    def stop(self, *, force: bool) -> str:
        """Stop the item, gracefully or at once, and return its state; a second graceful stop changes nothing."""
        if self.state != "stopped":
            self.state = "stopped" if force else "stopping"
        return self.state

    def deliver_again(self, now: float) -> None:
        """Queue the item under the same id again, and let another worker poll and acknowledge it."""
        self._forget(now)
        self._poll(now)

    def poll(self, now: float) -> bool:
        """Let another worker poll and acknowledge the item, if it is in the queue; return whether it was."""
        if self.state == "active" and now >= self.ends:
            self._forget(now)
        if self.state == "queued":
            self._poll(now)
            return True
        return False

    def row(self, now: float) -> Row | None:
        """Return the item as the list shows it; None if the list's answer is lost."""
        self._lapse(now)
        match self.listing:
            case Listing.LOST:
                return None
            case Listing.LAGS if self.former is not None:
                return self.former
            case _:
                return self._row()

    def _row(self) -> Row:
        entered = _written(self.queued_at + self.ahead) if self.shows_entries else self.began
        acknowledged = None if self.acknowledged_at is None else _written(self.acknowledged_at + self.ahead)
        return Row(self.state, entered, self.value, acknowledged)

    def _poll(self, now: float) -> None:
        self.state, self.acknowledged_at, self.is_polled_by_other = "starting", now, True

    def lapsed(self, now: float) -> bool:
        """Whether the lease can no longer be extended at ``now``."""
        self._lapse(now)
        return self.state != "active"

    def _lapse(self, now: float) -> None:
        if self.lapse is Lapse.AT_ONCE and self.state == "active" and now >= self.ends:
            self._forget(now)

    def _forget(self, now: float) -> None:
        self.former = self._row()
        self.state, self.value, self.holder, self.other_lives = "queued", None, Holder.NOBODY, False
        self.queued_at, self.acknowledged_at, self.began, self.is_polled_by_other = now, None, None, False
        self.delivery += 1

    def _reply(self, now: float, *, accepted: bool, extended: bool) -> Reply:
        date = None if self.skew is None else float(floor(now + self.ahead + self.skew))
        named = self.ttl or self.default_ttl
        if accepted and not extended and self.named_ttl is not None:
            named = self.named_ttl
        return Reply(accepted, self.value, self.state, extended, named, date)


def _written(stamp: float) -> str:
    return datetime.fromtimestamp(stamp, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def worker_interval(ttl: float) -> float:
    """Return the seconds between two beats of a worker (public SDK)."""
    return max(1.0, min(ttl / 2, 30.0))


@dataclass(slots=True)
class OtherWorker:
    """Another worker of the same item: beats as the public SDK does, with some delay, until it dies."""

    server: ServerModel
    delay: float = 0.0
    """Seconds by which each of its beats is late; at most a fifth of the interval."""
    next_beat: float = float("inf")
    held: str | None = None
    desired: int | None = None

    def claim(self, now: float) -> bool:
        """Claim the lease if it is unclaimed, and return whether it was."""
        if self.server.state != "starting" or self.server.value is not None:
            return False
        self.server.other_lives = True
        self._beat(now, NOTHING)
        return True

    def run(self, until: float) -> None:
        """Send the beats that are due."""
        for now in self._due(until):
            self._beat(now, self.held or NOTHING)

    def die(self) -> None:
        """Stop beating: the lease is left to lapse."""
        self.next_beat, self.server.other_lives = float("inf"), False

    def _due(self, until: float) -> Iterator[float]:
        while self.next_beat <= until:
            yield self.next_beat

    def _beat(self, now: float, expected: str) -> None:
        try:
            reply = self.server.beat(now, Holder.OTHER, expected, self.desired)
        except TtlRefusedError:
            self.die()
            return
        if not reply.extended:
            self.die()
            return
        self.held = reply.last_heartbeat
        self.next_beat = now + worker_interval(reply.ttl) + self.delay
