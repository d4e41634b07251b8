"""The pools in ``worklease status``: one table, and which of them need attention.

Owns how the table looks; the leases follow below it. Pure: the pools and the time are passed in.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from worklease.cli.leases import duration
from worklease.cli.pools import PoolView, ranked_pools
from worklease.cli.table import MARKS, WORDS, summary, why


def picture_of_pools(pools: Sequence[PoolView], now: datetime, *, namespaces: bool = False) -> RenderableType:
    """Return the table of the pools, and a line that names those that need attention."""
    rows = ranked_pools(pools, now)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("", width=1)
    for name in ("NAMESPACE", "POOL") if namespaces else ("POOL",):
        table.add_column(name, no_wrap=True)
    for name in ("ACTIVE", "MAX", "RUNNING", "QUEUED"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("OLDEST", justify="right", no_wrap=True)
    table.add_column("WHY", min_width=24, overflow="fold")
    for seen, judgement in rows:
        mark, style = MARKS[judgement.level]
        names = [seen.namespace, seen.name] if namespaces else [seen.name]
        numbers = [seen.active, seen.most, seen.stages["running"], "-" if seen.depth is None else seen.depth]
        waits = "-" if seen.oldest is None or not seen.depth else duration((now - seen.oldest).total_seconds())
        table.add_row(Text(mark, style=style), *names, *map(str, numbers), waits, why(judgement))
    named = [(seen.name, judgement) for seen, judgement in rows]
    return Group(table, Text(), summary("pool", named, "worklease explain pool/NAME"), Text())


def pools_as_json(pools: Sequence[PoolView], now: datetime) -> list[dict[str, Any]]:
    """Return what the table shows, for programs."""
    return [
        {
            "namespace": seen.namespace,
            "name": seen.name,
            "environmentID": seen.environment_id,
            "level": WORDS[judgement.level],
            "reason": judgement.reason,
            "message": judgement.message,
            "maxConcurrent": seen.most,
            "active": seen.active,
            **seen.stages,
            "queued": seen.depth,
            "oldestQueuedTime": None if seen.oldest is None else seen.oldest.isoformat(),
        }
        for seen, judgement in ranked_pools(pools, now)
    ]
