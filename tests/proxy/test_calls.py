"""Which call is which, by method and path: what is answered, what is refused, and what is passed on."""

import pytest

from support.proxied import HEARTBEAT, OWN, STOP, STREAM, WORK
from worklease_proxy.calls import Call, read_call


@pytest.mark.parametrize(
    ("method", "path", "call"),
    [
        ("POST", HEARTBEAT, Call.HEARTBEAT),
        ("POST", f"{HEARTBEAT}?beta=true&expected_last_heartbeat=NO_HEARTBEAT", Call.HEARTBEAT),
        ("POST", STOP, Call.STOP),
        ("GET", f"{WORK}/work_1", Call.OTHER),
        ("POST", f"{WORK}/work_1", Call.OTHER),
        ("GET", f"{WORK}/poll?block_ms=999", Call.POLL),
        ("POST", f"{WORK}/work_1/ack", Call.ACK),
        ("POST", f"{WORK}/work_2/ack", Call.ACK),
        ("GET", WORK, Call.LIST),
        ("GET", f"{WORK}/", Call.LIST),
        ("GET", f"{WORK}?limit=100", Call.LIST),
        ("POST", f"{WORK}/work_2/heartbeat", Call.OTHER_ITEM),
        ("POST", f"{WORK}/work_2/stop", Call.OTHER_ITEM),
        ("GET", f"{WORK}/work_2", Call.OTHER_ITEM),
        ("GET", f"{WORK}/stats", Call.OTHER_ITEM),
        ("POST", "/v1/environments/env_other/work/work_1/heartbeat", Call.OTHER_ITEM),
        ("DELETE", f"{WORK}/work_1", Call.UNKNOWN),
        ("GET", HEARTBEAT, Call.UNKNOWN),
        ("POST", f"{WORK}/work_1/lend", Call.UNKNOWN),
        ("POST", f"{WORK}/work_1/heartbeat/more", Call.UNKNOWN),
        ("GET", STREAM, Call.STREAM),
        ("GET", f"{STREAM}?beta=true", Call.STREAM),
        ("POST", STREAM, Call.OTHER),
        ("GET", "/v1/sessions/sesn_1/events", Call.OTHER),
        ("GET", "/v1/sessions/sesn_1", Call.OTHER),
        ("GET", "/v1/environments/env_test", Call.OTHER),
        ("GET", "/v1/environments/env_test/workers", Call.OTHER),
        ("GET", "/", Call.OTHER),
    ],
)
def test_a_call_is_read_from_its_method_and_path(method: str, path: str, call: Call) -> None:
    assert read_call(OWN, method, path) is call


@pytest.mark.parametrize(
    "path",
    [
        "/v1/environments/env_test/work/work%5F1/heartbeat",
        "/v1/environments/env_test/work%2Fwork_1%2Fheartbeat",
        "//v1//environments/env_test/work/work_1/heartbeat/",
        "/v1/./environments/x/../env_test/work/work_1/heartbeat",
        "/gateway/base/v1/environments/env_test/work/work_1/heartbeat",
    ],
)
def test_another_spelling_of_a_path_is_the_same_call(path: str) -> None:
    assert read_call(OWN, "POST", path) is Call.HEARTBEAT


def test_only_calls_that_are_not_about_the_own_item_are_refused() -> None:
    assert {call for call in Call if call.is_refused} == {
        Call.OTHER_ITEM,
        Call.POLL,
        Call.ACK,
        Call.LIST,
        Call.UNKNOWN,
    }
