"""The course of one size: the operator through a start, a kill and a restart, beside the floor; then the tutorial.

Owns what is measured when. Must not print.
"""

import math
import signal
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from benchmark import proc
from benchmark.audit import AuditLog
from benchmark.figures import Row, Spread, Window, lateness
from benchmark.fleet import Fleet, item, lease_name
from benchmark.proc import Machine
from benchmark.stage import Probe, Stage
from benchmark.work_api import WorkApi
from controlplane import wait_for

BEATEN_SECONDS: Final = 1800.0
"""Seconds until every lease must have had a beat after the first start: thousands of finalizers must be written."""

TUTORIAL_SECONDS: Final = 120.0
"""Seconds that the tutorial gets for a first beat of every lease; after that it is measured all the same."""

SETTLED: Final = 3.0
"""Idle seconds before the memory of an empty process is read."""

SETTLING_WRITES: Final = 200.0
"""Status writes a second of the process that settles a new fleet: at the normal rate it would take long."""

EVENTS_LOOK: Final = 5.0
"""Seconds over which events are counted, to see whether all events of a new fleet are written."""

EVENTS_SECONDS: Final = 1200.0
"""Seconds until all of them are written: the operator writes twenty a second."""

TAKEN_OVER_SECONDS: Final = 600.0
"""Seconds that Kopf may take to deliver all existing objects, beside the beats; the fleet is not steady before."""

COUNTED: Final = 1000
"""Resources a second, with their pods, that the census counts at least; a census follows Kopf's lists."""

SHARE_STOPPED: Final = 0.02
"""The share of the leases whose items are stopped at the end; as many pods fail."""

STOPPED_SECONDS: Final = 60.0
"""Seconds until the items of all failed pods must be stopped: this waits for no beat and no timeout."""

DELETED_SECONDS: Final = 120.0
"""Seconds until the pods of all stopped items must be deleted; each lease has a beat per interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How many leases, and the seconds between two beats of one lease."""

    leases: int
    interval: float

    @property
    def ttl(self) -> float:
        """The TTL; the interval is a third of it."""
        return 3 * self.interval


@dataclass(frozen=True, slots=True)
class Life:
    """What one process of the operator did, and the floor beside it."""

    after: str
    """How the previous process ended."""
    beaten: float
    """Seconds from its start until every lease had a beat."""
    operator: Window
    floor: Window
    verbs: Mapping[str, float]
    """Requests to the Kubernetes API a second, by verb."""
    lags: tuple[float, ...]
    memory: int
    """KiB."""


