"""What a soak found: counts, violations, and the table that tells them.

Owns the judgement of a whole soak. Must not touch a process: it is given what was seen.
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
    Robbed,
    Span,
    Stay,
    Violation,
    WrongStop,
    check_history,
    check_sandboxes,
    heartbeats,
)

SHOWN_ENTRIES: Final = 12
"""Entries of the history that are shown with a violation: its item's last ones before it."""


@dataclass(slots=True)
class Record:
    """All that was seen from outside."""

    history: Sequence[Entry] = ()
    stays: Sequence[Stay] = ()
    asleep: list[Span] = field(default_factory=list)
    """When the operator was stopped past the TTL."""
    away: list[Span] = field(default_factory=list)
    """When the operator, or the API server, was not there, for whatever time."""
    until: float = 0.0
    released: Collection[str] = ()
    """Items whose leases were meant to lapse."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The numbers of a soak, and what they were made from."""

    troubles: Mapping[Trouble, int]
    leases: int
    beats: int
    lapses: Sequence[Gap]
    outlived: Sequence[Outlived]
    wrong_stops: Sequence[WrongStop]
    robberies: Sequence[Robbed]
    others: Sequence[BrokenChain | BeatAfterEnd | Overlap]

    @property
    def violations(self) -> Sequence[Violation | Outlived]:
        """Everything that must not be."""
        return [*self.lapses, *self.outlived, *self.wrong_stops, *self.robberies, *self.others]

    @property
    def is_clean(self) -> bool:
        """Whether nothing was found."""
        return not self.violations


def judge(record: Record, troubles: Iterable[Trouble]) -> Verdict:
    """Judge what was seen."""
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
        robberies=[each for each in found if isinstance(each, Robbed)],
        others=[each for each in found if isinstance(each, BrokenChain | BeatAfterEnd | Overlap)],
    )


def table(verdict: Verdict) -> RenderableType:
    """The table that ends a soak."""
    troubles = _columns("Faults injected")
    for trouble in Trouble:
        troubles.add_row(trouble.value, str(verdict.troubles.get(trouble, 0)))
    troubles.add_row(Text("all", "bold"), str(sum(verdict.troubles.values())))
    found = _columns("Found")
    found.add_row("leases held", str(verdict.leases))
    found.add_row("beats accepted", str(verdict.beats))
    rows: tuple[tuple[str, Sequence[object]], ...] = (
        ("lapses that were ours", verdict.lapses),
        ("sandboxes that outlived their lease", verdict.outlived),
        ("wrongly stopped items", verdict.wrong_stops),
        ("leases taken from another holder", verdict.robberies),
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
    """Each violation, with the lines of the history that led to it."""
    lines: list[str] = []
    for violation in verdict.violations:
        lines.append(str(violation))
        about = [entry for entry in history if _touches(entry, violation)]
        lines.extend(f"  {line(entry)}" for entry in about[-SHOWN_ENTRIES:])
    return lines


def _touches(entry: Entry, violation: Violation | Outlived) -> bool:
    """Whether an entry is of a violation's story: what led to it; what a sandbox outlived may have come later."""
    if entry["item"] != violation.item and entry["event"] != "outage":
        return False
    return isinstance(violation, Outlived) or bool(entry["seq"] <= violation.seq)


def line(entry: Entry) -> str:
    """One entry of the history, on one line."""
    if entry["event"] != "request":
        return f"#{entry['seq']} {entry['at']} {entry['item'] or 'server'}: {entry['event']} {entry['detail'] or ''}"
    parts = (
        f"#{entry['seq']} {entry['arrived']} {entry['item']}: {entry['agent']} {entry['call']}",
        f"with {entry['expected']}" if entry["expected"] else "",
        f"({entry['fault']})" if entry["fault"] else "",
        f"-> {entry['status'] or entry['outcome']}, {entry['after']['state']} {entry['after']['value']}",
    )
    return " ".join(part for part in parts if part)
