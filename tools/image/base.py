"""The base image if no registry is available: built from Debian's packages with mmdebstrap.

It replaces the official Python image: the same distribution, the same minor version of Python. Must not become part of
the image: tools/image/rootfs.py takes only what is needed.
"""

import hashlib
import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from controlplane.progress import Step
from image.buildah import Buildah
from image.needs import MissingError, run_showing

SUITE = "trixie"  # as in the Dockerfile's default, so that Python has the same version
PACKAGES = ("ca-certificates", "libstdc++6", "python3-venv")  # aiohttp's compiled modules need the second
REFERENCE = f"localhost/worklease-base:{SUITE}-{hashlib.sha256(' '.join(PACKAGES).encode()).hexdigest()[:8]}"
ASK = (
    "import json, platform, sys; print(json.dumps({'python': '%d.%d' % sys.version_info[:2], "
    "'machine': platform.machine(), 'glibc': platform.libc_ver()[1]}))"
)


@dataclass(frozen=True, slots=True)
class Facts:
    """What decides which wheels fit: Python's version as 3.13, the machine as x86_64, glibc's version as 2.41."""

    python: str
    machine: str
    glibc: str


def ask(buildah: Buildah, image: str) -> Facts:
    """Ask the Python of an image for its version and platform."""
    with buildah.container(image) as name:
        return Facts(**json.loads(buildah("run", name, "--", "python3", "-c", ASK).splitlines()[-1]))


def ensure(buildah: Buildah, step: Step) -> str:
    """Build the base if it is missing, and return its name."""
    if buildah.has(REFERENCE):
        return REFERENCE
    mirror = _mirror()
    with tempfile.TemporaryDirectory(prefix="worklease-base-") as folder:
        options, archive = Path(folder, "apt.conf"), Path(folder, "base.tar")
        options.write_text(_way_out())
        command = ["mmdebstrap", "--mode=root", "--variant=essential", f"--include={','.join(PACKAGES)}"]
        run_showing([*command, f"--aptopt={options}", SUITE, str(archive), mirror], step)
        with buildah.container("scratch") as name:
            buildah("add", name, archive, "/")
            buildah("commit", "--quiet", name, REFERENCE)
    return REFERENCE


def _mirror() -> str:
    """Return the mirror from which this machine gets its own packages."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Origin: Debian", "Label: Debian"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    if not told.stdout.strip():
        raise MissingError(
            "apt-get knows no Debian mirror, and the base is built from Debian's packages: run `apt-get update`, or "
            "name a base, as in: make image PYTHON_IMAGE=python:3.13-slim"
        )
    return told.stdout.split()[0]


def _way_out() -> str:
    """Return how this machine reaches that mirror, as apt options: a proxy, a certificate authority."""
    told = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True)  # noqa: S607
    return "".join(f"{line}\n" for line in told.stdout.splitlines() if line.startswith("Acquire::"))
