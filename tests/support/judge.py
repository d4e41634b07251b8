"""Judges a simulator's history by the invariants of a lease; one checker for all tests.

This module owns what counts as a violation. It must not know who produced the history: any client may be judged. All
times are seconds of the machine's monotonic clock, as the history tells them.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

NO_HEARTBEAT = "NO_HEARTBEAT"

OPERATOR: Final = "worklease-operator"
"""The agent by which the operator names itself in its requests."""

LAST_PART: Final = 1 / 3
"""The part of a TTL before its end in which a server that is away excuses a lapse: who keeps a lease has tried at a
third of the TTL, tries again within a twentieth, and gives a request up after a sixth."""

RECOVERY: Final = 10.0
"""Seconds in which a sandbox must have gone once whoever ends it is there again, beside a third of the TTL for two
beats that may tell first: a process that starts on a busy machine, and a grace."""

ORIENTATION: Final = 3.0
"""Seconds after its start in which a process lists what there is, on a busy machine: it is not there again before."""

WRITTEN: Final = 10.0
"""Seconds in which a client writes down what it was told: who is killed before that may ask once more."""

Entry = Mapping[str, Any]

Span = tuple[float, float]
"""From when until when something was away."""


@dataclass(frozen=True, slots=True)
class BrokenChain:
    """A beat was accepted that did not carry the value before it."""

    seq: int
    item: str
    expected: str | None
    before: str | None

    def __str__(self) -> str:
        return f"#{self.seq} {self.item}: accepted a beat with {self.expected} while the value was {self.before}"


@dataclass(frozen=True, slots=True)
class BeatAfterEnd:
    """A client beat an item although it had been told that it is stopped."""

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
    """A lease was not renewed within its TTL, although the server was there."""

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
    """A client stopped an item whose lease it did not hold, and could have known."""

    seq: int
    item: str
    agent: str | None
    why: str

    def __str__(self) -> str:
        return f"#{self.seq} {self.item}: {self.agent} stopped it although {self.why}"


@dataclass(frozen=True, slots=True)
class Robbed:
    """A client beat with the value that the server had given to another: it took over a lease that was not its own."""

    seq: int
    item: str
    agent: str | None
    other: str | None

    def __str__(self) -> str:
        return f"#{self.seq} {self.item}: {self.agent} went on with the value of {self.other or 'another worker'}"


@dataclass(frozen=True, slots=True)
class Outlived:
    """A sandbox was seen after its lease had ended."""

    seq: int
    item: str
    pod: str
    seconds: float

    def __str__(self) -> str:
        return f"#{self.seq} {self.item}: pod {self.pod} was there {self.seconds:.3f} s after the end of its lease"


@dataclass(frozen=True, slots=True)
class Stay:
    """When a sandbox's pod was first and last seen by somebody who looks all the time."""

    item: str
    pod: str
    uid: str
    first: float
    last: float


