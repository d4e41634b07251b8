"""An upgrade to a newer chart, and back: running leases and their pods are not interrupted."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from controlplane import ControlPlane, wait_for
from support.chart import CHART, NAMESPACE, RELEASE, Helm, HelmError, environment, pick, pod_spec
from support.installation import Installation
from support.judge import check_history, heartbeats
from support.operator import Leases
from support.simulator import Simulator, accepted

pytestmark = pytest.mark.journey

TTL = 90
CHECK = f"{RELEASE}-check"
LONGEST_GAP = 45.0  # seconds between two accepted beats across an upgrade, half of the TTL
CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/workleases.worklease.dev"


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator("--ttl", str(TTL)) as started:
        yield started


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """Return a chart like an earlier version: another version number, and a CRD without the newest column."""
    chart = Path(shutil.copytree(CHART, tmp_path / "older"))
    about = yaml.safe_load((chart / "Chart.yaml").read_text()) | {"version": "0.0.9", "appVersion": "0.0.9"}
    (chart / "Chart.yaml").write_text(yaml.safe_dump(about))
    resource = yaml.safe_load((chart / "files" / "workleases.yaml").read_text())
    resource["spec"]["versions"][0]["additionalPrinterColumns"].pop()
    (chart / "files" / "workleases.yaml").write_text(yaml.safe_dump(resource))
    return chart


@pytest.fixture
def by_helm_3(bare_control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    with Installation(bare_control_plane, tmp_path_factory.mktemp("helm"), helm="helm3") as prepared:
        yield prepared


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
        # As the kubelet ends the old pod; strategy Recreate starts the new pod after that.
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


def test_an_upgrade_that_could_not_start_touches_nothing(installation: Installation, simulator: Simulator) -> None:
    plane, values = installation.plane, {"config.apiURL": simulator.url}
    installation.install(values)
    before = installation.deployment()
    fails = {"controlplane.worklease.dev/exit-code": "1", "controlplane.worklease.dev/exit-after": "0s"}
    with pytest.raises(HelmError, match=r"pre-upgrade hooks? failed"):
        installation.install({"podAnnotations": fails, "config.logLevel": "debug"})
    assert before is not None
    assert (installation.deployment() or {})["spec"] == before["spec"]
    # What would be left behind is said, before anybody looks for it.
    narrowed = ("--dry-run=server", "--set=watchNamespaces={team-a,team-b}")
    said = installation.helm.run("upgrade", RELEASE, str(CHART), f"--namespace={NAMESPACE}", *narrowed)
    assert "does not watch the other namespaces any more" in said
    assert "worklease release-finalizers --namespace NAMESPACE" in said
    # What the hook's pod runs, with the hook's account.
    hook = [each for each in installation.helm.render(values) if each["metadata"]["name"].startswith(CHECK)]
    plane.kubectl("apply", "-f", "-", input=yaml.safe_dump_all(each for each in hook if each["kind"] != "Job"))
    account = plane.service_account_kubeconfig(NAMESPACE, CHECK)
    given = {"PATH": os.environ["PATH"], "KUBECONFIG": str(account), "NO_PROXY": "127.0.0.1"}
    job = pick(hook, "Job")

    def run(**changed: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "worklease", *pod_spec(job)["containers"][0]["args"]]
        environ = given | environment(job) | changed
        return subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=60)

    done = run()
    assert done.returncode == 0, done.stderr
    assert f"rights in all namespaces, and those for its checkpoint in {NAMESPACE}." in done.stdout
    assert f"The Work API at {simulator.url}/ answers." in done.stdout
    done = run(WORKLEASE_NAMESPACE="default")
    assert done.returncode == 1
    assert "the operator may not create configmaps in namespace default" in done.stderr
    plane.kubectl("delete", "-f", "-", "--ignore-not-found", input=yaml.safe_dump_all(hook))


def test_helm_3_goes_the_whole_way_and_helm_4_may_take_over(
    by_helm_3: Installation, older: Path, tmp_path: Path
) -> None:
    plane, helm = by_helm_3.plane, by_helm_3.helm
    assert helm.run("version", "--short").startswith("v3.")
    # The example's kind comes with the same release.
    by_helm_3.install({"simulator.enabled": True}, chart=older)
    example = ("-n", NAMESPACE, "get", "worklease", f"{RELEASE}-example", "-o", "jsonpath={.metadata.uid}")
    made, had = plane.kubectl(*example), columns(by_helm_3)
    assert image(by_helm_3).endswith(":0.0.9")
    assert "has been upgraded" in by_helm_3.install({"simulator.enabled": True})
    assert (image(by_helm_3)[-6:], columns(by_helm_3)) == (":0.1.0", had + 1)
    helm.run("rollback", RELEASE, "1", f"--namespace={NAMESPACE}", "--wait", "--timeout=120s")
    assert (image(by_helm_3)[-6:], columns(by_helm_3)) == (":0.0.9", had)
    successor = Helm(tmp_path, plane)
    successor.install(NAMESPACE, {"simulator.enabled": True}, "--wait", "--timeout=120s")
    assert (image(by_helm_3)[-6:], columns(by_helm_3)) == (":0.1.0", had + 1)
    assert f"[CustomResourceDefinition] {CRD.rpartition('/')[2]}" in by_helm_3.uninstall()
    kinds = "all,role,rolebinding,serviceaccount,clusterrole,clusterrolebinding,validatingadmissionpolicy"
    left = plane.kubectl("get", kinds, "-n", NAMESPACE, "-l", f"app.kubernetes.io/instance={RELEASE}", "-o", "name")
    assert left == ""
    assert plane.kubectl(*example) == made
