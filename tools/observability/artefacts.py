"""The chart's alerts and dashboard, as files, and the queries in them.

Owns their paths and how a query is parsed. The alerts are written by hand; `dashboard.py` generates the dashboard's
JSON.
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
    """A query, and the alert or panel that it belongs to."""

    owner: str
    expression: str

    @property
    def metrics(self) -> set[str]:
        """The names of the series that it reads."""
        return set(METRIC.findall(self.expression))


def alerts(namespace: str) -> str:
    """Return the alerts' file as the chart renders it for a release in `namespace`."""
    return ALERTS.read_text().replace("@namespace@", namespace)


def rules() -> list[dict[str, Any]]:
    """Return the alerts as a list."""
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def rule_queries(namespace: str) -> list[Query]:
    """Return the alerts' queries."""
    groups = yaml.safe_load(alerts(namespace))["groups"]
    return [Query(rule["alert"], rule["expr"]) for group in groups for rule in group["rules"]]


def panels() -> Iterator[dict[str, Any]]:
    """Yield the dashboard's panels, without the row headings."""
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        if panel["type"] != "row":
            yield panel


def panel_queries(window: str) -> list[Query]:
    """Return the panels' queries, with the variables filled in as Grafana does."""
    return [
        Query(panel["title"], filled_in(target["expr"], window)) for panel in panels() for target in panel["targets"]
    ]


def filled_in(expression: str, window: str) -> str:
    """Return a query without Grafana's variables: all namespaces, and rates over `window`."""
    return expression.replace("$namespace", ".*").replace("$__rate_interval", window)
