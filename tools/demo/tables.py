"""The tables that kubectl prints, moving: the ages are computed again each time a table is drawn.

Owns columns, ages and colours. Must not look at the cluster or the clock: snapshot and time are passed in.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from demo.snapshot import Lease, Pod, Snapshot

LEASE_COLUMNS = ("NAME", "STATE", "HELD", "EXTENDED", "LAST-HEARTBEAT", "SANDBOX", "AGE")
POD_COLUMNS = ("NAME", "READY", "STATUS", "RESTARTS", "AGE")
NEVER = "<unknown>"  # kubectl's word for an age that it cannot compute
# Where kubectl's ages change their units (apimachinery's HumanDuration): seconds up to two minutes, and so on.
SECONDS_UNTIL = timedelta(minutes=2)
BOTH_UNTIL = timedelta(minutes=10)
MINUTES_UNTIL = timedelta(hours=3)
STYLES = {
    "active": "green",
    "stopping": "yellow",
    "stopped": "dim",
    "True": "green",
    "true": "green",
    "False": "dim",
    "false": "dim",
    "Unknown": "yellow",
    "Running": "green",
    "Terminating": "yellow",
    "Pending": "yellow",
}


def age(since: datetime, now: datetime) -> str:
    """Return the time that has passed, in kubectl's format."""
    passed = max(now - since, timedelta())
    minutes, seconds = divmod(int(passed.total_seconds()), 60)
    if passed < SECONDS_UNTIL:
        return f"{60 * minutes + seconds}s"
    if passed < BOTH_UNTIL:
        return f"{minutes}m{seconds}s" if seconds else f"{minutes}m"
    if passed < MINUTES_UNTIL:
        return f"{minutes}m"
    return f"{minutes // 60}h"


def lease_row(lease: Lease, now: datetime) -> tuple[str, ...]:
    """Return one line of `kubectl get worklease`."""
    beaten = _age_of(lease.last_heartbeat, now)
    return (lease.name, lease.state, lease.held, lease.extended, beaten, lease.sandbox, age(lease.created, now))


def pod_row(pod: Pod, now: datetime) -> tuple[str, ...]:
    """Return one line of `kubectl get pods`."""
    return (pod.name, f"{pod.ready}/{pod.containers}", pod.status, str(pod.restarts), age(pod.created, now))


def draw(snapshot: Snapshot, now: datetime) -> RenderableType:
    """Return both tables, for a terminal."""
    leases = [lease_row(lease, now) for lease in snapshot.leases]
    pods = [pod_row(pod, now) for pod in snapshot.pods]
    return Group(
        "",
        *_titled("kubectl get worklease", LEASE_COLUMNS, leases),
        "",
        *_titled("kubectl get pods", POD_COLUMNS, pods),
    )


def _age_of(heartbeat: str, now: datetime) -> str:
    if not heartbeat:
        return ""
    try:
        return age(datetime.fromisoformat(heartbeat), now)
    except (ValueError, TypeError):  # not a time, or one without an offset: the server's values are opaque
        return NEVER


def _titled(command: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[RenderableType, ...]:
    title = Text.assemble(("$ ", "dim"), (command, "bold cyan"))
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    for column in columns:
        table.add_column(column, no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell, STYLES.get(cell, "")) for cell in row))
    body = table if rows else Text("No resources found.", "dim")
    return (Padding(title, (0, 0, 0, 2)), Padding(body, (0, 0, 0, 2)))
