"""Waits for the end of a node, however it comes, and removes what no process takes along: its folder and its cgroup.

A process of its own, which outlives the one that started the node: that may be killed. If it is, and the node's first
process does not notice, this one ends the node. Must not know what runs on a node.
"""

import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from node.namespaces import clean

ORDERLY_SECONDS = 15.0  # a node's first process ends the others within twice three seconds


def start(name: str, first: int) -> "subprocess.Popen[bytes]":
    """Start the process that waits for the end of a node, given the process id of its first process."""
    # -P: what this script imports is looked for in PYTHONPATH only, not beside it.
    return subprocess.Popen(
        [sys.executable, "-P", __file__, "--name", name, str(os.getpid()), str(first)],
        cwd="/",
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C ends the node, and then this one
    )


def sweep(name: str, owner: int, first: int) -> None:
    """Wait until the owner of a node or its first process has ended, see to it that both have, and clean up."""
    with suppress(ProcessLookupError):  # it has ended already
        node = os.pidfd_open(first)
        with suppress(ProcessLookupError):
            _await_one([node, os.pidfd_open(owner)])
        if not _await_one([node], seconds=ORDERLY_SECONDS):
            signal.pidfd_send_signal(node, signal.SIGKILL)
            _await_one([node])
    clean(name)


def _await_one(processes: list[int], *, seconds: float | None = None) -> bool:
    """Return whether one of the processes has ended within that time. They are given as file descriptors."""
    ended = select.poll()
    for each in processes:
        ended.register(each, select.POLLIN)
    return bool(ended.poll(None if seconds is None else seconds * 1000))


if __name__ == "__main__":
    sweep(sys.argv[2], *map(int, sys.argv[3:]))
