"""What a process uses, as the kernel counts it: ``/proc``, which is the whole process with all its threads."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

TICK: Final = os.sysconf("SC_CLK_TCK")

BEHIND: Final = 5
"""The niceness of what stands back: a third of a neighbour's share where both want the processor."""


def stand_back(pid: int) -> None:
    """Let a process, and what it starts, have less of the processor than its neighbours where it is short.

    Where the kernel shares the processor out among sessions first (autogroup), so much for its session.
    """
    os.setpriority(os.PRIO_PROCESS, pid, BEHIND)
    session = Path(f"/proc/{pid}/autogroup")
    if session.exists():
        session.write_text(str(BEHIND))


def cpu_seconds(pid: int) -> float:
    """Give the seconds of CPU, user and system, that a process has used so far."""
    # The name, in parentheses, may hold anything, so the fields are counted from behind it.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def resident_kib(pid: int) -> int:
    """Give the KiB of memory that a process has now."""
    return _status(pid, "VmRSS")


def peak_kib(pid: int) -> int:
    """Give the most KiB of memory that a process ever had."""
    return _status(pid, "VmHWM")


def _status(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise ProcessLookupError(f"process {pid} tells no {name}: it has ended")


@dataclass(frozen=True, slots=True)
class Machine:
    """What the whole machine has done so far: seconds of CPU at work, and of CPU in all."""

    busy: float
    total: float

    @classmethod
    def read(cls) -> "Machine":
        """Read it now."""
        user, nice, system, idle, iowait, *rest = (
            int(part) for part in Path("/proc/stat").read_text().splitlines()[0].split()[1:]
        )
        total = user + nice + system + idle + iowait + sum(rest[:3])
        return cls((total - idle - iowait) / TICK, total / TICK)

    def load_since(self, before: "Machine") -> float:
        """Give the share of the machine that was at work since ``before``."""
        return (self.busy - before.busy) / max(self.total - before.total, 1e-9)
