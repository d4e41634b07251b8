"""Checks a simulator's history against the invariants of a lease. All tests use this one checker.

This module owns what counts as a violation. It must not know who produced the history: it can check any client. All
times are seconds of the machine's monotonic clock, as in the history.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

NO_HEARTBEAT = "NO_HEARTBEAT"

OPERATOR: Final = "worklease-operator"
"""The user agent of the operator's requests."""

EXCUSED_PART: Final = 1 / 3
"""The last part of a TTL: a server that is away in it excuses a lapse. A client beats at a third of the TTL, retries
within a twentieth, and gives a request up after a sixth."""

RECOVERY_SECONDS: Final = 10.0
"""Seconds in which a sandbox must be gone after the operator or the API server is back: a process start on a busy
machine, and a grace period. A third of the TTL is added, for two beats that may come first."""

START_SECONDS: Final = 3.0
"""Seconds that a process needs after its start to list all objects, on a busy machine. Until then it counts as away."""

CHECKPOINT_SECONDS: Final = 10.0
"""Seconds in which a client saves an answer. A client that is killed before that may send one more beat."""

Entry = Mapping[str, Any]

Span = tuple[float, float]
"""When an absence began and ended."""


@dataclass(frozen=True, slots=True)
class BrokenChain:
    """The server accepted a beat that did not carry the value before it."""

    seq: int
    item: str
    expected: str | None
    before: str | None

    def __str__(self) -> str:
        return f"#{self.seq} {self.item}: accepted a beat with {self.expected} while the value was {self.before}"


@dataclass(frozen=True, slots=True)
class BeatAfterEnd:
    """A client beat an item after an answer said that the item is stopped."""

    seq: int
    item: str
    agent: str | None
    told: int

    def __str__(self) -> str:
        return f"#{self.seq} {self.item}: {self.agent} beat again although #{self.told} had told it `stopped`"


@dataclass(frozen=True, slots=True)
class Overlap:
    """A client had two beats of one item in flight."""

    seq: int
    item: str
    agent: str | None
    earlier: int

    def __str__(self) -> str:
        return f"#{self.seq} {self.item}: {self.agent} sent it before #{self.earlier} was answered"


@dataclass(frozen=True, slots=True)
class Gap:
    """A lease was not renewed within its TTL, although the server was available."""

    seq: int
    item: str
    seconds: float
    ttl: int
    agent: str | None = None

    def __str__(self) -> str:
        return (
            f"#{self.seq} {self.item}: {self.seconds:.3f} s without an accepted beat of {self.agent}, "
            f"the TTL was {self.ttl} s"
        )


@dataclass(frozen=True, slots=True)
class WrongStop:
    """A client stopped an item whose lease it did not hold, although it could have known that."""

    seq: int
    item: str
    agent: str | None
    why: str

    def __str__(self) -> str:
        return f"#{self.seq} {self.item}: {self.agent} stopped it although {self.why}"


@dataclass(frozen=True, slots=True)
class WrongTakeover:
    """A client beat with a value that the server had given to another client: it took over that client's lease."""

    seq: int
    item: str
    agent: str | None
    other: str | None

    def __str__(self) -> str:
        return f"#{self.seq} {self.item}: {self.agent} went on with the value of {self.other or 'another worker'}"


@dataclass(frozen=True, slots=True)
class Outlived:
    """A sandbox still existed after its lease had ended."""

    seq: int
    item: str
    pod: str
    seconds: float

    def __str__(self) -> str:
        return f"#{self.seq} {self.item}: pod {self.pod} was there {self.seconds:.3f} s after the end of its lease"


@dataclass(frozen=True, slots=True)
class Stay:
    """When a continuous observer first and last saw a sandbox's pod."""

    item: str
    pod: str
    uid: str
    first: float
    last: float


Violation = BrokenChain | BeatAfterEnd | Overlap | Gap | WrongStop | WrongTakeover


