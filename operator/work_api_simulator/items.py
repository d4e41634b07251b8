"""The work item and every rule of its lease, as pure functions from an item and the time to the next item.

This module owns the state machine. It must not read a clock, open a socket or know of other items: `now` is passed in,
in microseconds since the epoch, and a function's result is its only effect. Sentences in quotes come from the Work API
protocol.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, assert_never

from work_api_simulator import instants
from work_api_simulator.instants import SECOND
from work_api_simulator.profiles import (
    BeatAfterStop,
    BeatOnQueued,
    Comparison,
    Lapse,
    OmittedValue,
    PreconditionBody,
    PreconditionType,
    Profile,
    Redelivery,
    RepeatedAck,
    RepeatedStop,
    StartedAt,
    TtlMemory,
    TtlRequest,
    TtlUnextended,
    Unbeaten,
    UnclaimedStop,
    UnpolledAck,
)
from work_api_simulator.refusals import RefusalKind, RequestRefusal

NO_HEARTBEAT = "NO_HEARTBEAT"


class State(StrEnum):
    """`queued` -ack→ `starting` -first heartbeat→ `active` -stop→ `stopping` -confirm→ `stopped`."""

    QUEUED = "queued"
    STARTING = "starting"
    ACTIVE = "active"
    STOPPING = "stopping"
    STOPPED = "stopped"


class StopMode(StrEnum):
    """The two kinds of stop: graceful waits for the worker's confirmation, forced is the confirmation."""

    GRACEFUL = "graceful"
    FORCED = "forced"


class ChangeKind(StrEnum):
    """How an item can change without a request to the Work API."""

    CREATED = "created"
    LAPSED = "lapsed"
    REQUEUED = "requeued"
    STOPPED = "stopped"
    STOLEN = "stolen"
    DELETED = "deleted"
    RECLAIMED = "reclaimed"
    TTL_IMPOSED = "ttl-imposed"
    TOKEN_ROTATED = "token-rotated"  # noqa: S105 - the name of an event, not a token


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One work item. Instants are microseconds since the epoch; None means "not yet"."""

    id: str
    environment_id: str
    data_type: str
    data_id: str
    created_at: int
    queued_at: int
    """The entry to the queue."""
    started_at: int | None
    sessions_token: str = field(repr=False)
    state: State = State.QUEUED
    value: str | None = None
    beaten_at: int | None = None
    latest: int = 0
    """The latest server time ever used in a value of this item: values only increase, also across deliveries."""
    ttl: int | None = None
    """The TTL of the last accepted beat, in seconds."""
    ttl_default: int | None = None
    """This item's default TTL, where it differs from the profile's."""
    ttl_imposed: int | None = None
    """A TTL that the server grants from now on, whatever is requested."""
    ttl_longest: int | None = None
    """Requests for a longer TTL are refused from now on."""
    ttl_requested: int | None = None
    """The TTL that the last beat requested and got, on servers that remember it."""
    polled_at: int | None = None
    reclaim_ms: int = 0
    """The `reclaim_older_than_ms` of the poll that reserved it."""
    follows: str | None = None
    """The item that must have ended before this one is polled."""
    acknowledged_at: int | None = None
    stop_requested_at: int | None = None
    stopped_at: int | None = None
    deliveries: int = 1
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HeartbeatAccepted:
    """A heartbeat that was answered 200."""

    item: Item
    extended: bool
    ttl: int
    shown: str | None = None
    """The `last_heartbeat` of the answer, where it is not the item's."""


@dataclass(frozen=True, slots=True)
class StopAnswered:
    """A stop that was answered with success; NO_CONTENT servers do not send the item."""

    item: Item


def default_ttl(item: Item, profile: Profile) -> int:
    """Return the TTL of a beat that requests none: "default 300 s (recorded)"."""
    return profile.default_ttl if item.ttl_default is None else item.ttl_default


