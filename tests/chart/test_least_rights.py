"""The chart grants exactly the rights that the operator uses, by the API server's own audit log."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pytest

from controlplane import wait_for
from support.chart import NAMESPACE, RELEASE, Helm, Object, pick
from support.installation import Installation
from support.operator import Leases
from support.pools import Pool
from support.sandboxes import disrupt, with_workspace
from support.simulator import Simulator, accepted
from worklease.cluster.bucket_store import bucket_name
from worklease.preflight import OWN_RIGHTS, RIGHTS, Right

TEAM = "team-a"
Grant = tuple[str, str, str]


def grants(*roles: Object) -> set[Grant]:
    """Return each verb on each resource, with its group."""
    return {
        (verb, group, resource)
        for role in roles
        for rule in role["rules"]
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def uses(entries: Iterable[Mapping[str, Any]]) -> set[Grant]:
    """Return what an account did, except asking what it may do, which every account may."""
    references = ((entry["verb"], entry["objectRef"]) for entry in entries if "objectRef" in entry)
    return {
        (verb, what.get("apiGroup", ""), "/".join(filter(None, [what["resource"], what.get("subresource")])))
        for verb, what in references
        if what.get("apiGroup") != "authorization.k8s.io" and "resource" in what
    }


def as_grant(right: Right) -> Grant:
    return (right.verb, right.group, "/".join(filter(None, [right.resource, right.subresource])))


def test_what_the_program_checks_at_its_start_is_what_the_chart_grants(helm: Helm) -> None:
    rendered = helm.render()
    watched = grants(pick(rendered, "ClusterRole", RELEASE))
    # Secrets are granted by name: a missing right shows on the resource that names one.
    # Without the right to read nodes, the operator waits for the end of a lost pod in another way. Without the right to
    # patch pods, it tells a worker behind the proxy to finish by deleting its pod.
    # Without the right to read the Lease of another installation, it leaves alone what that one keeps.
    optional = {("get", "", "nodes"), ("patch", "", "pods"), ("get", "coordination.k8s.io", "leases")}
    # Without the rights for pools there are none.
    of_pools = {(verb, "worklease.dev", "workpools") for verb in ("get", "list", "watch", "patch")}
    of_pools |= {("patch", "worklease.dev", "workpools/status")}
    assert {as_grant(right) for right in RIGHTS} | {("get", "", "secrets")} | optional | of_pools == watched
    assert {as_grant(right) for right in OWN_RIGHTS} == grants(pick(rendered, "Role", f"{RELEASE}-checkpoint"))


def test_the_check_before_an_upgrade_has_the_rights_that_it_checks_and_no_secret(helm: Helm) -> None:
    rendered = helm.render()
    checked = grants(pick(rendered, "ClusterRole", f"{RELEASE}-check"))
    assert checked == {as_grant(right) for right in RIGHTS}
    assert grants(pick(rendered, "Role", f"{RELEASE}-check-checkpoint")) == {as_grant(right) for right in OWN_RIGHTS}
    narrow = helm.render({"watchNamespaces": ["team-a"]})
    assert grants(pick(narrow, "Role", f"{RELEASE}-check", namespace="team-a")) == checked


def test_a_namespaced_role_grants_what_the_clusters_does(helm: Helm) -> None:
    rendered = helm.render({"watchNamespaces": ["team-a", "team-b"]})
    of_the_cluster = (["nodes"], ["leases"])
    wide = [
        rule for rule in pick(helm.render(), "ClusterRole", RELEASE)["rules"] if rule["resources"] not in of_the_cluster
    ]
    for namespace in ("team-a", "team-b"):
        assert pick(rendered, "Role", RELEASE, namespace=namespace)["rules"] == wide
    bound = [each for each in rendered if each["kind"] == "ClusterRoleBinding"]
    assert bound == []


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator("--ttl", "15") as started:
        yield started


@pytest.mark.journey
def test_the_operator_uses_each_of_its_rights_and_needs_no_other(
    installation: Installation, simulator: Simulator
) -> None:
    leases = Leases(installation.plane, installation.make_namespace(TEAM), simulator)
    installation.install({"config.apiURL": simulator.url, "pools.namespaces": [TEAM]})
    leave_a_bucket(installation)
    with installation.operator() as operator:
        go_all_ways(installation, leases, simulator)
        assert operator.terminate() == 0
        beaten = len(accepted(simulator, "work_kept"))
        operator.start()
        wait_for(lambda: len(accepted(simulator, "work_kept")) > beaten, seconds=30, what="a beat of the new process")
        leases.await_condition("work_kept", "Ready", "True")
    entries = installation.audit(RELEASE)
    assert [entry for entry in entries if entry["responseStatus"]["code"] == 403] == []
    api = "/apis/rbac.authorization.k8s.io/v1"
    watched = installation.plane.get(f"{api}/clusterroles/{RELEASE}")
    own = installation.plane.get(f"{api}/namespaces/{NAMESPACE}/roles/{RELEASE}-checkpoint")
    of_pools = installation.plane.get(f"{api}/namespaces/{TEAM}/roles/{RELEASE}-pools")
    # A token that is there already is replaced only if the item was polled once more, as after a crash.
    assert uses(entries) | {("update", "", "secrets")} == grants(watched, own, of_pools)
    used = [entry["objectRef"] for entry in entries if "objectRef" in entry]
    secrets = {each.get("name", "") for each in used if each["resource"] == "secrets"} - {""}
    assert {name for name in secrets if not name.startswith("agents-")} == {"worklease-credentials"}
    assert {each["namespace"] for each in used if each["resource"] == "configmaps"} == {NAMESPACE}


def leave_a_bucket(installation: Installation) -> None:
    """Leave a bucket as a process does that died elsewhere: who takes it reads that process's Lease."""
    annotations = {"worklease.dev/holder": "elsewhere/1-1-a", "worklease.dev/epoch": "1"}
    metadata = {"name": bucket_name(0), "labels": {"worklease.dev/bucket": "0"}, "annotations": annotations}
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}
    installation.plane.demand("POST", f"/api/v1/namespaces/{NAMESPACE}/configmaps", body)


