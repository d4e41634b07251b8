"""The calls by which a resource looks at its session: when they go, with which key, and what they leave alone."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from pydantic import SecretStr

from support.keeping import RENEWED, SECRET, Keeping, keeping, resource, wall
from support.scripted_server import Answer, Seen, until
from worklease.api.models import WorkLease
from worklease.keeper.kept import LeaseOptions, Refusal
from worklease.keeper.resume import resume
from worklease.keeper.session_calls import SIDE_BY_SIDE, SessionCalls
from worklease.rules.sessions import Activity
from worklease.rules.situation import Attempt, Policy
from worklease.work_api.budget import CallClass

RUNNING = Answer(body={"status": "running", "archived_at": None})
IDLE = Answer(body={"status": "idle", "archived_at": None})
DONE = Answer(body={"data": [{"id": "event-1", "stop_reason": {"type": "end_turn"}}]})
AWAY = Answer(status=503)
OPTIONS = LeaseOptions(interval=30.0, credentials_secret="keys")


def sandbox(number: int = 1) -> dict[str, Any]:
    """Return a labelled pod that runs."""
    labels = {"worklease.dev/environment-id": "env_1", "worklease.dev/work-id": f"work_{number}"}
    metadata = {"name": f"pod-{number}", "namespace": "sandboxes", "uid": f"uid-pod-{number}", "labels": labels}
    spec = {"terminationGracePeriodSeconds": 5, "containers": [{"name": "sandbox"}]}
    return {"metadata": metadata, "spec": spec, "status": {"phase": "Running"}}


@asynccontextmanager
async def world(session: Answer = RUNNING, events: Answer = DONE) -> AsyncIterator[Keeping]:
    """Run a keeper whose Work API renews every lease, and says this of every session."""

    def kubernetes(seen: Seen) -> Answer:
        if "/secrets/" in seen.path:
            return SECRET
        return Answer(body={"metadata": {"uid": "uid-lease-1", "resourceVersion": "7"}})

    def work_api(seen: Seen) -> Answer:
        if seen.path.endswith("/events"):
            return events
        return session if "/sessions/" in seen.path else Answer(body=RENEWED)

    async with keeping(kubernetes) as there:
        there.work_api.script = work_api
        yield there


def begin(there: Keeping, number: int = 1, *, session: str | None = None, **limits: int) -> None:
    """Begin with a lease that is held, whose sandbox runs, and whose next beat is due."""
    body = resource(f"lease-{number}", since=30.0, workID=f"work_{number}", sandbox=limits)
    body["spec"] |= {} if session is None else {"sessionID": session}
    there.see(body)
    there.keeper.see_pod(sandbox(number))


def looks(there: Keeping) -> list[Seen]:
    return [seen for seen in there.work_api.seen if "/sessions/" in seen.path]


def stops(there: Keeping) -> list[Seen]:
    return [seen for seen in there.work_api.seen if seen.path.endswith("/stop")]


async def next_look(there: Keeping) -> None:
    """Let time go by, forty times as fast as it does, until there is another look or a stop."""
    before = len(looks(there))

    def is_there() -> bool:
        there.ahead.append(0.2)
        there.keeper.wake_all()
        return len(looks(there)) > before or bool(stops(there))

    await until(is_there, "the next look")


def beats(there: Keeping) -> list[Seen]:
    return [seen for seen in there.work_api.seen if seen.path.endswith("/heartbeat")]


async def test_a_session_is_looked_at_with_the_key_of_the_environment_as_soon_as_its_sandbox_runs() -> None:
    async with world() as there:
        begin(there, idleSeconds=60)
        await until(lambda: looks(there), "a look")
        seen = looks(there)[0]
        assert (seen.method, seen.path) == ("GET", "/v1/sessions/work_1")
        assert seen.headers["authorization"] == "Bearer key"


async def test_without_a_limit_no_session_is_looked_at() -> None:
    async with world() as there:
        begin(there)
        begin(there, 2, waitingSeconds=60)
        await until(lambda: looks(there), "the look at the other session")
        assert {seen.path for seen in looks(there)} == {"/v1/sessions/work_2"}


async def test_looks_at_a_session_write_no_status() -> None:
    async with world(IDLE) as there:
        kept = resume(WorkLease.parse(resource(since=1.0)), OPTIONS, None, wall(), 100.0)
        kept.policy, kept.pods.attempt = Policy(idle=60.0), Attempt(runs_since=90.0)
        before = kept.gather()
        calls = SessionCalls(there.clients, lambda: 100.0, wall, lambda _: ("sandboxes", "keys"))
        await calls.look(kept)
        assert kept.calls.session is not None
        assert kept.calls.session.activity is Activity.IDLE
        assert kept.gather() == before, "a status is written when something of the situation has changed"


async def test_with_a_key_that_is_refused_to_its_lease_no_session_is_looked_at() -> None:
    async with world(IDLE) as there:
        kept = resume(WorkLease.parse(resource(since=1.0)), OPTIONS, None, wall(), 100.0)
        kept.policy, kept.pods.attempt = Policy(idle=60.0), Attempt(runs_since=90.0)
        kept.calls.refusals = {SecretStr("key"): Refusal(at=99.0, count=1)}
        await SessionCalls(there.clients, lambda: 100.0, wall, lambda _: ("sandboxes", "keys")).look(kept)
        assert looks(there) == []
        assert kept.calls.session is not None
        assert kept.calls.session.next_at > 100.0, "later it is tried again"


async def test_an_idle_session_is_stopped_gracefully_when_its_time_is_over() -> None:
    async with world(IDLE) as there:
        begin(there, idleSeconds=30)
        await until(lambda: looks(there), "the first look")
        while not stops(there):
            await next_look(there)
        assert stops(there)[0].json == {"force": False}


async def test_a_session_that_cannot_be_seen_costs_nothing_but_the_look() -> None:
    async with world(AWAY) as there:
        begin(there, idleSeconds=1)
        await until(lambda: looks(there), "a look")
        for _ in range(3):
            await next_look(there)
        assert stops(there) == []


async def test_a_session_that_does_not_exist_is_over_if_the_key_that_says_so_renewed_the_lease() -> None:
    missing = Answer(status=404, body={"error": {"type": "not_found_error", "message": "no such session"}})
    async with world(missing) as there:
        begin(there, session="sesn_1", idleSeconds=60)
        await until(lambda: beats(there) and len(looks(there)) == 1, "a beat, and a look")
        while not stops(there):
            await next_look(there)
        assert {seen.path for seen in looks(there)} == {"/v1/sessions/sesn_1"}


async def test_a_look_waits_where_the_server_asked_to_read_less_and_beats_do_not() -> None:
    async with world() as there:
        there.clients.budget.hold(60.0, "key", CallClass.READING)
        begin(there, idleSeconds=60)
        await until(lambda: beats(there), "a beat")
        await until(lambda: there.clients.budget.waiting == 1, "the look that waits")
        assert looks(there) == []


async def test_of_many_sessions_four_are_looked_at_at_once() -> None:
    answer = asyncio.Event()
    async with world(Answer(body={"status": "running"}, until=answer)) as there:
        for number in range(1, 8):
            begin(there, number, idleSeconds=60)
        await until(lambda: len(beats(there)) >= 7, "a beat of each")
        assert len(looks(there)) == SIDE_BY_SIDE
        answer.set()
        await until(lambda: len(looks(there)) == 7, "the looks of the others")
