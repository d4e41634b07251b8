"""The Work API over HTTP: connections, headers, long polls and faults.

This module owns everything between the socket and `calls`. It must not contain a rule of the protocol: `calls` and
`items` decide what a request does, in one step that nothing interrupts.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from enum import StrEnum
from typing import assert_never

from aiohttp import hdrs, web

from work_api_simulator import wire
from work_api_simulator.calls import WorkRequest, poll_block_ms
from work_api_simulator.credentials import Caller, Operation
from work_api_simulator.faults import Delay, Drop, Effect, Fail, Fault, Garble, Gateway, Hang, When
from work_api_simulator.history import RecordedRequest
from work_api_simulator.instants import MILLISECOND, SECOND
from work_api_simulator.profiles import Header, RetryAfter
from work_api_simulator.refusals import RequestRefusal
from work_api_simulator.simulation import Simulation
from work_api_simulator.wire import Answer

HANG_POLL_INTERVAL = 0.05  # seconds between two checks whether a client has left: short beside any client's timeout
RETRYABLE = frozenset({408, 429})  # "408, 429, 5xx | retry"
GATEWAY = "gateway"  # the `Server` of its answers
CARRY_RETRY_AFTER = frozenset({429, 503})  # "429 and 503 may carry `Retry-After`"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Outage(StrEnum):
    """How the server is unavailable, if it is."""

    OFF = "off"
    REFUSE = "refuse"
    RESET = "reset"


@dataclass(frozen=True, slots=True)
class _Dropped:
    """A request without an answer; `outcome` is written to the history."""

    outcome: str


@dataclass(frozen=True, slots=True)
class _Reply:
    """A reply as it is sent."""

    status: int
    text: str
    headers: dict[str, str]
    content_type: str = "application/json"


class WorkRoutes:
    """The routes of the Work API."""

    def __init__(self, simulation: Simulation) -> None:
        self._profile = simulation.profile
        self._calls = simulation.calls
        self._keyring = simulation.keyring
        self._faults = simulation.faults
        self._history = simulation.history
        self._clock = simulation.clock
        self._arrivals: dict[str, set[asyncio.Event]] = {}
        self._request_prefix = f"req_{secrets.token_hex(6)}"
        self.outage = Outage.OFF
        self.after_each: Callable[[], None] = lambda: None

    def application(self, *others: web.RouteDef) -> web.Application:
        """Return the aiohttp application, with the routes of the Work API and the given others."""
        application = web.Application()
        application.add_routes(others)
        work = "/v1/environments/{environment_id}/work"
        item = work + "/{work_id}"
        application.add_routes(
            [
                web.post(item + "/heartbeat", self._handler(Operation.HEARTBEAT)),
                web.post(item + "/stop", self._handler(Operation.STOP)),
                web.post(item + "/ack", self._handler(Operation.ACK)),
                web.get(work + "/poll", self._handler(Operation.POLL)),
                web.get(work + "/stats", self._handler(Operation.STATS)),
                web.get(item, self._handler(Operation.GET)),
                web.post(item, self._handler(Operation.METADATA)),
                web.get(work, self._handler(Operation.LIST)),
            ]
        )
        application.router.add_route("*", "/{anything:.*}", self._unknown_path)
        if self._profile.date is Header.ABSENT:
            application.on_response_prepare.append(_without_date)
        return application

    def wake_polls(self, environment_id: str) -> None:
        """Make the waiting polls of an environment check the queue again."""
        for event in self._arrivals.get(environment_id, ()):
            event.set()

    def _handler(self, call: Operation) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            return await self._serve(call, request)

        return handle

    async def _serve(self, call: Operation, request: web.Request) -> web.StreamResponse:
        record = self._record_arrival(call, request)
        if self.outage is not Outage.OFF:
            return self._finish(request, record, _Dropped("outage"))
        fault = self._faults.take(call, record.item_id)
        if fault is None:
            return self._finish(request, record, await self._apply(call, request, record))
        record.fault = fault.kind
        reply = await self._inject_before(fault, request)
        if reply is None:
            applied = await self._apply(call, request, record)
            is_met = record.extended or not fault.is_for_accepted
            reply = await self._inject_after(fault, request, applied) if is_met else applied
        return self._finish(request, record, reply)

    def _record_arrival(self, call: Operation, request: web.Request) -> RecordedRequest:
        path, headers = request.match_info, request.headers
        caller = self._identify(headers)
        return self._history.arrived(
            RecordedRequest(
                seq=0,
                call=call,
                environment_id=path["environment_id"],
                item_id=path.get("work_id"),
                credentials=caller.kind,
                agent=headers.get(hdrs.USER_AGENT),
                worker_id=headers.get("Anthropic-Worker-ID"),
                arrived=self._clock.now(),
                expected=request.query.get("expected_last_heartbeat"),
                desired_ttl=request.query.get("desired_ttl_seconds"),
            )
        )

    def _identify(self, headers: Mapping[str, str]) -> Caller:
        return self._keyring.identify(headers.get(hdrs.AUTHORIZATION), headers.get("x-api-key"), self._clock.now())

    async def _apply(self, call: Operation, request: web.Request, record: RecordedRequest) -> _Reply:
        """Carry out the request. Credentials are checked now, because a key may be revoked during a delay."""
        body = await request.read() if request.can_read_body else b""
        caller = self._identify(request.headers)
        work_request = WorkRequest(
            call, caller, record.environment_id, record.item_id or "", request.query, body, record.worker_id
        )
        now = self._clock.now()
        before = self._calls.named_item(work_request, now)
        result = self._calls.answer(work_request, now)
        if call is Operation.POLL and isinstance(result, Answer) and result.touched is None:
            result = await self._wait_for_work(work_request, now, result)
            now = self._clock.now()
        self._history.applied(record, now)
        self.after_each()
        if before is not None:
            record.before_state, record.before_value = before.state, before.value
            record.after_state, record.after_value = before.state, before.value
        match result:
            case RequestRefusal():
                request_id = self._request_id(record)
                text = wire.refused(result, request_id)
                return self._reply(result.kind.status, text, request_id, result.retry_after)
            case Answer(status, text, touched):
                if touched is not None:
                    record.item_id = touched.after.id
                    record.before_state, record.before_value = touched.before.state, touched.before.value
                    record.after_state, record.after_value = touched.after.state, touched.after.value
                    record.ttl, record.extended = touched.ttl, touched.extended
                return self._reply(status, text, self._request_id(record), None)
            case _:
                assert_never(result)

    async def _wait_for_work(
        self, work_request: WorkRequest, since: int, empty: Answer | RequestRefusal
    ) -> Answer | RequestRefusal:
        """Hold an empty poll for up to `block_ms`, as a long poll, and never longer."""
        block = poll_block_ms(work_request)
        result = empty
        if not isinstance(block, int):
            return result
        deadline = since + block * MILLISECOND
        arrival = asyncio.Event()
        waiting = self._arrivals.setdefault(work_request.environment_id, set())
        waiting.add(arrival)
        try:
            while (left := deadline - self._clock.now()) > 0:
                arrival.clear()
                try:
                    await asyncio.wait_for(arrival.wait(), left / SECOND)
                except TimeoutError:
                    return self._calls.poll_again(
                        work_request, self._clock.now()
                    )  # un-acked items may be old enough by now
                result = self._calls.poll_again(work_request, self._clock.now())
                if isinstance(result, RequestRefusal) or result.touched is not None:
                    return result
        finally:
            waiting.discard(arrival)
        return result

    # -- faults

    async def _inject_before(self, fault: Fault, request: web.Request) -> _Reply | _Dropped | None:
        """Carry out a fault that acts before the request takes effect; None continues with the request."""
        effect = fault.effect
        if _when(effect) is not When.BEFORE:
            return None
        return await self._inject(fault, effect, request)

    async def _inject_after(self, fault: Fault, request: web.Request, applied: _Reply) -> _Reply | _Dropped:
        """Carry out a fault that acts after the request took effect; return the reply, if any."""
        effect = fault.effect
        if _when(effect) is not When.AFTER:
            return applied
        return await self._inject(fault, effect, request) or applied

    async def _inject(self, fault: Fault, effect: Effect, request: web.Request) -> _Reply | _Dropped | None:
        match effect:
            case Delay(_, seconds):
                await asyncio.sleep(seconds)
                return None
            case Drop(when):
                return _Dropped(f"dropped-{when}")
            case Hang(when):
                while not _has_left(request) and not fault.removed:  # noqa: ASYNC110 - aiohttp has no event for it
                    await asyncio.sleep(HANG_POLL_INTERVAL)
                return _Dropped(f"hung-{when}")
            case Fail():
                return self._failure(effect)
            case Garble(body):
                return _Reply(200, body, {})
            case Gateway():
                return self._gateway(effect)
            case _:
                assert_never(effect)

    def _failure(self, fail: Fail) -> _Reply:
        request_id = f"{self._request_prefix}_fault"
        text = wire.error(wire.error_type(fail.status), "Injected fault", request_id)
        reply = self._reply(fail.status, text, request_id, None)
        if fail.retry_after is not None:
            reply.headers.update(self._retry_after(fail.retry_after, fail.retry_after_form))
        if fail.should_retry is not None:
            reply.headers["x-should-retry"] = fail.should_retry
        return reply

    def _gateway(self, gateway: Gateway) -> _Reply:
        """Return an answer of the gateway before the API: its own words, clock and headers, and no request's id."""
        date = formatdate(self._clock.now() / SECOND + gateway.clock_ahead, usegmt=True)
        headers: dict[str, str] = {hdrs.SERVER: GATEWAY, hdrs.DATE: date}
        if gateway.retry_after is not None:
            headers[hdrs.RETRY_AFTER] = str(gateway.retry_after)
        return _Reply(gateway.status, gateway.body, headers, content_type="text/plain")

    # -- answers

    def _request_id(self, record: RecordedRequest) -> str:
        return f"{self._request_prefix}{record.seq:08x}"

    def _reply(self, status: int, text: str, request_id: str, retry_after: int | None) -> _Reply:
        headers = {"request-id": request_id}
        if status >= 400 and self._profile.should_retry is Header.PRESENT:
            headers["x-should-retry"] = "true" if status in RETRYABLE or status >= 500 else "false"
        if retry_after is not None and status in CARRY_RETRY_AFTER:
            headers.update(self._retry_after(retry_after, None))
        return _Reply(status, text, headers)

    def _retry_after(self, seconds: int, form: RetryAfter | None) -> dict[str, str]:
        """Return the header `Retry-After` "in seconds or as a date"."""
        chosen = self._profile.retry_after if form is None else form
        match chosen:
            case RetryAfter.SECONDS:
                return {hdrs.RETRY_AFTER: str(seconds)}
            case RetryAfter.DATE:
                return {hdrs.RETRY_AFTER: formatdate(self._clock.now() / SECOND + seconds, usegmt=True)}
            case RetryAfter.ABSENT:
                return {}
            case _:
                assert_never(chosen)

    def _finish(self, request: web.Request, record: RecordedRequest, reply: _Reply | _Dropped) -> web.StreamResponse:
        record.answered = self._clock.now()
        match reply:
            case _Dropped(outcome):
                record.outcome = outcome
                if request.transport is not None:
                    request.transport.abort()
                return web.Response(status=500)  # never sent: the connection is aborted
            case _Reply(status, text, headers, content_type):
                record.status = status
                record.outcome = "client-gone" if _has_left(request) else "answered"
                if status == 204:
                    return web.Response(status=status, headers=headers)
                return web.Response(status=status, text=text, headers=headers, content_type=content_type)
            case _:
                assert_never(reply)

    async def _unknown_path(self, request: web.Request) -> web.StreamResponse:
        """Answer 404, as the API does, to a path that is no call of the Work API."""
        request_id = f"{self._request_prefix}_path"
        text = wire.error("not_found_error", f"Not found: {request.method} {request.path}", request_id)
        reply = self._reply(404, text, request_id, None)
        return web.Response(status=404, text=text, headers=reply.headers, content_type="application/json")


def _when(effect: Effect) -> When:
    return When.AFTER if isinstance(effect, Garble) else effect.when


def _has_left(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


async def _without_date(_request: web.Request, response: web.StreamResponse) -> None:
    if response.headers.get(hdrs.SERVER) != GATEWAY:
        response.headers.popall(hdrs.DATE, None)
