"""A call that waits delays nothing else: no other lease's turn, and no resource that is being deleted."""

import asyncio
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from support.keeping import clients, wall
from support.scripted_server import Answer, ScriptedServer, Seen, always, in_turn, kubernetes_at, serving, until
from worklease.keeper.keeper import Keeper
from worklease.keeper.kept import LeaseOptions
from worklease.rules.lease import Lease
from worklease.telemetry import Orphaned, Publisher, TelemetryEvent
from worklease.work_api.budget import Budget
from worklease.work_api.client import WorkApi

TEMPLATE = {"template": {"spec": {"containers": [{"name": "sandbox", "image": "busybox"}]}}}
RENEWED = {
    "type": "work_heartbeat",
    "last_heartbeat": "2026-11-24T12:00:30Z",
    "state": "active",
    "lease_extended": True,
    "ttl_seconds": 90,
}
KEY = {"data": {"environment-key": "a2V5"}}
REFUSED = Answer(status=403, body={"kind": "Status", "message": "exceeded quota"})


def body(*, deleting: bool = False, **spec: Any) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "name": "lease-1",
        "namespace": "sandboxes",
        "uid": "uid-1",
        "generation": 1,
        "resourceVersion": "7",
        "creationTimestamp": "2026-11-24T11:00:00Z",
        "finalizers": ["worklease.dev/lease"],
    }
    if deleting:
        metadata |= {"generation": 2, "deletionTimestamp": "2026-11-24T12:00:00Z"}
    return {"metadata": metadata, "spec": {"environmentID": "env_1", "workID": "work_1"} | spec}


@dataclass
class Setting:
    keeper: Keeper
    kubernetes: ScriptedServer
    work_api: ScriptedServer
    budget: Budget
    told: list[TelemetryEvent]
    looks: list[float]
    """The moments at which the clock was read."""
    ahead: list[float]
    """Seconds by which the clock was moved on."""

    def asked(self, method: str, part: str) -> list[Seen]:
        return [seen for seen in self.kubernetes.seen if seen.method == method and part in seen.target]

    def is_let_go(self) -> bool:
        return any(seen.path.endswith("/workleases/lease-1") for seen in self.asked("PATCH", "/workleases/"))


@asynccontextmanager
async def setting(kubernetes_script: Callable[[Seen], Answer]) -> AsyncIterator[Setting]:
    looks: list[float] = []
    ahead: list[float] = []

    def clock() -> float:
        looks.append(time.monotonic() + sum(ahead))
        return looks[-1]

    async with (
        serving() as kubernetes,
        serving() as remote,
        kubernetes_at(kubernetes.url) as api,
        WorkApi(remote.url, clock) as work_api,
    ):
        kubernetes.script = kubernetes_script
        told: list[TelemetryEvent] = []
        used = clients(api, work_api, Publisher(told.append), clock)
        keeper = Keeper(used, LeaseOptions(interval=30, credentials_secret="keys"), clock, wall)
        tasks = [asyncio.create_task(each) for each in (used.checkpoint.run(), used.status.run())]
        yield Setting(keeper, kubernetes, remote, used.budget, told, looks, ahead)
        for task in tasks:
            task.cancel()
        await keeper.close()
        await asyncio.wait(tasks)


def kubernetes(*, configmaps: Answer, pods: Answer | None = None) -> Callable[[Seen], Answer]:
    def answer(seen: Seen) -> Answer:
        if "/secrets/" in seen.target:
            return Answer(body=KEY)
        if "/configmaps" in seen.target:
            return configmaps
        if "/pods" in seen.target:
            return pods or Answer()
        return Answer(body=body())

    return answer


async def test_a_template_that_is_being_tried_again_takes_no_turns() -> None:
    away = Answer(status=503, body={"kind": "Status", "message": "away"})
    async with setting(kubernetes(configmaps=Answer(), pods=REFUSED)) as there:
        there.keeper.see(body(sandbox=TEMPLATE))
        there.keeper.carry("uid-1")
        await until(lambda: "Exceeded quota" in repr(there.asked("PATCH", "/status")), "the refusal, in the status")
        there.kubernetes.script = kubernetes(configmaps=Answer(), pods=away)
        there.ahead.append(61.0)  # a template that was refused is tried again each minute
        looked = body(sandbox=TEMPLATE)
        looked["metadata"]["finalizers"] = []
        there.keeper.see(looked)  # the same generation, so the same template; it only wakes the turn
        tried = len(there.asked("POST", "dryRun=All"))
        await until(lambda: len(there.asked("POST", "dryRun=All")) >= tried + 2, "a second try")
        assert len(there.looks) < 200, "turns of a resource that waits"


