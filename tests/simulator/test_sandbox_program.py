"""The example's sandbox as a process, with a pod's environment, on the simulator: it runs tools and keeps no lease."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from controlplane import wait_for
from support.processes import ROOT
from support.simulator import Simulator
from worklease.cluster import pod_template as template

PROGRAM = ROOT / "examples" / "sandbox" / "sandbox.py"
LEASE = ROOT / "examples" / "sandbox" / "lease.yaml"
SESSION = "sesn_demo"
SECONDS = 60.0  # for what takes two: importing the SDK takes long on a machine that builds something
IDLE = {"type": "session.status_idle", "stop_reason": {"type": "end_turn"}}


@pytest.fixture
def token(simulator: Simulator) -> str:
    """Return the sessions token of a session's item, whose id is the session's."""
    return str(simulator.create_item(SESSION, data_id=SESSION)["sessions_token"])


@contextmanager
def sandbox(simulator: Simulator, folder: Path, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Run the program with a pod's environment only; it has ended at the end of the block."""
    variables = {"ANTHROPIC_BASE_URL": simulator.url, "SANDBOX_WORKDIR": str(folder), "SANDBOX_MAX_IDLE": "0.2"}
    command = [sys.executable, str(PROGRAM)]
    paths = {"HOME": str(folder), "PATH": "/usr/bin:/bin", "NO_PROXY": "127.0.0.1"}
    process = subprocess.Popen(
        command, env=paths | variables | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def pod_variables(token: str) -> dict[str, str]:
    """Return the variables that the operator sets in a pod."""
    return {
        template.ENVIRONMENT_VARIABLE: "env_demo",
        template.WORK_VARIABLE: SESSION,
        template.TOKEN_VARIABLE: token,
    }


def use_bash(simulator: Simulator, command: str) -> str:
    return simulator.add_event(SESSION, type="agent.tool_use", name="bash", input={"command": command})


def result_of(simulator: Simulator, tool_use_id: str) -> Mapping[str, Any]:
    """Wait for the result of a tool use, and return it."""

    def found() -> Mapping[str, Any] | None:
        events = simulator.events(SESSION)
        return next((event for event in events if event.get("tool_use_id") == tool_use_id), None)

    result = wait_for(found, seconds=SECONDS, what=f"the result of {tool_use_id}")
    assert result is not None
    return result


def calls_of_the_work_api(simulator: Simulator) -> list[str]:
    return [str(entry["call"]) for entry in simulator.history() if entry["event"] == "request"]


def until(condition: Callable[[], bool], what: str) -> None:
    wait_for(condition, seconds=SECONDS, what=what)


def test_the_sandbox_runs_a_sessions_tools_and_touches_no_lease(
    simulator: Simulator, token: str, tmp_path: Path
) -> None:
    first = use_bash(simulator, "echo made > file; cat file")
    with sandbox(simulator, tmp_path, **pod_variables(token)) as process:
        done = result_of(simulator, first)
        shown = result_of(simulator, use_bash(simulator, "env"))
        simulator.add_event(SESSION, **IDLE)
        said, _ = process.communicate(timeout=SECONDS)
    assert done["content"] == [{"type": "text", "text": "made"}]
    assert not done["is_error"]
    assert "PATH=" in shown["content"][0]["text"]
    assert token not in shown["content"][0]["text"]
    assert (tmp_path / "file").read_text() == "made\n"
    assert process.returncode == 0, said
    assert f"session={SESSION} finished" in said
    assert token not in said
    assert calls_of_the_work_api(simulator) == []


def test_the_sandbox_lets_a_tool_finish_when_it_is_told_to_go_and_says_that_it_was(
    simulator: Simulator, token: str, tmp_path: Path
) -> None:
    with sandbox(simulator, tmp_path, **pod_variables(token)) as process:
        # The tool waits for the test, and the sandbox must not end before the tool.
        running = use_bash(simulator, "touch begun; until [ -e go ]; do sleep 0.05; done; echo through")
        until((tmp_path / "begun").exists, "the tool's beginning")
        process.send_signal(signal.SIGTERM)
        (tmp_path / "go").touch()
        assert result_of(simulator, running)["content"] == [{"type": "text", "text": "through"}]
        said, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 128 + signal.SIGTERM, said
    assert calls_of_the_work_api(simulator) == []


def test_a_session_whose_item_has_another_id_is_named(simulator: Simulator, tmp_path: Path) -> None:
    token = simulator.create_item("work_1", data_id=SESSION)["sessions_token"]
    variables = pod_variables(token) | {template.WORK_VARIABLE: "work_1", "ANTHROPIC_SESSION_ID": SESSION}
    with sandbox(simulator, tmp_path, **variables):
        assert result_of(simulator, use_bash(simulator, "echo here"))["content"][0]["text"] == "here"


def test_a_sandbox_without_a_token_says_what_is_missing(simulator: Simulator, tmp_path: Path) -> None:
    with sandbox(simulator, tmp_path, ANTHROPIC_WORK_ID=SESSION) as process:
        said, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 2
    assert "sessions-token" in said


def test_a_sandbox_that_may_not_read_its_session_has_not_finished(
    simulator: Simulator, token: str, tmp_path: Path
) -> None:
    simulator.create_item("sesn_other", data_id="sesn_other")
    variables = pod_variables(token) | {template.WORK_VARIABLE: "sesn_other"}
    with sandbox(simulator, tmp_path, **variables) as process:
        said, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 1, said
    assert "no access to this session" in said


def test_the_manifest_runs_the_image_as_the_user_that_it_has() -> None:
    spec = yaml.safe_load(LEASE.read_text())["spec"]["sandbox"]["template"]["spec"]
    dockerfile = (PROGRAM.parent / "Dockerfile").read_text()
    assert f"USER {spec['securityContext']['runAsUser']}\n" in dockerfile
    assert "anthropic==2.12.0" in dockerfile
    assert "anthropic==2.12.0" in (ROOT / "pyproject.toml").read_text()
