"""One control plane for all workers of a test run: the first that needs it starts it, and ends it after all others.

A control plane costs a fifth of a core while nobody asks it anything. Must not know what the tests do with it.
"""

import fcntl
from collections.abc import Callable
from pathlib import Path

from controlplane import ControlPlane, OwnControlPlane
from controlplane.plane import write_private
from support.cluster import install_custom_resources


def shared_control_plane(folder: Path, at_the_end: Callable[[Callable[[], None]], None]) -> ControlPlane:
    """Find the control plane of the workers that share a folder, or start it.

    Args:
        folder: of this test run alone.
        at_the_end: takes what is to be done once this worker's tests are over, within no test's time limit.
    """
    users = (folder / "users").open("w")  # held until the end: who uses it shares the lock
    directions = folder / "directions"
    with (folder / "start").open("w") as starting:
        fcntl.flock(starting, fcntl.LOCK_EX)
        fcntl.flock(users, fcntl.LOCK_SH)
        # Its folder goes with it: what was ended already, or died, is not to be found.
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
            fcntl.flock(users, fcntl.LOCK_EX)  # once nobody else uses it
            plane.close()

    at_the_end(end)
    return plane
