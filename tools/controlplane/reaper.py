"""The process that owns all others of a control plane. It outlives its parent for as long as the cleanup takes.

It is started with a pipe that only the parent can write to. When that pipe closes, however the parent died, it ends
every process and removes the temporary folder. If this process itself is killed, Linux kills its children.

It runs as a separate, isolated script: standard library only, one thread (the children's parent-death signal is bound
to the thread that started them), and no import from this package.
"""

import ctypes
import json
import os
import resource
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

PARENT_CHECK_SECONDS = 1.0  # a fork of the parent may hold the pipe open: then getppid() shows the parent's death
GRACE_SECONDS = 3.0  # nothing of value is in the folder: long enough to close cleanly, short enough to wait for
POLL_SECONDS = 0.02  # how soon an ended process is noticed
PR_SET_PDEATHSIG = 1  # from linux/prctl.h
REPORTS = "TEST_RUN_CPU_REPORTS"  # the tests' variable: a file to which each reaper appends what its processes used
# A server ends before what it depends on: an API server without etcd waits long before it ends.
LAST_TO_END = "etcd"
# Memory is collected a quarter as often: a sixth of the processor time less, for a hundred MB more.
GO = {"GOGC": "400"}


class Reaper:
    """Starts, signals and ends the processes of one control plane."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._parent = os.getppid()
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def serve(self) -> None:
        """Answer requests until the parent is gone."""
        try:
            for request in self._requests():
                answer = self._answer(json.loads(request))
                os.write(sys.stdout.fileno(), json.dumps(answer).encode() + b"\n")
        except BrokenPipeError:
            pass  # the parent died between its request and the answer: handled like the end of its pipe
        finally:
            self._end_all()
            shutil.rmtree(self._directory, ignore_errors=True)
            self._report()

    def _report(self) -> None:
        """Append the processor time of all its processes to the file that the environment names, if it names one."""
        if (path := os.environ.get(REPORTS)) is not None:
            used = resource.getrusage(resource.RUSAGE_CHILDREN)
            line = {"names": list(self._children), "seconds": used.ru_utime + used.ru_stime}
            with Path(path).open("a", encoding="utf-8") as reports:
                reports.write(json.dumps(line) + "\n")

    def _requests(self) -> Iterator[bytes]:
        """Yield the parent's lines until the parent ends."""
        rest = b""
        with selectors.DefaultSelector() as selector:
            selector.register(sys.stdin.fileno(), selectors.EVENT_READ)
            while os.getppid() == self._parent:
                if not selector.select(PARENT_CHECK_SECONDS):
                    continue
                block = os.read(sys.stdin.fileno(), 65536)
                if not block:
                    return
                *lines, rest = (rest + block).split(b"\n")
                yield from lines

    def _answer(self, request: dict[str, object]) -> dict[str, object]:
        """Handle one request; the answer always says what runs and how the rest ended."""
        error = None
        try:
            match request:
                case {"do": "start", "name": str(name), "command": list(command), "log": str(log)}:
                    self._start(name, [str(word) for word in command], log)
                case {"do": "signal", "name": str(name), "signal": int(number)}:
                    self._children[name].send_signal(number)
                case {"do": "look"}:
                    pass
                case _:
                    error = f"not understood: {request}"
        except (OSError, KeyError) as failure:
            error = f"{type(failure).__name__}: {failure}"
        codes = {name: child.poll() for name, child in self._children.items()}
        running = {name: self._children[name].pid for name, code in codes.items() if code is None}
        ended = {name: code for name, code in codes.items() if code is not None}
        return {"error": error, "running": running, "ended": ended}

    def _start(self, name: str, command: list[str], log: str) -> None:
        """Start a process that writes to its log and ends when this one ends."""
        home = str(self._directory)
        environment = {"PATH": os.environ.get("PATH", os.defpath), "HOME": home, "TMPDIR": home} | GO
        with Path(log).open("ab") as output:
            self._children[name] = subprocess.Popen(
                command,
                cwd=home,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=bind_to_parent(),  # noqa: PLW1509  # safe here: this process has one thread
            )

    def _end_all(self) -> None:
        """Ask all processes to end, then kill them; etcd last."""
        last = [child for name, child in self._children.items() if name == LAST_TO_END]
        end([child for child in self._children.values() if child not in last])
        end(last)


def end(children: list[subprocess.Popen[bytes]]) -> None:
    """Send SIGTERM, wait for a limited time, send SIGKILL."""
    for child in children:
        child.terminate()
    deadline = time.monotonic() + GRACE_SECONDS
    while any(child.poll() is None for child in children) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    for child in children:
        child.kill()
        child.wait()


def bind_to_parent() -> Callable[[], None] | None:
    """Return what a child runs first: it asks Linux to kill it when its parent dies. None on other systems."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def bind() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the parent died before the request
            os._exit(1)

    return bind


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Turn the signals that end a process into an orderly exit."""

    def leave(number: int, _: FrameType | None) -> None:
        for each in ending:
            signal.signal(each, signal.SIG_IGN)  # a second one must not interrupt the cleanup
        sys.exit(128 + number)

    ending = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    for each in ending:
        signal.signal(each, leave)
    yield


if __name__ == "__main__":
    with ended_by_signals():
        Reaper(Path(sys.argv[1])).serve()
