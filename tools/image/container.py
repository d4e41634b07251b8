"""Running a program in an image's root file system, as a hardened cluster would.

Owns the way in: the root is mounted read-only, the user, the environment and the entry point are the image's, nobody
gains rights. Network and processes are this machine's own. Must not know what runs.
"""

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

# A mount namespace of its own, which ends with its last process: nothing is left to unmount.
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
        """Read the configuration as the OCI image specification writes it."""
        return cls(
            root=root,
            user=config["User"],
            environment=dict(each.split("=", 1) for each in config["Env"]),
            entrypoint=config["Entrypoint"],
            command=config["Cmd"],
            labels=config["Labels"],
        )

    def argv(self, *command: str, **environment: str) -> list[str]:
        """The words that run a command in it, with additions to its environment."""
        given = [f"{name}={value}" for name, value in {**self.environment, **environment}.items()]
        # By its full path: the image's PATH holds from here on.
        chroot = [str(shutil.which("chroot")), f"--userspec={self.user}", "--groups=", str(self.root)]
        return ["unshare", "--mount", "sh", "-c", ENTER, "sh", str(self.root), *given, *chroot, *command]

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        argv = self.argv(*command, **environment)
        return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=120)
