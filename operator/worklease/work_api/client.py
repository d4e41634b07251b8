"""The Work API: a request out, an outcome value back; nothing raised for what can happen.

Owns HTTP to the remote side: addresses, headers, time-outs, and what an answer is called. Must not decide anything
about a lease, and must not retry: the lease sets the pace.
"""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import lru_cache
from http import HTTPStatus
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Annotated, Any, Final, Self
from urllib.parse import quote, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_core import from_json
from yarl import URL

from worklease.api.models import LONGEST_HEARTBEAT
from worklease.rules.beats import Beat
from worklease.rules.outcomes import (
    Answered,
    Conflicted,
    Current,
    Exchange,
    ListedItem,
    Missing,
    NotReady,
    Outcome,
    Rejected,
    Throttled,
    Unanswered,
    Unauthorized,
    Unsent,
)
from worklease.telemetry import SILENT, CallRefused, Publisher, WorkApiCall

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

PAGE: Final = 50
"""Work items asked for at once; servers allow at least so many."""

MOST_PAGES: Final = 100
"""Pages of a list that are read: an environment with more items in it than that has another trouble."""

LONGEST_PAGE: Final = 1024 * 1024
"""Bytes read of one page: twenty kilobytes for each of its items."""

LONGEST_TTL: Final = 1e9
"""Seconds, thirty years: more is a mistake, and would end beyond the calendar."""

LONGEST_QUOTE: Final = 300
"""Characters of the server's own words in a message."""


_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WorkItem:
    """A work item's address, and the key that speaks for it."""

    environment_id: str
    work_id: str
    key: SecretStr

    @property
    def path(self) -> str:
        """The path of the item, its ids escaped."""
        return _path(self.environment_id, self.work_id)


@lru_cache(maxsize=32_768)  # more than an operator keeps leases: each is asked for at every beat
def _path(environment_id: str, work_id: str) -> str:
    return f"/v1/environments/{quote(environment_id, safe='')}/work/{quote(work_id, safe='')}"


@dataclass(frozen=True, slots=True)
class StopAcknowledged:
    """The server took the stop; ``state`` is the item's, where the answer said it."""

    state: str | None


@dataclass(frozen=True, slots=True)
class StopNotAcknowledged:
    """The stop was refused, or nobody knows whether it was heard: it is to be sent again."""

    message: str
    unauthorized: bool = False
    retry_after: float | None = None
    """Seconds for which the server wants to be left alone (``Retry-After``)."""
    in_doubt: bool = False
    """Whether it may have been applied all the same."""


StopOutcome = StopAcknowledged | StopNotAcknowledged


