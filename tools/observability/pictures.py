"""The dashboard's main panels, drawn from a real run: `python -m observability pictures`.

Owns the run (a fleet, and four faults one after the other) and the drawing. A real Prometheus answers the dashboard's
own queries. Must not contain a number of its own: it draws only what was measured.
"""

import math
import re
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from controlplane import OwnControlPlane, wait_for
from controlplane.ports import free_port
from observability.artefacts import ROOT, alerts, filled_in, panels
from observability.dashboard import MEANINGS
from observability.prometheus import NAMESPACE, Prometheus
from support.cluster import install_custom_resources, make_namespace
from support.operator import Leases, Operator
from support.simulator import Simulator

PICTURE = ROOT / "docs" / "pictures" / "dashboard.svg"
FLEET = 40
TTL = 30  # seconds
BUDGET = 400  # calls a minute: a beat of each lease every ten seconds takes 240 of them
WINDOW = "10s"  # of the rates: ten scrapes
STEP = 2.0  # seconds between two points
COLUMNS = 3
DRAWN = (
    "Leases by reason",
    "Time to the nearest expiry",
    "Doubt, adoptions, fences",
    "Heartbeats by outcome",
    "Heartbeat latency",
    "Heartbeat lateness",
    "Leases that ended",
    "Refused calls by code",
    "Request budget",
    "Status writes",
    "Event loop lag",
    "Memory",
)
UNITS: Mapping[str, tuple[str, float]] = {
    "s": ("s", 1.0),
    "reqps": ("/s", 1.0),
    "wps": ("/s", 1.0),
    "bytes": ("MiB", 2.0**20),
}
HEADROOM = 1.4  # above what is drawn, for the legend
NAMED = {
    "green": "#56a64b",
    "blue": "#3274d9",
    "light-blue": "#8ab8ff",
    "dark-purple": "#5c1b8f",
    "gray": "#9aa0a6",
    "purple": "#a352cc",
    "orange": "#e0752d",
    "yellow": "#f2cc0c",
    "red": "#e02f44",
}
COLOURS = ("#3274d9", "#56a64b", "#e0752d", "#a352cc", "#e02f44", "#f2cc0c", "#37872d", "#8f3bb8", "#6d7178", "#19a5a5")


@dataclass(slots=True)
class Run:
    """What happened and when, in seconds since the epoch."""

    start: float
    end: float = 0.0
    marks: list[tuple[float, str]] = field(default_factory=list)

    def mark(self, what: str) -> None:
        """Record that something starts now."""
        self.marks.append((time.time(), what))


def draw() -> None:
    """Run the fleet and draw the picture."""
    with OwnControlPlane() as plane, Simulator("--ttl", str(TTL)) as simulator, tempfile.TemporaryDirectory() as home:
        install_custom_resources(plane)
        namespace = make_namespace(plane)
        leases = Leases(plane, namespace, simulator)
        settings = {"WORKLEASE_LOG_LEVEL": "info", "WORKLEASE_REQUESTS_PER_MINUTE": str(BUDGET)}
        with (
            Operator(plane, namespace, simulator.url, **settings) as operator,
            Prometheus(Path(home), operator.address, alerts(NAMESPACE), free_port()) as prometheus,
        ):
            run = _live(leases, simulator)
            series = {
                target["expr"]: prometheus.query_range(filled_in(target["expr"], WINDOW), run.start, run.end, STEP)
                for panel in panels()
                for target in panel["targets"]
            }
    _draw(run, series)


