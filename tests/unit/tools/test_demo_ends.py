"""The processes of the demo end with it, and what it created in a user's cluster is removed."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from controlplane import ExistingCluster, KubectlError, wait_for
from demo.grounds import CRD_NAMES, GUEST_NAMESPACE, GroundsError, guest
from demo.stage import Stage
from support.processes import is_alive, python_environment

# Opens a stage with a simulator, prints where it is, and waits for its end.
PARENT = """
import json, signal
from demo.stage import SIMULATOR, Stage
with Stage() as stage:
    stage.start_simulator()
    print(json.dumps([str(stage.folder), stage._processes.look().running[SIMULATOR]]), flush=True)
    signal.pause()
"""
NOTHING = ""


class Cluster(ExistingCluster):
    """A reader's cluster with scripted answers, which records its requests."""

    __slots__ = ("answers", "asked", "refused")

    def __init__(self, folder: Path, answers: dict[str, str], refused: list[str]) -> None:
        super().__init__(kubeconfig=folder / "theirs", context="theirs", url="https://theirs", binary=Path("kubectl"))
        object.__setattr__(self, "answers", answers)
        object.__setattr__(self, "asked", [])
        object.__setattr__(self, "refused", refused)

    asked: list[str]
    answers: dict[str, str]
    refused: list[str]

    def kubectl(self, *arguments: str, input: str | None = None, check: bool = True) -> str:  # noqa: A002, ARG002
        line = " ".join(arguments)
        self.asked.append(line)
        if self.refused and line.startswith(self.refused[0]):
            raise KubectlError(self.refused.pop(0))
        return next((answer for start, answer in self.answers.items() if line.startswith(start)), NOTHING)

    def did(self, start: str) -> bool:
        return any(line.startswith(start) for line in self.asked)


def test_a_killed_demo_leaves_no_process_and_no_folder() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, env=python_environment()
    ) as parent:
        assert parent.stdout is not None
        folder, pid = json.loads(parent.stdout.readline())
        assert is_alive(pid)
        parent.send_signal(signal.SIGKILL)
    wait_for(lambda: not is_alive(pid) and not Path(folder).exists(), seconds=15, what="the end of all of it")


def test_a_stage_that_is_left_leaves_nothing() -> None:
    with Stage() as stage:
        simulator = stage.start_simulator()
        assert "work_demo2" in simulator.values()
        simulator.stop("work_demo2")
        assert [entry.event for entry in simulator.record()][-1] == "stopped"
        assert stage.folder.is_dir()
    assert not stage.folder.exists()


def test_a_namespace_that_was_there_before_is_not_touched(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, {f"get namespace {GUEST_NAMESPACE}": f"namespace/{GUEST_NAMESPACE}\n"}, [])
    with pytest.raises(GroundsError, match="removes only what it made itself"), guest(cluster, tmp_path, print):
        pass
    assert [line.split()[0] for line in cluster.asked] == ["get"]


def test_a_namespace_that_somebody_made_meanwhile_is_not_removed(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, {}, [f"create namespace {GUEST_NAMESPACE}"])
    with pytest.raises(KubectlError), guest(cluster, tmp_path, print):
        pass
    assert not cluster.did("delete")


def test_the_namespace_goes_and_a_crd_that_was_installed_stays_and_is_named(tmp_path: Path) -> None:
    cluster, said = Cluster(tmp_path, {}, []), list[str]()
    with guest(cluster, tmp_path, said.append) as grounds:
        assert cluster.did("apply --server-side")
        assert grounds.namespace == GUEST_NAMESPACE
        assert grounds.settings["WORKLEASE_NAMESPACES"] == GUEST_NAMESPACE
        assert grounds.settings["WORKLEASE_NAMESPACE"] == GUEST_NAMESPACE
        assert not cluster.did("delete")
    assert cluster.did(f"delete namespace {GUEST_NAMESPACE}")
    assert not cluster.did("delete crd")
    assert f"CRDs {' and '.join(CRD_NAMES)} stay installed" in said[-1]


def test_crds_that_were_there_are_not_changed(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, {"get crd": "".join(f"crd/{name}\n" for name in CRD_NAMES)}, [])
    with guest(cluster, tmp_path, print):
        pass
    assert not cluster.did("apply")


def test_a_cluster_with_one_crd_of_an_earlier_version_is_left_alone(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, {"get crd": f"crd/{CRD_NAMES[0]}\n"}, [])
    with pytest.raises(GroundsError, match="upgrade that operator first"), guest(cluster, tmp_path, print):
        pass
    assert not cluster.did("apply")
    assert not cluster.did("create namespace")


def test_finalizers_do_not_keep_the_namespace_of_a_dead_operator(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, {"get worklease,workpool": "worklease/one\n"}, [f"delete namespace {GUEST_NAMESPACE}"])
    with guest(cluster, tmp_path, print):
        pass
    assert cluster.did(f"patch worklease/one --namespace={GUEST_NAMESPACE} --type=merge")
    assert cluster.asked[-1].startswith(f"delete namespace {GUEST_NAMESPACE}")


def test_only_the_reader_can_read_the_pinned_kubeconfig(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, {"config view": "{}"}, [])
    with guest(cluster, tmp_path, print) as grounds:
        assert grounds.kubeconfig.stat().st_mode & 0o777 == 0o600
        assert grounds.kubeconfig != cluster.kubeconfig
        assert "--minify" in next(line for line in cluster.asked if line.startswith("config view"))


def test_the_readers_proxy_is_kept_and_the_simulator_is_reached_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", "theirs.example")
    with guest(Cluster(tmp_path, {}, []), tmp_path, print) as grounds:
        assert grounds.settings["HTTPS_PROXY"] == "http://proxy.example:3128"
        assert grounds.settings["NO_PROXY"] == "127.0.0.1,localhost,theirs.example"


def test_the_lines_to_type_lead_to_the_readers_context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.devnull)
    with guest(Cluster(tmp_path, {}, []), tmp_path, print) as grounds:
        assert grounds.typed("get", "worklease", "-w") == (
            f"kubectl --kubeconfig {tmp_path / 'theirs'} --context theirs --namespace {GUEST_NAMESPACE} "
            "get worklease -w"
        )
