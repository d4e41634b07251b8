"""A session that is idle for too long, or over, ends its sandbox; what is not known for sure ends nothing."""

from dataclasses import replace
from math import inf
from typing import Any

import pytest

from support.lease_samples import held
from worklease.rules.beats import edit
from worklease.rules.lease import Lease
from worklease.rules.lifecycle import StopItem, decide
from worklease.rules.pods import Cause, Ending, Pod
from worklease.rules.queue import CallFailed, IdleReason, QueueFailure, SessionState
from worklease.rules.sessions import AGAIN, SessionWatch, ending_of_session, gap, next_look, observe
from worklease.rules.situation import Attempt, OnFailure, Policy, Situation, conclude

POD = Pod(uid="pod1", name="sandbox", phase="Running", ready=True, has_run=True, controller="resource")
POLICY = Policy(idle=300.0, waiting=3600.0)
WATCH = SessionWatch(session="sesn_1", runs_since=100.0, is_known=True)

AT_WORK = SessionState("running", is_archived=False)
IDLE = SessionState("idle", is_archived=False)
DONE, ASKS = IdleReason("end_turn", "event-1"), IdleReason("requires_action", "event-2")
MISSING = CallFailed(QueueFailure.NOT_FOUND, "no such session")


def situation(policy: Policy = POLICY, *, lease: Lease | None = None, runs_since: float | None = 100.0) -> Situation:
    """Return the situation of a lease that was claimed at 100, with a sandbox that runs since then."""
    return Situation(
        uid="resource",
        lease=held(100, ttl=90_000) if lease is None else lease,
        bound={"pod1": POD},
        sandbox=policy,
        attempt=Attempt(runs_since=runs_since),
    )


def look(
    watch: SessionWatch,
    now: float,
    said: SessionState | CallFailed = IDLE,
    why: IdleReason | CallFailed | None = None,
    policy: Policy = POLICY,
    *,
    proven: bool = True,
) -> SessionWatch:
    return observe(watch, said, why, policy, now, is_key_proven=proven)


def cause(watch: SessionWatch) -> Cause | None:
    return None if watch.ending is None else watch.ending.cause


# --- When it is asked about --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "seconds"),
    [
        (Policy(idle=1.0), 15.0),
        (Policy(idle=60.0), 15.0),
        (Policy(idle=120.0), 30.0),
        (Policy(idle=86_400.0), 60.0),
        (Policy(waiting=120.0), 30.0),
        (Policy(idle=86_400.0, waiting=100.0), 25.0),
    ],
)
def test_a_session_is_asked_about_four_times_within_its_limit_but_each_15_to_60_seconds(
    policy: Policy, seconds: float
) -> None:
    assert gap(policy) == seconds
    assert look(WATCH, 1000, AT_WORK, policy=policy).next_at == 1000 + seconds


@pytest.mark.parametrize(
    "beside",
    [
        situation(Policy()),
        situation(runs_since=None),
        situation(lease=Lease()),
        situation(lease=edit(held(100, ttl=90_000), Lease(suspended=True))),
        replace(situation(), sandbox=None),
        replace(situation(), deleting=True),
        replace(situation(), ending=Ending(Cause.FAILED, "failed", "sandbox")),
    ],
    ids=["no limit", "nothing runs", "not held", "suspended", "no sandbox", "deleted", "ended already"],
)
def test_a_session_is_not_asked_about_where_nothing_would_follow(beside: Situation) -> None:
    assert next_look(beside, None, 110) == inf


def test_a_session_is_asked_about_as_soon_as_its_sandbox_runs_and_then_when_its_time_has_come() -> None:
    assert next_look(situation(), None, 110) == -inf
    seen = look(WATCH, 110, AT_WORK)
    assert next_look(situation(), seen, 110) == seen.next_at == 170
    assert next_look(situation(runs_since=500.0), seen, 510) == -inf, "beside another sandbox it counts from the start"


# --- What the answers come to ------------------------------------------------------------------------------------


def test_an_idle_session_ends_its_sandbox_after_its_limit_counted_from_the_first_look_that_showed_it() -> None:
    seen = look(WATCH, 1000, IDLE, DONE)
    for now in (1060, 1120, 1299):
        assert cause(seen) is None
        seen = look(seen, now, IDLE, DONE)
    assert seen.next_at == pytest.approx(1301), "when the limit is reached, and not a whole gap later"
    seen = look(seen, 1301, IDLE, DONE)
    assert cause(seen) is Cause.SESSION_IDLE
    assert seen.ending is not None
    assert seen.ending.message == "Session sesn_1 has been idle for 301 s"


def test_a_session_that_waits_for_somebody_is_not_idle_and_has_a_limit_of_its_own() -> None:
    seen = look(look(WATCH, 1000, IDLE, ASKS), 4599, IDLE, ASKS)
    assert cause(seen) is None
    assert cause(look(seen, 4600, IDLE, ASKS)) is Cause.SESSION_IDLE
    patient = Policy(idle=300.0)
    assert cause(look(look(WATCH, 1000, IDLE, ASKS, patient), 90_000, IDLE, ASKS, patient)) is None


