"""Whatever a session does, and whichever looks at it are lost: only one that was idle all the time ends its sandbox."""

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from hypothesis import given
from hypothesis import strategies as st

from worklease.rules.pods import Cause
from worklease.rules.queue import REQUIRES_ACTION, CallFailed, IdleReason, QueueFailure, SessionState
from worklease.rules.sessions import LONGEST_GAP, SessionWatch, observe
from worklease.rules.situation import Policy

LOST: Final = CallFailed(QueueFailure.UNANSWERED, "no answer")
END_TURN: Final = "end_turn"


@dataclass(frozen=True, slots=True)
class Spell:
    """What the session does for so many seconds: it works (None), or is idle for a reason."""

    seconds: float
    reason: str | None


@dataclass(frozen=True, slots=True)
class Look:
    """A look that is made later than it is due, and what becomes of its two calls."""

    late: float
    is_first_lost: bool
    is_second_lost: bool


WORKS = st.builds(Spell, st.floats(0.5, 30), st.none())
IDLES = st.builds(Spell, st.floats(10, 200), st.sampled_from([END_TURN, REQUIRES_ACTION]))
SPELLS = st.lists(st.one_of(WORKS, IDLES, IDLES), min_size=1, max_size=8)
"""Work that is so short that looks may miss it, between times in which the session is idle."""

IS_LOST = st.sampled_from([False, False, False, True])
LOOKS = st.lists(st.builds(Look, st.floats(0.1, 30), IS_LOST, IS_LOST), min_size=10, max_size=60)
LIMITS = st.one_of(st.none(), st.floats(1, 200), st.floats(1, 200))


@given(spells=SPELLS, looks=LOOKS, idle=LIMITS, waiting=LIMITS)
def test_only_a_session_that_was_idle_all_the_time_ends_its_sandbox(
    spells: list[Spell], looks: list[Look], idle: float | None, waiting: float | None
) -> None:
    policy = Policy(idle=idle, waiting=waiting)
    ends = list(accumulate(spell.seconds for spell in spells))
    watch, now = SessionWatch(session="sesn_1", runs_since=0.0, is_known=True), 0.0
    for look in looks:
        now = max(now, watch.next_at) + look.late
        place = min(bisect_right(ends, now), len(spells) - 1)  # the last spell lasts
        spell, began = spells[place], ends[place] - spells[place].seconds
        watch = seen(watch, look, (spell.reason, place), policy, now)
        if watch.ending is not None:
            assert watch.ending.cause is Cause.SESSION_IDLE
            limit = waiting if spell.reason == REQUIRES_ACTION else idle
            assert spell.reason is not None, "it is at work"
            assert limit is not None
            assert now - began >= limit
            return


def seen(watch: SessionWatch, look: Look, truth: tuple[str | None, int], policy: Policy, now: float) -> SessionWatch:
    """Return what is known after a look at a session; the truth is why it is idle, if it is, and the spell's number."""
    reason, spell = truth
    if look.is_first_lost:
        return observe(watch, LOST, None, policy, now, is_key_proven=True)
    if reason is None:
        return observe(watch, SessionState("running", is_archived=False), None, policy, now, is_key_proven=True)
    why = LOST if look.is_second_lost else IdleReason(reason, f"event-{spell}")
    return observe(watch, SessionState("idle", is_archived=False), why, policy, now, is_key_proven=True)


@given(limit=st.floats(1, 100_000), reason=st.sampled_from([END_TURN, REQUIRES_ACTION]))
def test_one_that_stays_idle_ends_its_sandbox_within_a_gap_of_its_limit(limit: float, reason: str) -> None:
    policy = Policy(idle=limit, waiting=limit)
    watch, now = SessionWatch(session="sesn_1", runs_since=0.0, is_known=True), 0.0
    answered = Look(0.0, is_first_lost=False, is_second_lost=False)
    while watch.ending is None:
        now = max(now, watch.next_at)
        assert now <= limit + LONGEST_GAP
        watch = seen(watch, answered, (reason, 0), policy, now)
    assert watch.ending.cause is Cause.SESSION_IDLE
