"""``worklease explain``: what happened to one lease and what will happen next, in sentences.

Owns the sentences. Pure: the object, its events, its pod and the time are passed in. Each reason of ``LeaseHeld`` and
``SandboxReady`` in the table of reasons has a sentence about what comes next; a test checks that.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from worklease.cli.leases import Judgement, LeaseView, Sandbox, duration, judge
from worklease.rules.reasons import Reason

UNKNOWN: Final = "See the message: this client is older than the operator and does not know the reason."


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that happened, and when."""

    at: datetime
    what: str
    is_warning: bool = False


@dataclass(frozen=True, slots=True)
class Story:
    """What the page says about one lease or pool."""

    name: str
    """Its namespace and name."""
    subject: str
    """What it is, in a few words."""
    judgement: Judgement
    now: tuple[str, ...]
    """Its state now, in sentences."""
    past: tuple[Moment, ...]
    """What happened, the earliest first."""
    future: tuple[str, ...]
    """What comes next, and what a person should do."""


STALE: Final = (
    "Check that the operator runs, and what it logs: kubectl get pods -A -l app.kubernetes.io/part-of=worklease"
)
"""What to do about a resource whose status nobody updates."""

NEXT: Final[Mapping[str, str]] = {
    # The lease is held, or may be.
    Reason.RENEWED: (
        "The next heartbeat is due within {third}. If none is accepted, the operator ends the sandbox before the lease "
        "can end, at {expiry}."
    ),
    Reason.DRAINING: (
        "The sandbox has {drain} from the moment when the operator saw the stop. When it is gone, the operator "
        "confirms the stop, and this resource is Finished."
    ),
    Reason.SUSPENDED: (
        "The operator sends no heartbeat until spec.heartbeat.mode is Operator again. A held lease lapses, and the "
        "operator ends its sandbox before that."
    ),
    Reason.FENCED: (
        "Heartbeats go on until the lease ends, at {expiry}. If one is accepted, the lease goes on and the ended "
        "sandbox counts as failed (onFailure: {on_failure}); if none is, the lease is Expired."
    ),
    Reason.IN_DOUBT: (
        "The operator asks again within seconds. If the server has the value of one of the operator's heartbeats, the "
        "lease goes on and counts from there; if it has another worker's, the lease is TakenOver."
    ),
    Reason.UNREACHABLE: (
        "The operator retries, often while the lease is at risk. Nothing needs to be done here once the Work API can "
        "be reached. Until then the deadline stands: the operator ends the sandbox before {expiry}."
    ),
    Reason.NOT_EXTENDED: (
        "The operator retries often. If the server still extends nothing, the operator ends the sandbox before the "
        "lease can end, at {expiry}."
    ),
    Reason.THROTTLED: (
        "The operator waits for as long as the server asked, but makes one attempt before the fence in any case. "
        "Fewer leases or a higher limit help."
    ),
    Reason.BUDGET_SHORT: (
        "The heartbeat is sent as soon as its turn comes, the most urgent lease first. Raise "
        "WORKLEASE_REQUESTS_PER_MINUTE, or keep fewer leases."
    ),
    Reason.UNAUTHORIZED: (
        "Put a valid key into {secret}. The operator reads it again within ten seconds and needs no restart. Until "
        "then no heartbeat is accepted."
    ),
    Reason.CREDENTIALS_MISSING: (
        "Create {secret} with the key environment-key. The operator reads it again within ten seconds and needs no "
        "restart."
    ),
    Reason.REJECTED: (
        "The operator retries, but that alone does not fix a refusal: see what the server says, and check "
        "spec.ttlSeconds."
    ),
    # It is not held.
    Reason.CLAIMING: (
        "The operator claims the lease as soon as the work item was polled and acknowledged. It checks at least every "
        "ten seconds."
    ),
    Reason.ACKNOWLEDGING: (
        "The operator acknowledges the work item, and then claims its lease. If the answer was lost, the list of items "
        "tells whose acknowledgement was accepted."
    ),
    Reason.TOKEN_MISSING: (
        "The operator acknowledges the work item once its token is in the Secret of sessionsTokenSecretRef; it looks "
        "every two seconds. Until then the item stays in the queue."
    ),
    Reason.HELD_BY_ANOTHER: (
        "The operator checks at least once a minute. If the work item is queued again, this resource ends: a new "
        "delivery needs a new resource. A worker inside the sandbox must not send heartbeats itself."
    ),
    Reason.CHECKPOINT_UNAVAILABLE: (
        "The operator claims the item once it can write the claim down; it tries every ten seconds. Whoever runs the "
        "operator has to act: the message names the ConfigMap."
    ),
    Reason.NOT_FOUND: (
        "If the ids are right, the operator claims the item once it exists; it checks at least every ten seconds. If "
        "they are wrong, delete this resource and create another: the ids cannot be changed."
    ),
    Reason.DUPLICATE: "This resource does nothing while the other one keeps the lease. Delete one of the two.",
    Reason.INVALID_SPEC: "The operator does nothing until the spec is fixed.",
    Reason.QUOTA_EXCEEDED: (
        "The operator tries the template again within a minute, and claims the item when the quota has room for the "
        "pod."
    ),
    Reason.ADMISSION_UNAVAILABLE: (
        "The operator tries the template again within a minute, and claims the item when the webhook answers."
    ),
    # It is over.
    Reason.STOPPED: "Nothing: the work item is stopped. A new delivery of it needs a new resource.",
    Reason.ACK_REFUSED: (
        "Nothing: another worker has the work item, and this resource never held its lease. A new delivery needs a new "
        "resource."
    ),
    Reason.RELEASED: (
        "Nothing: the operator sends no more heartbeats, and the server queues the work item again when its lease has "
        "lapsed."
    ),
    Reason.REQUEUED: "Nothing: the work item waits in the queue for the next poll, and then needs a new resource.",
    Reason.TAKEN_OVER: (
        "Nothing: another worker has the work item. Look for a second worker, or for heartbeats from inside the "
        "sandbox."
    ),
    Reason.EXPIRED: (
        "Nothing: the lease ended because no heartbeat was accepted, and its sandbox ended before it. The server "
        "queues the work item again."
    ),
    # The client's own words for a status that is out of date or missing.
    "Stale": STALE,
    "New": "The operator claims the lease within a few seconds.",
}
"""What comes next, by the reason."""

