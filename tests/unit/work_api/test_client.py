"""How the client of the Work API reads every answer, and what it concludes from none; over real sockets."""

import gzip
import json
import math
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from support.scripted_server import Answer, Fault, ScriptedServer, always, in_turn, serving
from support.work_api_calls import (
    CURRENT,
    DATE,
    ITEM,
    KEY,
    NOON,
    RENEWED,
    VALUE,
    beat,
    conflict,
    message_of,
    refusal,
    renewed,
)
from worklease.api.models import LONGEST_HEARTBEAT
from worklease.rules.outcomes import (
    Answered,
    Conflicted,
    Current,
    Missing,
    NotReady,
    Outcome,
    Rejected,
    Throttled,
    Unanswered,
    Unauthorized,
)
from worklease.work_api import responses
from worklease.work_api.client import (
    LONGEST_ANSWER,
    StopAcknowledged,
    StopNotAcknowledged,
    WorkApi,
    WorkItem,
)
from worklease.work_api.responses import LONGEST_RETRY_AFTER


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with serving() as scripted:
        yield scripted


@pytest.fixture
async def api(server: ScriptedServer) -> AsyncIterator[WorkApi]:
    async with WorkApi(server.url, time.monotonic) as opened:
        yield opened


# --- What goes out -------------------------------------------------------------------------------------------------


async def test_a_beat_is_the_request_that_the_reference_describes(server: ScriptedServer, api: WorkApi) -> None:
    server.script = always(renewed())
    await api.heartbeat(ITEM, beat(VALUE, desired=120))
    (seen,) = server.seen
    assert (seen.method, seen.path) == ("POST", "/v1/environments/env_1/work/work_1/heartbeat")
    assert seen.query == {"expected_last_heartbeat": [VALUE], "desired_ttl_seconds": ["120"]}
    assert seen.headers["authorization"] == f"Bearer {KEY}"
    assert seen.headers["anthropic-version"] == "2023-06-01"
    assert seen.headers["anthropic-beta"] == "managed-agents-2026-04-01"
    assert seen.body == b""


async def test_a_ttl_that_nobody_asked_for_is_not_sent(server: ScriptedServer, api: WorkApi) -> None:
    server.script = always(renewed())
    await api.heartbeat(ITEM, beat())
    assert server.seen[0].query == {"expected_last_heartbeat": ["NO_HEARTBEAT"]}


async def test_an_address_with_a_path_keeps_it(server: ScriptedServer) -> None:
    server.script = always(renewed())
    async with WorkApi(f"{server.url}/gateway/", time.monotonic) as api:
        await api.heartbeat(ITEM, beat())
    assert server.seen[0].path == "/gateway/v1/environments/env_1/work/work_1/heartbeat"


async def test_ids_are_escaped_in_the_path(server: ScriptedServer, api: WorkApi) -> None:
    server.script = always(renewed())
    await api.heartbeat(WorkItem("env/../x", "work 1?#%2F+ä", SecretStr(KEY)), beat())
    path = "/v1/environments/env%2F..%2Fx/work/work%201%3F%23%252F%2B%C3%A4/heartbeat"
    assert server.seen[0].path == path


ODD_VALUES = [
    "2026-11-22T03:52:26.172343+05:30",
    "2026-11-22T03:52:26Z",
    "2026-11-22 03:52:26",
    "%2B05:30",
    "a&expected_last_heartbeat=b",
    "#;?/\\=",
    "  padded  ",
    "",
    "line\nbreak\r\n\ttab",
    "quotes\"'`",
    "äöü\u2028\U0001f600",
    "\x00\x7f",
    "v" * 1024,
]


