"""A schedule depends on its seed only, and contains every kind of trouble."""

import random
from collections import Counter

import pytest

from soak.plan import SETTLING, Trouble, schedule


def drawn(seed: int, *, minutes: float = 3, kills: int = 5) -> list[Trouble]:
    return [step.trouble for step in schedule(random.Random(seed), seconds=60 * minutes, kills=kills)]  # noqa: S311


def test_the_same_seed_gives_the_same_schedule() -> None:
    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


@pytest.mark.parametrize("seed", range(5))
def test_three_minutes_have_the_kills_asked_for_and_both_long_absences(seed: int) -> None:
    counts = Counter(drawn(seed))
    assert counts[Trouble.KILLED] == 5
    assert counts[Trouble.LONG_OUTAGE] == counts[Trouble.SLEPT_LONG] == 1
    assert min(counts[kind] for kind in (Trouble.OUTAGE, Trouble.SLEPT, Trouble.API_SERVER_KILLED)) >= 1


@pytest.mark.parametrize("seed", range(5))
def test_ten_minutes_leave_out_no_kind_of_trouble(seed: int) -> None:
    assert set(drawn(seed, minutes=10)) == set(Trouble)


def test_nothing_happens_while_the_last_troubles_settle() -> None:
    steps = schedule(random.Random(3), seconds=180, kills=5)  # noqa: S311
    assert max(step.at for step in steps) <= 180 - SETTLING
    assert steps == sorted(steps)
