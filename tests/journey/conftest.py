from collections.abc import Iterator

import pytest

from controlplane import ControlPlane
from support.kube_proxy import KubeProxy
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
def proxy(control_plane: ControlPlane) -> Iterator[KubeProxy]:
    with KubeProxy(control_plane) as started:
        yield started


@pytest.fixture
def operator(
    request: pytest.FixtureRequest, control_plane: ControlPlane, namespace: str, simulator: Simulator
) -> Iterator[Operator]:
    """The operator for the test's namespace; it uses the proxy to the API server if the test asks for one."""
    is_proxied = "proxy" in request.fixturenames
    settings = {"KUBECONFIG": str(request.getfixturevalue("proxy").kubeconfig)} if is_proxied else {}
    settings["WORKLEASE_PROXY_IMAGE"] = "worklease-operator:tests"
    with Operator(control_plane, namespace, simulator.url, **settings) as started:
        yield started
