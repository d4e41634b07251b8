"""``worklease status``: all leases in one table, and which of them need attention.

Owns how the table looks. Leases that need attention come first, with the reason in words; the last line, right above
the prompt, names them again. Pure: the leases and the time are passed in.
"""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from worklease.cli.leases import Judgement, LeaseView, duration, judge
from worklease.cli.processes import ProcessView
from worklease.rules.reasons import Level

BAR: Final = 10
"""Cells of the bar: a full bar is a lease that was renewed just now."""

SHORT: Final = 1 / 3
"""The part of the TTL below which the bar is yellow: renewal is due at a third, so two in a row have failed."""

SHOWN_FINISHED: Final = 10
"""Finished leases that are shown at most, the latest: those of a pool stay for an hour, and would hide the others."""

NAMED: Final = 6
"""Leases that the last line names at most: as many as fit on it."""

MARKS: Final = {
    Level.TROUBLE: ("✗", "bold red"),
    Level.LOST: ("✗", "yellow"),
    Level.UNDER_WAY: ("…", "cyan"),
    Level.WELL: ("●", "green"),
    Level.OVER: ("✓", "dim"),
}

WORDS: Final = {
    Level.TROUBLE: "in trouble",
    Level.LOST: "lost",
    Level.UNDER_WAY: "under way",
    Level.WELL: "well",
    Level.OVER: "finished",
}

Row = tuple[LeaseView, Judgement]


def ranked(leases: Sequence[LeaseView], now: datetime) -> list[Row]:
    """Return the leases with their judgement: those that need attention first, then by name; the finished by time."""
    rows = [(seen, judge(seen, now)) for seen in leases]
    rows.sort(key=lambda row: (row[1].level, row[0].namespace, row[0].name))
    finished = [row for row in rows if row[1].level is Level.OVER]
    finished.sort(key=lambda row: row[0].last_transition, reverse=True)
    return rows[: len(rows) - len(finished)] + finished


def picture(
    leases: Sequence[LeaseView],
    now: datetime,
    *,
    namespaces: bool = False,
    wide: bool = False,
    height: int | None = None,
) -> RenderableType:
    """Return the table, all of it if it is wide; with ``height``, it has at most that many lines."""
    if not leases:
        return Text("No WorkLeases here. kubectl get worklease -A shows those of all namespaces.")
    rows = ranked(leases, now)
    most = len(rows) if wide else sum(judgement.level is not Level.OVER for _, judgement in rows) + SHOWN_FINISHED
    shown, rest = _fitting(rows[:most], height)
    rest += rows[most:]
    table = _table(shown, now, namespaces=namespaces, wide=wide)
    lines: list[RenderableType] = [table]
    if rest:
        lines.append(Text(f"  … and {len(rest)} more: {_tally(rest)}", style="dim"))
    if len({seen.operator for seen in leases} - {""}) > 1:
        lines += [Text(), _installations(leases)]
    return Group(
        *lines, Text(), summary("lease", [(seen.name, judgement) for seen, judgement in rows], "worklease explain NAME")
    )


def _fitting(rows: list[Row], height: int | None) -> tuple[list[Row], list[Row]]:
    """Return the rows that fit and the rest, with space for the header, the last lines, and reasons of three lines."""
    if height is None:
        return rows, []
    left, count = height - 5, 0
    for _, judgement in rows:
        left -= 3 if judgement.level <= Level.LOST else 1
        if left < 0:
            break
        count += 1
    return rows[:count], rows[count:]


def _table(rows: Sequence[Row], now: datetime, *, namespaces: bool, wide: bool) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("", width=1)
    if namespaces:
        table.add_column("NAMESPACE", no_wrap=True)
    table.add_column("NAME", no_wrap=True)
    table.add_column("HELD", no_wrap=True)
    table.add_column("EXPIRES IN", no_wrap=True)
    table.add_column("ITEM", no_wrap=True)
    table.add_column("SANDBOX", no_wrap=True)
    table.add_column("SINCE", justify="right", no_wrap=True)
    if wide:
        for name in ("ENVIRONMENT", "WORK", "POD", "TTL", "KEPT BY"):
            table.add_column(name, no_wrap=True)
    table.add_column("WHY", min_width=24, overflow="fold")
    for seen, judgement in rows:
        mark, style = MARKS[judgement.level]
        quiet = "dim" if judgement.level is Level.OVER else ""
        cells: list[RenderableType] = [Text(mark, style=style)]
        cells += [Text(seen.namespace, style=quiet)] if namespaces else []
        cells += [
            Text(seen.name, style=style if judgement.level <= Level.LOST else quiet),
            Text(_held(seen), style=quiet),
            _bar(seen, now),
            Text(seen.state or "-", style=quiet),
            Text(_sandbox(seen), style=quiet),
            Text(duration((now - seen.last_transition).total_seconds()), style=quiet),
        ]
        if wide:
            pod = seen.sandboxes[0].name if seen.sandboxes else "-"
            ttl = "-" if seen.ttl is None else f"{seen.ttl}s"
            keeper = seen.operator.partition("/")[0] or "-"
            cells += [Text(each, style=quiet) for each in (seen.environment_id, seen.work_id, pod, ttl, keeper)]
        table.add_row(*cells, why(judgement))
    return table


