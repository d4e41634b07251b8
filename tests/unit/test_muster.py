"""The pods of what ended after a start: the watches tell of all before anybody asks for each item's by a list."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from support.keeping import rooms, wall
from support.scripted_server import Answer, ScriptedServer, Seen, always, kubernetes_at, serving, until
from worklease.errands import LISTS
from worklease.keeper import Keeper
from worklease.kept import Options
from worklease.work_api import WorkApi

LEASES = 10
KEY = {"data": {"environment-key": "a2V5"}}
STOPPED = {
    "type": "work_heartbeat",
    "last_heartbeat": "2026-11-24T12:00:00Z",
    "state": "stopped",
    "lease_extended": False,
    "ttl_seconds": 90,
}


def told(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


def resource(number: int) -> dict[str, Any]:
    """Give a resource whose lease an earlier process held."""
    return {
        "metadata": {
            "namespace": "agents",
            "name": f"lease-{number}",
            "uid": f"uid-{number}",
            "generation": 1,
            "resourceVersion": "7",
            "creationTimestamp": told(-600),
            "finalizers": ["worklease.dev/lease"],
        },
        "spec": {"environmentID": "env_1", "workID": f"work_{number}"},
        "status": {
            "lastHeartbeat": told(-20),
            "state": "active",
            "leaseExtended": True,
            "ttlSeconds": 90,
            "observedTime": told(-20),
            "leaseExpiryTime": told(70),
            "claimTime": told(-500),
        },
    }


def pod(number: int) -> dict[str, Any]:
    """Give the pod that somebody made for an item."""
    labels = {"worklease.dev/environment-id": "env_1", "worklease.dev/work-id": f"work_{number}"}
    return {
        "metadata": {
            "namespace": "agents",
            "name": f"pod-{number}",
            "uid": f"pod-uid-{number}",
            "labels": labels,
            "creationTimestamp": told(-400),
        },
        "status": {"phase": "Running"},
    }


@dataclass
class House:
    keeper: Keeper
    kubernetes: ScriptedServer
    may_list: asyncio.Event

    @property
    def lists(self) -> int:
        """How many lists of pods were asked for."""
        return sum(seen.method == "GET" and seen.path == "/api/v1/namespaces/agents/pods" for seen in self._seen)

    @property
    def deleted(self) -> set[str]:
        return {seen.path.rpartition("/")[2] for seen in self._seen if seen.method == "DELETE"}

    @property
    def _seen(self) -> list[Seen]:
        return list(self.kubernetes.seen)


@asynccontextmanager
async def house() -> AsyncIterator[House]:
    """Run a keeper whose items are all stopped, and whose API server lists pods when it may."""
    may_list = asyncio.Event()

    def answer(seen: Seen) -> Answer:
        if "/secrets/" in seen.target:
            return Answer(body=KEY)
        if seen.method == "GET" and seen.path.endswith("/pods"):
            number = int(seen.query["labelSelector"][0].rpartition("_")[2])
            return Answer(body={"items": [pod(number)]}, until=may_list)
        return Answer()

    async with (
        serving() as kubernetes,
        serving() as remote,
        kubernetes_at(kubernetes.url) as api,
        WorkApi(remote.url, time.monotonic) as work_api,
    ):
        kubernetes.script, remote.script = answer, always(Answer(body=STOPPED))
        used = rooms(api, work_api)
        keeper = Keeper(used, Options(interval=30, credentials_secret="keys"), time.monotonic, wall)
        tasks = [asyncio.create_task(each) for each in (used.checkpoint.run(), used.status.run())]
        yield House(keeper, kubernetes, may_list)
        for task in tasks:
            task.cancel()
        await keeper.close()
        await asyncio.wait(tasks)


ALL = {f"pod-{number}" for number in range(LEASES)}
UIDS = {f"pod-uid-{number}" for number in range(LEASES)}


async def test_what_the_watches_told_of_is_not_listed_again_for_each_lease_that_ends() -> None:
    async with house() as there:
        there.keeper.count_pods(UIDS)
        for number in range(LEASES):
            there.keeper.see_pod(pod(number))
        for number in range(LEASES):
            there.keeper.see(resource(number))
        await until(lambda: there.deleted == ALL, "the end of all pods")
        assert there.lists == 0


async def test_until_the_watches_told_of_all_a_few_lists_at_a_time_are_asked_for() -> None:
    async with house() as there:
        there.keeper.count_pods(UIDS)
        for number in range(LEASES):
            there.keeper.see(resource(number))
        await until(lambda: there.lists == LISTS, "the first lists")
        await asyncio.sleep(0.05)
        assert there.lists == LISTS
        there.may_list.set()
        await until(lambda: there.deleted == ALL, "the end of all pods")
        assert there.lists == LEASES


async def test_who_waits_for_a_list_goes_by_the_watches_once_they_told_of_all() -> None:
    async with house() as there:
        there.keeper.count_pods(UIDS)
        for number in range(LEASES):
            there.keeper.see(resource(number))
        await until(lambda: there.lists == LISTS, "the first lists")
        for number in range(LEASES):
            there.keeper.see_pod(pod(number))
        there.may_list.set()
        await until(lambda: there.deleted == ALL, "the end of all pods")
        assert there.lists == LISTS


async def test_a_pod_that_vanished_before_a_watch_told_of_it_is_not_waited_for() -> None:
    async with house() as there:
        there.keeper.count_pods(UIDS | {"vanished"})
        for number in range(LEASES):
            there.keeper.see_pod(pod(number))
        there.keeper.count_pods(UIDS | {"one that came since, and of which the watch tells"})
        for number in range(LEASES):
            there.keeper.see(resource(number))
        await until(lambda: there.deleted == ALL, "the end of all pods")
        assert there.lists == 0
