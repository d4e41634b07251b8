"""Kopf's lists are held back until the keeper has received their objects, but not for ever."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
import kopf

from support.scripted_server import Answer, ScriptedServer, always, serving, until
from worklease.watching.paced_session import PAGE, PacedSession


@dataclass
class Keeper:
    """Counts the objects that it received."""

    received: int = 0


@asynccontextmanager
async def asking(keeper: Keeper, seconds: float) -> AsyncIterator[tuple[ScriptedServer, aiohttp.ClientSession]]:
    async with serving() as server:
        server.script = always(Answer(body={"items": []}))
        found = kopf.ConnectionInfo(server=server.url, token="the-token")
        opened = await PacedSession(lambda: keeper.received, seconds).open(found)
        assert opened.server == server.url
        async with opened.aiohttp_session as session:
            yield server, session


async def ask(server: ScriptedServer, session: aiohttp.ClientSession, query: str) -> None:
    async with session.get(f"{server.url}/pods?limit={PAGE}{query}") as answer:
        await answer.read()


async def test_the_next_page_is_asked_for_when_the_pages_before_it_were_received() -> None:
    keeper = Keeper(received=1000)
    async with asking(keeper, seconds=60) as (server, session):
        await ask(server, session, "")
        for page in (1, 2):
            following = asyncio.create_task(ask(server, session, "&continue=more"))
            keeper.received += PAGE - 1
            await asyncio.sleep(0.1)
            assert len(server.seen) == page
            keeper.received += 1
            await following
            await until(lambda page=page: len(server.seen) == page + 1, "the next page")  # type: ignore[misc]
        assert {seen.headers["authorization"] for seen in server.seen} == {"Bearer the-token"}


async def test_what_is_never_received_holds_no_list_back_for_ever() -> None:
    async with asking(Keeper(), seconds=0.1) as (server, session):
        for _ in range(3):
            await ask(server, session, "&continue=more")
        assert len(server.seen) == 3


async def test_no_other_request_waits() -> None:
    async with asking(Keeper(), seconds=60) as (server, session):
        following = asyncio.create_task(ask(server, session, "&continue=more"))
        await ask(server, session, "&watch=true")
        assert [seen.target for seen in server.seen] == [f"/pods?limit={PAGE}&watch=true"]
        following.cancel()
        await asyncio.wait({following})
