import time

import pytest

from controlplane import ControlPlane, wait_for
from support.judge import check_history, heartbeats
from support.operator import Leases, Operator
from support.simulator import Simulator

ITEMS = [f"work_{number:02}" for number in range(50)]
INTERVAL = 5.0  # a third of a TTL of 15 s
WATCHED_SECONDS = 40.0  # eight beats of each lease; the soak watches for hours


def await_all_held(leases: Leases, items: list[str]) -> None:
    for item in items:
        leases.await_condition(item, "LeaseHeld", "True", seconds=60)


@pytest.mark.long(seconds=70)
def test_fifty_leases_at_ttl_15_are_kept_then_ten_are_stopped(
    control_plane: ControlPlane, namespace: str, leases: Leases, simulator: Simulator
) -> None:
    for item in ITEMS:
        simulator.create_item(item)
    with Operator(
        control_plane, namespace, simulator.url, WORKLEASE_LOG_LEVEL="info", WORKLEASE_REQUESTS_PER_MINUTE="0"
    ):
        leases.create(*ITEMS, pods=True)
        await_all_held(leases, ITEMS)
        leases.await_running(*leases.pods())
        began = time.monotonic()
        wait_for(lambda: time.monotonic() - began > WATCHED_SECONDS, seconds=WATCHED_SECONDS + 60, what="eight beats")

        stopped, rest = ITEMS[:10], ITEMS[10:]
        expected = {f"pod-{item.replace('_', '-')}" for item in rest}
        stopping = time.monotonic()
        for item in stopped:
            simulator.stop_item(item)
        wait_for(lambda: set(leases.pods()) == expected, seconds=INTERVAL + 3, what="the end of ten pods, and no more")
        took = time.monotonic() - stopping
        assert took < INTERVAL + 3
        for item in stopped:
            leases.await_condition(item, "Finished", "True", "Stopped")
        history = simulator.history()
    assert [entry for entry in heartbeats(history) if entry["status"] != 200] == []
    assert [entry for entry in history if entry["event"] == "lapsed"] == []
    assert check_history(history) == []
    assert len(heartbeats(history)) > len(ITEMS) * WATCHED_SECONDS / INTERVAL


@pytest.mark.long(seconds=40)
def test_a_kill_and_a_restart_at_ttl_30_lose_no_lease(
    control_plane: ControlPlane, namespace: str, leases: Leases, simulator: Simulator
) -> None:
    for item in ITEMS:
        simulator.create_item(item)
    with Operator(
        control_plane, namespace, simulator.url, WORKLEASE_LOG_LEVEL="info", WORKLEASE_REQUESTS_PER_MINUTE="0"
    ) as operator:
        leases.create(*ITEMS, pods=True, ttlSeconds=30)
        await_all_held(leases, ITEMS)
        leases.await_running(*leases.pods())
        pods = {name: pod["metadata"]["uid"] for name, pod in leases.pods().items()}
        for _ in range(2):
            since = simulator.last_seq()
            operator.kill()
            operator.start()
            for item in ITEMS:
                simulator.wait_for(
                    lambda entries: sum(entry.get("lease_extended") is True for entry in entries) >= 2,
                    item=item,
                    since=since,
                    timeout=40,
                )
        assert {name: pod["metadata"]["uid"] for name, pod in leases.pods().items()} == pods
        await_all_held(leases, ITEMS)
        history = simulator.history()
    assert [entry for entry in history if entry["event"] == "lapsed"] == []
    assert check_history(history) == []
