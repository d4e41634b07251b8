"""The states of a lease and what leads from one to another, found by driving the operator's own rules.

Owns the exploration: which events are tried, and which state a lease is in. No transition is written down here: what an
event does comes from the rules of the lease, and what is shown from `worklease.rules.conditions`.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from worklease.rules.acknowledging import AckVerdict, AckView
from worklease.rules.answers import observe
from worklease.rules.beats import end_unclaimed, lapse, note_budget_short, note_unrecorded, release, restore
from worklease.rules.conditions import Subject, imply
from worklease.rules.deadlines import fence, giving_up, is_fenced
from worklease.rules.lease import Lease
from worklease.rules.outcomes import (
    Answered,
    Conflicted,
    CredentialsMissing,
    Current,
    Exchange,
    Missing,
    NotListed,
    NotReady,
    Rejected,
    Throttled,
    Unanswered,
    Unauthorized,
    Unsent,
)
from worklease.rules.pods import Obstacle
from worklease.rules.reasons import Kind, Reason, Verdict
from worklease.rules.situation import Situation

TTL: Final = 30.0
EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
FAILURES: Final = 3
"""Failures in a row after which one more changes nothing that is shown."""


class State(StrEnum):
    """The state of a lease."""

    NOT_HELD = "Not held yet"
    HELD = "Held"
    DRAINING = "Stopping"
    FENCED = "Past the fence"
    OVER = "Over"


@dataclass(frozen=True, slots=True)
class Moment:
    """A lease at a time, and what else decides how it is shown."""

    lease: Lease
    now: float = 0.0
    rival: str | None = None
    problem: str = ""
    obstacle: Obstacle = Obstacle.SPEC
    ack: AckView | None = None
    lost: float | None = None
    """When the last beat was applied whose answer was lost."""

    @property
    def state(self) -> State:
        """Return where the lease stands."""
        lease = self.lease
        if lease.end is not None:
            return State.OVER
        if not lease.held:
            return State.NOT_HELD
        if is_fenced(lease, self.now):
            return State.FENCED
        return State.DRAINING if lease.stopping_seen else State.HELD

    @property
    def shown(self) -> tuple[Verdict, Reason]:
        """Return what the condition LeaseHeld says."""
        subject = Subject(item="it", show=str, rival=self.rival, problem=self.problem, obstacle=self.obstacle)
        conditions = imply(Situation(uid="", lease=self.lease, ack=self.ack), subject, self.now)
        (held,) = (each for each in conditions if each.kind is Kind.LEASE_HELD)
        return held.verdict, held.reason


@dataclass(frozen=True, slots=True)
class Chart:
    """What is shown in each state, and which events lead from one state to another."""

    shown: Mapping[State, frozenset[tuple[Verdict, Reason]]]
    ways: Mapping[tuple[State, State], frozenset[str]]
    ends: Mapping[Reason, frozenset[str]]
    """The events that lead to each end."""


def _stamp(now: float) -> str:
    return datetime.fromtimestamp(EPOCH + now, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _exchange(now: float) -> Exchange:
    return Exchange(sent=now, done=now, date=EPOCH + now)


Event = Callable[[Moment], Moment | None]


def _answer(state: str, *, extended: bool = False) -> Event:
    def happens(moment: Moment) -> Moment:
        now = moment.now
        value = _stamp(now) if extended else moment.lease.value or ""
        after = _after(moment, Answered(_exchange(now), value, state, extended, TTL))
        return replace(after, lost=None) if extended else after

    return happens


def _conflict(value: Callable[[float], str | None]) -> Callable[[Moment], Moment]:
    def happens(moment: Moment) -> Moment:
        found = value(moment.now)
        return _after(moment, Conflicted(_exchange(moment.now), Current(found, "active" if found else "queued", TTL)))

    return happens


def _lost(moment: Moment) -> Moment | None:
    """Meet the stamp of our own beat whose answer was lost, if there was one within the life of the lease."""
    sent = moment.lease.sent
    if moment.lost is None or (sent is not None and moment.lost - sent >= TTL):
        return None
    stamp = _stamp(moment.lost)
    return replace(_conflict(lambda _: stamp)(moment), lost=None)


def _unanswered(moment: Moment) -> Moment:
    return replace(_after(moment, Unanswered(_exchange(moment.now), "why")), lost=moment.now)


def _mute(moment: Moment) -> Moment:
    return _after(moment, Conflicted(_exchange(moment.now), None))


def _after(moment: Moment, outcome: object) -> Moment:
    lease = observe(moment.lease, outcome)  # type: ignore[arg-type]  # each is one of the outcomes
    return replace(
        moment, lease=lease, now=moment.now if lease.end else max(moment.now, min(lease.due, moment.now + 1))
    )


def _fails(kind: type) -> Event:
    return lambda moment: _after(moment, kind(_exchange(moment.now), "why"))


def _missing(moment: Moment) -> Moment:
    """Meet a 404 to an item that the list does not have either."""
    lease = observe(moment.lease, Missing(_exchange(moment.now), "why"), NotListed())
    return replace(moment, lease=lease, now=moment.now if lease.end else moment.now + 1)


def _throttled(moment: Moment) -> Moment:
    return _after(moment, Throttled(_exchange(moment.now), "why", None))


def _fence_passes(moment: Moment) -> Moment | None:
    at = fence(moment.lease)
    return None if at is None or at <= moment.now else replace(moment, now=at)


def _end_passes(moment: Moment) -> Moment | None:
    at = giving_up(moment.lease)
    if at is None or moment.state is not State.FENCED:
        return None
    return replace(moment, lease=lapse(moment.lease, at), now=at)


def _process_starts(moment: Moment) -> Moment | None:
    lease = moment.lease
    if not lease.held or lease.words is None or lease.value is None or lease.sent is None:
        return None
    now = moment.now + TTL
    kept = restore(Lease(), value=lease.value, ttl=TTL, sent=lease.sent, claimed=0.0, words=lease.words, now=now)
    return replace(moment, lease=kept, now=now)


def _not_admitted(obstacle: Obstacle) -> Event:
    return lambda moment: None if moment.lease.held else replace(moment, problem="why", obstacle=obstacle)


def _to_acknowledge(*, is_token_missing: bool) -> Event:
    """Let the item wait for its acknowledgement, with or without a token."""
    ack = AckView(AckVerdict.NONE, is_token_missing=is_token_missing, message="")
    return lambda moment: replace(moment, ack=ack) if moment == Moment(Lease()) else None


EVENTS: Final[Mapping[str, Event]] = {
    "a beat is accepted": _answer("active", extended=True),
    "the item is stopping": _answer("stopping"),
    "the item is stopped": _answer("stopped"),
    "the lease is not extended": _answer("active"),
    "412: nobody has it": _conflict(lambda _: None),
    "412: another has it": _conflict(lambda now: _stamp(now + TTL / 2)),
    "412: our own lost beat": _lost,
    "412 without a word": _mute,
    "409": _fails(NotReady),
    "404": _missing,
    "401 or 403": _fails(Unauthorized),
    "no key": _fails(CredentialsMissing),
    "400": _fails(Rejected),
    "429": _throttled,
    "no connection": _fails(Unsent),
    "no answer": _unanswered,
    "the budget is short": lambda moment: replace(moment, lease=note_budget_short(moment.lease, "why")),
    "heartbeats are suspended": lambda moment: replace(moment, lease=replace(moment.lease, suspended=True)),
    "onFailure releases it": lambda moment: (
        replace(moment, lease=release(moment.lease, "why")) if moment.lease.held else None
    ),
    "the item is to be acknowledged": _to_acknowledge(is_token_missing=False),
    "its token is missing": _to_acknowledge(is_token_missing=True),
    "another acknowledged it": lambda moment: (
        None if moment.ack is None else replace(moment, lease=end_unclaimed(moment.lease, "why"))
    ),
    "the template is refused": _not_admitted(Obstacle.SPEC),
    "the quota has no room": _not_admitted(Obstacle.QUOTA),
    "a webhook is down": _not_admitted(Obstacle.ADMISSION),
    "the checkpoint is full": lambda moment: replace(moment, lease=note_unrecorded(moment.lease, "why", moment.now)),
    "another resource has it": lambda moment: None if moment.lease.held else replace(moment, rival="other"),
    "the fence passes": _fence_passes,
    "the end passes": _end_passes,
    "the operator starts": _process_starts,
}


def chart() -> Chart:
    """Return every state that a new lease can reach, and the ways: explored until nothing new is found."""
    shown: defaultdict[State, set[tuple[Verdict, Reason]]] = defaultdict(set)
    ways: defaultdict[tuple[State, State], set[str]] = defaultdict(set)
    ends: defaultdict[Reason, set[str]] = defaultdict(set)
    known: set[object] = set()
    waiting = [Moment(Lease())]
    while waiting:
        moment = waiting.pop(0)
        shown[moment.state].add(moment.shown)
        for event, after in _successors(moment):
            if after.state is not moment.state:
                ways[moment.state, after.state].add(event)
            if after.state is State.OVER:
                ends[after.shown[1]].add(event)
            if (alike := _alike(after)) not in known:
                known.add(alike)
                waiting.append(after)
    return Chart(
        {state: frozenset(shown[state]) for state in State},
        {way: frozenset(events) for way, events in ways.items()},
        {reason: frozenset(events) for reason, events in ends.items()},
    )


def _successors(moment: Moment) -> Iterator[tuple[str, Moment]]:
    if moment.state is State.OVER:
        return
    for name, event in EVENTS.items():
        after = event(moment)
        if after is not None:
            yield name, after


def _alike(moment: Moment) -> object:
    """Return what makes two moments the same for the picture."""
    lease = moment.lease
    doubt = (bool(lease.unanswered or lease.unplaced), lease.reprieve is not None, lease.refused_value is not None)
    failures = min(lease.failures, FAILURES)
    return moment.state, moment.shown, failures, lease.trouble, doubt, lease.suspended, moment.lost is None
