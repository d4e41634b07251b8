"""The start reports what the cluster lacks: in one line, with what to do."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from support.scripted_server import Answer, Fault, ScriptedServer, Seen, always, in_turn, kubernetes_at, serving
from worklease.cluster.bucket_store import BucketStore
from worklease.cluster.client import KubernetesApi
from worklease.preflight import CHECKPOINT, OWN_RIGHTS, RIGHTS, PreflightFailed, check, check_work_api
from worklease.work_api.client import WorkApi

DISCOVERY = "/apis/worklease.dev/v1alpha1"
RESOURCES = {"kind": "APIResourceList", "resources": [{"name": "workleases"}, {"name": "workleases/status"}]}
FOUND = Answer(body=RESOURCES)
GRANTED = Answer(status=201, body={"status": {"allowed": True}})
DENIED = Answer(status=201, body={"status": {"allowed": False, "reason": "no"}})


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with serving() as scripted:
        yield scripted


@pytest.fixture
async def kubernetes(server: ScriptedServer) -> AsyncIterator[KubernetesApi]:
    async with kubernetes_at(server.url) as api:
        yield api


def refused(status: int, message: str = "in the server's words") -> Answer:
    return Answer(status=status, body={"kind": "Status", "message": message})


def attributes(seen: Seen) -> dict[str, Any]:
    found: dict[str, Any] = seen.json["spec"]["resourceAttributes"]
    return found


async def problem(kubernetes: KubernetesApi, *namespaces: str, within: float = 0.0) -> str:
    with pytest.raises(PreflightFailed) as missing:
        await check(kubernetes, namespaces, "home", timeout=within)
    message = str(missing.value)
    assert "\n" not in message
    return message


async def test_a_cluster_with_the_resource_and_the_rights_is_ready(
    server: ScriptedServer, kubernetes: KubernetesApi
) -> None:
    server.script = lambda seen: FOUND if seen.target == DISCOVERY else GRANTED
    await check(kubernetes, (), "home")
    asked = [attributes(seen) for seen in server.seen if seen.method == "POST"]
    assert len(asked) == len(RIGHTS) + len(OWN_RIGHTS)
    assert not [each for each in asked if "namespace" in each and each["resource"] not in {"configmaps", "leases"}]
    own = {"group": "", "resource": "configmaps", "namespace": "home"}
    assert own | {"verb": "create"} in asked
    assert own | {"verb": "patch", "name": CHECKPOINT} in asked
    assert {"verb": "patch", "group": "worklease.dev", "resource": "workleases", "subresource": "status"} in asked
    assert {"verb": "delete", "group": "", "resource": "pods"} in asked


async def test_rights_are_asked_for_in_each_watched_namespace(
    server: ScriptedServer, kubernetes: KubernetesApi
) -> None:
    server.script = lambda seen: FOUND if seen.target == DISCOVERY else GRANTED
    await check(kubernetes, ("one", "two"), "home")
    asked = [attributes(seen)["namespace"] for seen in server.seen if seen.method == "POST"]
    wanted = ["home"] * len(OWN_RIGHTS) + ["one"] * len(RIGHTS) + ["two"] * len(RIGHTS)
    assert sorted(asked) == wanted


@pytest.mark.parametrize("answer", [refused(404), Answer(body={"resources": [{"name": "others"}]}), Answer(body={})])
async def test_a_missing_crd_is_said_with_the_line_that_installs_it(
    server: ScriptedServer, kubernetes: KubernetesApi, answer: Answer
) -> None:
    server.script = always(answer)
    message = await problem(kubernetes, within=60)
    assert "CRD is not installed" in message
    assert "kubectl apply -f crds/workleases.yaml" in message


async def test_missing_rights_are_named_one_by_one(server: ScriptedServer, kubernetes: KubernetesApi) -> None:
    def script(seen: Seen) -> Answer:
        if seen.target == DISCOVERY:
            return FOUND
        asked = attributes(seen)
        lacking = (asked["verb"], asked["resource"]) in {("delete", "pods"), ("patch", "workleases")}
        return DENIED if lacking and asked["namespace"] == "two" else GRANTED

    server.script = script
    (warning,) = await check(kubernetes, ("one", "two"), "home")
    assert "namespace two is left out" in warning
    assert "delete pods in namespace two" in warning
    assert "namespace one" not in warning
    message = await problem(kubernetes, "two")
    for right in ("patch workleases.worklease.dev", "patch workleases.worklease.dev/status", "delete pods"):
        assert f"{right} in namespace two" in message
    assert "grant them" in message


async def test_what_is_missing_in_all_of_several_namespaces_stops_the_start(
    server: ScriptedServer, kubernetes: KubernetesApi
) -> None:
    def script(seen: Seen) -> Answer:
        if seen.target == DISCOVERY:
            return FOUND
        return GRANTED if attributes(seen)["namespace"] == "home" else DENIED

    server.script = script
    message = await problem(kubernetes, "one", "two")
    assert "get workleases.worklease.dev in namespace one" in message
    assert "get workleases.worklease.dev in namespace two" in message


async def test_the_checkpoint_is_asked_for_by_its_own_name(server: ScriptedServer, kubernetes: KubernetesApi) -> None:
    server.script = always(refused(404))
    await BucketStore(kubernetes, "home").read(0)
    assert f"/api/v1/namespaces/home/configmaps/{CHECKPOINT}" in {seen.target for seen in server.seen}


async def test_a_right_that_is_missing_everywhere_is_said_so(server: ScriptedServer, kubernetes: KubernetesApi) -> None:
    server.script = lambda seen: FOUND if seen.target == DISCOVERY else DENIED
    assert "delete pods in all namespaces" in await problem(kubernetes)


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("target", [DISCOVERY, "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"])
async def test_refused_credentials_are_said_at_once(
    server: ScriptedServer, kubernetes: KubernetesApi, status: int, target: str
) -> None:
    server.script = lambda seen: refused(status) if seen.target == target else FOUND
    message = await problem(kubernetes, within=60)
    assert "refuses the operator's credentials" in message
    assert server.url in message
    assert "in the server's words" in message


@pytest.mark.parametrize("answer", [refused(503), refused(500), refused(429), Answer(fault=Fault.RESET)])
async def test_a_server_that_stays_away_is_said_when_the_time_is_over(
    server: ScriptedServer, kubernetes: KubernetesApi, answer: Answer
) -> None:
    server.script = always(answer)
    message = await problem(kubernetes)
    assert "in the server's words" in message or server.url in message


async def test_a_server_that_is_on_its_way_up_is_waited_for(server: ScriptedServer, kubernetes: KubernetesApi) -> None:
    server.script = in_turn(refused(503), FOUND, refused(429), GRANTED)
    async with asyncio.timeout(30):
        await check(kubernetes, (), "home")


async def test_an_address_where_nobody_is_is_said(server: ScriptedServer) -> None:
    url = server.url
    await server.close()
    started = time.monotonic()
    async with kubernetes_at(url) as api:
        message = await problem(api)
    assert url in message
    assert "did not answer" in message
    assert time.monotonic() - started < 10


async def test_a_crd_that_comes_later_is_not_looked_for(server: ScriptedServer, kubernetes: KubernetesApi) -> None:
    server.script = lambda seen: refused(404) if seen.target == DISCOVERY else GRANTED
    await check(kubernetes, (), "home", needs_crd=False)
    assert DISCOVERY not in {seen.target for seen in server.seen}


@pytest.mark.parametrize("answer", [Answer(status=404), Answer(status=401), Answer(status=500), Answer(body={})])
async def test_a_work_api_that_answers_is_there_and_is_asked_without_a_key(
    server: ScriptedServer, answer: Answer
) -> None:
    server.script = always(answer)
    async with WorkApi(server.url, time.monotonic) as work_api:
        await check_work_api(work_api)
    (seen,) = server.seen
    assert (seen.method, seen.path) == ("GET", "/")
    assert "authorization" not in seen.headers


@pytest.mark.parametrize(
    ("answer", "said"),
    [(Answer(status=503), "a gateway answered 503"), (Answer(fault=Fault.RESET), "check WORKLEASE_API_URL")],
)
async def test_a_work_api_that_nobody_reaches_is_said(server: ScriptedServer, answer: Answer, said: str) -> None:
    server.script = always(answer)
    async with WorkApi(server.url, time.monotonic) as work_api:
        with pytest.raises(PreflightFailed, match=server.url) as missing:
            await check_work_api(work_api)
    assert said in str(missing.value) or "broke off" in str(missing.value)
