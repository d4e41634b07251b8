"""Leases whose key is refused: how often they try it, and which other key they try."""

import asyncio
import time
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from support.keeping import RENEWED, Keeping, keeping, resource
from support.scripted_server import Answer, Seen, always, until

REFUSED = Answer(status=401, body={"type": "error", "error": {"type": "authentication_error", "message": "no"}})


def secret(**entries: str) -> Answer:
    data = {name.replace("_", "-"): b64encode(value.encode()).decode() for name, value in entries.items()}
    return Answer(body={"data": data})


def held(number: int = 1, *, ttl: int = 30, since: float = 11) -> dict[str, Any]:
    return resource(f"lease-{number}", since=since, ttl=ttl, ttlSeconds=ttl, workID=f"work_{number}")


def keys(there: Keeping) -> list[str]:
    """Return the keys of all calls, in order."""
    return [seen.headers["authorization"].removeprefix("Bearer ") for seen in there.work_api.seen]


@asynccontextmanager
async def setting(secrets: list[Answer]) -> AsyncIterator[Keeping]:
    """Run a keeper; the last of ``secrets`` is the one that is read."""
    away = Answer(status=503)
    async with keeping(lambda seen: secrets[-1] if "/secrets/" in seen.path else away, writes=False) as there:
        there.work_api.script = always(REFUSED)
        yield there


async def test_leases_whose_key_is_refused_try_it_once_each_and_then_one_for_all() -> None:
    async with setting([secret(environment_key="revoked")]) as there:
        for number in range(10):
            there.keeper.see(held(number))
        await there.work_api.until_seen(10)
        began = len(there.work_api.seen)
        await asyncio.sleep(3)  # in which each of them would try it four times more
        assert len(there.work_api.seen) <= began + 1


async def test_a_held_lease_tries_a_refused_key_once_more_before_its_fence() -> None:
    async with setting([secret(environment_key="revoked")]) as there:
        there.keeper.see(held(ttl=30, since=19))
        fence = time.monotonic() + 30 - 19 - 1.6
        await there.work_api.until_seen(2)
        assert time.monotonic() < fence - 1, "there is time for an answer"
        await asyncio.sleep(1)
        assert len(there.work_api.seen) == 2


async def test_a_changed_secret_is_tried_without_a_probe() -> None:
    secrets = [secret(environment_key="revoked")]
    async with setting(secrets) as there:
        for number in range(3):
            there.keeper.see(held(number, ttl=90, since=31))
        await there.work_api.until_seen(3)
        secrets.append(secret(environment_key="rotated"))
        there.work_api.script = lambda seen: REFUSED if "revoked" in repr(seen.headers) else Answer(body=RENEWED)
        await until(lambda: keys(there).count("rotated") == 3, "a beat of each with the new key")
        assert keys(there).count("revoked") <= 4


async def test_a_refused_token_beside_a_good_environment_key_costs_no_lease() -> None:
    def answer(seen: Seen) -> Answer:
        return REFUSED if seen.headers["authorization"] == "Bearer token" else Answer(body=RENEWED | {"ttl_seconds": 3})

    async with setting([secret(sessions_token="token", environment_key="environment")]) as there:
        there.work_api.script = answer
        there.keeper.see(held())
        await there.work_api.until_seen(4)
        assert keys(there)[:4] == ["token", "environment", "environment", "environment"]
