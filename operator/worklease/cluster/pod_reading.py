"""How a pod is read: which of its containers are the sandbox, how they are, and what the pod says of itself.

Owns the reading of pods, as the API server returns them. Must not call anybody, and must not decide what became of a
sandbox: ``rules.pods`` does.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from worklease.api.models import LONGEST_SANDBOX_MESSAGE
from worklease.api.names import DEFAULT_CONTAINER, DRAINING, PROXY_CONTAINER, SANDBOX_CONTAINERS
from worklease.rules.pods import AILMENTS, BY_KUBELET, DISRUPTIONS, SHORTEST_GRACE, Ailment, Cause, Pod, Result
from worklease.rules.words import one_line

DEFAULT_GRACE: Final = 30.0
"""Seconds that Kubernetes gives a pod that does not name its own."""

GAVE_UP: Final = "worker gave up: "
"""So begins the proxy's termination message if its worker ended without having finished."""

Part = Mapping[str, Any]
"""A part of a pod, as JSON has it."""


@dataclass(frozen=True, slots=True)
class _Containers:
    """The statuses of a pod's containers, as far as there are any."""

    sandbox: Sequence[Part]
    """Of those that are the sandbox; of all but the initial ones, where nothing says which are."""
    initial: Sequence[Part]
    """Of the initial ones that end before the others begin."""
    others: Sequence[Part]
    """Of those that were injected, and of native sidecars."""
    are_all_told: bool
    """Whether the pod says which containers are the sandbox, and there is a status of each."""
    proxy: Part
    """Of the proxy beside the worker; empty where there is none."""


def read_pod(body: Part) -> Pod:
    """Read a pod as the API server returned it; what is missing has its default."""
    metadata, spec, status = (body.get(part) or {} for part in ("metadata", "spec", "status"))
    conditions = {entry.get("type"): entry for entry in status.get("conditions") or ()}
    containers = _containers(metadata, spec, status)
    result = _result(containers, metadata, spec, status, conditions)
    has_ended = result is not None or status.get("phase") in {"Succeeded", "Failed"}
    has_started = containers.are_all_told and all(map(_has_run, containers.sandbox))
    watched = _watched(containers, status, has_started=has_started)
    shown = _end(containers) if has_ended else _obstacle(watched)
    shown = shown or _unscheduled(conditions)
    disrupted = _disrupted(conditions)
    gave_up = _gave_up(containers) if has_ended else ""
    message = one_line(status.get("message") or "") or gave_up or _tail(one_line(shown.get("message") or ""))
    return Pod(
        uid=metadata["uid"],
        name=metadata["name"],
        phase=status.get("phase") or "Unknown",
        reason=one_line(status.get("reason") or (gave_up and Cause.GAVE_UP.value) or shown.get("reason") or ""),
        message=message or one_line(disrupted.get("message") or ""),
        ready=_is_ready(containers, conditions),
        terminating=metadata.get("deletionTimestamp") is not None,
        grace=(grace := float(spec.get("terminationGracePeriodSeconds", DEFAULT_GRACE))),
        overtime=_overtime(spec, grace),
        result=result,
        has_started=has_started,
        has_run=any(map(_has_run, (*containers.initial, *containers.sandbox, *containers.others))),
        exit_code=shown.get("exitCode") if has_ended else None,
        finish_time=_finish_time(containers) if has_ended else None,
        restarts=sum(entry.get("restartCount") or 0 for entry in containers.sandbox),
        controller=_controller(metadata.get("ownerReferences") or ()),
        node=spec.get("nodeName") or "",
        created=_time(metadata.get("creationTimestamp")),
        has_proxy=any(each.get("name") == PROXY_CONTAINER for kind in _KINDS for each in spec.get(kind) or ()),
        drains_until=_drains_until(metadata),
        gave_up=gave_up,
        gates=tuple(str(gate.get("name")) for gate in spec.get("schedulingGates") or ()),
        ailment=None if has_ended else _ailment(watched, metadata, spec, conditions),
        disruption=DISRUPTIONS.get(disrupted.get("reason") or "", Cause.EVICTED) if disrupted else None,
        disrupted_at=_disrupted_at(disrupted),
        deleted_at=_deletion(metadata),
    )


