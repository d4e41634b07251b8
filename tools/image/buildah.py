"""buildah, bound to the project's own storage.

Owns its options and its output. Must not touch the user's own images: podman and buildah share those.
"""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from controlplane.progress import Step
from image.container import Container

# vfs and chroot work wherever this runs as root, also in a container; they cost a second.
STORAGE_DRIVER = "vfs"
ISOLATION = "chroot"
LAST_LINES = 20  # of a build that failed


class BuildahError(Exception):
    """buildah refused; the message is what it said."""


@dataclass(frozen=True, slots=True)
class Buildah:
    """The images of one storage."""

    storage: Path

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """Return the storage in the user's cache, where the XDG specification places it."""
        home = environ.get("XDG_CACHE_HOME", "")
        base = Path(home) if Path(home).is_absolute() else Path.home() / ".cache"
        return cls(base / "worklease" / "images")

    def __call__(self, *arguments: str | Path, step: Step | None = None) -> str:
        """Run a command and return its output; while it runs, `step` shows the output."""
        places = ("--root", self.storage, "--runroot", self.storage / "run", "--storage-driver", STORAGE_DRIVER)
        said: list[str] = []
        with subprocess.Popen(
            ["buildah", *places, *arguments],  # noqa: S607  # wherever the system has it
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(os.environ) | {"BUILDAH_ISOLATION": ISOLATION},
            text=True,
        ) as running:
            assert running.stdout is not None  # noqa: S101  # asked for with PIPE
            for line in running.stdout:
                said.append(line.rstrip())
                if step is not None:
                    step.line(said[-1])
        if running.returncode != 0:
            raise BuildahError(f"buildah {arguments[0]} failed:\n" + "\n".join(said[-LAST_LINES:]))
        return "\n".join(said)

    def has(self, reference: str) -> bool:
        """Return whether an image is in the storage."""
        return bool(self("images", "--quiet", "--filter", f"reference={reference}"))

    @contextmanager
    def container(self, image: str) -> Iterator[str]:
        """Create a container of an image while the block runs; nothing runs in it yet."""
        name = self("from", "--quiet", image).splitlines()[-1]
        try:
            yield name
        finally:
            self("rm", name)

    @contextmanager
    def mounted(self, image: str) -> Iterator[Container]:
        """Mount the root file system of an image, with its configuration, while the block runs."""
        config: dict[str, Any] = json.loads(self("inspect", "--type", "image", image))["OCIv1"]["config"]
        with self.container(image) as name:
            yield Container.of(Path(self("mount", name)), config)
