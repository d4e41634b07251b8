"""Whose pod it is, and why another one is left alone."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from support.lease_samples import held
from worklease.rules.lease import End, Lease
from worklease.rules.ownership import is_left_of_stopped, why_ignored
from worklease.rules.pods import Pod

UID = "resource"
NOW = datetime(2026, 11, 28, tzinfo=UTC)
POD = Pod(uid="pod1", name="sandbox", phase="Running", created=NOW)
HELD = held()
STOPPED = replace(HELD, end=End.STOPPED)


@pytest.mark.parametrize(
    ("pod", "lease", "stopped", "is_left"),
    [
        (POD, STOPPED, NOW, True),
        (POD, STOPPED, NOW - timedelta(seconds=1), False),
        (POD, STOPPED, None, False),
        (POD, HELD, NOW, False),
        (POD, replace(HELD, end=End.TAKEN_OVER), NOW, False),
        (replace(POD, controller="another"), STOPPED, NOW, False),
        (replace(POD, phase="Succeeded"), STOPPED, NOW, False),
        (replace(POD, created=None), STOPPED, NOW, False),
    ],
    ids=[
        "it was there when the item was stopped",
        "it came later",
        "the server did not say when",
        "the lease is held",
        "another worker holds it",
        "another WorkLease controls it",
        "it is over",
        "nobody knows since when it is there",
    ],
)
def test_a_pod_of_a_stopped_item_is_its_sandbox_if_it_was_there_by_then(
    pod: Pod, lease: Lease, stopped: datetime | None, *, is_left: bool
) -> None:
    assert is_left_of_stopped(pod, lease, stopped) is is_left


ANOTHERS = replace(POD, controller="another")


@pytest.mark.parametrize(
    ("pod", "lease", "is_done", "is_wanted", "words"),
    [
        (ANOTHERS, HELD, False, True, "another WorkLease (uid another) controls it"),
        (ANOTHERS, STOPPED, True, True, ""),
        (POD, HELD, False, True, ""),
        (POD, STOPPED, True, False, "it came after this lease had finished"),
        (POD, STOPPED, True, True, ""),
        (POD, STOPPED, False, False, ""),
        (replace(POD, phase="Failed"), STOPPED, True, False, ""),
        (replace(ANOTHERS, gone=True), HELD, False, True, ""),
    ],
    ids=[
        "another WorkLease controls it",
        "it is another's, and this resource is done",
        "it may still be bound",
        "it came after the end",
        "another resource will bind it",
        "the end is not over yet",
        "it is over",
        "it is gone",
    ],
)
def test_why_a_pod_with_the_labels_is_left_alone(
    pod: Pod, lease: Lease, words: str, *, is_done: bool, is_wanted: bool
) -> None:
    why = why_ignored(pod, UID, lease, is_done=is_done, is_wanted=is_wanted)
    assert why.startswith(words)
    assert bool(why) is bool(words)
