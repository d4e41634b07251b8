"""One budget of calls to the Work API for the whole process: which call goes next.

Owns the rate and the order, and the holds that a server asked for. The earliest deadline goes first. Stops and first
claims go ahead of routine beats, which use at most four fifths of the rate, so that there is always a part left for the
others. Polls and looks at sessions go last. Must not know what a call is for, beyond its rank, its deadline, its key
and its class.
"""

import asyncio
import heapq
import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Final, Literal, assert_never

from worklease.pace import TokenBucket
from worklease.rules.backoff import backoff
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


FIRST_PROBE: Final = 60.0
"""Seconds after which a held key is probed, if the server asked for more: it may have recovered, or meant one call."""

SECOND_PROBE: Final = 120.0
"""Seconds between the first probe of a held key and the next; they double from then on."""

LONGEST_PROBE: Final = 480.0
"""Seconds between two probes of a held key at most."""

TOGETHER: Final = 60.0
"""Seconds within which the holds of two keys mean that the limit is the organization's, and not one key's."""


class CallClass(Enum):
    """The class of a call, by which the remote side counts: each has a limit of its own."""

    CREATING = auto()
    """A heartbeat, an acknowledgement or a stop."""
    READING = auto()
    """A list, a poll, the numbers of a queue, a session's status."""


class Rank(Enum):
    """The rank of a call in the order of turns."""

    FIRST = auto()
    """A stop, an acknowledgement, a first claim, a read of the list: somebody waits for it."""
    ROUTINE = auto()
    """A beat: its deadline decides its turn."""
    LAST = auto()
    """A poll, the numbers of a queue, a session's status: nobody takes new work, or looks for work that is over, where
    that leaves no calls for the work that there is."""


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
    payer: str = field(default="", repr=False)
    """The key that authenticates the call: a server's request to wait is to that key."""
    kind: CallClass = CallClass.CREATING

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


@dataclass(slots=True)
class _Hold:
    """The calls of one key and class, which the server asked to wait, or those of a class by all keys."""

    noted: float
    """When the server asked for it last."""
    until: float
    probe_at: float
    probes: int = 0
    waiting: list[_Waiting] = field(default_factory=list)
    later: list[tuple[float, int, _Waiting]] = field(default_factory=list)
    """The calls that wait, by when they become urgent."""
    urgent: list[_Waiting] = field(default_factory=list)
    """The calls that have become urgent, by the fence."""
    let_through: set[tuple[str, float]] = field(default_factory=set)

    def add(self, entry: _Waiting) -> None:
        """Have a call wait."""
        self.waiting.append(entry)
        heapq.heappush(self.later, _by_urgency(entry))

    def next_attempt(self, now: float) -> _Waiting | None:
        """Return a call whose lease would not outlive the hold: one attempt for each lease and fence.

        A beat that is accepted moves the fence, and in a long hold a lease that was renewed may need another beat.
        """
        while self.later and self.later[0][0] <= now:
            *_, entry = heapq.heappop(self.later)
            heapq.heappush(self.urgent, replace(entry, deadline=entry.request.fence))
        while self.urgent and self.urgent[0].deadline <= self.until:
            entry = heapq.heappop(self.urgent)
            attempt = (entry.request.key, entry.request.fence)
            if not entry.turn.done() and attempt not in self.let_through:
                self.let_through.add(attempt)
                return entry
        return None

    def next_probe(self, now: float) -> _Waiting | None:
        """Return the call that shows whether the server lets the key's calls through again; None before its time."""
        if now < self.probe_at:
            return None  # first, because this is asked at each turn that anybody takes
        self.waiting = [entry for entry in self.waiting if not entry.turn.done()]
        if not self.waiting:
            return None
        self.probe_at = now + backoff(self.probes, SECOND_PROBE, LONGEST_PROBE)
        self.probes += 1
        return min(self.waiting)

    def next_look(self) -> float:
        """Return when something changes in the hold by itself."""
        probe = self.probe_at if self.waiting else math.inf
        return min(self.until, probe, self.later[0][0] if self.later else math.inf)


