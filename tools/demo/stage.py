"""The processes of the demo beside the control plane: the simulator and the operator.

Owns their start and their end: they end with this process, however it dies, and their folder is deleted with them. Must
not judge what they do.
"""

import os
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from controlplane import StartError, wait_for
from controlplane.processes import Processes
from demo.grounds import LOOPBACK, Grounds
from demo.simulator import Simulator
from demo.snapshot import Snapshot, read

TTL_SECONDS = 15  # a beat each 5 s: often enough to watch, and three may fail before the lease ends
START_SECONDS = 60.0  # usually a second or two; a machine that builds something needs more
END_SECONDS = 30.0  # an operator that is told to end writes its last status changes first
LOOK_SECONDS = 0.5  # between two calls of kubectl, each of which takes a tenth of that in CPU
SIMULATOR, OPERATOR = "simulator", "operator"
PROXY_IMAGE = "worklease-operator"  # no node of the demo's own control plane pulls it
STARTED = "operator started"  # what the operator logs once it keeps leases


class Stage:
    """The simulator and the operator as processes, as a context manager."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="worklease-demo-")).resolve()
        self._processes = Processes(self.folder)
        self._starts = 0
        self._last_look = (0.0, Snapshot())

    def __enter__(self) -> Self:
        """Start with no process running."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End both and remove their folder."""
        self._processes.close()

    @property
    def operator_log(self) -> Path:
        """The operator's log: the output of all its processes, one after the other."""
        return self._processes.log(OPERATOR)

    @property
    def seen(self) -> Snapshot:
        """What the latest look showed."""
        return self._last_look[1]

    def start_simulator(self, ttl_seconds: int = TTL_SECONDS) -> Simulator:
        """Start the Work API, with the items that the examples name."""
        ready = self.folder / "simulator.json"
        options = ["--listen=127.0.0.1:0", "--admin=127.0.0.1:0", f"--ttl={ttl_seconds}", f"--ready-file={ready}"]
        self._start(SIMULATOR, ["simulate", *options], {})
        wait_for(lambda: self._lives(SIMULATOR) and ready.exists(), seconds=START_SECONDS, what="the simulator")
        return Simulator.from_ready_file(ready.read_text(encoding="utf-8"))

    def start_operator(self, grounds: Grounds, simulator: Simulator) -> int:
        """Start the operator (or start it again), wait until it keeps leases, and return its process id."""
        self._starts += 1
        settings = {
            "KUBECONFIG": str(grounds.kubeconfig),
            "WORKLEASE_API_URL": simulator.url,
            "WORKLEASE_LOG_FORMAT": "text",
            "WORKLEASE_PROXY_IMAGE": PROXY_IMAGE,
            "NO_PROXY": LOOPBACK,
            **grounds.settings,
        }
        self._start(OPERATOR, ["run"], settings)
        wait_for(self._operator_works, seconds=START_SECONDS, what="the operator's start")
        return self._processes.look().running[OPERATOR]

    def kill_operator(self) -> None:
        """Kill the operator, like a crash: it cannot clean up."""
        self._processes.signal(OPERATOR, signal.SIGKILL)
        self._processes.wait_for_end(OPERATOR, seconds=END_SECONDS)

    def end_operator(self) -> None:
        """End the operator as the kubelet does."""
        self._processes.signal(OPERATOR, signal.SIGTERM)
        self._processes.wait_for_end(OPERATOR, seconds=END_SECONDS)

    def revive_operator(self, grounds: Grounds, simulator: Simulator) -> int | None:
        """Start the operator again if it has ended, and return its process id; None if it lives."""
        if OPERATOR not in self._processes.look().ended:
            return None
        return self.start_operator(grounds, simulator)

    def start_program(self, name: str, command: list[str], variables: Mapping[str, str], folder: Path) -> None:
        """Start another program in a folder, with these variables only."""
        given = [f"{key}={value}" for key, value in {"PATH": os.environ.get("PATH", os.defpath), **variables}.items()]
        self._processes.start(name, ["sh", "-c", 'cd "$0" && exec "$@"', str(folder), "env", *given, *command])

    def signal_program(self, name: str, number: int) -> None:
        """Send a signal to such a program."""
        self._processes.signal(name, number)

    def end_of(self, name: str, seconds: float) -> int:
        """Wait until such a program has ended, and return its exit code."""
        self._processes.wait_for_end(name, seconds=seconds)
        return self._processes.look().ended[name]

    def log(self, name: str) -> Path:
        """Return the file to which a program writes its output."""
        return self._processes.log(name)

    def look(self, grounds: Grounds) -> Snapshot:
        """Return what kubectl shows now, or showed a moment ago."""
        if time.monotonic() - self._last_look[0] < LOOK_SECONDS:
            return self.seen
        text = grounds.kubectl("get", "worklease,pods", f"--namespace={grounds.namespace}", "-o", "json")
        self._last_look = (time.monotonic(), read(text))
        return self.seen

    def _start(self, name: str, words: list[str], settings: Mapping[str, str]) -> None:
        """Start `worklease`. The reaper's environment is bare, so `env` sets the variables."""
        environment = {"PATH": os.environ.get("PATH", os.defpath), **settings}
        given = [f"{key}={value}" for key, value in environment.items()]
        self._processes.start(name, ["env", *given, sys.executable, "-m", "worklease", *words])

    def _operator_works(self) -> bool:
        lines = self.operator_log.read_text(errors="replace") if self.operator_log.exists() else ""
        return self._lives(OPERATOR) and lines.count(STARTED) >= self._starts

    def _lives(self, name: str) -> bool:
        ended = self._processes.look().ended
        if name in ended:
            raise StartError(f"The {name} ended with {ended[name]}:\n{self._processes.tail(name)}")
        return True
