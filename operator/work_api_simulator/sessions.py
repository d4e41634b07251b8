"""Sessions, as far as a sandbox and its keeper need them: their status; list, stream and add events.

This module owns each session's events, in memory, and their HTTP. A session exists as long as an item belongs to it.
No rule of the Work API is here: the shapes are those that the public SDK reads and writes (anthropic 2.12.0,
`lib/tools/_beta_session_runner.py`, which sends no heartbeat, and `types/beta/beta_managed_agents_session.py`).
"""

import asyncio
import json
import secrets
from collections import defaultdict
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from aiohttp import hdrs, web

from work_api_simulator import instants, wire
from work_api_simulator.credentials import Caller, CredentialsKind
from work_api_simulator.items import Item, State
from work_api_simulator.refusals import RefusalKind, RequestRefusal
from work_api_simulator.simulation import Simulation

Event = dict[str, Any]


class SessionStatus(StrEnum):
    """What a session does; "Sessions start in idle", but one with a message that waits for a worker runs."""

    RESCHEDULING = "rescheduling"
    RUNNING = "running"
    IDLE = "idle"
    TERMINATED = "terminated"


STATUS_EVENTS: Mapping[str, SessionStatus] = {
    "session.status_rescheduled": SessionStatus.RESCHEDULING,
    "session.status_running": SessionStatus.RUNNING,
    "session.status_idle": SessionStatus.IDLE,
    "session.status_terminated": SessionStatus.TERMINATED,
}
"""The events that tell a session's status. With `stop_reason.type` `requires_action` an idle session waits for a
tool's confirmation; the session itself does not say so."""


class Sessions:
    """The events of all sessions, and their routes below `/v1/sessions`."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._events: defaultdict[str, list[Event]] = defaultdict(list)
        self._news: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._archived: dict[str, int] = {}

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the sessions."""
        session = "/v1/sessions/{session_id}"
        events = session + "/events"
        return [
            web.get(session, self._get),
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

    def archive(self, session_id: str) -> None:
        """Archive a session."""
        self._archived.setdefault(session_id, self._simulation.clock.now())

    def delete(self, session_id: str) -> None:
        """Delete a session, its items and its events."""
        self._simulation.delete_session(session_id)
        self._events.pop(session_id, None)
        self._archived.pop(session_id, None)

    def shown(self, session_id: str, item: Item) -> dict[str, Any]:
        """Return a session as its holder sees it; what only the service knows of an agent is left out."""
        archived = self._archived.get(session_id)
        return {
            "id": session_id,
            "type": "session",
            "environment_id": item.environment_id,
            "status": self._status(session_id, item),
            "created_at": instants.write(item.created_at),
            "updated_at": instants.write(self._simulation.clock.now()),
            "archived_at": None if archived is None else instants.write(archived),
            "metadata": {},
            "title": None,
            # As far as the public SDK's worker reads it: no skills, and no memory stores.
            "agent": {"skills": []},
            "resources": [],
        }

    def _status(self, session_id: str, item: Item) -> SessionStatus:
        """Return the status that the latest event since the session's latest message told, or that its item implies."""
        since = instants.write(item.queued_at)
        for event in reversed(self._events.get(session_id, ())):
            status = STATUS_EVENTS.get(event["type"])
            if status is SessionStatus.TERMINATED or (status is not None and event["processed_at"] >= since):
                return status
        return SessionStatus.IDLE if item.state is State.STOPPED else SessionStatus.RUNNING

    def add(self, session_id: str, event: Event) -> Event:
        """Add an event, with an id if it has none, and send it to all streams."""
        told = {"id": f"sevt_{secrets.token_hex(12)}"} | event
        told["processed_at"] = instants.write(self._simulation.clock.now())
        self._events[session_id].append(told)
        for news in self._news.get(session_id, ()):
            news.set()
        return told

    async def _get(self, request: web.Request) -> web.StreamResponse:
        session_id = request.match_info["session_id"]
        caller, item = self._caller(request), self.item_of(session_id)
        if caller.kind in (CredentialsKind.NONE, CredentialsKind.UNKNOWN):
            return _refused(RequestRefusal(RefusalKind.UNAUTHENTICATED, "Invalid credentials"))
        if item is None or not _may_see(caller, item):
            return _refused(RequestRefusal(RefusalKind.NOT_FOUND, f"Session {session_id} was not found"))
        return web.json_response(self.shown(session_id, item))

    async def _list(self, request: web.Request) -> web.StreamResponse:
        """List events: those that `types` names, up to `limit`, "chronological" or by `order=desc` the latest first."""
        if (refusal := self._refusal(request)) is not None:
            return _refused(refusal)
        query = request.query
        types = set(query.getall("types[]", [])) | set(query.getall("types", []))
        limit = query.get("limit", "1000")
        if not limit.isdigit() or query.get("order", "asc") not in {"asc", "desc"}:
            return _refused(
                RequestRefusal(RefusalKind.INVALID, "limit, order: must be a whole number, and asc or desc")
            )
        chosen = [
            event for event in self.events(request.match_info["session_id"]) if event["type"] in types or not types
        ]
        if query.get("order") == "desc":
            chosen.reverse()
        return web.json_response({"data": chosen[: int(limit)], "next_page": None})

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

    def _caller(self, request: web.Request) -> Caller:
        headers = request.headers
        now = self._simulation.clock.now()
        return self._simulation.keyring.identify(headers.get(hdrs.AUTHORIZATION), headers.get("x-api-key"), now)

    def _refusal(self, request: web.Request) -> RequestRefusal | None:
        """Return why the caller may not see the session; the answer does not reveal whether it exists."""
        caller = self._caller(request)
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
