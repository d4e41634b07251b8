"""Which events there are, and that they are written at a limited rate."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from support.scripted_server import Answer, Fault, ScriptedServer, always, kubernetes_at, serving, until
from worklease.observability.event_recorder import BURST, MOST_WAITING, WRITERS, EventRecorder, kubernetes_event
from worklease.rules.outcomes import Exchange, Unsent
from worklease.telemetry import (
    About,
    BeatEnded,
    ConditionChanged,
    DeletionAsked,
    DeletionRefused,
    DrainNotAnnounced,
    Orphaned,
    PodIgnored,
    SandboxEnded,
    SandboxGone,
    SandboxMade,
    StopEnded,
    TelemetryEvent,
)

ABOUT = About("sandboxes", "lease-1", "uid-1", "env_1", "work_1")
QUIET = About("quiet", "lease-2", "uid-2", "env_1", "work_2")
NOW = datetime(2026, 11, 24, 12, 30, 1, 250_000, tzinfo=UTC)


def held(status: str, reason: str, *, former: str | None = "False") -> ConditionChanged:
    return ConditionChanged(ABOUT, "LeaseHeld", status, reason, "So it is.", None, former)


@pytest.mark.parametrize(
    ("event", "reason", "warns"),
    [
        (held("True", "Renewed"), "Claimed", False),
        (held("True", "Renewed", former=None), "Claimed", False),
        (held("True", "Renewed", former="True"), "Renewed", False),
        (held("True", "Renewed", former="Unknown"), "Renewed", False),
        (held("True", "Draining", former="True"), "Draining", False),
        (held("True", "Unauthorized", former="True"), "Unauthorized", True),
        (held("Unknown", "Fenced", former="True"), "Fenced", True),
        (held("False", "TakenOver", former="True"), "TakenOver", True),
        (held("False", "Stopped", former="True"), "Stopped", False),
        (held("False", "InvalidSpec", former=None), "InvalidSpec", True),
        (held("False", "Claiming", former=None), None, False),
        (ConditionChanged(ABOUT, "SandboxReady", "True", "Running", "Runs.", None), "SandboxStarted", False),
        (ConditionChanged(ABOUT, "SandboxReady", "False", "Pending", "Waits.", None), None, False),
        (ConditionChanged(ABOUT, "Ready", "True", "Healthy", "Well.", None), None, False),
        (SandboxMade(ABOUT, "pod-1", 0), "SandboxCreated", False),
        (SandboxEnded(ABOUT, "pod-1", "OOMKilled", "It died."), "SandboxFailed", True),
        (SandboxEnded(ABOUT, "pod-1", "Succeeded", "It is done."), "SandboxSucceeded", False),
        (SandboxEnded(ABOUT, "pod-1", "SessionIdle", "Session sesn_1 was idle."), "SessionIdle", False),
        (SandboxEnded(ABOUT, "pod-1", "SessionEnded", "Session sesn_1 is archived."), "SessionEnded", False),
        (DeletionAsked(ABOUT, "pod-1", "Stopped", 10.0, 0.05), "TearingDown", False),
        (DeletionRefused(ABOUT, "pod-1", "forbidden"), "DeletionRefused", True),
        (DrainNotAnnounced(ABOUT, "pod-1", "forbidden"), "DrainNotAnnounced", True),
        (SandboxGone(ABOUT, "pod-1"), "TornDown", False),
        (PodIgnored(ABOUT, "pod-1", "It is another's."), "PodIgnored", True),
        (Orphaned(ABOUT, "the item runs on"), "Orphaned", True),
        (StopEnded(ABOUT, force=True, is_acknowledged=True, message=""), None, False),
        (BeatEnded(ABOUT, Unsent(Exchange(sent=1.0, done=1.0), "no"), late=0.0), None, False),
    ],
)
def test_each_telemetry_event_makes_its_kubernetes_event_or_none(
    event: TelemetryEvent, reason: str | None, *, warns: bool
) -> None:
    made = kubernetes_event(event)
    if reason is None:
        assert made is None
    else:
        assert made is not None
        assert (made.reason, made.is_warning) == (reason, warns)
        assert made.action


@pytest.mark.parametrize(
    ("cause", "message", "note"),
    [
        ("OOMKilled", "Pod pod-1 ran out of memory", "Pod pod-1 ran out of memory (OOMKilled)"),
        ("Failed", "Pod pod-1 failed with exit code 1", "Pod pod-1 failed with exit code 1"),
    ],
)
def test_a_note_names_the_cause_once(cause: str, message: str, note: str) -> None:
    made = kubernetes_event(SandboxEnded(ABOUT, "pod-1", cause, message))
    assert made is not None
    assert made.note == note


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with serving() as scripted:
        yield scripted


@pytest.fixture
async def events(server: ScriptedServer) -> AsyncIterator[EventRecorder]:
    async with kubernetes_at(server.url) as api:
        written = EventRecorder(api, lambda: NOW)
        running = asyncio.create_task(written.run())
        yield written
        running.cancel()
        await asyncio.wait({running})


async def seen(server: ScriptedServer, count: int) -> list[dict[str, Any]]:
    async with asyncio.timeout(10):
        while len(server.seen) < count:  # noqa: ASYNC110 (a server's record has no event)
            await asyncio.sleep(0.01)
    return [each.json for each in server.seen]


async def test_an_event_regards_the_resource_and_names_the_pod(server: ScriptedServer, events: EventRecorder) -> None:
    server.script = always(Answer(status=201, body={"kind": "Event"}))
    events.listen(SandboxEnded(ABOUT, "pod-1", "OOMKilled", "It died."))
    (body,) = await seen(server, 1)
    assert server.seen[0].target == "/apis/events.k8s.io/v1/namespaces/sandboxes/events?timeout=2s"
    assert body["eventTime"] == "2026-11-24T12:30:01.250000Z"
    assert (body["type"], body["reason"], body["action"]) == ("Warning", "SandboxFailed", "Conclude")
    assert body["regarding"]["uid"] == "uid-1"
    assert body["related"]["name"] == "pod-1"
    assert body["reportingInstance"]


async def test_names_are_in_the_order_in_which_things_happened_though_it_was_at_the_same_moment(
    server: ScriptedServer, events: EventRecorder
) -> None:
    server.script = always(Answer(status=201, body={"kind": "Event"}))
    for pod in ("pod-3", "pod-2", "pod-1"):
        events.listen(SandboxGone(ABOUT, pod))
    bodies = await seen(server, 3)
    by_name = sorted(bodies, key=lambda body: str(body["metadata"]["name"]))
    assert [body["related"]["name"] for body in by_name] == ["pod-3", "pod-2", "pod-1"]
    assert len({body["metadata"]["name"] for body in bodies}) == 3


async def test_a_long_note_is_cut_to_its_bytes(server: ScriptedServer, events: EventRecorder) -> None:
    server.script = always(Answer(status=201, body={"kind": "Event"}))
    events.listen(Orphaned(ABOUT, "ä" * 2000))
    (body,) = await seen(server, 1)
    assert len(body["note"].encode()) <= 1024
    assert body["note"].endswith("…")


async def test_an_event_that_is_refused_is_tried_again_and_holds_no_other_up_for_ever(
    server: ScriptedServer, events: EventRecorder
) -> None:
    server.script = always(Answer(status=403, body={"kind": "Status", "message": "the namespace is being terminated"}))
    events.listen(SandboxGone(ABOUT, "pod-1"))
    events.listen(SandboxGone(ABOUT, "pod-2"))
    first, second = await seen(server, 2)
    assert (first["related"]["name"], second["related"]["name"]) == ("pod-1", "pod-2")


async def test_an_event_whose_answer_was_lost_is_written_once(server: ScriptedServer, events: EventRecorder) -> None:
    server.script = always(Answer(fault=Fault.RESET))
    events.listen(SandboxGone(ABOUT, "pod-1"))
    await seen(server, 1)
    exists = {"kind": "Status", "reason": "AlreadyExists", "message": "exists"}
    server.script = always(Answer(status=409, body=exists))
    first, second = await seen(server, 2)
    assert first["metadata"]["name"] == second["metadata"]["name"]


async def test_no_more_events_go_at_once_than_the_burst(server: ScriptedServer, events: EventRecorder) -> None:
    server.script = always(Answer(status=201, body={"kind": "Event"}))
    started = asyncio.get_running_loop().time()
    for _ in range(int(BURST) + 10):
        events.listen(SandboxGone(ABOUT, "pod-1"))
    await seen(server, int(BURST) + 10)
    assert asyncio.get_running_loop().time() - started > 0.4


async def test_what_waits_is_bounded() -> None:
    waiting = EventRecorder(None, lambda: NOW)  # type: ignore[arg-type]  # nothing is written before it runs
    for _ in range(MOST_WAITING + 5):
        waiting.listen(SandboxGone(ABOUT, "pod-1"))
    assert waiting.waiting == MOST_WAITING


async def test_what_too_many_events_push_out_is_of_the_namespace_that_has_most(server: ScriptedServer) -> None:
    server.script = always(Answer(status=201, body={"kind": "Event"}))
    async with kubernetes_at(server.url) as api:
        events = EventRecorder(api, lambda: NOW)
        for number in range(MOST_WAITING):
            events.listen(SandboxGone(ABOUT, f"pod-{number}"))
        for number in range(3):
            events.listen(SandboxGone(QUIET, f"quiet-{number}"))
        assert events.waiting == MOST_WAITING
        running = asyncio.create_task(events.run())
        bodies = await seen(server, 10)
        quiet = [body["related"]["name"] for body in bodies if body["related"]["namespace"] == "quiet"]
        assert quiet == ["quiet-0", "quiet-1", "quiet-2"]
        running.cancel()
        await asyncio.wait({running})


async def test_a_namespace_with_many_events_delays_that_of_another_by_a_few_only(
    server: ScriptedServer, events: EventRecorder
) -> None:
    server.script = always(Answer(status=201, body={"kind": "Event"}))
    for number in range(200):
        events.listen(SandboxGone(ABOUT, f"pod-{number}"))
    await seen(server, int(BURST))
    events.listen(SandboxGone(QUIET, "quiet"))
    await until(lambda: any("/quiet/" in each.path for each in server.seen), "the event")
    assert len(server.seen) <= int(BURST) + 2 * WRITERS


async def test_events_that_hang_in_one_namespace_leave_those_of_another_alone(
    server: ScriptedServer, events: EventRecorder
) -> None:
    never = asyncio.Event()
    server.script = lambda asked: Answer(status=201, until=never if "/sandboxes/" in asked.path else None)
    for pod in ("pod-1", "pod-2"):
        events.listen(SandboxGone(ABOUT, pod))
    await seen(server, 1)
    events.listen(SandboxGone(QUIET, "quiet"))
    await until(lambda: any("/quiet/" in each.path for each in server.seen), "the event")
    assert len(server.seen) == 2, "the events of one namespace are written one after the other"
    never.set()
