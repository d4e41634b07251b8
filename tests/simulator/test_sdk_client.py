"""The public SDK's poller and raw calls against the simulator."""

import asyncio
from collections.abc import AsyncIterator
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

from support.judge import check_history
from support.sdk import sdk
from support.served import API_KEY, ENVIRONMENT, KEY, Served
from work_api_simulator.items import State

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic

pytestmark = pytest.mark.xdist_group("the SDK's client")  # one process imports it


@pytest.fixture
def anthropic() -> ModuleType:
    """The SDK. It is not imported above: that takes more than a second, in each process that runs tests."""
    return import_module("anthropic")


@pytest.fixture
async def owner(served: Served) -> "AsyncIterator[AsyncAnthropic]":
    """The SDK's client with an API key."""
    async with sdk(served.server.work.url, API_KEY) as opened:
        yield opened.client


@pytest.fixture
async def worker(owner: "AsyncAnthropic") -> "AsyncAnthropic":
    """The SDK's client with an environment key."""
    return owner.copy(auth_token=KEY)


async def test_the_poller_drains_the_queue_and_stops_gracefully(served: Served, owner: "AsyncAnthropic") -> None:
    for number in range(3):
        served.create(f"work_{number}", State.QUEUED)
    poller = owner.beta.environments.work.poller(environment_id=ENVIRONMENT, environment_key=KEY, drain=True)
    seen = [(item.id, item.secret is not None) async for item in poller]
    assert seen == [(f"work_{number}", True) for number in range(3)]
    assert {item.state for item in served.simulation.store.all_items(served.simulation.clock.now())} == {"stopping"}


async def test_two_pollers_get_each_item_once(served: Served, owner: "AsyncAnthropic") -> None:
    for number in range(20):
        served.create(f"work_{number}", State.QUEUED)

    async def drain() -> list[str]:
        poller = owner.beta.environments.work.poller(
            environment_id=ENVIRONMENT, environment_key=KEY, drain=True, auto_stop=False, block_ms=None
        )
        return [item.id async for item in poller]

    first, second = await asyncio.gather(drain(), drain())
    assert sorted(first + second) == sorted(f"work_{number}" for number in range(20))


async def test_the_poller_survives_a_server_that_answers_its_poll_badly(
    served: Served, owner: "AsyncAnthropic"
) -> None:
    served.create(state=State.QUEUED)
    await served.admin.post("/faults", json={"kind": "drop-before", "call": "poll"})
    poller = owner.beta.environments.work.poller(environment_id=ENVIRONMENT, environment_key=KEY, drain=True)
    assert [item.id async for item in poller] == ["work_1"]


async def test_a_412_arrives_as_the_sdks_own_error_with_the_lease_in_it(
    served: Served, worker: "AsyncAnthropic", anthropic: ModuleType
) -> None:
    served.create()
    value = await served.held()
    with pytest.raises(anthropic.PreconditionFailedError) as caught:
        await worker.beta.environments.work.heartbeat(
            "work_1", environment_id=ENVIRONMENT, expected_last_heartbeat="NO_HEARTBEAT"
        )
    assert caught.value.error_code == "heartbeat_precondition_failed"
    assert caught.value.request_id
    details = caught.value.details
    assert details is not None
    assert details.to_dict()["current_state"] == {
        "state": "active",
        "last_heartbeat": value,
        "lease_extended": False,
        "ttl_seconds": 300,
    }


async def test_the_heartbeats_answer_is_what_the_sdk_models(served: Served, worker: "AsyncAnthropic") -> None:
    served.create()
    first = await worker.beta.environments.work.heartbeat(
        "work_1", environment_id=ENVIRONMENT, expected_last_heartbeat="NO_HEARTBEAT", desired_ttl_seconds=60
    )
    second = await worker.beta.environments.work.heartbeat(
        "work_1", environment_id=ENVIRONMENT, expected_last_heartbeat=first.last_heartbeat
    )
    assert (first.type, first.state, first.lease_extended, first.ttl_seconds) == ("work_heartbeat", "active", True, 60)
    assert second.ttl_seconds == 300
    assert check_history(await served.history()) == []


async def test_the_list_pages_by_the_sdks_own_iterator(served: Served, worker: "AsyncAnthropic") -> None:
    for number in range(7):
        served.create(f"work_{number}")
    seen = [item.id async for item in worker.beta.environments.work.list(ENVIRONMENT, limit=3)]
    assert sorted(seen) == [f"work_{number}" for number in range(7)]


async def test_the_owners_calls_are_what_the_sdk_models(served: Served, owner: "AsyncAnthropic") -> None:
    served.create()
    work = owner.beta.environments.work
    updated = await work.update("work_1", environment_id=ENVIRONMENT, metadata={"a": "1"})
    shown = await work.retrieve("work_1", environment_id=ENVIRONMENT)
    stopped = await work.stop("work_1", environment_id=ENVIRONMENT, force=True)
    stats = await work.stats(ENVIRONMENT)
    assert (updated.metadata, shown.state, shown.secret, stopped.state) == ({"a": "1"}, "starting", None, "stopped")
    assert (stats.type, stats.depth, stats.pending, stats.oldest_queued_at) == ("work_queue_stats", 0, 0, None)


async def test_refusals_arrive_as_the_sdks_own_errors(
    served: Served, owner: "AsyncAnthropic", worker: "AsyncAnthropic", anthropic: ModuleType
) -> None:
    served.create()
    work = worker.beta.environments.work
    with pytest.raises(anthropic.PermissionDeniedError):
        await owner.beta.environments.work.list(ENVIRONMENT)
    with pytest.raises(anthropic.PermissionDeniedError):
        await work.retrieve("work_1", environment_id=ENVIRONMENT)
    with pytest.raises(anthropic.NotFoundError):
        await work.heartbeat("work_2", environment_id=ENVIRONMENT)
    with pytest.raises(anthropic.BadRequestError):
        await work.heartbeat("job_2", environment_id=ENVIRONMENT)
    with pytest.raises(anthropic.AuthenticationError):
        await owner.copy(auth_token="revoked").beta.environments.work.stats(ENVIRONMENT)
