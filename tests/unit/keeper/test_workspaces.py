"""The volume of a session: found or made before the pod, swept when nobody uses it, and never while anybody does."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from support.claim_store import ClaimStore
from support.every_bucket import EveryBucket
from support.keeping import RENEWED, SECRET, Keeping, clients, keeping, resource, wall
from support.scripted_server import Answer, Seen, always, kubernetes_at, serving, until
from worklease.api.models import WorkLease
from worklease.cluster.client import KubernetesApi
from worklease.cluster.pods import NotAdmitted
from worklease.cluster.workspace_claims import WorkspaceClaims
from worklease.cluster.workspace_objects import claim_name
from worklease.keeper.kept import LeaseOptions
from worklease.keeper.resume import resume
from worklease.keeper.workspace_calls import Ready, WorkspaceCalls
from worklease.keeper.workspace_sweep import WorkspaceSweep
from worklease.rules.acts import Standing
from worklease.work_api.client import WorkApi

SESSION = ("env_1", "sesn_1")
NAME = claim_name(SESSION)
NOW = 1_790_000_000.0
A_WEEK = 604_800.0
TEMPLATE = {"spec": {"containers": [{"name": "sandbox", "image": "busybox"}]}}
WORKSPACE = {"volumeClaimTemplate": {"spec": {"accessModes": ["ReadWriteOnce"]}}}
OPTIONS = LeaseOptions(interval=30.0, credentials_secret="keys")
FORBIDDEN = Answer(
    status=403,
    body={"kind": "Status", "reason": "Forbidden", "message": "persistentvolumeclaims is forbidden: no right"},
)


def wanting(name: str = "lease-1", **workspace: Any) -> dict[str, Any]:
    return resource(name, sessionID="sesn_1", sandbox={"template": TEMPLATE, "workspace": WORKSPACE | workspace})


def claim(name: str = NAME, *, unused: str | None = None, idle: str = "604800", **metadata: Any) -> dict[str, Any]:
    """Return the session's claim as an earlier resource left it."""
    labels = {
        "app.kubernetes.io/managed-by": "worklease-operator",
        "worklease.dev/environment-id": "env_1",
        "worklease.dev/session-id": "sesn_1",
    }
    annotations = {"worklease.dev/idle-seconds": idle, "worklease.dev/used-by": "uid-earlier"}
    annotations |= {} if unused is None else {"worklease.dev/unused-since": unused}
    made = {"name": name, "uid": f"uid-{name}", "resourceVersion": "1", "labels": labels, "annotations": annotations}
    return {"metadata": made | metadata, "spec": {}}


# --- Before the pod ----------------------------------------------------------------------------------------------


@dataclass
class World:
    """A keeper whose lease is held at once, and the claims of its namespace."""

    there: Keeping
    store: ClaimStore = field(default_factory=ClaimStore)
    refusal: Answer | None = None
    """What every request about claims is answered, if anything."""

    def made(self) -> list[dict[str, Any]]:
        """Return the pods that were made."""
        return [seen.json for seen in self.there.asked("POST", "/pods") if "dryRun" not in seen.target]

    def reasons(self) -> set[str]:
        """Return the reasons that were shown."""
        written = (seen.json["status"] for seen in self.there.asked("PATCH", "/status"))
        return {entry["reason"] for status in written for entry in status["conditions"]}

    def mounted(self) -> str:
        """Return the claim that the pod mounts."""
        (volume,) = self.made()[-1]["spec"]["volumes"]
        return str(volume["persistentVolumeClaim"]["claimName"])


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    worlds: list[World] = []

    def answer(seen: Seen) -> Answer:
        it = worlds[0]
        if "/secrets/" in seen.path:
            return SECRET
        if "/persistentvolumeclaims" in seen.path and it.refusal is not None:
            return it.refusal
        if (about_claims := it.store.answer(seen)) is not None:
            return about_claims
        if seen.path.endswith("/pods") and seen.method == "GET":
            return Answer(body={"metadata": {"resourceVersion": "7"}, "items": []})
        if seen.path.endswith("/pods"):
            return Answer(status=201, body=seen.json | {"metadata": seen.json["metadata"] | {"uid": "pod-1"}})
        return Answer(body={"metadata": {"uid": "uid-lease-1", "resourceVersion": "7"}})

    async with keeping(answer) as there:
        worlds.append(World(there))
        there.work_api.script = lambda _: Answer(body=RENEWED)
        yield worlds[0]


