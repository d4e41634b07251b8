"""What a soak found: counts, violations, and the table that shows them.

This module checks a whole soak. It must not touch a process: it gets the record of what was observed.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from soak.plan import Trouble
from support.judge import (
    OPERATOR,
    BeatAfterEnd,
    BrokenChain,
    Entry,
    Gap,
    Outlived,
    Overlap,
    Span,
    Stay,
    Violation,
    WrongStop,
    WrongTakeover,
    check_history,
    check_sandboxes,
    heartbeats,
)

SHOWN_ENTRIES: Final = 12
"""How many entries of the history are shown with a violation: its item's last ones before it."""


@dataclass(slots=True)
class Record:
    """Everything that was observed from outside."""

    history: Sequence[Entry] = ()
    stays: Sequence[Stay] = ()
    asleep: list[Span] = field(default_factory=list)
    """When the operator was suspended for longer than a TTL."""
    away: list[Span] = field(default_factory=list)
    """When the operator or the API server was away, for any length of time."""
    until: float = 0.0
    released: Collection[str] = ()
    """Items whose leases were meant to lapse."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The counts of a soak, and its violations."""

    troubles: Mapping[Trouble, int]
    leases: int
    beats: int
    lapses: Sequence[Gap]
    outlived: Sequence[Outlived]
    wrong_stops: Sequence[WrongStop]
    wrong_takeovers: Sequence[WrongTakeover]
    others: Sequence[BrokenChain | BeatAfterEnd | Overlap]

    @property
    def violations(self) -> Sequence[Violation | Outlived]:
        """All violations."""
        return [*self.lapses, *self.outlived, *self.wrong_stops, *self.wrong_takeovers, *self.others]

    @property
    def is_clean(self) -> bool:
        """Whether there is no violation."""
        return not self.violations


def judge(record: Record, troubles: Iterable[Trouble]) -> Verdict:
    """Return the verdict on a record."""
    found = [
        violation
        for violation in check_history(
            record.history, absent=record.asleep, until=record.until, released=record.released
        )
        if getattr(violation, "agent", OPERATOR) == OPERATOR
    ]
    beats = [beat for beat in heartbeats(record.history) if beat["agent"] == OPERATOR and beat["lease_extended"]]
    return Verdict(
        troubles=Counter(troubles),
        leases=sum(beat["expected"] == "NO_HEARTBEAT" for beat in beats),
        beats=len(beats),
        lapses=[each for each in found if isinstance(each, Gap)],
        outlived=check_sandboxes(record.history, record.stays, absent=record.away),
        wrong_stops=[each for each in found if isinstance(each, WrongStop)],
        wrong_takeovers=[each for each in found if isinstance(each, WrongTakeover)],
        others=[each for each in found if isinstance(each, BrokenChain | BeatAfterEnd | Overlap)],
    )


def table(verdict: Verdict) -> RenderableType:
    """Return the table that a soak prints at its end."""
    troubles = _columns("Faults injected")
    for trouble in Trouble:
        troubles.add_row(trouble.value, str(verdict.troubles.get(trouble, 0)))
    troubles.add_row(Text("all", "bold"), str(sum(verdict.troubles.values())))
    found = _columns("Found")
    found.add_row("leases held", str(verdict.leases))
    found.add_row("beats accepted", str(verdict.beats))
    rows: tuple[tuple[str, Sequence[object]], ...] = (
        ("lapses of the operator's leases", verdict.lapses),
        ("sandboxes that outlived their lease", verdict.outlived),
        ("wrongly stopped items", verdict.wrong_stops),
        ("leases taken from another holder", verdict.wrong_takeovers),
        ("broken chains, overlaps, beats after the end", verdict.others),
    )
    for name, violations in rows:
        found.add_row(name, Text(str(len(violations)), "red bold" if violations else "green"))
    return Group(troubles, "", found)


def _columns(title: str) -> Table:
    shown = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    shown.add_column(title, no_wrap=True, min_width=46)
    shown.add_column("", justify="right")
    return shown


def evidence(verdict: Verdict, history: Sequence[Entry]) -> list[str]:
    """Return each violation, with the lines of the history that led to it."""
    lines: list[str] = []
    for violation in verdict.violations:
        lines.append(str(violation))
        about = [entry for entry in history if _touches(entry, violation)]
        lines.extend(f"  {line(entry)}" for entry in about[-SHOWN_ENTRIES:])
    return lines


def _touches(entry: Entry, violation: Violation | Outlived) -> bool:
    """Whether an entry explains a violation: it came before. What a sandbox outlived may also have come later."""
    if entry["item"] != violation.item and entry["event"] != "outage":
        return False
    return isinstance(violation, Outlived) or bool(entry["seq"] <= violation.seq)


def line(entry: Entry) -> str:
    """Return an entry of the history as one line."""
    if entry["event"] != "request":
        return f"#{entry['seq']} {entry['at']} {entry['item'] or 'server'}: {entry['event']} {entry['detail'] or ''}"
    parts = (
        f"#{entry['seq']} {entry['arrived']} {entry['item']}: {entry['agent']} {entry['call']}",
        f"with {entry['expected']}" if entry["expected"] else "",
        f"({entry['fault']})" if entry["fault"] else "",
        f"-> {entry['status'] or entry['outcome']}, {entry['after']['state']} {entry['after']['value']}",
    )
    return " ".join(part for part in parts if part)
