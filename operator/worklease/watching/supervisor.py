"""Kopf under supervision: in a thread and a loop of its own, and started again when it ends.

Owns the start and the end of Kopf. An error in a watch ends Kopf; at its end Kopf cancels every task of its loop that
is younger than itself; it takes the process's signals; and it idles for ever if the resource was not served when it
started. So its loop is not the keeper's, and its thread is not the main one. It is started when there is something to
watch, and again when it missed something. The census finds what Kopf did not report.
"""

import asyncio
import concurrent.futures
import logging
import threading
from collections.abc import Callable, Iterable
from typing import Any, Final

import kopf

from worklease.telemetry import SILENT, KopfEnded, Publisher
from worklease.watching.bridge import Bridge
from worklease.watching.handlers import register, settings

RESTART_DELAY: Final = 1.0
"""Seconds before Kopf is started again; the keeper sends beats without it until then."""

HEAD_START: Final = 0.001
"""Seconds that Kopf waits for each resource there is at the start: until then the beats have the interpreter alone."""

SHUTDOWN_TIMEOUT: Final = 8.0
"""Seconds that Kopf may take to end: enough to cancel its tasks several times."""

CANCEL_INTERVAL: Final = 1.0
"""Seconds after which a task of Kopf's that did not end is cancelled again."""

_log = logging.getLogger(__name__)


async def watch(bridge: Bridge, namespaces: tuple[str, ...], publisher: Publisher = SILENT) -> None:
    """Run Kopf and the census until cancelled; start Kopf again whenever it ends or misses something."""
    await bridge.census.until_served()
    await asyncio.sleep(HEAD_START * await bridge.find())
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(bridge.census.run(), name="census")
        tasks.create_task(bridge.find_taken(), name="taken buckets")
        while True:
            # With scanning off, Kopf checks only at its start whether there is a resource to watch.
            await bridge.census.until_served()
            why = await _run_once(bridge, namespaces)
            publisher.publish(KopfEnded(why))
            bridge.census.want()
            await asyncio.sleep(RESTART_DELAY)


async def end(tasks: Callable[[], Iterable[asyncio.Task[Any]]]) -> None:
    """Cancel tasks until all have ended.

    ``tasks`` is called each time: a watch of Kopf's makes new tasks while it ends, and waits for them even when it is
    cancelled. And a task that waits for one that was cancelled already ends only by its own cancellation.
    """
    while pending := {task for task in tasks() if not task.done()}:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=CANCEL_INTERVAL)


def _others() -> set[asyncio.Task[Any]]:
    """Return all tasks of the loop but the current one."""
    return asyncio.all_tasks() - {asyncio.current_task()}


async def _run_once(bridge: Bridge, namespaces: tuple[str, ...]) -> str:
    """Run Kopf until it ends or must end; return why."""
    run = _Run(bridge, namespaces)
    missed = asyncio.create_task(bridge.census.until_missed(), name="look for what Kopf missed")
    try:
        await asyncio.wait({run.ending, missed}, return_when=asyncio.FIRST_COMPLETED)
        return run.ending.result() if run.ending.done() else missed.result()
    finally:
        missed.cancel()
        await run.end()


class _Run:
    """One run of Kopf, in a thread of its own."""

    def __init__(self, bridge: Bridge, namespaces: tuple[str, ...]) -> None:
        self.ending: asyncio.Future[str] = bridge.loop.create_future()
        """Is done when Kopf ends, with the reason."""
        self._ended = asyncio.Event()
        self._bridge = bridge
        self._namespaces = namespaces
        self._stop: concurrent.futures.Future[None] = concurrent.futures.Future()
        threading.Thread(target=self._run, name="kopf", daemon=True).start()

    async def end(self) -> None:
        """Ask Kopf to end, and wait until it has."""
        self._stop.set_result(None)
        try:
            async with asyncio.timeout(SHUTDOWN_TIMEOUT):
                await self._ended.wait()
        except TimeoutError:
            _log.warning(
                "kopf did not end within %.0f s; the operator does not wait for it any longer", SHUTDOWN_TIMEOUT
            )

    def _run(self) -> None:
        try:
            asyncio.run(self._operate())
        except BaseException as error:  # noqa: BLE001 (whatever ends Kopf, the supervisor reports it and goes on)
            self._post(self._settle, _in_words(error))
        finally:
            self._post(self._ended.set)

    async def _operate(self) -> None:
        """Run Kopf until it ends or is told to end.

        Not with its ``stop_flag``: Kopf waits for that in a thread that nothing wakes when Kopf ends by itself, and at
        its end the loop waits for that thread for ever. Nor with its ``run_tasks``, which cancels each task once: the
        task of a watch may swallow that, ask for a login that nothing answers any more, and hold up the end for ever.
        """
        roots = await kopf.spawn_tasks(
            registry=register(self._bridge),
            settings=settings(),
            namespaces=self._namespaces,
            clusterwide=not self._namespaces,
            standalone=True,
        )
        stop = asyncio.wrap_future(self._stop)
        any_of: set[asyncio.Future[Any]] = {*roots, stop}
        ended, _ = await asyncio.wait(any_of, return_when=asyncio.FIRST_COMPLETED)
        errors = [root.exception() for root in ended - {stop} if not root.cancelled()]
        self._post(self._settle, next((_in_words(error) for error in errors if error is not None), "it was stopped"))
        for root in roots:
            root.cancel()
        await asyncio.wait(roots, timeout=CANCEL_INTERVAL)  # as a rule Kopf ends in order
        await end(_others)

    def _post(self, what: Callable[..., None], *arguments: str) -> None:
        """Have ``what`` called in the keeper's loop."""
        self._bridge.loop.call_soon_threadsafe(what, *arguments)

    def _settle(self, why: str) -> None:
        if not self.ending.done():
            self.ending.set_result(why)


def _in_words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
