"""The turns of pools against scripted servers: what comes before a poll, the breaker, upkeep, status and the end."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from math import inf
from typing import Any

import pytest

from support.scripted_server import Answer, ScriptedServer, Seen, kubernetes_at, serving, until
from worklease.api.names import FINALIZER, POOL_FINALIZER
from worklease.cluster.credentials import Credentials
from worklease.cluster.pods import Pods
from worklease.cluster.pool_writes import PoolWrites
from worklease.pools.pool_turns import PoolClients, PoolOptions, PoolTurns
from worklease.pools.pools import SHORTEST_WAIT, Pools
from worklease.pools.taker import Taker, TakerClients
from worklease.rules.pool import TENURE, PoolLease
from worklease.telemetry import ItemHandled, ItemResult, PoolChanged, PoolSandboxStarted, Publisher, TelemetryEvent
from worklease.work_api.budget import Budget
from worklease.work_api.client import WorkApi
from worklease.work_api.queue import QueueCalls

SECRET = base64.urlsafe_b64encode(json.dumps({"sessions_token": "the-token"}).encode()).decode()
TEMPLATE = {"spec": {"sandbox": {"template": {"spec": {"containers": [{"name": "a", "image": "b"}]}}}}}
KEY = Answer(body={"data": {"environment-key": "a2V5"}})
ABSENT = Answer(status=404, body={"kind": "Status", "message": "not found"})
NOTHING = Answer(body=None)


def item(number: int) -> dict[str, Any]:
    return {
        "id": f"work_{number}",
        "environment_id": "env_1",
        "data": {"type": "session", "id": f"sesn_{number}"},
        "created_at": f"2026-11-29T07:00:0{number}Z",
        "secret": SECRET,
    }


def condition(kind: str, status: str, reason: str) -> dict[str, Any]:
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": f"because of {reason}",
        "lastTransitionTime": "2026-11-29T07:00:00Z",
    }


@dataclass
class Cluster:
    """The API server and the Work API, as far as a pool sees them."""

    spec: dict[str, Any] = field(
        default_factory=lambda: {"environmentID": "env_1", "maxConcurrent": 2, "leaseTemplate": TEMPLATE}
    )
    finalizers: list[str] = field(default_factory=list)
    deleted: str | None = None
    generation: int = 1
    status: dict[str, Any] = field(default_factory=dict)
    leases: dict[str, dict[str, Any]] = field(default_factory=dict)
    secrets: dict[str, dict[str, Any]] = field(default_factory=dict)
    queued: list[dict[str, Any]] = field(default_factory=list)
    key: Answer = KEY
    refusal_of_claim: Answer | None = None
    """The answer to a dry run of the template's volume; None: it is accepted."""
    refusal: Answer | None = None
    """The answer to a dry run of the template's pod; None: it is accepted."""
    poll: Answer | None = None
    """The answer to each poll; None: the next of the queue."""
    calls: list[str] = field(default_factory=list)
    on_policy: Callable[[], None] = lambda: None
    """Is called when a deletion policy is written."""
    lists: int = 0
    """How often the pool's leases were listed."""

    def pool(self) -> dict[str, Any]:
        metadata: dict[str, Any] = {
            "name": "agents",
            "namespace": "team",
            "uid": "uid-pool",
            "generation": self.generation,
            "resourceVersion": "5",
            "creationTimestamp": "2026-11-29T07:00:00Z",
            "finalizers": list(self.finalizers),
        }
        if self.deleted is not None:
            metadata["deletionTimestamp"] = self.deleted
        return {"metadata": metadata, "spec": self.spec, "status": self.status}

    def answer(self, seen: Seen) -> Answer:
        name = seen.path.rpartition("/")[2]
        if seen.path.startswith("/v1/"):
            return self.work(name)
        if "/workpools/" in seen.path:
            return self.of_pool(seen)
        if "/workleases" in seen.path:
            return self.of_leases(seen, name)
        if "/secrets" in seen.path:
            return self.of_secrets(seen, name)
        if seen.path.endswith("/persistentvolumeclaims"):
            self.calls.append("dry run of the volume")
            return self.refusal_of_claim or Answer(status=201, body=seen.json)
        self.calls.append("dry run of the pod")
        return self.refusal or Answer(status=201, body=seen.json)

    def work(self, call: str) -> Answer:
        if call == "stats":
            return Answer(body={"depth": len(self.queued), "pending": 0, "workers_polling": 3})
        self.calls.append(call)
        if call != "poll":
            return Answer(body={"state": "stopped"})
        if self.poll is not None:
            return self.poll
        return Answer(body=self.queued.pop(0)) if self.queued else NOTHING

    def of_pool(self, seen: Seen) -> Answer:
        if seen.path.endswith("/status"):
            self.status = {name: value for name, value in seen.json["status"].items() if value is not None}
        elif seen.method == "PATCH":
            self.finalizers = seen.json["metadata"]["finalizers"]
            if self.deleted is not None and not self.finalizers:
                self.calls.append("gone")
        return Answer(body=self.pool())

    def of_leases(self, seen: Seen, name: str) -> Answer:
        if seen.method == "POST":
            made = self.made(seen.json)
            if "dryRun" not in seen.target:
                self.calls.append("lease")
                self.leases[made["metadata"]["name"]] = made
            return Answer(status=201, body=made)
        if seen.method == "GET" and name == "workleases":
            self.lists += 1
            return Answer(body={"items": list(self.leases.values())})
        if name not in self.leases:
            return ABSENT
        if seen.method == "GET":
            self.calls.append(f"read {name}")
        if seen.method == "DELETE":
            self.calls.append(f"delete {name}")
            return Answer(body=self.leases.pop(name))
        if seen.method == "PATCH":
            self.calls.append(f"policy {seen.json[-1]['value']}")
            self.on_policy()
        return Answer(body=self.leases[name])

    def made(self, body: dict[str, Any]) -> dict[str, Any]:
        added = {
            "uid": f"uid-{body['metadata']['name']}",
            "generation": 1,
            "resourceVersion": "1",
            "creationTimestamp": datetime.now(UTC).isoformat(),
        }
        return body | {"metadata": body["metadata"] | added}

    def of_secrets(self, seen: Seen, name: str) -> Answer:
        if name == "keys":
            return self.key
        if seen.method == "POST":
            body = seen.json | {"metadata": seen.json["metadata"] | {"uid": "uid-secret", "resourceVersion": "1"}}
            self.secrets[body["metadata"]["name"]] = body
            return Answer(status=201, body=body)
        if name not in self.secrets:
            return ABSENT
        return Answer(body=self.secrets.pop(name) if seen.method == "DELETE" else self.secrets[name])

    def lease(
        self, name: str, *conditions: dict[str, Any], age: float = 0.0, session: str = "sesn_9"
    ) -> dict[str, Any]:
        """Make a lease of the pool, as an earlier process left it."""
        created = datetime.fromtimestamp(time.time() - age, UTC).isoformat()
        body = {
            "metadata": {
                "name": name,
                "namespace": "team",
                "uid": f"uid-{name}",
                "generation": 1,
                "resourceVersion": "1",
                "creationTimestamp": created,
                "finalizers": [FINALIZER],
                "labels": {"worklease.dev/pool": "agents", "worklease.dev/session-id": session},
            },
            "spec": {
                "environmentID": "env_1",
                "workID": name,
                "acknowledge": True,
                "sessionsTokenSecretRef": {"name": name},
            },
            "status": {"conditions": list(conditions)},
        }
        self.leases[name] = body
        return body


