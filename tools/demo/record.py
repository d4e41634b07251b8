"""The simulator's record of one run, typed.

Owns the reading of the administration's JSON. Must not judge it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Something that the simulator saw or did; `at` is when it took effect, in seconds of its own clock."""

    seq: int
    event: str
    item: str | None
    at: float | None = None
    call: str | None = None
    status: int | None = None
    expected: str | None = None
    extended: bool = False
    value_before: str | None = None
    state_after: str | None = None
    ttl_seconds: int | None = None


Record = Sequence[Entry]


def entry(body: Mapping[str, Any]) -> Entry:
    """Read one entry of the history."""
    before, after = body.get("before") or {}, body.get("after") or {}
    return Entry(
        seq=body["seq"],
        event=body["event"],
        item=body.get("item"),
        at=body.get("applied_monotonic", body.get("at_monotonic")),
        call=body.get("call"),
        status=body.get("status"),
        expected=body.get("expected"),
        extended=bool(body.get("lease_extended")),
        value_before=before.get("value"),
        state_after=after.get("state"),
        ttl_seconds=body.get("ttl_seconds"),
    )


def beats(record: Record, item: str | None = None) -> Iterator[Entry]:
    """The heartbeats, of one item if it is named."""
    return (each for each in record if each.call == "heartbeat" and item in (None, each.item))


def renewals(record: Record, item: str) -> list[Entry]:
    """The heartbeats that extended an item's lease."""
    return [each for each in beats(record, item) if each.extended]
