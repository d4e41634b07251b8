"""Whatever happens to single calls, the operator loses no lease, and no sandbox outlives its lease.

The faults act on real sockets. The simulator's history is checked, and the pods as they were seen from outside.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest

from controlplane import ControlPlane, wait_for
from support.judge import OPERATOR, check_history, check_sandboxes, heartbeats
from support.operator import Leases, Operator
from support.simulator import Simulator
from support.stays import Stays

pytestmark = pytest.mark.usefixtures("operator")

TTL = 12  # seconds: enough for four retries and a fence, with a busy machine's delays
NO_DELAY = 0.0  # lets one call pass unchanged between two faults
STUBBORN = {"controlplane.worklease.dev/termination": "Stubborn"}  # a sandbox that uses all of its grace period


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault for one item, in the words of the simulator's administration."""

    kind: str
    times: int = 1
    effect: dict[str, Any] = field(default_factory=dict)


MALFORMED = (
    "",
    "null",
    "<html>502 Bad Gateway</html>",
    '{"type": "work_heartbeat", "state": "active"}',
    '{"last_heartbeat": null, "lease_extended": true, "state": "active", "ttl_seconds": 12}',
    '{"last_heartbeat": "", "lease_extended": true, "state": "active", "ttl_seconds": 12}',
)

FAULTS: dict[str, list[Fault]] = {
    "work_lostonce": [Fault("drop-after")],
    "work_losttwice": [Fault("drop-after", 2)],
    # The 412 arrives, and the answer to the beat with the adopted value is lost again.
    "work_lostagain": [Fault("drop-after"), Fault("delay", 1, {"seconds": NO_DELAY})] * 3,
    "work_lostfouroffive": [Fault("drop-after", 4)],
    "work_neverarrived": [Fault("drop-before", 2)],
    "work_applied500": [Fault("status-after", 2, {"status": 500})],
    "work_500": [Fault("status", 3, {"status": 500})],
    "work_503": [Fault("status", 1, {"status": 503})],
    "work_final": [Fault("status", 1, {"status": 500, "should_retry": "false"})],
    "work_408": [Fault("status", 1, {"status": 408})],
    "work_429": [Fault("status", 2, {"status": 429})],
    "work_slow": [Fault("delay", 1, {"seconds": TTL / 6 + 1})],
    "work_slowafter": [Fault("delay-after", 1, {"seconds": TTL / 6 + 1})],
    "work_hung": [Fault("hang")],
    "work_hungafter": [Fault("hang-after")],
    # A gateway before the API answers by itself, and its clock is not the API's.
    "work_gateway404": [Fault("gateway", 1, {"status": 404})],
    "work_gateway502": [Fault("gateway", 1, {"status": 502, "body": "<html>502 Bad Gateway</html>"})],
    "work_gateway504": [Fault("gateway-after", 1, {"status": 504, "clock_ahead": 20, "retry_after": 1})],
    **{f"work_malformed{number}": [Fault("malformed", 1, {"body": body})] for number, body in enumerate(MALFORMED)},
}

RETRY_LATER = {
    "work_503seconds": Fault("status", 1, {"status": 503, "retry_after": 3}),
    "work_503date": Fault("status", 1, {"status": 503, "retry_after": 3, "retry_after_form": "date"}),
    "work_429seconds": Fault("status", 1, {"status": 429, "retry_after": 3}),
}


@pytest.fixture
def operator(control_plane: ControlPlane, namespace: str, simulator: Simulator) -> Iterator[Operator]:
    # Without a limit: twenty leases with so short a TTL would use it up, and the limit has tests of its own.
    with Operator(control_plane, namespace, simulator.url, WORKLEASE_REQUESTS_PER_MINUTE="0") as started:
        yield started


@pytest.fixture
def stays(control_plane: ControlPlane, namespace: str) -> Iterator[Stays]:
    with Stays(control_plane, namespace) as looking:
        yield looking


def hold(leases: Leases, simulator: Simulator, *items: str, ttl: int = TTL, **spec: Any) -> None:
    """Create items, each with a resource and a running sandbox, and wait until all are held."""
    for item in items:
        simulator.create_item(item)
    pods = [
        leases.pod(pod_of(item), item, annotations=STUBBORN if number % 2 else {}) for number, item in enumerate(items)
    ]
    leases.apply(*pods)
    leases.create(*items, ttlSeconds=ttl, **spec)
    for item in items:
        leases.await_condition(item, "SandboxReady", "True", seconds=60)
        leases.await_condition(item, "LeaseHeld", "True", "Renewed", seconds=60)


