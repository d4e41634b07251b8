"""Two public servers, as the profiles `o` and `m` answer: the main scenario, a lost claim, a restart, and a thief.

Both refuse a value without saying what they have, and keep past items in their lists for ever.
"""

import time
from collections.abc import Iterator, Sequence

import pytest

from controlplane import ControlPlane
from support.judge import OPERATOR, Entry, check_history, check_sandboxes, heartbeats
from support.operator import Leases, Operator
from support.simulator import Simulator
from support.stays import Stays

TTL = 15  # seconds
PAST = 4_000  # items that ended before ours were made
KEPT, GRACEFUL, FORCED, STOLEN = "work_kept", "work_graceful", "work_forced", "work_stolen"
LOST = "work_lostclaim"  # the answer to its claim is lost
ITEMS = (KEPT, GRACEFUL, FORCED, STOLEN, LOST)


@pytest.fixture(params=["o", "m"])
def simulator(request: pytest.FixtureRequest) -> Iterator[Simulator]:
    """A server with thousands of past items, and ours on the first page of its list."""
    with Simulator("--profile", request.param) as started:
        started.create_past_items(PAST)
        for item in ITEMS:
            started.create_item(item)
        yield started


@pytest.fixture
def stays(control_plane: ControlPlane, namespace: str) -> Iterator[Stays]:
    with Stays(control_plane, namespace) as watching:
        yield watching


def await_renewals(simulator: Simulator, item: str, *, since: int, times: int) -> None:
    """Wait until so many beats of an item were accepted and answered."""

    def met(entries: Sequence[Entry]) -> bool:
        renewed = [beat for beat in heartbeats(entries) if beat["lease_extended"] and beat["outcome"] == "answered"]
        return len(renewed) >= times

    simulator.wait_for(met, item=item, since=since, timeout=2 * TTL)


def test_the_main_scenario_ends_as_it_should_at_a_public_server(
    leases: Leases, simulator: Simulator, operator: Operator, stays: Stays
) -> None:
    simulator.inject("drop-after", item=LOST)
    leases.create(*ITEMS, pods=True, ttlSeconds=TTL, sandbox={"drainSeconds": 1})
    for item in (KEPT, GRACEFUL, FORCED, STOLEN):
        leases.await_condition(item, "SandboxReady", "True", seconds=60)
    # These servers stamp the first beat as the entry to the queue: up to a second later it may be of the same delivery.
    await_renewals(simulator, STOLEN, since=0, times=2)
    since = simulator.last_seq()
    simulator.inject("drop-after", item=KEPT)
    simulator.requeue_item(STOLEN, state="active")
    simulator.stop_item(GRACEFUL)
    simulator.stop_item(FORCED, force=True)
    for item, reason in {GRACEFUL: "Stopped", FORCED: "Stopped", STOLEN: "TakenOver"}.items():
        leases.await_condition(item, "Finished", "True", reason, seconds=TTL)
    await_renewals(simulator, KEPT, since=since, times=1)
    pages = [entry for entry in simulator.history(since=since) if entry.get("call") == "list"]

    since = simulator.last_seq()
    simulator.inject("drop-after", item=KEPT)
    simulator.wait_for(
        lambda entries: any(beat["outcome"] == "dropped-after" for beat in heartbeats(entries)),
        item=KEPT,
        since=since,
        timeout=TTL,
    )
    died = time.monotonic()
    operator.kill()
    operator.start()
    absent = (died, time.monotonic())
    await_renewals(simulator, KEPT, since=simulator.last_seq(), times=2)
    for item in (KEPT, LOST):
        leases.await_condition(item, "LeaseHeld", "True")

    history = simulator.history()
    assert set(leases.pods()) == {"pod-work-kept", "pod-work-lostclaim"}
    assert {item: simulator.item(item)["state"] for item in ITEMS} == {
        KEPT: "active",
        GRACEFUL: "stopped",
        FORCED: "stopped",
        STOLEN: "active",
        LOST: "active",
    }
    stopped = {entry["item"] for entry in history if entry.get("call") == "stop" and entry["agent"] == OPERATOR}
    assert stopped <= {GRACEFUL}
    assert len(pages) < PAST / 100, "one page shows our items, and none of the other forty is needed"
    assert check_history(history, released=[STOLEN], until=time.monotonic()) == []
    assert check_sandboxes(history, stays.seen(), absent=[absent]) == [], operator.log()
