"""The rules of a heartbeat, as pure transitions of an item."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.work_items import T0, accepted, active, item, refused
from work_api_simulator import instants, items
from work_api_simulator.instants import SECOND
from work_api_simulator.items import Item, State, StopMode
from work_api_simulator.profiles import (
    HOSTED,
    BeatAfterStop,
    BeatOnQueued,
    Comparison,
    OmittedValue,
    PreconditionBody,
    Profile,
    TtlMemory,
    TtlRequest,
    TtlUnextended,
    ValueFormat,
)
from work_api_simulator.refusals import RefusalKind

NO_HEARTBEAT = items.NO_HEARTBEAT


def stopping(profile: Profile = HOSTED) -> Item:
    return items.after_stop(active(profile), T0 + SECOND, profile, StopMode.GRACEFUL)


def test_the_first_heartbeat_makes_a_starting_item_active() -> None:
    answered = accepted(item(), NO_HEARTBEAT)
    assert (answered.item.state, answered.extended, answered.ttl) == (State.ACTIVE, True, 300)


def test_each_later_beat_echoes_the_value_before_it() -> None:
    held = active()
    later = accepted(held, held.value, at=T0 + SECOND)
    assert later.item.value not in (None, held.value)


@pytest.mark.parametrize("expected", [NO_HEARTBEAT, "2026-11-18T00:00:00.000000Z", "", "null"])
def test_a_mismatch_is_a_412_and_changes_nothing(expected: str) -> None:
    assert refused(active(), expected).kind is RefusalKind.PRECONDITION


def test_a_412_says_what_was_expected_and_what_was_there() -> None:
    refusal = refused(item(), "hb-1")
    assert refusal.message == "Heartbeat precondition failed: expected hb-1, actual was NULL"
    assert refusal.details is not None
    assert refusal.details["error_code"] == "heartbeat_precondition_failed"
    assert refusal.details["current_state"] == {
        "state": "starting",
        "last_heartbeat": None,
        "lease_extended": False,
        "ttl_seconds": 300,
    }


def test_some_servers_leave_the_details_of_a_412_out() -> None:
    assert refused(item(), "hb-1", profile=Profile(precondition_body=PreconditionBody.BARE)).details is None


def test_a_spent_value_is_never_accepted_again() -> None:
    first = active()
    second = accepted(first, first.value, at=T0 + SECOND).item
    assert refused(second, first.value).kind is RefusalKind.PRECONDITION


@given(st.lists(st.integers(min_value=-5 * SECOND, max_value=5 * SECOND), max_size=20), st.sampled_from(ValueFormat))
def test_values_strictly_increase_whatever_the_clock_does(steps: list[int], form: ValueFormat) -> None:
    profile, at = Profile(value_format=form), T0
    held = accepted(item(), NO_HEARTBEAT, profile=profile).item
    for step in steps:
        at += step
        later = accepted(held, held.value, at=at, profile=profile).item
        before, after = instants.read(held.value or ""), instants.read(later.value or "")
        assert before is not None
        assert after is not None
        assert after > before
        held = later


def test_values_increase_across_deliveries_too() -> None:
    held = active()
    again = accepted(replace(items.requeue(held, T0, HOSTED), state=State.STARTING), NO_HEARTBEAT, at=T0 - SECOND).item
    assert (held.value or "") < (again.value or "")


@pytest.mark.parametrize(
    ("form", "written"),
    [
        (ValueFormat.MICROSECONDS, "2026-11-18T07:06:40.120000Z"),
        (ValueFormat.TRIMMED, "2026-11-18T07:06:40.12Z"),
        (ValueFormat.MILLISECONDS, "2026-11-18T07:06:40.120Z"),
        (ValueFormat.OFFSET, "2026-11-18T07:06:40.120000+00:00"),
    ],
)
def test_values_are_written_in_the_format_of_the_server(form: ValueFormat, written: str) -> None:
    at = instants.read("2026-11-18T07:06:40.12Z")
    assert at is not None
    assert accepted(item(), NO_HEARTBEAT, at=at, profile=Profile(value_format=form)).item.value == written


def test_a_server_that_compares_bytes_refuses_another_spelling_of_the_same_instant() -> None:
    held = active()
    assert refused(held, (held.value or "").replace("Z", "+00:00")).kind is RefusalKind.PRECONDITION


def test_a_server_that_compares_instants_accepts_another_spelling() -> None:
    profile = Profile(comparison=Comparison.INSTANTS)
    held = active(profile)
    accepted(held, (held.value or "").replace("Z", "+00:00"), profile=profile)
    assert refused(held, "not a time", profile=profile).kind is RefusalKind.PRECONDITION


def test_an_omitted_value_claims_and_extends_without_comparison() -> None:
    claimed = accepted(item(), None).item
    assert claimed.state is State.ACTIVE
    assert accepted(claimed, None).extended


def test_some_servers_insist_on_a_value() -> None:
    assert refused(item(), None, profile=Profile(omitted_value=OmittedValue.INVALID)).kind is RefusalKind.INVALID


def test_a_first_beat_before_the_acknowledgement_claims() -> None:
    assert accepted(item(State.QUEUED), NO_HEARTBEAT).item.state is State.ACTIVE


@pytest.mark.parametrize(
    ("manner", "kind"),
    [(BeatOnQueued.PRECONDITION, RefusalKind.PRECONDITION), (BeatOnQueued.CONFLICT, RefusalKind.CONFLICT)],
)
def test_some_servers_refuse_a_first_beat_before_the_acknowledgement(manner: BeatOnQueued, kind: RefusalKind) -> None:
    assert refused(item(State.QUEUED), NO_HEARTBEAT, profile=Profile(beat_on_queued=manner)).kind is kind


def test_a_queued_item_does_not_take_an_old_value() -> None:
    held = active()
    refusal = refused(items.requeue(held, T0 + SECOND, HOSTED), held.value)
    assert refusal.details is not None
    assert refusal.details["current_state"]["last_heartbeat"] is None
    assert refusal.details["current_state"]["state"] == "queued"


@pytest.mark.parametrize("expected", [NO_HEARTBEAT, "garbage", None])
@pytest.mark.parametrize("mode", list(StopMode))
def test_a_beat_after_the_stop_is_not_compared_and_extends_nothing(mode: StopMode, expected: str | None) -> None:
    before = items.after_stop(active(), T0 + SECOND, HOSTED, mode)
    answered = accepted(before, expected, at=T0 + 2 * SECOND)
    assert not answered.extended
    assert answered.item is before


def test_a_server_that_compares_after_the_stop_refuses_a_wrong_value() -> None:
    profile = Profile(beat_after_stop=BeatAfterStop.COMPARED)
    before = stopping(profile)
    assert refused(before, "garbage", profile=profile).kind is RefusalKind.PRECONDITION
    assert accepted(before, before.value, profile=profile).item is before


def test_a_server_may_move_the_value_after_the_stop() -> None:
    profile = Profile(beat_after_stop=BeatAfterStop.COMPARED_AND_MOVES)
    before = stopping(profile)
    answered = accepted(before, before.value, at=T0 + 2 * SECOND, profile=profile)
    assert not answered.extended
    assert answered.item.value != before.value
    assert answered.item.beaten_at == before.beaten_at
    assert refused(before, "garbage", profile=profile).kind is RefusalKind.PRECONDITION


def test_a_server_may_refuse_beats_after_the_stop() -> None:
    profile = Profile(beat_after_stop=BeatAfterStop.CONFLICT)
    assert refused(stopping(profile), None, profile=profile).kind is RefusalKind.CONFLICT


def test_a_requested_ttl_is_granted_for_that_beat_alone() -> None:
    short = accepted(item(), NO_HEARTBEAT, desired=120)
    assert short.ttl == 120
    assert accepted(short.item, short.item.value).ttl == 300


def test_the_default_ttl_is_the_items_own_where_it_has_one() -> None:
    assert accepted(replace(item(), ttl_default=15), NO_HEARTBEAT).ttl == 15


@pytest.mark.parametrize(("desired", "granted"), [(1, 10), (9, 10), (10, 10), (600, 600), (9999, 600)])
def test_some_servers_clamp_the_ttl(desired: int, granted: int) -> None:
    assert (
        accepted(item(), NO_HEARTBEAT, desired=desired, profile=Profile(ttl_request=TtlRequest.CLAMPED)).ttl == granted
    )


@pytest.mark.parametrize("desired", [9, 601])
def test_some_servers_refuse_a_ttl_out_of_bounds(desired: int) -> None:
    profile = Profile(ttl_request=TtlRequest.REFUSED)
    assert refused(item(), NO_HEARTBEAT, desired=desired, profile=profile).kind is RefusalKind.INVALID
    assert accepted(item(), NO_HEARTBEAT, desired=60, profile=profile).ttl == 60


def test_some_servers_remember_the_ttl_that_was_asked_for() -> None:
    profile = Profile(ttl_memory=TtlMemory.STICKY)
    short = accepted(item(), NO_HEARTBEAT, desired=120, profile=profile)
    assert accepted(short.item, short.item.value, profile=profile).ttl == 120


def test_some_servers_ignore_the_ttl_that_is_asked_for() -> None:
    assert accepted(item(), NO_HEARTBEAT, desired=120, profile=Profile(ttl_memory=TtlMemory.IGNORED)).ttl == 300


def test_an_imposed_ttl_counts_from_the_next_beat_on() -> None:
    long = active()
    cut = replace(long, ttl_imposed=5)
    assert items.lease_end(cut, HOSTED) == T0 + 300 * SECOND
    assert accepted(cut, cut.value, desired=120).ttl == 5


@pytest.mark.parametrize(("manner", "told"), [(TtlUnextended.EFFECTIVE, 120), (TtlUnextended.DEFAULT, 300)])
def test_an_answer_that_extends_nothing_may_report_another_ttl(manner: TtlUnextended, told: int) -> None:
    profile = Profile(ttl_unextended=manner)
    held = accepted(item(), NO_HEARTBEAT, desired=120, profile=profile).item
    stopped = items.after_stop(held, T0, profile, StopMode.GRACEFUL)
    assert accepted(stopped, None, profile=profile).ttl == told
