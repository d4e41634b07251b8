"""The pod that a template asks for."""

from typing import Any

from worklease.api.models import WorkLease
from worklease.cluster.pod_template import pod_body, pod_name, template_problem

METADATA = {
    "name": "lease-1",
    "namespace": "sandboxes",
    "uid": "0d1c",
    "generation": 1,
    "creationTimestamp": "2026-11-24T12:00:00Z",
}


def resource(spec: dict[str, Any] | None = None, *, name: str = "lease-1", **metadata: Any) -> WorkLease:
    template = {"spec": {"containers": [{"name": "sandbox", "image": "busybox"}]} | (spec or {})}
    if metadata:
        template["metadata"] = metadata
    body = {
        "metadata": METADATA | {"name": name},
        "spec": {"environmentID": "env_1", "workID": "work_1", "sandbox": {"template": template}},
    }
    return WorkLease.parse(body)


def test_a_pods_name_follows_from_its_resource_and_attempt() -> None:
    assert pod_name(resource(), 0) == pod_name(resource(), 0)
    assert pod_name(resource(), 0) != pod_name(resource(), 1)
    assert pod_name(resource(), 0).startswith("lease-1-")


def test_a_long_name_is_cut_to_a_hosts_name() -> None:
    long = pod_name(resource(name=f"{'a' * 51}.{'b' * 60}"), 0)
    assert len(long) <= 63
    assert ".-" not in long


def test_the_template_is_kept_and_the_operator_adds_what_is_its_own() -> None:
    body = pod_body(resource({"nodeName": "n1"}, labels={"app": "x"}, annotations={"note": "y"}), 0, "keys")
    assert body["spec"]["nodeName"] == "n1"
    assert body["metadata"]["labels"] == {
        "app": "x",
        "worklease.dev/environment-id": "env_1",
        "worklease.dev/work-id": "work_1",
    }
    assert body["metadata"]["annotations"] == {"note": "y", "worklease.dev/sandbox-containers": "sandbox"}
    (owner,) = body["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"], owner["controller"]) == ("WorkLease", "0d1c", True)


TWO = {"containers": [{"name": "agent", "image": "busybox"}, {"name": "logs", "image": "busybox"}]}
ASKED = "worklease.dev/sandbox-containers"


def test_the_pod_says_which_of_its_containers_are_the_sandbox() -> None:
    every = pod_body(resource(TWO), 0, "keys")
    assert every["metadata"]["annotations"] == {ASKED: "agent,logs"}
    one = resource(TWO, annotations={ASKED: "agent"})
    assert pod_body(one, 0, "keys")["metadata"]["annotations"] == {ASKED: "agent"}
    assert template_problem(one) == ""
    assert template_problem(resource(TWO)) == ""


def test_a_template_that_names_a_container_which_it_does_not_have_is_wrong() -> None:
    wrong = resource(TWO, annotations={ASKED: "agent, lgos"})
    assert template_problem(wrong) == f"the annotation {ASKED} names lgos, which no container of the template is"


def test_annotations_of_the_settings_are_on_every_pod_and_the_templates_own_win() -> None:
    own = resource(annotations={"karpenter.sh/do-not-disrupt": "false"})
    settings = {"karpenter.sh/do-not-disrupt": "true", "cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}
    assert pod_body(own, 0, "keys", settings)["metadata"]["annotations"] == {
        "karpenter.sh/do-not-disrupt": "false",
        "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
        ASKED: "sandbox",
    }


def test_a_pod_neither_starts_again_nor_has_a_token_unless_the_template_says_so() -> None:
    plain = pod_body(resource({"restartPolicy": None}), 0, "keys")["spec"]
    assert (plain["restartPolicy"], plain["automountServiceAccountToken"]) == ("Never", False)
    asked = pod_body(resource({"restartPolicy": "Always", "automountServiceAccountToken": True}), 0, "keys")["spec"]
    assert (asked["restartPolicy"], asked["automountServiceAccountToken"]) == ("Always", True)


def test_every_container_is_told_its_item_and_the_items_own_token_by_reference() -> None:
    first = {"name": "init", "image": "busybox"}
    spec = pod_body(resource({"initContainers": [first]}), 0, "keys")["spec"]
    for container in (*spec["initContainers"], *spec["containers"]):
        told = {entry["name"]: entry for entry in container["env"]}
        assert told["ANTHROPIC_ENVIRONMENT_ID"]["value"] == "env_1"
        assert told["ANTHROPIC_WORK_ID"]["value"] == "work_1"
        reference = told["ANTHROPIC_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"]
        assert reference == {"name": "keys", "key": "sessions-token", "optional": True}


def test_what_a_container_sets_itself_stays() -> None:
    own = {"name": "sandbox", "image": "busybox", "env": [{"name": "ANTHROPIC_WORK_ID", "value": "mine"}]}
    (container,) = pod_body(resource({"containers": [own]}), 0, "keys")["spec"]["containers"]
    assert [entry["value"] for entry in container["env"] if entry["name"] == "ANTHROPIC_WORK_ID"] == ["mine"]
    assert len(own["env"]) == 1, "the template itself is not changed"


def test_the_environments_key_is_named_nowhere() -> None:
    assert "environment-key" not in str(pod_body(resource(), 0, "keys"))
