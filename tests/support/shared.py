"""One control plane for all workers of a test run: the first worker that needs it starts it, and ends it last.

An idle control plane costs a fifth of a core. This module must not know what the tests do with it.
"""

import fcntl
from collections.abc import Callable
from pathlib import Path

from controlplane import ControlPlane, OwnControlPlane
from controlplane.plane import write_private
from support.cluster import install_custom_resources


def shared_control_plane(folder: Path, at_the_end: Callable[[Callable[[], None]], None]) -> ControlPlane:
    """Return the control plane of the workers that share a folder; start it if there is none.

    Args:
        folder: A folder of this test run alone.
        at_the_end: Registers a function to call after this worker's tests, outside any test's time limit.
    """
    users = (folder / "users").open("w")  # open until the end: every user shares the lock
    directions = folder / "directions"
    with (folder / "start").open("w") as starting:
        fcntl.flock(starting, fcntl.LOCK_EX)
        fcntl.flock(users, fcntl.LOCK_SH)
        # Its folder is removed with it, so that nobody finds a control plane that has ended.
        if directions.exists() and (found := ControlPlane.at(directions.read_text())).directory.exists():
            at_the_end(users.close)
            return found
        plane = OwnControlPlane().__enter__()
        try:
            install_custom_resources(plane)
            write_private(directions, plane.directions())
        except BaseException:
            plane.close()
            raise

    def end() -> None:
        with users:
            fcntl.flock(users, fcntl.LOCK_EX)  # waits until nobody else uses it
            plane.close()

    at_the_end(end)
    return plane
