"""Compare-and-set under concurrency, over real sockets."""

import asyncio

import pytest

from support.judge import check_history, heartbeats
from support.served import Served
from work_api_simulator.items import State

CALLERS = 50


async def test_of_many_claimers_at_once_exactly_one_gets_the_lease(served: Served) -> None:
    served.create()
    responses = await asyncio.gather(*(served.beat() for _ in range(CALLERS)))
    statuses = sorted(response.status_code for response in responses)
    assert statuses == [200] + [412] * (CALLERS - 1)


@pytest.mark.parametrize("rounds", [5])
async def test_of_many_holders_of_one_value_exactly_one_extends_in_each_round(served: Served, rounds: int) -> None:
    served.create()
    value = await served.held()
    for _ in range(rounds):
        responses = await asyncio.gather(*(served.beat(expected=value) for _ in range(CALLERS)))
        winners = [response for response in responses if response.status_code == 200]
        assert len(winners) == 1
        value = winners[0].json()["last_heartbeat"]
    history = await served.history()
    accepted = [entry for entry in heartbeats(history) if entry["lease_extended"]]
    assert len(accepted) == rounds + 1
    assert not [violation for violation in check_history(history) if type(violation).__name__ == "BrokenChain"]


async def test_of_many_acknowledgements_at_once_exactly_one_succeeds(served: Served) -> None:
    served.create(state=State.QUEUED)
    responses = await asyncio.gather(*(served.call("POST", "/work_1/ack") for _ in range(CALLERS)))
    assert sorted(response.status_code for response in responses) == [200] + [409] * (CALLERS - 1)


async def test_different_items_do_not_hinder_each_other(served: Served) -> None:
    names = [served.create(f"work_{number}").id for number in range(CALLERS)]
    responses = await asyncio.gather(*(served.beat(name) for name in names))
    assert {response.status_code for response in responses} == {200}
