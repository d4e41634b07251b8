"""Faults on demand: each acts before or after the request's effect, and the history says what was applied."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import pytest

from support.judge import heartbeats
from support.served import NO_HEARTBEAT, Served
from work_api_simulator.items import State, StopMode
from work_api_simulator.profiles import ListedDelivery


async def inject(served: Served, kind: str, **more: Any) -> int:
    response = await served.admin.post("/faults", json={"kind": kind, "call": "heartbeat", **more})
    assert response.status_code == 201, response.text
    return int(response.json()["id"])


async def last_beat(served: Served) -> dict[str, Any]:
    return dict(heartbeats(await served.history("work_1"))[-1])


def lapsed(history: Sequence[Mapping[str, Any]]) -> bool:
    return any(entry["event"] == "lapsed" for entry in history)


@pytest.mark.parametrize(("kind", "applied"), [("drop-before", False), ("drop-after", True)])
async def test_a_dropped_connection_leaves_the_client_without_an_answer(
    served: Served, kind: str, *, applied: bool
) -> None:
    served.create()
    await inject(served, kind)
    with pytest.raises(httpx.TransportError):
        await served.beat()
    assert (served.simulation.item("work_1").value is not None) is applied
    entry = await last_beat(served)
    assert (entry["outcome"], entry["status"]) == (f"dropped-{kind.removeprefix('drop-')}", None)
    assert (entry["order"] is not None) is applied


async def test_a_lost_reply_makes_the_next_beat_with_the_old_value_a_412(served: Served) -> None:
    served.create()
    value = await served.held()
    await inject(served, "drop-after")
    with pytest.raises(httpx.TransportError):
        await served.beat(expected=value)
    refused = await served.beat(expected=value)
    assert refused.status_code == 412
    moved = refused.json()["error"]["details"]["current_state"]["last_heartbeat"]
    assert (await served.beat(expected=moved)).status_code == 200


async def test_a_ttl_cut_in_an_answer_that_got_lost_counts_all_the_same(served: Served) -> None:
    served.create()
    value = await served.held()
    await served.admin.put("/items/work_1/ttl", json={"ttl_seconds": 1})
    await inject(served, "drop-after")
    with pytest.raises(httpx.TransportError):
        await served.beat(expected=value)
    item = served.simulation.item("work_1")
    assert (item.ttl, item.state) == (1, "active")
    await served.until(lapsed)


@pytest.mark.parametrize(("kind", "applied"), [("delay", False), ("delay-after", True)])
async def test_a_delay_holds_the_effect_or_the_answer(served: Served, kind: str, *, applied: bool) -> None:
    served.create()
    await inject(served, kind, seconds=0.2)
    beat = asyncio.create_task(served.beat())
    await served.until(lambda history: bool(heartbeats(history)))
    assert (served.simulation.item("work_1").value is not None) is applied
    assert (await beat).status_code == 200
    entry = await last_beat(served)
    assert entry["answered_monotonic"] - entry["arrived_monotonic"] >= 0.2


async def test_a_client_that_gave_up_does_not_undo_a_delayed_beat(served: Served) -> None:
    served.create()
    await inject(served, "delay", seconds=0.3)
    with pytest.raises(httpx.ReadTimeout):
        await served.work.post(
            "/v1/environments/env_test/work/work_1/heartbeat",
            params={"expected_last_heartbeat": NO_HEARTBEAT},
            headers={"Authorization": "Bearer test-environment-key"},
            timeout=0.1,
        )
    (entry,) = heartbeats(await served.until(lambda history: heartbeats(history)[0]["outcome"] is not None))
    assert (entry["outcome"], entry["after"]["state"]) == ("client-gone", "active")


@pytest.mark.parametrize(("kind", "applied"), [("hang", False), ("hang-after", True)])
async def test_a_hanging_request_ends_when_its_fault_is_removed(served: Served, kind: str, *, applied: bool) -> None:
    served.create()
    fault = await inject(served, kind)
    beat = asyncio.create_task(served.beat())
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(beat), 0.2)
    assert (await last_beat(served))["outcome"] is None
    await served.admin.delete(f"/faults/{fault}")
    with pytest.raises(httpx.TransportError):
        await beat
    assert (await last_beat(served))["outcome"] == f"hung-{'after' if applied else 'before'}"
    assert (served.simulation.item("work_1").value is not None) is applied


async def test_a_status_comes_with_a_retry_after_in_seconds_or_as_a_date(served: Served) -> None:
    served.create()
    await inject(served, "status", status=503, retry_after=7, should_retry="false")
    await inject(served, "status", status=429, retry_after=60, retry_after_form="date")
    first, second = await served.beat(), await served.beat()
    assert (first.status_code, first.headers["retry-after"], first.headers["x-should-retry"]) == (503, "7", "false")
    assert first.json()["error"]["type"] == "overloaded_error"
    assert second.status_code == 429
    assert parsedate_to_datetime(second.headers["retry-after"]).timestamp() - time.time() == pytest.approx(60, abs=5)
    assert served.simulation.item("work_1").value is None


async def test_a_status_after_the_effect_is_an_unanswered_beat(served: Served) -> None:
    served.create()
    await inject(served, "status-after", status=500)
    assert (await served.beat()).status_code == 500
    assert served.simulation.item("work_1").value is not None


async def test_a_malformed_answer_is_a_200_that_is_not_json(served: Served) -> None:
    served.create()
    await inject(served, "malformed")
    response = await served.beat()
    assert response.status_code == 200
    with pytest.raises(ValueError, match=r"Unterminated|Expecting"):
        response.json()
    assert served.simulation.item("work_1").value is not None


async def test_a_fault_strikes_its_item_and_call_so_many_times(served: Served) -> None:
    served.create("work_1")
    served.create("work_2")
    await inject(served, "status", status=500, item="work_1", times=2)
    assert (await served.beat("work_2")).status_code == 200
    assert (await served.stop("work_2")).status_code == 200
    assert [(await served.beat("work_1")).status_code for _ in range(3)] == [500, 500, 200]


async def test_a_fault_without_a_number_strikes_until_it_is_removed(served: Served) -> None:
    served.create()
    fault = await inject(served, "status", status=500, times=None)
    assert [(await served.beat()).status_code for _ in range(5)] == [500] * 5
    assert len((await served.admin.get("/faults")).json()["faults"]) == 1
    await served.admin.delete(f"/faults/{fault}")
    assert (await served.beat()).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        {"kind": "explode"},
        {"kind": "delay"},
        {"kind": "status"},
        {"kind": "status", "status": 200},
        {"kind": "hang", "call": "sing"},
        {"kind": "hang", "times": True},
        {},
    ],
)
async def test_a_fault_that_makes_no_sense_is_refused(served: Served, body: dict[str, Any]) -> None:
    response = await served.admin.post("/faults", json=body)
    assert response.status_code == 400
    assert response.json()["error"]


async def test_a_server_that_is_away_refuses_connections_and_comes_back_on_its_port(served: Served) -> None:
    served.create()
    value = await served.held()
    await served.admin.put("/outage", json={"mode": "refuse"})
    with pytest.raises(httpx.ConnectError):
        await served.beat(expected=value)
    assert (await served.admin.get("/")).json()["outage"] == "refuse"
    await served.admin.put("/outage", json={"mode": "off"})
    assert (await served.beat(expected=value)).status_code == 200


async def test_nobody_else_gets_the_port_of_a_server_that_is_away(served: Served) -> None:
    await served.admin.put("/outage", json={"mode": "refuse"})
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind((served.server.work.host, served.server.work.port))


async def test_a_server_that_resets_takes_nothing_in(served: Served) -> None:
    served.create()
    await served.admin.put("/outage", json={"mode": "reset"})
    with pytest.raises(httpx.TransportError):
        await served.beat()
    assert served.simulation.item("work_1").value is None
    assert (await last_beat(served))["outcome"] == "outage"
    await served.admin.put("/outage", json={"mode": "off"})
    assert (await served.beat()).status_code == 200


async def test_an_outage_does_not_stop_the_clock(served: Served) -> None:
    served.create(ttl=1)
    await served.held()
    await served.admin.put("/outage", json={"mode": "refuse"})
    await served.until(lapsed)


# --- A gateway before the API ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "applied"), [("gateway", False), ("gateway-after", True)])
async def test_a_gateway_answers_by_itself_with_its_own_clock_and_words(
    served: Served, kind: str, *, applied: bool
) -> None:
    served.create()
    await inject(served, kind, status=504, clock_ahead=100, retry_after=7)
    answer = await served.beat()
    assert (answer.status_code, answer.text) == (504, "default backend - 504")
    assert "request-id" not in answer.headers
    assert answer.headers["retry-after"] == "7"
    ahead = parsedate_to_datetime(answer.headers["date"]).timestamp() - time.time()
    assert ahead == pytest.approx(100, abs=2)
    assert (served.simulation.item("work_1").value is not None) is applied


async def test_a_gateways_404_is_not_the_apis_own(served: Served) -> None:
    served.create()
    await inject(served, "gateway", status=404)
    assert (await served.beat()).text == "default backend - 404"
    await inject(served, "gateway", status=502, body="<html>bad gateway</html>")
    assert (await served.beat()).text == "<html>bad gateway</html>"


async def test_a_gateway_tells_its_time_even_where_the_api_does_not(serve: Callable[..., Awaitable[Served]]) -> None:
    served = await serve("terse")
    served.create()
    await inject(served, "gateway", status=504)
    assert "date" in (await served.beat()).headers
    assert "date" not in (await served.beat()).headers


# --- By chance -------------------------------------------------------------------------------------------------------


async def test_a_fault_may_meet_a_share_of_the_requests(served: Served) -> None:
    served.create()
    await inject(served, "status", status=500, times=None, share=0.4)
    answers = [(await served.beat(expected=None)).status_code for _ in range(300)]
    assert 70 < answers.count(500) < 170, "120 of 300, give or take"


async def test_a_fault_may_meet_only_beats_that_extended_a_lease(served: Served) -> None:
    served.create()
    await inject(served, "drop-after", times=None, accepted=True)
    with pytest.raises(httpx.TransportError):
        await served.beat()
    assert (await served.beat()).status_code == 412
    with pytest.raises(httpx.TransportError):
        await served.beat(expected=served.simulation.item("work_1").value)


# --- What else a server may do ---------------------------------------------------------------------------------------


async def test_a_list_may_lag_by_a_delivery(serve: Callable[..., Awaitable[Served]]) -> None:
    served = await serve(listed_delivery=ListedDelivery.FORMER)
    served.create()
    value = await served.held()
    served.simulation.stop("work_1", StopMode.FORCED)
    served.simulation.requeue("work_1", State.STARTING)
    await served.held()
    (row,) = (await served.call("GET", "")).json()["data"]
    assert (row["state"], row["latest_heartbeat_at"]) == ("stopped", value)


async def test_a_ttl_may_be_refused_for_ever(served: Served) -> None:
    served.create()
    value = (await served.beat(desired=60)).json()["last_heartbeat"]
    await served.admin.put("/items/work_1/longest-ttl", json={"ttl_seconds": 30})
    for _ in range(2):
        assert (await served.beat(expected=value, desired=60)).status_code == 400
    assert (await served.beat(expected=value, desired=30)).status_code == 200
    await served.admin.put("/items/work_1/longest-ttl", json={"ttl_seconds": None})
    value = served.simulation.item("work_1").value or ""
    assert (await served.beat(expected=value, desired=60)).status_code == 200
