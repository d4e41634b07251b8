"""The benchmark's Work API as a program: ``python -m benchmark.work_server READY_FILE``.

Owns the socket. It implements only the part of HTTP/1.1 that the contenders use, directly on asyncio, so that a beat
costs the server a tenth of what it costs a client. ``/bench/...`` is its admin API. Must not judge.
"""

import asyncio
import json
import sys
import time
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, unquote

from benchmark.books import Beaten, Books

BACKLOG: Final = 4096
"""Connections that may wait at once: a starting fleet opens hundreds."""

WORK: Final = "/v1/environments/"
REASONS: Final = {
    200: "OK",
    401: "Unauthorized",
    404: "Not Found",
    412: "Precondition Failed",
    429: "Too Many Requests",
}


class WorkServer:
    """The books, the valid keys, and whether the server is throttling."""

    def __init__(self) -> None:
        self.books = Books()
        self.keys = {"key"}
        self.throttled_until = 0.0
        self.requests = 0
        self.refused: dict[int, int] = {}
        self.per_second: dict[int, int] = {}
        self._date = (0, "")

    def date(self) -> str:
        """Return the ``Date`` header, which names a whole second."""
        now = int(time.time())
        if self._date[0] != now:
            self._date = (now, formatdate(now, usegmt=True))
        return self._date[1]

    def answer(self, method: str, target: str, key: str, body: bytes) -> tuple[int, bytes, str]:
        """Answer one request: status, JSON, and an additional header."""
        path, _, query = target.partition("?")
        if path.startswith("/bench/"):
            return 200, json.dumps(self._administer(path.removeprefix("/bench/"), query, body)).encode(), ""
        status, text, header = self._work(method, path, query, key, body)
        second = int(time.time())
        self.per_second[second] = self.per_second.get(second, 0) + 1
        if status != 200:
            self.refused[status] = self.refused.get(status, 0) + 1
        return status, text, header

    def _work(self, method: str, path: str, query: str, key: str, body: bytes) -> tuple[int, bytes, str]:
        self.requests += 1
        if (now := time.monotonic()) < self.throttled_until:
            after = f"Retry-After: {max(1, round(self.throttled_until - now))}\r\n"
            return 429, b'{"type":"error","error":{"type":"rate_limit_error","message":"slow down"}}', after
        if key not in self.keys:
            return 401, b'{"type":"error","error":{"type":"authentication_error","message":"invalid key"}}', ""
        parts = path.removeprefix(WORK).split("/")
        match parts:
            case [_, "work", name, "heartbeat"] if method == "POST":
                return self._heartbeat(name, query)
            case [environment, "work"] if method == "GET":
                return self._list(environment, parse_qs(query))
            case [_, "work", name, "stop"] if method == "POST":
                force = bool(body) and json.loads(body).get("force") is True
                state = self.books.stop(name, time.time(), force=force)
                return (404, b"{}", "") if state is None else (200, b'{"state":"%s"}' % state.encode(), "")
            case _:
                return 404, b"{}", ""

    def _heartbeat(self, name: str, query: str) -> tuple[int, bytes, str]:
        expected = ""
        for pair in query.split("&"):
            if pair.startswith("expected_last_heartbeat="):
                expected = unquote(pair[24:].replace("+", " "))
        match self.books.beat(name, expected, time.monotonic(), time.time()):
            case None:
                return 404, b"{}", ""
            case Beaten(200, state, value, extended):
                text = (
                    f'{{"type":"work_heartbeat","last_heartbeat":"{value}","lease_extended":{str(extended).lower()},'
                    f'"state":"{state}","ttl_seconds":{self.books.ttl:g}}}'
                )
                return 200, text.encode(), ""
            case Beaten(status, state, value, _):
                current = {
                    "state": state,
                    "last_heartbeat": value or None,
                    "lease_extended": False,
                    "ttl_seconds": self.books.ttl,
                }
                error = {"type": "invalid_request_error", "message": "Heartbeat precondition failed"}
                details = {"current_state": current, "error_code": "heartbeat_precondition_failed"}
                return status, json.dumps({"type": "error", "error": error | {"details": details}}).encode(), ""

    def _list(self, environment: str, query: dict[str, list[str]]) -> tuple[int, bytes, str]:
        """Return a page of an environment's items: the read that changes nothing."""
        first, limit = int(query.get("page", ["0"])[0]), int(query.get("limit", ["50"])[0])
        found = self.books.of(environment)
        data = [
            {
                "id": name,
                "state": item.state,
                "started_at": self.books.opened,
                "latest_heartbeat_at": item.value or None,
            }
            for name, item in found[first : first + limit]
        ]
        following = str(first + limit) if first + limit < len(found) else None
        return 200, json.dumps({"data": data, "next_page": following}).encode(), ""

    def _administer(self, what: str, query: str, body: bytes) -> Any:
        given = json.loads(body) if body else {}
        now = time.monotonic()
        match what:
            case "open":
                self.books.open(given["items"], given["ttl"], time.time())
                self.requests, self.refused, self.per_second = 0, {}, {}
            case "stop":
                for name in given["items"]:
                    self.books.end(name, "stopping")
            case "keys":
                self.keys = set(given["keys"])
            case "throttle":
                self.throttled_until = now + given["seconds"]
            case "beats":
                since = float(query)
                first = next((i for i, at in enumerate(self.books.times) if at >= since), len(self.books.times))
                return {"numbers": self.books.numbers[first:].tolist(), "times": self.books.times[first:].tolist()}
            case "items":
                return {
                    name: [item.state, item.stopping_told, item.stop_heard] for name, item in self.books.items.items()
                }
            case "summary":
                self.books.sweep(now)
                return {
                    "now": now,
                    "beats": len(self.books.times),
                    "lapses": self.books.lapses,
                    "conflicts": self.books.conflicts,
                    "requests": self.requests,
                    "refused": {str(status): times for status, times in self.refused.items()},
                    "most_in_a_second": max(self.per_second.values(), default=0),
                    "states": _count(item.state for item in self.books.items.values()),
                }
            case _:
                raise ValueError(what)
        return {}


