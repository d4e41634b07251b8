"""The chart installed on a real control plane: the operator does its job with the chart's rights."""

import json
import signal
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from controlplane import ControlPlane, OwnControlPlane, wait_for
from support.chart import NAMESPACE, RELEASE, HelmError
from support.installation import CRD, Installation
from support.judge import check_history
from support.operator import RESTARTED, Leases
from support.simulator import Simulator, accepted
from worklease.api.names import GROUP

pytestmark = pytest.mark.journey

OPERATOR = f"system:serviceaccount:{NAMESPACE}:{RELEASE}"


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator("--ttl", "15") as started:
        yield started


def can(plane: ControlPlane, who: str, verb: str, resource: str, namespace: str | None = None) -> bool:
    """Whether the API server allows it; a resource is `kind`, `kind/name` or `kind:subresource`."""
    kind, _, subresource = resource.partition(":")
    where = f"--namespace={namespace}" if namespace else "--all-namespaces"
    more = [f"--subresource={subresource}"] if subresource else []
    return plane.kubectl("auth", "can-i", verb, kind, where, f"--as={who}", *more, check=False).startswith("yes")


def do_the_main_job(leases: Leases, simulator: Simulator, item: str) -> None:
    """Claim, renew, see the sandbox and stop, as a user does."""
    simulator.create_item(item)
    leases.create(item, pods=True)
    leases.await_condition(item, "SandboxReady", "True")
    wait_for(lambda: len(accepted(simulator, item)) >= 2, seconds=30, what="renewals")
    simulator.stop_item(item)
    leases.await_condition(item, "Finished", "True", "Stopped")
    assert leases.pods() == {}


def test_the_main_job_is_done_with_the_charts_own_account_in_all_namespaces(
    installation: Installation, simulator: Simulator
) -> None:
    said = installation.install({"config.apiURL": simulator.url})
    assert "kubectl --namespace YOUR_NAMESPACE create secret generic worklease-credentials" in said
    team = installation.make_namespace("team-a")
    with installation.operator():
        do_the_main_job(Leases(installation.plane, team, simulator), simulator, "work_a")
    assert check_history(simulator.history()) == []


def test_a_namespaced_installation_sees_no_other_namespace(installation: Installation, simulator: Simulator) -> None:
    for name in ("team-a", "team-b"):
        installation.make_namespace(name)
    installation.install({"config.apiURL": simulator.url, "watchNamespaces": ["team-a"]})
    simulator.create_item("work_b")
    unseen = Leases(installation.plane, "team-b", simulator)
    with installation.operator() as operator:
        unseen.create("work_b", pods=True)
        do_the_main_job(Leases(installation.plane, "team-a", simulator), simulator, "work_a")
        assert unseen.status("work_b") == {}
        assert (unseen.get("work_b") or {})["metadata"].get("finalizers") is None
        assert simulator.history("work_b")[-1]["event"] != "request"
        assert "team-b" not in operator.log()
    refused = [entry for entry in installation.audit(RELEASE) if entry["responseStatus"]["code"] == 403]
    assert refused == []


def test_what_is_outside_of_its_rights_is_refused(installation: Installation) -> None:
    for name in ("team-a", "team-b"):
        installation.make_namespace(name)
    installation.install({"watchNamespaces": ["team-a"]})
    plane = installation.plane
    assert can(plane, OPERATOR, "delete", "pods", "team-a")
    assert can(plane, OPERATOR, "get", "secrets/worklease-credentials", "team-a")
    refused = [
        ("list", "pods", "team-b"),
        ("delete", "pods", "team-b"),
        ("get", "workleases.worklease.dev", "team-b"),
        ("list", "pods", None),
        ("update", "pods", "team-a"),
        ("create", "pods:exec", "team-a"),
        ("list", "secrets", "team-a"),
        ("watch", "secrets", "team-a"),
        ("get", "secrets/another", "team-a"),
        ("get", "secrets/worklease-credentials", "team-b"),
        ("create", "workleases.worklease.dev", "team-a"),
        ("get", "configmaps/another", NAMESPACE),
        ("list", "configmaps", "team-a"),
        ("delete", "configmaps", NAMESPACE),
        ("get", "leases.coordination.k8s.io", "team-a"),
        ("get", "secrets", NAMESPACE),
        ("get", "deployments.apps", NAMESPACE),
        ("patch", "customresourcedefinitions.apiextensions.k8s.io/workleases.worklease.dev", None),
        ("get", "nodes", None),
    ]
    assert [each for each in refused if can(plane, OPERATOR, *each)] == []


