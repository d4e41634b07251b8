"""The soak itself, in a short form: a minute beside the absences, and five kills."""

import subprocess
import sys

import pytest

from support.processes import python_environment

SECONDS = 280.0  # for one minute, another for the absences, the start, and a busy machine


@pytest.mark.journey
@pytest.mark.usefixtures("control_plane")  # the soak starts its own; this one builds the binaries beforehand
@pytest.mark.timeout(300)
@pytest.mark.long(seconds=90)
@pytest.mark.xdist_group("a control plane of its own 1")
def test_a_short_soak_finds_nothing() -> None:
    command = [sys.executable, "-m", "soak", "--kills=5", "--minutes=1", "--leases=8", "--outage=25", "--seed=7"]
    ended = subprocess.run(
        command, env=python_environment(), capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr}"
    assert "lapses of the operator's leases" in ended.stdout
