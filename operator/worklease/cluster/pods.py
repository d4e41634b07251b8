"""Sandbox pods: how one is read, made, looked at and deleted.

Owns the pod API. A deletion names the pod and has its uid as precondition: names are reused, and a successor must not
be deleted in its place. Must not decide which pod is made or deleted, or when.
"""

from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from typing import Any, Final, assert_never

from worklease.api.models import LONGEST_SANDBOX_MESSAGE
from worklease.cluster.client import Done, Gone, KubernetesApi, NoAnswer, NotDone, Refused
from worklease.cluster.paging import Page, list_pages
from worklease.rules.pods import AILMENTS, DISRUPTIONS, Ailment, Pod
from worklease.rules.words import one_line

DEFAULT_GRACE: Final = 30.0
"""Seconds that Kubernetes gives a pod that does not name its own."""

PAGE_TRIES: Final = 3
"""How often a page after the first is asked for before a long list is given up."""


@dataclass(frozen=True, slots=True)
class DeletionAccepted:
    """The deletion was accepted: the pod ends within its grace."""


@dataclass(frozen=True, slots=True)
class DryRunAccepted:
    """The API server would accept such a pod."""


@dataclass(frozen=True, slots=True)
class DryRunRejected:
    """The API server refuses such a pod; ``message`` is its own."""

    message: str


@dataclass(frozen=True, slots=True)
class Made:
    """The pod exists; ``is_new`` if this call made it."""

    pod: Pod
    is_new: bool


@dataclass(frozen=True, slots=True)
class MaybeMade:
    """No answer came, and the pod is not there yet: the API server may make it all the same."""

    message: str


class Pods:
    """The pods of the cluster, one by one."""

    def __init__(self, api: KubernetesApi) -> None:
        self._api = api

    async def dry_run(self, namespace: str, body: Mapping[str, Any]) -> DryRunAccepted | DryRunRejected | NotDone:
        """Ask the API server whether it would accept a pod, admission included, and make none (``dryRun=All``)."""
        match await self._api.call("POST", _path(namespace), query={"dryRun": "All"}, body=body):
            case Done():
                return DryRunAccepted()
            case Refused() as refused if refused.is_by_name:
                # The pod has passed all checks before its name was found to be taken.
                return DryRunAccepted()
            case Refused(status, message) if _is_verdict(status):
                return DryRunRejected(message)
            case Refused(_, message) | NoAnswer(message):
                return NotDone(message)
            case reply:
                assert_never(reply)

    async def make(self, namespace: str, body: Mapping[str, Any]) -> Made | MaybeMade | NotDone:
        """Make a pod; if one of its name exists already, return that, whatever made it."""
        name = body["metadata"]["name"]
        match await self._api.call("POST", _path(namespace), body=body):
            case Done(made):
                return Made(read_pod(made), is_new=True)
            case Refused() as refused if refused.is_by_name:
                return await self._find(namespace, name, "")
            case Refused(_, message):
                return NotDone(message)
            case NoAnswer(message):
                # It may have been made nevertheless, or may be made a moment later.
                found = await self._find(namespace, name, message)
                return MaybeMade(found.message) if isinstance(found, NotDone) else found
            case reply:
                assert_never(reply)

    async def _find(self, namespace: str, name: str, problem: str) -> Made | NotDone:
        match await self._api.call("GET", _path(namespace, name)):
            case Done(body):
                return Made(read_pod(body), is_new=False)
            case Refused(_, message) | NoAnswer(message):
                return NotDone(problem or message)
            case reply:
                assert_never(reply)

    async def pages(self, namespace: str, selector: str) -> AsyncIterator[Page | NotDone]:
        """List the pods that the label selector finds, page by page; ``NotDone``, as the last, if it is incomplete."""
        query = {"labelSelector": selector}
        async for page in list_pages(self._api, _path(namespace), query, tries=PAGE_TRIES):
            yield NotDone(page.message) if isinstance(page, Refused | NoAnswer) else page

    async def look(self, namespace: str, name: str, uid: str) -> Pod | Gone | NotDone:
        """Read this very pod."""
        match await self._api.call("GET", _path(namespace, name)):
            case Done(body):
                pod = read_pod(body)
                return pod if pod.uid == uid else Gone()
            case Refused() as refused if refused.is_absence:
                return Gone()
            case Refused(_, message) | NoAnswer(message):
                return NotDone(message)
            case reply:
                assert_never(reply)

    async def end(self, namespace: str, name: str, uid: str, grace: float | None) -> Gone | DeletionAccepted | NotDone:
        """Delete this very pod, with a ``grace`` in whole seconds, or with the pod's own."""
        options: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}}
        if grace is not None:
            # Never 0: that removes the object while the container still runs.
            options["gracePeriodSeconds"] = max(1, int(grace))
        match await self._api.call("DELETE", _path(namespace, name), body=options):
            case Done():
                return DeletionAccepted()
            case Refused() as refused if refused.is_absence:
                return Gone()
            case Refused() as refused if refused.is_by_uid:
                # A successor has the name by now. Any other conflict says nothing about the pod: the call is repeated.
                return Gone()
            case Refused(_, message) | NoAnswer(message):
                return NotDone(message)
            case reply:
                assert_never(reply)


