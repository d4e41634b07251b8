"""The state of a sandbox pod, read from the pod alone: it starts, cannot run, runs, or has ended, and why.

Owns the closed list of what can go wrong with a pod, and its words. Pure: no clock, no socket. Must not know the lease,
nor decide what follows.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, StrEnum, auto
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
    GAVE_UP = "WorkerGaveUp"
    """Its worker ended without having finished, and the proxy beside it says so: the exit code does not."""
    EVICTED = "Evicted"
    PREEMPTED = "Preempted"
    DELETED = "Deleted"
    NODE_LOST = "NodeLost"
    REJECTED = "PodRejected"
    """Its node refused it before any container ran: it never was a sandbox."""
    QUOTA_EXCEEDED = "QuotaExceeded"
    """It was never made: the namespace has no room for it."""
    ADMISSION_UNAVAILABLE = "AdmissionUnavailable"
    """It was never made: something that has to admit it does not answer."""
    VOLUME_BUSY = "VolumeBusy"
    """It was never made: the volume of its session was being deleted all the time."""
    NOT_STARTED = "StartDeadlineExceeded"
    FENCED = "Fenced"
    SESSION_IDLE = "SessionIdle"
    """It has not ended yet: its session was idle for as long as the resource allows."""
    SESSION_ENDED = "SessionEnded"
    """The same: its session is over."""


class Obstacle(Enum):
    """Why the API server does not make a pod."""

    SPEC = auto()
    """The pod itself: a retry alone does not fix it."""
    QUOTA = auto()
    """The namespace has no room for it now."""
    ADMISSION = auto()
    """Something that has to admit it, such as a webhook, does not answer."""
    VOLUME = auto()
    """The volume of its session is being deleted; another one can be made after that."""


SHORTEST_GRACE: Final = 2.0
"""Seconds that a kubelet gives a container at least to end (``minimumGracePeriodInSeconds`` of its kuberuntime).

A ``preStop`` hook, or the wait of a native sidecar for the containers that it serves, may have used up the grace."""


class Result(Enum):
    """How the sandbox's containers ended, all of them."""

    SUCCEEDED = auto()
    FAILED = auto()


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
    overtime: float = 0.0
    """How long beyond its grace, in seconds, the kubelet lets a container run."""
    result: Result | None = None
    """How the containers that are the sandbox ended; None: not all have, or nothing says which they are.

    Other containers were injected into the pod. They may go on when the sandbox has ended.
    """
    has_started: bool = False
    """Whether all containers that are the sandbox have started, though the pod may still wait for others."""
    has_run: bool = False
    """Whether its status shows a container that ran."""
    had_run: bool = False
    """Whether an earlier status of it did."""
    exit_code: int | None = None
    finish_time: datetime | None = None
    """When the last container of the sandbox ended."""
    restarts: int = 0
    """How often its containers were started again in place."""
    controller: str = ""
    """The uid of the WorkLease that controls it; empty where something else does, or nothing."""
    node: str = ""
    """The node that it was bound to."""
    created: datetime | None = None
    has_proxy: bool = False
    """Whether a proxy is beside its worker, which hears of a drain by an annotation."""
    drains_until: datetime | None = None
    """When its drain must be over, as that annotation says."""
    gave_up: str = ""
    """Why the worker gave up, as the proxy beside it says; empty if it did not."""
    gates: tuple[str, ...] = ()
    """What keeps it from being scheduled, for as long as it is there: the scheduler does not look at it."""
    ailment: Ailment | None = None
    disruption: Cause | None = None
    """What takes it away, where Kubernetes says so (condition ``DisruptionTarget``)."""
    disrupted_at: datetime | None = None
    """Since when Kubernetes says so."""
    deleted_at: datetime | None = None
    """When its deletion was asked for."""
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


class Follows(StrEnum):
    """What decides about the item of a sandbox that ended, unless it has finished."""

    ON_FAILURE = "onFailure"
    ON_DISRUPTION = "onDisruption"
    STOP = "Stop"
    RELEASE = "Release"


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt's sandbox ended: by which cause, in which words, and with which pod."""

    cause: Cause
    message: str
    """A sentence for people."""
    pod: str = ""
    """The pod's name; empty where none ever came."""
    follows: Follows = Follows.ON_FAILURE


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

BY_KUBELET: Final = "TerminationByKubelet"
"""Of those of DISRUPTIONS the one that a kubelet gives: at an eviction by itself, and at its node's shutdown."""

