"""A reverse proxy between the operator and the API server, which injects faults into requests.

This module owns faults by verb and resource, and the record of requests. It must not know what the requests are for,
or assert. It talks to the tests' own control plane only, and listens on the loopback interface.

Verbs are Kubernetes' own: get, list, watch, create, update, patch, delete. A resource is written as in RBAC rules
(`workleases`, `workleases/status`). A path that is no resource (discovery) counts as a `get` of that path.
"""

import asyncio
import json
import ssl
import tempfile
import threading
import time
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import aiohttp
from aiohttp import web

from controlplane import ControlPlane

LOOPBACK = "127.0.0.1"
TIMEOUT = 60.0  # seconds for an operation of the proxy's thread, which takes milliseconds on an idle machine
LARGEST_BODY = 16 * 1024 * 1024  # bytes; the API server itself accepts 3 MiB
CLOSING_INTERVAL = 0.01  # seconds between two looks whether all connections are closed, which takes milliseconds
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "host", "content-length", "content-encoding"}
VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    409: "Conflict",
    410: "Expired",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ProxiedRequest:
    """A request, in the words of the API server's audit log."""

    verb: str
    resource: str
    namespace: str = ""
    name: str = ""
    agent: str = ""
    at: float = field(default_factory=time.monotonic, compare=False)
    body: str = field(default="", compare=False, repr=False)
    """The body, as text."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer instead of the API server: a failure in its words or, with `body`, one of its earlier answers."""

    status: int
    message: str = "an injected fault"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: object = None


@dataclass(frozen=True, slots=True)
class Hang:
    """Do not answer."""


@dataclass(frozen=True, slots=True)
class Hold:
    """Forward the request late, once the fault is removed. With `applied`, only the answer is late."""

    applied: bool = False


@dataclass(frozen=True, slots=True)
class Reset:
    """Reset the connection."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Answer no request from this one on. With `applied`, this request still takes effect.

    A process that is killed then has come exactly this far.
    """

    applied: bool = True


Effect = Answer | Cut | Hang | Hold | Reset


@dataclass(slots=True, eq=False)
class Fault:
    """An effect and the requests that get it; an empty field means any."""

    effect: Effect
    verb: str = ""
    resource: str = ""
    name: str = ""
    agent: str = ""
    times: int = 0
    """How many requests got it."""
    skip: int = 0
    """How many matching requests still pass first."""
    acted: threading.Event = field(default_factory=threading.Event)
    """Set once a request got it and, with `applied`, took effect."""
    removed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def has_cut(self) -> bool:
        """Whether no request is answered any more."""
        return isinstance(self.effect, Cut) and self.times > 0

    def applies_to(self, asked: ProxiedRequest) -> bool:
        """Whether this request gets the fault; this counts the request."""
        if not self._matches(asked):
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.times += 1
        return True

    def _matches(self, asked: ProxiedRequest) -> bool:
        return (
            self.verb in ("", asked.verb)
            and self.resource in ("", asked.resource)
            and self.name in ("", asked.name)
            and self.agent in asked.agent
        )


@dataclass(slots=True, eq=False)
class _Watch:
    asked: ProxiedRequest
    end: "asyncio.Future[bytes | None]"
    """A result of bytes: send them and end normally. A result of None: reset the connection."""


