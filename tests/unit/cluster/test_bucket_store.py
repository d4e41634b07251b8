"""A bucket is written only as it was read, an earlier checkpoint is taken once, and a newer format is refused."""

from datetime import UTC, datetime
from typing import Any

import pytest

from support.scripted_server import Answer, Fault, Script, ScriptedServer, Seen, always, in_turn, kubernetes_at, serving
from worklease.cluster.bucket_store import (
    BucketHead,
    BucketStore,
    NewerFormat,
    Overtaken,
    StoredBucket,
    WrittenBucket,
    bucket_name,
    former_name,
)
from worklease.cluster.client import METADATA, NoAnswer, NotDone

NOW = datetime(2026, 11, 29, 6, tzinfo=UTC)
LONG_AGO = [{"manager": "operator", "time": "2026-11-29T05:59:44Z"}, {"manager": "kubectl"}]

HEAD = BucketHead("place/1-2-a", 7, 1_790_000_000.25)
WRITTEN = Answer(body={"metadata": {"resourceVersion": "6"}})
NOT_FOUND = Answer(status=404, body={"message": "not found", "reason": "NotFound"})
CONFLICT = Answer(status=409, body={"message": "the object has been modified", "reason": "Conflict"})


def config_map(version: str, data: dict[str, str] | None = None, **annotations: str) -> dict[str, Any]:
    named = {f"worklease.dev/{name}": value for name, value in annotations.items()}
    metadata = {"resourceVersion": version, "annotations": named, "managedFields": LONG_AGO}
    return {"metadata": metadata, "data": data}


def stored(**found: dict[str, Any]) -> Script:
    """Return a server that has these ConfigMaps, and takes every write."""
    by_name = {name.replace("_", "-"): body for name, body in found.items()}

    def script(seen: Seen) -> Answer:
        name = seen.path.rsplit("/", 1)[1]
        if seen.method != "GET":
            return WRITTEN
        if name == "configmaps":
            return Answer(body={"items": [{"metadata": {"name": each}} for each in by_name]})
        return Answer(body=by_name[name]) if name in by_name else NOT_FOUND

    return script


async def taken(server: ScriptedServer) -> StoredBucket | Overtaken | NotDone:
    async with kubernetes_at(server.url) as api:
        return await BucketStore(api, "own").take_former(3, {3}, now=1000.0, utc=NOW)


# --- Reads and writes --------------------------------------------------------------------------------------------


async def test_a_bucket_is_read_as_it_was_written() -> None:
    async with serving() as server, kubernetes_at(server.url) as api:
        store = BucketStore(api, "own")
        server.script = always(WRITTEN)
        assert await store.write(3, "5", HEAD, {"uid-1": "{}", "uid-2": None}) == WrittenBucket("6")
        seen = server.seen[0]
        assert (seen.method, seen.path) == ("PATCH", "/api/v1/namespaces/own/configmaps/worklease-bucket-03")
        assert seen.headers["accept"] == METADATA
        assert seen.json["metadata"]["resourceVersion"] == "5"
        assert seen.json["data"] == {"uid-1": "{}", "uid-2": None}
        annotations = seen.json["metadata"]["annotations"]
        body = {"metadata": {"resourceVersion": "6", "annotations": annotations}, "data": {"uid-1": "{}"}}
        server.script = always(Answer(body=body))
        assert await store.read(3) == StoredBucket("6", HEAD, {"uid-1": "{}"})


async def test_a_bucket_that_does_not_exist_is_vacant_and_is_made() -> None:
    async with serving() as server, kubernetes_at(server.url) as api:
        store = BucketStore(api, "own")
        server.script = stored()
        assert await store.read(3) == StoredBucket(None, BucketHead(), {})
        assert await store.write(3, None, HEAD, {"uid-1": "{}", "uid-2": None}) == WrittenBucket("6")
        assert (server.seen[1].method, server.seen[1].json["data"]) == ("POST", {"uid-1": "{}"})


@pytest.mark.parametrize("version", ["5", None])
async def test_who_writes_a_bucket_that_was_written_since_is_overtaken(version: str | None) -> None:
    async with serving() as server, kubernetes_at(server.url) as api:
        server.script = always(CONFLICT)
        assert await BucketStore(api, "own").write(3, version, HEAD, {}) == Overtaken()


async def test_who_writes_a_bucket_that_was_deleted_is_overtaken() -> None:
    async with serving() as server, kubernetes_at(server.url) as api:
        server.script = always(NOT_FOUND)
        assert await BucketStore(api, "own").write(3, "5", HEAD, {}) == Overtaken()


async def test_without_an_answer_it_is_said_and_left_open() -> None:
    async with serving() as server, kubernetes_at(server.url) as api:
        server.script = always(Answer(fault=Fault.RESET))
        store = BucketStore(api, "own")
        outcome = await store.read(3)
        assert isinstance(outcome, NotDone)
        assert "worklease-bucket-03" in outcome.message
        assert isinstance(await store.write(3, "5", HEAD, {}), NoAnswer)