@dataclass(frozen=True, slots=True)
class _Reading:
    """The counters of a process at one moment."""

    summary: Mapping[str, Any]
    cpu: float
    server_cpu: float

    @classmethod
    def of(cls, pid: int, api: WorkApi) -> Self:
        return cls(api.summary(), proc.cpu_seconds(pid), proc.cpu_seconds(api.pid))


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """Everything that is needed to measure one size."""

    fleet: Fleet
    stage: Stage
    api: WorkApi
    floor_api: WorkApi
    """The floor's own Work API, with as many items."""
    audit: AuditLog
    kubeconfig: Path
    size: Size
    window: float
    """Seconds of one window of measurement."""
    pairs: int
    """Windows per contender."""
    say: Callable[[str], None]

    def run(self, *, with_tutorial: bool) -> list[Row]:
        """Measure all contenders; the resources and their pods exist already."""
        rows = list(self.operator_and_floor())
        if with_tutorial:
            rows.append(self.tutorial())
        return rows

    # --- The contenders ----------------------------------------------------------------------------------------

    def operator_and_floor(self) -> tuple[Row, Row]:
        """Measure the operator: its start with new resources, kills and restarts, stopped items and failed pods.

        The floor runs beside it, in the same windows: the speed of a shared machine changes within minutes, and with
        the API server's load, by more than the differences that are to be measured.
        """
        self._open()
        empty = self._empty_memory()
        pid, fresh = self._start_operator()
        self.say(f"a beat for every lease {fresh:.1f} s after the start")
        start_cpu = proc.cpu_seconds(pid)
        self.settle()
        lives = [self._life(("kill -9", "SIGTERM")[number % 2]) for number in range(max(self.pairs, 2))]
        stopped = self.stop_some()
        failed = self.fail_some()
        lapses = self.api.summary()["lapses"]
        self.stage.end()
        beside = tuple(life.floor for life in lives)
        floor = Row(
            contender="floor",
            leases=self.size.leases,
            interval=self.size.interval,
            windows=beside,
            lapses=sum(window.lapses for window in beside),
        )
        operator = Row(
            contender="worklease",
            leases=self.size.leases,
            interval=self.size.interval,
            windows=tuple(life.operator for life in lives),
            memory_per_lease=(lives[-1].memory - empty) / self.size.leases,
            empty_memory=empty,
            all_beaten={"start": fresh} | {life.after: life.beaten for life in reversed(lives)},
            lapses=lapses,
            requests=_mean([life.verbs for life in lives]),
            stop_to_delete=stopped,
            failure_to_stop=failed,
            loop_lag=Spread.of([lag for life in lives for lag in life.lags]),
            start_cpu=start_cpu,
        )
        return floor, operator

    def _life(self, after: str) -> Life:
        """End the operator, start it again, and measure it and the floor in one window."""
        took = self.stage.end(signal.SIGKILL if after == "kill -9" else signal.SIGTERM)
        self.say(f"ended by {after} within {took:.1f} s")
        mark = self.audit.mark()
        pid, beaten = self._start_operator()
        self.say(f"a beat for every lease {beaten:.1f} s after {after}")
        floor = self._start_floor()
        self.await_takeover(mark)
        with Probe(self.stage.await_http_address()) as probe:
            mark, began = self.audit.mark(), time.monotonic()
            windows = self._windows({"worklease": (pid, self.api), "floor": (floor, self.floor_api)})
            verbs = self.audit.verbs(mark, time.monotonic() - began)
        memory = proc.resident_kib(pid)
        self.stage.end_floor()
        return Life(after, beaten, windows["worklease"], windows["floor"], verbs, tuple(probe.took), memory)

    def tutorial(self) -> Row:
        """Measure the tutorial, whether or not it sends a beat."""
        self._open()
        pid = self.stage.start_tutorial(self.kubeconfig, self.api, self.size.interval)
        try:
            beaten = {"start": self.until_beaten(0.0, TUTORIAL_SECONDS)}
        except AssertionError:
            beaten = {"start": math.inf}
        windows = (self._windows({"tutorial": (pid, self.api)})["tutorial"],)
        memory = proc.resident_kib(pid)
        lapses = self.api.summary()["lapses"]
        self.stage.end(signal.SIGKILL)
        return Row(
            contender="tutorial",
            leases=self.size.leases,
            interval=self.size.interval,
            windows=windows,
            empty_memory=memory,
            all_beaten=beaten,
            lapses=lapses,
        )

    # --- Steps -------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Settle a new fleet: one process writes each status, and the next one has nothing new to write.

        The benchmark measures a steady fleet.
        """
        self.stage.end(signal.SIGKILL)
        self._start_operator(WORKLEASE_STATUS_WRITES_PER_SECOND=f"{SETTLING_WRITES:g}")
        time.sleep(SETTLED + 2 * self.size.leases / SETTLING_WRITES)
        self.stage.end(signal.SIGKILL)
        mark = self.audit.mark()
        self._start_operator()
        wait_for(self._is_quiet, seconds=EVENTS_SECONDS, what="the end of a fresh fleet's events")
        self.await_takeover(mark)

    def await_takeover(self, mark: int) -> None:
        """Wait until Kopf has delivered all objects that existed when the operator started: after its list it watches.

        It fetches a page once it has delivered the objects of the page before.
        """
        watches = ("watch workleases", "watch pods")
        wait_for(
            lambda: all(self.audit.count(each, mark, stage="ResponseStarted") for each in watches),
            seconds=TAKEN_OVER_SECONDS,
            what="Kopf's watches",
        )
        time.sleep(SETTLED + self.size.leases / COUNTED)

    def _is_quiet(self) -> bool:
        mark = self.audit.mark()
        time.sleep(EVENTS_LOOK)
        return self.audit.verbs(mark, EVENTS_LOOK).get("create events", 0.0) < 1.0

    def _open(self) -> None:
        self.api.open([item(number) for number in range(self.size.leases)], self.size.ttl)

    def _empty_memory(self) -> int:
        """Start the operator with nothing to keep, and return its memory."""
        pid = self.stage.start_operator(self.kubeconfig, self.api, self.size.interval, WORKLEASE_NAMESPACES="default")
        self.stage.await_http_address()
        time.sleep(SETTLED)
        memory = proc.resident_kib(pid)
        self.stage.end()
        return memory

    def _start_operator(self, **settings: str) -> tuple[int, float]:
        since = self.api.summary()["now"]
        pid = self.stage.start_operator(self.kubeconfig, self.api, self.size.interval, **settings)
        return pid, self.until_beaten(since, BEATEN_SECONDS)

    def _start_floor(self) -> int:
        self.floor_api.open([item(number) for number in range(self.size.leases)], self.size.ttl)
        pid = self.stage.start_floor(self.floor_api, self.size.leases, self.size.interval)
        self.until_beaten(0.0, BEATEN_SECONDS, self.floor_api)
        return pid

    def until_beaten(
        self, since: float, seconds: float, api: WorkApi | None = None, of: Collection[int] | None = None
    ) -> float:
        """Wait until every lease had a beat, and return the seconds from ``since``, or from now, until then.

        "Every" means all leases, or the active ones whose numbers are ``of``. If one of them can no longer get a beat,
        the result is infinite.
        """
        wanted = set(range(self.size.leases) if of is None else of)
        api = api or self.api
        since = since or api.summary()["now"]

        def last_first() -> float:
            self.stage.is_alive()
            numbers, times = api.beats(since)
            first: dict[int, float] = {}
            for number, at in zip(numbers, times, strict=True):
                first.setdefault(number, at)
            if first.keys() >= wanted:
                return max(first[number] for number in wanted) - since
            # A lapsed lease is given up and never gets a beat again.
            states = api.summary()["states"]
            given_up = len(wanted) - states.get("active", 0) - states.get("starting", 0)
            return math.inf if given_up > 0 and len(first.keys() & wanted) >= len(wanted) - given_up else 0.0

        return wait_for(last_first, seconds=seconds, what=f"a beat of each of {len(wanted)} leases")

    def _windows(self, subjects: Mapping[str, tuple[int, WorkApi]]) -> dict[str, Window]:
        """Measure processes, each with its Work API, in one window of time."""
        before = {name: _Reading.of(*subject) for name, subject in subjects.items()}
        machine, began = Machine.read(), time.monotonic()
        time.sleep(self.window)
        seconds, load = time.monotonic() - began, Machine.read().load_since(machine)
        after = {name: _Reading.of(*subject) for name, subject in subjects.items()}
        windows = {}
        for name, (_, api) in subjects.items():
            first, last = before[name], after[name]
            since = first.summary["now"]
            numbers, times = api.beats(since - 2 * self.size.interval)
            windows[name] = window = Window(
                seconds=seconds,
                beats=last.summary["beats"] - first.summary["beats"],
                cpu_seconds=last.cpu - first.cpu,
                server_cpu_seconds=last.server_cpu - first.server_cpu,
                late=Spread.of(lateness(numbers, times, since, self.size.interval)),
                lapses=last.summary["lapses"] - first.summary["lapses"],
                machine_load=load,
            )
            self.say(
                f"{name}: {window.beats} beats in {seconds:.0f} s, {1e3 * window.cpu_per_beat:.2f} ms of CPU for "
                f"each, {window.core:.0%} of a core, p99 {1e3 * window.late.p99:.0f} ms late, {window.lapses} lapses"
            )
        return windows

    def stop_some(self) -> Spread:
        """Stop items at the server, and measure the time from the beat that says so to the pod's deletion."""
        stopped = range(max(1, int(self.size.leases * SHARE_STOPPED)))
        mark = self.audit.mark()
        self.api.stop([item(number) for number in stopped])
        wanted = {lease_name(number) for number in stopped}
        deletions = self.await_deletions(mark, wanted)
        told = self.api.items()
        return Spread.of([deletions[lease_name(number)] - (told[item(number)][1] or 0.0) for number in stopped])

    def await_deletions(self, mark: int, pods: set[str]) -> dict[str, float]:
        """Wait until the deletion of these pods was accepted; return when, in seconds since the epoch."""

        def deleted() -> dict[str, float]:
            found = self.audit.deletions(mark)
            return found if pods <= found.keys() else {}

        return wait_for(deleted, seconds=DELETED_SECONDS, what="the deletion of the pods of stopped items")

    def fail_some(self) -> Spread:
        """Let pods fail, and measure the time from that report to the stop of their items."""
        most = self.size.leases - 1
        failed = range(most, most - max(1, int(self.size.leases * SHARE_STOPPED)), -1)
        reported = self.fleet.fail(failed)

        def heard() -> dict[int, float]:
            told = self.api.items()
            stops = {number: at for number in failed if (at := told[item(number)][2]) is not None}
            return stops if len(stops) == len(failed) else {}

        stops = wait_for(heard, seconds=STOPPED_SECONDS, what="the stop of the items of failed pods")
        return Spread.of([stops[number] - reported[number] for number in failed])


def _mean(many: list[Mapping[str, float]]) -> dict[str, float]:
    return {
        what: sum(each.get(what, 0.0) for each in many) / len(many) for what in sorted({w for e in many for w in e})
    }
