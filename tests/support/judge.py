"""Judges a simulator's history by the invariants of a lease; one checker for all tests.

This module owns what counts as a violation. It must not know who produced the history: any client may be judged.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NO_HEARTBEAT = "NO_HEARTBEAT"

Entry = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class BrokenChain:
    """A beat was accepted that did not carry the value before it."""

    seq: int
    item: str
    expected: str | None
    before: str | None

    def __str__(self) -> str:
        return f"#{self.seq} {self.item}: accepted a beat with {self.expected} while the value was {self.before}"


@dataclass(frozen=True, slots=True)
class BeatAfterEnd:
    """A client beat an item although it had been told that it is stopped."""

    seq: int
    item: str
    agent: str | None
    told: int

    def __str__(self) -> str:
        return f"#{self.seq} {self.item}: {self.agent} beat again although #{self.told} had told it `stopped`"


@dataclass(frozen=True, slots=True)
class Overlap:
    """A client had two beats of one item in flight."""

    seq: int
    item: str
    agent: str | None
    earlier: int

    def __str__(self) -> str:
        return f"#{self.seq} {self.item}: {self.agent} sent it before #{self.earlier} was answered"


@dataclass(frozen=True, slots=True)
class Gap:
    """A lease was not renewed within its TTL, although the server was there."""

    seq: int
    item: str
    seconds: float
    ttl: int

    def __str__(self) -> str:
        return f"#{self.seq} {self.item}: {self.seconds:.3f} s without an accepted beat, the TTL was {self.ttl} s"


Violation = BrokenChain | BeatAfterEnd | Overlap | Gap


def check_history(history: Sequence[Entry], *, released: Collection[str] = ()) -> list[Violation]:
    """Return every violation in a history, in the order of its entries.

    Args:
        history: The `entries` that the simulator's administration tells.
        released: Items whose lease was meant to lapse; their gaps are none.
    """
    violations: list[Violation] = [
        *_broken_chains(history),
        *_beats_after_the_end(history),
        *_overlaps(history),
        *_gaps(history, released),
    ]
    return sorted(violations, key=lambda violation: violation.seq)


def heartbeats(history: Sequence[Entry], item: str | None = None) -> list[Entry]:
    """The heartbeat requests, of one item if it is named."""
    return [entry for entry in history if entry.get("call") == "heartbeat" and item in (None, entry["item"])]


def _in_order(history: Sequence[Entry]) -> list[Entry]:
    """The entries that took effect, in the order in which they did."""
    return sorted((entry for entry in history if entry["order"] is not None), key=lambda entry: entry["order"])


def _accepted(entry: Entry) -> bool:
    return entry.get("call") == "heartbeat" and bool(entry["lease_extended"])


def _broken_chains(history: Sequence[Entry]) -> Iterator[BrokenChain]:
    for entry in _in_order(history):
        if _accepted(entry) and entry["expected"] != (entry["before"]["value"] or NO_HEARTBEAT):
            yield BrokenChain(entry["seq"], entry["item"], entry["expected"], entry["before"]["value"])


def _beats_after_the_end(history: Sequence[Entry]) -> Iterator[BeatAfterEnd]:
    told: dict[tuple[str, str | None], Entry] = {}
    for entry in history:
        if entry["event"] in ("requeued", "created", "lapsed"):
            told = {key: end for key, end in told.items() if key[0] != entry["item"]}
        if entry.get("call") != "heartbeat":
            continue
        key = (entry["item"], entry["agent"])
        end = told.get(key)
        if end is not None and entry["arrived_monotonic"] > end["answered_monotonic"]:
            yield BeatAfterEnd(entry["seq"], entry["item"], entry["agent"], end["seq"])
        if entry["outcome"] == "answered" and entry["status"] == 200 and entry["after"]["state"] == "stopped":
            told[key] = entry


def _overlaps(history: Sequence[Entry]) -> Iterator[Overlap]:
    latest: dict[tuple[str, str | None], Entry] = {}
    for entry in heartbeats(history):
        key = (entry["item"], entry["agent"])
        earlier = latest.get(key)
        if (
            earlier is not None
            and earlier["outcome"] == "answered"
            and entry["arrived_monotonic"] < earlier["answered_monotonic"]
        ):
            yield Overlap(entry["seq"], entry["item"], entry["agent"], earlier["seq"])
        latest[key] = entry


def _gaps(history: Sequence[Entry], released: Collection[str]) -> Iterator[Gap]:
    """Find leases that ran out: the next beat came too late, or the lapse came first."""
    away = list(_away(history))
    held: dict[str, tuple[float, int]] = {}
    for entry in _in_order(history):
        item = entry["item"]
        if item is None:
            continue
        now = entry["applied_monotonic"] if entry["event"] == "request" else entry["at_monotonic"]
        before = held.get(item)
        if before is not None and (_accepted(entry) or entry["event"] == "lapsed"):
            since, ttl = before
            excused = item in released or any(start < now and since < end for start, end in away)
            if not excused and (now - since > ttl or entry["event"] == "lapsed"):
                yield Gap(entry["seq"], item, now - since, ttl)
        _follow(held, item, entry, now)


def _follow(held: dict[str, tuple[float, int]], item: str, entry: Entry, now: float) -> None:
    """Keep up with which leases are held since when, and for how long."""
    after = entry["after"]
    if _accepted(entry):
        held[item] = (now, entry["ttl_seconds"])
    elif entry["event"] == "stolen":
        held[item] = (now, after["ttl_seconds"])
    elif after is None or after["state"] not in (None, "active"):
        held.pop(item, None)


def _away(history: Sequence[Entry]) -> Iterator[tuple[float, float]]:
    """The spans in which the whole server was away by order of a test. A fault of one call excuses nobody."""
    since: float | None = None
    for entry in history:
        if entry["event"] != "outage":
            continue
        if since is not None:
            yield since, entry["at_monotonic"]
        since = None if entry["detail"] == "off" else entry["at_monotonic"]
    if since is not None:
        yield since, float("inf")