def _count(states: Any) -> dict[str, int]:
    counts: dict[str, int] = {}
    for state in states:
        counts[state] = counts.get(state, 0) + 1
    return counts


class Connection(asyncio.Protocol):
    """One keep-alive connection; requests are answered one after the other."""

    def __init__(self, server: WorkServer) -> None:
        self._server = server
        self._read = b""
        self._write: Callable[[bytes], None] = lambda _: None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport for the answers."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 (a stream's, by create_server)
        self._write = transport.write

    def data_received(self, data: bytes) -> None:
        """Answer every request that is complete by now."""
        self._read += data
        while (end := self._read.find(b"\r\n\r\n")) >= 0:
            head = self._read[:end].decode("latin-1")
            lines = head.split("\r\n")
            length, key = 0, ""
            for line in lines[1:]:
                name, _, value = line.partition(":")
                match name.lower():
                    case "content-length":
                        length = int(value)
                    case "authorization":
                        key = value.strip().removeprefix("Bearer ")
                    case _:
                        pass
            if len(self._read) < end + 4 + length:
                return
            body, self._read = self._read[end + 4 : end + 4 + length], self._read[end + 4 + length :]
            method, target, _ = lines[0].split(" ", 2)
            self._answer(method, target, key, body)

    def _answer(self, method: str, target: str, key: str, body: bytes) -> None:
        status, text, header = self._server.answer(method, target, key, body)
        head = (
            f"HTTP/1.1 {status} {REASONS[status]}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(text)}\r\nDate: {self._server.date()}\r\nrequest-id: req_{self._server.requests}\r\n"
            f"{header}\r\n"
        )
        self._write(head.encode("latin-1") + text)


async def _serve(ready: Path) -> None:
    server = WorkServer()
    listening = await asyncio.get_running_loop().create_server(
        lambda: Connection(server), "127.0.0.1", 0, backlog=BACKLOG
    )
    port = listening.sockets[0].getsockname()[1]
    written = ready.with_suffix(".part")
    written.write_text(f"http://127.0.0.1:{port}")
    written.rename(ready)
    await listening.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1])))
