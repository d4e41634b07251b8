"""The list of an environment's items is read as far as the questions need, a turn of the budget for each page."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any

import pytest
from pydantic import SecretStr

from support.scripted_server import Answer, Fault, ScriptedServer, Seen, always, in_turn, serving, until
from support.work_api_calls import KEY, VALUE, refusal
from worklease.rules.outcomes import ListAnswer, ListedItem, ListNotRead, ListRefused, NotListed
from worklease.telemetry import SILENT, Publisher, TelemetryEvent, TurnGiven
from worklease.work_api.budget import Budget, BudgetRequest, Rank
from worklease.work_api.client import WorkApi
from worklease.work_api.shared_list import MOST_PAGES, PAGE_TIMEOUT, PATIENCE, RECENT, TRIES, SharedList

ACTIVE = ListedItem("active", VALUE)
MANY_A_MINUTE = 60_000  # so that each call needs a turn, and gets it at once


def request(fence: float = math.inf) -> BudgetRequest:
    return BudgetRequest(key="list", rank=Rank.FIRST, fence=fence, end=math.inf, urgent=math.inf)


def item(number: int, **changes: object) -> dict[str, object]:
    return {"id": f"work_{number}", "type": "work", "state": "active", "started_at": VALUE, "secret": None} | changes


def page(*items: Mapping[str, object], following: str | None = None, until: asyncio.Event | None = None) -> Answer:
    return Answer(body={"data": list(items), "next_page": following}, until=until)


def numbered(pages: int) -> Callable[[Seen], Answer]:
    """Return a server's list of so many pages, with one item each: the first page has work_0."""

    def answer(seen: Seen) -> Answer:
        number = int(seen.query.get("page", ["0"])[0])
        return page(item(number), following=str(number + 1) if number + 1 < pages else None)

    return answer


def places(server: ScriptedServer) -> list[str]:
    """Return which pages were asked for, in order; the first one is 0."""
    return [seen.query.get("page", ["0"])[0] for seen in server.seen]


class Lists:
    """A shared list at a scripted server; questions still open at the end are given up."""

    def __init__(self, server: ScriptedServer, api: WorkApi, budget: Budget, patience: float) -> None:
        self.server = server
        self.budget = budget
        self.shared = SharedList(api, budget, patience)
        self.asking: list[asyncio.Task[ListAnswer]] = []

    def ask(self, work_id: str = "work_1", fence: float = math.inf) -> asyncio.Task[ListAnswer]:
        asked: Coroutine[Any, Any, ListAnswer] = self.shared.ask("env/1", SecretStr(KEY), work_id, request(fence))
        self.asking.append(asyncio.create_task(asked))
        return self.asking[-1]

    async def end(self) -> None:
        for each in self.asking:
            each.cancel()
        await asyncio.gather(*self.asking, return_exceptions=True)


@pytest.fixture
async def lists_of() -> AsyncIterator[Callable[..., Lists]]:
    async with serving() as server, WorkApi(server.url, time.monotonic) as api:
        made: list[Lists] = []

        def make(
            per_minute: int = 0,
            clock: Callable[[], float] = time.monotonic,
            publisher: Publisher = SILENT,
            patience: float = PAGE_TIMEOUT,
        ) -> Lists:
            made.append(Lists(server, api, Budget(per_minute, clock, publisher), patience))
            return made[-1]

        yield make
        for each in made:
            await each.end()


@pytest.fixture
def lists(lists_of: Callable[..., Lists]) -> Lists:
    return lists_of()


# --- Who can do with an older one ----------------------------------------------------------------------------------


async def test_who_has_nothing_in_doubt_asks_for_the_list_once_a_minute(lists_of: Callable[..., Lists]) -> None:
    now = [0.0]
    lists = lists_of(clock=lambda: now[0])
    lists.server.script = always(page(item(1)))

    async def look(work_id: str) -> ListAnswer:
        return await lists.shared.ask_once_a_minute("env/1", SecretStr(KEY), work_id, request())

    assert await look("work_1") == ACTIVE
    assert await look("work_1") == ACTIVE
    assert isinstance(await look("work_2"), ListNotRead), "an item that came since may be on no page yet"
    assert len(lists.server.seen) == 1
    assert await lists.ask("work_1") == ACTIVE
    assert len(lists.server.seen) == 2, "who is in doubt gets a page of his own"
    now[0] += RECENT
    assert await look("work_2") == NotListed()
    assert len(lists.server.seen) == 3


# --- How far it is read --------------------------------------------------------------------------------------------


async def test_the_list_is_read_to_the_page_that_has_all_that_was_asked_for(lists: Lists) -> None:
    lists.server.script = numbered(40)
    assert await lists.ask("work_2") == ACTIVE
    assert places(lists.server) == ["0", "1", "2"]
    assert [(seen.method, seen.path) for seen in lists.server.seen] == [("GET", "/v1/environments/env%2F1/work")] * 3
    assert {seen.query["limit"][0] for seen in lists.server.seen} == {"100"}
    assert lists.server.seen[0].headers["authorization"] == f"Bearer {KEY}"


