"""The calls about an environment's queue and its sessions: poll, ack, stats, a session's status.

Owns their parameters and the shapes of their answers. Must not retry or decide, and must not show an item's token.
"""

import base64
import binascii
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Annotated, Final, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_core import from_json, to_json

from worklease.api.models import LARGEST_INTEGER
from worklease.rules.queue import (
    AckAccepted,
    AckConflicted,
    AckOutcome,
    CallFailed,
    IdleReason,
    NothingQueued,
    QueuedItem,
    QueueFailure,
    QueueNumbers,
    SessionState,
)
from worklease.rules.words import one_line
from worklease.telemetry import WorkApiCall
from worklease.work_api import responses
from worklease.work_api.client import Lost, WorkApi, WorkItem, escaped
from worklease.work_api.responses import Response

LONGEST_EVENTS: Final = 256 * 1024
"""Bytes read of one event at most: it says why a session is idle, and quotes no output of tools."""

WORKER_ID: Final = "anthropic-worker-id"
"""The header that names the worker of a poll: the server counts workers by it."""

_Word = Annotated[str, Field(max_length=256), AfterValidator(one_line)]


@dataclass(frozen=True, slots=True)
class Polled:
    """An item that a poll reserved, and its token, which only a poll gives."""

    item: QueuedItem
    token: SecretStr | None = field(repr=False)


PollOutcome = Polled | NothingQueued | CallFailed


class _Answer(BaseModel):
    """The part of an answer that is needed; unknown keys are ignored."""

    model_config = ConfigDict(frozen=True, strict=True, hide_input_in_errors=True)


class _Data(_Answer):
    type: str
    id: str


class _Item(_Answer):
    id: Annotated[str, Field(min_length=1)]
    data: _Data
    environment_id: str
    created_at: str | None = None
    started_at: str | None = None
    secret: object = None  # whatever it is, it costs nobody the item


class _Stats(_Answer):
    depth: Annotated[int, Field(ge=0, le=LARGEST_INTEGER)]
    pending: Annotated[int, Field(ge=0, le=LARGEST_INTEGER)]
    oldest_queued_at: str | None = None
    workers_polling: Annotated[int, Field(ge=0, le=LARGEST_INTEGER)] | None = None


class _Session(_Answer):
    status: _Word
    archived_at: str | None = None


class _StopReason(_Answer):
    type: _Word


class _IdleEvent(_Answer):
    id: _Word | None = None
    stop_reason: _StopReason | None = None


class _Events(_Answer):
    data: list[_IdleEvent]


_Read = TypeVar("_Read", bound=_Answer)


class QueueCalls:
    """The calls, over the connections of ``WorkApi``; ``worker_id`` names this process."""

    def __init__(self, work_api: WorkApi, worker_id: str) -> None:
        self._work_api = work_api
        self._headers = {WORKER_ID: worker_id}

    async def poll(
        self,
        environment_id: str,
        key: SecretStr,
        *,
        block_ms: int,
        reclaim_older_than_ms: int,
        timeout: float,  # noqa: ASYNC109 (the pool says how long)
    ) -> PollOutcome:
        """Ask for an item. It stays in the queue, and is offered again unless it is acknowledged."""
        asked = {"block_ms": str(block_ms), "reclaim_older_than_ms": str(reclaim_older_than_ms)}
        path = f"/v1/environments/{escaped(environment_id)}/work/{WorkApiCall.POLL}"
        response = await self._work_api.ask(
            WorkApiCall.POLL, path, key, timeout=timeout, params=asked, headers=self._headers
        )
        match response:
            case Response(HTTPStatus.NO_CONTENT):
                return NothingQueued()
            case Response(HTTPStatus.OK):
                return _polled(response)
            case _:
                return _failed(response, key)

    async def ack(self, item: WorkItem, *, timeout: float) -> AckOutcome:  # noqa: ASYNC109 (the lease says how long)
        """Acknowledge an item: it leaves the queue."""
        path = f"{item.path}/{WorkApiCall.ACK}"
        response = await self._work_api.ask(WorkApiCall.ACK, path, item.key, timeout=timeout)
        match response:
            case Response(HTTPStatus.OK | HTTPStatus.NO_CONTENT):
                return AckAccepted()
            case Response(HTTPStatus.CONFLICT):
                return AckConflicted(responses.quote(response, item.key))
            case _:
                return _failed(response, item.key)

    async def stats(
        self,
        environment_id: str,
        key: SecretStr,
        *,
        timeout: float,  # noqa: ASYNC109 (the pool says how long)
    ) -> QueueNumbers | CallFailed:
        """Return the numbers of an environment's queue."""
        path = f"/v1/environments/{escaped(environment_id)}/work/{WorkApiCall.STATS}"
        response = await self._work_api.ask(WorkApiCall.STATS, path, key, timeout=timeout)
        read = _read(_Stats, response, key, "the queue's numbers")
        if isinstance(read, CallFailed):
            return read
        return QueueNumbers(read.depth, read.pending, read.oldest_queued_at, read.workers_polling)

    async def session(
        self,
        session_id: str,
        key: SecretStr,
        *,
        timeout: float,  # noqa: ASYNC109 (the lease says how long)
    ) -> SessionState | CallFailed:
        """Return what a session does; ``NOT_FOUND``: it does not exist any more."""
        path = f"/v1/sessions/{escaped(session_id)}"
        response = await self._work_api.ask(WorkApiCall.SESSION, path, key, timeout=timeout)
        read = _read(_Session, response, key, "the session")
        if isinstance(read, CallFailed):
            return read
        return SessionState(read.status, read.archived_at is not None)

    async def idle_reason(
        self,
        session_id: str,
        key: SecretStr,
        *,
        timeout: float,  # noqa: ASYNC109 (the lease says how long)
    ) -> IdleReason | CallFailed:
        """Return why a session is idle: the session itself does not say whether it waits for a confirmation."""
        path = f"/v1/sessions/{escaped(session_id)}/events"
        asked = {"types[]": "session.status_idle", "order": "desc", "limit": "1"}
        response = await self._work_api.ask(
            WorkApiCall.SESSION, path, key, timeout=timeout, longest=LONGEST_EVENTS, params=asked
        )
        read = _read(_Events, response, key, "the session's events")
        if isinstance(read, CallFailed):
            return read
        if not read.data:
            return IdleReason(None)
        event, reason = read.data[0], read.data[0].stop_reason
        return IdleReason(None if reason is None else reason.type, event.id)


