"""The metrics count what happens, under names and labels that are known beforehand."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from types import UnionType
from typing import Any, cast, get_args

import pytest

from support.lease_samples import answered, held, refused, stamp, throttled, unanswered, unsent
from worklease import telemetry
from worklease.cluster.checkpoint import Checkpoint
from worklease.keeper.keeper import Keeper
from worklease.keeper.tenures import Tenures
from worklease.observability.metrics import OUTCOMES, FleetCollector, Metrics
from worklease.rules import outcomes
from worklease.rules.answers import observe
from worklease.rules.lease import Adoption, End, Lease
from worklease.rules.outcomes import Exchange, Outcome
from worklease.rules.reasons import Kind, reasons_of
from worklease.telemetry import About
from worklease.work_api.budget import Budget

ABOUT = About("team", "demo", "uid-1", "env_1", "work_1")
EXCHANGE = Exchange(sent=100.0, done=100.25)


def samples(metrics: Metrics) -> dict[str, float]:
    found: dict[str, float] = {}
    for family in metrics.registry.collect():
        for sample in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def moved(*events: telemetry.TelemetryEvent) -> dict[str, float]:
    """Return what these events change, without buckets and the metrics of the process."""
    metrics = Metrics()
    before = samples(metrics)
    for event in events:
        metrics.listen(event)
    return {
        name: value - before.get(name, 0.0)
        for name, value in samples(metrics).items()
        if name.startswith("worklease_") and "_bucket" not in name and value != before.get(name, 0.0)
    }


def beat(outcome: Outcome, late: float = 0.5) -> telemetry.BeatEnded:
    return telemetry.BeatEnded(ABOUT, outcome, late=late)


@pytest.mark.parametrize(
    ("outcome", "name"),
    [
        (answered(100), "renewed"),
        (answered(100, extended=False), "not_extended"),
        (answered(100, extended=False, state="stopping"), "stopping"),
        (answered(100, extended=False, state="stopped"), "stopped"),
        (refused(100, stamp(90)), "conflicted"),
        (unanswered(100), "unanswered"),
        (unsent(100), "unsent"),
        (throttled(100, 3.0), "throttled"),
        (outcomes.NotReady(EXCHANGE, "no"), "not_ready"),
        (outcomes.Missing(EXCHANGE, "no"), "missing"),
        (outcomes.Unauthorized(EXCHANGE, "no"), "unauthorized"),
        (outcomes.CredentialsMissing(EXCHANGE, "no"), "credentials_missing"),
        (outcomes.Rejected(EXCHANGE, "no"), "rejected"),
    ],
)
def test_a_beat_is_counted_by_what_came_of_it(outcome: Outcome, name: str) -> None:
    assert moved(beat(outcome))[f"worklease_heartbeats_total{{outcome={name}}}"] == 1


def test_every_outcome_of_a_beat_has_its_name() -> None:
    assert len(OUTCOMES) == len(set(OUTCOMES)) == len(get_args(outcomes.Outcome)) + 3  # 200 has four


def test_a_beat_is_timed_from_its_sending_and_late_from_when_it_was_due() -> None:
    counted = moved(beat(outcomes.Missing(EXCHANGE, "no"), late=2.0))
    assert counted["worklease_heartbeat_duration_seconds_sum"] == 0.25
    assert counted["worklease_heartbeat_lateness_seconds_sum"] == 2.0


@pytest.mark.parametrize(
    ("event", "series"),
    [
        (telemetry.LeaseAdopted(ABOUT, Adoption.LISTED), {"worklease_adoptions_total{rule=Listed}": 1}),
        (telemetry.LeaseEnded(ABOUT, "TakenOver"), {"worklease_leases_ended_total{reason=TakenOver}": 1}),
        (
            telemetry.ConditionChanged(ABOUT, "LeaseHeld", "Unknown", "Fenced", "No beat.", "Unreachable"),
            {"worklease_fences_total": 1},
        ),
        (telemetry.ConditionChanged(ABOUT, "LeaseHeld", "True", "Renewed", "It holds.", "Claiming"), {}),
        (telemetry.SandboxMade(ABOUT, "pod-1", 0), {"worklease_sandboxes_made_total": 1}),
        (
            telemetry.SandboxEnded(ABOUT, "pod-1", "OOMKilled", "Out of memory."),
            {"worklease_sandboxes_ended_total{cause=OOMKilled}": 1},
        ),
        (
            telemetry.SandboxEnded(ABOUT, "pod-1", "AWordOfTheKubelet", "It ended."),
            {"worklease_sandboxes_ended_total{cause=Other}": 1},
        ),
        (
            telemetry.DeletionAsked(ABOUT, "pod-1", "Stopped", 30.0, 1.5),
            {
                "worklease_sandboxes_torn_down_total{cause=Stopped}": 1,
                "worklease_stop_to_delete_seconds_count": 1,
                "worklease_stop_to_delete_seconds_sum": 1.5,
            },
        ),
        (
            telemetry.DeletionAsked(ABOUT, "pod-1", "Fenced", 30.0, None),
            {"worklease_sandboxes_torn_down_total{cause=Fenced}": 1},
        ),
        (telemetry.DeletionRefused(ABOUT, "pod-1", "no"), {"worklease_sandbox_deletions_refused_total": 1}),
        (telemetry.SandboxGone(ABOUT, "pod-1"), {"worklease_sandboxes_gone_total": 1}),
        (telemetry.PodIgnored(ABOUT, "pod-1", "another's"), {"worklease_pods_spared_total": 1}),
        (
            telemetry.StopEnded(ABOUT, force=True, is_acknowledged=True, message=""),
            {"worklease_item_stops_total{result=heard}": 1},
        ),
        (
            telemetry.StopEnded(ABOUT, force=False, is_acknowledged=False, message="no"),
            {"worklease_item_stops_total{result=unheard}": 1},
        ),
        (telemetry.Orphaned(ABOUT, "a pod"), {"worklease_resources_left_behind_total": 1}),
        (
            telemetry.CallRefused(telemetry.WorkApiCall.STOP, 503),
            {"worklease_work_api_refusals_total{call=stop,code=503}": 1},
        ),
        (
            telemetry.CallRefused(telemetry.WorkApiCall.LIST, 418),
            {"worklease_work_api_refusals_total{call=list,code=Other}": 1},
        ),
        (telemetry.StatusWrite(telemetry.Write.COALESCED), {"worklease_status_writes_total{result=coalesced}": 1}),
        (
            telemetry.TurnGiven("routine", 2.0),
            {
                "worklease_budget_turns_total{rank=routine}": 1,
                "worklease_budget_wait_seconds_count": 1,
                "worklease_budget_wait_seconds_sum": 2.0,
            },
        ),
        (telemetry.KopfEnded("a watch's error"), {"worklease_kopf_restarts_total": 1}),
        (
            telemetry.LoopLagged(0.5),
            {"worklease_event_loop_lag_seconds_count": 1, "worklease_event_loop_lag_seconds_sum": 0.5},
        ),
    ],
)
def test_an_event_moves_its_own_series_and_no_other(event: telemetry.TelemetryEvent, series: dict[str, float]) -> None:
    assert moved(event) == series


@pytest.mark.parametrize("reason", list(End))
def test_every_end_of_a_lease_is_counted(reason: End) -> None:
    assert moved(telemetry.LeaseEnded(ABOUT, reason.value)) == {
        f"worklease_leases_ended_total{{reason={reason.value}}}": 1
    }


def test_every_kind_of_event_can_be_listened_to() -> None:
    """An event that is published for the first time in an emergency must not be an error there."""
    metrics = Metrics()
    for kind in get_args(telemetry.TelemetryEvent):
        metrics.listen(made(kind))


def made(kind: type) -> Any:
    """Return an event of a kind, with plain values for its fields' types."""
    return kind(*(_plain(field.name, field.type) for field in fields(kind)))


