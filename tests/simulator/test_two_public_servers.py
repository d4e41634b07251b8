"""The profiles `o` and `m` answer as two public servers were seen to do: a test for each of their manners."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from support.served import ENVIRONMENT, KEY, Served
from work_api_simulator.instants import SECOND
from work_api_simulator.items import State, StopMode

Serve = Callable[..., Awaitable[Served]]

BOTH = pytest.mark.parametrize("name", ["o", "m"])


async def poll(served: Served, **query: object) -> Any:
    response = await served.call("GET", "/poll", params={name: str(value) for name, value in query.items()})
    response.raise_for_status()
    return response.json()


async def listed(served: Served, **query: object) -> list[dict[str, Any]]:
    response = await served.call("GET", "", params={name: str(value) for name, value in query.items()})
    return list(response.json()["data"])


def ago(served: Served, item_id: str, seconds: float, *fields: str) -> None:
    """Move what happened to an item into the past."""
    simulation, by = served.simulation, int(seconds * SECOND)
    item = simulation.item(item_id)
    past: dict[str, Any] = {name: before - by for name in fields if (before := getattr(item, name)) is not None}
    simulation.store.put(replace(item, **past), simulation.clock.now())


# --- Heartbeats ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind"), [("o", "invalid_request_error"), ("m", "precondition_failed_error")])
async def test_a_412_has_no_details_and_its_own_type(serve: Serve, name: str, kind: str) -> None:
    served = await serve(name)
    served.create()
    refused = await served.beat(expected="2026-11-18T00:00:00Z")
    assert refused.status_code == 412
    assert refused.json()["error"]["type"] == kind
    assert "details" not in refused.json()["error"]
    assert refused.headers["date"]
    assert refused.headers["request-id"]


async def test_o_refuses_a_beat_on_a_queued_item(serve: Serve) -> None:
    served = await serve("o")
    served.create(state=State.QUEUED)
    assert (await served.beat()).status_code == 412
    assert served.simulation.item("work_1").state is State.QUEUED


async def test_m_answers_a_beat_on_a_queued_item_with_a_value_that_is_stored_nowhere(serve: Serve) -> None:
    served = await serve("m")
    served.create(state=State.QUEUED)
    answer = (await served.beat()).json()
    assert (answer["lease_extended"], answer["state"]) == (False, "queued")
    assert answer["last_heartbeat"].startswith("20")
    item = served.simulation.item("work_1")
    assert (item.state, item.value) == (State.QUEUED, None)
    assert [each["latest_heartbeat_at"] for each in await listed(served)] == [None]


@BOTH
async def test_started_at_is_null_until_the_first_beat_and_again_after_a_new_entry_to_the_queue(
    serve: Serve, name: str
) -> None:
    served = await serve(name)
    served.create()
    assert [each["started_at"] for each in await listed(served)] == [None]
    first = await served.held()
    (started,) = [each["started_at"] for each in await listed(served)]
    assert started is not None
    await served.beat(expected=first)
    assert [each["started_at"] for each in await listed(served)] == [started]
    ago(served, "work_1", 60, "beaten_at")
    await poll(served)
    assert [each["started_at"] for each in await listed(served)] == [None]


@BOTH
async def test_a_beat_after_the_stop_is_compared_and_moves_nothing(serve: Serve, name: str) -> None:
    served = await serve(name)
    served.create()
    value = await served.held()
    for mode in (StopMode.GRACEFUL, StopMode.FORCED):
        served.simulation.stop("work_1", mode)
        assert (await served.beat(expected="2026-11-18T00:00:00Z")).status_code == 412
        answer = (await served.beat(expected=value)).json()
        assert (answer["lease_extended"], answer["last_heartbeat"]) == (False, value)


@pytest.mark.parametrize(("name", "told"), [("o", 77), ("m", 20)])
async def test_the_ttl_of_an_answer_after_the_stop(serve: Serve, name: str, told: int) -> None:
    served = await serve(name)
    served.create()
    value = (await served.beat(desired=20)).json()["last_heartbeat"]
    served.simulation.stop("work_1", StopMode.GRACEFUL)
    assert (await served.beat(expected=value, desired=77)).json()["ttl_seconds"] == told


async def ttl(served: Served, desired: object) -> int | None:
    """Return the TTL that a beat gets, None if it is refused; each beat is of a new item."""
    served.create(item_id := f"work_{len(await served.history())}")
    query = {"expected_last_heartbeat": "NO_HEARTBEAT", "desired_ttl_seconds": str(desired)}
    response = await served.call("POST", f"/{item_id}/heartbeat", params=query)
    return int(response.json()["ttl_seconds"]) if response.status_code == 200 else None


async def test_o_clamps_a_ttl_at_300_and_takes_30_for_nonsense(serve: Serve) -> None:
    served = await serve("o")
    asked = ("", 1, 300, 301, 100_000, 0, -5, "soon", 1.5)
    assert [await ttl(served, each) for each in asked] == [30, 1, 300, 300, 300, 30, 30, 30, 30]


async def test_m_grants_every_positive_ttl_and_refuses_nonsense(serve: Serve) -> None:
    served = await serve("m")
    asked = ("", 1, 300, 100_000, 0, -5, "soon")
    assert [await ttl(served, each) for each in asked] == [30, 1, 300, 100_000, None, None, None]


@pytest.mark.parametrize(("name", "next_ttl"), [("o", 30), ("m", 77)])
async def test_how_long_a_ttl_is_remembered(serve: Serve, name: str, next_ttl: int) -> None:
    served = await serve(name)
    served.create()
    value = (await served.beat(desired=77)).json()["last_heartbeat"]
    assert (await served.beat(expected=value)).json()["ttl_seconds"] == next_ttl


@pytest.mark.parametrize(("name", "status"), [("o", 200), ("m", 412)])
async def test_whether_another_spelling_of_the_value_is_accepted(serve: Serve, name: str, status: int) -> None:
    served = await serve(name)
    served.create()
    value = await served.held()
    assert (await served.beat(expected=value.replace("Z", "+00:00"))).status_code == status


async def test_m_claims_and_extends_without_a_value(serve: Serve) -> None:
    served = await serve("m")
    served.create()
    assert (await served.beat(expected=None)).json()["lease_extended"] is True
    assert (await served.beat(expected=None)).json()["lease_extended"] is True


@BOTH
async def test_values_have_microseconds_without_the_zeros_at_their_end_and_the_list_has_them_byte_for_byte(
    serve: Serve, name: str
) -> None:
    served = await serve(name)
    served.create()
    value = await served.held()
    for _ in range(20):
        value = (await served.beat(expected=value)).json()["last_heartbeat"]
        assert value.endswith("Z")
        assert not value.endswith("0Z")
        assert [each["latest_heartbeat_at"] for each in await listed(served)] == [value]


# --- Stops ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "graceful_again"), [("o", 409), ("m", 204)])
async def test_how_stops_are_answered(serve: Serve, name: str, graceful_again: int) -> None:
    served = await serve(name)
    served.create()
    await served.held()
    answers = [(await served.stop(force=force)).status_code for force in (False, False, True, True, False)]
    assert answers == [204, graceful_again, 204, 409, 409]


@BOTH
@pytest.mark.parametrize("state", [State.QUEUED, State.STARTING])
async def test_a_graceful_stop_of_an_item_without_a_beat_is_final(serve: Serve, name: str, state: State) -> None:
    served = await serve(name)
    served.create(state=state)
    await served.stop()
    assert served.simulation.item("work_1").state is State.STOPPED


# --- The queue -----------------------------------------------------------------------------------------------------


async def test_o_queues_a_lapsed_item_at_a_poll_under_a_new_id(serve: Serve) -> None:
    served = await serve("o")
    served.create()
    value = await served.held()
    ago(served, "work_1", 31, "beaten_at")
    assert [each["id"] for each in await listed(served)] == ["work_1"], "nothing lapses before a poll"
    polled = await poll(served)
    assert polled["id"] != "work_1"
    assert [each["id"] for each in await listed(served)] == [polled["id"]]
    assert (await served.beat(expected=value)).status_code == 404


async def test_m_queues_all_lapsed_items_at_a_poll_under_their_ids(serve: Serve) -> None:
    served = await serve("m")
    for item_id in ("work_1", "work_2"):
        served.create(item_id)
        await served.held(item_id)
        ago(served, item_id, 31, "beaten_at")
    assert (await poll(served))["id"] == "work_1"
    assert {each["id"]: each["state"] for each in await listed(served)} == {"work_1": "queued", "work_2": "queued"}


async def test_an_old_value_is_good_until_a_poll_though_the_ttl_is_over(serve: Serve) -> None:
    served = await serve("m")
    served.create()
    value = await served.held()
    ago(served, "work_1", 31, "beaten_at")
    assert (await served.beat(expected=value)).json()["lease_extended"] is True


@pytest.mark.parametrize(("name", "seconds"), [("o", 30), ("m", 20)])
async def test_an_acknowledged_item_without_a_beat_is_queued_again_at_a_poll(
    serve: Serve, name: str, seconds: int
) -> None:
    served = await serve(name)
    served.create(ttl=20)
    ago(served, "work_1", seconds - 1, "acknowledged_at")
    assert not await poll(served)
    ago(served, "work_1", 2, "acknowledged_at")
    assert await poll(served)


@pytest.mark.parametrize(("name", "status"), [("o", 401), ("m", 404)])
async def test_a_key_of_another_environment_is_refused(serve: Serve, name: str, status: int) -> None:
    served = await serve(name)
    served.simulation.keyring.set_environment_keys("env_other", ["another-key"])
    served.create()
    other = {"Authorization": "Bearer another-key"}
    for method, path in (("POST", "/work_1/heartbeat"), ("GET", ""), ("GET", "/poll")):
        assert (await served.call(method, path, headers=other)).status_code == status
    assert (await served.call("GET", "/poll", environment="env_unknown")).status_code == status
    if status == 404:
        assert (await served.call("GET", "", headers=other)).json()["error"]["type"] == "not_found_error"


@pytest.mark.parametrize(("name", "most"), [("o", 100), ("m", 1000)])
async def test_the_list_has_the_newest_first_and_keeps_what_is_stopped(serve: Serve, name: str, most: int) -> None:
    served = await serve(name)
    served.create("work_old")
    served.simulation.create_past(ENVIRONMENT, 1500)
    served.create("work_new")
    page = await listed(served, limit=5000)
    assert len(page) == most
    assert page[0]["id"] == "work_new"
    assert {each["state"] for each in page[1:]} == {"stopped"}
    assert len(await listed(served, limit=1)) == 1


@pytest.mark.parametrize(("name", "nothing"), [("o", None), ("m", {})])
async def test_an_empty_poll(serve: Serve, name: str, nothing: object) -> None:
    assert await poll(await serve(name)) == nothing


@BOTH
async def test_a_polled_item_has_no_secret(serve: Serve, name: str) -> None:
    served = await serve(name)
    served.create(state=State.QUEUED)
    assert (await poll(served))["secret"] is None


async def test_o_polls_an_unacknowledged_item_again_under_another_id(serve: Serve) -> None:
    served = await serve("o")
    served.create(state=State.QUEUED)
    assert (await poll(served))["id"] == "work_1"
    ago(served, "work_1", 4.9, "polled_at")
    assert not await poll(served, reclaim_older_than_ms=1), "the poll that reserved it said 5 s"
    ago(served, "work_1", 0.2, "polled_at")
    again = (await poll(served, reclaim_older_than_ms=1))["id"]
    assert again != "work_1"
    assert (await served.call("POST", "/work_1/ack")).status_code == 404
    assert (await served.call("POST", f"/{again}/ack")).status_code == 200


async def test_m_polls_an_unacknowledged_item_again_under_its_id(serve: Serve) -> None:
    served = await serve("m")
    served.create(state=State.QUEUED)
    await poll(served, reclaim_older_than_ms=60_000)
    ago(served, "work_1", 0.1, "polled_at")
    assert not await poll(served)
    assert (await poll(served, reclaim_older_than_ms=100))["id"] == "work_1"


async def test_an_acknowledgement_at_o_proves_nothing(serve: Serve) -> None:
    served = await serve("o")
    for state in State:
        served.create(f"work_{state}", state)
        assert (await served.call("POST", f"/work_{state}/ack")).status_code == 200
        expected = State.STARTING if state is State.QUEUED else state
        assert served.simulation.item(f"work_{state}").state is expected


async def test_an_acknowledgement_at_m_is_refused_but_for_the_first_after_a_poll(serve: Serve) -> None:
    served = await serve("m")
    served.create(state=State.QUEUED)
    assert (await served.call("POST", "/work_1/ack")).status_code == 409
    await poll(served)
    assert (await served.call("POST", "/work_1/ack")).status_code == 200
    for state in (State.STARTING, State.ACTIVE, State.STOPPING, State.STOPPED):
        served.create(f"work_{state}", state)
        assert (await served.call("POST", f"/work_{state}/ack")).status_code == 409


@pytest.mark.parametrize(("name", "by_header", "by_query"), [("o", 1, 0), ("m", 0, 1)])
async def test_where_a_worker_names_itself(serve: Serve, name: str, by_header: int, by_query: int) -> None:
    async def seen(**how: Any) -> int:
        served = await serve(name)
        authorized = {"Authorization": f"Bearer {KEY}"} | how.pop("headers", {})
        await served.call("GET", "/poll", headers=authorized, **how)
        return int((await served.call("GET", "/stats")).json()["workers_polling"])

    assert await seen(headers={"Anthropic-Worker-ID": "w1"}) == by_header
    assert await seen(params={"worker_id": "w1"}) == by_query


# --- Sessions ------------------------------------------------------------------------------------------------------


async def message(served: Served, session_id: str = "sesn_1") -> str | None:
    item = (await served.admin.post(f"/sessions/{session_id}/messages")).json()["item"]
    return None if item is None else str(item["id"])


async def test_a_message_at_o_makes_no_second_item_until_the_first_has_ended(serve: Serve) -> None:
    served = await serve("o")
    served.create()
    assert await message(served) is None
    served.simulation.stop("work_1", StopMode.FORCED)
    second = await message(served)
    assert second not in (None, "work_1")
    assert (await poll(served))["id"] == second


async def test_a_message_at_m_makes_a_successor_that_is_polled_when_its_predecessor_has_ended(serve: Serve) -> None:
    served = await serve("m")
    served.create()
    successor = await message(served)
    assert successor not in (None, "work_1")
    assert not await poll(served)
    waiting = asyncio.create_task(poll(served, block_ms=999))
    served.simulation.stop("work_1", StopMode.FORCED)
    assert (await waiting)["id"] == successor


async def test_a_message_at_the_hosted_service_queues_the_ended_item_again(served: Served) -> None:
    served.create()
    assert await message(served) is None
    served.simulation.stop("work_1", StopMode.FORCED)
    assert await message(served) == "work_1"
