"""The namespaces of a node: how a program gets into new ones, the folder that their setup needs, and what they leave.

Must not know what a node's programs are, nor start any.
"""

import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from node import cgroups
from node.configuration import TUNABLES, Folder
from node.needs import SYSTEM_PATH, program

# Its own network, mounts and processes. They end with their first process, which ends with this one.
SECLUDED = ("--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "slave", "--")


def secluded() -> tuple[str, ...]:
    """Return the words that start a command as the first process of new namespaces."""
    return (str(program("unshare")), *SECLUDED)


def folder_of(name: str) -> Folder:
    """Return where the files of the node of that name are."""
    return Folder(Path(tempfile.gettempdir()).resolve() / name)


def with_path(command: list[str]) -> list[str]:
    """Return a command that finds the system's programs, whatever PATH the user has."""
    return ["env", f"PATH={SYSTEM_PATH}", *command]


def lay_out(folder: Folder) -> None:
    """Create the folder of a node, with the files that `configuration.setup` mounts."""
    folder.path.mkdir(mode=0o700)
    for name, value in TUNABLES.items():
        path = folder.tunables / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")
    for each in ("var/upper", "var/work"):
        (folder.path / each).mkdir(parents=True)


def clean(name: str) -> None:
    """Remove the folder and the cgroup of a node that has ended."""
    cgroups.remove(name)
    folder = folder_of(name).path
    if folder.is_symlink():  # not ours
        return
    with suppress(FileNotFoundError):
        shutil.rmtree(folder)
