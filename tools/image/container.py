"""Running a program in an image's root file system, like a hardened cluster.

The root file system is mounted read-only; user, environment and entry point are the image's; no process can gain
privileges. Network and processes are this machine's. Must not know what runs.
"""

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

# Runs in its own mount namespace, which ends with its last process: there is nothing to unmount.
ENTER = """
set -eu
root=$1; shift
mount --bind "$root" "$root"
mount -o remount,bind,ro "$root"
mount -t proc proc "$root/proc"
mount --bind /dev "$root/dev"
exec setpriv --no-new-privs env -i "$@"
"""


@dataclass(frozen=True, slots=True)
class Container:
    """An image's root file system, mounted, and its configuration."""

    root: Path
    user: str
    environment: Mapping[str, str]
    entrypoint: Sequence[str]
    command: Sequence[str]
    labels: Mapping[str, str]

    @classmethod
    def of(cls, root: Path, config: Mapping[str, Any]) -> Self:
        """Parse the configuration in the format of the OCI image specification."""
        return cls(
            root=root,
            user=config["User"],
            environment=dict(each.split("=", 1) for each in config["Env"]),
            entrypoint=config["Entrypoint"],
            command=config["Cmd"],
            labels=config["Labels"],
        )

    def argv(self, *command: str, **environment: str) -> list[str]:
        """Return the command line that runs a command in it, with additional environment variables."""
        given = [f"{name}={value}" for name, value in {**self.environment, **environment}.items()]
        # By its full path: from here on PATH is the image's.
        chroot = [str(shutil.which("chroot")), f"--userspec={self.user}", "--groups=", str(self.root)]
        return ["unshare", "--mount", "sh", "-c", ENTER, "sh", str(self.root), *given, *chroot, *command]

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command and wait for its end."""
        argv = self.argv(*command, **environment)
        return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=120)
