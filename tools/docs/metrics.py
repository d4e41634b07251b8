"""The page about metrics: every metric of the operator, with its type, labels and documentation from the registry.

Owns the page's form. It must not say anything about a metric that its source does not.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, cast

from prometheus_client import Metric

from worklease.api.pool_models import WorkPool
from worklease.observability.metrics import FleetCollector, Metrics
from worklease.observability.pool_metrics import PoolCollector
from worklease.pools.kept_pool import KeptPool
from worklease.rules.pool_reasons import PoolReason
from worklease.rules.queue import QueueNumbers
from worklease.telemetry import ItemHandled, ItemResult, PollResult, PoolPolled, PoolSandboxStarted

LONGEST_LIST: Final = 8
"""Values of a label that are listed at most; for a longer list the page says where it is."""

HEAD: Final = """\
<!-- Written by `make docs` from operator/worklease/observability/metrics.py. -->
# Metrics

The operator serves these metrics at `/metrics`, in the Prometheus text format. Labels have closed sets of values, and
each series exists from the start, at zero; those of a pool, from its first poll to its end. No metric has a lease's
name: `worklease status` and the resources show single leases. `Other` counts values that are not in the set, such as a
reason that is newer than this operator.

The chart has a ServiceMonitor, a PodMonitor, [alerts with a runbook each](runbooks/README.md) and a Grafana
dashboard, all off by default (`metrics.*` in its values). The dashboard's main panels, drawn from a real run:

![The dashboard's main panels](pictures/dashboard.svg)

| Metric | Type | Labels | |
|---|---|---|---|
"""
TAIL: Final = """
There are also metrics of the process: `process_*`, `python_info` and `python_gc_*`. The reasons of `worklease_leases`
are the reasons of [`LeaseHeld`](troubleshooting.md); the causes of `worklease_sandboxes_ended_total` are the reasons of
[`SandboxReady`](troubleshooting.md#sandboxready-once-it-ended).
"""


@dataclass(frozen=True, slots=True)
class _Idle:
    """The keeper, the buckets, the budget and the checkpoint of an operator without leases."""

    waiting: int = 0
    per_minute: int = 0
    largest: int = 0
    left_out: int = 0
    failing_for: float = 0.0
    part: float = 1.0
    is_valid: bool = True
    held: frozenset[int] = frozenset()

    def leases(self) -> Iterator[Any]:
        """Return no leases."""
        return iter(())

    def overdue(self) -> float:
        """Return that nothing is late."""
        return 0.0


def families() -> list[Metric]:
    """Return the operator's own metrics, without any lease."""
    metrics, idle = Metrics(), cast("Any", _Idle())
    metrics.watch(FleetCollector(idle, idle, idle, idle, lambda: 0.0), PoolCollector([_pool()], lambda: 0.0))
    for polled in PollResult:
        metrics.listen(PoolPolled(_pool().about, polled))
    for handled in ItemResult:
        metrics.listen(ItemHandled(_pool().about, "", handled, ""))
    metrics.listen(PoolSandboxStarted(_pool().about, 0.0))
    asyncio.run(metrics.page())
    return [family for family in metrics.registry.collect() if family.name.startswith("worklease_")]


def _pool() -> KeptPool:
    """Return a pool that has every series."""
    metadata = {"name": "a", "namespace": "a", "uid": "a", "generation": 1, "creationTimestamp": "2026-01-01T00:00:00Z"}
    kept = KeptPool(resource=WorkPool.parse({"metadata": metadata, "spec": {"environmentID": "a", "maxConcurrent": 1}}))
    kept.published.reason, kept.upkeep.queue = PoolReason.POLLING, QueueNumbers(0, 0, None, None)
    return kept


def names() -> list[str]:
    """Return the names of the metrics as a query uses them, without a histogram's suffixes."""
    suffixes = {"counter": "_total", "info": "_info"}
    return [family.name + suffixes.get(family.type, "") for family in families()]


def page() -> str:
    """Return the page."""
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
