"""The Work API: a request out, an outcome value back; nothing is raised for what can happen.

Owns HTTP to the Work API: addresses, headers, time-outs, and connections. Must not decide anything about a lease, and
must not retry: the lease sets the pace.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Final, Self
from urllib.parse import quote, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport
from pydantic import SecretStr, ValidationError
from yarl import URL

from worklease.rules.beats import Beat
from worklease.rules.outcomes import Exchange, ListedItem, ListNotRead, ListRefused, Outcome, Unanswered, Unsent
from worklease.rules.words import one_line
from worklease.telemetry import SILENT, CallRefused, Publisher, WorkApiCall
from worklease.work_api import responses
from worklease.work_api.responses import Response

HEADERS: Final = {
    "anthropic-version": "2023-06-01",
    "anthropic-beta": "managed-agents-2026-04-01",
    "user-agent": "worklease-operator",
    "accept-encoding": "identity",  # two hundred bytes are not worth packing
}

KEEP_ALIVE: Final = 75.0
"""Seconds that an idle connection is kept: longer than the longest pause between beats of a small fleet."""

LONGEST_ANSWER: Final = 64 * 1024
"""Bytes read of an answer at most: the answer to a heartbeat has some two hundred."""

PAGE: Final = 100
"""Work items asked for in one call: the most that every known server gives."""

LONGEST_PAGE: Final = 2 * 1024 * 1024
"""Bytes read of one page at most: twenty kilobytes for each of its items."""


@dataclass(frozen=True, slots=True)
class WorkItem:
    """A work item's address, and the key that authenticates calls about it."""

    environment_id: str
    work_id: str
    key: SecretStr

    @property
    def path(self) -> str:
        """The path of the item, its ids escaped."""
        return _path(self.environment_id, self.work_id)


@lru_cache(maxsize=32_768)  # more than an operator keeps leases: each is asked for at every beat
def _path(environment_id: str, work_id: str) -> str:
    return f"/v1/environments/{escaped(environment_id)}/work/{escaped(work_id)}"


def escaped(name: str) -> str:
    """Return an id as a part of a path."""
    return quote(name, safe="")


@dataclass(frozen=True, slots=True)
class StopAcknowledged:
    """The server has acknowledged the stop; ``state`` is the item's, where the answer said it."""

    state: str | None


@dataclass(frozen=True, slots=True)
class StopNotAcknowledged:
    """The stop was refused, or it is unknown whether it was applied: it must be sent again."""

    message: str
    unauthorized: bool = False
    retry_after: float | None = None
    """Seconds for which the server asked to wait (``Retry-After``)."""
    in_doubt: bool = False
    """Whether the server may have applied it nevertheless."""


StopOutcome = StopAcknowledged | StopNotAcknowledged


@dataclass(frozen=True, slots=True)
class ListPage:
    """One page of a list; ``following`` is the place of the next page, None or empty at the end."""

    items: Mapping[str, ListedItem]
    following: str | None


@dataclass(frozen=True, slots=True)
class Lost:
    """No answer was read, and why; ``was_begun``: the server may know of the request."""

    message: str
    was_begun: bool


@dataclass(slots=True)
class _Wire:
    """Whether a request was handed to its connection: before that, the server cannot know anything of it."""

    begun: bool = False


_WIRE: Final[ContextVar[_Wire]] = ContextVar("wire")


class _Request(aiohttp.ClientRequest):
    """A request that records when it is handed to its connection.

    Exceptions do not say that, least of all a time-out. A trace of aiohttp's would, but it costs a tenth of a beat.
    """

    async def send(self, conn: aiohttp.connector.Connection) -> aiohttp.ClientResponse:
        """Record that the sending begins, and send the request."""
        if (wire := _WIRE.get(None)) is not None:
            wire.begun = True
        return await super().send(conn)


