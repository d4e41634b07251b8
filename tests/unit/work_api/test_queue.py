"""How the calls about a queue and its sessions go out, and how every answer is read; over real sockets."""

import base64
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from pydantic import SecretStr

from support.scripted_server import Answer, Fault, ScriptedServer, always, serving
from support.work_api_calls import DATE, ITEM, KEY, refusal
from worklease.rules.queue import (
    AckAccepted,
    AckConflicted,
    CallFailed,
    IdleReason,
    NothingQueued,
    QueuedItem,
    QueueFailure,
    QueueNumbers,
    SessionState,
)
from worklease.work_api.client import WorkApi
from worklease.work_api.queue import LONGEST_EVENTS, Polled, PollOutcome, QueueCalls, work_secret

TOKEN = "sessions-token-that-nobody-may-see"
SECRET = base64.urlsafe_b64encode(json.dumps({"sessions_token": TOKEN}).encode()).decode().rstrip("=")
WORK = {
    "id": "sesn_1",
    "type": "work",
    "state": "queued",
    "data": {"type": "session", "id": "sesn_1"},
    "environment_id": "env_1",
    "created_at": "2026-11-22T03:52:26.172343Z",
    "started_at": None,
    "metadata": {},
    "secret": SECRET,
    "actor": None,
}
READ = QueuedItem(
    id="sesn_1",
    environment_id="env_1",
    data_type="session",
    data_id="sesn_1",
    created_at="2026-11-22T03:52:26.172343Z",
    started_at=None,
)
STATS = {"type": "work_queue_stats", "depth": 2, "pending": 1, "oldest_queued_at": DATE, "workers_polling": 3}
LOST = (Fault.HANG, Fault.HANG_IN_BODY, Fault.RESET, Fault.CLOSE, Fault.TRUNCATE)


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with serving() as scripted:
        yield scripted


@pytest.fixture
async def queue(server: ScriptedServer) -> AsyncIterator[QueueCalls]:
    async with WorkApi(server.url, time.monotonic) as api:
        yield QueueCalls(api, "worker-1")


async def poll(queue: QueueCalls, seconds: float = 5) -> PollOutcome:
    key = SecretStr(KEY)
    return await queue.poll("env_1", key, block_ms=999, reclaim_older_than_ms=10_000, timeout=seconds)


CALLS: list[Callable[[QueueCalls, float], Awaitable[object]]] = [
    poll,
    lambda queue, seconds: queue.ack(ITEM, timeout=seconds),
    lambda queue, seconds: queue.stats("env_1", SecretStr(KEY), timeout=seconds),
    lambda queue, seconds: queue.session("sesn_1", SecretStr(KEY), timeout=seconds),
    lambda queue, seconds: queue.idle_reason("sesn_1", SecretStr(KEY), timeout=seconds),
]
NAMES = ["poll", "ack", "stats", "session", "idle_reason"]
each_call = pytest.mark.parametrize("call", CALLS, ids=NAMES)


# --- Poll ------------------------------------------------------------------------------------------------------------


async def test_a_poll_is_the_request_that_the_protocol_describes(server: ScriptedServer, queue: QueueCalls) -> None:
    server.script = always(Answer(body=b"null"))
    await poll(queue)
    (seen,) = server.seen
    assert (seen.method, seen.path, seen.body) == ("GET", "/v1/environments/env_1/work/poll", b"")
    assert seen.query == {"block_ms": ["999"], "reclaim_older_than_ms": ["10000"]}
    assert seen.headers["authorization"] == f"Bearer {KEY}"
    assert seen.headers["anthropic-beta"] == "managed-agents-2026-04-01"
    assert seen.headers["anthropic-worker-id"] == "worker-1"


@pytest.mark.parametrize(
    "answer",
    [Answer(body=b"null"), Answer(body=b" null\n"), Answer(body={}), Answer(body=b""), Answer(status=204, body=b"")],
)
async def test_each_servers_way_to_say_that_nothing_waits(
    server: ScriptedServer, queue: QueueCalls, answer: Answer
) -> None:
    server.script = always(answer)
    assert await poll(queue) == NothingQueued()


async def test_an_item_is_read_with_its_token(server: ScriptedServer, queue: QueueCalls) -> None:
    server.script = always(Answer(body=WORK | {"a_new_key": [1]}))
    polled = await poll(queue)
    assert polled == Polled(READ, SecretStr(TOKEN))
    assert TOKEN not in repr(polled)