def go_all_ways(installation: Installation, leases: Leases, simulator: Simulator) -> None:
    """Make the operator do everything that it can do."""
    items = ("work_kept", "work_stopped", "work_deleted", "work_unlabelled")
    for item in items:
        simulator.create_item(item)
    leases.create(*items, pods=True)
    for item in items:
        leases.await_condition(item, "SandboxReady", "True")
    installation.plane.kubectl("-n", TEAM, "label", "pod", "pod-work-unlabelled", "worklease.dev/work-id-")
    simulator.stop_item("work_stopped")
    leases.await_condition("work_stopped", "Finished", "True", "Stopped")
    leases.delete("work_deleted", wait=True)
    simulator.create_item("work_behind")
    template = {"spec": {"containers": [{"name": "worker", "image": "busybox"}]}}
    leases.create("work_behind", sandbox={"template": template, "drainSeconds": 2, "worker": {"proxy": True}})
    leases.await_condition("work_behind", "SandboxReady", "True")
    simulator.stop_item("work_behind")
    leases.await_condition("work_behind", "Finished", "True", "Stopped")
    simulator.create_item("work_templated")
    template = {"spec": {"containers": [{"name": "sandbox", "image": "busybox"}]}}
    leases.create("work_templated", sandbox={"template": template}, ttlSecondsAfterFinished=0)
    leases.await_condition("work_templated", "SandboxReady", "True")
    simulator.stop_item("work_templated")
    wait_for(lambda: leases.get("work_templated") is None, seconds=60, what="its deletion after it has finished")
    lose_a_node(leases, simulator)
    work_on_the_queue(installation, leases, simulator)
    wait_for(lambda: simulator.item("work_deleted")["state"] == "stopped", seconds=30, what="the item's stop")


def work_on_the_queue(installation: Installation, leases: Leases, simulator: Simulator) -> None:
    """Have a pool take a session, whose sandbox ends, and another one that is polled twice; then end the pool."""
    pool = Pool(installation.plane, leases, simulator)
    pool.create(most=1, **with_workspace(leases, keep=1))
    simulator.create_session()
    (name,) = pool.await_running(1)
    leases.end_pod(sandbox_of(pool, name), exit_code=0)
    wait_for(lambda: not leases.volumes(), seconds=30, what="the end of the session's volume")
    wait_for(lambda: not pool.unfinished() and not pool.secrets(), seconds=30, what="the end of the session's lease")
    pool.delete()
    wait_for(lambda: pool.get() is None, seconds=30, what="the end of the pool")


def sandbox_of(pool: Pool, name: str) -> str:
    """Return the pod of a pool's WorkLease."""
    return str(pool.leases()[name]["status"]["sandboxes"][0]["podName"])


def lose_a_node(leases: Leases, simulator: Simulator) -> None:
    """Take a pod away as the controller of lost nodes does: the operator looks at the node."""
    simulator.create_item("work_lost")
    before = set(leases.pods())
    leases.create("work_lost", sandbox={"template": leases.template(termination="Never")})
    leases.await_condition("work_lost", "SandboxReady", "True")
    disrupt(leases, leases.await_pod(besides=before), "DeletionByTaintManager", "Taint manager: deleting")
    message = leases.await_condition("work_lost", "SandboxReady", "False", "Ending")
    assert "node.kubernetes.io/out-of-service" in message
