"""The programs that building an image needs, from the system's packages.

Must not install anything if this does not run as root or there is no apt-get: then it says what is missing.
"""

import os
import shutil
import subprocess

from controlplane.progress import Progress, Step

PROGRAMS = ("buildah", "mount", "setpriv", "unshare")  # each is also the name of its package, or in util-linux
TO_MAKE_A_BASE = ("mmdebstrap",)
APT_GET = ("apt-get", "--option=DPkg::Lock::Timeout=300")  # another apt-get may be at work
OF_UTIL_LINUX = {"mount", "setpriv", "unshare"}


class MissingError(Exception):
    """Something is missing that this program cannot install; the message says what to do."""


def ensure_programs(shown: Progress, *, makes_base: bool) -> None:
    """Install the programs that are missing."""
    if os.geteuid() != 0:
        raise MissingError(
            "this needs root, to create and mount file systems: run it as root, or in a container; "
            "`docker build .` needs neither"
        )
    wanted = PROGRAMS + (TO_MAKE_A_BASE if makes_base else ())
    missing = sorted({_package(name) for name in wanted if shutil.which(name) is None})
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise MissingError(f"install {' and '.join(missing)}, and run it again")
    with shown.step(f"Installing {' and '.join(missing)} by apt-get", "20 s") as step:
        run_showing([*APT_GET, "update"], step)
        run_showing([*APT_GET, "install", "--yes", "--no-install-recommends", *missing], step)


def run_showing(command: list[str], step: Step, environment: dict[str, str] | None = None) -> str:
    """Run a command, show its output, and return it. If it fails, raise MissingError with its last lines."""
    said = []
    environment = (environment or dict(os.environ)) | {"DEBIAN_FRONTEND": "noninteractive"}
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as running:
        assert running.stdout is not None  # noqa: S101  # asked for with PIPE
        for line in running.stdout:
            said.append(line.rstrip())
            step.line(said[-1])
    if running.returncode != 0:
        raise MissingError(f"{command[0]} failed with {running.returncode}:\n" + "\n".join(said[-20:]))
    return "\n".join(said)


def _package(program: str) -> str:
    return "util-linux" if program in OF_UTIL_LINUX else program