def beat(
    item: Item, now: int, profile: Profile, *, expected: str | None, desired: int | None
) -> HeartbeatAccepted | RequestRefusal:
    """Record a heartbeat.

    "Each later one echoes the server's previous `last_heartbeat` exactly, byte for byte. A mismatch answers 412 and
    changes nothing." The comparison and the write are one call that cannot be interrupted: of two callers with one
    value, one wins. `desired` is at least 1 second.
    """
    if expected is None and profile.omitted_value is OmittedValue.INVALID:
        return RequestRefusal(RefusalKind.INVALID, "expected_last_heartbeat: Field required")
    if desired is not None and (refusal := _ttl_refusal(item, desired, profile)) is not None:
        return refusal
    match item.state:
        case State.STOPPING | State.STOPPED:
            return _beat_after_stop(item, now, profile, expected, desired)
        case State.QUEUED if profile.beat_on_queued is BeatOnQueued.PRECONDITION:
            return _mismatch(item, profile, expected)
        case State.QUEUED if profile.beat_on_queued is BeatOnQueued.CONFLICT:
            return RequestRefusal(RefusalKind.CONFLICT, f"Work item {item.id} is queued: acknowledge it first")
        case State.QUEUED if profile.beat_on_queued is BeatOnQueued.UNEXTENDED:
            shown = instants.write(now, profile.value_format)
            return HeartbeatAccepted(item, extended=False, ttl=_unextended_ttl(item, profile, desired), shown=shown)
        case State.QUEUED | State.STARTING | State.ACTIVE:
            if not _matches(item, profile, expected):
                return _mismatch(item, profile, expected)
            return _extend(item, now, profile, desired)
        case _:
            assert_never(item.state)


def _beat_after_stop(
    item: Item, now: int, profile: Profile, expected: str | None, desired: int | None
) -> HeartbeatAccepted | RequestRefusal:
    """Answer a beat on an item that is `stopping` or `stopped`.

    "In `stopping` and `stopped` a beat is answered 200, `lease_extended: false`, without comparison, and extends
    nothing (recorded; a never-beaten `stopping` item answers `last_heartbeat: ""`). Some clones do compare there, and
    two move the value."
    """
    unextended = HeartbeatAccepted(item, extended=False, ttl=_unextended_ttl(item, profile, desired))
    match profile.beat_after_stop:
        case BeatAfterStop.UNCOMPARED:
            return unextended
        case BeatAfterStop.CONFLICT:
            return RequestRefusal(RefusalKind.CONFLICT, f"Work item {item.id} is {item.state}")
        case BeatAfterStop.COMPARED:
            return unextended if _matches(item, profile, expected) else _mismatch(item, profile, expected)
        case BeatAfterStop.COMPARED_AND_MOVES:
            if not _matches(item, profile, expected):
                return _mismatch(item, profile, expected)
            return replace(unextended, item=_with_next_value(item, now, profile))
        case _:
            assert_never(profile.beat_after_stop)


def _extend(item: Item, now: int, profile: Profile, desired: int | None) -> HeartbeatAccepted:
    """Accept a beat: the item gets a new value, its lease starts again now, and it is `active`."""
    ttl = effective_ttl(item, profile, desired)
    asked = desired if desired is not None and profile.ttl_memory is TtlMemory.STICKY else item.ttl_requested
    moved = _with_next_value(item, now, profile)
    if item.value is None and profile.started_at is StartedAt.FIRST_BEAT:
        moved = replace(moved, started_at=now)
    beaten = replace(moved, state=State.ACTIVE, ttl=ttl, ttl_requested=asked, beaten_at=now)
    return HeartbeatAccepted(beaten, extended=True, ttl=ttl)


def _with_next_value(item: Item, now: int, profile: Profile) -> Item:
    """Return the item with a new value: server time, later than every earlier value in the profile's format."""
    step = instants.unit(profile.value_format)
    instant = max(now - now % step, item.latest + step)
    return replace(item, value=instants.write(instant, profile.value_format), latest=instant)


def effective_ttl(item: Item, profile: Profile, desired: int | None) -> int:
    """Return the TTL of an accepted beat: "a requested 120 was granted; bounds and stickiness unknown"."""
    if item.ttl_imposed is not None:
        return item.ttl_imposed
    match profile.ttl_memory:
        case TtlMemory.IGNORED:
            wanted = None
        case TtlMemory.STICKY:
            wanted = item.ttl_requested if desired is None else desired
        case TtlMemory.PER_CALL:
            wanted = desired
        case _:
            assert_never(profile.ttl_memory)
    if wanted is None:
        return default_ttl(item, profile)
    match profile.ttl_request:
        case TtlRequest.CLAMPED:
            return min(max(wanted, profile.shortest_ttl), profile.longest_ttl)
        case TtlRequest.GRANTED | TtlRequest.REFUSED:
            return wanted
        case _:
            assert_never(profile.ttl_request)