# --- Which containers are the sandbox ----------------------------------------------------------------------------


def container_names(text: str) -> tuple[str, ...]:
    """Return the names that the annotation ``worklease.dev/sandbox-containers`` lists."""
    return tuple(name for part in text.split(",") if (name := part.strip()))


def _containers(metadata: Part, spec: Part, status: Part) -> _Containers:
    initial, regular = (list(status.get(kind) or ()) for kind in ("initContainerStatuses", "containerStatuses"))
    told = _told(metadata, spec)
    found = {entry.get("name"): entry for entry in (*initial, *regular)}
    sandbox = [found[name] for name in told if name in found] if told else regular
    sidecars = {each.get("name") for each in spec.get("initContainers") or () if each.get("restartPolicy") == "Always"}
    before = [entry for entry in initial if entry.get("name") not in sidecars and entry not in sandbox]
    others = [entry for entry in (*initial, *regular) if entry not in sandbox and entry not in before]
    are_all_told = bool(told) and len(sandbox) == len(told)
    return _Containers(sandbox, before, others, are_all_told, found.get(PROXY_CONTAINER) or {})


def _told(metadata: Part, spec: Part) -> tuple[str, ...]:
    """Return the names of the containers that are the sandbox, as the pod says; empty if it does not.

    Nothing is guessed: the first container may be an injected one.
    """
    annotations = metadata.get("annotations") or {}
    kinds = ("initContainers", "containers")
    there = {each.get("name") for kind in kinds for each in spec.get(kind) or ()}
    for annotation in (SANDBOX_CONTAINERS, DEFAULT_CONTAINER):
        names = container_names(annotations.get(annotation) or "")
        if found := tuple(dict.fromkeys(name for name in names if name in there)):
            return found
    return ()


# --- How they ended ----------------------------------------------------------------------------------------------


def _result(
    containers: _Containers, metadata: Part, spec: Part, status: Part, conditions: Mapping[str, Part]
) -> Result | None:
    """Return how the sandbox's containers ended; None if not all have, or where that says nothing."""
    if not containers.are_all_told:
        return None
    if status.get("phase") == "Failed" and status.get("reason") and not _disrupted(conditions):
        return None  # something failed the pod as a whole, such as its own deadline
    ends = [_state(entry, "terminated") for entry in containers.sandbox]
    if not all(ends):
        return None
    is_final = status.get("phase") in {"Succeeded", "Failed"} or metadata.get("deletionTimestamp") is not None
    if not is_final and _is_phase_about_to_come(spec, status):
        return None
    if not is_final:
        policies = {each.get("name"): each for kind in _KINDS for each in spec.get(kind) or ()}
        for entry, end in zip(containers.sandbox, ends, strict=True):
            if _starts_again(policies.get(entry.get("name")) or {}, spec, end.get("exitCode")):
                return None
    if any(end.get("exitCode") != 0 for end in ends):
        return Result.FAILED
    return None if _is_proxy_about_to_end(containers, status) else Result.SUCCEEDED


def _is_phase_about_to_come(spec: Part, status: Part) -> bool:
    """Whether no container of a pod runs, or will: then the kubelet is about to write the phase, and the reason.

    It may write the ends of the containers first. Whether it evicted or refused the pod is not known before the phase
    (Kubernetes 1.37, pkg/kubelet/status/status_manager.go, ``mergePodStatus``).
    """
    told = (entry for kind in ("initContainerStatuses", "containerStatuses") for entry in status.get(kind) or ())
    ended = {entry.get("name") for entry in told if _state(entry, "terminated")}
    return status.get("phase") == "Running" and all(
        each.get("name") in ended for kind in _KINDS for each in spec.get(kind) or ()
    )


def _is_proxy_about_to_end(containers: _Containers, status: Part) -> bool:
    """Whether a proxy is still to say whether its worker gave up: it does so at its end, right after its worker's.

    The kubelet ends it only when all other containers have ended. One that was injected and runs on would keep the item
    waiting for ever, so there the exit code alone decides.
    """
    regular = [entry for entry in status.get("containerStatuses") or () if entry.get("name") != PROXY_CONTAINER]
    is_any_running = any(_state(entry, "running") for entry in regular)
    return bool(_state(containers.proxy, "running")) and status.get("phase") == "Running" and not is_any_running


