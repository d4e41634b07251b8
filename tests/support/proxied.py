"""A proxy in the test's own loop, and an upstream that keeps each call as it came and answers with given bytes.

This module opens and closes both. It must not assert.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import ClientSession, ClientTimeout, DummyCookieJar

from worklease_proxy.calls import OwnItem
from worklease_proxy.server import Proxy, Sidecar
from worklease_proxy.upstream import Upstream

OWN = OwnItem("env_test", "work_1", "sesn_1")
WORK = f"/v1/environments/{OWN.environment_id}/work"
HEARTBEAT = f"{WORK}/{OWN.work_id}/heartbeat"
STOP = f"{WORK}/{OWN.work_id}/stop"
STREAM = f"/v1/sessions/{OWN.session_id}/events/stream"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
SECONDS = 20.0  # for what takes milliseconds on an idle machine


@dataclass
class Received:
    """A call as the upstream received it: the bytes of its head, and its body."""

    head: bytes
    body: bytes = b""

    @property
    def lines(self) -> list[str]:
        """The lines of the head."""
        return self.head.decode().rstrip().split("\r\n")

    @property
    def target(self) -> str:
        """The request target, byte for byte."""
        return self.lines[0].split(" ")[1]


Script = Callable[[Received, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def replying(answer: bytes) -> Script:
    """Answer with these bytes."""

    async def reply(_received: Received, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()

    return reply


@dataclass
class RawUpstream:
    """An upstream without an HTTP library: what it saw, and what it does next."""

    script: Script = field(default_factory=lambda: replying(OK))
    received: list[Received] = field(default_factory=list)
    connections: int = 0
    open: int = 0
    url: str = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the calls of one connection."""
        self.connections += 1
        self.open += 1
        try:
            while True:
                received = Received(await reader.readuntil(b"\r\n\r\n"))
                for line in received.lines:
                    name, _, value = line.partition(":")
                    if name.lower() == "content-length":
                        received.body = await reader.readexactly(int(value))
                self.received.append(received)
                await self.script(received, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has left
        finally:
            self.open -= 1
            writer.close()


@asynccontextmanager
async def raw_upstream(port: int = 0) -> AsyncIterator[RawUpstream]:
    """Run such an upstream."""
    upstream = RawUpstream()
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", port)
    upstream.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield upstream
    finally:
        server.close()


@dataclass
class Proxied:
    """A proxy, and a client of it."""

    proxy: Proxy
    client: ClientSession

    @property
    def url(self) -> str:
        """The proxy's address."""
        return f"http://127.0.0.1:{self.proxy.port}"


@asynccontextmanager
async def proxied(
    upstream_url: str,
    *,
    drain_seconds: int = 30,
    drain_file: Path | None = None,
    termination_log: Path | None = None,
    patience: float = 5.0,
) -> AsyncIterator[Proxied]:
    """Run a proxy for ``OWN``, and a client that adds as little as it can."""
    sidecar = Sidecar(own=OWN, drain_seconds=drain_seconds, drain_file=drain_file, termination_log=termination_log)
    async with Upstream.connect(upstream_url, patience=patience) as upstream:
        proxy = Proxy(sidecar, upstream)
        await proxy.start(0)
        watch = asyncio.create_task(proxy.watch_drain_file())
        try:
            async with ClientSession(
                f"http://127.0.0.1:{proxy.port}",
                auto_decompress=False,
                cookie_jar=DummyCookieJar(),
                timeout=ClientTimeout(total=SECONDS),
            ) as client:
                yield Proxied(proxy, client)
        finally:
            watch.cancel()
            await proxy.close()


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition; raise TimeoutError, with its name, if it does not come in time."""
    try:
        async with asyncio.timeout(SECONDS):
            while not condition():  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.01)
    except TimeoutError as error:
        raise TimeoutError(f"{what} did not come within {SECONDS:.0f} s") from error
