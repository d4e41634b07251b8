"""The project's programs as processes that begin within milliseconds.

An operator imports for a second, and a test run starts hundreds. So a process that has imported the programs
(multiprocessing's fork server, one for each worker) forks for each start. A fork is a process of its own all the same:
with its own memory, environment, log, signals and end. It ends with the worker, however that ends.

This module owns these processes. It must not know what a program does, and it imports little: each fork imports it.
"""

import ctypes
import importlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn

from support.costs import report

PROGRAMS: Final = {
    "worklease": ("worklease.command_line", "main"),
    "work_api_simulator": ("work_api_simulator.command", "simulate"),
}
"""The module and the command of each program; `python -m` runs the same."""
READ_KUBECONFIG: Final = ("kubernetes.config.kube_config", "kubernetes.aio.config.kube_config")
"""Modules that read KUBECONFIG when they are imported, which is before the fork."""
KILL_SECONDS: Final = 30.0  # the kernel ends a killed process within milliseconds, on a machine that is not swapping
PR_SET_PDEATHSIG: Final = 1  # from linux/prctl.h

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload([module for module, _ in PROGRAMS.values()])


class Preloaded:
    """One running program. `kind` names it in the table of processor time.

    Args:
        log: The file to which it appends what it prints.
        environment: All of its environment.
    """

    def __init__(
        self, program: str, arguments: Sequence[str], *, environment: Mapping[str, str], log: Path, kind: str
    ) -> None:
        self._kind = kind
        self._used = 0.0
        self._process = _FORKS.Process(
            target=_become, args=(program, list(arguments), dict(environment), str(log)), daemon=True
        )
        self._process.start()

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""
        return self._process.exitcode

    def signal(self, number: int) -> None:
        """Send it a signal."""
        if self.status is None:
            self._used = _processor_seconds(self.pid) or self._used
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(self.pid, number)

    def wait(self, seconds: float) -> int:
        """Wait for its end, and return its exit status; raise TimeoutError if it does not end in time."""
        self._process.join(seconds)
        if self.status is None:
            raise TimeoutError(f"process {self.pid} did not end within {seconds:.0f} s")
        return self.status

    def close(self, *, grace: float) -> int:
        """End it, by SIGKILL if it does not end within `grace` seconds, and return its exit status."""
        self.signal(signal.SIGTERM)
        try:
            status = self.wait(grace)
        except TimeoutError:
            self.signal(signal.SIGKILL)
            status = self.wait(KILL_SECONDS)
        self._process.close()
        report(self._kind, self._used)
        return status


def _processor_seconds(pid: int) -> float | None:
    """Return the processor time that a process has used; None where the system does not show it."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _become(program: str, arguments: list[str], environment: dict[str, str], log: str) -> NoReturn:
    """Run a program in this process, which was forked for it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.setsid()  # Ctrl-C goes to every process of the terminal's group
    # Among what is inherited is the pipe by whose end the fork server learns that the worker has ended.
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    for library in READ_KUBECONFIG:
        if library in sys.modules:
            sys.modules[library].__dict__["KUBE_CONFIG_DEFAULT_LOCATION"] = environment.get("KUBECONFIG", os.devnull)
    module, command = PROGRAMS[program]
    sys.argv = [program, *arguments]
    getattr(importlib.import_module(module), command)(arguments, prog_name=program)
    raise SystemExit(0)
