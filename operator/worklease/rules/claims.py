"""Who may claim a lease, and what comes before a beat: a dry run, the finalizer, a turn within the budget.

Owns the order of these, and which of several resources for one work item keeps its lease. Pure: no clock, no socket;
``now`` is passed in. Must not know how any of it is done.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto
from math import inf
from typing import Final, assert_never

from worklease.rules.acknowledging import Acknowledgement, AckStep, AckVerdict, decide_ack, is_claim_refused
from worklease.rules.backoff import backoff
from worklease.rules.beats import due_at
from worklease.rules.deadlines import latest
from worklease.rules.lease import Lease, Trouble
from worklease.rules.pods import Obstacle

# --- Several resources for one item ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimant:
    """A resource that asks for the lease of a work item."""

    uid: str
    name: str
    """As namespace/name."""
    created: datetime
    lease: Lease
    is_done: bool
    """Whether nothing is left to do for the resource."""
    is_claiming: bool = False
    """Whether a first claim of the resource was sent and is not answered yet."""
    can_claim: bool = True
    """Whether nothing of the resource's own keeps it from claiming, as ``can_claim`` says."""
    delivery: str | None = None
    """Which delivery of the item it is for, where a pool made it: another delivery's resource is no duplicate."""
    has_acknowledged: bool = False
    """Whether the item left the queue for it: its acknowledgement was accepted, or its lease was held."""
    acknowledged_at: float | None = None
    """When that was (monotonic)."""


_OWN_TROUBLES: Final = frozenset(
    {
        Trouble.CREDENTIALS_MISSING,
        Trouble.UNAUTHORIZED,
        Trouble.REJECTED,
        Trouble.NOT_FOUND,
        Trouble.CHECKPOINT_UNAVAILABLE,
    }
)
"""What keeps one resource from an item that another one, with another key or spec, may claim."""


def can_claim(lease: Lease, *, is_template_refused: bool, is_deleting: bool) -> bool:
    """Whether a resource can claim: it is not suspended or deleted, and neither its key nor its spec was refused."""
    return not (lease.suspended or is_template_refused or is_deleting or lease.trouble in _OWN_TROUBLES)


def rival_of(own: Claimant, claimants: Iterable[Claimant]) -> Claimant | None:
    """Return the resource that keeps the item's lease instead of ``own``; None if ``own`` may keep it.

    A resource that holds the lease comes first, then one whose claim is under way, then the oldest that can claim. One
    that cannot claim keeps no other resource from the item. Where none can, each goes on trying, one claim at a time.

    Args:
        own: The resource that asks.
        claimants: The resources for the item in one namespace: between namespaces the server decides.
    """
    if own.lease.end is not None:
        return None
    rest = (
        each
        for each in claimants
        if each.lease.end is None
        and not each.is_done
        and not _are_deliveries(own, each)
        and (each.uid == own.uid or each.lease.held or each.is_claiming or each.can_claim)
    )
    first = min(rest, key=_place_in_line, default=own)
    return None if first.uid == own.uid else first


def _are_deliveries(one: Claimant, other: Claimant) -> bool:
    """Whether two resources are for two deliveries of the item."""
    return one.delivery is not None and other.delivery is not None and one.delivery != other.delivery


def successor_of(own: Claimant, claimants: Iterable[Claimant]) -> Claimant | None:
    """Return the resource for whose later delivery the item left the queue; None: ``own`` is the last.

    The item went back to the queue before that, whatever else is known of ``own``: a beat or a stop of it would be one
    of the later delivery.
    """
    later = (
        each for each in claimants if _are_deliveries(own, each) and each.has_acknowledged and _is_later(each, own)
    )
    return next(later, None)


def _is_later(one: Claimant, other: Claimant) -> bool:
    """Whether one delivery is later than another; a creation's time has whole seconds only.

    Of two within a second, the one that was acknowledged later is. One that was not acknowledged may be the later one:
    its own acknowledgement shows whether the item is in the queue.
    """
    if one.created != other.created:
        return one.created > other.created
    if other.acknowledged_at is None or one.acknowledged_at is None:
        return False
    return one.acknowledged_at > other.acknowledged_at


class SandboxTurn(Enum):
    """Whether the sandbox of a session may be made for a resource that has shown that it is about to make it."""

    MAKE = auto()
    """No other resource has shown that: one that does so later sees this one, or its pod."""
    WAIT = auto()
    """Younger ones have: each makes its pod, if it did not see this one, or gives way."""
    GIVE_WAY = auto()
    """An older one has: this one takes back that it is about to."""


def sandbox_turn(own: tuple[datetime, str], others: Collection[tuple[datetime, str]]) -> SandboxTurn:
    """Return whose turn it is; each resource is told by its creation and its uid.

    ``others`` have shown that they are about to make one, by a list that began after ``own`` had shown it.
    """
    if not others:
        return SandboxTurn.MAKE
    return SandboxTurn.GIVE_WAY if min(others) < own else SandboxTurn.WAIT


def _place_in_line(claimant: Claimant) -> tuple[bool, bool, bool, datetime, str]:
    return (
        not claimant.lease.held,
        not claimant.is_claiming,
        not claimant.can_claim,
        claimant.created,
        claimant.uid,
    )


# --- What comes before a beat ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DryRun:
    """The API server's answer to a dry run of the template's pod."""

    generation: int
    problem: str
    """Empty: the pod would be made."""
    again: float
    """When a refused template is tried again unedited: a quota or a policy may have changed."""
    obstacle: Obstacle = Obstacle.SPEC
    refusals: int = 0
    """How many such answers in a row there were."""


