"""The rules of acknowledgement, stop, lapse and redelivery, as pure transitions of an item."""

import pytest

from support.work_items import T0, accepted, active, item, refused
from work_api_simulator import items
from work_api_simulator.instants import SECOND
from work_api_simulator.items import ChangeKind, Item, State, StopMode
from work_api_simulator.profiles import (
    HOSTED,
    Lapse,
    Profile,
    Redelivery,
    RepeatedAck,
    RepeatedStop,
    Unbeaten,
    UnclaimedStop,
)
from work_api_simulator.refusals import RefusalKind, RequestRefusal

LATER = T0 + SECOND
NO_HEARTBEAT = items.NO_HEARTBEAT


def stopped(before: Item, mode: StopMode, *, at: int = LATER, profile: Profile = HOSTED) -> Item:
    return items.after_stop(before, at, profile, mode)


def test_an_acknowledgement_takes_the_item_out_of_the_queue() -> None:
    after = items.acknowledge(item(State.QUEUED), LATER, HOSTED)
    assert isinstance(after, Item)
    assert (after.state, after.acknowledged_at, after.started_at) == (State.STARTING, LATER, T0)


@pytest.mark.parametrize("state", [State.STARTING, State.ACTIVE, State.STOPPING, State.STOPPED])
def test_a_repeated_acknowledgement_is_a_409_that_names_the_state(state: State) -> None:
    refusal = items.acknowledge(item(state), LATER, HOSTED)
    assert isinstance(refusal, RequestRefusal)
    assert refusal.kind is RefusalKind.CONFLICT
    assert state in refusal.message


def test_some_servers_answer_a_repeated_acknowledgement_with_the_item() -> None:
    before = active()
    assert items.acknowledge(before, LATER, Profile(repeated_ack=RepeatedAck.ITEM)) is before


def test_a_graceful_stop_waits_for_the_confirmation() -> None:
    after = stopped(active(), StopMode.GRACEFUL)
    assert (after.state, after.stop_requested_at, after.stopped_at) == (State.STOPPING, LATER, None)


def test_a_second_graceful_stop_changes_nothing() -> None:
    first = stopped(active(), StopMode.GRACEFUL)
    assert stopped(first, StopMode.GRACEFUL, at=LATER + SECOND) is first


def test_a_forced_stop_confirms_and_keeps_the_time_of_the_first_request() -> None:
    after = stopped(stopped(active(), StopMode.GRACEFUL), StopMode.FORCED, at=LATER + SECOND)
    assert (after.state, after.stop_requested_at, after.stopped_at) == (State.STOPPED, LATER, LATER + SECOND)


@pytest.mark.parametrize("state", [State.QUEUED, State.STARTING, State.ACTIVE])
def test_a_forced_stop_goes_straight_to_stopped(state: State) -> None:
    assert stopped(item(state), StopMode.FORCED).state is State.STOPPED


@pytest.mark.parametrize("mode", list(StopMode))
def test_a_stopped_item_stays_as_it_is(mode: StopMode) -> None:
    over = stopped(active(), StopMode.FORCED)
    assert stopped(over, mode, at=LATER + SECOND) is over


def test_a_graceful_stop_of_an_item_without_a_holder_differs_between_servers() -> None:
    assert stopped(item(), StopMode.GRACEFUL).state is State.STOPPING
    profile = Profile(unclaimed_stop=UnclaimedStop.STOPPED)
    assert stopped(item(), StopMode.GRACEFUL, profile=profile).state is State.STOPPED
    assert stopped(active(), StopMode.GRACEFUL, profile=profile).state is State.STOPPING


def test_some_servers_refuse_a_repeated_stop() -> None:
    profile = Profile(repeated_stop=RepeatedStop.CONFLICT)
    over = stopped(active(), StopMode.FORCED)
    refusal = items.stop(over, LATER, profile, StopMode.FORCED)
    assert isinstance(refusal, RequestRefusal)
    assert refusal.kind is RefusalKind.CONFLICT
    assert not isinstance(items.stop(active(), LATER, profile, StopMode.FORCED), RequestRefusal)


def test_a_lease_ends_one_ttl_after_the_last_accepted_beat() -> None:
    held = active()
    later = accepted(held, held.value, at=LATER, desired=60).item
    assert items.due(later, HOSTED) == (LATER + 60 * SECOND, ChangeKind.LAPSED)


def test_a_refused_beat_extends_nothing() -> None:
    held = active()
    refused(held, "garbage")
    assert items.due(held, HOSTED) == (T0 + 300 * SECOND, ChangeKind.LAPSED)


@pytest.mark.parametrize("manner", [Lapse.AT_NEXT_POLL, Lapse.NEVER])
def test_some_servers_do_not_lapse_a_lease_by_themselves(manner: Lapse) -> None:
    assert items.due(active(), Profile(lapse=manner)) is None


def test_an_item_that_was_never_beaten_stays_in_starting_for_ever() -> None:
    assert items.due(item(), HOSTED) is None


def test_some_servers_lapse_an_item_that_was_never_beaten() -> None:
    assert items.due(item(), Profile(unbeaten=Unbeaten.LAPSES)) == (T0 + 300 * SECOND, ChangeKind.LAPSED)


def test_a_stopping_item_waits_for_its_confirmation_however_long() -> None:
    assert items.due(stopped(active(), StopMode.GRACEFUL), HOSTED) is None


def test_a_lapsed_item_is_queued_with_its_heartbeat_null() -> None:
    after = items.requeue(active(), LATER, HOSTED)
    assert (after.state, after.value, after.acknowledged_at, after.polled_at) == (State.QUEUED, None, None, None)


def test_started_at_is_stamped_at_each_entry_to_the_queue_and_by_nothing_else() -> None:
    held = active()
    assert held.started_at == T0
    assert stopped(held, StopMode.FORCED).started_at == T0
    assert items.requeue(held, LATER, HOSTED).started_at == LATER


def test_a_stopped_item_that_is_delivered_again_can_be_claimed_again() -> None:
    again = items.requeue(stopped(active(), StopMode.FORCED), LATER, HOSTED)
    assert (again.stop_requested_at, again.stopped_at, again.deliveries) == (None, None, 2)
    assert accepted(again, NO_HEARTBEAT, at=LATER).extended


def test_some_servers_deliver_a_stopped_item_again_once_within_seconds() -> None:
    profile = Profile(redelivery=Redelivery.AFTER_STOP)
    over = stopped(active(), StopMode.FORCED, profile=profile)
    assert items.due(over, profile) == (LATER + 2 * SECOND, ChangeKind.REQUEUED)
    assert items.due(stopped(items.requeue(over, LATER, HOSTED), StopMode.FORCED), profile) is None
    assert items.due(over, HOSTED) is None


def test_metadata_is_merged_and_null_deletes() -> None:
    before = items.patch_metadata(item(), {"a": "1", "b": "2"})
    assert items.patch_metadata(before, {"a": None, "c": "3"}).metadata == {"b": "2", "c": "3"}
