"""Kopf: the timer, and the events of resources and pods. Adapters of a few lines, no decisions.

Owns Kopf's handlers and settings. Kopf runs in a thread and a loop of its own (see ``supervisor``), so each handler
posts to the keeper's loop. Nothing is written through Kopf's patch: a write of Kopf's that fails ends the object's
timer, silently and for good.
"""

from collections.abc import Iterator
from typing import Any, Final
from urllib.request import getproxies

import kopf

from worklease.api.names import ENVIRONMENT_LABEL, PODS, POOLS, RESOURCE, TIMER_FINALIZER, WORK_LABEL
from worklease.watching.bridge import Bridge
from worklease.watching.paced_session import PAGE, PacedSession, find_credentials

TIMER_INTERVAL: Final = 3600.0
"""Seconds between two calls of a timer: the first one begins the lease's turns, and later ones find them going on."""


class EndlessBackoff:
    """Back-offs that never end: when they end, Kopf's lists end, and with them the whole of Kopf.

    An object, not a generator, since each request begins with the first back-off.
    """

    def __iter__(self) -> Iterator[float]:
        """Yield the seconds before each next try of one request."""
        yield from (0.5, 1.0, 2.0)
        while True:
            yield 5.0


class NoDiffBase(kopf.DiffBaseStorage):
    """Keeps no earlier state of an object: Kopf would copy each object at each event to compare it with that.

    Only handlers of changes need the difference, and there are none.
    """

    def build(self, **_: Any) -> kopf.BodyEssence:
        """Return nothing to compare."""
        return kopf.BodyEssence()

    def fetch(self, **_: Any) -> kopf.BodyEssence | None:
        """Return no earlier state."""
        return None

    def store(self, **_: Any) -> None:
        """Store nothing."""


def register(bridge: Bridge) -> kopf.OperatorRegistry:
    """Return Kopf's handlers, bound to a keeper."""
    registry = kopf.OperatorRegistry()

    session = PacedSession(lambda: bridge.received)

    @kopf.on.login(registry=registry)
    async def login(**arguments: Any) -> kopf.AiohttpSession | None:
        found = await find_credentials(**arguments)
        return None if found is None else await session.open(found)

    @kopf.timer(*RESOURCE, registry=registry, id="heartbeat", interval=TIMER_INTERVAL)
    async def heartbeat(uid: str, **_: Any) -> None:
        # The resource itself was reported by its event, which comes before its timer.
        bridge.post(bridge.carry, uid)

    # Not plain functions: Kopf runs those in a thread each, which takes three changes of the thread for every event.
    @kopf.on.event(*RESOURCE, registry=registry, id="resource")
    async def resource(event: kopf.RawEvent, **_: Any) -> None:
        body = _take_over(event["object"])
        match event["type"]:
            case "DELETED":
                bridge.post(bridge.unsee, body)
            case None:
                bridge.post(bridge.see_listed, body)
            case _:
                bridge.post(bridge.see, body)

    if bridge.pools is not None:

        @kopf.on.event(*POOLS, registry=registry, id="pool")
        async def pool(event: kopf.RawEvent, **_: Any) -> None:
            body = _take_over(event["object"])
            bridge.post(bridge.unsee_pool if event["type"] == "DELETED" else bridge.see_pool, body)

    labels = {ENVIRONMENT_LABEL: kopf.PRESENT, WORK_LABEL: kopf.PRESENT}

    @kopf.on.event(*PODS, registry=registry, id="pod", labels=labels)
    async def pod(event: kopf.RawEvent, **_: Any) -> None:
        body = _take_over(event["object"])
        match event["type"]:
            case "DELETED":
                bridge.post(bridge.unsee_pod, body)
            case None:
                bridge.post(bridge.see_listed_pod, body)
            case _:
                bridge.post(bridge.see_pod, body)

    return registry


def _take_over(body: Any) -> dict[str, Any]:
    """Copy a body, and remove from Kopf's own what only the operator needs.

    Kopf keeps the latest body of each object for as long as the object has a timer; what is removed is ten times the
    size of what Kopf needs.
    """
    taken = dict(body)
    for part in ("spec", "status"):
        body.pop(part, None)
    body["metadata"].pop("managedFields", None)
    return taken


def settings() -> kopf.OperatorSettings:
    """Return Kopf's settings, each with its reason."""
    chosen = kopf.OperatorSettings()
    # So many seconds after an error has ended Kopf, it would kill the whole process, with all its leases.
    chosen.process.ultimate_exiting_timeout = None
    # The operator writes its own events; Kopf would post one for each log line.
    chosen.posting.enabled = False
    # Each process watches everything; who keeps what, the processes settle among themselves.
    chosen.peering.standalone = True
    # The discovery of CRDs and namespaces needs cluster-wide rights, and retries a 403 for ever.
    chosen.scanning.disabled = True
    # Timers go on during an outage of the API server, however long it lasts.
    chosen.networking.error_backoffs = EndlessBackoff()
    # A call that hangs is repeated; the default of five minutes is longer than a lease.
    chosen.networking.request_timeout = 10.0
    # With trust_env, aiohttp looks for a password in ~/.netrc before each request: only a proxy is worth that.
    chosen.networking.trust_env = bool(getproxies())
    chosen.persistence.finalizer = TIMER_FINALIZER
    chosen.persistence.diffbase_storage = NoDiffBase()
    # The server ends each watch after this time, so that a watch that died silently is noticed.
    # (An integer: the API server refuses 300.0.)
    chosen.watching.server_timeout = 300
    chosen.watching.connect_timeout = 10.0
    chosen.watching.chunk_size = PAGE
    # Each object's worker uses a connection for the finalizer: thousands at once would time out together.
    chosen.queueing.worker_limit = 128
    # A worker that waits for another event of its object keeps its place; another event is rare.
    chosen.queueing.idle_timeout = 0.02
    # Only handlers of changes would need to wait until a write comes back as an event.
    chosen.persistence.consistency_timeout = 0.0
    # The API server sends only the pods of work items.
    chosen.watching.label_selectors["", "v1", "pods"] = f"{ENVIRONMENT_LABEL},{WORK_LABEL}"
    # A timer ends within milliseconds after it is told to; polling for its end would write an annotation.
    chosen.background.instant_exit_timeout = 0.1
    return chosen