DISRUPTIONS: Final = {
    "PreemptionByScheduler": Cause.PREEMPTED,
    "DeletionByTaintManager": Cause.NODE_LOST,
    "DeletionByPodGC": Cause.NODE_LOST,
    "EvictionByEvictionAPI": Cause.EVICTED,
    BY_KUBELET: Cause.EVICTED,
}
"""The reasons of a pod's condition DisruptionTarget (Kubernetes, Disruptions)."""

_DISRUPTED: Final = {
    "NodeLost": Cause.NODE_LOST,
    "NodeShutdown": Cause.EVICTED,
    "Terminated": Cause.EVICTED,  # the kubelet's word at a node's graceful shutdown
    "Shutdown": Cause.EVICTED,
    "Preempting": Cause.PREEMPTED,
    "Preempted": Cause.PREEMPTED,
}
"""What a pod gives as its own reason when something else needed its place or its node."""

_FAILED: Final = {
    # Without DisruptionTarget: the pod exceeded a limit of its own (pkg/kubelet/eviction, localStorageEviction).
    "Evicted": Cause.EVICTED,
    "OOMKilled": Cause.OOM_KILLED,
}
"""What a failed pod, or the container that failed it, gives as the reason."""

REJECTIONS: Final = frozenset(
    {
        "AppArmor",
        "EmptyPodSharedPoolError",
        "Evicted",
        "InitContainerRestartPolicyForbidden",
        "InvalidNodeInfo",
        "NodeAffinity",
        "NodeName",
        "NodePorts",
        "NodeShutdown",
        "PodFeatureUnsupported",
        "PodLevelResourcesNotSupported",
        "PodOSNotSupported",
        "PodOSSelectorNodeLabelDoesNotMatch",
        "SMTAlignmentError",
        "SupplementalGroupsPolicyNotSupported",
        "SysctlForbidden",
        "TaintToleration",
        "TopologyAffinityError",
        "UnexpectedAdmissionError",
        "UnexpectedPredicateFailureType",
        "UnknownReason",
        "VolumeAttachmentLimitExceeded",
    }
)
"""Why a kubelet refuses a pod that was bound to its node (pkg/kubelet: kubelet.go, ``rejectPod`` and what it calls)."""

REFUSED: Final = "Pod was rejected: "
"""So begins the message of a pod that a kubelet refused, also where its containers had run (the same place)."""

OUT_OF_SERVICE: Final = "node.kubernetes.io/out-of-service"
"""The taint by which people say that a node is off, and runs nothing (Kubernetes, Non-graceful node shutdown)."""

OUT_OF: Final = "OutOf"
"""So such a reason begins where a resource is used up, such as ``OutOfcpu`` (pkg/kubelet/lifecycle/predicate.go)."""

_WORDS: Final = {
    Cause.SUCCEEDED: "has finished",
    Cause.FAILED: "failed",
    Cause.OOM_KILLED: "ran out of memory and was killed",
    Cause.GAVE_UP: "ended before its work was done",
    Cause.EVICTED: "was evicted",
    Cause.PREEMPTED: "was preempted by a pod of higher priority",
    Cause.DELETED: "was deleted by somebody else",
    Cause.NODE_LOST: "was lost with its node",
    Cause.REJECTED: "was rejected by its node",
    Cause.QUOTA_EXCEEDED: "was not made because the quota is used up",
    Cause.ADMISSION_UNAVAILABLE: "was not made because its admission was not available",
    Cause.VOLUME_BUSY: "was not made because the volume of its session was being deleted",
    Cause.NOT_STARTED: "did not start in time",
    Cause.FENCED: "was ended because no heartbeat was accepted in time",
    Cause.SESSION_IDLE: "is stopped because its session was idle",
    Cause.SESSION_ENDED: "is stopped because its session is over",
}


def cause_of(pod: Pod) -> Cause | None:
    """Return how a pod ended; None while it goes on, or while it was not looked at.

    A terminating pod counts as ended: it will do no more work, whatever its grace.
    """
    if pod.is_remembered:
        return None
    if _is_refused(pod):
        return (pod.disruption or Cause.EVICTED) if pod.had_run else Cause.REJECTED
    result = _result(pod)
    if result is not None and _ended_by_itself(pod):
        if pod.gave_up:
            return Cause.GAVE_UP
        return Cause.SUCCEEDED if result is Result.SUCCEEDED else _FAILED.get(pod.reason, Cause.FAILED)
    if result is None and not pod.gone and not pod.terminating:
        return None
    return pod.disruption or _DISRUPTED.get(pod.reason) or _FAILED.get(pod.reason, Cause.DELETED)


