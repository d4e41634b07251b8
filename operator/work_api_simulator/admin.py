"""The administration of the simulator: JSON over HTTP on a port of its own, without credentials.

This module reads requests and renders answers. It must not change an item by itself: `simulation` does that.

Keys of the body are optional, except those marked *. Calls on an item answer with the item.

| Operation | Body | Answer, effect |
|---|---|---|
| GET `/` | | addresses, profile, environments, number of items, `outage`, `last_seq` of the history |
| PUT `/environments/{id}/keys` | `keys`* | creates the environment, or replaces its keys (an empty list revokes all) |
| PUT `/api-keys` | `keys`* | the organization's API keys |
| POST `/items` | `environment_id`*, `id`, `data_type`, `data_id`, `ttl_seconds`, `state`, `acknowledged`, `metadata`||
| GET `/items`, GET `/items/{id}` | | all items; one. With sessions token and `secret`: this is the owner's view |
| DELETE `/items/{id}` | | no body; the item no longer exists |
| POST `/items/{id}/stop` | `force` | the item |
| POST `/items/{id}/requeue` | `state`, `acknowledged` | the item, queued again under its id |
| POST `/items/{id}/steal` | | the item, after another worker claimed it or sent its heartbeat |
| PUT `/items/{id}/ttl` | `ttl_seconds`* (null: no longer) | the item; later beats get this TTL |
| PUT `/items/{id}/longest-ttl` | `ttl_seconds`* (null: none) | the item; beats that request more are refused (400) |
| POST `/items/{id}/token` | | the item, with a new sessions token |
| PUT `/items/{id}/token` | `seconds`* | the item; its sessions token is valid for so long from now |
| POST `/environments/{id}/past-items` | `number`* | no body; so many stopped items are listed, newer than all others |
| POST `/sessions` | `environment_id` (* if several), `id`, `ttl_seconds` | `session`, and `item`, which is queued |
| GET `/sessions/{id}` | | the session, with `status` and `archived_at` |
| POST `/sessions/{id}/archive` | | the session, archived |
| DELETE `/sessions/{id}` | | no body; its items are gone, and the poll that meets a waiting one answers 404 |
| POST `/sessions/{id}/messages` | | `item`: what waits for a worker because of the message, null if nothing does |
| POST `/sessions/{id}/events` | an event, with its `type`* | the event; clients that stream the session receive it |
| GET `/sessions/{id}/events` | | `events`: all events of the session |
| POST `/faults` | `kind`*, `call`, `item`, `times` (1; null: until removed), parameters of the kind | the fault |
| GET `/faults`, DELETE `/faults`, DELETE `/faults/{id}` | | the faults that are set |
| PUT `/outage` | `mode`*: `off`, `refuse` (stop listening, reset connections), `reset` (reset each request) | |
| GET `/history` | query `item`, `since` | `entries`, `last_seq`, `forgotten` |

Kinds of fault: `delay`, `delay-after` (`seconds`); `drop-before`, `drop-after`; `hang`, `hang-after`; `status`,
`status-after` (`status`, `retry_after` in seconds, `retry_after_form`: seconds or date, `should_retry`); `malformed`
(`body`); `gateway`, `gateway-after` (`status`, `body`, `clock_ahead` in seconds, `retry_after`): a gateway answers by
itself. Kinds without `-after` act before the request takes effect, except `malformed`, which acts after. A fault with
`share`, from 0 to 1, meets that share of the requests, at random; one with `accepted` only beats that extended a lease.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from enum import StrEnum
from itertools import islice
from typing import Any, TypeVar

from aiohttp import web

from work_api_simulator import wire
from work_api_simulator.credentials import Operation
from work_api_simulator.faults import Delay, Drop, Effect, Fail, Fault, Garble, Gateway, Hang, When
from work_api_simulator.items import Item, State, StopMode
from work_api_simulator.profiles import RetryAfter
from work_api_simulator.routes import Outage
from work_api_simulator.sessions import Sessions
from work_api_simulator.simulation import AdminError, NewItem, Simulation

HISTORY_BATCH = 100  # entries written between two turns of the event loop: about 3 ms of work

Body = Mapping[str, Any]
T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)


class AdminRoutes:
    """The routes of the administration. The server owns the sockets, so it carries out outages."""

    def __init__(
        self,
        simulation: Simulation,
        sessions: Sessions,
        *,
        set_outage: Callable[[Outage], Awaitable[None]],
        describe: Callable[[], dict[str, Any]],
        after_each: Callable[[], None],
    ) -> None:
        self._simulation = simulation
        self._sessions = sessions
        self._set_outage = set_outage
        self._describe = describe
        self._after_each = after_each

    def application(self) -> web.Application:
        """Return the aiohttp application."""
        application = web.Application(middlewares=[self._middleware()])
        application.add_routes(
            [
                web.get("/", self._root),
                web.put("/environments/{environment_id}/keys", self._environment_keys),
                web.put("/api-keys", self._api_keys),
                web.post("/items", self._create),
                web.get("/items", self._items),
                web.get("/items/{item_id}", self._item),
                web.delete("/items/{item_id}", self._delete),
                web.post("/items/{item_id}/stop", self._stop),
                web.post("/items/{item_id}/requeue", self._requeue),
                web.post("/items/{item_id}/steal", self._steal),
                web.put("/items/{item_id}/ttl", self._ttl),
                web.put("/items/{item_id}/longest-ttl", self._longest_ttl),
                web.post("/items/{item_id}/token", self._token),
                web.put("/items/{item_id}/token", self._expire_token),
                web.post("/environments/{environment_id}/past-items", self._create_past),
                web.post("/sessions", self._create_session),
                web.get("/sessions/{session_id}", self._session),
                web.delete("/sessions/{session_id}", self._delete_session),
                web.post("/sessions/{session_id}/archive", self._archive),
                web.post("/sessions/{session_id}/messages", self._message),
                web.post("/sessions/{session_id}/events", self._add_event),
                web.get("/sessions/{session_id}/events", self._events),
                web.post("/faults", self._add_fault),
                web.get("/faults", self._faults),
                web.delete("/faults", self._clear_faults),
                web.delete("/faults/{fault_id}", self._remove_fault),
                web.put("/outage", self._outage),
                web.get("/history", self._history),
            ]
        )
        return application

    def _middleware(self) -> Any:
        @web.middleware
        async def answer_errors(
            request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
        ) -> web.StreamResponse:
            try:
                response = await handler(request)
            except AdminError as error:
                response = web.json_response({"error": str(error)}, status=error.status)
            self._after_each()
            return response

        return answer_errors

    async def _root(self, _request: web.Request) -> web.Response:
        return web.json_response(self._describe())

    # -- keys

    async def _environment_keys(self, request: web.Request) -> web.Response:
        environment_id = request.match_info["environment_id"]
        keys = _keys(await _body(request))
        self._simulation.keyring.set_environment_keys(environment_id, keys)
        self._simulation.history.noted("keys-set", self._simulation.clock.now(), environment_id)
        return web.json_response({"environment_id": environment_id, "keys": len(keys)})

    async def _api_keys(self, request: web.Request) -> web.Response:
        keys = _keys(await _body(request))
        self._simulation.keyring.set_api_keys(keys)
        self._simulation.history.noted("api-keys-set", self._simulation.clock.now())
        return web.json_response({"keys": len(keys)})

    # -- items

    async def _create(self, request: web.Request) -> web.Response:
        body = await _body(request)
        new = NewItem(
            environment_id=_required(body, "environment_id", str),
            id=_optional(body, "id", str),
            data_type=_optional(body, "data_type", str) or "session",
            data_id=_optional(body, "data_id", str),
            ttl_default=_optional(body, "ttl_seconds", int),
            state=_state(body),
            metadata=_optional(body, "metadata", dict) or {},
        )
        return _shown(self._simulation.create(new), 201)

    async def _items(self, _request: web.Request) -> web.Response:
        simulation = self._simulation
        return web.json_response(
            {"items": [_item(each) for each in simulation.store.all_items(simulation.clock.now())]}
        )

    async def _item(self, request: web.Request) -> web.Response:
        return _shown(self._simulation.item(request.match_info["item_id"]))

    async def _delete(self, request: web.Request) -> web.Response:
        self._simulation.delete(request.match_info["item_id"])
        return web.Response(status=204)

    async def _stop(self, request: web.Request) -> web.Response:
        force = _optional(await _body(request), "force", bool)
        mode = StopMode.FORCED if force else StopMode.GRACEFUL
        return _shown(self._simulation.stop(request.match_info["item_id"], mode))

    async def _requeue(self, request: web.Request) -> web.Response:
        state = _state(await _body(request))
        return _shown(self._simulation.requeue(request.match_info["item_id"], state))

    async def _steal(self, request: web.Request) -> web.Response:
        return _shown(self._simulation.steal(request.match_info["item_id"]))

    async def _ttl(self, request: web.Request) -> web.Response:
        seconds = _optional(await _body(request), "ttl_seconds", int)
        return _shown(self._simulation.impose_ttl(request.match_info["item_id"], seconds))

    async def _token(self, request: web.Request) -> web.Response:
        return _shown(self._simulation.rotate_token(request.match_info["item_id"]))

    async def _longest_ttl(self, request: web.Request) -> web.Response:
        seconds = _optional(await _body(request), "ttl_seconds", int)
        return _shown(self._simulation.refuse_ttl(request.match_info["item_id"], seconds))

    async def _expire_token(self, request: web.Request) -> web.Response:
        seconds = _number(await _body(request), "seconds")
        return _shown(self._simulation.expire_token(request.match_info["item_id"], seconds))

    async def _create_past(self, request: web.Request) -> web.Response:
        number = _required(await _body(request), "number", int)
        self._simulation.create_past(request.match_info["environment_id"], number)
        return web.Response(status=204)

    # -- sessions

    async def _create_session(self, request: web.Request) -> web.Response:
        body = await _body(request)
        item = self._simulation.create_session(
            _optional(body, "environment_id", str), _optional(body, "id", str), _optional(body, "ttl_seconds", int)
        )
        session = self._sessions.shown(item.data_id, item)
        return web.json_response({"session": session, "item": _item(item)}, status=201)

    async def _session(self, request: web.Request) -> web.Response:
        return web.json_response(self._sessions.shown(*self._named_session(request)))

    async def _archive(self, request: web.Request) -> web.Response:
        session_id, item = self._named_session(request)
        self._sessions.archive(session_id)
        return web.json_response(self._sessions.shown(session_id, item))

    async def _delete_session(self, request: web.Request) -> web.Response:
        self._sessions.delete(request.match_info["session_id"])
        return web.Response(status=204)

    async def _message(self, request: web.Request) -> web.Response:
        item = self._simulation.message(request.match_info["session_id"])
        return web.json_response({"item": None if item is None else _item(item)}, status=201)

    async def _add_event(self, request: web.Request) -> web.Response:
        body, (session_id, _) = await _body(request), self._named_session(request)
        event = dict(body) | {"type": _required(body, "type", str)}
        return web.json_response(self._sessions.add(session_id, event), status=201)

    async def _events(self, request: web.Request) -> web.Response:
        session_id, _ = self._named_session(request)
        return web.json_response({"events": self._sessions.events(session_id)})

    def _named_session(self, request: web.Request) -> tuple[str, Item]:
        session_id = request.match_info["session_id"]
        item = self._sessions.item_of(session_id)
        if item is None:
            raise AdminError(404, f"There is no item for session {session_id}")
        return session_id, item

    # -- faults

    async def _add_fault(self, request: web.Request) -> web.Response:
        body = await _body(request)
        kind = _required(body, "kind", str)
        times = _optional(body, "times", int) if "times" in body else 1
        call = _optional(body, "call", str)
        fault = self._simulation.faults.add(
            kind,
            _effect(kind, body),
            None if call is None else _parse_enum(Operation, call),
            _optional(body, "item", str),
            times=times,
            share=_number(body, "share", 1.0),
            is_for_accepted=bool(_optional(body, "accepted", bool)),
        )
        return web.json_response(_fault(fault), status=201)

    async def _faults(self, _request: web.Request) -> web.Response:
        return web.json_response({"faults": [_fault(each) for each in self._simulation.faults.listed()]})

    async def _clear_faults(self, _request: web.Request) -> web.Response:
        self._simulation.faults.clear()
        return web.Response(status=204)

    async def _remove_fault(self, request: web.Request) -> web.Response:
        fault_id = request.match_info["fault_id"]
        if not fault_id.isdigit() or not self._simulation.faults.remove(int(fault_id)):
            raise AdminError(404, f"There is no fault {fault_id}")
        return web.Response(status=204)

    async def _outage(self, request: web.Request) -> web.Response:
        mode = _parse_enum(Outage, _required(await _body(request), "mode", str))
        await self._set_outage(mode)
        return web.json_response({"mode": mode})

    # -- history

    async def _history(self, request: web.Request) -> web.StreamResponse:
        history, since = self._simulation.history, request.query.get("since", "0")
        if not since.isdigit():
            raise AdminError(400, "since: must be an entry's `seq`")
        self._simulation.store.run_due(self._simulation.clock.now())
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        await response.write(
            f'{{"last_seq": {history.last_seq}, "forgotten": {history.forgotten}, "entries": ['.encode()
        )
        entries = history.read(item_id=request.query.get("item"), since=int(since))
        separator = ""
        while batch := list(islice(entries, HISTORY_BATCH)):
            await response.write((separator + ", ".join(map(json.dumps, batch))).encode())
            separator = ", "
            await asyncio.sleep(0)  # a long history must not delay heartbeats
        await response.write(b"]}")
        await response.write_eof()
        return response


async def _body(request: web.Request) -> Body:
    text = await request.text()
    try:
        body = json.loads(text) if text else {}
    except ValueError as error:
        raise AdminError(400, f"The body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise AdminError(400, "The body must be a JSON object")
    return body


def _optional(body: Body, key: str, kind: type[T]) -> T | None:
    value = body.get(key)
    if value is None:
        return None
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise AdminError(400, f"{key}: must be of type {kind.__name__}")
    return value


def _required(body: Body, key: str, kind: type[T]) -> T:
    value = _optional(body, key, kind)
    if value is None:
        raise AdminError(400, f"{key}: is required")
    return value


def _parse_enum(kind: type[E], text: str) -> E:
    try:
        return kind(text)
    except ValueError as error:
        known = ", ".join(member.value for member in kind)
        raise AdminError(400, f"{text!r} is not one of: {known}") from error


def _number(body: Body, key: str, default: float | None = None) -> float:
    value = body.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise AdminError(400, f"{key}: must be a number, and not negative")
    return float(value)


def _keys(body: Body) -> list[str]:
    keys = _required(body, "keys", list)
    if not all(isinstance(key, str) and key for key in keys):
        raise AdminError(400, "keys: must be a list of non-empty strings")
    return keys


def _state(body: Body) -> State:
    """Return an item's first state. `acknowledged: true` is `starting`, as if a worker had acknowledged it."""
    state = _optional(body, "state", str)
    if state is None:
        return State.STARTING if _optional(body, "acknowledged", bool) else State.QUEUED
    return _parse_enum(State, state)


