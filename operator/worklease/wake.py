"""What brings the next turn of a resource about: something happened, or its time has come.

Owns when a turn is taken. Must not know what is done in one.
"""

import asyncio
import math
from collections import deque
from dataclasses import dataclass, field
from typing import Final, Protocol

AT_ONCE: Final = 5
"""Turns taken in one pass of the loop for what happened: some milliseconds, in which no beat is sent."""


class Turn(Protocol):
    """Takes a resource's turn."""

    def __call__(self, *, is_news: bool) -> None:
        """Take it; ``is_news``: something happened, else only its time has come."""


class Line:
    """Where resources wait for a whole turn: few are taken in one pass of the loop.

    As a rule nobody waits. But a whole fleet may have news at once, and to take all their turns takes many seconds, in
    which the beats of all others would stand still.
    """

    def __init__(self) -> None:
        self._waiting: deque[Wake] = deque()
        self.due = math.inf
        """When it moves on, by the loop's clock; that it is long is no standstill."""

    def join(self, wake: "Wake") -> None:
        """Wait for a turn behind all who wait."""
        self._waiting.append(wake)
        if self.due == math.inf:
            self._move_soon()

    def _move_soon(self) -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(self._move)
        self.due = loop.time()

    def _move(self) -> None:
        try:
            for _ in range(min(AT_ONCE, len(self._waiting))):
                self._waiting.popleft().come()
        finally:
            self.due = math.inf
            if self._waiting:
                self._move_soon()


@dataclass(frozen=True, slots=True)
class Lines:
    """The two lines, which move side by side: what must be done by its time waits for no news."""

    pressing: Line = field(default_factory=Line)
    news: Line = field(default_factory=Line)

    @property
    def due(self) -> float:
        """When one of them moves on, by the loop's clock."""
        return min(self.pressing.due, self.news.due)


class Wake:
    """What brings a resource's next turn about: something happened, or its time has come.

    A handle of the loop's and no task: there are thousands, and as a rule nothing happens to them.
    """

    __slots__ = ("_lines", "_next", "_turn", "due", "is_news")

    def __init__(self) -> None:
        self._turn: Turn | None = None
        self._lines: Lines | None = None
        self._next: asyncio.Handle | None = None
        self.is_news = True
        """Whether anything happened that no turn has been taken for yet."""
        self.due = math.inf
        """When its time comes, by the loop's clock."""

    def begin(self, turn: Turn, lines: Lines) -> None:
        """Have turns taken from now on; who has begun goes on."""
        if self._turn is None:
            self._turn, self._lines, self.is_news = turn, lines, True
            lines.news.join(self)

    def end(self) -> None:
        """Have no more turns taken."""
        self._turn, self._lines, self.due = None, None, math.inf
        self._cancel()

    def set(self) -> None:
        """Wake the resource: something happened."""
        if not self.is_news:
            self.is_news = True
            if self._lines is not None:
                self._lines.news.join(self)

    def press(self) -> None:
        """Wake the resource: a time has come after which something else follows, which is more than a beat."""
        self.is_news = True
        if self._lines is not None:
            self._lines.pressing.join(self)

    def strike(self) -> None:
        """Have a turn taken now, as if its time had come; not if something happened: then one is about to be."""
        if self._turn is not None and not self.is_news:
            self._cancel()
            self._strike()

    def strike_after(self, seconds: float) -> None:
        """Have a turn taken after so long: at the latest, whatever happens before and however long the line is."""
        if self._turn is not None:
            self._cancel()
            loop = asyncio.get_running_loop()
            self.due = loop.time() + seconds
            self._next = loop.call_at(self.due, self._strike)

    def come(self) -> None:
        """Take the turn that was waited for in the line, unless its time has come before."""
        if self.is_news and self._turn is not None:
            self._cancel()
            self._strike()

    def _strike(self) -> None:
        is_news, self.is_news, self._next = self.is_news, False, None
        if self._turn is not None:
            self._turn(is_news=is_news)

    def _cancel(self) -> None:
        if self._next is not None:
            self._next.cancel()
            self._next = None
