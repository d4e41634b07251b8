"""The Grafana dashboard: which panels it has, and their JSON.

Owns the panels. `python -m observability dashboard` writes the chart's file from them; a test checks that they agree.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from worklease.rules.reasons import TABLE, Kind, Level, Reason, reasons_of

WIDTH = 24  # Grafana's grid
HEIGHT = 8
SELECT = '{namespace=~"$namespace"}'
SOURCE = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel: its title, its description, its unit as Grafana names it, and its queries by legend."""

    title: str
    about: str
    unit: str
    queries: dict[str, str]
    kind: str = "timeseries"
    width: int = 8
    height: int = HEIGHT
    is_stacked: bool = False
    steps: tuple[tuple[str, float | None], ...] = ()
    """Thresholds: colours, each with the value at which it starts."""


@dataclass(frozen=True, slots=True)
class Row:
    """Panels that belong together."""

    title: str
    panels: tuple[Panel, ...]


def _by(label: str, metric: str, select: str = "") -> str:
    extra = f", {select}" if select else ""
    return f'sum by ({label}) ({metric}{{namespace=~"$namespace"{extra}}})'


def _rate(label: str, metric: str) -> str:
    return f"sum by ({label}) (rate({metric}{SELECT}[$__rate_interval]))"


def _increase(label: str, metric: str) -> str:
    return f"sum by ({label}) (increase({metric}{SELECT}[$__rate_interval]))"


def _quantiles(metric: str) -> dict[str, str]:
    return {
        f"p{quantile * 100:g}": f"histogram_quantile({quantile}, sum by (le) "
        f"(rate({metric}_bucket{SELECT}[$__rate_interval])))"
        for quantile in (0.5, 0.9, 0.99)
    }


MEANINGS = {
    **dict.fromkeys(("Renewed", "renewed", "active"), "green"),
    **dict.fromkeys(("Claiming", "starting"), "blue"),
    **dict.fromkeys(("Draining", "stopping"), "light-blue"),
    "conflicted": "dark-purple",
    **dict.fromkeys(("Stopped", "stopped", "Released", "AckRefused", "Suspended", "queued"), "gray"),
    **dict.fromkeys(("InDoubt", "unanswered"), "purple"),
    **dict.fromkeys(("Unreachable", "unsent"), "orange"),
    **dict.fromkeys(("BudgetShort", "Throttled", "throttled"), "yellow"),
    **dict.fromkeys(("Unauthorized", "CredentialsMissing", "unauthorized", "Fenced", "Expired", "TakenOver"), "red"),
}
"""Colours of what means the same in all panels: readers recognize stacked series by them."""

CALM = "|".join(
    reason
    for reason in reasons_of(Kind.LEASE_HELD)
    if TABLE[reason].level in {Level.WELL, Level.UNDER_WAY} or reason is Reason.STOPPED
)
"""The reasons, as a regular expression, of leases that need no attention."""

