"""What a session does and since when: whether the sandbox of one that is idle, or over, is to be stopped.

Owns when a session is asked about, and what the answers come to. A lost answer comes to nothing: no sandbox is stopped
for lack of one. Pure: no clock, no socket; ``now`` is passed in. Must not stop anything: ``situation`` concludes.
"""

from dataclasses import dataclass, replace
from enum import Enum, auto
from math import inf
from typing import Final

from worklease.rules.pods import Cause, Ending, Follows
from worklease.rules.queue import REQUIRES_ACTION, CallFailed, IdleReason, QueueFailure, SessionState
from worklease.rules.situation import Attempt, Policy, Situation, is_running

LOOKS: Final = 4
"""How often a session is asked about within the time that it may be idle: a spell is seen in its first quarter."""

SHORTEST_GAP: Final = 15.0
"""Seconds between two looks at a session at least: of a fleet, the looks must not cost more than its beats."""

LONGEST_GAP: Final = 60.0
"""Seconds between two looks at most: the sandbox of a session that is over runs on for no longer."""

AGAIN: Final = 2.0
"""Seconds after which a session that does not exist is asked about once more, because a copy of the server's may lag;
and before a look at the moment at which a limit is reached."""

IDLE: Final = "idle"
TERMINATED: Final = "terminated"
"""The words of the Work API that count; every other one says that the session goes on."""


class Activity(Enum):
    """What a session does, as far as its sandbox is concerned."""

    AT_WORK = auto()
    IDLE = auto()
    WAITING = auto()
    """It is idle until somebody confirms a tool, or answers it."""
    MISSING = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionWatch:
    """What is known of the session of a sandbox that runs; times are monotonic."""

    session: str
    runs_since: float
    """Since when that sandbox runs: what was seen beside an earlier one does not count."""
    is_known: bool
    """Whether it is sure that the session has this id: an item without one is only assumed to have its session's."""
    activity: Activity = Activity.AT_WORK
    since: float = 0.0
    """When a look first showed this activity."""
    spell: str | None = None
    """The event with which the session became idle: another one is another spell."""
    failures: int = 0
    """Looks in a row that brought nothing."""
    next_at: float = -inf
    """When to look again."""
    ending: Ending | None = None
    """Why the sandbox is to be stopped; None: it is not."""


def next_look(situation: Situation, known: SessionWatch | None, now: float) -> float:
    """Return when to ask about the session; infinite where nothing would follow from the answer.

    It is asked about only for a resource that limits how long a session may be idle, and beside a sandbox that runs.
    """
    policy, since = situation.sandbox, situation.attempt.runs_since
    if policy is None or since is None or (policy.idle is None and policy.waiting is None):
        return inf
    if not is_running(situation, now) or situation.lease.suspended or situation.ending is not None:
        return inf
    return -inf if known is None or known.runs_since != since else known.next_at


def ending_of_session(known: SessionWatch | None, attempt: Attempt) -> Ending | None:
    """Return why the sandbox that runs is to be stopped; what was seen beside an earlier one says nothing of it."""
    return None if known is None or known.runs_since != attempt.runs_since else known.ending


def gap(policy: Policy) -> float:
    """Return the seconds between two looks: a quarter of the shorter limit, within bounds."""
    limits = [limit for limit in (policy.idle, policy.waiting) if limit is not None]
    return max(SHORTEST_GAP, min([LONGEST_GAP, *(limit / LOOKS for limit in limits)]))


def observe(
    watch: SessionWatch,
    said: SessionState | CallFailed,
    why: IdleReason | CallFailed | None,
    policy: Policy,
    now: float,
    *,
    is_key_proven: bool,
) -> SessionWatch:
    """Return what is known after a look; ``why`` the session is idle, where it said that it is.

    Some servers answer 404 to a key of another environment. So a 404 counts only if this very key renewed the lease.
    """
    again = replace(watch, next_at=now + gap(policy), failures=0)
    failed = replace(again, failures=watch.failures + 1)
    match said, why:
        case CallFailed(QueueFailure.NOT_FOUND), _ if watch.is_known and is_key_proven:
            return _missing(again, now)
        case CallFailed(), _:
            return failed
        case SessionState(_, is_archived=True), _:
            return _over(again, "is archived")
        case SessionState(status), _ if status == TERMINATED:
            return _over(again, "is terminated")
        case SessionState(status), IdleReason() if status == IDLE:
            return _idle(replace(again, is_known=True), why, policy, now)
        case SessionState(status), _ if status == IDLE:
            return replace(failed, is_known=True)  # it waits for somebody, or does not: nobody knows
        case _:
            return replace(again, is_known=True, activity=Activity.AT_WORK, since=now, spell=None)


def _missing(watch: SessionWatch, now: float) -> SessionWatch:
    if watch.activity is not Activity.MISSING:
        return replace(watch, activity=Activity.MISSING, since=now, spell=None, next_at=now + AGAIN)
    return _over(watch, "does not exist any more")


def _over(watch: SessionWatch, what: str) -> SessionWatch:
    return replace(watch, ending=_ending(Cause.SESSION_ENDED, f"Session {watch.session} {what}"))


def _idle(watch: SessionWatch, why: IdleReason, policy: Policy, now: float) -> SessionWatch:
    """Return what is known of an idle session: its time counts from the first look that showed this spell."""
    is_waiting = why.reason == REQUIRES_ACTION
    activity = Activity.WAITING if is_waiting else Activity.IDLE
    is_same = watch.activity is activity and watch.spell == why.event
    seen = replace(watch, activity=activity, since=watch.since if is_same else now, spell=why.event)
    limit = policy.waiting if is_waiting else policy.idle
    if limit is None:
        return seen
    if now - seen.since < limit:
        return replace(seen, next_at=min(seen.next_at, max(now + AGAIN, seen.since + limit)))
    how = "has waited for an answer" if is_waiting else "has been idle"
    return replace(
        seen, ending=_ending(Cause.SESSION_IDLE, f"Session {watch.session} {how} for {now - seen.since:.0f} s")
    )


def _ending(cause: Cause, message: str) -> Ending:
    return Ending(cause, message, follows=Follows.STOP)
