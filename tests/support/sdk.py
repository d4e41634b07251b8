"""The public SDK against the simulator: its client, and the smallest session that its worker accepts.

This module owns the calls outside the Work API: the SDK's worker also fetches a session, lists its events and streams
them. The test's process answers those few calls; every call of the Work API goes over a socket unchanged.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio
import httpx2

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic


@dataclass(slots=True)
class Sessions(httpx2.AsyncBaseTransport):
    """A transport that answers the calls on sessions itself, and forwards every other call.

    A session runs until `ends` is set. Then its stream says that its turn has ended, and the worker finishes.
    """

    network: httpx2.AsyncBaseTransport
    ends: anyio.Event = field(default_factory=anyio.Event)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Answer one request."""
        path = request.url.path
        if not path.startswith("/v1/sessions/"):
            return await self.network.handle_async_request(request)
        if path.endswith("/events/stream"):
            return httpx2.Response(200, headers={"content-type": "text/event-stream"}, stream=_Stream(self.ends))
        if path.endswith("/events"):
            return httpx2.Response(200, json={"data": [], "next_page": None})
        session = {"id": path.rsplit("/", 1)[-1], "type": "session", "status": "running", "resources": []}
        return httpx2.Response(200, json=session | {"agent": {"skills": []}, "metadata": {}})

    async def aclose(self) -> None:
        """Close the connections."""
        await self.network.aclose()


class _Stream(httpx2.AsyncByteStream):
    """A session's events: none until its turn ends."""

    def __init__(self, ends: anyio.Event) -> None:
        self._ends = ends

    async def __aiter__(self) -> AsyncIterator[bytes]:
        await self._ends.wait()
        event = {"type": "session.status_idle", "id": "sevt_1", "stop_reason": {"type": "end_turn"}}
        yield f"event: session.status_idle\ndata: {json.dumps(event)}\n\n".encode()
        await anyio.sleep_forever()

    async def aclose(self) -> None:
        """Do nothing: the stream holds no connection."""


@dataclass(frozen=True, slots=True)
class Sdk:
    """A client of the SDK, and the sessions that its worker sees."""

    client: "AsyncAnthropic"
    sessions: Sessions


@asynccontextmanager
async def sdk(base_url: str, api_key: str) -> AsyncIterator[Sdk]:
    """Open a client of the SDK that uses the simulator as its Work API."""
    # Not above: it takes more than a second, and each process that runs tests imports this module.
    from anthropic import AsyncAnthropic  # noqa: PLC0415

    sessions = Sessions(httpx2.AsyncHTTPTransport())
    async with (
        httpx2.AsyncClient(transport=sessions, trust_env=False) as http,
        AsyncAnthropic(base_url=base_url, api_key=api_key, http_client=http) as client,
    ):
        yield Sdk(client, sessions)
