"""The cgroup under which all pods of one node run, in each hierarchy of this machine.

Must not touch any other cgroup.
"""

import os
import time
from contextlib import suppress
from pathlib import Path

from node.needs import hierarchies

SETTLE_SECONDS = 5.0  # the kernel gives a cgroup free a moment after its last process
CONTROLLERS = (
    "cpu",
    "cpuset",
    "memory",
    "pids",
    "io",
    "hugetlb",
)  # of the unified hierarchy; the kubelet wants the first four


def create(name: str) -> None:
    """Create the cgroup in each hierarchy."""
    for path in hierarchies():
        (path / name).mkdir(exist_ok=True)
        if (path / "cpuset.cpus").exists():  # version 1: a new cpuset has no processors, and nothing could run in it
            for file in ("cpuset.cpus", "cpuset.mems"):
                (path / name / file).write_text((path / file).read_text())
        if (path / "cgroup.controllers").exists():
            _pass_on(path)
            _pass_on(path / name)


def _pass_on(path: Path) -> None:
    """Let the cgroups below use what this one has (version 2)."""
    has = (path / "cgroup.controllers").read_text().split()
    for controller in set(has) & set(CONTROLLERS):
        with suppress(OSError):  # threaded domains and such: the kubelet then says what it lacks
            (path / "cgroup.subtree_control").write_text(f"+{controller}")


def processes(name: str, below: str = "") -> list[int]:
    """Return the ids of the processes that run in the cgroup, or in the part of it whose path has these words."""
    found: set[int] = set()
    for path in hierarchies():
        for folder, _, files in os.walk(path / name):
            if "cgroup.procs" in files and below in folder:
                with suppress(OSError):  # removed meanwhile
                    found |= {int(line) for line in (Path(folder) / "cgroup.procs").read_text().split()}
    return sorted(found)


def remove(name: str) -> None:
    """Remove the cgroup, in which nothing runs any more, with all below it."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while left := [path / name for path in hierarchies() if (path / name).exists()]:
        for each in left:
            for folder, _, _ in os.walk(each, topdown=False):
                with suppress(OSError):
                    Path(folder).rmdir()
        if time.monotonic() > deadline:
            return
        time.sleep(0.05)
