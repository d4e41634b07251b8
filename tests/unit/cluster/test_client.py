"""Calls to the Kubernetes API: which credentials they carry, and what a reply means; over real sockets."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes.aio import client, config

from support.scripted_server import TEST_KEY, Answer, Fault, ScriptedServer, always, in_turn, kubernetes_at, serving
from worklease.cluster.client import Done, KubernetesApi, NoAnswer, PatchType, Refused, open_client

PATH = "/api/v1/namespaces/sandboxes/pods"


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with serving() as scripted:
        yield scripted


@pytest.fixture
async def api(server: ScriptedServer) -> AsyncIterator[KubernetesApi]:
    async with kubernetes_at(server.url, call_timeout=0.5) as opened:
        yield opened


# --- Calls ---------------------------------------------------------------------------------------------------------


async def test_a_call_carries_the_token_the_query_and_the_body(server: ScriptedServer, api: KubernetesApi) -> None:
    await api.call("GET", PATH, query={"labelSelector": "a=b,c"})
    await api.call("PATCH", PATH, body={"metadata": {"x": None}}, patch=PatchType.MERGE)
    await api.call("PATCH", PATH, body=[{"op": "test"}], patch=PatchType.JSON)
    await api.call("DELETE", PATH, body={"kind": "DeleteOptions"})
    get, merge, patch, delete = server.seen
    assert (get.method, get.path, get.query) == ("GET", PATH, {"labelSelector": ["a=b,c"]})
    assert all(seen.headers["authorization"] == "Bearer test-token" for seen in server.seen)
    assert all(seen.headers["accept"] == "application/json" for seen in server.seen)
    assert (merge.headers["content-type"], merge.json) == ("application/merge-patch+json", {"metadata": {"x": None}})
    assert (patch.headers["content-type"], patch.json) == ("application/json-patch+json", [{"op": "test"}])
    assert (delete.method, delete.json) == ("DELETE", {"kind": "DeleteOptions"})


@pytest.mark.parametrize("status", [200, 201, 202])
async def test_a_success_is_done(server: ScriptedServer, api: KubernetesApi, status: int) -> None:
    server.script = always(Answer(status=status, body={"kind": "Pod"}))
    assert await api.call("GET", PATH) == Done({"kind": "Pod"})


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 410, 422, 429, 500, 503, 504])
async def test_a_refusal_has_the_servers_words(server: ScriptedServer, api: KubernetesApi, status: int) -> None:
    server.script = always(Answer(status=status, body={"kind": "Status", "message": "in the server's words"}))
    assert await api.call("PATCH", PATH, body={}) == Refused(status, "in the server's words")


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"[" * 60_000, b"\xff", b'{"message": null}'])
async def test_a_refusal_counts_whatever_its_body_is(server: ScriptedServer, api: KubernetesApi, body: bytes) -> None:
    server.script = always(Answer(status=403, body=body))
    assert await api.call("GET", PATH) == Refused(403, "the Kubernetes API answered 403")


@pytest.mark.parametrize("body", [b"", b"<html>please log in</html>", b"[]", b"null", b"[" * 60_000, b'{"kind": '])
async def test_a_success_without_an_object_is_no_answer(
    server: ScriptedServer, api: KubernetesApi, body: bytes
) -> None:
    server.script = always(Answer(body=body))
    reply = await api.call("GET", PATH)
    assert isinstance(reply, NoAnswer)
    assert server.url in reply.message


@pytest.mark.parametrize(("header", "seconds"), [("3", 3.0), ("soon", None), ("-1", None), ("", None)])
async def test_retry_after_is_read(
    server: ScriptedServer, api: KubernetesApi, header: str, seconds: float | None
) -> None:
    server.script = always(Answer(status=429, headers={"Retry-After": header}))
    reply = await api.call("PATCH", PATH, body={})
    assert isinstance(reply, Refused)
    assert reply.retry_after == seconds


@pytest.mark.parametrize(
    ("status", "message", "by_uid"),
    [
        (409, 'on Pod "x": the UID in the precondition (a) does not match the UID in record (b).', True),
        (409, "Precondition failed: UID in precondition: a, UID in object meta: b", True),
        (409, 'Operation cannot be fulfilled on pods "fluid": the object has been modified', False),
        (409, 'pods "the-uid" already exists', False),
        (422, "UID in precondition: a, UID in object meta: b", False),
    ],
)
def test_only_a_conflict_about_the_uid_is_about_the_uid(*, status: int, message: str, by_uid: bool) -> None:
    assert Refused(status, message).is_by_uid is by_uid


@pytest.mark.parametrize("fault", [Fault.RESET, Fault.CLOSE, Fault.TRUNCATE, Fault.HANG, Fault.HANG_IN_BODY])
async def test_a_call_that_breaks_or_hangs_is_no_answer(
    server: ScriptedServer, api: KubernetesApi, fault: Fault
) -> None:
    server.script = always(Answer(fault=fault))
    reply = await api.call("PATCH", PATH, body={})
    assert isinstance(reply, NoAnswer)
    assert server.url in reply.message
    assert reply.message.isprintable()


async def test_a_change_that_broke_off_is_not_sent_again_by_itself(server: ScriptedServer, api: KubernetesApi) -> None:
    server.script = in_turn(Answer(fault=Fault.RESET), Answer())
    assert isinstance(await api.call("PATCH", PATH, body={}), NoAnswer)
    assert len(server.seen) == 1


async def test_a_call_that_hangs_delays_no_other(server: ScriptedServer) -> None:
    server.script = lambda seen: Answer(fault=Fault.HANG if seen.path == "/hangs" else Fault.NONE)
    async with kubernetes_at(server.url) as api:
        stuck = [asyncio.create_task(api.call("GET", "/hangs")) for _ in range(50)]
        await server.until_seen(50)
        started = time.monotonic()
        assert isinstance(await api.call("GET", PATH), Done)
        assert time.monotonic() - started < 5
        for task in stuck:
            task.cancel()
        await asyncio.wait(stuck)


async def test_a_certificate_that_nobody_vouches_for_is_refused() -> None:
    async with serving(tls=True) as server, kubernetes_at(server.url) as api:
        reply = await api.call("GET", PATH)
        assert isinstance(reply, NoAnswer)
        assert "certificate" in reply.message.lower()
        assert server.seen == []


async def test_a_certificate_is_trusted_by_the_clusters_authority() -> None:
    async with serving(tls=True) as server, kubernetes_at(server.url, ca=TEST_KEY) as api:
        assert isinstance(await api.call("GET", PATH), Done)


async def test_a_netrc_file_does_not_come_between(
    server: ScriptedServer, api: KubernetesApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login somebody password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    assert isinstance(await api.call("GET", PATH), Done)
    assert server.seen[0].headers["authorization"] == "Bearer test-token"


async def test_a_proxy_is_used_where_the_environment_names_one(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    async with kubernetes_at("http://kubernetes.invalid") as api:
        assert isinstance(await api.call("GET", PATH), Done)
    assert server.seen[0].target == f"http://kubernetes.invalid{PATH}"


async def test_a_proxy_is_not_used_for_what_the_environment_exempts(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy.invalid:1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    async with kubernetes_at(server.url) as api:
        assert isinstance(await api.call("GET", PATH), Done)


@pytest.mark.parametrize(
    "error", [config.ConfigException("Token file exists but empty."), OSError("gone"), ValueError()]
)
async def test_credentials_that_cannot_be_renewed_are_no_answer(server: ScriptedServer, error: Exception) -> None:
    def renew(_: object) -> None:
        raise error

    settings = client.Configuration()
    settings.host = server.url
    settings.api_key["BearerToken"] = "Bearer old"
    vars(settings)["refresh_api_key_hook"] = renew
    api = KubernetesApi(open_client(settings), None)
    try:
        reply = await api.call("GET", PATH)
    finally:
        await api.close()
    assert isinstance(reply, NoAnswer)
    assert "credentials" in reply.message
    assert server.seen == []


# --- Credentials ---------------------------------------------------------------------------------------------------

CONNECT = """
import asyncio
from worklease.cluster.client import KubernetesApi, NotConfigured
async def main():
    try:
        api = await KubernetesApi.connect()
    except NotConfigured as error:
        print(f"refused {error}")
        return
    print(api.server, api.namespace, type(await api.call("GET", "/version")).__name__)
    await api.close()