ROWS = (
    Row(
        "At a glance",
        (
            Panel(
                "Leases held",
                "Leases that are renewed, or whose sandbox is finishing.",
                "short",
                {"held": 'sum(worklease_leases{namespace=~"$namespace", reason=~"Renewed|Draining"})'},
                kind="stat",
                width=6,
                height=4,
            ),
            Panel(
                "Leases in trouble",
                "Leases that need attention: kubectl worklease status -A.",
                "short",
                {"in trouble": f'sum(worklease_leases{{namespace=~"$namespace", reason!~"{CALM}"}})'},
                kind="stat",
                width=6,
                height=4,
                steps=(("green", None), ("red", 1)),
            ),
            Panel(
                "Nearest expiry",
                "Time to the end of the lease that ends first. Steady leases are renewed at a third of their TTL.",
                "s",
                {"nearest": f"min(worklease_nearest_expiry_seconds{SELECT})"},
                kind="stat",
                width=6,
                height=4,
                steps=(("red", None), ("yellow", 5), ("green", 10)),
            ),
            Panel(
                "Request budget used",
                "Calls to the Work API, as a share of the allowed number. Routine heartbeats may use four fifths.",
                "percentunit",
                {
                    "used": f"sum(rate(worklease_budget_turns_total{SELECT}[$__rate_interval])) * 60 / "
                    f"sum(worklease_budget_requests_per_minute{SELECT} > 0)"
                },
                kind="stat",
                width=6,
                height=4,
                steps=(("green", None), ("yellow", 0.75), ("red", 0.9)),
            ),
        ),
    ),
    Row(
        "Leases",
        (
            Panel(
                "Leases by reason",
                "Kept leases by the reason of their LeaseHeld condition.",
                "short",
                {"{{reason}}": f"{_by('reason', 'worklease_leases')} > 0"},
                width=12,
                is_stacked=True,
            ),
            Panel(
                "Work items by state",
                "The states that the server reported last.",
                "short",
                {"{{state}}": f"{_by('state', 'worklease_work_items')} > 0"},
                width=12,
                is_stacked=True,
            ),
            Panel(
                "Time to the nearest expiry",
                "It falls when a lease is not renewed.",
                "s",
                {"nearest": f"min(worklease_nearest_expiry_seconds{SELECT})"},
            ),
            Panel(
                "Doubt, adoptions, fences",
                "Leases with an unanswered or overdue heartbeat; values from a refusal that the operator recognized as "
                "its own; leases at their fence.",
                "short",
                {
                    "in doubt": f"sum(worklease_leases_in_doubt{SELECT})",
                    "overdue": f"sum(worklease_leases_overdue{SELECT})",
                    "adopted: {{rule}}": f"sum by (rule) (increase(worklease_adoptions_total{SELECT}"
                    "[$__rate_interval])) > 0",
                    "fenced": f"sum(increase(worklease_fences_total{SELECT}[$__rate_interval]))",
                },
            ),
            Panel(
                "Leases that ended",
                "How they ended. All except Stopped are lost leases.",
                "short",
                {"{{reason}}": _increase("reason", "worklease_leases_ended_total")},
            ),
        ),
    ),
    Row(
        "Heartbeats",
        (
            Panel(
                "Heartbeats by outcome",
                "Outcomes per second.",
                "reqps",
                {"{{outcome}}": f"{_rate('outcome', 'worklease_heartbeats_total')} > 0"},
                is_stacked=True,
            ),
            Panel(
                "Heartbeat latency",
                "How long the call took, answered or not.",
                "s",
                _quantiles("worklease_heartbeat_duration_seconds"),
            ),
            Panel(
                "Heartbeat lateness",
                "How long after their due time they were sent.",
                "s",
                _quantiles("worklease_heartbeat_lateness_seconds"),
            ),
        ),
    ),
    Row(
        "Sandboxes",
        (
            Panel(
                "Sandboxes torn down",
                "Why the operator deleted them.",
                "short",
                {"{{cause}}": _increase("cause", "worklease_sandboxes_torn_down_total")},
            ),
            Panel(
                "Sandboxes that ended by themselves",
                "How they ended.",
                "short",
                {"{{cause}}": _increase("cause", "worklease_sandboxes_ended_total")},
            ),
            Panel(
                "From stop to deletion",
                "Time from the heartbeat that said that the item is stopping to the answer to the pod's deletion.",
                "s",
                _quantiles("worklease_stop_to_delete_seconds"),
            ),
        ),
    ),
    Row(
        "Calls",
        (
            Panel(
                "Request budget",
                "Calls per minute by rank, if they are limited, and the limit.",
                "short",
                {
                    "{{rank}}": f"{_rate('rank', 'worklease_budget_turns_total')} * 60",
                    "allowed": f"sum(worklease_budget_requests_per_minute{SELECT}) > 0",
                },
            ),
            Panel(
                "Waiting for the budget",
                "Calls that wait for the budget, and how long.",
                "short",
                {
                    "calls": f"sum(worklease_budget_waiting_requests{SELECT})",
                    "seconds (p99)": "histogram_quantile(0.99, sum by (le) "
                    f"(rate(worklease_budget_wait_seconds_bucket{SELECT}[$__rate_interval])))",
                },
            ),
            Panel(
                "Refused calls by code",
                "Error answers of the Work API per second.",
                "reqps",
                {"{{call}} {{code}}": f"{_rate('call, code', 'worklease_work_api_refusals_total')} > 0"},
            ),
        ),
    ),
    Row(
        "The operator",
        (
            Panel(
                "Status writes",
                "Written, replaced by a newer one before being sent, or failed, per second.",
                "wps",
                {"{{result}}": _rate("result", "worklease_status_writes_total")},
            ),
            Panel(
                "Event loop lag",
                "How late the event loop wakes, and how late the keeper handles a lease.",
                "s",
                {
                    **_quantiles("worklease_event_loop_lag_seconds"),
                    "turn": f"max(worklease_turn_overdue_seconds{SELECT})",
                },
            ),
            Panel(
                "Process",
                "CPU seconds per second, and how often the watches were restarted.",
                "short",
                {
                    "CPU": "sum(rate(process_cpu_seconds_total"
                    f"{SELECT}[$__rate_interval]) and on (instance) worklease_build_info)",
                    "watches restarted": f"sum(increase(worklease_kopf_restarts_total{SELECT}[$__rate_interval]))",
                },
                width=4,
            ),
            Panel(
                "Memory",
                "Resident memory of the process.",
                "bytes",
                {
                    "resident": f"sum(process_resident_memory_bytes{SELECT} and on (instance) worklease_build_info)",
                },
                width=4,
            ),
        ),
    ),
    Row(
        "Pools",
        (
            Panel(
                "Leases of pools",
                "WorkLeases of pools that are not finished, by stage, and how many there may be.",
                "short",
                {
                    "{{stage}}": _by("stage", "worklease_pool_active"),
                    "most": f"sum(worklease_pool_max_concurrent{SELECT})",
                },
            ),
            Panel(
                "Queues of pools",
                "Items that wait, as the server counted them, and for how many seconds the oldest has.",
                "short",
                {
                    "{{pool}}": _by("pool", "worklease_pool_queue_depth"),
                    "oldest": f"max(worklease_pool_queue_oldest_seconds{SELECT})",
                },
            ),
            Panel(
                "From the poll to the sandbox",
                "Seconds from the answer to a poll to the readiness of its item's sandbox.",
                "s",
                _quantiles("worklease_pool_start_seconds"),
            ),
        ),
    ),
)