@pytest.mark.parametrize("value", ODD_VALUES)
async def test_a_value_comes_and_goes_byte_for_byte(server: ScriptedServer, api: WorkApi, value: str) -> None:
    server.script = always(renewed(last_heartbeat=value))
    first = await api.heartbeat(ITEM, beat())
    assert isinstance(first, Answered)
    assert first.last_heartbeat == value
    await api.heartbeat(ITEM, beat(first.last_heartbeat))
    assert server.seen[1].query["expected_last_heartbeat"] == [value]


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.lists(st.text(max_size=40), min_size=1, max_size=20))
async def test_any_value_comes_and_goes_byte_for_byte(values: list[str]) -> None:
    async with serving() as server, WorkApi(server.url, time.monotonic) as api:
        for value in values:
            server.script = always(renewed(last_heartbeat=value))
            outcome = await api.heartbeat(ITEM, beat(value))
            assert isinstance(outcome, Answered)
            assert outcome.last_heartbeat == value
            assert server.seen[-1].query["expected_last_heartbeat"] == [value]


async def test_a_stop_says_whether_it_is_forced(server: ScriptedServer, api: WorkApi) -> None:
    server.script = always(Answer(body={"id": "work_1", "state": "stopping"}))
    assert await api.stop(ITEM, force=False, timeout=20) == StopAcknowledged("stopping")
    await api.stop(ITEM, force=True, timeout=20)
    assert [seen.json for seen in server.seen] == [{"force": False}, {"force": True}]
    assert server.seen[0].path == "/v1/environments/env_1/work/work_1/stop"
    assert server.seen[0].headers["authorization"] == f"Bearer {KEY}"


# --- What comes back: answers to a beat ----------------------------------------------------------------------------


async def test_a_200_is_given_as_the_server_said_it(server: ScriptedServer, api: WorkApi) -> None:
    body = RENEWED | {"lease_extended": False, "state": "a_new_state", "ttl_seconds": 61.5, "more": {"to": "come"}}
    server.script = always(Answer(body=body))
    outcome = await api.heartbeat(ITEM, beat())
    assert isinstance(outcome, Answered)
    assert (outcome.last_heartbeat, outcome.state) == (VALUE, "a_new_state")
    assert (outcome.lease_extended, outcome.ttl_seconds) == (False, 61.5)


async def test_an_exchange_is_timed_by_our_clock_and_dated_by_the_servers(server: ScriptedServer) -> None:
    ticks = iter([100.0, 101.5])
    server.script = always(Answer(body=RENEWED, headers={"Date": DATE}))
    async with WorkApi(server.url, lambda: next(ticks)) as api:
        outcome = await api.heartbeat(ITEM, beat())
    assert (outcome.exchange.sent, outcome.exchange.done, outcome.exchange.date) == (100.0, 101.5, NOON)


@pytest.mark.parametrize(
    ("header", "date"),
    [
        (DATE, NOON),
        ("Sun, 22 Nov 2026 12:00:00 -0000", NOON),
        ("Sun Nov 22 12:00:00 2026", NOON),
        ("Sun, 22 Nov 2026 17:30:00 +0530", NOON),
        ("yesterday", None),
        ("Sun, 99 Nov 2026 12:00:00 GMT", None),
        ("Sun, 22 Nov 99999 12:00:00 GMT", None),
        (f"Sun, 22 Nov 2026 12:00:00 +{'9' * 12}", None),
        (f"Sun, {'9' * 5000} Nov 2026 12:00:00 GMT", None),
        ("Sun, 22 Nov", None),
        ("", None),
    ],
)
async def test_a_date_header_is_read_in_utc_or_not_at_all(
    server: ScriptedServer, api: WorkApi, monkeypatch: pytest.MonkeyPatch, header: str, date: float | None
) -> None:
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    try:
        server.script = always(Answer(body=RENEWED, headers={"Date": header}))
        outcome = await api.heartbeat(ITEM, beat())
    finally:
        monkeypatch.undo()
        time.tzset()
    assert outcome.exchange.date == date


