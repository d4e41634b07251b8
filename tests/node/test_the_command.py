"""`make node` and `make node DOWN=1`: a node to use with kubectl, and nothing left of it."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from controlplane import ensure, wait_for
from controlplane.reaper import bind_to_parent
from node.namespaces import folder_of
from support import traces
from support.processes import python_environment

NAME = f"worklease-node-command-{os.getpid()}"


def command(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "node", *arguments, "--name", NAME],
        env=python_environment(),
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=bind_to_parent(),  # nothing of what this process does between is needed there
    )


@pytest.fixture
def before() -> Iterator[dict[str, object]]:
    """What there was before. However this process ends, so does the node: the user's own would not end with it."""
    found = traces.everything(NAME)
    with subprocess.Popen(
        ["/bin/sh", "-c", 'cat; "$PYTHON" -m node down --name "$NAME"'],
        # Not as arguments: what has the name there counts as a process of the node.
        env=python_environment() | {"PYTHON": sys.executable, "NAME": NAME},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    ):
        yield found


def kubeconfig_of(said: str) -> str:
    found = re.search(r"export KUBECONFIG=(\S+)", said)
    assert found is not None, said
    return found[1]


def serving() -> int:
    (line,) = (each for each in traces.processes(NAME, None) if f"node serve --name {NAME}" in each)
    return int(line.partition(":")[0])


def a_child_network() -> str:
    """Return the network namespace of the node, by one of its programs."""
    line = next(each for each in traces.processes(NAME, None) if "/kubelet " in each)
    return traces.network_of(int(line.partition(":")[0]))


def test_a_node_is_used_with_kubectl_and_leaves_nothing_behind(before: dict[str, object]) -> None:
    up = command("up")
    assert up.returncode == 0, up.stderr
    kubectl = [str(ensure(["kubectl"])["kubectl"]), f"--kubeconfig={kubeconfig_of(up.stdout)}"]
    nodes = subprocess.run([*kubectl, "get", "nodes"], capture_output=True, text=True, check=True).stdout
    assert re.search(rf"^{NAME} +Ready ", nodes, re.MULTILINE)
    while_it_runs = traces.everything(NAME)
    assert all(while_it_runs[kind] for kind in ("processes", "cgroups", "files"))
    for kind in ("links", "named networks", "rules", "settings", "mounts"):  # in namespaces, not on this machine
        assert while_it_runs[kind] == before[kind]
    again = command("up")
    assert (again.returncode, "runs already" in again.stderr) == (1, True)
    network = a_child_network()
    down = command("down")
    assert (down.returncode, down.stdout.strip()) == (0, f"The node {NAME} has ended.")
    assert traces.everything(NAME, network) == before
    assert command("down").stdout.strip() == f"There is no node {NAME}."


def test_a_node_whose_keeper_is_killed_ends_and_leaves_nothing_but_its_log(before: dict[str, object]) -> None:
    up = command("up")
    assert up.returncode == 0, up.stderr
    network = a_child_network()
    os.kill(serving(), signal.SIGKILL)
    wait_for(lambda: not traces.processes(NAME, network), seconds=60, what="the end of all processes")
    log = folder_of(NAME).path.with_suffix(".log")
    assert traces.everything(NAME, network) == before | {"files": [str(log)]}
    assert command("down").returncode == 0
    assert traces.everything(NAME, network) == before
