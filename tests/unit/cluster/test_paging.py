"""A long list is read page by page, to its end or to the error that ended it."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from support.scripted_server import Answer, Fault, ScriptedServer, always, in_turn, kubernetes_at, serving
from worklease.cluster.client import KubernetesApi, NoAnswer, Refused
from worklease.cluster.paging import PAGE, list_pages

PATH = "/apis/example.com/v1/things"


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with serving() as scripted:
        yield scripted


@pytest.fixture
async def kubernetes(server: ScriptedServer) -> AsyncIterator[KubernetesApi]:
    async with kubernetes_at(server.url) as api:
        yield api


def page(*names: str, token: str = "") -> Answer:
    return Answer(body={"metadata": {"continue": token}, "items": [{"name": name} for name in names]})


def refused(status: int) -> Answer:
    return Answer(status=status, body={"kind": "Status", "message": "in the server's words"})


async def listed(kubernetes: KubernetesApi, *, tries: int = 1, **query: str) -> list[Any]:
    """Return the names on each page, and the error that ended the list early."""
    return [
        page if isinstance(page, Refused | NoAnswer) else [item["name"] for item in page]
        async for page in list_pages(kubernetes, PATH, query, tries=tries)
    ]


async def test_each_page_is_asked_for_by_the_token_of_the_one_before(
    server: ScriptedServer, kubernetes: KubernetesApi
) -> None:
    server.script = in_turn(page("a", "b", token="first"), page("c", token="second"), page("d"))
    assert await listed(kubernetes, labelSelector="app=x") == [["a", "b"], ["c"], ["d"]]
    assert [seen.query.get("continue") for seen in server.seen] == [None, ["first"], ["second"]]
    for seen in server.seen:
        assert (seen.method, seen.path) == ("GET", PATH)
        assert (seen.query["limit"], seen.query["labelSelector"]) == ([str(PAGE)], ["app=x"])


async def test_an_empty_list_is_one_empty_page(server: ScriptedServer, kubernetes: KubernetesApi) -> None:
    server.script = always(Answer(body={"kind": "List"}))
    assert await listed(kubernetes) == [[]]


async def test_the_objects_metadata_alone_can_be_asked_for(server: ScriptedServer, kubernetes: KubernetesApi) -> None:
    server.script = in_turn(page("a", token="more"), page("b"))
    async for _ in list_pages(kubernetes, PATH, {}, accept="application/json;as=PartialObjectMetadataList"):
        pass
    assert {seen.headers["accept"] for seen in server.seen} == {"application/json;as=PartialObjectMetadataList"}


@pytest.mark.parametrize("status", [403, 404, 410, 500])
async def test_what_was_refused_ends_the_list_in_the_servers_words(
    server: ScriptedServer, kubernetes: KubernetesApi, status: int
) -> None:
    server.script = in_turn(page("a", token="more"), refused(status))
    assert await listed(kubernetes) == [["a"], Refused(status, "in the server's words")]
    assert len(server.seen) == 2


async def test_a_lost_answer_ends_the_list(server: ScriptedServer, kubernetes: KubernetesApi) -> None:
    server.script = in_turn(page("a", token="more"), Answer(fault=Fault.RESET))
    first, failure = await listed(kubernetes)
    assert first == ["a"]
    assert isinstance(failure, NoAnswer)


async def test_a_first_page_is_not_asked_for_again(server: ScriptedServer, kubernetes: KubernetesApi) -> None:
    server.script = in_turn(refused(500), page("a"))
    assert await listed(kubernetes, tries=3) == [Refused(500, "in the server's words")]


async def test_a_further_page_is_asked_for_as_often_as_the_caller_says(
    server: ScriptedServer, kubernetes: KubernetesApi
) -> None:
    server.script = in_turn(page("a", token="x"), refused(500), page("b", token="y"), refused(500), refused(503))
    assert await listed(kubernetes, tries=2) == [["a"], ["b"], Refused(503, "in the server's words")]
    assert [seen.query.get("continue") for seen in server.seen] == [None, ["x"], ["x"], ["y"], ["y"]]


async def test_a_list_that_became_too_old_is_not_asked_for_again(
    server: ScriptedServer, kubernetes: KubernetesApi
) -> None:
    server.script = in_turn(page("a", token="more"), refused(410), page("b"))
    assert await listed(kubernetes, tries=3) == [["a"], Refused(410, "in the server's words")]
