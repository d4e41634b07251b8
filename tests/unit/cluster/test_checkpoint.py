"""When the checkpoint is written, what does not fit, and how long anybody waits for a write."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest

from support.every_bucket import EveryBucket
from support.scripted_server import Answer, Fault, ScriptedServer, always, kubernetes_at, serving, until
from worklease.api.names import Reference
from worklease.cluster.checkpoint import CHARACTERS_PER_SECOND, UNKNOWN_FOR, Checkpoint, NotWritten
from worklease.cluster.checkpoint_room import LONGEST, RESERVED, SHARE
from worklease.cluster.client import METADATA, NotDone
from worklease.rules.buckets import bucket_of

LEASE = Reference("sandboxes", "lease-1", "uid-1")


def in_one_configmap(number: int, namespace: str = "sandboxes", prefix: str = "uid") -> list[Reference]:
    """Return so many resources whose records share the ConfigMap of the first."""
    found: list[Reference] = []
    for each in count():
        uid = f"{prefix}-{each}"
        if bucket_of(uid) == 0:
            found.append(Reference(namespace, f"lease-{each}", uid))
        if len(found) == number:
            return found
    raise AssertionError


@asynccontextmanager
async def writing(server: ScriptedServer, **more: Any) -> AsyncIterator[Checkpoint]:
    """Give a checkpoint that writes to the server."""
    async with kubernetes_at(server.url) as api:
        checkpoint = Checkpoint(EveryBucket(api), "own", asyncio.get_running_loop().time, **more)
        task = asyncio.create_task(checkpoint.run())
        try:
            yield checkpoint
        finally:
            task.cancel()
            await asyncio.wait({task})


async def test_what_is_urgent_and_not_waited_for_shares_the_next_write_after_a_rest() -> None:
    async with serving() as server, kubernetes_at(server.url) as api:
        server.script, now = always(Answer(body={"metadata": {}})), [1000.0]
        checkpoint = Checkpoint(EveryBucket(api), "own", lambda: now[0])
        writing = asyncio.create_task(checkpoint.run())
        await checkpoint.commit(LEASE, "claimed")
        now[0] += 0.1
        checkpoint.put(LEASE, "adopted", within=0.0)
        checkpoint.put(LEASE, "adopted again", within=0.0)
        await asyncio.sleep(0.1)
        assert len(server.seen) == 1, "a second has not passed since the last write"
        await checkpoint.flush()
        assert len(server.seen) == 2
        assert {seen.headers["accept"] for seen in server.seen} == {METADATA}
        writing.cancel()
        await asyncio.wait({writing})


async def test_a_large_one_is_written_less_often_even_for_who_waits_but_at_once_at_the_end() -> None:
    async with serving() as server, kubernetes_at(server.url) as api:
        server.script, now = always(Answer(body={"metadata": {}})), [1000.0]
        checkpoint = Checkpoint(EveryBucket(api), "own", lambda: now[0])
        others, quarter_of_a_second = in_one_configmap(20), "x" * (CHARACTERS_PER_SECOND // 4)
        for other in others:
            checkpoint.put(other, quarter_of_a_second, within=10.0)
        writing = asyncio.create_task(checkpoint.run())
        await checkpoint.commit(others[0], quarter_of_a_second)
        commits = [asyncio.create_task(checkpoint.commit(others[0], f"{each}")) for each in range(3)]
        now[0] += 4.9
        await asyncio.sleep(0.1)
        assert len(server.seen) == 1, "five seconds' worth was written"
        now[0] += 0.2
        await asyncio.wait(commits)
        assert len(server.seen) == 2, "they share a write"
        last = asyncio.create_task(checkpoint.commit(others[0], "z"))
        await asyncio.sleep(0)
        await checkpoint.flush()
        await last
        assert len(server.seen) == 3
        writing.cancel()
        await asyncio.wait({writing})


async def test_the_record_of_a_resource_that_no_list_has_for_an_hour_is_dropped() -> None:
    async with kubernetes_at("http://127.0.0.1:1") as api:
        now = [1000.0]
        checkpoint = Checkpoint(EveryBucket(api), "own", lambda: now[0])
        for uid in ("listed", "vanished", "back"):
            checkpoint.put(Reference("sandboxes", uid, uid), "record", within=0.0)
        checkpoint.drop_unknown({"listed"})
        now[0] += UNKNOWN_FOR
        checkpoint.drop_unknown({"listed", "back"})
        assert checkpoint.recall("vanished") == "record", "an hour is not over"
        now[0] += 1.0
        checkpoint.drop_unknown({"listed"})
        assert [checkpoint.recall(uid) for uid in ("listed", "vanished", "back")] == ["record", None, "record"]


def fill(checkpoint: Checkpoint, namespace: str = "sandboxes") -> None:
    """Put as many records of one namespace into a ConfigMap as there is room for."""
    for each in in_one_configmap(SHARE // RESERVED + 1, namespace, prefix="full"):
        checkpoint.put(each, "x" * RESERVED, within=10.0)


async def test_a_namespace_that_fills_a_configmap_keeps_no_other_namespace_out_and_its_own_next_lease_is_told() -> None:
    async with serving() as server, writing(server) as checkpoint:
        server.script = always(Answer(body={"metadata": {}}))
        fill(checkpoint, "greedy")
        assert checkpoint.left_out == 1
        (greedy,), (other,) = (
            in_one_configmap(1, "greedy", prefix="more"),
            in_one_configmap(1, "modest", prefix="other"),
        )
        outcome = await checkpoint.commit(greedy, "claim")
        assert isinstance(outcome, NotDone)
        assert "ConfigMap own/worklease-bucket-00 has no room" in outcome.message
        assert "the records of its namespace take most of it" in outcome.message
        assert checkpoint.obstacle(greedy) == outcome
        assert checkpoint.recall(greedy.uid) is None
        assert checkpoint.obstacle(other) is None
        assert await checkpoint.commit(other, "claim") is None


async def test_what_is_dropped_makes_room() -> None:
    async with kubernetes_at("http://127.0.0.1:1") as api:
        checkpoint = Checkpoint(EveryBucket(api), "own", lambda: 1000.0)
        fill(checkpoint)
        (one,) = in_one_configmap(1, prefix="more")
        assert checkpoint.obstacle(one) is not None
        for each in in_one_configmap(SHARE // RESERVED + 1, prefix="full")[-2:]:
            checkpoint.drop(each.uid)
        assert checkpoint.left_out == 0
        assert checkpoint.obstacle(one) is None
        assert checkpoint.largest < SHARE


async def test_a_record_that_grows_too_long_leaves_the_former_one_in_its_place() -> None:
    async with kubernetes_at("http://127.0.0.1:1") as api:
        checkpoint = Checkpoint(EveryBucket(api), "own", lambda: 1000.0)
        checkpoint.put(LEASE, "former", within=0.0)
        checkpoint.put(LEASE, "ä" * (LONGEST // 2 + 1), within=0.0)
        assert (checkpoint.recall(LEASE.uid), checkpoint.left_out) == ("former", 1)
        checkpoint.put(LEASE, "newer", within=0.0)
        assert (checkpoint.recall(LEASE.uid), checkpoint.left_out) == ("newer", 0)


async def test_what_an_earlier_process_left_counts_though_it_is_too_much() -> None:
    async with kubernetes_at("http://127.0.0.1:1") as api:
        checkpoint = Checkpoint(EveryBucket(api), "own", lambda: 1000.0)
        checkpoint.take(0, {each.uid: "x" * 1000 for each in in_one_configmap(1_040)})
        assert checkpoint.largest == 1_040_000
        (one,) = in_one_configmap(1, prefix="more")
        assert checkpoint.obstacle(one) is not None
        same, *_ = in_one_configmap(1)
        checkpoint.put(same, "y" * 1000, within=0.0)
        assert checkpoint.recall(same.uid) == "y" * 1000, "what is there can still change"
        checkpoint.leave(0)
        assert (checkpoint.largest, checkpoint.recall(same.uid)) == (0, None)


REFUSALS = [
    Answer(status=403, body={"kind": "Status", "message": "exceeded quota"}),
    Answer(status=413, body={"kind": "Status", "message": "Request entity too large"}),
    Answer(status=422, body={"kind": "Status", "message": "Too long"}),
]


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: str(refusal.status))
async def test_who_waits_for_a_write_that_is_refused_is_told_at_once_and_it_is_repeated(refusal: Answer) -> None:
    async with serving() as server, writing(server) as checkpoint:
        server.script = always(refusal)
        outcome = await checkpoint.commit(LEASE, "claim")
        assert isinstance(outcome, NotDone)
        assert str(refusal.body["message"]) in outcome.message  # type: ignore[index]
        server.script = always(Answer(body={"metadata": {}}))
        await until(lambda: len(server.seen) == 2, "the repetition")
        assert await checkpoint.commit(LEASE, "claim again") is None
        assert checkpoint.failing_for == 0.0


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        (Answer(status=503, body={"kind": "Status", "message": "etcd is away"}), "etcd is away"),
        (Answer(status=429, body={"kind": "Status", "message": "slow down"}), "slow down"),
        (Answer(fault=Fault.RESET), "did not answer"),
        (Answer(fault=Fault.HANG), "too much to do"),
    ],
    ids=["503", "429", "reset", "hang"],
)
async def test_who_waits_for_a_write_that_does_not_succeed_waits_for_a_bounded_time(trouble: Answer, said: str) -> None:
    async with serving() as server, writing(server, commit_timeout=0.3) as checkpoint:
        server.script = always(trouble)
        outcome = await checkpoint.commit(LEASE, "claim")
        assert isinstance(outcome, NotDone)
        assert said in outcome.message


async def test_half_a_minute_of_failed_writes_is_known_before_a_claim_takes_its_turn() -> None:
    async with serving() as server, writing(server, commit_timeout=0.3) as checkpoint:
        server.script = always(Answer(status=503, body={"kind": "Status", "message": "etcd is away"}))
        assert checkpoint.obstacle(LEASE) is None
        await checkpoint.commit(LEASE, "claim")
        await until(lambda: checkpoint.failing_for >= 0.3, "the time")
        obstacle = checkpoint.obstacle(LEASE)
        assert obstacle is not None
        assert "etcd is away" in obstacle.message
        server.script = always(Answer(body={"metadata": {}}))
        await until(lambda: checkpoint.obstacle(LEASE) is None, "a write")


# --- Buckets that come and go --------------------------------------------------------------------------------------

BUCKET = bucket_of(LEASE.uid)


@dataclass
class Writer:
    """Who writes the buckets: it answers when the test says so."""

    problem: NotWritten | None = None
    seen: list[tuple[int, Mapping[str, str | None]]] = field(default_factory=list)
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)

    async def write(self, bucket: int, changed: Mapping[str, str | None]) -> NotWritten | None:
        self.seen.append((bucket, changed))
        await self.may_answer.wait()
        return self.problem


@asynccontextmanager
async def writing_by(writer: Writer) -> AsyncIterator[Checkpoint]:
    checkpoint = Checkpoint(writer, "own", lambda: 1000.0)
    task = asyncio.create_task(checkpoint.run())
    yield checkpoint
    task.cancel()
    await asyncio.wait({task})


async def test_a_resources_record_is_in_the_bucket_of_its_uid() -> None:
    writer = Writer()
    writer.may_answer.set()
    async with writing_by(writer) as checkpoint:
        await checkpoint.commit(LEASE, "claimed")
        assert writer.seen == [(BUCKET, {LEASE.uid: "claimed"})]


async def test_what_is_under_way_is_not_written_yet_and_goes_along_with_a_hand_over() -> None:
    writer = Writer()
    async with writing_by(writer) as checkpoint:
        checkpoint.take(BUCKET, {LEASE.uid: "old", "other": "kept"})
        claim = asyncio.create_task(checkpoint.commit(LEASE, "claimed"))
        await until(lambda: writer.seen, "the write")
        assert checkpoint.unwritten(BUCKET, everything=False) == {LEASE.uid: "claimed"}
        assert checkpoint.unwritten(BUCKET, everything=True) == {LEASE.uid: "claimed", "other": "kept"}
        writer.may_answer.set()
        await claim
        assert checkpoint.unwritten(BUCKET, everything=False) == {}


@pytest.mark.parametrize("problem", [None, NotDone("another process holds the bucket")], ids=["done", "not done"])
async def test_who_waits_for_a_write_of_a_bucket_that_is_another_processs_is_cancelled(
    problem: NotWritten | None,
) -> None:
    writer = Writer(problem)
    async with writing_by(writer) as checkpoint:
        claim = asyncio.create_task(checkpoint.commit(LEASE, "claimed"))
        await until(lambda: writer.seen, "the write")
        checkpoint.leave(BUCKET)
        checkpoint.take(BUCKET, {LEASE.uid: "of the next tenure"})
        writer.may_answer.set()
        await asyncio.wait({claim})
        assert claim.cancelled()
        assert checkpoint.recall(LEASE.uid) == "of the next tenure"
        assert checkpoint.unwritten(BUCKET, everything=False) == {}, "nothing of the former tenure is written in it"
