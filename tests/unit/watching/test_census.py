"""What a census finds: in namespaces that grant no rights any more, and of what a watch did not report."""

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from support.scripted_server import Answer, ScriptedServer, Seen, kubernetes_at, serving
from worklease.watching.census import Census

FORBIDDEN = Answer(status=403, body={"kind": "Status", "message": 'cannot list resource "workleases"'})


def listed(*names: str, namespace: str = "here", version: str = "7") -> Answer:
    items = [
        {"metadata": {"namespace": namespace, "name": name, "uid": f"uid-{name}", "resourceVersion": version}}
        for name in names
    ]
    return Answer(body={"metadata": {}, "items": items})


@dataclass
class Listener:
    """Notes what a census finds, in place of the keeper."""

    gone: list[str] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    counted: list[set[str]] = field(default_factory=list)
    resources: list[set[str]] = field(default_factory=list)

    def see(self, body: Mapping[str, Any]) -> None:
        self.seen.append(f"{body['metadata']['name']} {body['metadata']['resourceVersion']}")

    def see_pod(self, body: Mapping[str, Any]) -> None:
        self.see(body)

    def unsee(self, uid: str) -> None:
        self.gone.append(uid)

    def lose_pod(self, uid: str) -> None:
        self.gone.append(uid)

    def count(self, there: Collection[str]) -> None:
        self.resources.append(set(there))

    def count_pods(self, there: Collection[str]) -> None:
        self.counted.append(set(there))


@dataclass
class Setting:
    census: Census
    server: ScriptedServer
    listener: Listener

    def serve(self, answers: Mapping[str, Answer]) -> None:
        """Answer by the end of the path; what is not named is an empty list."""

        def script(seen: Seen) -> Answer:
            for end, answer in answers.items():
                if seen.path.endswith(end):
                    return answer
            return listed()

        self.server.script = script


@asynccontextmanager
async def setting(*namespaces: str) -> AsyncIterator[Setting]:
    async with serving() as server, kubernetes_at(server.url) as api:
        listener = Listener()
        yield Setting(Census(api, namespaces, listener, time.monotonic), server, listener)


async def first(census: Census) -> list[str]:
    found: list[Any] = [item async for page in census.first() for item in page]
    return [item["metadata"]["name"] for item in found]


async def test_a_namespace_that_grants_no_rights_is_left_out_and_keeps_nothing_waiting() -> None:
    async with setting("here", "gone") as there:
        there.serve({"/here/workleases": listed("one"), "/gone/workleases": FORBIDDEN, "/gone/pods": FORBIDDEN})
        assert await first(there.census) == ["one"]
        assert there.census.awaited() == 1, "the first list has arrived"
        assert await there.census.take(), "the census is complete without it"
        assert there.listener.counted[-1] == set()


async def test_nothing_is_taken_for_gone_that_is_in_a_namespace_without_rights() -> None:
    async with setting("here", "gone") as there:
        there.census.saw("gone", "two", "uid-two")
        there.serve({"/gone/workleases": FORBIDDEN, "/gone/pods": FORBIDDEN})
        assert await there.census.take()
        assert there.listener.gone == []


async def test_a_namespace_whose_rights_are_back_is_counted_again(caplog: pytest.LogCaptureFixture) -> None:
    async with setting("here", "gone") as there:
        there.census.saw("gone", "two", "uid-two")
        there.serve({"/gone/workleases": FORBIDDEN, "/gone/pods": FORBIDDEN})
        await there.census.take()
        said = [each.getMessage() for each in caplog.records]
        assert [each for each in said if "left out" in each and "kind=workleases namespace=gone:" in each]
        assert not [each for each in said if "/api" in each], "people know namespaces, not paths"
        absent = Answer(status=404, body={"kind": "Status", "message": 'workleases "two" not found'})
        served = Answer(body={"resources": [{"name": "workleases"}]})
        there.serve({"/workleases/two": absent, "/apis/worklease.dev/v1alpha1": served})
        assert there.listener.resources == [], "a list without a namespace is not one of all resources"
        assert await there.census.take()
        assert there.listener.gone == ["uid-two"]
        assert there.listener.resources == [set()]


async def test_where_no_other_namespace_is_watched_the_census_is_not_taken() -> None:
    async with setting("gone") as there:
        there.serve({"/gone/workleases": FORBIDDEN, "/gone/pods": FORBIDDEN})
        assert await first(there.census) == []
        assert there.census.awaited() is None
        assert not await there.census.take()


def one(name: str, *, version: str) -> Answer:
    metadata = {"namespace": "here", "name": name, "uid": f"uid-{name}", "resourceVersion": version}
    return Answer(body={"metadata": metadata})


async def test_an_event_that_a_watch_lost_is_made_good_and_the_warning_names_an_object(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with setting("here") as there:
        there.census.saw("here", "edited", "uid-edited", "5")
        there.census.saw("here", "same", "uid-same", "7")
        there.census.saw_pod("here", "failed", "uid-failed", "5")
        there.serve(
            {
                "/here/workleases": listed("edited", "same"),
                "/here/pods": listed("failed"),
                "/workleases/edited": one("edited", version="7"),
                "/pods/failed": one("failed", version="7"),
            }
        )
        assert await there.census.take()
        assert there.listener.seen == ["edited 7", "failed 7"]
        assert await there.census.take()
        assert there.listener.seen == ["edited 7", "failed 7"], "once"
    assert [each.getMessage() for each in caplog.records if "lost events" in each.getMessage()] == [
        "the watch of workleases lost events, will read count=1 first=here/edited",
        "the watch of pods lost events, will read count=1 first=here/failed",
    ]


async def test_what_the_watch_reports_meanwhile_is_not_read() -> None:
    async with setting("here") as there:
        there.census.saw("here", "edited", "uid-edited", "5")
        there.serve({"/here/workleases": listed("edited")})
        taking = asyncio.create_task(there.census.take())
        await there.server.until_seen(1)
        there.census.saw("here", "edited", "uid-edited", "7")
        assert await taking
        assert there.listener.seen == []
