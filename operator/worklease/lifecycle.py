"""What a lease, its pods and the resource together ask for: drain, tear down, stop the item, let the resource go.

Owns the decisions about sandboxes, as values. Pure: no clock, no socket; ``now`` is passed in. Must not know how a
pod is deleted or an item is stopped, only that it should be.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from math import ceil, floor, inf
from typing import Final

from worklease.lease import End, Lease, expiry, fence, giving_up, grace, is_fenced, time_left, timeout

RECHECK: Final = 5.0
"""Seconds after which a deletion that was asked for is asked for again: its event may have been missed."""

FIRST_RETRY: Final = 0.5
"""Seconds before a refused deletion or stop is repeated for the first time."""

LONGEST_RETRY: Final = 10.0
"""Seconds between repetitions at most: what is refused for a reason is not mended faster by asking more."""


class DeletionPolicy(StrEnum):
    """What deleting the resource does to an item whose lease we hold."""

    STOP = "Stop"
    RELEASE = "Release"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """A sandbox pod, as it was last seen."""

    uid: str
    name: str
    phase: str = "Unknown"
    reason: str = ""
    message: str = ""
    ready: bool = False
    terminating: bool = False
    grace: float = 30.0
    """Its ``terminationGracePeriodSeconds``."""
    exit_code: int | None = None
    finish_time: datetime | None = None
    restarts: int = 0
    controller: str = ""
    """The uid of the WorkLease that controls it; empty where something else does, or nothing."""
    gone: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """A deletion or a stop that was asked for: when, and how often in a row it was refused."""

    at: float
    refusals: int = 0
    message: str = ""
    grace: float | None = None
    """The grace asked for with a deletion, in seconds; None: the pod's own."""

    @property
    def again(self) -> float:
        """When to ask again, if it is not done by then."""
        if self.refusals == 0:
            return self.at + RECHECK
        return self.at + min(LONGEST_RETRY, FIRST_RETRY * 2.0 ** min(self.refusals - 1, 16))


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """All that a decision is made from."""

    uid: str
    lease: Lease
    bound: Mapping[str, Pod] = field(default_factory=dict)
    """The pods that were found to be this item's while its lease was held, by uid."""
    deletions: Mapping[str, Asked] = field(default_factory=dict)
    graceful_stop: Asked | None = None
    forced_stop: Asked | None = None
    drain_seconds: float = 30.0
    deletion_policy: DeletionPolicy = DeletionPolicy.STOP
    deleting: bool = False
    fence_fell: bool = False
    """Whether a sandbox was ended at the fence: should the lease be ours again, it counts as failed."""
    stops_on_failure: bool = False
    """Whether a failed sandbox stops its item (``onFailure: Stop``)."""


@dataclass(frozen=True, slots=True)
class EndPod:
    """Delete this very pod, by name and uid; ``grace`` in seconds, None: the pod's own."""

    uid: str
    name: str
    grace: float | None

    def grace_of(self, pod: Pod) -> float:
        """Give the grace in seconds that this grants to ``pod``."""
        return pod.grace if self.grace is None else self.grace


@dataclass(frozen=True, slots=True)
class StopItem:
    """Stop the work item: gracefully, or as the confirmation of a stop."""

    force: bool


@dataclass(frozen=True, slots=True)
class LetGo:
    """Take our finalizer off the resource, whether it is being deleted or not: nothing of it is left to end."""


