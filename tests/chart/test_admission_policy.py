"""The operator is no way around RBAC: its users need the rights for what it does for them, on the real API server."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from controlplane import ControlPlane, KubectlError, wait_for
from support.chart import RELEASE
from support.installation import Installation

TEAM = "team-a"
WORKLEASES = ("worklease.dev", "workleases", None, ["create", "delete", "get", "patch", "update"])
WORKPOOLS = ("worklease.dev", "workpools", None, ["create", "delete", "get", "patch", "update"])
PODS_DELETE = ("", "pods", None, ["delete"])
PODS_CREATE = ("", "pods", None, ["create"])
CLAIMS = ("", "persistentvolumeclaims", None, ["create", "delete"])
KEY = "worklease-credentials"

OPEN = "of-items"  # the namespace in which each item has a Secret of its own

STRICT = {
    "credentials.secretNames": [KEY, "second-key"],
    "credentials.tenants": [{"namespace": OPEN, "secretNames": ["*"]}],
    "admissionPolicy.poolEnvironments": [f"{TEAM}/env_a"],
}

Right = tuple[str, str, str | None, list[str]]

USERS: dict[str, list[Right]] = {
    "writer": [WORKLEASES],
    "deleter": [WORKLEASES, PODS_DELETE],
    "creator": [WORKLEASES, PODS_CREATE],
    "editor": [WORKLEASES, PODS_DELETE, PODS_CREATE],
    "pooler": [WORKPOOLS, WORKLEASES, PODS_DELETE, PODS_CREATE],
    "podless": [WORKPOOLS, WORKLEASES],
    "leaseless": [WORKPOOLS, PODS_DELETE, PODS_CREATE],
    "storer": [WORKLEASES, WORKPOOLS, PODS_DELETE, PODS_CREATE, CLAIMS],
    "keyed": [WORKLEASES, PODS_DELETE, ("", "secrets", "special", ["get"])],
}


@pytest.fixture(scope="module")
def policed(bare_control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    with Installation(bare_control_plane, tmp_path_factory.mktemp("helm")) as installation:
        installation.make_namespace(TEAM)
        installation.make_namespace(OPEN)
        installation.make_namespace("unwatched")
        installation.make_namespace("short-lived")
        installation.install(STRICT)
        for user, rights in USERS.items():
            make_user(bare_control_plane, user, rights)
        wait_for(lambda: refusal(installation, "writer", lease()), seconds=30, what="the policy to be in force")
        yield installation


def make_user(plane: ControlPlane, user: str, rights: list[Right]) -> None:
    rules = [
        {"apiGroups": [group], "resources": [resource], "verbs": verbs} | ({"resourceNames": [name]} if name else {})
        for group, resource, name, verbs in rights
    ]
    metadata = {"name": user, "namespace": TEAM}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": user}
    api = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": metadata}
    role = api | {"kind": "Role", "rules": rules}
    subject = {"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}
    binding = api | {"kind": "RoleBinding", "roleRef": reference, "subjects": [subject]}
    plane.kubectl("apply", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": [role, binding]}))
    can = ("auth", "can-i", rights[-1][3][0], f"{rights[-1][1]}.{rights[-1][0]}".rstrip("."), f"--as={user}")
    named = (rights[-1][2],) if rights[-1][2] else ()
    query = [*can[:3], "/".join([can[3], *named]), *can[4:], f"--namespace={TEAM}"]
    wait_for(lambda: plane.kubectl(*query, check=False).startswith("yes"), seconds=30, what=f"the rights of {user}")


def lease(name: str = "a", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "worklease.dev/v1alpha1",
        "kind": "WorkLease",
        "metadata": {"name": name, "namespace": TEAM},
        "spec": {"environmentID": "env_a", "workID": "work_a"} | spec,
    }


def templated(**pod: Any) -> dict[str, Any]:
    containers = pod.pop("containers", [{"name": "sandbox", "image": "busybox"}])
    return lease(sandbox={"template": {"spec": {"containers": containers} | pod}})


def refusal(installation: Installation, user: str | None, body: dict[str, Any]) -> str:
    """Return why the API server refuses a creation by a user (None: the administrator); empty if it allows it."""
    who = [f"--as={user}"] if user else []
    try:
        installation.plane.kubectl("create", "--dry-run=server", *who, "-f", "-", input=json.dumps(body))
    except KubectlError as error:
        return str(error)
    return ""


@pytest.fixture
def existing(policed: Installation) -> Iterator[str]:
    """A WorkLease with a template and a Secret, created by a user with the rights."""
    body = templated() | {"metadata": {"name": "existing", "namespace": TEAM}}
    body["spec"]["credentialsSecretRef"] = {"name": "special"}
    policed.plane.kubectl("create", "-f", "-", input=json.dumps(body))
    yield "existing"
    policed.plane.kubectl("--namespace", TEAM, "delete", "worklease", "existing", "--ignore-not-found")


def patch(installation: Installation, user: str | None, name: str, body: dict[str, Any]) -> str:
    who = [f"--as={user}"] if user else []
    arguments = ("--namespace", TEAM, *who, "patch", "worklease", name, "--type=merge", "--dry-run=server")
    try:
        installation.plane.kubectl(*arguments, "-p", json.dumps(body))
    except KubectlError as error:
        return str(error)
    return ""


def pool(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "worklease.dev/v1alpha1",
        "kind": "WorkPool",
        "metadata": {"name": "agents", "namespace": TEAM},
        "spec": {"environmentID": "env_a", "maxConcurrent": 1} | spec,
    }


def pool_of(**pod: Any) -> dict[str, Any]:
    containers = pod.pop("containers", [{"name": "sandbox", "image": "busybox"}])
    return pool(leaseTemplate={"spec": {"sandbox": {"template": {"spec": {"containers": containers} | pod}}}})


def test_a_pool_of_who_may_do_all_that_it_does_is_accepted(policed: Installation) -> None:
    assert refusal(policed, "pooler", pool()) == ""
    assert refusal(policed, "pooler", pool_of()) == ""


@pytest.mark.parametrize(
    ("user", "words"),
    [("leaseless", "may not create WorkLeases"), ("podless", "may not delete pods")],
)
def test_a_pool_does_nothing_that_its_writer_may_not_do(policed: Installation, user: str, words: str) -> None:
    assert words in refusal(policed, user, pool_of())


def test_a_pool_takes_only_from_the_environments_of_its_namespace(policed: Installation) -> None:
    assert "admissionPolicy.poolEnvironments" in refusal(policed, "pooler", pool(environmentID="env_b"))


def test_a_pool_uses_only_a_key_that_its_writer_may_read(policed: Installation) -> None:
    named = pool(credentialsSecretRef={"name": "special"})
    assert "may not get Secret team-a/special" in refusal(policed, "pooler", named)


def test_the_pods_of_a_pool_get_no_key_of_the_environment_and_no_other_account(policed: Installation) -> None:
    entry = {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": KEY, "key": "environment-key"}}}
    container = {"name": "sandbox", "image": "busybox", "env": [entry]}
    assert "reads the environment-key" in refusal(policed, "pooler", pool_of(containers=[container]))
    assert "allowedServiceAccounts" in refusal(policed, "pooler", pool_of(serviceAccountName="admin"))


@pytest.mark.parametrize("name", [RELEASE, f"{RELEASE}-pools"])
def test_the_api_server_finds_no_fault_with_any_expression(policed: Installation, name: str) -> None:
    policy = f"/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/{name}"
    status = wait_for(lambda: policed.plane.get(policy).get("status"), seconds=30, what="the policy's status")
    assert status is not None
    assert status["typeChecking"] == {}


def test_who_may_not_delete_pods_may_not_have_them_taken_down(policed: Installation) -> None:
    assert "writer may not delete pods in namespace team-a" in refusal(policed, "writer", lease())
    assert "creator may not delete pods in namespace team-a" in refusal(policed, "creator", templated())
    assert refusal(policed, "deleter", lease()) == ""


def test_who_may_not_create_pods_may_not_have_them_made(policed: Installation) -> None:
    assert "deleter may not create pods in namespace team-a" in refusal(policed, "deleter", templated())
    assert refusal(policed, "deleter", lease(sandbox={})) == ""
    assert refusal(policed, "editor", templated()) == ""


def test_who_may_not_make_and_delete_volumes_may_not_have_that_done(policed: Installation) -> None:
    body, of_pool = templated(), pool_of()
    workspace = {"volumeClaimTemplate": {"spec": {"accessModes": ["ReadWriteOnce"]}}}
    body["spec"]["sandbox"]["workspace"] = workspace
    of_pool["spec"]["leaseTemplate"]["spec"]["sandbox"]["workspace"] = workspace
    assert "editor may not create and delete PersistentVolumeClaims" in refusal(policed, "editor", body)
    assert "pooler may not create and delete PersistentVolumeClaims" in refusal(policed, "pooler", of_pool)
    assert refusal(policed, "storer", body) == refusal(policed, "storer", of_pool) == ""


def test_who_may_not_get_a_secret_may_not_name_it(policed: Installation) -> None:
    named = lease(credentialsSecretRef={"name": "special"})
    assert "editor may not get Secret team-a/special" in refusal(policed, "editor", named)
    assert refusal(policed, "keyed", named) == ""
    other = lease(credentialsSecretRef={"name": "another"})
    assert "keyed may not get Secret team-a/another" in refusal(policed, "keyed", other)


def test_an_edit_answers_for_what_it_changes_alone(policed: Installation, existing: str) -> None:
    assert "may not delete pods" in patch(policed, "writer", existing, {"spec": {"ttlSeconds": 60}})
    assert patch(policed, "writer", existing, {"metadata": {"labels": {"a": "b"}}}) == ""
    assert patch(policed, "deleter", existing, {"spec": {"ttlSeconds": 60}}) == ""
    # The garbage collector deletes what is owned by something that is not there.
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "gone", "uid": "11111111-2222-3333-4444-555555555555"}
    owned = {"metadata": {"ownerReferences": [owner]}}
    assert "may not delete pods" in patch(policed, "writer", existing, owned)
    assert patch(policed, "deleter", existing, owned) == ""
    grace = {"spec": {"sandbox": {"template": {"spec": {"terminationGracePeriodSeconds": 5}}}}}
    assert "may not create pods" in patch(policed, "deleter", existing, grace)
    assert patch(policed, "editor", existing, grace) == ""
    other = {"spec": {"credentialsSecretRef": {"name": "another"}}}
    assert "may not get Secret team-a/another" in patch(policed, "editor", existing, other)


def test_a_deletion_asks_for_what_it_takes_down(policed: Installation, existing: str) -> None:
    delete = ("--namespace", TEAM, "delete", "worklease", existing)
    said = policed.plane.kubectl(*delete, "--as=writer", check=False)
    assert "writer may not delete pods" in said
    assert "deleted" in policed.plane.kubectl(*delete, "--as=deleter")


def test_a_namespace_goes_with_its_workleases(policed: Installation) -> None:
    body = lease() | {"metadata": {"name": "a", "namespace": "short-lived"}}
    policed.plane.kubectl("create", "-f", "-", input=json.dumps(body))
    policed.plane.kubectl("delete", "namespace", "short-lived", "--timeout=60s")
    assert ("short-lived", "a") not in policed.leases()


@pytest.mark.parametrize("field", ["serviceAccountName", "serviceAccount"])
def test_a_sandbox_has_no_service_account_but_the_default(policed: Installation, field: str) -> None:
    said = refusal(policed, None, templated(**{field: "powerful"}))
    assert "names the service account powerful" in said
    assert "admissionPolicy.allowedServiceAccounts" in said
    assert refusal(policed, None, templated(**{field: "default"})) == ""


def secret_volume(name: str, *keys: str) -> dict[str, Any]:
    items = {"items": [{"key": key, "path": key} for key in keys]} if keys else {}
    return {"volumes": [{"name": "v", "secret": {"secretName": name} | items}]}


def projected(name: str, *keys: str) -> dict[str, Any]:
    items = {"items": [{"key": key, "path": key} for key in keys]} if keys else {}
    return {"volumes": [{"name": "v", "projected": {"sources": [{"secret": {"name": name} | items}]}}]}


def variable(name: str, key: str) -> dict[str, Any]:
    reference = {"secretKeyRef": {"name": name, "key": key}}
    return {
        "name": "sandbox",
        "image": "busybox",
        "env": [{"name": "A", "value": "b"}, {"name": "K", "valueFrom": reference}],
    }


def all_variables(name: str) -> dict[str, Any]:
    return {"name": "sandbox", "image": "busybox", "envFrom": [{"secretRef": {"name": name}}]}


@pytest.mark.parametrize(
    "pod",
    [
        secret_volume(KEY),
        secret_volume("second-key"),
        secret_volume(KEY, "sessions-token", "environment-key"),
        projected(KEY),
        projected(KEY, "environment-key"),
        {"containers": [variable(KEY, "environment-key")]},
        {"containers": [all_variables(KEY)]},
        {"initContainers": [variable(KEY, "environment-key") | {"name": "first"}]},
        {"volumes": [{"name": "other", "emptyDir": {}}, secret_volume(KEY)["volumes"][0]]},
    ],
    ids=str,
)
def test_a_sandbox_does_not_read_the_environments_key(policed: Installation, pod: dict[str, Any]) -> None:
    said = refusal(policed, None, templated(**pod))
    assert "reads the environment-key of a credentials Secret" in said


@pytest.mark.parametrize(
    "pod",
    [
        secret_volume("of-the-sandbox"),
        secret_volume(KEY, "sessions-token"),
        projected(KEY, "sessions-token"),
        {"containers": [variable(KEY, "sessions-token")]},
        {"containers": [all_variables("of-the-sandbox")]},
        {"volumes": [{"name": "token", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}]},
    ],
    ids=str,
)
def test_a_sandbox_reads_what_else_it_needs(policed: Installation, pod: dict[str, Any]) -> None:
    assert refusal(policed, None, templated(**pod)) == ""


def test_the_key_of_the_secret_that_is_named_counts_too(policed: Installation) -> None:
    body = templated(**secret_volume("special"))
    assert refusal(policed, None, body) == ""
    body["spec"]["credentialsSecretRef"] = {"name": "special"}
    assert "reads the environment-key" in refusal(policed, None, body)


def test_who_names_another_secret_answers_for_what_the_template_reads_of_it(policed: Installation) -> None:
    body = templated(**secret_volume("second"))
    policed.plane.kubectl("create", "-f", "-", input=json.dumps(body))
    try:
        named = {"spec": {"credentialsSecretRef": {"name": "second"}}}
        assert "reads the environment-key" in patch(policed, None, "a", named)
        assert patch(policed, None, "a", {"spec": {"credentialsSecretRef": {"name": "third"}}}) == ""
        assert patch(policed, None, "a", {"spec": {"ttlSeconds": 60}}) == ""
    finally:
        policed.plane.kubectl("--namespace", TEAM, "delete", "worklease", "a")


@pytest.mark.parametrize(
    "pod",
    [
        secret_volume("any"),
        projected("any", "environment-key"),
        {"containers": [variable("any", "environment-key")]},
        {"containers": [all_variables("any")]},
    ],
    ids=str,
)
def test_where_each_item_has_a_secret_every_one_counts(policed: Installation, pod: dict[str, Any]) -> None:
    elsewhere = templated(**pod)
    assert refusal(policed, None, elsewhere) == ""
    elsewhere["metadata"]["namespace"] = OPEN
    assert "reads the environment-key" in refusal(policed, None, elsewhere)


def test_what_else_a_sandbox_needs_is_read_there_by_its_keys(policed: Installation) -> None:
    volumes = [*projected("any", "sessions-token")["volumes"], {"name": "e", "emptyDir": {}}]
    body = templated(volumes=volumes, containers=[variable("any", "sessions-token")])
    body["metadata"]["namespace"] = OPEN
    assert refusal(policed, None, body) == ""


def test_a_template_of_a_wrong_shape_passes_no_check(policed: Installation) -> None:
    assert refusal(policed, None, templated(volumes="all")) != ""


KEY_READER = templated(**secret_volume(KEY))
UNWATCHED = templated(serviceAccountName="other") | {"metadata": {"name": "a", "namespace": "unwatched"}}


def await_upgrade(policed: Installation, *, refused: bool) -> None:
    """Wait until an upgrade is in force: the policy and its binding take effect separately."""
    wait_for(
        lambda: all(bool(refusal(policed, None, body)) == refused for body in (KEY_READER, UNWATCHED)),
        seconds=30,
        what="the upgrade to be in force",
    )


@pytest.fixture
def relaxed(policed: Installation) -> Iterator[Installation]:
    """The policy with everything allowed that values can allow; afterwards as before."""
    policed.install(
        {
            "watchNamespaces": [TEAM],
            "admissionPolicy.allowedServiceAccounts": ["sandbox"],
            "admissionPolicy.allowEnvironmentKeyInSandbox": True,
        }
    )
    await_upgrade(policed, refused=False)
    yield policed
    policed.install(STRICT)
    await_upgrade(policed, refused=True)


def test_what_is_allowed_by_value_is_allowed(relaxed: Installation) -> None:
    assert refusal(relaxed, None, templated(serviceAccountName="sandbox")) == ""
    assert refusal(relaxed, None, templated(serviceAccountName="default")) == ""
    assert "service account other" in refusal(relaxed, None, templated(serviceAccountName="other"))


def test_where_no_operator_watches_nobody_is_acted_for(relaxed: Installation) -> None:
    assert refusal(relaxed, None, UNWATCHED) == ""
    assert "service account other" in refusal(relaxed, None, templated(serviceAccountName="other"))
