"""The pods of an ended lease: a list that began after the end finds them; all that ask together share one list."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from support.keeping import clients, wall
from support.scripted_server import Answer, ScriptedServer, Seen, in_turn, kubernetes_at, serving, until
from worklease.api.names import Address
from worklease.cluster.client import NotDone
from worklease.cluster.pods import Pods
from worklease.cluster.shared_pod_list import FEW, GAP_FACTOR, SharedPodList
from worklease.keeper.keeper import Keeper
from worklease.keeper.kept import LeaseOptions
from worklease.work_api.client import WorkApi

LABELS = "worklease.dev/environment-id,worklease.dev/work-id"
KEY = {"data": {"environment-key": "a2V5"}}
AWAY = Answer(status=503, body={"kind": "Status", "message": "away"})
VERSION = {"resourceVersion": "7"}
RENEWED = {
    "type": "work_heartbeat",
    "last_heartbeat": "2026-11-24T12:00:00Z",
    "state": "active",
    "lease_extended": True,
    "ttl_seconds": 90,
}
STOPPED = RENEWED | {"state": "stopped", "lease_extended": False}


def told(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


def item(number: int, namespace: str = "agents") -> Address:
    return (namespace, "env_1", f"work_{number}")


def pod(number: int, name: str = "pod") -> dict[str, Any]:
    """Return a pod that somebody made for an item."""
    labels = {"worklease.dev/environment-id": "env_1", "worklease.dev/work-id": f"work_{number}"}
    metadata = {
        "namespace": "agents",
        "name": f"{name}-{number}",
        "uid": f"{name}-uid-{number}",
        "labels": labels,
        "creationTimestamp": told(-400),
    }
    return {"metadata": metadata, "status": {"phase": "Running"}}


def pods(*numbers: int, token: str = "", until: asyncio.Event | None = None) -> Answer:
    return Answer(body={"metadata": {"continue": token}, "items": [pod(number) for number in numbers]}, until=until)


def selectors(server: ScriptedServer) -> list[str]:
    return [seen.query["labelSelector"][0] for seen in server.seen]


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with serving() as started:
        yield started


@pytest.fixture
async def shared_pod_list(server: ScriptedServer) -> AsyncIterator[SharedPodList]:
    async with kubernetes_at(server.url) as api:
        yield SharedPodList(Pods(api))


async def test_many_that_end_together_share_one_list_of_all(
    server: ScriptedServer, shared_pod_list: SharedPodList
) -> None:
    server.script = in_turn(pods(0, 1, 77, token="more"), pods(2, 3))
    found = await asyncio.gather(*(shared_pod_list.ask(item(number)) for number in range(FEW + 1)))
    assert selectors(server) == [LABELS, LABELS]
    assert [seen.query.get("continue") for seen in server.seen] == [None, ["more"]]
    assert [[each.name for each in of] for of in found if not isinstance(of, NotDone)] == [
        [f"pod-{number}"] if number < 4 else [] for number in range(FEW + 1)
    ]


async def test_each_namespace_has_lists_by_how_many_ask_there(
    server: ScriptedServer, shared_pod_list: SharedPodList
) -> None:
    asks = [shared_pod_list.ask(item(number)) for number in range(FEW + 1)] + [shared_pod_list.ask(item(1, "others"))]
    await asyncio.gather(*asks)
    assert [(seen.path, seen.query["labelSelector"]) for seen in server.seen] == [
        ("/api/v1/namespaces/agents/pods", [LABELS]),
        ("/api/v1/namespaces/others/pods", ["worklease.dev/environment-id=env_1,worklease.dev/work-id=work_1"]),
    ]


async def test_few_have_a_list_of_their_own(server: ScriptedServer, shared_pod_list: SharedPodList) -> None:
    server.script = lambda seen: pods(int(seen.query["labelSelector"][0].rpartition("_")[2]))
    found = await asyncio.gather(
        shared_pod_list.ask(item(4)), shared_pod_list.ask(item(5)), shared_pod_list.ask(item(4))
    )
    assert sorted(selectors(server)) == [
        f"worklease.dev/environment-id=env_1,worklease.dev/work-id=work_{number}" for number in (4, 5)
    ]
    assert [[each.name for each in of] for of in found if not isinstance(of, NotDone)] == [
        ["pod-4"],
        ["pod-5"],
        ["pod-4"],
    ]


async def test_who_asks_while_a_list_is_under_way_gets_one_that_was_begun_afterwards(
    server: ScriptedServer, shared_pod_list: SharedPodList
) -> None:
    may_answer = asyncio.Event()
    server.script = in_turn(pods(until=may_answer), pods(7))
    first = asyncio.create_task(shared_pod_list.ask(item(7)))
    await server.until_seen(1)
    second = asyncio.create_task(shared_pod_list.ask(item(7)))
    await asyncio.sleep(0)
    may_answer.set()
    assert await first == []
    (found,) = [await second]
    assert not isinstance(found, NotDone)
    assert [each.name for each in found] == ["pod-7"]


async def test_the_next_list_waits_for_longer_than_the_last_one_took(
    server: ScriptedServer, shared_pod_list: SharedPodList
) -> None:
    may_answer = asyncio.Event()
    server.script = in_turn(pods(until=may_answer), pods())
    asking = asyncio.create_task(shared_pod_list.ask(item(1)))
    await server.until_seen(1)
    await asyncio.sleep(0.1)
    answered = time.monotonic()
    may_answer.set()
    await asking
    await shared_pod_list.ask(item(1))
    assert time.monotonic() - answered >= GAP_FACTOR * 0.1


@pytest.mark.parametrize("asked", [1, FEW + 1])
async def test_what_cannot_be_listed_to_its_end_is_said_to_all(
    server: ScriptedServer, shared_pod_list: SharedPodList, asked: int
) -> None:
    server.script = in_turn(pods(0, token="more"), AWAY)
    found = await asyncio.gather(*(shared_pod_list.ask(item(number)) for number in range(asked)))
    assert all(isinstance(each, NotDone) and "away" in each.message for each in found)


async def test_a_page_that_is_refused_once_costs_no_new_beginning(
    server: ScriptedServer, shared_pod_list: SharedPodList
) -> None:
    server.script = in_turn(pods(0, token="more"), AWAY, pods(1))
    found = await asyncio.gather(*(shared_pod_list.ask(item(number)) for number in range(FEW + 1)))
    assert [seen.query.get("continue") for seen in server.seen] == [None, ["more"], ["more"]]
    assert not any(isinstance(each, NotDone) for each in found)


async def test_a_place_in_a_list_that_the_server_has_forgotten_is_not_asked_for_again(
    server: ScriptedServer, shared_pod_list: SharedPodList
) -> None:
    server.script = in_turn(pods(0, token="more"), Answer(status=410, body={"kind": "Status", "message": "expired"}))
    assert isinstance(await shared_pod_list.ask(item(0)), NotDone)
    assert len(server.seen) == 2


async def test_who_asks_no_longer_takes_the_list_from_nobody(
    server: ScriptedServer, shared_pod_list: SharedPodList
) -> None:
    may_answer = asyncio.Event()
    server.script = in_turn(pods(1, until=may_answer))
    first, second = (asyncio.create_task(shared_pod_list.ask(item(number))) for number in (1, 2))
    await server.until_seen(1)
    first.cancel()
    may_answer.set()
    assert await second == []
    assert first.cancelled()


# --- What the keeper does with it ----------------------------------------------------------------------------------


def resource(name: str) -> dict[str, Any]:
    """Return a resource whose lease an earlier process held."""
    metadata = {
        "namespace": "agents",
        "name": name,
        "uid": f"uid-{name}",
        "generation": 1,
        "creationTimestamp": told(-600),
        "finalizers": ["worklease.dev/lease"],
    } | VERSION
    status = {
        "lastHeartbeat": told(-20),
        "state": "active",
        "leaseExtended": True,
        "ttlSeconds": 90,
        "observedTime": told(-20),
        "leaseExpiryTime": told(70),
        "claimTime": told(-500),
    }
    return {"metadata": metadata, "spec": {"environmentID": "env_1", "workID": "work_1"}, "status": status}


def younger(name: str) -> dict[str, Any]:
    """Return a resource for the same item that was created later and has no status yet."""
    body = resource(name)
    body["metadata"]["creationTimestamp"] = told(-5)
    return body | {"status": {}}


def asked(server: ScriptedServer, method: str, end: str) -> list[Seen]:
    return [seen for seen in server.seen if seen.method == method and seen.path.endswith(end)]


def says(server: ScriptedServer, name: str, condition: str) -> bool:
    """Whether a resource's status says that a condition is true."""
    patches = asked(server, "PATCH", f"/{name}/status")
    conditions = [each for patch in patches for each in patch.json["status"].get("conditions", ())]
    return any(each["type"] == condition and each["status"] == "True" for each in conditions)


