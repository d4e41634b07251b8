"""The simulator's record of one run, typed.

Owns the parsing of the admin API's JSON. Must not judge it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Something that the simulator received or did; `at` is when it took effect, in seconds of its own clock."""

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

CONFLICT = 412


@dataclass(frozen=True, slots=True)
class StopMoments:
    """The stop of an item: seconds until the answer to a beat said so, and from there until it was confirmed."""

    heard: float
    confirmed: float


def entry(body: Mapping[str, Any]) -> Entry:
    """Parse one entry of the history."""
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
    """Return the heartbeats: of one item if it is named, else of all."""
    return (each for each in record if each.call == "heartbeat" and item in (None, each.item))


def renewals(record: Record, item: str) -> list[Entry]:
    """Return the heartbeats that extended an item's lease."""
    return [each for each in beats(record, item) if each.extended]


def conflicts(record: Record, since: int) -> list[str]:
    """Return the items whose beats were answered 412 after an entry of the record."""
    return sorted({str(each.item) for each in beats(record) if each.seq > since and each.status == CONFLICT})


def stop_moments(record: Record, item: str) -> StopMoments | None:
    """Return the moments of an item's stop; None if it is not confirmed yet."""
    asked = heard = confirmed = None
    for each in record:
        if each.item != item:
            continue
        if each.event == "stopped":
            asked = each.at
        elif each.call == "heartbeat" and each.state_after == "stopping" and heard is None:
            heard = each.at
        elif each.call == "stop" and each.state_after == "stopped":
            confirmed = each.at
    if asked is None or heard is None or confirmed is None:
        return None
    return StopMoments(heard - asked, confirmed - heard)
