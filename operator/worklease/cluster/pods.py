"""Sandbox pods: how one is made, looked at and deleted.

Owns the pod API. A deletion names the pod and has its uid as precondition: names are reused, and a successor must not
be deleted in its place. Must not decide which pod is made or deleted, or when.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final, assert_never

from worklease.api.names import DRAINING
from worklease.cluster.client import (
    ANSWER_TIME,
    GIVEN_UP,
    WRITE_TIMEOUT,
    Done,
    Gone,
    KubernetesApi,
    NoAnswer,
    NotDone,
    PatchType,
    Refused,
    Reply,
)
from worklease.cluster.paging import Page, list_pages
from worklease.cluster.pod_reading import read_pod
from worklease.cluster.slots import Slots
from worklease.rules.pods import OUT_OF_SERVICE, Obstacle, Pod

ADMISSION_TIMEOUT: Final = 35.0
"""Seconds that a dry run may take: a webhook may take 30, and the API server then says which one it was."""

CREATION_LANDS: Final = 60.0
"""Seconds within which a creation without an answer is carried out, or never: the API server's own time-out."""

CREATIONS: Final = 32
"""Creations and dry runs of pods under way at once: a third of all connections, since a webhook may let them hang."""

CREATIONS_OF_ONE: Final = 16
"""Of these, those for one namespace: a webhook may be for this one only."""

PAGE_TRIES: Final = 3
"""How often a page after the first is asked for before a long list is given up."""


@dataclass(frozen=True, slots=True)
class DeletionAccepted:
    """The deletion was accepted: the pod ends within its grace."""


@dataclass(frozen=True, slots=True)
class Annotated:
    """The pod has the annotation."""


@dataclass(frozen=True, slots=True)
class NotPermitted:
    """The API server does not do this, however often it is asked; ``message`` is its own."""

    message: str


@dataclass(frozen=True, slots=True)
class DryRunAccepted:
    """The API server would accept such a pod."""


