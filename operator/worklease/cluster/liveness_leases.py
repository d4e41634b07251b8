"""The liveness Leases of all processes: ``coordination.k8s.io/v1``, in the operator's own namespace.

Owns their form: how one is made, renewed, read and deleted. Every write is guarded by the ``resourceVersion``. Must not
know who is valid or what follows: ``rules.tenure`` and ``rules.takes`` do. ``kubectl get lease`` shows them.
"""

from asyncio import gather
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from typing import Any, Final, assert_never

from worklease.api.names import LIVENESS_LABEL, READY
from worklease.cluster.client import Done, Gone, KubernetesApi, NoAnswer, NotDone, PatchType, Refused
from worklease.cluster.installation_lease import InstallationLease
from worklease.cluster.paging import list_pages
from worklease.rules.installations import LeaseFound
from worklease.rules.tenure import CALL_TIMEOUT, LEASE_DURATION, RENEWAL_TIMEOUT

PATH: Final = "/apis/coordination.k8s.io/v1/namespaces/{}/leases"


@dataclass(frozen=True, slots=True)
class ShownLease:
    """A liveness Lease, as the API server shows it."""

    name: str
    """The object's."""
    holder: str
    version: str
    is_ready: bool


class LivenessLeases:
    """This process's own Lease, and the view of the others'; ``name`` is the object's, ``holder`` the process's.

    A renewal counts only together with one of the ``installation``'s Lease, where there is one.
    """

    def __init__(
        self,
        api: KubernetesApi,
        namespace: str,
        name: str,
        holder: str,
        installation: InstallationLease | None = None,
    ) -> None:
        self._api, self._installation = api, installation
        self._path = PATH.format(namespace)
        self._name = name
        self._holder = holder
        self._version: str | None = None
        """The last version of the own Lease that is known; None: it has to be made, or read."""

    # --- The own Lease -----------------------------------------------------------------------------------------

    async def renew(self, at: datetime, *, is_ready: bool) -> NotDone | None:
        """Renew the own Lease, or make it; ``at`` is the time of day that it shows. Return why it was not done.

        One that somebody deleted or changed is made, or read, by the next call: a renewal is one call, so that it ends
        in time.
        """
        if self._installation is None:
            return await self._renew(at, is_ready=is_ready)
        own, installation = await gather(self._renew(at, is_ready=is_ready), self._installation.renew(at))
        return own or installation

    async def _renew(self, at: datetime, *, is_ready: bool) -> NotDone | None:
        if self._version is None:
            return await self._make(at, is_ready=is_ready)
        body = {
            "metadata": {"resourceVersion": self._version, "annotations": _annotations(is_ready=is_ready)},
            "spec": {"renewTime": _micro_time(at)},
        }
        path = f"{self._path}/{self._name}"
        match await self._api.call("PATCH", path, body=body, patch=PatchType.MERGE, timeout=RENEWAL_TIMEOUT):
            case Done(answer):
                self._version = _version_of(answer)
                return None
            case Refused(status, message) if status in {HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT}:
                self._version = None
                return NotDone(f"the liveness Lease {self._name} was changed or deleted: {message}")
            case Refused(_, message) | NoAnswer(message):
                # Without an answer it may have been renewed: the next one is refused then, and reads the version.
                return NotDone(f"the liveness Lease {self._name} was not renewed: {message}")
            case reply:
                assert_never(reply)

    async def _make(self, at: datetime, *, is_ready: bool) -> NotDone | None:
        body = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {
                "name": self._name,
                "labels": {"app.kubernetes.io/managed-by": "worklease-operator", LIVENESS_LABEL: "true"},
                "annotations": _annotations(is_ready=is_ready),
            },
            "spec": {
                "holderIdentity": self._holder,
                "leaseDurationSeconds": int(LEASE_DURATION),
                "acquireTime": _micro_time(at),
                "renewTime": _micro_time(at),
            },
        }
        match await self._api.call("POST", self._path, body=body, timeout=RENEWAL_TIMEOUT):
            case Done(answer):
                self._version = _version_of(answer)
                return None
            case Refused(message=message) as refusal:
                if refusal.is_by_name:
                    await self._find_own()
                return NotDone(f"the liveness Lease {self._name} was not made: {message}")
            case NoAnswer(message):
                return NotDone(f"the liveness Lease {self._name} was not made: {message}")
            case reply:
                assert_never(reply)

    async def _find_own(self) -> None:
        """Read the version of the own Lease: it was made by a call whose answer was lost, or changed by somebody."""
        found = await self.read(self._name)
        if isinstance(found, ShownLease):
            self._version = found.version

    async def end(self, *, dead: Collection[str] = ()) -> NotDone | None:
        """Delete the own Lease, as the last act of a process that ends in order; return why it was not done.

        If no Lease is left but those of the ``dead``, the installation has ended with this process. Of several that end
        at once the last one sees that, because it looks after its own Lease is gone.
        """
        problem = await self._delete(self._name, None)
        if self._installation is None or problem is not None:
            return problem
        before = await self._installation.look(self._installation.own)
        others = await self.look(is_consistent=True)
        if not isinstance(before, LeaseFound) or isinstance(others, NotDone) or others.keys() - {*dead, self._holder}:
            return None
        return await self._installation.end(before.version)

    # --- The others' -------------------------------------------------------------------------------------------

    async def look(self, *, is_consistent: bool = False) -> Mapping[str, ShownLease] | NotDone:
        """Return all liveness Leases by their holders, as a list has them; it may lag, if not consistent."""
        found: dict[str, ShownLease] = {}
        query = {"labelSelector": LIVENESS_LABEL} | ({} if is_consistent else {"resourceVersion": "0"})
        async for page in list_pages(self._api, self._path, query):
            if isinstance(page, Refused | NoAnswer):
                return NotDone(f"the liveness Leases could not be listed: {page.message}")
            found |= {shown.holder: shown for shown in map(_shown, page)}
        return found

    async def read(self, name: str) -> ShownLease | Gone | NotDone:
        """Return a Lease by a consistent read, as a take needs it."""
        match await self._api.call("GET", f"{self._path}/{name}", timeout=CALL_TIMEOUT):
            case Done(body):
                return _shown(body)
            case Refused(status=HTTPStatus.NOT_FOUND):
                return Gone()
            case Refused(_, message) | NoAnswer(message):
                return NotDone(f"the liveness Lease {name} could not be read: {message}")
            case reply:
                assert_never(reply)

    async def delete(self, shown: ShownLease) -> NotDone | None:
        """Delete the Lease of a process that is dead for long, unless it has changed; return why it was not done."""
        return await self._delete(shown.name, shown.version)

    async def _delete(self, name: str, version: str | None) -> NotDone | None:
        body = {} if version is None else {"preconditions": {"resourceVersion": version}}
        match await self._api.call("DELETE", f"{self._path}/{name}", body=body, timeout=CALL_TIMEOUT):
            case Done() | Refused(status=HTTPStatus.NOT_FOUND):
                return None
            case Refused(_, message) | NoAnswer(message):
                return NotDone(f"the liveness Lease {name} was not deleted: {message}")
            case reply:
                assert_never(reply)


def _annotations(*, is_ready: bool) -> dict[str, str]:
    return {READY: "true" if is_ready else "false"}


def _shown(body: Mapping[str, Any]) -> ShownLease:
    metadata, spec = body["metadata"], body.get("spec") or {}
    ready = (metadata.get("annotations") or {}).get(READY) == "true"
    return ShownLease(metadata["name"], str(spec.get("holderIdentity") or ""), metadata["resourceVersion"], ready)


def _version_of(body: Mapping[str, Any]) -> str:
    return str(body["metadata"]["resourceVersion"])


def _micro_time(at: datetime) -> str:
    """Return a time of day as the API writes it here: with six digits of a second."""
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
