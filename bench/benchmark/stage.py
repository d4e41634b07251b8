"""The processes of the benchmark: the Work API, one contender at a time, and the floor beside it.

Owns their start and their end: they end with this process, however it dies. Must not measure.
"""

import json
import os
import re
import signal
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import benchmark
from benchmark.fleet import NAMESPACE
from benchmark.simulated import SimulatedApi
from benchmark.work_api import KEY, WorkApi
from controlplane import StartError, wait_for
from controlplane.processes import Processes

START_SECONDS: Final = 120.0
"""Seconds until a process must be up: usually a second or two, more on a machine that builds something."""

END_SECONDS: Final = 60.0
"""Seconds that a process may take to end: the operator writes its last status changes first."""

PROBE: Final = 0.25
"""Seconds between two probes of the operator's loop: four a second cost it a thousandth of a core."""

PACKAGE_ROOT: Final = Path(benchmark.__file__).parents[1]


class Stage:
    """The Work API and the contenders, as a context manager."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="worklease-bench-")).resolve()
        self._processes = Processes(self.folder)
        self._starts = 0
        self._floor = ""
        self.contender = ""
        """The name of the contender's process that was started last."""

    def __enter__(self) -> Self:
        """Start with no process running."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all processes and remove their folder."""
        if error is not None and self.contender:
            error.add_note(f"The last lines of {self.contender}'s log:\n{self._processes.tail(self.contender)}")
        self._processes.close()

    # --- The Work API ------------------------------------------------------------------------------------------

    def start_work_api(self, name: str = "work-api") -> WorkApi:
        """Start a Work API and return its client."""
        ready = self.folder / name
        self._start(name, {}, "benchmark.work_server", str(ready))
        wait_for(lambda: self._lives(name) and ready.exists(), seconds=START_SECONDS, what="the Work API")
        return WorkApi(ready.read_text(), self._processes.look().running[name])

    def start_simulator(self, ttl: float) -> SimulatedApi:
        """Start a simulated Work API, whose queue a pool polls, and return its client."""
        ready = self.folder / "simulator"
        words = ("--listen=127.0.0.1:0", "--admin=127.0.0.1:0", f"--ready-file={ready}", "--empty", f"--ttl={ttl:.0f}")
        self._start("simulator", {}, "work_api_simulator", *words, f"--environment-key={KEY}")
        wait_for(lambda: self._lives("simulator") and ready.exists(), seconds=START_SECONDS, what="the simulator")
        return SimulatedApi(json.loads(ready.read_text()), KEY)

    # --- The contenders ----------------------------------------------------------------------------------------

    def start_floor(self, api: WorkApi, leases: int, interval: float) -> int:
        """Start the bare loop beside a contender; return its process id."""
        self._starts += 1
        self._floor = f"floor-{self._starts}"
        self._start(self._floor, {}, "benchmark.floor", api.url, KEY, str(leases), f"{interval:g}")
        return self._processes.look().running[self._floor]

    def end_floor(self) -> None:
        """End the bare loop."""
        self._end(self._floor, signal.SIGKILL)

    def start_tutorial(self, kubeconfig: Path, api: WorkApi, interval: float) -> int:
        """Start the tutorial; return its process id."""
        environment = {"KUBECONFIG": str(kubeconfig)}
        return self._contend("tutorial", environment, "benchmark.tutorial", api.url, KEY, f"{interval:g}", NAMESPACE)

    def start_operator(self, kubeconfig: Path, api: WorkApi | SimulatedApi, interval: float, **settings: str) -> int:
        """Start `worklease run`; return its process id."""
        environment = {
            "KUBECONFIG": str(kubeconfig),
            "WORKLEASE_API_URL": api.url,
            "WORKLEASE_NAMESPACES": NAMESPACE,
            "WORKLEASE_NAMESPACE": NAMESPACE,
            "WORKLEASE_MAX_HEARTBEAT_INTERVAL": f"{interval:g}",
            "WORKLEASE_REQUESTS_PER_MINUTE": "0",
            "WORKLEASE_LOG_FORMAT": "text",
            "WORKLEASE_HTTP_ADDRESS": "127.0.0.1:0",
            **settings,
        }
        return self._contend("worklease", environment, "worklease", "run")

    def _contend(self, name: str, environment: dict[str, str], *words: str) -> int:
        self._starts += 1
        self.contender = f"{name}-{self._starts}"
        self._start(self.contender, environment, *words)
        return self.pid()

    def pid(self) -> int:
        """Return the contender's process id."""
        return self._processes.look().running[self.contender]

    def is_alive(self) -> bool:
        """Return True if the contender runs; raise StartError with its log if it has ended."""
        return self._lives(self.contender)

    def end(self, number: int = signal.SIGTERM) -> float:
        """End the contender, and return the seconds that this took."""
        return self._end(self.contender, number)

    def _end(self, name: str, number: int) -> float:
        began = time.monotonic()
        self._processes.signal(name, number)
        self._processes.wait_for_end(name, seconds=END_SECONDS)
        return time.monotonic() - began

    def log(self) -> str:
        """Return what the contender has logged."""
        return self._processes.log(self.contender).read_text(errors="replace")

    def await_http_address(self) -> str:
        """Wait until the operator has started, and return its HTTP address."""

        def address() -> str:
            found = re.findall(r"operator started .* http=(\S+)", self.log()) if self.is_alive() else []
            return found[-1] if found else ""

        return wait_for(address, seconds=START_SECONDS, what="the operator's start")

    def _start(self, name: str, environment: dict[str, str], *words: str) -> None:
        paths = os.pathsep.join([str(PACKAGE_ROOT)])
        given = {"PATH": os.environ["PATH"], "PYTHONPATH": paths, "NO_PROXY": "127.0.0.1"} | environment
        settings = [f"{key}={value}" for key, value in given.items()]
        self._processes.start(name, ["env", *settings, sys.executable, "-m", *words])

    def _lives(self, name: str) -> bool:
        ended = self._processes.look().ended
        if name in ended:
            raise StartError(f"{name} ended with {ended[name]}:\n{self._processes.tail(name)}")
        return True


class Probe:
    """Repeatedly asks a server for a page that it does not have, to measure how late its event loop gets to it."""

    def __init__(self, address: str) -> None:
        self._url = f"http://{address}/is-the-loop-free"
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self._done = threading.Event()
        self.took: list[float] = []
        self._thread = threading.Thread(target=self._run, name="probe", daemon=True)

    def __enter__(self) -> Self:
        """Start probing."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop probing."""
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._done.wait(PROBE):
            began = time.monotonic()
            try:
                self._opener.open(self._url, timeout=30.0)
            except urllib.error.HTTPError:
                self.took.append(time.monotonic() - began)
