"""The differences between servers of this API, as switches, and named sets of them.

This module owns the names of the differences and which of them belong together. It must not act on them: `items` has
the rules, `wire` the text of answers. The first value of each switch is what the hosted service does, as far as that
has been recorded; the others were observed in public servers of this API.
"""

from dataclasses import dataclass, replace
from enum import StrEnum


class BeatOnQueued(StrEnum):
    """What a first heartbeat does to an item that nobody has acknowledged."""

    CLAIMS = "claims"
    PRECONDITION = "412"
    CONFLICT = "409"


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


class TtlMemory(StrEnum):
    """How long a granted `desired_ttl_seconds` is valid."""

    PER_CALL = "per-call"
    STICKY = "sticky"
    IGNORED = "ignored"


class TtlUnextended(StrEnum):
    """Which TTL is in an answer that extends nothing."""

    EFFECTIVE = "effective"
    DEFAULT = "default"


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


class StopAnswer(StrEnum):
    """How a stop is answered."""

    ITEM = "200-with-item"
    NO_CONTENT = "204"
    CONFLICT_ON_REPEAT = "409-on-repeat"


class UnclaimedStop(StrEnum):
    """Which state a graceful stop gives an item that has no holder yet."""

    STOPPING = "stopping"
    STOPPED = "stopped"


class RepeatedAck(StrEnum):
    """How the second acknowledgement of an item is answered."""

    CONFLICT = "409"
    ITEM = "200"


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One server's behaviour. Durations are seconds, rates are requests a minute."""

    beat_on_queued: BeatOnQueued = BeatOnQueued.CLAIMS
    omitted_value: OmittedValue = OmittedValue.UNCOMPARED
    beat_after_stop: BeatAfterStop = BeatAfterStop.UNCOMPARED
    precondition_body: PreconditionBody = PreconditionBody.FULL
    value_format: ValueFormat = ValueFormat.MICROSECONDS
    comparison: Comparison = Comparison.BYTES
    default_ttl: int = 300  # "TTL: default 300 s (recorded)"
    shortest_ttl: int = 10  # "clones clamp to 10..600": used by CLAMPED and REFUSED only
    longest_ttl: int = 600
    ttl_request: TtlRequest = TtlRequest.GRANTED
    ttl_memory: TtlMemory = TtlMemory.PER_CALL
    ttl_unextended: TtlUnextended = TtlUnextended.EFFECTIVE
    lapse: Lapse = Lapse.AT_ONCE
    lapsed_id: LapsedId = LapsedId.SAME
    unbeaten: Unbeaten = Unbeaten.STAYS
    stop_answer: StopAnswer = StopAnswer.ITEM
    unclaimed_stop: UnclaimedStop = UnclaimedStop.STOPPING
    repeated_ack: RepeatedAck = RepeatedAck.CONFLICT
    empty_poll: EmptyPoll = EmptyPoll.NULL
    redelivery: Redelivery = Redelivery.ON_DEMAND
    redelivery_seconds: int = 2  # "within seconds of the stop"; used by AFTER_STOP only
    wrong_environment: WrongEnvironment = WrongEnvironment.FORBIDDEN
    retry_after: RetryAfter = RetryAfter.SECONDS
    date: Header = Header.PRESENT
    should_retry: Header = Header.PRESENT
    secret: Secret = Secret.PRESENT
    list_lag_seconds: float = 0  # "The list lags": by how much
    writes_per_minute: int = 0  # 0: no limit. The hosted service has one; which calls it counts is unknown
    reads_per_minute: int = 0

    def with_default_ttl(self, seconds: int) -> "Profile":
        """Return the same behaviour with another default TTL."""
        return replace(self, default_ttl=seconds)


HOSTED = Profile()

PROFILES: dict[str, Profile] = {
    "hosted": HOSTED,
    # Each other value of each switch is in some profile; values that do not interact share one.
    "strict": Profile(
        beat_on_queued=BeatOnQueued.PRECONDITION,
        omitted_value=OmittedValue.INVALID,
        beat_after_stop=BeatAfterStop.COMPARED,
        ttl_request=TtlRequest.REFUSED,
        stop_answer=StopAnswer.CONFLICT_ON_REPEAT,
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
    "recurring": Profile(redelivery=Redelivery.AFTER_STOP),
    # "300 creating and 1,200 reading calls a minute"; heartbeats count as creating, which is the worse case.
    "metered": Profile(writes_per_minute=300, reads_per_minute=1200),
}
