"""The metrics: events counted as they happen, and the state of the fleet counted at each scrape.

Owns the names and units of the metrics, by the Prometheus conventions, with labels from closed sets only: each series
exists from the start, at zero, so a beat never has to create one. Only the composition root may call this module: it
listens to telemetry. A word that others choose (a pod's reason, an HTTP status) is counted as ``Other`` if it is new.
"""

import asyncio
import math
import platform
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import version
from typing import Final, TypeVar, assert_never

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from worklease import telemetry
from worklease.cluster.checkpoint import Checkpoint
from worklease.keeper.keeper import Keeper
from worklease.keeper.tenures import Tenures
from worklease.observability.pool_metrics import PoolCollector, PoolMetrics
from worklease.observability.server import Page
from worklease.rules import deadlines, outcomes
from worklease.rules.lease import Adoption, End, Lease
from worklease.rules.pods import Cause
from worklease.rules.reasons import TABLE, Kind, Reason, reason_of, reasons_of
from worklease.work_api.budget import Budget

OTHER: Final = "Other"
"""The label value for a word that is not in the closed set."""

STATES: Final = ("queued", "starting", "active", "stopping", "stopped")
"""The states of a work item (Record Heartbeat reference)."""

CODES: Final = ("400", "401", "403", "404", "408", "409", "412", "429", "500", "502", "503", "504", "529")
"""The HTTP codes that have a series each."""

ENDINGS: Final = tuple(reason_of(cause) for cause in Cause)
"""How sandboxes end without the operator."""

TEARDOWNS: Final = (*(reason for reason in Reason if TABLE[reason].deletes_pods), "ResourceDeleted")
"""Why the operator deletes sandbox pods: for a reason of a condition, or because the resource is deleted."""

SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
"""Buckets of a call: from an answer within the same data centre to the longest time-out."""

LATE: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
"""Buckets of waiting: a minute does no harm to a lease of 300 s, two seconds do to one of 15 s."""

LAG: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
"""Buckets of the event loop's lag: below ten milliseconds it is healthy."""

OVERDUE: Final = 3 / 5
"""The part of the TTL after which a renewal is overdue: a third is routine, and a tight budget may need this much."""

STRETCH: Final = 500
"""Leases counted in a row; then beats have their turn."""

Child = TypeVar("Child")


class Metrics:
    """All metrics of the process; ``listen`` receives its telemetry."""

    def __init__(self) -> None:
        disable_created_metrics()
        self.registry = registry = CollectorRegistry()
        self._fleet: FleetCollector | None = None
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)
        build = Info("worklease_build", "The version of the operator, and of its Python.", registry=registry)
        build.info({"version": version("worklease"), "python_version": platform.python_version()})
        self._leases = _Leases(registry)
        self._sandboxes = _Sandboxes(registry)
        self._buckets = _Buckets(registry)
        self._pools = PoolMetrics(registry)
        self._budget_turns = _bound(
            _counter(
                registry,
                "worklease_budget_turns",
                "Calls to the Work API that the budget let through, if their rate is limited.",
                "rank",
            ),
            ("first", "routine", "last"),
        )
        self._budget_wait = Histogram(
            "worklease_budget_wait_seconds",
            "How long a call to the Work API waited for the budget, if their rate is limited.",
            buckets=LATE,
            registry=registry,
        )
        refusals = Counter(
            "worklease_work_api_refusals",
            "Calls that the Work API answered with an error.",
            ["call", "code"],
            registry=registry,
        )
        self._refusals = {
            (call, code): refusals.labels(call.value, code)
            for call in telemetry.WorkApiCall
            for code in (*CODES, OTHER)
        }
        self._writes = _bound(
            _counter(registry, "worklease_status_writes", "Status writes by what became of them.", "result"),
            tuple(write.value for write in telemetry.Write),
        )
        self._kopf = _counter(registry, "worklease_kopf_restarts", "Restarts of Kopf after it ended.")
        self._lag = Histogram(
            "worklease_event_loop_lag_seconds",
            "How late the event loop wakes up.",
            buckets=LAG,
            registry=registry,
        )

    def listen(self, event: telemetry.TelemetryEvent) -> None:
        """Count what happened; the most frequent events come first."""
        match event:
            case telemetry.BeatEnded():
                self._leases.beat(event)
            case telemetry.TurnGiven(rank, waited):
                self._budget_turns[rank].inc()
                self._budget_wait.observe(waited)
            case telemetry.StatusWrite(result):
                self._writes[result].inc()
            case telemetry.LoopLagged(seconds):
                self._lag.observe(seconds)
            case telemetry.CallRefused(call, code):
                self._refusals[call, str(code) if str(code) in CODES else OTHER].inc()
            case telemetry.KopfEnded():
                self._kopf.inc()
            case telemetry.LeftAlone():
                pass  # who keeps it counts it
            case telemetry.BucketMoved() | telemetry.LeaseTakenOver():
                self._buckets.count(event)
            case telemetry.ConditionChanged() | telemetry.LeaseAdopted() | telemetry.LeaseEnded():
                self._leases.count(event)
            case telemetry.PoolPolled() | telemetry.ItemHandled() | telemetry.PoolChanged():
                self._pools.count(event)
            case telemetry.PoolSandboxStarted() | telemetry.PoolGone():
                self._pools.count(event)
            case _:
                self._sandboxes.count(event)

    def watch(self, fleet: "FleetCollector", pools: PoolCollector | None = None) -> None:
        """Show the state of a fleet as well, and of the pools."""
        self._fleet = fleet
        self.registry.register(fleet)
        if pools is not None:
            self.registry.register(pools)

    async def page(self) -> Page:
        """Count the fleet, and return the metrics in the text format."""
        if self._fleet is not None:
            await self._fleet.count()
        return Page(generate_latest(self.registry), CONTENT_TYPE_LATEST)