def pod_of(item: str) -> str:
    return f"pod-{item.replace('_', '-')}"


def await_renewals(simulator: Simulator, *items: str, times: int = 2, since: int | None = None) -> None:
    """Wait until beats have extended each lease this many times more."""
    since = simulator.last_seq() if since is None else since
    for item in items:
        simulator.wait_for(
            lambda entries: sum(entry.get("lease_extended") is True for entry in entries) >= times,
            item=item,
            since=since,
            timeout=3 * TTL,
        )


def stops(simulator: Simulator, item: str) -> list[dict[str, Any]]:
    return [entry for entry in simulator.history(item) if entry.get("call") == "stop"]


def lapses(simulator: Simulator) -> list[dict[str, Any]]:
    return [entry for entry in simulator.history() if entry["event"] == "lapsed"]


def assert_ended(leases: Leases, simulator: Simulator, item: str, *reasons: str, seconds: float = 30) -> None:
    """Assert that the lease has ended and its status says so, its pod is gone, and no stop was sent."""
    leases.await_condition(item, "Finished", "True", seconds=seconds)
    assert leases.condition(item, "Finished")[1] in reasons
    assert pod_of(item) not in leases.pods()
    assert stops(simulator, item) == []


def test_no_fault_of_single_calls_costs_a_lease(leases: Leases, simulator: Simulator, stays: Stays) -> None:
    hold(leases, simulator, *FAULTS)
    pods = {name: pod["metadata"]["uid"] for name, pod in leases.pods().items()}
    since = simulator.last_seq()
    for item, faults in FAULTS.items():
        for fault in faults:
            simulator.inject(fault.kind, item=item, times=fault.times, **fault.effect)
    met = sum(fault.times for faults in FAULTS.values() for fault in faults)
    simulator.wait_for(
        lambda entries: sum(bool(entry.get("fault")) for entry in entries) >= met, since=since, timeout=3 * TTL
    )
    await_renewals(simulator, *FAULTS)
    for item in FAULTS:
        leases.await_condition(item, "LeaseHeld", "True", "Renewed")
    assert {name: pod["metadata"]["uid"] for name, pod in leases.pods().items()} == pods
    assert lapses(simulator) == []
    history = simulator.history()
    assert check_history(history, until=time.monotonic()) == []
    assert check_sandboxes(history, stays.seen()) == []


def test_a_server_that_asks_to_be_left_alone_for_a_while_costs_no_lease(
    leases: Leases, simulator: Simulator, stays: Stays
) -> None:
    hold(leases, simulator, *RETRY_LATER)
    for item, fault in RETRY_LATER.items():
        since = simulator.last_seq()
        simulator.inject(fault.kind, item=item, times=fault.times, **fault.effect)
        simulator.wait_for(
            lambda entries: any(entry.get("fault") for entry in entries), item=item, since=since, timeout=TTL
        )
        await_renewals(simulator, item, times=1, since=since)
    await_renewals(simulator, *RETRY_LATER)
    assert lapses(simulator) == []
    history = simulator.history()
    assert check_history(history, until=time.monotonic()) == []
    assert check_sandboxes(history, stays.seen()) == []


@pytest.mark.parametrize("refusals", [1, 2])
def test_a_server_that_asks_for_an_hour_and_answers_others_all_the_same_costs_them_no_lease(
    leases: Leases, simulator: Simulator, stays: Stays, refusals: int
) -> None:
    others = ["work_b", "work_c"]
    hold(leases, simulator, "work_a", *others)
    # Each lease makes one attempt before its fence. If that is refused again, it uses no other lease's attempt.
    simulator.inject("status", item="work_a", times=refusals, status=429, retry_after=3600)
    # A lease that its attempt renews has a new fence, and so a new attempt.
    await_renewals(simulator, *others, times=3)
    assert {entry["item"] for entry in lapses(simulator)} <= {"work_a"}
    assert check_history(simulator.history(), released=["work_a"], until=time.monotonic()) == []
    assert check_sandboxes(simulator.history(), stays.seen()) == []


