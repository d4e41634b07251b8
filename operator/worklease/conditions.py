"""The conditions that a lease and its sandbox imply, in words for the person who reads them.

Owns the closed list of reasons. Pure. Must not decide what is done about anything: a condition tells, it never acts.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, assert_never

from worklease.lease import Lease, Trouble, expiry, is_fenced
from worklease.lifecycle import Pod, Situation, alive, is_finished

LASTING: Final = 2
"""Failures in a row from which a trouble is shown: a single lost answer is mended by the next beat."""


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


class Reason(StrEnum):
    """Every reason that a condition of a WorkLease may give."""

    # LeaseHeld, while it runs
    RENEWED = "Renewed"
    CLAIMING = "Claiming"
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
    SUSPENDED = "Suspended"
    BUDGET_SHORT = "BudgetShort"
    DUPLICATE = "Duplicate"
    # LeaseHeld and Finished, once it is over
    STOPPED = "Stopped"
    REQUEUED = "Requeued"
    TAKEN_OVER = "TakenOver"
    NOT_FOUND = "NotFound"
    EXPIRED = "Expired"
    # SandboxReady
    RUNNING = "Running"
    PENDING = "Pending"
    NO_POD = "NoPod"
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


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition, without the times that only its history knows."""

    kind: Kind
    verdict: Verdict
    reason: Reason
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What the messages name, and how they write a moment of the monotonic clock."""

    item: str
    """Such as ``work item work_1 of environment env_1``."""
    expects_sandbox: bool
    """Whether the spec has a sandbox."""
    show: Callable[[float], str]
    rival: str | None = None
    """The resource that has this item's lease already, as namespace/name."""


def imply(situation: Situation, subject: Subject, now: float) -> tuple[Condition, ...]:
    """Give the conditions of a resource, in the order in which a reader wants them."""
    held = _lease_held(situation, subject, now)
    sandbox = _sandbox_ready(situation, subject, now)
    return (
        _ready(held, sandbox),
        held,
        *(() if sandbox is None else (sandbox,)),
        _finished(situation, subject),
    )


def invalid(message: str) -> tuple[Condition, ...]:
    """Give the conditions of a resource whose spec the operator cannot act on."""
    held = Condition(Kind.LEASE_HELD, Verdict.FALSE, Reason.INVALID_SPEC, message)
    finished = Condition(Kind.FINISHED, Verdict.FALSE, Reason.INVALID_SPEC, "Nothing is done until the spec is mended.")
    return (_ready(held, None), held, finished)


def _lease_held(situation: Situation, subject: Subject, now: float) -> Condition:
    lease = situation.lease
    if lease.end is not None:
        return Condition(Kind.LEASE_HELD, Verdict.FALSE, Reason(lease.end.value), _sentence(lease.message))
    ends = expiry(lease)
    if ends is None:
        return _not_yet_held(lease, subject)
    if lease.reprieve is not None and now >= ends:
        message = f"The lease held until {subject.show(ends)} as far as is known; whether it still does, a beat shows."
        return Condition(Kind.LEASE_HELD, Verdict.UNKNOWN, Reason.IN_DOUBT, _with(message, lease.message))
    until = f"The lease holds until {subject.show(ends)}"
    if is_fenced(lease, now):
        message = f"No beat was accepted in time; the sandbox is ending before the lease can. {until} unless renewed."
        return Condition(Kind.LEASE_HELD, Verdict.UNKNOWN, Reason.FENCED, _with(message, lease.message))
    if lease.suspended:
        return Condition(Kind.LEASE_HELD, Verdict.TRUE, Reason.SUSPENDED, f"{until}; no beats are sent by request.")
    refusal = _refused_stop(situation)
    if lease.stopping_seen:
        message = f"{_capital(subject.item)} is stopping: the sandbox finishes, then the stop is confirmed."
        return Condition(Kind.LEASE_HELD, Verdict.TRUE, Reason.DRAINING, _with(message, refusal))
    if lease.trouble is not None and (lease.failures >= LASTING or lease.trouble in _AT_ONCE):
        return Condition(
            Kind.LEASE_HELD, Verdict.TRUE, _reason(lease.trouble), _with(f"{until} unless renewed.", lease.message)
        )
    return Condition(Kind.LEASE_HELD, Verdict.TRUE, Reason.RENEWED, _with(f"{until}, and is being renewed.", refusal))


def _refused_stop(situation: Situation) -> str:
    """Tell of a stop that is asked for and not heard: it is what a deletion or the end of a drain waits for."""
    for asked in (situation.forced_stop, situation.graceful_stop):
        if asked is not None and asked.refusals > 0:
            return f"the stop is not heard, and is tried again: {asked.message}"
    return ""


_AT_ONCE: Final = frozenset({Trouble.UNAUTHORIZED, Trouble.CREDENTIALS_MISSING, Trouble.REJECTED, Trouble.BUDGET_SHORT})
"""Troubles that the next beat will not mend by itself."""


