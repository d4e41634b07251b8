"""The proxy in a pod that the operator makes: the sidecar, and what of the user's containers changes for it."""

from typing import Any

import pytest

from worklease.api.models import WorkLease
from worklease.cluster.pod_template import pod_body, template_problem
from worklease.cluster.proxy_sidecar import ProxyOptions

API = "https://api.example.com"
OPTIONS = ProxyOptions(image="operator:1", upstream=API, variables={"HTTPS_PROXY": "http://proxy:3128"})
METADATA = {
    "name": "lease-1",
    "namespace": "sandboxes",
    "uid": "0d1c",
    "generation": 1,
    "creationTimestamp": "2026-11-24T12:00:00Z",
}


def resource(*, env: list[dict[str, Any]] | None = None, proxy: bool = True, **spec: Any) -> WorkLease:
    worker = {"name": "worker", "image": "worker:1"} | ({} if env is None else {"env": env})
    template = {"spec": {"containers": [worker]} | spec}
    sandbox = {"template": template, "drainSeconds": 150, "worker": {"proxy": proxy}}
    return WorkLease.parse(
        {"metadata": METADATA, "spec": {"environmentID": "env_1", "workID": "work_1", "sandbox": sandbox}}
    )


def made(lease: WorkLease) -> dict[str, Any]:
    assert template_problem(lease, OPTIONS) == ""
    spec: dict[str, Any] = pod_body(lease, 0, "keys", proxy=OPTIONS)["spec"]
    return spec


def variables(container: dict[str, Any]) -> dict[str, Any]:
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container["env"]}


