"""The census: full lists of all WorkLeases and sandbox pods, which find what vanished without a watch's report.

Owns the comparison of the lists with what the watches reported, and the question whether WorkLeases are served at all.
Kopf makes no DELETED event for what vanished between a watch and the next list, and it idles for ever if the resource
was not served when Kopf started. Must not decide anything about a lease: it says that an object is gone, or that the
watches missed one.
"""

import asyncio
import logging
import math
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Any, Final, Protocol, assert_never

from worklease.api.names import BUCKET_LABEL, ENVIRONMENT_LABEL, RESOURCE_PATH, WORK_LABEL
from worklease.cluster.client import METADATA, METADATA_LIST, Done, KubernetesApi, NoAnswer, Refused
from worklease.cluster.paging import Page, list_pages
from worklease.watching.known_objects import BLIND_AFTER, KnownObjects, Scope, Sighting, identity

INTERVAL: Final = 180.0
"""Seconds between two censuses if nothing asks for one: beats for a resource that vanished go on no longer than that,
and a list of names is cheap."""

SPACING: Final = 2.0
"""Seconds without another request for a census before it begins: one list of Kopf's makes many events, and many
requests."""

LONGEST_SPACING: Final = 30.0
"""Seconds for which further requests can put a census off: beats for a resource that vanished go on meanwhile."""

RETRY: Final = 5.0
"""Seconds before a census that failed, or is incomplete, is taken again."""

POLL_INTERVAL: Final = 3.0
"""Seconds between two checks whether the resource is served: it is one small call, and finds soon what Kopf missed."""

SETTLE: Final = 3.0
"""Seconds that a watch has to report what a list has in a newer version: as a rule it does within milliseconds."""

MOST_READ: Final = 200
"""Objects that one census reads because the watch lost their events: what is left comes with the next."""

REMEMBERED: Final = 10_000
"""Uids of gone resources that are remembered: more than an old list can contain that is answered late."""

WHOLE: Final = "application/json"

_log = logging.getLogger(__name__)


class Listener(Protocol):
    """Takes note of what a census finds: the keeper."""

    def see(self, body: Mapping[str, Any]) -> None:
        """Take note of a resource as it is now."""

    def see_pod(self, body: Mapping[str, Any]) -> None:
        """Take note of a pod as it is now."""

    def unsee(self, uid: str) -> None:
        """Take note that a resource is gone."""

    def lose_pod(self, uid: str) -> None:
        """Take note that a pod is not found any more, at least not under its labels."""

    def count(self, there: Collection[str]) -> None:
        """Take note of the uids of all resources that are there."""

    def count_pods(self, there: Collection[str]) -> None:
        """Take note of the uids of all pods that are there."""


