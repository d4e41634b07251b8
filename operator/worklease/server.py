"""The operator's own HTTP server: what it tells about itself to who watches over it.

Owns the address and the routes. Must not know what is told: whoever opens it gives a function for each page.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web


@dataclass(frozen=True, slots=True)
class Page:
    """What is answered to one GET."""

    body: bytes
    content_type: str


class AddressInUse(Exception):
    """The server could not listen: why, and where."""


@asynccontextmanager
async def serve(host: str, port: int, pages: Mapping[str, Callable[[], Page]]) -> AsyncIterator[str]:
    """Serve ``pages`` by their paths until left; gives the address that is listened on.

    Raises:
        AddressInUse: The address cannot be listened on.
    """
    application = web.Application()
    for path, page in pages.items():
        application.router.add_get(path, _answer(page))
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        try:
            site = web.TCPSite(runner, host, port)
            await site.start()
        except OSError as error:
            raise AddressInUse(
                f"cannot listen on {host}:{port}: {error.strerror or error}; set WORKLEASE_HTTP_ADDRESS"
            ) from error
        yield f"{host}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def _answer(page: Callable[[], Page]) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(_: web.Request) -> web.StreamResponse:
        told = page()
        return web.Response(body=told.body, headers={"Content-Type": told.content_type})

    return handle
