"""Style, types and layers. They are checked beside the other tests, since those wait most of their time."""

import os
import subprocess

import pytest

from support.processes import ROOT


@pytest.mark.long(seconds=60)
def test_make_lint_has_nothing_to_say() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(["make", "lint"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)  # noqa: S607
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
