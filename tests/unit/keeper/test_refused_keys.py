"""Leases whose key is refused: how often they try it, and which other key they try."""

import asyncio
import time
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from support.keeping import clients, wall
from support.scripted_server import Answer, ScriptedServer, Seen, always, kubernetes_at, serving, until
from worklease.keeper.keeper import Keeper
from worklease.keeper.kept import LeaseOptions
from worklease.work_api.client import WorkApi

REFUSED = Answer(status=401, body={"type": "error", "error": {"type": "authentication_error", "message": "no"}})
RENEWED = {
    "type": "work_heartbeat",
    "last_heartbeat": "2026-11-24T12:00:30Z",
    "state": "active",
    "lease_extended": True,
    "ttl_seconds": 90,
}


def secret(**entries: str) -> Answer:
    data = {name.replace("_", "-"): b64encode(value.encode()).decode() for name, value in entries.items()}
    return Answer(body={"data": data})


def held(number: int = 1, *, ttl: int = 30, since: float = 11) -> dict[str, Any]:
    """Return a resource whose lease was renewed ``since`` seconds ago."""
    now = datetime.now(UTC)
    metadata = {
        "name": f"lease-{number}",
        "namespace": "sandboxes",
        "uid": f"uid-{number}",
        "generation": 1,
        "resourceVersion": "7",
        "creationTimestamp": "2026-11-24T11:00:00Z",
        "finalizers": ["worklease.dev/lease"],
    }
    status = {
        "lastHeartbeat": "2026-11-24T12:00:00Z",
        "state": "active",
        "leaseExtended": True,
        "ttlSeconds": ttl,
        "observedTime": (now - timedelta(seconds=since)).isoformat(),
        "leaseExpiryTime": (now + timedelta(seconds=ttl - since)).isoformat(),
        "claimTime": "2026-11-24T11:00:00Z",
    }
    return {
        "metadata": metadata,
        "spec": {"environmentID": "env_1", "workID": f"work_{number}", "ttlSeconds": ttl},
        "status": status,
    }


@dataclass
class Setting:
    keeper: Keeper
    work_api: ScriptedServer
    secret: Answer

    def keys(self) -> list[str]:
        """Return the keys of all calls, in order."""
        return [seen.headers["authorization"].removeprefix("Bearer ") for seen in self.work_api.seen]


@asynccontextmanager
async def setting(answer: Answer) -> AsyncIterator[Setting]:
    async with (
        serving() as kubernetes,
        serving() as remote,
        kubernetes_at(kubernetes.url) as api,
        WorkApi(remote.url, time.monotonic) as work_api,
    ):
        options = LeaseOptions(interval=30, credentials_secret="keys")
        there = Setting(Keeper(clients(api, work_api), options, time.monotonic, wall), remote, answer)
        kubernetes.script = lambda seen: there.secret if "/secrets/" in seen.path else Answer(status=503)
        remote.script = always(REFUSED)
        yield there
        await there.keeper.close()


async def test_leases_whose_key_is_refused_try_it_once_each_and_then_one_for_all() -> None:
    async with setting(secret(environment_key="revoked")) as there:
        for number in range(10):
            there.keeper.see(held(number))
        await there.work_api.until_seen(10)
        began = len(there.work_api.seen)
        await asyncio.sleep(3)  # in which each of them would try it four times more
        assert len(there.work_api.seen) <= began + 1


async def test_a_held_lease_tries_a_refused_key_once_more_before_its_fence() -> None:
    async with setting(secret(environment_key="revoked")) as there:
        there.keeper.see(held(ttl=20, since=12))
        fence = time.monotonic() + 8 - 1.4
        await there.work_api.until_seen(2)
        assert time.monotonic() < fence - 20 / 6, "there is time for its answer"
        await asyncio.sleep(1)
        assert len(there.work_api.seen) == 2


async def test_a_changed_secret_is_tried_without_a_probe() -> None:
    async with setting(secret(environment_key="revoked")) as there:
        for number in range(3):
            there.keeper.see(held(number, ttl=90, since=31))
        await there.work_api.until_seen(3)
        there.secret = secret(environment_key="rotated")
        there.work_api.script = lambda seen: REFUSED if "revoked" in repr(seen.headers) else Answer(body=RENEWED)
        await until(lambda: there.keys().count("rotated") == 3, "a beat of each with the new key")
        assert there.keys().count("revoked") <= 4


async def test_a_refused_token_beside_a_good_environment_key_costs_no_lease() -> None:
    def answer(seen: Seen) -> Answer:
        return REFUSED if seen.headers["authorization"] == "Bearer token" else Answer(body=RENEWED | {"ttl_seconds": 3})

    async with setting(secret(sessions_token="token", environment_key="environment")) as there:
        there.work_api.script = answer
        there.keeper.see(held())
        await there.work_api.until_seen(4)
        assert there.keys()[:4] == ["token", "environment", "environment", "environment"]
