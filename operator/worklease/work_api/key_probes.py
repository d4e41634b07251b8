"""Which call may try a key again that the server refused: one probe for each key, within a small part of the budget.

Owns the pace of these probes. A lease whose key is refused must not take the turns of leases that can be renewed. Must
not know whose key it is, nor read one again.
"""

import asyncio
import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from worklease.pace import TokenBucket

GAP: Final = 10.0
"""Seconds between two tries of a refused key: as often as its Secret is read again, and soon enough for a person."""

SHARE: Final = 0.1
"""The part of the budget that the probes of all keys may use together."""

WAKE_GAP: Final = 1.0
"""Seconds between two times that all who wait are told that a key was accepted: it may be good for all but one item."""

A_MINUTE: Final = 60.0
"""Seconds over which the budget counts."""

FEW: Final = 64
"""Keys that are remembered without looking which of them nobody asks about any more."""

Place = tuple[str, str]
"""An environment's id, and the value of a key for it."""


@dataclass(slots=True)
class _RefusedKey:
    """One key that was refused in one environment, and the calls that wait for its next probe."""

    tried: float
    """When it was last tried."""
    accepted: float = -math.inf
    """When it was last accepted."""
    woken: float = -math.inf
    """When all that waited were last told that it was accepted."""
    waiting: "deque[asyncio.Future[bool]]" = field(default_factory=deque)

    def is_idle(self, now: float) -> bool:
        """Whether no call waits, and none can that was refused before the key was accepted."""
        return not self.waiting and now > max(self.tried, self.accepted) + 2 * GAP


class KeyProbes:
    """The probes of all refused keys; 0 calls a minute mean no limit but the gap between two tries of a key."""

    def __init__(self, per_minute: int, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._keys: dict[Place, _RefusedKey] = {}
        self._most = FEW
        self._numbers = itertools.count()
        self._queue: list[tuple[float, int, _RefusedKey]] = []
        """The keys that calls wait for, by when they were last tried: the one that waits longest comes first."""
        self._alarm: asyncio.TimerHandle | None = None
        self._rate = per_minute / A_MINUTE * SHARE if per_minute else math.inf
        self._pace = TokenBucket(self._rate, 1.0, clock()) if per_minute else None

    def use(self, part: float) -> None:
        """Use that part of the budget from now on: the rest is for the other processes of the installation."""
        if self._pace is not None:
            self._pace.change(self._rate * part, 1.0, self._clock())

    @property
    def has_refused(self) -> bool:
        """Whether any key was refused, as far as that is not long ago."""
        return bool(self._keys)

    @property
    def waiting(self) -> int:
        """The number of calls that wait to try a refused key."""
        return sum(len(key.waiting) for key in self._keys.values())

    def note_refused(self, place: Place) -> None:
        """Note that a call with a key was refused."""
        self._key(place).tried = self._clock()

    def note_accepted(self, place: Place) -> None:
        """Note that a call with a key was accepted: who waits for it may try at once."""
        key = self._keys.get(place)
        if key is not None:
            key.accepted = now = self._clock()
            if now - key.woken >= WAKE_GAP:
                key.woken = now
                _wake(key)

    def note_changed(self, place: Place) -> None:
        """Note that a Secret that had a key has another one now: who waits for the old one looks which it has."""
        key = self._keys.get(place)
        if key is not None:
            _wake(key)

    def is_accepted_since(self, place: Place, moment: float) -> bool:
        """Whether any call with a key was accepted after ``moment``, as far as that is not long ago."""
        key = self._keys.get(place)
        return key is not None and key.accepted > moment

    def join(self, place: Place) -> "asyncio.Future[bool]":
        """Wait in the line for a key's probes: True means that this call is the next one, False that there is news."""
        key, turn = self._key(place), asyncio.get_running_loop().create_future()
        key.waiting.append(turn)
        heapq.heappush(self._queue, (key.tried, next(self._numbers), key))
        self._pump()
        return turn

    def leave(self, place: Place, turn: "asyncio.Future[bool]") -> None:
        """Wait no more."""
        turn.cancel()
        with suppress(ValueError, KeyError):
            self._keys[place].waiting.remove(turn)

    def _key(self, place: Place) -> _RefusedKey:
        key = self._keys.get(place)
        if key is None:
            now = self._clock()
            if len(self._keys) >= self._most:
                self._keys = {each: known for each, known in self._keys.items() if not known.is_idle(now)}
                self._most = max(FEW, 2 * len(self._keys))
            key = self._keys[place] = _RefusedKey(now)
        return key

    def _pump(self) -> None:
        """Let the probes go that may go now, and set an alarm for the next one."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        now = self._clock()
        while self._queue:
            tried, _, key = self._queue[0]
            if not key.waiting:
                heapq.heappop(self._queue)
            elif tried != key.tried:
                heapq.heapreplace(self._queue, (key.tried, next(self._numbers), key))
            elif (wait := max(tried + GAP - now, self._pace.wait(now) if self._pace is not None else 0.0)) > 0:
                self._alarm = asyncio.get_running_loop().call_later(wait, self._pump)
                return
            elif not (turn := key.waiting.popleft()).done():
                turn.set_result(True)
                key.tried = now
                if self._pace is not None:
                    self._pace.take()


def _wake(key: _RefusedKey) -> None:
    """Tell all that wait for a key that there is news of it."""
    while key.waiting:
        turn = key.waiting.popleft()
        if not turn.done():
            turn.set_result(False)
