"""Unmodified workers of the public SDK, in the oldest and the newest version that is tried, behind the proxy.

Each scenario runs the SDK's `EnvironmentWorker.handle_item()` as a process, with a pod's environment only, against the
simulator. The operator is not there: no call of the Work API may come from the sandbox at all.
"""

import asyncio
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from support import workers
from support.processes import ROOT
from support.simulator import Simulator
from support.workers import (
    DRAIN_SECONDS,
    NEWEST,
    SDKS,
    SESSION,
    WORK,
    RunningProxy,
    end_turn,
    proxy_process,
    result_of,
    until,
    use_bash,
    worker_process,
)

NEW = next(version for version, folder in SDKS.items() if folder)
AWAY = 30.0
CALLS = 200
BODY = 50 << 20
LOAD = """
import asyncio, io
from anthropic import AsyncAnthropic

async def main():
    async with AsyncAnthropic(max_retries=0) as client:
        calls = (client.beta.sessions.retrieve("sesn_demo") for _ in range(200))
        print(len({each.id for each in await asyncio.gather(*calls)}), "session")
        sent = await client.beta.files.upload(file=("big", io.BytesIO(bytes(50 << 20))))
        print(sent.size_bytes, "bytes")

asyncio.run(main())
"""


@pytest.fixture(params=sorted(SDKS))
def sdk(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def token(simulator: Simulator) -> str:
    return str(simulator.create_item(WORK, data_id=SESSION)["sessions_token"])


@pytest.fixture
def proxy(simulator: Simulator, tmp_path: Path) -> Iterator[RunningProxy]:
    with proxy_process(tmp_path / "pod", f"--upstream={simulator.url}", f"--drain-seconds={DRAIN_SECONDS}") as running:
        yield running


def calls_of_the_work_api(simulator: Simulator) -> list[str]:
    return [str(entry["call"]) for entry in simulator.history() if entry["event"] == "request"]


def test_the_versions_that_are_tried_are_the_ones_that_the_documents_name() -> None:
    assert sorted(SDKS) == ["2.12.0", "2.14.0"]
    assert NEWEST.is_dir()
    assert f"anthropic=={NEW}" in (ROOT / "examples" / "worker" / "Dockerfile").read_text()


def test_a_worker_works_its_session_to_the_end(
    sdk: str, simulator: Simulator, token: str, proxy: RunningProxy, tmp_path: Path
) -> None:
    first = use_bash(simulator, "echo made > file; cat file")
    with worker_process(tmp_path / "pod", sdk, proxy.url, token) as worker:
        assert result_of(simulator, first) == "made"
        assert result_of(simulator, use_bash(simulator, "echo again")) == "again"
        until(lambda: proxy.status()["heartbeats"] >= 3, "the worker's heartbeats")
        end_turn(simulator)
        assert worker.end() == 0, worker.said
    status = proxy.status()
    assert (status["state"], status["refused"], status["gave_up"]) == ("stopped", {}, "")
    assert proxy.end() == 0
    assert proxy.message == ""
    assert calls_of_the_work_api(simulator) == []
    assert token not in proxy.log.read_text()


def test_a_drain_reaches_the_worker_and_its_tool_finishes(
    sdk: str, simulator: Simulator, token: str, proxy: RunningProxy, tmp_path: Path
) -> None:
    pod = tmp_path / "pod"
    with worker_process(pod, sdk, proxy.url, token) as worker:
        running = use_bash(simulator, "touch begun; until [ -e go ]; do sleep 0.05; done; echo through")
        until((pod / "begun").exists, "the tool's beginning")
        later = use_bash(simulator, "touch later")
        proxy.annotate()
        until(lambda: "state=stopping" in worker.said, "the worker's shutdown")
        (pod / "go").touch()
        assert result_of(simulator, running) == "through"
        assert worker.end() == 0, worker.said
    assert proxy.end() == 0
    assert proxy.message == ""
    assert not (pod / "later").exists()
    assert later not in [event.get("tool_use_id") for event in simulator.events(SESSION)]
    assert calls_of_the_work_api(simulator) == []


def test_a_worker_that_crashed_is_replaced_under_the_same_lease(
    simulator: Simulator, token: str, proxy: RunningProxy, tmp_path: Path
) -> None:
    with worker_process(tmp_path / "pod", NEW, proxy.url, token) as worker:
        assert result_of(simulator, use_bash(simulator, "echo first")) == "first"
        worker.process.kill()
        assert worker.end() == -signal.SIGKILL
    assert proxy.end() == 0
    assert proxy.message == ""
    with (
        proxy_process(tmp_path / "next", f"--upstream={simulator.url}") as successor,
        worker_process(tmp_path / "next", NEW, successor.url, token) as worker,
    ):
        assert result_of(simulator, use_bash(simulator, "echo second")) == "second"
        end_turn(simulator)
        assert worker.end() == 0, worker.said
        assert successor.message == ""
    assert calls_of_the_work_api(simulator) == []
    assert simulator.item(WORK)["state"] == "starting"


def test_a_proxy_that_is_started_again_costs_its_worker_nothing(
    simulator: Simulator, token: str, tmp_path: Path
) -> None:
    options = (f"--upstream={simulator.url}", f"--drain-seconds={DRAIN_SECONDS}")
    with (
        proxy_process(tmp_path / "pod", *options) as first,
        worker_process(tmp_path / "pod", NEW, first.url, token) as worker,
    ):
        until(lambda: first.status()["heartbeats"] >= 1, "a heartbeat")
        first.process.kill()
        first.process.wait()
        with proxy_process(tmp_path / "again", *options, f"--port={first.port}") as again:
            until(lambda: again.status()["heartbeats"] >= 2, "heartbeats on the new proxy")
            assert result_of(simulator, use_bash(simulator, "echo still here")) == "still here"
            end_turn(simulator)
            assert worker.end() == 0, worker.said
            assert again.message == ""


# --- It gives up, and ends with 0 all the same ---------------------------------------------------------------------


def test_a_worker_that_lost_its_lease_in_the_pod_ends_with_0_and_has_not_finished(
    sdk: str, simulator: Simulator, token: str, proxy: RunningProxy, tmp_path: Path
) -> None:
    proxy.beat("NO_HEARTBEAT")  # somebody else in the pod keeps the item too
    use_bash(simulator, "sleep 100")
    with worker_process(tmp_path / "pod", sdk, proxy.url, token) as worker:
        assert worker.end() == 0, worker.said
        assert "lease lost" in worker.said
    assert proxy.end() == 0
    assert proxy.message == "worker gave up: 412 heartbeat"
    assert simulator.item(WORK)["state"] == "starting"


def test_a_worker_whose_key_is_refused_on_its_stream_ends_with_0_and_has_not_finished(
    sdk: str, simulator: Simulator, token: str, proxy: RunningProxy, tmp_path: Path
) -> None:
    with worker_process(tmp_path / "pod", sdk, proxy.url, token) as worker:
        assert result_of(simulator, use_bash(simulator, "echo works")) == "works"
        simulator.rotate_token(WORK)
        simulator.outage("reset")
        simulator.outage("off")
        assert worker.end() == 0, worker.said
        assert "stream failed permanently" in worker.said
    assert proxy.end() == 0
    assert proxy.message == "worker gave up: 401 events stream"


# --- Trouble -------------------------------------------------------------------------------------------------------


@pytest.mark.long(seconds=40)
def test_a_worker_works_on_when_its_upstream_was_away_for_thirty_seconds(
    simulator: Simulator, token: str, proxy: RunningProxy, tmp_path: Path
) -> None:
    with worker_process(tmp_path / "pod", NEW, proxy.url, token) as worker:
        assert result_of(simulator, use_bash(simulator, "echo before")) == "before"
        simulator.outage("refuse")
        back = time.monotonic() + AWAY
        meanwhile = use_bash(simulator, "echo meanwhile")
        until(lambda: time.monotonic() >= back, "the end of the outage")
        assert worker.process.poll() is None, worker.said
        simulator.outage("off")
        assert result_of(simulator, meanwhile) == "meanwhile"
        end_turn(simulator)
        assert worker.end() == 0, worker.said
    assert proxy.end() == 0
    assert proxy.message == ""


def test_a_worker_that_is_told_to_end_does_and_its_proxy_follows(
    simulator: Simulator, token: str, proxy: RunningProxy, tmp_path: Path
) -> None:
    with worker_process(tmp_path / "pod", NEW, proxy.url, token) as worker:
        assert result_of(simulator, use_bash(simulator, "echo works")) == "works"
        worker.process.send_signal(signal.SIGTERM)
        assert worker.end() == -signal.SIGTERM
    assert proxy.end() == 0
    assert proxy.message == ""


def test_a_proxy_that_is_told_to_end_beside_its_worker_lets_it_finish(
    simulator: Simulator, token: str, proxy: RunningProxy, tmp_path: Path
) -> None:
    pod = tmp_path / "pod"
    with worker_process(pod, NEW, proxy.url, token) as worker:
        running = use_bash(simulator, "touch begun; until [ -e go ]; do sleep 0.05; done; echo through")
        until((pod / "begun").exists, "the tool's beginning")
        proxy.process.send_signal(signal.SIGTERM)
        until(lambda: "state=stopping" in worker.said, "the worker's shutdown")
        (pod / "go").touch()
        assert result_of(simulator, running) == "through"
        assert worker.end() == 0, worker.said
    assert proxy.process.wait(workers.SECONDS) == 0
    assert proxy.message == ""


async def test_the_sdks_client_makes_two_hundred_calls_at_once_and_uploads_fifty_mebibytes(
    sdk: str, tmp_path: Path
) -> None:
    all_there, calls = asyncio.Event(), 0

    async def session(_request: web.Request) -> web.StreamResponse:
        nonlocal calls
        calls += 1
        if calls == CALLS:
            all_there.set()
        await all_there.wait()
        return web.json_response({"id": SESSION, "type": "session"})

    async def upload(request: web.Request) -> web.StreamResponse:
        size = 0
        async for part in request.content.iter_any():
            size += len(part)
        return web.json_response({"id": "file_1", "type": "file", "size_bytes": size})

    application = web.Application()
    application.add_routes([web.get(f"/v1/sessions/{SESSION}", session), web.post("/v1/files", upload)])
    async with TestServer(application) as upstream:
        with proxy_process(tmp_path, "--upstream", str(upstream.make_url(""))) as proxy:
            environment = {"PYTHONPATH": SDKS[sdk], "ANTHROPIC_BASE_URL": proxy.url, "ANTHROPIC_AUTH_TOKEN": "token"}
            client = await asyncio.create_subprocess_exec(
                sys.executable, "-c", LOAD, env=environment | {"NO_PROXY": "*"}, stdout=-1, stderr=-1
            )
            said, errors = await client.communicate()
    assert client.returncode == 0, errors.decode()
    sessions, size = said.decode().splitlines()
    assert sessions == "1 session"
    assert BODY <= int(size.split()[0]) < BODY + 4096  # and the form around it
