"""One budget of calls to the Work API for the whole process: which call goes next.

Owns the rate and the order. The earliest deadline goes first. Stops and first claims go ahead of routine beats, which
use at most four fifths of the rate, so that there is always a part left for the others. Must not know what a call is
for, beyond its rank and its deadline.
"""

import asyncio
import heapq
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Final, Literal

from worklease.pace import TokenBucket
from worklease.telemetry import SILENT, Publisher, TurnGiven

ROUTINE_SHARE: Final = 0.8
"""The part of the budget that routine beats may use; the rest is for stops, claims and retries."""

A_MINUTE: Final = 60.0
"""Seconds over which the remote limit counts calls."""

BURST: Final = 1.0
"""Seconds' worth of calls that may go at once after a pause. The rate is lower by that: no minute exceeds its limit."""


AFTER_HOLD_RATE: Final = 1_000.0
"""Calls a second at most after a hold, where there is no limit: the beats of earlier deadlines are on their way before
those of later ones, and thousands do not ask for a connection at the same moment."""

AFTER_HOLD_BURST: Final = 0.25
"""Seconds' worth of those calls that may go at once: the event loop takes so little time for them that no other call is
delayed."""


CALL_TIME: Final = 0.25
"""Seconds that a call needs to save anything: with less time left, another call gets the turn."""