class _Leases:
    """The metrics of what happened to leases."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._beats = _bound(_counter(registry, "worklease_heartbeats", "Heartbeats by outcome.", "outcome"), OUTCOMES)
        self._took = Histogram(
            "worklease_heartbeat_duration_seconds",
            "How long a heartbeat's call took, answered or not.",
            buckets=SECONDS,
            registry=registry,
        )
        self._late = Histogram(
            "worklease_heartbeat_lateness_seconds",
            "How long after its due time a heartbeat was sent.",
            buckets=LATE,
            registry=registry,
        )
        self._fences = _counter(
            registry, "worklease_fences", "Leases that reached their fence: no heartbeat was accepted in time."
        )
        self._adoptions = _bound(
            _counter(
                registry,
                "worklease_adoptions",
                "Values from a refusal that the operator recognized as its own.",
                "rule",
            ),
            tuple(Adoption),
        )
        self._ends = _bound(
            _counter(registry, "worklease_leases_ended", "Leases that are over, by how they ended.", "reason"),
            tuple(End),
        )

    def beat(self, ended: telemetry.BeatEnded) -> None:
        self._beats[_name(ended.outcome)].inc()
        self._took.observe(ended.outcome.exchange.done - ended.outcome.exchange.sent)
        self._late.observe(ended.late)

    def count(self, event: telemetry.ConditionChanged | telemetry.LeaseAdopted | telemetry.LeaseEnded) -> None:
        match event:
            case telemetry.LeaseEnded(_, reason):
                self._ends[reason].inc()
            case telemetry.LeaseAdopted(_, rule):
                self._adoptions[rule].inc()
            case telemetry.ConditionChanged(type=Kind.LEASE_HELD, reason=Reason.FENCED):
                self._fences.inc()
            case telemetry.ConditionChanged():
                pass


class _Buckets:
    """The metrics of buckets of leases that came to this process, or went."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._moves = _bound(
            _counter(
                registry,
                "worklease_bucket_moves",
                "Buckets of leases that came to this process, or went, by the cause.",
                "cause",
            ),
            tuple(telemetry.BucketMove),
        )
        self._taken_over = Histogram(
            "worklease_take_to_heartbeat_seconds",
            "Time from the moment when a lease's bucket came to this process to the lease's first accepted heartbeat.",
            buckets=LATE,
            registry=registry,
        )

    def count(self, event: telemetry.BucketMoved | telemetry.LeaseTakenOver) -> None:
        match event:
            case telemetry.BucketMoved(_, move):
                self._moves[move].inc()
            case telemetry.LeaseTakenOver(seconds):
                self._taken_over.observe(seconds)
            case _:
                assert_never(event)


