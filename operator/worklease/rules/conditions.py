"""The conditions that a lease and its sandbox imply: which reason applies, and its message for people.

Owns the messages. Pure. Must not decide what is done about anything: a condition only reports. What a reason means to
logs, events and metrics is in ``reasons``.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from worklease.rules.acknowledging import AckVerdict, AckView
from worklease.rules.deadlines import expiry, is_fenced
from worklease.rules.lease import Trouble
from worklease.rules.pods import OUT_OF_SERVICE, Cause, Ending, Follows, Obstacle, Pod, cause_of, ending_of, latest
from worklease.rules.reasons import TABLE, Kind, Reason, Verdict, reason_of
from worklease.rules.situation import (
    OnFailure,
    Policy,
    Situation,
    alive,
    begins,
    consequence,
    current,
    deadline,
    is_finished,
    is_kept,
    leaving,
    lost_node,
    rejected,
)

LASTING: Final = 2
"""Failures in a row after which a trouble is shown: the next heartbeat makes up for a single lost answer."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition, without the times that only its history has."""

    kind: Kind
    verdict: Verdict
    reason: Reason
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The names and times that messages contain."""

    item: str
    """Such as ``work item work_1 of environment env_1``."""
    show: Callable[[float], str]
    """Writes a moment of the monotonic clock as a time of day."""
    rival: str | None = None
    """The resource that already keeps this item's lease, as namespace/name."""
    problem: str = ""
    """Why the API server refused the template's pod; empty if it did not."""
    obstacle: Obstacle = Obstacle.SPEC
    """What kind of problem that is."""


def imply(situation: Situation, subject: Subject, now: float) -> tuple[Condition, ...]:
    """Return the conditions of a resource, the summary first."""
    held = _lease_held(situation, subject, now)
    sandbox = _sandbox_ready(situation, subject, now)
    return (
        _ready(held, sandbox),
        held,
        *(() if sandbox is None else (sandbox,)),
        _finished(situation, subject),
    )


def invalid(problem: str) -> tuple[Condition, ...]:
    """Return the conditions of a resource whose spec the operator cannot act on."""
    held = Condition(Kind.LEASE_HELD, Verdict.FALSE, Reason.INVALID_SPEC, problem)
    message = "The operator does nothing until the spec is fixed."
    finished = Condition(Kind.FINISHED, Verdict.FALSE, Reason.INVALID_SPEC, message)
    return (_ready(held, None), held, finished)


def _lease_held(situation: Situation, subject: Subject, now: float) -> Condition:
    lease = situation.lease
    if lease.end is not None:
        return Condition(Kind.LEASE_HELD, Verdict.FALSE, reason_of(lease.end), _sentence(lease.message))
    ends = expiry(lease)
    if ends is None:
        return _not_yet_held(situation, subject)
    if lease.reprieve is not None and now >= ends:
        message = (
            f"The lease is known to have held until {subject.show(ends)}; the next heartbeat shows if it still does."
        )
        return Condition(Kind.LEASE_HELD, Verdict.UNKNOWN, Reason.IN_DOUBT, _with(message, lease.message))
    until = f"The lease holds until {subject.show(ends)}"
    unless = f"The lease ends at {subject.show(ends)} unless it is renewed."
    if is_fenced(lease, now):
        why = "The time to drain is over" if lease.stopping_seen else "No heartbeat was accepted in time"
        message = f"{why}; the operator ends the sandbox before the lease can end. {unless}"
        return Condition(Kind.LEASE_HELD, Verdict.UNKNOWN, Reason.FENCED, _with(message, lease.message))
    if lease.suspended:
        return Condition(
            Kind.LEASE_HELD, Verdict.TRUE, Reason.SUSPENDED, f"{until}; heartbeats are suspended by request."
        )
    refusal = _refused_stop(situation)
    if lease.stopping_seen:
        message = f"{_capital(subject.item)} is stopping: the sandbox finishes, then the operator confirms the stop."
        return Condition(Kind.LEASE_HELD, Verdict.TRUE, Reason.DRAINING, _with(message, refusal))
    if lease.trouble is not None:
        reason = reason_of(lease.trouble)
        if lease.failures >= LASTING or TABLE[reason].is_shown_at_once:
            return Condition(Kind.LEASE_HELD, Verdict.TRUE, reason, _with(unless, lease.message))
    return Condition(Kind.LEASE_HELD, Verdict.TRUE, Reason.RENEWED, _with(f"{until} and is being renewed.", refusal))


