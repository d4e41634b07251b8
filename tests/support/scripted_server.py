"""A small HTTP server whose answers a test scripts, byte by byte where it matters, and a Kubernetes client for it.

This module owns faults at the socket: the operator's modules meet them from outside. It must not know what the requests
mean, or assert. It listens on the loopback interface only.
"""

import asyncio
import json
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from http import HTTPStatus
from inspect import isawaitable
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from kubernetes.aio import client

from worklease.cluster.client import CALL_TIMEOUT, KubernetesApi, open_client

LOOPBACK = "127.0.0.1"
DEADLINE = 20.0  # seconds for a condition, which takes milliseconds on an idle machine
POLL_INTERVAL = 0.005  # seconds between two checks of a condition
CLOSING = 2.0  # seconds in which connections close, which takes milliseconds; some of a server that is gone never do
TEST_KEY = Path(__file__).with_name("test_key_trusted_by_nobody.pem")
RESET_AT_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: closing resets the connection


class Fault(Enum):
    """What the server does instead of answering normally."""

    NONE = auto()
    HANG = auto()
    HANG_IN_BODY = auto()
    RESET = auto()
    CLOSE = auto()
    TRUNCATE = auto()
    CLOSE_AFTER = auto()
    """Answer normally, then close the connection without announcing it."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A request as it arrived."""

    connection: int
    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def path(self) -> str:
        """The path, escaped as it arrived."""
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, list[str]]:
        """The parameters, unescaped."""
        return parse_qs(urlsplit(self.target).query, keep_blank_values=True, strict_parsing=True)

    @property
    def json(self) -> Any:
        """The body."""
        return json.loads(self.body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer; a ``raw`` answer is sent as it is, and need not be HTTP."""

    status: int = 200
    body: object = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    fault: Fault = Fault.NONE
    raw: bytes | None = None
    until: asyncio.Event | None = None
    """If given, the server waits for it before it answers."""

    def as_bytes(self) -> bytes:
        """Return the answer as HTTP; a body that is not bytes becomes JSON."""
        if self.raw is not None:
            return self.raw
        body = self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()
        length = len(body) + (10 if self.fault in {Fault.TRUNCATE, Fault.HANG_IN_BODY} else 0)
        phrase = next((known.phrase for known in HTTPStatus if known == self.status), "Odd")
        lines = [f"HTTP/1.1 {self.status} {phrase}", "Content-Type: application/json"]
        if self.status != HTTPStatus.NO_CONTENT:
            lines.append(f"Content-Length: {length}")
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


Script = Callable[[Seen], Answer]


def always(answer: Answer) -> Script:
    """Return a script that always gives the same answer."""
    return lambda _: answer


def in_turn(*answers: Answer) -> Script:
    """Return a script that gives one answer after the other, and then repeats the last one."""
    left: Iterator[Answer] = iter(answers)
    return lambda _: next(left, answers[-1])


class ScriptedServer:
    """A server on a free port; `script` may be changed at any time."""

    def __init__(self) -> None:
        self.script: Script = always(Answer())
        self.seen: list[Seen] = []
        self.connections = 0
        self.resets_at_once = 0
        """How many further connections are reset before anything is read."""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._server: asyncio.Server | None = None
        self._scheme = "http"

    async def start(self, *, tls: bool = False) -> Self:
        """Listen."""
        context = None
        if tls:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(TEST_KEY)
            self._scheme = "https"
        self._server = await asyncio.start_server(self._serve, LOOPBACK, 0, ssl=context)
        return self

    async def close(self) -> None:
        """Stop listening, and end all connections."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def port(self) -> int:
        """The port."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def url(self) -> str:
        """The address."""
        return f"{self._scheme}://{LOOPBACK}:{self.port}"

    async def until_seen(self, count: int) -> None:
        """Wait until this many requests have arrived."""
        await until(lambda: len(self.seen) >= count, f"{count} requests")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        try:
            if self.resets_at_once > 0:
                self.resets_at_once -= 1
                _reset(writer)
                return
            await self._converse(reader, writer, self.connections)
        except (ConnectionError, asyncio.IncompleteReadError):
            return  # the client has left, as it may
        finally:
            writer.transport.abort()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int) -> None:
        while True:
            seen = await _read(reader, connection)
            self.seen.append(seen)
            answer = self.script(seen)
            if answer.until is not None:
                await answer.until.wait()
            if not await _answer(writer, answer):
                return


async def _answer(writer: asyncio.StreamWriter, answer: Answer) -> bool:
    """Send the answer, and return whether the connection stays open."""
    match answer.fault:
        case Fault.HANG:
            await asyncio.Event().wait()
        case Fault.RESET:
            _reset(writer)
        case Fault.NONE:
            writer.write(answer.as_bytes())
            await writer.drain()
            return answer.raw is None
        case Fault.HANG_IN_BODY:
            writer.write(answer.as_bytes())
            await asyncio.Event().wait()
        case Fault.TRUNCATE | Fault.CLOSE_AFTER:
            writer.write(answer.as_bytes())
            await _close(writer)
        case Fault.CLOSE:
            await _close(writer)
    return False


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    await writer.wait_closed()


def _reset(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
    writer.transport.abort()


async def _read(reader: asyncio.StreamReader, connection: int) -> Seen:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.strip().split("\r\n")
    method, target, _ = first.split(" ")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Seen(connection, method, target, headers, body)


async def until(condition: Callable[[], object], what: str) -> None:
    """Wait for a condition, which may be a coroutine function."""
    try:
        async with asyncio.timeout(DEADLINE):
            while not await _value_of(condition):  # noqa: ASYNC110 (the operator has no event for each inner step)
                await asyncio.sleep(POLL_INTERVAL)
    except TimeoutError as error:
        raise AssertionError(f"{what} did not come true within {DEADLINE:g} s") from error


async def _value_of(condition: Callable[[], object]) -> object:
    value = condition()
    return await value if isawaitable(value) else value


@asynccontextmanager
async def serving(*, tls: bool = False) -> AsyncIterator[ScriptedServer]:
    """Run a scripted server."""
    server = await ScriptedServer().start(tls=tls)
    try:
        yield server
    finally:
        await server.close()


@asynccontextmanager
async def kubernetes_at(
    url: str,
    *,
    token: str = "test-token",  # noqa: S107 (a test's token)
    ca: Path | None = None,
    call_timeout: float = CALL_TIMEOUT,
) -> AsyncIterator[KubernetesApi]:
    """Open a Kubernetes client for an address."""
    settings = client.Configuration()
    settings.host = url
    settings.api_key["BearerToken"] = f"Bearer {token}"
    if ca is not None:
        settings.ssl_ca_cert = str(ca)
    api = KubernetesApi(open_client(settings), "own", call_timeout=call_timeout)
    try:
        yield api
    finally:
        await api.close()
        await _until_connections_are_closed()


async def _until_connections_are_closed() -> None:
    """Wait for the ends of connections that are being closed; what the loop leaves open is garbage in a later test.

    A call that is given up closes its connection beside the client's own: TLS waits for the server's word. Nothing
    public tells of it.
    """
    transports = asyncio.get_running_loop()._transports  # type: ignore[attr-defined]
    deadline = asyncio.get_running_loop().time() + CLOSING
    while any(each.is_closing() and each.get_extra_info("socket").fileno() >= 0 for each in list(transports.values())):
        if asyncio.get_running_loop().time() > deadline:
            return
        await asyncio.sleep(0.001)
