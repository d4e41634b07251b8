"""The parent's side of the reaper: named processes that end with this one.

Must not know what the processes are for.
"""

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controlplane.waiting import wait_for

REAPER = Path(__file__).with_name("reaper.py")
END_SECONDS = 15.0  # twice the reaper's grace period for two rounds, and time for a slow disk
TAIL_LINES = 20  # of a log in an error: the cause is among the last lines


class StartError(Exception):
    """A process of the control plane failed; the message ends with its log."""


@dataclass(frozen=True, slots=True)
class Condition:
    """What runs (by name, its pid) and what has ended (by name, its return code)."""

    running: dict[str, int]
    ended: dict[str, int]


class Processes:
    """The processes of one folder. Ends them and removes the folder when closed, or when this process dies."""

    def __init__(self, directory: Path, *, inside: Sequence[str] = ()) -> None:
        """Start the reaper.

        Args:
            directory: where the processes run, and where their logs are.
            inside: the command that starts the reaper, if it is to run elsewhere, as in namespaces of its own.
        """
        self.directory = directory
        self._lock = threading.Lock()  # keeps a request and its answer together
        # -I: the reaper needs nothing from this project's environment; -S: it starts in half the time. Its own session
        # keeps Ctrl-C away from it, which goes to every process of the terminal's group.
        self._reaper = subprocess.Popen(
            [*inside, sys.executable, "-I", "-S", str(REAPER), str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    @property
    def reaper_pid(self) -> int:
        """The process id of the reaper."""
        return self._reaper.pid

    def log(self, name: str) -> Path:
        """Return the file to which a process writes its output."""
        return self.directory / f"{name}.log"

    def tail(self, name: str) -> str:
        """Return the last lines of a process's log."""
        path = self.log(name)
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        return "\n".join(f"  {line}" for line in lines[-TAIL_LINES:])

    def start(self, name: str, command: Sequence[str]) -> None:
        """Start a process under a name."""
        self._ask(do="start", name=name, command=list(command), log=str(self.log(name)))

    def signal(self, name: str, number: int) -> None:
        """Send a signal to a process."""
        self._ask(do="signal", name=name, signal=int(number))

    def look(self) -> Condition:
        """Return what runs and what has ended."""
        return self._ask(do="look")

    def wait_for_end(self, name: str, *, seconds: float) -> None:
        """Wait until a process has ended."""
        wait_for(lambda: name in self.look().ended, seconds=seconds, what=f"the end of {name}")

    def _ask(self, **request: object) -> Condition:
        """Send one request to the reaper."""
        stdin, stdout = self._reaper.stdin, self._reaper.stdout
        assert stdin is not None and stdout is not None  # noqa: S101, PT018  # asked for with PIPE
        with self._lock:
            try:
                stdin.write(json.dumps(request).encode() + b"\n")
                stdin.flush()
                line = stdout.readline()
            except (BrokenPipeError, ValueError):
                line = b""
        if not line:
            raise StartError(f"the control plane in {self.directory} is gone: its reaper has ended or was killed")
        answer: dict[str, Any] = json.loads(line)
        if answer["error"] is not None:
            raise StartError(f"{request['do']} {request.get('name', '')}: {answer['error']}")
        return Condition(answer["running"], answer["ended"])

    def close(self) -> None:
        """End all processes and remove the folder."""
        assert self._reaper.stdin is not None and self._reaper.stdout is not None  # noqa: S101, PT018
        try:
            with suppress(BrokenPipeError):  # the reaper was killed, and a request to it is still in the buffer
                self._reaper.stdin.close()
            self._reaper.wait(END_SECONDS)
        finally:
            self._reaper.kill()
            self._reaper.wait()
            self._reaper.stdout.close()
            shutil.rmtree(self.directory, ignore_errors=True)  # the reaper did that, unless it was killed