async def test_an_answer_without_a_date_is_an_answer(server: ScriptedServer, api: WorkApi) -> None:
    server.script = always(renewed())
    outcome = await api.heartbeat(ITEM, beat())
    assert isinstance(outcome, Answered)
    assert outcome.exchange.date is None


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (201, Unanswered),
        (202, Unanswered),
        (206, Unanswered),
        (300, Rejected),
        (400, Rejected),
        (401, Unauthorized),
        (402, Rejected),
        (403, Unauthorized),
        (404, Missing),
        (405, Rejected),
        (408, Unanswered),
        (409, NotReady),
        (410, Rejected),
        (412, Conflicted),
        (413, Rejected),
        (422, Rejected),
        (429, Throttled),
        (451, Rejected),
        (499, Rejected),
        (500, Unanswered),
        (502, Unanswered),
        (503, Unanswered),
        (504, Unanswered),
        (529, Unanswered),
        (599, Unanswered),
    ],
)
async def test_every_status_has_its_outcome(
    server: ScriptedServer, api: WorkApi, status: int, kind: type[Outcome]
) -> None:
    server.script = always(refusal(status, "in the server's words", request_id="req_1", Date=DATE))
    outcome = await api.heartbeat(ITEM, beat())
    assert type(outcome) is kind
    assert outcome.exchange.date == NOON
    if not isinstance(outcome, Conflicted):
        message = message_of(outcome)
        assert all(part in message for part in (str(status), "in the server's words", "req_1"))


GATEWAYS = [
    b"default backend - 404",
    b"<html><body><h1>404 Not Found</h1></body></html>",
    b'{"message": "no Route matched with those values"}',
    b'{"error": "Not Found"}',
    b'{"type": "error", "error": {"message": "no such route"}}',
]


@pytest.mark.parametrize("body", GATEWAYS)
async def test_a_404_that_is_not_the_apis_own_is_no_answer(server: ScriptedServer, api: WorkApi, body: bytes) -> None:
    server.script = always(Answer(status=404, body=body))
    outcome = await api.heartbeat(ITEM, beat())
    assert isinstance(outcome, Unanswered)
    assert "404" in outcome.message
    assert "WORKLEASE_API_URL" in outcome.message


@pytest.mark.parametrize("status", [200, 403, 404, 412, 429, 502, 504])
@pytest.mark.parametrize("body", [b"", *GATEWAYS])
async def test_only_the_apis_own_answers_tell_its_time(
    server: ScriptedServer, api: WorkApi, status: int, body: bytes
) -> None:
    server.script = always(Answer(status=status, body=body, headers={"Date": DATE}))
    assert (await api.heartbeat(ITEM, beat())).exchange.date is None


async def test_an_exchange_says_which_ttl_was_asked_for_and_tells_keys_apart_without_naming_them(
    server: ScriptedServer, api: WorkApi
) -> None:
    server.script = always(renewed())
    item = WorkItem(ITEM.environment_id, ITEM.work_id, SecretStr("another key"))
    one, other = await api.heartbeat(ITEM, beat(desired=60)), await api.heartbeat(item, beat())
    assert (one.exchange.asked, other.exchange.asked) == (60, None)
    assert one.exchange.key != other.exchange.key
    assert str(one.exchange.key) not in repr(one)


async def test_a_204_is_no_answer_to_a_beat(server: ScriptedServer, api: WorkApi) -> None:
    server.script = always(Answer(status=204, body=b""))
    assert isinstance(await api.heartbeat(ITEM, beat()), Unanswered)


@pytest.mark.parametrize("body", [b"", b"<html>no</html>", b"[" * 60_000, b'"text"', b"\xff\xfe", b'{"error": "text"}'])
@pytest.mark.parametrize("status", [400, 404, 409, 412, 429, 500])
async def test_a_refusal_counts_whatever_its_body_is(
    server: ScriptedServer, api: WorkApi, status: int, body: bytes
) -> None:
    server.script = always(Answer(status=status, body=body))
    outcome = await api.heartbeat(ITEM, beat())
    if isinstance(outcome, Conflicted):
        assert outcome.current is None
    else:
        assert str(status) in message_of(outcome)


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in RENEWED.items() if key != name}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"{}",
        b"not json",
        b"[" * 60_000,
        json.dumps(RENEWED).encode()[:-5],
        json.dumps(RENEWED).encode("utf-16"),
        without("last_heartbeat"),
        without("lease_extended"),
        without("state"),
        without("ttl_seconds"),
        RENEWED | {"last_heartbeat": None},
        RENEWED | {"last_heartbeat": 1_795_348_800},
        RENEWED | {"last_heartbeat": "v" * (LONGEST_HEARTBEAT + 1)},
        RENEWED | {"lease_extended": "true"},
        RENEWED | {"lease_extended": 1},
        RENEWED | {"state": None},
        RENEWED | {"ttl_seconds": "300"},
        RENEWED | {"ttl_seconds": None},
        RENEWED | {"ttl_seconds": -1},
        RENEWED | {"ttl_seconds": True},
        RENEWED | {"ttl_seconds": 1e15},
        RENEWED | {"ttl_seconds": 1e300},
        RENEWED | {"ttl_seconds": float("nan")},
        RENEWED | {"ttl_seconds": float("inf")},
        [RENEWED],
    ],
    ids=lambda body: repr(body)[:80],
)
async def test_a_200_that_is_no_answer_is_unanswered(server: ScriptedServer, api: WorkApi, body: object) -> None:
    server.script = always(Answer(body=body))
    outcome = await api.heartbeat(ITEM, beat())
    assert isinstance(outcome, Unanswered)
    assert "could not be read" in outcome.message