@pytest.mark.parametrize("found", ["3", "2.1", "next\n"])
async def test_a_bucket_of_a_newer_format_is_refused_with_what_to_do(found: str) -> None:
    async with serving() as server, kubernetes_at(server.url) as api:
        server.script = always(Answer(body=config_map("5", format=found)))
        with pytest.raises(NewerFormat, match=r"worklease-bucket-03 has format .* reads format 2: install") as refusal:
            await BucketStore(api, "own").read(3)
        assert "\n" not in str(refusal.value)


async def test_what_somebody_edited_stops_nobody() -> None:
    async with serving() as server, kubernetes_at(server.url) as api:
        server.script = always(Answer(body=config_map("5", {"uid-1": "{}"}, epoch="many", taken="nan")))
        assert await BucketStore(api, "own").read(3) == StoredBucket("5", BucketHead(), {"uid-1": "{}"})


# --- The checkpoint of an earlier version ------------------------------------------------------------------------


async def test_the_checkpoint_of_an_earlier_version_becomes_the_bucket_and_is_emptied() -> None:
    async with serving() as server:
        server.script = stored(worklease_checkpoint_03=config_map("4", {"uid-1": "{}"}))
        assert await taken(server) == StoredBucket("6", BucketHead(), {"uid-1": "{}"})
        made, emptied = server.seen[2], server.seen[3]
        assert (made.method, made.json["metadata"]["name"]) == ("POST", bucket_name(3))
        assert made.json["data"] == {"uid-1": "{}"}
        assert emptied.path.endswith(former_name(3))
        assert emptied.json == {"metadata": {"resourceVersion": "4"}, "data": {"uid-1": None}}


async def test_a_checkpoint_that_an_earlier_version_still_writes_is_not_taken() -> None:
    async with serving() as server:
        known = stored(worklease_checkpoint_03=config_map("4", {"uid-1": "{}"}))
        server.script = lambda seen: CONFLICT if seen.method == "PATCH" else known(seen)
        assert await taken(server) == Overtaken()


async def test_a_checkpoint_that_was_just_written_is_taken_only_after_fifteen_silent_seconds() -> None:
    async with serving() as server, kubernetes_at(server.url) as api:
        store = BucketStore(api, "own")
        for at, version, is_taken in (
            (1000.0, "4", False),
            (1014.9, "5", False),
            (1029.0, "5", False),
            (1029.9, "5", True),
        ):
            former = config_map(version, {"uid-1": "{}"})
            former["metadata"]["managedFields"] = [{"manager": "operator", "time": "2026-11-29T05:59:46Z"}]
            server.script = stored(worklease_checkpoint_03=former)
            outcome = await store.take_former(3, {3}, now=at, utc=NOW)
            assert isinstance(outcome, StoredBucket) is is_taken
            assert is_taken or (
                isinstance(outcome, NotDone) and "worklease-checkpoint-03 was written" in outcome.message
            )
        assert [seen.method for seen in server.seen if seen.method != "GET"] == ["POST", "PATCH"]


@pytest.mark.parametrize(("written", "found"), [("05:59:46", former_name(3)), ("05:59:44", None)])
async def test_an_earlier_version_that_has_just_written_is_found_before_an_upgrade(
    written: str, found: str | None
) -> None:
    async with serving() as server, kubernetes_at(server.url) as api:
        former = config_map("4", {"uid-1": "{}"})
        former["metadata"]["managedFields"] = [{"manager": "operator", "time": f"2026-11-29T{written}Z"}]
        server.script = stored(worklease_checkpoint_03=former)
        assert await BucketStore(api, "own").find_former(utc=NOW) == found
        assert {seen.method for seen in server.seen} == {"GET"}


async def test_a_bucket_that_exists_is_left_as_it_is_and_what_a_crash_left_is_emptied() -> None:
    bucket = config_map("9", {"uid-1": "new"}, holder=HEAD.holder, epoch="7", format="2")
    async with serving() as server:
        former = config_map("4", {"uid-1": "old"})
        server.script = stored(worklease_bucket_03=bucket, worklease_checkpoint_03=former)
        assert await taken(server) == StoredBucket("9", BucketHead(HEAD.holder, 7), {"uid-1": "new"})
        assert [seen.path.rsplit("/", 1)[1] for seen in server.seen if seen.method == "PATCH"] == [former_name(3)]


async def test_a_new_installation_makes_an_empty_bucket() -> None:
    async with serving() as server:
        server.script = stored()
        assert await taken(server) == StoredBucket("6", BucketHead(), {})
        assert [seen.method for seen in server.seen] == ["GET", "GET", "POST"]


async def test_of_two_that_begin_at_once_one_makes_the_bucket() -> None:
    async with serving() as server:
        exists = Answer(status=409, body={"message": "it exists", "reason": "AlreadyExists"})
        server.script = in_turn(NOT_FOUND, NOT_FOUND, exists)
        assert await taken(server) == Overtaken()


async def test_a_checkpoint_that_cannot_be_read_is_not_taken_for_empty() -> None:
    async with serving() as server:
        forbidden = Answer(status=403, body={"message": "forbidden"})
        server.script = in_turn(NOT_FOUND, forbidden)
        outcome = await taken(server)
        assert isinstance(outcome, NotDone)
        assert "worklease-checkpoint-03 could not be read: forbidden" in outcome.message
