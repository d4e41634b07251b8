"""The differences between servers of this API, as switches, and named sets of them.

This module owns the names of the differences and which of them belong together. It must not act on them: `items` has
the rules, `wire` the text of answers. The first value of each switch is what the hosted service does, as far as that
has been recorded; the others were observed in public servers of this API.
"""

from dataclasses import dataclass, fields, replace
from enum import StrEnum


class BeatOnQueued(StrEnum):
    """What a first heartbeat does to an item that nobody has acknowledged."""

    CLAIMS = "claims"
    PRECONDITION = "412"
    CONFLICT = "409"
    UNEXTENDED = "200-unextended"
    """Answered 200 with `lease_extended: false` and a value of now, which is stored nowhere."""


class OmittedValue(StrEnum):
    """What a heartbeat without `expected_last_heartbeat` does."""

    UNCOMPARED = "claims-or-extends"
    INVALID = "400"


class BeatAfterStop(StrEnum):
    """What a heartbeat does in the states `stopping` and `stopped`."""

    UNCOMPARED = "200-uncompared"
    COMPARED = "compared"
    COMPARED_AND_MOVES = "compared-and-moves"
    CONFLICT = "409"


class PreconditionBody(StrEnum):
    """What the body of a 412 contains."""

    FULL = "full"
    BARE = "without-details"


class PreconditionType(StrEnum):
    """The `error.type` of a 412."""

    INVALID = "invalid_request_error"
    PRECONDITION = "precondition_failed_error"


class ValueFormat(StrEnum):
    """How `last_heartbeat` is written."""

    MICROSECONDS = "six-digits-z"
    TRIMMED = "trimmed-zeros"
    MILLISECONDS = "milliseconds"
    OFFSET = "offset"


class Comparison(StrEnum):
    """How `expected_last_heartbeat` is compared."""

    BYTES = "bytes"
    INSTANTS = "instants"


class TtlRequest(StrEnum):
    """How a `desired_ttl_seconds` outside the bounds is treated."""

    GRANTED = "granted"
    CLAMPED = "clamped"
    REFUSED = "refused"


class TtlNonsense(StrEnum):
    """What a `desired_ttl_seconds` that is no positive whole number gets."""

    REFUSED = "400"
    DEFAULT = "the-default"


class TtlMemory(StrEnum):
    """How long a granted `desired_ttl_seconds` is valid."""

    PER_CALL = "per-call"
    STICKY = "sticky"
    IGNORED = "ignored"


class TtlUnextended(StrEnum):
    """Which TTL is in an answer that extends nothing."""

    EFFECTIVE = "effective"
    DEFAULT = "default"
    ASKED = "asked-in-that-call"


class Lapse(StrEnum):
    """When a lease that was not renewed in time goes back to the queue."""

    AT_ONCE = "at-once"
    AT_NEXT_POLL = "at-next-poll"
    NEVER = "never"


class LapsedId(StrEnum):
    """Under which id a lapsed item is queued again."""

    SAME = "same"
    NEW = "new"


class Unbeaten(StrEnum):
    """What happens to an acknowledged item that never gets a heartbeat."""

    STAYS = "for-ever"
    LAPSES = "lapses"


class StartedAt(StrEnum):
    """What `started_at` stamps."""

    ENTRY = "entry-to-the-queue"
    FIRST_BEAT = "first-beat"
    """It is null until then, and again after each later entry to the queue."""


class ReclaimedId(StrEnum):
    """Under which id an item is polled again that nobody acknowledged."""

    SAME = "same"
    NEW = "new"


class ReclaimAge(StrEnum):
    """Which poll says after how long an item that nobody acknowledged is polled again."""

    ASKING = "of-the-poll-that-asks"
    RESERVING = "of-the-poll-that-reserved-it"


class WorkerId(StrEnum):
    """Where a poll names its worker."""

    HEADER = "header"
    QUERY = "query"


class NextMessage(StrEnum):
    """What a new message to a session makes."""

    SAME_ITEM = "its-item-again"
    """Its item is queued again under its id once it has ended."""
    NEW_ITEM = "a-new-item"
    """A new item once the last one has ended; none before."""
    SUCCESSOR = "a-successor"
    """A new item at once, which is polled when its predecessor has ended."""


class ListedDelivery(StrEnum):
    """Which delivery of an id that recurs is listed."""

    CURRENT = "current"
    FORMER = "former"
    """The list lags by a delivery: it shows the former one as it ended."""


class StopAnswer(StrEnum):
    """How a stop is answered."""

    ITEM = "200-with-item"
    NO_CONTENT = "204"


class RepeatedStop(StrEnum):
    """How a stop is answered that changes nothing."""

    ACKNOWLEDGED = "as-the-first"
    CONFLICT = "409"
    CONFLICT_WHEN_STOPPED = "409-when-stopped"


class UnclaimedStop(StrEnum):
    """Which state a graceful stop gives an item that has no holder yet."""

    STOPPING = "stopping"
    STOPPED = "stopped"


class RepeatedAck(StrEnum):
    """How the second acknowledgement of an item is answered."""

    CONFLICT = "409"
    ITEM = "200"
    ALWAYS = "200-in-every-state"


