"""What a call observes waits for the turn, and nothing is done meanwhile for a lease that has just ended."""

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest

from support.keeping import clients, wall
from support.lease_samples import held
from support.scripted_server import Answer, ScriptedServer, kubernetes_at, serving, until
from worklease.api.models import WorkLease
from worklease.keeper.keeper import Keeper
from worklease.keeper.kept import Kept, LeaseOptions
from worklease.keeper.turns import BUG_RETRY
from worklease.keeper.work_calls import WorkCalls
from worklease.rules.answers import observe
from worklease.rules.lease import End, Lease, ServerClock, Window
from worklease.rules.outcomes import Exchange, Missing, NotListed
from worklease.rules.pods import Pod
from worklease.telemetry import LeaseAdopted, Publisher, TelemetryEvent
from worklease.work_api.client import WorkApi

KEY = Answer(body={"data": {"environment-key": "a2V5"}})
POD = Pod(uid="pod-1", name="sandbox", phase="Running")


def body() -> dict[str, Any]:
    metadata = {
        "name": "lease-1",
        "namespace": "sandboxes",
        "uid": "uid-1",
        "generation": 1,
        "resourceVersion": "7",
        "creationTimestamp": "2026-11-24T11:00:00Z",
    }
    return {"metadata": metadata, "spec": {"environmentID": "env_1", "workID": "work_1"}}


def broken(lease: Lease) -> Lease:
    raise ValueError(f"a bug, of {lease.ttl}")


def missing(lease: Lease) -> Lease:
    return observe(lease, Missing(Exchange(sent=0.0, done=0.0), "no such item"), NotListed())


@dataclass
class Setup:
    calls: WorkCalls
    kept: Kept
    work_api: ScriptedServer


@asynccontextmanager
async def calling(publisher: Publisher | None = None) -> AsyncIterator[Setup]:
    """Give the calls to the Work API for a resource whose lease was held a moment ago."""
    async with (
        serving() as kubernetes,
        serving() as remote,
        kubernetes_at(kubernetes.url) as api,
        WorkApi(remote.url, time.monotonic) as work_api,
    ):
        kubernetes.script = lambda _: KEY
        used = clients(api, work_api, publisher or Publisher())
        kept = Kept(resource=WorkLease.parse(body()), lease=held(time.monotonic() - 31, ttl=90))
        yield Setup(
            WorkCalls(used, time.monotonic, wall, lambda _: ("sandboxes", "keys"), lambda _: None), kept, remote
        )


def test_a_turn_takes_the_changes_in_their_order_and_one_that_fails_takes_no_other_along() -> None:
    kept = Kept(resource=WorkLease.parse(body()), lease=held())
    kept.observed += [partial(replace, ttl=10.0), broken, missing]
    with pytest.raises(ValueError, match="a bug"):
        kept.take_observed()
    assert kept.lease.ttl == 10.0
    kept.take_observed()
    assert kept.lease.end is End.NOT_FOUND
    assert kept.observed == []


def test_no_pod_is_bound_to_a_lease_that_is_observed_to_be_over() -> None:
    kept = Kept(resource=WorkLease.parse(body()), lease=held())
    kept.observed.append(missing)
    assert not kept.bind(POD, 101.0)
    assert kept.lease.held, "only a turn changes the lease"


async def test_no_stop_is_sent_for_a_lease_that_is_observed_to_be_over() -> None:
    async with calling() as there:
        there.kept.observed.append(missing)
        await there.calls.stop(there.kept, force=True)
        assert there.work_api.seen == []
        assert there.kept.calls.forced_stop is not None
        assert "the lease ended" in there.kept.calls.forced_stop.message


async def test_no_beat_is_sent_for_a_lease_that_is_observed_to_be_over() -> None:
    async with calling() as there:
        there.kept.observed.append(missing)
        await there.calls.beat(there.kept)
        assert there.work_api.seen == []


async def test_no_beat_is_sent_once_the_resource_asks_for_none() -> None:
    async with calling() as there:
        edited = body()
        edited["spec"]["heartbeat"] = {"mode": "Suspended"}
        there.kept.resource = WorkLease.parse(edited)
        await there.calls.beat(there.kept)
        assert there.work_api.seen == []


async def test_an_adoption_is_noted_before_it_is_published() -> None:
    def fail(event: TelemetryEvent) -> None:
        match event:
            case LeaseAdopted():
                raise RuntimeError("a listener with a bug")
            case _:
                pass

    async with calling(Publisher(fail)) as there:
        stamp = "2026-11-28T12:00:30Z"
        details = {"current_state": {"last_heartbeat": stamp, "state": "active", "ttl_seconds": 90}}
        refusal = {"type": "error", "error": {"type": "conflict", "message": "no", "details": details}}
        there.work_api.script = lambda _: Answer(status=412, body=refusal)
        value = "2026-11-28T12:00:00Z"
        window = Window(opens=-math.inf, closes=math.inf)
        clock = ServerClock(least=0.0, most=0.0)
        there.kept.lease = replace(there.kept.lease, value=value, unanswered=(window,), clock=clock)
        with pytest.raises(RuntimeError, match="a listener with a bug"):
            await there.calls.beat(there.kept)
        assert there.kept.newest_lease().value == stamp


async def test_a_change_that_fails_at_the_end_of_a_call_is_logged_and_the_call_is_repeated(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with (
        serving() as server,
        kubernetes_at(server.url) as api,
        WorkApi(server.url, time.monotonic) as work_api,
    ):
        may_answer = asyncio.Event()
        server.script = lambda seen: Answer(status=404, until=may_answer) if "/secrets/" in seen.path else Answer()
        options = LeaseOptions(interval=30, credentials_secret="keys")
        keeper = Keeper(clients(api, work_api), options, time.monotonic, wall)
        resource = body()
        resource["metadata"]["finalizers"] = ["worklease.dev/lease"]
        keeper.see(resource)
        kept = keeper._fleet.get(resource["metadata"]["uid"])
        assert kept is not None
        keeper.carry(resource["metadata"]["uid"])
        await until(lambda: "beat" in kept.calls.under_way, "a beat that waits for its key")
        with caplog.at_level(logging.ERROR):
            kept.observed.append(broken)
            may_answer.set()
            await until(lambda: "beat failed, which is a bug of the operator's" in caplog.text, "the line in the log")
        assert kept.observed, "what the call itself observed is not lost with it"
        asked = len(server.seen)
        await until(lambda: len(server.seen) > asked, "the next try")
        await keeper.close()


async def test_a_change_that_fails_is_logged_and_the_next_turn_comes_soon(caplog: pytest.LogCaptureFixture) -> None:
    async with (
        serving() as server,
        kubernetes_at(server.url) as api,
        WorkApi(server.url, time.monotonic) as work_api,
    ):
        server.script = lambda seen: KEY if "/secrets/" in seen.path else Answer(status=503)
        options = LeaseOptions(interval=30, credentials_secret="keys")
        keeper = Keeper(clients(api, work_api), options, time.monotonic, wall)
        resource = body()
        resource["metadata"]["finalizers"] = ["worklease.dev/lease"]
        keeper.see(resource)
        kept = keeper._fleet.get(resource["metadata"]["uid"])
        assert kept is not None
        with caplog.at_level(logging.ERROR):
            kept.observed.append(broken)
            keeper.carry(resource["metadata"]["uid"])
            await until(lambda: "which is a bug of the operator's" in caplog.text, "the line in the log")
        loop_time = time.monotonic()
        assert kept.turn.due - loop_time < BUG_RETRY + 1
        assert kept.observed == []
        await keeper.close()