class KubeProxy:
    """The proxy, in a thread of its own. A client with its `kubeconfig` uses it. All methods are for other threads."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self._folder = tempfile.TemporaryDirectory(prefix="worklease-kube-proxy-")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="kube-proxy", daemon=True)
        self._faults: list[Fault] = []
        self._watches: set[_Watch] = set()
        self._record: list[ProxiedRequest] = []
        self._runner: web.AppRunner | None = None
        self._session: aiohttp.ClientSession | None = None
        self.url = ""

    # --- Start and end -----------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._thread.start()
        self._wait(self._open())
        self.kubeconfig.touch(mode=0o600)
        self.kubeconfig.write_text(json.dumps(self._kubeconfig()))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._wait(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(TIMEOUT)
        self._loop.close()
        self._folder.cleanup()

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig, with the proxy as its server."""
        return Path(self._folder.name) / "kubeconfig"

    def _kubeconfig(self) -> dict[str, Any]:
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "proxy",
            "clusters": [{"name": "proxy", "cluster": {"server": self.url}}],
            "users": [{"name": "proxy", "user": {"token": self._plane.token}}],
            "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "proxy"}}],
        }

    def _wait(self, what: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(TIMEOUT)

    async def _open(self) -> None:
        context = ssl.create_default_context(cafile=str(self._plane.ca))
        connector = aiohttp.TCPConnector(ssl=context, limit=0)
        self._session = aiohttp.ClientSession(
            connector=connector, auto_decompress=False, timeout=aiohttp.ClientTimeout(total=None)
        )
        application = web.Application(client_max_size=LARGEST_BODY)
        application.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, LOOPBACK, 0)
        await site.start()
        self.url = f"http://{LOOPBACK}:{self._runner.addresses[0][1]}"

    async def _close(self) -> None:
        for fault in self._faults:
            fault.removed.set()
        self._end_watches(None, "", "")
        if self._runner is not None:
            await self._runner.cleanup()
        if self._session is not None:
            await self._session.close()
        # Connections whose client was killed are closed in a dialogue with the API server: the loop must see its end.
        async with asyncio.timeout(TIMEOUT):
            while self._sockets() > 0:  # noqa: ASYNC110 (no event tells it)
                await asyncio.sleep(CLOSING_INTERVAL)

    def _sockets(self) -> int:
        """Return how many sockets the loop still has, besides the one that wakes it."""
        return len(self._loop._selector.get_map()) - 1  # type: ignore[attr-defined]  # nobody else knows

    # --- Faults ------------------------------------------------------------------------------------------------

    def inject(
        self,
        effect: Effect,
        *,
        verb: str = "",
        resource: str = "",
        name: str = "",
        agent: str = "",
        skip: int = 0,
    ) -> Fault:
        """Set a fault. The first fault that matches a request acts on it, after `skip` matching requests have passed.

        `agent` is a part of the user agent.
        """

        async def add() -> Fault:
            fault = Fault(effect, verb, resource, name, agent, skip=skip)
            self._faults.append(fault)
            return fault

        return self._wait(add())

    def remove_fault(self, fault: Fault) -> None:
        """Remove a fault. Connections that it held are reset, as by a server that ends."""

        async def remove() -> None:
            self._faults.remove(fault)
            fault.removed.set()

        self._wait(remove())

    @contextmanager
    def fault(
        self, effect: Effect, *, verb: str = "", resource: str = "", name: str = "", agent: str = "", skip: int = 0
    ) -> Iterator[Fault]:
        """Set a fault, and remove it at the end of the block."""
        fault = self.inject(effect, verb=verb, resource=resource, name=name, agent=agent, skip=skip)
        try:
            yield fault
        finally:
            self.remove_fault(fault)

    def cut_watches(self, resource: str = "", *, agent: str = "") -> int:
        """Reset all watches, of one resource if it is named, and return how many there were."""
        return self._wait(self._end(None, resource, agent))

    def end_watches_with_error(self, status: int, resource: str = "", *, agent: str = "") -> int:
        """End all watches by an ERROR event, as the API server does, and return how many there were."""
        event = {"type": "ERROR", "object": _status(status, "an injected error of the watch")}
        return self._wait(self._end(json.dumps(event).encode() + b"\n", resource, agent))

    async def _end(self, last: bytes | None, resource: str, agent: str) -> int:
        return self._end_watches(last, resource, agent)

    def _end_watches(self, last: bytes | None, resource: str, agent: str) -> int:
        hit = [
            watch
            for watch in self._watches
            if resource in ("", watch.asked.resource) and agent in watch.asked.agent and not watch.end.done()
        ]
        for watch in hit:
            watch.end.set_result(last)
        return len(hit)

    # --- Observations ------------------------------------------------------------------------------------------

    def requests(self, verb: str = "", resource: str = "", *, since: float = 0.0) -> list[ProxiedRequest]:
        """Return the requests since a moment of the monotonic clock, with and without faults."""
        return [
            each
            for each in list(self._record)
            if verb in ("", each.verb) and resource in ("", each.resource) and each.at >= since
        ]

    def watching(self, resource: str = "") -> int:
        """Return how many watches are open, of one resource if it is named."""
        return sum(resource in ("", watch.asked.resource) for watch in list(self._watches))

    # --- One request -------------------------------------------------------------------------------------------

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        asked = _read(request, await request.text())
        self._record.append(asked)
        cut = next((fault for fault in self._faults if fault.has_cut), None)
        if cut is not None:
            await cut.removed.wait()
            return _break_off(request)
        fault = next((fault for fault in self._faults if fault.applies_to(asked)), None)
        if fault is None:
            return await self._pass_on(request, asked)
        if fault.effect == Cut(applied=True):
            await self._pass_on(request, asked)
        fault.acted.set()
        match fault.effect:
            case Answer() as answer:
                return _answer(answer)
            case Hang() | Cut():
                await fault.removed.wait()
            case Hold(applied=True):
                return await self._pass_on(request, asked, after=fault.removed)
            case Hold():
                await fault.removed.wait()
                return await self._pass_on(request, asked)
            case Reset():
                pass
        return _break_off(request)

    async def _pass_on(
        self, request: web.Request, asked: ProxiedRequest, *, after: asyncio.Event | None = None
    ) -> web.StreamResponse:
        """Forward a request, and return its answer, after `after` is set if it is given."""
        assert self._session is not None
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP}
        headers["Accept-Encoding"] = "identity"
        try:
            async with self._session.request(
                request.method,
                f"{self._plane.url}{request.raw_path}",
                headers=headers,
                data=await request.read() or None,
                skip_auto_headers=("Content-Type",),
                allow_redirects=False,
            ) as upstream:
                if after is not None:
                    await after.wait()
                return await self._answer_with(upstream, request, asked)
        except aiohttp.ClientError:  # the API server is away, so the proxy is too
            return _break_off(request)

    async def _answer_with(
        self, upstream: aiohttp.ClientResponse, request: web.Request, asked: ProxiedRequest
    ) -> web.StreamResponse:
        headers = {name: value for name, value in upstream.headers.items() if name.lower() not in HOP_BY_HOP}
        if asked.verb != "watch" or upstream.status != 200:
            return web.Response(status=upstream.status, headers=headers, body=await upstream.read())
        response = web.StreamResponse(status=upstream.status, headers=headers)
        await response.prepare(request)
        watch = _Watch(asked, self._loop.create_future())
        self._watches.add(watch)
        try:
            await self._stream(upstream, response, watch)
        finally:
            self._watches.discard(watch)
        if watch.end.done() and watch.end.result() is None:
            return _break_off(request, response)
        return response

    async def _stream(self, upstream: aiohttp.ClientResponse, response: web.StreamResponse, watch: _Watch) -> None:
        """Forward events in whole lines, so that an injected event comes between two lines."""
        rest = b""
        while True:
            chunk = asyncio.ensure_future(upstream.content.readany())
            try:
                either: set[asyncio.Future[Any]] = {chunk, watch.end}
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                if watch.end.done():
                    if (last := watch.end.result()) is not None:
                        await response.write(last)
                    return
                if not (read := chunk.result()):
                    return
            finally:
                chunk.cancel()
            lines, newline, rest = (rest + read).rpartition(b"\n")
            if newline:
                await response.write(lines + newline)


