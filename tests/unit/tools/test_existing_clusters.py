"""The user's own cluster: the demo asks before it uses it, and tests refuse it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from controlplane import ExistingClusterError, existing_cluster
from support.cluster import ForeignClusterError, keep_away_from_other_clusters, refuse_existing_cluster
from support.processes import ROOT, python_environment

VIEW = {
    "current-context": "team",
    "contexts": [
        {"name": "other", "context": {"cluster": "far", "user": "me"}},
        {"name": "team", "context": {"cluster": "near", "user": "me"}},
    ],
    "clusters": [
        {"name": "far", "cluster": {"server": "https://far.example:6443"}},
        {"name": "near", "cluster": {"server": "https://near.example:6443"}},
    ],
}


class Questions:
    """A user with one answer, who remembers the questions."""

    def __init__(self, *, answer: bool) -> None:
        self.asked: list[str] = []
        self._answer = answer

    def __call__(self, question: str) -> bool:
        self.asked.append(question)
        return self._answer


@pytest.fixture
def kubectl(tmp_path: Path) -> Path:
    """A kubectl that prints the view, and for any other command its own arguments."""
    (tmp_path / "view.json").write_text(json.dumps(VIEW))
    path = tmp_path / "kubectl"
    view = tmp_path / "view.json"
    path.write_text(f'#!/bin/sh\ncase "$*" in *"config view"*) cat {view} ;; *) echo "$*" ;; esac\n')
    path.chmod(0o755)
    return path


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    path = tmp_path / "config"
    path.write_text("{}")
    return {"USE_EXISTING_CLUSTER": "1", "KUBECONFIG": str(path)}


@pytest.mark.parametrize("value", ["", "0", "false", "no"])
def test_nothing_is_asked_when_no_existing_cluster_is_wanted(value: str) -> None:
    user = Questions(answer=True)
    assert existing_cluster(user, environ={"USE_EXISTING_CLUSTER": value, "KUBECONFIG": "/x"}) is None
    assert user.asked == []


def test_the_question_names_context_and_server(kubectl: Path, environ: dict[str, str]) -> None:
    user = Questions(answer=True)
    found = existing_cluster(user, environ=environ, kubectl=kubectl)
    assert found is not None
    assert (found.context, found.url) == ("team", "https://near.example:6443")
    assert len(user.asked) == 1
    assert "'team'" in user.asked[0]
    assert "https://near.example:6443" in user.asked[0]


def test_every_call_names_the_file_and_the_context(kubectl: Path, environ: dict[str, str]) -> None:
    found = existing_cluster(Questions(answer=True), environ=environ, kubectl=kubectl)
    assert found is not None
    assert found.kubectl("get", "pods") == f"--kubeconfig={environ['KUBECONFIG']} --context=team get pods\n"


def test_a_no_leaves_the_cluster_alone(kubectl: Path, environ: dict[str, str]) -> None:
    with pytest.raises(ExistingClusterError, match="was not touched"):
        existing_cluster(Questions(answer=False), environ=environ, kubectl=kubectl)


def test_a_missing_kubeconfig_is_said(kubectl: Path) -> None:
    user = Questions(answer=True)
    with pytest.raises(ExistingClusterError, match="KUBECONFIG is not"):
        existing_cluster(user, environ={"USE_EXISTING_CLUSTER": "1"}, kubectl=kubectl)
    several = {"USE_EXISTING_CLUSTER": "1", "KUBECONFIG": "/a:/b"}
    with pytest.raises(ExistingClusterError, match="must name one file"):
        existing_cluster(user, environ=several, kubectl=kubectl)
    assert user.asked == []


def test_a_kubeconfig_without_a_current_context_is_said(kubectl: Path, environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "view.json").write_text(json.dumps(VIEW | {"current-context": ""}))
    with pytest.raises(ExistingClusterError, match="no current context"):
        existing_cluster(Questions(answer=True), environ=environ, kubectl=kubectl)


def test_tests_refuse_an_existing_cluster() -> None:
    with pytest.raises(ForeignClusterError, match="Unset USE_EXISTING_CLUSTER"):
        refuse_existing_cluster({"USE_EXISTING_CLUSTER": "1"})
    refuse_existing_cluster({})


def test_pytest_stops_when_told_to_use_an_existing_cluster() -> None:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", __file__]
    environment = python_environment(USE_EXISTING_CLUSTER="1")
    done = subprocess.run(  # our own tests
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "run only on a control plane that they start themselves" in done.stderr


def test_client_libraries_find_no_other_cluster_in_tests() -> None:
    environ = {"KUBECONFIG": "/home/user/.kube/config", "KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    keep_away_from_other_clusters(environ)
    assert environ == {"KUBECONFIG": os.devnull}
    assert os.environ["KUBECONFIG"] == os.devnull
