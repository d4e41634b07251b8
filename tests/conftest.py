"""Fixtures for all tests: the control plane of the test run, a namespace in it, helm, and the simulator.

They must not use a cluster that the tests did not start.
"""

import gc
import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from resource import RUSAGE_CHILDREN, RUSAGE_SELF

import pytest

from controlplane import BinariesError, ControlPlane, OwnControlPlane, ensure
from controlplane.own import BINARIES
from support.chart import BINARIES as CHART_BINARIES
from support.chart import HELMS, Helm
from support.cluster import (
    ForeignClusterError,
    keep_away_from_other_clusters,
    leave_namespace,
    make_namespace,
    refuse_existing_cluster,
)
from support.costs import REPORTS, costs, report_test, report_this_process, table, used_by
from support.shared import shared_control_plane
from support.simulator import Simulator

BARE_CONTROL_PLANES = 2
"""How many control planes without the WorkLease resource the tests share that install it."""
GROUP_SECONDS = 200
"""About how long the tests of one of them take together."""


def pytest_configure(config: pytest.Config) -> None:
    gc.disable()  # nearly all that a collection makes stays: looking for garbage meanwhile is half of its time
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
def pytest_sessionfinish(session: pytest.Session) -> None:
    report_this_process(is_worker=hasattr(session.config, "workerinput"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    return (yield from _priced(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    return (yield from _priced(item))


def _priced(item: pytest.Item) -> Iterator[None]:
    """Report what a phase of a test cost. The end of the last test is left out: the forks' own parent ends in it."""
    before = used_by(RUSAGE_SELF) + used_by(RUSAGE_CHILDREN)
    try:
        return (yield)
    finally:
        report_test(item.nodeid, used_by(RUSAGE_SELF) + used_by(RUSAGE_CHILDREN) - before)


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show where the processor time went; `--durations` shows what took longest."""
    terminalreporter.section("processor time")
    for line in table(*costs(Path(os.environ[REPORTS]).read_text("utf-8"))):
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
    _share_control_planes(items)
    items.sort(key=_positions(items).__getitem__)


def _share_control_planes(items: list[pytest.Item]) -> None:
    """Let tests that damage or fill a control plane of their own run in groups, one control plane for each group."""
    bare = [item for item in items if "bare_control_plane" in getattr(item, "fixturenames", ())]
    modules = sorted({item.path for item in bare})
    for item in bare:
        number = modules.index(item.path) % BARE_CONTROL_PLANES + 1
        item.add_marker(pytest.mark.xdist_group(f"bare control plane {number}"))
        item.add_marker(pytest.mark.long(seconds=GROUP_SECONDS))


def _check_groups(session: pytest.Session) -> None:
    """Refuse to run side by side if xdist does not see the groups: each worker would start what they are to share.

    xdist adds a group's name to the tests' ids, and deals them out by these.
    """
    grouped = [item.nodeid for item in session.items if item.get_closest_marker("xdist_group") is not None]
    if session.config.getoption("loadgroup", default=False) and not all("@" in nodeid for nodeid in grouped):
        raise pytest.UsageError("pytest-xdist does not see the groups of tests: its version does not fit pytest's")


def _positions(items: list[pytest.Item]) -> dict[pytest.Item, float]:
    """Return where each test comes in the order of the run.

    The longest begin first, so that none of them is the last. Then those that wait for processes and those that compute
    take turns: so the processors have work at any time, and never too much of it.
    """
    kinds: dict[bool, list[pytest.Item]] = {True: [], False: []}
    positions: dict[pytest.Item, float] = {}
    for item in items:
        if (long := item.get_closest_marker("long")) is not None:
            positions[item] = -float(long.kwargs["seconds"])
        else:
            kinds["journey" in item.path.parts or _needs_cluster(item)].append(item)
    for kind in kinds.values():
        positions |= {item: (place + 1) / len(kind) for place, item in enumerate(kind)}
    return positions


def pytest_collection_finish(session: pytest.Session) -> None:
    gc.enable()
    _check_groups(session)
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


@pytest.fixture(scope="session")
def bare_control_plane() -> Iterator[OwnControlPlane]:
    """A control plane without the WorkLease resource, for tests that install it: one for each group of them."""
    with OwnControlPlane() as plane:
        yield plane


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    name = make_namespace(control_plane)
    yield name
    leave_namespace(control_plane, name)


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
