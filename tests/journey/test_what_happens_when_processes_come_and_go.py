"""docs/what-happens-when.md, "The operator's processes": each test is the row of its name."""

import json
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise

import pytest

from controlplane import ControlPlane, wait_for
from support.judge import check_history, heartbeats
from support.operator import Leases, Operator
from support.simulator import Simulator

ITEMS = [f"work_{number:02}" for number in range(12)]
BUCKETS = 16
LONGEST_GAP = 6.0  # seconds between two accepted beats of a TTL of 15: a routine of 5, and 0.2 beside two busy loops
TAKEN_SECONDS = 13.0  # until each lease of a dead process is beaten again: 10 or 11 on an idle machine
ENDED_SECONDS = 5.0  # until those of an installation are that ended in order
KILLED_SECONDS = 20.0  # and of one that was killed


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator("--ttl", "30") as started:
        yield started


@contextmanager
def processes(plane: ControlPlane, namespace: str, simulator: Simulator, count: int) -> Iterator[list[Operator]]:
    """Run so many processes, each as in a pod of its own: so none can prove that another one is dead."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                Operator(
                    plane,
                    namespace,
                    simulator.url,
                    WORKLEASE_POD_UID=f"pod-{number}",
                    WORKLEASE_REQUESTS_PER_MINUTE="0",
                )
            )
            for number in range(count)
        ]


def held(plane: ControlPlane, namespace: str) -> Counter[str]:
    """Return how many buckets each process holds, by its place."""
    found = json.loads(
        plane.kubectl("--namespace", namespace, "get", "configmaps", "-l", "worklease.dev/bucket", "-o", "json")
    )
    holders = (each["metadata"]["annotations"]["worklease.dev/holder"] for each in found["items"])
    return Counter(holder.partition("/")[0] for holder in holders)


def await_even(plane: ControlPlane, namespace: str, *places: str) -> None:
    """Wait until these processes hold all buckets, each as many as another or one more."""

    def is_even() -> bool:
        shares = held(plane, namespace)
        numbers = [shares[place] for place in places]
        return sum(numbers) == BUCKETS and max(numbers) - min(numbers) <= 1

    wait_for(is_even, seconds=120, what=f"even shares of {', '.join(places)}")


def await_beaten(simulator: Simulator, since: int, *, seconds: float) -> None:
    """Wait until each item was beaten since."""

    def are_beaten() -> bool:
        beaten = {entry["item"] for entry in heartbeats(simulator.history(since=since)) if entry["lease_extended"]}
        return beaten >= set(ITEMS)

    wait_for(are_beaten, seconds=seconds, what="a beat of each lease")


def lost(simulator: Simulator) -> list[str]:
    """Return what happened that must not: lapses, stops, and what the checker finds."""
    history = simulator.history()
    bad = [entry for entry in history if entry["event"] in {"lapsed", "stolen"} or entry.get("call") == "stop"]
    return [str(each) for each in (*bad, *check_history(history))]


def begin(leases: Leases, simulator: Simulator, *, ttl: int = 30) -> dict[str, str]:
    """Have all items claimed, each with a sandbox; return the uids of the pods."""
    for item in ITEMS:
        simulator.create_item(item)
    leases.create(*ITEMS, pods=True, ttlSeconds=ttl)
    for item in ITEMS:
        leases.await_condition(item, "Ready", "True", seconds=60)
    return uids(leases)


def uids(leases: Leases) -> dict[str, str]:
    return {name: pod["metadata"]["uid"] for name, pod in leases.pods().items()}


@pytest.mark.long(seconds=60)
def test_a_process_dies_while_others_live(
    control_plane: ControlPlane, namespace: str, leases: Leases, simulator: Simulator
) -> None:
    with processes(control_plane, namespace, simulator, 3) as (one, *_):
        pods = begin(leases, simulator)
        await_even(control_plane, namespace, "pod-0", "pod-1", "pod-2")
        since = simulator.last_seq()
        one.kill()
        await_beaten(simulator, since, seconds=TAKEN_SECONDS)
        assert uids(leases) == pods
    assert lost(simulator) == []


@pytest.mark.long(seconds=50)
def test_a_process_stands_still_and_goes_on(
    control_plane: ControlPlane, namespace: str, leases: Leases, simulator: Simulator
) -> None:
    with processes(control_plane, namespace, simulator, 2) as (one, _):
        pods = begin(leases, simulator)
        one.signal(signal.SIGSTOP)
        wait_for(lambda: held(control_plane, namespace)["pod-1"] == BUCKETS, seconds=30, what="the takes")
        since = simulator.last_seq()
        one.signal(signal.SIGCONT)
        await_beaten(simulator, since, seconds=20)
        assert uids(leases) == pods
    assert lost(simulator) == []


@pytest.mark.long(seconds=60)
def test_a_process_is_ended_in_order(
    control_plane: ControlPlane, namespace: str, leases: Leases, simulator: Simulator
) -> None:
    with processes(control_plane, namespace, simulator, 2) as (one, two):
        pods = begin(leases, simulator, ttl=15)
        await_even(control_plane, namespace, "pod-0", "pod-1")
        since, began = simulator.last_seq(), time.monotonic()
        assert one.terminate() == 0
        assert held(control_plane, namespace) == {"pod-1": BUCKETS}
        one.start()
        await_even(control_plane, namespace, "pod-0", "pod-1")
        assert two.terminate() == 0
        assert held(control_plane, namespace) == {"pod-0": BUCKETS}
        await_beaten(simulator, simulator.last_seq(), seconds=20)
        assert uids(leases) == pods
    assert lost(simulator) == []
    beats: dict[str, list[float]] = {item: [began] for item in ITEMS}
    for entry in heartbeats(simulator.history(since=since)):
        if entry["lease_extended"]:
            beats[entry["item"]].append(entry["applied_monotonic"])
    gaps = {item: max(later - earlier for earlier, later in pairwise(at)) for item, at in beats.items()}
    assert max(gaps.values()) < LONGEST_GAP


def named(leases: Leases) -> set[str]:
    """Return the installations that keep the resources."""
    return {str(leases.status(item).get("operator")) for item in ITEMS}


def await_taken(leases: Leases, simulator: Simulator, by: str, *, since: float, seconds: float) -> None:
    """Wait until another installation has named itself and beaten each lease, so many seconds after that moment."""
    last = simulator.last_seq()

    def is_taken() -> bool:
        beaten = {each["item"] for each in heartbeats(simulator.history(since=last)) if each["lease_extended"]}
        return named(leases) == {by} and beaten >= set(ITEMS)

    wait_for(is_taken, seconds=since + seconds - time.monotonic(), what=f"all leases kept by {by}")


@pytest.mark.long(seconds=40)
def test_a_second_installation_watches_the_same_namespace(
    control_plane: ControlPlane, namespace: str, leases: Leases, simulator: Simulator
) -> None:
    other = f"{namespace}-b"
    control_plane.kubectl("create", "namespace", other)
    first, second = f"{namespace}/worklease-installation", f"{other}/worklease-installation"
    settings = {"WORKLEASE_REQUESTS_PER_MINUTE": "0"}
    with Operator(control_plane, namespace, simulator.url, WORKLEASE_POD_UID="pod-a", **settings) as one:
        pods = begin(leases, simulator, ttl=60)
        with Operator(
            control_plane, namespace, simulator.url, WORKLEASE_NAMESPACE=other, WORKLEASE_POD_UID="pod-b", **settings
        ) as two:
            wait_for(lambda: "LeftAlone" in leases.reasons(ITEMS[0]), seconds=20, what="the event")
            assert f"Installation {first} keeps this resource" in two.log()
            assert named(leases) == {first}
            assert one.terminate() == 0
            await_taken(leases, simulator, second, since=time.monotonic(), seconds=ENDED_SECONDS)
            one.start()
            wait_for(lambda: f"Installation {second} keeps" in one.log(), seconds=20, what="the word in its log")
            two.kill()
            await_taken(leases, simulator, first, since=two.killed[-1], seconds=KILLED_SECONDS)
        assert uids(leases) == pods
    assert lost(simulator) == []
