"""The chart's alerts and dashboard, as files, and the queries in them.

Owns their places and how a query is read. The alerts are written by hand, the dashboard's JSON is made from
`dashboard.py`.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
FILES = ROOT / "charts" / "worklease-operator" / "monitoring"
ALERTS = FILES / "alerts.yaml"
DASHBOARD = FILES / "dashboard.json"
RUNBOOKS = ROOT / "docs" / "runbooks"

METRIC = re.compile(r"\b(?:worklease|process|python)_[a-z0-9_]+")


@dataclass(frozen=True, slots=True)
class Query:
    """A query, and whose it is."""

    owner: str
    expression: str

    @property
    def metrics(self) -> set[str]:
        """The series that it reads."""
        return set(METRIC.findall(self.expression))


def alerts(namespace: str) -> str:
    """The alerts' file as the chart renders it for a release in `namespace`."""
    return ALERTS.read_text().replace("@namespace@", namespace)


def rules() -> list[dict[str, Any]]:
    """The alerts, one by one."""
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def rule_queries(namespace: str) -> list[Query]:
    """The alerts' queries."""
    groups = yaml.safe_load(alerts(namespace))["groups"]
    return [Query(rule["alert"], rule["expr"]) for group in groups for rule in group["rules"]]


def panels() -> Iterator[dict[str, Any]]:
    """The dashboard's panels that show something."""
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        if panel["type"] != "row":
            yield panel


def panel_queries(window: str) -> list[Query]:
    """The panels' queries, with the variables filled in as Grafana does."""
    return [
        Query(panel["title"], filled_in(target["expr"], window)) for panel in panels() for target in panel["targets"]
    ]


def filled_in(expression: str, window: str) -> str:
    """A query without Grafana's variables: all namespaces, and rates over `window`."""
    return expression.replace("$namespace", ".*").replace("$__rate_interval", window)
