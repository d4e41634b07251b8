"""The control plane behaves like a cluster, and ends with its parent."""

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from controlplane import ControlPlane, OwnControlPlane, StartError, wait_for
from controlplane.own import COMPONENTS
from controlplane.ports import LOOPBACK, free_port
from support.processes import is_alive, python_environment

ANNOTATION = "controlplane.worklease.dev"


def pod(name: str, **annotations: str) -> str:
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "annotations": {f"{ANNOTATION}/{key.replace('_', '-')}": value for key, value in annotations.items()},
            },
            "spec": {"containers": [{"name": "sandbox", "image": "sandbox"}]},
        }
    )


def read(plane: ControlPlane, namespace: str, name: str) -> Any:
    return json.loads(plane.kubectl("get", "pod", name, "-n", namespace, "-o", "json"))


def create(plane: ControlPlane, namespace: str, manifest: str) -> None:
    plane.kubectl("create", "-n", namespace, "-f", "-", input=manifest)


def until(plane: ControlPlane, namespace: str, condition: str, target: str) -> None:
    plane.kubectl("wait", "-n", namespace, f"--for={condition}", "--timeout=30s", target)


def test_a_pod_runs_on_a_node_and_becomes_ready(control_plane: ControlPlane, namespace: str) -> None:
    create(control_plane, namespace, pod("sandbox"))
    until(control_plane, namespace, "condition=Ready", "pod/sandbox")
    found = read(control_plane, namespace, "sandbox")
    assert found["status"]["phase"] == "Running"
    assert found["spec"]["nodeName"].startswith("node-")


def test_a_deleted_pod_is_gone_at_once(control_plane: ControlPlane, namespace: str) -> None:
    create(control_plane, namespace, pod("sandbox"))
    until(control_plane, namespace, "condition=Ready", "pod/sandbox")
    started = time.monotonic()
    control_plane.kubectl("delete", "pod", "sandbox", "-n", namespace, "--timeout=30s")
    assert time.monotonic() - started < 10
    assert "NotFound" in control_plane.kubectl("get", "pod", "sandbox", "-n", namespace, check=False)


def test_a_stubborn_pod_uses_up_its_grace_and_no_more(control_plane: ControlPlane, namespace: str) -> None:
    create(control_plane, namespace, pod("sandbox", termination="Stubborn"))
    until(control_plane, namespace, "condition=Ready", "pod/sandbox")
    started = time.monotonic()
    control_plane.kubectl("delete", "pod", "sandbox", "-n", namespace, "--grace-period=4", "--timeout=30s")
    assert 2.5 <= time.monotonic() - started < 14  # the timestamp has a resolution of one second


def test_a_pod_on_a_node_that_does_not_answer_stays(control_plane: ControlPlane, namespace: str) -> None:
    create(control_plane, namespace, pod("sandbox", termination="Never"))
    until(control_plane, namespace, "condition=Ready", "pod/sandbox")
    answer = control_plane.kubectl(
        "delete", "pod", "sandbox", "-n", namespace, "--grace-period=1", "--timeout=3s", check=False
    )
    assert "timed out" in answer
    assert read(control_plane, namespace, "sandbox")["metadata"]["deletionTimestamp"]
    control_plane.kubectl("delete", "pod", "sandbox", "-n", namespace, "--grace-period=0", "--force")


def test_a_jobs_pod_completes(control_plane: ControlPlane, namespace: str) -> None:
    control_plane.kubectl("create", "job", "work", "--image=sandbox", "-n", namespace)
    until(control_plane, namespace, "condition=Complete", "job/work")
    pods = json.loads(control_plane.kubectl("get", "pods", "-n", namespace, "-o", "json"))["items"]
    assert [each["status"]["phase"] for each in pods] == ["Succeeded"]