def test_a_tenants_secrets_are_read_in_its_namespace_only(installation: Installation) -> None:
    for name in ("team-a", "team-b"):
        installation.make_namespace(name)
    plane = installation.plane
    named = {"namespace": "team-a", "secretNames": ["key-of-a"]}
    installation.install({"credentials.tenants": [named, {"namespace": "team-b", "secretNames": ["*"]}]})
    assert can(plane, OPERATOR, "get", "secrets/key-of-a", "team-a")
    assert can(plane, OPERATOR, "get", "secrets/key-of-an-item", "team-b")
    refused = [
        ("get", "secrets/another", "team-a"),
        ("get", "secrets/key-of-a", NAMESPACE),
        ("list", "secrets", "team-a"),
        ("list", "secrets", "team-b"),
        ("watch", "secrets", "team-b"),
        ("patch", "secrets/key-of-an-item", "team-b"),
    ]
    assert [each for each in refused if can(plane, OPERATOR, *each)] == []
    account = plane.service_account_kubeconfig(NAMESPACE, RELEASE)
    for secret in ("key-of-a", "another"):
        plane.kubectl("-n", "team-a", "create", "secret", "generic", secret, "--from-literal=environment-key=key")
    read = ("--kubeconfig", str(account), "-n", "team-a", "get", "secret", "-o", "name")
    assert plane.kubectl(*read, "key-of-a").strip() == "secret/key-of-a"
    assert f'User "{OPERATOR}" cannot get' in plane.kubectl(*read, "another", check=False)


def test_what_it_tries_all_the_same_is_refused_by_the_api_server(installation: Installation) -> None:
    for name in ("team-a", "team-b"):
        installation.make_namespace(name)
    installation.install({"watchNamespaces": ["team-a"]})
    plane = installation.plane
    account = plane.service_account_kubeconfig(NAMESPACE, RELEASE)
    tries = [
        ("get", "pods", "--namespace=team-b"),
        ("delete", "pods", "--all", "--namespace=team-b"),
        ("get", "secrets", "--namespace=team-a"),
        ("get", "secrets", "--namespace", NAMESPACE),
        ("get", "worklease", "--all-namespaces"),
        ("label", "crd", "workleases.worklease.dev", "mine=yes"),
    ]
    for each in tries:
        said = plane.kubectl(f"--kubeconfig={account}", *each, check=False)
        assert f'User "{OPERATOR}" cannot' in said, each
    assert "No resources found" in plane.kubectl(f"--kubeconfig={account}", "get", "pods", "-n", "team-a", check=False)


def test_editors_and_viewers_of_a_namespace_are_so_of_its_workleases(installation: Installation) -> None:
    team = installation.make_namespace("team-a")
    installation.install()
    for role in ("edit", "view", "admin"):
        installation.plane.kubectl(
            "-n", team, "create", "rolebinding", role, f"--clusterrole={role}", f"--user={role}er"
        )
    resource = f"workleases.{GROUP}"
    wait_for(lambda: can(installation.plane, "editer", "create", resource, team), seconds=30, what="aggregation")
    wait_for(lambda: can(installation.plane, "viewer", "get", resource, team), seconds=30, what="aggregation")
    wait_for(lambda: can(installation.plane, "adminer", "delete", resource, team), seconds=30, what="aggregation")
    assert can(installation.plane, "editer", "deletecollection", resource, team)
    assert not can(installation.plane, "viewer", "patch", resource, team)
    assert not can(installation.plane, "editer", "patch", f"{resource}:status", team)


def test_the_pod_is_admitted_where_pod_security_is_restricted(installation: Installation) -> None:
    installation.install({"simulator.enabled": True})
    pods = installation.plane.get(f"/api/v1/namespaces/{NAMESPACE}/pods")["items"]
    assert {pod["metadata"]["labels"]["app.kubernetes.io/component"] for pod in pods} == {"operator", "simulator"}
    # The namespace does refuse pods that are not restricted.
    said = installation.plane.kubectl("-n", NAMESPACE, "run", "loose", "--image=busybox", check=False)
    assert 'violates PodSecurity "restricted' in said


def test_the_simulators_example_works_at_once(installation: Installation) -> None:
    # Without --wait: users need not know that the CRD and the example come with the same release.
    said = installation.helm.install(NAMESPACE, {"simulator.enabled": True})
    assert f"port-forward service/{RELEASE}-simulator 8091" in said
    options = installation.deployment(f"{RELEASE}-simulator")
    assert options is not None
    container = options["spec"]["template"]["spec"]["containers"][0]
    key = installation.plane.kubectl(
        *("-n", NAMESPACE, "get", "secret", container["env"][0]["valueFrom"]["secretKeyRef"]["name"]),
        *("-o", 'go-template={{index .data "environment-key" | base64decode}}'),
    )
    arguments = [each.replace("$(ENVIRONMENT_KEY)", key) for each in container["args"]]
    assert arguments.pop(0) == "simulate"
    asked = [each for each in arguments if not each.startswith(("--listen", "--admin"))]
    with Simulator(*asked, empty=False) as simulator:
        with installation.operator(api_url=simulator.url):
            held = ("wait", "--for=condition=LeaseHeld", f"worklease/{RELEASE}-example", "--timeout=60s")
            installation.plane.kubectl("-n", NAMESPACE, *held)
        assert len(accepted(simulator, "work_demo1")) >= 1


