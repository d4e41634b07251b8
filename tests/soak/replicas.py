"""Several processes, while some of them cannot reach the API server, or come and go: `python -m soak.replicas`.

Three scenes: one process is cut off from the API server, the API server is away for all of them, and their number goes
from one to five to two while items are claimed, stopped and deleted. It exits with 1 if a lease lapsed or was given up,
a pod was deleted, an item stopped that nobody asked for, or the buckets did not become even.
"""

import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

import click
from rich.console import Console

from controlplane import ControlPlane, OwnControlPlane, wait_for
from soak.fleet import Fleet
from soak.lost_answers import lose_a_share
from soak.troubles import pass_time
from support.cluster import install_custom_resources, leave_namespace, make_namespace
from support.judge import check_history
from support.kube_proxy import KubeProxy, Reset
from support.operator import Leases, Operator
from support.simulator import Simulator

BUCKETS: Final = 16

START_TIMEOUT: Final = 120.0
"""Seconds until all leases must be held, on a busy machine."""

EVEN_WITHIN: Final = 40.0
"""Seconds after a change of the number of processes within which their shares are even."""

MOST: Final = 5
"""The most processes of the last scene."""

DELETED: Final = 0.5
"""The part of the leases that end whose resource is deleted; the items of the others are stopped."""

VIOLATED: Final = 1
"""The exit status if something happened that must not."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What is there: items with a pod each, and processes in one installation."""

    plane: ControlPlane
    namespace: str
    simulator: Simulator
    leases: Leases
    opened: ExitStack

    def process(self, number: int, proxy: KubeProxy | None = None) -> Operator:
        """Start a process, as in a pod of its own: so none can prove that another one is dead."""
        settings = {"WORKLEASE_POD_UID": f"pod-{number}", "WORKLEASE_REQUESTS_PER_MINUTE": "0"}
        settings |= {} if proxy is None else {"KUBECONFIG": str(proxy.kubeconfig)}
        started = Operator(self.plane, self.namespace, self.simulator.url, **settings)
        return self.opened.enter_context(started)

    def hold(self, items: Sequence[str], ttl: int) -> Mapping[str, str]:
        """Have all items claimed, each with a pod; return the uids of the pods."""
        for item in items:
            self.simulator.create_item(item)
        self.leases.create(*items, pods=True, ttlSeconds=ttl)
        for item in items:
            self.leases.await_condition(item, "Ready", "True", seconds=START_TIMEOUT)
        return self.pods()

    def pods(self) -> Mapping[str, str]:
        """Return the uids of the pods that are there, and are not being deleted."""
        there = {name: pod["metadata"] for name, pod in self.leases.pods().items()}
        return {name: each["uid"] for name, each in there.items() if "deletionTimestamp" not in each}

    def shares(self) -> Counter[str]:
        """Return how many buckets each process holds, by its place."""
        listed = self.plane.kubectl(
            "-n", self.namespace, "get", "configmaps", "-l", "worklease.dev/bucket", "-o", "json"
        )
        holders = (each["metadata"]["annotations"]["worklease.dev/holder"] for each in json.loads(listed)["items"])
        return Counter(holder.partition("/")[0] for holder in holders)

    def await_even(self, places: Sequence[str], *, seconds: float) -> None:
        """Wait until these processes hold all buckets, each as many as another or one more."""

        def are_even() -> bool:
            shares = self.shares()
            numbers = [shares[place] for place in places]
            return sum(numbers) == BUCKETS and max(numbers) - min(numbers) <= 1

        wait_for(are_even, seconds=seconds, what=f"even shares of {', '.join(places)}")

    def wrongs(self, *, may_stop: bool = False) -> list[str]:
        """Return what happened that must not."""
        history = self.simulator.history()
        bad = [each for each in history if each["event"] in {"lapsed", "stolen"}]
        bad += [] if may_stop else [each for each in history if each.get("call") == "stop"]
        return [str(each) for each in (*bad, *check_history(history))]


@contextmanager
def scene(plane: ControlPlane) -> Iterator[Scene]:
    """Open a scene in a namespace of its own."""
    with ExitStack() as opened:
        namespace = make_namespace(plane)
        opened.callback(leave_namespace, plane, namespace)
        simulator = opened.enter_context(Simulator())
        yield Scene(plane, namespace, simulator, Leases(plane, namespace, simulator), opened)


