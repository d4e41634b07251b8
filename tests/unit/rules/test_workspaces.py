"""Which volume a session's pod gets, and when a volume that nobody uses is deleted: pure tables."""

from dataclasses import replace
from math import inf
from typing import Any

import pytest

from worklease.rules.workspaces import AwaitEnd, MakeVolume, Mount, Volume, VolumeStep, choose, keep_up, next_end

NOW = 1_790_000_000.0
A_DAY = 86_400.0
VOLUME = Volume(
    name="worklease-1",
    uid="uid-1",
    version="7",
    session=("env_1", "sesn_1"),
    created="2026-11-24T11:00:00Z",
    is_ours=True,
    idle=A_DAY,
)
ENDING = replace(VOLUME, name="worklease-0", created="2026-11-24T10:00:00Z", is_ending=True)
YOUNGER = replace(VOLUME, name="given-by-hand", created="2026-11-24T12:00:00Z", is_ours=False)


def test_a_session_without_a_volume_gets_one() -> None:
    assert choose([]) == MakeVolume()


def test_of_several_volumes_the_oldest_that_stays_is_the_sessions() -> None:
    assert choose([YOUNGER, VOLUME, ENDING]) == Mount(VOLUME)
    assert choose([YOUNGER]) == Mount(YOUNGER), "whoever made it"


def test_a_volume_that_is_being_deleted_is_waited_for() -> None:
    assert choose([ENDING]) == AwaitEnd(ENDING)


@pytest.mark.parametrize(
    ("volume", "used", "expected"),
    [
        ({}, True, VolumeStep.LEAVE),
        ({"unused_since": NOW - 9 * A_DAY}, True, VolumeStep.UNMARK),
        ({"idle": 0.0}, True, VolumeStep.LEAVE),
        ({}, False, VolumeStep.MARK),
        ({"unused_since": NOW - A_DAY + 1}, False, VolumeStep.LEAVE),
        ({"unused_since": NOW - A_DAY}, False, VolumeStep.DELETE),
        ({"idle": 0.0}, False, VolumeStep.DELETE),
        ({"unused_since": NOW + 60}, False, VolumeStep.MARK),
        ({"idle": None, "unused_since": NOW - 9 * A_DAY}, False, VolumeStep.LEAVE),
        ({"idle": 0.0, "is_ending": True}, False, VolumeStep.LEAVE),
    ],
    ids=[
        "used",
        "used again",
        "used, and to go with its lease",
        "not used any more",
        "not used for nearly as long as it is kept",
        "not used for as long as it is kept",
        "to go with its lease",
        "not used since a time to come",
        "nobody knows for how long it is kept",
        "being deleted",
    ],
)
def test_a_volume_goes_when_it_was_not_used_for_long_enough(
    volume: dict[str, Any], expected: VolumeStep, *, used: bool
) -> None:
    assert keep_up(replace(VOLUME, **volume), is_used=used, now=NOW) is expected


@pytest.mark.parametrize("used", [True, False])
@pytest.mark.parametrize("idle", [0.0, A_DAY])
def test_a_volume_that_somebody_else_made_is_left_alone(idle: float, *, used: bool) -> None:
    volume = replace(VOLUME, is_ours=False, idle=idle, unused_since=NOW - 9 * A_DAY)
    assert keep_up(volume, is_used=used, now=NOW) is VolumeStep.LEAVE


def test_the_next_sweep_is_due_when_the_first_of_the_marked_volumes_ends() -> None:
    marked = replace(VOLUME, unused_since=NOW - 100)
    assert next_end([VOLUME, marked, replace(marked, unused_since=NOW)]) == NOW - 100 + A_DAY
    assert next_end([VOLUME, replace(marked, is_ours=False), replace(marked, is_ending=True)]) == inf
