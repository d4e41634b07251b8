"""How the client of the Work API handles failing connections, and what it keeps to itself; over real sockets."""

import asyncio
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from support.scripted_server import LOOPBACK, TEST_KEY, Answer, Fault, ScriptedServer, always, serving
from support.work_api_calls import (
    CURRENT,
    ITEM,
    KEY,
    RENEWED,
    beat,
    conflict,
    message_of,
    refusal,
    renewed,
)
from worklease.rules.outcomes import (
    Answered,
    Rejected,
    Unanswered,
    Unsent,
)
from worklease.work_api.client import StopNotAcknowledged, WorkApi, WorkItem


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
        assert isinstance(await api.stop(ITEM, force=True, timeout=20), StopNotAcknowledged)


async def test_a_certificate_that_nobody_vouches_for_is_refused_before_the_key_is_sent() -> None:
    async with serving(tls=True) as server, WorkApi(server.url, time.monotonic) as api:
        outcome = await api.heartbeat(ITEM, beat())
        assert isinstance(outcome, Unsent)
        assert "certificate" in outcome.message
        assert server.seen == []


async def test_a_connection_that_is_not_made_in_time_is_unsent(server: ScriptedServer) -> None:
    async with WorkApi(server.url.replace("http", "https"), time.monotonic) as api:
        assert isinstance(await api.heartbeat(ITEM, beat(timeout=0.5)), Unsent)
    assert server.connections == 1


A_BEAT = """
import asyncio, sys, time
from pydantic import SecretStr
from worklease.rules.beats import Beat
from worklease.work_api.client import WorkItem, WorkApi
async def main():
    async with WorkApi(sys.argv[1], time.monotonic) as api:
        print(await api.heartbeat(WorkItem("env_1", "work_1", SecretStr("key")), Beat("NO_HEARTBEAT", None, 20.0)))
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
    assert isinstance(await api.stop(ITEM, force=True, timeout=20), StopNotAcknowledged)


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
    assert isinstance(stop, StopNotAcknowledged)
    assert "no answer within 0.2 s" in stop.message


async def test_a_call_that_hangs_delays_no_other(server: ScriptedServer, api: WorkApi) -> None:
    hanging = Answer(fault=Fault.HANG)
    server.script = lambda seen: hanging if "work_hangs" in seen.path else renewed()
    slow = WorkItem("env_1", "work_hangs", SecretStr(KEY))
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


# --- What the client does not pass on ------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed_and_takes_no_key_with_it(
    server: ScriptedServer, api: WorkApi, status: int
) -> None:
    async with serving() as elsewhere:
        server.script = always(refusal(status, Location=f"{elsewhere.url}/v1"))
        assert isinstance(await api.heartbeat(ITEM, beat()), Rejected)
        assert isinstance(await api.stop(ITEM, force=True, timeout=20), StopNotAcknowledged)
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
        await api.heartbeat(ITEM, beat(timeout=1))
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