class _Heartbeat(BaseModel):
    """What a 200 must have to be an answer (Record Heartbeat reference); unknown keys are ignored."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)

    last_heartbeat: Annotated[str, Field(max_length=LONGEST_HEARTBEAT)]
    lease_extended: bool
    state: str
    ttl_seconds: Annotated[float, Field(ge=0, le=LONGEST_TTL)]


class _Current(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)

    last_heartbeat: Annotated[str, Field(max_length=LONGEST_HEARTBEAT)] | None
    state: str
    ttl_seconds: Annotated[float, Field(ge=0, le=LONGEST_TTL)] | None = None


class _Listed(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)

    id: str
    state: str
    started_at: str | None = None
    latest_heartbeat_at: str | None = None


class _Page(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)

    data: list[_Listed]
    next_page: str | None = None


@dataclass(slots=True)
class _Wire:
    """Whether anything of a request was handed to its connection: before that, the server surely knows nothing."""

    begun: bool = False


_WIRE: Final[ContextVar[_Wire]] = ContextVar("wire")


class _Request(aiohttp.ClientRequest):
    """A request that says when it is handed to its connection.

    Exceptions do not tell as much, least of all a time-out; a trace of aiohttp's would, at a tenth of a beat's cost.
    """

    async def send(self, conn: aiohttp.connector.Connection) -> aiohttp.ClientResponse:
        """Send it; nothing of it was sent before."""
        if (wire := _WIRE.get(None)) is not None:
            wire.begun = True
        return await super().send(conn)


@dataclass(frozen=True, slots=True)
class _Response:
    """An answer, read to its end."""

    status: int
    headers: Mapping[str, str]
    """By their names, upper or lower case alike."""
    content: bytes


class WorkApi:
    """One pool of connections to the Work API, opened at the first call.

    httpx speaks over it, but for beats: what it builds for a request costs more than the request. So beats are handed
    to the pool itself.
    """

    def __init__(self, url: str, clock: Callable[[], float], publisher: Publisher = SILENT) -> None:
        self._publisher = publisher
        self._url = url.rstrip("/")
        self._clock = clock
        self._opened: aiohttp.ClientSession | None = None
        self._client = httpx.AsyncClient(
            transport=AiohttpTransport(client=lambda: self._pool),
            headers=HEADERS,
            # What one lease's answer says must not go out with another's call: so no cookies.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
            timeout=None,  # noqa: S113 (each call has its own time-out)
            follow_redirects=False,
        )

    async def __aenter__(self) -> Self:
        """Open nothing yet: connections are made when needed."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close all connections."""
        await self._client.aclose()
        if self._opened is not None:
            await self._opened.close()

    @property
    def _pool(self) -> aiohttp.ClientSession:
        if self._opened is None:
            self._opened = _open_session(self._url)
        return self._opened

    async def heartbeat(self, item: WorkItem, beat: Beat) -> Outcome:
        """Send one heartbeat and say what came of it (Record Heartbeat reference)."""
        query = f"?expected_last_heartbeat={quote(beat.expected, safe='')}"
        if beat.desired_ttl is not None:
            query += f"&desired_ttl_seconds={beat.desired_ttl}"
        wire = _Wire()
        _WIRE.set(wire)
        sent = self._clock()
        try:
            async with asyncio.timeout(beat.timeout):
                response = await self._beat(f"{item.path}/{WorkApiCall.HEARTBEAT}{query}", item.key)
        except _FAILURES as error:
            exchange = Exchange(sent=sent, done=self._clock())
            message = _plain(self._in_words(error, beat.timeout), item.key)
            return Unanswered(exchange, message) if wire.begun else Unsent(exchange, message)
        exchange = Exchange(sent=sent, done=self._clock(), date=_date(response.headers.get("date")))
        return _outcome(exchange, response, item.key)

    async def stop(self, item: WorkItem, *, force: bool, timeout: float) -> StopOutcome:  # noqa: ASYNC109 (the lease says how long)
        """Ask for the item's stop: gracefully, or at once as a worker confirms it.

        Answers of 200, 204 and 409 all count as heard: only the item's state tells whether it is stopped.
        """
        wire = _Wire()
        _WIRE.set(wire)
        try:
            async with asyncio.timeout(timeout):
                path = f"{item.path}/{WorkApiCall.STOP}"
                response = await self._call(WorkApiCall.STOP, path, item.key, LONGEST_ANSWER, json={"force": force})
        except _FAILURES as error:
            return StopNotAcknowledged(_plain(self._in_words(error, timeout), item.key), in_doubt=wire.begun)
        match response.status:
            case HTTPStatus.OK | HTTPStatus.NO_CONTENT | HTTPStatus.CONFLICT:
                state = _json(response).get("state")
                return StopAcknowledged(state if isinstance(state, str) else None)
            case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN:
                return StopNotAcknowledged(_said(response, item.key), unauthorized=True)
            case status:
                is_server = status >= HTTPStatus.INTERNAL_SERVER_ERROR or status == HTTPStatus.REQUEST_TIMEOUT
                said = _said(response, item.key)
                return StopNotAcknowledged(said, retry_after=_retry_after(response), in_doubt=is_server)

    async def items(self, environment_id: str, key: SecretStr, *, timeout: float) -> Mapping[str, ListedItem] | None:  # noqa: ASYNC109 (the lease says how long)
        """List an environment's work items, by id: the neutral read. None if the list cannot be had, or not whole."""
        path = f"/v1/environments/{quote(environment_id, safe='')}/work"
        found: dict[str, ListedItem] = {}
        page: str | None = None
        try:
            async with asyncio.timeout(timeout):
                for _ in range(MOST_PAGES):
                    asked = {"limit": str(PAGE)} | ({} if page is None else {"page": page})
                    response = await self._call(WorkApiCall.LIST, path, key, LONGEST_PAGE, params=asked)
                    if response.status != HTTPStatus.OK:
                        _log.warning("list refused environment=%s: %s", environment_id, _said(response, key))
                        return None
                    read = _Page.model_validate_json(response.content)
                    found |= {
                        each.id: ListedItem(each.state, each.started_at, each.latest_heartbeat_at) for each in read.data
                    }
                    page = read.next_page
                    if not page:
                        return found
        except _FAILURES as error:
            why = "it could not be read" if isinstance(error, ValidationError) else self._in_words(error, timeout)
            _log.warning("list not had environment=%s: %s", environment_id, _plain(why, key))
        return None

    async def _beat(self, path: str, key: SecretStr) -> _Response:
        """Send a beat by the pool itself."""
        headers = {"authorization": f"Bearer {key.get_secret_value()}"}
        # Already escaped: to parse it once more would cost as much as all the rest of the request's making.
        url = URL(f"{self._url}{path}", encoded=True)
        async with self._pool.post(url, headers=headers, allow_redirects=False) as response:
            content = await _read(response.content.iter_any(), LONGEST_ANSWER)
            return self._note(WorkApiCall.HEARTBEAT, _Response(response.status, response.headers, content))

    async def _call(self, call: WorkApiCall, path: str, key: SecretStr, longest: int, **content: Any) -> _Response:
        method = "GET" if call is WorkApiCall.LIST else "POST"
        headers = {"authorization": f"Bearer {key.get_secret_value()}"}
        async with self._client.stream(method, f"{self._url}{path}", headers=headers, **content) as response:
            body = await _read(response.aiter_bytes(), longest)
            return self._note(call, _Response(response.status_code, response.headers, body))

    def _note(self, call: WorkApiCall, response: _Response) -> _Response:
        if response.status >= HTTPStatus.BAD_REQUEST:
            self._publisher.publish(CallRefused(call, response.status))
        return response

    def _in_words(self, error: BaseException, seconds: float) -> str:
        """Say why there is no answer, and what to look at."""
        # httpx's exceptions come from aiohttp's, which say more; a time-out comes from a cancellation, which says less.
        cause = error.__cause__ if isinstance(error, httpx.HTTPError) and error.__cause__ is not None else error
        match cause:
            case TimeoutError():
                return f"the Work API at {self._url} gave no answer within {seconds:.1f} s"
            case aiohttp.ClientConnectorError():
                why = cause.os_error.strerror or str(cause.os_error) or type(cause).__name__
                return f"the Work API at {self._url} cannot be reached: {why}; check WORKLEASE_API_URL and the network"
            case httpx.InvalidURL() | aiohttp.InvalidURL() | UnicodeError() | ValueError():
                return f"the Work API at {self._url} cannot be reached: it is no address; check WORKLEASE_API_URL"
            case aiohttp.ClientHttpProxyError():
                return f"the Work API at {self._url} cannot be reached: the proxy answered {cause.status}"
            case _:
                return f"the Work API at {self._url} broke off: {str(cause) or type(cause).__name__}"


