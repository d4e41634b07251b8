"""One poll and what follows: the order of the writes, and what stays after each answer; against scripted servers."""

import base64
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest
from pydantic import SecretStr

from support.scripted_server import Answer, Fault, ScriptedServer, Seen, kubernetes_at, serving
from worklease.api.pool_models import WorkPool
from worklease.cluster.pool_objects import template_digest
from worklease.cluster.pool_writes import PoolWrites
from worklease.pools.kept_pool import KeptPool
from worklease.pools.taker import Taker, TakerClients
from worklease.rules.pool import PoolCensus, TemplateTry
from worklease.telemetry import ItemResult
from worklease.work_api.budget import Budget
from worklease.work_api.client import WorkApi
from worklease.work_api.queue import QueueCalls

KEY = SecretStr("environment-key")
SECRET = base64.urlsafe_b64encode(json.dumps({"sessions_token": "the-token"}).encode()).decode()
ITEM = {
    "id": "work_1",
    "environment_id": "env_1",
    "data": {"type": "session", "id": "sesn_1"},
    "created_at": "2026-11-29T07:00:00Z",
    "secret": SECRET,
}
TEMPLATE = {"spec": {"sandbox": {"template": {"spec": {"containers": [{"name": "a", "image": "b"}]}}}}}
NOW = 1_795_935_600.0
EXISTS = Answer(status=409, body={"reason": "AlreadyExists", "message": "no"})


class World:
    """A pool, and one server that answers as both APIs; answers by the kind of call, and what was called."""

    def __init__(self, server: ScriptedServer, taker: Taker, acknowledged: set[str]) -> None:
        self.server = server
        self.taker = taker
        self.acknowledged = acknowledged
        self.kept = self.pool()
        self.answers: dict[str, Callable[[Seen], Answer]] = {
            "poll": lambda _: Answer(body=ITEM),
            "lease": lambda seen: Answer(status=201, body=as_made(seen.json)),
            "secret": lambda seen: Answer(status=201, body=seen.json),
            "stop": lambda _: Answer(body={"state": "stopped"}),
        }
        server.script = lambda seen: self.answers[kind_of(seen)](seen)

    def pool(self, **spec: Any) -> KeptPool:
        metadata = {
            "name": "agents",
            "namespace": "team",
            "uid": "uid-pool",
            "generation": 1,
            "creationTimestamp": "2026-11-29T07:00:00Z",
        }
        whole = {"environmentID": "env_1", "maxConcurrent": 2, "leaseTemplate": TEMPLATE} | spec
        resource = WorkPool.parse({"metadata": metadata, "spec": whole})
        tried = TemplateTry(template=template_digest(resource), at=NOW)
        return KeptPool(resource=resource, census=PoolCensus().listed((), NOW), tried=tried)

    async def poll(self) -> ItemResult | None:
        return await self.taker.poll(self.kept, KEY)

    @property
    def calls(self) -> list[str]:
        return [kind_of(seen) for seen in self.server.seen]


def kind_of(seen: Seen) -> str:
    last = seen.path.rpartition("/")[2]
    if seen.path.startswith("/v1/"):
        return last
    kind = "lease" if "workleases" in seen.path else "secret"
    return kind if seen.method == "POST" else f"{seen.method} {kind}"


