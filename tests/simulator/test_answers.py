"""The calls of the Work API over a socket: bodies, headers, paging, long polls."""

import asyncio
import base64
import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import pytest

from support.served import ENVIRONMENT, NO_HEARTBEAT, X_API_KEY, Served
from work_api_simulator.items import State

Serve = Callable[..., Awaitable[Served]]
SIX_DIGITS = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
ITEM_KEYS = {
    "id",
    "type",
    "state",
    "data",
    "environment_id",
    "created_at",
    "acknowledged_at",
    "started_at",
    "latest_heartbeat_at",
    "stop_requested_at",
    "stopped_at",
    "metadata",
    "secret",
    "actor",
}


async def test_a_heartbeat_answers_the_new_value_and_the_effective_ttl(served: Served) -> None:
    served.create()
    response = await served.beat(desired=120)
    assert response.status_code == 200
    body = response.json()
    assert SIX_DIGITS.fullmatch(body.pop("last_heartbeat"))
    assert body == {"type": "work_heartbeat", "lease_extended": True, "state": "active", "ttl_seconds": 120}


async def test_a_failed_comparison_is_a_412_with_the_lease_as_the_server_holds_it(served: Served) -> None:
    served.create()
    value = await served.held()
    response = await served.beat()
    assert response.status_code == 412
    body = response.json()
    assert body["type"] == "error"
    assert body["request_id"] == response.headers["request-id"]
    assert body["error"]["type"] == "invalid_request_error"
    assert body["error"]["message"] == f"Heartbeat precondition failed: expected {NO_HEARTBEAT}, actual was {value}"
    assert body["error"]["details"]["current_state"] == {
        "state": "active",
        "last_heartbeat": value,
        "lease_extended": False,
        "ttl_seconds": 300,
    }


async def test_a_never_beaten_stopping_item_answers_an_empty_value(served: Served) -> None:
    served.create()
    await served.stop()
    body = (await served.beat()).json()
    assert (body["state"], body["last_heartbeat"], body["lease_extended"]) == ("stopping", "", False)


async def test_a_beat_in_stopping_is_not_compared_and_writes_nothing(served: Served) -> None:
    served.create()
    value = await served.held()
    await served.stop()
    body = (await served.beat(expected="garbage")).json()
    assert (body["state"], body["last_heartbeat"], body["lease_extended"]) == ("stopping", value, False)
    assert served.simulation.item("work_1").value == value


async def test_a_second_graceful_stop_changes_nothing_and_is_answered_200(served: Served) -> None:
    served.create()
    await served.held()
    first, second = await served.stop(), await served.stop()
    assert (first.status_code, second.status_code) == (200, 200)
    assert first.json() == second.json()
    assert first.json()["state"] == "stopping"


async def test_a_forced_stop_after_the_end_keeps_the_first_times(served: Served) -> None:
    served.create()
    first, second = await served.stop(force=True), await served.stop(force=True)
    assert (second.status_code, second.json()) == (200, first.json())


@pytest.mark.parametrize(("profile", "statuses"), [("conflicting", [204, 204]), ("strict", [200, 409])])
async def test_some_servers_answer_a_stop_otherwise(serve: Serve, profile: str, statuses: list[int]) -> None:
    served = await serve(profile)
    served.create(state=State.ACTIVE)
    responses = [await served.stop(force=True), await served.stop(force=True)]
    assert [response.status_code for response in responses] == statuses


async def test_a_stop_without_a_body_is_graceful(served: Served) -> None:
    served.create(state=State.ACTIVE)
    assert (await served.call("POST", "/work_1/stop")).json()["state"] == "stopping"


async def test_an_item_has_every_key_and_no_secret(served: Served) -> None:
    served.create()
    shown = (await served.call("GET", "/work_1", headers=X_API_KEY)).json()
    assert set(shown) == ITEM_KEYS
    assert shown["secret"] is None
    assert shown["data"] == {"type": "session", "id": "sesn_1"}
    assert shown["environment_id"] == ENVIRONMENT


async def test_a_poll_hands_out_the_items_own_credentials(served: Served) -> None:
    item = served.create(state=State.QUEUED)
    secret = (await served.call("GET", "/poll")).json()["secret"]
    payload = json.loads(base64.urlsafe_b64decode(secret + "=" * (-len(secret) % 4)))
    assert payload["sessions_token"] == item.sessions_token
    headers = {"Authorization": f"Bearer {item.sessions_token}"}
    await served.call("POST", "/work_1/ack")
    assert (await served.beat(headers=headers)).status_code == 200