def test_a_hanging_call_of_one_lease_delays_no_other(leases: Leases, simulator: Simulator, stays: Stays) -> None:
    healthy = ["work_b", "work_c", "work_d"]
    hold(leases, simulator, "work_a", *healthy)
    began = time.monotonic()
    simulator.inject("hang", item="work_a", times=None)
    leases.await_condition("work_a", "LeaseHeld", "True", "InDoubt", seconds=TTL)
    leases.await_condition("work_a", "LeaseHeld", "Unknown", "Fenced", seconds=TTL)
    assert_ended(leases, simulator, "work_a", "Expired")
    await_renewals(simulator, *healthy, times=1)
    history = simulator.history()
    for item in healthy:
        times = [beat["applied_monotonic"] for beat in heartbeats(history, item) if beat["lease_extended"]]
        assert all(later - earlier < TTL / 3 + 1.5 for earlier, later in pairwise(times) if later > began)
    assert check_history(history, released=["work_a"]) == []
    assert check_sandboxes(history, stays.seen()) == []


def test_outages_shorter_than_the_ttl_lose_no_lease(leases: Leases, simulator: Simulator, stays: Stays) -> None:
    items = ["work_a", "work_b", "work_c", "work_d"]
    hold(leases, simulator, *items, ttl=18)
    pods = leases.pods().keys()
    for mode in ("refuse", "reset"):
        began = time.monotonic()
        simulator.outage(mode)
        # Past the next beat of each, which is due after 6 s, and well before its fence, which is at 14.6 s.
        wait_for(lambda began=began: time.monotonic() > began + 6.3, seconds=TTL, what="the outage")  # type: ignore[misc]
        simulator.outage("off")
        await_renewals(simulator, *items)
    assert leases.pods().keys() == pods
    assert lapses(simulator) == []
    assert check_history(simulator.history(), until=time.monotonic()) == []
    assert check_sandboxes(simulator.history(), stays.seen()) == []


@pytest.mark.long(seconds=40)
def test_an_outage_longer_than_the_ttl_ends_sandboxes_before_their_leases_and_stops_nothing(
    leases: Leases, simulator: Simulator, stays: Stays
) -> None:
    lost, kept = ["work_a", "work_b", "work_c"], ["work_d", "work_e"]
    hold(leases, simulator, *kept, ttl=60)
    hold(leases, simulator, *lost, ttl=10)
    simulator.outage("refuse")
    for item in lost:
        leases.await_condition(item, "LeaseHeld", "Unknown", "Fenced", seconds=15)
        message = leases.condition(item, "LeaseHeld")[2]
        assert "unless it is renewed" in message or leases.condition(item, "LeaseHeld")[1] == "Expired"
    for item in lost:
        assert_ended(leases, simulator, item, "Expired")
    simulator.outage("off")
    beaten = len([beat for item in lost for beat in heartbeats(simulator.history(item))])
    await_renewals(simulator, *kept)
    history = simulator.history()
    assert len([beat for item in lost for beat in heartbeats(simulator.history(item))]) == beaten
    assert {entry["item"] for entry in lapses(simulator)} == set(lost)
    assert set(leases.pods()) == {pod_of(item) for item in kept}
    assert check_history(history, until=time.monotonic()) == []
    assert check_sandboxes(history, stays.seen()) == []


def _fence(leases: Leases, simulator: Simulator, item: str) -> None:
    """Keep the server away past a lease's fence, and bring it back before the lease can end."""
    simulator.outage("refuse")
    leases.await_condition(item, "LeaseHeld", "Unknown", "Fenced", seconds=20)
    simulator.outage("off")


def test_a_lease_that_is_renewed_between_fence_and_end_is_ours_again_without_its_sandbox(
    leases: Leases, simulator: Simulator, stays: Stays
) -> None:
    hold(leases, simulator, "work_a", ttl=20)
    _fence(leases, simulator, "work_a")
    await_renewals(simulator, "work_a", times=1)
    wait_for(lambda: pod_of("work_a") not in leases.pods(), seconds=10, what="the end of the fenced pod")
    assert lapses(simulator) == []
    assert check_history(simulator.history(), until=time.monotonic()) == []
    assert check_sandboxes(simulator.history(), stays.seen()) == []


def test_a_sandbox_that_was_fenced_counts_as_failed_when_the_lease_is_ours_again(
    leases: Leases, simulator: Simulator
) -> None:
    hold(leases, simulator, "work_a", ttl=20, sandbox={"onFailure": "Stop"})
    _fence(leases, simulator, "work_a")
    leases.await_condition("work_a", "Finished", "True", seconds=40)
    assert simulator.item("work_a")["state"] == "stopped"
    assert check_history(simulator.history()) == []


