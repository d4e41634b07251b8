"""Sessions, as far as a sandbox that runs their tools needs them: read one; list, stream and add its events.

This module owns each session's events, in memory, and their HTTP. A session exists as long as an item belongs to it.
No rule of the Work API is here: the shapes are those that the public SDK's tool runner reads and writes (anthropic
2.12.0, `lib/tools/_beta_session_runner.py`), which sends no heartbeat.
"""

import asyncio
import json
import secrets
from collections import defaultdict
from typing import Any

from aiohttp import hdrs, web

from work_api_simulator import instants, wire
from work_api_simulator.credentials import Caller, CredentialsKind
from work_api_simulator.items import Item
from work_api_simulator.refusals import RefusalKind, RequestRefusal
from work_api_simulator.simulation import Simulation

Event = dict[str, Any]


class Sessions:
    """The events of all sessions, and their routes below `/v1/sessions`."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._events: defaultdict[str, list[Event]] = defaultdict(list)
        self._news: defaultdict[str, set[asyncio.Event]] = defaultdict(set)

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the sessions."""
        events = "/v1/sessions/{session_id}/events"
        return [
            web.get("/v1/sessions/{session_id}", self._retrieve),
            web.get(events, self._list),
            web.post(events, self._send),
            web.get(events + "/stream", self._stream),
        ]

    def events(self, session_id: str) -> list[Event]:
        """Return all events of a session, the oldest first."""
        return list(self._events.get(session_id, ()))

    def item_of(self, session_id: str) -> Item | None:
        """Return the item of a session: the newest whose `data` or id names the session."""
        return self._simulation.item_of(session_id)

    def add(self, session_id: str, event: Event) -> Event:
        """Add an event, with an id if it has none, and send it to all streams."""
        told = {"id": f"sevt_{secrets.token_hex(12)}"} | event
        told["processed_at"] = instants.write(self._simulation.clock.now())
        self._events[session_id].append(told)
        for news in self._news.get(session_id, ()):
            news.set()
        return told

    async def _retrieve(self, request: web.Request) -> web.StreamResponse:
        """Answer with the session, as far as the public SDK's worker reads it: no skills, and no memory stores."""
        if (refusal := self._refusal(request)) is not None:
            return _refused(refusal)
        session_id = request.match_info["session_id"]
        session = {"id": session_id, "type": "session", "status": "running", "resources": [], "metadata": {}}
        return web.json_response(session | {"agent": {"skills": []}})

    async def _list(self, request: web.Request) -> web.StreamResponse:
        if (refusal := self._refusal(request)) is not None:
            return _refused(refusal)
        return web.json_response({"data": self.events(request.match_info["session_id"]), "next_page": None})

    async def _send(self, request: web.Request) -> web.StreamResponse:
        if (refusal := self._refusal(request)) is not None:
            return _refused(refusal)
        try:
            sent = json.loads(await request.text())["events"]
            if not all(isinstance(event, dict) and isinstance(event.get("type"), str) for event in sent):
                raise TypeError  # noqa: TRY301 (every invalid body gets the same answer)
        except (ValueError, TypeError, KeyError):
            return _refused(RequestRefusal(RefusalKind.INVALID, "events: must be a list of events, each with its type"))
        session_id = request.match_info["session_id"]
        return web.json_response({"data": [self.add(session_id, event) for event in sent]})

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        """Send each event from now on, until the client leaves."""
        if (refusal := self._refusal(request)) is not None:
            return _refused(refusal)
        session_id = request.match_info["session_id"]
        events, news = self._events[session_id], asyncio.Event()
        told = len(events)
        self._news[session_id].add(news)
        response = web.StreamResponse(headers={hdrs.CONTENT_TYPE: "text/event-stream"})
        try:
            await response.prepare(request)
            while True:
                news.clear()
                for event in events[told:]:
                    await response.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
                    told += 1
                await news.wait()
        except ConnectionError:
            return response  # the client has left
        finally:
            self._news[session_id].discard(news)

    def _refusal(self, request: web.Request) -> RequestRefusal | None:
        """Return why the caller may not see the session; the answer does not reveal whether it exists."""
        headers = request.headers
        now = self._simulation.clock.now()
        caller = self._simulation.keyring.identify(headers.get(hdrs.AUTHORIZATION), headers.get("x-api-key"), now)
        if caller.kind in (CredentialsKind.NONE, CredentialsKind.UNKNOWN):
            return RequestRefusal(RefusalKind.UNAUTHENTICATED, "Invalid credentials")
        item = self.item_of(request.match_info["session_id"])
        if item is None or not _may_see(caller, item):
            return RequestRefusal(RefusalKind.FORBIDDEN, "These credentials have no access to this session")
        return None


def _may_see(caller: Caller, item: Item) -> bool:
    return item.environment_id in caller.environments and caller.item_id in (None, item.id)


def _refused(refusal: RequestRefusal) -> web.Response:
    text = wire.refused(refusal, f"req_{secrets.token_hex(10)}")
    return web.Response(status=refusal.kind.status, text=text, content_type="application/json")
