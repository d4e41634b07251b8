"""Leases and answers to build a test from, on clocks that are easy to read.

Owns plain builders only. The test's monotonic clock and the server's differ by ``AHEAD``, a whole number: what happens
at 100.5 is stamped ``stamp(100.5)``.
"""

from datetime import UTC, datetime
from typing import Final

from worklease.rules import answers, beats
from worklease.rules.lease import Lease, Words
from worklease.rules.outcomes import Answered, Conflicted, Current, Exchange, Throttled, Unanswered, Unsent

AHEAD: Final = 1_790_000_000.0


def stamp(moment: float) -> str:
    """Return the value that the server gives to a beat at ``moment``."""
    return datetime.fromtimestamp(AHEAD + moment, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def exchange(sent: float, took: float = 0.1, *, dated: bool = True, asked: int | None = None) -> Exchange:
    date = float(int(AHEAD + sent + took / 2)) if dated else None
    return Exchange(sent=sent, done=sent + took, date=date, asked=asked)


def answered(
    sent: float,
    value: str | None = None,
    *,
    state: str = "active",
    extended: bool = True,
    ttl: float = 90.0,
    took: float = 0.1,
    dated: bool = True,
    asked: int | None = None,
) -> Answered:
    value = stamp(sent + took / 2) if value is None else value
    return Answered(exchange(sent, took, dated=dated, asked=asked), value, state, extended, ttl)


def refused(sent: float, value: str | None, *, state: str = "active", ttl: float | None = 90.0) -> Conflicted:
    return Conflicted(exchange(sent), Current(value, state, ttl))


def unanswered(
    sent: float, took: float = 10.0, retry_after: float | None = None, *, asked: int | None = None
) -> Unanswered:
    return Unanswered(Exchange(sent=sent, done=sent + took, asked=asked), "no answer", retry_after)


def unsent(sent: float) -> Unsent:
    return Unsent(Exchange(sent=sent, done=sent), "refused")


def throttled(sent: float, retry_after: float | None) -> Throttled:
    return Throttled(exchange(sent), "too many requests", retry_after)


def held(since: float = 100.0, *, ttl: float = 90.0, wish: int | None = None, pod_grace: float = 0.0) -> Lease:
    """Return a lease whose only beat was sent at ``since`` and accepted."""
    return answers.observe(Lease(desired_ttl=wish, pod_grace=pod_grace), answered(since, ttl=ttl, asked=wish))


def words(moment: float, *, state: str = "active", ttl: float = 90.0) -> Words:
    return Words(
        last_heartbeat=stamp(moment), state=state, lease_extended=state == "active", ttl_seconds=ttl, at=moment
    )


def restored(
    now: float, *, sent: float = 100.0, ttl: float = 90.0, wish: int | None = None, state: str = "active"
) -> Lease:
    """Return the lease of a process that starts at ``now``, from a status whose last beat was accepted at ``sent``."""
    return beats.restore(
        Lease(desired_ttl=wish),
        value=stamp(sent),
        ttl=ttl,
        sent=sent,
        claimed=sent,
        words=words(sent, state=state, ttl=ttl),
        now=now,
    )
