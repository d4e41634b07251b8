"""Every command and manifest of the documents, run as a reader would: page by page, from top to bottom.

Each page has a namespace, a simulator with its first items, and an operator of its own. A table lists the commands that
cannot be run here, with the reason. Every command is either run or in the table.
"""

import os
import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from controlplane import ControlPlane, ensure
from support.documents import PAGES, ROOT, Block, blocks, commands, name_of
from support.operator import Operator
from support.simulator import Simulator

SECONDS: Final = 200.0  # for all of a page's commands, each of which waits for a minute at most

NOT_RUN: Final[Mapping[str, str]] = {
    "make demo": "tests/journey/test_the_demo.py tells it whole",
    "make test": "it is what runs this",
    "make bench": "half an hour; its parts have tests of their own",
    "docker build -t registry.example.com/worklease-operator:0.1.0 .": "needs an engine; `make image` builds it",
    "docker push registry.example.com/worklease-operator:0.1.0": "as above",
    "docker build -t sandbox:1 examples/sandbox": "needs an engine; test_sandbox_program.py holds program and image",
    "docker build -t worker:1 examples/worker": "as above; tests/proxy/test_examples.py runs its program",
    "python3 -m venv worklease && . worklease/bin/activate": "the programs here are installed already, by make",
    "pip install --require-hashes -r requirements/runtime.txt": "as above",
    "pip install --no-deps .": "as above",
    "kubectl apply --server-side -f crds/": "the cluster has it, and others use it at the same time",
    "helm uninstall worklease-operator --namespace worklease-system": "tests/chart/test_uninstalling.py does it",
    "helm template worklease-operator charts/worklease-operator --namespace worklease-system --no-hooks "
    "--set uninstall.policy=Keep > /dev/null": "tests/chart renders all of it",
    "kubectl delete deployment worklease-operator --namespace worklease-system": "the next one of the page needs it",
    "worklease release-finalizers": "it would release the WorkLeases of other tests; tests/cluster/test_uninstall.py",
    "worklease release-finalizers --namespace team-b": "as above",
    "worklease check": "it calls the real Work API; tests/chart/test_upgrade.py runs it with a simulated one",
    "worklease simulate": "stays in the foreground: it is started before the page is run",
    "worklease run": "as above",
}
BEFORE: Final[Mapping[str, str]] = {
    "kubectl patch worklease lease-alone": "kubectl apply -f examples/lease.yaml",
}
"""What a command needs that its page does not create."""


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator(empty=False) as started:
        yield started


def shell_blocks(page: Path) -> list[Block]:
    return [block for block in blocks(page) if block.language == "sh"]


def manifests() -> list[Block]:
    """Return those of all pages but one, of whose kinds the API server knows nothing: that has tests of its own."""
    pages = [page for page in PAGES if page.name != "gitops.md"]  # tests/unit/documents/test_gitops.py
    return [block for page in pages for block in blocks(page) if block.language == "yaml"]


def is_left_out(command: str) -> bool:
    """Whether a command is in the table; for a target of make, its variables do not matter."""
    words = command.split()
    return command in NOT_RUN or (words[0] == "make" and " ".join(words[:2]) in NOT_RUN)


def runnable(page: Path) -> list[str]:
    """Return the commands of a page that are run, each after what it needs."""
    run: list[str] = []
    for command in (command for block in shell_blocks(page) for command in commands(block)):
        if not is_left_out(command):
            run += [given for begins, given in BEFORE.items() if command.startswith(begins)] + [command]
    return run


RUN: Final = [page for page in PAGES if runnable(page)]


def as_here(command: str, places: Mapping[str, str]) -> str:
    """Return a command with this machine's paths. helm only renders, because tests share the cluster.

    `tests/chart` tests the installation itself.
    """
    for written, place in places.items():
        command = command.replace(written, place)
    return re.sub(r"^helm (?:install|upgrade) (.*)", r"helm template \1 > /dev/null", command)


