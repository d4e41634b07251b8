"""The calls about sessions' volumes: PersistentVolumeClaims, found by label, made, annotated and deleted.

Owns these calls. Each write names the very state that it means. Must not decide which volume is used or deleted.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final, assert_never

from worklease.api.models import WorkLease
from worklease.api.names import MANAGED_BY_LABEL, MANAGER, workleases_path
from worklease.cluster.client import (
    METADATA_LIST,
    Done,
    Gone,
    KubernetesApi,
    NoAnswer,
    NotDone,
    PatchType,
    Refused,
    Reply,
)
from worklease.cluster.paging import list_pages
from worklease.cluster.pods import DryRunAccepted, NotAdmitted, obstacle_of
from worklease.cluster.workspace_objects import claim_body, read_volume, selector
from worklease.rules.pods import Obstacle
from worklease.rules.workspaces import Session, Volume

PAGE_TRIES: Final = 3
"""How often a page after the first is asked for before a list is given up."""

GRANT: Final = "; grant the operator the rights to this namespace's claims (pools.namespaces of the chart)"
"""What to do where a right is missing, after the API server's own words."""

Found = list[Volume] | Refused | NoAnswer


class WorkspaceClaims:
    """The claims, one by one."""

    def __init__(self, api: KubernetesApi) -> None:
        self._api = api

    async def of_session(self, namespace: str, session: Session) -> Found:
        """Return a session's claims, as they are now, whoever made them."""
        return await self._list(namespace, selector(session))

    async def ours(self, namespace: str) -> Found:
        """Return the claims of a namespace that say that the operator made them."""
        return await self._list(namespace, f"{MANAGED_BY_LABEL}={MANAGER}")

    async def _list(self, namespace: str, labels: str) -> Found:
        found: list[Volume] = []
        query = {"labelSelector": labels}
        async for page in list_pages(self._api, _path(namespace), query, accept=METADATA_LIST, tries=PAGE_TRIES):
            if isinstance(page, Refused | NoAnswer):
                return page
            found.extend(map(read_volume, page))
        return found

    async def make(self, namespace: str, body: Mapping[str, Any]) -> Reply:
        """Make a claim."""
        return await self._api.call("POST", _path(namespace), body=body)

    async def dry_run(self, resource: WorkLease) -> DryRunAccepted | NotAdmitted:
        """Ask whether the API server would make the claim of a resource's session, and make none (``dryRun=All``)."""
        sandbox = resource.spec.sandbox
        if sandbox is None or sandbox.workspace is None:
            return DryRunAccepted()
        body = claim_body(resource, sandbox.workspace)
        match await self._api.call("POST", _path(resource.namespace), query={"dryRun": "All"}, body=body):
            case Done():
                return DryRunAccepted()
            case Refused() as refused if refused.is_by_name:
                return DryRunAccepted()  # the session has it already
            case (Refused() | NoAnswer()) as failure:
                return not_admitted(failure)
            case reply:
                assert_never(reply)

    async def annotate(
        self, namespace: str, volume: Volume, annotations: Mapping[str, str | None]
    ) -> Volume | Gone | NotDone:
        """Annotate this very claim, in the very state in which it was seen; return it as it is then."""
        metadata = {"uid": volume.uid, "resourceVersion": volume.version, "annotations": annotations}
        path = _path(namespace, volume.name)
        match await self._api.call("PATCH", path, body={"metadata": metadata}, patch=PatchType.MERGE):
            case Done(body):
                return read_volume(body)
            case Refused() as refused if refused.is_absence:
                return Gone()
            case Refused(_, message) | NoAnswer(message):
                return NotDone(message)
            case reply:
                assert_never(reply)

    async def delete(self, namespace: str, volume: Volume) -> Done | Gone | NotDone:
        """Delete this very claim, provided that nobody has written it since it was seen."""
        options = {"preconditions": {"uid": volume.uid, "resourceVersion": volume.version}}
        match await self._api.call("DELETE", _path(namespace, volume.name), body=options):
            case Done() as done:
                return done
            case Refused() as refused if refused.is_absence or refused.is_by_uid:
                return Gone()
            case Refused(_, message) | NoAnswer(message):
                return NotDone(message)
            case reply:
                assert_never(reply)

    async def open_sessions(self, namespace: str) -> set[Session] | NotDone:
        """Return the sessions of which a WorkLease is not finished, as they are now: no cache is asked."""
        found: set[Session] = set()
        async for page in list_pages(self._api, workleases_path(namespace), {}, tries=PAGE_TRIES):
            if isinstance(page, Refused | NoAnswer):
                return NotDone(page.message)
            found |= {_session(body) for body in page if not _is_finished(body)}
        return found


def not_admitted(failure: Refused | NoAnswer) -> NotAdmitted:
    """Return why a pod is not made, because of the volume that it needs."""
    if isinstance(failure, NoAnswer):
        return NotAdmitted(Obstacle.ADMISSION, failure.message)
    obstacle = obstacle_of(failure)
    is_right = failure.status == HTTPStatus.FORBIDDEN and obstacle is Obstacle.SPEC
    return NotAdmitted(obstacle, f"the session's volume: {failure.message}{GRANT if is_right else ''}")


def _session(body: Mapping[str, Any]) -> Session:
    spec = body.get("spec") or {}
    return (str(spec.get("environmentID") or ""), str(spec.get("sessionID") or spec.get("workID") or ""))


def _is_finished(body: Mapping[str, Any]) -> bool:
    conditions = (body.get("status") or {}).get("conditions") or ()
    return any(each.get("type") == "Finished" and each.get("status") == "True" for each in conditions)


def _path(namespace: str, name: str = "") -> str:
    claims = f"/api/v1/namespaces/{namespace}/persistentvolumeclaims"
    return f"{claims}/{name}" if name else claims
