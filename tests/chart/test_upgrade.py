"""A newer chart over an older one, and back: running leases and their pods go on."""

import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from controlplane import wait_for
from support.chart import CHART, NAMESPACE, RELEASE
from support.installation import Installation
from support.judge import check_history, heartbeats
from support.operator import Leases
from support.simulator import Simulator, accepted

pytestmark = pytest.mark.journey

TTL = 90
LONGEST_GAP = 45.0  # seconds between two accepted beats across an upgrade, half of the TTL
CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/workleases.worklease.dev"


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator("--ttl", str(TTL)) as started:
        yield started


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """The chart as an earlier version might have been: another version number, and a CRD without the newest column."""
    chart = Path(shutil.copytree(CHART, tmp_path / "older"))
    about = yaml.safe_load((chart / "Chart.yaml").read_text()) | {"version": "0.0.9", "appVersion": "0.0.9"}
    (chart / "Chart.yaml").write_text(yaml.safe_dump(about))
    resource = yaml.safe_load((chart / "files" / "workleases.yaml").read_text())
    resource["spec"]["versions"][0]["additionalPrinterColumns"].pop()
    (chart / "files" / "workleases.yaml").write_text(yaml.safe_dump(resource))
    return chart


def columns(installation: Installation) -> int:
    return len(installation.plane.get(CRD)["spec"]["versions"][0]["additionalPrinterColumns"])


def image(installation: Installation) -> str:
    deployment = installation.deployment()
    assert deployment is not None
    return str(deployment["spec"]["template"]["spec"]["containers"][0]["image"])


def test_an_upgrade_and_a_rollback_touch_no_running_lease(
    installation: Installation, simulator: Simulator, older: Path
) -> None:
    leases = Leases(installation.plane, installation.make_namespace("team-a"), simulator)
    values = {"config.apiURL": simulator.url}
    installation.install(values, chart=older)
    simulator.create_item("work_a")
    with installation.operator() as first:
        leases.create("work_a", pods=True)
        leases.await_condition("work_a", "SandboxReady", "True")
        before = (leases.pods()["pod-work-a"]["metadata"]["uid"], (leases.get("work_a") or {})["metadata"]["uid"])
        assert image(installation).endswith(":0.0.9")
        had = columns(installation)
        installation.install(values | {"config.maxHeartbeatInterval": 10})
        # As the kubelet does with the old pod; strategy Recreate starts the new one when it has ended.
        assert first.terminate() == 0
    assert columns(installation) == had + 1
    assert image(installation).endswith(":0.1.0")
    beaten = len(accepted(simulator, "work_a"))
    with installation.operator() as second:
        wait_for(lambda: len(accepted(simulator, "work_a")) >= beaten + 2, seconds=60, what="the new process's beats")
        installation.helm.run("rollback", RELEASE, "1", f"--namespace={NAMESPACE}", "--wait", "--timeout=120s")
        assert second.terminate() == 0
    assert image(installation).endswith(":0.0.9")
    beaten = len(accepted(simulator, "work_a"))
    with installation.operator():
        wait_for(lambda: len(accepted(simulator, "work_a")) > beaten, seconds=60, what="beats after the rollback")
        assert leases.condition("work_a", "LeaseHeld")[:2] == ("True", "Renewed")
    after = (leases.pods()["pod-work-a"]["metadata"]["uid"], (leases.get("work_a") or {})["metadata"]["uid"])
    assert after == before
    history = simulator.history()
    assert check_history(history) == []
    assert [entry for entry in heartbeats(history) if entry["status"] == 412] == []
    assert max(later - earlier for earlier, later in pairwise(accepted(simulator, "work_a"))) < LONGEST_GAP
    assert columns(installation) == had