@pytest.mark.parametrize(
    "secret",
    [
        *(None, "", 5, {}, "%%%", "ä"),
        base64.urlsafe_b64encode(b"no json").decode(),
        base64.urlsafe_b64encode(b"[]").decode(),
        base64.urlsafe_b64encode(b"{}").decode(),
        base64.urlsafe_b64encode(b'{"sessions_token": 5}').decode(),
        base64.urlsafe_b64encode(b'{"sessions_token": ""}').decode(),
        base64.urlsafe_b64encode(b'{"sessions_token": "a\\nb"}').decode(),
    ],
)
async def test_a_secret_that_holds_no_token_costs_nobody_the_item(
    server: ScriptedServer, queue: QueueCalls, secret: object
) -> None:
    server.script = always(Answer(body=WORK | {"secret": secret}))
    assert await poll(queue) == Polled(READ, None)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (WORK | {"id": None}, "id"),
        (WORK | {"id": ""}, "id"),
        (WORK | {"data": None}, "data"),
        (WORK | {"data": {"type": "session"}}, "data.id"),
        ({key: value for key, value in WORK.items() if key != "environment_id"}, "environment_id"),
        ([WORK], "the body"),
        (b"<html>", "the body"),
    ],
)
async def test_an_item_that_cannot_be_read_is_left_in_the_queue(
    server: ScriptedServer, queue: QueueCalls, body: Any, named: str
) -> None:
    server.script = always(Answer(body=body))
    outcome = await poll(queue)
    assert isinstance(outcome, CallFailed)
    assert outcome.failure is QueueFailure.UNANSWERED
    assert named in outcome.message
    assert SECRET not in outcome.message


def test_the_work_secret_is_the_tokens_json_and_nothing_else() -> None:
    decoded = base64.urlsafe_b64decode(work_secret(SecretStr(TOKEN)))
    assert json.loads(decoded) == {"sessions_token": TOKEN}


# --- Ack -------------------------------------------------------------------------------------------------------------


async def test_an_acknowledgement_names_its_item_and_has_no_body(server: ScriptedServer, queue: QueueCalls) -> None:
    await queue.ack(ITEM, timeout=5)
    (seen,) = server.seen
    assert (seen.method, seen.path, seen.body) == ("POST", "/v1/environments/env_1/work/work_1/ack", b"")


@pytest.mark.parametrize(
    "answer", [Answer(body=WORK | {"state": "starting"}), Answer(body=b"?"), Answer(status=204, body=b"")]
)
async def test_an_acknowledgement_is_accepted(server: ScriptedServer, queue: QueueCalls, answer: Answer) -> None:
    server.script = always(answer)
    assert await queue.ack(ITEM, timeout=5) == AckAccepted()


async def test_a_409_says_that_somebody_acknowledged_it_and_not_who(server: ScriptedServer, queue: QueueCalls) -> None:
    server.script = always(refusal(409, "it is starting"))
    outcome = await queue.ack(ITEM, timeout=5)
    assert isinstance(outcome, AckConflicted)
    assert "it is starting" in outcome.message


# --- Stats and sessions ----------------------------------------------------------------------------------------------


async def test_the_numbers_of_a_queue_are_read(server: ScriptedServer, queue: QueueCalls) -> None:
    server.script = always(Answer(body=STATS))
    assert await queue.stats("env_1", SecretStr(KEY), timeout=5) == QueueNumbers(2, 1, DATE, 3)
    assert server.seen[0].path == "/v1/environments/env_1/work/stats"
    server.script = always(Answer(body={"depth": 0, "pending": 0}))
    assert await queue.stats("env_1", SecretStr(KEY), timeout=5) == QueueNumbers(0, 0, None, None)


@pytest.mark.parametrize(
    "body", [b"null", {}, STATS | {"depth": -1}, STATS | {"pending": "1"}, STATS | {"depth": 2**60}]
)
async def test_numbers_that_are_none_are_not_shown(server: ScriptedServer, queue: QueueCalls, body: object) -> None:
    server.script = always(Answer(body=body))
    outcome = await queue.stats("env_1", SecretStr(KEY), timeout=5)
    assert isinstance(outcome, CallFailed)


@pytest.mark.parametrize(
    ("body", "state"),
    [
        ({"status": "running", "archived_at": None}, SessionState("running", is_archived=False)),
        ({"status": "idle", "archived_at": DATE}, SessionState("idle", is_archived=True)),
        ({"status": "a_new_word"}, SessionState("a_new_word", is_archived=False)),
    ],
)
async def test_a_session_is_read(server: ScriptedServer, queue: QueueCalls, body: object, state: SessionState) -> None:
    server.script = always(Answer(body=body))
    assert await queue.session("sesn/1", SecretStr(KEY), timeout=5) == state
    assert server.seen[0].path == "/v1/sessions/sesn%2F1"


