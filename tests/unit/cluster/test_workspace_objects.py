"""A session's volume as Kubernetes has it: its claim, how one is read, and how it gets into a pod."""

from typing import Any

import pytest

from worklease.api.models import WorkLease
from worklease.cluster.pod_template import pod_body, template_problem
from worklease.cluster.proxy_sidecar import ProxyOptions
from worklease.cluster.workspace_objects import claim_body, claim_name, read_volume

METADATA = {
    "name": "lease-1",
    "namespace": "sandboxes",
    "uid": "uid-1",
    "generation": 1,
    "creationTimestamp": "2026-11-24T12:00:00Z",
}
CLAIM: dict[str, Any] = {"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}
POD = {
    "initContainers": [{"name": "setup", "image": "busybox"}],
    "containers": [{"name": "sandbox", "image": "busybox", "volumeMounts": [{"name": "own", "mountPath": "/own"}]}],
    "volumes": [{"name": "own", "emptyDir": {}}],
}


def resource(pod: dict[str, Any] | None = None, *, session: str | None = "sesn_1", **workspace: Any) -> WorkLease:
    sandbox = {"template": {"spec": pod or POD}, "workspace": {"volumeClaimTemplate": CLAIM} | workspace}
    spec = {"environmentID": "env_1", "workID": "work_1", "sandbox": sandbox}
    return WorkLease.parse({"metadata": METADATA, "spec": spec | ({} if session is None else {"sessionID": session})})


def claim(lease: WorkLease) -> dict[str, Any]:
    assert lease.spec.sandbox is not None
    assert lease.spec.sandbox.workspace is not None
    return claim_body(lease, lease.spec.sandbox.workspace)


def stored(body: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    return {"metadata": body["metadata"] | {"uid": "uid-9", "resourceVersion": "7"} | metadata}


# --- The claim ---------------------------------------------------------------------------------------------------


def test_a_claim_is_named_after_its_session_alone() -> None:
    assert claim_name(("env_1", "sesn_1")) == claim_name(("env_1", "sesn_1"))
    assert len({claim_name(("env_1", "sesn_1")), claim_name(("env_1", "sesn_2")), claim_name(("env_2", "sesn_1"))}) == 3


def test_a_claim_is_the_template_with_what_the_operator_finds_it_by() -> None:
    template = CLAIM | {
        "metadata": {"labels": {"app": "x", "worklease.dev/session-id": "y"}, "annotations": {"a": "b"}}
    }
    body = claim(resource(volumeClaimTemplate=template, retention={"idleSeconds": 60}))
    assert body["spec"] == CLAIM["spec"]
    assert body["metadata"] == {
        "name": claim_name(("env_1", "sesn_1")),
        "namespace": "sandboxes",
        "labels": {
            "app": "x",
            "app.kubernetes.io/managed-by": "worklease-operator",
            "worklease.dev/environment-id": "env_1",
            "worklease.dev/session-id": "sesn_1",
        },
        "annotations": {"a": "b", "worklease.dev/used-by": "uid-1", "worklease.dev/idle-seconds": "60"},
    }, "without an owner, which it would go with"


def test_an_item_without_a_session_has_the_volume_of_its_id() -> None:
    assert claim(resource(session=None))["metadata"]["name"] == claim_name(("env_1", "work_1"))


# --- What is there -----------------------------------------------------------------------------------------------


def test_a_claim_is_read_as_it_was_made() -> None:
    volume = read_volume(stored(claim(resource())))
    assert (volume.is_ours, volume.session, volume.idle, volume.unused_since, volume.is_ending) == (
        *(True, ("env_1", "sesn_1"), 604_800.0, None, False),
    )


def test_a_claim_with_copied_labels_is_not_the_operators() -> None:
    body = claim(resource())
    assert not read_volume(stored(body, name="a-copy")).is_ours
    labels = {key: value for key, value in body["metadata"]["labels"].items() if key.startswith("worklease.dev/")}
    assert not read_volume(stored(body, labels=labels)).is_ours


@pytest.mark.parametrize("text", ["", "a day", "-1", "1e9", "٣"])
def test_a_time_that_somebody_has_edited_keeps_the_volume(text: str) -> None:
    edited = {"worklease.dev/idle-seconds": text, "worklease.dev/unused-since": text}
    volume = read_volume(stored(claim(resource()), annotations=edited))
    assert (volume.idle, volume.unused_since) == (None, None)


# --- In the pod --------------------------------------------------------------------------------------------------


def test_the_volume_is_mounted_into_all_containers_of_the_template() -> None:
    spec = pod_body(resource(), 0, "keys", claim="a-claim")["spec"]
    assert spec["volumes"] == [
        {"name": "own", "emptyDir": {}},
        {"name": "worklease-workspace", "persistentVolumeClaim": {"claimName": "a-claim"}},
    ]
    mount = {"name": "worklease-workspace", "mountPath": "/workspace"}
    assert spec["containers"][0]["volumeMounts"] == [{"name": "own", "mountPath": "/own"}, mount]
    assert spec["initContainers"][0]["volumeMounts"] == [mount]


def test_or_into_those_that_the_workspace_names_at_its_path() -> None:
    spec = pod_body(resource(containers=["sandbox"], mountPath="/home"), 0, "keys")["spec"]
    assert spec["containers"][0]["volumeMounts"][-1] == {"name": "worklease-workspace", "mountPath": "/home"}
    assert "volumeMounts" not in spec["initContainers"][0]


def test_the_proxy_beside_a_worker_has_no_part_in_it() -> None:
    lease = resource()
    assert lease.spec.sandbox is not None
    body = {"metadata": METADATA, "spec": lease.spec.model_dump(mode="json", exclude_none=True)}
    body["spec"]["sandbox"]["worker"] = {"proxy": True}
    spec = pod_body(WorkLease.parse(body), 0, "keys", proxy=ProxyOptions(image="operator"))["spec"]
    (proxy,) = (each for each in spec["initContainers"] if each["name"] == "worklease-proxy")
    assert [mount["name"] for mount in proxy["volumeMounts"]] == ["worklease-proxy"]


@pytest.mark.parametrize(
    ("lease", "problem"),
    [
        (resource(containers=["sandbox", "other"]), "workspace.containers names other"),
        (resource(POD | {"volumes": [{"name": "worklease-workspace"}]}), "the template has one already"),
        (resource(containers=["setup"]), ""),
    ],
)
def test_what_the_api_server_cannot_see_is_found_before_the_claim(lease: WorkLease, problem: str) -> None:
    found = template_problem(lease)
    assert problem in found
    assert bool(found) is bool(problem)


def test_without_a_workspace_a_pod_is_as_it_was() -> None:
    spec = {"environmentID": "env_1", "workID": "work_1", "sandbox": {"template": {"spec": POD}}}
    body = pod_body(WorkLease.parse({"metadata": METADATA, "spec": spec}), 0, "keys")
    assert [volume["name"] for volume in body["spec"]["volumes"]] == ["own"]
