"""The census: which WorkLeases there are, by full lists, so that what vanished unseen is let go of.

Owns the knowledge of what was seen by the watches, by uid, and of whether the resource is served at all. Kopf makes no
DELETED event for what vanished between a watch and a re-list, and it idles for ever if the resource was not served when
it started. Must not decide anything about a lease: it says that an object is gone, or that Kopf does not watch.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, assert_never

from worklease.kubernetes_api import RESOURCE_PATH, Done, KubernetesApi, NoAnswer, Refused

EVERY: Final = 180.0
"""Seconds between two censuses if nothing asks for one: a ghost beats no longer, and a list of names is cheap."""

SPACING: Final = 2.0
"""Seconds from the wish for a census to its begin: one re-list of Kopf's is many events, and one wish."""

RETRY: Final = 5.0
"""Seconds before a census that said nothing, or not all, is taken again."""

BLIND: Final = 60.0
"""Seconds in which a watch must tell anything at all while there is an object that it never told of."""

LOOK: Final = 3.0
"""Seconds between two looks whether the resource is served: one small call, and what Kopf missed shows soon."""

PAGE: Final = 500
"""Objects listed in one call, as kubectl does."""

REMEMBERED: Final = 10_000
"""Uids of gone objects that are remembered: more than can be in an old list that is answered late."""

LIST_OF_METADATA: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
METADATA: Final = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Sighting:
    """An object as a watch told of it last."""

    namespace: str
    name: str
    at: float