def _ttl_refusal(item: Item, desired: int, profile: Profile) -> RequestRefusal | None:
    """Return the refusal of a TTL that this server does not grant: "clones clamp to 10..600 or 5..300, or refuse"."""
    if item.ttl_longest is not None and desired > item.ttl_longest:
        return RequestRefusal(RefusalKind.INVALID, f"desired_ttl_seconds: must be at most {item.ttl_longest}")
    if profile.ttl_request is TtlRequest.REFUSED and not profile.shortest_ttl <= desired <= profile.longest_ttl:
        bounds = f"{profile.shortest_ttl}..{profile.longest_ttl}"
        return RequestRefusal(RefusalKind.INVALID, f"desired_ttl_seconds: must be in {bounds}")
    return None


def _unextended_ttl(item: Item, profile: Profile, desired: int | None = None) -> int:
    """Return the TTL of an answer that extends nothing; it "may report another one: derive no deadline from it"."""
    if profile.ttl_unextended is TtlUnextended.ASKED:
        return effective_ttl(item, profile, desired)
    if profile.ttl_unextended is TtlUnextended.DEFAULT or item.ttl is None:
        return default_ttl(item, profile)
    return item.ttl


def _matches(item: Item, profile: Profile, expected: str | None) -> bool:
    """Whether the values match: "An omitted `expected_last_heartbeat` claims or extends without comparison."."""
    if expected is None:
        return True
    if expected == NO_HEARTBEAT or item.value is None:
        return expected == NO_HEARTBEAT and item.value is None
    match profile.comparison:
        case Comparison.BYTES:
            return expected == item.value
        case Comparison.INSTANTS:
            return instants.read(expected) == instants.read(item.value)
        case _:
            assert_never(profile.comparison)


def _mismatch(item: Item, profile: Profile, expected: str | None) -> RequestRefusal:
    """Return the refusal of a failed comparison, in the words of the table "Errors"."""
    message = f"Heartbeat precondition failed: expected {expected}, actual was {item.value or 'NULL'}"
    is_named = profile.precondition_type is PreconditionType.PRECONDITION
    kind = RefusalKind.PRECONDITION_NAMED if is_named else RefusalKind.PRECONDITION
    return RequestRefusal(kind, message, _mismatch_details(item, profile))


def _mismatch_details(item: Item, profile: Profile) -> Mapping[str, Any] | None:
    """Return the server's view of the lease; "`details` or parts of it may be missing"."""
    if profile.precondition_body is PreconditionBody.BARE:
        return None
    return {
        "error_code": "heartbeat_precondition_failed",
        "error_visibility": "user_facing",
        "current_state": {
            "state": item.state,
            "last_heartbeat": item.value,
            "lease_extended": False,
            "ttl_seconds": _unextended_ttl(item, profile),
        },
    }


def acknowledge(item: Item, now: int, profile: Profile) -> Item | RequestRefusal:
    """Take the item out of the queue: "Ack is not idempotent: a repeat answers 409 naming the state (recorded)"."""
    match item.state:
        case State.QUEUED if item.polled_at is None and profile.unpolled_ack is UnpolledAck.CONFLICT:
            return RequestRefusal(RefusalKind.CONFLICT, f"Work item {item.id} was not polled")
        case State.QUEUED:
            return replace(item, state=State.STARTING, acknowledged_at=now)
        case _ if profile.repeated_ack is RepeatedAck.ALWAYS:
            return item
        case State.STARTING | State.ACTIVE if profile.repeated_ack is RepeatedAck.ITEM:
            return item
        case State.STARTING | State.ACTIVE | State.STOPPING | State.STOPPED:
            return RequestRefusal(
                RefusalKind.CONFLICT, f"Work item {item.id} cannot be acknowledged: it is {item.state}"
            )
        case _:
            assert_never(item.state)