async def test_some_servers_hand_out_no_secret(serve: Serve) -> None:
    served = await serve("strict")
    served.create(state=State.QUEUED)
    assert (await served.call("GET", "/poll")).json()["secret"] is None


async def test_an_acknowledgement_is_not_idempotent(served: Served) -> None:
    served.create(state=State.QUEUED)
    first, second = await served.call("POST", "/work_1/ack"), await served.call("POST", "/work_1/ack")
    assert (first.status_code, first.json()["state"]) == (200, "starting")
    assert second.status_code == 409
    assert "starting" in second.json()["error"]["message"]


@pytest.mark.parametrize(
    ("profile", "status", "text"), [("hosted", 200, "null"), ("terse", 204, ""), ("trimmed", 200, "{}")]
)
async def test_an_empty_poll_differs_between_servers(serve: Serve, profile: str, status: int, text: str) -> None:
    response = await (await serve(profile)).call("GET", "/poll")
    assert (response.status_code, response.text) == (status, text)


async def test_a_waiting_poll_gets_the_item_that_arrives(served: Served) -> None:
    poll = asyncio.create_task(served.call("GET", "/poll", params={"block_ms": 999}))
    await served.until(_polls(1))
    served.create(state=State.QUEUED)
    response = await poll
    assert response.json()["id"] == "work_1"
    asked, created = await served.history()
    assert asked["answered_monotonic"] - created["at_monotonic"] < 0.7, "it did not wait for its own end"


async def test_a_waiting_poll_ends_empty_after_the_time_it_named(served: Served) -> None:
    response = await served.call("GET", "/poll", params={"block_ms": 50})
    (entry,) = await served.history()
    assert response.text == "null"
    assert 0.05 <= entry["answered_monotonic"] - entry["arrived_monotonic"] < 5


async def test_two_waiting_polls_get_one_item_once(served: Served) -> None:
    polls = [asyncio.create_task(served.call("GET", "/poll", params={"block_ms": 200})) for _ in range(2)]
    await served.until(_polls(2))
    served.create(state=State.QUEUED)
    found = [response.json() for response in await asyncio.gather(*polls)]
    assert sorted(each is None for each in found) == [False, True]


def _polls(count: int) -> Callable[[Sequence[Mapping[str, Any]]], bool]:
    return lambda history: sum(entry.get("call") == "poll" for entry in history) == count


@pytest.mark.parametrize(
    ("method", "path", "more"),
    [
        ("GET", "/poll", {"params": {"block_ms": "0"}}),
        ("GET", "/poll", {"params": {"block_ms": "1000"}}),
        ("GET", "/poll", {"params": {"reclaim_older_than_ms": "soon"}}),
        ("GET", "", {"params": {"limit": "0"}}),
        ("GET", "", {"params": {"page": "nonsense"}}),
        ("POST", "/work_1/heartbeat", {"params": {"desired_ttl_seconds": "long"}}),
        ("POST", "/work_1/heartbeat", {"params": {"desired_ttl_seconds": "0"}}),
        ("POST", "/work_1/stop", {"json": {"force": "yes"}}),
        ("POST", "/work_1/stop", {"content": b"{"}),
        ("POST", "/work_1/stop", {"content": b"[]"}),
        ("POST", "/job_1/heartbeat", {}),
    ],
)
async def test_a_bad_parameter_is_a_400(served: Served, method: str, path: str, more: dict[str, Any]) -> None:
    served.create()
    response = await served.call(method, path, **more)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


async def test_an_unknown_item_is_a_404(served: Served) -> None:
    for response in (await served.beat("work_2"), await served.stop("work_2")):
        assert response.status_code == 404
        assert response.json()["error"]["type"] == "not_found_error"


async def test_a_path_that_is_no_call_is_a_404_in_the_same_form(served: Served) -> None:
    response = await served.work.get("/v1/elsewhere")
    assert (response.status_code, response.json()["error"]["type"]) == (404, "not_found_error")


async def test_metadata_is_merged(served: Served) -> None:
    served.create()
    patches: tuple[dict[str, Any], ...] = ({"a": "1", "b": "2"}, {"a": None}, {})
    shown = [
        (await served.call("POST", "/work_1", json={"metadata": patch}, headers=X_API_KEY)).json()["metadata"]
        for patch in patches
    ]
    assert shown == [{"a": "1", "b": "2"}, {"b": "2"}, {"b": "2"}]
    refused = await served.call("POST", "/work_1", json={"metadata": {"a": 1}}, headers=X_API_KEY)
    assert refused.status_code == 400