@dataclass
class World:
    """Pools, and what they see."""

    pools: Pools
    cluster: Cluster
    published: list[TelemetryEvent]
    acknowledged: set[str]
    others: set[str]
    """The uids of pools that another process serves."""
    recorded_elsewhere: set[str]
    """The uids of leases of which another process has a record."""
    began: dict[str, float]
    """When the tenures of pools began that another process had before, by the pools' uids."""

    def begin(self) -> None:
        self.pools.begin()
        self.pools.see(self.cluster.pool())

    def reason(self, kind: str = "Polling") -> tuple[str, str] | None:
        shown = self.cluster.status.get("conditions") or ()
        return next(((each["status"], each["reason"]) for each in shown if each["type"] == kind), None)

    async def until_reason(self, status: str, reason: str, kind: str = "Polling") -> None:
        await until(lambda: self.reason(kind) == (status, reason), f"{kind}={status} {reason}")

    def results(self) -> list[ItemResult]:
        return [event.result for event in self.published if isinstance(event, ItemHandled)]


@pytest.fixture
async def world() -> AsyncIterator[World]:
    cluster = Cluster()
    published: list[TelemetryEvent] = []
    acknowledged: set[str] = set()
    async with (
        serving() as server,
        kubernetes_at(server.url) as api,
        WorkApi(server.url, time.monotonic) as work_api,
    ):
        server.script = cluster.answer
        yield await kept(server, cluster, published, acknowledged, api=api, work_api=work_api)