def test_a_lost_answer_to_the_first_claim_is_adopted_after_the_silence_of_a_worker(
    leases: Leases, simulator: Simulator, stays: Stays
) -> None:
    lost = {"work_a": 1, "work_b": 2}
    for item, times in lost.items():
        simulator.create_item(item)
        simulator.inject("drop-after", item=item, times=times)
    leases.create(*lost, pods=True, ttlSeconds=TTL)
    for item in lost:
        leases.await_condition(item, "LeaseHeld", "True", "Renewed", seconds=2 * TTL)
        accepted = [beat for beat in heartbeats(simulator.history(item)) if beat["lease_extended"]]
        assert accepted[0]["outcome"] == "dropped-after"
        # A worker would have sent another beat within 1.25 of its interval, which is half a TTL.
        assert accepted[1]["applied_monotonic"] - accepted[0]["applied_monotonic"] > 1.25 * TTL / 2
    assert lapses(simulator) == []
    assert check_history(simulator.history(), until=time.monotonic()) == []
    assert check_sandboxes(simulator.history(), stays.seen()) == []


def test_a_lost_first_claim_is_not_ours_while_another_worker_beats(leases: Leases, simulator: Simulator) -> None:
    simulator.create_item("work_a", ttl_seconds=6)
    simulator.inject("drop-before", item="work_a", times=None)  # otherwise the next try would claim it first
    leases.create("work_a", pods=True)
    simulator.wait_for(lambda entries: any(entry.get("fault") for entry in entries), item="work_a")
    simulator.steal_item("work_a")
    simulator.clear_faults()
    began, beaten = time.monotonic(), 1

    def lived() -> bool:
        nonlocal beaten
        if time.monotonic() > began + 3 * beaten:  # as a worker does: half of its TTL
            simulator.steal_item("work_a")
            beaten += 1
        return beaten > 5

    wait_for(lived, seconds=30, what="the life of another worker")
    assert [beat for beat in heartbeats(simulator.history("work_a")) if beat["lease_extended"]] == []
    assert leases.condition("work_a", "LeaseHeld")[1] in ("HeldByAnother", "InDoubt")
    assert list(leases.pods()) == [pod_of("work_a")]
    assert stops(simulator, "work_a") == []


def test_whoever_else_takes_an_item_keeps_it_and_it_is_not_stopped(
    leases: Leases, simulator: Simulator, stays: Stays
) -> None:
    ends = {
        "work_stolen": "TakenOver",  # by a worker that knew the right value
        "work_requeued": "Requeued",  # it was queued again, and nobody has claimed it yet
        "work_redelivered": "TakenOver",  # and somebody has claimed it
        "work_recurring": "Requeued",  # stopped, and queued again before the operator could learn of it
        "work_deleted": "NotFound",
    }
    hold(leases, simulator, *ends)
    simulator.steal_item("work_stolen")
    simulator.requeue_item("work_requeued", state="starting")
    simulator.requeue_item("work_redelivered", state="active")
    simulator.stop_item("work_recurring", force=True)
    simulator.requeue_item("work_recurring")
    simulator.delete_item("work_deleted")
    for item, reason in ends.items():
        assert_ended(leases, simulator, item, reason)
    told = len(heartbeats(simulator.history()))
    # Half a TTL: longer than the interval after which each would get its next beat.
    ended = time.monotonic()
    wait_for(lambda: time.monotonic() > ended + TTL / 2, seconds=TTL, what="half a TTL")
    assert len(heartbeats(simulator.history())) == told
    # The stolen item lapses, because its thief is gone. No lease of the operator lapses.
    assert [gap for gap in check_history(simulator.history()) if getattr(gap, "agent", None) == OPERATOR] == []
    assert check_sandboxes(simulator.history(), stays.seen()) == []


def test_an_item_that_came_again_while_a_beat_was_lost_is_not_taken_from_who_claimed_it(
    leases: Leases, simulator: Simulator, stays: Stays
) -> None:
    hold(leases, simulator, "work_a", ttl=30)  # there is time to ask the list before the fence
    since = simulator.last_seq()
    simulator.inject("drop-before", item="work_a")
    simulator.inject("delay", item="work_a", seconds=1)  # the retry finds what has happened meanwhile
    simulator.wait_for(
        lambda entries: any(entry.get("fault") for entry in entries), item="work_a", since=since, timeout=30
    )
    simulator.requeue_item("work_a", state="active")
    assert_ended(leases, simulator, "work_a", "TakenOver")
    accepted = [beat for beat in heartbeats(simulator.history("work_a", since=since)) if beat["lease_extended"]]
    assert accepted == []
    assert check_sandboxes(simulator.history(), stays.seen()) == []


