"""The sweep of sessions' volumes: marks those that no WorkLease uses, and deletes them when that has been so for long.

Owns the pace of the sweeps, and which process sweeps which namespace: the one that holds the bucket of its name. All
that a sweep goes by is on the volumes themselves, so a crash between any two calls costs nothing but time. Must not
decide: ``rules.workspaces`` does.
"""

import asyncio
import logging
from collections.abc import Callable, Collection
from contextlib import suppress
from http import HTTPStatus
from math import inf
from typing import Final, assert_never

from worklease.api.names import Address
from worklease.cluster.client import Done, Gone, NoAnswer, NotDone, Refused
from worklease.cluster.workspace_claims import WorkspaceClaims
from worklease.cluster.workspace_objects import marked
from worklease.rules.workspaces import Volume, VolumeStep, keep_up, next_end

SWEEP: Final = 60.0
"""Seconds between two sweeps at most: a volume that is to go with its lease is gone a minute later."""

GAP: Final = 2.0
"""Seconds between two sweeps at least: when many leases end together, one sweep is for all of them."""

FORBIDDEN: Final = 600.0
"""Seconds after which a namespace whose volumes may not be listed is tried again: somebody may grant the right."""

_log = logging.getLogger(__name__)


class WorkspaceSweep:
    """The sweeps of this process."""

    def __init__(
        self,
        claims: WorkspaceClaims,
        namespaces: Callable[[], Collection[str]],
        open_sessions: Callable[[], Collection[Address]],
        clock: Callable[[], float],
        *,
        may_write: Callable[[str], bool],
        news: asyncio.Event,
    ) -> None:
        """Take what a sweep goes by.

        Args:
            claims: The calls about volumes.
            namespaces: Returns the namespaces in which there may be volumes.
            open_sessions: Returns the sessions, by namespace, of which a lease is not finished, as far as is known.
            clock: Seconds since the epoch.
            may_write: Whether this process may write the volumes of a namespace now.
            news: Is set when a lease with a workspace is over.
        """
        self._claims = claims
        self._namespaces = namespaces
        self._open_sessions = open_sessions
        self._clock = clock
        self._may_write = may_write
        self._news = news
        self._refused: dict[str, float] = {}
        """The namespaces whose volumes may not be listed, and until when they are not asked for."""

    async def run(self) -> None:
        """Sweep again and again, until cancelled."""
        while True:
            self._news.clear()
            ends = [await self._sweep_safely(namespace) for namespace in sorted(self._namespaces())]
            wait = max(GAP, min([SWEEP, *(end - self._clock() for end in ends)]))
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._news.wait()
                    await asyncio.sleep(GAP)

    async def _sweep_safely(self, namespace: str) -> float:
        """Sweep a namespace; a bug in it is logged, and ends no other sweep."""
        try:
            return await self.sweep(namespace)
        except Exception:  # noqa: BLE001 (logged, and tried again: nothing is swallowed)
            _log.exception("sweep of volumes failed, which is a bug of the operator's namespace=%s", namespace)
            return inf

    async def sweep(self, namespace: str) -> float:
        """Do what is due for the volumes of a namespace; return when the first of the marked ones is to be deleted."""
        if not self._may_write(namespace) or self._clock() < self._refused.get(namespace, -inf):
            return inf
        volumes = await self._claims.ours(namespace)
        if isinstance(volumes, Refused | NoAnswer):
            if isinstance(volumes, Refused) and volumes.status == HTTPStatus.FORBIDDEN:
                self._refused[namespace] = self._clock() + FORBIDDEN
            _log.info("volumes not swept namespace=%s: %s", namespace, volumes.message)
            return inf
        if not volumes:
            return inf
        known, left = self._open_sessions(), []
        over: list[Volume] = []
        for volume in volumes:
            step = keep_up(volume, is_used=(namespace, *volume.session) in known, now=self._clock())
            match step:
                case VolumeStep.LEAVE:
                    left.append(volume)
                case VolumeStep.MARK | VolumeStep.UNMARK:
                    left += await self._mark(namespace, volume, self._clock() if step is VolumeStep.MARK else None)
                case VolumeStep.DELETE:
                    over.append(volume)
                case _:
                    assert_never(step)
        if over:
            await self._delete(namespace, over)
        return next_end(left)

    async def _mark(self, namespace: str, volume: Volume, now: float | None) -> list[Volume]:
        """Note since when a volume is not used, or that it is. What was written meanwhile waits for the next sweep."""
        if not self._may_write(namespace):
            return []
        written = await self._claims.annotate(namespace, volume, marked(now))
        return [written] if isinstance(written, Volume) else []

    async def _delete(self, namespace: str, volumes: list[Volume]) -> None:
        """Delete volumes, unless a WorkLease is there that this process does not know yet."""
        in_use = await self._claims.open_sessions(namespace)
        if isinstance(in_use, NotDone):
            _log.warning("WorkLeases not listed, so no volume is deleted namespace=%s: %s", namespace, in_use.message)
            return
        for volume in volumes:
            if volume.session in in_use or not self._may_write(namespace):
                continue
            match await self._claims.delete(namespace, volume):
                case Done():
                    _log.info("volume of a session deleted namespace=%s claim=%s", namespace, volume.name)
                case Gone():
                    pass
                case NotDone(message):
                    _log.warning(
                        "volume not deleted, retrying namespace=%s claim=%s: %s", namespace, volume.name, message
                    )
                case outcome:
                    assert_never(outcome)
