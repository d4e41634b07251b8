"""The demo itself, on a control plane of its own: its claims are true, and its picture is drawn from it."""

import subprocess
import sys
from pathlib import Path

import pytest

from support.processes import ROOT, python_environment

SECONDS = 280.0  # for what takes 40 on an idle machine


@pytest.mark.long(seconds=45)
@pytest.mark.xdist_group("a control plane of its own 2")
def test_the_demo_tells_its_story_and_each_of_its_claims_is_so(tmp_path: Path) -> None:
    picture = tmp_path / "demo.svg"
    done = subprocess.run(
        [sys.executable, "-m", "demo", "--picture", str(picture)],
        cwd=ROOT,
        env=python_environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr
    # A picture contains non-breaking spaces.
    drawn = picture.read_text("utf-8").replace("&#160;", " ")
    for told in (
        "A message arrives",
        "An item is stopped at the server",
        "its pod sandbox-demo2 is gone",
        "A sandbox is lost",
        "claims hold.",
    ):
        assert told in drawn
    assert "✘" not in drawn
