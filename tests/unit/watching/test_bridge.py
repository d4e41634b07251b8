"""The bridge from Kopf's thread to the keeper's loop keeps the order, and leaves the loop time for other tasks."""

import asyncio
import threading
from collections.abc import Callable
from typing import cast

import pytest

from worklease.keeper.keeper import Keeper
from worklease.watching.bridge import AT_ONCE, Bridge
from worklease.watching.census import Census


class Carrier:
    """Notes the resources whose turns it is asked to begin, in place of the keeper."""

    def __init__(self) -> None:
        self.carried: list[str] = []

    def carry(self, uid: str) -> None:
        self.carried.append(uid)


def bridge_to(carrier: Carrier) -> Bridge:
    return Bridge(cast("Keeper", carrier), cast("Census", None), asyncio.get_running_loop())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 (what is received has no event)
        await asyncio.sleep(0)


@pytest.mark.timeout(30)
async def test_what_another_thread_posts_is_received_in_its_order() -> None:
    bridge, received, number = bridge_to(Carrier()), list[int](), 10 * AT_ONCE + 1

    def post() -> None:
        for each in range(number):
            bridge.post(received.append, each)

    thread = threading.Thread(target=post)
    thread.start()
    await until(lambda: len(received) == number)
    thread.join()
    assert received == list(range(number))


@pytest.mark.timeout(30)
async def test_a_long_list_leaves_the_loop_to_others_meanwhile() -> None:
    bridge, received = bridge_to(Carrier()), list[int]()
    for each in range(5 * AT_ONCE):
        bridge.post(received.append, each)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert 0 < len(received) < 5 * AT_ONCE
    await until(lambda: len(received) == 5 * AT_ONCE)


@pytest.mark.timeout(30)
async def test_a_timer_begins_the_turns_of_its_resource() -> None:
    carrier = Carrier()
    bridge = bridge_to(carrier)
    bridge.post(bridge.carry, "uid-1")
    await until(lambda: carrier.carried == ["uid-1"])


@pytest.mark.timeout(30)
async def test_what_is_not_understood_keeps_nothing_else_from_being_received(caplog: pytest.LogCaptureFixture) -> None:
    bridge, received = bridge_to(Carrier()), list[int]()
    bridge.post(received.remove, 7)
    bridge.post(received.append, 8)
    await until(lambda: received == [8])
    assert "an event was not understood" in caplog.text
