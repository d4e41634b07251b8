"""Kopf under supervision: in a thread and a loop of its own, and started again should it end.

Owns Kopf's life. Kopf ends by a watch's error, cancels at its end every task of its loop that is younger than itself,
and takes the process's signals: so its loop is not the keeper's, and its thread not the main one.
"""

import asyncio
import logging
import threading
from typing import Final

import kopf

from worklease.handlers import Bridge, register, settings

PAUSE: Final = 1.0
"""Seconds before Kopf is started again; until then the keeper beats on by itself."""

FAREWELL: Final = 8.0
"""Seconds that Kopf may take to end: it gives its timers five."""

_log = logging.getLogger(__name__)


async def watch(bridge: Bridge, namespaces: tuple[str, ...]) -> None:
    """Run Kopf until cancelled; start it again whenever it ends."""
    while True:
        ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        stop = threading.Event()
        thread = threading.Thread(target=_run, args=(bridge, namespaces, stop, ended), name="kopf", daemon=True)
        thread.start()
        try:
            why = await asyncio.shield(ended)
        except asyncio.CancelledError:
            stop.set()
            await asyncio.wait({ended}, timeout=FAREWELL)
            raise
        _log.warning("kopf ended, starting it again: %s", why)
        await asyncio.sleep(PAUSE)


def _run(bridge: Bridge, namespaces: tuple[str, ...], stop: threading.Event, ended: "asyncio.Future[str]") -> None:
    why = "it was stopped"
    try:
        asyncio.run(
            kopf.operator(
                registry=register(bridge),
                settings=settings(),
                namespaces=namespaces,
                clusterwide=not namespaces,
                standalone=True,
                stop_flag=stop,
            )
        )
    except BaseException as error:  # noqa: BLE001 (whatever ends Kopf, the supervisor tells it and goes on)
        why = f"{type(error).__name__}: {error}"
    finally:
        # Kopf waits for the flag in a thread of its own, which would outlive it.
        stop.set()
        bridge.loop.call_soon_threadsafe(_settle, ended, why)


def _settle(ended: "asyncio.Future[str]", why: str) -> None:
    if not ended.done():
        ended.set_result(why)
