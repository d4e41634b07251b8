"""A lease as the checkpoint keeps it: written so that another process, perhaps on another node, can go on with it.

Owns that form and its translation from and to a lease. Times of the monotonic clock are good for one boot of one
machine; elsewhere they are translated by the wall clock. Values and windows are the server's, and are kept as they are.
"""

import math
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import to_json

from worklease.rules.acknowledging import Acknowledgement, AckVerdict, restarted
from worklease.rules.beats import restore
from worklease.rules.clock_error import LONGEST_MARGIN, unsure
from worklease.rules.deadlines import timeout
from worklease.rules.lease import Cut, Lease, Unplaced, Window, Words
from worklease.rules.pods import Cause, Ending, Follows
from worklease.rules.situation import Attempt

MOST_PODS: Final = 20
"""Bound pods that a record has, as many as a status shows. Anybody may label more; a watch brings those again."""

MOST_UIDS: Final = 2 * MOST_PODS
"""Uids of former pods that a record has of each kind, for the same reason."""

MOST_WINDOWS: Final = 20
"""Unanswered claims that a record has, the last ones. One that was applied so long ago has lapsed at the server, or
lapses without us: what is left out is waited for, and nothing foreign is taken."""

LONGEST_ENDING: Final = 512
"""Characters of how a sandbox ended: it quotes what the sandbox has written. The status shows more of it."""

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


def _this_boot() -> str:
    """Return a name of this boot of this machine; if the system has none, a name that no other process shares."""
    return _BOOT_ID.read_text("ascii").strip() if _BOOT_ID.exists() else str(uuid.uuid4())


BOOT: Final = _this_boot()


class Record(BaseModel):
    """What a restart needs of one lease. Empty fields are left out: there are thousands of records."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    boot: str
    at: float
    """When it was written, by the monotonic clock."""
    wall: float
    """When it was written, in seconds since the epoch."""
    value: str | None = None
    first: str | None = None
    ttl: float | None = None
    sent: float | None = None
    claimed: float | None = None
    cut: tuple[float, float] | None = None
    reprieve: float | None = None
    """Until when a beat may show that the restored lease is held. A crash loop does not move it."""
    stopping: bool = False
    granted: int | None = None
    """The TTL that was asked for when ``ttl`` was granted."""
    refused: tuple[int, ...] = ()
    """The TTLs that the server refused."""
    windows: tuple[tuple[float, float], ...] = ()
    """Unanswered beats and claims, in the server's time."""
    tries: tuple[tuple[float, float], ...] = ()
    """Unanswered claims whose place in the server's time is not known, and the one under way; monotonic."""
    found: str | None = None
    """The value that a claim was last refused for."""
    bound: tuple[tuple[str, str], ...] = ()
    """The bound pods: uid and name."""
    attempt: int = 0
    restarts: int | None = None
    """How many restarts count; None in the record of an earlier version: all."""
    disruptions: int = 0
    runs: float | None = None
    """Since when the attempt's sandbox runs; monotonic."""
    lost: tuple[tuple[str, str], ...] = ()
    """Uid and node of pods that may still run on lost nodes."""
    begins: float | None = None
    """From when on the attempt's sandbox may be made; monotonic."""
    rejections: int = 0
    again: float | None = None
    """From when on another pod may be made after a rejection; monotonic."""
    settled: tuple[str, ...] = ()
    """The uids of earlier attempts' pods, as far as the status may show them."""
    taken: tuple[str, ...] = ()
    """The uids of pods that were at work when another kind of sandbox was asked for."""
    ending: tuple[Cause, str, str] | tuple[Cause, str, str, Follows] | None = None
    """How the attempt's sandbox ended: cause, message, pod, and what decides about its item."""
    fell: bool = False
    """Whether a sandbox was ended at the fence."""
    ack: tuple[AckVerdict, float | None, tuple[tuple[float, float], ...]] | None = None
    """What is known of the item's acknowledgement, when it was accepted, and from when until when each without an
    answer may have arrived; monotonic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedSandboxes:
    """What a restart needs of the sandboxes."""

    bound: tuple[tuple[str, str], ...] = ()
    attempt: Attempt = field(default_factory=Attempt)
    ending: Ending | None = None
    fell: bool = False


def write(
    lease: Lease,
    sandboxes: RecordedSandboxes,
    ack: Acknowledgement | None = None,
    *,
    trying: float | None,
    now: float,
    wall: float,
) -> str:
    """Return what a restart needs of ``lease``, and of its item's acknowledgement, as text.

    ``trying`` is when a first claim is sent: the record of it is written before.
    """
    tries = [(each.sent, each.closes) for each in lease.unplaced if each.sent > -math.inf]
    if trying is not None:
        tries.append((trying, trying))
    said = {
        "boot": BOOT,
        "at": now,
        "wall": wall,
        "value": lease.value,
        "first": lease.first,
        "ttl": lease.ttl,
        "sent": lease.sent,
        "claimed": lease.claimed,
        "cut": None if lease.cut is None else (lease.cut.ttl, lease.cut.ends),
        "reprieve": lease.reprieve,
        "stopping": lease.stopping_seen,
        "granted": lease.granted_for,
        "refused": lease.refused_ttls,
        # For a lease that was held, a start covers all windows by one of its own, but says nothing of their beginnings.
        "windows": tuple(
            (each.opens, each.closes) for each in lease.unanswered[-MOST_WINDOWS:] if each.opens > -math.inf
        ),
        "tries": () if lease.held else tuple(tries[-MOST_WINDOWS:]),
        "found": lease.refused_value,
        **_of_sandboxes(sandboxes),
        "ack": None if ack is None else _recorded(ack),
    }
    # A record without what says nothing means the same; a time of zero says something.
    told = {name: value for name, value in said.items() if value is not None and value is not False and value != ()}
    return to_json(told).decode()


def _of_sandboxes(sandboxes: RecordedSandboxes) -> dict[str, object]:
    attempt, ending = sandboxes.attempt, sandboxes.ending
    return {
        "bound": sandboxes.bound[:MOST_PODS],
        "attempt": attempt.number or None,
        "restarts": attempt.restarts if attempt.number else None,
        "disruptions": attempt.disruptions or None,
        "runs": attempt.runs_since,
        "lost": tuple(sorted(attempt.lost))[:MOST_PODS] if attempt.lost else (),
        "begins": attempt.begins,
        "rejections": attempt.rejections or None,
        "again": attempt.again,
        "settled": tuple(sorted(attempt.settled))[:MOST_UIDS] if attempt.settled else (),
        "taken": tuple(sorted(attempt.taken))[:MOST_UIDS] if attempt.taken else (),
        "ending": None if ending is None else (ending.cause, _cut(ending.message), ending.pod, ending.follows),
        "fell": sandboxes.fell,
    }


def _recorded(ack: Acknowledgement) -> object:
    return (ack.verdict, ack.accepted, ack.windows[-MOST_WINDOWS:])


def _cut(message: str) -> str:
    return message if len(message) <= LONGEST_ENDING else f"{message[: LONGEST_ENDING - 1]}…"


def read(text: str | None) -> Record | None:
    """Return the record that a text has; None if there is none, or none that this version understands."""
    if text is None:
        return None
    try:
        return Record.model_validate_json(text)
    except ValidationError:
        return None


def resume_sandboxes(record: Record, *, moment: Callable[[float], float]) -> RecordedSandboxes:
    """Return the sandboxes of a recorded lease; ``moment`` as in :func:`resume`."""
    shift = _shift(record, moment)
    attempt = Attempt(
        number=record.attempt,
        restarts=record.attempt if record.restarts is None else record.restarts,
        disruptions=record.disruptions,
        runs_since=None if record.runs is None else record.runs + shift,
        lost=frozenset(record.lost),
        begins=None if record.begins is None else record.begins + shift,
        rejections=record.rejections,
        again=None if record.again is None else record.again + shift,
        settled=frozenset(record.settled),
        taken=frozenset(record.taken),
    )
    return RecordedSandboxes(
        bound=record.bound,
        attempt=attempt,
        ending=None if record.ending is None else Ending(*record.ending),
        fell=record.fell,
    )


def resume_ack(
    record: Record | None, fresh: Acknowledgement, *, now: float, moment: Callable[[float], float]
) -> Acknowledgement:
    """Return the recorded acknowledgement as this process goes on with it; ``moment`` as in :func:`resume`."""
    if record is None or record.ack is None:
        return fresh
    shift = _shift(record, moment)
    verdict, accepted, recorded = record.ack
    windows = tuple((sent + shift, until + shift) for sent, until in recorded)
    at = None if accepted is None else accepted + shift
    clock_error = 0.0 if record.boot == BOOT else LONGEST_MARGIN
    return restarted(replace(fresh, verdict=verdict, accepted=at, windows=windows), now, clock_error=clock_error)


def _shift(record: Record, moment: Callable[[float], float]) -> float:
    """Return by how many seconds this process's monotonic clock is ahead of the recorded one."""
    return 0.0 if record.boot == BOOT else moment(record.wall) - record.at