LOST: Final = "Nothing: the server no longer has the work item. It may offer it again under another id."
"""What comes next for NotFound, where it is the end of a lease that was held."""

_DEADLINE: Final = (
    "The sandbox has {deadline} from the claim to run; then it counts as failed (onFailure: {on_failure})."
)
_FAILED: Final = "The sandbox failed, so {consequence} (onFailure: {on_failure})."
_TAKEN: Final = "Kubernetes took the sandbox away, so {taken} (onDisruption: {on_disruption})."
_EVICTED: Final = (
    "If the room was needed for others, {taken} (onDisruption: {on_disruption}). If the pod exceeded a limit of its "
    "own, {consequence} (onFailure: {on_failure})."
)
_NO_ROOM: Final = (
    "The operator goes on trying to create the pod. If it cannot within {deadline} of the claim, it releases the work "
    "item, whatever onFailure says: there never was a sandbox."
)
_CREATING: Final = "The operator creates the pod, and retries if that is refused."
_DELETING: Final = "The operator repeats the deletion every few seconds until the pod is gone: check its node."
_SESSION: Final = (
    "The work item is being stopped: the sandbox has {drain} to finish. The session's next message is a new delivery."
)
_ENDED: Final = "When the sandbox has ended, onFailure: {on_failure} decides about its item."