def _gave_up(containers: _Containers) -> str:
    """Return why the worker gave up, as the proxy beside it says; empty if it did not."""
    said = one_line(_state(containers.proxy, "terminated").get("message") or "")
    return said if said.startswith(GAVE_UP) else ""


_KINDS: Final = ("initContainers", "containers")


def _starts_again(container: Part, spec: Part, code: int | None) -> bool:
    """Whether the kubelet starts a container again that ended with ``code`` (Kubernetes, Pod Lifecycle)."""
    for rule in container.get("restartPolicyRules") or ():
        asked = rule.get("exitCodes") or {}
        is_listed = code in (asked.get("values") or ())
        if is_listed if asked.get("operator") == "In" else asked.get("operator") == "NotIn" and not is_listed:
            return True
    policy = container.get("restartPolicy") or spec.get("restartPolicy") or "Always"
    return policy == "Always" or (policy == "OnFailure" and code != 0)


def _end(containers: _Containers) -> Part:
    """Return the end that says most: of the sandbox's containers the first that failed, else what kept them away.

    A container that still waits says nothing: it waited for one that failed. Nor does one that was injected.
    """
    ended = [end for entry in containers.sandbox if (end := _state(entry, "terminated"))]
    failed = sorted((end for end in ended if end.get("exitCode") != 0), key=lambda end: end.get("finishedAt") or "~")
    before = [end for entry in containers.initial if (end := _state(entry, "terminated")) and end.get("exitCode") != 0]
    waiting = [wait for entry in containers.sandbox if (wait := _state(entry, "waiting"))]
    return next(iter([*failed, *ended, *before, *waiting]), {})


def _finish_time(containers: _Containers) -> datetime | None:
    """Return when the last of the sandbox's containers ended; None if that of one is not known."""
    ended = [end for entry in containers.sandbox if (end := _state(entry, "terminated"))]
    ended = ended or [end for entry in containers.initial if (end := _state(entry, "terminated"))]
    times = [_time(end.get("finishedAt")) for end in ended]
    known = [time for time in times if time is not None]
    return max(known) if known and len(known) == len(times) else None


def _overtime(spec: Part, grace: float) -> float:
    """Return how long beyond the pod's grace one of its containers may run, in seconds.

    A ``preStop`` hook, or the wait of a native sidecar for what it serves, may use up the grace. Then the container
    still gets the kubelet's shortest grace.
    """
    each = [container for kind in _KINDS for container in spec.get(kind) or ()]
    is_late = any((one.get("lifecycle") or {}).get("preStop") or _is_sidecar(one) for one in each)
    return SHORTEST_GRACE if is_late else max(0.0, SHORTEST_GRACE - grace)


def _is_sidecar(container: Part) -> bool:
    """Whether a container of ``initContainers`` is a native sidecar. Others have no policy of their own like this."""
    return container.get("restartPolicy") == "Always"


# --- What keeps them from running --------------------------------------------------------------------------------


def _watched(containers: _Containers, status: Part, *, has_started: bool) -> Sequence[Part]:
    """Return the statuses that can say why the sandbox does not run: an injected container can keep it waiting."""
    if has_started or (not containers.are_all_told and status.get("phase") != "Pending"):
        return containers.sandbox
    return (*containers.initial, *containers.sandbox, *containers.others)


def _obstacle(watched: Sequence[Part]) -> Part:
    """Return what a container waits for, else how one failed; an initial container that is done says nothing."""
    waiting = [wait for entry in watched if (wait := _state(entry, "waiting"))]
    failed = [end for entry in watched if (end := _state(entry, "terminated")) and end.get("exitCode") != 0]
    known = [wait for wait in waiting if wait.get("reason") in AILMENTS]
    return next(iter(known + waiting + failed), {})


