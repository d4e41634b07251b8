"""Turns: what begins them, what causes the next one, and how late a turn is that is due and not taken."""

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from support.keeping import clients, wall
from support.lease_objects import lease
from support.scripted_server import Answer, ScriptedServer, always, kubernetes_at, serving, until
from worklease.api.names import BUCKET_LABEL, FINALIZER
from worklease.keeper.keeper import Keeper
from worklease.keeper.kept import Kept, LeaseOptions
from worklease.keeper.turn_queue import AT_ONCE, TurnEntry, TurnQueue
from worklease.work_api.client import WorkApi


@asynccontextmanager
async def keeping() -> AsyncIterator[tuple[Keeper, ScriptedServer]]:
    async with serving() as server, kubernetes_at(server.url) as api, WorkApi(server.url, time.monotonic) as work_api:
        server.script = always(Answer(status=503, body={"message": "away"}))
        keeper = Keeper(clients(api, work_api), LeaseOptions(interval=30, credentials_secret="s"), time.monotonic, wall)
        yield keeper, server
        await keeper.close()


def body() -> dict[str, Any]:
    told = lease("demo", None)
    told["metadata"] |= {"generation": 1, "resourceVersion": "1"}
    return told


async def test_a_turn_that_the_loop_does_not_come_to_is_overdue_until_it_is_taken() -> None:
    async with keeping() as (keeper, _):
        assert keeper.overdue() == 0
        keeper.see(body())
        assert keeper.overdue() == 0, "its timer may come within a second"
        keeper.carry("uid-demo")
        time.sleep(0.1)  # noqa: ASYNC251 (the loop does not come to it)
        assert keeper.overdue() >= 0.1
        await until(lambda: keeper.overdue() == 0, "the turn")
        keeper.unsee("uid-demo")
        assert keeper.overdue() == 0


async def test_the_turns_of_a_resource_begin_though_its_timer_does_not_come() -> None:
    async with keeping() as (keeper, server):
        keeper.see(body())
        await until(lambda: server.seen != [], "its first turn, which puts the finalizer on")


@pytest.fixture
def turns() -> list[bool]:
    """Return a list in which each turn notes whether anything had happened."""
    return []


@pytest.fixture
async def turn(turns: list[bool]) -> TurnEntry:
    """Return an entry that has taken its first turn; each turn asks for the next one in an hour."""
    turn = TurnEntry()

    def take(*, is_news: bool) -> None:
        turns.append(is_news)
        turn.add_after(3600.0)

    turn.begin(take, TurnQueue())
    await asyncio.sleep(0)
    assert turns == [True]
    turns.clear()
    return turn


async def test_what_happens_brings_one_turn_about_however_often_it_happens(turn: TurnEntry, turns: list[bool]) -> None:
    turn.add()
    turn.add()
    assert turns == [], "a turn is taken by the loop, not by whoever adds it"
    await asyncio.sleep(0.01)
    assert turns == [True]


async def test_a_turn_whose_time_has_come_knows_that_nothing_happened(turn: TurnEntry, turns: list[bool]) -> None:
    turn.add()
    await asyncio.sleep(0)
    turn.add_after(0.01)
    await until(lambda: turns == [True, False], "a turn by its time")


async def test_what_happens_in_a_turn_brings_the_next_about_at_once() -> None:
    turn, turns = TurnEntry(), list[bool]()

    def take(*, is_news: bool) -> None:
        turns.append(is_news)
        if len(turns) < 3:
            turn.add()
        turn.add_after(3600.0)

    turn.begin(take, TurnQueue())
    await asyncio.sleep(0.01)
    assert turns == [True, True, True]


async def test_no_turn_is_taken_after_the_end_until_turns_begin_again(turn: TurnEntry, turns: list[bool]) -> None:
    turn.add()
    turn.end()
    turn.add()
    await asyncio.sleep(0.01)
    assert turns == []
    assert turn.due == math.inf
    line = TurnQueue()
    turn.begin(lambda *, is_news: turns.append(is_news), line)
    turn.begin(lambda *, is_news: turns.append(not is_news), line)
    await asyncio.sleep(0.01)
    assert turns == [True]


@pytest.fixture
def taken() -> list[int]:
    """Return a list in which each entry of a fleet notes its number when it takes its turn."""
    return []


