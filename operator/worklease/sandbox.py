"""Sandbox pods: what one looks like, what became of it, and its deletion.

Owns the pod API. A pod is deleted by name only together with its uid as precondition: names are reused, and a
successor is somebody else's. Must not decide which pod goes when.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from typing import Any, Final, assert_never

from worklease.kubernetes_api import Done, KubernetesApi, NoAnswer, Refused
from worklease.lifecycle import Pod

DEFAULT_GRACE: Final = 30.0
"""Seconds that Kubernetes gives a pod which does not say."""


@dataclass(frozen=True, slots=True)
class Gone:
    """The pod is no more; a pod of that name that may be there is another one."""


@dataclass(frozen=True, slots=True)
class Ending:
    """The deletion was accepted: the pod ends within its grace."""


@dataclass(frozen=True, slots=True)
class NotDone:
    """The call did not do what it should: why."""

    message: str


class Sandboxes:
    """The pods of the cluster, one by one."""

    def __init__(self, api: KubernetesApi) -> None:
        self._api = api

    async def look(self, namespace: str, name: str, uid: str) -> Pod | Gone | NotDone:
        """Look whether this very pod is there, and how it is."""
        match await self._api.call("GET", _path(namespace, name)):
            case Done(body):
                pod = read_pod(body)
                return pod if pod.uid == uid else Gone()
            case Refused(status=HTTPStatus.NOT_FOUND):
                return Gone()
            case Refused(_, message) | NoAnswer(message):
                return NotDone(message)
            case reply:
                assert_never(reply)

    async def end(self, namespace: str, name: str, uid: str, grace: float | None) -> Gone | Ending | NotDone:
        """Delete this very pod, with ``grace`` in whole seconds, or its own."""
        options: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}}
        if grace is not None:
            # Never 0: that removes the object while the container still runs.
            options["gracePeriodSeconds"] = max(1, int(grace))
        match await self._api.call("DELETE", _path(namespace, name), body=options):
            case Done():
                return Ending()
            case Refused(status=HTTPStatus.NOT_FOUND):
                return Gone()
            case Refused() as refused if refused.is_by_uid:
                # The name is a successor's by now. Any other conflict says nothing of the pod, and is tried again.
                return Gone()
            case Refused(_, message) | NoAnswer(message):
                return NotDone(message)
            case reply:
                assert_never(reply)


def _path(namespace: str, name: str) -> str:
    return f"/api/v1/namespaces/{namespace}/pods/{name}"


def read_pod(body: Mapping[str, Any]) -> Pod:
    """Read a pod as the API server gives it; what it does not say has its default."""
    metadata, spec, status = (body.get(part) or {} for part in ("metadata", "spec", "status"))
    shown = _shown(status)
    conditions = {entry.get("type"): entry.get("status") for entry in status.get("conditions") or ()}
    return Pod(
        uid=metadata["uid"],
        name=metadata["name"],
        phase=status.get("phase") or "Unknown",
        reason=status.get("reason") or shown.get("reason") or "",
        message=status.get("message") or shown.get("message") or "",
        ready=conditions.get("Ready") == "True",
        terminating=metadata.get("deletionTimestamp") is not None,
        grace=float(spec.get("terminationGracePeriodSeconds", DEFAULT_GRACE)),
        exit_code=shown.get("exitCode") if _is_over(status) else None,
        finish_time=_time(shown.get("finishedAt")) if _is_over(status) else None,
        restarts=sum(entry.get("restartCount") or 0 for entry in status.get("containerStatuses") or ()),
        controller=_controller(metadata.get("ownerReferences") or ()),
    )


def _is_over(status: Mapping[str, Any]) -> bool:
    return status.get("phase") in {"Succeeded", "Failed"}


def _shown(status: Mapping[str, Any]) -> Mapping[str, Any]:
    """Give the container's state that says most about the pod.

    Of a pod that is over: how a container ended, the failed ones before the others. A container that still waits says
    nothing then; it waited for one that failed. Of any other pod: what a container waits for, else how one failed; that
    an initial container is done says nothing.
    """
    first, then = (
        [entry.get("state") or {} for entry in status.get(kind) or ()]
        for kind in ("initContainerStatuses", "containerStatuses")
    )
    waiting = [state["waiting"] for state in first + then if state.get("waiting")]
    ended = [state["terminated"] for state in then + first if state.get("terminated")]
    failed = [state for state in ended if state.get("exitCode") != 0]
    candidates = failed + ended + waiting if _is_over(status) else waiting + failed
    return next(iter(candidates), {})


def _controller(owners: Iterable[Mapping[str, Any]]) -> str:
    for owner in owners:
        if owner.get("controller") and owner.get("kind") == "WorkLease":
            return str(owner.get("uid"))
    return ""


def _time(value: str | None) -> datetime | None:
    return datetime.fromisoformat(value) if value else None
