"""An operator that was suspended or killed first finds out on what it may no longer act."""

import random
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from controlplane import ControlPlane, wait_for
from support.judge import OPERATOR, Stay, check_history, check_sandboxes, heartbeats
from support.operator import Leases, Operator
from support.other_worker import AGENT, OtherWorker
from support.simulator import Simulator
from support.stays import Stays

TTL = 10
SEED = 20261122  # any moments of the kills will do; with a seed, a failure can be repeated
KILLS = 5
LONGEST_LIFE = 4.0  # seconds until a process is killed: while it starts, beats, or is between two beats


@pytest.fixture
def operator(control_plane: ControlPlane, namespace: str, simulator: Simulator) -> Iterator[Operator]:
    with Operator(control_plane, namespace, simulator.url, WORKLEASE_NAMESPACE=namespace) as started:
        yield started


@pytest.fixture
def stays(control_plane: ControlPlane, namespace: str) -> Iterator[Stays]:
    with Stays(control_plane, namespace) as looking:
        yield looking


def hold(leases: Leases, simulator: Simulator, *items: str, ttl: int) -> None:
    for item in items:
        simulator.create_item(item)
    leases.create(*items, pods=True, ttlSeconds=ttl)
    for item in items:
        leases.await_condition(item, "SandboxReady", "True", seconds=60)


def pass_time(seconds: float) -> None:
    began = time.monotonic()
    wait_for(lambda: time.monotonic() > began + seconds, seconds=seconds + 30, what=f"{seconds:g} s")


def sent_by(agent: str, simulator: Simulator, call: str, since: int) -> list[str]:
    """Return the items for which a client has sent a call since a moment."""
    entries = simulator.history(since=since)
    return [entry["item"] for entry in entries if entry.get("call") == call and entry["agent"] == agent]


def test_an_operator_that_slept_past_the_ttl_robs_and_stops_nobody(
    leases: Leases, simulator: Simulator, operator: Operator, stays: Stays
) -> None:
    taken = ["work_a", "work_b"]
    hold(leases, simulator, *taken, "work_draining", ttl=TTL)
    hold(leases, simulator, "work_long", ttl=120)
    with OtherWorker(simulator) as other:
        operator.signal(signal.SIGSTOP)
        stopped = time.monotonic()
        simulator.stop_item("work_draining")  # as if the process had been suspended during its confirmation
        wait_for(lambda: set(other.claimed()) == set(taken), seconds=3 * TTL, what="the other worker's claims")
        simulator.requeue_item("work_draining")
        wait_for(lambda: "work_draining" in other.claimed(), seconds=TTL, what="the other worker's third claim")
        since = simulator.last_seq()
        operator.signal(signal.SIGCONT)
        woken = time.monotonic()
        for item in (*taken, "work_draining"):
            leases.await_condition(item, "Finished", "True", seconds=20)
            assert leases.condition(item, "Finished")[1] in ("Expired", "TakenOver", "Requeued")
        simulator.wait_for(lambda entries: _goes_on(entries, {*taken, "work_draining"}), since=since, timeout=20)
        assert sent_by(OPERATOR, simulator, "stop", since) == []
        beaten = [beat for beat in heartbeats(simulator.history(since=since)) if beat["agent"] == OPERATOR]
        assert [beat["item"] for beat in beaten if beat["lease_extended"] and beat["item"] != "work_long"] == []
    history = simulator.history()
    assert set(leases.pods()) == {"pod-work-long"}
    assert leases.condition("work_long", "LeaseHeld")[0] == "True"
    slept = [(stopped, woken)]
    assert [found for found in check_history(history, absent=slept) if getattr(found, "agent", OPERATOR) != AGENT] == []
    assert check_sandboxes(history, stays.seen(), absent=slept) == []
    assert _latest(stays, taken) < woken + 5


def _goes_on(entries: Sequence[Mapping[str, Any]], items: set[str]) -> bool:
    """Whether the other worker could renew the items that it holds."""
    return {beat["item"] for beat in heartbeats(entries) if beat["agent"] == AGENT and beat["lease_extended"]} == items


def _latest(stays: Stays, items: list[str]) -> float:
    """Return when any pod of some items was last seen."""
    seen: list[Stay] = [stay for stay in stays.seen() if stay.item in items]
    assert {stay.item for stay in seen} == set(items)
    return max(stay.last for stay in seen)


def test_an_operator_that_slept_for_less_goes_on_as_if_nothing_had_been(
    leases: Leases, simulator: Simulator, operator: Operator, stays: Stays
) -> None:
    items = ["work_a", "work_b", "work_c"]
    hold(leases, simulator, *items, ttl=15)
    pods = {name: pod["metadata"]["uid"] for name, pod in leases.pods().items()}
    for _ in range(2):
        since = simulator.last_seq()
        operator.signal(signal.SIGSTOP)
        pass_time(5.0)  # past the next beat of each, and before any fence
        operator.signal(signal.SIGCONT)
        for item in items:
            simulator.wait_for(
                lambda entries: any(entry.get("lease_extended") for entry in entries),
                item=item,
                since=since,
                timeout=10,
            )
    assert {name: pod["metadata"]["uid"] for name, pod in leases.pods().items()} == pods
    assert check_history(simulator.history(), until=time.monotonic()) == []
    assert check_sandboxes(simulator.history(), stays.seen()) == []


@pytest.mark.long(seconds=40)
def test_five_kills_at_random_moments_lose_no_lease_at_ttl_30(
    leases: Leases, simulator: Simulator, operator: Operator, stays: Stays
) -> None:
    chance = random.Random(SEED)  # noqa: S311 - it chooses moments, no secrets
    items = [f"work_{number}" for number in range(8)]
    hold(leases, simulator, *items, ttl=30)
    pods = {name: pod["metadata"]["uid"] for name, pod in leases.pods().items()}
    for _ in range(KILLS):
        # If the process dies during a beat, applied or not, nobody reads its answer.
        for item in chance.sample(items, 2):
            simulator.inject(chance.choice(["hang", "hang-after", "drop-after"]), item=item)
        pass_time(chance.uniform(0.0, LONGEST_LIFE))
        operator.kill()
        operator.start()
    simulator.clear_faults()
    since = simulator.last_seq()
    for item in items:
        simulator.wait_for(
            lambda entries: sum(entry.get("lease_extended") is True for entry in entries) >= 2,
            item=item,
            since=since,
            timeout=40,
        )
        leases.await_condition(item, "LeaseHeld", "True", "Renewed")
    assert {name: pod["metadata"]["uid"] for name, pod in leases.pods().items()} == pods
    assert [entry for entry in simulator.history() if entry["event"] == "lapsed"] == []
    assert check_history(simulator.history(), until=time.monotonic()) == []
    assert check_sandboxes(simulator.history(), stays.seen()) == []
