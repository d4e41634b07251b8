"""The writes of a pool to Kubernetes: WorkLeases, the Secrets of their tokens, and the end of both.

Owns these calls, and what their answers prove. A creation that may have been carried out is told from one that surely
was not: only the latter frees a place. Each write asks, right before it is sent, whether this process may still send
it. Must not decide what is made or deleted.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, assert_never

from worklease.api.names import POOL_FINALIZER, POOL_LABEL, PoolReference, Reference, workleases_path
from worklease.cluster.client import Done, Gone, KubernetesApi, NoAnswer, NotDone, PatchType, Refused, Reply
from worklease.cluster.paging import list_pages
from worklease.cluster.pool_objects import is_of_a_lease
from worklease.rules.acts import NOT_VALID
from worklease.rules.tenure import CALL_TIMEOUT

PAGE_TRIES: Final = 3
"""How often a page after the first is asked for before a list is given up."""

CREATION: Final = {"timeout": f"{CALL_TIMEOUT:.0f}s"}
"""Has the API server give a creation up: it must be done before another process counts the leases."""

CREATION_TIMEOUT: Final = CALL_TIMEOUT + 1.0
"""Seconds for a creation: those of the API server, and the way of its answer."""

May = Callable[[], bool]
"""Whether this process may send a write now."""


@dataclass(frozen=True, slots=True)
class LeaseMade:
    """The WorkLease exists, and this call made it."""

    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class LeaseExists:
    """A WorkLease of that name existed already; ``body`` was read after that."""

    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class LeaseNotMade:
    """The API server refused it: it surely was not made."""

    message: str


@dataclass(frozen=True, slots=True)
class LeaseMaybeMade:
    """It is not known whether it was made, or will be in a moment."""

    message: str


LeaseCreation = LeaseMade | LeaseExists | LeaseNotMade | LeaseMaybeMade


class PoolWrites:
    """The writes, one by one; each is guarded so that it touches the object that it means."""

    def __init__(self, api: KubernetesApi) -> None:
        self.api = self._api = api

    async def list_leases(self, namespace: str, pool: str) -> list[Mapping[str, Any]] | NotDone:
        """Return all WorkLeases of a pool, as they are now: the list is not served from a cache."""
        found: list[Mapping[str, Any]] = []
        query = {"labelSelector": f"{POOL_LABEL}={pool}"}
        async for page in list_pages(self._api, workleases_path(namespace), query, tries=PAGE_TRIES):
            if isinstance(page, Refused | NoAnswer):
                return NotDone(page.message)
            found.extend(page)
        return found

    async def make_lease(self, body: Mapping[str, Any], may: May) -> LeaseCreation:
        """Make a WorkLease; if one of its name exists already, read that."""
        path = workleases_path(body["metadata"]["namespace"])
        if not may():
            return LeaseNotMade(NOT_VALID)
        match await self._api.call("POST", path, query=CREATION, body=body, timeout=CREATION_TIMEOUT):
            case Done(made):
                return LeaseMade(made)
            case Refused() as refused if refused.is_by_name:
                return await self._existing(f"{path}/{body['metadata']['name']}")
            case Refused(status, message) if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                # The API server gave up on a request that its storage may still carry out.
                return LeaseMaybeMade(message)
            case Refused(_, message):
                return LeaseNotMade(message)
            case NoAnswer(message):
                return LeaseMaybeMade(message)
            case reply:
                assert_never(reply)

    async def _existing(self, path: str) -> LeaseCreation:
        match await self._api.call("GET", path):
            case Done(body):
                return LeaseExists(body)
            case Refused() as refused if refused.is_absence:
                return LeaseNotMade("a WorkLease of that name was there, and is gone")
            case Refused(_, message) | NoAnswer(message):
                # It exists, whoever made it, and it counts: perhaps an earlier creation of ours was carried out late.
                return LeaseMaybeMade(f"a WorkLease of that name exists, and could not be read: {message}")
            case reply:
                assert_never(reply)

    async def write_token(self, body: Mapping[str, Any], may: May) -> Done | NotDone:
        """Make the Secret of a token; one of that name that belongs to a WorkLease is replaced, no other."""
        namespace, name = body["metadata"]["namespace"], body["metadata"]["name"]
        path = f"/api/v1/namespaces/{namespace}/secrets"
        if not may():
            return NotDone(NOT_VALID)
        made = await self._api.call("POST", path, query=CREATION, body=body, timeout=CREATION_TIMEOUT)
        if isinstance(made, Done):
            return made
        if not (isinstance(made, Refused) and made.is_by_name):
            return NotDone(f"the Secret {name} was not written: {made.message}")
        there = await self._api.call("GET", f"{path}/{name}")
        if not isinstance(there, Done):
            return NotDone(f"the Secret {name} was not written: {there.message}")
        if not is_of_a_lease(there.body):
            return NotDone(f"the Secret {name} is there and is not of a WorkLease: delete it, or rename the pool")
        version = (there.body.get("metadata") or {}).get("resourceVersion")
        replaced = dict(body) | {"metadata": {**body["metadata"], "resourceVersion": version}}
        if not may():
            return NotDone(NOT_VALID)
        done = await self._api.call("PUT", f"{path}/{name}", body=replaced)
        return done if isinstance(done, Done) else NotDone(f"the Secret {name} was not written: {done.message}")

    async def end_lease(self, lease: Reference, policy: str, may: May) -> Done | Gone | NotDone:
        """Delete a WorkLease by a deletion policy, which is written into it first."""
        # A test of the uid, so that a successor of the same name keeps its own.
        patch = [
            {"op": "test", "path": "/metadata/uid", "value": lease.uid},
            {"op": "add", "path": "/spec/deletionPolicy", "value": policy},
        ]
        if not may():
            return NotDone(NOT_VALID)
        match await self._api.call("PATCH", lease.path, body=patch, patch=PatchType.JSON):
            case Done():
                if not may():
                    return NotDone(NOT_VALID)
                options = {"preconditions": {"uid": lease.uid}}
                return _said(await self._api.call("DELETE", lease.path, body=options))
            case Refused() as refused if refused.is_absence:
                return Gone()
            case Refused(_, message) | NoAnswer(message):
                return NotDone(message)
            case reply:
                assert_never(reply)

    async def read_lease(self, lease: Reference) -> Mapping[str, Any] | Gone | NotDone:
        """Return a WorkLease as it is now; one of its name with another uid is another one."""
        return await self._read(lease.path, lease.uid)

    async def delete_token(self, lease: Reference, may: May) -> Gone | NotDone:
        """Delete the Secret of a WorkLease's token; one of that name that is not this lease's stays."""
        path = f"/api/v1/namespaces/{lease.namespace}/secrets/{lease.name}"
        read = await self._api.call("GET", path)
        if not isinstance(read, Done):
            is_absent = isinstance(read, Refused) and read.is_absence
            return Gone() if is_absent else NotDone(read.message)
        metadata = read.body.get("metadata") or {}
        if all(owner.get("uid") != lease.uid for owner in metadata.get("ownerReferences") or ()):
            return Gone()
        if not may():
            return NotDone(NOT_VALID)
        match await self._api.call("DELETE", path, body={"preconditions": {"uid": metadata.get("uid")}}):
            case Done():
                return Gone()
            case Refused() as refused if refused.is_absence or refused.is_by_uid:
                return Gone()
            case Refused(_, message) | NoAnswer(message):
                return NotDone(message)
            case reply:
                assert_never(reply)

    async def try_lease(self, body: Mapping[str, Any]) -> Done | Refused | NoAnswer:
        """Ask whether a WorkLease would be made, and what it would be; none is (``dryRun=All``)."""
        path = workleases_path(body["metadata"]["namespace"])
        return await self._api.call("POST", path, query={"dryRun": "All"}, body=body)

    # --- The pool itself ---------------------------------------------------------------------------------------

    async def read_pool(self, pool: PoolReference) -> Mapping[str, Any] | Gone | NotDone:
        """Return a pool as it is now; one of its name with another uid is another one."""
        return await self._read(pool.path, pool.uid)

    async def _read(self, path: str, uid: str) -> Mapping[str, Any] | Gone | NotDone:
        match await self._api.call("GET", path):
            case Done(body):
                return body if (body.get("metadata") or {}).get("uid") == uid else Gone()
            case Refused() as refused if refused.is_absence:
                return Gone()
            case Refused(_, message) | NoAnswer(message):
                return NotDone(message)
            case reply:
                assert_never(reply)

    async def write_status(self, pool: PoolReference, status: Mapping[str, Any], may: May) -> Done | Gone | NotDone:
        """Write a pool's status."""
        body = {"metadata": {"uid": pool.uid}, "status": status}
        if not may():
            return NotDone(NOT_VALID)
        return _said(await self._api.call("PATCH", f"{pool.path}/status", body=body, patch=PatchType.MERGE))

    async def set_finalizer(self, pool: PoolReference, may: May, *, wanted: bool) -> Done | Gone | NotDone:
        """Put the operator's finalizer on a pool, or take it away; others' stay."""
        read = await self.read_pool(pool)
        if isinstance(read, Gone | NotDone):
            return read
        metadata = read["metadata"]
        present = list(metadata.get("finalizers") or ())
        if (POOL_FINALIZER in present) is wanted:
            return Done(read)
        finalizers = [*present, POOL_FINALIZER] if wanted else [name for name in present if name != POOL_FINALIZER]
        guard = {"uid": pool.uid, "resourceVersion": metadata["resourceVersion"]}
        body = {"metadata": guard | {"finalizers": finalizers}}
        if not may():
            return NotDone(NOT_VALID)
        return _said(await self._api.call("PATCH", pool.path, body=body, patch=PatchType.MERGE))


def _said(reply: Reply) -> Done | Gone | NotDone:
    match reply:
        case Done():
            return reply
        case Refused() as refused if refused.is_absence or refused.is_by_uid:
            return Gone()
        case Refused(_, message) | NoAnswer(message):
            return NotDone(message)
        case _:
            assert_never(reply)
