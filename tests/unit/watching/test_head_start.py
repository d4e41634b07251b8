"""At a start, the beats of existing resources come before Kopf, which keeps the interpreter busy for seconds."""

import asyncio
from typing import cast

import pytest

from worklease.watching.bridge import Bridge
from worklease.watching.supervisor import HEAD_START, watch

FOUND = 300


class Found:
    """A bridge that finds `FOUND` resources at the start, and its census, for which Kopf's start waits."""

    def __init__(self) -> None:
        self.census = self
        self.found_at = 0.0
        self.kopf_starts = asyncio.Event()
        self.started_at = 0.0

    async def until_served(self) -> None:
        if self.found_at:
            self.started_at = asyncio.get_running_loop().time()
            self.kopf_starts.set()
            await asyncio.Event().wait()

    async def find(self) -> int:
        self.found_at = asyncio.get_running_loop().time()
        return FOUND

    async def run(self) -> None:
        await asyncio.Event().wait()

    async def find_taken(self) -> None:
        await asyncio.Event().wait()


@pytest.mark.timeout(60)
async def test_kopf_starts_later_the_more_resources_are_there() -> None:
    bridge = Found()
    watching = asyncio.create_task(watch(cast("Bridge", bridge), ()))
    await bridge.kopf_starts.wait()
    watching.cancel()
    await asyncio.wait({watching})
    assert bridge.started_at - bridge.found_at >= FOUND * HEAD_START