SANDBOX_NEXT: Final[Mapping[str, str]] = {
    # It starts, or runs.
    Reason.RUNNING: _DEADLINE,
    Reason.PENDING: _DEADLINE,
    Reason.NOT_READY: _DEADLINE,
    Reason.NO_POD: _DEADLINE,
    Reason.CREATING: _CREATING,
    Reason.PREDECESSOR_ENDING: (
        "The operator creates the pod once the earlier one of the session has ended. If it has not within {deadline} "
        "of the claim, the work item is released."
    ),
    Reason.VOLUME_BUSY: (
        "The operator makes another volume, and then the pod, once the former one is gone. It goes when no pod uses "
        "it. If it has not gone within {deadline} of the claim, the work item is released."
    ),
    Reason.CREATION_REFUSED: _DEADLINE,
    Reason.QUOTA_EXCEEDED: _NO_ROOM,
    Reason.ADMISSION_UNAVAILABLE: _NO_ROOM,
    Reason.RESTARTING: _CREATING,
    Reason.POD_REJECTED: (
        "Another pod is awaited, and created if there is a template, under the same attempt: no restart is counted. "
        + _DEADLINE
    ),
    Reason.IMAGE_PULL_FAILED: _DEADLINE,
    Reason.UNSCHEDULABLE: _DEADLINE,
    Reason.SCHEDULING_GATED: "The pod waits until whoever set its scheduling gates removes them; heartbeats go on.",
    Reason.CRASH_LOOP: _DEADLINE,
    Reason.CONFIG_ERROR: _DEADLINE,
    # It ended.
    Reason.SUCCEEDED: "The sandbox has finished, so the work item is stopped.",
    Reason.FAILED: _FAILED,
    Reason.OOM_KILLED: _FAILED,
    Reason.WORKER_GAVE_UP: _FAILED,
    Reason.SESSION_IDLE: _SESSION,
    Reason.SESSION_ENDED: _SESSION,
    Reason.EVICTED: _EVICTED,
    Reason.PREEMPTED: _TAKEN,
    Reason.DELETED: _FAILED,
    Reason.NODE_LOST: _TAKEN,
    Reason.START_DEADLINE_EXCEEDED: _FAILED,
    Reason.FENCED: _FAILED,
    Reason.ENDING: _ENDED,
    Reason.ENDED: _ENDED,
    Reason.FENCE_PENDING: _DELETING,
    Reason.DELETION_REFUSED: _DELETING,
}
"""What comes next for a sandbox that is not ready, by the reason."""


def story_of(
    seen: LeaseView,
    events: Sequence[Mapping[str, Any]],
    pod: Mapping[str, Any] | None,
    now: datetime,
    *,
    default: str,
    keeper: str = "",
) -> Story:
    """Return the story of a lease.

    Args:
        seen: The resource.
        events: Its own and its pod's events (core/v1), in any order.
        pod: The current sandbox's pod, if it exists.
        now: The time.
        default: The Secret that the operator uses if the resource names none.
        keeper: A sentence about the process that keeps the lease; empty if that is not known.
    """
    judgement = judge(seen, now)
    return Story(
        f"{seen.namespace}/{seen.name}",
        f"work item {seen.work_id} of environment {seen.environment_id}",
        judgement,
        (*_now(seen, judgement, pod, now), *([keeper] if keeper and not seen.is_finished else ())),
        tuple(sorted(_past(seen, events, pod), key=lambda moment: moment.at)),
        tuple(_future(seen, judgement, now, default)),
    )


