"""The processes of a control plane end with the process that started it, however that ends."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from controlplane import StartError, wait_for
from controlplane.processes import Processes
from support.processes import is_alive, python_environment

PLAIN = "exec sleep 600"
DEAF = "trap '' TERM; echo deaf; while :; do sleep 0.1; done"
# Starts a shell with the given script, prints the pids, then ends in the given way.
PARENT = """
import json, os, signal, sys
from pathlib import Path
from controlplane.processes import Processes
processes = Processes(Path(sys.argv[1]))
processes.start("child", ["sh", "-c", sys.argv[2]])
print(json.dumps([processes.reaper_pid, processes.look().running["child"]]), flush=True)
match sys.argv[3]:
    case "wait": signal.pause()
    case "raise": raise RuntimeError("on purpose")
    case "exit": os._exit(7)
    case "leave a fork behind":
        if os.fork() == 0:
            signal.pause()
        os.kill(os.getpid(), signal.SIGKILL)
"""


@contextmanager
def parent(folder: Path, end: str, script: str = PLAIN) -> Iterator[tuple["subprocess.Popen[str]", list[int]]]:
    command = [sys.executable, "-c", PARENT, str(folder), script, end]
    # A session of its own, so that a fork that a test leaves behind can be ended with it.
    with subprocess.Popen(  # our own script
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=python_environment(),
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        pids: list[int] = json.loads(process.stdout.readline())
        try:
            yield process, pids
        finally:  # a failed test must not wait for a parent that is still running
            if end == "wait":
                process.kill()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "plane"
    path.mkdir()
    return path


def assert_nothing_is_left(pids: list[int], folder: Path) -> None:
    wait_for(lambda: not any(map(is_alive, pids)), seconds=15, what="the end of all processes")
    assert not folder.exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_parent_ends_all(folder: Path, number: signal.Signals) -> None:
    with parent(folder, "wait") as (process, pids):
        assert all(map(is_alive, pids))
        process.send_signal(number)
    assert_nothing_is_left(pids, folder)


def test_a_process_that_ignores_sigterm_is_killed(folder: Path) -> None:
    log = folder / "child.log"
    with parent(folder, "wait", DEAF) as (process, pids):
        wait_for(lambda: log.read_text() == "deaf\n", seconds=10, what="the trap")
        process.kill()
    assert_nothing_is_left(pids, folder)


@pytest.mark.parametrize("end", ["raise", "exit"])
def test_a_parent_that_ends_by_itself_ends_all(folder: Path, end: str) -> None:
    with parent(folder, end) as (_, pids):
        pass
    assert_nothing_is_left(pids, folder)


def test_a_fork_that_holds_the_pipe_open_keeps_nothing_alive(folder: Path) -> None:
    with parent(folder, "leave a fork behind") as (process, pids):
        try:
            wait_for(lambda: process.poll() is not None, seconds=10, what="the parent's end")
            assert_nothing_is_left(pids, folder)
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def test_a_preloaded_program_ends_with_the_worker_that_started_it() -> None:
    """However the worker ends: its fork server notices, and Linux ends the server's forks."""
    command = [sys.executable, "-c", "from support.simulator import Simulator; print(Simulator().process.pid); input()"]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=python_environment(PYTHONUNBUFFERED="1"),
    ) as worker:
        assert worker.stdout is not None
        started = int(worker.stdout.readline())
        assert is_alive(started)
        worker.kill()
    wait_for(lambda: not is_alive(started), seconds=15, what="the end of the program")


def test_a_killed_reaper_leaves_no_process(folder: Path) -> None:
    with parent(folder, "wait") as (_, pids):
        os.kill(pids[0], signal.SIGKILL)
        wait_for(lambda: not any(map(is_alive, pids)), seconds=5, what="the end of all processes")


def test_a_terminated_reaper_cleans_up(folder: Path) -> None:
    with parent(folder, "wait") as (_, pids):
        os.kill(pids[0], signal.SIGTERM)
        assert_nothing_is_left(pids, folder)


def test_closing_ends_all_and_removes_the_folder(folder: Path) -> None:
    processes = Processes(folder)
    processes.start("plain", ["sleep", "600"])
    pids = [processes.reaper_pid, *processes.look().running.values()]
    processes.close()
    assert not any(map(is_alive, pids))
    assert not folder.exists()


def test_an_ended_process_is_told_with_its_code_and_its_last_lines(folder: Path) -> None:
    processes = Processes(folder)
    try:
        processes.start("short", ["sh", "-c", "echo the cause; exit 3"])
        processes.wait_for_end("short", seconds=10)
        assert processes.look().ended == {"short": 3}
        assert "the cause" in processes.tail("short")
    finally:
        processes.close()


def test_a_program_that_is_not_there_is_an_error_with_its_name(folder: Path) -> None:
    processes = Processes(folder)
    try:
        with pytest.raises(StartError, match=r"start lost.*/nowhere/lost"):
            processes.start("lost", ["/nowhere/lost"])
        with pytest.raises(StartError, match="signal lost"):
            processes.signal("lost", signal.SIGTERM)
    finally:
        processes.close()
