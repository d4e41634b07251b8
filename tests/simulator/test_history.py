"""The history: everything that the simulator received and did, in both orders, without a secret."""

import json

from support.judge import check_history
from support.served import API_KEY, KEY, X_API_KEY, Served
from work_api_simulator.items import State
from work_api_simulator.profiles import HOSTED
from work_api_simulator.simulation import NewItem, Simulation


async def test_a_beat_is_recorded_with_all_that_judges_it(served: Served) -> None:
    served.create()
    value = await served.held()
    await served.beat(expected=value, desired=60)
    created, first, second = await served.history("work_1")
    assert created["event"] == "created"
    assert (first["before"], first["expected"]) == ({"state": "starting", "value": None}, "NO_HEARTBEAT")
    assert first["after"] == {"state": "active", "value": value}
    assert (second["before"]["value"], second["expected"], second["desired_ttl"]) == (value, value, "60")
    assert (second["status"], second["outcome"], second["lease_extended"]) == (200, "answered", True)
    assert second["ttl_seconds"] == 60
    assert second["credentials"] == "environment-key"
    assert first["arrived_monotonic"] <= first["applied_monotonic"] <= first["answered_monotonic"]
    assert first["order"] < second["order"]


async def test_a_refused_request_is_recorded_with_the_state_it_met(served: Served) -> None:
    served.create()
    value = await served.held()
    await served.beat()
    entry = (await served.history("work_1"))[-1]
    assert (entry["status"], entry["lease_extended"]) == (412, None)
    assert entry["before"] == entry["after"] == {"state": "active", "value": value}


async def test_a_poll_is_recorded_under_the_item_that_it_found(served: Served) -> None:
    served.create(state=State.QUEUED)
    await served.call("GET", "/poll")
    assert (await served.history("work_1"))[-1]["call"] == "poll"


async def test_what_the_administration_does_is_no_request(served: Served) -> None:
    served.create()
    await served.admin.post("/items/work_1/steal")
    await served.admin.post("/items/work_1/stop", json={"force": True})
    await served.admin.post("/items/work_1/requeue", json={"acknowledged": True})
    await served.admin.put("/items/work_1/ttl", json={"ttl_seconds": 5})
    await served.admin.delete("/items/work_1")
    events = [entry["event"] for entry in await served.history("work_1")]
    assert events == ["created", "stolen", "stopped", "requeued", "ttl-imposed", "deleted"]


async def test_reading_goes_on_from_a_number(served: Served) -> None:
    served.create()
    await served.held()
    last = (await served.admin.get("/")).json()["last_seq"]
    await served.stop()
    body = (await served.admin.get("/history", params={"since": last})).json()
    assert [entry["call"] for entry in body["entries"]] == ["stop"]
    assert body["last_seq"] == last + 1
    assert (await served.admin.get("/history", params={"since": "x"})).status_code == 400


async def test_no_secret_is_ever_in_the_history(served: Served) -> None:
    token = served.create(state=State.QUEUED).sessions_token
    await served.call("GET", "/poll")
    await served.beat(headers={"Authorization": f"Bearer {token}"})
    await served.call("GET", "/work_1", headers=X_API_KEY)
    await served.beat(headers={"Authorization": "Bearer a-mistyped-secret"})
    text = json.dumps(await served.history())
    for secret in (token, KEY, API_KEY, "a-mistyped-secret"):
        assert secret not in text


def test_all_is_kept_unless_a_limit_is_asked_for() -> None:
    for limit, kept in ((None, 50), (10, 10)):
        simulation = Simulation(HOSTED, limit)
        simulation.keyring.set_environment_keys("env_1", [])
        for number in range(50):
            simulation.create(NewItem(environment_id="env_1", id=f"work_{number}"))
        assert len(list(simulation.history.read())) == kept
        assert simulation.history.forgotten == 50 - kept


async def test_the_judge_finds_nothing_in_an_honest_life(served: Served) -> None:
    served.create()
    value = await served.held()
    for _ in range(5):
        value = (await served.beat(expected=value)).json()["last_heartbeat"]
    await served.stop()
    await served.beat(expected=value)
    await served.stop(force=True)
    assert check_history(await served.history()) == []
