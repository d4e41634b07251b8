"""The operator's finalizer is added to and removed from exactly one object, and others' finalizers stay."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from support.every_bucket import allowed
from support.scripted_server import Answer, Fault, ScriptedServer, Seen, always, in_turn, kubernetes_at, serving
from worklease.api.names import FINALIZER, Reference
from worklease.cluster.client import Gone, KubernetesApi, NotDone
from worklease.cluster.finalizer import Set, add, remove
from worklease.cluster.guarded_write import MOST_VERSIONS

UID = "6f5c2a1e-0000-0000-0000-000000000001"
REFERENCE = Reference("sandboxes", "demo", UID)
PATH = "/apis/worklease.dev/v1alpha1/namespaces/sandboxes/workleases/demo"
LABELS = {"worklease.dev/bucket": "12"}
KOPF = "worklease.dev/timer"
OTHER = "example.com/backup"
CONFLICT = Answer(status=409, body={"message": "the object has been modified"})


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with serving() as scripted:
        yield scripted


@pytest.fixture
async def kubernetes(server: ScriptedServer) -> AsyncIterator[KubernetesApi]:
    async with kubernetes_at(server.url) as api:
        yield api


def found(*finalizers: str, uid: str = UID, version: str = "7", **metadata: Any) -> Answer:
    known = {"name": "demo", "uid": uid, "resourceVersion": version} | metadata
    return Answer(body={"metadata": known | ({"finalizers": list(finalizers)} if finalizers else {})})


def refused(status: int) -> Answer:
    return Answer(status=status, body={"message": "in the server's words"})


def patches(server: ScriptedServer) -> list[Any]:
    return [seen.json["metadata"] for seen in server.seen if seen.method == "PATCH"]


async def test_it_is_added(server: ScriptedServer, kubernetes: KubernetesApi) -> None:
    server.script = always(found())
    assert isinstance(await add(kubernetes, REFERENCE, allowed), Set)
    get, patch = server.seen
    assert (get.method, get.target, patch.target) == ("GET", PATH, f"{PATH}?timeout=2s")
    assert patch.headers["content-type"] == "application/merge-patch+json"
    assert patches(server) == [{"uid": UID, "resourceVersion": "7", "finalizers": [FINALIZER], "labels": LABELS}]


async def test_it_is_removed(server: ScriptedServer, kubernetes: KubernetesApi) -> None:
    server.script = always(found(FINALIZER, deletionTimestamp="2026-11-22T03:52:26Z"))
    assert isinstance(await remove(kubernetes, REFERENCE, allowed), Set)
    assert patches(server)[0]["finalizers"] == []


async def test_others_finalizers_are_kept_in_their_order(server: ScriptedServer, kubernetes: KubernetesApi) -> None:
    server.script = in_turn(found(OTHER, KOPF), found(), found(OTHER, FINALIZER, KOPF), found())
    await add(kubernetes, REFERENCE, allowed)
    await remove(kubernetes, REFERENCE, allowed)
    assert [patch["finalizers"] for patch in patches(server)] == [[OTHER, KOPF, FINALIZER], [OTHER, KOPF]]


async def test_what_is_as_it_should_be_is_not_written(server: ScriptedServer, kubernetes: KubernetesApi) -> None:
    server.script = in_turn(found(FINALIZER, labels=LABELS), found(OTHER))
    assert isinstance(await add(kubernetes, REFERENCE, allowed), Set)
    assert isinstance(await remove(kubernetes, REFERENCE, allowed), Set)
    assert patches(server) == []


async def test_a_finalizer_without_the_label_of_its_bucket_gets_that(
    server: ScriptedServer, kubernetes: KubernetesApi
) -> None:
    server.script = always(found(FINALIZER, OTHER))
    assert isinstance(await add(kubernetes, REFERENCE, allowed), Set)
    (patch,) = patches(server)
    assert (sorted(patch["finalizers"]), patch["labels"]) == (sorted([FINALIZER, OTHER]), LABELS)


async def test_what_may_not_be_written_any_more_after_the_read_is_not(
    server: ScriptedServer, kubernetes: KubernetesApi
) -> None:
    server.script = always(found())
    assert isinstance(await add(kubernetes, REFERENCE, lambda: not server.seen), NotDone)
    assert patches(server) == []


async def test_a_conflict_is_read_again(server: ScriptedServer, kubernetes: KubernetesApi) -> None:
    server.script = in_turn(found(), CONFLICT, found(KOPF, version="8"), found())
    assert isinstance(await add(kubernetes, REFERENCE, allowed), Set)
    assert patches(server)[1] == {"uid": UID, "resourceVersion": "8", "finalizers": [KOPF, FINALIZER], "labels": LABELS}


async def test_conflicts_without_end_are_left_to_the_caller(server: ScriptedServer, kubernetes: KubernetesApi) -> None:
    server.script = lambda seen: CONFLICT if seen.method == "PATCH" else found()
    outcome = await add(kubernetes, REFERENCE, allowed)
    assert isinstance(outcome, NotDone)
    assert "modified" in outcome.message
    assert len(patches(server)) == MOST_VERSIONS


@pytest.mark.parametrize("write", [add, remove])
async def test_an_object_that_is_gone_is_gone(server: ScriptedServer, kubernetes: KubernetesApi, write: Any) -> None:
    server.script = always(refused(404))
    assert isinstance(await write(kubernetes, REFERENCE, allowed), Gone)


@pytest.mark.parametrize(("write", "present"), [(add, ()), (remove, (FINALIZER,))])
async def test_an_object_that_goes_between_is_gone(
    server: ScriptedServer, kubernetes: KubernetesApi, write: Any, present: tuple[str, ...]
) -> None:
    server.script = in_turn(found(*present), refused(404))
    assert isinstance(await write(kubernetes, REFERENCE, allowed), Gone)


@pytest.mark.parametrize(("write", "present"), [(add, ()), (remove, (FINALIZER,))])
async def test_a_successor_is_left_alone(
    server: ScriptedServer, kubernetes: KubernetesApi, write: Any, present: tuple[str, ...]
) -> None:
    server.script = always(found(*present, uid="another"))
    assert isinstance(await write(kubernetes, REFERENCE, allowed), Gone)
    assert patches(server) == []


async def test_a_successor_that_comes_between_is_left_alone(server: ScriptedServer, kubernetes: KubernetesApi) -> None:
    server.script = in_turn(found(), CONFLICT, found(uid="another"))
    assert isinstance(await add(kubernetes, REFERENCE, allowed), Gone)
    assert len(patches(server)) == 1


async def test_an_object_on_its_way_out_is_not_given_one(server: ScriptedServer, kubernetes: KubernetesApi) -> None:
    server.script = always(found(OTHER, deletionTimestamp="2026-11-22T03:52:26Z"))
    assert isinstance(await add(kubernetes, REFERENCE, allowed), Gone)
    assert patches(server) == []


async def test_one_that_was_added_by_a_write_without_an_answer_is_not_forgotten(
    server: ScriptedServer, kubernetes: KubernetesApi
) -> None:
    # The first reply was lost, and the object is being deleted: nothing else will remove the finalizer.
    server.script = in_turn(
        found(), Answer(fault=Fault.RESET), found(FINALIZER, deletionTimestamp="2026-11-22T03:52:26Z")
    )
    assert isinstance(await add(kubernetes, REFERENCE, allowed), NotDone)
    assert isinstance(await add(kubernetes, REFERENCE, allowed), Set)


@pytest.mark.parametrize("method", ["GET", "PATCH"])
@pytest.mark.parametrize("answer", [refused(403), refused(422), refused(500), Answer(fault=Fault.RESET)])
@pytest.mark.parametrize(("write", "present"), [(add, ()), (remove, (FINALIZER,))])
async def test_what_was_not_done_says_why(  # noqa: PLR0917 (pytest passes them by name)
    server: ScriptedServer,
    kubernetes: KubernetesApi,
    method: str,
    answer: Answer,
    write: Any,
    present: tuple[str, ...],
) -> None:
    def script(seen: Seen) -> Answer:
        return answer if seen.method == method else found(*present)

    server.script = script
    outcome = await write(kubernetes, REFERENCE, allowed)
    assert isinstance(outcome, NotDone)
    assert "in the server's words" in outcome.message or "did not answer" in outcome.message


async def test_an_answer_by_something_in_between_does_not_let_the_object_go(
    server: ScriptedServer, kubernetes: KubernetesApi
) -> None:
    server.script = always(Answer(body=b"<html>please log in</html>"))
    assert isinstance(await add(kubernetes, REFERENCE, allowed), NotDone)
