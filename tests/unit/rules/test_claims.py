"""Who may claim a lease, and what comes before a beat."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from math import inf
from typing import Any

import pytest

from support.lease_samples import held
from worklease.rules.claims import (
    NOTHING,
    BeatPlan,
    BeatStep,
    Claimant,
    DryRun,
    can_claim,
    plan_beat,
    refused_dry_run,
    rival_of,
    successor_of,
)
from worklease.rules.deadlines import latest
from worklease.rules.lease import End, Lease, Trouble
from worklease.rules.pods import Obstacle

NOW = datetime(2026, 11, 28, tzinfo=UTC)
FRESH = Lease()
DUE = held(100, ttl=90)
"""Held since 100, so a beat is due at 130."""
OVER = replace(DUE, end=End.STOPPED)


def claimant(uid: str, lease: Lease = FRESH, *, age: float = 0, **stated: Any) -> Claimant:
    created = NOW - timedelta(seconds=age)
    return Claimant(uid=uid, name=f"agents/{uid}", created=created, lease=lease, **{"is_done": False} | stated)


# --- Several resources for one item ------------------------------------------------------------------------------

YOUNG, OLD = claimant("a", age=1), claimant("b", age=9)
UNABLE = claimant("b", age=9, can_claim=False)
UNABLE_TOO = claimant("a", age=1, can_claim=False)
CLAIMING = claimant("a", age=1, can_claim=False, is_claiming=True)


@pytest.mark.parametrize(
    ("own", "others", "rival"),
    [
        (YOUNG, (), None),
        (YOUNG, (OLD,), OLD),
        (OLD, (YOUNG,), None),
        (claimant("a"), (claimant("b"),), None),
        (claimant("b"), (claimant("a"),), claimant("a")),
        (claimant("a", DUE), (OLD,), None),
        (OLD, (claimant("a", DUE),), claimant("a", DUE)),
        (YOUNG, (claimant("b", OVER, age=9),), None),
        (YOUNG, (claimant("b", age=9, is_done=True),), None),
        (claimant("a", OVER), (OLD,), None),
        (YOUNG, (UNABLE,), None),
        (UNABLE, (YOUNG,), YOUNG),
        (UNABLE, (UNABLE_TOO,), None),
        (UNABLE_TOO, (UNABLE,), None),
        (UNABLE, (CLAIMING,), CLAIMING),
        (OLD, (CLAIMING,), CLAIMING),
        (CLAIMING, (OLD,), None),
        (claimant("b", DUE, can_claim=False), (YOUNG,), None),
    ],
    ids=[
        "alone",
        "the older one keeps it",
        "the older one has no rival",
        "of one age the first uid keeps it",
        "of one age the other uid waits",
        "a holder has no rival",
        "a holder comes before an older one",
        "a lease that is over keeps nothing",
        "a resource that is done keeps nothing",
        "a lease that is over has no rival",
        "an older one that cannot claim keeps nothing",
        "one that cannot claim waits for one that can",
        "where none can claim the older one goes on trying",
        "where none can claim the younger one goes on trying",
        "a claim under way is waited for",
        "a claim under way is waited for by an older one",
        "a claim under way has no rival",
        "a holder keeps the lease though it could not claim it",
    ],
)
def test_one_of_several_resources_for_an_item_keeps_its_lease(
    own: Claimant, others: tuple[Claimant, ...], rival: Claimant | None
) -> None:
    assert rival_of(own, (own, *others)) == rival


@pytest.mark.parametrize(
    ("lease", "facts", "expected"),
    [
        (FRESH, {}, True),
        (replace(FRESH, trouble=Trouble.UNREACHABLE), {}, True),
        (replace(FRESH, trouble=Trouble.HELD_BY_ANOTHER), {}, True),
        (replace(FRESH, suspended=True), {}, False),
        (FRESH, {"is_template_refused": True}, False),
        (FRESH, {"is_deleting": True}, False),
        (replace(FRESH, trouble=Trouble.CREDENTIALS_MISSING), {}, False),
        (replace(FRESH, trouble=Trouble.UNAUTHORIZED), {}, False),
        (replace(FRESH, trouble=Trouble.REJECTED), {}, False),
        (replace(FRESH, trouble=Trouble.NOT_FOUND), {}, False),
    ],
)
def test_a_resource_can_claim_unless_something_of_its_own_keeps_it_from_that(
    lease: Lease, facts: dict[str, bool], expected: object
) -> None:
    assert can_claim(lease, **{"is_template_refused": False, "is_deleting": False} | facts) is expected


# --- What comes before a beat ------------------------------------------------------------------------------------


def plan(lease: Lease, now: float, **facts: Any) -> BeatPlan:
    ordinary: dict[str, Any] = {
        "generation": 1,
        "dry_run": None,
        "is_waiting": False,
        "is_under_way": False,
        "is_done": False,
        "is_deleting": False,
        "has_rival": False,
        "has_finalizer": True,
        "makes_pods": False,
    }
    return plan_beat(lease, now, **(ordinary | facts))


@dataclass
class Row:
    lease: Lease
    facts: dict[str, Any]
    steps: tuple[BeatStep, ...]
    until: float = inf


AT_130 = latest(DUE)
REFUSED = DryRun(1, "exceeded quota", 190.0)
ROWS = {
    "a beat that is due is sent": Row(DUE, {}, (BeatStep.SEND,), AT_130),
    "a claim is sent": Row(FRESH, {}, (BeatStep.SEND,)),
    "one beat at a time": Row(DUE, {"is_under_way": True}, ()),
    "nothing for a resource that is done": Row(DUE, {"is_done": True}, ()),
    "nothing once the lease is over": Row(OVER, {}, ()),
    "a beat that waits goes with its lease": Row(OVER, {"is_waiting": True, "is_under_way": True}, (BeatStep.CANCEL,)),
    "a beat that waits is looked at when it becomes urgent": Row(
        DUE, {"is_waiting": True, "is_under_way": True}, (), AT_130
    ),
    "nothing is claimed while a rival keeps the lease": Row(FRESH, {"has_rival": True}, ()),
    "nothing is beaten while a rival keeps the lease": Row(DUE, {"has_rival": True}, ()),
    "nothing is claimed for a resource that is deleted": Row(FRESH, {"is_deleting": True}, ()),
    "what is held is beaten for a resource that is deleted": Row(DUE, {"is_deleting": True}, (BeatStep.SEND,), AT_130),
    "the finalizer comes before a claim": Row(FRESH, {"has_finalizer": False}, (BeatStep.ADD_FINALIZER,)),
    "no beat waits for the finalizer": Row(
        DUE, {"has_finalizer": False}, (BeatStep.ADD_FINALIZER, BeatStep.SEND), AT_130
    ),
    "no finalizer is put on what is deleted": Row(
        DUE, {"has_finalizer": False, "is_deleting": True}, (BeatStep.SEND,), AT_130
    ),
    "a template is tried before a claim": Row(FRESH, {"makes_pods": True}, (BeatStep.ASK_DRY_RUN,)),
    "a template is tried before the finalizer": Row(
        FRESH, {"makes_pods": True, "has_finalizer": False}, (BeatStep.ASK_DRY_RUN,)
    ),
    "a template that was accepted is claimed for": Row(
        FRESH, {"makes_pods": True, "dry_run": DryRun(1, "", inf)}, (BeatStep.SEND,)
    ),
    "a template that was refused is tried later": Row(FRESH, {"makes_pods": True, "dry_run": REFUSED}, (), 190.0),
    "a template that was refused is tried again": Row(
        FRESH, {"makes_pods": True, "dry_run": replace(REFUSED, again=130.0)}, (BeatStep.ASK_DRY_RUN,)
    ),
    "a template that was edited is tried again": Row(
        FRESH, {"makes_pods": True, "dry_run": REFUSED, "generation": 2}, (BeatStep.ASK_DRY_RUN,)
    ),
    "no template is tried for a lease that is held": Row(DUE, {"makes_pods": True}, (BeatStep.SEND,), AT_130),
    "no template is tried while a rival keeps the lease": Row(FRESH, {"makes_pods": True, "has_rival": True}, ()),
}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())
def test_what_comes_before_a_beat(row: Row) -> None:
    assert plan(row.lease, 130.0, **row.facts) == BeatPlan(row.steps, row.until)


def test_before_it_is_due_a_beat_is_waited_for() -> None:
    assert plan(DUE, 120.0) == BeatPlan(until=130.0)


def test_a_beat_that_waits_too_long_says_so_once() -> None:
    waiting = {"is_waiting": True, "is_under_way": True}
    assert plan(DUE, AT_130, **waiting).steps == (BeatStep.NOTE_BUDGET_SHORT,)
    short = replace(DUE, trouble=Trouble.BUDGET_SHORT)
    assert plan(short, AT_130, **waiting) == NOTHING


@pytest.mark.parametrize(
    ("obstacle", "waits"),
    [
        (Obstacle.SPEC, [60, 60, 60]),
        (Obstacle.QUOTA, [10, 20, 40, 60, 60]),
        (Obstacle.ADMISSION, [1, 2, 4, 8, 16, 32, 60, 60]),
    ],
)
def test_a_template_that_was_not_accepted_is_tried_again_slower_and_slower(
    obstacle: Obstacle, waits: list[float]
) -> None:
    note: DryRun | None = None
    for wait in waits:
        note = refused_dry_run(note, 1, "no", obstacle, 100.0)
        assert note.again == 100 + wait
    assert refused_dry_run(note, 2, "no", obstacle, 100.0).again == 100 + waits[0], "an edit begins again"
    accepted = DryRun(1, "", inf, obstacle, 5)
    assert refused_dry_run(accepted, 1, "no", obstacle, 100.0).again == 100 + waits[0]


# --- Deliveries ----------------------------------------------------------------------------------------------------


def delivered(uid: str, *, age: float, at: float | None = None) -> Claimant:
    return claimant(uid, age=age, delivery=uid, acknowledged_at=at, has_acknowledged=at is not None)


@pytest.mark.parametrize(
    ("own", "other", "is_over"),
    [
        (delivered("a", age=9, at=1.0), delivered("b", age=1, at=5.0), True),
        (delivered("a", age=9), delivered("b", age=1, at=5.0), True),
        (delivered("a", age=9, at=1.0), delivered("b", age=1), False),
        (delivered("a", age=1, at=5.0), delivered("b", age=9, at=1.0), False),
        (delivered("a", age=1, at=1.0), delivered("b", age=1, at=5.0), True),
        (delivered("a", age=1, at=5.0), delivered("b", age=1, at=1.0), False),
        (delivered("a", age=1), delivered("b", age=1, at=5.0), False),
        (claimant("a", age=9), delivered("b", age=1, at=5.0), False),
    ],
)
def test_a_later_delivery_that_left_the_queue_ends_an_earlier_one(
    own: Claimant, other: Claimant, *, is_over: bool
) -> None:
    assert (successor_of(own, (own, other)) is other) is is_over


def test_resources_of_two_deliveries_are_no_rivals() -> None:
    own = claimant("a", age=1, delivery="one")
    assert rival_of(own, (own, claimant("b", DUE, age=9, delivery="two"))) is None
    assert rival_of(own, (own, claimant("b", DUE, age=9))) is not None, "nobody knows which delivery that is"
