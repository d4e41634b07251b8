"""The base that the image is built on where no registry can be asked: Debian's packages, by mmdebstrap.

It stands for the official Python image: the same distribution, the same minor version of Python. Must not become part
of the image, for which tools/image/rootfs.py takes what is needed.
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

SUITE = "trixie"  # of the Dockerfile's own default, so that Python is of the same version
PACKAGES = ("ca-certificates", "libstdc++6", "python3-venv")  # the second for what is compiled of aiohttp
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
    """Have the Python of an image say what it is."""
    with buildah.container(image) as name:
        return Facts(**json.loads(buildah("run", name, "--", "python3", "-c", ASK).splitlines()[-1]))


def ensure(buildah: Buildah, step: Step) -> str:
    """Make the base, unless it is there, and return its name."""
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
    """The mirror that this machine has its own packages from."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Origin: Debian", "Label: Debian"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    if not told.stdout.strip():
        raise MissingError(
            "apt-get knows no mirror of Debian, of whose packages the base would be made (`apt-get update` asks for "
            "it); or name a base, as in: make image PYTHON_IMAGE=python:3.13-slim"
        )
    return told.stdout.split()[0]


def _way_out() -> str:
    """How this machine reaches that mirror, as options of apt: a proxy, an authority."""
    told = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True)  # noqa: S607
    return "".join(f"{line}\n" for line in told.stdout.splitlines() if line.startswith("Acquire::"))