def kubernetes(*lists: Answer) -> Callable[[Seen], Answer]:
    """Answer lists of pods one after the other, and everything else as a healthy server does."""
    listed = in_turn(*lists)

    def answer(seen: Seen) -> Answer:
        if "/secrets/" in seen.target:
            return Answer(body=KEY)
        if seen.method == "GET" and seen.path.endswith("/pods"):
            return listed(seen)
        name = seen.path.removesuffix("/status").rpartition("/")[2]
        return Answer(body={"metadata": {"namespace": "agents", "name": name, "uid": f"uid-{name}"} | VERSION})

    return answer


@asynccontextmanager
async def keeping(server: ScriptedServer, *beats: dict[str, Any]) -> AsyncIterator[Keeper]:
    async with (
        serving() as remote,
        kubernetes_at(server.url) as api,
        WorkApi(remote.url, time.monotonic) as work_api,
    ):
        remote.script = in_turn(*(Answer(body=beat) for beat in beats))
        used = clients(api, work_api)
        keeper = Keeper(used, LeaseOptions(interval=30, credentials_secret="keys"), time.monotonic, wall)
        tasks = [asyncio.create_task(each) for each in (used.checkpoint.run(), used.status.run())]
        yield keeper
        for task in tasks:
            task.cancel()
        await keeper.close()
        await asyncio.wait(tasks)


