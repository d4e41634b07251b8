"""The client of the API that the proxy stands for.

Owns the connections to the upstream, and what is sent: a call as it came, but for the headers of one connection. Must
not decide which call is passed on. It logs no header, no path and no body: they hold keys.
"""

import asyncio
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, Self
from urllib.request import getproxies, proxy_bypass

from aiohttp import (
    AddrInfoType,
    ClientConnectorError,
    ClientHttpProxyError,
    ClientResponse,
    ClientSession,
    ClientSSLError,
    ClientTimeout,
    ConnectionTimeoutError,
    DummyCookieJar,
    TCPConnector,
    hdrs,
)
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

PATIENCE: Final = 60.0
"""Seconds for which a connection is tried: an API that restarts, or a network policy that comes late, takes less."""

TRY: Final = 10.0
"""Seconds for one attempt to connect: a packet that is lost twice takes three."""

FIRST_WAIT: Final = 0.1
LONGEST_WAIT: Final = 2.0
"""Seconds between attempts: doubled, so that a restart is noticed soon and an outage costs nothing."""

IDLE: Final = 15.0
"""Seconds for which an unused connection is kept: less than any load balancer closes one after."""

ALIVE_AFTER: Final = 30
"""Seconds of silence after which TCP asks whether the peer is there: networks forget silent connections in minutes."""

LONGEST_HEADER: Final = 65536
"""Bytes of one header: eight times the default, because the proxy must not be the narrowest place."""

HOP_BY_HOP: Final = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Headers that are about one connection (RFC 9110, 7.6.1)."""

ADDED: Final = frozenset({hdrs.ACCEPT, hdrs.ACCEPT_ENCODING, hdrs.CONTENT_TYPE, hdrs.USER_AGENT})
"""Headers that aiohttp's client would add on its own."""

Body = Callable[[], AsyncIterator[bytes]]
"""Begins a body: it is asked for again at each attempt to connect, and read once there is a connection."""

_log = logging.getLogger(__name__)


class Unreachable(Exception):
    """No connection was made, and so nothing was sent."""


def end_to_end(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    """Return the headers that are for the other end, and not for one connection."""
    named = {name.strip().lower() for value in headers.getall(hdrs.CONNECTION, ()) for name in value.split(",")}
    left_out = HOP_BY_HOP | named
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in left_out)


class Upstream:
    """The API, over as many connections as there are calls."""

    def __init__(self, url: str, session: ClientSession, patience: float) -> None:
        base = URL(url)
        self.host = base.host or ""
        self.patience = patience
        self._base = str(base).rstrip("/")
        self._proxy = None if proxy_bypass(self.host) else getproxies().get(base.scheme)
        self._session = session

    @classmethod
    @asynccontextmanager
    async def connect(cls, url: str, *, patience: float = PATIENCE, certificates: str = "") -> AsyncIterator[Self]:
        """Be ready to send calls to the API at ``url``, until the end of the block.

        ``certificates`` are those of more authorities to trust, as PEM.
        """
        verified = ssl.create_default_context() if url.startswith("https://") else True
        if certificates and isinstance(verified, ssl.SSLContext):
            verified.load_verify_locations(cadata=certificates)
        async with ClientSession(
            connector=TCPConnector(limit=0, keepalive_timeout=IDLE, ssl=verified, socket_factory=_socket),
            cookie_jar=DummyCookieJar(),
            auto_decompress=False,
            timeout=ClientTimeout(total=None, sock_connect=TRY, sock_read=None),
            skip_auto_headers=ADDED,
            max_line_size=LONGEST_HEADER,
            max_field_size=LONGEST_HEADER,
        ) as session:
            yield cls(url, session, patience)

    @asynccontextmanager
    async def send(
        self, method: str, raw_path: str, headers: CIMultiDict[str], body: Body | None
    ) -> AsyncIterator[ClientResponse]:
        """Send a call, and yield its answer as soon as its headers are there; the body is still to be read.

        Raises:
            Unreachable: No connection was made for as long as the patience lasts; nothing was sent.
            ClientError: The connection broke; the call may have been applied.
        """
        response = await self._begin(method, URL(self._base + raw_path, encoded=True), headers, body)
        try:
            yield response
        finally:
            if response.content.at_eof():
                response.release()
            else:
                response.close()

    async def _begin(self, method: str, url: URL, headers: CIMultiDict[str], body: Body | None) -> ClientResponse:
        loop = asyncio.get_running_loop()
        until, wait = loop.time() + self.patience, FIRST_WAIT
        while True:
            try:
                return await self._session.request(
                    method,
                    url,
                    headers=headers,
                    data=None if body is None else body(),
                    proxy=self._proxy,
                    allow_redirects=False,
                )
            except (ClientSSLError, ClientHttpProxyError) as error:
                # Another attempt would end the same way.
                _log.warning("no connection to %s: %s", self.host, type(error).__name__)
                raise Unreachable from error
            except (ClientConnectorError, ConnectionTimeoutError) as error:
                if loop.time() + wait >= until:
                    _log.warning("no connection to %s: %s", self.host, type(error).__name__)
                    raise Unreachable from error
            await asyncio.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT)


def _socket(address: AddrInfoType) -> socket.socket:
    """Make a socket that notices a peer that is gone, also while nothing is said for hours."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, ALIVE_AFTER)
    return made