async def kept(
    _: ScriptedServer,
    cluster: Cluster,
    published: list[TelemetryEvent],
    acknowledged: set[str],
    *,
    api: Any,
    work_api: WorkApi,
) -> World:
    publisher, writes = Publisher(published.append), PoolWrites(api)
    budget, queue = Budget(0, time.monotonic), QueueCalls(work_api, "worker")
    complete: Callable[[PoolLease], PoolLease] = lambda lease: replace(  # noqa: E731 (given to two)
        lease, is_acknowledged=lease.is_acknowledged or lease.name in acknowledged
    )
    taker = Taker(
        TakerClients(work_api=work_api, queue=queue, budget=budget, writes=writes, publisher=publisher),
        time.time,
        complete,
    )
    credentials = Credentials(api, time.monotonic)
    clients = PoolClients(
        writes=writes, pods=Pods(api), credentials=credentials, queue=queue, budget=budget, publisher=publisher
    )
    recorded: set[str] = set()

    async def is_begun_elsewhere(uid: str) -> bool:
        return uid in recorded

    options = PoolOptions(credentials_secret="keys")
    turns = PoolTurns(clients, options, taker, complete, time.time, is_begun_elsewhere=is_begun_elsewhere)
    others: set[str] = set()
    began: dict[str, float] = {}
    pools = Pools(
        turns,
        writes,
        time.time,
        publisher,
        may_act=lambda _, uid: uid not in others,
        began=lambda uid: began.get(uid, -inf),
    )
    return World(pools, cluster, published, acknowledged, others, recorded, began)


@pytest.fixture(autouse=True)
async def closed(world: World) -> AsyncIterator[None]:
    yield
    await world.pools.close()


async def test_the_template_is_tried_before_the_first_poll_and_an_item_becomes_a_lease(world: World) -> None:
    world.cluster.queued = [item(1)]
    world.begin()
    await until(lambda: ItemResult.TAKEN in world.results(), "an item that is taken")
    assert world.cluster.calls[:3] == ["dry run of the pod", "poll", "lease"]
    assert world.cluster.finalizers == [POOL_FINALIZER]
    (lease,) = world.cluster.leases
    assert list(world.cluster.secrets) == [lease]


