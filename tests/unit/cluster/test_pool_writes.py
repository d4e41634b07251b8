"""What the answers to a pool's writes prove, and which object each write touches; against a scripted API server."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from support.every_bucket import allowed
from support.scripted_server import Answer, Fault, ScriptedServer, Seen, always, kubernetes_at, serving
from worklease.api.names import Reference
from worklease.cluster.client import Done, Gone, NotDone
from worklease.cluster.pool_writes import (
    LeaseExists,
    LeaseMade,
    LeaseMaybeMade,
    LeaseNotMade,
    PoolWrites,
)

LEASES = "/apis/worklease.dev/v1alpha1/namespaces/team/workleases"
SECRETS = "/api/v1/namespaces/team/secrets"
BODY: dict[str, Any] = {"metadata": {"name": "agents-1", "namespace": "team"}, "spec": {}}
OWNER = {"apiVersion": "worklease.dev/v1alpha1", "kind": "WorkLease", "name": "agents-1", "uid": "uid-1"}
LEASE = Reference("team", "agents-1", "uid-1")


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with serving() as scripted:
        yield scripted


@pytest.fixture
async def writes(server: ScriptedServer) -> AsyncIterator[PoolWrites]:
    async with kubernetes_at(server.url, call_timeout=0.5) as api:
        yield PoolWrites(api)


def refused(status: int, reason: str = "", message: str = "no") -> Answer:
    return Answer(status=status, body={"kind": "Status", "reason": reason, "message": message})


EXISTS = refused(409, "AlreadyExists")
ABSENT = refused(404, "NotFound", 'workleases.worklease.dev "agents-1" not found')


def by_method(**answers: Answer) -> Callable[[Seen], Answer]:
    return lambda seen: answers[seen.method]


# --- The lease -------------------------------------------------------------------------------------------------------


async def test_a_lease_is_made(server: ScriptedServer, writes: PoolWrites) -> None:
    made = BODY | {"metadata": {**BODY["metadata"], "uid": "uid-1"}}
    server.script = always(Answer(status=201, body=made))
    assert await writes.make_lease(BODY, allowed) == LeaseMade(made)
    (seen,) = server.seen
    assert (seen.method, seen.path, seen.json) == ("POST", LEASES, BODY)
    assert seen.query == {"timeout": ["2s"]}, "the API server gives it up before another process counts the leases"


async def test_a_lease_of_that_name_is_read_after_its_creation_was_refused(
    server: ScriptedServer, writes: PoolWrites
) -> None:
    server.script = by_method(POST=EXISTS, GET=Answer(body=BODY))
    assert await writes.make_lease(BODY, allowed) == LeaseExists(BODY)
    assert [(seen.method, seen.path) for seen in server.seen] == [("POST", LEASES), ("GET", f"{LEASES}/agents-1")]


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (refused(403, "Forbidden", "exceeded quota"), LeaseNotMade),
        (refused(403, "Forbidden", "because it is being terminated"), LeaseNotMade),
        (refused(422, "Invalid"), LeaseNotMade),
        (refused(429, "TooManyRequests"), LeaseNotMade),
        (refused(500, "InternalError"), LeaseMaybeMade),
        (refused(504, "Timeout"), LeaseMaybeMade),
        (Answer(fault=Fault.HANG), LeaseMaybeMade),
        (Answer(fault=Fault.RESET), LeaseMaybeMade),
        (Answer(status=201, body=b"<html>"), LeaseMaybeMade),
    ],
)
async def test_only_a_refusal_proves_that_no_lease_was_made(
    server: ScriptedServer, writes: PoolWrites, answer: Answer, kind: type
) -> None:
    server.script = always(answer)
    assert isinstance(await writes.make_lease(BODY, allowed), kind)


@pytest.mark.parametrize(
    ("read", "kind"),
    [(ABSENT, LeaseNotMade), (refused(500), LeaseMaybeMade), (Answer(fault=Fault.RESET), LeaseMaybeMade)],
)
async def test_a_name_that_is_taken_and_cannot_be_read_may_be_of_an_earlier_creation(
    server: ScriptedServer, writes: PoolWrites, read: Answer, kind: type
) -> None:
    server.script = by_method(POST=EXISTS, GET=read)
    assert isinstance(await writes.make_lease(BODY, allowed), kind)


async def test_the_leases_of_a_pool_are_listed_from_no_cache(server: ScriptedServer, writes: PoolWrites) -> None:
    server.script = always(Answer(body={"items": [BODY]}))
    assert await writes.list_leases("team", "agents") == [BODY]
    (seen,) = server.seen
    assert seen.path == LEASES
    assert seen.query["labelSelector"] == ["worklease.dev/pool=agents"]
    assert "resourceVersion" not in seen.query
    server.script = always(refused(500))
    assert isinstance(await writes.list_leases("team", "agents"), NotDone)


# --- The Secret ------------------------------------------------------------------------------------------------------


async def test_a_token_is_written(server: ScriptedServer, writes: PoolWrites) -> None:
    server.script = always(Answer(status=201, body=BODY))
    assert isinstance(await writes.write_token(BODY, allowed), Done)
    assert [(seen.method, seen.path) for seen in server.seen] == [("POST", SECRETS)]


async def test_the_token_of_an_earlier_poll_is_replaced_as_it_was_read(
    server: ScriptedServer, writes: PoolWrites
) -> None:
    there = {"metadata": {"name": "agents-1", "resourceVersion": "7", "ownerReferences": [OWNER]}}
    server.script = by_method(POST=EXISTS, GET=Answer(body=there), PUT=Answer(body=BODY))
    assert isinstance(await writes.write_token(BODY, allowed), Done)
    put = server.seen[-1]
    assert (put.method, put.path) == ("PUT", f"{SECRETS}/agents-1")
    assert put.json["metadata"] == {**BODY["metadata"], "resourceVersion": "7"}


async def test_a_secret_of_somebody_else_is_left_alone(server: ScriptedServer, writes: PoolWrites) -> None:
    server.script = by_method(POST=EXISTS, GET=Answer(body={"metadata": {"name": "agents-1"}}))
    outcome = await writes.write_token(BODY, allowed)
    assert isinstance(outcome, NotDone)
    assert "agents-1 is there and is not of a WorkLease" in outcome.message
    assert [seen.method for seen in server.seen] == ["POST", "GET"]


@pytest.mark.parametrize(
    "answers",
    [
        {"POST": refused(403)},
        {"POST": Answer(fault=Fault.HANG)},
        {"POST": EXISTS, "GET": refused(404)},
        {"POST": EXISTS, "GET": Answer(body={"metadata": {"ownerReferences": [OWNER]}}), "PUT": refused(409)},
    ],
)
async def test_a_token_that_was_not_written_says_so(
    server: ScriptedServer, writes: PoolWrites, answers: dict[str, Answer]
) -> None:
    server.script = by_method(**answers)
    outcome = await writes.write_token(BODY, allowed)
    assert isinstance(outcome, NotDone)
    assert "agents-1" in outcome.message


# --- The end ---------------------------------------------------------------------------------------------------------


async def test_a_lease_ends_by_the_pools_policy(server: ScriptedServer, writes: PoolWrites) -> None:
    assert isinstance(await writes.end_lease(LEASE, "Release", allowed), Done)
    patch, deletion = server.seen
    assert patch.json == [
        {"op": "test", "path": "/metadata/uid", "value": "uid-1"},
        {"op": "add", "path": "/spec/deletionPolicy", "value": "Release"},
    ]
    assert deletion.json == {"preconditions": {"uid": "uid-1"}}


@pytest.mark.parametrize(
    ("answers", "kind"),
    [
        ({"PATCH": ABSENT}, Gone),
        ({"PATCH": Answer(), "DELETE": ABSENT}, Gone),
        ({"PATCH": refused(422, "Invalid", "the test failed")}, NotDone),
        ({"PATCH": Answer(), "DELETE": Answer(fault=Fault.RESET)}, NotDone),
    ],
)
async def test_a_lease_that_is_gone_has_ended_and_another_trouble_is_told(
    server: ScriptedServer, writes: PoolWrites, answers: dict[str, Answer], kind: type
) -> None:
    server.script = by_method(**answers)
    assert isinstance(await writes.end_lease(LEASE, "Release", allowed), kind)
