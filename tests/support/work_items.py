"""Items of the simulator's pure model, in the states in which tests begin."""

from work_api_simulator import items
from work_api_simulator.instants import SECOND
from work_api_simulator.items import HeartbeatAccepted, Item, State
from work_api_simulator.profiles import HOSTED, Profile
from work_api_simulator.refusals import RequestRefusal

T0 = 1_795_000_000 * SECOND + 123_456


def item(state: State = State.STARTING) -> Item:
    """Return an item that was acknowledged at T0 and never got a heartbeat."""
    return Item(
        id="work_1",
        environment_id="env_1",
        data_type="session",
        data_id="sesn_1",
        created_at=T0,
        queued_at=T0,
        started_at=T0,
        sessions_token="token",
        state=state,
        acknowledged_at=None if state is State.QUEUED else T0,
    )


def beat(
    before: Item, expected: str | None, *, at: int = T0, profile: Profile = HOSTED, desired: int | None = None
) -> HeartbeatAccepted | RequestRefusal:
    """Return the result of a heartbeat."""
    return items.beat(before, at, profile, expected=expected, desired=desired)


def accepted(
    before: Item, expected: str | None, *, at: int = T0, profile: Profile = HOSTED, desired: int | None = None
) -> HeartbeatAccepted:
    """Return the result of a heartbeat that must be accepted."""
    answered = beat(before, expected, at=at, profile=profile, desired=desired)
    if isinstance(answered, RequestRefusal):
        raise TypeError(f"The beat was refused: {answered.message}")
    return answered


def refused(
    before: Item, expected: str | None, *, profile: Profile = HOSTED, desired: int | None = None
) -> RequestRefusal:
    """Return the refusal of a heartbeat that must be refused."""
    refusal = beat(before, expected, profile=profile, desired=desired)
    if isinstance(refusal, HeartbeatAccepted):
        raise TypeError(f"The beat was answered 200: {refusal}")
    return refusal


def active(profile: Profile = HOSTED) -> Item:
    """Return an item that has been held since T0."""
    return accepted(item(), items.NO_HEARTBEAT, profile=profile).item
