"""Kopf: the timer, and the events of resources and pods. Adapters of a few lines, no decisions.

Owns Kopf's handlers and settings. Kopf runs in a thread and a loop of its own (see ``watches``), so each handler hands
over to the keeper's loop. Nothing is written through Kopf's patch: a write of its own that fails ends the object's
timer, silently and for good.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import kopf

from worklease.census import Census
from worklease.keeper import Keeper
from worklease.resource import ENVIRONMENT_LABEL, WORK_LABEL

RESOURCE: Final = ("worklease.dev", "v1alpha1", "workleases")
PODS: Final = ("", "v1", "pods")

TIMER_FINALIZER: Final = "worklease.dev/timer"
"""Kopf's own, which its timers force; ours is another one, and another name."""

PAUSE: Final = 0.1
"""Seconds between two calls of a timer: it waits inside its call, for as long as there is something to keep."""

PAGE: Final = 500
"""Resources listed in one call, as kubectl does."""


class Endless:
    """Back-offs that never end: Kopf's lists do, and then the whole of Kopf does.

    An object, not a generator, since each request begins anew.
    """

    def __iter__(self) -> Iterator[float]:
        """Give the seconds before each next try of one request."""
        yield from (0.5, 1.0, 2.0)
        while True:
            yield 5.0


@dataclass(frozen=True, slots=True)
class Bridge:
    """The way from Kopf's thread to the keeper's loop."""

    keeper: Keeper
    census: Census
    loop: asyncio.AbstractEventLoop

    def tell(self, what: Callable[[Any], None], argument: object) -> None:
        """Tell the keeper's loop something, in order, without waiting."""
        self.loop.call_soon_threadsafe(what, argument)

    def begin(self, turns: Coroutine[Any, Any, None]) -> asyncio.Future[None]:
        """Let the keeper's loop run ``turns``; cancelling what is given back cancels them there."""
        return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(turns, self.loop))

    # --- In the keeper's loop ----------------------------------------------------------------------------------

    def see(self, body: Mapping[str, Any]) -> None:
        """Pass a resource on, unless it is known to be gone: a timer's body, or a list, may be older than that."""
        metadata = body["metadata"]
        if self.census.saw(metadata["namespace"], metadata["name"], metadata["uid"]):
            self.keeper.see(body)

    def see_listed(self, body: Mapping[str, Any]) -> None:
        """Pass a resource of Kopf's list on: what vanished before a list makes no event, so a census is due."""
        self.census.want()
        self.see(body)

    def unsee(self, body: Mapping[str, Any]) -> None:
        """Pass on that a resource is no more."""
        self.census.gone(body["metadata"]["uid"])
        self.keeper.unsee(body["metadata"]["uid"])

    def see_pod(self, body: Mapping[str, Any]) -> None:
        """Pass a pod on."""
        metadata = body["metadata"]
        self.census.saw_pod(metadata["namespace"], metadata["name"], metadata["uid"])
        self.keeper.see_pod(body)

    def see_listed_pod(self, body: Mapping[str, Any]) -> None:
        """Pass a pod of Kopf's list on: another that was bound may have vanished before it."""
        self.census.want()
        self.see_pod(body)

    def unsee_pod(self, body: Mapping[str, Any]) -> None:
        """Pass on that a pod is gone, or its labels are."""
        self.census.lost_pod(body["metadata"]["uid"])
        self.keeper.unsee_pod(body)


def register(bridge: Bridge) -> kopf.OperatorRegistry:
    """Give Kopf's handlers, bound to a keeper."""
    registry = kopf.OperatorRegistry()
    keeper = bridge.keeper

    @kopf.on.login(registry=registry)
    def login(**arguments: Any) -> kopf.ConnectionInfo | None:
        return kopf.login_with_service_account(**arguments) or kopf.login_via_client(**arguments)

    @kopf.timer(*RESOURCE, registry=registry, id="heartbeat", interval=PAUSE)
    async def heartbeat(body: kopf.Body, uid: str, **rest: Any) -> None:
        bridge.tell(bridge.see, dict(body))
        turns = bridge.begin(keeper.carry(uid))
        try:
            # The turns end by themselves once the resource is finished; the timer stays until the object goes.
            await rest["stopped"].wait()
        finally:
            turns.cancel()

    @kopf.on.event(*RESOURCE, registry=registry, id="resource")
    def resource(event: kopf.RawEvent, **_: Any) -> None:
        match event["type"]:
            case "DELETED":
                bridge.tell(bridge.unsee, event["object"])
            case None:
                bridge.tell(bridge.see_listed, event["object"])
            case _:
                bridge.tell(bridge.see, event["object"])

    labels = {ENVIRONMENT_LABEL: kopf.PRESENT, WORK_LABEL: kopf.PRESENT}

    @kopf.on.event(*PODS, registry=registry, id="pod", labels=labels)
    def pod(event: kopf.RawEvent, **_: Any) -> None:
        match event["type"]:
            case "DELETED":
                bridge.tell(bridge.unsee_pod, event["object"])
            case None:
                bridge.tell(bridge.see_listed_pod, event["object"])
            case _:
                bridge.tell(bridge.see_pod, event["object"])

    return registry


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
    chosen.networking.error_backoffs = Endless()
    # A call that hangs is repeated; the default of five minutes is longer than a lease.
    chosen.networking.request_timeout = 10.0
    chosen.networking.trust_env = True
    chosen.persistence.finalizer = TIMER_FINALIZER
    # A watch ends now and then by the server's word, so that one that died silently is noticed.
    # (An integer: the API server refuses 300.0.)
    chosen.watching.server_timeout = 300
    chosen.watching.connect_timeout = 10.0
    chosen.watching.chunk_size = PAGE
    # Only the pods of work items are sent to us.
    chosen.watching.label_selectors["", "v1", "pods"] = f"{ENVIRONMENT_LABEL},{WORK_LABEL}"
    # A timer lets go within milliseconds after it is told to; polling for it would write an annotation.
    chosen.background.instant_exit_timeout = 0.1
    return chosen
