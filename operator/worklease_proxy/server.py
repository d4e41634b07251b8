"""The proxy as a server: what its worker sends, answered by the rules or by the upstream.

Owns the socket, the state of the worker, and the counts of what was refused. Bodies stream in both directions; nothing
of them is kept. It logs no header, no path and no body: they hold keys. Must not decide: ``calls`` and ``answers`` do.
"""

import asyncio
import json
import logging
import socket
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs

from aiohttp import ClientError, ClientResponse, hdrs
from aiohttp.web_request import BaseRequest
from aiohttp.web_response import Response, StreamResponse
from aiohttp.web_server import Server

from worklease_proxy import answers
from worklease_proxy.answers import OwnAnswer, Seen
from worklease_proxy.calls import Call, OwnItem, read_call
from worklease_proxy.control import DRAIN_PATH, HOST, STATUS_PATH
from worklease_proxy.upstream import LONGEST_HEADER, Unreachable, Upstream, end_to_end

BACKLOG: Final = 1024
"""Connections that may wait: a worker may open hundreds at once."""

LOOK: Final = 0.25
"""Seconds between two looks at the drain's file, and at whether a connection is left: a drain loses no more."""

_log = logging.getLogger(__name__)
_silent = logging.getLogger(f"{__name__}.http")
"""What aiohttp says of requests that it cannot read: it quotes them, and they may hold a key."""
_silent.disabled = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Sidecar:
    """What a proxy is told about its pod."""

    own: OwnItem
    drain_seconds: int = 30
    drain_file: Path | None = None
    """A file that has content once the pod is to be drained: an annotation, by a downward API volume."""
    termination_log: Path | None = None