async def test_a_session_without_a_volume_gets_one_before_its_pod() -> None:
    async with world() as it:
        it.there.see(wanting(retention={"idleSeconds": 60}))
        await until(it.made, "the pod")
        assert list(it.store.claims) == [it.mounted()] == [NAME]
        annotations = it.store.claims[NAME]["metadata"]["annotations"]
        assert annotations == {"worklease.dev/used-by": "uid-lease-1", "worklease.dev/idle-seconds": "60"}


async def test_the_next_delivery_gets_the_same_volume_and_notes_that_it_uses_it() -> None:
    async with world() as it:
        it.store.claims[NAME] = claim(unused="2026-11-24T11:00:00+00:00")
        it.there.see(wanting())
        await until(it.made, "the pod")
        assert it.mounted() == NAME
        annotations = it.store.claims[NAME]["metadata"]["annotations"]
        assert annotations == {"worklease.dev/used-by": "uid-lease-1", "worklease.dev/idle-seconds": "604800"}


async def test_a_volume_that_somebody_made_for_the_session_is_mounted_and_not_written() -> None:
    async with world() as it:
        it.store.claims["by-hand"] = given = claim("by-hand")
        it.there.see(wanting())
        await until(it.made, "the pod")
        assert it.mounted() == "by-hand"
        assert it.store.claims == {"by-hand": given}
        assert it.there.asked("PATCH", "/persistentvolumeclaims") == []


async def test_a_volume_that_is_being_deleted_is_waited_for_and_then_made_again() -> None:
    async with world() as it:
        it.store.claims[NAME] = claim(deletionTimestamp="2026-11-24T12:00:00Z")
        it.there.see(wanting())
        await until(lambda: "VolumeBusy" in it.reasons(), "the reason")
        assert it.made() == []
        del it.store.claims[NAME]
        await until(it.made, "the pod")
        assert it.mounted() == NAME


async def test_a_missing_right_is_shown_before_anything_is_claimed() -> None:
    async with world() as it:
        it.refusal = FORBIDDEN
        it.there.see(wanting())
        await until(lambda: "InvalidSpec" in it.reasons(), "the reason")
        shown = it.there.asked("PATCH", "/status")[-1]
        (held,) = (each for each in shown.json["status"]["conditions"] if each["type"] == "LeaseHeld")
        assert "persistentvolumeclaims is forbidden" in held["message"]
        assert "pools.namespaces" in held["message"]
        assert it.there.work_api.seen == []


async def test_a_name_that_another_claim_has_makes_no_pod() -> None:
    async with world() as it:
        it.store.claims[NAME] = claim(labels={})
        it.there.see(wanting())
        await until(lambda: "CreationRefused" in it.reasons(), "the reason")
        assert it.made() == []


@pytest.mark.parametrize("there", [{}, {NAME: claim()}], ids=["made", "used"])
async def test_a_process_that_is_not_valid_any_more_writes_no_volume(there: dict[str, Any]) -> None:
    async with (
        serving() as server,
        kubernetes_at(server.url) as api,
        WorkApi("http://127.0.0.1:9", lambda: 0.0) as work_api,
    ):
        used, store = clients(api, work_api), ClaimStore(claims=dict(there))
        buckets = used.tenures
        assert isinstance(buckets, EveryBucket)

        def script(seen: Seen) -> Answer:
            buckets.stands = Standing.INVALID  # while the list is read
            return store.answer(seen) or Answer(status=500)

        server.script = script
        kept = resume(WorkLease.parse(wanting()), OPTIONS, None, wall(), 100.0)
        assert await WorkspaceCalls(used, lambda: 100.0, wall, lambda _: ("", "")).take(kept) is None
        assert [seen.method for seen in server.seen] == ["GET"]


async def test_without_a_workspace_no_claim_is_asked_for() -> None:
    async with world() as it:
        it.there.see(resource(sandbox={"template": TEMPLATE}))
        await until(it.made, "the pod")
        assert [seen for seen in it.there.kubernetes.seen if "persistentvolumeclaims" in seen.path] == []