async def test_each_page_takes_a_turn_of_the_budget(lists_of: Callable[..., Lists]) -> None:
    told: list[TelemetryEvent] = []
    lists = lists_of(MANY_A_MINUTE, publisher=Publisher(told.append))
    lists.server.script = numbered(3)
    assert await lists.ask("work_2") == ACTIVE
    assert [type(each) for each in told] == [TurnGiven] * 3


async def test_an_item_on_no_page_is_not_listed(lists: Lists) -> None:
    lists.server.script = numbered(3)
    assert await lists.ask("work_3") == NotListed()
    assert places(lists.server) == ["0", "1", "2"]


async def test_a_list_of_more_than_five_thousand_items_is_read_to_its_end(lists: Lists) -> None:
    lists.server.script = numbered(120)
    assert await lists.ask("work_119") == ACTIVE
    assert await lists.ask("work_none") == NotListed()


async def test_a_list_that_goes_in_circles_comes_to_an_end(lists: Lists) -> None:
    lists.server.script = always(page(item(1), following="again"))
    assert isinstance(await lists.ask("work_2"), ListNotRead)
    assert len(lists.server.seen) == MOST_PAGES + 1


@pytest.mark.parametrize(
    "answer",
    [
        refusal(429),
        refusal(503, retry_after="3"),
        refusal(400),
        Answer(status=404, body=b"default backend - 404"),
        Answer(status=403, body=b"<html>who are you?</html>"),
        Answer(body=b"<html>"),
        Answer(body=b"[" * 60_000),
        page({"id": "work_1"}),
        page({"id": 5, "state": "active"}),
        Answer(body={"data": None}),
    ],
    ids=lambda answer: f"{answer.status}-{answer.fault.name}",
)
@pytest.mark.parametrize("pages_before", [0, 1])
async def test_a_list_that_cannot_be_read_to_its_end_decides_nothing(
    lists: Lists, caplog: pytest.LogCaptureFixture, answer: Answer, pages_before: int
) -> None:
    lists.server.script = in_turn(*[page(item(1), following="next")] * pages_before, answer)
    assert isinstance(await lists.ask("work_2"), ListNotRead)
    assert "list not read environment=env/1" in caplog.text


LOST = [refusal(500), refusal(408), Answer(status=502, body=b"<html>"), Answer(fault=Fault.CLOSE)]


@pytest.mark.parametrize("answer", LOST, ids=lambda answer: f"{answer.status}-{answer.fault.name}")
@pytest.mark.parametrize("pages_before", [0, 1])
async def test_a_page_that_gets_lost_is_asked_for_again_at_once(
    lists: Lists, answer: Answer, pages_before: int
) -> None:
    before = [page(item(1), following="next")] * pages_before
    lists.server.script = in_turn(*before, *[answer] * (TRIES - 1), page(item(2)))
    assert await lists.ask("work_2") == ACTIVE
    assert len(lists.server.seen) == pages_before + TRIES


async def test_a_page_that_gets_lost_again_and_again_decides_nothing(lists: Lists) -> None:
    lists.server.script = always(refusal(500))
    assert isinstance(await lists.ask(), ListNotRead)
    assert len(lists.server.seen) == TRIES


async def test_a_page_that_hangs_is_asked_for_again_and_the_first_answer_counts(lists_of: Callable[..., Lists]) -> None:
    lists = lists_of(patience=PATIENCE)
    lists.server.script = in_turn(Answer(fault=Fault.HANG), page(item(1)))
    began = time.monotonic()
    assert await lists.ask() == ACTIVE
    assert PATIENCE <= time.monotonic() - began < PAGE_TIMEOUT


async def test_a_late_answer_counts_where_a_later_try_was_lost(lists_of: Callable[..., Lists]) -> None:
    lists = lists_of(patience=PATIENCE)
    may_answer = asyncio.Event()
    lists.server.script = in_turn(page(item(1), until=may_answer), refusal(500), refusal(500))
    asked = lists.ask()
    await lists.server.until_seen(TRIES)
    may_answer.set()
    assert await asked == ACTIVE


async def test_each_try_takes_a_turn_of_the_budget(lists_of: Callable[..., Lists]) -> None:
    told: list[TelemetryEvent] = []
    lists = lists_of(MANY_A_MINUTE, publisher=Publisher(told.append))
    lists.server.script = always(refusal(500))
    await lists.ask()
    assert [type(each) for each in told] == [TurnGiven] * TRIES


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_a_list_that_the_server_itself_refuses_to_the_key_says_so(lists: Lists, status: int) -> None:
    lists.server.script = always(refusal(status, f"the key {KEY} is bad"))
    refused = await lists.ask()
    assert isinstance(refused, ListRefused)
    assert "is bad" in refused.message
    assert KEY not in refused.message


# --- Who shares it -------------------------------------------------------------------------------------------------


