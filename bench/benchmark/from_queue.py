"""A pool at work: how soon a queued session has its sandbox, what that costs, and whether kept leases beside feel it.

Owns the load, what is measured of it, and the bounds. Must not print. The server is the simulator, which has a queue.
"""

import asyncio
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmark import proc
from benchmark.audit import AuditLog
from benchmark.course import BEATEN_SECONDS, EVENTS_LOOK, EVENTS_SECONDS, SETTLED, SETTLING_WRITES, Size
from benchmark.figures import percentile
from benchmark.fleet import NAMESPACE, PODS, RESOURCES, Fleet, environment, item
from benchmark.recorded import Recorded
from benchmark.simulated import SimulatedApi
from benchmark.stage import Stage
from benchmark.waves import Bound
from controlplane import ControlPlane, wait_for

QUEUE: Final = "env_demo"
"""The environment with the queue: the simulator's own."""
POOL: Final = "agents"
POOLS: Final = f"/apis/worklease.dev/v1alpha1/namespaces/{NAMESPACE}/workpools"
MINE: Final = f"?labelSelector=worklease.dev/pool={POOL}"
SESSION: Final = "worklease.dev/session-id"

RARE, OFTEN = 1.0, 50.0
"""Sessions a minute."""
RARE_WINDOWS: Final = 4
"""How many windows the load of few sessions lasts: else its 95th percentile would be of five sessions."""
WINDOW: Final = 300.0
QUICK_QUIET: Final = 2.0
SHORTEST_TTL: Final = 15.0
"""Seconds of a TTL at least: a lease with a beat each second must not lapse because a machine is busy for three."""
LASTS: Final = 20
QUICK_LASTS: Final = 1
"""Seconds for which a sandbox works."""
MOST: Final = 100
"""The cap: more than are ever at work, which are seventeen."""

PICKED_UP: Final = 2.5
"""Seconds within which an idle pool picks up a waiting item, on average."""
POLLS: Final = 30
"""Polls a minute at most, on average."""
FELT: Final = 0.1
"""Seconds by which a kept lease's beat may be later while the pool works: a three-hundredth of its interval."""

FIRST_POLL: Final = 60.0
"""Seconds until a pool must have polled: a process that inherits it waits for five."""
READY: Final = 60.0
ENDED: Final = 60.0
"""Seconds until the last sandbox must be ready, and until the last lease must be finished, beside its work."""


@dataclass(frozen=True, slots=True)
class Load:
    """Sessions that come to the queue one by one, at an even pace."""

    a_minute: float
    sessions: int


@dataclass(frozen=True, slots=True)
class Phase:
    """Loads for one process of the operator that keeps so many leases beside."""

    kept: int
    loads: tuple[Load, ...]


@dataclass(frozen=True, slots=True)
class Stretch:
    """A time, by the monotonic clock, and the CPU that the operator used in it."""

    began: float
    ended: float
    cpu: float

    @property
    def seconds(self) -> float:
        """How long it was."""
        return self.ended - self.began

    @property
    def core(self) -> float:
        """The share of one core that the operator used."""
        return self.cpu / self.seconds


@dataclass(frozen=True, slots=True)
class Worked:
    """One load, with the times without any before and after it, and the seconds until each session's sandbox."""

    load: Load
    stretch: Stretch
    quiet: tuple[Stretch, ...]
    waited: tuple[float, ...]

    @property
    def cpu_per_item(self) -> float:
        """Seconds of CPU for an item from the queue to its end, above what the operator used without any."""
        idle = statistics.fmean(each.core for each in self.quiet) * self.stretch.seconds
        return (self.stretch.cpu - idle) / self.load.sessions


def ttl(size: Size) -> float:
    """Return the TTL of all leases."""
    return max(size.ttl, SHORTEST_TTL)


def phases(size: Size, window: float) -> tuple[Phase, ...]:
    """Return the phases of a run."""
    often = Load(OFTEN, round(OFTEN * window / 60))
    rare = Load(RARE, max(1, round(RARE_WINDOWS * RARE * window / 60)))
    return (Phase(0, (rare, often)), Phase(size.leases, (often,)))


def quick_phases(size: Size) -> tuple[Phase, ...]:
    """Return the phase of a smoke test: a few of everything."""
    return (Phase(size.leases, (Load(RARE, 1), Load(OFTEN, 2))),)


