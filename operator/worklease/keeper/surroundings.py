"""Who this process is among others: its place, its own name there, and which processes run beside it.

Owns the reading of ``/proc``. Where there is none, nobody is proved to be dead, and a bucket is taken after its time.
"""

import asyncio
import os
import secrets
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from worklease.clocks import ClockPair
from worklease.rules.tenure import Holder

PROC: Final = Path("/proc")

_BOOT_ID: Final = "sys/kernel/random/boot_id"
_START: Final = 19
"""Which field after the name a process's start is in ``stat`` (proc_pid_stat(5): the 22nd of all)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a process knows of itself and of its machine."""

    own: Holder
    running: Callable[[], frozenset[tuple[int, int]]]
    """Pid and start of each process that runs in the same place."""
    clock: Callable[[], float]
    wall: Callable[[], ClockPair]
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


def own_holder(pod_uid: str | None, proc: Path = PROC) -> Holder:
    """Return the name of this process; ``pod_uid`` is its pod's, if it runs in one.

    A container that is started again is in another pid namespace of the same pod, so the pod is its place. Elsewhere it
    is the boot and the pid namespace.
    """
    pid = os.getpid()
    return Holder(pod_uid or _machine(proc), pid, _start_of(proc / str(pid)) or 0, secrets.token_hex(4))


def running(proc: Path = PROC) -> frozenset[tuple[int, int]]:
    """Return pid and start of each process that runs here."""
    found = ((int(entry.name), _start_of(entry)) for entry in proc.glob("[0-9]*"))
    return frozenset((pid, start) for pid, start in found if start is not None)


def _machine(proc: Path) -> str:
    try:
        boot = (proc / _BOOT_ID).read_text("ascii").strip()
        return f"{boot}.{(proc / 'self/ns/pid').stat().st_ino}"
    except OSError:
        return str(uuid.uuid4())  # a place of its own: nobody is found dead there


def _start_of(process: Path) -> int | None:
    """Return when a process was started, in ticks since the boot; None if it is gone, or a zombie that runs no more."""
    try:
        # The name may have spaces and parentheses of its own.
        state, *fields = (process / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return None if state in {"Z", "X"} or len(fields) < _START else int(fields[_START - 1])
