"""What a server, a pod or a person wrote clears no screen and forges no line, wherever it is read."""

import time

import pytest
from pydantic import SecretStr

from support.scripted_server import Answer, always, kubernetes_at, serving
from support.work_api_calls import ITEM, beat
from worklease.cli.reading import Reader
from worklease.cluster.client import Refused
from worklease.cluster.pod_reading import read_pod
from worklease.rules.outcomes import Answered
from worklease.rules.words import one_line
from worklease.work_api import responses
from worklease.work_api.client import WorkApi

FORGED = "the end\x1b[2J\x1b[H\nERROR \u202eall leases are lost\r\x9b31m\x07"
"""Words that clear the screen, begin a line of their own, and change the direction of writing."""

SHOWN = "the end [2J [H ERROR all leases are lost 31m"


@pytest.mark.parametrize(("words", "shown"), [(FORGED, SHOWN), ("two  spaces stay", "two  spaces stay"), ("\n", "")])
def test_words_are_one_line_of_what_can_be_printed(words: str, shown: str) -> None:
    assert one_line(words) == shown


def test_a_pods_own_words_are_read_so() -> None:
    state = {"terminated": {"exitCode": 1, "reason": f"Error{FORGED}", "message": FORGED}}
    metadata = {"name": "sandbox-1", "namespace": "sandboxes", "uid": "uid-1"}
    status = {"phase": "Failed", "containerStatuses": [{"name": "sandbox", "state": state}]}
    pod = read_pod({"metadata": metadata, "status": status})
    assert (pod.reason, pod.message) == (f"Error{SHOWN}", SHOWN)
    evicted = read_pod({"metadata": metadata, "status": {"phase": "Failed", "reason": "Evicted", "message": FORGED}})
    assert evicted.message == SHOWN


async def test_an_api_servers_refusal_is_read_so() -> None:
    async with serving() as server, kubernetes_at(server.url) as kubernetes:
        server.script = always(Answer(status=403, body={"message": FORGED, "reason": FORGED}))
        reply = await kubernetes.call("GET", "/api/v1/pods")
    assert isinstance(reply, Refused)
    assert (reply.message, reply.reason) == (SHOWN, SHOWN)


async def test_the_work_apis_words_are_read_so_and_its_value_stays_as_it_is() -> None:
    said = {"state": FORGED, "last_heartbeat": FORGED, "lease_extended": True, "ttl_seconds": 60}
    async with serving() as server, WorkApi(server.url, time.monotonic) as api:
        server.script = always(Answer(body=said))
        outcome = await api.heartbeat(ITEM, beat())
    assert isinstance(outcome, Answered)
    assert (outcome.state, outcome.last_heartbeat) == (SHOWN, FORGED)
    stopped = responses.Response(200, {}, b'{"state": "stopped\\u001b[2J"}')
    assert responses.item_state(stopped) == "stopped [2J"
    assert responses.plain(FORGED, SecretStr("key")) == SHOWN


async def test_what_the_command_line_prints_is_read_so() -> None:
    event = {"metadata": {"name": "e"}, "reason": "Told", "message": FORGED, "count": 2}
    async with serving() as server, kubernetes_at(server.url) as kubernetes:
        server.script = always(Answer(body={"items": [event], "metadata": {}}))
        assert await Reader(kubernetes).events("team", "uid") == [event | {"message": SHOWN}]
        server.script = always(Answer(body={"status": {"containerStatuses": [{"state": FORGED}]}}))
        pod = await Reader(kubernetes).pod("team", "sandbox-1")
        assert pod == {"status": {"containerStatuses": [{"state": SHOWN}]}}