async def test_a_body_that_is_too_long_is_unanswered(server: ScriptedServer, api: WorkApi) -> None:
    server.script = always(renewed(padding="x" * LONGEST_ANSWER))
    outcome = await api.heartbeat(ITEM, beat())
    assert isinstance(outcome, Unanswered)
    assert "longer than" in outcome.message


async def test_a_body_that_never_ends_is_not_read_on(server: ScriptedServer, api: WorkApi) -> None:
    long = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n" + b"x" * (4 * LONGEST_ANSWER)
    server.script = always(Answer(raw=long, fault=Fault.HANG_IN_BODY))
    outcome = await api.heartbeat(ITEM, beat())
    assert isinstance(outcome, Unanswered)
    assert "longer than" in outcome.message


async def test_a_packed_answer_is_unpacked_although_nobody_asked(server: ScriptedServer, api: WorkApi) -> None:
    packed = Answer(body=gzip.compress(json.dumps(RENEWED).encode()), headers={"Content-Encoding": "gzip"})
    server.script = always(packed)
    assert isinstance(await api.heartbeat(ITEM, beat()), Answered)
    assert server.seen[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "made-up"])
async def test_an_answer_that_cannot_be_unpacked_is_unanswered(
    server: ScriptedServer, api: WorkApi, encoding: str
) -> None:
    server.script = always(Answer(body=b"\x00garbage", headers={"Content-Encoding": encoding}))
    assert isinstance(await api.heartbeat(ITEM, beat()), Unanswered)


# --- 412 -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("current", "read"),
    [
        (CURRENT, Current(VALUE, "active", 300.0)),
        (CURRENT | {"unknown": [1, 2]}, Current(VALUE, "active", 300.0)),
        (CURRENT | {"last_heartbeat": None, "state": "queued"}, Current(None, "queued", 300.0)),
        (CURRENT | {"last_heartbeat": ""}, Current("", "active", 300.0)),
        (CURRENT | {"last_heartbeat": ODD_VALUES[0]}, Current(ODD_VALUES[0], "active", 300.0)),
        ({"state": "active", "last_heartbeat": VALUE}, Current(VALUE, "active", None)),
        ({"state": "active"}, None),
        ({"last_heartbeat": VALUE}, None),
        (CURRENT | {"last_heartbeat": 5}, None),
        (CURRENT | {"last_heartbeat": "v" * (LONGEST_HEARTBEAT + 1)}, None),
        (CURRENT | {"state": None}, None),
        (CURRENT | {"ttl_seconds": "300"}, None),
        (CURRENT | {"ttl_seconds": -1}, None),
        (CURRENT | {"ttl_seconds": 1e300}, None),
        ({}, None),
        (None, None),
        ("text", None),
    ],
)
async def test_a_412_tells_what_is_as_far_as_it_does(
    server: ScriptedServer, api: WorkApi, current: object, read: Current | None
) -> None:
    server.script = always(conflict({"current_state": current, "error_code": "heartbeat_precondition_failed"}))
    outcome = await api.heartbeat(ITEM, beat())
    assert isinstance(outcome, Conflicted)
    assert outcome.current == read


