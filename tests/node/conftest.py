"""Fixtures for the tests on a real node: one node for the tests of a file, and the operator as a process."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from image.building import ARCHIVE, REFERENCE
from node import NodeCluster
from node.trial import why_not_here
from support.cluster import install_custom_resources
from support.containers import Containers
from support.operator import Leases, Operator
from support.simulator import Simulator

FOLDER = Path(__file__).parent
REASON = "WORKLEASE_TESTS_NO_NODE"
"""The variable with the reason why no node runs here; empty if one does. Unset: not tried yet."""
NOT_RUN = "not run"
TOLD = "measured on the node"
TTL = "15"  # seconds: long beside the second that a container takes to start or to end


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Decide once for all workers whether this machine runs a node. Where none does, none of them starts."""
    if not config.option.collectonly and (reason := _reason()):
        config.option.numprocesses = None
        config.option.dist = "no"
        os.environ[REASON] = reason


def _reason() -> str:
    """Return why no node runs here; nothing if one does."""
    if REASON not in os.environ:
        os.environ[REASON] = why_not_here()
    return os.environ[REASON]


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Iterator[None]:
    for item in items:
        if FOLDER in item.path.parents:
            item.add_marker("node")
    yield  # -m selects by marker
    chosen = [item for item in items if FOLDER in item.path.parents]
    if chosen and not config.option.collectonly and _reason():
        if (reporter := config.pluginmanager.getplugin("terminalreporter")) is not None:
            items[:] = [item for item in items if item not in chosen]
            reporter.stats[NOT_RUN] = chosen  # the last line counts them
        for item in chosen:  # of a worker that this folder's command did not start
            item.add_marker(pytest.mark.skip(reason=_reason()))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and os.environ.get(REASON):
        session.exitstatus = pytest.ExitCode.OK


@pytest.fixture(scope="module")
def node_cluster() -> Iterator[NodeCluster]:
    with NodeCluster(f"worklease-node-{os.getpid()}") as started:
        install_custom_resources(started)
        yield started


@pytest.fixture(scope="module")
def control_plane(node_cluster: NodeCluster) -> NodeCluster:
    """The control plane of these tests is the one with the real node."""
    return node_cluster


@pytest.fixture(scope="module")
def containers(node_cluster: NodeCluster) -> Iterator[Containers]:
    with Containers(node_cluster) as looking:
        yield looking


@pytest.fixture(scope="module")
def operator_image(node_cluster: NodeCluster) -> str:
    """The operator's image, on the node."""
    if not ARCHIVE.exists():
        pytest.fail(f"there is no {ARCHIVE}: `make image` builds it", pytrace=False)
    node_cluster.load(ARCHIVE)
    return REFERENCE


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator("--ttl", TTL) as started:
        yield started


@pytest.fixture
def leases(node_cluster: NodeCluster, namespace: str, simulator: Simulator) -> Leases:
    return Leases(node_cluster, namespace, simulator)


@pytest.fixture
def operator(node_cluster: NodeCluster, namespace: str, simulator: Simulator) -> Iterator[Operator]:
    with Operator(node_cluster, namespace, simulator.url) as started:
        yield started


@pytest.fixture
def proxying_operator(
    node_cluster: NodeCluster, namespace: str, simulator: Simulator, operator_image: str
) -> Iterator[Operator]:
    """An operator that puts a proxy beside a worker that asks for one."""
    with Operator(node_cluster, namespace, simulator.url, WORKLEASE_PROXY_IMAGE=operator_image) as started:
        yield started


@pytest.fixture
def told(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Say a measured time in the table at the end of the run."""
    return lambda words: request.node.user_properties.append((TOLD, words))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not_run := terminalreporter.stats.get(NOT_RUN):
        terminalreporter.line(f"{len(not_run)} tests on a real node were not run. {os.environ[REASON]}")
    reports = (each for kind in ("passed", "failed") for each in terminalreporter.stats.get(kind, ()))
    lines = [
        f"{report.nodeid.rpartition('::')[2]}: {words}"
        for report in reports
        if report.when == "call"
        for name, words in report.user_properties
        if name == TOLD
    ]
    if lines:
        terminalreporter.section("as measured on the node")
    for line in sorted(lines):
        terminalreporter.line(line)
