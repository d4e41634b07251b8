"""Fixtures for all tests: the control plane of the test run, a namespace in it, helm, and the simulator.

They must not use a cluster that the tests did not start.
"""

import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from controlplane import BinariesError, ControlPlane, OwnControlPlane, ensure
from controlplane.own import BINARIES
from support.chart import BINARIES as CHART_BINARIES
from support.chart import HELMS, Helm
from support.cluster import (
    ForeignClusterError,
    keep_away_from_other_clusters,
    make_namespace,
    refuse_existing_cluster,
    remove_namespace,
)
from support.costs import REPORTS, costs, report_this_process, table
from support.shared import shared_control_plane
from support.simulator import Simulator


def pytest_configure(config: pytest.Config) -> None:
    if REPORTS not in os.environ:  # the controller; its workers inherit it
        handle, path = tempfile.mkstemp(prefix="worklease-test-cpu-")
        os.close(handle)
        os.environ[REPORTS] = path
        config.add_cleanup(Path(path).unlink)
    try:
        refuse_existing_cluster()
    except ForeignClusterError as error:
        raise pytest.UsageError(str(error)) from error
    keep_away_from_other_clusters(os.environ)
    if threading.current_thread() is threading.main_thread():
        # A background process ignores SIGINT, and its children inherit that; but tests interrupt what they start.
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish() -> None:
    report_this_process()


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show where the processor time went; `--durations` shows what took longest."""
    terminalreporter.section("processor time")
    for line in table(costs(Path(os.environ[REPORTS]).read_text("utf-8"))):
        terminalreporter.line(line)


def _needs_cluster(item: pytest.Item) -> bool:
    return not {"control_plane", "bare_control_plane"}.isdisjoint(getattr(item, "fixturenames", ()))


def _needs_helm(item: pytest.Item) -> bool:
    return not {"helm", "each_helm", "bare_control_plane"}.isdisjoint(getattr(item, "fixturenames", ()))


@pytest.hookimpl(tryfirst=True)  # before -m selects by marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _needs_cluster(item):
            item.add_marker("cluster")
        if _needs_helm(item):
            item.add_marker("chart")


def pytest_collection_finish(session: pytest.Session) -> None:
    # Not in the fixture: there the first build would exceed the time limit of the first test.
    config = session.config
    needed = (BINARIES if any(map(_needs_cluster, session.items)) else ()) + (
        CHART_BINARIES if any(map(_needs_helm, session.items)) else ()
    )
    if config.option.collectonly or not needed:
        return
    capture = config.pluginmanager.getplugin("capturemanager")
    assert capture is not None
    try:
        with capture.global_and_fixture_disabled():
            ensure(needed)
    except BinariesError as error:
        pytest.exit(str(error), returncode=pytest.ExitCode.INTERNAL_ERROR)


@pytest.fixture(scope="session")
def control_plane(
    worker_id: str, pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> ControlPlane:
    """One control plane for the whole test run; each test uses a namespace of its own."""
    base = tmp_path_factory.getbasetemp()
    folder = base if worker_id == "master" else base.parent
    return shared_control_plane(folder, pytestconfig.add_cleanup)


@pytest.fixture(scope="module")
def bare_control_plane() -> Iterator[OwnControlPlane]:
    """A control plane without the WorkLease resource, for tests that install it."""
    with OwnControlPlane() as plane:
        yield plane


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    name = make_namespace(control_plane)
    yield name
    remove_namespace(control_plane, name)


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """helm without a cluster."""
    return Helm(tmp_path_factory.mktemp("helm"))


@pytest.fixture(scope="session", params=HELMS)
def each_helm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """helm without a cluster, in each supported version."""
    return Helm(tmp_path_factory.mktemp("helm"), binary=request.param)


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    """A simulated Work API for one test, as a process, without items."""
    with Simulator() as started:
        yield started