class UnpolledAck(StrEnum):
    """How the acknowledgement of an item that nobody polled is answered."""

    ACCEPTED = "200"
    CONFLICT = "409"


class EmptyPoll(StrEnum):
    """How a poll is answered when there is no work."""

    NULL = "null"
    NO_CONTENT = "204"
    EMPTY_OBJECT = "{}"


class Redelivery(StrEnum):
    """Whether the server queues a stopped item again by itself, under the same id."""

    ON_DEMAND = "on-demand"
    AFTER_STOP = "after-stop"


class WrongEnvironment(StrEnum):
    """How a valid key of another environment is answered."""

    FORBIDDEN = "403"
    UNAUTHENTICATED = "401"
    NOT_FOUND = "404"


class RetryAfter(StrEnum):
    """How a 429 or 503 says when to retry."""

    SECONDS = "seconds"
    DATE = "date"
    ABSENT = "absent"


class Header(StrEnum):
    """Whether an optional header is sent."""

    PRESENT = "present"
    ABSENT = "absent"


class Secret(StrEnum):
    """Whether a poll returns the item's own credentials."""

    PRESENT = "present"
    ABSENT = "absent"


@dataclass(frozen=True, kw_only=True)
class LeaseManners:
    """How a server answers heartbeats and stops. Durations are seconds."""

    beat_on_queued: BeatOnQueued = BeatOnQueued.CLAIMS
    omitted_value: OmittedValue = OmittedValue.UNCOMPARED
    beat_after_stop: BeatAfterStop = BeatAfterStop.UNCOMPARED
    precondition_body: PreconditionBody = PreconditionBody.FULL
    precondition_type: PreconditionType = PreconditionType.INVALID
    value_format: ValueFormat = ValueFormat.MICROSECONDS
    comparison: Comparison = Comparison.BYTES
    default_ttl: int = 300  # "TTL: default 300 s (recorded)"
    shortest_ttl: int = 10  # "clones clamp to 10..600": used by CLAMPED and REFUSED only
    longest_ttl: int = 600
    ttl_request: TtlRequest = TtlRequest.GRANTED
    ttl_nonsense: TtlNonsense = TtlNonsense.REFUSED
    ttl_memory: TtlMemory = TtlMemory.PER_CALL
    ttl_unextended: TtlUnextended = TtlUnextended.EFFECTIVE
    stop_answer: StopAnswer = StopAnswer.ITEM
    repeated_stop: RepeatedStop = RepeatedStop.ACKNOWLEDGED
    unclaimed_stop: UnclaimedStop = UnclaimedStop.STOPPING


@dataclass(frozen=True, kw_only=True)
class QueueManners(LeaseManners):
    """How a server delivers items. Durations are seconds."""

    lapse: Lapse = Lapse.AT_ONCE
    lapsed_id: LapsedId = LapsedId.SAME
    unbeaten: Unbeaten = Unbeaten.STAYS
    unbeaten_seconds: int = 0  # used by LAPSES only; 0: the default TTL
    started_at: StartedAt = StartedAt.ENTRY
    reclaimed_id: ReclaimedId = ReclaimedId.SAME
    reclaim_age: ReclaimAge = ReclaimAge.ASKING
    repeated_ack: RepeatedAck = RepeatedAck.CONFLICT
    unpolled_ack: UnpolledAck = UnpolledAck.ACCEPTED
    empty_poll: EmptyPoll = EmptyPoll.NULL
    worker_id: WorkerId = WorkerId.HEADER
    redelivery: Redelivery = Redelivery.ON_DEMAND
    redelivery_seconds: int = 2  # "within seconds of the stop"; used by AFTER_STOP only
    next_message: NextMessage = NextMessage.SAME_ITEM