def as_made(body: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    """Return a lease as the API server shows it; the fields that its model does not know yet are left out."""
    added = {"uid": "uid-lease", "generation": 1, "creationTimestamp": "2026-11-29T07:00:00Z"} | metadata
    spec = {name: body["spec"][name] for name in ("environmentID", "workID")}
    return body | {"metadata": body["metadata"] | added, "spec": spec}


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with (
        serving() as server,
        kubernetes_at(server.url, call_timeout=2.0) as api,
        WorkApi(server.url, time.monotonic) as work_api,
    ):
        clients = TakerClients(
            work_api=work_api,
            queue=QueueCalls(work_api, "worker"),
            budget=Budget(0, time.monotonic),
            writes=PoolWrites(api),
        )
        acknowledged: set[str] = set()
        taker = Taker(clients, lambda: NOW, lambda lease: replace(lease, is_acknowledged=lease.name in acknowledged))
        yield World(server, taker, acknowledged)


async def test_an_item_is_written_before_it_leaves_the_queue(world: World) -> None:
    assert await world.poll() is ItemResult.TAKEN
    assert world.calls == ["poll", "lease", "secret"]
    _, lease, secret = (seen for seen in world.server.seen)
    made = lease.json["metadata"]
    assert made["name"] == secret.json["metadata"]["name"]
    assert made["name"].startswith("agents-")
    assert secret.json["metadata"]["ownerReferences"][0]["uid"] == "uid-lease"
    assert base64.b64decode(secret.json["data"]["sessions-token"]) == b"the-token"
    assert world.kept.census.active == 1
    assert world.kept.polls.next_at == NOW, "where one waited, others may"


async def test_an_empty_poll_writes_nothing_and_is_followed_by_a_rest(world: World) -> None:
    world.answers["poll"] = lambda _: Answer(body=b"null")
    assert await world.poll() is None
    assert NOW + 1 <= world.kept.polls.next_at <= NOW + 3
    assert await world.poll() is None
    assert world.calls == ["poll"]


@pytest.mark.parametrize("spec", [{"suspend": True}, {"maxConcurrent": 0}])
async def test_a_pool_that_may_not_take_polls_nothing(world: World, spec: dict[str, Any]) -> None:
    world.kept = world.pool(**spec)
    assert await world.poll() is None
    assert world.calls == []


async def test_an_item_that_comes_after_the_pool_was_suspended_is_left(world: World) -> None:
    def suspends(_: Seen) -> Answer:
        world.kept.resource = world.pool(suspend=True).resource
        return Answer(body=ITEM)

    world.answers["poll"] = suspends
    assert await world.poll() is ItemResult.LEFT
    assert world.calls == ["poll"]


@pytest.mark.parametrize(
    ("answer", "active"),
    [
        (Answer(status=403, body={"message": "quota"}), 0),
        (Answer(status=504, body={"message": "timeout"}), 1),
        (Answer(fault=Fault.RESET), 1),
    ],
)
async def test_a_creation_that_may_be_carried_out_counts_and_no_token_is_written(
    world: World, answer: Answer, active: int
) -> None:
    world.answers["lease"] = lambda _: answer
    assert await world.poll() is ItemResult.NOT_WRITTEN
    assert world.calls == ["poll", "lease"]
    assert world.kept.census.active == active


async def test_the_lease_of_an_earlier_process_gets_its_token(world: World) -> None:
    world.answers["lease"] = lambda _: EXISTS
    world.answers["GET lease"] = lambda seen: Answer(body=existing(seen))
    assert await world.poll() is ItemResult.TAKEN
    assert world.calls == ["poll", "lease", "GET lease", "secret"]


async def test_a_later_delivery_gets_a_lease_of_its_own(world: World) -> None:
    made: list[str] = []

    def only_the_second(seen: Seen) -> Answer:
        made.append(seen.json["metadata"]["name"])
        return EXISTS if len(made) == 1 else Answer(status=201, body=as_made(seen.json))

    world.answers["lease"] = only_the_second
    world.answers["GET lease"] = lambda seen: Answer(body=existing(seen, deletionTimestamp="2026-11-29T07:00:00Z"))
    assert await world.poll() is ItemResult.TAKEN
    assert world.calls == ["poll", "lease", "GET lease", "lease", "secret"]
    assert len(set(made)) == 2


async def test_a_lease_whose_acknowledgement_only_the_memory_knows_is_an_earlier_delivery(world: World) -> None:
    def acknowledged(seen: Seen) -> Answer:
        world.acknowledged.add(seen.path.rpartition("/")[2])
        return Answer(body=existing(seen))

    world.answers["lease"] = the_first_exists(world)
    world.answers["GET lease"] = acknowledged
    assert await world.poll() is ItemResult.TAKEN
    assert world.calls == ["poll", "lease", "GET lease", "lease", "secret"]


async def test_a_lease_of_that_name_of_somebody_else_gets_no_token(world: World) -> None:
    world.answers["lease"] = the_first_exists(world)
    world.answers["GET lease"] = lambda seen: Answer(body=existing(seen, labels={}))
    assert await world.poll() is ItemResult.TAKEN
    assert world.calls == ["poll", "lease", "GET lease", "lease", "secret"]
    assert world.kept.census.active == 1


async def test_a_token_that_cannot_be_written_leaves_a_lease_that_acknowledges_nothing(world: World) -> None:
    world.answers["secret"] = lambda _: Answer(status=403, body={"message": "no"})
    assert await world.poll() is ItemResult.NOT_WRITTEN
    assert world.kept.census.active == 1


async def test_an_item_that_no_sandbox_can_work_on_is_stopped_by_force(world: World) -> None:
    world.answers["poll"] = lambda _: Answer(body=ITEM | {"data": {"type": "healthcheck", "id": "check_1"}})
    assert await world.poll() is ItemResult.REFUSED
    assert world.calls == ["poll", "stop"]
    assert world.server.seen[-1].json == {"force": True}


async def test_three_items_without_a_token_pause_the_pool(world: World) -> None:
    world.answers["poll"] = lambda _: Answer(body=ITEM | {"secret": None})
    assert [await world.poll() for _ in range(4)] == [ItemResult.LEFT] * 3 + [None]
    assert world.calls == ["poll"] * 3
    world.kept = world.pool(requireToken=False)
    assert await world.poll() is ItemResult.TAKEN
    assert world.calls[3:] == ["poll", "lease"]


async def test_a_refused_poll_waits_for_a_minute(world: World) -> None:
    world.answers["poll"] = lambda _: Answer(status=401, body={"error": {"type": "authentication_error"}})
    assert await world.poll() is None
    assert world.kept.polls.next_at == NOW + 60


async def test_no_token_gets_into_the_log(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.answers["secret"] = lambda _: Answer(status=403, body={"message": "no"})
    world.answers["lease"] = lambda seen: Answer(status=201, body=as_made(seen.json))
    await world.poll()
    assert "item not_written" in caplog.text
    assert "the-token" not in caplog.text


def the_first_exists(world: World) -> Callable[[Seen], Answer]:
    """Say of the first name that it exists already, and make all others."""
    return lambda seen: EXISTS if world.calls.count("lease") == 1 else Answer(status=201, body=as_made(seen.json))


def existing(seen: Seen, **metadata: Any) -> dict[str, Any]:
    """Return the lease that has the name of a request."""
    name = seen.path.rpartition("/")[2]
    labels = {"worklease.dev/pool": "agents"}
    known = {"name": name, "namespace": "team", "labels": labels} | metadata
    return as_made({"metadata": known, "spec": {"environmentID": "env_1", "workID": "work_1"}}, **metadata)
