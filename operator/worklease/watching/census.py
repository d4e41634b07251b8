"""The census: which WorkLeases and sandbox pods there are, by full lists, so that what vanished unseen is let go of.

Owns the knowledge of what the watches told of, by uid, and of whether WorkLeases are served at all. Kopf makes no
DELETED event for what vanished between a watch and a re-list, and it idles for ever if the resource was not served when
it started. Must not decide anything about a lease: it says that an object is gone, or that the watches missed one.
"""

import asyncio
import logging
import math
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, Protocol, assert_never

from worklease.api.names import ENVIRONMENT_LABEL, RESOURCE_PATH, WORK_LABEL
from worklease.cluster.client import METADATA, Done, KubernetesApi, NoAnswer, Refused
from worklease.cluster.paging import Page, list_pages

INTERVAL: Final = 180.0
"""Seconds between two censuses if nothing asks for one: a ghost beats no longer, and a list of names is cheap."""

SPACING: Final = 2.0
"""Seconds without another wish for a census until it begins: one re-list of Kopf's is many events, and many wishes."""

LONGEST_SPACING: Final = 30.0
"""Seconds for which ever new wishes put a census off."""

RETRY: Final = 5.0
"""Seconds before a census that said nothing, or not all, is taken again."""

BLIND_AFTER: Final = 60.0
"""Seconds in which a watch must tell anything at all while there is an object that it never told of."""

POLL_INTERVAL: Final = 3.0
"""Seconds between two looks whether the resource is served: one small call, and what Kopf missed shows soon."""

REMEMBERED: Final = 10_000
"""Uids of gone resources that are remembered: more than can be in an old list that is answered late."""

WHOLE: Final = "application/json"
LIST_OF_METADATA: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"

_log = logging.getLogger(__name__)

Scope = str | None
"""What one watch covers: a namespace, or all of them."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """An object as it was told of last."""

    namespace: str
    name: str
    at: float
    by_watch: bool
    """Whether a watch told of it, or the first list alone."""


class Roll:
    """The objects of one kind that were told of."""

    def __init__(self, api: str, plural: str, labels: str, scopes: tuple[Scope, ...]) -> None:
        self._api = api
        self._plural = plural
        self._scopes = scopes
        self._seen: dict[str, Sighting] = {}
        self._last_told: dict[Scope, float] = {}
        self._untold: dict[Scope, dict[str, float]] = defaultdict(dict)
        self.query = {"labelSelector": labels} if labels else {}
        """The parameters of a list."""

    def path(self, scope: Scope) -> str:
        """Give the path of a list, or of a namespace's objects."""
        return f"{self._api}/{self._plural}" if scope is None else f"{self._api}/namespaces/{scope}/{self._plural}"

    def saw(self, namespace: str, name: str, uid: str, now: float, *, by_watch: bool = True) -> None:
        """Take note of an object."""
        self._seen[uid] = Sighting(namespace, name, now, by_watch)
        if by_watch:
            self._last_told[self._scope(namespace)] = now

    def drop(self, uid: str) -> Sighting | None:
        """Forget an object; returns where it was seen."""
        return self._seen.pop(uid, None)

    def knows(self, uid: str) -> bool:
        """Tell whether an object was told of, and nobody said that it is gone."""
        return uid in self._seen

    def _is_watched(self, uid: str) -> bool:
        sighting = self._seen.get(uid)
        return sighting is not None and sighting.by_watch

    def _scope(self, namespace: str) -> Scope:
        return namespace if namespace in self._scopes else None

    def missing(self, scope: Scope, listed: set[str], began: float) -> dict[str, Sighting]:
        """Give what was seen before a complete list began, and is not in it."""
        return {
            uid: sighting
            for uid, sighting in self._seen.items()
            if uid not in listed and sighting.at < began and self._scope(sighting.namespace) == scope
        }

    def is_blind(self, scope: Scope, listed: set[str], began: float) -> bool:
        """Tell whether there is what the watch never told of, while it told of nothing else either."""
        since = self._untold[scope]
        self._untold[scope] = {uid: since.get(uid, began) for uid in listed if not self._is_watched(uid)}
        oldest = min(self._untold[scope].values(), default=began)
        if began - max(oldest, self._last_told.get(scope, oldest)) < BLIND_AFTER:
            return False
        _log.warning("the watch tells nothing of %d %s that are there", len(self._untold[scope]), self._plural)
        self._untold[scope].clear()
        return True

    @property
    def has_untold(self) -> bool:
        """Whether anything is there that no watch told of yet."""
        return any(self._untold.values())


