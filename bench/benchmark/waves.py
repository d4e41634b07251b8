"""Waves: events that hit a whole fleet at once, each with bounds that are checked.

Owns the scenarios and their bounds. Must not print. The waves run one after the other on one operator, which one of
them kills.
"""

import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from benchmark import proc
from benchmark.course import Course
from benchmark.figures import lateness, percentile
from benchmark.fleet import POD_GRACE, item, lease_name
from benchmark.work_api import KEY
from controlplane import OwnControlPlane
from worklease.rules.deadlines import fence
from worklease.rules.lease import Lease

CREATED_WITHIN: Final = 60.0
"""Seconds in which the whole fleet is created."""

THROTTLED: Final = 60.0
"""Seconds for which the Work API answers 429."""

ROUNDED: Final = 1.0
"""Seconds for which ``Retry-After``, in whole seconds, may hold back a client after the server has returned."""

LATE: Final = 1.0
"""Seconds: the bound for the 99th percentile of lateness of leases that the wave does not affect."""

DELETED: Final = 10.0
"""Seconds from the beat that says "stopping" to the accepted DELETE of the last pod."""

AGAIN: Final = 20.0
"""Seconds from the start of a process after a kill until every lease that the old process held has a beat again."""

LISTS: Final = 100
"""The most lists of one item's pods, however many items are stopped at once: they share lists."""

ONE_ITEM: Final = "/work-id%3D"
"""The part of such a list's URI that selects by the value of the label."""

GROWTH: Final = 1.5
"""The factor by which memory may grow in all waves together."""

ATTEMPTS: Final = 4
"""The most requests per lease that a wave may cost, in addition to the beats in the same time."""