class Census:
    """What was seen of the watched namespaces, and what is there.

    Args:
        api: The way to the API server.
        namespaces: The watched ones; none: all.
        unsee: Is told the uid of each object that is found to be gone.
        clock: The monotonic clock, in seconds.
    """

    def __init__(
        self,
        api: KubernetesApi,
        namespaces: tuple[str, ...],
        unsee: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        self._api = api
        self._scopes: tuple[str | None, ...] = namespaces or (None,)
        self._unsee = unsee
        self._clock = clock
        self._seen: dict[str, Sighting] = {}
        self._names: dict[tuple[str, str], str] = {}
        self._gone: set[str] = set()
        self._gone_in_order: deque[str] = deque()
        self._last_told: dict[str | None, float] = {}
        self._untold: dict[str, float] = {}
        self._wanted = asyncio.Event()
        self.blind = asyncio.Event()
        """Set when there is an object of which the watches do not tell; whoever mends that clears it."""

    # --- What is told by the watches ---------------------------------------------------------------------------

    def saw(self, namespace: str, name: str, uid: str) -> bool:
        """Take note of an object; returns whether it may be there: what is gone stays gone, whatever a list says."""
        if uid in self._gone:
            return False
        if self._names.get((namespace, name), uid) != uid:
            self.want()  # one of the two is gone, and the census finds out which
        self._names[namespace, name] = uid
        now = self._clock()
        self._seen[uid] = Sighting(namespace, name, now)
        self._last_told[self._scope(namespace)] = now
        self._untold.pop(uid, None)
        return True

    def gone(self, uid: str) -> None:
        """Take note that an object is no more; a uid never comes back."""
        self._untold.pop(uid, None)
        sighting = self._seen.pop(uid, None)
        if sighting is not None and self._names.get((sighting.namespace, sighting.name)) == uid:
            del self._names[sighting.namespace, sighting.name]
        if uid not in self._gone:
            self._gone.add(uid)
            self._gone_in_order.append(uid)
            if len(self._gone_in_order) > REMEMBERED:
                self._gone.remove(self._gone_in_order.popleft())

    def want(self) -> None:
        """Ask for a census soon: the watches may have missed something."""
        self._wanted.set()

    def _scope(self, namespace: str) -> str | None:
        return namespace if namespace in self._scopes else None

    # --- Taking it ---------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Take one at the start, whenever one is wanted, and every few minutes, until cancelled."""
        while True:
            is_complete = await self.take()
            wait = RETRY if not is_complete else BLIND if self._untold else EVERY
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._wanted.wait()
            await asyncio.sleep(SPACING)
            self._wanted.clear()

    async def take(self) -> bool:
        """Compare what was seen with what is there; returns whether all lists were complete."""
        is_complete = True
        for scope in self._scopes:
            began = self._clock()
            listed = await self._list(scope)
            if listed is None:
                is_complete = False
                continue
            is_complete &= await self._let_go(scope, listed, began)
            self._look_for_untold(scope, listed, began)
        return is_complete

    async def _let_go(self, scope: str | None, listed: set[str], began: float) -> bool:
        """Let go of what was seen before the list began and is not in it; returns whether all of that was certain."""
        is_certain = True
        missing = [
            (uid, sighting)
            for uid, sighting in self._seen.items()
            if uid not in listed and sighting.at < began and self._scope(sighting.namespace) == scope
        ]
        for uid, sighting in missing:
            # A list may be older than it should be; what is asked for by its name is as it is now.
            if await self._is_gone(uid, sighting):
                _log.info("resource vanished unseen namespace=%s name=%s uid=%s", sighting.namespace, sighting.name, uid)
                self.gone(uid)
                self._unsee(uid)
            else:
                is_certain = False
        return is_certain

    def _look_for_untold(self, scope: str | None, listed: set[str], began: float) -> None:
        """Find out whether a watch is blind: there is what it never told of, and it told of nothing else meanwhile."""
        untold = listed - self._seen.keys() - self._gone
        for uid in [uid for uid in self._untold if uid not in listed]:
            del self._untold[uid]
        since = [self._untold.setdefault(uid, began) for uid in untold]
        if since and began - max(min(since), self._last_told.get(scope, 0.0)) >= BLIND:
            _log.warning("the watches tell nothing of %d resources that are there", len(untold))
            self._untold.clear()
            self.blind.set()

    async def _list(self, scope: str | None) -> set[str] | None:
        """List the uids of a scope, page by page; None if not all of them could be had."""
        path = f"{RESOURCE_PATH}/workleases" if scope is None else f"{RESOURCE_PATH}/namespaces/{scope}/workleases"
        uids: set[str] = set()
        query = {"limit": str(PAGE)}
        while True:
            match await self._api.call("GET", path, query=query, accept=LIST_OF_METADATA):
                case Done(body):
                    uids.update(item["metadata"]["uid"] for item in body.get("items") or ())
                    token = (body.get("metadata") or {}).get("continue")
                    if not token:
                        return uids
                    query = query | {"continue": token}
                case Refused(_, message) | NoAnswer(message):
                    _log.warning("census not taken, will try again namespace=%s: %s", scope or "(all)", message)
                    return None
                case reply:
                    assert_never(reply)

    async def _is_gone(self, uid: str, sighting: Sighting) -> bool:
        """Ask for one object by its name; only an answer about that very object counts."""
        path = f"{RESOURCE_PATH}/namespaces/{sighting.namespace}/workleases/{sighting.name}"
        match await self._api.call("GET", path, accept=METADATA):
            case Done(body):
                return bool((body.get("metadata") or {}).get("uid") != uid)
            case Refused(status=HTTPStatus.NOT_FOUND):
                # Where the resource itself is not served, everything is answered so.
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
        if await self.is_served() is True:
            return
        _log.warning("WorkLeases are not served, waiting for their CRD: kubectl apply -f crds/workleases.yaml")
        while await self.is_served() is not True:
            await asyncio.sleep(LOOK)
        _log.info("WorkLeases are served")

    async def until_missed(self) -> str:
        """Wait until the watches must be started anew, and say why."""
        absent = asyncio.create_task(self._until_absent(), name="look for the resource")
        blind = asyncio.create_task(self.blind.wait(), name="look for what is not told of")
        try:
            await asyncio.wait({absent, blind}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            absent.cancel()
            blind.cancel()
        if self.blind.is_set():
            self.blind.clear()
            return "it does not tell of what is there"
        return "the resource was not served for a while"

    async def _until_absent(self) -> None:
        while await self.is_served() is not False:
            await asyncio.sleep(LOOK)
