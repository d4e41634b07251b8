"""The call that asks a worker behind the proxy to finish: what is noted of each answer of the API server."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from support.keeping import clients
from support.scripted_server import Answer, Fault, ScriptedServer, always, kubernetes_at, serving
from worklease.api.models import WorkLease
from worklease.clocks import ClockPair
from worklease.keeper.kept import Kept, LeaseOptions
from worklease.keeper.pod_calls import PodCalls
from worklease.keeper.resume import resume
from worklease.rules.finishing import AskToFinish
from worklease.rules.pods import Pod
from worklease.telemetry import DrainNotAnnounced, Publisher, TelemetryEvent
from worklease.work_api.client import WorkApi

NOW = datetime(2026, 11, 24, 12, 0, 30, tzinfo=UTC)
WALL = ClockPair(monotonic=100.0, utc=NOW)
POD = Pod(uid="pod1", name="sandbox-1", phase="Running", has_proxy=True)
STEP = AskToFinish("pod1", "sandbox-1", 60.0)
OPTIONS = LeaseOptions(interval=30.0, credentials_secret="keys")
METADATA = {
    "namespace": "agents",
    "name": "work-a",
    "uid": "resource",
    "generation": 1,
    "creationTimestamp": "2026-11-24T12:00:00Z",
}


def kept(pod: Pod = POD) -> Kept:
    resource = WorkLease.parse({"metadata": METADATA, "spec": {"environmentID": "env_a", "workID": "work_a"}})
    known = resume(resource, OPTIONS, None, WALL, 100.0)
    known.pods.note(pod, 100.0)
    return known


@dataclass
class Setting:
    calls: PodCalls
    kubernetes: ScriptedServer
    told: list[TelemetryEvent]


@asynccontextmanager
async def setting(answer: Answer) -> AsyncIterator[Setting]:
    async with (
        serving() as kubernetes,
        serving() as remote,
        kubernetes_at(kubernetes.url) as api,
        WorkApi(remote.url, lambda: 100.0) as work_api,
    ):
        kubernetes.script = always(answer)
        told: list[TelemetryEvent] = []
        used = clients(api, work_api, Publisher(told.append))
        calls = PodCalls(used, lambda: 100.0, lambda: WALL, lambda _: ("agents", "keys"), OPTIONS)
        yield Setting(calls, kubernetes, told)


async def test_the_annotation_says_when_the_drain_must_be_over() -> None:
    known = kept()
    async with setting(Answer()) as there:
        await there.calls.let_finish(known, STEP)
    (patch,) = there.kubernetes.seen
    assert (patch.method, patch.target) == ("PATCH", "/api/v1/namespaces/agents/pods/sandbox-1?timeout=2s")
    asked = known.pods.finishing["pod1"]
    assert (asked.until, asked.refusals, asked.is_refused) == (160.0, 0, False)


@pytest.mark.parametrize("seconds", [20.0, 3600.0])
async def test_what_an_earlier_process_asked_counts_and_never_for_longer_than_a_drain(seconds: float) -> None:
    known = kept(replace(POD, drains_until=NOW + timedelta(seconds=seconds)))
    async with setting(Answer()) as there:
        await there.calls.let_finish(known, STEP)
    assert there.kubernetes.seen == []
    assert known.pods.finishing["pod1"].until == 100.0 + min(seconds, 60.0)


@pytest.mark.parametrize("status", [400, 403, 422])
async def test_a_refusal_is_noted_and_told(status: int) -> None:
    known = kept()
    async with setting(_refused(status, "no")) as there:
        await there.calls.let_finish(known, STEP)
    assert known.pods.finishing["pod1"].is_refused
    assert there.told == [DrainNotAnnounced(known.about, "sandbox-1", "no")]


@pytest.mark.parametrize("answer", [Answer(status=500), Answer(status=429), Answer(fault=Fault.RESET)])
async def test_no_answer_is_tried_again_and_the_end_of_the_drain_does_not_move(answer: Answer) -> None:
    known = kept()
    async with setting(answer) as there:
        for refusals in (1, 2):
            await there.calls.let_finish(known, STEP)
            asked = known.pods.finishing["pod1"]
            assert (asked.until, asked.refusals, asked.is_refused) == (160.0, refusals, False)
    assert there.told == []


@pytest.mark.parametrize(
    ("status", "message"),
    [(404, 'pods "sandbox-1" not found'), (422, "metadata.uid: Invalid value: field is immutable")],
)
async def test_a_pod_that_is_gone_or_whose_name_a_successor_has_is_gone(status: int, message: str) -> None:
    known = kept()
    async with setting(_refused(status, message)) as there:
        await there.calls.let_finish(known, STEP)
    assert known.pods.bound["pod1"].gone
    assert known.pods.finishing == {}


def _refused(status: int, message: str) -> Answer:
    body: dict[str, Any] = {"kind": "Status", "message": message}
    return Answer(status=status, body=body)
