"""The locked packages, fetched outside of the build, for the Python that they will run on.

So the build needs no network, and none of this machine's network settings. Must not fetch what is not locked.
"""

import hashlib
import shutil
import tempfile
import venv
from pathlib import Path

from controlplane.progress import Step
from image.base import Facts
from image.needs import run_showing

REQUIREMENTS = Path(__file__).parents[2] / "requirements"
LOCKS = (REQUIREMENTS / "runtime.txt", REQUIREMENTS / "build.txt")
FOLDER = REQUIREMENTS / "wheels"
OLDEST_GLIBC = 5  # glibc 2.5, which the first manylinux tags stand for


def ensure(facts: Facts, step: Step) -> None:
    """Fetch the wheels, unless exactly these are already there."""
    told = "\n".join([repr(facts), *(lock.read_text() for lock in LOCKS)])
    stamp = FOLDER / f"{hashlib.sha256(told.encode()).hexdigest()[:16]}.complete"
    if stamp.exists():
        return
    shutil.rmtree(FOLDER, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="worklease-pip-") as folder:
        venv.create(folder, with_pip=True)  # .venv has no pip
        pip = [f"{folder}/bin/python", "-m", "pip", "--disable-pip-version-check"]
        locks = [word for lock in LOCKS for word in ("--requirement", str(lock))]
        exactly = ["--require-hashes", "--no-deps", "--only-binary=:all:", *tags(facts)]
        run_showing([*pip, "download", *exactly, f"--dest={FOLDER}", *locks], step)
    stamp.touch()


def tags(facts: Facts) -> list[str]:
    """Return which wheels fit, as pip options; PEP 600 names a platform by the oldest glibc that it needs."""
    newest = int(facts.glibc.split(".")[1])
    platforms = [f"manylinux_2_{minor}_{facts.machine}" for minor in range(newest, OLDEST_GLIBC - 1, -1)]
    return [
        f"--python-version={facts.python}",
        "--implementation=cp",
        *(f"--platform={each}" for each in [*platforms, f"manylinux2014_{facts.machine}", "any"]),
    ]
