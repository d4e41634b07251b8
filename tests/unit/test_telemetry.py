"""Each module publishes what happens in it, once, to all listeners."""

import asyncio
import math
import time
from collections.abc import Collection
from dataclasses import replace

import pytest

from support.scripted_server import Answer, ScriptedServer, Seen, kubernetes_at, serving, until
from support.work_api_calls import ITEM, beat, refusal, renewed
from worklease.api.names import ENVIRONMENT_LABEL, Reference
from worklease.cluster.status_writer import StatusWriter, Urgency
from worklease.telemetry import CallRefused, Publisher, StatusWrite, TelemetryEvent, TurnGiven, WorkApiCall, Write
from worklease.watching.census import Census
from worklease.work_api.budget import Budget, BudgetRequest, Rank
from worklease.work_api.client import WorkApi
from worklease.work_api.queue import QueueCalls


class Nobody:
    """A keeper that ignores what the census reports."""

    def see(self, body: object) -> None: ...

    def see_pod(self, body: object) -> None: ...

    def unsee(self, uid: str) -> None:
        del uid

    def lose_pod(self, uid: str) -> None:
        del uid

    def count(self, there: Collection[str]) -> None:
        del there

    def count_pods(self, there: Collection[str]) -> None:
        del there


@pytest.fixture
def published() -> list[TelemetryEvent]:
    return []


@pytest.fixture
def publisher(published: list[TelemetryEvent]) -> Publisher:
    return Publisher(published.append)


async def test_a_turn_is_published_with_its_rank_and_its_wait(
    published: list[TelemetryEvent], publisher: Publisher
) -> None:
    now = [100.0]
    budget = Budget(0, lambda: now[0], publisher)
    budget.hold(10.0)
    request = BudgetRequest(key="a", rank=Rank.ROUTINE, fence=math.inf, end=math.inf, urgent=math.inf)
    turn = asyncio.create_task(budget.turn(request))
    await asyncio.sleep(0)
    assert published == []
    now[0] += 10.0
    await budget.turn(replace(request, key="b", rank=Rank.FIRST))
    await turn
    await budget.turn(request)
    assert published == [TurnGiven("first", 0.0), TurnGiven("routine", 10.0)]


async def test_a_refusal_is_published_with_its_call_and_code_and_an_answer_is_not(
    published: list[TelemetryEvent], publisher: Publisher
) -> None:
    async with serving() as server, WorkApi(server.url, time.monotonic, publisher) as api:
        server.script = lambda _: renewed()
        await api.heartbeat(ITEM, beat())
        assert published == []
        for status in (412, 401, 503):
            server.script = lambda _, status=status: refusal(status)  # type: ignore[misc]
            await api.heartbeat(ITEM, beat())
            await api.stop(ITEM, force=True, timeout=5)
            await api.page(ITEM.environment_id, ITEM.key, None, timeout=5)
            queue = QueueCalls(api, "worker")
            await queue.poll(ITEM.environment_id, ITEM.key, block_ms=1, reclaim_older_than_ms=1, timeout=5)
            await queue.ack(ITEM, timeout=5)
            await queue.stats(ITEM.environment_id, ITEM.key, timeout=5)
            await queue.session(ITEM.work_id, ITEM.key, timeout=5)
    assert published == [CallRefused(call, code) for code in (412, 401, 503) for call in WorkApiCall]


async def test_a_status_is_published_as_written_coalesced_or_failed(
    published: list[TelemetryEvent], publisher: Publisher
) -> None:
    answers = [Answer(status=500, body={"message": "no"})]

    def answer(seen: Seen) -> Answer:
        if seen.method == "PATCH" and answers:
            return answers.pop()
        return Answer(body={"metadata": {"uid": "uid-1", "resourceVersion": "1"}})

    reference = Reference("team", "demo", "uid-1")
    async with serving() as server, kubernetes_at(server.url) as api:
        server.script = answer
        writer = StatusWriter(api, 1000.0, time.monotonic, publisher)
        for state in ("starting", "active"):
            writer.publish(reference, {"state": state}, Urgency.CHANGE)
        writing = asyncio.create_task(writer.run())
        await until(lambda: len(published) == 3, "three writes")
        writing.cancel()
    assert published == [StatusWrite(Write.COALESCED), StatusWrite(Write.FAILED), StatusWrite(Write.WRITTEN)]


def _listed(server: ScriptedServer, *uids: str) -> None:
    def answer(seen: Seen) -> Answer:
        names = () if ENVIRONMENT_LABEL in seen.target else uids
        return Answer(body={"items": [{"metadata": {"uid": uid, "resourceVersion": "1"}} for uid in names]})

    server.script = answer


async def test_the_first_list_is_awaited_until_a_watch_has_reported_all_of_it() -> None:
    async with serving() as server, kubernetes_at(server.url) as api:
        census = Census(api, (), Nobody(), time.monotonic)
        assert census.awaited() is None
        server.script = lambda _: Answer(status=503, body={"message": "not yet"})
        await census.take()
        assert census.awaited() is None
        _listed(server, "uid-1", "uid-2", "uid-3", "uid-4")
        await census.take()
        assert census.awaited() == 4
        census.saw("team", "one", "uid-1", "1")
        census.saw("team", "two", "uid-2", "1")
        census.gone("uid-2")
        assert census.awaited() == 2
        # What was created later is not part of the first list; what vanished before a watch reported it never comes.
        _listed(server, "uid-1", "uid-3", "uid-5")
        await census.take()
        assert census.awaited() == 1
        census.saw("team", "three", "uid-3", "1")
        assert census.awaited() == 0