def _open_session(url: str) -> aiohttp.ClientSession:
    """Open aiohttp's pool: unbounded, since the budget bounds what is in flight; the proxy by the environment.

    Not by ``trust_env``: that would look for a password in ~/.netrc, refuse to send a key beside it, and need two
    threads of the pool for each request, which a slow name server can use up for all leases.
    """
    parts = urlsplit(url)
    proxy = None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE)
    return aiohttp.ClientSession(
        connector=connector,
        proxy=proxy,
        headers=HEADERS,
        # What one lease's answer says must not go out with another's beat.
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=("accept", "content-type"),
        timeout=aiohttp.ClientTimeout(),  # each call has its own
        request_class=_Request,
    )


async def _read(chunks: AsyncIterator[bytes], longest: int) -> bytes:
    """Read an answer to its end, if it has one within so many bytes."""
    content = b""
    async for chunk in chunks:
        content += chunk
        if len(content) > longest:
            raise aiohttp.ClientPayloadError(f"the answer is longer than {longest} bytes")
    return content


_FAILURES: Final = (
    *(httpx.HTTPError, aiohttp.ClientError, TimeoutError, OSError),
    *(httpx.InvalidURL, ValueError),  # what an address provokes that can be no host's name
)


def _plain(words: str, key: SecretStr) -> str:
    """Bring others' words into one line, and take the key out of them: some servers repeat what they were sent."""
    secret = key.get_secret_value()
    told = words.replace(secret, str(key)) if secret else words
    return " ".join("".join(letter if letter.isprintable() else " " for letter in told).split())


