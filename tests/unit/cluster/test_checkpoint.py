"""A checkpoint that was just written rests, unless somebody waits for it; a large one all the same."""

import asyncio

from support.scripted_server import Answer, always, kubernetes_at, serving
from worklease.cluster.checkpoint import CHARACTERS_PER_SECOND, UNKNOWN_FOR, Checkpoint
from worklease.cluster.client import METADATA


async def test_what_is_urgent_and_not_waited_for_shares_the_next_write_after_a_rest() -> None:
    async with serving() as server, kubernetes_at(server.url) as api:
        server.script, now = always(Answer(body={"metadata": {}})), [1000.0]
        checkpoint = Checkpoint(api, "own", lambda: now[0])
        writing = asyncio.create_task(checkpoint.run())
        await checkpoint.commit("uid-1", "claimed")
        now[0] += 0.1
        checkpoint.put("uid-1", "adopted", within=0.0)
        checkpoint.put("uid-1", "adopted again", within=0.0)
        await asyncio.sleep(0.1)
        assert len(server.seen) == 1, "a second has not passed since the last write"
        await checkpoint.flush()
        assert len(server.seen) == 2
        assert {seen.headers["accept"] for seen in server.seen} == {METADATA}
        writing.cancel()
        await asyncio.wait({writing})


async def test_a_large_one_is_written_less_often_even_for_who_waits_but_at_once_at_the_end() -> None:
    async with serving() as server, kubernetes_at(server.url) as api:
        server.script, now = always(Answer(body={"metadata": {}})), [1000.0]
        checkpoint = Checkpoint(api, "own", lambda: now[0])
        writing = asyncio.create_task(checkpoint.run())
        await checkpoint.commit("uid-1", "x" * 5 * CHARACTERS_PER_SECOND)
        commits = [
            asyncio.create_task(checkpoint.commit("uid-1", f"{'y' * 5 * CHARACTERS_PER_SECOND}{each}"))
            for each in range(3)
        ]
        now[0] += 4.9
        await asyncio.sleep(0.1)
        assert len(server.seen) == 1, "five seconds' worth was written"
        now[0] += 0.2
        await asyncio.wait(commits)
        assert len(server.seen) == 2, "they share a write"
        last = asyncio.create_task(checkpoint.commit("uid-1", "z"))
        await asyncio.sleep(0)
        await checkpoint.flush()
        await last
        assert len(server.seen) == 3
        writing.cancel()
        await asyncio.wait({writing})


async def test_the_record_of_a_resource_that_no_list_has_for_an_hour_is_dropped() -> None:
    async with kubernetes_at("http://127.0.0.1:1") as api:
        now = [1000.0]
        checkpoint = Checkpoint(api, "own", lambda: now[0])
        for uid in ("listed", "vanished", "back"):
            checkpoint.put(uid, "record", within=0.0)
        checkpoint.drop_unknown({"listed"})
        now[0] += UNKNOWN_FOR
        checkpoint.drop_unknown({"listed", "back"})
        assert checkpoint.recall("vanished") == "record", "an hour is not over"
        now[0] += 1.0
        checkpoint.drop_unknown({"listed"})
        assert [checkpoint.recall(uid) for uid in ("listed", "vanished", "back")] == ["record", None, "record"]
