"""Servers of this API differ. The main scenario ends correctly with each profile.

The operator gives up no lease because of a difference, and keeps none that it should not keep.
"""

import time
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from controlplane import ControlPlane
from support.cluster import leave_namespace, make_namespace
from support.judge import OPERATOR, Entry, Stay, check_history, check_sandboxes, heartbeats
from support.operator import Leases, Operator
from support.simulator import Simulator
from support.stays import Stays
from work_api_simulator.profiles import PROFILES, BeatAfterStop, Lapse, Redelivery

TTL = 15  # seconds: within the bounds of every profile, and much longer than a restart takes
KEPT = ["work_kept", "work_lost"]
LAPSING = "work_lapsing"
GRACEFUL, FORCED = "work_graceful", "work_forced"
STUBBORN = {"controlplane.worklease.dev/termination": "Stubborn"}


@dataclass(frozen=True, slots=True)
class Result:
    """How a scenario ended."""

    reasons: dict[str, str]
    """The reason of each finished resource."""
    held: dict[str, str]
    """`LeaseHeld` of each resource that continues."""
    states: dict[str, str]
    """The server's state of each item that it still has."""
    pods: set[str]
    history: list[Entry]
    stays: list[Stay]
    absent: tuple[float, float]
    """When the operator was not running."""
    until: float
    log: str
    """The operator's log since its second start."""


class Scenario:
    """Claim, beat, lost reply, restart, graceful stop with drain, forced stop and lapse, each on an item of its own."""

    def __init__(self, plane: ControlPlane, profile: str) -> None:
        self._plane = plane
        self._profile = profile

    def play(self) -> Result:
        """Run the scenario, and return its result."""
        with ExitStack() as opened:
            simulator = opened.enter_context(Simulator("--profile", self._profile, "--ttl", str(TTL)))
            namespace = make_namespace(self._plane)
            opened.callback(leave_namespace, self._plane, namespace)
            stays = opened.enter_context(Stays(self._plane, namespace))
            leases = Leases(self._plane, namespace, simulator)
            settings = {"WORKLEASE_NAMESPACE": namespace, "WORKLEASE_REQUESTS_PER_MINUTE": "0"}
            operator = opened.enter_context(Operator(self._plane, namespace, simulator.url, **settings))
            self._claim(leases, simulator)
            self._trouble(simulator)
            died = time.monotonic()
            operator.kill()
            operator.start()
            absent = (died, time.monotonic())
            self._await_ends(leases, simulator)
            return _told(leases, simulator, stays, absent, operator.log())

    def _claim(self, leases: Leases, simulator: Simulator) -> None:
        items = [*KEPT, GRACEFUL, FORCED, LAPSING]
        for item in items:
            simulator.create_item(item)
        leases.apply(*(leases.pod(f"pod-{item.replace('_', '-')}", item, annotations=STUBBORN) for item in items))
        leases.create(*items, ttlSeconds=TTL, sandbox={"drainSeconds": 2})
        for item in items:
            leases.await_condition(item, "SandboxReady", "True", seconds=60)

    def _trouble(self, simulator: Simulator) -> None:
        """Let one lease lapse, lose an answer of another, and wait until the operator has recovered."""
        simulator.inject("status", item=LAPSING, times=None, status=500)
        simulator.inject("drop-after", item="work_lost")
        since = simulator.last_seq()
        simulator.wait_for(
            lambda entries: any(entry["outcome"] == "dropped-after" for entry in heartbeats(entries)),
            item="work_lost",
            since=since,
            timeout=TTL,
        )
        simulator.stop_item(GRACEFUL)
        simulator.stop_item(FORCED, force=True)
        simulator.wait_for(
            lambda entries: sum(beat["status"] == 200 for beat in heartbeats(entries)) >= 1,
            item="work_lost",
            since=since,
            timeout=TTL,
        )

    def _await_ends(self, leases: Leases, simulator: Simulator) -> None:
        for item in (GRACEFUL, FORCED, LAPSING):
            leases.await_condition(item, "Finished", "True", seconds=4 * TTL)
        since = simulator.last_seq()
        for item in KEPT:
            simulator.wait_for(
                lambda entries: sum(bool(beat["lease_extended"]) for beat in heartbeats(entries)) >= 2,
                item=item,
                since=since,
                timeout=2 * TTL,
            )


def _told(leases: Leases, simulator: Simulator, stays: Stays, absent: tuple[float, float], log: str) -> Result:
    return Result(
        reasons={item: leases.condition(item, "Finished")[1] for item in (GRACEFUL, FORCED, LAPSING)},
        held={item: leases.condition(item, "LeaseHeld")[0] for item in KEPT},
        states={item["id"]: item["state"] for item in simulator.items()},
        pods=set(leases.pods()),
        history=list(simulator.history()),
        stays=stays.seen(),
        absent=absent,
        until=time.monotonic(),
        log=log,
    )


@pytest.mark.parametrize("profile", sorted(PROFILES.keys() - {"o", "m"}))  # test_two_public_servers.py has these two
@pytest.mark.long(seconds=30)
def test_the_main_scenario_ends_as_it_should_under(profile: str, control_plane: ControlPlane) -> None:
    told, manners = Scenario(control_plane, profile).play(), PROFILES[profile]
    assert told.held == dict.fromkeys(KEPT, "True")
    assert told.pods == {f"pod-{item.replace('_', '-')}" for item in KEPT}
    assert {told.states[item] for item in KEPT} == {"active"}

    assert told.reasons[LAPSING] in ("Expired", "Requeued", "NotFound")
    if manners.lapse is Lapse.AT_ONCE:
        assert told.states.get(LAPSING, "queued") == "queued"
    if manners.beat_after_stop is not BeatAfterStop.CONFLICT:
        assert told.reasons[GRACEFUL] == "Stopped"
        # If the server queues the item again within seconds, the next beat may find it in the queue already.
        comes_again = manners.redelivery is Redelivery.AFTER_STOP
        assert told.reasons[FORCED] in ("Stopped", *(("Requeued",) if comes_again else ()))
    assert told.states[GRACEFUL] in ("stopped", "queued")  # queued: some servers queue it again
    stops = [entry["item"] for entry in told.history if entry.get("call") == "stop" and entry["agent"] == OPERATOR]
    assert set(stops) <= {GRACEFUL}

    assert check_history(told.history, released=[LAPSING], until=told.until) == []
    assert check_sandboxes(told.history, told.stays, absent=[told.absent]) == [], told.log
