"""The metrics of pools: what their polls brought, what became of items, and how many leases there are.

Owns these metrics and their labels, namespace and pool: pools are few, and a pool that is gone has no series. Must not
read anything but telemetry and the kept pools.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Final, assert_never

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from worklease import telemetry
from worklease.pools.kept_pool import KeptPool
from worklease.rules.lease import instant

LABELS: Final = ("namespace", "pool")

STARTS: Final = (0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)
"""Buckets of a sandbox's start: from an image that is on its node to a node that has to be made."""


class PoolMetrics:
    """What happened to pools, as counters."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._polls = Counter(
            "worklease_pool_polls", "Polls of a pool by what they brought.", [*LABELS, "result"], registry=registry
        )
        self._items = Counter(
            "worklease_pool_items",
            "Items that polls of a pool brought, by what became of them.",
            [*LABELS, "result"],
            registry=registry,
        )
        self._starts = Histogram(
            "worklease_pool_start_seconds",
            "Time from a poll's answer to the readiness of its item's sandbox.",
            LABELS,
            buckets=STARTS,
            registry=registry,
        )

    def count(self, event: telemetry.PoolEvent) -> None:
        """Count what happened."""
        about = event.about
        match event:
            case telemetry.PoolPolled(_, result):
                self._show(about)
                self._polls.labels(about.namespace, about.name, result.value).inc()
            case telemetry.ItemHandled(result=handled):
                self._items.labels(about.namespace, about.name, handled.value).inc()
            case telemetry.PoolSandboxStarted(_, seconds):
                self._starts.labels(about.namespace, about.name).observe(seconds)
            case telemetry.PoolChanged():
                pass  # its event and its condition say it
            case telemetry.PoolGone():
                self._forget(about)
            case _:
                assert_never(event)

    def _show(self, about: telemetry.AboutPool) -> None:
        """Have all series of a pool exist, at zero."""
        place = (about.namespace, about.name)
        self._starts.labels(*place)
        for counter, results in self._by_result():
            for result in results:
                counter.labels(*place, result.value)

    def _by_result(self) -> tuple[tuple[Counter, type[telemetry.PollResult | telemetry.ItemResult]], ...]:
        return ((self._polls, telemetry.PollResult), (self._items, telemetry.ItemResult))

    def _forget(self, about: telemetry.AboutPool) -> None:
        place = (about.namespace, about.name)
        for counter, results in self._by_result():
            for result in results:
                _remove(counter, *place, result.value)
        _remove(self._starts, *place)


def _remove(metric: Counter | Histogram, *labels: str) -> None:
    """Remove a series, if it is there."""
    metric.labels(*labels)
    metric.remove(*labels)


class PoolCollector(Collector):
    """The state of the kept pools, as it is when it is read."""

    def __init__(self, pools: Iterable[KeptPool], clock: Callable[[], float]) -> None:
        self._pools = pools
        self._clock = clock

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges of all pools."""
        active = _family("worklease_pool_active", "WorkLeases of a pool that are not finished, by stage.", "stage")
        most = _family("worklease_pool_max_concurrent", "How many WorkLeases a pool may have at once.")
        depth = _family("worklease_pool_queue_depth", "Items in the queue of a pool, as the server counted them last.")
        oldest = _family("worklease_pool_queue_oldest_seconds", "How long the oldest item in a pool's queue waits.")
        is_ready = _family("worklease_pool_ready", "Whether nothing keeps a pool from its work: 1 or 0.", "reason")
        for kept in self._pools:
            pool = kept.resource
            place = [pool.namespace, pool.name]
            for stage, number in kept.census.count().items():
                active.add_metric([*place, stage.name.lower()], number)
            most.add_metric(place, pool.spec.max_concurrent)
            reason = kept.published.reason
            if reason is not None:
                is_ready.add_metric([*place, reason.value], float(kept.published.is_ready))
            numbers = kept.upkeep.queue
            if numbers is not None:
                depth.add_metric(place, numbers.depth)
                since = instant(numbers.oldest_queued_at)
                oldest.add_metric(place, 0.0 if since is None else max(0.0, self._clock() - since))
        yield from (active, most, depth, oldest, is_ready)


def _family(name: str, words: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, words, labels=[*LABELS, *labels])
