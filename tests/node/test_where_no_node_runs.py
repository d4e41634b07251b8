"""A machine that allows no node: the tests of this folder say why, and are counted as not run."""

import os
import re
import subprocess
import sys

import pytest

from controlplane.reaper import REPORTS
from support.processes import ROOT

READ_ONLY = """
for each in $(awk '$3 ~ /^cgroup/ {print $2}' /proc/mounts); do mount -o remount,ro,bind "$each"; done
exec "$@"
"""
NO_NETWORKS = 'echo 0 > /proc/sys/user/max_net_namespaces; exec "$@"'


@pytest.mark.parametrize(
    ("machine", "reason"),
    [
        (["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"], "needs root"),
        (["unshare", "--mount", "sh", "-c", READ_ONLY, "sh"], "needs cgroups that it may write to"),
        (["unshare", "--user", "--map-root-user", "sh", "-c", NO_NETWORKS, "sh"], "needs namespaces, and this machine"),
    ],
    ids=["without root", "with cgroups that are read-only", "without network namespaces"],
)
def test_where_no_node_runs_its_tests_say_why_and_are_counted_as_not_run(machine: list[str], reason: str) -> None:
    named = ("PYTEST_", "WORKLEASE_TESTS_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(named) and name != REPORTS}
    pytest_words = ["-m", "pytest", "-p", "no:cacheprovider", "-m", "node", "--numprocesses", "3", "tests/node"]
    done = subprocess.run(
        [*machine, sys.executable, *pytest_words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert re.search(r"^=+ \d+ not run in ", lines[-1]), done.stdout
    assert any(reason in line and "tests on a real node were not run" in line for line in lines), done.stdout
