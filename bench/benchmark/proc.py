"""What a process uses, from the kernel's counters in ``/proc``: the whole process with all its threads."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

TICK: Final = os.sysconf("SC_CLK_TCK")

BEHIND: Final = 5
"""The niceness of a process that stands back: a third of another's share when both want CPU."""


def stand_back(pid: int) -> None:
    """Give a process, and the processes that it starts, less CPU than others when CPU is short.

    Where the kernel divides CPU among sessions first (autogroup), the same applies to the process's session.
    """
    os.setpriority(os.PRIO_PROCESS, pid, BEHIND)
    session = Path(f"/proc/{pid}/autogroup")
    if session.exists():
        session.write_text(str(BEHIND))


def cpu_seconds(pid: int) -> float:
    """Return the seconds of CPU, user and system, that a process has used so far."""
    # The name, in parentheses, may contain anything, so the fields are counted after it.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def resident_kib(pid: int) -> int:
    """Return the KiB of memory that a process has now."""
    return _status(pid, "VmRSS")


def peak_kib(pid: int) -> int:
    """Return the most KiB of memory that a process has had."""
    return _status(pid, "VmHWM")


def _status(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise ProcessLookupError(f"process {pid} has no {name}: it has ended")


@dataclass(frozen=True, slots=True)
class Machine:
    """The CPU counters of the whole machine so far: busy seconds, and seconds in total."""

    busy: float
    total: float

    @classmethod
    def read(cls) -> "Machine":
        """Read the counters now."""
        user, nice, system, idle, iowait, *rest = (
            int(part) for part in Path("/proc/stat").read_text().splitlines()[0].split()[1:]
        )
        total = user + nice + system + idle + iowait + sum(rest[:3])
        return cls((total - idle - iowait) / TICK, total / TICK)

    def load_since(self, before: "Machine") -> float:
        """Return the share of the machine's CPU in use since ``before``."""
        return (self.busy - before.busy) / max(self.total - before.total, 1e-9)
