"""A guarded write changes the object that was read, or nothing."""

from collections.abc import AsyncIterator

import pytest

from support.scripted_server import Answer, ScriptedServer, always, in_turn, kubernetes_at, serving
from worklease.api.names import Reference
from worklease.cluster.client import Done, Gone, KubernetesApi, Refused, Reply
from worklease.cluster.guarded_write import MOST_VERSIONS, Metadata, write_guarded

UID = "6f5c2a1e-0000-0000-0000-000000000001"
REFERENCE = Reference("sandboxes", "demo", UID)
CONFLICT = Answer(status=409, body={"message": "the object has been modified"})
WRITTEN = Answer(body={"metadata": {"resourceVersion": "9"}})


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with serving() as scripted:
        yield scripted


@pytest.fixture
async def kubernetes(server: ScriptedServer) -> AsyncIterator[KubernetesApi]:
    async with kubernetes_at(server.url) as api:
        yield api


def found(version: str, uid: str = UID) -> Answer:
    return Answer(body={"metadata": {"uid": uid, "resourceVersion": version}})


class Writer:
    """Writes, and notes the version that guarded each write."""

    def __init__(self, api: KubernetesApi) -> None:
        self.api = api
        self.versions: list[str] = []

    async def __call__(self, metadata: Metadata) -> Reply:
        self.versions.append(metadata["resourceVersion"])
        return await self.api.call("PATCH", REFERENCE.path, body={})


async def test_a_version_that_is_known_saves_the_read(server: ScriptedServer, kubernetes: KubernetesApi) -> None:
    server.script = always(WRITTEN)
    write = Writer(kubernetes)
    assert isinstance(await write_guarded(kubernetes, REFERENCE, write, version="7"), Done)
    assert (write.versions, [seen.method for seen in server.seen]) == (["7"], ["PATCH"])


async def test_after_a_conflict_the_version_is_read(server: ScriptedServer, kubernetes: KubernetesApi) -> None:
    server.script = in_turn(CONFLICT, found("8"), WRITTEN)
    write = Writer(kubernetes)
    assert isinstance(await write_guarded(kubernetes, REFERENCE, write, version="7"), Done)
    assert write.versions == ["7", "8"]


async def test_conflicts_without_end_are_left_to_the_caller(server: ScriptedServer, kubernetes: KubernetesApi) -> None:
    server.script = lambda seen: found("8") if seen.method == "GET" else CONFLICT
    write = Writer(kubernetes)
    outcome = await write_guarded(kubernetes, REFERENCE, write)
    assert isinstance(outcome, Refused)
    assert (outcome.status, len(write.versions)) == (409, MOST_VERSIONS)


async def test_a_successor_is_never_written_to(server: ScriptedServer, kubernetes: KubernetesApi) -> None:
    server.script = in_turn(CONFLICT, found("8", uid="another"))
    write = Writer(kubernetes)
    assert await write_guarded(kubernetes, REFERENCE, write, version="7") == Gone()
    assert write.versions == ["7"]


async def test_a_read_that_is_refused_writes_nothing(server: ScriptedServer, kubernetes: KubernetesApi) -> None:
    server.script = always(Answer(status=403, body={"message": "no"}))
    write = Writer(kubernetes)
    assert await write_guarded(kubernetes, REFERENCE, write) == Refused(403, "no")
    assert write.versions == []


async def test_a_verdict_without_a_call_is_given_as_it_is(server: ScriptedServer, kubernetes: KubernetesApi) -> None:
    async def decline(metadata: Metadata) -> Reply | str:
        return f"nothing to write to version {metadata['resourceVersion']}"

    server.script = always(found("8"))
    assert await write_guarded(kubernetes, REFERENCE, decline) == "nothing to write to version 8"
    assert [seen.method for seen in server.seen] == ["GET"]
