"""The list of an environment's work items: one read, which changes nothing, for all leases that are in doubt.

Owns the sharing of one list among all that ask at the same time. Must not know what the list is for. A list that is
returned began after the question: an older one may not show yet what the doubt is about.
"""

import asyncio
from collections.abc import Mapping
from typing import Final

from pydantic import SecretStr

from worklease.rules.outcomes import ListedItem
from worklease.work_api.budget import Budget, BudgetRequest
from worklease.work_api.client import WorkApi

TIMEOUT: Final = 10.0
"""Seconds for all pages of a list."""

Items = Mapping[str, ListedItem] | None


class SharedList:
    """The lists under way, by environment and key."""

    def __init__(self, work_api: WorkApi, budget: Budget) -> None:
        self._work_api = work_api
        self._budget = budget
        self._running: dict[tuple[str, str], asyncio.Task[Items]] = {}
        self._next: dict[tuple[str, str], asyncio.Task[Items]] = {}

    async def ask(self, environment_id: str, key: SecretStr, request: BudgetRequest) -> Items:
        """Return the environment's items, or None if the list failed; ``request`` is for the call's turn."""
        place = (environment_id, key.get_secret_value())
        task = self._next.get(place)
        if task is None:
            task = asyncio.create_task(
                self._fetch(place, environment_id, key, request), name=f"list of {environment_id}"
            )
            self._next[place] = task
        # Shielded: the list is shared, and goes on when one that waits for it is cancelled.
        return await asyncio.shield(task)

    async def _fetch(
        self, place: tuple[str, str], environment_id: str, key: SecretStr, request: BudgetRequest
    ) -> Items:
        before = self._running.get(place)
        if before is not None:
            await asyncio.wait({before})
        await self._budget.turn(request)
        # From here on no other question can join.
        self._running[place] = self._next.pop(place)
        try:
            return await self._work_api.items(environment_id, key, timeout=TIMEOUT)
        finally:
            del self._running[place]
