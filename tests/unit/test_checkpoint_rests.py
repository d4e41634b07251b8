"""A checkpoint that was just written rests, unless somebody waits for it."""

import asyncio

from support.scripted_server import Answer, always, kubernetes_at, serving, until
from worklease.checkpoint import Checkpoint
from worklease.kubernetes_api import METADATA


async def test_what_is_urgent_and_not_waited_for_shares_the_next_write_after_a_rest() -> None:
    async with serving() as server, kubernetes_at(server.url) as api:
        server.script = always(Answer(body={"metadata": {}}))
        checkpoint = Checkpoint(api, "own", lambda: 1000.0)
        writing = asyncio.create_task(checkpoint.run())
        checkpoint.put("uid-1", "first", within=0.0)
        await until(lambda: len(server.seen) == 1, "the first write")
        await checkpoint.commit("uid-1", "claimed")
        checkpoint.put("uid-1", "adopted", within=0.0)
        checkpoint.put("uid-1", "adopted again", within=0.0)
        await asyncio.sleep(0.1)
        assert len(server.seen) == 2, "a second has not passed since the last write"
        await checkpoint.flush()
        assert len(server.seen) == 3
        assert {seen.headers["accept"] for seen in server.seen} == {METADATA}
        writing.cancel()
        await asyncio.wait({writing})
