"""The build itself: buildah, the Dockerfile, and the values of its arguments.

Must not decide what is in the image: the Dockerfile does.
"""

import os
import subprocess
import tomllib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from controlplane.progress import Step
from image.buildah import Buildah
from image.wheels import FOLDER as WHEELS

REPOSITORY = Path(__file__).parents[2]
VERSION = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
REFERENCE = f"localhost/worklease-operator:{VERSION}"
ARCHIVE = REPOSITORY / "dist" / f"worklease-operator-{VERSION}.oci.tar"


@dataclass(frozen=True, slots=True)
class Sources:
    """What is built: its revision, and its time in seconds since 1970, which all files in the image get."""

    revision: str
    time: int

    @classmethod
    def of_repository(cls) -> Self:
        """Use the last commit, and its time or SOURCE_DATE_EPOCH; `-dirty` marks uncommitted changes."""
        revision = _git("rev-parse", "HEAD") or "unknown"
        if _git("status", "--porcelain"):
            revision += "-dirty"
        time = os.environ.get("SOURCE_DATE_EPOCH") or _git("log", "-1", "--format=%ct") or "0"
        return cls(revision, int(time))

    @property
    def created(self) -> str:
        """The time, in the format of the OCI annotations."""
        return datetime.fromtimestamp(self.time, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def build(buildah: Buildah, base: str, sources: Sources, step: Step) -> None:
    """Build the image and save it as a file."""
    arguments = {
        "PYTHON_IMAGE": base,
        "PIP_FIND_LINKS": str(WHEELS.relative_to(REPOSITORY)),
        "PIP_NO_INDEX": "1",
        "SOURCE_DATE_EPOCH": str(sources.time),
        "VERSION": VERSION,
        "REVISION": sources.revision,
        "CREATED": sources.created,
    }
    given = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
    buildah("build", "--timestamp", str(sources.time), *given, "--tag", REFERENCE, REPOSITORY, step=step)
    buildah("rmi", "--prune", step=step)  # the build stage, and earlier builds
    ARCHIVE.parent.mkdir(exist_ok=True)
    ARCHIVE.unlink(missing_ok=True)
    buildah("push", "--quiet", REFERENCE, f"oci-archive:{ARCHIVE}:{REFERENCE}", step=step)


def _git(*arguments: str) -> str:
    """Return what git says; nothing if this is not a repository."""
    command = ["git", "-C", str(REPOSITORY), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (FileNotFoundError, subprocess.CalledProcessError):
        return ""
