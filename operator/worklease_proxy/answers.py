"""What the proxy answers itself, and how it went for the worker: the rules, as values.

Owns the chain of values that the worker's heartbeats extend, the bodies of the proxy's own answers, and what counts as
a worker that gave up. Pure: no clock, no socket; times are arguments. The operator keeps the real lease: as long as the
pod lives, it is held.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from http import HTTPStatus
from typing import Any, Final

from worklease_proxy.calls import Call, OwnItem

LEAST_TTL: Final = 2
"""Seconds. The public client sends a heartbeat each half of the TTL, but not more often than each second."""

LONGEST_TTL: Final = 60
"""Seconds. The public client sends a heartbeat each 30 s at least, so more would change nothing."""

GAVE_UP: Final = "worker gave up: "
"""So begins the termination message of a proxy whose worker gave up; the operator reads it."""

_RETRIED: Final = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.TOO_MANY_REQUESTS})
"""Refusals after which the public client tries again; after any other of the 4xx it ends."""


def ttl_of(drain_seconds: int) -> int:
    """Return the TTL to grant, in seconds: a worker that beats each half of it hears of a drain in its first third."""
    return max(LEAST_TTL, min(drain_seconds * 2 // 3, LONGEST_TTL))


class ToldState(StrEnum):
    """The item's state, as the worker is told."""

    STARTING = "starting"
    ACTIVE = "active"
    STOPPING = "stopping"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What the proxy has seen of its worker and of the drain."""

    begun: datetime
    """When the proxy began."""
    value: str = ""
    """The value that the last heartbeat was given; empty before the first."""
    beat_at: datetime | None = None
    """When that was."""
    beats: int = 0
    draining_since: datetime | None = None
    """Since when the worker is asked to finish."""
    stopped: ToldState | None = None
    """What the worker made of its item by a stop; None: it sent none."""
    stopped_at: datetime | None = None
    heartbeat_refusal: int = 0
    """The status by which the worker's last heartbeat was refused; 0: it was not."""
    stream_refusal: int = 0
    """The status by which a session's events were refused to it, the last time that it asked for them; 0: none."""

    @property
    def state(self) -> ToldState:
        """The item's state, as the worker is told."""
        if self.stopped is not None:
            return self.stopped
        if self.draining_since is not None:
            return ToldState.STOPPING
        return ToldState.ACTIVE if self.value else ToldState.STARTING


@dataclass(frozen=True, slots=True)
class OwnAnswer:
    """An answer of the proxy's own."""

    status: int
    body: Mapping[str, Any]


# --- Heartbeats --------------------------------------------------------------------------------------------------


def heartbeat(seen: Seen, expected: str | None, now: datetime, ttl: int) -> tuple[Seen, OwnAnswer]:
    """OwnAnswer a heartbeat of the own item by compare-and-set, as the reference of Record Heartbeat says.

    A proxy that has no value yet takes whatever it is sent: it may have been started again, and its worker has not. In
    ``stopping`` and ``stopped`` nothing is compared, and nothing is extended. A heartbeat that expects nothing is
    not compared.
    """
    if seen.state in {ToldState.STOPPING, ToldState.STOPPED}:
        return replace(seen, heartbeat_refusal=0), OwnAnswer(HTTPStatus.OK, _beat_body(seen, ttl, is_extended=False))
    if seen.value and expected is not None and expected != seen.value:
        refused = replace(seen, heartbeat_refusal=int(HTTPStatus.PRECONDITION_FAILED))
        return refused, _precondition_failed(seen, expected, ttl)
    at = now if seen.beat_at is None else max(now, seen.beat_at + timedelta(microseconds=1))
    accepted = replace(seen, value=_written(at), beat_at=at, beats=seen.beats + 1, heartbeat_refusal=0)
    return accepted, OwnAnswer(HTTPStatus.OK, _beat_body(accepted, ttl, is_extended=True))


def _beat_body(seen: Seen, ttl: int, *, is_extended: bool) -> dict[str, Any]:
    return {
        "type": "work_heartbeat",
        "last_heartbeat": seen.value,
        "lease_extended": is_extended,
        "state": seen.state.value,
        "ttl_seconds": ttl,
    }


def _precondition_failed(seen: Seen, expected: str, ttl: int) -> OwnAnswer:
    details = {
        "current_state": {
            key: value for key, value in _beat_body(seen, ttl, is_extended=False).items() if key != "type"
        },
        "error_visibility": "user_facing",
        "error_code": "heartbeat_precondition_failed",
    }
    message = f"Heartbeat precondition failed: expected {expected}, actual was {seen.value}"
    return OwnAnswer(HTTPStatus.PRECONDITION_FAILED, _error("invalid_request_error", message, details))