def _now(seen: LeaseView, judgement: Judgement, pod: Mapping[str, Any] | None, now: datetime) -> Iterator[str]:
    yield judgement.message or "Nothing is known yet."
    if seen.held.message and seen.held.message != judgement.message and not seen.is_finished:
        yield seen.held.message
    left = seen.left(now)
    if left is not None and seen.ttl and not seen.is_finished:
        ends = f"ends in {duration(left)}" if left > 0 else f"ended {duration(-left)} ago"
        yield f"By the last answer the lease {ends}; its TTL is {duration(seen.ttl)}."
    if seen.state:
        ago = f", {duration((now - seen.observed).total_seconds())} ago" if seen.observed is not None else ""
        yield f"The server last reported the work item as {seen.state}{ago}."
    current = seen.sandboxes[0] if seen.sandboxes else None
    if current is not None:
        yield _of_sandbox(current, pod)
    elif "sandbox" not in seen.spec:
        yield "No pod is expected: only the lease is kept."
    if seen.deleting is not None and not seen.is_finished:
        yield f"The resource has been in deletion for {duration((now - seen.deleting).total_seconds())}."


def _of_sandbox(sandbox: Sandbox, pod: Mapping[str, Any] | None) -> str:
    if pod is None or pod["metadata"]["uid"] != sandbox.uid:
        end = f", after exit code {sandbox.exit_code}" if sandbox.exit_code is not None else ""
        return f"Its pod {sandbox.name} no longer exists{end}."
    status = pod.get("status") or {}
    node = (pod.get("spec") or {}).get("nodeName")
    words = f"Its pod {sandbox.name} is {str(status.get('phase', 'unknown')).lower()}"
    words += f" on node {node}" if node else ", and on no node yet"
    return f"{words}{''.join(_of_containers(status))}."


def _of_containers(status: Mapping[str, Any]) -> Iterator[str]:
    for each in status.get("containerStatuses") or ():
        state = each.get("state") or {}
        for kind in ("waiting", "terminated"):
            if (why := state.get(kind)) is not None and why.get("reason"):
                code = f", exit code {why['exitCode']}" if "exitCode" in why else ""
                yield f"; container {each['name']} is {kind}: {why['reason']}{code}"
        if each.get("restartCount"):
            yield f"; container {each['name']} was restarted {each['restartCount']} times"


def _past(seen: LeaseView, events: Sequence[Mapping[str, Any]], pod: Mapping[str, Any] | None) -> Iterator[Moment]:
    # Most times are whole seconds; within one second causes come before effects.
    yield Moment(seen.created, "The resource was created.")
    if seen.claimed is not None:
        yield Moment(seen.claimed, "The lease was first held.")
    if pod is not None:
        yield Moment(
            datetime.fromisoformat(pod["metadata"]["creationTimestamp"]), f"Pod {pod['metadata']['name']} was created."
        )
    for sandbox in seen.sandboxes:
        if sandbox.finish_time is not None:
            code = f" with exit code {sandbox.exit_code}" if sandbox.exit_code is not None else ""
            yield Moment(sandbox.finish_time, f"Pod {sandbox.name} ended{code}: {sandbox.reason or sandbox.phase}.")
    for kind, shown in seen.conditions.items():
        if shown.since is not None and kind in {"LeaseHeld", "SandboxReady", "Finished"}:
            words = {"True": "became true", "False": "became false"}.get(shown.status, "became unknown")
            if not (kind == "Finished" and shown.status == "False"):
                yield Moment(shown.since, f"{kind} {words}; it is {shown.reason} now.")
    if seen.deleting is not None:
        yield Moment(seen.deleting, "Its deletion was requested.")
    for event in events:
        yield from of_event(event)


def of_event(event: Mapping[str, Any]) -> Iterator[Moment]:
    """Return what an event (core/v1) says happened."""
    series = event.get("series") or {}
    at = series.get("lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime")
    at = at or event["metadata"]["creationTimestamp"]
    regarding = event.get("involvedObject") or {}
    whose = f"Pod {regarding.get('name')}: " if regarding.get("kind") == "Pod" else ""
    count = series.get("count") or event.get("count") or 1
    often = f" ({count} times)" if count > 1 else ""
    what = f"{whose}{event.get('reason', '')}: {event.get('message', '')}{often}"
    yield Moment(datetime.fromisoformat(at), what, event.get("type") == "Warning")