def _path(namespace: str, name: str = "") -> str:
    pods = f"/api/v1/namespaces/{namespace}/pods"
    return f"{pods}/{name}" if name else pods


def _is_verdict(status: int) -> bool:
    """Whether a refusal is about the pod, not about the API server's own state."""
    return status in {
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.FORBIDDEN,
        HTTPStatus.NOT_FOUND,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        HTTPStatus.UNPROCESSABLE_ENTITY,
    }


def read_pod(body: Mapping[str, Any]) -> Pod:
    """Read a pod as the API server returned it; what is missing has its default."""
    metadata, spec, status = (body.get(part) or {} for part in ("metadata", "spec", "status"))
    conditions = {entry.get("type"): entry for entry in status.get("conditions") or ()}
    shown = _shown(status) or _unscheduled(conditions)
    disrupted = conditions.get("DisruptionTarget") or {}
    is_disrupted = disrupted.get("status") == "True"
    message = one_line(status.get("message") or "") or _tail(one_line(shown.get("message") or ""))
    return Pod(
        uid=metadata["uid"],
        name=metadata["name"],
        phase=status.get("phase") or "Unknown",
        reason=one_line(status.get("reason") or shown.get("reason") or ""),
        message=message or (one_line(disrupted.get("message") or "") if is_disrupted else ""),
        ready=(conditions.get("Ready") or {}).get("status") == "True",
        terminating=metadata.get("deletionTimestamp") is not None,
        grace=float(spec.get("terminationGracePeriodSeconds", DEFAULT_GRACE)),
        exit_code=shown.get("exitCode") if _is_over(status) else None,
        finish_time=_time(shown.get("finishedAt")) if _is_over(status) else None,
        restarts=sum(entry.get("restartCount") or 0 for entry in status.get("containerStatuses") or ()),
        controller=_controller(metadata.get("ownerReferences") or ()),
        created=_time(metadata.get("creationTimestamp")),
        ailment=None if _is_over(status) else _ailment(status, conditions),
        disruption=DISRUPTIONS.get(disrupted.get("reason") or "") if is_disrupted else None,
    )


def _ailment(status: Mapping[str, Any], conditions: Mapping[str, Mapping[str, Any]]) -> Ailment | None:
    """Return what keeps a pod from running; None if nothing does."""
    waiting = ((state.get("waiting") or {}).get("reason") or "" for state in _states(status))
    found = next((AILMENTS[reason] for reason in waiting if reason in AILMENTS), None)
    return Ailment.UNSCHEDULABLE if found is None and _unscheduled(conditions) else found


def _unscheduled(conditions: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the scheduler's condition of a pod that fits on no node; else an empty one."""
    scheduled = conditions.get("PodScheduled") or {}
    return scheduled if scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable" else {}


def _tail(message: str) -> str:
    """Return the end of a long message: what went wrong is at the end of a termination message."""
    return message if len(message) <= LONGEST_SANDBOX_MESSAGE else f"…{message[1 - LONGEST_SANDBOX_MESSAGE :]}"


def _states(status: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the containers' states, those of the init containers first."""
    kinds = ("initContainerStatuses", "containerStatuses")
    return [entry.get("state") or {} for kind in kinds for entry in status.get(kind) or ()]


def _is_over(status: Mapping[str, Any]) -> bool:
    return status.get("phase") in {"Succeeded", "Failed"}


def _shown(status: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the container's state that says most about the pod.

    For a pod that has ended: how a container ended, a failed one before the others. A container that still waits says
    nothing then: it waited for one that failed. For any other pod: what a container waits for, else how one failed; an
    init container that is done says nothing.
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
