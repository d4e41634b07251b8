"""The program's command line: what a process prints, and how mistakes of usage are told."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from worklease.command_line import main


def usage(*arguments: str) -> Result:
    """Run a command that ends before it has settings to read."""
    return CliRunner(env={"KUBECONFIG": os.devnull}).invoke(main, arguments)


def worklease(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    # An empty home and no kubeconfig: the process finds no settings of this machine.
    kept = {"PATH": os.environ["PATH"], "KUBECONFIG": os.devnull, "HOME": "/nonexistent"}
    return subprocess.run(
        [sys.executable, "-m", "worklease", *arguments],
        env=kept | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_the_version_is_the_packages() -> None:
    done = worklease("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert version("worklease") in done.stdout


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_names_the_commands(option: str) -> None:
    done = usage(option)
    assert done.exit_code == 0
    assert all(command in done.stdout for command in ("run", "check", "simulate", "release-finalizers"))


@pytest.mark.parametrize("command", ["run", "check", "simulate", "release-finalizers"])
def test_every_command_has_its_help(command: str) -> None:
    done = usage(command, "--help")
    assert done.exit_code == 0
    assert len(done.stdout.splitlines()) > 3


def test_the_installed_program_is_the_same() -> None:
    program = Path(sys.executable).with_name("worklease")
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0
    assert version("worklease") in done.stdout


@pytest.mark.parametrize(
    ("name", "value", "part"),
    [
        ("WORKLEASE_API_URL", "nowhere", "WORKLEASE_API_URL: "),
        ("WORKLEASE_MAX_HEARTBEAT_INTERVAL", "soon", "WORKLEASE_MAX_HEARTBEAT_INTERVAL: "),
        ("WORKLEASE_API_URI", "https://127.0.0.1", "did you mean WORKLEASE_API_URL?"),
    ],
)
def test_a_wrong_setting_ends_the_operator_with_one_line(name: str, value: str, part: str) -> None:
    done = worklease("run", **{name: value})
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("Error: ")
    assert part in done.stderr


def test_no_cluster_ends_the_operator_with_one_line() -> None:
    done = worklease("run")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "no Kubernetes credentials" in done.stderr


def test_a_check_says_all_that_is_missing_and_fails() -> None:
    done = worklease("check", WORKLEASE_API_URL="http://127.0.0.1:9", WORKLEASE_LOG_LEVEL="info")
    assert (done.returncode, done.stdout) == (1, "The settings are valid.\n")
    assert "no Kubernetes credentials" in done.stderr
    assert "the Work API at http://127.0.0.1:9 cannot be reached" in done.stderr
    done = worklease("check", WORKLEASE_API_URL="nowhere")
    assert (done.returncode, done.stdout) == (1, "")
    assert "WORKLEASE_API_URL: " in done.stderr


def test_finalizers_of_a_namespace_are_not_released_together_with_the_whole_operator() -> None:
    done = usage("release-finalizers", "--deployment", "a/b", "--namespace", "c")
    assert done.exit_code == 2
    assert "--namespace must not be added" in done.stderr


def test_an_unknown_command_is_a_mistake_of_usage() -> None:
    done = worklease("rnu")
    assert done.returncode == 2
    assert "rnu" in done.stderr


@pytest.mark.parametrize("name", ["operator", "/operator", "a/", "a/b/c"])
def test_a_deployment_is_named_with_its_namespace(name: str) -> None:
    done = usage("release-finalizers", "--deployment", name)
    assert done.exit_code == 2
    assert "write namespace/name" in done.stderr
