"""What is true of an item after any calls, in any order, with any profile."""

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from support.work_items import T0, item
from work_api_simulator import instants, items
from work_api_simulator.instants import SECOND
from work_api_simulator.items import HeartbeatAccepted, Item, State, StopMode
from work_api_simulator.profiles import PROFILES, BeatAfterStop, Profile
from work_api_simulator.refusals import RequestRefusal

EDGES = {
    State.QUEUED: {State.STARTING, State.ACTIVE, State.STOPPING, State.STOPPED},
    State.STARTING: {State.ACTIVE, State.STOPPING, State.STOPPED, State.QUEUED},
    State.ACTIVE: {State.STOPPING, State.STOPPED, State.QUEUED},
    State.STOPPING: {State.STOPPED, State.QUEUED},
    State.STOPPED: {State.QUEUED},
}

Step = Callable[[Item, int, Profile], Item]


def _beat(choice: str, desired: int | None) -> Step:
    def step(before: Item, now: int, profile: Profile) -> Item:
        expected = {"right": before.value or items.NO_HEARTBEAT, "claim": items.NO_HEARTBEAT, "wrong": "hb-1"}[choice]
        result = items.beat(before, now, profile, expected=expected, desired=desired)
        if isinstance(result, RequestRefusal):
            return before
        _check_answer(before, result, expected, profile)
        return result.item

    return step


def _check_answer(before: Item, result: HeartbeatAccepted, expected: str, profile: Profile) -> None:
    if result.extended:
        assert expected == (before.value or items.NO_HEARTBEAT), "nobody extends without the value"
        assert before.state not in (State.STOPPING, State.STOPPED), "a stop is final"
        assert result.ttl == result.item.ttl
    elif profile.beat_after_stop is not BeatAfterStop.COMPARED_AND_MOVES:
        assert result.item is before, "what extends nothing writes nothing"


def _ack(before: Item, now: int, profile: Profile) -> Item:
    after = items.acknowledge(before, now, profile)
    return before if isinstance(after, RequestRefusal) else after


def _stop(mode: StopMode) -> Step:
    return lambda before, now, profile: items.after_stop(before, now, profile, mode)


def _pass_time(before: Item, now: int, profile: Profile) -> Item:
    due = items.due(before, profile)
    return items.requeue(before, due[0], profile) if due is not None and due[0] <= now else before


STEPS = st.one_of(
    st.builds(_beat, st.sampled_from(["right", "claim", "wrong"]), st.sampled_from([None, 5, 60, 1000])),
    st.just(_ack),
    st.builds(_stop, st.sampled_from(StopMode)),
    st.just(_pass_time),
)


@settings(max_examples=300)
@given(st.sampled_from(sorted(PROFILES)), st.lists(st.tuples(STEPS, st.integers(0, 400)), max_size=30))
def test_an_item_moves_along_its_states_and_its_values_only_increase(name: str, life: list[tuple[Step, int]]) -> None:
    profile, now, before, latest = PROFILES[name], T0, item(State.QUEUED), 0
    for step, seconds in life:
        now += seconds * SECOND
        after = step(_pass_time(before, now, profile), now, profile)
        if after.state is not before.state and after.deliveries == before.deliveries:
            assert after.state in EDGES[before.state]
        if after.value is not None and after.value != before.value:
            instant = instants.read(after.value)
            assert instant is not None
            assert instant > latest
            latest = instant
        assert (after.state is State.QUEUED) <= (after.value is None)
        assert (after.state is State.STOPPED) == (after.stopped_at is not None)
        before = after
