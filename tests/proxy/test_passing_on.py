"""The proxy over real HTTP: what it passes on is what came, in both directions, and what it answers goes nowhere."""

import asyncio
import gzip
import json
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import ClientConnectionError, ClientPayloadError

from support.proxied import (
    HEARTBEAT,
    OK,
    STOP,
    STREAM,
    WORK,
    RawUpstream,
    Received,
    proxied,
    raw_upstream,
    replying,
    until,
)

KEY = "sk-secret-of-the-worker"
BEARER = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture
async def upstream() -> AsyncIterator[RawUpstream]:
    async with raw_upstream() as running:
        yield running


# --- What is answered here -----------------------------------------------------------------------------------------


async def test_heartbeats_and_the_stop_of_the_own_item_reach_nobody(upstream: RawUpstream) -> None:
    async with proxied(upstream.url) as worker:
        first = await (await worker.client.post(HEARTBEAT, params={"expected_last_heartbeat": "NO_HEARTBEAT"})).json()
        next_value = {"expected_last_heartbeat": first["last_heartbeat"]}
        assert (await worker.client.post(HEARTBEAT, params=next_value)).status == 200
        assert (await worker.client.post(HEARTBEAT, params=next_value)).status == 412
        stopped = await worker.client.post(STOP, json={"force": True})
        assert (stopped.status, (await stopped.json())["state"]) == (200, "stopped")
    assert upstream.received == []


@pytest.mark.parametrize("body", [b"", b"no JSON", b"[]", b'{"force": "yes"}'])
async def test_a_stop_with_another_body_is_a_graceful_one(upstream: RawUpstream, body: bytes) -> None:
    async with proxied(upstream.url) as worker:
        stopped = await worker.client.post(STOP, data=body)
        assert (stopped.status, (await stopped.json())["state"]) == (200, "stopping")


async def test_calls_about_other_work_are_refused_in_the_apis_shape_and_counted(upstream: RawUpstream) -> None:
    async with proxied(upstream.url) as worker:
        for method, path in (
            ("POST", f"{WORK}/work_2/heartbeat"),
            ("POST", f"{WORK}/work_2/stop"),
            ("GET", f"{WORK}/poll"),
            ("POST", f"{WORK}/work_1/ack"),
            ("GET", WORK),
            ("POST", f"{WORK}/work_1/lend"),
        ):
            refused = await worker.client.request(method, path, headers=BEARER)
            error = await refused.json()
            assert (refused.status, error["type"], error["error"]["type"]) == (403, "error", "permission_error")
        status = worker.proxy.status()
    assert status["refused"] == {"ack": 1, "list": 1, "other-item": 2, "poll": 1, "unknown": 1}
    assert upstream.received == []


async def test_a_worker_of_another_item_ends_by_the_refusal_of_its_heartbeat(
    upstream: RawUpstream, tmp_path: Path
) -> None:
    told = tmp_path / "termination-log"
    async with proxied(upstream.url, termination_log=told) as worker:
        await worker.client.post(f"{WORK}/work_2/heartbeat")
        assert told.read_text() == "worker gave up: 403 heartbeat"


# --- What is passed on ---------------------------------------------------------------------------------------------


async def test_a_call_arrives_as_it_was_sent_but_for_its_host_and_the_headers_of_one_connection(
    upstream: RawUpstream,
) -> None:
    target = "/v1/files/a%2Fb/%7Ec?x=%2B1&y=a+b&&z"
    async with proxied(upstream.url) as worker:
        reader, writer = await asyncio.open_connection("127.0.0.1", worker.proxy.port)
        writer.write(
            f"PATCH {target} HTTP/1.1\r\nHost: 127.0.0.1:8788\r\nAuthorization: Bearer {KEY}\r\nX-Twice: 1\r\n"
            "X-Twice: 2\r\nCookie: a=b\r\nConnection: keep-alive, X-Mine\r\nX-Mine: no\r\nTE: trailers\r\n"
            "Keep-Alive: 5\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\n\x1f\x8b\x08".encode("latin-1")
        )
        assert await reader.readexactly(len("HTTP/1.1 200 OK")) == b"HTTP/1.1 200 OK"
        writer.close()
    (received,) = upstream.received
    assert received.lines[0] == f"PATCH {target} HTTP/1.1"
    assert sorted(received.lines[1:]) == sorted(
        [
            f"Host: {upstream.url.removeprefix('http://')}",
            f"Authorization: Bearer {KEY}",
            "X-Twice: 1",
            "X-Twice: 2",
            "Cookie: a=b",
            "Content-Encoding: gzip",
            "Content-Length: 3",
        ]
    )
    assert received.body == b"\x1f\x8b\x08"