async def test_all_that_ask_together_share_the_pages(lists: Lists) -> None:
    lists.server.script = numbered(4)
    asked = [lists.ask(f"work_{number}") for number in (0, 2, 2, 9)]
    assert await asyncio.gather(*asked) == [ACTIVE, ACTIVE, ACTIVE, NotListed()]
    assert places(lists.server) == ["0", "1", "2", "3"]


async def test_who_asks_while_a_page_is_under_way_gets_one_that_was_asked_for_afterwards(lists: Lists) -> None:
    may_answer = asyncio.Event()
    lists.server.script = in_turn(page(until=may_answer), page(item(1)))
    first = lists.ask()
    await lists.server.until_seen(1)
    second, third = lists.ask(), lists.ask("work_2")
    await asyncio.sleep(0)
    may_answer.set()
    assert [await first, await second, await third] == [NotListed(), ACTIVE, NotListed()]
    assert len(lists.server.seen) == 2


async def test_who_asks_for_a_new_item_does_not_wait_for_one_that_asks_for_an_old_one(lists: Lists) -> None:
    may_answer, pages = asyncio.Event(), numbered(40)

    def answer(seen: Seen) -> Answer:
        return page(item(1), until=may_answer) if "page" in seen.query else pages(seen)

    lists.server.script = answer
    old = lists.ask("work_1")
    await lists.server.until_seen(2)
    assert await lists.ask("work_0") == ACTIVE
    assert not old.done()
    may_answer.set()
    assert await old == ACTIVE


async def test_those_that_ask_for_old_items_meanwhile_share_the_next_reading_of_further_pages(lists: Lists) -> None:
    may_answer, pages = asyncio.Event(), numbered(4)

    def answer(seen: Seen) -> Answer:
        return page(item(1), following="2", until=may_answer) if seen.query.get("page") == ["1"] else pages(seen)

    lists.server.script = answer
    asked = [lists.ask("work_2")]
    await lists.server.until_seen(2)
    asked.append(lists.ask("work_3"))
    await lists.server.until_seen(3)
    asked.append(lists.ask("work_none"))
    await lists.server.until_seen(4)
    may_answer.set()
    assert await asyncio.gather(*asked) == [ACTIVE, ACTIVE, NotListed()]
    assert sorted(places(lists.server)) == ["0", "0", "0", "1", "1", "2", "2", "3"]


async def test_a_page_that_hangs_keeps_nobody_from_the_next_which_answers_all(lists: Lists) -> None:
    lists.server.script = in_turn(Answer(fault=Fault.HANG), page(item(1)))
    hanging = lists.ask()
    await lists.server.until_seen(1)
    assert [await lists.ask(), await hanging] == [ACTIVE, ACTIVE]


async def test_what_nobody_waits_for_any_more_is_not_read_on(lists: Lists) -> None:
    may_answer = asyncio.Event()
    lists.server.script = in_turn(page(item(1), following="1", until=may_answer), page(item(2)))
    asked = lists.ask("work_2")
    await lists.server.until_seen(1)
    asked.cancel()
    await asyncio.wait({asked})
    may_answer.set()
    assert await lists.ask("work_2") == ACTIVE
    assert places(lists.server) == ["0", "0"]


# --- Its turn ------------------------------------------------------------------------------------------------------


async def test_the_most_urgent_of_those_that_wait_takes_the_turn_for_all(lists_of: Callable[..., Lists]) -> None:
    now = [1000.0]
    lists = lists_of(60, lambda: now[0])
    lists.server.script = numbered(1)
    order: list[str] = []

    async def another(name: str, fence: float) -> None:
        await lists.budget.turn(request(fence))
        order.append(name)

    async def next_turn() -> None:
        waiting = lists.budget.waiting
        now[0] += 1.1  # a turn takes 61/60 s
        lists.budget._pump()
        await until(lambda: lists.budget.waiting == waiting - 1, "one turn")

    await another("spends the burst", math.inf)
    calls = [asyncio.create_task(another("sooner", 1030.0)), asyncio.create_task(another("later", 1050.0))]
    asked = [lists.ask("work_0", fence) for fence in (math.inf, 1040.0, 1060.0)]
    await until(lambda: lists.budget.waiting == 3, "two calls and one list that wait")
    await next_turn()
    assert (order, lists.server.seen) == (["spends the burst", "sooner"], [])
    await next_turn()
    assert await asyncio.gather(*asked) == [ACTIVE] * 3
    assert order == ["spends the burst", "sooner"]
    await next_turn()
    await asyncio.gather(*calls)


async def test_who_gives_up_waiting_for_the_list_leaves_its_turn_to_others(lists_of: Callable[..., Lists]) -> None:
    lists = lists_of(0)
    lists.budget.hold(1000.0)
    asked = lists.ask()
    await until(lambda: lists.budget.waiting == 1, "a list that waits")
    asked.cancel()
    await until(lambda: lists.budget.waiting == 0, "nobody that waits")
    assert lists.server.seen == []
