"""Sessions: work in the queue on demand, the token that a poll gives, the status that a key may read, their end."""

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from support.served import API_KEY, BEARER, ENVIRONMENT, KEY, Served
from work_api_simulator.items import State

Serve = Callable[..., Awaitable[Served]]
IDLE = {"type": "session.status_idle", "stop_reason": {"type": "end_turn"}}


async def create(served: Served, **body: object) -> dict[str, Any]:
    """Create a session, and return the answer of the administration."""
    answer = await served.admin.post("/sessions", json=body)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def poll(served: Served, **query: object) -> httpx.Response:
    return await served.call("GET", "/poll", params={name: str(value) for name, value in query.items()})


async def read(served: Served, session_id: str, key: str = KEY) -> httpx.Response:
    return await served.work.get(f"/v1/sessions/{session_id}", headers={"Authorization": f"Bearer {key}"})


async def status(served: Served, session_id: str) -> str:
    return str((await read(served, session_id)).json()["status"])


# --- Work on demand


async def test_a_session_puts_an_item_with_its_own_id_into_the_queue(served: Served) -> None:
    session = (await create(served, id="sesn_a"))["session"]
    item = (await poll(served)).json()
    assert session["id"] == item["id"] == item["data"]["id"] == "sesn_a"
    assert (item["state"], item["data"]["type"], item["environment_id"]) == ("queued", "session", ENVIRONMENT)


@pytest.mark.parametrize("profile", ["o", "m"])
async def test_on_some_servers_its_item_has_an_id_of_its_own(serve: Serve, profile: str) -> None:
    served = await serve(profile)
    item = (await create(served, id="sesn_a"))["item"]
    assert item["id"].startswith("work_")
    assert item["data"]["id"] == "sesn_a"


async def test_a_poll_that_waits_gets_the_new_item_at_once(served: Served) -> None:
    waiting = asyncio.create_task(poll(served, block_ms=999))
    await served.until(lambda entries: any(entry.get("call") == "poll" for entry in entries))
    await create(served, id="sesn_a")
    assert (await waiting).json()["id"] == "sesn_a"


async def test_the_token_of_a_polled_item_works_for_its_heartbeat_and_its_session(served: Served) -> None:
    await create(served, id="sesn_a")
    secret = (await poll(served)).json()["secret"]
    told = json.loads(base64.urlsafe_b64decode(secret + "=" * (-len(secret) % 4)))
    assert list(told) == ["sessions_token"]
    token = {"Authorization": f"Bearer {told['sessions_token']}"}
    assert (await served.call("POST", "/sesn_a/ack")).status_code == 200
    assert (await served.beat("sesn_a", headers=token)).status_code == 200
    assert (await read(served, "sesn_a", told["sessions_token"])).json()["status"] == "running"


async def test_where_there_are_several_environments_one_must_be_named(served: Served) -> None:
    served.simulation.keyring.set_environment_keys("env_other", ["other-key"])
    answer = await served.admin.post("/sessions")
    assert (answer.status_code, "environment_id" in answer.text) == (400, True)
    assert (await create(served, environment_id="env_other"))["session"]["environment_id"] == "env_other"


async def test_a_session_is_created_once(served: Served) -> None:
    await create(served, id="sesn_a")
    assert (await served.admin.post("/sessions", json={"id": "sesn_a"})).status_code == 409


# --- Its status


async def test_a_session_runs_until_its_item_has_stopped_and_is_idle_then(served: Served) -> None:
    await create(served, id="sesn_a")
    assert await status(served, "sesn_a") == "running"
    await served.stop("sesn_a", force=True)
    assert await status(served, "sesn_a") == "idle"


async def test_the_latest_status_event_tells_and_a_new_message_makes_it_run_again(served: Served) -> None:
    await create(served, id="sesn_a")
    await served.admin.post("/sessions/sesn_a/events", json=IDLE)
    assert await status(served, "sesn_a") == "idle"
    await served.stop("sesn_a", force=True)
    await served.admin.post("/sessions/sesn_a/messages")
    assert await status(served, "sesn_a") == "running"