def test_the_proxy_is_a_native_sidecar_before_every_other_container() -> None:
    spec = made(resource(initContainers=[{"name": "setup", "image": "busybox"}]))
    sidecar, setup = spec["initContainers"]
    assert (sidecar["name"], sidecar["image"], sidecar["args"]) == ("worklease-proxy", "operator:1", ["proxy"])
    assert sidecar["restartPolicy"] == "Always"
    assert sidecar["startupProbe"]["exec"]["command"] == ["worklease", "proxy", "--ready"]
    assert sidecar["lifecycle"]["preStop"]["exec"]["command"] == ["worklease", "proxy", "--drain"]
    assert setup["name"] == "setup"
    assert variables(setup)["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:8788"
    assert spec["restartPolicy"] == "Never"


def test_the_sidecar_is_told_its_item_its_upstream_and_where_the_drain_is_announced() -> None:
    spec = made(resource())
    (sidecar,) = spec["initContainers"]
    assert variables(sidecar) == {
        "ANTHROPIC_ENVIRONMENT_ID": "env_1",
        "ANTHROPIC_WORK_ID": "work_1",
        "WORKLEASE_PROXY_UPSTREAM": API,
        "WORKLEASE_PROXY_DRAIN_SECONDS": "150",
        "WORKLEASE_PROXY_DRAIN_FILE": "/etc/worklease/pod/draining",
        "HTTPS_PROXY": "http://proxy:3128",
    }
    (volume,) = spec["volumes"]
    (mount,) = sidecar["volumeMounts"]
    assert volume["name"] == mount["name"]
    (item,) = volume["downwardAPI"]["items"]
    assert f"{mount['mountPath']}/{item['path']}" == "/etc/worklease/pod/draining"
    assert item["fieldRef"]["fieldPath"] == "metadata.annotations['worklease.dev/draining']"


def test_the_worker_is_told_all_that_the_sdk_reads_and_never_the_environments_key() -> None:
    spec = made(resource())
    token = {"secretKeyRef": {"name": "keys", "key": "sessions-token", "optional": True}}
    assert variables(spec["containers"][0]) == {
        "ANTHROPIC_ENVIRONMENT_ID": "env_1",
        "ANTHROPIC_WORK_ID": "work_1",
        "ANTHROPIC_SESSION_ID": "work_1",
        "ANTHROPIC_AUTH_TOKEN": token,
        "ANTHROPIC_ENVIRONMENT_KEY": token,
        "ANTHROPIC_WORK_SECRET": {"secretKeyRef": {"name": "keys", "key": "work-secret", "optional": True}},
        "ANTHROPIC_BASE_URL": "http://127.0.0.1:8788",
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }
    assert "environment-key" not in str(spec)


def test_a_templates_own_address_is_the_upstream_and_its_other_variables_stay_in_their_place() -> None:
    own = [
        {"name": "ANTHROPIC_BASE_URL", "value": "https://gateway.example.com/api/"},
        {"name": "MINE", "value": "$(ANTHROPIC_BASE_URL)/x"},
        {"name": "NO_PROXY", "value": ".internal"},
        {"name": "ANTHROPIC_SESSION_ID", "value": "sesn_1"},
    ]
    lease = resource(env=own)
    spec = made(lease)
    worker = spec["containers"][0]
    assert [entry["name"] for entry in worker["env"][:4]] == [entry["name"] for entry in own]
    told = variables(worker)
    assert told["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:8788"
    assert (told["NO_PROXY"], told["no_proxy"]) == (".internal,127.0.0.1,localhost", "127.0.0.1,localhost")
    assert told["ANTHROPIC_SESSION_ID"] == "sesn_1"
    assert variables(spec["initContainers"][0])["WORKLEASE_PROXY_UPSTREAM"] == "https://gateway.example.com/api"
    assert own[0]["value"] == "https://gateway.example.com/api/", "the template itself is not changed"


def test_a_template_that_names_the_proxy_itself_makes_no_loop() -> None:
    spec = made(resource(env=[{"name": "ANTHROPIC_BASE_URL", "value": "http://127.0.0.1:8788"}]))
    assert variables(spec["initContainers"][0])["WORKLEASE_PROXY_UPSTREAM"] == API


def test_nothing_of_the_users_containers_changes_but_their_variables() -> None:
    worker = {"name": "worker", "image": "worker:1", "command": ["x"], "resources": {"limits": {"memory": "1Gi"}}}
    spec = made(resource(containers=[worker], volumes=[{"name": "data"}], nodeName="n1"))
    assert {key: value for key, value in spec["containers"][0].items() if key != "env"} == worker
    assert [each["name"] for each in spec["volumes"]] == ["data", "worklease-proxy"]
    assert spec["nodeName"] == "n1"


def test_the_sidecar_meets_the_restricted_profile_in_any_pod() -> None:
    security = made(resource())["initContainers"][0]["securityContext"]
    assert security == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    as_root = made(resource(securityContext={"runAsUser": 0}))["initContainers"][0]["securityContext"]
    assert as_root == security | {"runAsUser": 65532}


TWO = [
    {"name": "a", "image": "x", "env": [{"name": "ANTHROPIC_BASE_URL", "value": "https://one.example.com"}]},
    {"name": "b", "image": "x", "env": [{"name": "ANTHROPIC_BASE_URL", "value": "https://two.example.com"}]},
]
FROM_SECRET = {"valueFrom": {"secretKeyRef": {"name": "s", "key": "url"}}}


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"containers": TWO}, "has one upstream"),
        ({"hostNetwork": True}, "hostNetwork must not be true"),
        ({"env": [{"name": "ANTHROPIC_BASE_URL"} | FROM_SECRET]}, "ANTHROPIC_BASE_URL, so the template must give it"),
        ({"env": [{"name": "no_proxy"} | FROM_SECRET]}, "no_proxy, so the template must give it"),
        ({"env": [{"name": "ANTHROPIC_BASE_URL", "value": "$(OTHER)"}]}, "as a plain value"),
        ({"volumes": [{"name": "worklease-proxy"}]}, "has one already"),
        ({"containers": [{"name": "worklease-proxy", "image": "x"}]}, "has one already"),
    ],
)
def test_a_template_that_a_proxy_does_not_fit_is_refused_in_words(spec: dict[str, Any], words: str) -> None:
    assert words in template_problem(resource(**spec), OPTIONS)
    assert template_problem(resource(**spec, proxy=False), OPTIONS) == ""


def test_without_an_image_a_resource_that_asks_for_a_proxy_is_refused() -> None:
    assert "WORKLEASE_PROXY_IMAGE" in template_problem(resource(), ProxyOptions())


def test_without_a_proxy_a_pod_is_as_it_was() -> None:
    spec = pod_body(resource(proxy=False), 0, "keys", proxy=OPTIONS)["spec"]
    assert "initContainers" not in spec
    assert "ANTHROPIC_BASE_URL" not in variables(spec["containers"][0])
