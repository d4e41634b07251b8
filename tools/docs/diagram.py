"""The picture of a lease's states, as SVG without fonts, scripts or pictures from elsewhere.

Owns only positions and looks. The content comes from the chart; a state or a way without a position here is an error,
and so is a position for something that the chart does not have.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import escape

from docs.states import Chart, State
from worklease.rules.reasons import Verdict

WIDTH, HEIGHT = 1000, 590
LINE = 19
"""Pixels from one line of text to the next."""
COLOURS: Final = {Verdict.TRUE: "#2e7d32", Verdict.FALSE: "#78909c", Verdict.UNKNOWN: "#ef8f00"}
STYLE: Final = """
text { font-family: system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; font-size: 13px; fill: #263238 }
.title { font-size: 15px; font-weight: 600 }
.event { font-size: 12px; fill: #546e7a }
.box { fill: #ffffff; stroke: #90a4ae }
.way { fill: none; stroke: #546e7a; stroke-width: 1.4; marker-end: url(#arrow) }
"""


ARROW: Final = (
    '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
    '<path d="M0 0 L8 4 L0 8 z" fill="#546e7a"/></marker></defs>'
)


@dataclass(frozen=True, slots=True)
class Box:
    """Where a state is drawn, and in how many columns it lists its reasons."""

    x: int
    y: int
    width: int
    height: int
    columns: int = 1


@dataclass(frozen=True, slots=True)
class Way:
    """How an arrow runs, and where its events are written; without a place they are in the box that it leads to."""

    path: str
    at: tuple[int, int] | None = None
    anchor: str = "start"


BOXES: Final = {
    State.NOT_HELD: Box(8, 60, 297, 256, 2),
    State.HELD: Box(415, 60, 300, 158, 2),
    State.DRAINING: Box(870, 60, 115, 100),
    State.FENCED: Box(520, 330, 150, 82),
    State.OVER: Box(20, 480, 965, 109, 3),
}
WAYS: Final = {
    (State.NOT_HELD, State.HELD): Way("M305 110 H409", (360, 102), "middle"),
    (State.HELD, State.DRAINING): Way("M715 82 H864", (792, 74), "middle"),
    (State.DRAINING, State.HELD): Way("M870 112 H721", (792, 130), "middle"),
    (State.HELD, State.FENCED): Way("M560 218 V324", (552, 276), "end"),
    (State.FENCED, State.HELD): Way("M630 330 V224", (638, 269)),
    (State.DRAINING, State.FENCED): Way("M890 160 V360 H676", (780, 352), "middle"),
    (State.FENCED, State.DRAINING): Way("M670 388 H915 V166", (790, 404), "middle"),
    (State.NOT_HELD, State.OVER): Way("M140 316 V474", (148, 370)),
    (State.HELD, State.OVER): Way("M430 218 V474"),
    (State.DRAINING, State.OVER): Way("M955 160 V474"),
    (State.FENCED, State.OVER): Way("M595 412 V474"),
}


def draw(chart: Chart) -> str:
    """Return the picture of a chart."""
    if chart.ways.keys() != WAYS.keys():
        raise LookupError(f"ways that are not in both chart and picture: {chart.ways.keys() ^ WAYS.keys()}")
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        "<title>The states of a lease, and what leads from one to another</title>",
        f"<style>{STYLE}</style>",
        ARROW,
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="12" fill="#f7f9fa"/>',
        *_legend(),
        *(line for way, events in sorted(chart.ways.items()) for line in _way(WAYS[way], sorted(events))),
        *(line for state in State for line in _box(state, _entries(chart, state))),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _entries(chart: Chart, state: State) -> list[tuple[Verdict, str, str]]:
    """Return the entries of a box: each reason with its verdict, and for an end the events that lead to it."""
    shown = sorted(chart.shown[state], key=lambda each: (list(Verdict).index(each[0]), each[1]))
    causes: Mapping[str, str] = {}
    if state is State.OVER:
        causes = {reason: ", ".join(sorted(events)) for reason, events in chart.ends.items()}
    return [(verdict, reason, causes.get(reason, "")) for verdict, reason in shown]


def _legend() -> Iterator[str]:
    yield text(20, 34, "LeaseHeld is", "event")
    for place, (verdict, colour) in enumerate(COLOURS.items()):
        x = 112 + 80 * place
        yield f'<circle cx="{x}" cy="30" r="4.5" fill="{colour}"/>'
        yield text(x + 9, 34, verdict, "event")


def _way(way: Way, events: list[str]) -> Iterator[str]:
    yield f'<path class="way" d="{way.path}"/>'
    if way.at is not None:
        x, y = way.at
        for line, event in enumerate(events):
            yield text(x, y + 15 * line, event, "event", way.anchor)


def _box(state: State, entries: list[tuple[Verdict, str, str]]) -> Iterator[str]:
    box = BOXES[state]
    yield f'<rect class="box" x="{box.x}" y="{box.y}" width="{box.width}" height="{box.height}" rx="8"/>'
    yield text(box.x + 14, box.y + 24, state, "title")
    rows = -(-len(entries) // box.columns)
    if box.y + 48 + LINE * (rows - 1) > box.y + box.height:
        raise LookupError(f"the box of {state} is too small for {rows} rows")
    for place, (verdict, reason, events) in enumerate(entries):
        column, row = divmod(place, rows)
        x, y = box.x + 18 + column * (box.width // box.columns), box.y + 48 + LINE * row
        yield f'<circle cx="{x}" cy="{y - 4}" r="4.5" fill="{COLOURS[verdict]}"/>'
        yield text(x + 11, y, reason)
        if events:
            yield text(x + 92, y, events, "event")


def text(x: int, y: int, words: str, kind: str = "", anchor: str = "start") -> str:
    """Return a line of text; ``kind`` is its class in the style."""
    of_kind = f' class="{kind}"' if kind else ""
    at_anchor = "" if anchor == "start" else f' text-anchor="{anchor}"'
    return f'<text x="{x}" y="{y}"{of_kind}{at_anchor}>{escape(words)}</text>'
