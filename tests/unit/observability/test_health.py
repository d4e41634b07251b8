"""A probe fails for a standstill and for nothing else, and says why."""

import asyncio
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable

import pytest

from controlplane import wait_for
from worklease.observability.health import STANDSTILL, Health
from worklease.observability.server import AddressInUse, Page, serve
from worklease.telemetry import LoopLagged, Publisher, TelemetryEvent


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_loop_that_stands_still_is_unhealthy_and_says_for_how_long() -> None:
    clock = Clock()
    health = Health(Publisher(), clock)
    clock.now += STANDSTILL
    assert health.alive().is_good
    clock.now += 1
    assert not health.alive().is_good
    assert health.alive().reason == "the event loop has stood still for 11 s"


def test_an_overdue_turn_is_unhealthy_and_a_lease_in_trouble_is_not() -> None:
    health = Health(Publisher(), Clock())
    health.attend(lambda: STANDSTILL, lambda: 0)
    assert health.alive().is_good
    health.attend(lambda: STANDSTILL + 1, lambda: 0)
    assert health.alive().reason == "a lease's turn is 11 s overdue"


def test_ready_means_that_the_watch_has_reported_all_of_the_first_list() -> None:
    health = Health(Publisher(), Clock())
    health.say("reading the checkpoint")
    assert health.ready().reason == "not ready: reading the checkpoint"
    for awaited, reason in (
        (None, "the first list of WorkLeases has not arrived"),
        (3, "the watch has not reported 3 WorkLeases"),
    ):
        health.attend(lambda: 0.0, lambda awaited=awaited: awaited)  # type: ignore[misc]
        assert not health.ready().is_good
        assert health.ready().reason.startswith(reason)
    health.attend(lambda: 0.0, lambda: 0)
    assert health.ready().is_good
    health.say("stopping")
    assert health.ready().reason == "not ready: stopping"


async def test_the_pulse_measures_the_loop_and_publishes_it() -> None:
    received: list[TelemetryEvent] = []
    beats = asyncio.Event()

    def listen(event: TelemetryEvent) -> None:
        received.append(event)
        beats.set()

    health = Health(Publisher(listen))
    pulse = asyncio.create_task(health.run())
    async with asyncio.timeout(10):
        await beats.wait()
    pulse.cancel()
    (lagged,) = received
    assert isinstance(lagged, LoopLagged)
    assert 0 <= lagged.seconds < 5


def get(address: str, path: str) -> tuple[int, str]:
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"http://{address}{path}") as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


async def a_page() -> Page:
    return Page(b"made in the loop that opened the server")


async def test_a_probe_is_answered_while_the_loop_that_opened_the_server_stands_still() -> None:
    stuck, answers = threading.Event(), []
    probe: Callable[[], Page] = lambda: Page(b"it stands still", status=503)  # noqa: E731 (a page is a function)
    async with serve("127.0.0.1", 0, {"/healthz": probe}, {}) as address:

        def ask() -> None:
            answers.append(get(address, "/healthz"))
            stuck.set()

        asking = threading.Thread(target=ask)
        asking.start()
        assert stuck.wait(10)  # in the loop: it stands still until the probe is answered
        asking.join()
    assert answers == [(503, "it stands still")]


async def test_all_addresses_are_those_of_both_families() -> None:
    async with serve("::", 0, {}, {"/metrics": a_page}) as address:
        port = address.rpartition(":")[2]
        assert address == f"[::]:{port}"
        hosts = ["127.0.0.1", "[::1]"] if socket.has_dualstack_ipv6() else ["127.0.0.1"]
        for host in hosts:
            assert (await asyncio.to_thread(get, f"{host}:{port}", "/metrics"))[0] == 200


async def test_a_report_is_made_in_the_loop_that_opened_the_server() -> None:
    async with serve("127.0.0.1", 0, {}, {"/metrics": a_page}) as address:
        assert await asyncio.to_thread(get, address, "/metrics") == (200, "made in the loop that opened the server")
        assert (await asyncio.to_thread(get, address, "/"))[0] == 404


async def test_an_address_in_use_is_named_with_its_setting() -> None:
    async with serve("127.0.0.1", 0, {}, {}) as address:
        port = int(address.rpartition(":")[2])
        with pytest.raises(AddressInUse, match=rf"cannot listen on 127\.0\.0\.1:{port}.*WORKLEASE_HTTP_ADDRESS"):
            async with serve("127.0.0.1", port, {}, {}):
                pass


async def test_the_server_is_gone_when_it_is_left() -> None:
    async with serve("127.0.0.1", 0, {}, {}) as address:
        port = int(address.rpartition(":")[2])
    async with serve("127.0.0.1", port, {}, {}) as again:
        assert again == address
    wait_for(lambda: "http" not in {thread.name for thread in threading.enumerate()}, seconds=10, what="its thread")