class Budget:
    """The turns of all calls; 0 calls a minute mean no limit, but a hold counts even then."""

    def __init__(self, per_minute: int, clock: Callable[[], float], publisher: Publisher = SILENT) -> None:
        self._publisher = publisher
        self._clock = clock
        self._numbers = itertools.count()
        self._first: list[_Waiting] = []
        self._routine: list[_Waiting] = []
        self._last: list[_Waiting] = []
        self._alarm: asyncio.TimerHandle | None = None
        self._holds: dict[tuple[str | None, CallClass], _Hold] = {}
        """The holds by key and class; by None where all keys wait."""
        self.waiting = 0
        """The number of calls that wait for their turn."""
        self.per_minute = per_minute
        self.part = 1.0
        """The part of the budget that this process may use."""
        (rate, burst), (routine, routine_burst), now = *self._paces(), clock()
        self._all = TokenBucket(rate, burst, now)
        self._share = TokenBucket(routine, routine_burst, now)

    def _paces(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Return the rate and the burst of all calls, and those of routine beats."""
        # The burst is part of the minute's calls: rate x 60 + burst = per_minute.
        rate, burst, share = AFTER_HOLD_RATE, AFTER_HOLD_BURST, 1.0
        if self.per_minute:
            rate, burst, share = self.per_minute * self.part / (A_MINUTE + BURST), BURST, ROUTINE_SHARE
        return (rate, max(1.0, rate * burst)), (rate * share, max(1.0, rate * share * burst))

    def use(self, part: float) -> None:
        """Use that part of the budget from now on: the rest is for the other processes of the installation."""
        self.part = part
        (rate, burst), (routine, routine_burst), now = *self._paces(), self._clock()
        self._all.change(rate, burst, now)
        self._share.change(routine, routine_burst, now)
        self._pump()

    @property
    def is_open(self) -> bool:
        """Whether no call needs a turn: there is no limit, and the server has not asked to wait."""
        return not (self.per_minute or self._first or self._routine or self._last or self._holds)

    @property
    def now(self) -> float:
        """The time, in monotonic seconds."""
        return self._clock()

    async def turn(self, request: BudgetRequest) -> None:
        """Wait for this call's turn."""
        if self.is_open:
            return
        turn = asyncio.get_running_loop().create_future()
        now = self._clock()
        entry = _Waiting(request.deadline(now), next(self._numbers), request, turn, now)
        self._add(entry, now)
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

    def _add(self, entry: _Waiting, now: float) -> None:
        hold = self._hold_of(entry.request, now)
        if hold is not None:
            hold.add(entry)
        else:
            heapq.heappush(self._queue_of(entry.request.rank), entry)

    def _queue_of(self, rank: Rank) -> list[_Waiting]:
        match rank:
            case Rank.FIRST:
                return self._first
            case Rank.ROUTINE:
                return self._routine
            case Rank.LAST:
                return self._last
            case _:
                assert_never(rank)

    # --- Holds -------------------------------------------------------------------------------------------------

    def hold(self, seconds: float, payer: str | None = None, kind: CallClass = CallClass.CREATING) -> None:
        """Hold the calls of a key and class back: the server asked for it (429 or 503 with ``Retry-After``).

        Without a ``payer``, or when another key was held within a minute, the calls of all keys wait: then the limit is
        the organization's.
        """
        now = self._clock()
        self._release_over(now)
        others = [
            each.until
            for (other, of), each in self._holds.items()
            if of is kind and other not in (None, payer) and now - each.noted <= TOGETHER
        ]
        until = self._extend(payer, kind, now + seconds, now)
        if payer is not None and others:
            self._extend(None, kind, min(until, *others), now)
        self._pump()

    def _extend(self, payer: str | None, kind: CallClass, until: float, now: float) -> float:
        """Hold until ``until``, or longer if that was asked for before; return until when."""
        hold = self._holds.get((payer, kind))
        if hold is None:
            probe_at = math.inf if payer is None else min(until, now + FIRST_PROBE)
            hold = self._holds[payer, kind] = _Hold(now, until, probe_at)
            for queue in (self._first, self._routine, self._last):
                entries, queue[:] = tuple(queue), []
                for each in entries:
                    is_held = each.request.kind is kind and payer in (None, each.request.payer)
                    if not is_held:
                        heapq.heappush(queue, each)
                    elif not each.turn.done():
                        hold.add(each)
        hold.noted, hold.until = now, max(hold.until, until)
        return hold.until

    def note_accepted(self, payer: str, sent: float, kind: CallClass = CallClass.CREATING) -> None:
        """Lift the hold of a key and class: a call that was sent since the server asked for it was accepted."""
        hold = self._holds.get((payer, kind))
        if hold is not None and sent > hold.noted:
            hold.until = -math.inf
            if (None, kind) in self._holds:
                self._holds[None, kind].until = -math.inf
            self._release_over(self._clock())
            self._pump()

    def _release_over(self, now: float) -> None:
        """Let the calls of holds that are over wait for an ordinary turn."""
        for place in [place for place, hold in self._holds.items() if now >= hold.until]:
            for entry in self._holds.pop(place).waiting:
                if not entry.turn.done():
                    self._add(entry, now)

    def _hold_of(self, request: BudgetRequest, now: float) -> _Hold | None:
        for payer in (request.payer, None):
            hold = self._holds.get((payer, request.kind))
            if hold is not None and now < hold.until:
                return hold
        return None

    def held(self, now: float, request: BudgetRequest | None = None) -> bool:
        """Whether the server's request to wait holds a call back; any call, if none is named."""
        if request is not None:
            return self._hold_of(request, now) is not None
        return any(now < hold.until for hold in self._holds.values())

    def shortage(self, now: float, request: BudgetRequest) -> str:
        """Return why a call waits, and what to do."""
        hold = self._hold_of(request, now)
        if hold is not None:
            left, whose = hold.until - now, "this key's calls" if request.payer else "the operator"
            if (None, request.kind) in self._holds:
                whose = "the operator, with all keys,"
            return f"the server asked {whose} to wait {left:.0f} s more (Retry-After); {len(hold.waiting)} calls wait"
        if not self.per_minute:
            return f"{self.waiting} calls go one after the other, now that the server may be asked again"
        return (
            f"{self.waiting} calls wait for their turn: {self.per_minute} a minute are too few for all leases; "
            "raise WORKLEASE_REQUESTS_PER_MINUTE, or keep fewer leases"
        )

    # --- Turns -------------------------------------------------------------------------------------------------

    def _pump(self) -> None:
        """Grant all turns that can be granted now, and set an alarm for the next one."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        now = self._clock()
        self._release_over(now)
        for hold in self._holds.values():
            while (entry := hold.next_attempt(now) or hold.next_probe(now)) is not None:
                self._grant(entry)
        while (wait := self._give_one(now)) is None:
            pass
        wait = min(wait, *(hold.next_look() - now for hold in self._holds.values()), math.inf)
        if wait != math.inf:
            self._alarm = asyncio.get_running_loop().call_later(max(wait, 0.001), self._pump)

    def _give_one(self, now: float) -> float | None:
        """Grant one turn. Return None if one was granted, else the seconds until one may be."""
        first, routine = _top(self._first, now), _top(self._routine, now)
        is_last = first is None and routine is None
        if is_last and _top(self._last, now) is None:
            return math.inf
        if (wait := self._all.wait(now)) > 0:
            return wait
        urgent = routine is not None and routine.request.urgent <= now and routine.deadline < math.inf
        if routine is not None and (first is None or (urgent and routine.deadline <= first.deadline)):
            if not urgent and (wait := self._share.wait(now)) > 0:
                return min(wait, routine.request.urgent - now)
            self._give(self._routine)
            return None
        self._give(self._last if is_last else self._first)
        return None

    def _give(self, waiting: list[_Waiting]) -> None:
        self._grant(heapq.heappop(waiting))

    def _publish(self, rank: Rank, waited: float) -> None:
        self._publisher.publish(TurnGiven(_NAMES[rank], waited))

    def _grant(self, entry: _Waiting) -> None:
        entry.turn.set_result(None)
        now = self._clock()
        self._publish(entry.request.rank, max(0.0, now - entry.asked))
        if self.per_minute or not self.held(now, entry.request):
            self._all.take()
            if entry.request.rank is Rank.ROUTINE:
                self._share.take()


_NAMES: Final[Mapping[Rank, Literal["first", "routine", "last"]]] = {
    Rank.FIRST: "first",
    Rank.ROUTINE: "routine",
    Rank.LAST: "last",
}


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
