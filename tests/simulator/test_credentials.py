"""Which credentials may make which call, over a socket and as the whole table."""

from collections.abc import Awaitable, Callable

import pytest

from support.served import API_KEY, BEARER, ENVIRONMENT, KEY, X_API_KEY, Served
from work_api_simulator.credentials import Operation

Serve = Callable[..., Awaitable[Served]]

REQUESTS: dict[Operation, tuple[str, str]] = {
    Operation.HEARTBEAT: ("POST", "/work_1/heartbeat"),
    Operation.STOP: ("POST", "/work_1/stop"),
    Operation.ACK: ("POST", "/work_1/ack"),
    Operation.POLL: ("GET", "/poll"),
    Operation.GET: ("GET", "/work_1"),
    Operation.METADATA: ("POST", "/work_1"),
    Operation.LIST: ("GET", ""),
    Operation.STATS: ("GET", "/stats"),
}
# "Who may call what": API key, environment key, the item's sessions token.
TABLE = {
    Operation.HEARTBEAT: (False, True, True),
    Operation.STOP: (True, True, True),
    Operation.POLL: (False, True, False),
    Operation.ACK: (False, True, False),
    Operation.LIST: (False, True, False),
    Operation.GET: (True, False, False),
    Operation.METADATA: (True, False, False),
    Operation.STATS: (True, True, False),
}


@pytest.mark.parametrize("call", list(Operation))
async def test_each_call_admits_the_credentials_of_the_table_and_no_others(served: Served, call: Operation) -> None:
    token = served.create().sessions_token
    method, path = REQUESTS[call]
    shown = [X_API_KEY, BEARER, {"Authorization": f"Bearer {token}"}]
    responses = [await served.call(method, path, headers=headers) for headers in shown]
    assert tuple(response.status_code != 403 for response in responses) == TABLE[call]
    assert all(response.status_code != 401 for response in responses)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer garbage"},
        {"Authorization": f"Basic {KEY}"},
        {"x-api-key": KEY},
        {"x-api-key": "garbage"},
    ],
)
async def test_no_credentials_or_garbage_is_a_401(served: Served, headers: dict[str, str]) -> None:
    served.create()
    response = await served.beat(headers=headers)
    assert (response.status_code, response.json()["error"]["type"]) == (401, "authentication_error")


async def test_an_api_key_is_one_as_a_bearer_too(served: Served) -> None:
    served.create()
    headers = {"Authorization": f"Bearer {API_KEY}"}
    assert (await served.call("GET", "/work_1", headers=headers)).status_code == 200
    assert (await served.beat(headers=headers)).status_code == 403


async def test_a_key_of_another_environment_and_an_unknown_environment_are_not_told_apart(served: Served) -> None:
    served.simulation.keyring.set_environment_keys("env_other", ["other-key"])
    other = await served.call("GET", "", headers={"Authorization": "Bearer other-key"})
    unknown = await served.call("GET", "", environment="env_nowhere")
    assert (other.status_code, unknown.status_code) == (403, 403)
    assert other.json()["error"]["type"] == unknown.json()["error"]["type"] == "permission_error"
    assert other.json()["error"]["message"].replace(ENVIRONMENT, "") == unknown.json()["error"]["message"].replace(
        "env_nowhere", ""
    )


async def test_some_servers_answer_the_wrong_environment_with_401(serve: Serve) -> None:
    served = await serve("strict")
    assert (await served.call("GET", "", environment="env_nowhere")).status_code == 401


async def test_a_sessions_token_is_good_for_its_own_item_alone(served: Served) -> None:
    served.create("work_1")
    token = served.create("work_2").sessions_token
    headers = {"Authorization": f"Bearer {token}"}
    assert (await served.beat("work_1", headers=headers)).status_code == 403
    assert (await served.beat("work_2", headers=headers)).status_code == 200


async def test_a_revoked_key_is_refused_from_the_next_request_on(served: Served) -> None:
    served.create()
    value = await served.held()
    path = f"/environments/{ENVIRONMENT}/keys"
    await served.admin.put(path, json={"keys": ["rotated"]})
    assert (await served.beat(expected=value)).status_code == 401
    rotated = {"Authorization": "Bearer rotated"}
    assert (await served.beat(expected=value, headers=rotated)).status_code == 200
    await served.admin.put(path, json={"keys": []})
    assert (await served.beat(expected=value, headers=rotated)).status_code == 401


async def test_a_rotated_sessions_token_is_refused(served: Served) -> None:
    old = served.create().sessions_token
    new = (await served.admin.post("/items/work_1/token")).json()["sessions_token"]
    assert (await served.beat(headers={"Authorization": f"Bearer {old}"})).status_code == 401
    assert (await served.beat(headers={"Authorization": f"Bearer {new}"})).status_code == 200


async def test_the_token_of_a_deleted_item_is_revoked(served: Served) -> None:
    token = served.create().sessions_token
    await served.admin.delete("/items/work_1")
    assert (await served.beat(headers={"Authorization": f"Bearer {token}"})).status_code == 401
    assert (await served.beat()).status_code == 404


async def test_one_key_is_revoked_while_another_stays_good(served: Served) -> None:
    served.create()
    served.simulation.keyring.set_environment_keys(ENVIRONMENT, ["stays", "goes"])
    stays, goes = ({"Authorization": f"Bearer {key}"} for key in ("stays", "goes"))
    assert (await served.call("GET", "", headers=goes)).status_code == 200
    served.simulation.keyring.set_environment_keys(ENVIRONMENT, ["stays"])
    assert (await served.call("GET", "", headers=goes)).status_code == 401
    assert (await served.call("GET", "", headers=stays)).status_code == 200


async def test_a_sessions_token_may_expire_while_the_environments_key_stays_good(served: Served) -> None:
    item = served.create()
    token = {"Authorization": f"Bearer {item.sessions_token}"}
    value = (await served.beat(headers=token)).json()["last_heartbeat"]
    await served.admin.put("/items/work_1/token", json={"seconds": 60})
    value = (await served.beat(expected=value, headers=token)).json()["last_heartbeat"]
    await served.admin.put("/items/work_1/token", json={"seconds": 0})
    assert (await served.beat(expected=value, headers=token)).status_code == 401
    assert (await served.beat(expected=value)).status_code == 200
