"""`worklease proxy` as a process: it starts fast and small, answers its probe, and ends when it is told to."""

import asyncio
import io
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from aiohttp import ClientSession, TCPConnector, web
from aiohttp.test_utils import TestServer

from support.processes import ROOT
from support.workers import proxy_process

HEAVY = {
    "click",
    "httpx",
    "kopf",
    "kubernetes",
    "pydantic",
    "prometheus_client",
    "rich",
    "aiohttp",
    "worklease.operate",
}
ITEM = {"ANTHROPIC_ENVIRONMENT_ID": "env_test", "ANTHROPIC_WORK_ID": "work_1"}
SECONDS = 60.0  # for what takes a few hundredths: a busy machine imports slowly
CALLS = 200
MEBIBYTE = 1 << 20
BODY = 50 * MEBIBYTE


def environment(**more: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "NO_PROXY": "*"} | more


def proxy(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "worklease", "proxy", *arguments],
        env=environment(**variables),
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )


@pytest.mark.parametrize("arguments", [["--help"], ["--ready", "--port", "1"]])
def test_neither_the_proxys_help_nor_its_probe_imports_the_operator_or_an_http_library(arguments: list[str]) -> None:
    code = (
        "import sys, runpy\n"
        f"sys.argv = ['worklease', 'proxy', *{arguments!r}]\n"
        "try: runpy.run_module('worklease', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print('|', *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    imported = set(done.stdout.rpartition("|")[2].split())
    assert "worklease_proxy.command" in imported
    assert imported & HEAVY == set()


def test_the_proxy_that_serves_imports_nothing_of_the_operator(tmp_path: Path) -> None:
    with proxy_process(tmp_path) as running:
        process = running.process
        maps = Path(f"/proc/{process.pid}/maps").read_text()
    assert "pydantic_core" not in maps
    assert "aiohttp" in maps


async def test_two_hundred_calls_at_once_and_fifty_mebibytes_up_and_down_stay_below_64_mebibytes(
    tmp_path: Path,
) -> None:
    all_there, calls = asyncio.Event(), 0

    async def together(_request: web.Request) -> web.StreamResponse:
        nonlocal calls
        calls += 1
        if calls == CALLS:
            all_there.set()
        await all_there.wait()
        return web.Response(body=b"x" * 1000)

    async def echo(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": request.headers["Content-Length"]})
        await response.prepare(request)
        async for part in request.content.iter_any():
            await response.write(part)
        return response

    application = web.Application()
    application.add_routes([web.get("/calls", together), web.post("/echo", echo)])
    async with TestServer(application) as upstream:
        with proxy_process(tmp_path, "--upstream", str(upstream.make_url(""))) as running:
            process, url = running.process, running.url
            async with ClientSession(connector=TCPConnector(limit=0)) as client:
                answers = await asyncio.gather(*(client.get(f"{url}/calls") for _ in range(CALLS)))
                assert {len(await answer.read()) for answer in answers} == {1000}
                got = 0
                async with client.post(f"{url}/echo", data=io.BytesIO(bytes(BODY))) as answer:
                    async for part in answer.content.iter_any():
                        got += len(part)
            assert got == BODY
            assert peak_memory(process.pid) < 64 * MEBIBYTE


def peak_memory(pid: int) -> int:
    """Return the most that a process has had in memory, in bytes."""
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def test_a_probe_tells_a_proxy_that_listens_from_none_and_a_hook_begins_the_drain(tmp_path: Path) -> None:
    with proxy_process(tmp_path) as running:
        process, port = running.process, running.port
        ready = proxy("--ready", f"--port={port}")
        assert (ready.returncode, '"state": "starting"' in ready.stdout) == (0, True)
        assert proxy("--drain", f"--port={port}").returncode == 0
        assert '"state": "stopping"' in proxy("--ready", f"--port={port}").stdout
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0
        refused = proxy("--ready", f"--port={port}")
    assert refused.returncode == 1
    assert "does not answer" in refused.stderr


def test_it_ends_at_once_when_its_worker_has_no_connection_any_more(tmp_path: Path) -> None:
    with proxy_process(tmp_path) as running:
        process = running.process
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0
        assert time.monotonic() - begun < 5  # it takes a hundredth; a worker that is there may take its grace
    assert "ended beats=0 passed=0 refused: none" in running.log.read_text()


@pytest.mark.parametrize(
    ("arguments", "variables", "words"),
    [
        ([], {}, "ANTHROPIC_WORK_ID"),
        (["--upstream", "api.example.com"], ITEM, "begins with http:// or https://"),
        (["--port", "many"], ITEM, "invalid int value"),
        ([], ITEM | {"WORKLEASE_PROXY_DRAIN_SECONDS": "long"}, "invalid int value"),
    ],
)
def test_a_wrong_option_ends_it_with_words(arguments: list[str], variables: dict[str, str], words: str) -> None:
    done = proxy(*arguments, **variables)
    assert done.returncode == 2
    assert words in done.stderr


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with proxy_process(tmp_path) as running:
        port = running.port
        done = proxy(f"--port={port}", **ITEM)
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr


def test_the_programs_help_names_the_proxy() -> None:
    command = [sys.executable, "-m", "worklease", "--help"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True, cwd=ROOT)
    assert re.search(r"^ +proxy +\S", done.stdout, re.MULTILINE)
