"""When a pool polls and why not, at which pace, and how its leases are counted: the rows of the design, one by one."""

import random
from dataclasses import replace
from typing import Any

import pytest

from worklease.rules import breaker as breakers
from worklease.rules.breaker import CLOSED, LONGEST_PAUSE, Breaker, BreakerCause
from worklease.rules.pool import (
    DOUBT,
    FINALIZER_PATIENCE,
    LONGEST_BACKOFF,
    LONGEST_REST,
    NOT_FOUND_IN_A_ROW,
    REFUSED_KEY,
    SHORTEST_REST,
    TEMPLATE_AGE,
    TENURE,
    NoPoll,
    Poll,
    Polls,
    PoolCensus,
    PoolLease,
    PoolState,
    Stage,
    StartFailure,
    TemplateTry,
    TryTemplate,
    after_poll,
    after_try,
    decide_poll,
    leases_to_end,
    may_go,
    may_take,
    must_list,
    note_secret,
    stage_of,
    try_at,
)
from worklease.rules.pool_reasons import POOL_TABLE, PoolKind, PoolReason, pool_conditions
from worklease.rules.queue import CallFailed, QueueFailure
from worklease.rules.reasons import Verdict

NOW = 1000.0
ACCEPTED = TemplateTry(template="t", at=NOW)


def lease(name: str, stage: Stage | None = Stage.RUNNING, **more: Any) -> PoolLease:
    fields: dict[str, Any] = {
        "uid": f"uid of {name}",
        "work_id": "work_1",
        "session_id": f"session of {name}",
        "created": NOW,
    }
    return PoolLease(name=name, stage=stage, **(fields | more))


def census(*leases: PoolLease) -> PoolCensus:
    return PoolCensus().listed(leases, NOW)


def state(**changes: Any) -> PoolState:
    fields: dict[str, Any] = {"max_concurrent": 3, "template": "t", "tried": ACCEPTED, "census": census()}
    return PoolState(**(fields | changes))


def open_breaker(until: float, **more: Any) -> Breaker:
    return Breaker(failures=5, pause=60.0, open_until=until, message="ImagePullFailed", **more)


def failed(failure: QueueFailure, **more: Any) -> Polls:
    return Polls(last=CallFailed(failure, "said"), failures=2, **more)


# --- Whether it polls, and why not -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"problem": "spec.limits: no"}, PoolReason.INVALID_SPEC),
        ({"is_suspended": True}, PoolReason.SUSPENDED),
        ({"max_concurrent": 0}, PoolReason.SUSPENDED),
        ({"is_deleting": True}, PoolReason.SUSPENDED),
        ({"is_namespace_ending": True}, PoolReason.SUSPENDED),
        ({"has_key": False}, PoolReason.KEY_MISSING),
        ({"kubernetes_answers": False}, PoolReason.UNREACHABLE),
        ({"tried": replace(ACCEPTED, refusal="no quota", refusals=1)}, PoolReason.TEMPLATE_REFUSED),
        ({"breaker": open_breaker(NOW + 1)}, PoolReason.SANDBOXES_FAILING),
        ({"breaker": open_breaker(NOW + 1, cause=BreakerCause.TOKEN_MISSING)}, PoolReason.TOKEN_MISSING),
        ({"census": census(*(lease(f"l{n}") for n in range(3)))}, PoolReason.AT_CAPACITY),
        ({"polls": failed(QueueFailure.UNAUTHORIZED, next_at=NOW + 1)}, PoolReason.KEY_REFUSED),
        ({"polls": failed(QueueFailure.NOT_FOUND, next_at=NOW + 1)}, PoolReason.ENVIRONMENT_NOT_FOUND),
        ({"polls": failed(QueueFailure.THROTTLED, next_at=NOW + 1)}, PoolReason.THROTTLED),
        ({"polls": failed(QueueFailure.UNANSWERED, next_at=NOW + 1)}, PoolReason.UNREACHABLE),
        ({"polls": failed(QueueFailure.UNSENT, next_at=NOW + 1)}, PoolReason.UNREACHABLE),
        ({"polls": failed(QueueFailure.REJECTED, next_at=NOW + 1)}, PoolReason.INVALID_SPEC),
        ({"polls": Polls(next_at=NOW + 1), "other_workers": 2}, PoolReason.OTHER_WORKERS_POLLING),
        ({"polls": Polls(next_at=NOW + 1)}, PoolReason.POLLING),
        ({"is_poll_in_flight": True}, PoolReason.POLLING),
        ({"is_item_in_hand": True}, PoolReason.POLLING),
    ],
)
def test_a_pool_does_not_poll_for_a_reason(changes: dict[str, Any], reason: PoolReason) -> None:
    step = decide_poll(state(**changes), NOW)
    assert isinstance(step, NoPoll)
    assert (step.reason, bool(step.message)) == (reason, True)
    assert step.until > NOW