@pytest.mark.parametrize("body", [b"null", {}, {"status": None}, {"status": 5}])
async def test_a_session_that_cannot_be_read_decides_nothing(
    server: ScriptedServer, queue: QueueCalls, body: object
) -> None:
    server.script = always(Answer(body=body))
    outcome = await queue.session("sesn_1", SecretStr(KEY), timeout=5)
    assert isinstance(outcome, CallFailed)
    assert outcome.failure is QueueFailure.UNANSWERED


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        ([{"stop_reason": {"type": "requires_action", "event_ids": []}}], "requires_action"),
        ([{"stop_reason": {"type": "end_turn"}}], "end_turn"),
        ([{}], None),
        ([], None),
    ],
)
async def test_the_latest_event_says_why_a_session_is_idle(
    server: ScriptedServer, queue: QueueCalls, events: object, reason: str | None
) -> None:
    server.script = always(Answer(body={"data": events, "next_page": None}))
    assert await queue.idle_reason("sesn_1", SecretStr(KEY), timeout=5) == IdleReason(reason)
    assert server.seen[0].path == "/v1/sessions/sesn_1/events"
    assert server.seen[0].query == {"types[]": ["session.status_idle"], "order": ["desc"], "limit": ["1"]}


async def test_an_event_without_end_is_not_read_on(server: ScriptedServer, queue: QueueCalls) -> None:
    server.script = always(Answer(body={"data": [{"padding": "x" * LONGEST_EVENTS}]}))
    assert isinstance(await queue.idle_reason("sesn_1", SecretStr(KEY), timeout=5), CallFailed)


# --- What goes wrong is the same for all -----------------------------------------------------------------------------


@each_call
@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (refusal(401), (QueueFailure.UNAUTHORIZED, None)),
        (refusal(403), (QueueFailure.UNAUTHORIZED, None)),
        (refusal(404), (QueueFailure.NOT_FOUND, None)),
        (Answer(status=404, body=b"default backend"), (QueueFailure.UNANSWERED, None)),
        (refusal(429, Retry_After="7"), (QueueFailure.THROTTLED, 7.0)),
        (refusal(429), (QueueFailure.THROTTLED, None)),
        (refusal(503, Retry_After="7"), (QueueFailure.THROTTLED, 7.0)),
        (refusal(503), (QueueFailure.UNANSWERED, None)),
        (refusal(500), (QueueFailure.UNANSWERED, None)),
        (refusal(408), (QueueFailure.UNANSWERED, None)),
        (Answer(status=302), (QueueFailure.UNANSWERED, None)),
        (refusal(400), (QueueFailure.REJECTED, None)),
        (refusal(412), (QueueFailure.REJECTED, None)),
    ],
)
async def test_a_refusal_says_why_and_for_how_long(
    server: ScriptedServer,
    queue: QueueCalls,
    call: Callable[[QueueCalls, float], Awaitable[object]],
    answer: Answer,
    expected: tuple[QueueFailure, float | None],
) -> None:
    server.script = always(answer)
    outcome = await call(queue, 5)
    assert isinstance(outcome, CallFailed)
    assert (outcome.failure, outcome.retry_after) == expected
    assert outcome.is_in_doubt is (outcome.failure is QueueFailure.UNANSWERED)
    assert KEY not in outcome.message


@each_call
@pytest.mark.parametrize("fault", LOST, ids=lambda fault: fault.name)
async def test_an_answer_that_gets_lost_leaves_it_in_doubt(
    server: ScriptedServer,
    queue: QueueCalls,
    call: Callable[[QueueCalls, float], Awaitable[object]],
    fault: Fault,
) -> None:
    server.script = always(Answer(body=WORK, fault=fault))
    outcome = await call(queue, 0.2)
    assert isinstance(outcome, CallFailed)
    assert outcome.failure is QueueFailure.UNANSWERED


@each_call
async def test_a_call_that_nobody_listens_to_was_not_sent(
    call: Callable[[QueueCalls, float], Awaitable[object]],
) -> None:
    async with serving() as server:
        url = server.url
    async with WorkApi(url, time.monotonic) as api:
        outcome = await call(QueueCalls(api, "worker-1"), 5)
    assert isinstance(outcome, CallFailed)
    assert outcome.failure is QueueFailure.UNSENT
