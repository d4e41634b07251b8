"""The reasons that a condition of a WorkLease may give, in one table.

Owns the closed list of reasons and what each of them means to whoever reports it: logs, events, metrics, the command
line and the dashboard all read the table. Must not decide when a reason applies: ``conditions`` does.

A new reason is a member of :class:`Reason`, a row of :data:`TABLE`, and its words: an entry in docs/troubleshooting.md,
a sentence in ``cli.story``, and for ``LeaseHeld`` a row in docs/events.md. Tests name what is missing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum, StrEnum, auto
from typing import Final

from worklease.rules.lease import End, Trouble
from worklease.rules.pods import Ailment, Cause, Obstacle


class Verdict(StrEnum):
    """A condition's status (Kubernetes API conventions)."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Kind(StrEnum):
    """The condition types of a WorkLease."""

    LEASE_HELD = "LeaseHeld"
    SANDBOX_READY = "SandboxReady"
    FINISHED = "Finished"
    READY = "Ready"


REPORTED: Final = frozenset({Kind.LEASE_HELD, Kind.SANDBOX_READY})
"""The conditions whose changes are logged; the others follow from them."""


class Severity(Enum):
    """How loudly a reason is reported."""

    QUIET = auto()
    """Not at all."""
    INFO = auto()
    WARNING = auto()


class Level(IntEnum):
    """How much attention a lease needs; ``worklease status`` shows the lowest number first."""

    TROUBLE = 0
    LOST = 1
    UNDER_WAY = 2
    WELL = 3
    OVER = 4


class Reason(StrEnum):
    """Every reason that a condition of a WorkLease may give."""

    # LeaseHeld, before and while the lease is held
    RENEWED = "Renewed"
    CLAIMING = "Claiming"
    ACKNOWLEDGING = "Acknowledging"
    TOKEN_MISSING = "TokenMissing"  # noqa: S105 (a reason, not a token)
    DRAINING = "Draining"
    FENCED = "Fenced"
    IN_DOUBT = "InDoubt"
    NOT_EXTENDED = "NotExtended"
    THROTTLED = "Throttled"
    UNREACHABLE = "Unreachable"
    UNAUTHORIZED = "Unauthorized"
    CREDENTIALS_MISSING = "CredentialsMissing"
    REJECTED = "Rejected"
    HELD_BY_ANOTHER = "HeldByAnother"
    INVALID_SPEC = "InvalidSpec"
    QUOTA_EXCEEDED = "QuotaExceeded"
    ADMISSION_UNAVAILABLE = "AdmissionUnavailable"
    SUSPENDED = "Suspended"
    BUDGET_SHORT = "BudgetShort"
    CHECKPOINT_UNAVAILABLE = "CheckpointUnavailable"
    DUPLICATE = "Duplicate"
    # LeaseHeld and Finished, once the lease is over
    STOPPED = "Stopped"
    REQUEUED = "Requeued"
    TAKEN_OVER = "TakenOver"
    NOT_FOUND = "NotFound"
    EXPIRED = "Expired"
    RELEASED = "Released"
    ACK_REFUSED = "AckRefused"
    # SandboxReady, while the sandbox starts or runs
    RUNNING = "Running"
    PENDING = "Pending"
    NOT_READY = "NotReady"
    NO_POD = "NoPod"
    CREATING = "Creating"
    PREDECESSOR_ENDING = "PredecessorEnding"
    VOLUME_BUSY = "VolumeBusy"
    CREATION_REFUSED = "CreationRefused"
    RESTARTING = "Restarting"
    POD_REJECTED = "PodRejected"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    UNSCHEDULABLE = "Unschedulable"
    SCHEDULING_GATED = "SchedulingGated"
    CRASH_LOOP = "CrashLoop"
    CONFIG_ERROR = "ConfigError"
    # SandboxReady, once the sandbox ended
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    OOM_KILLED = "OOMKilled"
    WORKER_GAVE_UP = "WorkerGaveUp"
    SESSION_IDLE = "SessionIdle"
    SESSION_ENDED = "SessionEnded"
    EVICTED = "Evicted"
    PREEMPTED = "Preempted"
    DELETED = "Deleted"
    NODE_LOST = "NodeLost"
    START_DEADLINE_EXCEEDED = "StartDeadlineExceeded"
    ENDING = "Ending"
    ENDED = "Ended"
    FENCE_PENDING = "FencePending"
    DELETION_REFUSED = "DeletionRefused"
    # Finished and Ready
    IN_PROGRESS = "InProgress"
    TEARING_DOWN = "TearingDown"
    LEASE_NOT_HELD = "LeaseNotHeld"
    SANDBOX_NOT_READY = "SandboxNotReady"
    HEALTHY = "Healthy"