@pytest.mark.parametrize("kept_for", [None, 3600])
async def test_a_session_is_not_open_any_more_as_soon_as_its_resource_is_finished(kept_for: int | None) -> None:
    async with world() as it:
        body = resource(since=30.0, sessionID="sesn_1", sandbox={"template": TEMPLATE, "workspace": WORKSPACE})
        body["spec"] |= {} if kept_for is None else {"ttlSecondsAfterFinished": kept_for}
        it.there.see(body)
        assert it.there.keeper.open_sessions() == {("sandboxes", "env_1", "sesn_1")}
        assert it.there.keeper.namespaces_with_workspaces() == {"sandboxes"}
        it.there.work_api.script = lambda _: Answer(body=RENEWED | {"state": "stopped", "lease_extended": False})
        await until(it.there.keeper.has_unused.is_set, "the word that its volume is not used any more")
        assert it.there.keeper.open_sessions() == frozenset()


# --- The sweep ---------------------------------------------------------------------------------------------------


class Sweeping:
    """A sweep over the claims of a store, by a process that knows the store's leases, unless they are ``unseen``."""

    def __init__(self, api: KubernetesApi, store: ClaimStore) -> None:
        self.store = store
        self.unseen: set[str] = set()
        self.may_write = True
        self.now = NOW
        self.sweep = WorkspaceSweep(
            WorkspaceClaims(api),
            lambda: ["sandboxes"],
            self._known,
            lambda: self.now,
            may_write=lambda _: self.may_write,
            news=asyncio.Event(),
        )

    def _known(self) -> set[tuple[str, str, str]]:
        return {
            ("sandboxes", "env_1", each["spec"]["sessionID"])
            for name, each in self.store.leases.items()
            if name not in self.unseen and each["status"]["conditions"][0]["status"] != "True"
        }


@asynccontextmanager
async def sweeping() -> AsyncIterator[Sweeping]:
    store = ClaimStore()
    async with serving() as server, kubernetes_at(server.url) as api:
        server.script = lambda seen: store.answer(seen) or Answer(status=500)
        yield Sweeping(api, store)


async def test_a_volume_is_marked_when_its_last_lease_is_over_and_deleted_after_its_time() -> None:
    async with sweeping() as it:
        it.store.claims[NAME] = claim()
        it.store.put_lease("one", session="sesn_1")
        await it.sweep.sweep("sandboxes")
        it.store.put_lease("one", session="sesn_1", finished=True)
        assert await it.sweep.sweep("sandboxes") == NOW + A_WEEK
        assert "worklease.dev/unused-since" in it.store.claims[NAME]["metadata"]["annotations"]
        it.now = NOW + A_WEEK - 1
        await it.sweep.sweep("sandboxes")
        assert NAME in it.store.claims
        it.now = NOW + A_WEEK
        await it.sweep.sweep("sandboxes")
        assert it.store.deleted == [NAME]


async def test_a_lease_that_comes_meanwhile_makes_its_time_begin_again() -> None:
    async with sweeping() as it:
        it.store.claims[NAME] = claim(unused="2020-01-01T00:00:00+00:00")
        it.store.put_lease("two", session="sesn_1")
        await it.sweep.sweep("sandboxes")
        assert "worklease.dev/unused-since" not in it.store.claims[NAME]["metadata"]["annotations"]
        assert it.store.deleted == []


async def test_a_lease_that_no_watch_has_reported_yet_keeps_its_volume() -> None:
    async with sweeping() as it:
        it.store.claims[NAME] = claim(idle="0")
        it.store.put_lease("two", session="sesn_1")
        it.unseen = {"two"}
        await it.sweep.sweep("sandboxes")
        assert it.store.deleted == []


async def test_with_no_time_to_be_kept_a_volume_goes_with_its_lease() -> None:
    async with sweeping() as it:
        it.store.claims[NAME] = claim(idle="0")
        it.store.put_lease("one", session="sesn_1", finished=True)
        await it.sweep.sweep("sandboxes")
        assert it.store.deleted == [NAME]


async def test_what_the_operator_did_not_make_and_what_is_of_another_session_stays() -> None:
    async with sweeping() as it:
        old = "2020-01-01T00:00:00+00:00"
        it.store.claims["by-hand"] = claim("by-hand", unused=old)
        it.store.claims["no-label"] = claim("no-label", unused=old, labels={"worklease.dev/session-id": "sesn_1"})
        await it.sweep.sweep("sandboxes")
        assert it.store.deleted == []


async def test_where_volumes_may_not_be_listed_the_next_sweep_comes_later() -> None:
    async with serving() as server, kubernetes_at(server.url) as api:
        server.script = always(FORBIDDEN)
        it = Sweeping(api, ClaimStore())
        for after in (0, 60, 120, 601):
            it.now = NOW + after
            await it.sweep.sweep("sandboxes")
        assert len(server.seen) == 2


