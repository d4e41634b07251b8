"""The operator notices by two clocks that the machine was suspended, or paused."""

import asyncio
import logging

import pytest

from support.scripted_server import until
from worklease.process import notice_jumps, notice_suspends


async def test_a_suspend_wakes_everything_once_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    loop, slept, woken = asyncio.get_running_loop(), [0.0], [0]
    looks = 0

    def clock() -> float:
        nonlocal looks
        looks += 1
        return loop.time() + slept[0]

    def wake_all() -> None:
        woken[0] += 1

    noticing = asyncio.create_task(notice_suspends(clock, wake_all, every=0.01))
    try:
        await until(lambda: looks > 3, "looks at the clocks")
        assert woken == [0]
        slept[0] = 90.0
        with caplog.at_level(logging.WARNING):
            await until(lambda: woken == [1], "the notice")
        seen = looks
        await until(lambda: looks > seen + 3, "more looks")
        assert woken == [1]
        assert "suspended for 90" in caplog.text
    finally:
        noticing.cancel()


async def test_a_wall_clock_that_jumps_ahead_is_reported_once_and_one_that_is_set_back_is_not() -> None:
    ahead, reported, looks = [0.0], [0.0], 0

    def wall() -> float:
        nonlocal looks
        looks += 1
        return 1000.0 + ahead[0]

    noticing = asyncio.create_task(notice_jumps(lambda: 5.0, wall, reported.append, every=0.01))
    try:
        for jump in (0.9, 21.0, 20.0, 3.0):
            ahead[0], seen = jump, looks
            await until(lambda seen=seen: looks > seen + 3, "looks at the clocks")  # type: ignore[misc]
        assert reported[1:] == [pytest.approx(20.1)]
    finally:
        noticing.cancel()