async def test_a_terminated_session_stays_terminated(served: Served) -> None:
    await create(served, id="sesn_a")
    await served.admin.post("/sessions/sesn_a/events", json={"type": "session.status_terminated"})
    await served.admin.post("/sessions/sesn_a/events", json={"type": "agent.message"})
    assert await status(served, "sesn_a") == "terminated"


async def test_an_archived_session_says_since_when(served: Served) -> None:
    await create(served, id="sesn_a")
    assert (await read(served, "sesn_a")).json()["archived_at"] is None
    first = (await served.admin.post("/sessions/sesn_a/archive")).json()["archived_at"]
    assert (await served.admin.post("/sessions/sesn_a/archive")).json()["archived_at"] == first
    assert (await read(served, "sesn_a")).json()["archived_at"] == first


async def test_why_a_session_is_idle_is_told_by_its_latest_status_event(served: Served) -> None:
    await create(served, id="sesn_a")
    await served.admin.post("/sessions/sesn_a/events", json=IDLE)
    asks = IDLE | {"stop_reason": {"type": "requires_action", "event_ids": []}}
    await served.admin.post("/sessions/sesn_a/events", json=asks)
    await served.admin.post("/sessions/sesn_a/events", json={"type": "agent.message"})
    query = {"order": "desc", "limit": "1", "types[]": "session.status_idle"}
    answer = await served.work.get("/v1/sessions/sesn_a/events", params=query, headers=BEARER)
    [event] = answer.json()["data"]
    assert event["stop_reason"]["type"] == "requires_action"


@pytest.mark.parametrize(
    ("key", "session_id", "expected"),
    [
        (KEY, "sesn_a", 200),
        (API_KEY, "sesn_a", 200),
        (KEY, "sesn_b", 404),
        ("other-key", "sesn_a", 404),
        ("no", "x", 401),
    ],
)
async def test_who_may_read_a_session(served: Served, key: str, session_id: str, expected: int) -> None:
    served.simulation.keyring.set_environment_keys("env_other", ["other-key"])
    served.create("sesn_a", State.QUEUED, data_id="sesn_a")
    assert (await read(served, session_id, key)).status_code == expected


async def test_the_public_sdk_reads_the_status_with_the_key_of_the_environment(served: Served) -> None:
    await create(served, id="sesn_a")
    # Not above: it takes more than a second, in each process that runs tests.
    from anthropic import AsyncAnthropic, NotFoundError  # noqa: PLC0415

    async with AsyncAnthropic(base_url=served.server.work.url, auth_token=KEY, api_key=None) as client:
        session = await client.beta.sessions.retrieve("sesn_a")
        assert (session.status, session.archived_at) == ("running", None)
        with pytest.raises(NotFoundError):
            await client.beta.sessions.retrieve("sesn_b")


# --- Its end


async def test_the_poll_that_meets_a_deleted_sessions_item_answers_404_once(served: Served) -> None:
    await create(served, id="sesn_a")
    await create(served, id="sesn_b")
    assert (await served.admin.delete("/sessions/sesn_a")).status_code == 204
    answers = [await poll(served), await poll(served)]
    assert [answer.status_code for answer in answers] == [404, 200]
    assert answers[0].json()["error"]["type"] == "not_found_error"
    assert answers[1].json()["id"] == "sesn_b"


async def test_a_deleted_session_and_its_item_are_not_found(served: Served) -> None:
    await create(served, id="sesn_a")
    await served.call("POST", "/sesn_a/ack")
    value = await served.held("sesn_a")
    await served.admin.delete("/sessions/sesn_a")
    assert (await served.beat("sesn_a", value)).status_code == 404
    assert (await read(served, "sesn_a")).status_code == 404
    assert (await poll(served)).json() is None, "no entry was in the queue"
    assert (await served.admin.delete("/sessions/sesn_a")).status_code == 404
