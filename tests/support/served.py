"""A simulator in the test's own event loop, behind real sockets, with a small client for raw calls.

This module opens and closes both. It must not assert. Tests of the operator use `simulator` instead.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx

from work_api_simulator.items import Item, State
from work_api_simulator.profiles import PROFILES
from work_api_simulator.server import Address, SimulatorServer
from work_api_simulator.simulation import NewItem, Simulation

ENVIRONMENT = "env_test"
KEY = "test-environment-key"
API_KEY = "test-api-key"
BEARER = {"Authorization": f"Bearer {KEY}"}
X_API_KEY = {"x-api-key": API_KEY}
NO_HEARTBEAT = "NO_HEARTBEAT"

DEADLINE = 30.0  # seconds for a condition, which takes one or two, or a beat or two of a worker, on an idle machine
POLL_INTERVAL = 0.01  # seconds between two reads of the history


class Served:
    """A simulation, its server, and clients for its two ports."""

    def __init__(
        self, simulation: Simulation, server: SimulatorServer, work: httpx.AsyncClient, admin: httpx.AsyncClient
    ) -> None:
        self.simulation = simulation
        self.server = server
        self.work = work
        self.admin = admin

    def create(
        self, item_id: str = "work_1", state: State = State.STARTING, *, ttl: int | None = None, data_id: str = "sesn_1"
    ) -> Item:
        """Create an item; by default it is acknowledged."""
        new = NewItem(environment_id=ENVIRONMENT, id=item_id, state=state, ttl_default=ttl, data_id=data_id)
        return self.simulation.create(new)

    async def call(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] = BEARER,
        environment: str = ENVIRONMENT,
        **more: Any,
    ) -> httpx.Response:
        """Send any call below the path of the environment's work."""
        return await self.work.request(
            method, f"/v1/environments/{environment}/work{path}", headers=dict(headers), **more
        )

    async def beat(
        self,
        item_id: str = "work_1",
        expected: str | None = NO_HEARTBEAT,
        *,
        desired: int | None = None,
        headers: Mapping[str, str] = BEARER,
    ) -> httpx.Response:
        """Record a heartbeat."""
        given = {"expected_last_heartbeat": expected, "desired_ttl_seconds": desired}
        query = {name: value for name, value in given.items() if value is not None}
        return await self.call("POST", f"/{item_id}/heartbeat", params=query, headers=headers)

    async def held(self, item_id: str = "work_1") -> str:
        """Claim an item, and return its value."""
        response = await self.beat(item_id)
        response.raise_for_status()
        return str(response.json()["last_heartbeat"])

    async def stop(
        self, item_id: str = "work_1", *, force: bool = False, headers: Mapping[str, str] = BEARER
    ) -> httpx.Response:
        """Stop an item."""
        return await self.call("POST", f"/{item_id}/stop", json={"force": force}, headers=headers)

    async def history(self, item: str | None = None) -> list[dict[str, Any]]:
        """Return the history's entries, of one item if it is named."""
        response = await self.admin.get("/history", params={} if item is None else {"item": item})
        return list(response.json()["entries"])

    async def until(self, condition: Callable[[Sequence[Mapping[str, Any]]], bool]) -> list[dict[str, Any]]:
        """Wait until the history meets a condition, and return it."""
        async with asyncio.timeout(DEADLINE):
            while not condition(history := await self.history()):  # noqa: ASYNC110 - the history has no event to wait for
                await asyncio.sleep(POLL_INTERVAL)
        return history


@asynccontextmanager
async def serving(profile_name: str = "hosted", **changes: Any) -> AsyncIterator[Served]:
    """Run a simulator with a profile, and with some of its switches changed."""
    simulation = Simulation(replace(PROFILES[profile_name], **changes))
    simulation.keyring.set_environment_keys(ENVIRONMENT, [KEY])
    simulation.keyring.set_api_keys([API_KEY])
    server = SimulatorServer(simulation, profile_name)
    try:
        await server.start(Address("127.0.0.1", 0), Address("127.0.0.1", 0))
        async with (
            httpx.AsyncClient(base_url=server.work.url, timeout=10.0, trust_env=False) as work,
            httpx.AsyncClient(base_url=server.admin.url, timeout=10.0, trust_env=False) as admin,
        ):
            yield Served(simulation, server, work, admin)
    finally:
        await server.close()
