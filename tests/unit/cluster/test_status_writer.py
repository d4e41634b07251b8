"""Which status is written, when, and what happens to one that was not."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest

from support.scripted_server import Answer, Fault, ScriptedServer, Seen, always, kubernetes_at, serving, until
from worklease.api.names import Reference
from worklease.cluster.status_writer import (
    BURST,
    FIRST_RETRY,
    IN_FLIGHT,
    MOST_OF_ONE,
    ROUTINE_SHARE,
    StatusWriter,
    Urgency,
)

CHANGE, ROUTINE = Urgency.CHANGE, Urgency.ROUTINE
PATH = "/apis/worklease.dev/v1alpha1/namespaces/sandboxes/workleases/"
MODIFIED = "the object has been modified; please apply your changes to the latest version and try again"
FAST = 1000.0

Publish = Callable[..., None]


def reference(name: str = "demo", uid: str | None = None) -> Reference:
    return Reference("sandboxes", name, uid or f"uid-of-{name}")


class Objects:
    """WorkLeases as the API server keeps them: a resource version moves with each write and guards the next."""

    def __init__(self) -> None:
        self.versions: dict[str, int] = {}
        self.uids: dict[str, str] = {}
        self.trouble: Callable[[Seen], Answer | None] = lambda _: None
        self.written: list[tuple[str, Any]] = []
        self.version_text: Callable[[int], str] = str
        """How a version is written."""
        self.held: asyncio.Event | None = None
        """What the answers to writes wait for."""

    def answer(self, seen: Seen) -> Answer:
        """Answer as the API server does, unless the test wants trouble."""
        name = seen.path.removeprefix(PATH).removesuffix("/status")
        version = self.versions.setdefault(name, 1)
        if (trouble := self.trouble(seen)) is not None:
            return trouble
        if seen.method == "PATCH":
            if seen.json["metadata"].get("resourceVersion") != self.version_text(version):
                return refused(409, f'Operation cannot be fulfilled on "{name}": {MODIFIED}')
            self.versions[name] = version = version + 1
            self.written.append((name, seen.json["status"]))
        uid = self.uids.get(name, f"uid-of-{name}")
        body = {"metadata": {"name": name, "uid": uid, "resourceVersion": self.version_text(version)}}
        return Answer(body=body, until=self.held if seen.method == "PATCH" else None)

    def states(self, name: str = "demo") -> list[str]:
        """Return the states that were written."""
        return [status["state"] for written, status in self.written if written == name]


def refused(status: int, message: str = "no", **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status=status, body={"kind": "Status", "message": message}, headers=named)


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with serving() as scripted:
        yield scripted


@pytest.fixture
def objects(server: ScriptedServer) -> Objects:
    objects = Objects()
    server.script = objects.answer
    return objects


@asynccontextmanager
async def writing(
    server: ScriptedServer, *, rate: float = FAST, clock: Callable[[], float] = time.monotonic
) -> AsyncIterator[StatusWriter]:
    async with kubernetes_at(server.url) as api:
        writer = StatusWriter(api, rate, clock)
        task = asyncio.create_task(writer.run())
        try:
            yield writer
        finally:
            task.cancel()
            await asyncio.wait({task})


@pytest.fixture
async def writer(server: ScriptedServer) -> AsyncIterator[StatusWriter]:
    async with writing(server) as opened:
        yield opened


def patches(server: ScriptedServer) -> list[Seen]:
    return [seen for seen in server.seen if seen.method == "PATCH"]


# --- What is written -----------------------------------------------------------------------------------------------


async def test_a_version_that_a_watch_told_of_saves_the_look_before_the_first_write(
    server: ScriptedServer, objects: Objects, writer: StatusWriter
) -> None:
    writer.saw(reference(), "1")
    writer.publish(reference(), {"state": "active"}, CHANGE)
    await writer.flush()
    assert [seen.method for seen in server.seen] == ["PATCH"]
    # A watch may report a version late: it is older than that of the last write, and guards nothing.
    writer.saw(reference(), "1")
    writer.publish(reference(), {"state": "stopping"}, CHANGE)
    await writer.flush()
    assert [seen.method for seen in server.seen] == ["PATCH", "PATCH"]
    assert objects.states() == ["active", "stopping"]


async def test_a_version_that_is_no_number_is_the_one_that_was_told_last(
    server: ScriptedServer, objects: Objects, writer: StatusWriter
) -> None:
    objects.version_text = lambda version: f"v{version}"
    writer.saw(reference(), "v1")
    for state in ("active", "stopping"):
        writer.publish(reference(), {"state": state}, CHANGE)
        await writer.flush()
    assert [seen.method for seen in server.seen] == ["PATCH", "PATCH"]
    assert objects.states() == ["active", "stopping"]


async def test_a_version_that_is_out_of_date_is_read_again(
    server: ScriptedServer, objects: Objects, writer: StatusWriter
) -> None:
    objects.versions["demo"] = 7
    writer.saw(reference(), "3")
    writer.publish(reference(), {"state": "active"}, CHANGE)
    await writer.flush()
    assert [seen.method for seen in server.seen] == ["PATCH", "GET", "PATCH"]
    assert objects.states() == ["active"]


async def test_a_status_is_a_merge_patch_of_the_status_alone(
    server: ScriptedServer, objects: Objects, writer: StatusWriter
) -> None:
    writer.publish(reference(), {"state": "active", "lastHeartbeat": None}, CHANGE)
    await writer.flush()
    (patch,) = patches(server)
    assert patch.target == f"{PATH}demo/status?timeout=2s"
    assert patch.headers["content-type"] == "application/merge-patch+json"
    assert patch.json == {"metadata": {"resourceVersion": "1"}, "status": {"state": "active", "lastHeartbeat": None}}
    assert objects.states() == ["active"]


async def test_the_next_write_of_an_object_needs_no_reading(
    server: ScriptedServer, objects: Objects, writer: StatusWriter
) -> None:
    for state in ("starting", "active", "stopping"):
        writer.publish(reference(), {"state": state}, CHANGE)
        await writer.flush()
    assert [seen.method for seen in server.seen] == ["GET", "PATCH", "PATCH", "PATCH"]
    assert objects.states() == ["starting", "active", "stopping"]


async def test_the_same_status_is_not_written_twice(objects: Objects, writer: StatusWriter) -> None:
    for _ in range(3):
        writer.publish(reference(), {"state": "active"}, ROUTINE)
        await writer.flush()
    assert objects.states() == ["active"]


async def test_what_makes_a_status_is_asked_when_it_is_written(objects: Objects, writer: StatusWriter) -> None:
    states = iter(["first", "second"])
    for _ in range(5):
        writer.publish(reference(), lambda: {"state": next(states)}, ROUTINE)
    await writer.flush()
    assert objects.states() == ["first"]


async def test_what_makes_a_status_is_asked_again_for_what_came_while_a_write_is_under_way(
    server: ScriptedServer, objects: Objects, writer: StatusWriter
) -> None:
    states = iter(["first", "second", "third"])
    objects.held = asyncio.Event()
    writer.publish(reference(), lambda: {"state": next(states)}, ROUTINE)
    await server.until_seen(2)
    for _ in range(5):
        writer.publish(reference(), lambda: {"state": next(states)}, ROUTINE)
    objects.held.set()
    await writer.flush()
    assert objects.states() == ["first", "second"]


async def test_a_change_is_not_held_back_by_what_makes_a_status(objects: Objects, writer: StatusWriter) -> None:
    writer.publish(reference(), lambda: {"state": "made"}, ROUTINE)
    writer.publish(reference(), {"state": "changed"}, CHANGE)
    await writer.flush()
    assert objects.states() == ["changed"]


async def test_the_newest_status_wins_while_a_write_is_under_way(
    server: ScriptedServer, objects: Objects, writer: StatusWriter
) -> None:
    objects.held = asyncio.Event()
    writer.publish(reference(), {"state": "0"}, CHANGE)
    await server.until_seen(2)
    for number in range(1, 50):
        writer.publish(reference(), {"state": str(number)}, ROUTINE)
        await asyncio.sleep(0)
    objects.held.set()
    await writer.flush()
    assert objects.states() == ["0", "49"]


async def test_a_status_that_comes_back_to_what_was_written_is_written_again(
    server: ScriptedServer, objects: Objects, writer: StatusWriter
) -> None:
    writer.publish(reference(), {"state": "active"}, CHANGE)
    await writer.flush()
    objects.held = asyncio.Event()
    writer.publish(reference(), {"state": "stopping"}, CHANGE)
    await server.until_seen(3)
    writer.publish(reference(), {"state": "active"}, CHANGE)  # while "stopping" is on its way
    objects.held.set()
    await writer.flush()
    assert objects.states() == ["active", "stopping", "active"]


# --- The rate and the order ----------------------------------------------------------------------------------------


async def test_writes_keep_to_their_rate_after_the_first_burst(server: ScriptedServer, objects: Objects) -> None:
    rate, beyond = 50.0, 25
    async with writing(server, rate=rate) as writer:
        started = time.monotonic()
        for number in range(int(BURST) + beyond):
            writer.publish(reference(f"lease-{number}"), {"state": "active"}, CHANGE)
        await writer.flush()
        took = time.monotonic() - started
    assert len(objects.written) == int(BURST) + beyond
    assert took >= beyond / rate * 0.9


async def test_routine_uses_half_of_the_rate_so_that_a_change_finds_its_place_free(
    server: ScriptedServer, objects: Objects
) -> None:
    rate, beyond = 20.0, 30
    async with writing(server, rate=rate) as writer:
        started = time.monotonic()
        for number in range(int(BURST) + beyond):
            writer.publish(reference(f"lease-{number}"), {"state": "active"}, ROUTINE)
        await until(lambda: len(objects.written) > int(BURST) + beyond // 2, "half of what is beyond the burst")
        writer.publish(reference("changed"), {"state": "stopped"}, CHANGE)
        await until(lambda: objects.states("changed"), "the change")
        # Only those that were already under way came before it.
        assert len(objects.written) < int(BURST) + beyond
        await writer.flush()
        took = time.monotonic() - started
    assert took >= beyond / (rate * ROUTINE_SHARE) * 0.9


async def test_changes_are_written_before_routine(server: ScriptedServer, objects: Objects) -> None:
    async with kubernetes_at(server.url) as api:
        writer = StatusWriter(api, FAST, time.monotonic)
        for number in range(40):
            writer.publish(reference(f"routine-{number}"), {"state": "active"}, ROUTINE)
        for number in range(40):
            writer.publish(reference(f"change-{number}"), {"state": "stopped"}, CHANGE)
        writer.publish(reference("routine-39"), {"state": "stopped"}, CHANGE)
        task = asyncio.create_task(writer.run())
        await writer.flush()
        task.cancel()
        await asyncio.wait({task})
    first = [name for name, _ in objects.written[:33]]
    assert not [name for name in first if name.startswith("routine") and name != "routine-39"]
    assert objects.states("routine-39") == ["stopped"]


async def test_a_change_during_a_write_of_its_object_is_no_routine(server: ScriptedServer, objects: Objects) -> None:
    held = asyncio.Event()
    async with writing(server, rate=20.0) as writer:
        writer.publish(reference("first"), {"state": "active"}, ROUTINE)
        objects.trouble = lambda seen: (
            Answer(until=held, body={"metadata": {"uid": "uid-of-first", "resourceVersion": "1"}})
            if "first" in seen.path and seen.method == "GET"
            else None
        )
        await server.until_seen(1)
        writer.publish(reference("first"), {"state": "stopped"}, CHANGE)
        for number in range(60):
            writer.publish(reference(f"routine-{number}"), {"state": "active"}, ROUTINE)
        held.set()
        await until(lambda: objects.states("first")[-1:] == ["stopped"], "the change")
        assert len(objects.written) < 50, "most of the routine has to wait"


async def test_a_namespace_that_flaps_delays_the_change_of_another_by_a_few_writes_only(
    server: ScriptedServer, objects: Objects
) -> None:
    quiet = Reference("quiet", "demo", "uid-of-quiet")
    objects.uids["/apis/worklease.dev/v1alpha1/namespaces/quiet/workleases/demo"] = quiet.uid
    async with writing(server, rate=50.0) as writer:
        for number in range(200):
            writer.publish(reference(f"flapping-{number}"), {"state": "stopping"}, CHANGE)
        await until(lambda: len(objects.written) >= int(BURST), "the burst")
        writer.publish(quiet, {"state": "stopped"}, CHANGE)
        await until(lambda: any("/quiet/" in name for name, _ in objects.written), "the change")
        assert len(objects.written) <= int(BURST) + 2 * IN_FLIGHT


async def test_writes_that_hang_in_one_namespace_leave_room_for_another(
    server: ScriptedServer, objects: Objects
) -> None:
    quiet, never = Reference("quiet", "demo", "uid-of-quiet"), asyncio.Event()
    objects.uids["/apis/worklease.dev/v1alpha1/namespaces/quiet/workleases/demo"] = quiet.uid
    objects.trouble = lambda seen: Answer(until=never) if "/sandboxes/" in seen.path else None
    async with writing(server) as writer:
        for number in range(3 * IN_FLIGHT):
            writer.publish(reference(f"hanging-{number}"), {"state": "stopping"}, CHANGE)
        await server.until_seen(MOST_OF_ONE)
        writer.publish(quiet, {"state": "stopped"}, CHANGE)
        await until(lambda: len(objects.written) == 1, "the change")
        assert len([seen for seen in server.seen if "/sandboxes/" in seen.path]) == MOST_OF_ONE
        never.set()


# --- What was not done ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "trouble",
    [
        refused(403),
        refused(429, Retry_After="1"),
        refused(500),
        refused(503),
        Answer(fault=Fault.RESET),
        Answer(body=b"<html>"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "PATCH"])
async def test_a_write_that_was_not_done_is_repeated_with_the_newest_status(
    objects: Objects, writer: StatusWriter, trouble: Answer, method: str
) -> None:
    objects.trouble = lambda seen: trouble if seen.method == method else None
    writer.publish(reference(), {"state": "starting"}, CHANGE)
    await writer.flush()
    assert objects.states() == []
    objects.trouble = lambda _: None
    writer.publish(reference(), {"state": "active"}, ROUTINE)
    await until(lambda: objects.states() == ["active"], "the repetition")


async def test_a_repetition_does_not_come_at_once(
    server: ScriptedServer, objects: Objects, writer: StatusWriter
) -> None:
    left = iter([refused(500)])
    objects.trouble = lambda _: next(left, None)
    started = time.monotonic()
    writer.publish(reference(), {"state": "active"}, CHANGE)
    await until(lambda: objects.states() == ["active"], "the repetition")
    assert time.monotonic() - started >= FIRST_RETRY
    assert len(server.seen) == 3


async def test_a_conflict_is_read_again_at_once(server: ScriptedServer, objects: Objects, writer: StatusWriter) -> None:
    writer.publish(reference("fluid"), {"state": "starting"}, CHANGE)
    await writer.flush()
    objects.versions["fluid"] += 5  # an edit, or Kopf's finalizer
    started = time.monotonic()
    writer.publish(reference("fluid"), {"state": "active"}, CHANGE)
    await until(lambda: objects.states("fluid") == ["starting", "active"], "the status")
    assert time.monotonic() - started < FIRST_RETRY
    assert [seen.method for seen in server.seen] == ["GET", "PATCH", "PATCH", "GET", "PATCH"]


async def test_conflicts_without_end_are_repeated_later(
    server: ScriptedServer, objects: Objects, writer: StatusWriter
) -> None:
    objects.trouble = lambda seen: refused(409, MODIFIED) if seen.method == "PATCH" else None
    writer.publish(reference(), {"state": "active"}, CHANGE)
    await writer.flush()
    assert len(server.seen) == 10
    objects.trouble = lambda _: None
    await until(lambda: objects.states() == ["active"], "the repetition")


async def test_what_the_schema_refuses_is_not_repeated_until_it_changes(
    server: ScriptedServer, objects: Objects, writer: StatusWriter
) -> None:
    def trouble(seen: Seen) -> Answer | None:
        odd = seen.method == "PATCH" and seen.json["status"]["state"] == "odd"
        return refused(422, "status.state: Invalid value") if odd else None

    objects.trouble = trouble
    writer.publish(reference(), {"state": "odd"}, CHANGE)
    await writer.flush()
    writer.publish(reference(), {"state": "odd"}, CHANGE)
    writer.publish(reference("other"), {"state": "active"}, CHANGE)
    await until(lambda: objects.states("other"), "the other's status")
    await asyncio.sleep(2 * FIRST_RETRY)  # long enough to see a wrong write
    assert len([seen for seen in patches(server) if "demo" in seen.path]) == 1
    writer.publish(reference(), {"state": "active"}, CHANGE)
    await until(lambda: objects.states() == ["active"], "the changed status")


async def test_repetitions_get_slower(objects: Objects, writer: StatusWriter) -> None:
    moments: list[float] = []

    def trouble(_: Seen) -> Answer:
        moments.append(time.monotonic())
        return refused(500)

    objects.trouble = trouble
    writer.publish(reference(), {"state": "active"}, CHANGE)
    await until(lambda: len(moments) == 3, "three tries")
    first, second = (after - before for before, after in pairwise(moments))
    assert FIRST_RETRY <= first < 2 * FIRST_RETRY <= second


@pytest.mark.parametrize("method", ["GET", "PATCH"])
async def test_an_object_that_is_gone_is_not_written_again(
    server: ScriptedServer, objects: Objects, writer: StatusWriter, method: str
) -> None:
    objects.trouble = lambda seen: refused(404) if seen.method == method else None
    writer.publish(reference(), {"state": "active"}, CHANGE)
    await writer.flush()
    count = len(server.seen)
    await asyncio.sleep(2 * FIRST_RETRY)  # long enough to see a wrong write
    assert len(server.seen) == count


async def test_a_successor_of_the_same_name_is_not_written_to(
    server: ScriptedServer, objects: Objects, writer: StatusWriter
) -> None:
    writer.publish(reference(), {"state": "active"}, CHANGE)
    await writer.flush()
    objects.uids["demo"], objects.versions["demo"] = "the-successor", 40
    writer.publish(reference(), {"state": "stopped"}, CHANGE)
    await writer.flush()
    assert objects.states() == ["active"]
    writer.publish(reference(uid="the-successor"), {"state": "queued"}, CHANGE)
    await writer.flush()
    assert objects.states() == ["active", "queued"]
    assert len(server.seen) == 6


async def test_what_is_forgotten_is_not_written(server: ScriptedServer) -> None:
    async with kubernetes_at(server.url) as api:
        writer = StatusWriter(api, FAST, time.monotonic)
        writer.publish(reference(), {"state": "active"}, CHANGE)
        flushing = asyncio.create_task(writer.flush())
        await asyncio.sleep(0)
        writer.forget(reference().uid)
        async with asyncio.timeout(10):
            await flushing
        task = asyncio.create_task(writer.run())
        await asyncio.sleep(0.1)  # long enough to see a wrong write
        task.cancel()
        await asyncio.wait({task})
    assert server.seen == []


async def test_what_is_forgotten_while_it_waits_for_its_place_is_not_written(
    server: ScriptedServer, objects: Objects
) -> None:
    async with writing(server, rate=0.5) as writer:
        for number in range(int(BURST) + 1):
            writer.publish(reference(f"lease-{number}"), {"state": "active"}, CHANGE)
        await until(lambda: len(objects.written) == int(BURST), "the burst")
        writer.forget(f"uid-of-lease-{int(BURST)}")
        await asyncio.sleep(2.5)  # more than the 2 s of one write at this rate: long enough to see a wrong write
    assert len(objects.written) == int(BURST)


async def test_writes_that_hang_do_not_hold_back_the_others(
    server: ScriptedServer, objects: Objects, writer: StatusWriter
) -> None:
    hanging = MOST_OF_ONE - 1
    objects.trouble = lambda seen: Answer(fault=Fault.HANG) if "hangs" in seen.path else None
    for number in range(hanging):
        writer.publish(reference(f"hangs-{number}"), {"state": "active"}, CHANGE)
    await server.until_seen(hanging)
    started = time.monotonic()
    for number in range(30):
        writer.publish(reference(f"lease-{number}"), {"state": "active"}, ROUTINE)
    await until(lambda: len(objects.written) == 30, "the others")
    assert time.monotonic() - started < 5


async def test_a_flush_of_nothing_is_done_at_once(writer: StatusWriter) -> None:
    async with asyncio.timeout(1):
        await writer.flush()


async def test_a_flush_does_not_wait_for_what_is_refused_again_and_again(
    server: ScriptedServer, writer: StatusWriter
) -> None:
    server.script = always(refused(403))
    writer.publish(reference(), {"state": "active"}, CHANGE)
    async with asyncio.timeout(5):
        await writer.flush()


async def test_a_flush_waits_for_what_is_under_way(
    server: ScriptedServer, objects: Objects, writer: StatusWriter
) -> None:
    held = asyncio.Event()
    left = iter([Answer(body={"metadata": {"uid": "uid-of-demo", "resourceVersion": "1"}}, until=held)])
    objects.trouble = lambda _: next(left, None)
    writer.publish(reference(), {"state": "active"}, CHANGE)
    await server.until_seen(1)
    flushing = asyncio.create_task(writer.flush())
    await asyncio.sleep(0.05)  # long enough to see a flush that ends too soon
    assert not flushing.done()
    held.set()
    await flushing
    assert objects.states() == ["active"]
