"""Fixtures for the tests on a real node: one node for the tests of a file, and the operator as a process."""

import os
from collections.abc import Callable, Iterator

import pytest

from node import NodeCluster
from node.needs import why_not
from support.cluster import install_custom_resources
from support.containers import Containers
from support.operator import Leases, Operator
from support.simulator import Simulator

TTL = "15"  # seconds: long beside the second that a container takes to start or to end


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = why_not()
    for item in items:
        if "node" in item.path.parts:
            item.add_marker("node")
            if reason:  # said at the end, and counted as not run
                item.add_marker(pytest.mark.skip(reason=reason))


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


TOLD: list[tuple[str, str]] = []


@pytest.fixture
def told(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Say a measured time in the table at the end of the run."""
    return lambda words: TOLD.append((request.node.name, words))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if TOLD:
        terminalreporter.section("as measured on the node")
    for name, words in TOLD:
        terminalreporter.line(f"{name}: {words}")
