import pytest

from controlplane import ControlPlane, wait_for
from support.judge import heartbeats
from support.operator import Leases, Operator
from support.simulator import Simulator

ITEMS = [f"work_{number}" for number in range(8)]


@pytest.mark.long(seconds=80)
def test_a_budget_that_is_too_small_says_so_before_a_lease_is_lost_and_is_kept(
    control_plane: ControlPlane, namespace: str, leases: Leases, simulator: Simulator
) -> None:
    for item in ITEMS:
        simulator.create_item(item)
    with Operator(control_plane, namespace, simulator.url, WORKLEASE_REQUESTS_PER_MINUTE="40") as operator:
        leases.create(*ITEMS)
        # A lease stays short for a second or two, until its turn comes, so the next request may show another lease.
        seen: dict[str, str] = {}

        def is_short() -> bool:
            for item in ITEMS:
                _, reason, message = leases.condition(item, "LeaseHeld")
                seen[reason] = message
            return "BudgetShort" in seen

        wait_for(is_short, seconds=60, what="BudgetShort")
        assert "WORKLEASE_REQUESTS_PER_MINUTE" in seen["BudgetShort"]
        wait_for(lambda: operator.scrape()["worklease_budget_short_leases"] >= 1, seconds=30, what="it in the metrics")
        wait_for(
            lambda: operator.scrape()["worklease_budget_waiting_requests"] >= 1, seconds=30, what="a call that waits"
        )
        assert operator.scrape()["worklease_budget_requests_per_minute"] == 40
        assert [entry for entry in simulator.history() if entry["event"] == "lapsed"] == []
        wait_for(lambda: len(heartbeats(simulator.history())) > 50, seconds=120, what="more than a minute's calls")
    times = [entry["arrived_monotonic"] for entry in simulator.history() if entry["event"] == "request"]
    assert max(sum(at <= other < at + 60 for other in times) for at in times) <= 40


def test_a_server_that_asks_for_patience_gets_it_and_loses_no_lease(
    control_plane: ControlPlane, namespace: str, leases: Leases, simulator: Simulator
) -> None:
    for item in ITEMS:
        simulator.create_item(item)
    with Operator(control_plane, namespace, simulator.url, WORKLEASE_REQUESTS_PER_MINUTE="0"):
        leases.create(*ITEMS, ttlSeconds=30)  # outlasts a second hold, which a call brings about that was on its way
        for item in ITEMS:
            leases.await_condition(item, "LeaseHeld", "True")
        fault = simulator.inject("status", status=429, retry_after=6, times=None)
        simulator.wait_for(lambda entries: any(e.get("status") == 429 for e in entries), timeout=20)
        since = simulator.last_seq()
        refused = next(e for e in simulator.history() if e.get("status") == 429)
        wait_for(lambda: simulator.last_seq() > since, seconds=20, what="the first call after the hold")
        simulator.remove_fault(fault)
        for item in ITEMS:
            simulator.wait_for(
                lambda entries: any(e.get("lease_extended") for e in entries), item=item, since=since, timeout=30
            )
        gaps = [
            entry["arrived_monotonic"] - refused["answered_monotonic"]
            for entry in simulator.history()
            if entry["event"] == "request"
        ]
    # Requests sent before the first refusal was read still arrive; then none, for as long as the server asked.
    assert [gap for gap in gaps if 0.5 < gap < 5.5] == []
    assert [entry for entry in simulator.history() if entry["event"] == "lapsed"] == []