@dataclass(frozen=True, slots=True)
class Bound:
    """One bound, what was measured, and whether it held."""

    wave: str
    what: str
    measured: str
    held: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Waves:
    """The waves over one fleet, whose pods exist and whose resources do not yet."""

    course: Course
    plane: OwnControlPlane
    stopped: int
    """How many items are stopped at once."""

    def run(self) -> Iterator[Bound]:
        """Start the operator and run the waves."""
        course = self.course
        course.api.open([item(number) for number in range(course.size.leases)], course.size.ttl)
        self._start()
        yield from self._wave("created within a minute", self._create)
        memory = proc.resident_kib(course.stage.pid())
        yield from self._wave("all keys rotated at once", self._rotate)
        yield from self._wave("the API server killed and started", self._cut)
        before = proc.peak_kib(course.stage.pid())
        yield from self._wave("the operator killed and started", self._kill)
        yield from self._wave(f"{self.stopped} items stopped at once", self._stop)
        yield from self._wave("429 for a minute", self._throttle)
        peak = max(before, proc.peak_kib(course.stage.pid()))
        yield Bound("all of them", f"memory at most {GROWTH:g} times", f"{peak / memory:.2f}", peak <= GROWTH * memory)
        course.stage.end()

    def _start(self) -> None:
        self.course.stage.start_operator(self.course.kubeconfig, self.course.api, self.course.size.interval)
        self.course.stage.await_http_address()

    def _wave(self, name: str, wave: Callable[[], Iterator[Bound]]) -> Iterator[Bound]:
        self.course.say(f"wave: {name}")
        before = self.course.api.summary()
        for bound in wave():
            yield replace(bound, wave=name)
        after = self.course.api.summary()
        if wave != self._throttle:
            lapses = after["lapses"] - before["lapses"]
            yield Bound(name, "no lapse", str(lapses), lapses == 0)
        yield self._requests(name, before, after)

    def _requests(self, name: str, before: dict[str, Any], after: dict[str, Any]) -> Bound:
        """Return the bound for the requests that a wave cost the Work API: some calls per lease, and its beats."""
        leases, seconds = self.course.size.leases, after["now"] - before["now"]
        most = leases * (ATTEMPTS + seconds / self.course.size.interval)
        sent = after["requests"] - before["requests"]
        return Bound(name, f"at most {most:.0f} requests", str(sent), sent <= most)

    def _create(self) -> Iterator[Bound]:
        size = self.course.size
        self.course.fleet.grow_within(size.leases, min(CREATED_WITHIN, size.leases / 10))
        began = time.monotonic()
        self.course.until_beaten(0.0, size.ttl * 10)
        seconds = time.monotonic() - began
        yield Bound("", f"all held {size.ttl:g} s after the last", f"{seconds:.1f} s", seconds <= size.ttl)
        self._settle()

    def _rotate(self) -> Iterator[Bound]:
        since = self.course.api.summary()["now"]
        self.course.fleet.put_key(f"{KEY}-rotated")
        self.course.api.set_keys(f"{KEY}-rotated")
        self.course.until_beaten(since, self.course.size.ttl)
        yield from self._in_time(since)

    def _throttle(self) -> Iterator[Bound]:
        size, active, mark = self.course.size, set(self._active()), self.course.audit.mark()
        seconds = min(THROTTLED, 2 * size.ttl / 3)
        back = self.course.api.summary()["now"] + seconds
        self.course.api.throttle(seconds)
        time.sleep(seconds + size.interval)  # a look meanwhile would take the server's CPU
        self.course.until_beaten(back, size.ttl, of=active)
        beats = zip(*self.course.api.beats(back - seconds - size.ttl), strict=True)
        last = {number: at for number, at in beats if at < back}
        states = self.course.api.items()
        ends = {number: at + size.ttl - back for number, at in last.items()}
        lapsed = [left for number, left in ends.items() if states[item(number)][0] == "queued"]
        # A client that sends no beat before that moment, and every beat from then on, loses this many; which ones does
        # not matter.
        most = sum(left < ROUNDED + LATE for number, left in ends.items() if number in active)
        self._say_last(lapsed, "lapsed, the last of which would have ended")
        what = f"at most {most} lapses, as many as end within {ROUNDED + LATE:g} s"
        yield Bound("", what, str(len(lapsed)), held=len(lapsed) <= most)
        runs = fence(Lease(sent=0.0, ttl=size.ttl, pod_grace=POD_GRACE)) or 0.0
        deleted = self.course.audit.deletions(mark)
        ended = [at + runs - back for number, at in last.items() if lease_name(number) in deleted]
        self._say_last(ended, "sandboxes ended, the last of which had its fence")
        could_go_on = sum(left >= ROUNDED + LATE for left in ended)
        what = f"no sandbox ended whose fence is {ROUNDED + LATE:g} s later or more"
        yield Bound("", what, str(could_go_on), held=could_go_on == 0)

    def _say_last(self, found: list[float], what: str) -> None:
        self.course.say(f"{len(found)} {what} {max(found, default=0.0):.1f} s after the server's return")

    def _cut(self) -> Iterator[Bound]:
        since = self.course.api.summary()["now"]
        self.plane.kill("kube-apiserver")
        self.plane.start("kube-apiserver")
        self.course.until_beaten(since, self.course.size.ttl)
        yield from self._in_time(since)

    def _kill(self) -> Iterator[Bound]:
        active = self._active()
        self.course.stage.end(signal.SIGKILL)
        since, mark = self.course.api.summary()["now"], self.course.audit.mark()
        self._start()
        seconds = self.course.until_beaten(since, self.course.size.ttl, of=active)
        yield Bound("", f"all beaten within {AGAIN:g} s", f"{seconds:.1f} s", seconds <= AGAIN)
        self.course.await_takeover(mark)

    def _stop(self) -> Iterator[Bound]:
        since, mark = self.course.api.summary()["now"], self.course.audit.mark()
        stopped = self._active()[: self.stopped]
        if len(stopped) < self.stopped:
            raise RuntimeError(f"only {len(stopped)} items are active: the earlier waves cost too many")
        self.course.api.stop([item(number) for number in stopped])
        wanted = {lease_name(number) for number in stopped}
        deletions = self.course.await_deletions(mark, wanted)
        told = self.course.api.items()
        slowest = max(deletions[lease_name(number)] - (told[item(number)][1] or 0.0) for number in stopped)
        yield Bound("", f"each pod's DELETE within {DELETED:g} s of the beat", f"{slowest:.1f} s", slowest <= DELETED)
        yield from self._in_time(since)
        self._settle()
        lists = self.course.audit.count("list pods", mark, of=ONE_ITEM)
        yield Bound("", f"at most {LISTS} lists of one item's pods", str(lists), lists <= LISTS)

    def _active(self) -> list[int]:
        """Return the numbers of the items that are neither stopped nor lost."""
        states = self.course.api.items()
        return [number for number in range(self.course.size.leases) if states[item(number)][0] == "active"]

    def _in_time(self, since: float) -> Iterator[Bound]:
        numbers, times = self.course.api.beats(since - 2 * self.course.size.interval)
        late = percentile(lateness(numbers, times, since, self.course.size.interval), 0.99)
        yield Bound("", f"99 of 100 beats less than {LATE:g} s late", f"{late:.2f} s", late < LATE)

    def _settle(self) -> None:
        """Wait for one interval, so that the next wave hits a steady fleet."""
        time.sleep(self.course.size.interval)
