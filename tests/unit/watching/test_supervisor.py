"""A run of Kopf ends, whatever its tasks do when they are cancelled."""

import asyncio
from contextlib import suppress

from worklease.watching.supervisor import end


async def closes_by_a_task_of_its_own() -> None:
    """End as one of Kopf's watches does: wait for a new task, even when cancelled, which nothing else ends."""
    try:
        await asyncio.Event().wait()
    finally:
        closing = asyncio.create_task(asyncio.Event().wait())
        while not closing.done():
            with suppress(asyncio.CancelledError):
                await asyncio.shield(closing)


async def test_a_task_that_is_made_while_another_ends_is_ended_too() -> None:
    before = asyncio.all_tasks()
    watching = asyncio.create_task(closes_by_a_task_of_its_own())
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await end(lambda: asyncio.all_tasks() - before)
    assert watching.done()
    assert asyncio.all_tasks() == before
