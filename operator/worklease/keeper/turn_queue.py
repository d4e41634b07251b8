"""What brings the next turn of a resource about: something happened, or its time has come.

Owns when a turn is taken. Must not know what is done in one.
"""

import asyncio
import math
from collections import deque
from typing import Final, Protocol

AT_ONCE: Final = 5
"""Turns taken in one pass of the loop for what happened: some milliseconds, in which no beat is sent."""


class TakeTurn(Protocol):
    """Takes a resource's turn."""

    def __call__(self, *, is_news: bool) -> None:
        """Take it; ``is_news``: something happened, else only its time has come."""


class TurnQueue:
    """Where resources wait for a whole turn: few are taken in one pass of the loop, those that press before the others.

    As a rule nobody waits. But a whole fleet may have news at once, and to take all their turns takes many seconds, in
    which the beats of all others would stand still.
    """

    def __init__(self) -> None:
        self._urgent: deque[TurnEntry] = deque()
        self._waiting: deque[TurnEntry] = deque()
        self.due = math.inf
        """When it moves on, by the loop's clock; that it is long is no standstill."""

    def add(self, entry: "TurnEntry") -> None:
        """Wait for a turn behind all who wait."""
        self._waiting.append(entry)
        self._move_soon()

    def add_urgent(self, entry: "TurnEntry") -> None:
        """Wait for a turn behind those only who press as well."""
        self._urgent.append(entry)
        self._move_soon()

    def _move_soon(self) -> None:
        if self.due == math.inf:
            loop = asyncio.get_running_loop()
            loop.call_soon(self._move)
            self.due = loop.time()

    def _move(self) -> None:
        try:
            # One of the others moves all the same: there may be no end of those that press.
            for waiting, most in (self._urgent, AT_ONCE), (self._waiting, 1 if self._urgent else AT_ONCE):
                for _ in range(min(most, len(waiting))):
                    waiting.popleft().pop()
        finally:
            self.due = math.inf
            if self._urgent or self._waiting:
                self._move_soon()


class TurnEntry:
    """What brings a resource's next turn about: something happened, or its time has come.

    A handle of the loop's and no task: there are thousands, and as a rule nothing happens to them.
    """

    __slots__ = ("_next", "_queue", "_turn", "due", "is_news")

    def __init__(self) -> None:
        self._turn: TakeTurn | None = None
        self._queue: TurnQueue | None = None
        self._next: asyncio.Handle | None = None
        self.is_news = True
        """Whether anything happened that no turn has been taken for yet."""
        self.due = math.inf
        """When its time comes, by the loop's clock."""

    def begin(self, turn: TakeTurn, queue: TurnQueue) -> None:
        """Have turns taken from now on, the first ahead of others' news; who has begun goes on."""
        if self._turn is None:
            self._turn, self._queue, self.is_news = turn, queue, True
            queue.add_urgent(self)

    def end(self) -> None:
        """Have no more turns taken."""
        self._turn, self._queue, self.due = None, None, math.inf
        self._cancel()

    def add(self) -> None:
        """TurnEntry the resource: something happened."""
        if not self.is_news:
            self.is_news = True
            if self._queue is not None:
                self._queue.add(self)

    def add_urgent(self) -> None:
        """TurnEntry the resource: a time has come after which something else follows, which is more than a beat."""
        self.is_news = True
        if self._queue is not None:
            self._queue.add_urgent(self)

    def take_now(self) -> None:
        """Have a turn taken now, as if its time had come; not if something happened: then one is about to be."""
        if self._turn is not None and not self.is_news:
            self._cancel()
            self._take()

    def add_after(self, seconds: float) -> None:
        """Have a turn taken after so long: at the latest, whatever happens before and however long the line is."""
        if self._turn is not None:
            self._cancel()
            loop = asyncio.get_running_loop()
            self.due = loop.time() + seconds
            self._next = loop.call_at(self.due, self._take)

    def pop(self) -> None:
        """Take the turn that was waited for in the line, unless its time has come before."""
        if self.is_news and self._turn is not None:
            self._cancel()
            self._take()

    def _take(self) -> None:
        is_news, self.is_news, self._next = self.is_news, False, None
        if self._turn is not None:
            self._turn(is_news=is_news)

    def _cancel(self) -> None:
        if self._next is not None:
            self._next.cancel()
            self._next = None
