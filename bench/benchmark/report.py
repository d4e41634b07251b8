"""The output of a run: tables on the terminal, JSON lines, and the tables in the document. Must not measure."""

import json
import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from rich import box
from rich.console import Console
from rich.table import Table

from benchmark.figures import Growth, Row, Spread
from benchmark.waves import Bound

BEGIN: Final = "<!-- begin: written by `make bench` -->"
END: Final = "<!-- end: written by `make bench` -->"

LEAST_RATE: Final = 0.005
"""The least rate, in requests a second, that is shown."""

Column = tuple[str, Callable[[Row, Sequence[Row]], str]]
"""A column's heading, and a function that returns its cell for a row, given all rows."""


def show(rows: Sequence[Row], console: Console) -> None:
    """Print the tables."""
    for columns, of in ((COST, rows), (TIMES, [row for row in rows if row.all_beaten])):
        table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
        for head, _ in columns:
            table.add_column(head, justify="left" if head == "Contender" else "right")
        for row in of:
            table.add_row(*_cells(row, rows, columns), style="bold" if row.contender == "worklease" else "")
        console.print(table)
    for line in _growth_lines(rows) + _request_lines(rows):
        console.print(line, highlight=False)


def show_bounds(bounds: Sequence[Bound], console: Console) -> None:
    """Print the bounds of the waves, and whether they held."""
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for head in ("Wave", "Bound", "Measured", ""):
        table.add_column(head, justify="right" if head == "Measured" else "left")
    wave = ""
    for bound in bounds:
        mark = "[green]held[/]" if bound.held else "[bold red]BROKEN[/]"
        table.add_row(bound.wave if bound.wave != wave else "", bound.what, bound.measured, mark)
        wave = bound.wave
    console.print(table)


def write_lines(rows: Sequence[Row], path: Path) -> None:
    """Append one JSON line for each row."""
    stamp = datetime.now(UTC).isoformat(timespec="seconds")
    with path.open("a", encoding="utf-8") as lines:
        for row in rows:
            lines.write(json.dumps({"at": stamp} | row.as_line()) + "\n")


def write_document(rows: Sequence[Row], path: Path, command: str, machine: str) -> None:
    """Write the tables between the markers of a document, with the command that made them."""
    before, _, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(f"{path} has no markers for the tables: add the lines {BEGIN} and {END}")
    text = f"{before}{BEGIN}\n{markdown(rows, command, machine)}{END}{after}"
    path.write_text(text, encoding="utf-8")


def markdown(rows: Sequence[Row], command: str, machine: str) -> str:
    """Return the tables as Markdown."""
    lines = [f"Written by `{command}` on {datetime.now(UTC):%Y-%m-%d}, on {machine}.", ""]
    for columns, of in ((COST, rows), (TIMES, [row for row in rows if row.all_beaten])):
        lines += [
            f"| {' | '.join(head for head, _ in columns)} |",
            f"|{'|'.join(' --- ' if head == 'Contender' else ' ---: ' for head, _ in columns)}|",
            *(f"| {' | '.join(_cells(row, rows, columns))} |" for row in of),
            "",
        ]
    for line in _growth_lines(rows) + _request_lines(rows):
        lines += [line, ""]
    return "\n".join(lines)


def _growth_lines(rows: Sequence[Row]) -> list[str]:
    growth = Growth.of(rows)
    if growth is None:
        return []
    text = (
        f"A line through the {growth.sizes} sizes at {growth.interval:g} s, by least squares: "
        f"{1e3 * growth.cpu_per_second:.0f} ms of CPU a second for the process and {1e3 * growth.cpu_per_beat:.2f} ms "
        f"for each beat; {growth.memory / 1024:.0f} MiB for the process, above the empty one, and "
        f"{growth.memory_per_lease:.1f} KiB for each lease."
    )
    return [text]


def _request_lines(rows: Sequence[Row]) -> list[str]:
    return [
        f"Kubernetes API requests a second at {row.leases:,} leases, a beat each {row.interval:g} s: "
        + ", ".join(f"{what} {rate:.2f}" for what, rate in row.requests.items() if rate >= LEAST_RATE)
        for row in rows
        if row.requests
    ]


def _cells(row: Row, rows: Sequence[Row], columns: Sequence[Column]) -> list[str]:
    return [tell(row, rows) for _, tell in columns]


def _times_floor(row: Row, rows: Sequence[Row]) -> str:
    floor = next((each for each in rows if each.contender == "floor" and _size(each) == _size(row)), None)
    ratio = math.nan if floor is None else row.times(floor)
    return f"{ratio:.2f}" if math.isfinite(ratio) else "-"


def _beaten(why: str) -> Callable[[Row, Sequence[Row]], str]:
    return lambda row, _: _seconds(row.all_beaten[why]) if why in row.all_beaten else "-"


def _size(row: Row) -> tuple[int, float]:
    return row.leases, row.interval


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.2f} ms" if math.isfinite(seconds) else "no beat"


def _seconds(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "never"
    return f"{1e3 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _spread(spread: Spread | None) -> str:
    if spread is None or math.isnan(spread.max):
        return "-"
    return " / ".join(_seconds(value) for value in (spread.p50, spread.p99, spread.max))


def _two(spread: Spread | None) -> str:
    return "-" if spread is None else f"{_seconds(spread.p50)} / {_seconds(spread.max)}"


_WHICH: Final[tuple[Column, ...]] = (
    ("Leases", lambda row, _: f"{row.leases:,}"),
    ("Every", lambda row, _: f"{row.interval:g} s"),
    ("Contender", lambda row, _: row.contender),
)

COST: Final[tuple[Column, ...]] = (
    *_WHICH,
    ("CPU a beat", lambda row, _: _milliseconds(row.cpu_per_beat)),
    ("x floor", _times_floor),
    ("Of a core", lambda row, _: f"{row.core:.0%}"),
    ("KiB a lease", lambda row, _: f"{row.memory_per_lease:.1f}" if math.isfinite(row.memory_per_lease) else "-"),
    ("Late p50 / p99 / max", lambda row, _: _spread(row.late)),
    ("Lapses", lambda row, _: f"{row.lapses:,}"),
    ("Machine at work", lambda row, _: f"{max(window.machine_load for window in row.windows):.0%}"),
)

TIMES: Final[tuple[Column, ...]] = (
    *_WHICH,
    ("All beaten after start", _beaten("start")),
    ("kill -9", _beaten("kill -9")),
    ("SIGTERM", _beaten("SIGTERM")),
    ("Stop to DELETE p50 / max", lambda row, _: _two(row.stop_to_delete)),
    ("Failure to stop p50 / max", lambda row, _: _two(row.failure_to_stop)),
    ("Loop lag p50 / p99 / max", lambda row, _: _spread(row.loop_lag)),
)
