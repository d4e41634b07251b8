"""The metrics' page: every metric of the operator, with its type, labels and words, as the registry has it.

Owns the page's form. Must not say anything of a metric that its source does not.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, cast

from prometheus_client import Metric

from worklease.observability.metrics import Fleet, Metrics

LONGEST_LIST: Final = 8
"""Values of a label that are written out; of a longer list the page says where it is."""

HEAD: Final = """\
<!-- Written by `make docs` from operator/worklease/observability/metrics.py. -->
# Metrics

`/metrics` of the operator, in the Prometheus text format. Labels come from closed sets, and each series is there from
the start, at zero. No metric has a lease's name: `worklease status` and the resources tell of single leases. `Other`
counts what is not in the set, such as a reason that is newer than this operator.

The chart brings a ServiceMonitor, a PodMonitor, [alerts with a runbook each](runbooks/README.md) and a Grafana
dashboard, all off by default (`metrics.*` in its values). The dashboard's main panels, drawn from a real run:

![The dashboard's main panels](pictures/dashboard.svg)

| Metric | Type | Labels | |
|---|---|---|---|
"""
TAIL: Final = """
Beside these, the process tells of itself: `process_*`, `python_info` and `python_gc_*`. The reasons of
`worklease_leases` are those of [`LeaseHeld`](troubleshooting.md); the causes of `worklease_sandboxes_ended_total` are
those of [`SandboxReady`](troubleshooting.md#sandboxready-once-it-ended).
"""


@dataclass(frozen=True, slots=True)
class _Idle:
    """A keeper and a budget of an operator without leases."""

    waiting: int = 0
    per_minute: int = 0

    def leases(self) -> Iterator[Any]:
        """There are none."""
        return iter(())

    def overdue(self) -> float:
        """Nothing is late."""
        return 0.0


def families() -> list[Metric]:
    """Give the operator's own metrics, without any lease."""
    metrics, idle = Metrics(), cast("Any", _Idle())
    metrics.watch(Fleet(idle, idle, lambda: 0.0))
    asyncio.run(metrics.page())
    return [family for family in metrics.registry.collect() if family.name.startswith("worklease_")]


def names() -> list[str]:
    """Give the names of the metrics as a query has them, without a histogram's suffixes."""
    suffixes = {"counter": "_total", "info": "_info"}
    return [family.name + suffixes.get(family.type, "") for family in families()]


def page() -> str:
    """Write the page."""
    rows = (
        f"| `{name}` | {family.type} | {_labels(family)} | {family.documentation} |"
        for name, family in sorted(zip(names(), families(), strict=True), key=lambda pair: pair[0])
    )
    return HEAD + "\n".join(rows) + "\n" + TAIL


def _labels(family: Metric) -> str:
    values: defaultdict[str, set[str]] = defaultdict(set)
    for sample in family.samples:
        for label, value in sample.labels.items():
            values[label].add(value)
    values.pop("le", None)
    return "; ".join(f"`{label}`{_listed(found)}" for label, found in values.items())


def _listed(values: set[str]) -> str:
    if len(values) == 1 or len(values) > LONGEST_LIST:
        return ""
    return ": " + ", ".join(sorted(values))
