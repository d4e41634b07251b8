"""Kopf's session with the API server, which holds its lists back to the pace at which the keeper hears of them.

Owns that session. Kopf fetches all pages of a list at once. Of a large fleet every object would be in memory whole:
what Python frees of that, between what stays, it does not give back. And a thread that is at work on all of them keeps
the interpreter's lock from the beats. Must not know what is listed.
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
"""Seconds between two looks whether the pages before it were heard of."""


class PacedSession:
    """Counts what is listed against what was heard of. It lives in Kopf's loop; ``heard`` tells of another one."""

    def __init__(self, heard: Callable[[], int], patience: float = LONGEST_DELAY) -> None:
        self._heard = heard
        self._patience = patience
        self._listed = heard()

    async def open(self, found: kopf.ConnectionInfo) -> kopf.AiohttpSession:
        """Open a session with what a login found, as Kopf would."""
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
        """Hold back the next page of a list until the ones before it were heard of."""
        if "continue" not in asked.url.query:
            return
        self._listed += PAGE
        try:
            async with asyncio.timeout(self._patience):
                while self._heard() < self._listed:  # noqa: ASYNC110 (it is another thread that hears)
                    await asyncio.sleep(POLL_INTERVAL)
        except TimeoutError:
            self._listed = self._heard()  # what was not heard of by now is no measure of what comes


async def find_credentials(**arguments: Any) -> kopf.ConnectionInfo | None:
    """Find those of a pod, else a kubeconfig's."""
    found = kopf.login_with_service_account(**arguments)
    return found or await asyncio.to_thread(kopf.login_via_client, **arguments)
