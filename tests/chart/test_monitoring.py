"""The chart's objects for Prometheus and Grafana: none by default; if enabled, they fit the installed operator."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from controlplane import ensure
from observability.artefacts import DASHBOARD, alerts
from support.chart import NAMESPACE, RELEASE, Helm, HelmError, pick

ALL: dict[str, Any] = {
    "metrics.enabled": True,
    "metrics.serviceMonitor.enabled": True,
    "metrics.podMonitor.enabled": True,
    "metrics.prometheusRule.enabled": True,
    "metrics.dashboard.enabled": True,
}
KINDS = {"ServiceMonitor", "PodMonitor", "PrometheusRule"}


def test_none_of_it_is_there_unless_asked_for(helm: Helm) -> None:
    made = helm.render()
    assert not KINDS & {each["kind"] for each in made}
    assert not [each for each in made if each["metadata"]["name"].endswith("-dashboard")]


@pytest.mark.parametrize("name", ["serviceMonitor", "podMonitor", "prometheusRule", "dashboard"])
def test_each_is_asked_for_by_itself(helm: Helm, name: str) -> None:
    made = helm.render({"metrics.enabled": True, f"metrics.{name}.enabled": True})
    kinds = {each["kind"] for each in made} & KINDS
    assert kinds == ({name[0].upper() + name[1:]} & KINDS)


def test_the_monitors_find_the_operator_and_its_port(helm: Helm) -> None:
    made = helm.render(ALL)
    pod = pick(made, "Deployment", RELEASE)["spec"]["template"]
    service = pick(made, "Service", f"{RELEASE}-metrics")
    by_pod, by_service = pick(made, "PodMonitor", RELEASE)["spec"], pick(made, "ServiceMonitor", RELEASE)["spec"]
    assert by_pod["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert by_service["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    (port,) = pod["spec"]["containers"][0]["ports"]
    assert [each["port"] for each in by_pod["podMetricsEndpoints"]] == [port["name"]]
    assert [each["port"] for each in by_service["endpoints"]] == [each["name"] for each in service["spec"]["ports"]]
    for spec in (by_pod, by_service):
        assert spec["namespaceSelector"]["matchNames"] == [NAMESPACE]


def test_the_rules_are_the_tried_ones_for_this_release(helm: Helm, tmp_path: Path) -> None:
    spec = pick(helm.render(ALL), "PrometheusRule", RELEASE)["spec"]
    assert spec == yaml.safe_load(alerts(NAMESPACE))
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(spec))
    command = [str(ensure(["promtool"])["promtool"]), "check", "rules", "rules.yaml"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False).returncode == 0


def test_alerts_get_labels_for_their_route_and_can_be_left_out(helm: Helm) -> None:
    values = ALL | {
        "metrics.prometheusRule.ruleLabels": {"team": "agents", "severity": "page"},
        "metrics.prometheusRule.disabled": ["WorkLeaseBudgetTight"],
    }
    rules = pick(helm.render(values), "PrometheusRule", RELEASE)["spec"]["groups"][0]["rules"]
    assert {rule["labels"]["team"] for rule in rules} == {"agents"}
    assert {rule["labels"]["severity"] for rule in rules} == {"page"}, "the user's word counts"
    assert len(rules) == len(yaml.safe_load(alerts(NAMESPACE))["groups"][0]["rules"]) - 1
    assert "WorkLeaseBudgetTight" not in {rule["alert"] for rule in rules}


def test_the_dashboard_is_the_tried_one_where_grafana_looks(helm: Helm) -> None:
    values = ALL | {"metrics.dashboard.namespace": "grafana", "metrics.dashboard.labels": {"grafana_dashboard": "yes"}}
    found = pick(helm.render(values), "ConfigMap", f"{RELEASE}-dashboard")
    assert found["metadata"]["namespace"] == "grafana"
    assert found["metadata"]["labels"]["grafana_dashboard"] == "yes"
    assert json.loads(found["data"]["worklease-operator.json"]) == json.loads(DASHBOARD.read_text())


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"metrics.serviceMonitor.enabled": True}, "set metrics.enabled=true, or use metrics.podMonitor"),
        ({"metrics.prometheusRule.disabled": ["Typo"]}, "metrics/prometheusRule/disabled"),
        ({"metrics.podMonitor.interval": "often"}, "metrics/podMonitor/interval"),
    ],
)
def test_what_makes_no_sense_is_refused(helm: Helm, values: dict[str, Any], words: str) -> None:
    with pytest.raises(HelmError, match=words):
        helm.render(values)
