"""Requests and server answers for tests of the Work API's client.

This module must not assert.
"""

from http import HTTPStatus

from pydantic import SecretStr

from support.scripted_server import Answer
from worklease.rules.beats import Beat
from worklease.rules.outcomes import Answered, Conflicted, Outcome
from worklease.work_api.client import StopAcknowledged, StopNotAcknowledged, WorkItem

KEY = "sk-ant-oat01-a-key-that-nobody-may-see"
ITEM = WorkItem("env_1", "work_1", SecretStr(KEY))
VALUE = "2026-11-22T03:52:26.172343Z"
RENEWED = {
    "type": "work_heartbeat",
    "last_heartbeat": VALUE,
    "lease_extended": True,
    "state": "active",
    "ttl_seconds": 300,
}
NOON = 1_795_348_800.0  # 2026-11-22T12:00:00Z
DATE = "Sun, 22 Nov 2026 12:00:00 GMT"


def beat(expected: str = "NO_HEARTBEAT", desired: int | None = None, timeout: float = 20.0) -> Beat:
    return Beat(expected, desired, timeout)


def renewed(**changes: object) -> Answer:
    return Answer(body=RENEWED | changes)


def refusal(status: int, message: str = "no", **headers: str) -> Answer:
    kind = "not_found_error" if status == HTTPStatus.NOT_FOUND else "invalid_request_error"
    body = {"type": "error", "error": {"type": kind, "message": message}}
    return Answer(status=status, body=body, headers={name.replace("_", "-"): value for name, value in headers.items()})


def message_of(outcome: Outcome | StopAcknowledged | StopNotAcknowledged) -> str:
    assert not isinstance(outcome, Answered | Conflicted | StopAcknowledged)
    return outcome.message


CURRENT = {"state": "active", "last_heartbeat": VALUE, "lease_extended": False, "ttl_seconds": 300}


def conflict(details: object) -> Answer:
    return Answer(status=412, body={"type": "error", "error": {"message": "no", "details": details}})