class Census:
    """Compares what the watches reported with what exists.

    Args:
        api: The way to the API server.
        namespaces: The watched namespaces; none: all.
        listener: Takes note of what is found to be gone.
        clock: The monotonic clock, in seconds.
    """

    def __init__(
        self,
        api: KubernetesApi,
        namespaces: tuple[str, ...],
        listener: Listener,
        clock: Callable[[], float],
    ) -> None:
        self._api = api
        self._scopes: tuple[Scope, ...] = namespaces or (None,)
        self._listener = listener
        self._clock = clock
        self._resources = KnownObjects(RESOURCE_PATH, "workleases", "", self._scopes)
        self._pods = KnownObjects("/api/v1", "pods", f"{ENVIRONMENT_LABEL},{WORK_LABEL}", self._scopes)
        self._names: dict[tuple[str, str], str] = {}
        self._gone: set[str] = set()
        self._gone_in_order: deque[str] = deque()
        self._left_out: set[str] = set()
        """The paths of lists that the API server refuses: those of namespaces that are gone, with their rights."""
        self._wanted_at = -math.inf
        self._first: set[str] | None = None
        self._wanted = asyncio.Event()
        self._blind = asyncio.Event()

    # --- What the watches report -------------------------------------------------------------------------------

    def saw(self, namespace: str, name: str, uid: str, version: str = "", *, by_watch: bool = True) -> bool:
        """Take note of a resource, and return whether it may exist: what is gone stays gone, whatever a list says."""
        if uid in self._gone:
            return False
        if self._names.get((namespace, name), uid) != uid:
            self.want()  # one of the two is gone, and a census finds out which
        self._names[namespace, name] = uid
        self._resources.saw(namespace, name, uid, self._clock(), version=version, by_watch=by_watch)
        return True

    def gone(self, uid: str) -> None:
        """Take note that a resource is gone; its uid never comes back."""
        sighting = self._resources.drop(uid)
        if sighting is not None and self._names.get((sighting.namespace, sighting.name)) == uid:
            del self._names[sighting.namespace, sighting.name]
        if uid not in self._gone:
            self._gone.add(uid)
            self._gone_in_order.append(uid)
            if len(self._gone_in_order) > REMEMBERED:
                self._gone.remove(self._gone_in_order.popleft())

    def saw_pod(self, namespace: str, name: str, uid: str, version: str = "") -> None:
        """Take note of a pod."""
        self._pods.saw(namespace, name, uid, self._clock(), version=version)

    def lost_pod(self, uid: str) -> None:
        """Take note that the watches do not see a pod any more; it comes back if only its labels were gone."""
        self._pods.drop(uid)

    def want(self) -> None:
        """Ask for a census soon: the watches may have missed something."""
        self._wanted_at = self._clock()
        self._wanted.set()

    def awaited(self) -> int | None:
        """Return how many resources of the first list were not reported yet; None while that list is incomplete."""
        if self._first is None:
            return None
        self._first = {uid for uid in self._first if uid not in self._gone and not self._resources.knows(uid)}
        return len(self._first)

    # --- Taking a census ---------------------------------------------------------------------------------------

    async def first(self) -> AsyncIterator[Page]:
        """List the whole resources, page by page, and count the pods: what exists before any watch reports it."""
        resources: set[str] = set()
        is_complete = True
        for scope in self._scopes:
            async for page in self._pages(self._resources, scope, WHOLE):
                if page is None:
                    is_complete = is_complete and self._is_left_out(self._resources, scope)
                else:
                    resources.update(item["metadata"]["uid"] for item in page)
                    yield page
        if is_complete:
            self._first = resources
        await self._take_pods()

    async def again(self) -> AsyncIterator[Page | None]:
        """List the whole resources once more, page by page; None, as the last, if the list is incomplete."""
        for scope in self._scopes:
            async for page in self._pages(self._resources, scope, WHOLE):
                if page is not None or not self._is_left_out(self._resources, scope):
                    yield page

    async def in_buckets(self, buckets: Collection[int], *, by_label: bool) -> AsyncIterator[Page]:
        """List the whole resources of some buckets; not by their label: all resources, since some have none yet."""
        numbers = ",".join(map(str, sorted(buckets)))
        query = {"labelSelector": f"{BUCKET_LABEL} in ({numbers})"} if by_label else {}
        for scope in self._scopes:
            async for page in list_pages(self._api, self._resources.path(scope), query):
                if not isinstance(page, Refused | NoAnswer):
                    yield page

    async def run(self) -> None:
        """Take a census soon after the start, on each request, and every few minutes, until cancelled."""
        with suppress(TimeoutError):
            async with asyncio.timeout(RETRY):
                await self._wanted.wait()
        await self._until_quiet()
        while True:
            self._wanted.clear()
            is_complete = await self.take()
            has_unreported = self._resources.has_unreported or self._pods.has_unreported
            with suppress(TimeoutError):
                async with asyncio.timeout(RETRY if not is_complete else BLIND_AFTER if has_unreported else INTERVAL):
                    await self._wanted.wait()
            await self._until_quiet()

    async def _until_quiet(self) -> None:
        """Wait until no census was asked for during a while."""
        began = now = self._clock()
        until = max(self._wanted_at, began) + SPACING
        while now < min(until, began + LONGEST_SPACING):
            await asyncio.sleep(until - now)
            now, until = self._clock(), self._wanted_at + SPACING

    async def take(self) -> bool:
        """Compare what was seen with what exists; return whether the comparison is complete."""
        resources = [await self._take(self._resources, scope) for scope in self._scopes]
        if (listed := _together(resources)) is not None:
            # A resource that vanishes before a watch reports it is not waited for.
            self._first = listed if self._first is None else self._first & listed
            if not any(self._is_left_out(self._resources, scope) for scope in self._scopes):
                self._listener.count(listed)
        return await self._take_pods() and listed is not None

    async def _take_pods(self) -> bool:
        listed = _together([await self._take(self._pods, scope) for scope in self._scopes])
        if listed is not None:
            self._listener.count_pods(listed)
        return listed is not None

    async def _take(self, known: KnownObjects, scope: Scope) -> set[str] | None:
        """Compare one kind in one scope; return the listed uids, or None if the comparison is incomplete."""
        began = self._clock()
        versions: dict[str, str] = {}
        async for page in self._pages(known, scope, METADATA_LIST):
            if page is None:
                # Nothing is known of a namespace that is left out, and nothing is waited for there.
                return set() if self._is_left_out(known, scope) else None
            versions.update((item["metadata"]["uid"], item["metadata"]["resourceVersion"]) for item in page)
        listed = set(versions)
        if known.is_blind(scope, listed - self._gone, began):
            self._blind.set()
        await self._read_lost(known, versions, began)
        settled = [await self._settle(known, uid, seen) for uid, seen in known.missing(scope, listed, began).items()]
        return listed if all(settled) else None

    async def _read_lost(self, known: KnownObjects, versions: Mapping[str, str], began: float) -> None:
        """Read what a watch lost an event of: a pod's failure, an edit, a deletion mark. Its newest state makes up."""
        if not known.outdated(versions, began):
            return
        await asyncio.sleep(SETTLE)
        lost = list(known.outdated(versions, began).values())
        if lost:
            first = f"{lost[0].namespace}/{lost[0].name}"
            _log.warning("the watch of %s lost events, will read count=%d first=%s", known.plural, len(lost), first)
        for sighting in lost[:MOST_READ]:
            path = f"{known.path(sighting.namespace)}/{sighting.name}"
            match await self._api.call("GET", path):
                case Done(body):
                    self._take_over(known, body)
                case Refused() | NoAnswer():
                    pass  # what is gone is found by its absence, and what is not answered by the next census
                case reply:
                    assert_never(reply)

    def _take_over(self, known: KnownObjects, body: Mapping[str, Any]) -> None:
        """Report an object as it was read."""
        reported = identity(body["metadata"])
        if known is self._pods:
            self.saw_pod(*reported)
            self._listener.see_pod(body)
        elif self.saw(*reported):
            self._listener.see(body)

    async def _pages(self, known: KnownObjects, scope: Scope, accept: str) -> AsyncIterator[Page | None]:
        """List the objects of a scope, page by page; None, as the last, if the list is incomplete."""
        async for page in list_pages(self._api, known.path(scope), known.query, accept=accept):
            path, where = known.path(scope), (known.plural, scope or "all")
            if isinstance(page, Refused) and page.status == HTTPStatus.FORBIDDEN and len(self._scopes) > 1:
                if path not in self._left_out:
                    self._left_out.add(path)
                    _log.warning("left out until its rights are back kind=%s namespace=%s: %s", *where, page.message)
                yield None
            elif isinstance(page, Refused | NoAnswer):
                self._left_out.discard(path)
                _log.warning("census not taken, will try again kind=%s namespace=%s: %s", *where, page.message)
                yield None
            else:
                if path in self._left_out:
                    self._left_out.discard(path)
                    _log.info("can be read again kind=%s namespace=%s", *where)
                yield page

    def _is_left_out(self, known: KnownObjects, scope: Scope) -> bool:
        """Whether a namespace, one of several, does not grant its rights any more."""
        return known.path(scope) in self._left_out

    async def _settle(self, known: KnownObjects, uid: str, sighting: Sighting) -> bool:
        """Report what is not listed any more as gone; return whether that is certain."""
        if known is self._pods:
            # A lease that bound the pod looks for it by its name: it may have lost no more than a label.
            self._pods.drop(uid)
            self._listener.lose_pod(uid)
            return True
        if not await self._is_gone(uid, sighting):
            return False
        _log.info(
            "resource vanished without a watch's report namespace=%s name=%s uid=%s",
            sighting.namespace,
            sighting.name,
            uid,
        )
        self.gone(uid)
        self._listener.unsee(uid)
        return True

    async def _is_gone(self, uid: str, sighting: Sighting) -> bool:
        """Read a resource by its name: a list may be outdated, such a read is not."""
        path = f"{self._resources.path(sighting.namespace)}/{sighting.name}"
        match await self._api.call("GET", path, accept=METADATA):
            case Done(body):
                return bool((body.get("metadata") or {}).get("uid") != uid)
            case Refused() as refused if refused.is_absence:
                # Where the whole kind is not served, some servers give the same answer.
                return await self.is_served() is True
            case Refused() | NoAnswer():
                return False
            case reply:
                assert_never(reply)

    # --- Whether there is anything to watch, and whether the watches see it ------------------------------------

    async def is_served(self) -> bool | None:
        """Ask whether the API server serves WorkLeases; return None if it does not say."""
        match await self._api.call("GET", RESOURCE_PATH):
            case Done(body):
                return any(entry.get("name") == "workleases" for entry in body.get("resources") or ())
            case Refused(status=HTTPStatus.NOT_FOUND):
                return False
            case Refused() | NoAnswer():
                return None
            case reply:
                assert_never(reply)

    async def until_served(self) -> None:
        """Wait until WorkLeases are served."""
        logged: bool | None = True
        while (served := await self.is_served()) is not True:
            if served is not logged:
                _log.warning("waiting for WorkLeases to be served: %s", _WHY_NOT_SERVED[served])
            logged = served
            await asyncio.sleep(POLL_INTERVAL)
        if logged is not True:
            _log.info("WorkLeases are served again")

    async def until_missed(self) -> str:
        """Wait until the watches must be started again, and return why."""
        looking = {
            asyncio.create_task(self._until_served_again(), name="look for the resource"),
            asyncio.create_task(self._until_blind(), name="look for what is not reported"),
        }
        try:
            done, _ = await asyncio.wait(looking, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in looking:
                task.cancel()
        return done.pop().result()

    async def _until_served_again(self) -> str:
        while await self.is_served() is not False:  # noqa: ASYNC110 (a server's state has no event)
            await asyncio.sleep(POLL_INTERVAL)
        await self.until_served()
        return "WorkLeases were not served for a while"

    async def _until_blind(self) -> str:
        await self._blind.wait()
        self._blind.clear()
        return "it does not report what exists"


def _together(listed: Sequence[set[str] | None]) -> set[str] | None:
    """Return all uids that were listed, or None if a list is incomplete."""
    complete = [each for each in listed if each is not None]
    return set().union(*complete) if len(complete) == len(listed) else None


_WHY_NOT_SERVED: Final = {
    False: "their CRD is not installed (kubectl apply -f crds/workleases.yaml)",
    None: "the Kubernetes API does not say whether their CRD is installed",
}