def test_a_pod_can_be_made_to_fail_as_by_an_oom_kill(control_plane: ControlPlane, namespace: str) -> None:
    create(control_plane, namespace, pod("sandbox"))
    until(control_plane, namespace, "condition=Ready", "pod/sandbox")
    reason, code = f"{ANNOTATION}/exit-reason=OOMKilled", f"{ANNOTATION}/exit-code=137"
    control_plane.kubectl("annotate", "pod", "sandbox", "-n", namespace, reason, code)
    until(control_plane, namespace, "jsonpath={.status.phase}=Failed", "pod/sandbox")
    status = read(control_plane, namespace, "sandbox")["status"]
    ended = status["containerStatuses"][0]["state"]["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (137, "OOMKilled")
    ready = {each["type"]: each["status"] for each in status["conditions"]}
    assert ready["Ready"] == "False"


def test_a_pod_can_be_made_to_end_later_or_by_eviction(control_plane: ControlPlane, namespace: str) -> None:
    create(control_plane, namespace, pod("later", exit_code="0", exit_after="2s"))
    create(control_plane, namespace, pod("evicted", exit_code="143", status_reason="Evicted"))
    until(control_plane, namespace, "jsonpath={.status.phase}=Failed", "pod/evicted")
    assert read(control_plane, namespace, "evicted")["status"]["reason"] == "Evicted"
    until(control_plane, namespace, "jsonpath={.status.phase}=Succeeded", "pod/later")


def test_an_unprivileged_service_account_is_refused(control_plane: ControlPlane, namespace: str) -> None:
    config = control_plane.service_account_kubeconfig(namespace, "default")
    answer = control_plane.kubectl(f"--kubeconfig={config}", "get", "secrets", "-n", namespace, check=False)
    assert f"system:serviceaccount:{namespace}:default" in answer
    assert "forbidden" in answer


def test_a_service_account_can_do_what_its_role_grants(control_plane: ControlPlane, namespace: str) -> None:
    control_plane.kubectl("create", "role", "reader", "--verb=list", "--resource=secrets", "-n", namespace)
    account = f"--serviceaccount={namespace}:default"
    control_plane.kubectl("create", "rolebinding", "reader", "--role=reader", account, "-n", namespace)
    config = control_plane.service_account_kubeconfig(namespace, "default")

    def listed() -> bool:  # the authorizer learns about a role from a watch
        answer = control_plane.kubectl(f"--kubeconfig={config}", "get", "secrets", "-n", namespace, check=False)
        return "No resources found" in answer

    wait_for(listed, seconds=10, what="the granted list")


def test_the_audit_log_tells_who_did_what(control_plane: ControlPlane, namespace: str) -> None:
    create(control_plane, namespace, pod("sandbox"))

    def recorded() -> list[Any]:
        events = [json.loads(line) for line in control_plane.audit_log.read_text().splitlines() if namespace in line]
        return [each for each in events if each["objectRef"].get("resource") == "pods" and each["verb"] == "create"]

    [event] = wait_for(recorded, seconds=10, what="the creation in the audit log")
    assert event["user"]["username"] == "controlplane:admin"


def test_its_certificate_passes_the_strict_checks_of_newer_pythons(control_plane: ControlPlane) -> None:
    context = ssl.create_default_context(cafile=str(control_plane.ca))
    context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    port = int(control_plane.url.rsplit(":", 1)[1])
    with socket.create_connection((LOOPBACK, port)) as raw, context.wrap_socket(raw, server_hostname=LOOPBACK) as safe:
        assert safe.version() == "TLSv1.3"


damaging = pytest.mark.xdist_group("a control plane of its own 2")


@pytest.fixture(scope="module")
def own_plane(control_plane: ControlPlane) -> Iterator[OwnControlPlane]:
    """A second control plane, which the tests may damage. It runs beside the test run's own."""
    with OwnControlPlane(nodes=1) as plane:
        assert plane.url != control_plane.url
        yield plane


@damaging
def test_an_api_server_outage_keeps_port_and_data(own_plane: OwnControlPlane) -> None:
    url = own_plane.url
    own_plane.kubectl("create", "configmap", "kept", "--from-literal=key=value")
    own_plane.stop("kube-apiserver")
    assert own_plane.get("/readyz") is None
    own_plane.start("kube-apiserver")
    assert own_plane.url == url
    assert own_plane.kubectl("get", "configmap", "kept", "-o", "jsonpath={.data.key}") == "value"


@damaging
def test_pods_run_again_after_a_crash_of_the_api_server(own_plane: OwnControlPlane) -> None:
    own_plane.kill("kube-apiserver")
    own_plane.start("kube-apiserver")
    own_plane.kubectl("create", "-f", "-", input=pod("after"))
    own_plane.kubectl("wait", "--for=condition=Ready", "--timeout=60s", "pod/after")
    assert set(own_plane.pids) == set(COMPONENTS)


@damaging
def test_a_hanging_api_server_answers_again_when_it_goes_on(own_plane: OwnControlPlane) -> None:
    own_plane.kill("kube-apiserver", signal.SIGSTOP)
    wait_for(lambda: own_plane.get("/readyz") is None, seconds=30, what="the end of the API server's answers")
    own_plane.kill("kube-apiserver", signal.SIGCONT)
    wait_for(lambda: own_plane.is_ready, seconds=30, what="the API server's answer")


def test_a_taken_port_is_given_up_for_another(control_plane: ControlPlane) -> None:
    taken = int(control_plane.url.rsplit(":", 1)[1])
    choices = iter([taken, free_port()])
    with OwnControlPlane(nodes=0, choose_port=lambda: next(choices)) as plane:
        assert plane.url != control_plane.url


def test_a_failed_start_says_which_part_and_shows_its_log(control_plane: ControlPlane, tmp_path: Path) -> None:
    broken = tmp_path / "etcd"
    broken.write_text("#!/bin/sh\necho 'disk is made of cheese'\nexit 3\n")
    broken.chmod(0o755)
    binaries = control_plane.binaries | {"etcd": broken}
    with pytest.raises(StartError, match=r"etcd ended with 3.*\n(.*\n)*.*disk is made of cheese"):
        OwnControlPlane(binaries=binaries).__enter__()


CHILD = """
import json, signal
from controlplane import OwnControlPlane
with OwnControlPlane(nodes=1) as plane:
    pids = plane.pids | {"reaper": plane.reaper_pid}
    print(json.dumps({"pids": pids, "directory": str(plane.directory)}), flush=True)
    signal.pause()
"""


def test_killing_the_parent_leaves_no_process_and_no_folder(control_plane: ControlPlane) -> None:
    assert control_plane.is_ready  # its binaries are built, so the child needs seconds, not minutes
    command = [sys.executable, "-c", CHILD]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=python_environment()) as child:  # our own
        assert child.stdout is not None
        told = json.loads(child.stdout.readline())
        assert set(told["pids"]) == {*COMPONENTS, "reaper"}
        assert all(map(is_alive, told["pids"].values()))
        child.kill()
    wait_for(lambda: not any(map(is_alive, told["pids"].values())), seconds=15, what="the end of all processes")
    wait_for(lambda: not Path(told["directory"]).exists(), seconds=5, what="the removal of the folder")


def test_killing_the_reaper_leaves_no_process(control_plane: ControlPlane) -> None:
    with OwnControlPlane(nodes=1, binaries=control_plane.binaries) as plane:
        pids = plane.pids.values()
        os.kill(plane.reaper_pid, signal.SIGKILL)
        wait_for(lambda: not any(map(is_alive, pids)), seconds=5, what="the end of all processes")
        with pytest.raises(StartError, match="is gone"):
            plane.stop("etcd")
    assert not plane.directory.exists()
