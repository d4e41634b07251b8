"""What the Work API's room makes of every answer, and of none; over real sockets."""

import asyncio
import gzip
import json
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from support.scripted_server import LOOPBACK, TEST_KEY, Answer, Fault, ScriptedServer, always, in_turn, serving

from worklease.lease import Beat
from worklease.outcomes import (
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
    Unsent,
)
from worklease.work_api import LONGEST_ANSWER, Item, StopHeard, StopUnheard, WorkApi

KEY = "sk-ant-oat01-a-key-that-nobody-may-see"
ITEM = Item("env_1", "work_1", SecretStr(KEY))
VALUE = "2026-11-22T03:52:26.172343Z"
RENEWED = {
    "type": "work_heartbeat",
    "last_heartbeat": VALUE,
    "lease_extended": True,
    "state": "active",
    "ttl_seconds": 300,
}
NOON = 1_795_348_800.0  # 2026-11-22T12:00:00Z
DATE = "Sun, 22 Nov 2026 12:00:00 GMT"


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


def beat(expected: str = "NO_HEARTBEAT", desired: int | None = None, timeout: float = 20.0) -> Beat:
    return Beat(expected, desired, timeout)


def renewed(**changes: object) -> Answer:
    return Answer(body=RENEWED | changes)


def refusal(status: int, message: str = "no", **headers: str) -> Answer:
    body = {"type": "error", "error": {"type": "invalid_request_error", "message": message}}
    return Answer(status=status, body=body, headers={name.replace("_", "-"): value for name, value in headers.items()})


def message_of(outcome: Outcome | StopHeard | StopUnheard) -> str:
    assert not isinstance(outcome, Answered | Conflicted | StopHeard)
    return outcome.message


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
    await api.heartbeat(Item("env/../x", "work 1?#%2F+ä", SecretStr(KEY)), beat())
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
    'quotes"\'`',
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
    assert await api.stop(ITEM, force=False, timeout=20) == StopHeard("stopping")
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
        RENEWED | {"lease_extended": "true"},
        RENEWED | {"lease_extended": 1},
        RENEWED | {"state": None},
        RENEWED | {"ttl_seconds": "300"},
        RENEWED | {"ttl_seconds": None},
        RENEWED | {"ttl_seconds": -1},
        RENEWED | {"ttl_seconds": True},
        RENEWED | {"ttl_seconds": float("nan")},
        RENEWED | {"ttl_seconds": float("inf")},
        [RENEWED],
    ],
    ids=repr,
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

CURRENT = {"state": "active", "last_heartbeat": VALUE, "lease_extended": False, "ttl_seconds": 300}


def conflict(details: object) -> Answer:
    return Answer(status=412, body={"type": "error", "error": {"message": "no", "details": details}})


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
        (CURRENT | {"state": None}, None),
        (CURRENT | {"ttl_seconds": "300"}, None),
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


async def test_a_date_to_retry_after_means_nothing_without_the_servers_time(
    server: ScriptedServer, api: WorkApi
) -> None:
    server.script = always(refusal(429, Retry_After="Sun, 22 Nov 2026 12:00:09 GMT"))
    outcome = await api.heartbeat(ITEM, beat())
    assert isinstance(outcome, Throttled)
    assert outcome.retry_after is None


# --- What surely was not sent, and what may have been --------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 70 + ".invalid", "a..invalid"])
async def test_a_host_that_has_no_address_is_unsent(host: str) -> None:
    async with WorkApi(f"http://{host}", time.monotonic) as api:
        outcome = await api.heartbeat(ITEM, beat())
    assert isinstance(outcome, Unsent)
    assert host in outcome.message
    assert "WORKLEASE_API_URL" in outcome.message


async def test_a_refused_connection_is_unsent() -> None:
    async with WorkApi(f"http://{LOOPBACK}:{free_port()}", time.monotonic) as api:
        assert isinstance(await api.heartbeat(ITEM, beat()), Unsent)
        assert isinstance(await api.stop(ITEM, force=True, timeout=20), StopUnheard)


async def test_a_certificate_that_nobody_vouches_for_is_refused_before_the_key_is_sent() -> None:
    async with serving(tls=True) as server, WorkApi(server.url, time.monotonic) as api:
        outcome = await api.heartbeat(ITEM, beat())
        assert isinstance(outcome, Unsent)
        assert "certificate" in outcome.message
        assert server.seen == []


async def test_a_server_that_does_not_speak_tls_is_unsent(server: ScriptedServer) -> None:
    async with WorkApi(server.url.replace("http", "https"), time.monotonic) as api:
        assert isinstance(await api.heartbeat(ITEM, beat(timeout=5)), Unsent | Unanswered)


A_BEAT = """
import asyncio, sys, time
from pydantic import SecretStr
from worklease.lease import Beat
from worklease.work_api import Item, WorkApi
async def main():
    async with WorkApi(sys.argv[1], time.monotonic) as api:
        print(await api.heartbeat(Item("env_1", "work_1", SecretStr("key")), Beat("NO_HEARTBEAT", None, 20.0)))
asyncio.run(main())
"""


