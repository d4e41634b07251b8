"""The metrics: what the fleet looks like at the moment of a scrape.

Owns the names and units of the metrics, by the Prometheus conventions, with labels from closed sets only. Counted when
somebody asks, so a beat costs nothing. Must not be called by anything but the composition root and a scrape.
"""

from collections import Counter
from collections.abc import Iterator

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from worklease.budget import Budget
from worklease.keeper import Keeper
from worklease.server import Page


class Fleet(Collector):
    """The kept leases and the budget that they share."""

    def __init__(self, keeper: Keeper, budget: Budget) -> None:
        self._keeper = keeper
        self._budget = budget

    def collect(self) -> Iterator[Metric]:
        """Count the fleet as it is now."""
        by_reason = GaugeMetricFamily(
            "worklease_leases", "Kept leases by the reason of their LeaseHeld condition.", labels=["reason"]
        )
        counts = Counter(self._keeper.reasons())
        for reason, count in sorted(counts.items()):
            by_reason.add_metric([reason], count)
        yield by_reason
        yield GaugeMetricFamily(
            "worklease_budget_short_leases",
            "Leases at risk because the request budget is too small for all of them.",
            value=counts["BudgetShort"],
        )
        yield GaugeMetricFamily(
            "worklease_budget_waiting_requests",
            "Requests to the Work API that wait for their turn.",
            value=self._budget.waiting,
        )
        yield GaugeMetricFamily(
            "worklease_budget_requests_per_minute",
            "Requests to the Work API that are allowed a minute; 0 is no limit.",
            value=self._budget.per_minute,
        )


def page(keeper: Keeper, budget: Budget) -> Page:
    """Write the metrics in the text format."""
    registry = CollectorRegistry()
    registry.register(Fleet(keeper, budget))
    return Page(generate_latest(registry), CONTENT_TYPE_LATEST)