def test_only_the_limit_that_is_set_counts() -> None:
    patient = Policy(waiting=60.0)
    assert cause(look(look(WATCH, 1000, IDLE, DONE, patient), 90_000, IDLE, DONE, patient)) is None


@pytest.mark.parametrize(
    ("said", "why"),
    [(AT_WORK, None), (IDLE, IdleReason("end_turn", "event-9")), (IDLE, ASKS)],
    ids=["it runs", "it ran between two looks", "it waits for somebody"],
)
def test_a_session_that_was_at_work_in_between_is_idle_from_then_on(said: SessionState, why: IdleReason | None) -> None:
    seen = look(look(WATCH, 1000, IDLE, DONE), 1200, said, why)
    seen = look(seen, 1299, IDLE, why or DONE)
    assert cause(look(seen, 1301, IDLE, why or DONE)) is None


@pytest.mark.parametrize("word", ["running", "rescheduling", "hibernating", ""])
def test_any_other_word_says_that_the_session_goes_on(word: str) -> None:
    seen = look(look(WATCH, 1000, IDLE, DONE), 9000, SessionState(word, is_archived=False))
    assert cause(seen) is None


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (SessionState("terminated", is_archived=False), "is terminated"),
        (SessionState("running", is_archived=True), "is archived"),
        (SessionState("idle", is_archived=True), "is archived"),
    ],
)
def test_a_session_that_is_over_ends_its_sandbox_at_once(said: SessionState, words: str) -> None:
    seen = look(WATCH, 1000, said)
    assert cause(seen) is Cause.SESSION_ENDED
    assert seen.ending is not None
    assert words in seen.ending.message


def test_a_session_that_is_missing_twice_in_a_row_ends_its_sandbox() -> None:
    once = look(WATCH, 1000, MISSING)
    assert (cause(once), once.next_at) == (None, 1000 + AGAIN)
    assert cause(look(once, 1002, MISSING)) is Cause.SESSION_ENDED
    assert cause(look(look(once, 1002, AT_WORK), 1004, MISSING)) is None


@pytest.mark.parametrize(
    ("watch", "proven"),
    [(WATCH, False), (replace(WATCH, is_known=False), True)],
    ids=["the key may be another environment's", "the item's id may not be its session's"],
)
def test_a_404_that_may_be_about_something_else_ends_nothing(watch: SessionWatch, *, proven: bool) -> None:
    seen = look(look(watch, 1000, MISSING, proven=proven), 1060, MISSING, proven=proven)
    assert cause(seen) is None


def test_an_item_whose_session_was_found_by_its_id_has_that_session() -> None:
    seen = look(replace(WATCH, is_known=False), 1000, AT_WORK)
    assert cause(look(look(seen, 1060, MISSING), 1062, MISSING)) is Cause.SESSION_ENDED


@pytest.mark.parametrize("failure", [each for each in QueueFailure if each is not QueueFailure.NOT_FOUND])
def test_a_lost_answer_changes_nothing(failure: QueueFailure) -> None:
    lost = CallFailed(failure, "no answer")
    idle = look(WATCH, 1000, IDLE, DONE)
    for said, why in ((lost, None), (IDLE, lost)):
        seen = look(idle, 5000, said, why)
        assert (cause(seen), seen.since, seen.spell, seen.failures) == (None, 1000, "event-1", 1)
        assert cause(look(seen, 5060, IDLE, DONE)) is Cause.SESSION_IDLE, "it was idle all the time"


# --- What follows ------------------------------------------------------------------------------------------------


def over(**changes: Any) -> Situation:
    ending = look(WATCH, 1000, SessionState("terminated", is_archived=False)).ending
    return replace(situation(), session=ending, **changes)


@pytest.mark.parametrize("policy", list(OnFailure))
def test_a_sandbox_whose_session_is_over_is_stopped_gracefully_whatever_a_failure_leads_to(policy: OnFailure) -> None:
    seen = over(sandbox=replace(POLICY, on_failure=policy, asked_on_disruption=policy))
    ending = conclude(seen, 110)
    assert ending is not None
    assert (ending.cause, ending.pod) == (Cause.SESSION_ENDED, "sandbox")
    assert decide(replace(seen, ending=ending), 110).steps == (StopItem(force=False),)


def test_what_was_seen_beside_an_earlier_sandbox_ends_no_later_one() -> None:
    seen = look(WATCH, 1000, SessionState("terminated", is_archived=False))
    assert ending_of_session(seen, Attempt(runs_since=100.0)) == seen.ending
    assert ending_of_session(seen, Attempt(number=1, runs_since=2000.0)) is None
    assert ending_of_session(seen, Attempt(number=1)) is None
    assert ending_of_session(None, Attempt(runs_since=100.0)) is None


def test_a_sandbox_that_ended_by_itself_ended_by_itself() -> None:
    done = replace(POD, phase="Succeeded", exit_code=0)
    ending = conclude(over(bound={"pod1": done}), 110)
    assert ending is not None
    assert ending.cause is Cause.SUCCEEDED


@pytest.mark.parametrize("changes", [{"deleting": True}, {"lease": Lease()}], ids=["deleted", "not held"])
def test_a_session_ends_nothing_that_is_not_held(changes: dict[str, Any]) -> None:
    assert conclude(over(**changes), 110) is None