async def test_a_claim_that_waits_for_its_intent_to_be_written_holds_no_deletion_up_and_is_never_sent() -> None:
    async with setting(kubernetes(configmaps=REFUSED)) as there:
        there.keeper.see(body())
        there.keeper.carry("uid-1")
        await until(lambda: bool(there.asked("PATCH", "/configmaps")), "a claim's intent")
        there.keeper.see(body(deleting=True))
        await until(there.is_let_go, "the end of the finalizer")
        assert there.work_api.seen == []


async def test_a_claim_that_waits_for_its_turn_is_not_sent_for_a_resource_that_is_deleted() -> None:
    async with setting(kubernetes(configmaps=Answer())) as there:
        there.budget.hold(1.0)
        there.keeper.see(body())
        there.keeper.carry("uid-1")
        await until(lambda: there.budget.waiting == 1, "a claim that waits")
        there.keeper.see(body(deleting=True))
        await until(there.is_let_go, "the end of the finalizer")
        await until(lambda: not there.budget.held(time.monotonic()), "the end of the hold")
        assert there.work_api.seen == []


def held() -> dict[str, Any]:
    """Return a resource whose lease is held, and whose beat is due."""
    now = datetime.now(UTC)
    status = {
        "lastHeartbeat": "2026-11-24T12:00:00Z",
        "state": "active",
        "leaseExtended": True,
        "ttlSeconds": 90,
        "observedTime": (now - timedelta(seconds=29)).isoformat(),
        "leaseExpiryTime": (now + timedelta(seconds=61)).isoformat(),
        "claimTime": "2026-11-24T11:00:00Z",
    }
    return body() | {"status": status}


def secrets(*keys: str) -> Callable[[Seen], Answer]:
    """Answer as above, but with one key after the other."""
    script, read = kubernetes(configmaps=Answer(), pods=Answer(body={"items": []})), in_turn(*map(secret, keys))
    return lambda seen: read(seen) if "/secrets/" in seen.target else script(seen)


def secret(key: str) -> Answer:
    return Answer(body={"data": {"environment-key": b64encode(key.encode()).decode()}})


async def test_a_beat_that_waits_for_its_turn_goes_with_its_lease() -> None:
    async with setting(secrets("key")) as there:
        there.budget.hold(60.0)
        there.keeper.see(held())
        await until(lambda: there.budget.waiting == 1, "a beat that waits")
        there.ahead.append(1000.0)
        there.keeper.wake_all()
        await until(lambda: there.budget.waiting == 0, "the end of its waiting")
        assert there.work_api.seen == []


async def test_a_beat_that_waits_with_another_key_is_not_sent_after_its_leases_end() -> None:
    async with setting(secrets("key", "another")) as there:
        may_answer = asyncio.Event()
        there.work_api.script = always(Answer(status=401, until=may_answer))
        there.keeper.see(held())
        await there.work_api.until_seen(1)
        there.budget.hold(1.0)
        may_answer.set()
        await until(lambda: there.budget.waiting == 1, "the beat with another key")
        there.ahead.append(1000.0)
        await until(lambda: there.budget.waiting == 0, "its turn")
        await until(lambda: "Expired" in repr(there.asked("PATCH", "/status")), "the lease's end, in the status")
        assert len(there.work_api.seen) == 1


async def test_beats_that_waited_for_the_end_of_a_hold_do_not_stay_together() -> None:
    async with setting(secrets("key")) as there:

        def kept() -> Lease:
            ((lease, _),) = there.keeper.leases()
            return lease

        async def gap_after_a_beat(hold: float = 0.0) -> float:
            before, wait = kept().sent, kept().due - time.monotonic() - sum(there.ahead)
            there.budget.hold(wait + hold)
            there.ahead.append(wait)
            there.keeper.wake_all()
            await until(lambda: kept().sent != before, "a renewal")
            return kept().due - (kept().sent or 0.0)

        there.work_api.script = always(Answer(body=RENEWED))
        there.keeper.see(held())
        await until(lambda: len(list(there.keeper.leases())) == 1, "what is told of the first renewal")
        gaps = [await gap_after_a_beat() for _ in range(3)]
        assert gaps[-1] == pytest.approx(30), "the start is forgotten"
        assert await gap_after_a_beat(hold=0.5) != pytest.approx(30)


async def test_a_resource_that_cannot_be_read_can_go_all_the_same() -> None:
    async with setting(kubernetes(configmaps=Answer())) as there:
        there.keeper.see(body(deleting=True, fieldOfALaterVersion=True))
        await until(there.is_let_go, "the end of the finalizer")
        (left,) = [each for each in there.told if isinstance(each, Orphaned)]
        assert left.about.name == "lease-1"