def _live(leases: Leases, simulator: Simulator) -> Run:
    """Run a fleet through four faults: lost answers, an outage, a revoked key, stops."""
    run = Run(time.time())
    items = [f"work_{number:02}" for number in range(FLEET)]
    for item in items:
        simulator.create_item(item)
    leases.create(*items, pods=True)
    for item in items:
        leases.await_condition(item, "LeaseHeld", "True", seconds=60)
    _let_pass(30)
    run.mark("answers lost")
    simulator.inject("drop-after", times=FLEET // 2)
    _let_pass(25)
    run.mark("API away")
    simulator.outage("refuse")
    _let_pass(12)
    simulator.outage("off")
    _let_pass(25)
    run.mark("key revoked")
    simulator.set_environment_keys(simulator.environment_id, "another-key")
    _let_pass(15)
    simulator.set_environment_keys(simulator.environment_id, simulator.environment_key)
    _let_pass(20)
    run.mark("items stopped")
    for item in items[: FLEET // 4]:
        simulator.stop_item(item)
    _let_pass(30)
    run.end = time.time()
    return run


def _let_pass(seconds: float) -> None:
    until = time.monotonic() + seconds
    wait_for(lambda: time.monotonic() > until, seconds=seconds + 30, what=f"{seconds} seconds of the run")


def _draw(run: Run, series: Mapping[str, list[dict[str, Any]]]) -> None:
    style: Any = {  # matplotlib names each of its keys in a type of its own
        "font.family": "sans-serif",
        "font.size": 8,
        "svg.fonttype": "none",
        "svg.hashsalt": "worklease",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": "#9aa0a6",
        "axes.grid": True,
        "grid.color": "#e8eaed",
        "axes.axisbelow": True,
    }
    by_title = {panel["title"]: panel for panel in panels()}
    with mpl.rc_context(style):
        rows = -(-len(DRAWN) // COLUMNS)
        figure = Figure(figsize=(13, 2.7 * rows), layout="constrained")
        axes = figure.subplots(rows, COLUMNS).flatten()
        for axis, title in zip(axes, DRAWN, strict=True):
            _panel(axis, by_title[title], run, series)
        figure.suptitle(
            f"{FLEET} leases with a TTL of {TTL} s for {run.end - run.start:.0f} s, "
            "and four faults (dashed): the dashboard's main panels",
            fontsize=10,
        )
        PICTURE.parent.mkdir(exist_ok=True)
        figure.savefig(PICTURE, metadata={"Date": None})


def _panel(axis: Axes, panel: Mapping[str, Any], run: Run, series: Mapping[str, list[dict[str, Any]]]) -> None:
    unit, divisor = UNITS.get(panel["fieldConfig"]["defaults"]["unit"], ("", 1.0))
    lines = [
        (_legend(target["legendFormat"], found["metric"]), _points(found["values"], run, divisor))
        for target in panel["targets"]
        for found in series[target["expr"]]
    ]
    lines = [(legend, points) for legend, points in lines if any(value > 0 for value in points.values())]
    if panel["fieldConfig"]["defaults"]["custom"]["stacking"]["mode"] == "normal":
        _stacked(axis, lines)
    else:
        for number, (legend, points) in enumerate(lines):
            axis.plot(list(points), list(points.values()), label=legend, lw=1.2, color=_colour(legend, number))
    for at, what in run.marks:
        axis.axvline(at - run.start, color="#5f6368", lw=0.7, ls=(0, (4, 3)))
        axis.text(
            *(at - run.start, 1.0, what),
            transform=axis.get_xaxis_transform(),
            fontsize=6,
            color="#5f6368",
            ha="left",
            va="bottom",
        )
    axis.set_title(panel["title"] + (f" ({unit})" if unit else ""), loc="left", fontsize=9, fontweight="bold", pad=12)
    axis.set_xlim(0, run.end - run.start)
    axis.set_ylim(0, axis.get_ylim()[1] * HEADROOM)
    axis.yaxis.set_major_locator(MaxNLocator(4))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} s"))
    if lines:
        axis.legend(fontsize=6.5, frameon=False, loc="upper left", ncols=3, handlelength=1.2, borderaxespad=0.2)


def _stacked(axis: Axes, lines: list[tuple[str, dict[float, float]]]) -> None:
    times = sorted({at for _, points in lines for at in points})
    values = [[points.get(at, 0.0) for at in times] for _, points in lines]
    legends = [legend for legend, _ in lines]
    colours = [_colour(legend, number) for number, legend in enumerate(legends)]
    axis.stackplot(times, values, labels=legends, colors=colours, alpha=0.8, step="post")


def _colour(legend: str, number: int) -> str:
    """Return the colour that means the same in all panels, else the next one."""
    return NAMED.get(MEANINGS.get(legend, ""), COLOURS[number % len(COLOURS)])


def _legend(template: str, labels: Mapping[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda match: labels.get(match[1], ""), template)


def _points(values: list[list[Any]], run: Run, divisor: float) -> dict[float, float]:
    """Return what was measured, by seconds since the start. NaN means that nothing was measured, and is left out."""
    read = [(at - run.start, float(value) / divisor) for at, value in values]
    return {at: value for at, value in read if not math.isnan(value)}
