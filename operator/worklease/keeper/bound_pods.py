"""The pods that are bound to a lease, the attempt that they belong to, and what was asked of them.

Owns this state, and how an event or an answer changes it. Its maps are replaced, never changed, so that a situation can
hold them. Written by ``pod_calls``, and by the pod events that ``turns`` binds. Must not await, and must not decide.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final

from worklease.api.models import MOST_SANDBOXES
from worklease.rules.pods import Ending, Pod
from worklease.rules.situation import Ailing, Asked, AskedToFinish, Attempt, NotMade, admit, ail, forgive, run

MOST_GONE: Final = 2 * MOST_SANDBOXES
"""Pods of one resource that went and are kept in memory: more than a status shows, so that a late event finds them."""

_NONE: Final[Mapping[str, Any]] = MappingProxyType({})
"""One empty map, which thousands of resources without a pod share."""


def _none() -> Mapping[str, Any]:
    return _NONE


@dataclass(slots=True, kw_only=True)
class BoundPods:
    """What is known of a resource's pods; all maps are by the pod's uid."""

    bound: Mapping[str, Pod] = field(default_factory=_none)
    deletions: Mapping[str, Asked] = field(default_factory=_none)
    finishing: Mapping[str, AskedToFinish] = field(default_factory=_none)
    ailing: Mapping[str, Ailing] = field(default_factory=_none)
    went: tuple[str, ...] = ()
    """The uids of the bound pods that this process saw go, in that order."""
    attempt: Attempt = field(default_factory=Attempt)
    making: NotMade | None = None
    """A pod that was asked for and refused."""
    ending: Ending | None = None
    """How this attempt's sandbox ended, once that was concluded."""
    fence_fell: bool = False
    """Whether a sandbox was ended at the fence of this lease."""
    are_listed: bool = True
    """Whether every pod that carried the item's labels before this process's start is known."""
    elsewhere: tuple[str, float] | None = None
    """A pod at work for the session, of a resource that another process may keep, and until when that counts."""
    has_turn: bool = False
    """Whether it is this resource's turn to make a pod of its session, until that is made or refused."""
    sent_until: float = -math.inf
    """Until when a creation without an answer may be carried out; after a start, one that an earlier process sent."""
    ignored: frozenset[str] = frozenset()
    """The uids of pods that carry the labels and are ignored, as an event has said."""
    strays: frozenset[str] = frozenset()
    """The uids of pods that came after everything was finished, and whose deletion the API server has accepted."""

    @property
    def is_any_at_work(self) -> bool:
        """Whether anything of a bound pod may be running."""
        return any(pod.is_at_work for pod in self.bound.values())

    def longest_grace(self, known: float) -> float:
        """Return the longest grace of the pods at work, in seconds; not less than ``known`` once the fence fell."""
        longest = max((pod.grace for pod in self.bound.values() if pod.is_at_work), default=0.0)
        return max(longest, known) if self.fence_fell else longest

    def note(self, pod: Pod, now: float) -> None:
        """Store a pod, as an event or an answer has it.

        A pod that is gone stays gone, because an event may be older than the answer that said so. The exception is a
        pod that counts as gone only because of what an earlier process published.
        """
        known = self.bound.get(pod.uid)
        if known is not None and known.gone and not known.is_remembered:
            pod = _gone(pod)
        if known is not None and (known.has_run or known.had_run):
            pod = replace(pod, had_run=True)
        self.bound = {**self.bound, pod.uid: pod}
        self.attempt = run(admit(self.attempt, known, pod, now), pod, now)
        if (ailing := ail(self.ailing.get(pod.uid), pod, now)) is not None:
            self.ailing = {**self.ailing, pod.uid: ailing}
        if pod.gone:
            self._note_gone(pod.uid)

    def lose(self, uid: str) -> None:
        """Mark a bound pod as gone."""
        pod = self.bound.get(uid)
        if pod is not None:
            self.bound = {**self.bound, uid: _gone(pod)}
            self._note_gone(uid)

    def _note_gone(self, uid: str) -> None:
        """Note that a pod went, and forget the one that went first of many: without a new attempt nothing else does."""
        if uid in self.went:
            return
        self.went = (*self.went, uid)
        if len(self.went) > MOST_GONE:
            first, *rest = self.went
            self.went = tuple(rest)
            self.bound = {each: pod for each, pod in self.bound.items() if each != first}
            self.deletions = {each: asked for each, asked in self.deletions.items() if each != first}
            self.ailing = {each: ailing for each, ailing in self.ailing.items() if each != first}
            self.finishing = {each: asked for each, asked in self.finishing.items() if each != first}

    def note_deletion(self, uid: str, asked: Asked) -> None:
        """Store what became of a deletion that was asked for."""
        self.deletions = {**self.deletions, uid: asked}

    def note_finishing(self, uid: str, asked: AskedToFinish) -> None:
        """Store what became of asking a worker to finish."""
        self.finishing = {**self.finishing, uid: asked}

    def expect(self, now: float) -> None:
        """Wait for another kind of sandbox from now on; what is at work goes on."""
        taken = frozenset(pod.uid for pod in self.bound.values() if pod.is_at_work)
        self.attempt = replace(self.attempt, begins=now, taken=taken)

    def forgive(self, now: float) -> None:
        """Forget the restarts and disruptions of long ago."""
        self.attempt = forgive(self.attempt, now)

    def clear(self, uid: str) -> None:
        """Note that a pod on a lost node cannot run any more."""
        rest = frozenset(each for each in self.attempt.lost if each[0] != uid)
        self.attempt = replace(self.attempt, lost=rest)

    def begin(self, attempt: Attempt) -> None:
        """Begin another attempt: the operator has acted on the end of the one before.

        Pods that are gone and not shown any more are forgotten, because there may be many attempts.
        """
        shown = {pod.uid for pod in current_first(self.bound, attempt.settled)[:MOST_SANDBOXES]}
        self.bound = {uid: pod for uid, pod in self.bound.items() if uid in shown or not pod.gone}
        self.went = tuple(uid for uid in self.went if uid in self.bound)
        self.attempt = replace(attempt, settled=attempt.settled & self.bound.keys())
        self.ending, self.making, self.fence_fell = None, None, False


def current_first(bound: Mapping[str, Pod], settled: Collection[str]) -> list[Pod]:
    """Return this attempt's pods before the others, existing pods before those that are gone, the latest first."""
    latest_first = list(bound.values())[::-1]
    return sorted(latest_first, key=lambda pod: (pod.uid in settled, pod.gone))


def _gone(pod: Pod) -> Pod:
    """Return the pod in its last known state, marked as gone."""
    reason = pod.reason or ("Deleted" if pod.disruption is None else pod.disruption.value)
    return replace(pod, gone=True, ready=False, is_remembered=False, ailment=None, reason=reason)