def test_a_pool_with_a_free_place_polls() -> None:
    assert decide_poll(state(), NOW) == Poll(PoolReason.POLLING, "the pool asks for items")


@pytest.mark.parametrize("failure", [QueueFailure.UNAUTHORIZED, QueueFailure.THROTTLED, QueueFailure.UNANSWERED])
def test_when_its_time_has_come_a_poll_is_tried_again_and_the_reason_stays(failure: QueueFailure) -> None:
    step = decide_poll(state(polls=failed(failure, next_at=NOW)), NOW)
    assert isinstance(step, Poll)
    assert POOL_TABLE[step.reason].polling is Verdict.FALSE


def test_a_single_lost_answer_is_no_outage() -> None:
    polls = replace(failed(QueueFailure.UNANSWERED), failures=1)
    assert decide_poll(state(polls=polls), NOW) == Poll(PoolReason.POLLING, "the pool asks for items")


def test_before_the_first_consistent_list_nothing_is_polled_and_nothing_is_said() -> None:
    step = decide_poll(state(census=PoolCensus()), NOW)
    assert isinstance(step, NoPoll)
    assert step.reason is None


def test_a_pool_that_another_process_had_waits_until_its_calls_have_ended() -> None:
    step = decide_poll(state(tenure=NOW), NOW + TENURE - 0.1)
    assert step == NoPoll(NOW + TENURE, None)


def test_a_pool_that_another_process_had_goes_by_a_list_that_begins_after_its_calls_have_ended() -> None:
    early, late = PoolCensus().listed((), NOW + TENURE - 0.1), PoolCensus().listed((), NOW + TENURE)
    assert not must_list(early, NOW, NOW + TENURE - 0.1), "until then no poll asks for it"
    assert decide_poll(state(tenure=NOW, census=early), NOW + TENURE) == NoPoll(float("inf"), None)
    assert must_list(early, NOW, NOW + TENURE)
    assert not must_list(late, NOW, NOW + TENURE)
    assert isinstance(decide_poll(state(tenure=NOW, census=late), NOW + TENURE), Poll)


@pytest.mark.parametrize("reason", list(PoolReason))
def test_only_a_full_or_suspended_pool_is_ready_without_polling(reason: PoolReason) -> None:
    polling, ready = pool_conditions(reason, "because")
    assert (polling.kind, ready.kind) == (PoolKind.POLLING, PoolKind.READY)
    is_harmless = reason in {PoolReason.AT_CAPACITY, PoolReason.SUSPENDED} or polling.status is Verdict.TRUE
    assert (ready.status is Verdict.TRUE) is is_harmless


def test_until_one_sandbox_of_the_template_was_ready_few_are_starting_at_once() -> None:
    starting = census(lease("a", Stage.STARTING), lease("b", Stage.CLAIMING))
    full = state(max_concurrent=50, failures_before_pause=2, census=starting)
    step = decide_poll(full, NOW)
    assert isinstance(step, NoPoll)
    assert step.reason is PoolReason.AT_CAPACITY
    assert isinstance(decide_poll(replace(full, is_template_proven=True), NOW), Poll)


def test_an_item_of_a_poll_that_was_under_way_is_left_when_the_pool_was_suspended_meanwhile() -> None:
    assert may_take(state(is_poll_in_flight=True, polls=Polls(next_at=NOW + 3)), NOW)
    assert not may_take(state(is_suspended=True), NOW)
    assert not may_take(state(max_concurrent=1, census=census(lease("a"))), NOW)
    assert not may_take(state(breaker=open_breaker(NOW + 1)), NOW)


# --- The pace --------------------------------------------------------------------------------------------------------