def _ailment(watched: Sequence[Part], metadata: Part, spec: Part, conditions: Mapping[str, Part]) -> Ailment | None:
    """Return what keeps a pod from running; None if nothing does."""
    waiting = (_state(entry, "waiting").get("reason") or "" for entry in watched)
    found = next((AILMENTS[reason] for reason in waiting if reason in AILMENTS), None)
    if found is None and metadata.get("deletionTimestamp") is None and any(_is_held_back(one, spec) for one in watched):
        return Ailment.CRASH_LOOP
    return Ailment.UNSCHEDULABLE if found is None and _unscheduled(conditions) else found


def _is_held_back(entry: Part, spec: Part) -> bool:
    """Whether a container failed again after the kubelet had started it again: the next start waits, ever longer.

    A kubelet 1.37 shows ``CrashLoopBackOff`` only in the second in which that wait ends, and before it how the
    container ended: it does not look at the pod in between (pkg/kubelet/pod_workers.go, ``completeWork``). The first
    restart comes at once.
    """
    end = _state(entry, "terminated")
    if not end or end.get("exitCode") == 0 or not entry.get("restartCount"):
        return False
    policies = {each.get("name"): each for kind in _KINDS for each in spec.get(kind) or ()}
    return _starts_again(policies.get(entry.get("name")) or {}, spec, end.get("exitCode"))


def _unscheduled(conditions: Mapping[str, Part]) -> Part:
    """Return the scheduler's condition of a pod that fits on no node; else an empty one."""
    scheduled = conditions.get("PodScheduled") or {}
    return scheduled if scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable" else {}


def _is_ready(containers: _Containers, conditions: Mapping[str, Part]) -> bool:
    """Whether the pod is ready, or is not only because an injected container is not."""
    if (conditions.get("Ready") or {}).get("status") == "True":
        return True
    is_other = (conditions.get("ContainersReady") or {}).get("status") == "False"
    return is_other and containers.are_all_told and all(entry.get("ready") for entry in containers.sandbox)


# --- What the pod says of itself ---------------------------------------------------------------------------------


def _disrupted(conditions: Mapping[str, Part]) -> Part:
    """Return the condition that says that something needs the pod's place or node; else an empty one."""
    disrupted = conditions.get("DisruptionTarget") or {}
    return disrupted if disrupted.get("status") == "True" else {}


def _disrupted_at(disrupted: Part) -> datetime | None:
    """Return since when something takes the pod away; None where that time says nothing.

    A kubelet writes the condition, with its time, once the containers have ended (Kubernetes 1.37,
    pkg/kubelet/status/status_manager.go, ``mergePodStatus``): they seem to have ended before, and by themselves.
    """
    return None if disrupted.get("reason") == BY_KUBELET else _time(disrupted.get("lastTransitionTime"))


def _deletion(metadata: Part) -> datetime | None:
    """Return when the pod's deletion was asked for: its mark is the time at which its grace ends."""
    ends = _time(metadata.get("deletionTimestamp"))
    return None if ends is None else ends - timedelta(seconds=metadata.get("deletionGracePeriodSeconds") or 0)


def _drains_until(metadata: Part) -> datetime | None:
    """Return when the pod's drain must be over, as its annotation says; None if it says nothing that can be read."""
    try:
        until = _time((metadata.get("annotations") or {}).get(DRAINING))
    except ValueError:
        return None
    return until if until is not None and until.tzinfo is not None else None


def _tail(message: str) -> str:
    """Return the end of a long message: what went wrong is at the end of a termination message."""
    return message if len(message) <= LONGEST_SANDBOX_MESSAGE else f"…{message[1 - LONGEST_SANDBOX_MESSAGE :]}"


def _state(entry: Part, kind: str) -> Part:
    """Return a container's state if it is of that kind; else an empty one."""
    return (entry.get("state") or {}).get(kind) or {}


def _has_run(entry: Part) -> bool:
    """Whether a container runs, or ever did."""
    last = entry.get("lastState") or {}
    return any(_state(entry, kind) or last.get(kind) for kind in ("running", "terminated"))


def _controller(owners: Iterable[Part]) -> str:
    for owner in owners:
        if owner.get("controller") and owner.get("kind") == "WorkLease":
            return str(owner.get("uid"))
    return ""


def _time(value: str | None) -> datetime | None:
    return datetime.fromisoformat(value) if value else None