async def test_a_pod_that_no_watch_told_of_is_ended_with_the_stopped_item_once_a_list_is_to_be_had(
    server: ScriptedServer,
) -> None:
    server.script = kubernetes(AWAY, pods(1))
    async with keeping(server, STOPPED) as keeper:
        keeper.see(resource("a"))
        await until(lambda: asked(server, "DELETE", "/pods/pod-1"), "its deletion")
        assert len(asked(server, "GET", "/pods")) == 2
        assert not says(server, "a", "Finished")


async def test_a_pod_that_another_resource_has_bound_by_then_is_left_to_it(server: ScriptedServer) -> None:
    may_list = asyncio.Event()
    server.script = kubernetes(pods(1, until=may_list))
    async with keeping(server, STOPPED, RENEWED) as keeper:
        keeper.see(resource("a"))
        await until(lambda: asked(server, "GET", "/pods"), "the list that the first asks for")
        keeper.see(younger("b"))
        await until(lambda: says(server, "b", "LeaseHeld"), "the second's lease")
        keeper.see_pod(pod(1))
        may_list.set()
        await until(lambda: says(server, "a", "Finished"), "the end of the first")
        assert not asked(server, "DELETE", "/pods/pod-1")


async def test_a_list_that_was_asked_for_before_the_end_does_not_tell_what_was_there_at_the_end(
    server: ScriptedServer,
) -> None:
    may_list = asyncio.Event()
    server.script = kubernetes(pods(until=may_list), pods(1))
    waits_for_its_sandbox = resource("a")
    waits_for_its_sandbox["spec"] |= {"sandbox": {"startDeadlineSeconds": 60}}
    async with keeping(server, STOPPED) as keeper:
        keeper.see(waits_for_its_sandbox)
        await until(lambda: asked(server, "GET", "/pods"), "the list, since no sandbox came")
        await until(lambda: "The work item is stopped" in repr(asked(server, "PATCH", "/a/status")), "the end")
        may_list.set()
        await until(lambda: asked(server, "DELETE", "/pods/pod-1"), "the deletion of what came in between")