class WorkApi:
    """One pool of connections to the Work API, opened at the first call.

    Stops and lists go through httpx, which uses that pool. Beats are handed to the pool directly: what httpx builds for
    a request costs more than the request.
    """

    def __init__(self, url: str, clock: Callable[[], float], publisher: Publisher = SILENT) -> None:
        self._publisher = publisher
        self._url = url.rstrip("/")
        self._clock = clock
        self._opened: aiohttp.ClientSession | None = None
        self.ahead: float | None = None
        """By how many seconds the server's clock is ahead of this process's, give or take a second and the round trip,
        as the last answer about the queue showed it; None: none has."""
        self._client = httpx.AsyncClient(
            transport=AiohttpTransport(client=lambda: self._pool),
            headers=HEADERS,
            # No cookies: what the answer to one lease says must not go out with the call of another.
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
        """Send one heartbeat and return its outcome (Record Heartbeat reference)."""
        # A colon needs no escape, and a time that has nothing to escape is not looked at letter by letter.
        query = f"?expected_last_heartbeat={quote(beat.expected, safe=':')}"
        if beat.desired_ttl is not None:
            query += f"&desired_ttl_seconds={beat.desired_ttl}"
        wire = _Wire()
        _WIRE.set(wire)
        asked, key = beat.desired_ttl, hash(item.key.get_secret_value())
        sent = self._clock()
        try:
            async with asyncio.timeout(beat.timeout):
                response = await self._beat(f"{item.path}/{WorkApiCall.HEARTBEAT}{query}", item.key)
        except _FAILURES as error:
            exchange = Exchange(sent=sent, done=self._clock(), asked=asked, key=key)
            message = responses.plain(self._in_words(error, beat.timeout), item.key)
            return Unanswered(exchange, message) if wire.begun else Unsent(exchange, message)
        exchange = Exchange(sent=sent, done=self._clock(), asked=asked, key=key)
        return responses.outcome(exchange, response, item.key)

    async def stop(self, item: WorkItem, *, force: bool, timeout: float) -> StopOutcome:  # noqa: ASYNC109 (the lease says how long)
        """Ask for the item's stop: a graceful one, or with ``force`` at once, as a worker confirms it.

        The answers 200, 204 and 409 all acknowledge the stop: only the item's state says whether it is stopped.
        """
        wire = _Wire()
        _WIRE.set(wire)
        try:
            async with asyncio.timeout(timeout):
                path = f"{item.path}/{WorkApiCall.STOP}"
                response = await self._call(WorkApiCall.STOP, path, item.key, LONGEST_ANSWER, json={"force": force})
        except _FAILURES as error:
            return StopNotAcknowledged(responses.plain(self._in_words(error, timeout), item.key), in_doubt=wire.begun)
        match response.status:
            case HTTPStatus.OK | HTTPStatus.NO_CONTENT | HTTPStatus.CONFLICT:
                return StopAcknowledged(responses.item_state(response))
            case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN:
                return StopNotAcknowledged(responses.quote(response, item.key), unauthorized=True)
            case status:
                is_server = status >= HTTPStatus.INTERNAL_SERVER_ERROR or status == HTTPStatus.REQUEST_TIMEOUT
                said = responses.quote(response, item.key)
                return StopNotAcknowledged(said, retry_after=responses.retry_after(response), in_doubt=is_server)

    async def page(
        self,
        environment_id: str,
        key: SecretStr,
        place: str | None,
        *,
        timeout: float,  # noqa: ASYNC109 (the list says how long)
    ) -> ListPage | ListRefused | ListNotRead:
        """Return one page of an environment's work items, a read that changes nothing; ``place`` None: the first."""
        path = f"/v1/environments/{escaped(environment_id)}/work"
        asked = {"limit": str(PAGE)} | ({} if place is None else {"page": place})
        try:
            async with asyncio.timeout(timeout):
                response = await self._call(WorkApiCall.LIST, path, key, LONGEST_PAGE, params=asked)
            if response.status == HTTPStatus.OK:
                return ListPage(*responses.listed_items(response))
        except ValidationError:
            return ListNotRead("the list could not be read")
        except _FAILURES as error:
            return ListNotRead(responses.plain(self._in_words(error, timeout), key), is_worth_a_try=True)
        said = responses.quote(response, key)
        if responses.is_refusal_of_the_key(response):
            return ListRefused(said)
        has_failed = (
            response.status >= HTTPStatus.INTERNAL_SERVER_ERROR or response.status == HTTPStatus.REQUEST_TIMEOUT
        )
        after = responses.retry_after(response)
        return ListNotRead(said, is_worth_a_try=has_failed and after is None, retry_after=after)

    async def ask(
        self,
        call: WorkApiCall,
        path: str,
        key: SecretStr,
        *,
        timeout: float,  # noqa: ASYNC109 (the caller says how long)
        longest: int = LONGEST_ANSWER,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
    ) -> Response | Lost:
        """Make any call that has no body, and return its answer, whatever its status."""
        wire = _Wire()
        _WIRE.set(wire)
        sent = self._clock()
        try:
            async with asyncio.timeout(timeout):
                response = await self._call(call, path, key, longest, headers=headers, params=params)
        except _FAILURES as error:
            return Lost(responses.plain(self._in_words(error, timeout), key), wire.begun)
        if response.status in _OWN_ANSWERS and (told := responses.date(response.headers.get("date"))) is not None:
            self.ahead = told + HALF_A_SECOND - (sent + self._clock()) / 2
        return response

    async def probe(self, *, timeout: float) -> str | None:  # noqa: ASYNC109 (the caller knows how long it can wait)
        """Ask for the address itself, without a key; return why nobody answers there, or None if somebody does."""
        try:
            async with asyncio.timeout(timeout), self._pool.get(self._url, allow_redirects=False) as response:
                if response.status in _GATEWAYS:
                    return f"the Work API at {self._url} cannot be reached: a gateway answered {response.status}"
        except _FAILURES as error:
            return one_line(self._in_words(error, timeout))
        return None

    async def _beat(self, path: str, key: SecretStr) -> Response:
        """Send a beat through the pool directly."""
        headers = {"authorization": f"Bearer {key.get_secret_value()}"}
        # Already escaped: parsing it once more would cost as much as the rest of the request.
        url = URL(f"{self._url}{path}", encoded=True)
        async with self._pool.post(url, headers=headers, allow_redirects=False) as response:
            content = await _read(response.content.iter_any(), LONGEST_ANSWER)
            return self._note(WorkApiCall.HEARTBEAT, Response(response.status, response.headers, content))

    async def _call(
        self,
        call: WorkApiCall,
        path: str,
        key: SecretStr,
        longest: int,
        *,
        headers: Mapping[str, str] | None = None,
        **content: Any,
    ) -> Response:
        method = "GET" if call in _READS else "POST"
        sent = {"authorization": f"Bearer {key.get_secret_value()}"} | dict(headers or {})
        async with self._client.stream(method, f"{self._url}{path}", headers=sent, **content) as response:
            body = await _read(response.aiter_bytes(), longest)
            return self._note(call, Response(response.status_code, response.headers, body))

    def _note(self, call: WorkApiCall, response: Response) -> Response:
        if response.status >= HTTPStatus.BAD_REQUEST:
            self._publisher.publish(CallRefused(call, response.status))
        return response

    def _in_words(self, error: BaseException, seconds: float) -> str:
        """Return why there is no answer, and what to look at."""
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
    """Open aiohttp's pool, without a bound of its own: the budget bounds the calls. The environment names the proxy.

    ``trust_env`` is not used: it would look for a password in ~/.netrc, refuse to send a key beside that, and need two
    threads for each request, which a slow name server can use up for all leases.
    """
    parts = urlsplit(url)
    proxy = None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE)
    return aiohttp.ClientSession(
        connector=connector,
        proxy=proxy,
        headers=HEADERS,
        # No cookies: what the answer to one lease says must not go out with the beat of another.
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=("accept", "content-type"),
        timeout=aiohttp.ClientTimeout(),  # each call has its own
        request_class=_Request,
    )


async def _read(chunks: AsyncIterator[bytes], longest: int) -> bytes:
    """Read an answer to its end, unless it is longer than ``longest`` bytes."""
    content = b""
    async for chunk in chunks:
        content += chunk
        if len(content) > longest:
            raise aiohttp.ClientPayloadError(f"the answer is longer than {longest} bytes")
    return content


HALF_A_SECOND: Final = 0.5
"""A ``Date`` header names a whole second: on average it was half a second later."""

_OWN_ANSWERS: Final = frozenset({HTTPStatus.OK, HTTPStatus.NO_CONTENT, HTTPStatus.CONFLICT})
"""The answers that no gateway gives: only the API's own tell its time."""

_READS: Final = frozenset({WorkApiCall.LIST, WorkApiCall.POLL, WorkApiCall.STATS, WorkApiCall.SESSION})
"""The calls that are a GET."""

_GATEWAYS: Final = (HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT)
"""What a gateway answers in place of a server that it does not reach."""

_FAILURES: Final = (
    *(httpx.HTTPError, aiohttp.ClientError, TimeoutError, OSError),
    *(httpx.InvalidURL, ValueError),  # raised for an address that cannot be a host's name
)
