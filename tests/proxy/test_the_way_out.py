"""How the proxy reaches its upstream: over TLS, with a private authority, and through a proxy of the network."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import ClientSession

from support.proxied import OWN, RawUpstream, proxied, raw_upstream, replying
from support.scripted_server import TEST_KEY
from worklease_proxy.server import Proxy, Sidecar
from worklease_proxy.upstream import Upstream

CERTIFICATE = TEST_KEY.read_text().partition("-----END PRIVATE KEY-----")[2]


@asynccontextmanager
async def over_tls() -> AsyncIterator[RawUpstream]:
    """Run an upstream that speaks TLS, with a certificate that nobody trusts."""
    upstream, context = RawUpstream(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(TEST_KEY)
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0, ssl=context)
    upstream.url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield upstream
    finally:
        server.close()


async def status_through(url: str, certificates: str) -> int:
    async with Upstream.connect(url, patience=5.0, certificates=certificates) as upstream:
        proxy = Proxy(Sidecar(own=OWN), upstream)
        await proxy.start(0)
        try:
            async with ClientSession(f"http://127.0.0.1:{proxy.port}") as client, client.get("/v1/files") as answer:
                return answer.status
        finally:
            await proxy.close()


async def test_an_upstream_is_trusted_by_the_authority_that_the_operator_hands_on() -> None:
    async with over_tls() as upstream:
        assert await status_through(upstream.url, CERTIFICATE) == 200
        assert upstream.received[0].target == "/v1/files"


async def test_an_upstream_that_nobody_vouches_for_is_sent_nothing_and_the_answer_comes_at_once() -> None:
    async with over_tls() as upstream, asyncio.timeout(4.0):  # its patience would last five seconds
        assert await status_through(upstream.url, "") == 502
        assert upstream.received == []


@pytest.fixture
async def network(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[RawUpstream]:
    """A proxy of the network, as the operator's own variables name it."""
    async with raw_upstream() as running:
        for name in ("HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"):
            monkeypatch.delenv(name.lower(), raising=False)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("HTTPS_PROXY", running.url)
        monkeypatch.setenv("http_proxy", running.url)
        yield running


async def test_an_upstream_is_reached_through_the_networks_proxy(network: RawUpstream) -> None:
    async with proxied("http://api.example.com") as worker:
        answer = await worker.client.get("/v1/files?beta=true")
        assert answer.status == 200
    assert network.received[0].target == "http://api.example.com/v1/files?beta=true"


async def test_over_tls_the_networks_proxy_is_asked_for_a_tunnel_and_told_no_key(network: RawUpstream) -> None:
    network.script = replying(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")
    async with proxied("https://api.example.com") as worker:
        answer = await worker.client.get("/v1/files", headers={"Authorization": "Bearer key"})
        assert answer.status == 502
    (asked,) = network.received
    assert asked.lines[0] == "CONNECT api.example.com:443 HTTP/1.1"
    assert "Bearer" not in asked.head.decode()


async def test_an_upstream_that_the_variables_except_is_reached_directly(network: RawUpstream) -> None:
    async with raw_upstream() as upstream, proxied(upstream.url) as worker:
        assert (await worker.client.get("/v1/files")).status == 200
        assert len(upstream.received) == 1
    assert network.received == []


async def test_who_takes_it_for_a_forward_proxy_is_refused() -> None:
    async with raw_upstream() as upstream, proxied(upstream.url) as worker:
        reader, writer = await asyncio.open_connection("127.0.0.1", worker.proxy.port)
        writer.write(b"GET http://other.example.com/v1/files HTTP/1.1\r\nHost: other.example.com\r\n\r\n")
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 400 ")
        writer.close()
    assert upstream.received == []
