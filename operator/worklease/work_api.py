"""The Work API: a request out, an outcome value back; nothing raised for what can happen.

Owns HTTP to the remote side: addresses, headers, time-outs, and what an answer is called. Must not decide anything
about a lease, and must not retry: the lease sets the pace.
"""

import asyncio
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import lru_cache
from http import HTTPStatus
from typing import Annotated, Any, Final, Self
from urllib.parse import quote

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from worklease.lease import Beat
from worklease.outcomes import (
    Answered,
    Conflicted,
    Current,
    Exchange,
    Missing,
    NotReady,
    Outcome,
    Rejected,
    Throttled,
    Unanswered,
    Unauthorized,
    Unsent,
)

HEADERS: Final = {
    "anthropic-version": "2023-06-01",
    "anthropic-beta": "managed-agents-2026-04-01",
    "user-agent": "worklease-operator",
    "accept-encoding": "identity",  # two hundred bytes are not worth packing
}

KEEP_ALIVE: Final = 75.0
"""Seconds an idle connection is kept: longer than the longest pause between beats of a small fleet."""

LONGEST_ANSWER: Final = 64 * 1024
"""Bytes read of an answer. A heartbeat's is some two hundred; what is longer is not one."""

LONGEST_QUOTE: Final = 300
"""Characters of the server's own words in a message."""


@dataclass(frozen=True, slots=True)
class Item:
    """A work item's address, and the key that speaks for it."""

    environment_id: str
    work_id: str
    key: SecretStr

    @property
    def path(self) -> str:
        """The path of the item, its ids escaped."""
        return f"/v1/environments/{quote(self.environment_id, safe='')}/work/{quote(self.work_id, safe='')}"


@dataclass(frozen=True, slots=True)
class StopHeard:
    """The server took the stop; ``state`` is the item's, where the answer said it."""

    state: str | None


@dataclass(frozen=True, slots=True)
class StopUnheard:
    """The stop was refused, or nobody knows whether it was heard: it is to be sent again."""

    message: str
    unauthorized: bool = False


StopOutcome = StopHeard | StopUnheard


class _Heartbeat(BaseModel):
    """What a 200 must have to be an answer (Record Heartbeat reference); unknown keys are ignored."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)

    last_heartbeat: str
    lease_extended: bool
    state: str
    ttl_seconds: Annotated[float, Field(ge=0)]


class _Current(BaseModel):
    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    last_heartbeat: str | None
    state: str
    ttl_seconds: float | None = None


class WorkApi:
    """One pool of connections to the Work API."""

    def __init__(self, url: str, clock: Callable[[], float]) -> None:
        self._url = url.rstrip("/")
        self._clock = clock
        transport = AiohttpTransport(client=_open_session)
        self._client = httpx.AsyncClient(transport=transport, headers=HEADERS, timeout=None, follow_redirects=False)  # noqa: S113 (each call has its own time-out)

    async def __aenter__(self) -> Self:
        """Open nothing yet: connections are made when needed."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def heartbeat(self, item: Item, beat: Beat) -> Outcome:
        """Send one heartbeat and say what came of it (Record Heartbeat reference)."""
        parameters: dict[str, str | int] = {"expected_last_heartbeat": beat.expected}
        if beat.desired_ttl is not None:
            parameters["desired_ttl_seconds"] = beat.desired_ttl
        sent = self._clock()
        try:
            response = await self._post(item, "heartbeat", beat.timeout, params=parameters)
        except _FAILURES as error:
            exchange = Exchange(sent=sent, done=self._clock())
            message = f"{self._url}: {_in_words(error, beat.timeout)}"
            return Unsent(exchange, message) if _surely_unsent(error) else Unanswered(exchange, message)
        exchange = Exchange(sent=sent, done=self._clock(), date=_date(response.headers.get("date")))
        return _outcome(exchange, response)

    async def stop(self, item: Item, *, force: bool, timeout: float) -> StopOutcome:  # noqa: ASYNC109 (the lease says how long)
        """Ask for the item's stop: gracefully, or at once as a worker confirms it.

        Answers of 200, 204 and 409 all count as heard: only the item's state tells whether it is stopped.
        """
        try:
            response = await self._post(item, "stop", timeout, json={"force": force})
        except _FAILURES as error:
            return StopUnheard(f"{self._url}: {_in_words(error, timeout)}")
        match response.status_code:
            case HTTPStatus.OK | HTTPStatus.NO_CONTENT | HTTPStatus.CONFLICT:
                state = _json(response).get("state")
                return StopHeard(state if isinstance(state, str) else None)
            case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN:
                return StopUnheard(_said(response), unauthorized=True)
            case _:
                return StopUnheard(_said(response))

    async def _post(self, item: Item, call: str, seconds: float, **content: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {item.key.get_secret_value()}"}
        async with (
            asyncio.timeout(seconds),
            self._client.stream("POST", f"{self._url}{item.path}/{call}", headers=headers, **content) as response,
        ):
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > LONGEST_ANSWER:
                    raise httpx.DecodingError(f"the answer is longer than {LONGEST_ANSWER} bytes")
            # The body is unpacked by now, so the header that says it is packed stays behind.
            headers_read = [
                (name, value) for name, value in response.headers.raw if name.lower() != b"content-encoding"
            ]
            return httpx.Response(response.status_code, headers=headers_read, content=bytes(body))


def _open_session() -> aiohttp.ClientSession:
    """Open aiohttp's pool: unbounded, since the budget bounds what is in flight; proxies by the environment."""
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE)
    return aiohttp.ClientSession(connector=connector, trust_env=True, cookie_jar=aiohttp.DummyCookieJar())