def test_a_stop_is_acknowledged_and_confirmed_through_lost_answers(
    leases: Leases, simulator: Simulator, stays: Stays
) -> None:
    graceful = ["work_lost", "work_neverheard", "work_confirmlost", "work_confirmunheard"]
    hold(leases, simulator, *graceful, "work_forced", ttl=30, sandbox={"drainSeconds": 4})
    simulator.inject("drop-after", item="work_lost", times=3)
    simulator.inject("drop-before", item="work_neverheard", times=3)
    simulator.inject("drop-after", call="stop", item="work_confirmlost", times=2)
    simulator.inject("status", call="stop", item="work_confirmunheard", times=2, status=503)
    simulator.inject("drop-after", item="work_forced", times=3)
    for item in graceful:
        simulator.stop_item(item)
    simulator.stop_item("work_forced", force=True)
    for item in (*graceful, "work_forced"):
        leases.await_condition(item, "Finished", "True", "Stopped", seconds=40)
        assert simulator.item(item)["state"] == "stopped"
    assert leases.pods() == {}
    assert stops(simulator, "work_forced") == []
    assert check_history(simulator.history()) == []
    assert check_sandboxes(simulator.history(), stays.seen()) == []


def test_a_ttl_that_the_server_changes_takes_effect_at_once(leases: Leases, simulator: Simulator, stays: Stays) -> None:
    ttls = {"work_shorter": 6, "work_longer": 60, "work_huge": 10_000_000}
    hold(leases, simulator, *ttls, "work_cut", ttl=15)
    for item, ttl in ttls.items():
        simulator.impose_ttl(item, ttl)
    simulator.impose_ttl("work_cut", 8)
    simulator.inject("drop-after", item="work_cut")
    await_renewals(simulator, "work_shorter", "work_cut", times=4)
    for item, ttl in ttls.items():
        wait_for(lambda item=item, ttl=ttl: leases.status(item)["ttlSeconds"] == ttl, seconds=20, what=item)  # type: ignore[misc]
        leases.await_condition(item, "LeaseHeld", "True", "Renewed")
    shorter = [beat for beat in heartbeats(simulator.history("work_shorter")) if beat["ttl_seconds"] == 6]
    times = [beat["applied_monotonic"] for beat in shorter]
    assert all(later - earlier < 6 / 3 + 1.5 for earlier, later in pairwise(times))
    assert check_history(simulator.history(), until=time.monotonic()) == []
    assert check_sandboxes(simulator.history(), stays.seen()) == []


def test_a_ttl_of_one_second_costs_no_other_lease(leases: Leases, simulator: Simulator) -> None:
    hold(leases, simulator, "work_a", "work_b", ttl=12)
    simulator.impose_ttl("work_a", 1)
    # Below 10 s only correctness is promised, not holding: the fence comes before the answer that names the TTL.
    wait_for(lambda: pod_of("work_a") not in leases.pods(), seconds=20, what="the end of the fenced pod")
    await_renewals(simulator, "work_b")
    assert pod_of("work_b") in leases.pods()
    assert [stop for stop in stops(simulator, "work_a") if stop["before"]["state"] == "queued"] == []
    assert check_history(simulator.history("work_b")) == []


def test_a_shorter_ttl_that_was_asked_for_counts_though_its_answer_was_lost(
    leases: Leases, simulator: Simulator, stays: Stays
) -> None:
    hold(leases, simulator, "work_a", ttl=24)
    leases.edit("work_a", {"ttlSeconds": 10})
    simulator.inject("drop-after", item="work_a")
    simulator.inject("hang", item="work_a", times=None)
    assert_ended(leases, simulator, "work_a", "Expired", seconds=40)
    lapsed = lapses(simulator)
    assert [entry["item"] for entry in lapsed] == ["work_a"]
    cut = [beat for beat in heartbeats(simulator.history("work_a")) if beat["ttl_seconds"] == 10]
    assert [beat["outcome"] for beat in cut] == ["dropped-after"]
    assert check_history(simulator.history(), released=["work_a"]) == []
    assert check_sandboxes(simulator.history(), stays.seen()) == []