@dataclass(frozen=True, kw_only=True)
class Profile(QueueManners):
    """One server's behaviour. Durations are seconds, rates are requests a minute."""

    wrong_environment: WrongEnvironment = WrongEnvironment.FORBIDDEN
    retry_after: RetryAfter = RetryAfter.SECONDS
    date: Header = Header.PRESENT
    should_retry: Header = Header.PRESENT
    secret: Secret = Secret.PRESENT
    listed_delivery: ListedDelivery = ListedDelivery.CURRENT
    list_lag_seconds: float = 0  # "The list lags": by how much
    largest_page: int = 100
    writes_per_minute: int = 0  # 0: no limit. The hosted service has one; which calls it counts is unknown
    reads_per_minute: int = 0

    @property
    def differences(self) -> dict[str, object]:
        """What it does otherwise than the hosted service, by the name of the switch."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value != getattr(HOSTED, name)}

    def with_default_ttl(self, seconds: int) -> "Profile":
        """Return the same behaviour with another default TTL."""
        return replace(self, default_ttl=seconds)


HOSTED = Profile()

O = Profile(  # noqa: E741 (the server has no other name here)
    beat_on_queued=BeatOnQueued.PRECONDITION,
    beat_after_stop=BeatAfterStop.COMPARED,
    precondition_body=PreconditionBody.BARE,
    value_format=ValueFormat.TRIMMED,
    comparison=Comparison.INSTANTS,
    default_ttl=30,
    shortest_ttl=1,
    longest_ttl=300,
    ttl_request=TtlRequest.CLAMPED,
    ttl_nonsense=TtlNonsense.DEFAULT,
    ttl_unextended=TtlUnextended.ASKED,
    stop_answer=StopAnswer.NO_CONTENT,
    repeated_stop=RepeatedStop.CONFLICT,
    unclaimed_stop=UnclaimedStop.STOPPED,
    lapse=Lapse.AT_NEXT_POLL,
    lapsed_id=LapsedId.NEW,
    unbeaten=Unbeaten.LAPSES,
    unbeaten_seconds=30,
    started_at=StartedAt.FIRST_BEAT,
    reclaimed_id=ReclaimedId.NEW,
    reclaim_age=ReclaimAge.RESERVING,
    repeated_ack=RepeatedAck.ALWAYS,
    next_message=NextMessage.NEW_ITEM,
    wrong_environment=WrongEnvironment.UNAUTHENTICATED,
    retry_after=RetryAfter.ABSENT,
    should_retry=Header.ABSENT,
    secret=Secret.ABSENT,
)
"""A public server of this API, as it was seen in November 2026."""

M = Profile(
    beat_on_queued=BeatOnQueued.UNEXTENDED,
    beat_after_stop=BeatAfterStop.COMPARED,
    precondition_body=PreconditionBody.BARE,
    precondition_type=PreconditionType.PRECONDITION,
    value_format=ValueFormat.TRIMMED,
    default_ttl=30,
    ttl_memory=TtlMemory.STICKY,
    stop_answer=StopAnswer.NO_CONTENT,
    repeated_stop=RepeatedStop.CONFLICT_WHEN_STOPPED,
    unclaimed_stop=UnclaimedStop.STOPPED,
    lapse=Lapse.AT_NEXT_POLL,
    unbeaten=Unbeaten.LAPSES,
    started_at=StartedAt.FIRST_BEAT,
    unpolled_ack=UnpolledAck.CONFLICT,
    empty_poll=EmptyPoll.EMPTY_OBJECT,
    worker_id=WorkerId.QUERY,
    next_message=NextMessage.SUCCESSOR,
    wrong_environment=WrongEnvironment.NOT_FOUND,
    retry_after=RetryAfter.ABSENT,
    should_retry=Header.ABSENT,
    secret=Secret.ABSENT,
    largest_page=1000,
)
"""Another public server, as it was seen in November 2026."""

PROFILES: dict[str, Profile] = {
    "hosted": HOSTED,
    # Each other value of each switch is in some profile; values that do not interact share one.
    "strict": Profile(
        beat_on_queued=BeatOnQueued.PRECONDITION,
        omitted_value=OmittedValue.INVALID,
        beat_after_stop=BeatAfterStop.COMPARED,
        ttl_request=TtlRequest.REFUSED,
        repeated_stop=RepeatedStop.CONFLICT,
        wrong_environment=WrongEnvironment.UNAUTHENTICATED,
        secret=Secret.ABSENT,
    ),
    "conflicting": Profile(
        beat_on_queued=BeatOnQueued.CONFLICT,
        beat_after_stop=BeatAfterStop.CONFLICT,
        stop_answer=StopAnswer.NO_CONTENT,
        unclaimed_stop=UnclaimedStop.STOPPED,
    ),
    "moving": Profile(
        beat_after_stop=BeatAfterStop.COMPARED_AND_MOVES,
        repeated_ack=RepeatedAck.ITEM,
        ttl_memory=TtlMemory.STICKY,
        ttl_unextended=TtlUnextended.DEFAULT,
        default_ttl=60,
    ),
    "terse": Profile(
        precondition_body=PreconditionBody.BARE,
        empty_poll=EmptyPoll.NO_CONTENT,
        retry_after=RetryAfter.ABSENT,
        date=Header.ABSENT,
        should_retry=Header.ABSENT,
    ),
    "trimmed": Profile(
        value_format=ValueFormat.TRIMMED, ttl_request=TtlRequest.CLAMPED, empty_poll=EmptyPoll.EMPTY_OBJECT
    ),
    "instants": Profile(value_format=ValueFormat.OFFSET, comparison=Comparison.INSTANTS, ttl_memory=TtlMemory.IGNORED),
    "coarse": Profile(value_format=ValueFormat.MILLISECONDS, retry_after=RetryAfter.DATE),
    "lazy": Profile(lapse=Lapse.AT_NEXT_POLL, list_lag_seconds=2.0),
    "patient": Profile(lapse=Lapse.NEVER),
    "renaming": Profile(lapsed_id=LapsedId.NEW, unbeaten=Unbeaten.LAPSES),
    "recurring": Profile(redelivery=Redelivery.AFTER_STOP, listed_delivery=ListedDelivery.FORMER),
    # "300 creating and 1,200 reading calls a minute"; heartbeats count as creating, which is the worse case.
    "metered": Profile(writes_per_minute=300, reads_per_minute=1200),
    "o": O,
    "m": M,
}