_NOT_ADMITTED: Final = {
    Obstacle.SPEC: "The template's pod was refused",
    Obstacle.QUOTA: "The namespace's quota has no room for the template's pod",
    Obstacle.ADMISSION: "The API server could not say whether it would make the template's pod",
}
"""How a dry run ended that was not accepted."""


def _refused_stop(situation: Situation) -> str:
    """Return what to say of a stop that the server has not acknowledged: a deletion or a drain waits for it."""
    for asked in (situation.forced_stop, situation.graceful_stop):
        if asked is not None and asked.refusals > 0:
            return f"the server has not acknowledged the stop; retrying: {asked.message}"
    return ""


def _not_yet_held(situation: Situation, subject: Subject) -> Condition:
    lease, ack = situation.lease, situation.ack
    if subject.rival is not None:
        message = f"WorkLease {subject.rival} keeps the lease of {subject.item}; meanwhile this one does nothing."
        return Condition(Kind.LEASE_HELD, Verdict.FALSE, Reason.DUPLICATE, message)
    if subject.problem:
        message = f"{_NOT_ADMITTED[subject.obstacle]}, so the item is not claimed: {_sentence(subject.problem)}"
        return Condition(Kind.LEASE_HELD, Verdict.FALSE, reason_of(subject.obstacle), message)
    if lease.suspended:
        message = f"{_capital(subject.item)} is not claimed: heartbeats are suspended by request."
        return Condition(Kind.LEASE_HELD, Verdict.FALSE, Reason.SUSPENDED, message)
    if ack is not None and ack.verdict is not AckVerdict.OURS:
        return _not_acknowledged(ack, subject)
    if lease.trouble is None:
        message = f"Claiming the lease of {subject.item}."
        if lease.state == "stopping":
            message = (
                f"{_capital(subject.item)} is stopping, and its lease was never held here; waiting until it is stopped."
            )
        return Condition(Kind.LEASE_HELD, Verdict.FALSE, Reason.CLAIMING, message)
    verdict = Verdict.UNKNOWN if lease.trouble is Trouble.IN_DOUBT else Verdict.FALSE
    return Condition(Kind.LEASE_HELD, verdict, reason_of(lease.trouble), _sentence(lease.message))


def _not_acknowledged(ack: AckView, subject: Subject) -> Condition:
    if ack.is_token_missing:
        message = f"{_capital(subject.item)} is not acknowledged: its token is not in the Secret that the spec names."
        return Condition(Kind.LEASE_HELD, Verdict.FALSE, Reason.TOKEN_MISSING, _with(message, ack.message))
    message = f"Acknowledging {subject.item}, which comes before its claim."
    return Condition(Kind.LEASE_HELD, Verdict.FALSE, Reason.ACKNOWLEDGING, _with(message, ack.message))


# --- The sandbox -------------------------------------------------------------------------------------------------


def _sandbox_ready(situation: Situation, subject: Subject, now: float) -> Condition | None:
    """Return the condition of the current sandbox; None where the lease alone counts."""
    for pod in leaving(situation):
        if (leaves := _leaving(situation, pod, now)) is not None:
            return leaves
    if situation.sandbox is None and not situation.bound:
        return None
    if situation.lease.end is not None:
        return _not_ready(_last_reason(situation), _last_words(situation))
    if situation.ending is not None:
        return _not_ready(reason_of(situation.ending.cause), _with_consequence(situation))
    pods = current(situation)
    going = [pod for pod in pods if cause_of(pod) is None]
    if going:
        return _of_pod(situation, subject, going[-1])
    if (last := latest(pods)) is not None:
        if last.gone and last.uid in situation.deletions:
            return _not_ready(Reason.ENDED, f"The operator deleted pod {last.name}, and it is gone.")
        ending = _ending_of(situation, last)
        return _not_ready(reason_of(ending.cause), ending.message)
    return _without_pod(situation, subject, now)


def _ending_of(situation: Situation, pod: Pod) -> Ending:
    """Return how a pod ended; a deletion that the operator asked for is not somebody else's."""
    own = replace(pod, deleted_at=None) if pod.uid in situation.deletions else pod
    return ending_of(own, cause_of(own) or Cause.FAILED)


def _not_ready(reason: Reason, message: str) -> Condition:
    return Condition(Kind.SANDBOX_READY, Verdict.FALSE, reason, _sentence(message))


