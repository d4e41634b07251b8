"""The figures of a run, and how they are reckoned. Pure."""

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

LINE: Final = 3
"""Points of a line at least, so that it says something of each."""


def percentile(values: Sequence[float], share: float) -> float:
    """Give the smallest value that ``share`` of all do not exceed (nearest rank); NaN of none."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def lateness(numbers: Sequence[int], times: Sequence[float], since: float, interval: float) -> list[float]:
    """Give how many seconds after it was due each beat came, of those since ``since``.

    Due is ``interval`` after the beat before; what comes early is not late. The first beat of a lease has none before.
    """
    last: dict[int, float] = {}
    late = []
    for number, at in zip(numbers, times, strict=True):
        if at >= since and number in last:
            late.append(max(0.0, at - last[number] - interval))
        last[number] = at
    return late


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, 99th percentile and greatest of some values, in seconds; NaN of none."""

    p50: float
    p99: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Reckon them."""
        return cls(percentile(values, 0.5), percentile(values, 0.99), max(values, default=math.nan))


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What one contender did in one window of time."""

    seconds: float
    beats: int
    cpu_seconds: float
    server_cpu_seconds: float
    late: Spread
    lapses: int
    machine_load: float
    """The share of the machine that was at work, by whomsoever."""

    @property
    def cpu_per_beat(self) -> float:
        """Seconds of CPU for each accepted beat; infinite if there was none."""
        return self.cpu_seconds / self.beats if self.beats else math.inf

    @property
    def core(self) -> float:
        """How much of one core it used."""
        return self.cpu_seconds / self.seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One contender at one size."""

    contender: str
    leases: int
    interval: float
    windows: tuple[Window, ...]
    memory_per_lease: float = math.nan
    """KiB above the empty process."""
    empty_memory: float = math.nan
    """KiB of the empty process."""
    all_beaten: Mapping[str, float] = field(default_factory=dict)
    """Seconds from the start of a process until all leases were beaten, by what was before."""
    lapses: int = 0
    """In all of the contender's time, its starts and kills included."""
    requests: Mapping[str, float] = field(default_factory=dict)
    """Requests to the Kubernetes API a second, by verb, in the windows."""
    stop_to_delete: Spread | None = None
    """Seconds from the answer that said "stopping" to the accepted DELETE of the pod."""
    failure_to_stop: Spread | None = None
    """Seconds from the pod's failure in the API server to the call of stop."""
    loop_lag: Spread | None = None
    """Seconds that the process took to answer an HTTP request for nothing, in the windows."""
    start_cpu: float = math.nan
    """Seconds of CPU until all fresh leases were beaten."""

    @property
    def cpu_per_beat(self) -> float:
        """Seconds of CPU for each beat: the median of the windows."""
        return statistics.median(window.cpu_per_beat for window in self.windows)

    def times(self, floor: "Row") -> float:
        """Give how many times the floor's CPU a beat costs: the median over the windows, if both have the same ones.

        NaN where there is none: the system counts hundredths of a second, and a floor of a few beats may use none.
        """
        pairs = [(mine.cpu_per_beat, its.cpu_per_beat) for mine, its in zip(self.windows, floor.windows, strict=False)]
        if len(self.windows) != len(floor.windows):
            pairs = [(self.cpu_per_beat, floor.cpu_per_beat)]
        ratios = [mine / its for mine, its in pairs if its]
        return statistics.median(ratios) if ratios else math.nan

    @property
    def core(self) -> float:
        """How much of one core it used: the median of the windows."""
        return statistics.median(window.core for window in self.windows)

    @property
    def late(self) -> Spread:
        """Lateness: the medians of the windows' medians and percentiles, and the greatest of all."""
        return Spread(
            statistics.median(window.late.p50 for window in self.windows),
            statistics.median(window.late.p99 for window in self.windows),
            max((window.late.max for window in self.windows), default=math.nan),
        )

    def as_line(self) -> dict[str, Any]:
        """Give all of it for a JSON line, the medians beside the windows that they are of."""
        told = asdict(self) | {"cpu_per_beat": self.cpu_per_beat, "core": self.core, "late": asdict(self.late)}
        return {key: _plain(value) for key, value in told.items()}


@dataclass(frozen=True, slots=True)
class Growth:
    """How cost grows with the number of leases: a straight line through several sizes, by least squares."""

    sizes: int
    interval: float
    """Seconds between two beats of a lease, at all of these sizes."""
    cpu_per_second: float
    """Seconds of CPU in each second, however many leases there are."""
    cpu_per_beat: float
    """Seconds of CPU for each beat more."""
    memory: float
    """KiB above the empty process, however many leases there are."""
    memory_per_lease: float
    """KiB for each lease more."""

    @classmethod
    def of(cls, rows: Sequence[Row]) -> "Growth | None":
        """Reckon it of the operator at the most usual interval; None of fewer than three sizes: that is no line."""
        interval = Counter(row.interval for row in rows).most_common(1)[0][0]
        of = [row for row in rows if row.contender == "worklease" and row.interval == interval]
        if len(of) < LINE:
            return None
        leases = [row.leases for row in of]
        cpu = statistics.linear_regression([each / interval for each in leases], [row.core for row in of])
        memory = statistics.linear_regression(leases, [row.leases * row.memory_per_lease for row in of])
        return cls(len(of), interval, cpu.intercept, cpu.slope, memory.intercept, memory.slope)


def _plain(value: Any) -> Any:
    """Write what JSON has no number for as null."""
    match value:
        case float() if not math.isfinite(value):
            return None
        case Mapping():
            return {key: _plain(member) for key, member in value.items()}
        case list() | tuple():
            return [_plain(member) for member in value]
        case _:
            return value