async def test_a_private_authority_is_trusted_by_the_usual_variable() -> None:
    async with serving(tls=True) as server:
        server.script = always(renewed())
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", A_BEAT, server.url),
            env=os.environ | {"SSL_CERT_FILE": str(TEST_KEY)},
            stdout=subprocess.PIPE,
        )
        said, _ = await child.communicate()
    assert said.startswith(b"Answered("), said


@pytest.mark.parametrize("fault", [Fault.RESET, Fault.CLOSE, Fault.TRUNCATE])
async def test_a_connection_that_breaks_after_sending_is_unanswered(
    server: ScriptedServer, api: WorkApi, fault: Fault
) -> None:
    server.script = always(Answer(body=RENEWED, fault=fault))
    outcome = await api.heartbeat(ITEM, beat())
    assert isinstance(outcome, Unanswered)
    assert server.url in outcome.message
    assert len(server.seen) == 1, "a beat is sent once: the lease sets the pace"
    assert isinstance(await api.stop(ITEM, force=True, timeout=20), StopUnheard)


async def test_a_connection_that_breaks_before_anything_is_read_is_unanswered(
    server: ScriptedServer, api: WorkApi
) -> None:
    server.resets_at_once = 1
    assert isinstance(await api.heartbeat(ITEM, beat()), Unanswered)


@pytest.mark.parametrize(
    "raw",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 ??? What\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
        b"\x16\x03\x01",
    ],
    ids=["no-http", "no-status", "no-length", "no-chunk", "long-header", "tls"],
)
async def test_what_is_not_http_is_unanswered(server: ScriptedServer, api: WorkApi, raw: bytes) -> None:
    server.script = always(Answer(raw=raw))
    outcome = await api.heartbeat(ITEM, beat())
    assert isinstance(outcome, Unanswered)
    assert "\n" not in outcome.message


@pytest.mark.parametrize("fault", [Fault.HANG, Fault.HANG_IN_BODY])
async def test_a_call_that_hangs_is_given_up_in_time(server: ScriptedServer, api: WorkApi, fault: Fault) -> None:
    server.script = always(Answer(body=RENEWED, fault=fault))
    outcome = await api.heartbeat(ITEM, beat(timeout=0.2))
    assert isinstance(outcome, Unanswered)
    assert "no answer within 0.2 s" in outcome.message
    assert 0.2 <= outcome.exchange.done - outcome.exchange.sent < 5
    stop = await api.stop(ITEM, force=True, timeout=0.2)
    assert isinstance(stop, StopUnheard)
    assert "no answer within 0.2 s" in stop.message


async def test_a_call_that_hangs_delays_no_other(server: ScriptedServer, api: WorkApi) -> None:
    hanging = Answer(fault=Fault.HANG)
    server.script = lambda seen: hanging if "work_hangs" in seen.path else renewed()
    slow = Item("env_1", "work_hangs", SecretStr(KEY))
    async with asyncio.TaskGroup() as calls:
        stuck = [calls.create_task(api.heartbeat(slow, beat())) for _ in range(150)]
        await server.until_seen(150)
        started = time.monotonic()
        outcomes = await asyncio.gather(*(api.heartbeat(ITEM, beat()) for _ in range(150)))
        assert all(isinstance(outcome, Answered) for outcome in outcomes)
        assert time.monotonic() - started < 10, "the hanging calls take 20 s"
        assert not any(call.done() for call in stuck)
        for call in stuck:
            call.cancel()


async def test_a_connection_that_the_server_closed_meanwhile_is_not_used_again(
    server: ScriptedServer, api: WorkApi
) -> None:
    server.script = always(Answer(body=RENEWED, fault=Fault.CLOSE_AFTER))
    for _ in range(5):
        assert isinstance(await api.heartbeat(ITEM, beat()), Answered)
        await asyncio.sleep(0.05)  # the time between two beats, in which the end of the connection arrives
    assert server.connections == 5


async def test_a_connection_is_kept_for_the_next_beat(server: ScriptedServer, api: WorkApi) -> None:
    server.script = always(renewed())
    for _ in range(5):
        await api.heartbeat(ITEM, beat())
    assert server.connections == 1


# --- What must not go on -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed_and_takes_no_key_with_it(
    server: ScriptedServer, api: WorkApi, status: int
) -> None:
    async with serving() as elsewhere:
        server.script = always(refusal(status, Location=f"{elsewhere.url}/v1"))
        assert isinstance(await api.heartbeat(ITEM, beat()), Rejected)
        assert isinstance(await api.stop(ITEM, force=True, timeout=20), StopUnheard)
        assert elsewhere.seen == []
    assert len(server.seen) == 2


