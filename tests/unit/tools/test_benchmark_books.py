"""The benchmark's Work API follows the simulator's rules, and its figures are computed as their names say."""

import math

import pytest

from benchmark.books import NO_HEARTBEAT, Books
from benchmark.figures import Row, Spread, Window, lateness, percentile
from support.work_items import beat, item
from work_api_simulator import items
from work_api_simulator.instants import SECOND
from work_api_simulator.items import HeartbeatAccepted, Item
from work_api_simulator.profiles import HOSTED

TTL = 90.0
WALL = 1_795_000_000.0


@pytest.fixture
def books() -> Books:
    opened = Books()
    opened.open(["work_1"], TTL, WALL)
    return opened


class Simulated:
    """One item of the simulator's model, with the same heartbeats at the same times."""

    def __init__(self) -> None:
        self.item: Item = item()

    def beat(self, expected: str, now: float) -> tuple[int, str, bool]:
        at = self.item.created_at + int(now * SECOND)
        answered = beat(self.item, expected, at=at, desired=int(TTL))
        if not isinstance(answered, HeartbeatAccepted):
            return 412, self.item.state.value, False
        self.item = answered.item
        return 200, self.item.state.value, answered.extended

    @property
    def value(self) -> str:
        return self.item.value or NO_HEARTBEAT


@pytest.mark.parametrize(
    "script",
    [
        ["right"],
        ["right", "right", "right"],
        ["wrong", "right"],
        ["right", "wrong", "right"],
        ["right", "claim"],
        ["right", "stop", "right", "wrong", "claim"],
        ["right", "force", "right", "wrong"],
    ],
    ids="-".join,
)
def test_a_beat_is_answered_as_the_simulator_answers_it(books: Books, script: list[str]) -> None:
    simulated, value = Simulated(), NO_HEARTBEAT
    for now, step in enumerate(script):
        if step in {"stop", "force"}:
            mode = items.StopMode.FORCED if step == "force" else items.StopMode.GRACEFUL
            at = simulated.item.created_at + now * SECOND
            simulated.item = items.after_stop(simulated.item, at, HOSTED, mode)
            books.end("work_1", "stopped" if step == "force" else "stopping")
            continue
        book_value, simulator_value = (
            {"right": right, "claim": NO_HEARTBEAT, "wrong": "2026-01-01T00:00:00.000000Z"}[step]
            for right in (value, simulated.value)
        )
        answer = books.beat("work_1", book_value, float(now), WALL + now)
        assert answer is not None
        assert (answer.status, answer.state, answer.extended) == simulated.beat(simulator_value, float(now))
        value = answer.value or NO_HEARTBEAT


def test_a_lease_that_is_not_beaten_lapses_once_and_its_value_is_good_no_more(books: Books) -> None:
    first = books.beat("work_1", NO_HEARTBEAT, 0.0, WALL)
    assert first is not None
    books.sweep(TTL - 0.001)
    assert books.lapses == 0
    late = books.beat("work_1", first.value, TTL, WALL + TTL)
    assert late is not None
    assert (late.status, late.state, late.value) == (412, "queued", "")
    books.sweep(10 * TTL)
    assert books.lapses == 1


def test_values_are_never_the_same_twice(books: Books) -> None:
    first = books.beat("work_1", NO_HEARTBEAT, 0.0, WALL)
    assert first is not None
    second = books.beat("work_1", first.value, 0.0, WALL)
    assert second is not None
    assert first.value < second.value


def test_a_beat_is_late_by_what_it_came_after_the_interval_and_an_early_one_is_not() -> None:
    numbers, times = [0, 1, 0, 1, 0], [0.0, 1.0, 5.5, 5.0, 11.5]
    assert lateness(numbers, times, since=0.0, interval=5.0) == [0.5, 0.0, 1.0]
    assert lateness(numbers, times, since=6.0, interval=5.0) == [1.0]


def test_a_percentile_is_one_of_the_values_and_nothing_of_nothing() -> None:
    values = [float(number) for number in range(1, 101)]
    assert (percentile(values, 0.5), percentile(values, 0.99), percentile([7.0], 0.99)) == (50.0, 99.0, 7.0)
    assert math.isnan(percentile([], 0.5))


def window(cpu: float, beats: int) -> Window:
    late = Spread(0.0, 0.1, 0.2)
    return Window(
        seconds=10.0, beats=beats, cpu_seconds=cpu, server_cpu_seconds=0.0, late=late, lapses=0, machine_load=0.5
    )


def test_what_a_beat_costs_is_compared_with_the_floor_in_the_same_windows() -> None:
    def row(*cpu: float) -> Row:
        return Row(contender="x", leases=10, interval=5.0, windows=tuple(window(each, 100) for each in cpu))

    # The separate medians would give 4 / 3.
    assert row(2.0, 4.0, 9.0).times(row(1.0, 4.0, 3.0)) == 2.0
    assert row(2.0, 4.0).times(row(0.0, 1.0)) == 4.0
    assert math.isnan(row(2.0).times(row(0.0)))
    assert row(6.0).times(row(1.0, 3.0, 2.0)) == 3.0


def test_a_row_tells_the_median_of_its_windows_and_null_for_what_is_no_number() -> None:
    row = Row(
        contender="floor", leases=10, interval=5.0, windows=(window(1.0, 100), window(9.0, 100), window(2.0, 100))
    )
    line = row.as_line()
    assert (line["cpu_per_beat"], line["core"], line["memory_per_lease"]) == (0.02, 0.2, None)
    assert Row(contender="x", leases=1, interval=5.0, windows=(window(1.0, 0),)).as_line()["cpu_per_beat"] is None
