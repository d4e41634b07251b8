"""The list of an environment's work items: one read, which changes nothing, for all leases that are in doubt.

Owns the sharing of pages among all that ask about an environment with one key, and when to stop: at the page that has
all that was asked for. Must not know what the list is for. A page answers only questions that were asked before it was
asked for: an older one may not show yet what the doubt is about.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from pydantic import SecretStr

from worklease.rules.outcomes import ListAnswer, ListedItem, ListNotRead, ListRefused, NotListed
from worklease.work_api.budget import Budget, BudgetRequest, CallClass
from worklease.work_api.client import ListPage, WorkApi

PAGE_TIMEOUT: Final = 10.0
"""Seconds for one page at most: as long as the longest time-out of who asks."""

SHARING: Final = 0.5
"""Seconds that a question waits at most for a first page under way, so that all that come meanwhile share the next one.
A healthy answer takes far less; one that hangs keeps nobody from a page of his own."""

PATIENCE: Final = 1.0
"""Seconds after which a page without an answer is asked for once more, beside the first: a healthy one takes far less,
and a read that is repeated harms nobody."""

TRIES: Final = 3
"""How often a page is asked for: with two of five answers lost, all three get none in one of sixteen cases."""

MOST_PAGES: Final = 1_000
"""Pages that are read for one set of questions at most: more is a list that goes in circles."""

RECENT: Final = 60.0
"""Seconds for which a list will do for those who have nothing in doubt: they wait for who may work for minutes."""

_Reply = ListPage | ListRefused | ListNotRead

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class _Question:
    """Somebody asks for an item, and waits for the answer."""

    work_id: str
    request: BudgetRequest
    answer: "asyncio.Future[ListAnswer]"


@dataclass(frozen=True, slots=True)
class _RecentList:
    """What a first page showed, and when it was asked for."""

    at: float
    items: Mapping[str, ListedItem]


class SharedList:
    """The lists under way, by environment and key."""

    def __init__(self, work_api: WorkApi, budget: Budget, patience: float = PATIENCE) -> None:
        self._work_api = work_api
        self._budget = budget
        self._patience = patience
        self._readers: dict[tuple[str, str], _Reader] = {}
        self._recent: dict[tuple[str, str], _RecentList] = {}
        """What the last first pages showed."""

    async def ask_once_a_minute(
        self, environment_id: str, key: SecretStr, work_id: str, request: BudgetRequest
    ) -> ListAnswer:
        """Return what a list of the last minute shows of an item; only if there is none, the list is read."""
        recent = self._recent.get((environment_id, key.get_secret_value()))
        if recent is None or self._budget.now >= recent.at + RECENT:
            return await self.ask(environment_id, key, work_id, request)
        return recent.items.get(work_id) or ListNotRead("the list was read within the last minute")

    async def ask(self, environment_id: str, key: SecretStr, work_id: str, request: BudgetRequest) -> ListAnswer:
        """Return what the list shows of an item, or why that is not known; ``request`` is for the turn of each page."""
        place = (environment_id, key.get_secret_value())
        reader = self._readers.get(place)
        if reader is None:
            note = partial(self._keep, place)
            reader = self._readers[place] = _Reader(
                self._work_api, self._budget, environment_id, key, note, patience=self._patience
            )
        question = _Question(work_id, request, asyncio.get_running_loop().create_future())
        reader.add(question)
        try:
            return await question.answer
        finally:
            reader.remove(question)
            if reader.is_idle and self._readers.get(place) is reader:
                del self._readers[place]

    def _keep(self, place: tuple[str, str], recent: _RecentList) -> None:
        """Keep a first page for a minute; a key that is used no more is not remembered."""
        self._recent[place] = recent
        asyncio.get_running_loop().call_later(RECENT, self._drop, place, recent)

    def _drop(self, place: tuple[str, str], recent: _RecentList) -> None:
        if self._recent.get(place) is recent:
            del self._recent[place]


class _Reader:
    """The reading of one environment's list with one key.

    Most questions are about the newest items, which the first page has. So a first page is never behind the reading of
    further ones, which goes on for one set of questions at a time.
    """

    def __init__(
        self,
        work_api: WorkApi,
        budget: Budget,
        environment_id: str,
        key: SecretStr,
        note: Callable[[_RecentList], None],
        *,
        patience: float,
    ) -> None:
        self._work_api = work_api
        self._budget = budget
        self._environment_id = environment_id
        self._key = key
        self._note = note
        """Keeps a first page for those who can do with it."""
        self._patience = patience
        self._open: set[_Question] = set()
        """Who waits for an answer."""
        self._new: set[_Question] = set()
        """Who of them waits for a first page that is not asked for yet."""
        self._older: set[_Question] = set()
        """Who was not answered by a first page, and waits for the next reading of further pages."""
        self._place: str | None = None
        """Where that reading begins: after the newest first page."""
        self._gathering: asyncio.Task[None] | None = None
        """Waits for the turn of the next first page."""
        self._gathering_deadline = 0.0
        self._first: asyncio.Task[None] | None = None
        """The newest first page that was asked for."""
        self._further: asyncio.Task[None] | None = None
        """The reading of further pages."""
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits for an answer."""
        return not self._open

    def add(self, question: _Question) -> None:
        """Have a first page read for the question: the most urgent of those that wait takes the turn for all."""
        self._open.add(question)
        self._new.add(question)
        deadline = self._budget.deadline(question.request)
        if self._gathering is None or deadline < self._gathering_deadline:
            if self._gathering is not None:
                self._gathering.cancel()
            self._gathering_deadline = deadline
            self._gathering = self._start(self._read_first(question.request))

    def remove(self, question: _Question) -> None:
        """Forget a question that is answered, or that nobody waits for any more. Nothing is read for nobody."""
        for among in (self._open, self._new, self._older):
            among.discard(question)
        if not self._new and self._gathering is not None:
            self._gathering.cancel()
            self._gathering = None
        if not self._open:
            for task in self._tasks:
                task.cancel()

    async def _read_first(self, request: BudgetRequest) -> None:
        """Read the first page; who is not on it waits for the further ones."""
        if self._first is not None:
            await asyncio.wait({self._first}, timeout=SHARING)
        await self._budget.turn(request)
        # From here on no other question can join.
        self._first, self._gathering = self._gathering, None
        asked, self._new = self._new, set()
        following = await self._read(None, asked)
        if following is not None:
            self._older |= _unanswered(asked)
            self._place = following
            if self._further is None or self._further.done():
                self._further = self._start(self._read_on())

    async def _read_on(self) -> None:
        """Read the further pages, for one set of questions after the other."""
        while self._older:
            asked, self._older, place = self._older, set(), self._place
            for _ in range(MOST_PAGES):
                if place is None or not _unanswered(asked):
                    break
                await self._turn(asked)
                place = await self._read(place, asked)
            _answer(asked, ListNotRead(f"the list of {self._environment_id} has no end after {MOST_PAGES} pages"))

    async def _read(self, place: str | None, asked: Iterable[_Question]) -> str | None:
        """Read a page, and return the place of the next one; None if all ``asked`` are answered by now."""
        earlier = tuple(self._open)
        began, payer = self._budget.now, self._key.get_secret_value()
        page = await self._ask(place, asked)
        if isinstance(page, ListPage):
            self._budget.note_accepted(payer, began, CallClass.READING)
        elif isinstance(page, ListNotRead) and page.retry_after is not None:
            self._budget.hold(page.retry_after, payer, CallClass.READING)
        if not isinstance(page, ListPage):
            _log.warning("list not read environment=%s: %s", self._environment_id, page.message)
            _answer(asked, page)
            return None
        if place is None:
            self._note(_RecentList(began, page.items))
        for each in earlier:
            if (listed := page.items.get(each.work_id)) is not None:
                _answer([each], listed)
        if not page.following:
            _answer(asked, NotListed())
        return page.following if _unanswered(asked) else None

    async def _ask(self, place: str | None, asked: Iterable[_Question]) -> _Reply:
        """Ask for a page, and again if its answer gets lost or takes long."""
        tries: set[asyncio.Task[_Reply]] = set()
        page: _Reply | None = None
        try:
            for left in reversed(range(TRIES)):
                reading = self._work_api.page(self._environment_id, self._key, place, timeout=PAGE_TIMEOUT)
                tries.add(asyncio.create_task(reading))
                page = await _first_answer(tries, self._patience if left else None)
                if left == 0 or (page is not None and not _is_lost(page)):
                    break
                await self._turn(asked)
        finally:
            for each in tries:
                each.cancel()
        return page or ListNotRead("nothing was asked")

    async def _turn(self, asked: Iterable[_Question]) -> None:
        """Wait for a turn of the budget, by the most urgent of those that are not answered."""
        if requests := [each.request for each in _unanswered(asked)]:
            await self._budget.turn(min(requests, key=self._budget.deadline))

    def _start(self, reading: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(reading, name=f"list of {self._environment_id}")
        self._tasks.add(task)
        task.add_done_callback(self._end)
        return task

    def _end(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (mistake := task.exception()) is not None:
            for each in _unanswered(self._open):
                each.answer.set_exception(mistake)


async def _first_answer(tries: "set[asyncio.Task[_Reply]]", patience: float | None) -> _Reply | None:
    """Return what the first of the tries brings, None if that takes longer; without a bound a loss only at the end."""
    page: _Reply | None = None
    while tries and (page is None or (patience is None and _is_lost(page))):
        done, _ = await asyncio.wait(tries, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        if not done:
            return None
        ended = done.pop()
        tries.discard(ended)
        page = ended.result()
    return page


def _is_lost(page: _Reply) -> bool:
    return isinstance(page, ListNotRead) and page.is_worth_a_try


def _unanswered(questions: Iterable[_Question]) -> set[_Question]:
    return {each for each in questions if not each.answer.done()}


def _answer(questions: Iterable[_Question], answer: ListAnswer) -> None:
    for each in _unanswered(questions):
        each.answer.set_result(answer)