@pytest.mark.parametrize("details", [None, {}, [], "text", 5])
async def test_a_412_without_details_tells_nothing(server: ScriptedServer, api: WorkApi, details: object) -> None:
    server.script = always(conflict(details))
    outcome = await api.heartbeat(ITEM, beat())
    assert isinstance(outcome, Conflicted)
    assert outcome.current is None


# --- Retry-After ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 429, 503])
@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("0.5", 0.5),
        ("0", 0.0),
        ("-3", 0.0),
        ("Sun, 22 Nov 2026 12:00:09 GMT", 9.0),
        ("Sun, 22 Nov 2026 11:59:00 GMT", 0.0),
        ("inf", None),
        ("nan", None),
        ("9" * 400, None),
        ("1e300", LONGEST_RETRY_AFTER),
        ("Sun, 22 Nov 9999 12:00:00 GMT", LONGEST_RETRY_AFTER),
        (f"Sun, 22 Nov 2026 12:00:00 +{'9' * 12}", None),
        ("soon", None),
    ],
)
async def test_retry_after_is_read_in_seconds_or_as_a_date(
    server: ScriptedServer, api: WorkApi, status: int, header: str, seconds: float | None
) -> None:
    server.script = always(refusal(status, Retry_After=header, Date=DATE))
    outcome = await api.heartbeat(ITEM, beat())
    assert isinstance(outcome, Throttled | Unanswered)
    assert outcome.retry_after == seconds


ODD_DATES = st.from_regex(r"[A-Z][a-z]{2}, \d{1,30} Nov \d{1,30} \d{1,20}:00:00 [+-]\d{1,30}", fullmatch=True)


@given(st.one_of(st.text(max_size=40), ODD_DATES))
def test_no_date_and_no_retry_after_is_too_odd_to_be_read(text: str) -> None:
    read = responses.date(text)
    assert read is None or math.isfinite(read)
    seconds = responses.retry_after(responses.Response(429, {"retry-after": text, "date": DATE}, b""))
    assert seconds is None or 0 <= seconds <= LONGEST_RETRY_AFTER


async def test_a_date_to_retry_after_means_nothing_without_the_servers_time(
    server: ScriptedServer, api: WorkApi
) -> None:
    server.script = always(refusal(429, Retry_After="Sun, 22 Nov 2026 12:00:09 GMT"))
    outcome = await api.heartbeat(ITEM, beat())
    assert isinstance(outcome, Throttled)
    assert outcome.retry_after is None


# --- Stop ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "outcome"),
    [
        (200, {"id": "work_1", "state": "stopped"}, StopAcknowledged("stopped")),
        (200, {"id": "work_1", "state": "a_new_state"}, StopAcknowledged("a_new_state")),
        (200, {}, StopAcknowledged(None)),
        (200, {"state": 5}, StopAcknowledged(None)),
        (200, b"", StopAcknowledged(None)),
        (200, b"[" * 60_000, StopAcknowledged(None)),
        (204, b"", StopAcknowledged(None)),
        (409, {"error": {"message": "already stopped"}}, StopAcknowledged(None)),
    ],
)
async def test_a_stop_is_acknowledged(
    server: ScriptedServer, api: WorkApi, status: int, body: Mapping[str, object] | bytes, outcome: StopAcknowledged
) -> None:
    server.script = always(Answer(status=status, body=body))
    assert await api.stop(ITEM, force=True, timeout=20) == outcome


@pytest.mark.parametrize(
    ("status", "unauthorized"), [(400, False), (401, True), (403, True), (404, False), (429, False), (500, False)]
)
async def test_a_stop_is_not_acknowledged(
    server: ScriptedServer, api: WorkApi, status: int, *, unauthorized: bool
) -> None:
    server.script = in_turn(refusal(status, "in the server's words"))
    outcome = await api.stop(ITEM, force=False, timeout=20)
    assert isinstance(outcome, StopNotAcknowledged)
    assert outcome.unauthorized is unauthorized
    assert "in the server's words" in outcome.message