async def test_an_answer_arrives_as_it_was_sent(upstream: RawUpstream) -> None:
    packed = gzip.compress(b'{"id": "sesn_1"}')
    head = (
        "HTTP/1.1 418 Short And Stout\r\nContent-Encoding: gzip\r\nX-Twice: 1\r\nX-Twice: 2\r\nSet-Cookie: a=b\r\n"
        f"request-id: req_1\r\nKeep-Alive: 5\r\nContent-Length: {len(packed)}\r\n\r\n"
    )
    upstream.script = replying(head.encode() + packed)
    async with proxied(upstream.url) as worker:
        answer = await worker.client.get("/v1/sessions/sesn_1", headers={"Accept-Encoding": "gzip"})
        assert (answer.status, answer.reason) == (418, "Short And Stout")
        assert [(name, value) for name, value in answer.headers.items()] == [
            ("Content-Encoding", "gzip"),
            ("X-Twice", "1"),
            ("X-Twice", "2"),
            ("Set-Cookie", "a=b"),
            ("request-id", "req_1"),
            ("Content-Length", str(len(packed))),
        ]
        assert await answer.read() == packed


async def test_the_path_of_the_upstreams_address_comes_before_each_call(upstream: RawUpstream) -> None:
    async with proxied(f"{upstream.url}/gateway/base/") as worker:
        await worker.client.get("/v1/sessions/sesn_1?beta=true")
    assert upstream.received[0].target == "/gateway/base/v1/sessions/sesn_1?beta=true"


@pytest.mark.parametrize("status", [204, 304])
async def test_an_answer_without_a_body_has_none(upstream: RawUpstream, status: int) -> None:
    upstream.script = replying(f"HTTP/1.1 {status} Nothing\r\n\r\n".encode())
    async with proxied(upstream.url) as worker:
        for _ in range(2):
            answer = await worker.client.get("/v1/files")
            assert (answer.status, await answer.read()) == (status, b"")


