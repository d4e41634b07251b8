"""The state of a sandbox pod, read from the pod alone: it starts, cannot run, runs, or has ended, and why.

Owns the closed list of what can go wrong with a pod, and its words. Pure: no clock, no socket. Must not know the lease,
nor decide what follows.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final


class Ailment(StrEnum):
    """What keeps a pod from running, while it lasts; Kubernetes goes on trying."""

    IMAGE_PULL_FAILED = "ImagePullFailed"
    UNSCHEDULABLE = "Unschedulable"
    CRASH_LOOP = "CrashLoop"
    CONFIG_ERROR = "ConfigError"


class Cause(StrEnum):
    """How a sandbox ended."""

    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    OOM_KILLED = "OOMKilled"
    EVICTED = "Evicted"
    PREEMPTED = "Preempted"
    DELETED = "Deleted"
    NODE_LOST = "NodeLost"
    NOT_STARTED = "StartDeadlineExceeded"
    FENCED = "Fenced"


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
    """How often its containers were started again in place."""
    controller: str = ""
    """The uid of the WorkLease that controls it; empty where something else does, or nothing."""
    created: datetime | None = None
    ailment: Ailment | None = None
    disruption: Cause | None = None
    """What takes it away, where Kubernetes says so (condition ``DisruptionTarget``)."""
    is_remembered: bool = False
    """Known from an earlier process only, and not looked at yet: nothing is concluded from it."""
    gone: bool = False

    @property
    def is_over(self) -> bool:
        """Whether all of its containers have ended, for good."""
        return self.phase in {"Succeeded", "Failed"}

    @property
    def is_at_work(self) -> bool:
        """Whether anything of it may be running."""
        return not self.gone and not self.is_over


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt's sandbox ended: by which cause, in which words, and with which pod."""

    cause: Cause
    message: str
    """A sentence for people."""
    pod: str = ""
    """The pod's name; empty where none ever came."""


AILMENTS: Final = {
    "ErrImagePull": Ailment.IMAGE_PULL_FAILED,
    "ImagePullBackOff": Ailment.IMAGE_PULL_FAILED,
    "InvalidImageName": Ailment.IMAGE_PULL_FAILED,
    "ErrImageNeverPull": Ailment.IMAGE_PULL_FAILED,
    "ImageInspectError": Ailment.IMAGE_PULL_FAILED,
    "RegistryUnavailable": Ailment.IMAGE_PULL_FAILED,
    "SignatureValidationFailed": Ailment.IMAGE_PULL_FAILED,
    "CrashLoopBackOff": Ailment.CRASH_LOOP,
    "CreateContainerConfigError": Ailment.CONFIG_ERROR,
    "CreateContainerError": Ailment.CONFIG_ERROR,
    "PreCreateHookError": Ailment.CONFIG_ERROR,
    "PreStartHookError": Ailment.CONFIG_ERROR,
    "PostStartHookError": Ailment.CONFIG_ERROR,
    "RunContainerError": Ailment.CONFIG_ERROR,
}
"""Why a container waits, in the kubelet's words (pkg/kubelet/images, pkg/kubelet/container)."""

DISRUPTIONS: Final = {
    "PreemptionByScheduler": Cause.PREEMPTED,
    "DeletionByTaintManager": Cause.NODE_LOST,
    "DeletionByPodGC": Cause.NODE_LOST,
    "EvictionByEvictionAPI": Cause.EVICTED,
    "TerminationByKubelet": Cause.EVICTED,
}
"""The reasons of a pod's condition DisruptionTarget (Kubernetes, Disruptions)."""

_BY_POD: Final = {
    "Evicted": Cause.EVICTED,
    "NodeLost": Cause.NODE_LOST,
    "NodeShutdown": Cause.EVICTED,
    "Terminated": Cause.EVICTED,  # the kubelet's word at a node's graceful shutdown
    "Shutdown": Cause.EVICTED,
    "Preempting": Cause.PREEMPTED,
    "Preempted": Cause.PREEMPTED,
    "OOMKilled": Cause.OOM_KILLED,
}
"""What a failed pod, or the container that failed it, gives as the reason."""

_WORDS: Final = {
    Cause.SUCCEEDED: "has finished",
    Cause.FAILED: "failed",
    Cause.OOM_KILLED: "ran out of memory and was killed",
    Cause.EVICTED: "was evicted",
    Cause.PREEMPTED: "was preempted by a pod of higher priority",
    Cause.DELETED: "was deleted by somebody else",
    Cause.NODE_LOST: "was lost with its node",
    Cause.NOT_STARTED: "did not start in time",
    Cause.FENCED: "was ended because no heartbeat was accepted in time",
}


def cause_of(pod: Pod) -> Cause | None:
    """Return how a pod ended; None while it goes on, or while it was not looked at.

    A terminating pod counts as ended: it will do no more work, whatever its grace.
    """
    if pod.is_remembered:
        return None
    if pod.phase == "Failed":
        return pod.disruption or _BY_POD.get(pod.reason, Cause.FAILED)
    if pod.phase == "Succeeded":
        return Cause.SUCCEEDED
    if pod.gone or pod.terminating:
        return pod.disruption or _BY_POD.get(pod.reason, Cause.DELETED)
    return None


def ending_of(pod: Pod, cause: Cause) -> Ending:
    """Return the ending of a pod by ``cause``, with a sentence for people."""
    code = f" with exit code {pod.exit_code}" if pod.exit_code is not None and cause is not Cause.SUCCEEDED else ""
    reason = "" if pod.reason in {"", cause.value, "Completed", "Error", "Deleted"} else pod.reason
    why = ": ".join(part for part in (reason, pod.message) if part)
    return Ending(cause, f"Pod {pod.name} {_WORDS[cause]}{code}" + (f": {why}" if why else ""), pod.name)


def ending_without_pod(seconds: float, problem: str) -> Ending:
    """Return the ending of an attempt whose pod did not come within ``seconds``; ``problem`` is what prevented it."""
    sentence = f"No sandbox pod appeared within {seconds:.0f} s"
    return Ending(Cause.NOT_STARTED, f"{sentence}: {problem}" if problem else sentence)


def latest(pods: Iterable[Pod]) -> Pod | None:
    """Return the pod that was bound last; None if there is none."""
    return next(reversed(tuple(pods)), None)