@pytest.fixture
def home(tmp_path: Path, control_plane: ControlPlane, namespace: str, simulator: Simulator) -> Path:
    """A reader's home: a kubeconfig for the namespace, key files, and the programs that the documents name."""
    config = yaml.safe_load(control_plane.kubeconfig.read_text())
    for context in config["contexts"]:
        context["context"]["namespace"] = namespace
    (tmp_path / ".kube").mkdir()
    (tmp_path / ".kube" / "config").write_text(yaml.safe_dump(config))
    (tmp_path / "key").write_text(simulator.environment_key)
    (tmp_path / "bin").mkdir()
    for name, binary in ensure(["helm", "kubectl"]).items():
        (tmp_path / "bin" / name).symlink_to(binary)
    return tmp_path


def run(script: str, home: Path) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WORKLEASE_", "KUBE", "HELM_"))}
    path = os.pathsep.join([str(home / "bin"), str(ROOT / ".venv" / "bin"), kept["PATH"]])
    return subprocess.run(
        ["/bin/bash", "-euxo", "pipefail", "-c", script],
        cwd=ROOT,
        env=kept | {"HOME": str(home), "PATH": path, "NO_PROXY": "127.0.0.1", "KUBERC": "off"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=SECONDS,
    )


@pytest.mark.parametrize("page", RUN, ids=name_of)
@pytest.mark.long(seconds=35)
def test_the_commands_of_a_page_do_what_they_should_from_top_to_bottom(
    page: Path, home: Path, control_plane: ControlPlane, namespace: str, simulator: Simulator
) -> None:
    places = {
        "http://127.0.0.1:8090": simulator.url,
        "http://127.0.0.1:8091": simulator.admin_url,
        "PATH/TO/KEYFILE": shlex.quote(str(home / "key")),
        "PATH/TO/TOKENFILE": shlex.quote(str(home / "token")),
        "SANDBOX_WORKDIR=.": f"SANDBOX_WORKDIR={shlex.quote(str(home))}",
    }
    with Operator(control_plane, namespace, simulator.url):
        done = run("\n".join(as_here(command, places) for command in runnable(page)), home)
        assert done.returncode == 0, done.stdout
    if page.name == "getting-started.md":
        events = simulator.events("sesn_demo")
        results = [event["content"][0]["text"] for event in events if event["type"] == "user.tool_result"]
        assert results == ["hello from the sandbox"]


def leaves(values: Any) -> Iterator[Any]:
    """Yield the leaves of nested values, without names and structure."""
    match values:
        case dict():
            yield from (leaf for each in values.values() for leaf in leaves(each))
        case list():
            yield from (leaf for each in values for leaf in leaves(each))
        case _:
            yield values


@pytest.mark.parametrize("block", manifests(), ids=str)
def test_a_manifest_is_taken_by_the_api_server_and_values_by_the_chart(block: Block, home: Path) -> None:
    if block.title == "values.yaml":
        (home / "values.yaml").write_text(block.text)
        chart = "charts/worklease-operator"
        done = run(f"helm template worklease-operator {chart} --values {shlex.quote(str(home / 'values.yaml'))}", home)
        unseen = [each for each in map(str, leaves(yaml.safe_load(block.text))) if each not in done.stdout]
        assert unseen == [], "the chart makes nothing of these"
    else:
        (home / "manifest.yaml").write_text(block.text)
        done = run(f"kubectl apply --dry-run=server -f {shlex.quote(str(home / 'manifest.yaml'))}", home)
        assert all(f"{each['kind'].lower()}" in done.stdout for each in yaml.safe_load_all(block.text))
    assert done.returncode == 0, done.stdout


def test_what_is_not_run_is_in_the_documents() -> None:
    told = {command for page in PAGES for block in shell_blocks(page) for command in commands(block)}
    assert [command for command in NOT_RUN if command not in told] == []
    assert [begins for begins in BEFORE if not any(command.startswith(begins) for command in told)] == []
