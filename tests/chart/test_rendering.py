"""How the chart renders its values."""

import json
import re
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.chart import CHART, RELEASE, Helm, HelmError, environment, is_hook, objects, pick, pod_spec
from support.cluster import ALL_CUSTOM_RESOURCES
from work_api_simulator.command import simulate
from worklease import command_line as program
from worklease import operate
from worklease.cluster.bucket_store import bucket_name, former_name
from worklease.rules.buckets import BUCKETS
from worklease.rules.takes import HAND_OVER_TIME
from worklease.settings import PREFIX, Settings
from worklease.watching import supervisor

ROOT_README = CHART.parents[1] / "README.md"
OTHER_SETTINGS: dict[str, Any] = {
    "config.apiURL": "https://work.example.com",
    "config.credentialsSecret": "other-credentials",
    "config.maxHeartbeatInterval": 12.5,
    "config.requestsPerMinute": 1_000_000,
    "config.statusWritesPerSecond": 2.5,
    "config.checkpointNamespace": "elsewhere",
    "config.httpAddress": "[::]:9090",
    "config.logFormat": "text",
    "config.logLevel": "debug",
    "watchNamespaces": ["team-a", "team-b"],
    "pools.namespaces": ["team-a"],
    "sandboxAnnotations": {"team": "agents"},
    "workerProxy.image": "registry.example.com/proxy:2",
}


def settings_of(helm: Helm, monkeypatch: pytest.MonkeyPatch, values: dict[str, Any]) -> Settings:
    for name, value in environment(pick(helm.render(values), "Deployment", RELEASE)).items():
        monkeypatch.setenv(name, value)
    return Settings.read()


def test_the_chart_passes_helms_lint(each_helm: Helm) -> None:
    assert "0 chart(s) failed" in each_helm.run("lint", "--strict", str(CHART))