async def test_a_template_that_is_refused_takes_nothing(world: World) -> None:
    world.cluster.refusal = Answer(status=422, body={"message": "no such field"})
    world.begin()
    await world.until_reason("False", "TemplateRefused")
    assert "poll" not in world.cluster.calls
    assert world.reason("Ready") == ("False", "TemplateRefused")
    world.cluster.refusal = None
    edited = {"spec": {"sandbox": {"template": {"spec": {"containers": [{"name": "a", "image": "c"}]}}}}}
    world.cluster.spec |= {"leaseTemplate": edited}
    world.cluster.generation = 2
    world.pools.see(world.cluster.pool())
    await until(lambda: "poll" in world.cluster.calls, "a poll after the edit")


async def test_at_the_cap_nothing_is_polled_and_the_pool_is_ready_all_the_same(world: World) -> None:
    world.cluster.queued = [item(number) for number in (1, 2, 3)]
    world.begin()
    await world.until_reason("False", "AtCapacity")
    assert world.reason("Ready") == ("True", "AtCapacity")
    assert len(world.cluster.leases) == 2
    assert [each["id"] for each in world.cluster.queued] == ["work_3"]
    assert world.cluster.status["active"] == 2
    assert world.cluster.status["selector"] == "worklease.dev/pool=agents"
    finished = next(iter(world.cluster.leases.values()))
    world.pools.see_lease(finished | {"status": {"conditions": [condition("Finished", "True", "Stopped")]}})
    await until(lambda: not world.cluster.queued, "the third item")


async def test_a_pool_of_another_process_is_left_alone_and_one_that_is_taken_over_is_listed_first(world: World) -> None:
    world.others.add("uid-pool")
    world.cluster.queued = [item(1)]
    world.begin()
    await asyncio.sleep(3 * SHORTEST_WAIT)
    assert (world.cluster.calls, world.cluster.finalizers, world.cluster.status) == ([], [], {})
    world.cluster.lease("agents-1", condition("LeaseHeld", "True", "Renewed"))  # the former holder made it meanwhile
    world.cluster.status = {"breaker": {"openUntilTime": "2126-11-29T00:00:00Z", "pauseSeconds": 60, "failures": 5}}
    world.began["uid-pool"] = time.time()
    world.others.clear()
    await until(lambda: world.cluster.status.get("active") == 1, "the lease that was made meanwhile")
    (kept,) = world.pools
    assert kept.breaker.open_until is not None
    assert "poll" not in world.cluster.calls, "not before what the former holder sent is answered"


async def test_what_the_former_holder_made_late_counts_before_the_first_poll(world: World) -> None:
    world.began["uid-pool"] = time.time() - TENURE + 0.5
    world.begin()
    await until(lambda: world.cluster.lists, "the list at the beginning of the tenure")
    for name in ("agents-1", "agents-2"):  # no watch has shown them
        world.cluster.lease(name, condition("LeaseHeld", "True", "Renewed"))
    await world.until_reason("False", "AtCapacity")
    assert "poll" not in world.cluster.calls


async def test_in_a_bucket_that_was_lost_and_taken_again_between_two_turns_the_leases_are_listed_again(
    world: World,
) -> None:
    world.begin()
    await until(lambda: "poll" in world.cluster.calls, "a poll before that")
    for name in ("agents-1", "agents-2"):
        world.cluster.lease(name, condition("LeaseHeld", "True", "Renewed"))
    world.began["uid-pool"] = time.time() - TENURE
    await world.until_reason("False", "AtCapacity")


async def test_leases_of_an_earlier_process_count(world: World) -> None:
    world.cluster.lease("agents-1", condition("LeaseHeld", "True", "Renewed"))
    world.cluster.lease("agents-2", condition("LeaseHeld", "True", "Renewed"))
    world.begin()
    await world.until_reason("False", "AtCapacity")
    assert "poll" not in world.cluster.calls


@pytest.mark.parametrize(("change", "reason"), [({"suspend": True}, "Suspended"), ({"maxConcurrent": 0}, "Suspended")])
async def test_a_pool_that_is_paused_takes_nothing(world: World, change: dict[str, Any], reason: str) -> None:
    world.cluster.spec |= change
    world.begin()
    await world.until_reason("False", reason)
    assert world.reason("Ready") == ("True", reason)
    assert "poll" not in world.cluster.calls