def cut_off(plane: ControlPlane, *, processes: int, cut: int, ttl: int, seconds: float, share: float) -> list[str]:
    """Cut processes off from the API server for a while; return what happened that must not.

    With as many as there are, the API server is away. A share of the Work API's answers gets lost meanwhile.
    """
    items = [f"work_{number:02}" for number in range(6)]
    with scene(plane) as there:
        proxy = there.opened.enter_context(KubeProxy(plane))
        for number in range(processes):
            there.process(number, proxy if number < cut else None)
        before = there.hold(items, ttl)
        there.await_even([f"pod-{number}" for number in range(processes)], seconds=START_TIMEOUT)
        # Not while a bucket is being handed over: a process that has just begun must read its leases first.
        _await_beats(there, items, what="a beat of each lease by its last holder")
        if share:
            lose_a_share(there.simulator, share)
        with proxy.fault(Reset()):
            proxy.cut_watches()
            pass_time(seconds)
        there.simulator.clear_faults()
        _await_beats(there, items, what="a beat of each lease after it")
        gone = [f"pod {name} was deleted" for name, uid in before.items() if there.pods().get(name) != uid]
        return gone + there.wrongs()


def _await_beats(there: Scene, items: Sequence[str], *, what: str) -> None:
    """Wait until each lease was extended once more."""
    since = there.simulator.last_seq()

    def are_beaten() -> bool:
        calls = (each for each in there.simulator.history(since=since) if each.get("call") == "heartbeat")
        return {each["item"] for each in calls if each["lease_extended"]} >= {*items}

    wait_for(are_beaten, seconds=START_TIMEOUT, what=what)


def come_and_go(plane: ControlPlane, *, seconds: float, seed: int) -> list[str]:
    """Run one process, then five, then two, for so long each, while items are claimed, stopped and deleted."""
    chance = random.Random(seed)  # noqa: S311 - it chooses items, no secrets
    with scene(plane) as there:
        processes = [there.process(0)]
        fleet = Fleet(plane, there.leases, there.simulator, chance)
        fleet.launch(12)
        for wanted in (1, MOST, 2):
            while len(processes) < wanted:
                processes.append(there.process(len(processes)))
            while len(processes) > wanted:
                processes.pop().terminate()
            until = time.monotonic() + seconds
            places = [f"pod-{number}" for number in range(wanted)]
            there.await_even(places, seconds=EVEN_WITHIN)
            while time.monotonic() < until:
                if held := sorted(set(fleet.held()) & set(fleet.current)):
                    item = chance.choice(held)
                    if chance.random() < DELETED:
                        fleet.drop(item)
                    else:
                        there.simulator.stop_item(item)
                fleet.replace_finished()
                pass_time(1.0)
        wait_for(lambda: set(fleet.held()) == set(fleet.current), seconds=START_TIMEOUT, what="all leases held again")
        return there.wrongs(may_stop=True)


@click.command()
@click.option("--ttl", type=click.IntRange(min=10), default=60, show_default=True, help="The TTL of the leases.")
@click.option(
    "--seconds", type=click.FloatRange(min=10), default=60.0, show_default=True, help="Of each number of processes."
)
@click.option("--seed", type=int, default=7, show_default=True, help="Chooses which items are stopped or deleted.")
def main(*, ttl: int, seconds: float, seed: int) -> None:
    """Cut one process off for two TTLs, keep the API server away for three, and have processes come and go."""
    console, found = Console(), 0
    with OwnControlPlane() as plane:
        install_custom_resources(plane)
        for share in (0.0, 0.2):
            wrongs = cut_off(plane, processes=3, cut=1, ttl=ttl, seconds=2 * ttl, share=share)
            found += _tell(console, f"one of three cut off for two TTLs, {share:.0%} of answers lost", wrongs)
        for share in (0.0, 0.1):
            wrongs = cut_off(plane, processes=2, cut=2, ttl=ttl, seconds=3 * ttl, share=share)
            found += _tell(console, f"the API server away for three TTLs, {share:.0%} of answers lost", wrongs)
        wrongs = come_and_go(plane, seconds=seconds, seed=seed)
        found += _tell(console, "one, five and two processes while items are claimed, stopped and deleted", wrongs)
    sys.exit(VIOLATED if found else 0)


def _tell(console: Console, what: str, wrongs: Sequence[str]) -> int:
    console.print(f"{what}: {len(wrongs)} wrong", highlight=False)
    for each in wrongs:
        console.print(f"  {each}", markup=False, highlight=False, soft_wrap=True)
    return len(wrongs)


if __name__ == "__main__":
    main()
