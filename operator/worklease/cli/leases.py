"""A WorkLease as people see it: what its object says, and how much attention it needs.

Owns how the object is read. It is read leniently: what a newer operator wrote is shown unchanged. Pure; ``now`` is
passed in.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from worklease.rules.reasons import Kind, Level, Reason, Verdict, level_of, row_of

UNSEEN: Final = timedelta(seconds=30)
"""How long a resource may have no status: a running operator writes one within a second or two."""

LAG: Final = timedelta(seconds=10)
"""How old a status may be: in a large fleet the status writes of steady leases wait for their turn."""


@dataclass(frozen=True, slots=True)
class Shown:
    """One condition of the status."""

    status: str
    reason: str
    message: str
    since: datetime | None


ABSENT: Final = Shown("Unknown", "", "", None)


@dataclass(frozen=True, slots=True)
class Sandbox:
    """One pod in the status."""

    uid: str
    name: str
    phase: str
    reason: str
    message: str
    exit_code: int | None
    finish_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseView:
    """One WorkLease, as its object shows it."""

    namespace: str
    name: str
    uid: str
    created: datetime
    deleting: datetime | None
    spec: Mapping[str, Any]
    state: str
    ttl: int | None
    expiry: datetime | None
    observed: datetime | None
    claimed: datetime | None
    restarts: int
    disruptions: int
    sandboxes: tuple[Sandbox, ...]
    operator: str = ""
    """The installation that keeps it, as namespace/name; empty if it names none."""
    conditions: Mapping[str, Shown] = field(default_factory=dict)

    @property
    def environment_id(self) -> str:
        """The id of the environment whose queue has the item."""
        return str(self.spec.get("environmentID", ""))

    @property
    def work_id(self) -> str:
        """The id of the work item."""
        return str(self.spec.get("workID", ""))

    @property
    def held(self) -> Shown:
        """The condition ``LeaseHeld``."""
        return self.conditions.get(Kind.LEASE_HELD, ABSENT)

    @property
    def sandbox(self) -> Shown | None:
        """The condition ``SandboxReady``; None where the lease alone counts."""
        return self.conditions.get(Kind.SANDBOX_READY)

    @property
    def finished(self) -> Shown:
        """The condition ``Finished``."""
        return self.conditions.get(Kind.FINISHED, ABSENT)

    @property
    def is_finished(self) -> bool:
        """Whether the lease is over and everything of it is gone."""
        return self.finished.status == "True"

    @property
    def last_transition(self) -> datetime:
        """When a condition changed last."""
        return max((shown.since for shown in self.conditions.values() if shown.since is not None), default=self.created)

    def left(self, now: datetime) -> float | None:
        """Return how many seconds the lease still lasts; None where there is none, or it is over."""
        if self.expiry is None or self.held.status == "False":
            return None
        return (self.expiry - now).total_seconds()

    def is_stale(self, now: datetime) -> bool:
        """Whether the status is out of date: it says that the lease is held, but the end that it names has passed."""
        if self.is_finished:
            return False
        if not self.conditions:
            return now - self.created > UNSEEN
        return self.held.status == "True" and self.expiry is not None and now > self.expiry + LAG


@dataclass(frozen=True, slots=True)
class Judgement:
    """How much attention a lease needs, and why: a reason, and a message for people."""

    level: Level
    reason: str
    message: str


def judge(seen: LeaseView, now: datetime) -> Judgement:
    """Return how much attention a lease needs, and why."""
    held, sandbox = seen.held, seen.sandbox
    if seen.is_finished:
        level = Level.OVER if _is_as_asked(seen.finished.reason) else Level.LOST
        return Judgement(level, seen.finished.reason, seen.finished.message)
    if seen.finished.reason == Reason.TEARING_DOWN:
        level = Level.UNDER_WAY if _is_as_asked(held.reason) else Level.LOST
        return Judgement(level, held.reason, seen.finished.message)
    if seen.is_stale(now):
        return Judgement(Level.TROUBLE, "Stale", _stale(seen, now))
    if not seen.conditions:
        return Judgement(Level.UNDER_WAY, "New", "No operator has handled it yet.")
    of_lease = level_of(Kind.LEASE_HELD, held.status, held.reason)
    if of_lease is not Level.TROUBLE and sandbox is not None and sandbox.status != Verdict.TRUE:
        of_sandbox = level_of(Kind.SANDBOX_READY, sandbox.status, sandbox.reason)
        return Judgement(min(of_sandbox, Level.UNDER_WAY), sandbox.reason, sandbox.message)
    return Judgement(of_lease, held.reason, held.message)


def _is_as_asked(end: str) -> bool:
    """Whether somebody asked for this end of a lease; by any other the lease is lost."""
    return row_of(end).level is Level.OVER


def _stale(seen: LeaseView, now: datetime) -> str:
    if not seen.conditions:
        return "No operator has handled it: is one running, and does it watch this namespace?"
    ago = (now - seen.expiry).total_seconds() if seen.expiry is not None else 0.0
    return (
        f"By its status the lease ended {ago:.0f} s ago, and nothing updated the status since: is the operator running?"
    )


def read(body: Mapping[str, Any]) -> LeaseView:
    """Return a WorkLease that the API server returned."""
    metadata, status = body["metadata"], body.get("status") or {}
    return LeaseView(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        created=datetime.fromisoformat(metadata["creationTimestamp"]),
        deleting=time_of(metadata.get("deletionTimestamp")),
        spec=body.get("spec") or {},
        state=status.get("state") or "",
        ttl=status.get("grantedTTLSeconds") or status.get("ttlSeconds"),
        expiry=time_of(status.get("leaseExpiryTime")),
        observed=time_of(status.get("observedTime")),
        claimed=time_of(status.get("claimTime")),
        restarts=status.get("restarts") or 0,
        disruptions=status.get("disruptions") or 0,
        operator=str(status.get("operator") or ""),
        sandboxes=tuple(_sandbox(entry) for entry in status.get("sandboxes") or ()),
        conditions={entry["type"]: condition(entry) for entry in status.get("conditions") or ()},
    )


def condition(entry: Mapping[str, Any]) -> Shown:
    """Return a condition of a status."""
    since = time_of(entry.get("lastTransitionTime"))
    return Shown(entry["status"], entry["reason"], entry.get("message", ""), since)


def _sandbox(entry: Mapping[str, Any]) -> Sandbox:
    return Sandbox(
        uid=entry["podUID"],
        name=entry.get("podName") or "",
        phase=entry.get("phase") or "",
        reason=entry.get("reason") or "",
        message=entry.get("message") or "",
        exit_code=entry.get("exitCode"),
        finish_time=time_of(entry.get("finishTime")),
    )


def time_of(text: str | None) -> datetime | None:
    """Return a time that an object names; None where it names none."""
    return None if text is None else datetime.fromisoformat(text)


def duration(seconds: float) -> str:
    """Return a length of time as kubectl writes it, with two units at most: ``41s``, ``3m12s``, ``2h5m``, ``4d``."""
    whole = max(0, int(seconds))
    days, hours, minutes, rest = whole // 86_400, whole // 3600 % 24, whole // 60 % 60, whole % 60
    match (days, hours, minutes):
        case (0, 0, 0):
            return f"{rest}s"
        case (0, 0, _):
            return f"{minutes}m{rest}s" if rest else f"{minutes}m"
        case (0, _, _):
            return f"{hours}h{minutes}m" if minutes else f"{hours}h"
        case _:
            return f"{days}d{hours}h" if hours else f"{days}d"
