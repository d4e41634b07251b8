"""What vanishes: a resource whose lease is held, and the answer to the creation of its pod."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from support.keeping import RENEWED, SECRET, TEMPLATE, Keeping, keeping, resource
from support.scripted_server import Answer, Fault, Seen, until
from worklease.rules.buckets import bucket_of
from worklease.rules.succession import Succession
from worklease.telemetry import PodIgnored

LABELS = {"worklease.dev/environment-id": "env_1", "worklease.dev/work-id": "work_1"}
TTL = 10


def renewed(state: str = "active") -> Answer:
    return Answer(body=RENEWED | {"state": state, "lease_extended": state == "active", "ttl_seconds": TTL})


def body(**changes: Any) -> dict[str, Any]:
    return resource(ttl=TTL, ttlSeconds=TTL, **changes)


def pod(name: str, *, owner: str | None = None, phase: str = "Running") -> dict[str, Any]:
    owners = [] if owner is None else [{"kind": "WorkLease", "uid": owner, "controller": True, "name": "lease-1"}]
    metadata = {"name": name, "namespace": "sandboxes", "uid": f"uid-{name}", "labels": LABELS}
    return {"metadata": metadata | {"ownerReferences": owners}, "spec": {}, "status": {"phase": phase}}


@asynccontextmanager
async def setting(pods: Callable[[Seen], Answer] | None = None) -> AsyncIterator[Keeping]:
    def answer(seen: Seen) -> Answer:
        if "/secrets/" in seen.path:
            return SECRET
        if "/pods" in seen.path:
            return pods(seen) if pods is not None else Answer(body={"items": []})
        return Answer(body={"metadata": {"uid": "uid-lease-1", "resourceVersion": "7"}})

    async with keeping(answer) as there:
        there.work_api.script = lambda _: renewed()
        yield there


def gone(seen: Seen) -> Answer:
    """Answer that a pod is gone, once it was deleted."""
    is_look = seen.method == "GET" and seen.path.endswith("/labelled")
    message = {"kind": "Status", "message": 'pods "labelled" not found'}
    return Answer(status=404, body=message) if is_look else Answer(body={"items": []})


async def test_a_resource_that_vanishes_while_its_lease_is_held_is_fenced_from_memory() -> None:
    async with setting(gone) as there:
        there.keeper.see(body(since=3))
        there.keeper.see_pod(pod("labelled"))
        await there.work_api.until_seen(1)
        await until(lambda: len(list(there.keeper.leases())) == 1, "what is told of the renewal")
        beaten = time.monotonic()
        there.keeper.unsee("uid-lease-1")
        await until(lambda: there.asked("DELETE", "/pods/labelled"), "the end of its pod")
        assert time.monotonic() < beaten + TTL - 1, "before the lease can end"
        assert len(there.work_api.seen) == 1, "nothing more is asked of the server"
        there.keeper.unsee_pod(pod("labelled"))
        await until(lambda: list(there.keeper._fleet) == [], "the end of what is known of it")


async def recorded(*, seconds_ago: float = 0.0) -> str:
    """Return the record of a lease that was renewed so many seconds ago, with a pod."""
    async with setting() as there:
        there.keeper.see_pod(pod("labelled"))
        there.keeper.see(body(since=3))
        await there.work_api.until_seen(1)
        await until(lambda: "labelled" in (there.clients.checkpoint.recall("uid-lease-1") or ""), "its record")
        record = json.loads(there.clients.checkpoint.recall("uid-lease-1") or "")
        return json.dumps(record | {"sent": record["sent"] - seconds_ago})


@pytest.mark.parametrize("told_by", ["list", "watch", "list before its pod"])
async def test_what_vanished_before_its_bucket_was_taken_is_fenced_by_who_takes_it(told_by: str) -> None:
    record, beaten = await recorded(seconds_ago=TTL - 5), time.monotonic() - TTL + 5
    async with setting(gone) as there:
        there.keeper.take(bucket_of("uid-lease-1"), {"uid-lease-1": record}, Succession(begun=beaten))
        if told_by == "list before its pod":
            there.keeper.count(set())
        there.keeper.see_pod(pod("labelled"))
        if told_by == "list":
            there.keeper.count(set())
        elif told_by == "watch":
            there.keeper.unsee("uid-lease-1")
        await until(lambda: there.asked("DELETE", "/pods/labelled"), "the end of its pod")
        assert time.monotonic() < beaten + TTL, "before the lease can end"
        assert there.work_api.seen == [], "nothing is asked of the server"
        there.keeper.unsee_pod(pod("labelled"))
        await until(lambda: list(there.keeper._fleet) == [], "the end of what is known of it")
        assert there.clients.checkpoint.recall("uid-lease-1") is None


async def test_the_pod_of_what_vanished_is_left_to_another_resource_that_has_bound_it() -> None:
    record = await recorded()
    async with setting() as there:
        there.keeper.see_pod(pod("labelled"))
        there.keeper.see(resource("lease-2", ttl=TTL, since=3))
        there.keeper.carry("uid-lease-2")
        await there.work_api.until_seen(1)
        there.keeper.take(bucket_of("uid-lease-1"), {"uid-lease-1": record}, Succession())
        there.keeper.count({"uid-lease-2"})
        assert [each.resource.uid for each in there.keeper._fleet] == ["uid-lease-2"]


async def test_a_resource_that_vanishes_without_a_pod_is_forgotten_at_once() -> None:
    async with setting() as there:
        there.keeper.see(body(since=3))
        await there.work_api.until_seen(1)
        there.keeper.unsee("uid-lease-1")
        assert list(there.keeper._fleet) == []


async def test_a_made_pod_that_shows_up_after_the_end_is_deleted_and_no_other_is() -> None:
    async with setting() as there:
        there.work_api.script = lambda _: renewed("stopped")
        there.keeper.see(body(sandbox=TEMPLATE, since=3))
        await until(lambda: all(each.calls.is_done for each in there.keeper._fleet), "the end of the resource")
        there.keeper.see_pod(pod("labelled"))
        there.keeper.see_pod(pod("another", owner="uid-2"))
        there.keeper.see_pod(pod("made", owner="uid-lease-1"))
        await until(lambda: there.asked("DELETE", "/pods/"), "the end of its pod")
        await asyncio.sleep(0.1)
        there.keeper.see_pod(pod("made", owner="uid-lease-1"))  # an event that is older than the deletion
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
            return Answer(body={"items": [pod("late", owner="uid-lease-1")]})
        if seen.method == "GET" and "labelSelector" not in seen.target:
            return Answer(status=404, body={"kind": "Status", "message": 'pods "late" not found'})
        return Answer(body={"items": []})

    async with setting(pods) as there:
        there.keeper.see(body(sandbox=TEMPLATE))
        there.keeper.carry("uid-lease-1")
        await until(lambda: len(there.asked("GET", "/pods/")) >= 1, "a creation whose outcome is unknown")
        made = True
        there.work_api.script = lambda _: renewed("stopped")
        await until(lambda: there.asked("DELETE", "/pods/late"), "the end of the pod that was made after all")
