"""The figures of a run, and how they are computed. Pure."""

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

LINE: Final = 3
"""The least number of points for a line: fewer would say nothing about the fit."""


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that ``share`` of all values do not exceed (nearest rank); NaN if there are none."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def lateness(numbers: Sequence[int], times: Sequence[float], since: float, interval: float) -> list[float]:
    """Return how many seconds after its due time each beat came, for the beats since ``since``.

    A beat is due ``interval`` after the one before. An early beat counts as 0. A lease's first beat is not counted.
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
    """Median, 99th percentile and maximum of some values, in seconds; NaN if there are none."""

    p50: float
    p99: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Compute them."""
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
    """The share of the machine's CPU in use, by any process."""

    @property
    def cpu_per_beat(self) -> float:
        """Seconds of CPU per accepted beat; infinite if there was none."""
        return self.cpu_seconds / self.beats if self.beats else math.inf

    @property
    def core(self) -> float:
        """The share of one core that it used."""
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
    """Seconds from the start of a process until every lease had a beat, by how the process before it ended."""
    lapses: int = 0
    """Over all of the contender's time, including its starts and kills."""
    requests: Mapping[str, float] = field(default_factory=dict)
    """Requests to the Kubernetes API a second, by verb, in the windows."""
    stop_to_delete: Spread | None = None
    """Seconds from the answer that said "stopping" to the accepted DELETE of the pod."""
    failure_to_stop: Spread | None = None
    """Seconds from the pod's failure in the API server to the stop call."""
    loop_lag: Spread | None = None
    """Seconds that the process took to answer a request for a page that it does not have, in the windows."""
    start_cpu: float = math.nan
    """Seconds of CPU until every new lease had a beat."""

    @property
    def cpu_per_beat(self) -> float:
        """Seconds of CPU per beat: the median of the windows."""
        return statistics.median(window.cpu_per_beat for window in self.windows)

    def times(self, floor: "Row") -> float:
        """Return a beat's CPU as a multiple of the floor's: the median over the windows, if both have the same ones.

        NaN if there is no such multiple: the system counts hundredths of a second, and a floor with few beats may use
        none.
        """
        pairs = [(mine.cpu_per_beat, its.cpu_per_beat) for mine, its in zip(self.windows, floor.windows, strict=False)]
        if len(self.windows) != len(floor.windows):
            pairs = [(self.cpu_per_beat, floor.cpu_per_beat)]
        ratios = [mine / its for mine, its in pairs if its]
        return statistics.median(ratios) if ratios else math.nan

    @property
    def core(self) -> float:
        """The share of one core that it used: the median of the windows."""
        return statistics.median(window.core for window in self.windows)

    @property
    def late(self) -> Spread:
        """Lateness: the medians of the windows' medians and percentiles, and the maximum of all."""
        return Spread(
            statistics.median(window.late.p50 for window in self.windows),
            statistics.median(window.late.p99 for window in self.windows),
            max((window.late.max for window in self.windows), default=math.nan),
        )

    def as_line(self) -> dict[str, Any]:
        """Return all of it for a JSON line, the medians beside their windows."""
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
    """Seconds of CPU for each additional beat."""
    memory: float
    """KiB above the empty process, however many leases there are."""
    memory_per_lease: float
    """KiB for each additional lease."""

    @classmethod
    def of(cls, rows: Sequence[Row]) -> "Growth | None":
        """Compute it for the operator at the most frequent interval; None if there are fewer than three sizes."""
        interval = Counter(row.interval for row in rows).most_common(1)[0][0]
        of = [row for row in rows if row.contender == "worklease" and row.interval == interval]
        if len(of) < LINE:
            return None
        leases = [row.leases for row in of]
        cpu = statistics.linear_regression([each / interval for each in leases], [row.core for row in of])
        memory = statistics.linear_regression(leases, [row.leases * row.memory_per_lease for row in of])
        return cls(len(of), interval, cpu.intercept, cpu.slope, memory.intercept, memory.slope)


def _plain(value: Any) -> Any:
    """Replace numbers that JSON cannot express with null."""
    match value:
        case float() if not math.isfinite(value):
            return None
        case Mapping():
            return {key: _plain(member) for key, member in value.items()}
        case list() | tuple():
            return [_plain(member) for member in value]
        case _:
            return value
