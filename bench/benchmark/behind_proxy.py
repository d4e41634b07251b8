"""What the proxy beside a worker adds to a call, beside a direct connection in the same run.

Owns the load, its figures and their bounds. The load is written for sockets, without an HTTP library: so the figures
are the proxy's.
"""

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console

from benchmark import proc
from benchmark.figures import percentile
from benchmark.report import show_bounds
from benchmark.upstream import LARGE, length
from benchmark.waves import Bound

STARTS: Final = 5
ROUNDS: Final = 20
"""Turns of the direct and the proxied connection: a shared machine is not equally fast in every second."""
CALLS: Final = 100
"""Calls of one connection in a round."""
TOGETHER: Final = (1, 100)
MANY: Final = 200
SILENCE: Final = 600.0
QUICK_SILENCE: Final = 5.0
MEBIBYTE: Final = 1 << 20
LONGEST_START: Final = 10.0

GET: Final = b"GET /v1/sessions/sesn_1?beta=true HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer key\r\n\r\n"
DOWN: Final = b"GET /down HTTP/1.1\r\nHost: x\r\n\r\n"
UP: Final = b"POST /up HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % LARGE


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the upstream listens, and the proxy before it."""

    direct: int
    proxied: int


def run(console: Console, *, quick: bool) -> bool:
    """Measure, show the figures, and return whether all bounds held."""
    starts = [_start_seconds() for _ in range(1 if quick else STARTS)]
    ports = Ports(_free_port(), _free_port())
    with _process("benchmark.upstream", str(ports.direct)) as upstream, _proxy(ports) as proxy:
        _await_port(ports.direct, upstream)
        _await_port(ports.proxied, proxy)
        idle = proc.resident_kib(proxy.pid)
        bounds = [
            Bound("alone", "starts within 0.5 s", f"{min(starts):.2f} s", min(starts) < 0.5),
            Bound("alone", "idle below 40 MiB", f"{idle / 1024:.1f} MiB", idle < 40 * 1024),
        ]
        bounds += asyncio.run(_measure(ports, proxy.pid, 2 if quick else ROUNDS, QUICK_SILENCE if quick else SILENCE))
    show_bounds(bounds, console)
    return all(bound.held for bound in bounds)


async def _measure(ports: Ports, pid: int, rounds: int, silence: float) -> list[Bound]:
    silent = asyncio.create_task(_silent(ports.proxied, silence))
    bounds: list[Bound] = []
    for together in TOGETHER:
        bounds += await _added(ports, pid, together, rounds)
    for what, request in (("down", DOWN), ("up", UP)):
        direct = await _megabytes_a_second(ports.direct, request)
        proxied = await _megabytes_a_second(ports.proxied, request)
        words = f"{proxied:.0f} MB/s, direct {direct:.0f} MB/s"
        bounds.append(Bound("50 MiB", f"{what}; no bound", words, held=True))
    await _round(ports.proxied, MANY, 1)
    peak = proc.peak_kib(pid)
    bounds.append(Bound("50 MiB", f"at most 64 MiB, with {MANY} calls", f"{peak / 1024:.1f} MiB", peak < 64 * 1024))
    lasted = await silent
    bounds.append(Bound("silent", "a stream stays open", f"{lasted:.0f} s of silence", lasted > silence - 1))
    return bounds


async def _added(ports: Ports, pid: int, together: int, rounds: int) -> list[Bound]:
    """Return what the proxy adds to one of ``together`` calls at once, and what it costs."""
    direct: list[float] = []
    proxied: list[float] = []
    used = 0.0
    for _ in range(rounds):
        direct += await _round(ports.direct, together, CALLS)
        before = proc.cpu_seconds(pid)
        proxied += await _round(ports.proxied, together, CALLS)
        used += proc.cpu_seconds(pid) - before
    added = (percentile(proxied, 0.5) - percentile(direct, 0.5)) * 1000
    words = f"{added:.2f} ms, to {percentile(direct, 0.5) * 1000:.2f} ms direct"
    cost = used / len(proxied) * 1000
    wave = f"{together} at once"
    if together == 1:
        return [
            Bound(wave, "p50 added below 1 ms", words, added < 1.0),
            Bound(wave, "CPU for a call; no bound", f"{cost:.2f} ms", held=True),
        ]
    return [
        Bound(wave, "p50 added; no bound", words, held=True),
        Bound(wave, "CPU for a call below 0.5 ms", f"{cost:.2f} ms", cost < 0.5),
    ]


async def _round(port: int, together: int, calls: int) -> list[float]:
    """Return how many seconds each call took, of so many connections with so many calls each."""

    async def one() -> list[float]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        took = []
        for _ in range(calls):
            begun = time.perf_counter()
            writer.write(GET)
            await reader.readexactly(length(await reader.readuntil(b"\r\n\r\n")))
            took.append(time.perf_counter() - begun)
        writer.close()
        return took

    return [each for took in await asyncio.gather(*(one() for _ in range(together))) for each in took]


async def _megabytes_a_second(port: int, request: bytes) -> float:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    begun = time.perf_counter()
    writer.write(request)
    for _ in range(length(request) // MEBIBYTE):
        writer.write(bytes(MEBIBYTE))
        await writer.drain()
    left = length(await reader.readuntil(b"\r\n\r\n"))
    while left > 0 and (part := await reader.read(MEBIBYTE)):
        left -= len(part)
    writer.close()
    return LARGE / 1e6 / (time.perf_counter() - begun)


async def _silent(port: int, seconds: float) -> float:
    """Return for how long a stream was silent before its last part came; 0 if it broke."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /silent?%d HTTP/1.1\r\nHost: x\r\n\r\n" % seconds)
    await reader.readuntil(b"\r\n\r\n")
    await reader.readexactly(1)
    begun = time.perf_counter()
    last = await reader.read(1)
    writer.close()
    return time.perf_counter() - begun if last == b"2" else 0.0


# --- Processes ---------------------------------------------------------------------------------------------------


def _start_seconds() -> float:
    """Return how long a proxy takes from its start until it listens."""
    ports = Ports(_free_port(), _free_port())
    begun = time.perf_counter()
    with _proxy(ports) as proxy:
        _await_port(ports.proxied, proxy)
        return time.perf_counter() - begun


@contextmanager
def _proxy(ports: Ports) -> Iterator["subprocess.Popen[bytes]"]:
    options = [
        f"--port={ports.proxied}",
        f"--upstream=http://127.0.0.1:{ports.direct}",
        f"--termination-log={os.devnull}",
    ]
    item = {"ANTHROPIC_ENVIRONMENT_ID": "env_1", "ANTHROPIC_WORK_ID": "work_1"}
    with _process("worklease", "proxy", *options, **item) as process:
        yield process


@contextmanager
def _process(module: str, *arguments: str, **variables: str) -> Iterator["subprocess.Popen[bytes]"]:
    environment = os.environ | {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"} | variables
    with tempfile.NamedTemporaryFile(suffix=".log") as log:
        process = subprocess.Popen([sys.executable, "-m", module, *arguments], env=environment, stdout=log, stderr=log)
        try:
            yield process
        except BaseException:
            sys.stderr.write(Path(log.name).read_text())
            raise
        finally:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _await_port(port: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.perf_counter() + LONGEST_START
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), 1.0):
                return
        except OSError:
            if process.poll() is not None or time.perf_counter() > deadline:
                raise
            time.sleep(0.005)
