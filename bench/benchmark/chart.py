"""The picture: what a beat costs against the number of leases. Deterministic: the same rows make the same file."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmark.figures import Row

COLOURS: Final = {"floor": "#7a8b99", "worklease": "#1f6feb"}
LABELS: Final = {"floor": "bare aiohttp loop", "worklease": "WorkLease"}


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw CPU for one beat and memory for one lease as an SVG, for all sizes with the most frequent interval."""
    # Not above: it takes half a second, and only who draws needs it.
    import matplotlib as mpl  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    interval = Counter(row.interval for row in rows).most_common(1)[0][0]
    rows = [row for row in rows if row.interval == interval]
    mpl.rcParams["svg.hashsalt"] = "worklease"
    mpl.rcParams["svg.fonttype"] = "none"
    figure = Figure(figsize=(7.5, 3.2), layout="constrained")
    cost, memory = figure.subplots(1, 2)
    for contender, colour in COLOURS.items():
        of = sorted((row for row in rows if row.contender == contender), key=lambda row: row.leases)
        sizes = [row.leases for row in of]
        cost.plot(sizes, [1e3 * row.cpu_per_beat for row in of], "o-", color=colour, label=LABELS[contender])
        if contender == "worklease":
            memory.plot(sizes, [row.memory_per_lease for row in of], "o-", color=colour)
    for axes, title in ((cost, "CPU for one beat (ms)"), (memory, "Memory for one lease and its pod (KiB)")):
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_xscale("log")
        axes.set_xlabel(f"leases, a beat each {interval:g} s")
        axes.set_ylim(bottom=0)
        axes.grid(visible=True, color="#e4e8ec", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        ticks = sorted({row.leases for row in rows})
        axes.set_xticks(ticks, [f"{size:,}" for size in ticks], fontsize=8)
        axes.minorticks_off()
    cost.legend(frameon=False, fontsize=9, loc="upper right")
    figure.savefig(path, format="svg", metadata={"Date": None})
