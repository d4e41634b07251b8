"""Kopf: the timer, and the events of resources and pods. Adapters of a few lines, no decisions.

Owns Kopf's handlers and settings. Kopf runs in a thread and a loop of its own (see ``watches``), so each handler hands
over to the keeper's loop. Nothing is written through Kopf's patch: a write of its own that fails ends the object's
timer, silently and for good.
"""

from collections.abc import Iterator
from typing import Any, Final
from urllib.request import getproxies

import kopf

from worklease.api.names import ENVIRONMENT_LABEL, PODS, RESOURCE, TIMER_FINALIZER, WORK_LABEL
from worklease.watching.bridge import Bridge
from worklease.watching.paced_session import PAGE, PacedSession, find_credentials

TIMER_INTERVAL: Final = 3600.0
"""Seconds between two calls of a timer: the first begins its lease's turns, and the others find that they go on."""


class EndlessBackoff:
    """Back-offs that never end: Kopf's lists do, and then the whole of Kopf does.

    An object, not a generator, since each request begins anew.
    """

    def __iter__(self) -> Iterator[float]:
        """Give the seconds before each next try of one request."""
        yield from (0.5, 1.0, 2.0)
        while True:
            yield 5.0


class NoDiffBase(kopf.DiffBaseStorage):
    """No memory of what an object was like: Kopf would copy each object at each event to compare it with that.

    Only handlers of changes go by the difference, and there are none.
    """

    def build(self, **_: Any) -> kopf.BodyEssence:
        """Give nothing to compare."""
        return kopf.BodyEssence()

    def fetch(self, **_: Any) -> kopf.BodyEssence | None:
        """Remember nothing."""
        return None

    def store(self, **_: Any) -> None:
        """Store nothing."""


def register(bridge: Bridge) -> kopf.OperatorRegistry:
    """Give Kopf's handlers, bound to a keeper."""
    registry = kopf.OperatorRegistry()

    intake = PacedSession(lambda: bridge.heard)

    @kopf.on.login(registry=registry)
    async def login(**arguments: Any) -> kopf.AiohttpSession | None:
        found = await find_credentials(**arguments)
        return None if found is None else await intake.open(found)

    @kopf.timer(*RESOURCE, registry=registry, id="heartbeat", interval=TIMER_INTERVAL)
    async def heartbeat(uid: str, **_: Any) -> None:
        # What the resource is like was told by its event, which comes before its timer.
        bridge.tell(bridge.carry, uid)

    # Not plain functions: those Kopf runs in a thread each, with three crossings of threads for every event.
    @kopf.on.event(*RESOURCE, registry=registry, id="resource")
    async def resource(event: kopf.RawEvent, **_: Any) -> None:
        body = _taken(event["object"])
        match event["type"]:
            case "DELETED":
                bridge.tell(bridge.unsee, body)
            case None:
                bridge.tell(bridge.see_listed, body)
            case _:
                bridge.tell(bridge.see, body)

    labels = {ENVIRONMENT_LABEL: kopf.PRESENT, WORK_LABEL: kopf.PRESENT}

    @kopf.on.event(*PODS, registry=registry, id="pod", labels=labels)
    async def pod(event: kopf.RawEvent, **_: Any) -> None:
        body = _taken(event["object"])
        match event["type"]:
            case "DELETED":
                bridge.tell(bridge.unsee_pod, body)
            case None:
                bridge.tell(bridge.see_listed_pod, body)
            case _:
                bridge.tell(bridge.see_pod, body)

    return registry


def _taken(body: Any) -> dict[str, Any]:
    """Take a body over from Kopf, which keeps the latest of each object for as long as there is a timer of it.

    What only we need of it is taken out of Kopf's own: it is ten times what Kopf goes by.
    """
    taken = dict(body)
    for part in ("spec", "status"):
        body.pop(part, None)
    body["metadata"].pop("managedFields", None)
    return taken


def settings() -> kopf.OperatorSettings:
    """Give Kopf's settings, each with its reason."""
    chosen = kopf.OperatorSettings()
    # Kopf would kill the whole process, with all its leases, so long after it ended by an error.
    chosen.process.ultimate_exiting_timeout = None
    # Events are ours to write; Kopf would post one for each log line.
    chosen.posting.enabled = False
    # One process; leadership is the Deployment's matter (strategy Recreate).
    chosen.peering.standalone = True
    # Discovery of CRDs and namespaces needs cluster-wide rights, and retries a 403 for ever.
    chosen.scanning.disabled = True
    # Timers go on, for as long as an outage of the API server lasts.
    chosen.networking.error_backoffs = EndlessBackoff()
    # A call that hangs is repeated; the default of five minutes is longer than a lease.
    chosen.networking.request_timeout = 10.0
    # With that on, aiohttp looks for a password in ~/.netrc before each request.
    chosen.networking.trust_env = bool(getproxies())
    chosen.persistence.finalizer = TIMER_FINALIZER
    chosen.persistence.diffbase_storage = NoDiffBase()
    # A watch ends now and then by the server's word, so that one that died silently is noticed.
    # (An integer: the API server refuses 300.0.)
    chosen.watching.server_timeout = 300
    chosen.watching.connect_timeout = 10.0
    chosen.watching.chunk_size = PAGE
    # Each object's worker has a connection of its own for its finalizer: thousands at once would time out together.
    chosen.queueing.worker_limit = 128
    # A worker that waits for another event of its object meanwhile keeps its place; there is seldom another one.
    chosen.queueing.idle_timeout = 0.02
    # Only handlers of changes would have to wait for the echo of a write.
    chosen.persistence.consistency_timeout = 0.0
    # Only the pods of work items are sent to us.
    chosen.watching.label_selectors["", "v1", "pods"] = f"{ENVIRONMENT_LABEL},{WORK_LABEL}"
    # A timer lets go within milliseconds after it is told to; polling for it would write an annotation.
    chosen.background.instant_exit_timeout = 0.1
    return chosen