def _leaving(situation: Situation, pod: Pod, now: float) -> Condition | None:
    """Return the condition for a pod that must go; None if it need not."""
    asked = situation.deletions.get(pod.uid)
    refusal = asked.message if asked is not None and asked.refusals > 0 else ""
    if asked is not None and is_fenced(situation.lease, now):
        message = f"Pod {pod.name} must be gone before the lease can end, but its deletion is not complete."
        return Condition(Kind.SANDBOX_READY, Verdict.UNKNOWN, Reason.FENCE_PENDING, _with(message, refusal))
    if refusal:
        return _not_ready(Reason.DELETION_REFUSED, _with(f"Deleting pod {pod.name} was refused; retrying.", refusal))
    if asked is not None or (pod.terminating and situation.ending is None):
        why = _why_it_ended(situation) or _awaited(situation)
        return _not_ready(Reason.ENDING, _with(f"Pod {pod.name} is being deleted.", why))
    return None


def _why_it_ended(situation: Situation) -> str:
    return "" if situation.ending is None else situation.ending.message


def _last_reason(situation: Situation) -> Reason:
    """Return the reason that stays when the lease is over: that of a session, since its sandbox did not fail."""
    ending = situation.ending
    is_by_session = ending is not None and ending.cause in {Cause.SESSION_IDLE, Cause.SESSION_ENDED}
    return reason_of(ending.cause) if ending is not None and is_by_session else Reason.ENDED


def _last_words(situation: Situation) -> str:
    """Return how the sandbox of a lease that is over ended, and whether it is kept."""
    if situation.ending is not None:
        end = _sentence(situation.ending.message)
    elif (last := latest(current(situation))) is not None and last.is_over:
        end = _sentence(_ending_of(situation, last).message)
    else:
        end = ""
    kept = [pod.name for pod in alive(situation.bound) if is_kept(situation, pod)]
    if kept:
        return f"{end} Pod {', '.join(kept)} is kept for its logs; delete it when you have read them.".strip()
    return f"The sandbox is gone. {end}".strip() if situation.bound else "There was no sandbox."


def _with_consequence(situation: Situation) -> str:
    """Return how a sandbox ended, and what follows."""
    ending, policy = situation.ending, situation.sandbox or Policy()
    assert ending is not None  # noqa: S101 (the caller has checked)
    follows = "The work item is being stopped."
    if ending.cause is not Cause.SUCCEEDED:
        is_disruption = ending.follows is Follows.ON_DISRUPTION
        asked = policy.on_disruption if is_disruption else policy.on_failure
        match consequence(situation, ending):
            case OnFailure.STOP if asked is OnFailure.RESTART and ending.follows is not Follows.STOP:
                times = _times(policy.max_disruptions if is_disruption else policy.max_restarts)
                follows = (
                    f"It was {'disrupted' if is_disruption else 'restarted'} {times}; the work item is being stopped."
                )
            case OnFailure.STOP:
                pass
            case OnFailure.RELEASE:
                follows = "The work item is being released."
            case OnFailure.RESTART:
                follows = "A new sandbox follows under the same lease."
    return f"{_sentence(ending.message)} {follows}"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _without_pod(situation: Situation, subject: Subject, now: float) -> Condition | None:
    policy = situation.sandbox
    if policy is None:
        return None
    until = deadline(situation, None)
    by = f" Without a pod it counts as failed at {subject.show(until)}." if until < math.inf else ""
    if situation.predecessor is not None and begins(situation) is not None:
        message = f"Pod {situation.predecessor} of an earlier delivery of the session has not ended yet."
        released = f" If it has not by {subject.show(until)}, the work item is released." if until < math.inf else ""
        return _not_ready(Reason.PREDECESSOR_ENDING, f"{message} The sandbox pod is created after that.{released}")
    if situation.making is not None:
        message, obstacle = situation.making.message, situation.making.obstacle
        if obstacle is Obstacle.SPEC:
            refused = f"Creating the sandbox pod was refused; retrying: {_sentence(message)}{by}"
            return _not_ready(Reason.CREATION_REFUSED, refused)
        released = f" Without a pod the work item is released at {subject.show(until)}." if until < math.inf else ""
        refused = f"The sandbox pod could not be created; retrying: {_sentence(message)}{released}"
        return _not_ready(reason_of(obstacle), refused)
    at, how = begins(situation), "is created" if policy.is_made else "is expected"
    if (pod := rejected(situation)) is not None:
        again = situation.attempt.again
        when = f"at {subject.show(again)}" if policy.is_made and again is not None and now < again else "now"
        message = _with(f"Another sandbox pod {how} {when}.", ending_of(pod, Cause.REJECTED).message)
        return _not_ready(Reason.POD_REJECTED, message + by)
    if situation.attempt.number > 0 and at is not None:
        when = f"at {subject.show(at)}" if now < at else "now"
        last = latest(situation.bound.values())
        former = _ending_of(situation, last).message if last is not None else ""
        message = _with(f"Another sandbox {how} {when} ({_count(situation, policy)}).", former)
        return _not_ready(Reason.RESTARTING, _with(message, _awaited(situation)) + by)
    if policy.is_made:
        when = "as soon as it holds the lease" if at is None else "now"
        return _not_ready(Reason.CREATING, f"The operator creates the sandbox pod {when}.")
    return _not_ready(Reason.NO_POD, f"No pod in this namespace carries both labels of the work item yet.{by}")


