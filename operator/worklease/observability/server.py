"""The operator's own HTTP server, for probes and metrics.

Owns the address and the routes, in a thread and a loop of its own: so it can answer a probe, and say so, while the
keeper's loop stands still. Must not know what the pages contain: the caller gives a function for each page.
"""

import asyncio
import concurrent.futures
import errno
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from aiohttp import web

PAGE_TIMEOUT: Final = 8.0
"""Seconds that a page made in the keeper's loop may take: less than Prometheus waits for it."""

SHUTDOWN_TIMEOUT: Final = 2.0
"""Seconds that running answers may take when the server ends: a probe takes far less."""

ANY_ADDRESS: Final = "::"
"""The host that stands for all addresses of the machine, of both families."""

PLAIN: Final = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Page:
    """The answer to one GET."""

    body: bytes
    content_type: str = PLAIN
    status: int = HTTPStatus.OK


Probe = Callable[[], Page]
"""Returns a page at once, in the server's thread."""

Report = Callable[[], Coroutine[Any, Any, Page]]
"""Returns a page, in the loop that opened the server."""


class AddressInUse(Exception):
    """The server cannot listen; the message says where and why."""


@asynccontextmanager
async def serve(host: str, port: int, probes: Mapping[str, Probe], reports: Mapping[str, Report]) -> AsyncIterator[str]:
    """Serve pages by their paths until the context ends; yields the address on which it listens.

    Raises:
        AddressInUse: The server cannot listen on the address.
    """
    loop = asyncio.get_running_loop()
    application = web.Application()
    for path, probe in probes.items():
        application.router.add_get(path, _answer_probe(probe))
    for path, report in reports.items():
        application.router.add_get(path, _answer_report(report, loop))
    serving = _Serving(application, host, port)
    address = await asyncio.wrap_future(serving.listening)
    try:
        yield address
    finally:
        await asyncio.to_thread(serving.end)


class _Serving:
    """The thread that serves."""

    def __init__(self, application: web.Application, host: str, port: int) -> None:
        self.listening: concurrent.futures.Future[str] = concurrent.futures.Future()
        """Done as soon as the server listens; its result is the address."""
        self._application, self._host, self._port = application, host, port
        self._stop: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Stop listening, and wait until the thread has ended."""
        self._stop.set_result(None)
        self._thread.join(2 * SHUTDOWN_TIMEOUT)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            if self.listening.done():
                raise
            self.listening.set_exception(error)

    async def _serve(self) -> None:
        runner = web.AppRunner(self._application, access_log=None, shutdown_timeout=SHUTDOWN_TIMEOUT)
        await runner.setup()
        try:
            try:
                await web.SockSite(runner, _listen(self._host, self._port)).start()
            except OSError as error:
                raise AddressInUse(
                    f"cannot listen on {self._host}:{self._port}: {error.strerror or error}; set WORKLEASE_HTTP_ADDRESS"
                ) from error
            shown = f"[{self._host}]" if ":" in self._host else self._host
            self.listening.set_result(f"{shown}:{runner.addresses[0][1]}")
            await asyncio.wrap_future(self._stop)
        finally:
            await runner.cleanup()


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; on ``::`` it accepts IPv4 as well, and where there is no IPv6, IPv4 alone.

    Nodes have the one, the other or both, and the kubelet's probes come to the address that the pod has.
    """
    if host == ANY_ADDRESS:
        try:
            return socket.create_server((host, port), family=socket.AF_INET6, dualstack_ipv6=True)
        except (OSError, ValueError) as error:
            if getattr(error, "errno", None) == errno.EADDRINUSE:
                raise
            host = "0.0.0.0"  # noqa: S104 (the same, without IPv6)
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    return socket.create_server(address, family=family)


_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _answer_probe(probe: Probe) -> _Handler:
    async def handle(_: web.Request) -> web.StreamResponse:
        return _response(probe())

    return handle


def _answer_report(report: Report, loop: asyncio.AbstractEventLoop) -> _Handler:
    async def handle(_: web.Request) -> web.StreamResponse:
        making = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(report(), loop))
        try:
            return _response(await asyncio.wait_for(making, PAGE_TIMEOUT))
        except TimeoutError:
            body = f"the page took more than {PAGE_TIMEOUT:.0f} s: the event loop is overloaded\n".encode()
            return _response(Page(body, status=HTTPStatus.SERVICE_UNAVAILABLE))

    return handle


def _response(page: Page) -> web.Response:
    return web.Response(body=page.body, status=page.status, headers={"Content-Type": page.content_type})