async def test_the_list_pages_through_all_items(served: Served) -> None:
    for number in range(5):
        served.create(f"work_{number}")
    seen, page = [], ""
    while page is not None:
        body = (await served.call("GET", "", params={"limit": "2"} | ({"page": page} if page else {}))).json()
        seen += [item["id"] for item in body["data"]]
        page = body["next_page"]
    assert sorted(seen) == [f"work_{number}" for number in range(5)]


async def test_the_statistics_count_workers_by_their_id(served: Served) -> None:
    served.create(state=State.QUEUED)
    await served.work.get(
        f"/v1/environments/{ENVIRONMENT}/work/poll",
        headers={"Authorization": "Bearer test-environment-key", "Anthropic-Worker-ID": "worker-a"},
    )
    body = (await served.call("GET", "/stats")).json()
    assert body.pop("oldest_queued_at")
    assert body == {"type": "work_queue_stats", "depth": 0, "pending": 1, "workers_polling": 1}


async def test_optional_headers_are_sent_or_not_by_profile(serve: Serve) -> None:
    hosted, terse = await serve("hosted"), await serve("terse")
    told, silent = await hosted.beat("work_9"), await terse.beat("work_9")
    assert {"date", "request-id"} <= set(told.headers)
    assert told.headers["x-should-retry"] == "false"
    assert not {"date", "x-should-retry"} & set(silent.headers)
    assert "details" not in silent.json()["error"]


async def test_too_many_requests_are_a_429_that_says_when_to_come_back(serve: Serve) -> None:
    served = await serve("hosted", writes_per_minute=2)
    served.create()
    responses = [await served.beat(expected=None) for _ in range(3)]
    assert [response.status_code for response in responses] == [200, 200, 429]
    assert int(responses[-1].headers["retry-after"]) >= 1
    assert responses[-1].headers["x-should-retry"] == "true"
    assert responses[-1].json()["error"]["type"] == "rate_limit_error"
    assert (await served.call("GET", "/stats")).status_code == 200, "reading calls are counted apart"


async def test_a_lapsed_lease_is_queued_again_on_the_servers_clock(served: Served) -> None:
    served.create(ttl=1)
    value = await served.held()
    history = await served.until(lambda history: any(entry["event"] == "lapsed" for entry in history))
    beat = next(entry for entry in history if entry.get("call") == "heartbeat")
    lapse = next(entry for entry in history if entry["event"] == "lapsed")
    assert lapse["at_monotonic"] - beat["applied_monotonic"] == pytest.approx(1.0, abs=1e-4)
    refused = await served.beat(expected=value)
    assert refused.status_code == 412
    state = refused.json()["error"]["details"]["current_state"]
    assert (state["state"], state["last_heartbeat"]) == ("queued", None)


async def test_a_lease_lapses_although_nobody_asks(served: Served) -> None:
    queued = asyncio.Event()
    served.simulation.on_queued = lambda _environment_id: queued.set()
    served.create(ttl=1)
    await served.held()
    async with asyncio.timeout(10):
        await queued.wait()


async def test_an_item_stopped_and_claimed_again_within_its_ttl_has_another_holder(served: Served) -> None:
    served.create()
    value = await served.held()
    served.simulation.requeue("work_1", State.QUEUED)
    polled = (await served.call("GET", "/poll")).json()
    assert polled["id"] == "work_1"
    await served.call("POST", "/work_1/ack")
    other = await served.held()
    refused = await served.beat(expected=value)
    assert refused.status_code == 412
    assert refused.json()["error"]["details"]["current_state"]["last_heartbeat"] == other
    assert (await served.beat(expected=other)).status_code == 200


async def test_a_stopped_item_comes_again_under_its_id_by_itself_on_some_servers(serve: Serve) -> None:
    served = await serve("recurring", redelivery_seconds=1)
    served.create(state=State.ACTIVE)
    await served.stop(force=True)
    response = await served.call("GET", "/poll", params={"block_ms": 1})
    assert response.json() is None
    async with asyncio.timeout(10):
        while (found := (await served.call("GET", "/poll", params={"block_ms": 900})).json()) is None:
            pass
    assert found["id"] == "work_1"