asyncio.run(main())
"""


async def connect(kubeconfig: Path, **environment: str) -> str:
    """Connect in a process of its own: the official client reads its environment once."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-c", CONNECT),
        env={"PATH": os.environ["PATH"], "KUBECONFIG": str(kubeconfig), "HOME": str(kubeconfig.parent)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    said, complained = await child.communicate()
    assert b"Traceback" not in complained, complained.decode()
    assert said.count(b"\n") == 1, said
    return said.decode().strip()


def kubeconfig(
    folder: Path, url: str, context: dict[str, Any] | None = None, cluster: dict[str, str] | None = None
) -> Path:
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": url} | (cluster or {})}],
        "users": [{"name": "test", "user": {"token": "from-the-file"}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"} | (context or {})}],
    }
    path = folder / "config"
    path.write_text(json.dumps(content))
    return path


async def test_a_kubeconfig_gives_server_token_and_namespace(server: ScriptedServer, tmp_path: Path) -> None:
    said = await connect(kubeconfig(tmp_path, server.url, {"namespace": "mine"}))
    assert said == f"{server.url} mine Done"
    assert server.seen[0].headers["authorization"] == "Bearer from-the-file"


async def test_a_kubeconfig_need_not_name_a_namespace(server: ScriptedServer, tmp_path: Path) -> None:
    assert await connect(kubeconfig(tmp_path, server.url)) == f"{server.url} None Done"


async def test_a_pod_without_a_token_goes_by_its_kubeconfig(server: ScriptedServer, tmp_path: Path) -> None:
    said = await connect(
        kubeconfig(tmp_path, server.url), KUBERNETES_SERVICE_HOST="10.0.0.1", KUBERNETES_SERVICE_PORT="443"
    )
    assert said == f"{server.url} None Done"


@pytest.mark.parametrize(
    "content",
    [
        None,
        "",
        "just text",
        "- a\n- list\n",
        "{not: [yaml",
        "\x00\x01",
        '{"apiVersion": "v1", "kind": "Config"}',
        '{"clusters": [], "contexts": [], "users": [], "current-context": "gone"}',
    ],
    ids=["missing", "empty", "text", "list", "no-yaml", "binary", "bare", "no-context"],
)
async def test_without_credentials_there_is_one_clear_line(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "config"
    if content is not None:
        path.write_text(content)
    said = await connect(path)
    assert said.startswith("refused no Kubernetes credentials: not in a pod, and no usable kubeconfig (")
    assert said.endswith("set KUBECONFIG")


@pytest.mark.parametrize(
    "cluster",
    [{"certificate-authority": "/no/such/file"}, {"certificate-authority-data": "bm8gY2VydGlmaWNhdGU="}],
    ids=["missing", "no-certificate"],
)
async def test_a_kubeconfig_with_a_bad_certificate_is_not_usable(tmp_path: Path, cluster: dict[str, str]) -> None:
    said = await connect(kubeconfig(tmp_path, "https://127.0.0.1:1", cluster=cluster))
    assert said.startswith("refused no Kubernetes credentials")