class Listener(Protocol):
    """Who is told of what is found to be gone."""

    def unsee(self, uid: str) -> None:
        """Take note that a resource is no more."""

    def lose_pod(self, uid: str) -> None:
        """Take note that a pod is not found any more, under its labels at least."""

    def count_pods(self, there: Collection[str]) -> None:
        """Take note of the uids of all pods that are there."""


class Census:
    """What the watches told of, and what is there.

    Args:
        api: The way to the API server.
        namespaces: The watched ones; none: all.
        listener: Is told of what is found to be gone.
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
        self._resources = Roll(RESOURCE_PATH, "workleases", "", self._scopes)
        self._pods = Roll("/api/v1", "pods", f"{ENVIRONMENT_LABEL},{WORK_LABEL}", self._scopes)
        self._names: dict[tuple[str, str], str] = {}
        self._gone: set[str] = set()
        self._gone_in_order: deque[str] = deque()
        self._wanted_at = -math.inf
        self._first: set[str] | None = None
        self._wanted = asyncio.Event()
        self._blind = asyncio.Event()

    # --- What is told by the watches ---------------------------------------------------------------------------

    def saw(self, namespace: str, name: str, uid: str, *, by_watch: bool = True) -> bool:
        """Take note of a resource; returns whether it may be there: what is gone stays gone, whatever a list says."""
        if uid in self._gone:
            return False
        if self._names.get((namespace, name), uid) != uid:
            self.want()  # one of the two is gone, and the census finds out which
        self._names[namespace, name] = uid
        self._resources.saw(namespace, name, uid, self._clock(), by_watch=by_watch)
        return True

    def gone(self, uid: str) -> None:
        """Take note that a resource is no more; a uid never comes back."""
        sighting = self._resources.drop(uid)
        if sighting is not None and self._names.get((sighting.namespace, sighting.name)) == uid:
            del self._names[sighting.namespace, sighting.name]
        if uid not in self._gone:
            self._gone.add(uid)
            self._gone_in_order.append(uid)
            if len(self._gone_in_order) > REMEMBERED:
                self._gone.remove(self._gone_in_order.popleft())

    def saw_pod(self, namespace: str, name: str, uid: str) -> None:
        """Take note of a pod."""
        self._pods.saw(namespace, name, uid, self._clock())

    def lost_pod(self, uid: str) -> None:
        """Take note that a pod is out of the watches' sight; it comes back if only its labels were gone."""
        self._pods.drop(uid)

    def want(self) -> None:
        """Ask for a census soon: the watches may have missed something."""
        self._wanted_at = self._clock()
        self._wanted.set()

    def awaited(self) -> int | None:
        """Say how many resources of the first list were not told of yet; None: not all of that list is in."""
        if self._first is None:
            return None
        self._first = {uid for uid in self._first if uid not in self._gone and not self._resources.knows(uid)}
        return len(self._first)

    # --- Taking it ---------------------------------------------------------------------------------------------

    async def first(self) -> AsyncIterator[Page]:
        """List the resources, whole, page by page, and count the pods: what is there before any watch tells of it."""
        resources: set[str] = set()
        is_complete = True
        for scope in self._scopes:
            async for page in self._pages(self._resources, scope, WHOLE):
                if page is None:
                    is_complete = False
                else:
                    resources.update(item["metadata"]["uid"] for item in page)
                    yield page
        if is_complete:
            self._first = resources
        await self._take_pods()

    async def run(self) -> None:
        """Take one soon after the start, whenever one is wanted, and every few minutes, until cancelled."""
        with suppress(TimeoutError):
            async with asyncio.timeout(RETRY):
                await self._wanted.wait()
        await self._until_quiet()
        while True:
            self._wanted.clear()
            is_complete = await self.take()
            has_untold = self._resources.has_untold or self._pods.has_untold
            with suppress(TimeoutError):
                async with asyncio.timeout(RETRY if not is_complete else BLIND_AFTER if has_untold else INTERVAL):
                    await self._wanted.wait()
            await self._until_quiet()

    async def _until_quiet(self) -> None:
        """Wait until nothing has made a census wanted for a while."""
        began = now = self._clock()
        until = max(self._wanted_at, began) + SPACING
        while now < min(until, began + LONGEST_SPACING):
            await asyncio.sleep(until - now)
            now, until = self._clock(), self._wanted_at + SPACING

    async def take(self) -> bool:
        """Compare what was seen with what is there; returns whether all of it could be found out."""
        resources = [await self._take(self._resources, scope) for scope in self._scopes]
        if (listed := _together(resources)) is not None:
            # What vanishes before anybody tells of it is not waited for.
            self._first = listed if self._first is None else self._first & listed
        return await self._take_pods() and listed is not None

    async def _take_pods(self) -> bool:
        listed = _together([await self._take(self._pods, scope) for scope in self._scopes])
        if listed is not None:
            self._listener.count_pods(listed)
        return listed is not None

    async def _take(self, roll: Roll, scope: Scope) -> set[str] | None:
        """Take it of one kind in one scope; gives what is listed, None if not all of it could be found out."""
        began = self._clock()
        listed: set[str] = set()
        async for page in self._pages(roll, scope, LIST_OF_METADATA):
            if page is None:
                return None
            listed.update(item["metadata"]["uid"] for item in page)
        if roll.is_blind(scope, listed - self._gone, began):
            self._blind.set()
        settled = [await self._settle(roll, uid, seen) for uid, seen in roll.missing(scope, listed, began).items()]
        return listed if all(settled) else None

    async def _pages(self, roll: Roll, scope: Scope, accept: str) -> AsyncIterator[Page | None]:
        """List the objects of a scope, page by page; None, as the last, if not all of them could be had."""
        async for page in list_pages(self._api, roll.path(scope), roll.query, accept=accept):
            if isinstance(page, Refused | NoAnswer):
                _log.warning("census not taken, will try again path=%s: %s", roll.path(scope), page.message)
                yield None
            else:
                yield page

    async def _settle(self, roll: Roll, uid: str, sighting: Sighting) -> bool:
        """Let go of what is not listed any more; returns whether it is certain what became of it."""
        if roll is self._pods:
            # Whoever bound it looks after it by itself: it may have lost a label only.
            self._pods.drop(uid)
            self._listener.lose_pod(uid)
            return True
        if not await self._is_gone(uid, sighting):
            return False
        _log.info("resource vanished unseen namespace=%s name=%s uid=%s", sighting.namespace, sighting.name, uid)
        self.gone(uid)
        self._listener.unsee(uid)
        return True

    async def _is_gone(self, uid: str, sighting: Sighting) -> bool:
        """Ask for a resource by its name: a list may be older than it should be, but not what is asked for so."""
        path = f"{self._resources.path(sighting.namespace)}/{sighting.name}"
        match await self._api.call("GET", path, accept=METADATA):
            case Done(body):
                return bool((body.get("metadata") or {}).get("uid") != uid)
            case Refused() as refused if refused.is_absence:
                # Where the resource itself is not served, some servers answer everything so.
                return await self.is_served() is True
            case Refused() | NoAnswer():
                return False
            case reply:
                assert_never(reply)

    # --- Whether there is anything to watch --------------------------------------------------------------------

    async def is_served(self) -> bool | None:
        """Ask whether the API server serves WorkLeases; None if it does not say."""
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
        told: bool | None = True
        while (served := await self.is_served()) is not True:
            if served is not told:
                _log.warning("waiting for WorkLeases to be served: %s", _WHY[served])
            told = served
            await asyncio.sleep(POLL_INTERVAL)
        if told is not True:
            _log.info("WorkLeases are served again")

    async def until_missed(self) -> str:
        """Wait until the watches must be started anew, and say why."""
        looking = {
            asyncio.create_task(self._until_served_again(), name="look for the resource"),
            asyncio.create_task(self._until_blind(), name="look for what is not told of"),
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
        return "it does not tell of what is there"


def _together(listed: Sequence[set[str] | None]) -> set[str] | None:
    """Give all that was listed, if all of it could be found out."""
    known = [each for each in listed if each is not None]
    return set().union(*known) if len(known) == len(listed) else None


_WHY: Final = {
    False: "their CRD is not there (kubectl apply -f crds/workleases.yaml)",
    None: "the Kubernetes API does not say whether their CRD is there",
}