async def test_without_a_key_nothing_is_polled(world: World) -> None:
    world.cluster.key = ABSENT
    world.begin()
    await world.until_reason("False", "KeyMissing")
    assert "poll" not in world.cluster.calls


async def test_a_volume_that_is_refused_takes_nothing_and_an_edit_of_it_is_tried_at_once(world: World) -> None:
    sandbox: dict[str, Any] = json.loads(json.dumps(TEMPLATE["spec"]["sandbox"]))
    sandbox["workspace"] = {"volumeClaimTemplate": {"spec": {"accessModes": ["ReadWriteOnce"]}}}
    world.cluster.spec["leaseTemplate"] = {"spec": {"sandbox": sandbox}}
    world.cluster.refusal_of_claim = Answer(status=403, body={"message": "persistentvolumeclaims is forbidden"})
    world.begin()
    await world.until_reason("False", "TemplateRefused")
    assert "poll" not in world.cluster.calls
    world.cluster.refusal_of_claim = None
    sandbox["workspace"]["mountPath"] = "/home"
    world.cluster.generation = 2
    world.pools.see(world.cluster.pool())
    await until(lambda: "poll" in world.cluster.calls, "a poll after the edit")


async def test_a_key_that_is_refused_is_shown_and_not_polled_with_again(world: World) -> None:
    world.cluster.poll = Answer(status=401, body={"error": {"type": "authentication_error", "message": "no"}})
    world.begin()
    await world.until_reason("False", "KeyRefused")
    assert world.cluster.calls.count("poll") == 1


async def test_an_item_that_is_no_session_is_stopped(world: World) -> None:
    world.cluster.queued = [item(1) | {"data": {"type": "healthcheck", "id": "check_1"}}]
    world.begin()
    await until(lambda: ItemResult.REFUSED in world.results(), "a refused item")
    assert "stop" in world.cluster.calls
    assert world.cluster.leases == {}


async def test_sandboxes_that_do_not_start_open_the_breaker_and_its_state_survives_a_start(world: World) -> None:
    world.cluster.spec |= {"maxConcurrent": 9, "limits": {"failuresBeforePause": 2, "pauseSeconds": 600}}
    world.begin()
    await until(lambda: "poll" in world.cluster.calls, "a poll")
    for number in (1, 2):
        body = world.cluster.lease(
            f"agents-{number}",
            condition("LeaseHeld", "True", "Renewed"),
            condition("SandboxReady", "False", "ImagePullFailed"),
            session=f"sesn_{number}",
        )
        world.pools.see_lease(body)
        world.pools.see_lease(body)
    await world.until_reason("False", "SandboxesFailing")
    assert world.cluster.status["breaker"]["failures"] == 2
    assert world.cluster.status["breaker"]["pauseSeconds"] == 600
    told = [event for event in world.published if isinstance(event, PoolChanged)]
    assert told[-1].is_warning
    assert "ImagePullFailed" in told[-1].message


async def test_a_breaker_in_the_status_holds_after_a_start(world: World) -> None:
    later = datetime.fromtimestamp(time.time() + 600, UTC).isoformat()
    world.cluster.status = {"breaker": {"openUntilTime": later, "pauseSeconds": 600, "failures": 5}}
    world.begin()
    await world.until_reason("False", "SandboxesFailing")
    assert "poll" not in world.cluster.calls


async def test_a_quota_opens_the_breaker_at_once(world: World) -> None:
    world.begin()
    await until(lambda: "poll" in world.cluster.calls, "a poll")
    world.pools.see_lease(world.cluster.lease("agents-1", condition("LeaseHeld", "False", "QuotaExceeded")))
    await world.until_reason("False", "SandboxesFailing")