def resume(record: Record, fresh: Lease, words: Words | None, *, now: float, moment: Callable[[float], float]) -> Lease:
    """Return the recorded lease as this process goes on with it.

    ``moment`` translates seconds since the epoch to the monotonic clock.
    """
    shift = _shift(record, moment)
    if record.value is None or record.sent is None or record.ttl is None:
        return _resume_claim(record, fresh, shift, now)
    sent = record.sent + shift
    said = words or Words(
        last_heartbeat=record.value, state="active", lease_extended=True, ttl_seconds=record.ttl, at=sent
    )
    if record.stopping:
        said = replace(said, state="stopping", at=sent)
    claimed = None if record.claimed is None else record.claimed + shift
    held = restore(fresh, value=record.value, ttl=record.ttl, sent=sent, claimed=claimed, words=said, now=now)
    if record.cut is not None:
        ttl, ends = record.cut
        cut = Cut(ttl, ends + shift)
        held = replace(held, cut=cut if held.cut is None else Cut(min(held.cut.ttl, ttl), min(held.cut.ends, cut.ends)))
    reprieve = held.reprieve
    if reprieve is not None and record.reprieve is not None:
        reprieve = min(reprieve, record.reprieve + shift)
    held = replace(
        held,
        first=record.first,
        reprieve=reprieve,
        granted_for=record.granted,
        refused_ttls=record.refused,
        unanswered=(*(Window(opens, closes) for opens, closes in record.windows), *held.unanswered),
    )
    return held if record.boot == BOOT else unsure(held, now)


def _resume_claim(record: Record, fresh: Lease, shift: float, now: float) -> Lease:
    """Return a lease whose claim is not answered yet: each recorded try may have been applied until now."""
    return replace(
        fresh,
        unanswered=tuple(Window(opens, closes) for opens, closes in record.windows),
        unplaced=tuple(Unplaced(sent + shift, now + timeout(fresh)) for sent, _ in record.tries),
        refused_value=record.found,
        due=now,
    )
