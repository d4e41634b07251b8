"""The bodies of the Work API's answers.

This module owns every key and text of a body. It must not decide anything.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from work_api_simulator import instants
from work_api_simulator.items import HeartbeatAccepted, Item
from work_api_simulator.profiles import Profile, Secret
from work_api_simulator.refusals import RequestRefusal
from work_api_simulator.store import QueueStats

ERROR_TYPES: Mapping[int, str] = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    409: "invalid_request_error",
    412: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


@dataclass(frozen=True, slots=True)
class Touched:
    """The item before and after a request, for the history, and the lease in a heartbeat's answer."""

    before: Item
    after: Item
    ttl: int | None = None
    extended: bool | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of the Work API before it becomes HTTP; an empty text is an empty body."""

    status: int
    text: str
    touched: Touched | None = None
    retry_after: int | None = None


def heartbeat(answered: HeartbeatAccepted) -> str:
    """Return the answer of a heartbeat: `last_heartbeat` is "" if none has been recorded."""
    return json.dumps(
        {
            "type": "work_heartbeat",
            "last_heartbeat": answered.shown or answered.item.value or "",
            "lease_extended": answered.extended,
            "state": answered.item.state,
            "ttl_seconds": answered.ttl,
        }
    )


def item(shown: Item) -> str:
    """Return a work item as every call but a poll shows it: its `secret` is null."""
    return json.dumps(_item(shown, None))


def polled(shown: Item, profile: Profile) -> str:
    """Return a work item as a poll shows it: "`secret` (only on poll, and even there it may be null)"."""
    return json.dumps(_item(shown, secret(shown.sessions_token) if profile.secret is Secret.PRESENT else None))


def page(shown: Sequence[Item], next_page: str | None) -> str:
    """Return a page of items."""
    return json.dumps({"data": [_item(each, None) for each in shown], "next_page": next_page})


def stats(shown: QueueStats) -> str:
    """Return the statistics of a queue."""
    return json.dumps(
        {
            "type": "work_queue_stats",
            "depth": shown.depth,
            "pending": shown.pending,
            "oldest_queued_at": _written(shown.oldest_queued_at),
            "workers_polling": shown.workers_polling,
        }
    )


def refused(refusal: RequestRefusal, request_id: str) -> str:
    """Return the body of a refusal."""
    return error(refusal.kind.error_type, refusal.message, request_id, refusal.details)


def error(error_type: str, message: str, request_id: str, details: Mapping[str, Any] | None = None) -> str:
    """Return the body of an error."""
    described: dict[str, Any] = {"type": error_type, "message": message}
    if details is not None:
        described["details"] = details
    return json.dumps({"type": "error", "error": described, "request_id": request_id})


def error_type(status: int) -> str:
    """Return the `error.type` of a status."""
    return ERROR_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")


def secret(sessions_token: str) -> str:
    """Return an item's own credentials: "url-safe base64 JSON with `sessions_token`"."""
    payload = json.dumps({"sessions_token": sessions_token}).encode()
    return base64.urlsafe_b64encode(payload).decode().rstrip("=")


def cursor(index: int) -> str:
    """Return an opaque cursor for a position in a list."""
    return base64.urlsafe_b64encode(f"page:{index}".encode()).decode()


def read_cursor(text: str) -> int | None:
    """Return the position that a cursor names; None if the text is not a cursor of this server."""
    try:
        kind, _, index = base64.urlsafe_b64decode(text.encode()).decode().partition(":")
        return int(index) if kind == "page" else None
    except ValueError:
        return None


def _item(shown: Item, secret_text: str | None) -> dict[str, Any]:
    return {
        "id": shown.id,
        "type": "work",
        "state": shown.state,
        "data": {"type": shown.data_type, "id": shown.data_id},
        "environment_id": shown.environment_id,
        "created_at": instants.write(shown.created_at),
        "acknowledged_at": _written(shown.acknowledged_at),
        "started_at": _written(shown.started_at),
        "latest_heartbeat_at": shown.value,
        "stop_requested_at": _written(shown.stop_requested_at),
        "stopped_at": _written(shown.stopped_at),
        "metadata": dict(shown.metadata),
        "secret": secret_text,
        "actor": None,
    }


def _written(instant: int | None) -> str | None:
    return None if instant is None else instants.write(instant)