async def test_the_time_from_the_poll_to_the_sandbox_is_told_once(world: World) -> None:
    world.cluster.queued = [item(1)]
    world.begin()
    await until(lambda: world.cluster.leases, "a lease")
    await until(lambda: ItemResult.TAKEN in world.results(), "an item that is taken")
    (body,) = world.cluster.leases.values()
    ready = body | {
        "status": {
            "conditions": [condition("LeaseHeld", "True", "Renewed"), condition("SandboxReady", "True", "Running")]
        }
    }
    for _ in range(2):
        world.pools.see_lease(ready)
    assert len([event for event in world.published if isinstance(event, PoolSandboxStarted)]) == 1


async def test_the_token_of_a_finished_lease_is_deleted(world: World) -> None:
    world.cluster.queued = [item(1)]
    world.begin()
    await until(lambda: world.cluster.secrets, "a token")
    (name,) = world.cluster.leases
    over = {"status": {"conditions": [condition("Finished", "True", "Stopped")]}}
    world.cluster.leases[name] |= over
    world.pools.see_lease(world.cluster.leases[name])
    await until(lambda: not world.cluster.secrets, "no token")
    assert list(world.cluster.leases) == [name], "it stays, by its own time"


async def test_a_lease_that_nothing_was_begun_for_is_deleted_and_no_other(world: World) -> None:
    world.cluster.lease("agents-1", age=30.0)
    world.cluster.lease("agents-2", age=30.0)
    world.acknowledged.add("agents-2")
    world.begin()
    await until(lambda: "delete agents-1" in world.cluster.calls, "the deletion of what nothing was begun for")
    assert "policy Release" in world.cluster.calls, "should it be acknowledged at this moment, it is not stopped"
    assert "agents-2" in world.cluster.leases


async def test_a_lease_that_another_process_has_a_record_of_is_not_deleted_as_abandoned(world: World) -> None:
    world.cluster.lease("agents-1", age=30.0)
    world.recorded_elsewhere.add("uid-agents-1")
    world.begin()
    await until(lambda: world.cluster.calls.count("read agents-1") > 1, "two looks at the lease")
    assert "delete agents-1" not in world.cluster.calls


async def test_a_deleted_pool_ends_its_leases_by_its_policy_and_then_goes(world: World) -> None:
    world.cluster.finalizers = [POOL_FINALIZER]
    world.cluster.deleted = datetime.now(UTC).isoformat()
    world.cluster.lease("agents-1", condition("LeaseHeld", "True", "Renewed"))
    world.begin()
    await until(lambda: "gone" in world.cluster.calls, "the end of the pool")
    assert world.cluster.calls == ["policy Release", "delete agents-1", "gone"]


async def test_a_process_that_may_not_write_any_more_begins_no_further_deletion(world: World) -> None:
    world.cluster.finalizers = [POOL_FINALIZER]
    world.cluster.deleted = datetime.now(UTC).isoformat()
    world.cluster.lease("agents-1", condition("LeaseHeld", "True", "Renewed"))
    world.cluster.on_policy = lambda: world.others.add("uid-pool")  # another process takes the bucket meanwhile
    world.begin()
    await until(lambda: "policy Release" in world.cluster.calls, "the first of two writes")
    await asyncio.sleep(3 * SHORTEST_WAIT)
    assert world.cluster.calls == ["policy Release"]


async def test_other_workers_of_the_environment_are_shown(world: World) -> None:
    world.begin()
    await world.until_reason("True", "OtherWorkersPolling")
    assert world.reason("Ready") == ("True", "OtherWorkersPolling")
    assert world.cluster.status["queue"]["workersPolling"] == 3


async def test_a_pool_that_this_version_cannot_read_says_so(world: World) -> None:
    world.cluster.spec = {"environmentID": "env_1"}
    world.begin()
    await world.until_reason("False", "InvalidSpec")
    assert "poll" not in world.cluster.calls
