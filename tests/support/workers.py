"""A sandbox pod without a cluster: the proxy and an unmodified worker of the public SDK, each as a process of its own.

This module starts and ends them, with the variables that the operator gives a pod. It must not assert.
"""

import base64
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any, Final

import httpx

from controlplane import wait_for
from support.processes import ROOT
from support.simulator import Simulator
from worklease_proxy.control import STATUS_PATH

PROGRAM: Final = ROOT / "examples" / "worker" / "worker.py"
NEWEST: Final = ROOT / ".venv" / "newest-sdk"
SDKS: Final = {
    version("anthropic"): "",
    next(each.version for each in distributions(path=[str(NEWEST)])): str(NEWEST),
}
"""The versions of the SDK that are tried, each with the folder that comes before the other packages."""
SECONDS: Final = 60.0  # for what takes two: importing the SDK takes long on a machine that builds something
SESSION: Final = "sesn_demo"
WORK: Final = "work_demo"
DRAIN_SECONDS: Final = 15
"""The TTL is then ten seconds, and the worker beats each five. It gives up when a proxy's start takes ten or more."""


@dataclass
class RunningProxy:
    """A proxy as a process."""

    process: "subprocess.Popen[bytes]"
    port: int
    log: Path
    drain_file: Path
    termination_log: Path

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def message(self) -> str:
        """Its termination message so far."""
        return self.termination_log.read_text() if self.termination_log.exists() else ""

    def status(self) -> dict[str, Any]:
        """Return what it has seen."""
        return dict(httpx.get(self.url + STATUS_PATH, trust_env=False).json())

    def annotate(self) -> None:
        """Begin the drain as the pod's annotation does."""
        self.drain_file.write_text("2026-11-28T12:00:30Z")

    def beat(self, expected: str) -> None:
        """Send a heartbeat beside the worker's."""
        path = f"/v1/environments/env_demo/work/{WORK}/heartbeat"
        httpx.post(self.url + path, params={"expected_last_heartbeat": expected}, trust_env=False)

    def end(self) -> int:
        """Tell it to end, as the kubelet does after the worker's end, and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(SECONDS)


@contextmanager
def proxy_process(folder: Path, *arguments: str, **variables: str) -> Iterator[RunningProxy]:
    """Run the proxy on a free port; it has ended at the end of the block."""
    folder.mkdir(exist_ok=True)
    log, drain_file, told = folder / "proxy.log", folder / "draining", folder / "termination-log"
    command = [sys.executable, "-m", "worklease", "proxy", "--port", "0", f"--drain-file={drain_file}"]
    command += [f"--termination-log={told}", *arguments]
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "NO_PROXY": "*"}
    environment |= {"ANTHROPIC_ENVIRONMENT_ID": "env_demo", "ANTHROPIC_WORK_ID": WORK} | variables
    with log.open("wb") as output, subprocess.Popen(command, env=environment, stdout=output, stderr=output) as process:
        try:
            port = wait_for(
                lambda: re.search(r"listening on 127\.0\.0\.1:(\d+)", log.read_text()),
                seconds=SECONDS,
                what="the proxy",
            )
            assert port is not None
            yield RunningProxy(process, int(port[1]), log, drain_file, told)
        finally:
            process.kill()


@dataclass
class RunningWorker:
    """A worker as a process."""

    process: "subprocess.Popen[bytes]"
    folder: Path

    @property
    def said(self) -> str:
        """What it has printed."""
        return (self.folder / "worker.log").read_text()

    def end(self) -> int:
        """Wait until it ends by itself, and return its exit code."""
        return self.process.wait(SECONDS)


@contextmanager
def worker_process(folder: Path, sdk: str, base_url: str, token: str, **variables: str) -> Iterator[RunningWorker]:
    """Run an unmodified worker with a pod's environment only; it has ended at the end of the block."""
    folder.mkdir(exist_ok=True)
    secret = base64.urlsafe_b64encode(json.dumps({"sessions_token": token}).encode()).decode()
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(folder),
        "PYTHONPATH": SDKS[sdk],
        "NO_PROXY": "127.0.0.1,localhost",
        "ANTHROPIC_BASE_URL": base_url,
        "ANTHROPIC_ENVIRONMENT_ID": "env_demo",
        "ANTHROPIC_WORK_ID": WORK,
        "ANTHROPIC_SESSION_ID": SESSION,
        "ANTHROPIC_AUTH_TOKEN": token,
        "ANTHROPIC_ENVIRONMENT_KEY": token,
        "ANTHROPIC_WORK_SECRET": secret,
        "WORKER_MAX_IDLE": "0.2",
    } | variables
    with (
        (folder / "worker.log").open("wb") as output,
        subprocess.Popen(
            [sys.executable, str(PROGRAM)], env=environment, cwd=folder, stdout=output, stderr=output
        ) as process,
    ):
        try:
            yield RunningWorker(process, folder)
        finally:
            process.kill()


# --- The session -------------------------------------------------------------------------------------------------


def use_bash(simulator: Simulator, command: str, session: str = SESSION) -> str:
    """Let the session's agent call a tool, and return the call's id."""
    return simulator.add_event(session, type="agent.tool_use", name="bash", input={"command": command})


def end_turn(simulator: Simulator, session: str = SESSION) -> None:
    """Let the session's turn end: the worker has nothing more to do."""
    simulator.add_event(session, type="session.status_idle", stop_reason={"type": "end_turn"})


def result_of(simulator: Simulator, tool_use_id: str, session: str = SESSION) -> str:
    """Wait for the result of a tool call, and return its text."""

    def found() -> Mapping[str, Any] | None:
        return next((each for each in simulator.events(session) if each.get("tool_use_id") == tool_use_id), None)

    result = wait_for(found, seconds=SECONDS, what=f"the result of {tool_use_id}")
    assert result is not None
    return str(result["content"][0]["text"])


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition."""
    wait_for(condition, seconds=SECONDS, what=what)
