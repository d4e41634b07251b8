"""Two or three processes that share a lease by its bucket break no promise, whatever befalls them.

Crashes, restarts in place, suspends, partitions, outages, hand-overs, lost answers, other workers, thieves, stops and
pods come in every order that a seed leads to. The processes run the operator's own rules over one record; the world and
its judge are in ``support.shared_world``. A history that breaks a promise is shortened and told, line by line.
"""

import os
from collections import Counter
from dataclasses import replace
from random import Random

import pytest
from hypothesis import settings

from support.shared_history import Fault, History, Plan, Verdict, plan, told

HISTORIES = 800
"""As many as the other properties have processor time for; the soak asks for many more."""
READERS = (27, 50, 301)
"""Histories in which a take lies between the read of a woken holder and what it does then."""
PARTS = 4
"""Each may run beside the others."""
WHAT_HAPPENS = (
    "takes",
    "lapsed",
    "thief robbed after a take",
    "handed over",
    "valid again by a write",
    "answered without validity",
    "let go in silence",
    "read as a taker",
)
"""What must happen at least once in each part: else its rules were not tried."""
MOST_GIVEN_UP = 6 / 8000
"""Own leases that may be given up, of all: by a process without any proof that they are its own."""


def histories(part: int) -> range:
    """Return the seeds of a part: the same on every machine, or, for the soak, others each time."""
    count = max(HISTORIES, settings().max_examples) // PARTS
    first = 0 if settings().derandomize else int.from_bytes(os.urandom(5), "big")
    return range(first + part * count, first + (part + 1) * count)


pytestmark = pytest.mark.timeout(300 if max(0, settings().max_examples) < 10_000 else 6 * 3600)


@pytest.mark.parametrize("part", range(PARTS))
def test_several_processes_break_no_promise_whatever_befalls_them(part: int) -> None:
    counts, given_up = Counter[str](), []
    for seed in histories(part):
        verdict = History(plan(seed)).run()
        assert not verdict.broken, f"{verdict.broken}\n{told(plan(seed))}"
        counts += verdict.counts
        given_up += [seed] * verdict.counts["given up"]
    assert len(given_up) <= 1 + MOST_GIVEN_UP * counts["claimed"], f"own leases given up: {given_up}"
    assert not [what for what in WHAT_HAPPENS if counts[what] == 0], "too little happens"


def directed(ttl: float, *faults: tuple[float, Fault, float]) -> list[Verdict]:
    """Return what came of twenty histories without lost answers, in which the same goes wrong at the same time."""
    plans = [replace(plan(seed), ttl=ttl, processes=3, loss=0.0, faults=faults) for seed in range(20)]
    return [History(each).run() for each in plans]


def woken(seed: int) -> Plan:
    """Return a history in which a suspended holder wakes about when another takes its bucket, and has work to do."""
    random = Random(seed)  # noqa: S311 (the same history each time)
    suspended = (20.0, Fault.SUSPEND, random.uniform(9.0, 13.0))
    work = (22.0, random.choice((Fault.DELETION, Fault.SUCCESS, Fault.STOP)), 1.0)
    return replace(plan(seed), ttl=60.0, processes=2, loss=0.0, faults=(suspended, work), is_made=True)


def test_a_holder_that_wakes_while_its_bucket_is_taken_does_nothing_without_it() -> None:
    assert [History(woken(seed)).run().broken for seed in range(100)] == [()] * 100


def test_who_only_reads_its_bucket_after_a_gap_would_act_without_it() -> None:
    broken = [History(woken(seed), reread=True).run().broken for seed in READERS]
    assert all("acted without the bucket" in promises[0] for promises in broken)


@pytest.mark.parametrize("fault", [Fault.CRASH, Fault.RESTART, Fault.SUSPEND, Fault.CUT, Fault.AWAY, Fault.END])
def test_without_lost_answers_no_lease_of_30_s_lapses(fault: Fault) -> None:
    verdicts = directed(30.0, (20.0, fault, 30.0), (50.0, Fault.HAND_OVER, 1.0))
    assert [verdict.counts["lapsed"] for verdict in verdicts] == [0] * len(verdicts)
    assert [verdict.broken for verdict in verdicts] == [()] * len(verdicts)


@pytest.mark.parametrize("away_at", [22.6, 22.8, 23.0, 23.2, 23.6])
def test_an_outage_of_the_api_server_about_a_hand_over_costs_no_lease(away_at: float) -> None:
    verdicts = directed(30.0, (20.0, Fault.HAND_OVER, 1.0), (away_at, Fault.AWAY, 45.0))
    assert [verdict.counts["lapsed"] for verdict in verdicts] == [0] * len(verdicts)
    assert [verdict.broken for verdict in verdicts] == [()] * len(verdicts)


def test_what_a_holder_let_go_of_in_silence_is_begun_again_when_it_is_valid_again() -> None:
    verdicts = directed(30.0, (15.0, Fault.POD, 1.0), (20.0, Fault.AWAY, 25.0), (31.0, Fault.THIEF, 1.0))
    assert [verdict.broken for verdict in verdicts] == [()] * len(verdicts)
    assert all(verdict.counts["let go in silence"] for verdict in verdicts)
    assert all(verdict.counts["begun again"] for verdict in verdicts)