def _effect(kind: str, body: Body) -> Effect:
    match kind:
        case "delay" | "delay-before":
            return Delay(When.BEFORE, _number(body, "seconds"))
        case "delay-after":
            return Delay(When.AFTER, _number(body, "seconds"))
        case "drop-before":
            return Drop(When.BEFORE)
        case "drop-after":
            return Drop(When.AFTER)
        case "hang" | "hang-before":
            return Hang(When.BEFORE)
        case "hang-after":
            return Hang(When.AFTER)
        case "status" | "status-before":
            return _failure(When.BEFORE, body)
        case "status-after":
            return _failure(When.AFTER, body)
        case "malformed":
            text = _optional(body, "body", str)
            return Garble() if text is None else Garble(text)
        case "gateway" | "gateway-before":
            return _gateway(When.BEFORE, body)
        case "gateway-after":
            return _gateway(When.AFTER, body)
        case _:
            raise AdminError(400, f"kind: there is no fault of kind {kind!r}")


def _failure(when: When, body: Body) -> Fail:
    status, form = _required(body, "status", int), _optional(body, "retry_after_form", str)
    if not 400 <= status <= 599:
        raise AdminError(400, "status: must be between 400 and 599")
    return Fail(
        when,
        status,
        _optional(body, "retry_after", int),
        None if form is None else _parse_enum(RetryAfter, form),
        _optional(body, "should_retry", str),
    )


def _gateway(when: When, body: Body) -> Gateway:
    status = _required(body, "status", int)
    return Gateway(
        when,
        status,
        _optional(body, "body", str) or f"default backend - {status}",
        _number(body, "clock_ahead", 0.0),
        _optional(body, "retry_after", int),
    )


def _fault(fault: Fault) -> dict[str, Any]:
    return {"id": fault.id, "kind": fault.kind, "call": fault.call, "item": fault.item_id, "times": fault.times}


def _shown(item: Item, status: int = 200) -> web.Response:
    return web.json_response(_item(item), status=status)


def _item(item: Item) -> dict[str, Any]:
    return {
        **json.loads(wire.item(item)),
        "secret": wire.secret(item.sessions_token),
        "sessions_token": item.sessions_token,
        "ttl_seconds": item.ttl,
        "last_heartbeat": item.value,
        "deliveries": item.deliveries,
    }