def check_history(
    history: Sequence[Entry],
    *,
    released: Collection[str] = (),
    absent: Sequence[Span] = (),
    killed: Sequence[float] = (),
    until: float | None = None,
) -> list[Violation]:
    """Return every violation in a history, in the order of its entries.

    Args:
        history: The `entries` of the simulator's administration.
        released: Items whose lease was meant to lapse; their gaps are no violations.
        absent: When a test had stopped the clients; this excuses a gap as an outage of the server does.
        killed: When the clients were killed: the next process does not know the last answers.
        until: When the observation ended: a lease that is held then must not have run out.
    """
    violations: list[Violation] = [
        *_broken_chains(history),
        *_beats_after_the_end(history, killed),
        *_overlaps(history),
        *_gaps(history, released, [*_away(history), *absent], until),
        *_wrong_stops(history),
        *_wrong_takeovers(history),
    ]
    return sorted(violations, key=lambda violation: violation.seq)


def check_sandboxes(
    history: Sequence[Entry], stays: Sequence[Stay], *, agent: str = OPERATOR, absent: Sequence[Span] = ()
) -> list[Outlived]:
    """Return the sandboxes that existed after the end of their lease.

    A sandbox belongs to the first lease of `agent` that was held while its pod existed. It must be gone before that
    lease's last accepted beat is a TTL old, whatever ended the lease: a client that got no answer must have fenced.

    Args:
        history: As for `check_history`.
        stays: The pods that carry an item's label.
        agent: The user agent of the client that keeps the leases and ends the sandboxes.
        absent: When this client or the API server was away; afterwards the client gets time to catch up.
    """
    runs = list(_runs(history, agent))
    found = (_outlived(stay, runs, absent) for stay in stays)
    return [violation for violation in found if violation is not None]


def heartbeats(history: Sequence[Entry], item: str | None = None) -> list[Entry]:
    """Return the heartbeat requests, of one item if it is named."""
    return [entry for entry in history if entry.get("call") == "heartbeat" and item in (None, entry["item"])]


def _in_order(history: Sequence[Entry]) -> list[Entry]:
    """Return the entries that took effect, in the order of effect."""
    return sorted((entry for entry in history if entry["order"] is not None), key=lambda entry: entry["order"])


def _when(entry: Entry) -> float:
    """Return when an entry took effect."""
    return float(entry["applied_monotonic"] if entry["event"] == "request" else entry["at_monotonic"])


def _accepted(entry: Entry) -> bool:
    return entry.get("call") == "heartbeat" and bool(entry["lease_extended"])


def _broken_chains(history: Sequence[Entry]) -> Iterator[BrokenChain]:
    for entry in _in_order(history):
        if _accepted(entry) and entry["expected"] != (entry["before"]["value"] or NO_HEARTBEAT):
            yield BrokenChain(entry["seq"], entry["item"], entry["expected"], entry["before"]["value"])


def _wrong_takeovers(history: Sequence[Entry]) -> Iterator[WrongTakeover]:
    holders: dict[str, str | None] = {}  # the client that got each item's value; None: a worker outside the history
    for entry in _in_order(history):
        item = entry["item"]
        if _accepted(entry):
            holder = holders.get(item, entry["agent"])
            if entry["expected"] not in (None, NO_HEARTBEAT) and holder != entry["agent"]:
                yield WrongTakeover(entry["seq"], item, entry["agent"], holder)
            holders[item] = entry["agent"]
        elif entry["event"] in ("created", "requeued", "stolen"):
            holders[item] = None


