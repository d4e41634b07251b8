"""What several processes of the operator cost beside one, in the same run, and how soon they take over from a dead one.

Owns what is measured when, and the bounds. Must not print.
"""

import json
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from benchmark import proc
from benchmark.course import Course
from benchmark.fleet import NAMESPACE, item
from benchmark.waves import Bound
from controlplane import ControlPlane, wait_for

MOST_CPU: Final = 1.15
"""What a beat may cost of CPU, all processes together, beside one process."""

MOST_WRITES: Final = 2.0
"""Writes to the API server a second that the further processes may add."""

TAKEN_WITHIN: Final = 20.0
"""Seconds within which all leases of a dead process are beaten again."""

EVEN_SECONDS: Final = 120.0
"""Seconds until the processes have even shares: one bucket a second is handed over."""

BUCKETS: Final = 16

WRITES: Final = frozenset({"create", "patch", "update", "delete"})


@dataclass(frozen=True, slots=True)
class _Cost:
    """What was used in one window."""

    cpu_per_beat: float
    """Seconds of CPU, of all processes together."""
    writes: float
    """Writes to the API server a second."""


@dataclass(slots=True)
class Replicas:
    """One process, then several, then one less; ``count`` is how many."""

    course: Course
    plane: ControlPlane
    count: int

    def run(self) -> Iterator[Bound]:
        """Measure, and yield each bound."""
        course, size = self.course, self.course.size
        course.api.open([item(number) for number in range(size.leases)], size.ttl)
        processes = dict([self._start(0)])
        course.until_beaten(0.0, size.ttl * 10)
        course.settle()
        processes = {course.stage.contender: course.stage.pid()}
        one = self._window(processes)
        processes |= dict(self._start(number) for number in range(1, self.count))
        wait_for(self._are_even, seconds=EVEN_SECONDS, what="even shares of all processes")
        time.sleep(size.interval)
        several = self._window(processes)
        ratio, more = several.cpu_per_beat / one.cpu_per_beat, several.writes - one.writes
        what = f"{self.count} processes"
        each = f"{1e3 * several.cpu_per_beat:.2f} ms, {ratio:.2f} times that of one"
        yield Bound(what, f"CPU a beat at most {MOST_CPU:g} times that of one", each, ratio <= MOST_CPU)
        yield Bound(what, f"at most {MOST_WRITES:g} writes a second more", f"{more:+.2f}", more <= MOST_WRITES)
        # The last one that was started runs in a place of its own, so nobody can prove that it is dead.
        course.stage.end(signal.SIGKILL)
        since = course.api.summary()["now"]
        del processes[course.stage.contender]
        course.stage.contender = next(iter(processes))
        seconds = course.until_beaten(since, size.ttl)
        yield Bound(
            "kill -9 of one", f"all beaten within {TAKEN_WITHIN:g} s", f"{seconds:.1f} s", seconds <= TAKEN_WITHIN
        )
        lapses = course.api.summary()["lapses"]
        yield Bound("all of it", "no lapse", str(lapses), lapses == 0)

    def _start(self, number: int) -> tuple[str, int]:
        """Start a process as in a pod of its own; return its name and its process id."""
        course = self.course
        pid = course.stage.start_operator(
            course.kubeconfig, course.api, course.size.interval, WORKLEASE_POD_UID=f"pod-{number}"
        )
        course.stage.await_http_address()
        return course.stage.contender, pid

    def _are_even(self) -> bool:
        words = ("-n", NAMESPACE, "get", "configmaps", "-l", "worklease.dev/bucket", "-o", "json")
        listed = json.loads(self.plane.kubectl(*words))["items"]
        holders = [each["metadata"]["annotations"]["worklease.dev/holder"] for each in listed]
        shares = [holders.count(holder) for holder in set(holders)]
        return len(shares) == self.count and sum(shares) == BUCKETS and max(shares) - min(shares) <= 1

    def _window(self, processes: Mapping[str, int]) -> _Cost:
        course = self.course
        mark, began, beats = course.audit.mark(), time.monotonic(), course.api.summary()["beats"]
        before = sum(map(proc.cpu_seconds, processes.values()))
        time.sleep(course.window)
        used = sum(map(proc.cpu_seconds, processes.values())) - before
        sent, seconds = course.api.summary()["beats"] - beats, time.monotonic() - began
        verbs = course.audit.verbs(mark, seconds)
        writes = sum(rate for verb, rate in verbs.items() if verb.split()[0] in WRITES)
        cost = _Cost(used / max(1, sent), writes)
        course.say(
            f"{len(processes)} processes: {sent} beats in {seconds:.0f} s, {1e3 * cost.cpu_per_beat:.2f} ms of CPU for "
            f"each, {writes:.2f} writes to the API server a second"
        )
        return cost