async def test_a_cookie_is_not_kept(server: ScriptedServer, api: WorkApi) -> None:
    server.script = always(Answer(body=RENEWED, headers={"Set-Cookie": "of=another-lease; Path=/"}))
    for _ in range(2):
        await api.heartbeat(ITEM, beat())
    assert all("cookie" not in seen.headers for seen in server.seen)


async def test_a_netrc_file_does_not_come_between(
    server: ScriptedServer, api: WorkApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login somebody password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    server.script = always(renewed())
    assert isinstance(await api.heartbeat(ITEM, beat()), Answered)
    assert server.seen[0].headers["authorization"] == f"Bearer {KEY}"


async def test_a_proxy_is_used_where_the_environment_names_one(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    server.script = always(renewed())
    async with WorkApi("http://work.invalid", time.monotonic) as api:
        assert isinstance(await api.heartbeat(ITEM, beat()), Answered)
    assert server.seen[0].target.startswith("http://work.invalid/v1/")


async def test_a_proxy_is_given_the_password_that_its_address_has(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", server.url.replace("//", "//user:word@"))
    async with WorkApi("https://work.invalid", time.monotonic) as api:
        await api.heartbeat(ITEM, beat(timeout=2))
    assert server.seen[0].method == "CONNECT"
    assert server.seen[0].headers["proxy-authorization"] == "Basic dXNlcjp3b3Jk"


async def test_a_proxy_is_not_used_for_what_the_environment_exempts(
    server: ScriptedServer, api: WorkApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://{LOOPBACK}:{free_port()}")
    monkeypatch.setenv("no_proxy", LOOPBACK)
    server.script = always(renewed())
    assert isinstance(await api.heartbeat(ITEM, beat()), Answered)


async def test_a_proxy_that_refuses_the_way_has_sent_nothing(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", server.url)
    server.script = always(Answer(status=403))
    async with WorkApi("https://work.invalid", time.monotonic) as api:
        assert isinstance(await api.heartbeat(ITEM, beat()), Unsent)
    assert server.seen[0].method == "CONNECT"
    assert KEY not in str(server.seen)


@pytest.mark.parametrize(
    "answer",
    [
        *(refusal(status, f"the key {KEY} is bad", request_id=KEY) for status in (400, 401, 403, 404, 409, 429, 500)),
        conflict({"current_state": CURRENT}),
        Answer(raw=f"garbage {KEY}\r\n\r\n".encode()),
        Answer(fault=Fault.RESET),
        renewed(),
        renewed(state=None),
    ],
    ids=lambda answer: f"{answer.status}-{answer.fault.name}",
)
async def test_the_key_is_in_no_message_no_log_and_no_repr(
    server: ScriptedServer, api: WorkApi, caplog: pytest.LogCaptureFixture, answer: Answer
) -> None:
    caplog.set_level(logging.DEBUG)
    server.script = always(answer)
    said = [
        repr(await api.heartbeat(ITEM, beat(timeout=5))),
        repr(await api.stop(ITEM, force=True, timeout=5)),
        repr(ITEM),
        str(ITEM),
        caplog.text,
    ]
    assert server.seen[0].headers["authorization"].endswith(KEY)
    assert not [text for text in said if KEY in text]


async def test_the_servers_words_stay_short_and_in_one_line(server: ScriptedServer, api: WorkApi) -> None:
    server.script = always(refusal(400, "first\nsecond\x1b[31m\u2028third" + "x" * 5000))
    message = message_of(await api.heartbeat(ITEM, beat()))
    assert message.isprintable()
    assert "first second" in message
    assert len(message) < 500


# --- Stop ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "outcome"),
    [
        (200, {"id": "work_1", "state": "stopped"}, StopHeard("stopped")),
        (200, {"id": "work_1", "state": "a_new_state"}, StopHeard("a_new_state")),
        (200, {}, StopHeard(None)),
        (200, {"state": 5}, StopHeard(None)),
        (200, b"", StopHeard(None)),
        (200, b"[" * 60_000, StopHeard(None)),
        (204, b"", StopHeard(None)),
        (409, {"error": {"message": "already stopped"}}, StopHeard(None)),
    ],
)
async def test_a_stop_is_heard(
    server: ScriptedServer, api: WorkApi, status: int, body: Mapping[str, object] | bytes, outcome: StopHeard
) -> None:
    server.script = always(Answer(status=status, body=body))
    assert await api.stop(ITEM, force=True, timeout=20) == outcome


@pytest.mark.parametrize(
    ("status", "unauthorized"), [(400, False), (401, True), (403, True), (404, False), (429, False), (500, False)]
)
async def test_a_stop_is_not_heard(server: ScriptedServer, api: WorkApi, status: int, *, unauthorized: bool) -> None:
    server.script = in_turn(refusal(status, "in the server's words"))
    outcome = await api.stop(ITEM, force=False, timeout=20)
    assert isinstance(outcome, StopUnheard)
    assert outcome.unauthorized is unauthorized
    assert "in the server's words" in outcome.message
