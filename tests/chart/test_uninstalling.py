"""helm uninstall leaves no object stuck, and ends no running work silently."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import yaml

from controlplane import ControlPlane, wait_for
from support.chart import NAMESPACE, RELEASE, HelmError, environment, pick, pod_spec
from support.installation import LOCAL, Installation
from support.judge import check_history, heartbeats
from support.operator import Leases
from support.simulator import Simulator, accepted
from worklease.api.names import FINALIZER, TIMER_FINALIZER

pytestmark = pytest.mark.journey

HOOK = f"{RELEASE}-uninstall"
JOB = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs/{HOOK}"
CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/workleases.worklease.dev"
BOTH = {FINALIZER, TIMER_FINALIZER}


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    # Long, because a busy machine is slow; the operator beats often, so that no test waits for a beat.
    with Simulator("--ttl", "600") as started:
        yield started


@pytest.fixture
def leases(installation: Installation, simulator: Simulator) -> Leases:
    return Leases(installation.plane, installation.make_namespace("team-a"), simulator)


def finalizers(leases: Leases, work_id: str) -> set[str]:
    return set((leases.get(work_id) or {})["metadata"].get("finalizers", ()))


def run_hook(plane: ControlPlane, job: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """Run the program with the account of the hook's pod, as the pod would."""
    container = pod_spec(job)["containers"][0]
    account = plane.service_account_kubeconfig(NAMESPACE, pod_spec(job)["serviceAccountName"])
    given = {"PATH": os.environ["PATH"], "KUBECONFIG": str(account), "NO_PROXY": "127.0.0.1"}
    return subprocess.run(
        [sys.executable, "-m", "worklease", *container["args"]],
        env=given | environment(job) | {name: LOCAL[name] for name in ("WORKLEASE_LOG_FORMAT", "WORKLEASE_LOG_LEVEL")},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def held_lease(installation: Installation, leases: Leases, simulator: Simulator) -> None:
    """Start a held lease; at the end, end the operator's process as a deleted pod ends."""
    simulator.create_item("work_a")
    with installation.operator() as operator:
        leases.create("work_a", pods=True)
        leases.await_condition("work_a", "SandboxReady", "True")
        wait_for(lambda: finalizers(leases, "work_a") == BOTH, seconds=30, what="Kopf's finalizer beside the lease's")
        assert operator.terminate() == 0


def uninstall(installation: Installation) -> tuple[str, subprocess.CompletedProcess[str]]:
    """Uninstall, run the hook's program in place of its pod, and return what helm and the program printed."""
    plane = installation.plane
    with ThreadPoolExecutor(1) as pool:
        uninstalling = pool.submit(installation.uninstall)
        pods = f"/api/v1/namespaces/{NAMESPACE}/pods?labelSelector=app.kubernetes.io/component=uninstall"

        def running() -> list[str]:
            found = plane.get(pods)["items"]
            return [pod["metadata"]["name"] for pod in found if pod["status"].get("phase") == "Running"]

        wait_for(lambda: running() or uninstalling.done(), seconds=60, what="the hook's pod")
        if uninstalling.done():
            uninstalling.result()
        (pod,) = running()
        done = run_hook(plane, plane.get(JOB))
        phase = "Failed" if done.returncode else "Succeeded"
        patch = ("patch", "pod", pod, "--subresource=status", "-p", f'{{"status":{{"phase":"{phase}"}}}}')
        plane.kubectl("-n", NAMESPACE, *patch)
        return uninstalling.result(), done


def values(simulator: Simulator, **more: Any) -> dict[str, Any]:
    # The test ends the hook's pod: no container runs here, and kwok would complete the pod at once.
    until_told = {f"controlplane.worklease.dev/{name}": value for name, value in UNTIL_TOLD.items()}
    often = {"config.maxHeartbeatInterval": 2}
    return {"config.apiURL": simulator.url, "podAnnotations": until_told} | often | more


UNTIL_TOLD = {"exit-code": "0", "exit-after": "3600s"}


@pytest.mark.parametrize("scope", [[], ["team-a"]], ids=["everywhere", "one-namespace"])
def test_an_uninstallation_releases_the_finalizers_and_ends_no_running_work(
    installation: Installation, leases: Leases, simulator: Simulator, scope: list[str]
) -> None:
    plane = installation.plane
    said = installation.install(values(simulator, watchNamespaces=scope))
    assert "removes its finalizers from the WorkLeases" in " ".join(said.split())
    held_lease(installation, leases, simulator)
    helm_said, done = uninstall(installation)
    assert "uninstalled" in helm_said
    assert done.returncode == 0, done.stderr
    assert "team-a/work-a: finalizers removed; the lease of work_a expires at 20" in done.stdout
    assert finalizers(leases, "work_a") == set()
    assert list(leases.pods()) == ["pod-work-a"]
    assert simulator.item("work_a")["state"] == "active"
    assert plane.get(CRD) is not None
    kinds = "all,role,rolebinding,serviceaccount"
    left = plane.kubectl("get", kinds, "-n", NAMESPACE, "-o", "name").split()
    assert left == ["serviceaccount/default"]
    assert HOOK not in plane.kubectl("get", "clusterrole,clusterrolebinding", "-o", "name")
    assert HOOK not in plane.kubectl("get", "role,rolebinding", "-n", "team-a", "-o", "name")
    leases.delete("work_a", wait=True)
    assert leases.get("work_a") is None


def test_an_installation_soon_after_goes_on_with_what_was_left(
    installation: Installation, leases: Leases, simulator: Simulator
) -> None:
    installation.install(values(simulator))
    held_lease(installation, leases, simulator)
    uninstall(installation)
    installation.install(values(simulator))
    beaten = len(accepted(simulator, "work_a"))
    with installation.operator():
        wait_for(lambda: len(accepted(simulator, "work_a")) > beaten, seconds=60, what="beats of the new installation")
        wait_for(lambda: finalizers(leases, "work_a") == BOTH, seconds=30, what="the finalizers")
    assert list(leases.pods()) == ["pod-work-a"]
    assert check_history(simulator.history()) == []
    assert [entry["expected"] for entry in heartbeats(simulator.history())].count("NO_HEARTBEAT") == 1


def test_with_policy_keep_the_finalizers_wait_for_an_operator(
    installation: Installation, leases: Leases, simulator: Simulator
) -> None:
    said = installation.install(values(simulator) | {"uninstall.policy": "Keep"})
    assert "stays in Terminating" in " ".join(said.split())
    held_lease(installation, leases, simulator)
    installation.uninstall()
    assert finalizers(leases, "work_a") == BOTH
    installation.install(values(simulator))
    with installation.operator():
        leases.delete("work_a", wait=True)
    assert simulator.item("work_a")["state"] == "stopped"


def test_a_crd_that_is_not_kept_takes_its_workleases_along(
    installation: Installation, leases: Leases, simulator: Simulator
) -> None:
    installation.install(values(simulator) | {"crds.keep": False})
    held_lease(installation, leases, simulator)
    uninstall(installation)
    wait_for(lambda: installation.plane.get(CRD) is None, seconds=60, what="the end of the CRD")


def test_a_tool_that_applies_the_hook_as_an_ordinary_job_ends_nothing(
    installation: Installation, leases: Leases, simulator: Simulator
) -> None:
    plane, tool = installation.plane, {"uninstall.tool": "ArgoCD"}
    rendered = installation.helm.render(values(simulator))
    crds = [each for each in rendered if each["kind"] == "CustomResourceDefinition"]
    plane.kubectl("apply", "-f", "-", input=yaml.safe_dump_all(crds))
    named = [f"crd/{crd['metadata']['name']}" for crd in crds]
    plane.kubectl("wait", "--for=condition=Established", *named, "--timeout=60s")
    plane.kubectl("apply", "-f", "-", input=yaml.safe_dump_all(rendered))
    held_lease(installation, leases, simulator)
    done = run_hook(plane, plane.get(JOB))
    assert done.returncode == 1
    assert "meta.helm.sh/release-name: a tool that is not Helm has applied the uninstall hook" in done.stderr
    assert installation.deployment() is not None
    assert finalizers(leases, "work_a") == BOTH
    # What Argo CD runs before it deletes an Application does without the proof, and nobody else runs it.
    hook = pick(installation.helm.render(values(simulator) | tool), "Job", HOOK)
    assert hook["metadata"]["annotations"]["argocd.argoproj.io/hook"] == "PreDelete"
    assert "helm.sh/hook" not in hook["metadata"]["annotations"]
    done = run_hook(plane, hook)
    assert done.returncode == 0, done.stderr
    assert installation.deployment() is None
    assert finalizers(leases, "work_a") == set()
    plane.kubectl("delete", "--ignore-not-found", "--wait=false", "-f", "-", input=yaml.safe_dump_all(rendered))


def test_an_uninstallation_whose_hook_fails_removes_nothing(installation: Installation) -> None:
    fails = {"controlplane.worklease.dev/exit-code": "1", "controlplane.worklease.dev/exit-after": "0s"}
    installation.helm.install(NAMESPACE, {"podAnnotations": fails})
    with pytest.raises(HelmError, match=f"{HOOK}.*(failed|BackoffLimitExceeded)"):
        installation.uninstall()
    assert installation.deployment() is not None
    # The hook's Job stays, with its logs.
    assert installation.plane.get(JOB) is not None
    assert "uninstalled" in installation.uninstall("--no-hooks")