@pytest.fixture
async def fleet(taken: list[int]) -> list[TurnEntry]:
    """Return many entries that share a queue and have taken their first turns."""
    line, wakes = TurnQueue(), [TurnEntry() for _ in range(5 * AT_ONCE)]
    for number, turn in enumerate(wakes):
        turn.begin(lambda *, is_news, number=number: taken.append(number) if is_news else None, line)
    await until(lambda: taken == list(range(len(wakes))), "the first turns, in their order")
    taken.clear()
    return wakes


async def test_the_news_of_a_whole_fleet_leave_the_loop_to_others_meanwhile(
    fleet: list[TurnEntry], taken: list[int]
) -> None:
    for turn in fleet:
        turn.add()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert 0 < len(taken) < len(fleet)
    await until(lambda: taken == list(range(len(fleet))), "all turns, in their order")


async def test_what_has_to_be_done_by_its_time_goes_ahead_of_all_news(fleet: list[TurnEntry], taken: list[int]) -> None:
    pressing = fleet[-AT_ONCE - 1 :]
    for turn in fleet[: -AT_ONCE - 1]:
        turn.add()
    for turn in pressing:
        turn.add_urgent()
    await until(lambda: len(taken) == len(fleet), "all turns")
    first, number = len(fleet) - AT_ONCE - 1, len(fleet)
    # One of the others is taken in each pass all the same.
    assert taken == [*range(first, number - 1), 0, number - 1, *range(1, first)]


class StuckQueue(TurnQueue):
    """A queue in which an entry with news never gets its turn."""

    def add(self, entry: TurnEntry) -> None:
        """Leave the entry out of the queue."""


async def test_a_turn_whose_time_has_come_is_taken_however_long_the_line_is(turns: list[bool]) -> None:
    turn = TurnEntry()
    turn.begin(lambda *, is_news: turns.append(is_news), StuckQueue())
    await until(lambda: turns == [True], "its first turn")
    turn.add()
    turn.add_after(0.01)
    await until(lambda: turns == [True, True], "the next, and what happened is told")


async def test_a_turn_that_fails_keeps_no_other_of_the_line_from_its_own(turns: list[bool]) -> None:
    line, failed = TurnQueue(), list[str]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failed.append(str(context["exception"])))

    def fail(*, is_news: bool) -> None:
        raise ValueError(f"a mistake {is_news=}")

    TurnEntry().begin(fail, line)
    TurnEntry().begin(lambda *, is_news: turns.append(is_news), line)
    await until(lambda: turns == [True], "the turn behind")
    assert failed == ["a mistake is_news=True"]
    await until(lambda: line.due == math.inf, "the line's end")


def held_since_long(seconds: float) -> dict[str, Any]:
    """Return a WorkLease whose lease was renewed so many seconds ago."""

    def ago(seconds: float) -> str:
        return (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")

    told = body()
    told["metadata"] |= {"finalizers": [FINALIZER], "labels": {BUCKET_LABEL: "1"}}
    told["status"] = {
        "state": "active",
        "ttlSeconds": 60,
        "lastHeartbeat": ago(seconds),
        "observedTime": ago(seconds),
        "leaseExpiryTime": ago(seconds - 60),
        "claimTime": ago(600),
    }
    return told


def kept_in(keeper: Keeper) -> Kept:
    kept = keeper._fleet.get("uid-demo")
    assert kept is not None
    return kept


async def test_a_refused_beat_is_repeated_in_time_however_long_the_line_is() -> None:
    async with keeping() as (keeper, server):
        secret = Answer(body={"data": {"environment-key": "a2V5"}})
        server.script = lambda seen: secret if "/secrets/" in seen.path else Answer(status=503)
        keeper.see(held_since_long(19))

        def beats() -> int:
            return sum(seen.path.endswith("/heartbeat") for seen in server.seen)

        await until(lambda: beats() == 1, "the first beat")
        kept_in(keeper).turn._queue = StuckQueue()
        await until(lambda: beats() >= 4, "its repetitions")


async def test_what_follows_from_the_time_waits_for_no_news_of_others() -> None:
    async with keeping() as (keeper, server):
        keeper.see(held_since_long(19))
        await server.until_seen(1)
        kept = kept_in(keeper)
        await until(lambda: not (kept.turn.is_news or kept.calls.under_way), "a pause between two beats")
        kept.turn._queue = StuckQueue()
        kept.schedule.look_at = -math.inf
        kept.turn.add_after(0.0)
        await until(lambda: kept.schedule.look_at > -math.inf, "the whole turn")
