"""What vanishes: a resource whose lease is held, and the answer to the creation of its pod."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from support.keeping import clients, wall
from support.scripted_server import Answer, Fault, ScriptedServer, Seen, kubernetes_at, serving, until
from worklease.keeper.keeper import Keeper
from worklease.keeper.kept import LeaseOptions
from worklease.telemetry import PodIgnored, Publisher, TelemetryEvent
from worklease.work_api.client import WorkApi

SECRET = Answer(body={"data": {"environment-key": "a2V5"}})
LABELS = {"worklease.dev/environment-id": "env_1", "worklease.dev/work-id": "work_1"}
TEMPLATE = {"template": {"spec": {"containers": [{"name": "sandbox", "image": "busybox"}]}}}
TTL = 10


def renewed(state: str = "active") -> Answer:
    words = {"last_heartbeat": "2026-11-24T12:00:30Z", "state": state, "lease_extended": state == "active"}
    return Answer(body={"type": "work_heartbeat", "ttl_seconds": TTL} | words)


def body(*, since: float | None = None, **spec: Any) -> dict[str, Any]:
    """Return a resource; with ``since``, one whose lease was renewed so many seconds ago."""
    metadata = {
        "name": "lease-1",
        "namespace": "sandboxes",
        "uid": "uid-1",
        "generation": 1,
        "resourceVersion": "7",
        "creationTimestamp": "2026-11-24T11:00:00Z",
        "finalizers": ["worklease.dev/lease"],
    }
    whole = {"metadata": metadata, "spec": {"environmentID": "env_1", "workID": "work_1", "ttlSeconds": TTL} | spec}
    if since is None:
        return whole
    now = datetime.now(UTC)
    status = {
        "lastHeartbeat": "2026-11-24T12:00:00Z",
        "state": "active",
        "leaseExtended": True,
        "ttlSeconds": TTL,
        "observedTime": (now - timedelta(seconds=since)).isoformat(),
        "leaseExpiryTime": (now + timedelta(seconds=TTL - since)).isoformat(),
        "claimTime": "2026-11-24T11:00:00Z",
    }
    return whole | {"status": status}


def pod(name: str, *, owner: str | None = None, phase: str = "Running") -> dict[str, Any]:
    owners = [] if owner is None else [{"kind": "WorkLease", "uid": owner, "controller": True, "name": "lease-1"}]
    metadata = {"name": name, "namespace": "sandboxes", "uid": f"uid-{name}", "labels": LABELS}
    return {"metadata": metadata | {"ownerReferences": owners}, "spec": {}, "status": {"phase": phase}}


@dataclass
class Setting:
    keeper: Keeper
    kubernetes: ScriptedServer
    work_api: ScriptedServer
    published: list[TelemetryEvent]

    def asked(self, method: str, part: str) -> list[Seen]:
        return [seen for seen in self.kubernetes.seen if seen.method == method and part in seen.target]


@asynccontextmanager
async def setting(pods: Callable[[Seen], Answer] | None = None) -> AsyncIterator[Setting]:
    def answer(seen: Seen) -> Answer:
        if "/secrets/" in seen.path:
            return SECRET
        if "/pods" in seen.path:
            return pods(seen) if pods is not None else Answer(body={"items": []})
        return Answer(body={"metadata": {"uid": "uid-1", "resourceVersion": "7"}})

    async with (
        serving() as kubernetes,
        serving() as remote,
        kubernetes_at(kubernetes.url) as api,
        WorkApi(remote.url, time.monotonic) as work_api,
    ):
        kubernetes.script = answer
        remote.script = lambda _: renewed()
        published: list[TelemetryEvent] = []
        used = clients(api, work_api, Publisher(published.append))
        keeper = Keeper(used, LeaseOptions(interval=30, credentials_secret="keys"), time.monotonic, wall)
        tasks = [asyncio.create_task(each) for each in (used.checkpoint.run(), used.status.run())]
        yield Setting(keeper, kubernetes, remote, published)
        for task in tasks:
            task.cancel()
        await keeper.close()
        await asyncio.wait(tasks)


async def test_a_resource_that_vanishes_while_its_lease_is_held_is_fenced_from_memory() -> None:
    gone = Answer(status=404, body={"kind": "Status", "message": 'pods "labelled" not found'})

    def pods(seen: Seen) -> Answer:
        return gone if seen.method == "GET" and seen.path.endswith("/labelled") else Answer(body={"items": []})

    async with setting(pods) as there:
        there.keeper.see(body(since=3))
        there.keeper.see_pod(pod("labelled"))
        await there.work_api.until_seen(1)
        await until(lambda: len(list(there.keeper.leases())) == 1, "what is told of the renewal")
        beaten = time.monotonic()
        there.keeper.unsee("uid-1")
        await until(lambda: there.asked("DELETE", "/pods/labelled"), "the end of its pod")
        assert time.monotonic() < beaten + TTL - 1, "before the lease can end"
        assert len(there.work_api.seen) == 1, "nothing more is asked of the server"
        there.keeper.unsee_pod(pod("labelled"))
        await until(lambda: list(there.keeper._fleet) == [], "the end of what is known of it")


async def test_a_resource_that_vanishes_without_a_pod_is_forgotten_at_once() -> None:
    async with setting() as there:
        there.keeper.see(body(since=3))
        await there.work_api.until_seen(1)
        there.keeper.unsee("uid-1")
        assert list(there.keeper._fleet) == []


async def test_a_made_pod_that_shows_up_after_the_end_is_deleted_and_no_other_is() -> None:
    async with setting() as there:
        there.work_api.script = lambda _: renewed("stopped")
        there.keeper.see(body(sandbox=TEMPLATE, since=3))
        await until(lambda: all(each.calls.is_done for each in there.keeper._fleet), "the end of the resource")
        there.keeper.see_pod(pod("labelled"))
        there.keeper.see_pod(pod("another", owner="uid-2"))
        there.keeper.see_pod(pod("made", owner="uid-1"))
        await until(lambda: there.asked("DELETE", "/pods/"), "the end of its pod")
        await asyncio.sleep(0.1)
        assert [seen.path.rpartition("/")[2] for seen in there.asked("DELETE", "/pods/")] == ["made"]
        assert there.asked("DELETE", "/pods/")[0].json["preconditions"] == {"uid": "uid-made"}


async def test_a_labelled_pod_that_comes_while_the_finalizer_is_removed_is_named_as_ignored() -> None:
    async with setting() as there:
        usual = there.kubernetes.script

        def script(seen: Seen) -> Answer:
            if seen.path.endswith("/workleases/lease-1"):
                there.keeper.see_pod(pod("labelled"))
            return usual(seen)

        there.kubernetes.script = script
        there.work_api.script = lambda _: renewed("stopped")
        there.keeper.see(body(sandbox=TEMPLATE, since=3))
        await until(lambda: all(each.calls.is_done for each in there.keeper._fleet), "the end of the resource")
        ignored = [each for each in there.published if isinstance(each, PodIgnored)]
        assert [each.pod for each in ignored] == ["labelled"]
        assert there.asked("DELETE", "/pods/") == []


async def test_a_creation_without_an_answer_is_looked_for_before_the_end_is_told() -> None:
    made = False

    def pods(seen: Seen) -> Answer:
        if seen.method == "POST" and "dryRun" not in seen.target:
            return Answer(fault=Fault.CLOSE)
        if seen.method == "GET" and "labelSelector" in seen.target and made:
            return Answer(body={"items": [pod("late", owner="uid-1")]})
        if seen.method == "GET" and "labelSelector" not in seen.target:
            return Answer(status=404, body={"kind": "Status", "message": 'pods "late" not found'})
        return Answer(body={"items": []})

    async with setting(pods) as there:
        there.keeper.see(body(sandbox=TEMPLATE))
        there.keeper.carry("uid-1")
        await until(lambda: len(there.asked("GET", "/pods/")) >= 1, "a creation whose outcome is unknown")
        made = True
        there.work_api.script = lambda _: renewed("stopped")
        await until(lambda: there.asked("DELETE", "/pods/late"), "the end of the pod that was made after all")