Step = EndPod | StopItem | LetGo


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now, and when to look again if nothing happens before."""

    steps: tuple[Step, ...] = ()
    look_at: float | None = None


def is_bindable(pod: Pod, uid: str, lease: Lease) -> bool:
    """Tell whether a pod with this item's labels is its sandbox: while we hold, and no other WorkLease controls it.

    A restored lease whose time is up binds nothing new before a beat was accepted: the pod may be the next holder's.
    """
    return lease.held and lease.reprieve is None and pod.controller in {"", uid}


def alive(bound: Mapping[str, Pod]) -> tuple[Pod, ...]:
    """Give the bound pods that are not known to be gone."""
    return tuple(pod for pod in bound.values() if not pod.gone)


def is_finished(situation: Situation) -> bool:
    """Tell whether the lease is over and nothing that was bound to it is left."""
    return situation.lease.end is not None and not alive(situation.bound)


def decide(situation: Situation, now: float) -> Plan:
    """Say what the situation asks for at ``now``."""
    lease = situation.lease
    if lease.end is not None:
        return _after_the_end(situation, now)
    if lease.stopping_seen:
        return _drain(situation, now)
    if is_fenced(lease, now):
        return _tear_down(situation, now, fence_grace(lease))
    if situation.deleting:
        return _give_up(situation, now)
    if situation.fence_fell and situation.stops_on_failure and lease.held:
        return _stop(situation, situation.graceful_stop, StopItem(force=False), now)
    return _look_again(lease, now)


def fence_grace(lease: Lease) -> float:
    """Say what grace, in whole seconds, is left to a pod at the fence; never 0, which would leave its container on."""
    return max(1.0, float(floor(grace(lease))))


def _after_the_end(situation: Situation, now: float) -> Plan:
    """Tear down what is bound: with its own grace if the item was stopped, with the lease's if it was lost.

    A grace of its own ends before the lease would have all the same: a stopped item may be queued and held again.
    """
    lease = situation.lease
    if not alive(situation.bound):
        return Plan((LetGo(),))
    if lease.end is End.STOPPED and not is_fenced(lease, now):
        return _tear_down(situation, now, None)
    return _tear_down(situation, now, fence_grace(lease))


def _drain(situation: Situation, now: float) -> Plan:
    """Let the sandbox finish while beats go on; when it is gone, confirm the stop while that is ours to say."""
    lease = situation.lease
    if alive(situation.bound):
        if is_fenced(lease, now):
            return _tear_down(situation, now, fence_grace(lease))
        return _tear_down(situation, now, situation.drain_seconds)
    return _stop(situation, situation.forced_stop, StopItem(force=True), now)


def _give_up(situation: Situation, now: float) -> Plan:
    """The resource is being deleted while the lease runs: stop the item, or leave it to be queued again."""
    if situation.lease.held and situation.deletion_policy is DeletionPolicy.STOP:
        return _stop(situation, situation.graceful_stop, StopItem(force=False), now)
    if alive(situation.bound):
        return _tear_down(situation, now, None, inf)
    return Plan((LetGo(),))


def _stop(situation: Situation, asked: Asked | None, step: StopItem, now: float) -> Plan:
    """Stop the item, again where that was not heard; only while we hold, less a time-out for the stop's own way."""
    ends = expiry(situation.lease)
    if ends is None or now >= ends - timeout(situation.lease):
        return _look_again(situation.lease, now)
    if asked is not None and now < asked.again:
        return _look_again(situation.lease, now, asked.again)
    return _look_again(situation.lease, now, steps=(step,))


def _tear_down(situation: Situation, now: float, allowed: float | None, left: float | None = None) -> Plan:
    """Ask for each bound pod's deletion, again where it was refused, is overdue, or must go faster than asked.

    ``allowed`` is the grace that a pod may have, in seconds; None: its own. ``left`` is for how long from now on any
    may run: by default what is left of the lease.
    """
    left = time_left(situation.lease, now) if left is None else left
    steps: list[Step] = []
    looks: list[float] = []
    for pod in alive(situation.bound):
        asked = situation.deletions.get(pod.uid)
        step = _end(pod, asked, allowed, left)
        if asked is None or now >= asked.again or _is_urgent(situation.lease, pod, asked, step, now):
            steps.append(step)
        else:
            looks.append(asked.again)
    return _look_again(situation.lease, now, *looks, steps=tuple(steps))


def _is_urgent(lease: Lease, pod: Pod, asked: Asked, step: EndPod, now: float) -> bool:
    """Tell whether to ask before it is time to ask again: to end sooner than granted, or because the fence has come."""
    before, at = _asked_grace(pod, asked), fence(lease)
    if before is not None:
        return step.grace_of(pod) + 1.0 < before
    return at is not None and asked.at < at <= now


def _asked_grace(pod: Pod, asked: Asked | None) -> float | None:
    """Give the grace of a deletion that is under way, in seconds; None where none was granted yet."""
    if asked is None or (asked.refusals > 0 and not pod.terminating):
        return None
    return pod.grace if asked.grace is None else asked.grace


def _end(pod: Pod, asked: Asked | None, allowed: float | None, left: float) -> EndPod:
    """Give the deletion to ask for. What is under way is not given less time only because time goes by.

    The API server counts a shorter grace from the first deletion, so the time that went by would count twice. What is
    left is rounded up, which the fence's margin covers: it holds more than a second.
    """
    before, most = _asked_grace(pod, asked), pod.grace if allowed is None else allowed
    wanted = max(1.0, float(floor(most)) if most <= left else float(ceil(left)))
    if before is not None:
        wanted = max(1.0, min(before, float(floor(most))))
    return EndPod(pod.uid, pod.name, None if allowed is None and wanted == pod.grace else wanted)


def _look_again(lease: Lease, now: float, *looks: float, steps: tuple[Step, ...] = ()) -> Plan:
    """Plan ``steps``, and to look again when the lease changes what its pods may do, or at the first of ``looks``."""
    changes = (at for at in (fence(lease), expiry(lease), giving_up(lease)) if at is not None and at > now)
    return Plan(steps, min((*looks, *changes), default=None))