class Rank(Enum):
    """The rank of a call in the order of turns."""

    FIRST = auto()
    """A stop, a first claim, a read of the list: somebody waits for it."""
    ROUTINE = auto()
    """A beat: its deadline decides its turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetRequest:
    """A call that asks for its turn; times are monotonic seconds."""

    key: str
    """The lease that calls: one attempt of each lease is let through a hold."""
    rank: Rank
    fence: float
    """When it must have gone at the latest to save the sandbox; infinite where nothing is at stake."""
    end: float
    """When it must have gone at the latest to save the lease."""
    urgent: float
    """From when on it goes before all that is less urgent, and the routine share does not bind it."""

    def deadline(self, now: float) -> float:
        """Return when it must go at the latest to save anything; infinite if nothing is at stake, or not any more."""
        return next((at - CALL_TIME for at in (self.fence, self.end) if now < at - CALL_TIME), math.inf)


@dataclass(order=True, slots=True)
class _Waiting:
    deadline: float
    number: int
    request: BudgetRequest = field(compare=False)
    turn: "asyncio.Future[None]" = field(compare=False)
    asked: float = field(compare=False)


class Budget:
    """The turns of all calls; 0 calls a minute mean no limit, but a hold counts even then."""

    def __init__(self, per_minute: int, clock: Callable[[], float], publisher: Publisher = SILENT) -> None:
        self._publisher = publisher
        self._clock = clock
        self._numbers = itertools.count()
        self._first: list[_Waiting] = []
        self._routine: list[_Waiting] = []
        self._alarm: asyncio.TimerHandle | None = None
        self._held_until = 0.0
        self._later: list[tuple[float, int, _Waiting]] = []
        """The calls that wait in a hold, by when they become urgent."""
        self._urgent: list[_Waiting] = []
        """The calls that have become urgent in the hold, by the fence. They are in the other queues as well."""
        self._let_through: set[tuple[str, float]] = set()
        self.waiting = 0
        """The number of calls that wait for their turn."""
        self.per_minute = per_minute
        # The burst is part of the minute's calls: rate x 60 + burst = per_minute.
        rate, burst, share = AFTER_HOLD_RATE, AFTER_HOLD_BURST, 1.0
        if per_minute:
            rate, burst, share = per_minute / (A_MINUTE + BURST), BURST, ROUTINE_SHARE
        now = clock()
        self._all = TokenBucket(rate, max(1.0, rate * burst), now)
        self._share = TokenBucket(rate * share, max(1.0, rate * share * burst), now)

    @property
    def is_open(self) -> bool:
        """Whether no call needs a turn: there is no limit, and the server has not asked to wait."""
        return not self.per_minute and not (self._first or self._routine or self.held(self._clock()))

    async def turn(self, request: BudgetRequest) -> None:
        """Wait for this call's turn."""
        if self.is_open:
            return
        turn = asyncio.get_running_loop().create_future()
        now = self._clock()
        entry = _Waiting(request.deadline(now), next(self._numbers), request, turn, now)
        heapq.heappush(self._first if request.rank is Rank.FIRST else self._routine, entry)
        if self.held(entry.asked):
            heapq.heappush(self._later, _by_urgency(entry))
        self.waiting += 1
        try:
            self._pump()
            await entry.turn
        except asyncio.CancelledError:
            entry.turn.cancel()
            raise
        finally:
            self.waiting -= 1

    def deadline(self, request: BudgetRequest) -> float:
        """Return when the call must go at the latest to save anything; infinite if nothing is at stake."""
        return request.deadline(self._clock())

    def hold(self, seconds: float) -> None:
        """Hold all calls back: the server asked for it (429 or 503 with ``Retry-After``)."""
        until = self._clock() + seconds
        if until > self._held_until:
            if not self.held(self._clock()):
                self._let_through.clear()
                self._urgent = []
                waiting = (entry for entry in (*self._first, *self._routine) if not entry.turn.done())
                self._later = [_by_urgency(entry) for entry in waiting]
                heapq.heapify(self._later)
            self._held_until = until
            self._pump()

    def held(self, now: float) -> bool:
        """Whether the server's request to wait still holds."""
        return now < self._held_until

    def shortage(self, now: float) -> str:
        """Return why a call waits, and what to do."""
        if self.held(now):
            left = self._held_until - now
            return f"the server asked the operator to wait {left:.0f} s more (Retry-After); {self.waiting} calls wait"
        if not self.per_minute:
            return f"{self.waiting} calls go one after the other, now that the server may be asked again"
        return (
            f"{self.waiting} calls wait for their turn: {self.per_minute} a minute are too few for all leases; "
            "raise WORKLEASE_REQUESTS_PER_MINUTE, or keep fewer leases"
        )

    def _pump(self) -> None:
        """Grant all turns that can be granted now, and set an alarm for the next one."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        now = self._clock()
        while (wait := self._give_one(now)) is None:
            pass
        if wait != math.inf:
            self._alarm = asyncio.get_running_loop().call_later(max(wait, 0.001), self._pump)

    def _give_one(self, now: float) -> float | None:
        """Grant one turn. Return None if one was granted, else the seconds until one may be."""
        first, routine = _top(self._first, now), _top(self._routine, now)
        if first is None and routine is None:
            return math.inf
        if self.held(now):
            return self._let_one_through(now)
        if (wait := self._all.wait(now)) > 0:
            return wait
        urgent = routine is not None and routine.request.urgent <= now and routine.deadline < math.inf
        if routine is not None and (first is None or (urgent and routine.deadline <= first.deadline)):
            if not urgent and (wait := self._share.wait(now)) > 0:
                return min(wait, routine.request.urgent - now)
            self._give(self._routine)
            return None
        self._give(self._first)
        return None

    def _let_one_through(self, now: float) -> float | None:
        """Let a call through whose lease would not outlive the hold: one attempt for each lease and fence.

        A beat that is accepted moves the fence, and in a long hold a lease that was renewed may need another beat.
        """
        while self._later and self._later[0][0] <= now:
            *_, entry = heapq.heappop(self._later)
            heapq.heappush(self._urgent, replace(entry, deadline=entry.request.fence))
        while self._urgent and self._urgent[0].deadline <= self._held_until:
            entry = heapq.heappop(self._urgent)
            attempt = (entry.request.key, entry.request.fence)
            if not entry.turn.done() and attempt not in self._let_through:
                self._let_through.add(attempt)
                self._grant(entry)
                return None
        return min(self._held_until, self._later[0][0] if self._later else math.inf) - now

    def _give(self, waiting: list[_Waiting]) -> None:
        self._grant(heapq.heappop(waiting))

    def _publish(self, rank: Rank, waited: float) -> None:
        called: Literal["first", "routine"] = "routine" if rank is Rank.ROUTINE else "first"
        self._publisher.publish(TurnGiven(called, waited))

    def _grant(self, entry: _Waiting) -> None:
        entry.turn.set_result(None)
        now = self._clock()
        self._publish(entry.request.rank, max(0.0, now - entry.asked))
        if self.per_minute or not self.held(now):
            self._all.take()
            if entry.request.rank is Rank.ROUTINE:
                self._share.take()


def _by_urgency(entry: _Waiting) -> tuple[float, int, _Waiting]:
    return (entry.request.urgent, entry.number, entry)


def _top(waiting: list[_Waiting], now: float) -> _Waiting | None:
    """Return the call that is closest to its deadline.

    A call that was cancelled leaves the queue. A call whose deadline has passed gets its next deadline: a lost lease
    must not delay one that can still be saved.
    """
    while waiting:
        entry = waiting[0]
        if entry.turn.done():
            heapq.heappop(waiting)
        elif entry.deadline <= now:
            heapq.heapreplace(waiting, replace(entry, deadline=entry.request.deadline(now)))
        else:
            return entry
    return None