Source = Trouble | End | Cause | Ailment | Obstacle
"""What a reason may mirror."""


@dataclass(frozen=True, slots=True)
class ReasonRow:
    """What one reason means to whoever reports it."""

    kinds: frozenset[Kind]
    """The conditions that may give it."""
    log: Severity
    """How a change to it is logged, of a condition that is :data:`REPORTED`."""
    event: Severity
    """Which type of Kubernetes event ``LeaseHeld`` makes of a change to it. Events about pods have their own source."""
    level: Level
    """How ``worklease status`` ranks it. ``LOST`` and ``OVER`` count once the lease is over."""
    mirrors: tuple[Source, ...] = ()
    """The values of the rules that are shown as this reason."""
    expected: Verdict | None = None
    """The status of ``LeaseHeld`` for which ``level`` holds; with another the lease is in trouble. None: any status."""
    is_shown_at_once: bool = False
    """Whether a single failure shows it, because the next heartbeat does not fix it by itself."""
    deletes_pods: bool = False
    """Whether the operator deletes pods for it."""

    @property
    def is_final(self) -> bool:
        """Whether a lease may end with it."""
        return any(isinstance(source, End) for source in self.mirrors)


_LEASE: Final = frozenset({Kind.LEASE_HELD})
_LEASE_AND_SANDBOX: Final = frozenset({Kind.LEASE_HELD, Kind.SANDBOX_READY})
_LEASE_AND_FINISHED: Final = frozenset({Kind.LEASE_HELD, Kind.FINISHED})
_SANDBOX: Final = frozenset({Kind.SANDBOX_READY})
_FINISHED: Final = frozenset({Kind.FINISHED})
_READY: Final = frozenset({Kind.READY})

_QUIET, _INFO, _WARNING = Severity.QUIET, Severity.INFO, Severity.WARNING
_TROUBLE, _LOST, _UNDER_WAY, _WELL, _OVER = Level.TROUBLE, Level.LOST, Level.UNDER_WAY, Level.WELL, Level.OVER

UNKNOWN: Final = ReasonRow(frozenset(Kind), _INFO, _WARNING, _TROUBLE)
"""The row of a reason that is not in the table: a newer operator wrote it."""