def _not_yet_held(lease: Lease, subject: Subject) -> Condition:
    if subject.rival is not None:
        message = f"WorkLease {subject.rival} keeps the lease of {subject.item}; this one does nothing while it does."
        return Condition(Kind.LEASE_HELD, Verdict.FALSE, Reason.DUPLICATE, message)
    if lease.suspended:
        message = f"{_capital(subject.item)} is not claimed: heartbeats are suspended by request."
        return Condition(Kind.LEASE_HELD, Verdict.FALSE, Reason.SUSPENDED, message)
    if lease.trouble is None:
        message = f"Claiming the lease of {subject.item}."
        if lease.state == "stopping":
            message = f"{_capital(subject.item)} is stopping, and was never ours: waiting until it is stopped."
        return Condition(Kind.LEASE_HELD, Verdict.FALSE, Reason.CLAIMING, message)
    verdict = Verdict.UNKNOWN if lease.trouble is Trouble.IN_DOUBT else Verdict.FALSE
    return Condition(Kind.LEASE_HELD, verdict, _reason(lease.trouble), _sentence(lease.message))


def _reason(trouble: Trouble) -> Reason:
    match trouble:
        case Trouble.NOT_ACKNOWLEDGED:
            return Reason.CLAIMING
        case (
            Trouble.IN_DOUBT
            | Trouble.UNREACHABLE
            | Trouble.UNAUTHORIZED
            | Trouble.CREDENTIALS_MISSING
            | Trouble.REJECTED
            | Trouble.THROTTLED
            | Trouble.NOT_EXTENDED
            | Trouble.HELD_BY_ANOTHER
            | Trouble.NOT_FOUND
            | Trouble.BUDGET_SHORT
        ):
            return Reason(trouble.value)
        case _:
            assert_never(trouble)


def _sandbox_ready(situation: Situation, subject: Subject, now: float) -> Condition | None:
    """Tell of the current sandbox; None where the lease alone counts."""
    pods = alive(situation.bound)
    if not pods:
        return _without_pod(situation, subject)
    for pod in pods:
        asked = situation.deletions.get(pod.uid)
        refusal = asked.message if asked is not None and asked.refusals > 0 else ""
        if asked is not None and is_fenced(situation.lease, now):
            message = f"Pod {pod.name} must be gone before the lease can end, and its deletion is not done yet."
            return Condition(Kind.SANDBOX_READY, Verdict.UNKNOWN, Reason.FENCE_PENDING, _with(message, refusal))
        if refusal:
            message = f"Pod {pod.name} must go, but its deletion is refused, and is tried again."
            return Condition(Kind.SANDBOX_READY, Verdict.FALSE, Reason.DELETION_REFUSED, _with(message, refusal))
        if asked is not None or pod.terminating:
            return Condition(Kind.SANDBOX_READY, Verdict.FALSE, Reason.ENDING, f"Pod {pod.name} is being deleted.")
    return _of_pod(pods[0])


def _without_pod(situation: Situation, subject: Subject) -> Condition | None:
    if situation.bound:
        return Condition(Kind.SANDBOX_READY, Verdict.FALSE, Reason.ENDED, "The sandbox is gone.")
    if not subject.expects_sandbox:
        return None
    message = "No pod in this namespace carries both labels of the work item yet."
    return Condition(Kind.SANDBOX_READY, Verdict.FALSE, Reason.NO_POD, message)


def _of_pod(pod: Pod) -> Condition:
    if pod.ready:
        return Condition(Kind.SANDBOX_READY, Verdict.TRUE, Reason.RUNNING, f"Pod {pod.name} is ready.")
    why = ": ".join(part for part in (pod.reason, pod.message) if part)
    message = _with(f"Pod {pod.name} is {pod.phase.lower() or 'unknown'}.", why)
    reason = Reason.ENDED if pod.phase in {"Succeeded", "Failed"} else Reason.PENDING
    return Condition(Kind.SANDBOX_READY, Verdict.FALSE, reason, message)


def _finished(situation: Situation, subject: Subject) -> Condition:
    end = situation.lease.end
    if end is None:
        return Condition(Kind.FINISHED, Verdict.FALSE, Reason.IN_PROGRESS, f"{_capital(subject.item)} is not over.")
    if not is_finished(situation):
        names = ", ".join(pod.name for pod in alive(situation.bound))
        message = f"The lease is over; still to go: pod {names}."
        return Condition(Kind.FINISHED, Verdict.FALSE, Reason.TEARING_DOWN, message)
    return Condition(Kind.FINISHED, Verdict.TRUE, Reason(end.value), _sentence(situation.lease.message))


def _ready(held: Condition, sandbox: Condition | None) -> Condition:
    if held.verdict is not Verdict.TRUE:
        return Condition(Kind.READY, held.verdict, Reason.LEASE_NOT_HELD, held.message)
    if sandbox is not None and sandbox.verdict is not Verdict.TRUE:
        return Condition(Kind.READY, sandbox.verdict, Reason.SANDBOX_NOT_READY, sandbox.message)
    return Condition(Kind.READY, Verdict.TRUE, Reason.HEALTHY, held.message)


def _sentence(text: str) -> str:
    """Write a cause as a sentence; messages are read by people."""
    text = _capital(text.strip())
    return text if not text or text[-1] in ".!?" else f"{text}."


def _capital(text: str) -> str:
    """Begin a sentence; what follows the first letter is a name's own matter."""
    return text[:1].upper() + text[1:]


def _with(sentence: str, cause: str) -> str:
    return f"{sentence} {_sentence(cause)}" if cause else sentence