def is_disruption(pod: Pod, cause: Cause) -> bool:
    """Whether something else needed the place or the node of a pod that ended by ``cause``: it did not fail."""
    if cause in {Cause.PREEMPTED, Cause.NODE_LOST}:
        return True
    is_marked = pod.disruption is not None or pod.reason in _DISRUPTED
    return cause is Cause.EVICTED and (is_marked or (_is_refused(pod) and pod.had_run))


def _result(pod: Pod) -> Result | None:
    """Return how a pod ended: by the containers that are the sandbox, else by its phase."""
    by_phase = {"Succeeded": Result.SUCCEEDED, "Failed": Result.FAILED}
    return by_phase.get(pod.phase) if pod.result is None else pod.result


def _ended_by_itself(pod: Pod) -> bool:
    """Whether a pod that has ended did so before anything asked for it. Programs end with 0 when they are told to.

    Where a time is missing, it did not. An end and a request in the same second are in no order: it did not either.
    """
    if pod.disruption is not None:
        return _is_before(pod.finish_time, pod.disrupted_at)
    if pod.reason in _DISRUPTED:
        return False
    return pod.deleted_at is None or _is_before(pod.finish_time, pod.deleted_at)


def _is_before(one: datetime | None, other: datetime | None) -> bool:
    return one is not None and other is not None and one < other


def _is_refused(pod: Pod) -> bool:
    """Whether a kubelet refused a pod, as it does before any container runs, and again when it is started again."""
    is_named = pod.reason in REJECTIONS or pod.reason.startswith(OUT_OF)
    return pod.phase == "Failed" and is_named and (not pod.has_run or pod.message.startswith(REFUSED))


def ending_of(pod: Pod, cause: Cause) -> Ending:
    """Return the ending of a pod by ``cause``, with a sentence for people."""
    code = f" with exit code {pod.exit_code}" if pod.exit_code is not None and cause is not Cause.SUCCEEDED else ""
    reason = "" if pod.reason in {"", cause.value, "Completed", "Error", "Deleted"} else pod.reason
    why = ": ".join(part for part in (reason, pod.message) if part)
    follows = Follows.ON_DISRUPTION if is_disruption(pod, cause) else Follows.ON_FAILURE
    return Ending(cause, f"Pod {pod.name} {_WORDS[cause]}{code}" + (f": {why}" if why else ""), pod.name, follows)


_INFRASTRUCTURE: Final = {
    Obstacle.QUOTA: Cause.QUOTA_EXCEEDED,
    Obstacle.ADMISSION: Cause.ADMISSION_UNAVAILABLE,
    Obstacle.VOLUME: Cause.VOLUME_BUSY,
}
"""What prevents a pod and is not the sandbox's failure: there never was one, so nothing is stopped for it."""


def ending_without_pod(seconds: float, problem: str, obstacle: Obstacle = Obstacle.SPEC) -> Ending:
    """Return the ending of an attempt whose pod did not come within ``seconds``; ``problem`` is what prevented it."""
    sentence = f"No sandbox pod appeared within {seconds:.0f} s"
    cause = _INFRASTRUCTURE.get(obstacle, Cause.NOT_STARTED)
    follows = Follows.RELEASE if obstacle in _INFRASTRUCTURE else Follows.ON_FAILURE
    return Ending(cause, f"{sentence}: {problem}" if problem else sentence, follows=follows)


def ending_behind(seconds: float, pod: str) -> Ending:
    """Return the ending of an attempt that waited ``seconds`` for a pod of an earlier delivery of its session."""
    sentence = f"Pod {pod} of an earlier delivery of the session may still be at work after {seconds:.0f} s"
    return Ending(Cause.NOT_STARTED, sentence, follows=Follows.RELEASE)


def ending_of_lost(seconds: float, node: str) -> Ending:
    """Return the ending of an attempt that waited ``seconds`` in vain for the end of a pod on a lost node."""
    sentence = f"Node {node} is lost, and within {seconds:.0f} s nothing showed that the pod on it has ended"
    return Ending(Cause.NODE_LOST, sentence, follows=Follows.STOP)


def latest(pods: Iterable[Pod]) -> Pod | None:
    """Return the pod that was bound last; None if there is none."""
    return next(reversed(tuple(pods)), None)