def _beats_after_the_end(history: Sequence[Entry], killed: Sequence[float]) -> Iterator[BeatAfterEnd]:
    told: dict[tuple[str, str | None], Entry] = {}
    for entry in history:
        if entry["event"] in ("requeued", "created", "lapsed"):
            told = {key: end for key, end in told.items() if key[0] != entry["item"]}
        if entry.get("call") != "heartbeat":
            continue
        key = (entry["item"], entry["agent"])
        end = told.get(key)
        if end is None or entry["arrived_monotonic"] <= (read := end["answered_monotonic"]):
            pass
        elif not any(read <= each <= min(read + CHECKPOINT_SECONDS, entry["arrived_monotonic"]) for each in killed):
            yield BeatAfterEnd(entry["seq"], entry["item"], entry["agent"], end["seq"])
        if entry["outcome"] == "answered" and entry["status"] == 200 and entry["after"]["state"] == "stopped":
            told[key] = entry


def _overlaps(history: Sequence[Entry]) -> Iterator[Overlap]:
    latest: dict[tuple[str, str | None], Entry] = {}
    for entry in heartbeats(history):
        key = (entry["item"], entry["agent"])
        earlier = latest.get(key)
        if (
            earlier is not None
            and earlier["outcome"] == "answered"
            and entry["arrived_monotonic"] < earlier["answered_monotonic"]
        ):
            yield Overlap(entry["seq"], entry["item"], entry["agent"], earlier["seq"])
        latest[key] = entry


# --- Leases that ran out -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Held:
    """A lease after its last accepted beat."""

    seq: int
    since: float
    ttl: int
    agent: str | None

    @property
    def end(self) -> float:
        return self.since + self.ttl


def _gaps(
    history: Sequence[Entry], released: Collection[str], away: Sequence[Span], until: float | None
) -> Iterator[Gap]:
    """Find leases that ran out: the next beat was late, or the lease lapsed first, or neither happened."""
    held: dict[str, _Held] = {}
    for entry in _in_order(history):
        item = entry["item"]
        if item is None:
            continue
        before = held.get(item)
        if before is not None and (_accepted(entry) or entry["event"] == "lapsed"):
            late = _when(entry) > before.end or entry["event"] == "lapsed"
            if late and item not in released and not _is_excused(before, away):
                yield Gap(entry["seq"], item, _when(entry) - before.since, before.ttl, before.agent)
        _follow(held, item, entry)
    for item, left in held.items():
        if until is not None and until > left.end and item not in released and not _is_excused(left, away):
            yield Gap(left.seq, item, until - left.since, left.ttl, left.agent)


def _follow(held: dict[str, _Held], item: str, entry: Entry) -> None:
    """Update which leases are held, since when, for how long, and by which client."""
    after = entry["after"]
    if _accepted(entry):
        held[item] = _Held(entry["seq"], _when(entry), entry["ttl_seconds"], entry["agent"])
    elif entry["event"] == "stolen":
        held[item] = _Held(entry["seq"], _when(entry), after["ttl_seconds"], None)
    elif after is None or after["state"] not in (None, "active"):
        held.pop(item, None)


def _is_excused(held: _Held, away: Sequence[Span]) -> bool:
    """Whether the server was away in the last part of a lease's life; an absence that ended before is no excuse."""
    return any(start < held.end and end > held.end - held.ttl * EXCUSED_PART for start, end in away)


def _away(history: Sequence[Entry]) -> Iterator[Span]:
    """Yield the outages of the whole server. A fault of a single call is no excuse."""
    since: float | None = None
    for entry in history:
        if entry["event"] != "outage":
            continue
        if since is not None:
            yield since, entry["at_monotonic"]
        since = None if entry["detail"] == "off" else entry["at_monotonic"]
    if since is not None:
        yield since, float("inf")


# --- Items that were stopped -------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Claim:
    """What a client can know about its lease of one item."""

    agent: str | None
    end: float
    """When the lease ends unless it is renewed."""
    lost: str | None = None
    """What took the lease away since the last accepted beat."""
    told: float = float("inf")
    """When an answer told the client so."""