_TRIES: Final = {
    Obstacle.SPEC: (60.0, 60.0),
    Obstacle.QUOTA: (10.0, 60.0),
    Obstacle.ADMISSION: (1.0, 60.0),
    Obstacle.VOLUME: (1.0, 60.0),
}
"""Seconds before a template is tried again for the first time, and at most.

An edit is tried at once; without one, only a policy can have changed. Room in a quota comes with each sandbox that
ends. A webhook is back within seconds as a rule.
"""


def refused_dry_run(before: DryRun | None, generation: int, problem: str, obstacle: Obstacle, now: float) -> DryRun:
    """Return the note of a dry run that was refused: each further one of its kind is made later."""
    is_same = before is not None and (before.generation, before.obstacle) == (generation, obstacle) and before.problem
    refusals = before.refusals if before is not None and is_same else 0
    first, longest = _TRIES[obstacle]
    return DryRun(generation, problem, now + backoff(refusals, first, longest), obstacle, refusals + 1)


class BeatStep(Enum):
    """What to do about a resource's next beat."""

    CANCEL = auto()
    """Cancel the beat that waits for its turn: the lease is over."""
    NOTE_BUDGET_SHORT = auto()
    """Note that the beat waits longer for its turn than is good for the lease."""
    ASK_DRY_RUN = auto()
    """Ask whether the API server would make the template's pod."""
    ADD_FINALIZER = auto()
    """Put the operator's finalizer on the resource."""
    ACKNOWLEDGE = auto()
    """Take the next step towards the acknowledgement of the item, which comes before the claim."""
    END_UNCLAIMED = auto()
    """End the lease: the item is another worker's."""
    SEND = auto()
    """Send the beat."""


@dataclass(frozen=True, slots=True)
class BeatPlan:
    """What to do about the next beat now, and when to look again; infinite where an answer comes first."""

    steps: tuple[BeatStep, ...] = ()
    until: float = inf


NOTHING: Final = BeatPlan()


def plan_beat(
    lease: Lease,
    now: float,
    *,
    generation: int,
    dry_run: DryRun | None,
    is_waiting: bool,
    is_under_way: bool,
    is_done: bool,
    is_deleting: bool,
    has_rival: bool,
    has_finalizer: bool,
    makes_pods: bool,
    ack: Acknowledgement | None = None,
    is_acknowledging: bool = False,
) -> BeatPlan:
    """Return what to do about the next beat.

    ``dry_run`` is the last one, if there was any, and counts for its ``generation`` of the resource. A beat that
    ``is_waiting`` for its turn within the budget ``is_under_way`` as well. ``ack`` None: somebody else sees to the
    acknowledgement. ``is_acknowledging``: a step towards it is under way.
    """
    if lease.end is not None:
        return BeatPlan((BeatStep.CANCEL,)) if is_waiting else NOTHING
    if is_waiting:
        return _while_waiting(lease, now)
    if is_under_way or is_done:
        return NOTHING
    is_first = lease.sent is None
    if is_first and makes_pods and not is_deleting and not has_rival:
        if dry_run is None or dry_run.generation != generation or now >= dry_run.again:
            return BeatPlan((BeatStep.ASK_DRY_RUN,))
        if dry_run.problem:
            return BeatPlan(until=dry_run.again)
    is_allowed = not has_rival and (lease.held or not is_deleting)
    if not has_finalizer and (lease.held or is_first) and not is_deleting:
        # A claimed item must be given back, whoever deletes the resource: so the finalizer comes first. A lease that is
        # held without it lost it when an earlier installation was removed: its beats do not wait for the finalizer.
        beat = NOTHING if is_first else _next_beat(lease, now, is_allowed=is_allowed)
        return BeatPlan((BeatStep.ADD_FINALIZER, *beat.steps), beat.until)
    if is_first and ack is not None and not has_rival:
        plan = _acknowledge(lease, ack, now, is_under_way=is_acknowledging, is_deleting=is_deleting)
        # What left the queue for a resource that is deleted meanwhile is claimed: only then can it be given back.
        return _next_beat(lease, now, is_allowed=True) if plan is None else plan
    return _next_beat(lease, now, is_allowed=is_allowed)


def _acknowledge(
    lease: Lease, ack: Acknowledgement, now: float, *, is_under_way: bool, is_deleting: bool
) -> BeatPlan | None:
    """Return what to do about the acknowledgement; None: it was accepted, and the claim follows."""
    match decide_ack(ack, now, is_claim_refused=is_claim_refused(ack, lease, now), is_wanted=not is_deleting):
        case AckStep.CLAIM:
            return None
        case AckStep.END:
            return BeatPlan((BeatStep.END_UNCLAIMED,))
        case _ if is_under_way or lease.suspended or (is_deleting and ack.verdict is AckVerdict.NONE):
            return NOTHING
        case AckStep.WAIT:
            return BeatPlan(until=ack.next_at)
        case AckStep.LOOK_FOR_TOKEN | AckStep.SEND | AckStep.ASK_LIST:
            return BeatPlan((BeatStep.ACKNOWLEDGE,))
        case step:
            assert_never(step)


def _while_waiting(lease: Lease, now: float) -> BeatPlan:
    """Note a beat that waits too long for its turn, before the lease is lost by that."""
    at = latest(lease)
    if now < at:
        return BeatPlan(until=at)
    return BeatPlan((BeatStep.NOTE_BUDGET_SHORT,)) if lease.trouble is None else NOTHING


def _next_beat(lease: Lease, now: float, *, is_allowed: bool) -> BeatPlan:
    if now < (at := due_at(lease)):
        return BeatPlan(until=at)
    return BeatPlan((BeatStep.SEND,), latest(lease)) if is_allowed else NOTHING
