"""How the workers of a drain are asked to finish: before their pods are deleted, where a proxy can tell them.

A deletion sends a worker SIGTERM at once, and ends its tool. So a pod with a proxy is annotated first, and deleted
shortly before the drain is over. Pure: no clock, no socket. Must not decide that there is a drain: ``lifecycle`` does.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf
from typing import Final

from worklease.rules.pods import Pod
from worklease.rules.situation import Situation

LEAD: Final = 5.0
"""Seconds before the end of the drain at which a pod is deleted that has not ended by itself: its last grace."""


@dataclass(frozen=True, slots=True)
class AskToFinish:
    """Annotate this very pod, by name and uid: its worker has ``seconds`` to finish."""

    uid: str
    name: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Finishing:
    """What follows for the pods of a drain."""

    steps: tuple[AskToFinish, ...]
    look_at: float
    """When the first of those that finish by themselves is to be deleted, or asked again."""
    late: tuple[Pod, ...]
    """Those that did not finish in time."""
    others: tuple[Pod, ...]
    """Those that hear of the drain by their deletion alone."""


def lead(drain: float) -> float:
    """Return how long before the end of a drain of ``drain`` seconds its pods are deleted: never its whole time."""
    return min(LEAD, drain / 2)


def finish(situation: Situation, pods: Iterable[Pod], now: float) -> Finishing:
    """Return what follows for the ``pods`` of a drain."""
    steps: list[AskToFinish] = []
    looks: list[float] = []
    late: list[Pod] = []
    others: list[Pod] = []
    drain = situation.drain_seconds
    for pod in pods:
        asked = situation.finishing.get(pod.uid)
        can_hear = pod.has_proxy and pod.phase == "Running" and not pod.terminating
        if (
            not can_hear
            or (asked is None and pod.uid in situation.deletions)
            or (asked is not None and asked.is_refused)
        ):
            others.append(pod)
        elif asked is not None and now >= asked.until - lead(drain):
            late.append(pod)
        elif asked is None or (asked.refusals > 0 and now >= asked.again):
            steps.append(AskToFinish(pod.uid, pod.name, drain))
        else:
            again = asked.again if asked.refusals > 0 else inf
            looks.append(min(asked.until - lead(drain), again))
    return Finishing(tuple(steps), min(looks, default=inf), tuple(late), tuple(others))
