from collections.abc import Iterator

import pytest

from controlplane import ControlPlane
from support.operator import Leases, Operator
from support.simulator import Simulator


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "journey" in item.path.parts:
            item.add_marker("journey")


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator("--ttl", "15") as started:
        yield started


@pytest.fixture
def leases(control_plane: ControlPlane, namespace: str, simulator: Simulator) -> Leases:
    return Leases(control_plane, namespace, simulator)


@pytest.fixture
def operator(control_plane: ControlPlane, namespace: str, simulator: Simulator) -> Iterator[Operator]:
    with Operator(control_plane, namespace, simulator.url) as started:
        yield started
