"""What a worker asks for, read from the method and the path of its call.

Owns which calls the proxy answers itself, refuses, or passes on. Pure: no clock, no socket.
"""

from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import unquote


@dataclass(frozen=True, slots=True)
class OwnItem:
    """The work item of the proxy's sandbox, and the session that it is about."""

    environment_id: str
    work_id: str
    session_id: str = ""


class Call(StrEnum):
    """What a call asks for."""

    HEARTBEAT = "heartbeat"
    STOP = "stop"
    STREAM = "stream"
    """A session's events as they come: a worker that may not read them gives up."""
    OTHER = "other"
    """Anything that is not about work items, and the own item's reading and metadata: the server decides."""

    # Refused: a sandbox works on its own item.
    OTHER_ITEM = "other-item"
    POLL = "poll"
    ACK = "ack"
    LIST = "list"
    UNKNOWN = "unknown"

    @property
    def is_refused(self) -> bool:
        """Whether the proxy refuses it."""
        return self in {Call.OTHER_ITEM, Call.POLL, Call.ACK, Call.LIST, Call.UNKNOWN}


def read_call(own: OwnItem, method: str, path: str) -> Call:
    """Return what a call asks for. ``path`` is as it was sent, and may have a query.

    A base path before ``environments`` does not matter, nor does another spelling of the same path.
    """
    segments = _segments(path)
    for start, name in enumerate(segments):
        if name == "environments" and segments[start + 2 : start + 3] == ["work"]:
            return _work_call(own, method, segments[start + 1], segments[start + 3 :])
    is_stream = len(segments) > 3 and segments[-4] == "sessions" and segments[-2:] == ["events", "stream"]  # noqa: PLR2004 (the four of them)
    return Call.STREAM if is_stream and method == "GET" else Call.OTHER


def _segments(path: str) -> list[str]:
    """Return the parts of a decoded path, as a server reads it: without empty ones, ``.`` and ``..``."""
    read: list[str] = []
    for part in unquote(path.partition("?")[0]).split("/"):
        if part == "..":
            del read[-1:]
        elif part not in {"", "."}:
            read.append(part)
    return read


def _work_call(own: OwnItem, method: str, environment_id: str, rest: list[str]) -> Call:
    """Return what a call below ``/environments/{environment_id}/work`` asks for."""
    match rest:
        case [_, "ack"]:
            return Call.ACK
        case ["poll"]:
            return Call.POLL
        case []:
            return Call.LIST
        case [work_id, *_] if (environment_id, work_id) != (own.environment_id, own.work_id):
            return Call.OTHER_ITEM
        case [_, "heartbeat"] if method == "POST":
            return Call.HEARTBEAT
        case [_, "stop"] if method == "POST":
            return Call.STOP
        case [_] if method in {"GET", "POST"}:
            return Call.OTHER
        case _:
            return Call.UNKNOWN