def test_after_an_item_the_next_poll_goes_at_once_and_after_nothing_it_rests() -> None:
    assert after_poll(Polls(), None, is_empty=False, rest=2.0, now=NOW).next_at == NOW
    assert after_poll(Polls(), None, is_empty=True, rest=2.0, now=NOW).next_at == NOW + 2.0


@pytest.mark.parametrize("blocks_for", [0.0, 0.999])
def test_at_an_idle_pool_an_item_waits_for_less_than_two_and_a_half_seconds_and_polls_are_few(
    blocks_for: float,
) -> None:
    chance, now, polls, waits = random.Random(1), 0.0, 0, []  # noqa: S311 (it draws rests, and no secret)
    arrivals = iter(sorted(chance.uniform(0, 36_000) for _ in range(500)))
    arrives = next(arrivals)
    while arrives < 36_000:
        polls += 1
        answered = now + blocks_for
        if arrives <= answered:
            waits.append(max(0.0, now - arrives))
            arrives = next(arrivals, 36_000.0)
            now = max(now, waits[-1] + now)
            continue
        after = after_poll(Polls(), None, is_empty=True, rest=chance.uniform(SHORTEST_REST, LONGEST_REST), now=answered)
        now = after.next_at
    assert sum(waits) / len(waits) <= 2.5
    assert (polls - len(waits)) / (now / 60) <= 30.5


@pytest.mark.parametrize(
    ("failure", "seconds"),
    [
        (CallFailed(QueueFailure.UNAUTHORIZED, "no"), REFUSED_KEY),
        (CallFailed(QueueFailure.REJECTED, "no"), REFUSED_KEY),
        (CallFailed(QueueFailure.THROTTLED, "no", 7.0), 7.0),
        (CallFailed(QueueFailure.THROTTLED, "no", 300.0), 300.0),
        (CallFailed(QueueFailure.THROTTLED, "no"), 2.0),
        (CallFailed(QueueFailure.UNANSWERED, "no"), 2.0),
        (CallFailed(QueueFailure.UNSENT, "no"), 2.0),
    ],
)
def test_a_failure_has_its_pause(failure: CallFailed, seconds: float) -> None:
    assert after_poll(Polls(), failure, is_empty=True, rest=1.0, now=NOW).next_at == NOW + seconds


def test_pauses_after_lost_answers_double_up_to_a_minute() -> None:
    polls, pauses = Polls(), []
    for _ in range(8):
        polls = after_poll(polls, CallFailed(QueueFailure.UNSENT, "no"), is_empty=True, rest=1.0, now=NOW)
        pauses.append(polls.next_at - NOW)
    assert pauses == [2, 4, 8, 16, 32, LONGEST_BACKOFF, LONGEST_BACKOFF, LONGEST_BACKOFF]


def test_a_404_is_an_entry_of_a_deleted_session_and_ten_in_a_row_are_the_environment() -> None:
    polls, missing = Polls(), CallFailed(QueueFailure.NOT_FOUND, "no such item")
    for number in range(1, NOT_FOUND_IN_A_ROW):
        polls = after_poll(polls, missing, is_empty=True, rest=1.0, now=NOW)
        assert (polls.next_at, polls.last, polls.not_found) == (NOW + 1.0, None, number)
    polls = after_poll(polls, missing, is_empty=True, rest=1.0, now=NOW)
    assert (polls.next_at, polls.last) == (NOW + REFUSED_KEY, missing)
    assert after_poll(polls, None, is_empty=True, rest=1.0, now=NOW).not_found == 0


def test_a_key_that_was_refused_is_tried_at_once_when_the_secret_changes() -> None:
    assert note_secret(failed(QueueFailure.UNAUTHORIZED, next_at=NOW + 60), NOW).next_at == NOW
    assert note_secret(failed(QueueFailure.THROTTLED, next_at=NOW + 60), NOW).next_at == NOW + 60


# --- The template ----------------------------------------------------------------------------------------------------


def test_a_template_is_tried_before_the_first_poll_after_an_edit_and_each_ten_minutes() -> None:
    assert decide_poll(state(tried=TemplateTry()), NOW) == TryTemplate()
    assert decide_poll(state(template="edited"), NOW) == TryTemplate()
    assert decide_poll(state(), NOW + TEMPLATE_AGE) == TryTemplate()
    assert isinstance(decide_poll(state(), NOW + TEMPLATE_AGE - 1), Poll)


