"""The public SDK's real environment worker against the simulator: this shows that the simulator is faithful."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from support.judge import check_history, heartbeats
from support.sdk import Sdk, sdk
from support.served import API_KEY, ENVIRONMENT, KEY, Served
from work_api_simulator.items import State, StopMode
from work_api_simulator.simulation import NewItem

TTL = 10  # seconds; the SDK then beats every five ("every max(1, min(ttl/2, 30)) s"): room for a busy machine
History = Sequence[Mapping[str, Any]]


@asynccontextmanager
async def working(served: Served, folder: Path) -> AsyncIterator[Sdk]:
    """Run the SDK's worker, which polls, claims and beats, until the end of the block."""
    async with sdk(served.server.work.url, API_KEY) as judge:
        worker = judge.client.beta.environments.work.worker(
            environment_id=ENVIRONMENT, environment_key=KEY, tools=[], workdir=folder, max_idle=0.05
        )
        task = asyncio.create_task(worker.run())
        try:
            yield judge
            assert not task.done(), task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def beats(count: int) -> Callable[[History], bool]:
    return lambda history: sum(bool(entry["lease_extended"]) for entry in heartbeats(history)) >= count


def ended(history: History) -> bool:
    return bool(stops(history))


def stops(history: History) -> list[Mapping[str, Any]]:
    return [entry for entry in history if entry.get("call") == "stop" and entry["outcome"] is not None]


async def test_the_worker_claims_beats_and_confirms_the_end_of_its_session(served: Served, tmp_path: Path) -> None:
    served.create(state=State.QUEUED, ttl=TTL)
    async with working(served, tmp_path) as judge:
        await served.until(beats(3))
        judge.sessions.ends.set()
        history = await served.until(ended)
    requests = [entry["call"] for entry in history if entry["event"] == "request" and entry["item"]]
    assert requests[:3] == ["poll", "ack", "heartbeat"]
    assert heartbeats(history)[0]["expected"] == "NO_HEARTBEAT"
    assert {entry["credentials"] for entry in heartbeats(history)} == {"sessions-token"}
    assert stops(history)[0]["after"]["state"] == "stopped"
    assert check_history(history) == []


async def test_the_worker_goes_on_with_the_environment_key_where_there_is_no_secret(
    tmp_path: Path, serve: Callable[..., Awaitable[Served]]
) -> None:
    served = await serve("strict")
    served.create(state=State.QUEUED, ttl=TTL)
    async with working(served, tmp_path):
        history = await served.until(beats(2))
    assert {entry["credentials"] for entry in heartbeats(history)} == {"environment-key"}


async def test_the_worker_confirms_a_graceful_stop(served: Served, tmp_path: Path) -> None:
    served.create(state=State.QUEUED, ttl=TTL)
    async with working(served, tmp_path):
        await served.until(beats(1))
        await served.stop(headers={"x-api-key": API_KEY})
        history = await served.until(lambda history: len(stops(history)) == 2)
    last = heartbeats(history)[-1]
    assert (last["status"], last["lease_extended"], last["after"]["state"]) == (200, False, "stopping")
    assert [stop["after"]["state"] for stop in stops(history)] == ["stopping", "stopped"]
    assert check_history(history) == []


async def test_the_worker_ends_when_its_item_was_stopped_by_force(served: Served, tmp_path: Path) -> None:
    served.create(state=State.QUEUED, ttl=TTL)
    async with working(served, tmp_path):
        await served.until(beats(1))
        served.simulation.stop("work_1", StopMode.FORCED)
        history = await served.until(ended)
    assert heartbeats(history)[-1]["after"]["state"] == "stopped"
    assert stops(history)[0]["before"]["state"] == "stopped"
    assert check_history(history) == []


async def test_the_worker_leaves_an_item_alone_whose_lease_another_took(
    served: Served, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    served.create(state=State.QUEUED, ttl=TTL)
    async with working(served, tmp_path):
        await served.until(beats(1))
        served.simulation.impose_ttl("work_1", 60)
        served.simulation.requeue("work_1", State.ACTIVE)
        await served.until(lambda history: any(entry["status"] == 412 for entry in heartbeats(history)))
        # The worker polls again once it has finished with the item: by then it would have stopped it.
        seen = (await served.history())[-1]["seq"]
        history = await served.until(lambda history: any(_poll_after(entry, seen) for entry in history))
    assert stops(history) == []
    assert "lease lost" in caplog.text
    assert served.simulation.item("work_1").state is State.ACTIVE


def _poll_after(entry: Mapping[str, Any], seq: int) -> bool:
    return bool(entry.get("call") == "poll" and entry["seq"] > seq)


async def test_the_worker_takes_its_item_again_after_a_lapse(served: Served, tmp_path: Path) -> None:
    served.create(state=State.QUEUED, ttl=TTL)
    async with working(served, tmp_path):
        await served.until(beats(1))
        fault = await served.admin.post(
            "/faults", json={"kind": "status", "status": 500, "call": "heartbeat", "times": None}
        )
        await served.until(lambda history: any(entry["event"] == "lapsed" for entry in history))
        await served.admin.delete(f"/faults/{fault.json()['id']}")
        history = await served.until(_claimed_twice)
    assert served.simulation.item("work_1").deliveries == 2
    assert [type(violation).__name__ for violation in check_history(history)] == ["Gap"]


def _claimed_twice(history: History) -> bool:
    claims = [beat for beat in heartbeats(history) if beat["expected"] == "NO_HEARTBEAT" and beat["lease_extended"]]
    return len(claims) == 2


async def test_the_worker_stops_a_healthcheck_without_a_session(served: Served, tmp_path: Path) -> None:
    served.simulation.create(NewItem(environment_id=ENVIRONMENT, id="work_health", data_type="healthcheck"))
    async with working(served, tmp_path):
        history = await served.until(ended)
    assert heartbeats(history) == []
    assert served.simulation.item("work_health").state is State.STOPPED