TABLE: Final[Mapping[str, ReasonRow]] = {
    # LeaseHeld, before and while the lease is held
    Reason.RENEWED: ReasonRow(_LEASE, _INFO, _INFO, _WELL, expected=Verdict.TRUE),
    # A lease that is held and still "not acknowledged" is in trouble.
    Reason.CLAIMING: ReasonRow(
        _LEASE, _INFO, _QUIET, _UNDER_WAY, mirrors=(Trouble.NOT_ACKNOWLEDGED,), expected=Verdict.FALSE
    ),
    Reason.ACKNOWLEDGING: ReasonRow(_LEASE, _INFO, _QUIET, _UNDER_WAY, expected=Verdict.FALSE),
    Reason.TOKEN_MISSING: ReasonRow(_LEASE, _WARNING, _WARNING, _TROUBLE),
    Reason.DRAINING: ReasonRow(_LEASE, _INFO, _INFO, _UNDER_WAY, expected=Verdict.TRUE, deletes_pods=True),
    Reason.FENCED: ReasonRow(_LEASE_AND_SANDBOX, _WARNING, _WARNING, _TROUBLE, (Cause.FENCED,), deletes_pods=True),
    Reason.IN_DOUBT: ReasonRow(_LEASE, _WARNING, _WARNING, _TROUBLE, (Trouble.IN_DOUBT,)),
    Reason.NOT_EXTENDED: ReasonRow(_LEASE, _INFO, _WARNING, _TROUBLE, (Trouble.NOT_EXTENDED,)),
    Reason.THROTTLED: ReasonRow(_LEASE, _INFO, _WARNING, _TROUBLE, (Trouble.THROTTLED,)),
    Reason.UNREACHABLE: ReasonRow(_LEASE, _WARNING, _WARNING, _TROUBLE, (Trouble.UNREACHABLE,)),
    Reason.UNAUTHORIZED: ReasonRow(
        _LEASE, _WARNING, _WARNING, _TROUBLE, (Trouble.UNAUTHORIZED,), is_shown_at_once=True
    ),
    Reason.CREDENTIALS_MISSING: ReasonRow(
        _LEASE, _WARNING, _WARNING, _TROUBLE, (Trouble.CREDENTIALS_MISSING,), is_shown_at_once=True
    ),
    Reason.REJECTED: ReasonRow(_LEASE, _WARNING, _WARNING, _TROUBLE, (Trouble.REJECTED,), is_shown_at_once=True),
    Reason.HELD_BY_ANOTHER: ReasonRow(_LEASE, _WARNING, _WARNING, _TROUBLE, (Trouble.HELD_BY_ANOTHER,)),
    Reason.INVALID_SPEC: ReasonRow(_LEASE_AND_FINISHED, _WARNING, _WARNING, _TROUBLE, (Obstacle.SPEC,)),
    Reason.QUOTA_EXCEEDED: ReasonRow(
        _LEASE_AND_SANDBOX, _WARNING, _WARNING, _TROUBLE, (Obstacle.QUOTA, Cause.QUOTA_EXCEEDED)
    ),
    Reason.ADMISSION_UNAVAILABLE: ReasonRow(
        _LEASE_AND_SANDBOX, _WARNING, _WARNING, _TROUBLE, (Obstacle.ADMISSION, Cause.ADMISSION_UNAVAILABLE)
    ),
    Reason.SUSPENDED: ReasonRow(_LEASE, _INFO, _INFO, _UNDER_WAY),
    Reason.BUDGET_SHORT: ReasonRow(
        _LEASE, _WARNING, _WARNING, _TROUBLE, (Trouble.BUDGET_SHORT,), is_shown_at_once=True
    ),
    Reason.CHECKPOINT_UNAVAILABLE: ReasonRow(_LEASE, _WARNING, _WARNING, _TROUBLE, (Trouble.CHECKPOINT_UNAVAILABLE,)),
    Reason.DUPLICATE: ReasonRow(_LEASE, _WARNING, _WARNING, _UNDER_WAY, expected=Verdict.FALSE),
    # LeaseHeld and Finished, once the lease is over: asked for by somebody, or lost
    Reason.STOPPED: ReasonRow(_LEASE_AND_FINISHED, _INFO, _INFO, _OVER, (End.STOPPED,), deletes_pods=True),
    Reason.REQUEUED: ReasonRow(_LEASE_AND_FINISHED, _WARNING, _WARNING, _LOST, (End.REQUEUED,), deletes_pods=True),
    Reason.TAKEN_OVER: ReasonRow(_LEASE_AND_FINISHED, _WARNING, _WARNING, _LOST, (End.TAKEN_OVER,), deletes_pods=True),
    Reason.NOT_FOUND: ReasonRow(
        _LEASE_AND_FINISHED, _WARNING, _WARNING, _LOST, (Trouble.NOT_FOUND, End.NOT_FOUND), deletes_pods=True
    ),
    Reason.EXPIRED: ReasonRow(_LEASE_AND_FINISHED, _WARNING, _WARNING, _LOST, (End.EXPIRED,), deletes_pods=True),
    Reason.RELEASED: ReasonRow(_LEASE_AND_FINISHED, _INFO, _INFO, _OVER, (End.RELEASED,), deletes_pods=True),
    Reason.ACK_REFUSED: ReasonRow(
        _LEASE_AND_FINISHED, _WARNING, _WARNING, _OVER, (End.ACK_REFUSED,), deletes_pods=True
    ),
    # SandboxReady, while the sandbox starts or runs
    Reason.RUNNING: ReasonRow(_SANDBOX, _INFO, _QUIET, _WELL),
    Reason.PENDING: ReasonRow(_SANDBOX, _INFO, _QUIET, _UNDER_WAY),
    Reason.NOT_READY: ReasonRow(_SANDBOX, _INFO, _QUIET, _UNDER_WAY),
    Reason.NO_POD: ReasonRow(_SANDBOX, _INFO, _QUIET, _UNDER_WAY),
    Reason.CREATING: ReasonRow(_SANDBOX, _INFO, _QUIET, _UNDER_WAY),
    Reason.PREDECESSOR_ENDING: ReasonRow(_SANDBOX, _INFO, _QUIET, _UNDER_WAY),
    Reason.VOLUME_BUSY: ReasonRow(_SANDBOX, _INFO, _QUIET, _UNDER_WAY, (Obstacle.VOLUME, Cause.VOLUME_BUSY)),
    Reason.CREATION_REFUSED: ReasonRow(_SANDBOX, _INFO, _QUIET, _TROUBLE),
    Reason.RESTARTING: ReasonRow(_SANDBOX, _INFO, _QUIET, _UNDER_WAY, deletes_pods=True),
    Reason.POD_REJECTED: ReasonRow(_SANDBOX, _INFO, _QUIET, _TROUBLE, (Cause.REJECTED,)),
    Reason.IMAGE_PULL_FAILED: ReasonRow(_SANDBOX, _INFO, _QUIET, _TROUBLE, (Ailment.IMAGE_PULL_FAILED,)),
    Reason.UNSCHEDULABLE: ReasonRow(_SANDBOX, _INFO, _QUIET, _TROUBLE, (Ailment.UNSCHEDULABLE,)),
    Reason.SCHEDULING_GATED: ReasonRow(_SANDBOX, _INFO, _QUIET, _UNDER_WAY),
    Reason.CRASH_LOOP: ReasonRow(_SANDBOX, _INFO, _QUIET, _TROUBLE, (Ailment.CRASH_LOOP,)),
    Reason.CONFIG_ERROR: ReasonRow(_SANDBOX, _INFO, _QUIET, _TROUBLE, (Ailment.CONFIG_ERROR,)),
    # SandboxReady, once the sandbox ended
    Reason.SUCCEEDED: ReasonRow(_SANDBOX, _INFO, _QUIET, _UNDER_WAY, (Cause.SUCCEEDED,)),
    Reason.FAILED: ReasonRow(_SANDBOX, _INFO, _QUIET, _TROUBLE, (Cause.FAILED,)),
    Reason.OOM_KILLED: ReasonRow(_SANDBOX, _INFO, _QUIET, _TROUBLE, (Cause.OOM_KILLED,)),
    Reason.WORKER_GAVE_UP: ReasonRow(_SANDBOX, _INFO, _QUIET, _TROUBLE, (Cause.GAVE_UP,)),
    Reason.SESSION_IDLE: ReasonRow(_SANDBOX, _INFO, _QUIET, _UNDER_WAY, (Cause.SESSION_IDLE,)),
    Reason.SESSION_ENDED: ReasonRow(_SANDBOX, _INFO, _QUIET, _UNDER_WAY, (Cause.SESSION_ENDED,)),
    Reason.EVICTED: ReasonRow(_SANDBOX, _INFO, _QUIET, _TROUBLE, (Cause.EVICTED,)),
    Reason.PREEMPTED: ReasonRow(_SANDBOX, _INFO, _QUIET, _TROUBLE, (Cause.PREEMPTED,)),
    Reason.DELETED: ReasonRow(_SANDBOX, _INFO, _QUIET, _TROUBLE, (Cause.DELETED,)),
    Reason.NODE_LOST: ReasonRow(_SANDBOX, _INFO, _QUIET, _TROUBLE, (Cause.NODE_LOST,)),
    Reason.START_DEADLINE_EXCEEDED: ReasonRow(_SANDBOX, _INFO, _QUIET, _TROUBLE, (Cause.NOT_STARTED,)),
    Reason.ENDING: ReasonRow(_SANDBOX, _INFO, _QUIET, _UNDER_WAY),
    Reason.ENDED: ReasonRow(_SANDBOX, _INFO, _QUIET, _UNDER_WAY),
    Reason.FENCE_PENDING: ReasonRow(_SANDBOX, _WARNING, _QUIET, _TROUBLE),
    Reason.DELETION_REFUSED: ReasonRow(_SANDBOX, _WARNING, _QUIET, _TROUBLE),
    # Finished and Ready: they follow from the others
    Reason.IN_PROGRESS: ReasonRow(_FINISHED, _QUIET, _QUIET, _UNDER_WAY),
    Reason.TEARING_DOWN: ReasonRow(_FINISHED, _QUIET, _QUIET, _UNDER_WAY),
    Reason.LEASE_NOT_HELD: ReasonRow(_READY, _QUIET, _QUIET, _UNDER_WAY),
    Reason.SANDBOX_NOT_READY: ReasonRow(_READY, _QUIET, _QUIET, _UNDER_WAY),
    Reason.HEALTHY: ReasonRow(_READY, _QUIET, _QUIET, _WELL),
}

_REASON_OF: Final[Mapping[Source, Reason]] = {
    source: Reason(reason) for reason, row in TABLE.items() for source in row.mirrors
}


def row_of(reason: str) -> ReasonRow:
    """Return the row of a reason; ``UNKNOWN`` for one that is not in the table."""
    return TABLE.get(reason, UNKNOWN)


def reasons_of(kind: Kind) -> tuple[Reason, ...]:
    """Return the reasons that a condition may give."""
    return tuple(reason for reason in Reason if kind in TABLE[reason].kinds)


def reason_of(source: Source) -> Reason:
    """Return the reason that mirrors a value of the rules."""
    return _REASON_OF[source]


def level_of(kind: Kind, status: str, reason: str) -> Level:
    """Return how much attention a condition of a lease that is not over asks for: well, under way or trouble."""
    row = row_of(reason)
    is_expected = row.expected is None or (row.expected is Verdict.TRUE) == (status == Verdict.TRUE)
    if kind not in row.kinds or not is_expected or row.level not in {Level.WELL, Level.UNDER_WAY}:
        return Level.TROUBLE
    return row.level