def test_a_template_that_is_refused_is_tried_again_slower_and_slower() -> None:
    tried, pauses = TemplateTry(), []
    for _ in range(8):
        tried = after_try(tried, "t", "no quota", NOW)
        pauses.append(try_at(tried, "t") - NOW)
    assert pauses == [15, 30, 60, 120, 240, 480, 600, 600]
    assert try_at(after_try(tried, "edited", "no", NOW), "edited") == NOW + 15


# --- The breaker -----------------------------------------------------------------------------------------------------


def fail(breaker: Breaker, session: str = "s", *, created: float = NOW, now: float = NOW, **more: Any) -> Breaker:
    fields: dict[str, Any] = {"cause": BreakerCause.NOT_STARTED, "message": "ImagePullFailed", "limit": 3, "pause": 60}
    return breakers.note_failure(breaker, session=session, created=created, now=now, **(fields | more))


def test_so_many_sessions_in_a_row_open_the_breaker_and_one_session_counts_once() -> None:
    breaker = fail(fail(fail(CLOSED, "a"), "a"), "b")
    assert (breaker.failures, breaker.open_until) == (2, None)
    opened = fail(breaker, "c")
    assert (opened.failures, opened.pause, opened.open_until) == (3, 60, NOW + 60)


def test_a_sandbox_that_starts_forgets_the_failures_before_it() -> None:
    assert breakers.note_started(fail(fail(CLOSED, "a"), "b")) == CLOSED


def test_a_refusal_of_the_cluster_opens_it_at_once() -> None:
    assert fail(CLOSED, cause=BreakerCause.NO_ROOM).open_until == NOW + 60


def test_only_the_failure_of_a_trial_doubles_the_pause() -> None:
    opened = open_breaker(NOW)
    assert fail(opened, created=NOW - 30, now=NOW + 5) == opened
    doubled = fail(opened, created=NOW + 1, now=NOW + 5)
    assert (doubled.pause, doubled.open_until) == (120, NOW + 125)
    for _ in range(6):
        assert doubled.open_until is not None
        doubled = fail(doubled, created=doubled.open_until, now=doubled.open_until)
    assert doubled.pause == LONGEST_PAUSE


def test_after_the_pause_one_item_at_a_time_is_on_trial() -> None:
    after = state(breaker=open_breaker(NOW))
    assert isinstance(decide_poll(after, NOW), Poll)
    trial = census(lease("trial", Stage.STARTING, created=NOW + 0.5), lease("old", Stage.STARTING, created=NOW - 90))
    step = decide_poll(replace(after, census=trial), NOW + 1)
    assert isinstance(step, NoPoll)
    assert (step.reason, "on trial" in step.message) == (PoolReason.SANDBOXES_FAILING, True)
    ended = census(lease("trial", None, created=NOW + 0.5))
    assert isinstance(decide_poll(replace(after, census=ended), NOW + 1), Poll), "it said nothing: another one"


def test_a_creation_that_is_on_its_way_is_the_trial() -> None:
    on_its_way = census().creating("trial")
    assert isinstance(decide_poll(state(breaker=open_breaker(NOW), census=on_its_way), NOW), NoPoll)


def test_an_edit_of_the_template_begins_a_trial_at_once_and_forgets_no_pause() -> None:
    edited = breakers.note_edit(open_breaker(NOW + 500), NOW)
    assert (edited.open_until, edited.pause) == (NOW, 60)
    assert breakers.note_edit(fail(CLOSED), NOW).failures == 0


def test_three_items_without_a_token_open_the_breaker_and_one_with_a_token_closes_it() -> None:
    breaker = CLOSED
    for _ in range(3):
        assert breaker.open_until is None
        breaker = breakers.note_token(breaker, is_there=False, pause=60, now=NOW)
    assert (breaker.cause, breaker.open_until) == (BreakerCause.TOKEN_MISSING, NOW + 60)
    again = breakers.note_token(breaker, is_there=False, pause=60, now=NOW + 60)
    assert (again.pause, again.open_until) == (120, NOW + 180)
    assert breakers.note_token(again, is_there=True, pause=60, now=NOW + 180) == CLOSED