POOL = telemetry.AboutPool("team", "agents", "uid-pool", "env_1")


@pytest.mark.parametrize(
    ("event", "series"),
    [
        (
            telemetry.PoolPolled(POOL, telemetry.PollResult.EMPTY),
            {"worklease_pool_polls_total{namespace=team,pool=agents,result=empty}": 1},
        ),
        (
            telemetry.ItemHandled(POOL, "work_1", telemetry.ItemResult.TAKEN, "agents-1"),
            {"worklease_pool_items_total{namespace=team,pool=agents,result=taken}": 1},
        ),
        (
            telemetry.PoolSandboxStarted(POOL, 2.0),
            {
                "worklease_pool_start_seconds_count{namespace=team,pool=agents}": 1,
                "worklease_pool_start_seconds_sum{namespace=team,pool=agents}": 2.0,
            },
        ),
    ],
)
def test_what_happens_to_a_pool_moves_its_own_series(event: telemetry.TelemetryEvent, series: dict[str, float]) -> None:
    assert moved(event) == series


def test_a_pool_that_is_gone_has_no_series() -> None:
    metrics = Metrics()
    metrics.listen(telemetry.PoolPolled(POOL, telemetry.PollResult.ITEM))
    metrics.listen(telemetry.PoolSandboxStarted(POOL, 2.0))
    assert [name for name in samples(metrics) if "pool=agents" in name]
    metrics.listen(telemetry.PoolGone(POOL))
    assert not [name for name in samples(metrics) if "pool=agents" in name]


_BY_NAME: dict[str, Any] = {"outcome": outcomes.Missing(EXCHANGE, "no"), "rank": "first", "reason": End.EXPIRED}


def _plain(name: str, kind: Any) -> Any:
    if name in _BY_NAME:
        return _BY_NAME[name]
    kind = get_args(kind)[0] if isinstance(kind, UnionType) else kind
    if kind is About:
        return ABOUT
    if kind is telemetry.AboutPool:
        return POOL
    members = list(getattr(kind, "__members__", {}).values())
    return members[0] if members else kind()


