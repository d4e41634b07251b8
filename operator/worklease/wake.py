"""What brings the next turn of a resource about: something happened, or its time has come.

Owns when a turn is taken. Must not know what is done in one.
"""

import asyncio
import math
from typing import Protocol


class Turn(Protocol):
    """Takes a resource's turn."""

    def __call__(self, *, is_news: bool) -> None:
        """Take it; ``is_news``: something happened, else only its time has come."""


class Wake:
    """What brings a resource's next turn about: something happened, or its time has come.

    A handle of the loop's and no task: there are thousands, and as a rule nothing happens to them.
    """

    __slots__ = ("_next", "_turn", "due", "is_news")

    def __init__(self) -> None:
        self._turn: Turn | None = None
        self._next: asyncio.Handle | None = None
        self.is_news = True
        """Whether anything happened that no turn has been taken for yet."""
        self.due = math.inf
        """When the next turn is due at the latest, by the loop's clock."""

    def begin(self, turn: Turn) -> None:
        """Have turns taken from now on; who has begun goes on."""
        if self._turn is None:
            self._turn = turn
            self._strike_soon()

    def end(self) -> None:
        """Have no more turns taken."""
        self._turn, self.due = None, math.inf
        self._cancel()

    def set(self) -> None:
        """Wake the resource: something happened."""
        if not self.is_news:
            self.is_news = True
            if self._turn is not None:
                self._strike_soon()

    def strike(self) -> None:
        """Have a turn taken now, as if its time had come; not if something happened: then one is about to be."""
        if self._turn is not None and not self.is_news:
            self._cancel()
            self._strike()

    def strike_after(self, seconds: float) -> None:
        """Wake the resource after so long, if nothing happens before."""
        if not self.is_news:
            loop = asyncio.get_running_loop()
            self._next, self.due = loop.call_later(seconds, self._strike), loop.time() + seconds

    def _strike_soon(self) -> None:
        self._cancel()
        loop = asyncio.get_running_loop()
        self._next, self.due = loop.call_soon(self._strike), loop.time()

    def _strike(self) -> None:
        is_news, self.is_news, self._next = self.is_news, False, None
        if self._turn is not None:
            self._turn(is_news=is_news)

    def _cancel(self) -> None:
        if self._next is not None:
            self._next.cancel()
            self._next = None