def test_an_item_with_a_token_between_two_without_begins_the_count_again() -> None:
    breaker = breakers.note_token(CLOSED, is_there=False, pause=60, now=NOW)
    breaker = breakers.note_token(breaker, is_there=True, pause=60, now=NOW)
    assert breaker.tokens_missing == 0


# --- Counts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "stage"),
    [
        ("", Stage.CLAIMING),
        ("held", Stage.STARTING),
        ("held ready", Stage.RUNNING),
        ("held ready ending", Stage.ENDING),
        ("ending", Stage.ENDING),
        ("held ready ending finished", None),
    ],
)
def test_a_lease_is_in_one_stage(facts: str, stage: Stage | None) -> None:
    words = facts.split()
    assert stage is stage_of(
        is_held="held" in words,
        is_sandbox_ready="ready" in words,
        is_finished="finished" in words,
        is_ending="ending" in words,
    )


def test_stages_add_up_with_a_creation_that_nothing_has_shown() -> None:
    known = census(lease("a"), lease("b", None), lease("c", Stage.ENDING)).creating("d")
    assert known.active == 3
    assert dict(known.count()) == {Stage.CLAIMING: 1, Stage.STARTING: 0, Stage.RUNNING: 1, Stage.ENDING: 1}


def test_a_creation_counts_until_it_is_shown_refused_or_too_old_to_be_carried_out() -> None:
    begun = census().creating("a")
    assert begun.listed((), NOW + 1e6).active == 1, "while it is on its way no list says that it is not there"
    unanswered = begun.unanswered("a", NOW)
    assert unanswered.listed((), NOW + DOUBT - 1).active == 1
    assert unanswered.listed((), NOW + DOUBT).active == 0
    assert begun.not_created("a").active == 0
    assert unanswered.seen(lease("a", None)).active == 0


def test_a_stale_event_of_an_older_lease_of_that_name_settles_no_creation() -> None:
    older = lease("a", None, uid="older")
    begun = census(older).creating("a")
    assert begun.seen(older).active == 1
    assert begun.deleted("a", "older").active == 1
    assert begun.listed([older], NOW).active == 1
    assert begun.answered(lease("a", Stage.CLAIMING, uid="new")).deleted("a", "older").active == 1


def test_a_lease_that_waits_for_an_earlier_delivery_is_neither_starting_nor_a_trial() -> None:
    waits = census(lease("a", Stage.STARTING, is_waiting=True))
    assert (waits.active, waits.starting()) == (1, 0)
    assert isinstance(decide_poll(state(breaker=open_breaker(NOW), census=waits), NOW), Poll)


@pytest.mark.parametrize(
    ("change", "proves"),
    [
        ({}, True),
        ({"stage": None, "has_succeeded": True}, True),
        ({"stage": None, "has_failed": True}, True),
        ({"stage": None}, False),
        ({"stage": Stage.STARTING}, False),
        ({"template": "of before"}, False),
    ],
)
def test_a_lease_whose_sandbox_was_ready_proves_its_template(change: dict[str, Any], *, proves: bool) -> None:
    assert census(lease("a", **({"template": "t"} | change))).proves("t") is proves


# --- The end of a pool -----------------------------------------------------------------------------------------------


def test_a_deleted_pool_ends_its_unfinished_leases_and_waits_for_them_for_two_minutes() -> None:
    known = census(lease("a"), lease("b", None), lease("c", Stage.ENDING, is_deleting=True))
    assert [each.name for each in leases_to_end(known)] == ["a"]
    assert not may_go(known, NOW, NOW + 1)
    assert may_go(known, NOW, NOW + FINALIZER_PATIENCE)
    assert may_go(census(lease("b", None)), NOW, NOW)
    assert not may_go(PoolCensus(), NOW, NOW), "nobody has listed them yet"


def test_a_sandbox_that_fails_holds_up_no_trial_and_one_of_another_template_is_none() -> None:
    failure = StartFailure(BreakerCause.NOT_STARTED, "ImagePullFailed")
    fails = census(lease("a", Stage.STARTING, failure=failure))
    assert fails.active == 1
    assert fails.starting() == 0
    other = census(lease("a", Stage.STARTING, template="old"))
    assert (other.starting(), other.starting(template="new"), other.starting(template="old")) == (1, 0, 1)