async def test_the_answer_to_head_keeps_the_length_of_what_is_not_sent(upstream: RawUpstream) -> None:
    upstream.script = replying(b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n")
    async with proxied(upstream.url) as worker:
        answer = await worker.client.head("/v1/files")
        assert (answer.headers["Content-Length"], await answer.read()) == ("12345", b"")


async def test_redirects_are_the_workers_to_follow(upstream: RawUpstream) -> None:
    upstream.script = replying(b"HTTP/1.1 307 Away\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n")
    async with proxied(upstream.url) as worker:
        answer = await worker.client.get("/v1/files", allow_redirects=False)
        assert (answer.status, answer.headers["Location"]) == (307, "/elsewhere")
    assert len(upstream.received) == 1


async def test_who_expects_100_continue_is_told_to_go_on(upstream: RawUpstream) -> None:
    async with proxied(upstream.url) as worker:
        reader, writer = await asyncio.open_connection("127.0.0.1", worker.proxy.port)
        writer.write(b"POST /v1/files HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"body")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK")
        writer.close()
    assert upstream.received[0].body == b"body"


# --- Streams -------------------------------------------------------------------------------------------------------


async def test_each_part_of_an_event_stream_arrives_before_the_next_is_sent(upstream: RawUpstream) -> None:
    go_on = asyncio.Event()

    async def events(_received: Received, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _part in range(3):
            writer.write(b"9\r\ndata: 1\n\n\r\n")
            await go_on.wait()
            go_on.clear()
        writer.write(b"0\r\n\r\n")

    upstream.script = events
    async with proxied(upstream.url) as worker, worker.client.get(STREAM) as answer:
        assert answer.headers["Content-Type"] == "text/event-stream"
        for _ in range(3):
            assert await answer.content.readexactly(9) == b"data: 1\n\n"
            go_on.set()
        assert await answer.content.read() == b""


async def test_who_leaves_a_silent_stream_also_leaves_the_upstreams(upstream: RawUpstream) -> None:
    async def silence(_received: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await reader.readexactly(1)

    upstream.script = silence
    async with proxied(upstream.url) as worker:
        answer = await worker.client.get(STREAM)
        assert upstream.open == 1
        answer.close()
        await until(lambda: upstream.open == 0, "the end of the upstream's stream")


async def test_two_hundred_calls_at_once_are_under_way_at_once(upstream: RawUpstream) -> None:
    all_there = asyncio.Event()

    async def together(_received: Received, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(upstream.received) == 200:
            all_there.set()
        await all_there.wait()
        writer.write(OK)

    upstream.script = together
    async with proxied(upstream.url) as worker:
        worker.client.connector._limit = 0  # type: ignore[union-attr]  # the client's own limit is a hundred
        answers = await asyncio.gather(*(worker.client.get("/v1/files") for _ in range(200)))
        assert {answer.status for answer in answers} == {200}
    assert upstream.connections == 200


# --- When the upstream fails ---------------------------------------------------------------------------------------


async def test_an_upstream_that_breaks_off_in_the_middle_breaks_off_the_workers_answer(upstream: RawUpstream) -> None:
    async def half(_received: Received, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        await writer.drain()
        writer.close()

    upstream.script = half
    async with proxied(upstream.url) as worker:
        answer = await worker.client.get("/v1/files")
        with pytest.raises((ClientPayloadError, ClientConnectionError)):
            await answer.read()


async def test_an_upstream_that_breaks_off_before_its_answer_breaks_off_the_worker(upstream: RawUpstream) -> None:
    async def nothing(_received: Received, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    upstream.script = nothing
    async with proxied(upstream.url) as worker:
        with pytest.raises(ClientConnectionError):
            await worker.client.post("/v1/files", data=b"x")
    assert len(upstream.received) == 1


async def test_a_call_waits_for_an_upstream_that_is_away_and_is_sent_once() -> None:
    async with raw_upstream() as gone:
        port = int(gone.url.rpartition(":")[2])
    async with proxied(gone.url) as worker:
        call = asyncio.create_task(worker.client.post("/v1/files", data=b"once"))
        await until(lambda: worker.proxy.passed == 1, "the call")
        async with raw_upstream(port) as back:
            assert (await call).status == 200
            assert [each.body for each in back.received] == [b"once"]


async def test_a_call_to_an_upstream_that_stays_away_is_answered_502() -> None:
    async with raw_upstream() as gone:
        pass
    async with proxied(gone.url, patience=0.3) as worker:
        answer = await worker.client.get("/v1/files", headers=BEARER)
        error = await answer.json()
    assert (answer.status, error["error"]["type"]) == (502, "api_error")
    assert "nothing was sent" in error["error"]["message"]


# --- How it went, and the drain ------------------------------------------------------------------------------------


async def test_a_refused_stream_is_told_at_once_and_taken_back_when_it_opens(
    upstream: RawUpstream, tmp_path: Path
) -> None:
    told = tmp_path / "termination-log"
    async with proxied(upstream.url, termination_log=told) as worker:
        upstream.script = replying(b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n")
        await worker.client.get(STREAM)
        assert told.read_text() == "worker gave up: 401 events stream"
        upstream.script = replying(OK)
        await worker.client.get(STREAM)
        assert told.read_text() == ""


async def test_the_pods_annotation_begins_the_drain(upstream: RawUpstream, tmp_path: Path) -> None:
    annotation = tmp_path / "draining"
    async with proxied(upstream.url, drain_file=annotation) as worker:
        value = (await (await worker.client.post(HEARTBEAT)).json())["last_heartbeat"]
        annotation.write_text("")
        annotation.write_text("2026-11-28T12:00:30Z")
        await until(lambda: worker.proxy.status()["state"] == "stopping", "the drain")
        told = await (await worker.client.post(HEARTBEAT, params={"expected_last_heartbeat": value})).json()
        assert (told["state"], told["last_heartbeat"]) == ("stopping", value)


@pytest.mark.parametrize(("silence", "said"), [(19, ""), (21, "worker gave up: no heartbeat for 21 s")])
async def test_a_worker_that_is_silent_for_its_ttl_when_the_drain_begins_has_given_up(
    upstream: RawUpstream, tmp_path: Path, silence: int, said: str
) -> None:
    told = tmp_path / "termination-log"
    async with proxied(upstream.url, drain_seconds=30, termination_log=told) as worker:
        await worker.client.post(HEARTBEAT)
        worker.proxy.seen = replace(worker.proxy.seen, beat_at=datetime.now(UTC) - timedelta(seconds=silence))
        worker.proxy.drain("the test")
    assert (told.read_text() if told.exists() else "") == said


async def test_no_key_is_in_a_log_or_an_error(
    upstream: RawUpstream, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    said = []
    async with proxied(upstream.url, patience=0.2, termination_log=tmp_path / "told") as worker:
        for method, path in (("GET", f"{WORK}/poll"), ("POST", HEARTBEAT), ("GET", f"/v1/files?key={KEY}")):
            answer = await worker.client.request(method, path, headers=BEARER)
            said.append(await answer.text())
        reader, writer = await asyncio.open_connection("127.0.0.1", worker.proxy.port)
        writer.write(f"GET /v1/files HTTP/1.1\r\nAuthorization : Bearer {KEY}\r\n\r\n".encode())
        await reader.read()
        writer.close()
        said.append(json.dumps(worker.proxy.status()))
    assert KEY not in "".join(said)
    assert KEY not in caplog.text
    assert KEY not in "".join(capfd.readouterr())