def _outcome(exchange: Exchange, response: _Response, key: SecretStr) -> Outcome:
    match response.status:
        case HTTPStatus.OK:
            return _answer(exchange, response)
        case HTTPStatus.PRECONDITION_FAILED:
            return Conflicted(exchange, _current(response))
        case _:
            return _refusal(exchange, response, _said(response, key))


def _refusal(exchange: Exchange, response: _Response, said: str) -> Outcome:
    match response.status:
        case HTTPStatus.CONFLICT:
            return NotReady(exchange, said)
        case HTTPStatus.NOT_FOUND:
            return Missing(exchange, said)
        case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN:
            return Unauthorized(exchange, said)
        case HTTPStatus.TOO_MANY_REQUESTS:
            return Throttled(exchange, said, _retry_after(response))
        case HTTPStatus.REQUEST_TIMEOUT:
            return Unanswered(exchange, said, _retry_after(response))
        case status if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return Unanswered(exchange, said, _retry_after(response))
        case status if HTTPStatus.OK < status < HTTPStatus.MULTIPLE_CHOICES:
            return Unanswered(exchange, f"{said}, which is no answer to a heartbeat")
        case _:
            return Rejected(exchange, said)


def _answer(exchange: Exchange, response: _Response) -> Outcome:
    try:
        read = _Heartbeat.model_validate_json(response.content)
    except ValidationError as error:
        fields = ", ".join(sorted({str(part["loc"][0]) for part in error.errors() if part["loc"]})) or "the body"
        return Unanswered(exchange, f"the answer to a heartbeat could not be read: {fields}")
    return Answered(exchange, read.last_heartbeat, read.state, read.lease_extended, read.ttl_seconds)


def _current(response: _Response) -> Current | None:
    """Read ``error.details.current_state``; parts of it may be missing, and then nothing is decided by it."""
    error = _json(response).get("error")
    details = error.get("details") if isinstance(error, dict) else None
    try:
        read = _Current.model_validate(details.get("current_state") if isinstance(details, dict) else None)
    except ValidationError:
        return None
    return Current(read.last_heartbeat, read.state, read.ttl_seconds)


def _json(response: _Response) -> Mapping[str, Any]:
    try:
        body = from_json(response.content)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _said(response: _Response, key: SecretStr) -> str:
    """Quote the server: its status, its message, and the id under which its owners find the request."""
    error = _json(response).get("error")
    words = error.get("message") if isinstance(error, dict) else None
    request = response.headers.get("request-id")
    return "".join(
        (
            f"the Work API answered {response.status}",
            f" ({_plain(str(words), key)[:LONGEST_QUOTE]})" if words else "",
            f", request-id {_plain(request, key)[:LONGEST_QUOTE]}" if request else "",
        )
    )


@lru_cache(maxsize=16)  # a busy server says the same second many times
def _date(header: str | None) -> float | None:
    if header is None:
        return None
    try:
        read = parsedate_to_datetime(header)
    except ValueError:
        return None
    # HTTP's dates are in UTC, even where their form does not say so.
    return (read if read.tzinfo is not None else read.replace(tzinfo=UTC)).timestamp()


def _retry_after(response: _Response) -> float | None:
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
