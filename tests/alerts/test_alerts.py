"""The chart's alerts and dashboard: which alert fires when, and that nothing in them is out of date."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from controlplane import ensure
from observability.artefacts import DASHBOARD, RUNBOOKS, alerts, panel_queries, panels, rule_queries, rules
from observability.dashboard import MEANINGS, dashboard
from observability.prometheus import NAMESPACE
from worklease.rules.reasons import Kind, reasons_of

CASES = Path(__file__).with_name("rules.yaml")


def promtool(*arguments: str, cwd: Path) -> str:
    command = [str(ensure(["promtool"])["promtool"]), *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def rendered(tmp_path: Path) -> Path:
    (tmp_path / "alerts.yaml").write_text(alerts(NAMESPACE))
    (tmp_path / "rules.yaml").write_text(CASES.read_text())
    return tmp_path


@pytest.mark.alerts
def test_prometheus_takes_the_rules(rendered: Path) -> None:
    assert f"SUCCESS: {len(rules())} rules found" in promtool("check", "rules", "alerts.yaml", cwd=rendered)


@pytest.mark.alerts
def test_each_alert_fires_when_it_should_and_at_no_other_time(rendered: Path) -> None:
    assert "SUCCESS" in promtool("test", "rules", "rules.yaml", cwd=rendered)


def test_each_alert_has_a_case_in_which_it_fires() -> None:
    expected = [
        sample["labels"]
        for case in yaml.safe_load(CASES.read_text())["tests"]
        for asked in case["promql_expr_test"]
        for sample in asked["exp_samples"]
    ]
    fired = {name for labels in expected for name in re.findall(r'alertname="(\w+)"', labels)}
    assert fired == {rule["alert"] for rule in rules()}


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: str(rule["alert"]))
def test_each_alert_says_what_it_is_and_has_a_runbook(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    told = rule["annotations"]
    assert told["summary"].endswith(".")
    assert told["description"].endswith(".")
    assert told["runbook_url"].endswith(f"/docs/runbooks/{rule['alert']}.md")
    page = (RUNBOOKS / f"{rule['alert']}.md").read_text()
    assert page.startswith(f"# {rule['alert']}\n")
    assert re.findall(r"^## (.*)$", page, re.MULTILINE) == ["What it means", "Where to look", "What to do"]
    assert f"[{rule['alert']}]({rule['alert']}.md)" in (RUNBOOKS / "README.md").read_text()


def test_each_runbook_is_of_an_alert_and_names_panels_and_pages_that_are_there() -> None:
    pages = {path.stem: path.read_text() for path in RUNBOOKS.glob("*.md")}
    assert set(pages) == {rule["alert"] for rule in rules()} | {"README"}
    titles = {panel["title"] for panel in panels()}
    for name, page in pages.items():
        named = set(re.findall(r"\*([A-Z][a-z ]+)\*", page))
        assert named <= titles, f"{name} names panels that are not in the dashboard"
        assert set(re.findall(r"\]\((\w+)\.md\)", page)) <= set(pages)


def test_the_dashboards_file_is_what_is_written_from_its_panels() -> None:
    assert DASHBOARD.read_text() == dashboard(), "it is out of date: make dashboard"


def test_the_dashboards_panels_do_not_overlap_and_fill_their_rows() -> None:
    places = [panel["gridPos"] for panel in json.loads(dashboard())["panels"]]
    cells = [
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert len(cells) % 24 == 0
    assert max(x for x, _ in cells) == 23


def test_the_dashboards_colours_are_of_reasons_that_a_lease_may_give() -> None:
    named = {word for word in MEANINGS if word[0].isupper()}
    assert named < {reason.value for reason in reasons_of(Kind.LEASE_HELD)}


def test_queries_choose_the_operators_namespace() -> None:
    for query in panel_queries("1m"):
        assert query.expression.count('namespace=~".*"') >= len(query.metrics - {"worklease_build_info"}), query
    assert any(f'namespace="{NAMESPACE}"' in query.expression for query in rule_queries(NAMESPACE))