_FAILURES: Final = (httpx.HTTPError, aiohttp.ClientError, TimeoutError, OSError)


def _surely_unsent(error: BaseException) -> bool:
    """Tell whether the connection was never made.

    The transport maps a connection that broke *after* sending to a ``ConnectTimeout`` as well, so only aiohttp's own
    exception beneath it is believed.
    """
    return isinstance(error.__cause__, aiohttp.ClientConnectorError) or isinstance(error, aiohttp.ClientConnectorError)


def _in_words(error: BaseException, seconds: float) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {seconds:.1f} s"
    return str(error) or type(error.__cause__ or error).__name__


def _outcome(exchange: Exchange, response: httpx.Response) -> Outcome:
    match response.status_code:
        case HTTPStatus.OK:
            return _answer(exchange, response)
        case HTTPStatus.PRECONDITION_FAILED:
            return Conflicted(exchange, _current(response))
        case HTTPStatus.CONFLICT:
            return NotReady(exchange, _said(response))
        case HTTPStatus.NOT_FOUND:
            return Missing(exchange, _said(response))
        case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN:
            return Unauthorized(exchange, _said(response))
        case HTTPStatus.TOO_MANY_REQUESTS:
            return Throttled(exchange, _said(response), _retry_after(response))
        case HTTPStatus.REQUEST_TIMEOUT:
            return Unanswered(exchange, _said(response), _retry_after(response))
        case status if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return Unanswered(exchange, _said(response), _retry_after(response))
        case status if HTTPStatus.OK < status < HTTPStatus.MULTIPLE_CHOICES:
            return Unanswered(exchange, f"{_said(response)}, which is no answer to a heartbeat")
        case _:
            return Rejected(exchange, _said(response))


def _answer(exchange: Exchange, response: httpx.Response) -> Outcome:
    try:
        read = _Heartbeat.model_validate_json(response.content)
    except ValidationError as error:
        fields = ", ".join(sorted({str(part["loc"][0]) for part in error.errors() if part["loc"]})) or "the body"
        return Unanswered(exchange, f"the answer to a heartbeat could not be read: {fields}")
    return Answered(exchange, read.last_heartbeat, read.state, read.lease_extended, read.ttl_seconds)


def _current(response: httpx.Response) -> Current | None:
    """Read ``error.details.current_state``; parts of it may be missing, and then nothing is decided by it."""
    error = _json(response).get("error")
    details = error.get("details") if isinstance(error, dict) else None
    try:
        read = _Current.model_validate(details.get("current_state") if isinstance(details, dict) else None)
    except ValidationError:
        return None
    return Current(read.last_heartbeat, read.state, read.ttl_seconds)


def _json(response: httpx.Response) -> Mapping[str, Any]:
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _said(response: httpx.Response) -> str:
    """Quote the server: its status, its message, and the id under which its owners find the request."""
    error = _json(response).get("error")
    words = error.get("message") if isinstance(error, dict) else None
    request = response.headers.get("request-id")
    return "".join(
        (
            f"the Work API answered {response.status_code}",
            f" ({str(words)[:LONGEST_QUOTE]})" if words else "",
            f", request-id {request[:LONGEST_QUOTE]}" if request else "",
        )
    )


@lru_cache(maxsize=16)  # a busy server says the same second many times
def _date(header: str | None) -> float | None:
    if header is None:
        return None
    try:
        return parsedate_to_datetime(header).timestamp()
    except ValueError:
        return None


def _retry_after(response: httpx.Response) -> float | None:
    """Read ``Retry-After`` in seconds: a number, or a date, which counts from the answer's own ``Date``."""
    header = response.headers.get("retry-after")
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        until, now = _date(header), _date(response.headers.get("date"))
        return max(0.0, until - now) if until is not None and now is not None else None
    return max(0.0, seconds) if math.isfinite(seconds) else None