def _read(request: web.Request, body: str) -> ProxiedRequest:
    """Return the request as the API server reads it."""
    agent = request.headers.get("User-Agent", "")
    parts = [part for part in request.path.split("/") if part]
    rest = parts[2:] if parts[:1] == ["api"] else parts[3:] if parts[:1] == ["apis"] else []
    if not rest:
        return ProxiedRequest("get", request.path, agent=agent, body=body)
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2:
        namespace, rest = rest[1], rest[2:]
    resource, name, subresource = (*rest, "", "")[:3]
    is_watch = request.query.get("watch") in ("1", "true")
    verb = VERBS.get(request.method) or ("watch" if is_watch else "get" if name else "list")
    return ProxiedRequest(
        verb, f"{resource}/{subresource}" if subresource else resource, namespace, name, agent, body=body
    )


def _status(status: int, message: str) -> dict[str, Any]:
    reason = REASONS.get(status, "Unknown")
    return {
        "apiVersion": "v1",
        "kind": "Status",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": status,
    }


def _answer(answer: Answer) -> web.Response:
    body = _status(answer.status, answer.message) if answer.body is None else answer.body
    return web.json_response(body, status=answer.status, headers=answer.headers)


def _break_off(request: web.Request, response: web.StreamResponse | None = None) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.abort()
    return response or web.Response(status=502)