def _count(situation: Situation, policy: Policy) -> str:
    """Return how many restarts and disruptions count, of how many that are allowed."""
    attempt = situation.attempt
    restarts = f"restart {attempt.restarts} of {policy.max_restarts}" if attempt.restarts else ""
    disruptions = f"disruption {attempt.disruptions} of {policy.max_disruptions}" if attempt.disruptions else ""
    return ", ".join(part for part in (restarts, disruptions) if part) or f"attempt {attempt.number}"


def _awaited(situation: Situation) -> str:
    """Return what must be known of a lost node before another pod is made; empty if nothing."""
    node = lost_node(situation)
    if node is None:
        return ""
    return (
        f"Node {node} is lost, and the earlier pod may still run there: another one is created once its containers are "
        f"reported terminated, or the node is deleted or has the taint {OUT_OF_SERVICE}."
    )


def _of_pod(situation: Situation, subject: Subject, pod: Pod) -> Condition:
    if pod.ready:
        return Condition(Kind.SANDBOX_READY, Verdict.TRUE, Reason.RUNNING, f"Pod {pod.name} is ready.")
    if pod.gates and pod.phase == "Pending":
        gates = ", ".join(pod.gates)
        message = f"Pod {pod.name} waits for its scheduling gates: {gates}. Its time to start has not begun."
        return _not_ready(Reason.SCHEDULING_GATED, message)
    why = ": ".join(part for part in (pod.reason, pod.message) if part)
    message = _with(f"Pod {pod.name} is {pod.phase.lower() or 'unknown'}.", why)
    if pod.restarts:
        message += f" Its containers were restarted {_times(pod.restarts)}."
    until = deadline(situation, pod)
    if until < math.inf:
        message += f" If it does not run by then, it counts as failed at {subject.show(until)}."
    if pod.ailment is not None:
        return _not_ready(reason_of(pod.ailment), message)
    return _not_ready(Reason.NOT_READY if pod.phase == "Running" else Reason.PENDING, message)


def _finished(situation: Situation, subject: Subject) -> Condition:
    end = situation.lease.end
    if end is None:
        return Condition(Kind.FINISHED, Verdict.FALSE, Reason.IN_PROGRESS, f"{_capital(subject.item)} is not finished.")
    if not is_finished(situation):
        names = ", ".join(pod.name for pod in leaving(situation))
        message = (
            f"The lease is over; waiting until pod {names} is gone."
            if names
            else "The lease is over; looking for its pods."
        )
        return Condition(Kind.FINISHED, Verdict.FALSE, Reason.TEARING_DOWN, message)
    message = _with(_sentence(situation.lease.message), _why_it_ended(situation))
    return Condition(Kind.FINISHED, Verdict.TRUE, reason_of(end), message)


def _ready(held: Condition, sandbox: Condition | None) -> Condition:
    if held.verdict is not Verdict.TRUE:
        return Condition(Kind.READY, held.verdict, Reason.LEASE_NOT_HELD, held.message)
    if sandbox is not None and sandbox.verdict is not Verdict.TRUE:
        return Condition(Kind.READY, sandbox.verdict, Reason.SANDBOX_NOT_READY, sandbox.message)
    return Condition(Kind.READY, Verdict.TRUE, Reason.HEALTHY, held.message)


def _sentence(text: str) -> str:
    """Return a cause as a sentence, for people."""
    text = _capital(text.strip())
    return text if not text or text[-1] in ".!?" else f"{text}."


def _capital(text: str) -> str:
    """Return a text with a capital first letter; the others stay, because names have their own."""
    return text[:1].upper() + text[1:]


def _with(sentence: str, cause: str) -> str:
    return f"{sentence} {_sentence(cause)}" if cause else sentence
