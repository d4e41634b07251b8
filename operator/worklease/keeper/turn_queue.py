"""What starts the next turn of a resource: something happened, or its time has come.

Owns when a turn is taken. Must not know what is done in one.
"""

import asyncio
import math
from collections import deque
from typing import Final, Protocol

AT_ONCE: Final = 5
"""Turns for news that are taken in one pass of the loop: some milliseconds, in which no beat is sent."""


class TakeTurn(Protocol):
    """Takes a resource's turn."""

    def __call__(self, *, is_news: bool) -> None:
        """Take the turn; ``is_news``: something happened, else only its time has come."""


class TurnQueue:
    """Where resources wait for a whole turn: few are taken in one pass of the loop, urgent ones before the others.

    As a rule no resource waits. But a whole fleet may have news at once, and all their turns take many seconds, in
    which the beats of all others would stand still.
    """

    def __init__(self) -> None:
        self._urgent: deque[TurnEntry] = deque()
        self._waiting: deque[TurnEntry] = deque()
        self.due = math.inf
        """When the queue moves on, by the loop's clock; a long queue that moves is no standstill."""

    def add(self, entry: "TurnEntry") -> None:
        """Add an entry behind all others."""
        self._waiting.append(entry)
        self._move_soon()

    def add_urgent(self, entry: "TurnEntry") -> None:
        """Add an entry behind the urgent ones only."""
        self._urgent.append(entry)
        self._move_soon()

    def _move_soon(self) -> None:
        if self.due == math.inf:
            loop = asyncio.get_running_loop()
            loop.call_soon(self._move)
            self.due = loop.time()

    def _move(self) -> None:
        try:
            # One of the others moves in each pass, too: the urgent ones may never run out.
            for waiting, most in (self._urgent, AT_ONCE), (self._waiting, 1 if self._urgent else AT_ONCE):
                for _ in range(min(most, len(waiting))):
                    waiting.popleft().pop()
        finally:
            self.due = math.inf
            if self._urgent or self._waiting:
                self._move_soon()


class TurnEntry:
    """When a resource takes its next turn: something happened, or its time has come.

    It uses a handle of the loop, not a task: there are thousands, and as a rule nothing happens to them.
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
        """Take turns from now on, the first ahead of others' news; no change if they have begun."""
        if self._turn is None:
            self._turn, self._queue, self.is_news = turn, queue, True
            queue.add_urgent(self)

    def end(self) -> None:
        """Take no more turns."""
        self._turn, self._queue, self.due = None, None, math.inf
        self._cancel()

    def add(self) -> None:
        """Ask for a turn behind the others: something happened."""
        if not self.is_news:
            self.is_news = True
            if self._queue is not None:
                self._queue.add(self)

    def add_urgent(self) -> None:
        """Ask for an urgent turn: a time has come that asks for more than a beat."""
        self.is_news = True
        if self._queue is not None:
            self._queue.add_urgent(self)

    def take_now(self) -> None:
        """Take a turn now, as if its time had come; not if something happened: then a turn is about to be taken."""
        if self._turn is not None and not self.is_news:
            self._cancel()
            self._take()

    def add_after(self, seconds: float) -> None:
        """Take a turn after ``seconds`` at the latest, whatever happens before and however long the queue is."""
        if self._turn is not None:
            self._cancel()
            loop = asyncio.get_running_loop()
            self.due = loop.time() + seconds
            self._next = loop.call_at(self.due, self._take)

    def pop(self) -> None:
        """Take the turn that waited in the queue, unless it was taken before because its time had come."""
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