class Proxy:
    """The proxy of one worker."""

    def __init__(self, sidecar: Sidecar, upstream: Upstream) -> None:
        self._sidecar = sidecar
        self._upstream = upstream
        self._ttl = answers.ttl_of(sidecar.drain_seconds)
        self._server = Server(
            self._answer,
            handler_cancellation=True,  # who leaves a silent stream also leaves the upstream's
            access_log=None,
            logger=_silent,
            auto_decompress=False,
            max_line_size=LONGEST_HEADER,
            max_field_size=LONGEST_HEADER,
        )
        self._listening: asyncio.Server | None = None
        self._told = ""
        self._silence = ""
        self.seen = Seen(begun=datetime.now(UTC))
        self.refused: Counter[Call] = Counter()
        self.passed = 0
        self.port = 0

    # --- Its life --------------------------------------------------------------------------------------------------

    async def start(self, port: int) -> None:
        """Listen on a port of the loopback interface; 0 takes any free one, and ``port`` says which."""
        loop = asyncio.get_running_loop()
        self._listening = await loop.create_server(
            self._server, HOST, port, family=socket.AF_INET, backlog=BACKLOG, reuse_address=True
        )
        self.port = self._listening.sockets[0].getsockname()[1]

    async def watch_drain_file(self) -> None:
        """Begin the drain as soon as the file says so."""
        file = self._sidecar.drain_file
        while file is not None and self.seen.draining_since is None:
            try:
                if file.read_text().strip():
                    self.drain("the pod's annotation")
            except OSError:
                pass  # it is not there yet, or is replaced just now
            await asyncio.sleep(LOOK)

    def drain(self, why: str) -> None:
        """Ask the worker to finish: its next heartbeat is answered with ``stopping``."""
        if self.seen.draining_since is None:
            _log.info("drain begun by %s", why)
            now = datetime.now(UTC)
            # Once it is told to finish, a worker sends no heartbeats any more. The hook comes before SIGTERM, and also
            # where the worker has ended already.
            self._silence = answers.fell_silent(self.seen, now, self._ttl)
            self.seen = answers.drain(self.seen, now)

    async def finish(self, why: str) -> None:
        """Begin the drain, and wait until the worker has closed its connections.

        As a native sidecar the proxy is told to end after its worker. As an ordinary container, in the same moment.
        """
        self.drain(why)
        while self._server.connections:  # noqa: ASYNC110 (the server has no event for it)
            await asyncio.sleep(LOOK)

    async def close(self) -> None:
        """Stop listening, break off what is left, and say how it went."""
        if self._listening is not None:
            self._listening.close()
            await self._server.shutdown(0)
        self._tell(answers.giving_up(self.seen) or self._silence)
        counts = " ".join(f"{call}={count}" for call, count in sorted(self.refused.items()))
        _log.info("ended beats=%d passed=%d refused: %s", self.seen.beats, self.passed, counts or "none")

    def _tell(self, message: str) -> None:
        """Write how it went to the termination message, at once: the proxy may be killed before its end."""
        if message == self._told:
            return
        self._told = message
        if message:
            _log.warning("%s", message)
        if self._sidecar.termination_log is not None:
            try:
                self._sidecar.termination_log.write_text(message)
            except OSError as error:
                _log.warning("termination message not written: %s", type(error).__name__)

    # --- Its answers -----------------------------------------------------------------------------------------------

    async def _answer(self, request: BaseRequest) -> StreamResponse:
        own, path = self._sidecar.own, request.raw_path
        if path in {STATUS_PATH, DRAIN_PATH}:
            return self._control(request.method, path)
        if not path.startswith("/"):
            return _own(answers.not_an_origin())
        match call := read_call(own, request.method, path):
            case Call.HEARTBEAT:
                expected = parse_qs(path.partition("?")[2], keep_blank_values=True).get("expected_last_heartbeat")
                now = datetime.now(UTC)
                self.seen, answer = answers.heartbeat(self.seen, expected[0] if expected else None, now, self._ttl)
            case Call.STOP:
                self.seen, answer = answers.stop(self.seen, own, datetime.now(UTC), force=await _is_forced(request))
                _log.info("worker stopped its item, which was answered here: state=%s", self.seen.state)
            case Call.STREAM | Call.OTHER:
                return await self._pass_on(request, call)
            case _:
                self.refused[call] += 1
                _log.warning("refused a call: %s", call)
                self.seen, answer = answers.refusal(self.seen, own, call, is_heartbeat=_is_heartbeat(path))
        self._tell(answers.giving_up(self.seen))
        return _own(answer)

    def _control(self, method: str, path: str) -> StreamResponse:
        if path == DRAIN_PATH and method == "POST":
            self.drain("the pod's preStop hook")
        return _own(OwnAnswer(200, self.status()))

    def status(self) -> Mapping[str, Any]:
        """What the proxy has seen, for people and tests."""
        return {
            "state": self.seen.state.value,
            "heartbeats": self.seen.beats,
            "passed": self.passed,
            "refused": {call.value: count for call, count in sorted(self.refused.items())},
            "gave_up": answers.giving_up(self.seen),
        }

    async def _pass_on(self, request: BaseRequest, call: Call) -> StreamResponse:
        self.passed += 1
        headers = end_to_end(request.headers)
        headers.popall(hdrs.HOST, None)
        if headers.popall(hdrs.EXPECT, None) is not None:
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0  # what follows is the answer's beginning
        body = request.content.iter_any if request.body_exists else None
        try:
            async with self._upstream.send(request.method, request.raw_path, headers, body) as theirs:
                if call is Call.STREAM:
                    self.seen = answers.note_stream(self.seen, theirs.status)
                    self._tell(answers.giving_up(self.seen))
                return await _stream(request, theirs)
        except Unreachable:
            return _own(answers.unreachable(self._upstream.host, self._upstream.patience))
        except (ClientError, ConnectionError, TimeoutError) as error:
            # The worker sees what the proxy sees: a connection that breaks. Whether the call was applied is not known.
            _log.info("connection to %s broke: %s", self._upstream.host, type(error).__name__)
            if request.transport is not None:
                request.transport.abort()
            return Response(status=502)  # never sent


class _Passed(StreamResponse):
    """An answer of the upstream, with the headers that it has, and no others."""

    def __init__(self, theirs: ClientResponse) -> None:
        super().__init__(status=theirs.status, reason=theirs.reason, headers=end_to_end(theirs.headers))
        self._added = [name for name in (hdrs.CONTENT_TYPE, hdrs.DATE, hdrs.SERVER) if name not in theirs.headers]

    async def _prepare_headers(self) -> None:
        await super()._prepare_headers()
        for name in self._added:
            self.headers.popall(name, None)


async def _stream(request: BaseRequest, theirs: ClientResponse) -> StreamResponse:
    """Give the worker an answer of the upstream as it comes."""
    ours = _Passed(theirs)
    await ours.prepare(request)
    async for part in theirs.content.iter_any():
        await ours.write(part)
    await ours.write_eof()
    return ours


async def _is_forced(request: BaseRequest) -> bool:
    try:
        asked = json.loads(await request.read() or b"{}")
    except ValueError:
        return False
    return isinstance(asked, dict) and asked.get("force") is True


def _is_heartbeat(path: str) -> bool:
    return path.partition("?")[0].rstrip("/").endswith("/heartbeat")


def _own(answer: OwnAnswer) -> Response:
    headers = {hdrs.SERVER: "worklease-proxy"}
    return Response(
        status=answer.status,
        body=json.dumps(answer.body).encode(),
        headers=headers,
        content_type="application/json",
    )
