"""The simulator as a running server: two listening sockets and the timer that makes leases lapse.

This module owns the sockets, the outages and the timer, and closes what it opened.
"""

import asyncio
import socket
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from work_api_simulator.admin import AdminRoutes
from work_api_simulator.instants import SECOND
from work_api_simulator.routes import Outage, WorkRoutes
from work_api_simulator.sessions import Sessions
from work_api_simulator.simulation import Simulation

BACKLOG = 1024  # many clients may connect at once
SHUTDOWN_TIMEOUT = 0.2  # seconds for requests in flight at the end; hanging requests must not delay it


@dataclass(frozen=True, slots=True)
class Address:
    """An address to listen on; port 0 means any free port."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """The base URL."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


class SimulatorServer:
    """A server for a simulation, until it is closed."""

    def __init__(self, simulation: Simulation, profile_name: str) -> None:
        self._simulation = simulation
        self._profile_name = profile_name
        self._routes = WorkRoutes(simulation)
        self._routes.after_each = self._wake_at_next_due
        simulation.on_queued = self._routes.wake_polls
        sessions = Sessions(simulation)
        admin = AdminRoutes(
            simulation,
            sessions,
            set_outage=self.set_outage,
            describe=self._describe,
            after_each=self._wake_at_next_due,
        )
        self._work_runner = web.AppRunner(
            self._routes.application(*sessions.routes()),
            access_log=None,
            handle_signals=False,
            shutdown_timeout=SHUTDOWN_TIMEOUT,
        )
        self._admin_runner = web.AppRunner(
            admin.application(), access_log=None, handle_signals=False, shutdown_timeout=SHUTDOWN_TIMEOUT
        )
        self._site: web.SockSite | None = None
        self._reserved: socket.socket | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._outage_change = asyncio.Lock()
        self.work = Address("", 0)
        self.admin = Address("", 0)

    async def start(self, work: Address, admin: Address) -> None:
        """Listen on both ports, and set `work` and `admin` to the actual addresses."""
        await self._work_runner.setup()
        await self._admin_runner.setup()
        self.work = await self._listen(work)
        admin_socket, self.admin = _bind(admin)
        await web.SockSite(self._admin_runner, admin_socket, backlog=BACKLOG).start()
        self._wake_at_next_due()

    async def close(self) -> None:
        """Stop listening, abort requests in flight, release the ports."""
        if self._timer is not None:
            self._timer.cancel()
        self._simulation.faults.clear()  # ends hanging requests
        self._abort_connections()
        await self._work_runner.cleanup()
        await self._admin_runner.cleanup()
        if self._reserved is not None:
            self._reserved.close()

    async def set_outage(self, outage: Outage) -> None:
        """Begin or end an outage of the Work API. The port stays the same; an outage resets open connections."""
        async with self._outage_change:
            self._routes.outage = outage
            self._simulation.history.noted("outage", self._simulation.clock.now(), outage)
            if outage is Outage.REFUSE and self._site is not None:
                await self._site.stop()
                self._site = None
                self._reserved, _ = _bind(self.work)  # bound but not listening, so that nobody else gets the port
            if outage is not Outage.OFF:
                self._abort_connections()
            if outage is not Outage.REFUSE and self._site is None:
                await self._listen(self.work)

    async def _listen(self, address: Address) -> Address:
        if self._reserved is not None:
            self._reserved.close()
            self._reserved = None
        work_socket, bound = _bind(address)
        self._site = web.SockSite(self._work_runner, work_socket, backlog=BACKLOG)
        await self._site.start()
        return bound

    def _abort_connections(self) -> None:
        server = self._work_runner.server
        for connection in () if server is None else server.connections:
            if connection.transport is not None:
                connection.transport.abort()

    def _wake_at_next_due(self) -> None:
        """Set the timer to the next due time, unless it is set to an earlier time already."""
        due = self._simulation.store.next_due()
        if due is None:
            return
        loop = asyncio.get_running_loop()
        at = loop.time() + max(0, due - self._simulation.clock.now()) / SECOND
        if self._timer is not None:
            if not self._timer.cancelled() and loop.time() < self._timer.when() <= at:
                return
            self._timer.cancel()
        self._timer = loop.call_at(at, self._run_due)

    def _run_due(self) -> None:
        self._timer = None
        self._simulation.store.run_due(self._simulation.clock.now())
        self._wake_at_next_due()

    def _describe(self) -> dict[str, Any]:
        simulation = self._simulation
        return {
            "url": self.work.url,
            "admin_url": self.admin.url,
            "profile": self._profile_name,
            "environments": list(simulation.keyring.environments),
            "items": sum(1 for _ in simulation.store.all_items(simulation.clock.now())),
            "outage": self._routes.outage,
            "last_seq": simulation.history.last_seq,
        }


def _bind(address: Address) -> tuple[socket.socket, Address]:
    """Return a bound socket that does not listen yet, and its address; `::` is all addresses, IPv4 and IPv6."""
    host = "0.0.0.0" if address.host == "::" and not socket.has_dualstack_ipv6() else address.host  # noqa: S104
    family, kind, protocol, _, where = socket.getaddrinfo(
        host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    bound = socket.socket(family, kind, protocol)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if host == "::":
        bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    bound.setblocking(False)  # noqa: FBT003 - the standard library's own signature
    try:
        bound.bind(where)
    except OSError as error:
        bound.close()
        raise OSError(error.errno, f"Cannot listen on {address.host}:{address.port}: {error.strerror}") from error
    return bound, Address(address.host, bound.getsockname()[1])