def test_the_operators_calls_have_a_place_of_their_own_in_the_servers_queues(installation: Installation) -> None:
    installation.install({"flowControl.enabled": True})
    plane = installation.plane
    schema = plane.get(f"/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas/{RELEASE}")
    token = plane.kubectl("-n", NAMESPACE, "create", "token", RELEASE).strip()

    trusted = ssl.create_default_context(cafile=str(plane.ca))

    def placed() -> bool:
        url = f"{plane.url}/apis/worklease.dev/v1alpha1/workleases"
        answer = httpx.get(url, headers={"Authorization": f"Bearer {token}"}, verify=trusted, trust_env=False)
        return answer.headers["X-Kubernetes-PF-FlowSchema-UID"] == str(schema["metadata"]["uid"])

    wait_for(placed, seconds=30, what="the FlowSchema to be in force")


def test_a_second_installation_under_the_same_names_is_refused(installation: Installation) -> None:
    installation.install()
    other = installation.make_namespace("another-system")
    with pytest.raises(HelmError, match="invalid ownership metadata"):
        installation.helm.install(other)


def test_a_kept_crd_goes_to_an_installation_elsewhere_when_that_is_said(installation: Installation) -> None:
    installation.install()
    installation.uninstall()
    elsewhere = installation.make_namespace("another-system")
    with pytest.raises(HelmError, match=f"{CRD}.*invalid ownership metadata"):
        installation.helm.install(elsewhere)
    installation.helm.install(elsewhere, None, "--take-ownership")
    crd = installation.plane.get(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{CRD}")
    assert crd["metadata"]["annotations"]["meta.helm.sh/release-namespace"] == elsewhere
    installation.helm.run("uninstall", RELEASE, "--namespace", elsewhere, "--no-hooks")


@pytest.fixture
def fragile(control_plane: ControlPlane, tmp_path: Path) -> Iterator[OwnControlPlane]:
    """An installation on a control plane of the test's own, whose nodes the test may stop."""
    binaries = control_plane.binaries
    with OwnControlPlane(binaries=binaries) as plane, Installation(plane, tmp_path) as prepared:
        prepared.install()
        yield plane


@pytest.mark.usefixtures("helm")  # as for all tests that install the chart
def test_a_lost_node_is_left_after_15_seconds(fragile: OwnControlPlane) -> None:
    def pods() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = fragile.get(f"/api/v1/namespaces/{NAMESPACE}/pods")["items"]
        return found

    first = pods()
    pod, lost = first[0], first[0]["spec"]["nodeName"]
    known = {each["metadata"]["name"] for each in first}

    def replaced() -> bool:
        others = (each for each in pods() if each["metadata"]["name"] not in known)
        return any(each["spec"].get("nodeName", lost) != lost for each in others)

    # No kubelet runs meanwhile, so the controllers treat the node as unreachable.
    fragile.kill("kwok", signal.SIGSTOP)
    try:
        silent = {"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown"}
        patch = json.dumps({"status": {"conditions": [silent]}})
        fragile.kubectl("patch", "node", lost, "--subresource=status", "--type=strategic", "-p", patch)
        # The cluster's default would be 300 seconds.
        wait_for(replaced, seconds=60, what="an operator on another node")
    finally:
        fragile.kill("kwok", signal.SIGCONT)
    gone = f"/api/v1/namespaces/{NAMESPACE}/pods/{pod['metadata']['name']}"
    wait_for(lambda: fragile.get(gone) is None, seconds=60, what="the end of the lost one")


def test_a_deleted_namespace_keeps_no_lease_of_the_others_and_is_taken_up_when_it_is_back(
    installation: Installation, simulator: Simulator
) -> None:
    plane, values = installation.plane, {"config.apiURL": simulator.url, "watchNamespaces": ["team-a", "team-b"]}
    for name in ("team-a", "team-b"):
        installation.make_namespace(name)
    installation.install(values)
    leases = Leases(plane, "team-a", simulator)
    for item in ("work_a", "work_b"):
        simulator.create_item(item)
    with installation.operator() as operator:
        leases.create("work_a", ttlSeconds=RESTARTED)
        leases.await_condition("work_a", "LeaseHeld", "True")
        plane.kubectl("delete", "namespace", "team-b", "--timeout=60s")
        operator.kill()
        operator.start()
        assert "namespace team-b is left out" in operator.log()
        beaten = len(accepted(simulator, "work_a"))
        wait_for(lambda: len(accepted(simulator, "work_a")) > beaten, seconds=30, what="a beat of the new process")
        ready = f"http://{operator.address}/readyz"
        wait_for(lambda: httpx.get(ready, trust_env=False).is_success, seconds=30, what="a process that is ready")
        installation.make_namespace("team-b")
        installation.install(values)
        other = Leases(plane, "team-b", simulator)
        other.create("work_b")
        other.await_condition("work_b", "LeaseHeld", "True")


def test_without_its_rights_the_operator_says_what_is_missing(installation: Installation, simulator: Simulator) -> None:
    installation.install({"config.apiURL": simulator.url, "rbac.create": False, "uninstall.policy": "Keep"})
    with pytest.raises(RuntimeError, match="missing rights: the operator may not get workleases"):
        installation.operator()
