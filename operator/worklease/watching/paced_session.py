"""Kopf's session with the API server, which holds Kopf's lists back to the pace at which the keeper receives them.

Owns that session. Kopf asks for all pages of a list at once. With a large fleet every object would be in memory as a
whole: Python does not give back the memory that it frees between objects that stay. And a thread that works on all of
them keeps the interpreter's lock from the beats. Must not know what is listed.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

import aiohttp
import kopf

PAGE: Final = 500
"""Objects listed in one call, as kubectl does."""

LONGEST_DELAY: Final = 5.0
"""Seconds for which a page is held back at most: half of what the call may take, and nothing depends on it."""

POLL_INTERVAL: Final = 0.02
"""Seconds between two looks whether the keeper has received the pages before."""


class PacedSession:
    """Compares what Kopf listed with what the keeper received.

    Args:
        received: Returns how many listed objects the keeper's loop, which is another one than Kopf's, has received.
        timeout: Seconds for which a page is held back at most.
    """

    def __init__(self, received: Callable[[], int], timeout: float = LONGEST_DELAY) -> None:
        self._received = received
        self._timeout = timeout
        self._listed = received()

    async def open(self, found: kopf.ConnectionInfo) -> kopf.AiohttpSession:
        """Open a session with the credentials that a login found, as Kopf would."""
        tracing = aiohttp.TraceConfig()
        tracing.on_request_start.append(self._pace)
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=found.as_ssl_context()),
            headers=found.as_http_headers(),
            proxy=found.proxy_url,
            trust_env=found.trust_env,
            trace_configs=[tracing],
        )
        return kopf.AiohttpSession(
            server=found.server,
            default_namespace=found.default_namespace,
            expiration=found.expiration,
            priority=found.priority,
            aiohttp_session=session,
        )

    async def _pace(self, _: object, __: object, asked: aiohttp.TraceRequestStartParams) -> None:
        """Hold back the next page of a list until the keeper has received the pages before."""
        if "continue" not in asked.url.query:
            return
        self._listed += PAGE
        try:
            async with asyncio.timeout(self._timeout):
                while self._received() < self._listed:  # noqa: ASYNC110 (another thread receives them)
                    await asyncio.sleep(POLL_INTERVAL)
        except TimeoutError:
            self._listed = self._received()  # what was not received by now does not hold back later pages


async def find_credentials(**arguments: Any) -> kopf.ConnectionInfo | None:
    """Return a pod's credentials, or else a kubeconfig's."""
    found = kopf.login_with_service_account(**arguments)
    return found or await asyncio.to_thread(kopf.login_via_client, **arguments)