async def test_a_process_that_may_not_act_sweeps_nothing() -> None:
    async with sweeping() as it:
        it.store.claims[NAME] = claim(unused="2020-01-01T00:00:00+00:00")
        it.may_write = False
        await it.sweep.sweep("sandboxes")
        assert it.store.deleted == []


# --- Both at once ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Later(Answer):
    """An answer that is made when its turn has come."""

    serve: Callable[[], Answer]

    def as_bytes(self) -> bytes:
        return self.serve().as_bytes()


class InTurn:
    """A server that answers two clients in a given order: who may be answered next is said by the test."""

    def __init__(self, store: ClaimStore) -> None:
        self._store = store
        self._waiting: dict[str, asyncio.Event] = {}

    def script(self, seen: Seen) -> Answer:
        """Let a request wait until it may be answered."""
        event = self._waiting[seen.headers["authorization"].removeprefix("Bearer ")] = asyncio.Event()
        return Later(serve=lambda: self._store.answer(seen) or Answer(status=500), until=event)

    async def answer(self, client: str, task: "asyncio.Task[Any]") -> None:
        """Answer the next request of a client, unless it has no more."""
        while client not in self._waiting and not task.done():  # noqa: ASYNC110 (the server has no event for it)
            await asyncio.sleep(0.001)
        if (event := self._waiting.pop(client, None)) is not None:
            event.set()
            while client not in self._waiting and not task.done():  # noqa: ASYNC110
                await asyncio.sleep(0.001)


ORDERS = [
    order
    for order in sorted(set(itertools.permutations(["sweep"] * 3 + ["create"] + ["lease"] * 2)))
    if order.index("create") < order.index("lease")
]
"""All orders of a sweep's three calls, the creation of a lease, and the two calls by which it takes the volume."""


@pytest.mark.parametrize("idle", ["604800", "0"])
@pytest.mark.parametrize("held_up", [True, False])
async def test_in_whatever_order_a_sweep_and_a_lease_meet_no_pod_gets_a_volume_that_is_deleted(
    idle: str, *, held_up: bool
) -> None:
    async with (
        serving() as server,
        kubernetes_at(server.url, token="sweep") as one,
        kubernetes_at(server.url, token="lease") as two,
    ):
        for order in ORDERS:
            store = ClaimStore(is_held_up=held_up)
            store.claims[NAME] = claim(unused="2020-01-01T00:00:00+00:00", idle=idle)
            server.script = (in_turn := InTurn(store)).script
            outcome = await both(order, store, in_turn, one, two)
            if isinstance(outcome, Ready):
                assert "deletionTimestamp" not in store.claims[NAME]["metadata"], order
            else:
                assert store.deleted == [NAME], order


async def both(
    order: tuple[str, ...], store: ClaimStore, in_turn: InTurn, one: KubernetesApi, two: KubernetesApi
) -> object:
    """Have a sweep and a lease make their calls in an order; return what the lease got."""
    tasks: dict[str, asyncio.Task[Any]] = {"sweep": asyncio.create_task(swept(one))}
    for step in order:
        if step == "create":
            store.put_lease("lease-1", session="sesn_1")
            tasks["lease"] = asyncio.create_task(taken(two))
        else:
            await in_turn.answer(step, tasks[step])
    for name, task in tasks.items():
        while not task.done():
            await in_turn.answer(name, task)
    return tasks["lease"].result()


async def swept(api: KubernetesApi) -> None:
    """Sweep once, in a process that has not heard of any lease."""
    sweep = WorkspaceSweep(
        WorkspaceClaims(api),
        lambda: ["sandboxes"],
        frozenset,
        lambda: NOW,
        may_write=lambda _: True,
        news=asyncio.Event(),
    )
    await sweep.sweep("sandboxes")


async def taken(api: KubernetesApi) -> Ready | NotAdmitted | None:
    """Take the session's volume into use, once."""
    async with WorkApi("http://127.0.0.1:9", lambda: 0.0) as work_api:
        kept = resume(WorkLease.parse(wanting()), OPTIONS, None, wall(), 100.0)
        return await WorkspaceCalls(clients(api, work_api), lambda: 100.0, wall, lambda _: ("", "")).take(kept)
