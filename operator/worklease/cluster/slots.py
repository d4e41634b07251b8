"""How many calls of one kind are under way at once, and how many of these for one namespace.

Owns the counting. A webhook may let all calls of a namespace hang, and there are a hundred connections for everything:
what hangs must leave some to the deletions at a fence, to the checkpoint, and to other namespaces.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass


@dataclass(slots=True)
class _Share:
    """The slots of one namespace, and how many calls have or want one."""

    free: asyncio.Semaphore
    users: int = 0


class Slots:
    """Slots for calls: ``total`` in all, and at most ``of_one`` of them for one namespace."""

    def __init__(self, total: int, of_one: int) -> None:
        self._free = asyncio.Semaphore(total)
        self._of_one = of_one
        self._shares: dict[str, _Share] = {}

    @asynccontextmanager
    async def taken(self, namespace: str) -> AsyncIterator[None]:
        """Wait for a slot, and have it meanwhile."""
        share = self._shares.setdefault(namespace, _Share(asyncio.Semaphore(self._of_one)))
        share.users += 1
        try:
            async with share.free, self._free:
                yield
        finally:
            share.users -= 1
            if not share.users:
                del self._shares[namespace]