@dataclass(frozen=True, slots=True, kw_only=True)
class FromQueue:
    """Everything that is needed to measure a pool."""

    plane: ControlPlane
    fleet: Fleet
    stage: Stage
    api: SimulatedApi
    audit: AuditLog
    kubeconfig: Path
    size: Size
    quiet: float
    """Seconds without work, before and after each load."""
    lasts: int
    """Seconds for which a sandbox works."""
    is_quick: bool
    say: Callable[[str], None]

    def run(self, wanted: tuple[Phase, ...]) -> Iterator[Bound]:
        """Play the phases, and yield their bounds."""
        self.plane.demand("POST", POOLS, _pool(self.lasts))
        for phase in wanted:
            yield from self._phase(phase)

    def _phase(self, phase: Phase) -> Iterator[Bound]:
        recorded = Recorded(api=self.api, kept=phase.kept)
        pid = self._keep(phase.kept) if phase.kept else self._start()
        began = time.monotonic()
        wait_for(lambda: self._has_polled(recorded, began), seconds=FIRST_POLL, what="the pool's first poll")
        before = self._rest(pid)
        yield from self._bounds_at_rest(recorded, before, phase)
        for load in phase.loads:
            self.say(f"{load.sessions} sessions, {load.a_minute:g} a minute, beside {phase.kept} kept leases")
            stretch, waited = asyncio.run(self._work(pid, load))
            after = before if self.is_quick else self._rest(pid)
            worked = Worked(load, stretch, (before, after), tuple(waited))
            recorded.read_until(max(stretch.ended, after.ended))
            for bound in self._bounds(recorded, worked, phase):
                self.say(f"{'held' if bound.held else 'BROKEN'}: {bound.what}: {bound.measured}")
                yield bound
            before = after
        self.stage.end()

    # --- The operator ------------------------------------------------------------------------------------------

    def _start(self, **settings: str) -> int:
        pid = self.stage.start_operator(self.kubeconfig, self.api, self.size.interval, **settings)
        self.stage.await_http_address()
        return pid

    def _keep(self, leases: int) -> int:
        """Let the operator hold a fleet, and write what there is to write of a new one; return its process id."""
        self.say(f"creating {leases} resources and their pods")
        self.api.add_items((environment(number), item(number)) for number in range(leases))
        self.fleet.grow(leases)
        pid = self._start(WORKLEASE_STATUS_WRITES_PER_SECOND=f"{SETTLING_WRITES:g}")
        wait_for(lambda: self.api.states()["active"] == leases, seconds=BEATEN_SECONDS, what=f"{leases} held leases")
        if self.is_quick:
            return pid
        time.sleep(SETTLED + 2 * leases / SETTLING_WRITES)
        self.stage.end(signal.SIGKILL)
        pid = self._start()
        wait_for(self._is_calm, seconds=EVENTS_SECONDS, what="the end of a fresh fleet's events")
        return pid

    def _is_calm(self) -> bool:
        mark = self.audit.mark()
        time.sleep(EVENTS_LOOK)
        return self.audit.verbs(mark, EVENTS_LOOK).get("create events", 0.0) < 1.0

    @staticmethod
    def _has_polled(recorded: Recorded, since: float) -> bool:
        recorded.read()
        return any(at > since for at in recorded.polls)

    def _rest(self, pid: int) -> Stretch:
        """Measure a time without work."""
        began, cpu = time.monotonic(), proc.cpu_seconds(pid)
        time.sleep(self.quiet)
        return Stretch(began, time.monotonic(), proc.cpu_seconds(pid) - cpu)

    # --- The load ----------------------------------------------------------------------------------------------

    async def _work(self, pid: int, load: Load) -> tuple[Stretch, list[float]]:
        """Put the sessions into the queue, wait for the end of all, and return how long each waited for its sandbox."""
        ready: dict[str, float] = {}
        watch = asyncio.create_task(self._note_ready(ready))
        began, cpu = time.monotonic(), proc.cpu_seconds(pid)
        queued: dict[str, float] = {}
        for number in range(load.sessions):
            await asyncio.sleep(began + number * 60 / load.a_minute - time.monotonic())
            at = time.monotonic()
            queued[await asyncio.to_thread(self.api.add_session, QUEUE)] = at
        await asyncio.to_thread(wait_for, lambda: ready.keys() >= queued.keys(), seconds=READY, what="all sandboxes")
        await asyncio.to_thread(wait_for, self._is_over, seconds=self.lasts + ENDED, what="the end of all leases")
        stretch = Stretch(began, time.monotonic(), proc.cpu_seconds(pid) - cpu)
        watch.cancel()
        with suppress(asyncio.CancelledError):
            await watch
        return stretch, [ready[name] - at for name, at in queued.items()]

    async def _note_ready(self, ready: dict[str, float]) -> None:
        async for session, at in self.fleet.watch_ready(SESSION):
            ready.setdefault(session, at)

    def _is_over(self) -> bool:
        """Whether no sandbox of the pool is left, and none is to come."""
        leases = self.plane.get(f"{RESOURCES}{MINE}")["items"]
        return all(map(_is_finished, leases)) and not self.plane.get(f"{PODS}{MINE}")["items"]

    # --- What was measured -------------------------------------------------------------------------------------

    @staticmethod
    def _bounds_at_rest(recorded: Recorded, rest: Stretch, phase: Phase) -> Iterator[Bound]:
        recorded.read_until(rest.ended)
        rate = 60 * sum(rest.began <= at < rest.ended for at in recorded.polls) / rest.seconds
        name = f"at rest, {phase.kept} kept"
        yield Bound(name, f"at most {POLLS} polls a minute", f"{rate:.0f}", rate <= POLLS)
        yield Bound(name, "CPU; no bound", f"{1e3 * rest.core:.0f} ms a second", held=True)

    def _bounds(self, recorded: Recorded, worked: Worked, phase: Phase) -> Iterator[Bound]:
        load, stretch = worked.load, worked.stretch
        name = f"{load.a_minute:g} a minute, {phase.kept} kept"
        picked = [
            recorded.picked_up[each] - at for each, at in recorded.queued.items() if stretch.began <= at < stretch.ended
        ]
        mean = statistics.fmean(picked)
        if load.a_minute == RARE:
            what = f"picked up within {PICKED_UP:g} s on average"
            yield Bound(name, what, f"{mean:.2f} s", mean <= PICKED_UP)
        else:
            yield Bound(name, "picked up, on average; no bound", f"{mean:.2f} s", held=True)
        p50, p95 = percentile(worked.waited, 0.5), percentile(worked.waited, 0.95)
        words = f"{p50:.2f} s / {p95:.2f} s, of {len(worked.waited)}"
        yield Bound(name, "queued to Ready p50 / p95; no bound", words, held=True)
        yield Bound(name, "CPU for an item; no bound", f"{1e3 * worked.cpu_per_item:.0f} ms", held=True)
        if phase.kept:
            yield from self._felt(recorded, worked, name)

    def _felt(self, recorded: Recorded, worked: Worked, name: str) -> Iterator[Bound]:
        """Compare the beats of the kept leases with those in the times without work, in the same run."""
        stretch, quiet = worked.stretch, worked.quiet
        late = percentile(recorded.late(stretch.began, stretch.ended, self.size.interval), 0.99)
        without = percentile(
            [each for rest in quiet for each in recorded.late(rest.began, rest.ended, self.size.interval)], 0.99
        )
        words = f"{1e3 * late:.0f} ms, {1e3 * without:.0f} ms at rest: {late / max(without, 1e-3):.2f} times"
        yield Bound(name, f"p99 of lateness at most {FELT:g} s more than at rest", words, late <= without + FELT)
        lapses = sum(stretch.began <= at < stretch.ended for at in recorded.lapses)
        yield Bound(name, "no lapse", str(lapses), lapses == 0)
        beat = stretch.cpu / max(1, recorded.beats(stretch.began, stretch.ended))
        beats = sum(recorded.beats(rest.began, rest.ended) for rest in quiet)
        idle = sum(rest.cpu for rest in quiet) / max(1, beats)
        words = f"{1e3 * beat:.2f} ms, {1e3 * idle:.2f} ms at rest: {beat / max(idle, 1e-6):.2f} times"
        yield Bound(name, "CPU a beat, with the items' in it; no bound", words, held=True)


def _is_finished(lease: dict[str, Any]) -> bool:
    conditions = (lease.get("status") or {}).get("conditions") or ()
    return any(each["type"] == "Finished" and each["status"] == "True" for each in conditions)


def _pool(lasts: int) -> dict[str, Any]:
    template = {
        "metadata": {
            "annotations": {
                "controlplane.worklease.dev/exit-code": "0",
                "controlplane.worklease.dev/exit-after": f"{lasts}s",
            }
        },
        "spec": {"containers": [{"name": "sandbox", "image": "busybox"}]},
    }
    return {
        "apiVersion": "worklease.dev/v1alpha1",
        "kind": "WorkPool",
        "metadata": {"name": POOL},
        "spec": {
            "environmentID": QUEUE,
            "maxConcurrent": MOST,
            "leaseTemplate": {"spec": {"sandbox": {"template": template}}},
        },
    }