class _Sandboxes:
    """The metrics of what happened to sandboxes and their items."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._made = _counter(registry, "worklease_sandboxes_made", "Sandbox pods created from a template.")
        self._ended = _bound(
            _counter(
                registry, "worklease_sandboxes_ended", "Sandboxes that ended without the operator, by cause.", "cause"
            ),
            (*ENDINGS, OTHER),
        )
        self._torn_down = _bound(
            _counter(
                registry, "worklease_sandboxes_torn_down", "Sandbox pods that the operator deleted, by cause.", "cause"
            ),
            (*TEARDOWNS, OTHER),
        )
        self._refused = _counter(registry, "worklease_sandbox_deletions_refused", "Refused deletions of sandbox pods.")
        self._stop_to_delete = Histogram(
            "worklease_stop_to_delete_seconds",
            "Time from the heartbeat that said why a sandbox must go to the answer to its deletion.",
            buckets=LATE,
            registry=registry,
        )
        self._gone = _counter(
            registry, "worklease_sandboxes_gone", "Sandbox pods that the operator deleted and that are gone."
        )
        self._ignored = _counter(
            registry, "worklease_pods_spared", "Pods that have an item's labels and that the operator ignores."
        )
        self._stops = _bound(
            _counter(
                registry,
                "worklease_item_stops",
                "Stops of work items that were sent; heard means acknowledged.",
                "result",
            ),
            ("heard", "unheard"),
        )
        self._orphaned = _counter(
            registry,
            "worklease_resources_left_behind",
            "Resources whose finalizer was removed although something was left.",
        )

    def count(self, event: telemetry.SandboxEvent) -> None:
        match event:
            case telemetry.SandboxMade():
                self._made.inc()
            case telemetry.SandboxEnded(cause=cause):
                _among(self._ended, cause).inc()
            case telemetry.DeletionAsked(cause=cause, late=late):
                _among(self._torn_down, cause).inc()
                if late is not None:
                    self._stop_to_delete.observe(late)
            case telemetry.DeletionRefused():
                self._refused.inc()
            case telemetry.DrainNotAnnounced():
                pass  # its event says all; a missing right shows on each drain
            case telemetry.SandboxGone():
                self._gone.inc()
            case telemetry.PodIgnored():
                self._ignored.inc()
            case telemetry.StopEnded(is_acknowledged=is_acknowledged):
                self._stops["heard" if is_acknowledged else "unheard"].inc()
            case telemetry.Orphaned():
                self._orphaned.inc()
            case _:
                assert_never(event)


class FleetCollector(Collector):
    """The state of the kept leases, and of the budget, the checkpoint and the buckets that they share."""

    def __init__(
        self, keeper: Keeper, tenures: Tenures, budget: Budget, checkpoint: Checkpoint, clock: Callable[[], float]
    ) -> None:
        self._keeper, self._tenures = keeper, tenures
        self._budget = budget
        self._checkpoint = checkpoint
        self._clock = clock
        self._families: tuple[Metric, ...] = ()

    async def count(self) -> None:
        """Count the fleet as it is now, with pauses in which the loop may do other work."""
        now = self._clock()
        reasons: Tally[str] = Tally(dict.fromkeys(reasons_of(Kind.LEASE_HELD), 0))
        states: Tally[str] = Tally(dict.fromkeys((*STATES, OTHER), 0))
        doubtful = overdue = 0
        nearest = math.inf
        for number, (kept, reason) in enumerate(self._keeper.leases(), start=1):
            reasons[reason] += 1
            if kept.words is not None:
                states[kept.state if kept.state in STATES else OTHER] += 1
            if kept.held:
                ends = deadlines.expiry(kept)
                nearest = min(nearest, math.inf if ends is None else ends - now)
                doubtful += bool(kept.unanswered or kept.unplaced)
                overdue += _is_overdue(kept, now)
            if number % STRETCH == 0:
                await asyncio.sleep(0)
        self._families = (
            _by("worklease_leases", "Kept leases by the reason of their LeaseHeld condition.", "reason", reasons),
            _by(
                "worklease_work_items",
                "Work items of kept leases by the state that the server reported last.",
                "state",
                states,
            ),
            _gauge("worklease_leases_in_doubt", "Held leases with an unanswered heartbeat.", doubtful),
            _gauge("worklease_leases_overdue", "Held leases whose renewal is overdue.", overdue),
            # Without a held lease there is no sample.
            _gauge("worklease_nearest_expiry_seconds", "Time to the end of the lease that ends first.", nearest),
            _gauge(
                "worklease_budget_short_leases",
                "Leases at risk because the request budget is too small for all of them.",
                reasons[Reason.BUDGET_SHORT],
            ),
            _gauge(
                "worklease_budget_waiting_requests",
                "Calls to the Work API that wait for the budget.",
                self._budget.waiting,
            ),
            _gauge(
                "worklease_budget_requests_per_minute",
                "Calls to the Work API that this process is allowed per minute, its part of all; 0 means no limit.",
                self._budget.per_minute * self._budget.part,
            ),
            *(self._of_checkpoint() + self._of_buckets()),
            _gauge(
                "worklease_turn_overdue_seconds", "How late the keeper is with a lease's turn.", self._keeper.overdue()
            ),
        )

    def _of_checkpoint(self) -> tuple[Metric, ...]:
        return (
            _gauge(
                "worklease_checkpoint_largest_bytes",
                "Bytes that are taken in the fullest ConfigMap of the checkpoint, with what is reserved for growth.",
                self._checkpoint.largest,
            ),
            _gauge(
                "worklease_checkpoint_records_left_out",
                "Records for which a ConfigMap of the checkpoint has no room.",
                self._checkpoint.left_out,
            ),
            _gauge(
                "worklease_checkpoint_failing_seconds",
                "How long writes of a ConfigMap of the checkpoint have failed; 0 if the last ones succeeded.",
                self._checkpoint.failing_for,
            ),
        )

    def _of_buckets(self) -> tuple[Metric, ...]:
        return (
            _gauge(
                "worklease_replica_valid",
                "Whether this process has shown in time that it lives: else it only keeps its leases alive.",
                self._tenures.is_valid,
            ),
            _gauge("worklease_buckets_held", "Buckets of leases that this process holds.", len(self._tenures.held)),
        )

    def collect(self) -> Iterator[Metric]:
        """Yield what was counted last."""
        yield from self._families


def _is_overdue(kept: Lease, now: float) -> bool:
    """Whether a lease that is to be renewed was not, for longer than the tightest budget explains."""
    is_to_be = kept.sent is not None and not kept.suspended and not kept.stopping_seen
    return is_to_be and now > (kept.sent or 0.0) + kept.ttl * OVERDUE


def _gauge(name: str, words: str, value: float) -> Metric:
    return GaugeMetricFamily(name, words, value=value if math.isfinite(value) else None)


def _by(name: str, words: str, label: str, counts: Mapping[str, int]) -> Metric:
    family = GaugeMetricFamily(name, words, labels=[label])
    for key in sorted(counts):
        family.add_metric([key], counts[key])
    return family


def _counter(registry: CollectorRegistry, name: str, words: str, *labels: str) -> Counter:
    return Counter(name, words, labels, registry=registry)


def _bound(counter: Counter, values: Iterable[str]) -> dict[str, Counter]:
    """Return the series of a closed set by label value; so they exist from the start."""
    return {value: counter.labels(value) for value in values}


def _among(series: Mapping[str, Child], value: str) -> Child:
    return series[value] if value in series else series[OTHER]


_NAMES: Final[Mapping[type, str]] = {
    outcomes.Conflicted: "conflicted",
    outcomes.NotReady: "not_ready",
    outcomes.Missing: "missing",
    outcomes.Unauthorized: "unauthorized",
    outcomes.CredentialsMissing: "credentials_missing",
    outcomes.Rejected: "rejected",
    outcomes.Throttled: "throttled",
    outcomes.Unsent: "unsent",
    outcomes.Unanswered: "unanswered",
}

OUTCOMES: Final = ("renewed", "stopping", "stopped", "not_extended", *_NAMES.values())
"""The outcomes of a heartbeat."""


def _name(outcome: outcomes.Outcome) -> str:
    match outcome:
        case outcomes.Answered(state="stopping" | "stopped" as state):
            return state
        case outcomes.Answered(lease_extended=extended):
            return "renewed" if extended else "not_extended"
        case _:
            return _NAMES[type(outcome)]
