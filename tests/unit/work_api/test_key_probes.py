"""How often a refused key is tried again, and by which of the calls that wait for it."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from worklease.work_api.key_probes import FEW, GAP, KeyProbes, Place

KEY = ("env_1", "key")


class Line:
    """Calls that wait for probes, and the order in which they got them; the test moves the clock."""

    def __init__(self, per_minute: int) -> None:
        self.now = 1000.0
        self.probes = KeyProbes(per_minute, lambda: self.now)
        self.turns: list[tuple[str, asyncio.Future[bool]]] = []

    def refuse(self, *places: Place) -> None:
        for place in places:
            self.probes.note_refused(place)

    def join(self, name: str, place: Place = KEY) -> "asyncio.Future[bool]":
        self.turns.append((name, self.probes.join(place)))
        return self.turns[-1][1]

    def admitted(self) -> list[str]:
        return [name for name, turn in self.turns if turn.done() and turn.result()]

    def pass_time(self, seconds: float, step: float = 0.5) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now += step
            self.probes._pump()


@pytest.fixture
async def line_of() -> AsyncIterator[Callable[[int], Line]]:
    made: list[Line] = []

    def make(per_minute: int) -> Line:
        made.append(Line(per_minute))
        return made[-1]

    yield make
    for line in made:
        for _, turn in line.turns:
            turn.cancel()


Make = Callable[[int], Line]


async def test_of_all_that_a_key_was_refused_to_one_tries_it_again_every_ten_seconds(line_of: Make) -> None:
    line = line_of(0)
    line.refuse(KEY)
    for number in range(10):
        line.join(f"{number}")
    line.pass_time(GAP - 1)
    assert line.admitted() == []
    line.pass_time(1)
    assert line.admitted() == ["0"]
    line.pass_time(2 * GAP)
    assert line.admitted() == ["0", "1", "2"]


async def test_all_probes_together_take_at_most_a_tenth_of_the_budget(line_of: Make) -> None:
    line = line_of(300)
    places = [("env_1", f"key-{number}") for number in range(200)]
    line.refuse(*places)
    for place in places:
        line.join(place[1], place)
    line.pass_time(60)
    assert 20 <= len(line.admitted()) <= 30


async def test_the_key_that_waits_longest_is_tried_first(line_of: Make) -> None:
    line = line_of(60)
    for number in range(3):
        line.refuse(("env_1", f"key-{number}"))
        line.now += 0.5
    for number in reversed(range(3)):
        line.join(f"key-{number}", ("env_1", f"key-{number}"))
    got: list[str] = []
    for _ in range(200):
        line.pass_time(0.5)
        got += [name for name in line.admitted() if name not in got]
    assert got == ["key-0", "key-1", "key-2"]


async def test_one_key_in_two_environments_is_two(line_of: Make) -> None:
    line = line_of(0)
    line.refuse(KEY, ("env_2", "key"))
    line.join("one")
    line.join("two", ("env_2", "key"))
    line.pass_time(GAP + 1)
    assert line.admitted() == ["one", "two"]


async def test_a_key_that_is_accepted_again_is_tried_by_all_at_once(line_of: Make) -> None:
    line = line_of(300)
    line.refuse(KEY)
    refused = line.now
    turns = [line.join(f"{number}") for number in range(10)]
    line.now += 1
    line.probes.note_accepted(KEY)
    assert all(turn.done() for turn in turns)
    assert line.probes.is_accepted_since(KEY, refused)
    assert not line.probes.is_accepted_since(KEY, line.now)


async def test_a_secret_with_another_key_ends_the_wait_for_the_old_one(line_of: Make) -> None:
    line = line_of(0)
    line.refuse(KEY)
    turn = line.join("waits")
    line.probes.note_changed(KEY)
    assert turn.done()
    assert line.admitted() == []


async def test_who_leaves_takes_nobodys_probe(line_of: Make) -> None:
    line = line_of(0)
    line.refuse(KEY)
    turn = line.join("leaves")
    other = line.join("stays")
    line.probes.leave(KEY, turn)
    line.pass_time(GAP)
    assert other.done()
    assert line.probes.waiting == 0


async def test_keys_that_nobody_asks_about_are_forgotten(line_of: Make) -> None:
    line = line_of(0)
    for number in range(10 * FEW):
        line.refuse(("env_1", f"key-{number}"))
        line.now += GAP
    assert len(line.probes._keys) <= FEW + 1
