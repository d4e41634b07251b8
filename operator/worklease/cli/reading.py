"""What the command line reads from the Kubernetes API: WorkLeases, WorkPools, events, a pod.

Owns these calls and the messages for their errors. It must not write, but for the name of an installation that a person
has removed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, assert_never

from worklease.api.names import BUCKET_LABEL, LIVENESS_LABEL, PLURAL, POOL_PLURAL, RESOURCE_PATH
from worklease.cli.leases import LeaseView, read
from worklease.cli.pools import PoolView, read_pool
from worklease.cli.processes import BucketView, ProcessView, read_buckets, read_processes
from worklease.cluster.client import METADATA_LIST, Done, Gone, KubernetesApi, NoAnswer, NotDone, Refused
from worklease.cluster.installation_lease import Overwritten, write_name
from worklease.cluster.paging import list_pages
from worklease.rules.words import one_line


class Unreadable(Exception):
    """Something cannot be read; the message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class NamedObject:
    """A WorkLease or a WorkPool, and the installation of the operator that it names; empty if it names none."""

    path: str
    version: str
    installation: str

    def __str__(self) -> str:
        """Return it as kubectl names it."""
        kind, name = self.path.split("/")[-2:]
        return f"{kind.removesuffix('s')}/{name}"


class Reader:
    """Reads objects with the rights of the person who runs the command."""

    def __init__(self, api: KubernetesApi) -> None:
        self._api = api

    async def leases(self, namespace: str | None, selector: str | None = None) -> list[LeaseView]:
        """Return the leases of a namespace; of all namespaces if it is None.

        Raises:
            Unreadable: They cannot be listed.
        """
        path = f"{RESOURCE_PATH}/workleases" if namespace is None else f"{_in(namespace)}/workleases"
        return [read(body) for body in await self._list(path, {"labelSelector": selector} if selector else {})]

    async def lease(self, namespace: str, name: str) -> LeaseView:
        """Return one lease.

        Raises:
            Unreadable: It cannot be read, or does not exist.
        """
        return read(await self._get(f"{_in(namespace)}/workleases/{name}", f"WorkLease {namespace}/{name}"))

    async def pools(self, namespace: str | None) -> list[PoolView]:
        """Return the pools of a namespace, of all namespaces if it is None; none, if this person may not read them."""
        path = f"{RESOURCE_PATH}/workpools" if namespace is None else f"{_in(namespace)}/workpools"
        return [read_pool(body) for body in await self._list_if_allowed(path, {})]

    async def pool(self, namespace: str, name: str) -> PoolView:
        """Return one pool.

        Raises:
            Unreadable: It cannot be read, or does not exist.
        """
        return read_pool(await self._get(f"{_in(namespace)}/workpools/{name}", f"WorkPool {namespace}/{name}"))

    async def events(self, namespace: str, uid: str) -> list[Mapping[str, Any]]:
        """Return the events about one object.

        Raises:
            Unreadable: They cannot be listed.
        """
        query = {"fieldSelector": f"involvedObject.uid={uid}"}
        return await self._list(f"/api/v1/namespaces/{namespace}/events", query)

    async def pod(self, namespace: str, name: str) -> Mapping[str, Any] | None:
        """Return a pod; None if no pod has that name.

        Raises:
            Unreadable: It cannot be read.
        """
        match await self._api.call("GET", f"/api/v1/namespaces/{namespace}/pods/{name}"):
            case Refused() as refused if refused.is_absence:
                return None
            case Done(body):
                return _object(body)
            case Refused(_, message) | NoAnswer(message):
                raise Unreadable(f"pod {namespace}/{name} cannot be read: {message}")
            case reply:
                assert_never(reply)

    async def named(self, namespace: str, name: str) -> NamedObject:
        """Return a WorkLease, or ``workpool/NAME``, with the installation that keeps it.

        Raises:
            Unreadable: It cannot be read, or does not exist.
        """
        kind, _, bare = name.rpartition("/")
        plural = POOL_PLURAL if kind in {"workpool", "workpools", "wp"} else PLURAL
        path = f"{_in(namespace)}/{plural}/{bare}"
        body = await self._get(path, f"{plural.removesuffix('s')} {namespace}/{bare}")
        named = str((body.get("status") or {}).get("operator") or "")
        return NamedObject(path, str(body["metadata"]["resourceVersion"]), named)

    async def release(self, found: NamedObject) -> None:
        """Remove the name of the installation from an object that is still as it was read.

        Raises:
            Unreadable: It was not done.
        """
        match await write_name(self._api, found.path, found.version, None):
            case Overwritten() | Gone():
                raise Unreadable(f"{found} has changed meanwhile, so nothing was done: look again")
            case NotDone(message):
                raise Unreadable(f"{found} was not changed: {message}")
            case _:
                pass

    async def processes(self) -> tuple[list[ProcessView], list[BucketView]]:
        """Return the processes of all operators and their buckets; none, if this person may not read them."""
        labelled = {"labelSelector": BUCKET_LABEL}
        buckets = await self._list_if_allowed("/api/v1/configmaps", labelled, accept=METADATA_LIST)
        labelled = {"labelSelector": LIVENESS_LABEL}
        leases = await self._list_if_allowed("/apis/coordination.k8s.io/v1/leases", labelled)
        shown = read_buckets(buckets)
        return read_processes(leases, shown), shown

    async def _list_if_allowed(
        self, path: str, query: Mapping[str, str], *, accept: str = "application/json"
    ) -> list[Mapping[str, Any]]:
        found: list[Mapping[str, Any]] = []
        async for page in list_pages(self._api, path, query, accept=accept):
            if not isinstance(page, Refused | NoAnswer):
                found += map(_object, page)
        return found

    async def _get(self, path: str, what: str) -> Mapping[str, Any]:
        match await self._api.call("GET", path):
            case Done(body):
                return _object(body)
            case Refused() as refused if refused.is_absence:
                raise Unreadable(f"{what} does not exist; worklease status -A lists those that do")
            case Refused() | NoAnswer() as reply:
                raise Unreadable(_why(self._api, reply))
            case reply:
                assert_never(reply)

    async def _list(self, path: str, query: Mapping[str, str]) -> list[Mapping[str, Any]]:
        found: list[Mapping[str, Any]] = []
        async for page in list_pages(self._api, path, query):
            if isinstance(page, Refused | NoAnswer):
                raise Unreadable(_why(self._api, page))
            found += map(_object, page)
        return found


def _object(body: Mapping[str, Any]) -> Mapping[str, Any]:
    return {name: _printable(value) for name, value in body.items()}


def _printable(part: Any) -> Any:
    """Return an object, or a part of it, whose texts can be printed: anybody may have written into it."""
    match part:
        case str():
            return one_line(part)
        case Mapping():
            return {name: _printable(value) for name, value in part.items()}
        case list():
            return [_printable(each) for each in part]
        case _:
            return part


def _in(namespace: str) -> str:
    return f"{RESOURCE_PATH}/namespaces/{namespace}"


def _why(api: KubernetesApi, reply: Refused | NoAnswer) -> str:
    match reply:
        case Refused(status=HTTPStatus.NOT_FOUND):
            return f"the cluster at {api.server} has no WorkLeases: their CRD is not installed"
        case Refused(_, message) | NoAnswer(message):
            return message