@dataclass(frozen=True, slots=True)
class NotAdmitted:
    """The API server does not make such a pod, or would not; ``message`` is its own."""

    obstacle: Obstacle
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
        self.creations = Slots(CREATIONS, CREATIONS_OF_ONE)
        """One must be had for :meth:`make`; a dry run takes one by itself."""

    async def dry_run(self, namespace: str, body: Mapping[str, Any]) -> DryRunAccepted | NotAdmitted:
        """Ask the API server whether it would accept a pod, admission included, and make none (``dryRun=All``)."""
        loop = asyncio.get_running_loop()
        async with self.creations.taken(namespace):
            began = loop.time()
            reply = await self._create(namespace, body, {"dryRun": "All"}, ADMISSION_TIMEOUT)
        if isinstance(reply, Done) and (took := loop.time() - began) > WRITE_TIMEOUT:
            slow = f"a dry run of the pod took {took:.1f} s, and its creation is given up after {WRITE_TIMEOUT:.0f} s"
            return NotAdmitted(Obstacle.ADMISSION, f"{slow}: a webhook is slow, or the API server is")
        match reply:
            case Done():
                return DryRunAccepted()
            case Refused() as refused if refused.is_by_name:
                # The pod has passed all checks before its name was found to be taken.
                return DryRunAccepted()
            case Refused() as refused:
                return NotAdmitted(obstacle_of(refused), refused.message)
            case NoAnswer(message):
                return NotAdmitted(Obstacle.ADMISSION, message)
            case _:
                assert_never(reply)

    async def make(self, namespace: str, body: Mapping[str, Any]) -> Made | MaybeMade | NotAdmitted:
        """Make a pod; if one of its name exists already, return that, whatever made it."""
        name = body["metadata"]["name"]
        match await self._create(namespace, body, GIVEN_UP, WRITE_TIMEOUT + ANSWER_TIME):
            case Done(made):
                return Made(read_pod(made), is_new=True)
            case Refused() as refused if refused.is_by_name:
                return await self._find(namespace, name, "")
            case Refused(status) as refused if status != HTTPStatus.GATEWAY_TIMEOUT:
                return NotAdmitted(obstacle_of(refused), refused.message)
            case Refused(_, message) | NoAnswer(message):
                # It may have been made nevertheless, or may be made a moment later.
                found = await self._find(namespace, name, message)
                return MaybeMade(found.message) if isinstance(found, NotAdmitted) else found
            case reply:
                assert_never(reply)

    async def _create(self, namespace: str, body: Mapping[str, Any], query: Mapping[str, str], seconds: float) -> Reply:
        return await self._api.call("POST", _path(namespace), query=query, body=body, timeout=seconds)

    async def _find(self, namespace: str, name: str, problem: str) -> Made | NotAdmitted:
        match await self._api.call("GET", _path(namespace, name)):
            case Done(body):
                return Made(read_pod(body), is_new=False)
            case Refused(_, message) | NoAnswer(message):
                return NotAdmitted(Obstacle.ADMISSION, problem or message)
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
        match await self._api.call(
            "DELETE", _path(namespace, name), query=GIVEN_UP, body=options, timeout=WRITE_TIMEOUT
        ):
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

    async def ask_to_finish(
        self, namespace: str, name: str, uid: str, until: datetime
    ) -> Annotated | Gone | NotPermitted | NotDone:
        """Annotate this very pod: its proxy tells the worker to finish, which must be done ``until`` then."""
        moment = until.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        body = {"metadata": {"uid": uid, "annotations": {DRAINING: moment}}}
        match await self._api.call(
            "PATCH", _path(namespace, name), query=GIVEN_UP, body=body, patch=PatchType.MERGE, timeout=WRITE_TIMEOUT
        ):
            case Done():
                return Annotated()
            case Refused() as refused if refused.is_absence:
                return Gone()
            case Refused(HTTPStatus.UNPROCESSABLE_ENTITY, message) if _UID in message:
                return Gone()  # a successor has the name by now
            case Refused(status, message) if status in _REFUSALS:
                return NotPermitted(message)
            case Refused(_, message) | NoAnswer(message):
                return NotDone(message)
            case reply:
                assert_never(reply)

    async def is_node_off(self, name: str) -> bool:
        """Whether a node surely runs nothing: it was deleted, or somebody gave it the taint that says so.

        Without the right to read nodes, nothing is sure.
        """
        match await self._api.call("GET", f"/api/v1/nodes/{name}"):
            case Done(body):
                taints = (body.get("spec") or {}).get("taints") or ()
                return any(taint.get("key") == OUT_OF_SERVICE for taint in taints)
            case Refused() as refused:
                return refused.is_absence
            case NoAnswer():
                return False
            case reply:
                assert_never(reply)


def _path(namespace: str, name: str = "") -> str:
    pods = f"/api/v1/namespaces/{namespace}/pods"
    return f"{pods}/{name}" if name else pods


def obstacle_of(refused: Refused) -> Obstacle:
    """Return why the API server made no pod, or no volume for it.

    It is because of the object, of the namespace's quota, or of the API server's own state. A webhook that answers
    denies with whatever status it likes.
    """
    if refused.status == HTTPStatus.FORBIDDEN and any(words in refused.message for words in _QUOTA):
        return Obstacle.QUOTA
    if refused.status in _VERDICTS or _DENIED.search(refused.message):
        return Obstacle.SPEC
    return Obstacle.ADMISSION


_QUOTA: Final = ("exceeded quota: ", "status unknown for quota: ")
"""The API server's words for a quota that has no room, or that it has not counted yet (plugin resourcequota)."""

_DENIED: Final = re.compile(r"^admission webhook .* denied the request")
"""The API server's words for a webhook that answered, and does not want the pod."""

_UID: Final = "metadata.uid: "
"""In the API server's words for a patch that names another uid than the pod's, which nothing may change."""

_REFUSALS: Final = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.FORBIDDEN, HTTPStatus.UNPROCESSABLE_ENTITY})
"""Answers to a patch that the next one would get too: a right is missing, or a policy does not want it."""

_VERDICTS: Final = frozenset(
    {
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.FORBIDDEN,
        HTTPStatus.NOT_FOUND,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        HTTPStatus.UNPROCESSABLE_ENTITY,
    }
)
"""Refusals that are about the pod, not about the API server's own state."""
