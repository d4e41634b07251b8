"""The record of everything that the simulator received and did, for tests to check.

An entry is added when its request arrives and completed later, so a request that hangs appears too. Entries are
rendered only when they are read. Everything is kept unless a limit is given, because a check needs all entries: a beat
takes about 800 bytes, so a day of ten leases with a beat every 5 s takes 140 MB. The record contains no secret.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from work_api_simulator import instants
from work_api_simulator.clock import Clock
from work_api_simulator.credentials import CredentialsKind, Operation
from work_api_simulator.items import Item
from work_api_simulator.store import Change


@dataclass(slots=True)
class RecordedRequest:
    """One request: its parameters and caller, its outcome, and the item before and after."""

    seq: int
    call: Operation
    environment_id: str
    item_id: str | None
    credentials: CredentialsKind
    agent: str | None
    worker_id: str | None
    arrived: int
    expected: str | None = None
    desired_ttl: str | None = None
    fault: str | None = None
    applied: int | None = None
    order: int | None = None
    answered: int | None = None
    status: int | None = None
    outcome: str | None = None
    before_state: str | None = None
    before_value: str | None = None
    after_state: str | None = None
    after_value: str | None = None
    ttl: int | None = None
    extended: bool | None = None


@dataclass(frozen=True, slots=True)
class RecordedEvent:
    """An entry that is no request: a change of an item or, without an item, of the server."""

    seq: int
    order: int
    event: str
    at: int
    before: Item | None = None
    after: Item | None = None
    detail: str | None = None


class History:
    """The record, in the order of arrival; `order` is the order of effect."""

    def __init__(self, clock: Clock, limit: int | None = None) -> None:
        self._clock = clock
        self._entries: deque[RecordedRequest | RecordedEvent] = deque(maxlen=limit)
        self._seq = 0
        self._order = 0

    def arrived(self, request: RecordedRequest) -> RecordedRequest:
        """Record a request's arrival."""
        self._seq += 1
        request.seq = self._seq
        self._entries.append(request)
        return request

    def applied(self, request: RecordedRequest, now: int) -> None:
        """Record when a request took effect or was refused."""
        self._order += 1
        request.order = self._order
        request.applied = now

    def changed(self, change: Change) -> None:
        """Record a change of an item that no request made."""
        self._add_event(change.kind, change.at, change.before, change.after)

    def noted(self, event: str, at: int, detail: str | None = None) -> None:
        """Record a change of the server itself."""
        self._add_event(event, at, None, None, detail)

    def _add_event(
        self, event: str, at: int, before: Item | None, after: Item | None, detail: str | None = None
    ) -> None:
        self._seq += 1
        self._order += 1
        self._entries.append(RecordedEvent(self._seq, self._order, event, at, before, after, detail))

    @property
    def last_seq(self) -> int:
        """The `seq` of the latest entry; 0 if there is none."""
        return self._seq

    @property
    def forgotten(self) -> int:
        """How many entries the limit has removed."""
        return self._seq - len(self._entries)

    def read(self, *, item_id: str | None = None, since: int = 0) -> Iterator[dict[str, Any]]:
        """Return the entries after `since`, of one item if it is named. Changes of the server are always included."""
        for entry in tuple(self._entries):
            if entry.seq <= since:
                continue
            match entry:
                case RecordedRequest():
                    if item_id in (None, entry.item_id):
                        yield self._request(entry)
                case RecordedEvent():
                    names = {item.id for item in (entry.before, entry.after) if item is not None}
                    if item_id is None or not names or item_id in names:
                        yield self._event(entry)

    def _request(self, entry: RecordedRequest) -> dict[str, Any]:
        return {
            "seq": entry.seq,
            "event": "request",
            "order": entry.order,
            "call": entry.call,
            "environment": entry.environment_id,
            "item": entry.item_id,
            "credentials": entry.credentials,
            "agent": entry.agent,
            "worker": entry.worker_id,
            "expected": entry.expected,
            "desired_ttl": entry.desired_ttl,
            "fault": entry.fault,
            **self._instant("arrived", entry.arrived),
            **self._instant("applied", entry.applied),
            **self._instant("answered", entry.answered),
            "status": entry.status,
            "outcome": entry.outcome,
            "before": {"state": entry.before_state, "value": entry.before_value},
            "after": {"state": entry.after_state, "value": entry.after_value},
            "ttl_seconds": entry.ttl,
            "lease_extended": entry.extended,
        }

    def _event(self, entry: RecordedEvent) -> dict[str, Any]:
        item = entry.before or entry.after
        return {
            "seq": entry.seq,
            "event": entry.event,
            "order": entry.order,
            "environment": item and item.environment_id,
            "item": item and item.id,
            **self._instant("at", entry.at),
            "before": _shown(entry.before),
            "after": _shown(entry.after),
            "detail": entry.detail,
        }

    def _instant(self, name: str, instant: int | None) -> dict[str, Any]:
        if instant is None:
            return {name: None, f"{name}_monotonic": None}
        return {name: instants.write(instant), f"{name}_monotonic": self._clock.monotonic(instant)}


def _shown(item: Item | None) -> dict[str, Any] | None:
    if item is None:
        return None
    return {"id": item.id, "state": item.state, "value": item.value, "ttl_seconds": item.ttl}
