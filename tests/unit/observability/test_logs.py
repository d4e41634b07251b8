"""The log has one line for each transition, with what it is about; a steady fleet logs nothing."""

import json
import logging
from typing import Any, get_args

import pytest

from support.lease_samples import answered
from worklease import telemetry
from worklease.observability import logs
from worklease.rules.lease import Adoption
from worklease.telemetry import About

ABOUT = About("team", "demo", "uid-1", "env_1", "work_1")
WHO = {"namespace": "team", "name": "demo", "uid": "uid-1", "environment": "env_1", "work": "work_1"}

RENEWED = telemetry.ConditionChanged(ABOUT, "LeaseHeld", "True", "Renewed", "It holds.", "Claiming")
FENCED = telemetry.ConditionChanged(ABOUT, "LeaseHeld", "Unknown", "Fenced", "No beat was accepted.", "Unreachable")
DELETING = telemetry.DeletionAsked(ABOUT, "pod-1", "Stopped", 30.0, 1.5)

TRANSITIONS = [
    (RENEWED, {"level": "info", "condition": "LeaseHeld", "reason": "Renewed", "formerReason": "Claiming"}),
    (FENCED, {"level": "warning", "reason": "Fenced", "status": "Unknown"}),
    (telemetry.LeaseAdopted(ABOUT, Adoption.LOST_CLAIM), {"level": "info", "rule": "LostClaim"}),
    (telemetry.SandboxMade(ABOUT, "pod-1", 2), {"level": "info", "pod": "pod-1", "attempt": 2}),
    (telemetry.SandboxEnded(ABOUT, "pod-1", "Evicted", "Evicted."), {"pod": "pod-1", "reason": "Evicted"}),
    (DELETING, {"level": "info", "pod": "pod-1", "reason": "Stopped", "grace": 30.0}),
    (telemetry.DeletionRefused(ABOUT, "pod-1", "no"), {"level": "warning", "pod": "pod-1"}),
    (telemetry.DrainNotAnnounced(ABOUT, "pod-1", "no"), {"level": "warning", "pod": "pod-1"}),
    (telemetry.SandboxGone(ABOUT, "pod-1"), {"level": "info", "pod": "pod-1"}),
    (telemetry.PodIgnored(ABOUT, "pod-1", "it is another's"), {"level": "warning", "pod": "pod-1"}),
    (telemetry.StopEnded(ABOUT, force=True, is_acknowledged=True, message="stopped"), {"level": "info", "force": True}),
    (
        telemetry.StopEnded(ABOUT, force=False, is_acknowledged=False, message="no"),
        {"level": "warning", "force": False},
    ),
    (telemetry.Orphaned(ABOUT, "pod-1 is still there"), {"level": "warning"}),
    (telemetry.LeftAlone(ABOUT, "b/x", "it is kept there"), {"level": "warning", "installation": "b/x"}),
]


def lines(caplog: pytest.LogCaptureFixture, *events: telemetry.TelemetryEvent) -> list[dict[str, Any]]:
    caplog.set_level(logging.INFO, "worklease.observability.logs")
    for event in events:
        logs.listen(event)
    return [json.loads(logs.JsonLines().format(record)) for record in caplog.records]


@pytest.mark.parametrize(("event", "fields"), TRANSITIONS, ids=lambda value: type(value).__name__)
def test_a_transition_is_one_line_with_what_it_is_about_as_fields(
    caplog: pytest.LogCaptureFixture, event: telemetry.TelemetryEvent, fields: dict[str, Any]
) -> None:
    (line,) = lines(caplog, event)
    assert {key: line[key] for key in WHO | fields} == WHO | fields
    assert "namespace=team name=demo environment=env_1 work=work_1" in line["message"]
    assert "\n" not in line["message"]


def test_what_a_steady_fleet_does_is_no_line(caplog: pytest.LogCaptureFixture) -> None:
    assert not lines(
        caplog,
        telemetry.BeatEnded(ABOUT, answered(100), late=0.0),
        telemetry.TurnGiven("routine", 0.0),
        telemetry.StatusWrite(telemetry.Write.WRITTEN),
        telemetry.LoopLagged(0.002),
    )


def test_what_follows_from_another_condition_is_not_said_twice(caplog: pytest.LogCaptureFixture) -> None:
    ready = telemetry.ConditionChanged(ABOUT, "Ready", "True", "Healthy", "It holds.", None)
    assert not lines(caplog, ready, telemetry.LeaseEnded(ABOUT, "Stopped"))


def test_the_operators_own_troubles_are_warnings(caplog: pytest.LogCaptureFixture) -> None:
    told_of = lines(caplog, telemetry.KopfEnded("WatchingError: 500"), telemetry.LoopLagged(3.0))
    assert [line["level"] for line in told_of] == ["warning", "warning"]
    assert "WatchingError: 500" in told_of[0]["message"]
    assert "3.0 s" in told_of[1]["message"]


def test_every_kind_of_event_that_is_about_a_resource_but_a_beat_has_its_line() -> None:
    about = {kind for kind in get_args(telemetry.TelemetryEvent) if "about" in kind.__dataclass_fields__}
    of_pools = set(get_args(telemetry.PoolEvent))
    assert about - {type(event) for event, _ in TRANSITIONS} - of_pools == {telemetry.BeatEnded, telemetry.LeaseEnded}


def test_a_pool_whose_reason_changed_has_a_line(caplog: pytest.LogCaptureFixture) -> None:
    pool = telemetry.AboutPool("team", "agents", "uid-pool", "env_1")
    (line,) = lines(caplog, telemetry.PoolChanged(pool, "SandboxesFailing", "no image", is_warning=True))
    assert (line["level"], line["reason"]) == ("warning", "SandboxesFailing")
    assert "namespace=team pool=agents" in line["message"]


def test_an_exception_is_in_its_line(caplog: pytest.LogCaptureFixture) -> None:
    try:
        int("a mistake")
    except ValueError:
        logging.getLogger("worklease.observability.logs").exception("turn failed %s", ABOUT)
    line = json.loads(logs.JsonLines().format(caplog.records[0]))
    assert "ValueError: invalid literal" in line["exception"]
    assert line["work"] == "work_1"