def test_the_charts_version_is_the_programs() -> None:
    about = yaml.safe_load((CHART / "Chart.yaml").read_text())
    version = re.search(r'^version = "(.*)"', (CHART.parents[1] / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    assert about["version"] == about["appVersion"] == version[1]
    assert f"worklease-operator:{version[1]}" in about["annotations"]["artifacthub.io/images"]
    # The reader builds the image that the chart then uses.
    built = re.findall(r"^docker build -t \S+/worklease-operator:(\S+) ", ROOT_README.read_text(), re.MULTILINE)
    assert built == [version[1]]


def test_every_setting_of_the_program_is_in_the_deployment(helm: Helm) -> None:
    given = environment(pick(helm.render(), "Deployment", RELEASE))
    assert {name for name in given if name.startswith(PREFIX)} == {
        f"{PREFIX}{field.upper()}" for field in Settings.model_fields
    }


def test_the_charts_defaults_are_the_programs(helm: Helm, monkeypatch: pytest.MonkeyPatch) -> None:
    given = settings_of(helm, monkeypatch, {})
    image = pod_spec(pick(helm.render(), "Deployment", RELEASE))["containers"][0]["image"]
    default = Settings(namespace="worklease-system", log_format="json", proxy_image=image)
    assert given == default


def test_every_setting_follows_its_value(helm: Helm, monkeypatch: pytest.MonkeyPatch) -> None:
    given = settings_of(helm, monkeypatch, OTHER_SETTINGS)
    assert given.model_dump(mode="json") == {
        "api_url": "https://work.example.com/",
        "namespaces": ["team-a", "team-b"],
        "pool_namespaces": ["team-a"],
        "credentials_secret": "other-credentials",
        "sandbox_annotations": {"team": "agents"},
        "proxy_image": "registry.example.com/proxy:2",
        "max_heartbeat_interval": 12.5,
        "requests_per_minute": 1_000_000,
        "status_writes_per_second": 2.5,
        "namespace": "elsewhere",
        "pod_uid": "",  # the kubelet fills it in
        "http_address": "[::]:9090",
        "log_format": "text",
        "log_level": "debug",
    }
    container = pod_spec(pick(helm.render(OTHER_SETTINGS), "Deployment", RELEASE))["containers"][0]
    assert container["ports"] == [{"name": "http", "containerPort": 9090}]


def test_an_empty_map_of_annotations_is_none_though_there_is_a_default(
    helm: Helm, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert settings_of(helm, monkeypatch, {"sandboxAnnotations": {}}).sandbox_annotations == {}


def test_a_new_process_is_there_before_an_old_one_ends(helm: Helm) -> None:
    spec = pick(helm.render(), "Deployment", RELEASE)["spec"]
    rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    assert (spec["replicas"], spec["strategy"]) == (2, rolling)


def test_the_pods_grace_covers_the_shutdown(helm: Helm) -> None:
    # Kopf's shutdown, the flush of checkpoint and status, the hand-over, and the checkpoint once more.
    longest = supervisor.SHUTDOWN_TIMEOUT + 2 * operate.FLUSH_TIMEOUT + HAND_OVER_TIME
    assert pod_spec(pick(helm.render(), "Deployment", RELEASE))["terminationGracePeriodSeconds"] > longest


def test_a_lost_node_is_waited_for_15_seconds(helm: Helm) -> None:
    tolerated = pod_spec(pick(helm.render(), "Deployment", RELEASE))["tolerations"]
    assert {each["key"]: each["tolerationSeconds"] for each in tolerated} == {
        "node.kubernetes.io/not-ready": 15,
        "node.kubernetes.io/unreachable": 15,
    }


def test_the_probes_ask_the_pages_that_are_meant_for_them(helm: Helm) -> None:
    container = pod_spec(pick(helm.render(), "Deployment", RELEASE))["containers"][0]
    asked = {name: container[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert asked == {
        "startupProbe": {"path": "/healthz", "port": "http"},
        "livenessProbe": {"path": "/healthz", "port": "http"},
        "readinessProbe": {"path": "/readyz", "port": "http"},
    }


@pytest.mark.parametrize(
    ("values", "image"),
    [
        ({}, "ghcr.io/worklease/worklease-operator:0.1.0"),
        ({"image.tag": "dev"}, "ghcr.io/worklease/worklease-operator:dev"),
        ({"image.repository": "registry.example.com/w"}, "registry.example.com/w:0.1.0"),
        ({"image.tag": "dev", "image.digest": "sha256:" + "a" * 64}, None),
    ],
)
def test_every_pod_runs_the_one_image(helm: Helm, values: dict[str, Any], image: str | None) -> None:
    rendered = helm.render(values | {"simulator.enabled": True})
    workloads = [each for each in rendered if each["kind"] in {"Deployment", "Job"}]
    wanted = image or f"ghcr.io/worklease/worklease-operator@sha256:{'a' * 64}"
    assert len(workloads) >= 3
    assert {container["image"] for each in workloads for container in pod_spec(each)["containers"]} == {wanted}


def test_the_program_knows_every_command_that_the_chart_gives(helm: Helm) -> None:
    rendered = helm.render({"simulator.enabled": True})
    workloads = [each for each in rendered if each["kind"] in {"Deployment", "Job"}]
    for workload in workloads:
        command, *options = pod_spec(workload)["containers"][0]["args"]
        known = {flag for parameter in program.main.commands[command].params for flag in parameter.opts}
        assert {option.partition("=")[0] for option in options} <= known
    assert simulate in program.main.commands.values()


def test_the_check_before_an_upgrade_has_the_settings_of_the_operator(helm: Helm) -> None:
    rendered = helm.render(OTHER_SETTINGS | {"proxy.httpsProxy": "http://p:3128", "privateCA.configMapName": "ca"})
    job, operator = pick(rendered, "Job", f"{RELEASE}-check"), pick(rendered, "Deployment", RELEASE)
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-upgrade"
    checked, runs = (pod_spec(each)["containers"][0] for each in (job, operator))
    assert {part: checked[part] for part in ("env", "image", "volumeMounts")} == {
        part: runs[part] for part in ("env", "image", "volumeMounts")
    }
    assert pod_spec(job)["volumes"] == pod_spec(operator)["volumes"]
    own = helm.render({"rbac.create": False, "uninstall.policy": "Keep"})
    assert pod_spec(pick(own, "Job", f"{RELEASE}-check"))["serviceAccountName"] == RELEASE
    assert "Job" not in {
        each["kind"] for each in helm.render({"upgradeCheck.enabled": False, "uninstall.policy": "Keep"})
    }


def test_the_crds_of_the_chart_are_the_repositorys(each_helm: Helm) -> None:
    kept, gone = each_helm.render(), each_helm.render({"crds.keep": False})
    for path in sorted(ALL_CUSTOM_RESOURCES.glob("*.yaml")):
        canonical = yaml.safe_load(path.read_text())
        name = canonical["metadata"]["name"]
        stays, goes = pick(kept, "CustomResourceDefinition", name), pick(gone, "CustomResourceDefinition", name)
        assert stays["spec"] == goes["spec"] == canonical["spec"]
        assert stays["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
        assert "annotations" not in goes["metadata"]
    assert "CustomResourceDefinition" not in {each["kind"] for each in each_helm.render({"crds.enabled": False})}


def test_a_packaged_chart_contains_the_crd_and_renders_the_same(each_helm: Helm, tmp_path: Path) -> None:
    each_helm.run("package", str(CHART), f"--destination={tmp_path}")
    (package,) = tmp_path.glob("*.tgz")
    with tarfile.open(package) as archive:
        for path in sorted(ALL_CUSTOM_RESOURCES.glob("*.yaml")):
            member = archive.getmember(f"worklease-operator/files/{path.name}")
            content = archive.extractfile(member)
            assert member.isfile()
            assert content is not None
            assert content.read() == path.read_bytes()
    assert each_helm.render(chart=package) == each_helm.render()


def test_the_checkpoints_names_are_the_programs(helm: Helm) -> None:
    _, narrowed, _ = pick(helm.render(), "Role", f"{RELEASE}-checkpoint")["rules"]
    assert narrowed["resourceNames"] == [
        name(bucket) for name in (bucket_name, former_name) for bucket in range(BUCKETS)
    ]


def test_a_proxy_is_kept_out_of_the_way_to_the_api_server(helm: Helm) -> None:
    given = environment(
        pick(helm.render({"proxy.httpsProxy": "http://p:3128", "proxy.noProxy": ["10.0.0.0/8"]}), "Deployment", RELEASE)
    )
    assert given["HTTPS_PROXY"] == "http://p:3128"
    assert given["NO_PROXY"] == "$(KUBERNETES_SERVICE_HOST),.svc,.cluster.local,localhost,127.0.0.1,10.0.0.0/8"
    assert "HTTP_PROXY" not in given
    assert "NO_PROXY" not in environment(pick(helm.render(), "Deployment", RELEASE))


def test_a_private_authority_is_mounted_where_its_variable_says(helm: Helm) -> None:
    spec = pod_spec(
        pick(helm.render({"privateCA.configMapName": "ca", "privateCA.key": "b.pem"}), "Deployment", RELEASE)
    )
    container = spec["containers"][0]
    assert {entry["name"]: entry.get("value") for entry in container["env"]}["SSL_CERT_FILE"] == (
        container["volumeMounts"][0]["mountPath"] + "/b.pem"
    )
    assert spec["volumes"] == [{"name": container["volumeMounts"][0]["name"], "configMap": {"name": "ca"}}]


def test_the_network_policy_holds_for_the_operator_and_for_the_hooks(helm: Helm) -> None:
    rendered = helm.render({"networkPolicy.enabled": True, "simulator.enabled": True})
    selector = pick(rendered, "NetworkPolicy", RELEASE)["spec"]["podSelector"]
    (among,) = selector["matchExpressions"]
    workloads = {each["metadata"]["name"]: each for each in rendered if each["kind"] in {"Deployment", "Job"}}
    labels = {name: each["spec"]["template"]["metadata"]["labels"] for name, each in workloads.items()}
    held = {
        name
        for name, has in labels.items()
        if selector["matchLabels"].items() <= has.items() and has[among["key"]] in among["values"]
    }
    assert held == {RELEASE, f"{RELEASE}-check", f"{RELEASE}-uninstall"}


def test_the_simulators_administration_is_closed_to_the_network(helm: Helm) -> None:
    rendered = helm.render({"networkPolicy.enabled": True, "simulator.enabled": True})
    policy = pick(rendered, "NetworkPolicy", f"{RELEASE}-simulator")["spec"]
    simulator = pick(rendered, "Deployment", f"{RELEASE}-simulator")["spec"]["template"]
    assert policy["podSelector"]["matchLabels"].items() <= simulator["metadata"]["labels"].items()
    assert policy["ingress"] == [{"ports": [{"port": "work-api"}]}]
    assert (policy["policyTypes"], policy["egress"]) == (["Ingress", "Egress"], [])


def test_openshift_chooses_the_users_and_its_name_servers_are_reached(each_helm: Helm) -> None:
    file = f"--values={CHART / 'values-openshift.yaml'}"
    enabled = ("--set=networkPolicy.enabled=true", "--set=simulator.enabled=true")
    rendered = objects(each_helm.run("template", RELEASE, str(CHART), file, *enabled))
    workloads = [each for each in rendered if each["kind"] in {"Deployment", "Job"}]
    assert len(workloads) == 4
    for workload in workloads:
        context = pod_spec(workload)["securityContext"]
        assert context == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
        assert "runAsUser" not in pod_spec(workload)["containers"][0]["securityContext"]
    dns = pick(rendered, "NetworkPolicy", RELEASE)["spec"]["egress"][0]["ports"]
    assert {(each["port"], each["protocol"]) for each in dns} >= {(5353, "UDP"), (5353, "TCP")}


def test_what_is_optional_is_off(helm: Helm) -> None:
    kinds = {each["kind"] for each in helm.render() if not is_hook(each)}
    assert kinds == {
        "ClusterRole",
        "ClusterRoleBinding",
        "CustomResourceDefinition",
        "Deployment",
        "PodDisruptionBudget",
        "Role",
        "RoleBinding",
        "ServiceAccount",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
    }


def test_the_simulator_and_the_operator_agree(helm: Helm) -> None:
    rendered = helm.render({"simulator.enabled": True, "simulator.environmentKey": "some-key"})
    service = pick(rendered, "Service")
    url = environment(pick(rendered, "Deployment", RELEASE))["WORKLEASE_API_URL"]
    assert url == f"http://{service['metadata']['name']}.{service['metadata']['namespace']}.svc:8090"
    assert pick(rendered, "Secret")["stringData"] == {"environment-key": "some-key"}
    simulator = pick(rendered, "Deployment", f"{RELEASE}-simulator")
    assert service["spec"]["selector"].items() <= simulator["spec"]["template"]["metadata"]["labels"].items()
    example = pick(rendered, "WorkLease")["spec"]
    assert f"--environment={example['environmentID']}" in pod_spec(simulator)["containers"][0]["args"]


def test_selectors_stay_as_they_are_between_versions(helm: Helm) -> None:
    # A Deployment's selector is immutable: its labels can never change.
    for each in helm.render({"simulator.enabled": True, "commonLabels": {"a": "b"}}):
        if each["kind"] == "Deployment":
            assert set(each["spec"]["selector"]["matchLabels"]) == {
                "app.kubernetes.io/name",
                "app.kubernetes.io/instance",
                "app.kubernetes.io/component",
            }


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"watchNamespaces": "team-a"}, "watchNamespaces"),
        ({"config.logLevel": "verbose"}, "logLevel"),
        ({"config.requestsPerMinute": "300"}, "requestsPerMinute"),
        ({"config.apiUrl": "https://x"}, "apiUrl"),
        ({"config.apiURL": "https://user@x"}, "apiURL"),
        ({"config.httpAddress": "8080"}, "httpAddress"),
        ({"replicas": 0}, "replicas"),
        ({"image.digest": "sha256:abc"}, "digest"),
        ({"uninstall.policy": "Delete"}, "policy"),
        ({"terminationGracePeriodSeconds": 5}, "terminationGracePeriodSeconds"),
        ({"admissionPolicy.validationActions": []}, "validationActions"),
        ({"credentials.tenants": [{"namespace": "a"}]}, "secretNames"),
        ({"serviceAccount.create": False}, "serviceAccount.name must name one"),
        ({"crds.keep": False, "uninstall.policy": "Keep"}, "Terminating for ever"),
        ({"rbac.create": False}, "choose uninstall.policy=Keep"),
        ({"simulator.enabled": True, "watchNamespaces": ["team-a"]}, "add it to watchNamespaces"),
        (
            {"watchNamespaces": ["a"], "credentials.tenants": [{"namespace": "b", "secretNames": ["s"]}]},
            "not among watchNamespaces",
        ),
        (
            {
                "credentials.tenants": [
                    {"namespace": "a", "secretNames": ["s"]},
                    {"namespace": "a", "secretNames": ["t"]},
                ]
            },
            "names namespace a twice",
        ),
    ],
    ids=lambda value: json.dumps(value)[:60] if isinstance(value, dict) else "",
)
def test_values_that_make_no_sense_are_refused_by_name(each_helm: Helm, values: dict[str, Any], said: str) -> None:
    with pytest.raises(HelmError, match=re.escape(said)):
        each_helm.render(values)


def test_the_schema_knows_every_value_and_no_other() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    def compare(part: Any, under: dict[str, Any], path: str) -> None:
        if "$ref" in under:
            under = schema["definitions"][under["$ref"].rpartition("/")[2]]
        if "properties" not in under:
            return
        assert under["additionalProperties"] is False, path
        known = set(under["properties"]) - {"global"}
        if path.endswith(("resources", "Probe")):
            assert set(part) <= known, path
        else:
            assert set(part) == known, path
        for name, value in part.items():
            compare(value, under["properties"][name], f"{path}.{name}")

    compare(values, schema, "")