def _held(seen: LeaseView) -> str:
    return {"True": "yes", "False": "no"}.get(seen.held.status, "unknown")


def _sandbox(seen: LeaseView) -> str:
    if seen.sandbox is None:
        return "-"
    return seen.sandbox.reason


def why(judgement: Judgement) -> Text:
    """Return the reason of a lease or a pool, with the message if it needs attention."""
    _, style = MARKS[judgement.level]
    if judgement.level is Level.WELL:
        return Text(judgement.reason, style="dim")
    if not judgement.message or judgement.level is Level.OVER:
        return Text(judgement.reason, style=style)
    words = (f": {judgement.message}", "" if judgement.level <= Level.LOST else "dim")
    return Text.assemble((judgement.reason, style), words)


def _bar(seen: LeaseView, now: datetime) -> Text:
    """Return a bar of how much is left of a lease, with the time beside it."""
    left = seen.left(now)
    if left is None or not seen.ttl or seen.is_finished:
        return Text("-", style="dim")
    part = min(1.0, max(0.0, left / seen.ttl))
    full = round(part * BAR)
    colour = "green" if part >= SHORT else "yellow" if left > 0 else "red"
    words = duration(left) if left > 0 else f"over {duration(-left)}"
    return Text.assemble(("━" * full, colour), ("─" * (BAR - full), "bright_black"), " ", words)


def _tally(rows: Sequence[Row]) -> str:
    counts = Counter(judgement.level for _, judgement in rows)
    return ", ".join(f"{counts[level]} {WORDS[level]}" for level in Level if counts[level])


def summary(noun: str, rows: Sequence[tuple[str, Judgement]], command: str) -> Text:
    """Return the last line: how many there are of each level, and the names of those that need attention."""
    counts = Counter(judgement.level for _, judgement in rows)
    line = Text(f"{len(rows)} {noun}{'' if len(rows) == 1 else 's'}: ")
    parts = [Text(f"{counts[level]} {WORDS[level]}", style=MARKS[level][1]) for level in Level if counts[level]]
    line.append_text(Text(", ").join(parts))
    worst = [(name, judgement) for name, judgement in rows if judgement.level is Level.TROUBLE]
    line.append(".")
    if worst:
        line.append(" Look at ")
        named = [Text.assemble((name, "bold"), f" ({judgement.reason})") for name, judgement in worst[:NAMED]]
        line.append_text(Text(", ").join(named))
        if len(worst) > NAMED:
            line.append(f" and {len(worst) - NAMED} more")
        line.append(f": {command} shows what happened.")
    return line


def _installations(leases: Sequence[LeaseView]) -> Text:
    """Return which installations of the operator keep these leases, where there are several."""
    counts = Counter(seen.operator for seen in leases if seen.operator)
    kept = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    said = f"{len(counts)} installations of the operator keep these leases, and each leaves alone what another keeps"
    return Text(f"{said}: {kept}.", style="yellow")


def picture_of_processes(processes: Sequence[ProcessView], now: datetime) -> RenderableType:
    """Return the processes of the operator, and how many of the buckets of leases each holds."""
    if not processes:
        return Text()
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("OPERATOR", "PROCESS", "RUNS IN", "BUCKETS", "SEEN"):
        table.add_column(name, no_wrap=True)
    for each in processes:
        seen = "-" if each.renewed is None else f"{duration((now - each.renewed).total_seconds())} ago"
        held = f"{len(each.buckets)}{', ending' if each.is_ending else ''}"
        table.add_row(each.namespace, each.name, each.holder.partition("/")[0], held, seen)
    lines: list[RenderableType] = [Text(), table]
    if (count := len({each.namespace for each in processes})) > 1:
        said = f"{count} installations of the operator run. If they watch the same namespaces, each leaves alone what"
        lines += [Text(), Text(f"{said} another one keeps, as KEPT BY says.", style="yellow")]
    return Group(*lines)


def as_json(leases: Sequence[LeaseView], now: datetime) -> dict[str, Any]:
    """Return what the table shows, for programs."""
    return {"leases": [_entry(seen, judgement, now) for seen, judgement in ranked(leases, now)]}


def _entry(seen: LeaseView, judgement: Judgement, now: datetime) -> dict[str, Any]:
    left = seen.left(now)
    pod = seen.sandboxes[0] if seen.sandboxes else None
    return {
        "namespace": seen.namespace,
        "name": seen.name,
        "environmentID": seen.environment_id,
        "workID": seen.work_id,
        "level": WORDS[judgement.level],
        "reason": judgement.reason,
        "message": judgement.message,
        "held": seen.held.status,
        "state": seen.state or None,
        "operator": seen.operator or None,
        "ttlSeconds": seen.ttl,
        "leaseExpiryTime": None if seen.expiry is None else seen.expiry.isoformat(),
        "secondsToExpiry": None if left is None else round(left, 1),
        "sandbox": None if pod is None else {"podName": pod.name, "phase": pod.phase, "reason": pod.reason or None},
        "lastTransitionTime": seen.last_transition.isoformat(),
    }
