"""What kubectl sees at one moment: the WorkLeases and the pods of a namespace.

Owns the parsing of kubectl's JSON; no other module sees its dicts. Must not call kubectl, nor know the time.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

Body = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A WorkLease, from its columns and conditions; what the status does not say yet is empty."""

    name: str
    work_id: str
    created: datetime
    state: str = ""
    held: str = ""
    reason: str = ""
    extended: str = ""
    last_heartbeat: str = ""
    ttl_seconds: int | None = None
    sandbox: str = ""
    sandbox_reason: str = ""
    sandbox_exit_code: int | None = None
    finished: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """A pod, from kubectl's columns, and its uid."""

    name: str
    uid: str
    created: datetime
    status: str
    ready: int = 0
    containers: int = 1
    restarts: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All of it at one moment, by name."""

    leases: tuple[Lease, ...] = ()
    pods: tuple[Pod, ...] = ()

    def lease(self, work_id: str) -> Lease | None:
        """Return the WorkLease of a work item."""
        return next((lease for lease in self.leases if lease.work_id == work_id), None)

    def pod(self, name: str) -> Pod | None:
        """Return a pod by its name."""
        return next((pod for pod in self.pods if pod.name == name), None)


def read(text: str) -> Snapshot:
    """Parse the output of `kubectl get worklease,pods -o json`."""
    items: list[Body] = json.loads(text)["items"]
    leases = [_lease(each) for each in items if each["kind"] == "WorkLease"]
    pods = [_pod(each) for each in items if each["kind"] == "Pod"]
    return Snapshot(
        tuple(sorted(leases, key=lambda lease: lease.name)),
        tuple(sorted(pods, key=lambda pod: pod.name)),
    )


def changes(before: Snapshot, after: Snapshot) -> Iterator[str]:
    """Yield what a reader may have missed between two moments: transitions, not heartbeats."""
    known = {lease.name: lease for lease in before.leases}
    for lease in after.leases:
        old = known.pop(lease.name, None)
        if old is None or _standing(old) != _standing(lease):
            yield f"worklease {lease.name}: {_standing(lease)}"
    for name in known:
        yield f"worklease {name}: deleted"
    pods = {pod.name: pod for pod in before.pods}
    for pod in after.pods:
        earlier = pods.pop(pod.name, None)
        if earlier is None or (earlier.uid, earlier.status) != (pod.uid, pod.status):
            yield f"pod {pod.name}: {pod.status}"
    for name in pods:
        yield f"pod {name}: gone"


def _standing(lease: Lease) -> str:
    words = [lease.state or "no state yet", f"LeaseHeld={lease.held or 'Unknown'}"]
    if lease.reason:
        words[-1] += f" ({lease.reason})"
    if lease.finished == "True":
        words.append("Finished=True")
    return ", ".join(words)


def _lease(body: Body) -> Lease:
    status: Body = body.get("status") or {}
    conditions: dict[str, Body] = {each["type"]: each for each in status.get("conditions") or ()}
    sandboxes: list[Body] = status.get("sandboxes") or []
    latest = sandboxes[0] if sandboxes else {}
    held, extended = conditions.get("LeaseHeld", {}), status.get("leaseExtended")
    return Lease(
        name=body["metadata"]["name"],
        work_id=body["spec"]["workID"],
        created=datetime.fromisoformat(body["metadata"]["creationTimestamp"]),
        state=status.get("state", ""),
        held=held.get("status", ""),
        reason=held.get("reason", ""),
        extended="" if extended is None else str(extended).lower(),
        last_heartbeat=status.get("lastHeartbeat", ""),
        ttl_seconds=status.get("ttlSeconds"),
        sandbox=latest.get("podName", ""),
        sandbox_reason=latest.get("reason", ""),
        sandbox_exit_code=latest.get("exitCode"),
        finished=conditions.get("Finished", {}).get("status", ""),
    )


def _pod(body: Body) -> Pod:
    status: Body = body.get("status") or {}
    containers: list[Body] = status.get("containerStatuses") or []
    ending = "deletionTimestamp" in body["metadata"]
    return Pod(
        name=body["metadata"]["name"],
        uid=body["metadata"]["uid"],
        created=datetime.fromisoformat(body["metadata"]["creationTimestamp"]),
        status="Terminating" if ending else status.get("reason") or status.get("phase", "Unknown"),
        ready=sum(bool(each.get("ready")) for each in containers),
        containers=len(body["spec"]["containers"]),
        restarts=sum(int(each.get("restartCount", 0)) for each in containers),
    )