Violation = BrokenChain | BeatAfterEnd | Overlap | Gap | WrongStop | Robbed


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
        history: The `entries` that the simulator's administration tells.
        released: Items whose lease was meant to lapse; their gaps are none.
        absent: When those who beat were stopped by order of a test; a gap is excused as by an outage of the server.
        killed: When those who beat were killed: the next process does not know what was told just before.
        until: When the watching ended: a lease that is held then must not have run out.
    """
    violations: list[Violation] = [
        *_broken_chains(history),
        *_beats_after_the_end(history, killed),
        *_overlaps(history),
        *_gaps(history, released, [*_away(history), *absent], until),
        *_wrong_stops(history),
        *_robberies(history),
    ]
    return sorted(violations, key=lambda violation: violation.seq)


def check_sandboxes(
    history: Sequence[Entry], stays: Sequence[Stay], *, agent: str = OPERATOR, absent: Sequence[Span] = ()
) -> list[Outlived]:
    """Return the sandboxes that were seen after the end of the lease under which they ran.

    A sandbox belongs to the first lease of `agent` that was held while its pod was there, and must be gone before that
    lease's last accepted beat is a TTL old, whatever else ended the lease: whoever was not told must have fenced.

    Args:
        history: As for `check_history`.
        stays: The pods that carry an item's label.
        agent: Who keeps the leases and ends the sandboxes.
        absent: When it, or the API server by which it ends pods, was away; it is given time to make up for that.
    """
    runs = list(_runs(history, agent))
    found = (_outlived(stay, runs, absent) for stay in stays)
    return [violation for violation in found if violation is not None]


def heartbeats(history: Sequence[Entry], item: str | None = None) -> list[Entry]:
    """The heartbeat requests, of one item if it is named."""
    return [entry for entry in history if entry.get("call") == "heartbeat" and item in (None, entry["item"])]


def _in_order(history: Sequence[Entry]) -> list[Entry]:
    """The entries that took effect, in the order in which they did."""
    return sorted((entry for entry in history if entry["order"] is not None), key=lambda entry: entry["order"])


def _when(entry: Entry) -> float:
    """When an entry took effect."""
    return float(entry["applied_monotonic"] if entry["event"] == "request" else entry["at_monotonic"])


def _accepted(entry: Entry) -> bool:
    return entry.get("call") == "heartbeat" and bool(entry["lease_extended"])


def _broken_chains(history: Sequence[Entry]) -> Iterator[BrokenChain]:
    for entry in _in_order(history):
        if _accepted(entry) and entry["expected"] != (entry["before"]["value"] or NO_HEARTBEAT):
            yield BrokenChain(entry["seq"], entry["item"], entry["expected"], entry["before"]["value"])


def _robberies(history: Sequence[Entry]) -> Iterator[Robbed]:
    givens: dict[str, str | None] = {}  # to whom each item's value was given; None: to a worker that is not seen
    for entry in _in_order(history):
        item = entry["item"]
        if _accepted(entry):
            given = givens.get(item, entry["agent"])
            if entry["expected"] not in (None, NO_HEARTBEAT) and given != entry["agent"]:
                yield Robbed(entry["seq"], item, entry["agent"], given)
            givens[item] = entry["agent"]
        elif entry["event"] in ("created", "requeued", "stolen"):
            givens[item] = None


def _beats_after_the_end(history: Sequence[Entry], killed: Sequence[float]) -> Iterator[BeatAfterEnd]:
    told: dict[tuple[str, str | None], Entry] = {}
    for entry in history:
        if entry["event"] in ("requeued", "created", "lapsed"):
            told = {key: end for key, end in told.items() if key[0] != entry["item"]}
        if entry.get("call") != "heartbeat":
            continue
        key = (entry["item"], entry["agent"])
        end = told.get(key)
        if end is None or entry["arrived_monotonic"] <= (heard := end["answered_monotonic"]):
            pass
        elif not any(heard <= each <= min(heard + WRITTEN, entry["arrived_monotonic"]) for each in killed):
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
    """A lease as its last accepted beat left it."""

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
    """Find leases that ran out: the next beat came too late, the lapse came first, or neither ever came."""
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
    """Keep up with which leases are held since when, for how long, and by whom."""
    after = entry["after"]
    if _accepted(entry):
        held[item] = _Held(entry["seq"], _when(entry), entry["ttl_seconds"], entry["agent"])
    elif entry["event"] == "stolen":
        held[item] = _Held(entry["seq"], _when(entry), after["ttl_seconds"], None)
    elif after is None or after["state"] not in (None, "active"):
        held.pop(item, None)


def _is_excused(held: _Held, away: Sequence[Span]) -> bool:
    """Whether the server was away in the last part of a lease's life; what was over before that is no excuse."""
    return any(start < held.end and end > held.end - held.ttl * LAST_PART for start, end in away)


def _away(history: Sequence[Entry]) -> Iterator[Span]:
    """The spans in which the whole server was away by order of a test. A fault of one call excuses nobody."""
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
    """What a client can know of its hold on one item."""

    agent: str | None
    end: float
    """When the lease ends unless it is renewed."""
    lost: str | None = None
    """What took the lease away since the last accepted beat."""
    told: float = float("inf")
    """When the client was told so."""


def _wrong_stops(history: Sequence[Entry]) -> Iterator[WrongStop]:
    """Find stops that had an effect on an item whose lease the client did not hold, and could have known."""
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
    """Say why a client should not have sent a stop; None if it could not know, or was right."""
    if stop["credentials"] == "api-key":
        return None  # its owner's, who may
    if claim is None:
        return "it never held its lease"
    if stop["arrived_monotonic"] > claim.end:
        return "its lease had ended"
    if claim.lost is not None and stop["arrived_monotonic"] > claim.told:
        return f"it had been told that the lease was {claim.lost}"
    return None


def _learn(claims: dict[tuple[str, str | None], _Claim], item: str, entry: Entry) -> None:
    """Keep up with what each client can know."""
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
    """When something else than time ended it: what came to be after that was never part of it."""
    known: bool = False
    """Whether the client ever read that it holds: it ends no sandbox for a lease that it never held."""


def _runs(history: Sequence[Entry], agent: str) -> Iterator[_Run]:
    """Find the leases that a client held, one after the other for each item."""
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
    """Whether an entry ends whatever lease there was."""
    if _accepted(entry) or entry["event"] in ("stolen", "requeued", "lapsed", "deleted"):
        return True
    return entry["after"] is not None and entry["after"]["state"] in ("queued", "stopped")


def _outlived(stay: Stay, runs: Sequence[_Run], absent: Sequence[Span]) -> Outlived | None:
    """Judge one pod by the first lease that was held while it was there."""
    for run in runs:
        if run.item != stay.item or not run.known or stay.first >= run.over or stay.last <= run.start:
            continue
        allowed = run.end
        for start, end in absent:
            if start < run.end and end + ORIENTATION > run.end - run.ttl * LAST_PART:
                allowed = max(allowed, end + run.ttl / 3 + RECOVERY)
        return Outlived(run.seq, stay.item, stay.pod, stay.last - run.end) if stay.last > allowed else None
    return None