def work_secret(token: SecretStr) -> str:
    """Return the work secret of workers behind the proxy: url-safe base64 of the token's JSON, and nothing else."""
    return base64.urlsafe_b64encode(to_json({"sessions_token": token.get_secret_value()})).decode()


def _read(model: type[_Read], response: Response | Lost, key: SecretStr, what: str) -> _Read | CallFailed:
    """Read the answer to a call that changes nothing; ``what`` it is, for the message if it cannot be read."""
    if isinstance(response, Lost) or response.status != HTTPStatus.OK:
        return _failed(response, key)
    try:
        return model.model_validate_json(response.content)
    except ValidationError:
        return CallFailed(QueueFailure.UNANSWERED, f"{what} could not be read")


def _polled(response: Response) -> PollOutcome:
    """Read a poll's answer. An item that cannot be read is left in the queue: nothing of it is acknowledged."""
    if response.content.strip() in {b"", b"null", b"{}"}:
        return NothingQueued()
    try:
        read = _Item.model_validate_json(response.content)
    except ValidationError as error:
        fields = sorted({".".join(map(str, part["loc"])) for part in error.errors() if part["loc"]})
        message = f"the answer to a poll could not be read: {', '.join(fields) or 'the body'}"
        return CallFailed(QueueFailure.UNANSWERED, message)
    item = QueuedItem(
        id=read.id,
        environment_id=read.environment_id,
        data_type=read.data.type,
        data_id=read.data.id,
        created_at=read.created_at,
        started_at=read.started_at,
    )
    return Polled(item, _token(read.secret))


def _token(secret: object) -> SecretStr | None:
    """Return the token in an item's secret, "url-safe base64 of JSON, padding may be missing"; None if it has none."""
    if not isinstance(secret, str):
        return None
    try:
        told = from_json(base64.urlsafe_b64decode(secret + "=" * (-len(secret) % 4)))
    except (ValueError, binascii.Error):
        return None
    token = told.get("sessions_token") if isinstance(told, dict) else None
    return SecretStr(token) if isinstance(token, str) and token.isprintable() and token else None


def _failed(response: Response | Lost, key: SecretStr) -> CallFailed:
    """Return why a call brought nothing. A 404 counts in the API's own words only: gateways answer 404 as well."""
    if isinstance(response, Lost):
        return CallFailed(QueueFailure.UNANSWERED if response.was_begun else QueueFailure.UNSENT, response.message)
    said, after = responses.quote(response, key), responses.retry_after(response)
    match response.status:
        case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN:
            return CallFailed(QueueFailure.UNAUTHORIZED, said)
        case HTTPStatus.NOT_FOUND if responses.is_not_found(response):
            return CallFailed(QueueFailure.NOT_FOUND, said)
        case HTTPStatus.NOT_FOUND:
            words = f"{said}, but not in the API's own words: something between answered; check WORKLEASE_API_URL"
            return CallFailed(QueueFailure.UNANSWERED, words)
        case HTTPStatus.TOO_MANY_REQUESTS:
            return CallFailed(QueueFailure.THROTTLED, said, after)
        case HTTPStatus.SERVICE_UNAVAILABLE if after is not None:
            return CallFailed(QueueFailure.THROTTLED, said, after)
        case status if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status == HTTPStatus.REQUEST_TIMEOUT:
            return CallFailed(QueueFailure.UNANSWERED, said, after)
        case status if status < HTTPStatus.BAD_REQUEST:
            return CallFailed(QueueFailure.UNANSWERED, f"{said}, which is no answer to this call")
        case _:
            return CallFailed(QueueFailure.REJECTED, said)