# --- Other answers -----------------------------------------------------------------------------------------------


def stop(seen: Seen, own: OwnItem, now: datetime, *, force: bool) -> tuple[Seen, OwnAnswer]:
    """OwnAnswer the worker's stop of its item, as if it were stopped: the pod's end tells the operator how it went."""
    if seen.stopped is not ToldState.STOPPED:
        state = ToldState.STOPPED if force else ToldState.STOPPING
        seen = replace(seen, stopped=state, stopped_at=seen.stopped_at or now)
    return seen, OwnAnswer(HTTPStatus.OK, _item_body(seen, own))


def _item_body(seen: Seen, own: OwnItem) -> dict[str, Any]:
    """Return the item in the shape of the API; of times that the proxy cannot know, its own beginning stands in."""
    begun = _written(seen.begun)
    stopped_at = None if seen.stopped_at is None else _written(seen.stopped_at)
    return {
        "id": own.work_id,
        "type": "work",
        "state": seen.state.value,
        "data": {"type": "session", "id": own.session_id or own.work_id},
        "environment_id": own.environment_id,
        "created_at": begun,
        "acknowledged_at": begun,
        "started_at": begun,
        "latest_heartbeat_at": seen.value or None,
        "stop_requested_at": stopped_at,
        "stopped_at": stopped_at if seen.state is ToldState.STOPPED else None,
        "metadata": {},
        "secret": None,
        "actor": None,
    }


def refusal(seen: Seen, own: OwnItem, call: Call, *, is_heartbeat: bool) -> tuple[Seen, OwnAnswer]:
    """Refuse a call about work that is not this sandbox's item."""
    if is_heartbeat:
        seen = replace(seen, heartbeat_refusal=int(HTTPStatus.FORBIDDEN))
    message = (
        f"worklease proxy: a sandbox may only work on its own item {own.work_id} of {own.environment_id}; "
        f"this call ({call}) is not about it"
    )
    return seen, OwnAnswer(HTTPStatus.FORBIDDEN, _error("permission_error", message))


def unreachable(host: str, seconds: float) -> OwnAnswer:
    """Say that the upstream was not reached, and so nothing was sent to it."""
    message = f"worklease proxy: no connection to {host} within {seconds:.0f} s, so nothing was sent"
    return OwnAnswer(HTTPStatus.BAD_GATEWAY, _error("api_error", message))


def not_an_origin() -> OwnAnswer:
    """Refuse a call that takes the proxy for a forward proxy: it stands for one API, as a base URL."""
    message = "worklease proxy: this is an API's address, such as ANTHROPIC_BASE_URL, and no forward proxy"
    return OwnAnswer(HTTPStatus.BAD_REQUEST, _error("invalid_request_error", message))


def _error(kind: str, message: str, details: Mapping[str, Any] | None = None) -> dict[str, Any]:
    described: dict[str, Any] = {"type": kind, "message": message}
    return {"type": "error", "error": described if details is None else described | {"details": details}}


# --- How it went -------------------------------------------------------------------------------------------------


def note_stream(seen: Seen, status: int) -> Seen:
    """Note how the upstream answered the worker that asked for its session's events."""
    is_final = HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR and status not in _RETRIED
    if is_final:
        return replace(seen, stream_refusal=status)
    return replace(seen, stream_refusal=0) if status < HTTPStatus.BAD_REQUEST else seen


def drain(seen: Seen, now: datetime) -> Seen:
    """Ask the worker to finish, from its next heartbeat on."""
    return seen if seen.draining_since is not None else replace(seen, draining_since=now)


def giving_up(seen: Seen) -> str:
    """Return why the worker ends, or has ended, although it has not finished; empty if nothing shows that."""
    if seen.heartbeat_refusal:
        return f"{GAVE_UP}{seen.heartbeat_refusal} heartbeat"
    if seen.stream_refusal:
        return f"{GAVE_UP}{seen.stream_refusal} events stream"
    return ""


def fell_silent(seen: Seen, now: datetime, ttl: int) -> str:
    """Return that the worker sent no heartbeat for its TTL and did not stop its item; empty if it did.

    The public client ends so, with 0, when no heartbeat of its own was answered for that long.
    """
    if seen.beat_at is None or seen.state is not ToldState.ACTIVE:
        return ""
    silence = (now - seen.beat_at).total_seconds()
    return f"{GAVE_UP}no heartbeat for {silence:.0f} s" if silence > ttl else ""


def _written(instant: datetime) -> str:
    """Return an instant as the hosted service writes it: with six digits and ``Z``."""
    return instant.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