def stop(item: Item, now: int, profile: Profile, mode: StopMode) -> StopAnswered | RequestRefusal:
    """Stop the item, without comparing a value and whoever holds the lease.

    "A graceful stop (`force: false`) leaves the item `stopping` until the worker confirms"; "`force` goes straight to
    `stopped`"; "recorded answers are always 200 with the item, even when nothing changes (a second stop keeps the
    first `stop_requested_at`)".
    """
    stopped = after_stop(item, now, profile, mode)
    if stopped is item and _is_refused_again(item, profile):
        return RequestRefusal(RefusalKind.CONFLICT, f"Work item {item.id} is already {item.state}")
    return StopAnswered(stopped)


def _is_refused_again(item: Item, profile: Profile) -> bool:
    match profile.repeated_stop:
        case RepeatedStop.ACKNOWLEDGED:
            return False
        case RepeatedStop.CONFLICT:
            return True
        case RepeatedStop.CONFLICT_WHEN_STOPPED:
            return item.state is State.STOPPED
        case _:
            assert_never(profile.repeated_stop)


def after_stop(item: Item, now: int, profile: Profile, mode: StopMode) -> Item:
    """Return the item after a stop; the same object if nothing changes."""
    requested = now if item.stop_requested_at is None else item.stop_requested_at
    stopped = replace(item, state=State.STOPPED, stop_requested_at=requested, stopped_at=now)
    match item.state, mode:
        case (State.STOPPED, _) | (State.STOPPING, StopMode.GRACEFUL):
            return item
        case _, StopMode.FORCED:
            return stopped
        case State.QUEUED | State.STARTING, _ if profile.unclaimed_stop is UnclaimedStop.STOPPED:
            return stopped
        case _:
            return replace(item, state=State.STOPPING, stop_requested_at=requested)


def first_started_at(now: int, profile: Profile) -> int | None:
    """Return the `started_at` of an item that enters the queue: "[it] marks the entry to the queue (recorded)"."""
    return now if profile.started_at is StartedAt.ENTRY else None


def requeue(item: Item, now: int, profile: Profile) -> Item:
    """Queue the item again under its id.

    "A lease that lapses goes back to `queued` and its last heartbeat becomes null"; "`started_at` marks the entry to
    the queue [...] stamped [again] at each re-queue of the same id, untouched by poll, ack, beat and stop (recorded)".
    """
    return replace(
        item,
        state=State.QUEUED,
        queued_at=now,
        started_at=first_started_at(now, profile),
        value=None,
        beaten_at=None,
        ttl=None,
        ttl_requested=None,
        polled_at=None,
        acknowledged_at=None,
        stop_requested_at=None,
        stopped_at=None,
        deliveries=item.deliveries + 1,
    )


def lease_end(item: Item, profile: Profile) -> int | None:
    """Return when the lease ends if it is not renewed; None if there is no lease that can end.

    "An item acknowledged but never beaten stays in `starting` for ever: no reclaim, no expiry." An item that is
    `stopping` waits for its confirmation for ever.
    """
    match item.state:
        case State.ACTIVE if item.beaten_at is not None and item.ttl is not None:
            return item.beaten_at + item.ttl * SECOND
        case State.STARTING if item.acknowledged_at is not None and profile.unbeaten is Unbeaten.LAPSES:
            return item.acknowledged_at + (profile.unbeaten_seconds or default_ttl(item, profile)) * SECOND
        case _:
            return None


def due(item: Item, profile: Profile) -> tuple[int, ChangeKind] | None:
    """Return the next change that the item makes by itself, and when; None if there is none.

    "When a lapsed lease is re-queued is not recorded: at once (the SDK's fixtures), at the next poll, or never
    (clones)." "Ids recur: a session's item carries the session's id, and a new message queues it again, perhaps
    seconds after it stopped"; a profile that does so by itself does it once for each item.
    """
    if (end := lease_end(item, profile)) is not None and profile.lapse is Lapse.AT_ONCE:
        return end, ChangeKind.LAPSED
    if item.stopped_at is not None and item.deliveries == 1 and profile.redelivery is Redelivery.AFTER_STOP:
        return item.stopped_at + profile.redelivery_seconds * SECOND, ChangeKind.REQUEUED
    return None


def patch_metadata(item: Item, patch: Mapping[str, str | None]) -> Item:
    """Merge: "`metadata` merge patch, null deletes"."""
    merged = {**item.metadata, **patch}
    return replace(item, metadata={key: value for key, value in merged.items() if value is not None})