def dashboard() -> str:
    """Return the dashboard's JSON."""
    body = {
        "uid": "worklease-operator",
        "title": "WorkLease operator",
        "description": "The work leases of self-hosted agent sandboxes, and the operator that keeps them.",
        "tags": ["worklease"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": [_datasource(), _namespace()]},
        "annotations": {"list": []},
        "panels": list(_panels()),
    }
    return json.dumps(body, indent=2) + "\n"


def _datasource() -> dict[str, Any]:
    return {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}


def _namespace() -> dict[str, Any]:
    query = "label_values(worklease_build_info, namespace)"
    return {
        "name": "namespace",
        "label": "Operator's namespace",
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": "namespace"},
        "definition": query,
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
        "refresh": 2,
    }


def _panels() -> Iterator[dict[str, Any]]:
    number = y = 0
    for row in ROWS:
        number += 1
        place = {"x": 0, "y": y, "w": WIDTH, "h": 1}
        yield {"id": number, "type": "row", "title": row.title, "collapsed": False, "gridPos": place, "panels": []}
        y += 1
        x = height = 0
        for panel in row.panels:
            if x + panel.width > WIDTH:
                x, y = 0, y + height
            number += 1
            height = panel.height
            yield _panel(number, panel, {"x": x, "y": y, "w": panel.width, "h": panel.height})
            x += panel.width
        y += height


def _panel(number: int, panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    steps = [{"color": colour, "value": value} for colour, value in panel.steps or (("green", None),)]
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0, "thresholds": {"mode": "absolute", "steps": steps}}
    if panel.kind == "timeseries":
        stacking = {"mode": "normal" if panel.is_stacked else "none"}
        defaults["custom"] = {"fillOpacity": 30 if panel.is_stacked else 5, "stacking": stacking, "showPoints": "never"}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": _colours() if panel.is_stacked else []},
        "options": _options(panel),
        "targets": [
            {"refId": chr(ord("A") + position), "datasource": SOURCE, "expr": query, "legendFormat": legend}
            for position, (legend, query) in enumerate(panel.queries.items())
        ],
    }


def _colours() -> list[dict[str, Any]]:
    return [
        {
            "matcher": {"id": "byName", "options": name},
            "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": colour}}],
        }
        for name, colour in MEANINGS.items()
    ]


def _options(panel: Panel) -> dict[str, Any]:
    if panel.kind == "stat":
        return {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value", "graphMode": "area"}
    return {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}}
