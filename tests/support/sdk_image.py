"""An image with the public SDK and the example programs that use it: a sandbox's tools, and a worker.

Built of the image that `make image` builds on, and of the locked packages, for the Python of that image. Must not
change either.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement

from controlplane.progress import Step
from image import base
from image.buildah import Buildah
from support.processes import ROOT

REFERENCE = "localhost/sdk:1"
PACKAGES, PROGRAMS = "/opt/packages", "/opt/programs"
LOCK = ROOT / "requirements" / "dev.txt"
EXAMPLES = (ROOT / "examples" / "sandbox" / "sandbox.py", ROOT / "examples" / "worker" / "worker.py")


def build(folder: Path, step: Step) -> Path:
    """Build the image, and return it as an OCI archive in a folder."""
    buildah = Buildah.from_environment()
    on = base.ensure(buildah, step)
    packages, archive = folder / "packages", folder / "sdk.oci.tar"
    _install(packages, base.ask(buildah, on).python)
    with buildah.container(on) as name:
        buildah("copy", "--quiet", name, packages, PACKAGES)
        buildah("copy", "--quiet", name, *EXAMPLES, f"{PROGRAMS}/")
        buildah(
            "config", "--env", f"PYTHONPATH={PACKAGES}", "--env", "PYTHONUNBUFFERED=1", "--workingdir", "/tmp", name
        )
        buildah("commit", "--quiet", "--disable-compression", name, f"oci-archive:{archive}:{REFERENCE}")
    shutil.rmtree(packages)
    return archive


def _install(folder: Path, python: str) -> None:
    """Install the SDK and all that it needs, as they are locked, for another Python than this one."""
    folder.mkdir(parents=True)
    lock = folder.with_suffix(".txt")
    lock.write_text("\n".join(_locked(_closure("anthropic"))))
    exactly = ("--require-hashes", "--no-deps", "--only-binary", ":all:", "--python-version", python)
    uv = Path(sys.executable).with_name("uv")
    subprocess.run([uv, "pip", "install", "--quiet", *exactly, "--target", folder, "-r", lock], check=True)


def _closure(name: str) -> set[str]:
    """Return the names of a package and of all that it needs."""
    found: set[str] = set()
    rest = [name]
    while rest:
        if (each := _normal(rest.pop())) not in found:
            found.add(each)
            rest += _needed(each)
    return found


def _needed(name: str) -> Iterator[str]:
    for line in requires(name) or ():
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield requirement.name


def _locked(names: set[str]) -> list[str]:
    """Return the entries of the lock for some packages, each with its hashes."""
    entries = re.split(r"\n(?=[a-z0-9])", LOCK.read_text())
    return [entry for entry in entries if _normal(entry.partition("==")[0]) in names]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
