"""The Lease by which an installation shows that it lives, and the name of an installation in a resource's status.

Owns both: how the own Lease is renewed and ended, how another's is read, and the guarded write of the name. Must not
know what follows: ``rules.installations`` does. ``kubectl get lease -A`` shows the Leases.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from http import HTTPStatus
from typing import Any, Final, assert_never

from worklease.cluster.client import (
    GIVEN_UP,
    WRITE_TIMEOUT,
    Done,
    Gone,
    KubernetesApi,
    NoAnswer,
    NotDone,
    PatchType,
    Refused,
)
from worklease.rules.installations import (
    GONE_AFTER,
    LEASE_NAME,
    RENEW_EVERY,
    SETTLED,
    LeaseAbsent,
    LeaseFound,
    LeaseHidden,
    installation_in,
    is_gap,
    namespace_of,
)
from worklease.rules.tenure import CALL_TIMEOUT, RENEWAL_TIMEOUT

_PATH: Final = "/apis/coordination.k8s.io/v1/namespaces/{}/leases"

_NOT_LOOKED: Final = (
    "this installation counted as gone, perhaps, so what it keeps is looked at first: another one may have taken it"
)


class Overwritten:
    """The object was written by somebody else since it was read: nothing was changed."""


class InstallationLease:
    """The own installation's Lease, and the view of others'; ``namespace`` is the one of the checkpoint."""

    def __init__(self, api: KubernetesApi, namespace: str, clock: Callable[[], float]) -> None:
        self._api, self._clock = api, clock
        self._folder = _PATH.format(namespace)
        self._path = f"{self._folder}/{LEASE_NAME}"
        self.own = installation_in(namespace)
        self._renewed: float | None = None
        """When the last renewal was sent that was answered."""
        self._resumed: float | None = None
        """When the renewal was answered that ended a gap, until what is kept was looked at again."""

    @property
    def look_due(self) -> float | None:
        """Return from when on what this process keeps is to be looked at again; None: it is not."""
        return None if self._resumed is None else self._resumed + SETTLED

    def looked(self) -> None:
        """Note that this was done: the process may count as valid again."""
        self._resumed = None

    async def renew(self, at: datetime) -> NotDone | None:
        """Renew the Lease if that is due; ``at`` is the time of day that it shows. Return why it was not done."""
        sent = self._clock()
        if self._renewed is None or sent >= self._renewed + RENEW_EVERY:
            problem = await self._renew(_micro_time(at))
            if problem is not None:
                return problem
            if is_gap(self._renewed, sent):
                self._resumed = self._clock()
            self._renewed = sent
        return None if self._resumed is None else NotDone(_NOT_LOOKED)

    async def _renew(self, at: str) -> NotDone | None:
        spec = {"holderIdentity": self.own, "leaseDurationSeconds": int(GONE_AFTER), "renewTime": at}
        # Without a guard: all processes of the installation renew it.
        match await self._api.call(
            "PATCH", self._path, body={"spec": spec}, patch=PatchType.MERGE, timeout=RENEWAL_TIMEOUT
        ):
            case Done():
                return None
            case Refused(status=HTTPStatus.NOT_FOUND):
                return await self._make(spec)
            case Refused(_, message) | NoAnswer(message):
                return NotDone(f"the Lease {self.own} of the installation was not renewed: {message}")
            case reply:
                assert_never(reply)

    async def _make(self, spec: Mapping[str, Any]) -> NotDone | None:
        metadata = {"name": LEASE_NAME, "labels": {"app.kubernetes.io/managed-by": "worklease-operator"}}
        body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": dict(spec)}
        match await self._api.call("POST", self._folder, body=body, timeout=RENEWAL_TIMEOUT):
            case Done():
                return None
            case Refused(message=message) | NoAnswer(message):
                return NotDone(f"the Lease {self.own} of the installation was not made: {message}")
            case reply:
                assert_never(reply)

    async def end(self, version: str) -> NotDone | None:
        """Say that the installation has ended in order, unless it was renewed since it was read."""
        body = {"metadata": {"resourceVersion": version}, "spec": {"holderIdentity": ""}}
        match await self._api.call("PATCH", self._path, body=body, patch=PatchType.MERGE, timeout=CALL_TIMEOUT):
            case Done() | Refused(status=HTTPStatus.CONFLICT | HTTPStatus.NOT_FOUND):
                return None
            case Refused(_, message) | NoAnswer(message):
                return NotDone(f"the Lease {self.own} does not say that the installation has ended: {message}")
            case reply:
                assert_never(reply)

    # --- Others' -----------------------------------------------------------------------------------------------

    async def look(self, installation: str) -> LeaseFound | LeaseHidden | LeaseAbsent | NotDone:
        """Read another installation's Lease, consistently."""
        namespace = namespace_of(installation)
        if namespace is None:
            return LeaseHidden("this version does not understand the name of that installation")
        match await self._api.call("GET", f"{_PATH.format(namespace)}/{LEASE_NAME}", timeout=CALL_TIMEOUT):
            case Done(body):
                holder = (body.get("spec") or {}).get("holderIdentity")
                return LeaseFound(_version_of(body), has_ended=not holder)
            case Refused(status=HTTPStatus.NOT_FOUND):
                return LeaseAbsent()
            case Refused(status=HTTPStatus.FORBIDDEN, message=message):
                return LeaseHidden(message)
            case Refused(_, message) | NoAnswer(message):
                return NotDone(message)
            case reply:
                assert_never(reply)

    # --- The name in a resource --------------------------------------------------------------------------------

    async def put_name(self, path: str, version: str) -> Mapping[str, Any] | Overwritten | Gone | NotDone:
        """Write the own name into the status of a resource that has still that version; return the resource then."""
        return await write_name(self._api, path, version, self.own)

    async def read(self, path: str, uid: str) -> Mapping[str, Any] | Gone | NotDone:
        """Read a resource; one of its name with another uid is another one."""
        match await self._api.call("GET", path, timeout=CALL_TIMEOUT):
            case Done(body):
                return body if (body.get("metadata") or {}).get("uid") == uid else Gone()
            case Refused() as refused if refused.is_absence:
                return Gone()
            case Refused(_, message) | NoAnswer(message):
                return NotDone(message)
            case reply:
                assert_never(reply)


async def write_name(
    api: KubernetesApi, path: str, version: str, name: str | None
) -> Mapping[str, Any] | Overwritten | Gone | NotDone:
    """Write the name of an installation into the status of a resource that has still that version; None removes it."""
    body = {"metadata": {"resourceVersion": version}, "status": {"operator": name}}
    match await api.call(
        "PATCH", f"{path}/status", query=GIVEN_UP, body=body, patch=PatchType.MERGE, timeout=WRITE_TIMEOUT
    ):
        case Done(answer):
            return answer
        case Refused(status=HTTPStatus.CONFLICT):
            return Overwritten()
        case Refused() as refused if refused.is_absence:
            return Gone()
        case Refused(_, message) | NoAnswer(message):
            return NotDone(message)
        case reply:
            assert_never(reply)


def _version_of(body: Mapping[str, Any]) -> str:
    return str(body["metadata"]["resourceVersion"])


def _micro_time(at: datetime) -> str:
    """Return a time of day as the API writes it here: with six digits of a second."""
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