def _wrong_stops(history: Sequence[Entry]) -> Iterator[WrongStop]:
    """Find effective stops of items whose lease the client did not hold, although it could have known that."""
    claims: dict[tuple[str, str | None], _Claim] = {}
    for entry in _in_order(history):
        item = entry["item"]
        if item is None:
            continue
        if entry.get("call") == "stop":
            why = _wrong(entry, claims.get((item, entry["agent"])))
            if why is not None and entry["before"]["state"] != entry["after"]["state"]:
                yield WrongStop(entry["seq"], item, entry["agent"], why)
        _learn(claims, item, entry)


def _wrong(stop: Entry, claim: _Claim | None) -> str | None:
    """Return why a client should not have sent a stop; None if it could not know, or was right to send it."""
    if stop["credentials"] == "api-key":
        return None  # sent by the item's owner, who may stop it
    if claim is None:
        return "it never held its lease"
    if stop["arrived_monotonic"] > claim.end:
        return "its lease had ended"
    if claim.lost is not None and stop["arrived_monotonic"] > claim.told:
        return f"it had been told that the lease was {claim.lost}"
    return None


def _learn(claims: dict[tuple[str, str | None], _Claim], item: str, entry: Entry) -> None:
    """Update what each client can know."""
    event = entry["event"]
    if event in ("stolen", "requeued", "lapsed", "deleted"):
        for (name, _), claim in claims.items():
            if name == item:
                claim.lost = event
    if entry.get("call") != "heartbeat":
        return
    if _accepted(entry):
        for (name, _), claim in claims.items():
            if name == item:
                claim.lost = "taken over"
        claims[item, entry["agent"]] = _Claim(entry["agent"], _when(entry) + entry["ttl_seconds"])
    elif entry["outcome"] == "answered" and entry["status"] in (404, 412):
        own = claims.get((item, entry["agent"]))
        if own is not None and own.lost is not None:
            own.told = min(own.told, entry["answered_monotonic"])


# --- Sandboxes ---------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Run:
    """One lease from its claim to its end."""

    item: str
    seq: int
    start: float
    end: float
    ttl: int
    over: float = float("inf")
    """When something other than time ended it. Pods that are created later do not belong to it."""
    known: bool = False
    """Whether an answer ever told the client that it holds the lease. Otherwise it ends no sandbox for it."""


def _runs(history: Sequence[Entry], agent: str) -> Iterator[_Run]:
    """Yield the leases that a client held, in order for each item."""
    current: dict[str, _Run] = {}
    for entry in _in_order(history):
        item = entry["item"]
        if item is None:
            continue
        if _accepted(entry) and entry["agent"] == agent:
            run = current.get(item)
            if run is None:
                run = current[item] = _Run(item, entry["seq"], _when(entry), 0.0, 0)
            run.seq, run.end, run.ttl = entry["seq"], _when(entry) + entry["ttl_seconds"], entry["ttl_seconds"]
            run.known |= entry["outcome"] == "answered" and entry["status"] == 200
        elif item in current and _is_over(entry):
            run = current.pop(item)
            run.over = _when(entry)
            yield run
    yield from current.values()


def _is_over(entry: Entry) -> bool:
    """Whether an entry ends the item's lease."""
    if _accepted(entry) or entry["event"] in ("stolen", "requeued", "lapsed", "deleted"):
        return True
    return entry["after"] is not None and entry["after"]["state"] in ("queued", "stopped")


def _outlived(stay: Stay, runs: Sequence[_Run], absent: Sequence[Span]) -> Outlived | None:
    """Check one pod against the first lease that was held while it existed."""
    for run in runs:
        if run.item != stay.item or not run.known or stay.first >= run.over or stay.last <= run.start:
            continue
        allowed = run.end
        for start, end in absent:
            if start < run.end and end + START_SECONDS > run.end - run.ttl * EXCUSED_PART:
                allowed = max(allowed, end + run.ttl / 3 + RECOVERY_SECONDS)
        return Outlived(run.seq, stay.item, stay.pod, stay.last - run.end) if stay.last > allowed else None
    return None