def _future(seen: LeaseView, judgement: Judgement, now: datetime, default: str) -> Iterator[str]:
    words = _words(seen, now, default)
    if seen.is_finished or seen.finished.reason == Reason.TEARING_DOWN:
        if not seen.is_finished:
            yield "The lease is over. This resource is Finished when its pods are gone."
        reason = seen.finished.reason if seen.is_finished else seen.held.reason
        yield _sentence(LOST if reason == Reason.NOT_FOUND else NEXT.get(reason, UNKNOWN), words)
        yield from _after_the_end(seen)
        return
    if judgement.reason not in {seen.held.reason, "Stale", "New"}:
        yield _sentence(SANDBOX_NEXT.get(judgement.reason, _DEADLINE), words)
    reason = judgement.reason if judgement.reason in {"Stale", "New"} else seen.held.reason
    yield _sentence(NEXT.get(reason, UNKNOWN), words)
    yield from _policies(seen)


_ON_FAILURE: Final = {
    "Stop": "the work item is stopped",
    "Release": "the operator sends no more heartbeats, and the work item is queued again",
    "Restart": "the operator creates another pod",
}


def _consequence(seen: LeaseView) -> str:
    """Return what a failed sandbox leads to, by the spec."""
    spec = seen.spec.get("sandbox") or {}
    return _bounded(spec.get("onFailure", "Stop"), seen.restarts, spec.get("maxRestarts", 3))


def _on_disruption(spec: Mapping[str, Any]) -> str:
    """Return the policy for a sandbox that Kubernetes takes away: unset, it depends on the others."""
    policy = "Restart" if spec.get("template") else spec.get("onFailure", "Stop")
    return str(spec.get("onDisruption") or policy)


def _bounded(policy: str, count: int, most: int) -> str:
    often = f", {count} of {most} times so far" if policy == "Restart" else ""
    return f"{_ON_FAILURE.get(policy, 'its policy applies')}{often}"


def _policies(seen: LeaseView) -> Iterator[str]:
    if seen.deleting is not None:
        if seen.spec.get("deletionPolicy", "Stop") == "Stop":
            yield "Because the resource is being deleted, the operator stops the work item while it holds the lease."
        else:
            yield "Because the resource is being deleted, the operator ends the sandbox and lets the lease lapse."


def _after_the_end(seen: LeaseView) -> Iterator[str]:
    seconds = seen.spec.get("ttlSecondsAfterFinished")
    if seconds is None:
        yield f"The resource stays until somebody deletes it: kubectl delete worklease -n {seen.namespace} {seen.name}"
    else:
        yield f"The resource is deleted {duration(seconds)} after it finished (ttlSecondsAfterFinished)."


def _words(seen: LeaseView, now: datetime, default: str) -> dict[str, str]:
    spec = seen.spec.get("sandbox") or {}
    secret = (seen.spec.get("credentialsSecretRef") or {}).get("name") or default
    expiry = "an unknown time"
    if seen.expiry is not None:
        left = (seen.expiry - now).total_seconds()
        when = f"in {duration(left)}" if left > 0 else f"{duration(-left)} ago"
        expiry = f"{seen.expiry:%H:%M:%SZ} ({when})"
    return {
        "expiry": expiry,
        "third": duration(max(1.0, (seen.ttl or 90) / 3)),
        "drain": duration(spec.get("drainSeconds", 30)),
        "deadline": duration(spec.get("startDeadlineSeconds", 600)),
        "on_failure": str(spec.get("onFailure", "Stop")),
        "consequence": _consequence(seen),
        "on_disruption": _on_disruption(spec),
        "taken": _bounded(_on_disruption(spec), seen.disruptions, spec.get("maxDisruptions", 10)),
        "secret": f"Secret {seen.namespace}/{secret}",
    }


def _sentence(template: str, words: Mapping[str, str]) -> str:
    return template.format(**words)