def test_series_of_closed_sets_are_there_before_anything_happens() -> None:
    there = samples(Metrics())
    assert there["worklease_leases_ended_total{reason=TakenOver}"] == 0
    assert there["worklease_heartbeats_total{outcome=unauthorized}"] == 0
    assert there["worklease_work_api_refusals_total{call=heartbeat,code=401}"] == 0


def test_names_and_units_are_as_prometheus_wants_them() -> None:
    for family in Metrics().registry.collect():
        if not family.name.startswith("worklease_"):
            continue
        assert re.fullmatch(r"[a-z][a-z0-9_]*[a-z0-9]", family.name)
        assert family.documentation.endswith(".")
        if family.type == "histogram":
            assert family.name.endswith("_seconds")
        assert not any(family.name.endswith(unit) for unit in ("_ms", "_minutes", "_percent", "_total"))


async def test_every_reason_of_leaseheld_has_its_series_from_the_start() -> None:
    counted = await fleet(0.0)
    shown = {name for name in counted if name.startswith("worklease_leases{")}
    assert shown == {f"worklease_leases{{reason={reason.value}}}" for reason in reasons_of(Kind.LEASE_HELD)}


def test_the_version_is_shown() -> None:
    (build,) = (name for name in samples(Metrics()) if name.startswith("worklease_build_info"))
    assert re.search(r"version=\d+\.\d+", build)


class Kept:
    """A keeper, as far as counting the fleet needs one."""

    def __init__(self, *leases: tuple[Lease, str]) -> None:
        self._leases = leases

    def leases(self) -> Iterator[tuple[Lease, str]]:
        return iter(self._leases)

    def overdue(self) -> float:
        return 2.5


@dataclass(frozen=True)
class Written:
    """A checkpoint, as far as it is measured."""

    largest: int = 700_000
    left_out: int = 3
    failing_for: float = 12.5


@dataclass(frozen=True)
class Holding:
    """A process's buckets, as far as they are measured."""

    is_valid: bool = True
    held: frozenset[int] = frozenset({3, 7})


async def fleet(now: float, *leases: tuple[Lease, str]) -> dict[str, float]:
    metrics = Metrics()
    checkpoint = cast("Checkpoint", Written())
    keeper, tenures = cast("Keeper", Kept(*leases)), cast("Tenures", Holding())
    metrics.watch(FleetCollector(keeper, tenures, Budget(300, lambda: now), checkpoint, lambda: now))
    await metrics.page()
    return samples(metrics)


async def test_the_fleet_is_counted_by_reason_state_and_what_is_left() -> None:
    stopping = observe(held(), answered(130, extended=False, state="stopping"))
    doubtful = observe(held(), unanswered(130))
    new = observe(Lease(), answered(130, extended=False, state="a state of tomorrow"))
    counted = await fleet(
        150.0,
        (held(), "Renewed"),
        (held(140), "Renewed"),
        (stopping, "Draining"),
        (doubtful, "InDoubt"),
        (new, "Claiming"),
    )
    for name, value in {
        "worklease_leases{reason=Renewed}": 2,
        "worklease_leases{reason=Draining}": 1,
        "worklease_leases{reason=InDoubt}": 1,
        "worklease_leases{reason=Claiming}": 1,
        "worklease_leases{reason=Expired}": 0,
        "worklease_work_items{state=active}": 3,
        "worklease_work_items{state=stopping}": 1,
        "worklease_work_items{state=Other}": 1,
        "worklease_leases_in_doubt": 1,
        "worklease_checkpoint_largest_bytes": 700_000,
        "worklease_checkpoint_records_left_out": 3,
        "worklease_checkpoint_failing_seconds": 12.5,
        "worklease_replica_valid": 1,
        "worklease_buckets_held": 2,
        "worklease_leases_overdue": 0,
        "worklease_nearest_expiry_seconds": 40,
        "worklease_budget_requests_per_minute": 300,
        "worklease_turn_overdue_seconds": 2.5,
    }.items():
        assert counted[name] == value, name


async def test_overdue_is_what_should_have_been_renewed_and_was_not() -> None:
    # Of a TTL of 90 s, three fifths are 54.
    assert (await fleet(154.0, (held(), "Renewed")))["worklease_leases_overdue"] == 0
    assert (await fleet(154.1, (held(), "Renewed")))["worklease_leases_overdue"] == 1
    suspended = replace(held(), suspended=True)
    stopping = observe(held(), answered(130, extended=False, state="stopping"))
    left_alone = [(suspended, "Suspended"), (stopping, "Draining"), (Lease(), "Claiming")]
    assert (await fleet(180.0, *left_alone))["worklease_leases_overdue"] == 0


async def test_without_a_held_lease_there_is_no_nearest_expiry() -> None:
    assert "worklease_nearest_expiry_seconds" not in await fleet(150.0, (Lease(), "Claiming"))
