import asyncio
import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from worklease.work_api.budget import (
    AFTER_HOLD_BURST,
    AFTER_HOLD_RATE,
    CALL_TIME,
    Budget,
    BudgetRequest,
    CallClass,
    Rank,
)


class Clock:
    """A clock that the test moves; the budget's own alarms use the loop's clock."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def routine(key: str, *, fence: float, end: float = math.inf, urgent: float = math.inf) -> BudgetRequest:
    return BudgetRequest(key=key, rank=Rank.ROUTINE, fence=fence, end=end, urgent=urgent)


def first(key: str, *, fence: float = math.inf, end: float = math.inf) -> BudgetRequest:
    return BudgetRequest(key=key, rank=Rank.FIRST, fence=fence, end=end, urgent=math.inf)


def last(key: str) -> BudgetRequest:
    request = first(key)
    return replace(request, rank=Rank.LAST, kind=CallClass.READING)


class Queue:
    """Calls that wait for their turn, and the order in which they got it."""

    def __init__(self, per_minute: int) -> None:
        self.clock = Clock()
        self.budget = Budget(per_minute, self.clock)
        self.order: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def ask(self, *requests: BudgetRequest) -> None:
        self.tasks += [asyncio.create_task(self._turn(request)) for request in requests]
        await self.settle()

    async def _turn(self, request: BudgetRequest) -> None:
        await self.budget.turn(request)
        self.order.append(request.key)

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    async def pass_time(self, seconds: float, step: float = 0.05) -> None:
        """Move the clock on, and let the budget check its queue as often as its alarm would."""
        until = self.clock.now + seconds
        while self.clock.now < until:
            self.clock.now += step
            self.budget._pump()
            await self.settle()

    async def end(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


@pytest.fixture
async def queue_of() -> object:
    made: list[Queue] = []

    def make(per_minute: int) -> Queue:
        made.append(Queue(per_minute))
        return made[-1]

    yield make
    for queue in made:
        await queue.end()


Make = Callable[[int], Queue]


async def test_no_limit_lets_everybody_through_at_once(queue_of: Make) -> None:
    queue = queue_of(0)
    await queue.ask(*(routine(f"r{n}", fence=n) for n in range(500)))
    assert len(queue.order) == 500


async def test_who_is_closest_to_its_deadline_goes_first(queue_of: Make) -> None:
    queue = queue_of(60)
    await queue.ask(first("spends the burst"))
    await queue.ask(routine("late", fence=3000), routine("soon", fence=1100), routine("middle", fence=2000))
    await queue.pass_time(5)
    assert queue.order == ["spends the burst", "soon", "middle", "late"]


async def test_stops_and_claims_go_ahead_of_routine_beats(queue_of: Make) -> None:
    queue = queue_of(60)
    await queue.ask(first("spends the burst"))
    await queue.ask(routine("beat", fence=1100), first("claim"), first("stop", fence=1050))
    await queue.pass_time(4)
    assert queue.order == ["spends the burst", "stop", "claim", "beat"]


async def test_a_poll_goes_when_nobody_else_waits(queue_of: Make) -> None:
    queue = queue_of(60)
    await queue.ask(first("spends the burst"))
    await queue.ask(last("poll"), routine("beat", fence=3000), first("claim"))
    await queue.pass_time(2)
    await queue.ask(routine("late beat", fence=4000))
    await queue.pass_time(3)
    assert queue.order == ["spends the burst", "claim", "beat", "late beat", "poll"]


async def test_a_poll_waits_for_beats_that_wait_for_their_own_share(queue_of: Make) -> None:
    queue = queue_of(60)
    await queue.ask(*(routine(f"beat {n}", fence=9000) for n in range(8)), last("poll"))
    await queue.pass_time(6)
    assert "poll" not in queue.order
    await queue.pass_time(8)
    assert queue.order[-1] == "poll"


async def test_an_acknowledgement_goes_behind_stops_and_among_claims(queue_of: Make) -> None:
    queue = queue_of(60)
    await queue.ask(first("spends the burst"))
    await queue.ask(first("claim"), first("acknowledgement"), first("second claim"), first("stop", fence=1050))
    await queue.pass_time(5)
    assert queue.order == ["spends the burst", "stop", "claim", "acknowledgement", "second claim"]


async def test_with_a_third_of_the_budget_free_a_poll_waits_for_less_than_a_second_on_average(queue_of: Make) -> None:
    queue, waits = queue_of(300), []
    for second in range(60):
        # 200 beats a minute, as they come: three or four at the beginning of each second.
        await queue.ask(*(routine(f"beat {second}.{n}", fence=9000) for n in range(3 + (second % 3 == 0))))
        if second % 2 == 0:
            began = queue.clock.now
            await queue.ask(last(f"poll {second}"))
            while f"poll {second}" not in queue.order:
                await queue.pass_time(0.05)
            waits.append(queue.clock.now - began)
            await queue.pass_time(max(0.0, 1 - waits[-1]))
        else:
            await queue.pass_time(1)
    assert sum(waits) / len(waits) < 1.0
    assert max(waits) < 1.0


async def test_a_hold_of_reading_calls_holds_polls_and_no_beat(queue_of: Make) -> None:
    queue = queue_of(0)
    queue.budget.hold(30, "", CallClass.READING)
    await queue.ask(last("poll"), routine("beat", fence=1100))
    assert queue.order == ["beat"]
    await queue.pass_time(31)
    assert queue.order == ["beat", "poll"]


async def test_whose_fence_has_come_waits_on_for_the_leases_end(queue_of: Make) -> None:
    queue = queue_of(60)
    await queue.ask(first("spends the burst"))
    await queue.ask(
        first("fenced", fence=900, end=1020),
        first("is fenced meanwhile", fence=1000.5, end=1010),
        first("to be saved", fence=1005, end=1030),
    )
    await queue.pass_time(4)
    assert queue.order == ["spends the burst", "to be saved", "is fenced meanwhile", "fenced"]


async def test_what_is_lost_keeps_nobody_waiting(queue_of: Make) -> None:
    queue = queue_of(60)
    await queue.ask(first("spends the burst"))
    await queue.ask(
        *(first(f"lost {n}", fence=990, end=999 + n) for n in range(2)), first("to be saved", fence=1030, end=1040)
    )
    await queue.pass_time(4)
    assert queue.order == ["spends the burst", "to be saved", "lost 0", "lost 1"]


async def test_what_is_lost_while_it_waits_goes_behind_claims_and_what_can_be_saved(queue_of: Make) -> None:
    queue = queue_of(60)
    await queue.ask(first("spends the burst"))
    await queue.ask(routine("lost", fence=990, end=1000.6, urgent=980), first("claim"), first("saved", fence=1030))
    await queue.pass_time(4)
    assert queue.order == ["spends the burst", "saved", "claim", "lost"]


async def test_a_turn_that_would_come_too_late_for_the_answer_is_somebody_elses(queue_of: Make) -> None:
    queue = queue_of(60)
    await queue.ask(first("spends the burst"))
    turn = queue.clock.now + 61 / 60  # the next one
    await queue.ask(first("at the brink", fence=turn + CALL_TIME / 2, end=1020), first("to be saved", fence=turn + 5))
    await queue.pass_time(2.5)
    assert queue.order == ["spends the burst", "to be saved", "at the brink"]


async def test_a_beat_at_risk_goes_ahead_of_claims(queue_of: Make) -> None:
    queue = queue_of(60)
    await queue.ask(first("spends the burst"))
    await queue.ask(*(first(f"claim{n}") for n in range(5)), routine("at risk", fence=1010, urgent=1001.5))
    await queue.pass_time(8)
    assert queue.order.index("at risk") <= 2


async def test_routine_beats_use_at_most_four_fifths(queue_of: Make) -> None:
    queue = queue_of(300)
    await queue.ask(*(routine(f"r{n}", fence=5000 + n) for n in range(1000)))
    await queue.pass_time(60)
    assert 225 <= len(queue.order) <= 240


async def test_no_minute_sees_more_calls_than_the_budget(queue_of: Make) -> None:
    queue = queue_of(300)
    times: list[float] = []
    await queue.pass_time(30)
    await queue.ask(*(first(f"c{n}") for n in range(1000)))
    for _ in range(2400):
        await queue.pass_time(0.05)
        times += [queue.clock.now] * (len(queue.order) - len(times))
    busiest = max(sum(at <= other < at + 60 for other in times) for at in times)
    assert 285 <= busiest <= 300


async def test_processes_that_share_a_budget_do_not_exceed_it_together_though_their_parts_change(
    queue_of: Make,
) -> None:
    one, two = queue_of(300), queue_of(300)
    times: list[float] = []
    for each, part in ((one, 0.5), (two, 0.5)):
        each.budget.use(part)
        await each.ask(*(first(f"c{n}") for n in range(1000)))
    for step in range(2400):
        if step == 1200:
            one.budget.use(0.25)
            two.budget.use(0.75)
        seen = len(one.order) + len(two.order)
        for each in (one, two):
            await each.pass_time(0.05)
        times += [one.clock.now] * (len(one.order) + len(two.order) - seen)
    busiest = max(sum(at <= other < at + 60 for other in times) for at in times)
    assert 285 <= busiest <= 300


async def test_three_hundred_calls_a_minute_hold_seven_hundred_leases_of_ttl_300(queue_of: Make) -> None:
    queue = queue_of(300)
    ttl, grace, interval = 300.0, 30.0, 30.0
    fence_after = ttl - grace - (1 + ttl / 50)
    stretch = min(ttl * 3 / 5, fence_after - 20)
    sent = {f"r{n}": queue.clock.now for n in range(700)}
    asked: set[str] = set()
    longest, seen = 0.0, 0
    for _ in range(int(900 / 0.25)):
        due = [key for key, at in sent.items() if key not in asked and queue.clock.now >= at + interval]
        await queue.ask(*(routine(k, fence=sent[k] + fence_after, urgent=sent[k] + stretch) for k in due))
        asked.update(due)
        await queue.pass_time(0.25, step=0.25)
        for key in queue.order[seen:]:
            longest = max(longest, queue.clock.now - sent[key])
            sent[key] = queue.clock.now
            asked.discard(key)
        seen = len(queue.order)
    assert longest < fence_after - 20
    assert seen > 700 * 4


async def test_a_hold_holds_everybody_back_until_it_is_over(queue_of: Make) -> None:
    queue = queue_of(0)
    queue.budget.hold(10)
    await queue.ask(first("claim"), routine("beat", fence=1100, urgent=1090))
    await queue.pass_time(9)
    assert queue.order == []
    await queue.pass_time(2)
    assert sorted(queue.order) == ["beat", "claim"]


async def test_a_hold_lets_one_attempt_of_a_lease_through_that_would_not_outlive_it(queue_of: Make) -> None:
    queue = queue_of(0)
    queue.budget.hold(60)
    await queue.ask(routine("at risk", fence=1020, urgent=1010), routine("safe", fence=1200, urgent=1180))
    await queue.pass_time(9)
    assert queue.order == []
    await queue.pass_time(2)
    assert queue.order == ["at risk"]
    await queue.ask(routine("at risk", fence=1020, urgent=1010))
    await queue.pass_time(20)
    assert queue.order == ["at risk"]
    await queue.pass_time(30)
    assert sorted(queue.order) == ["at risk", "at risk", "safe"]


async def test_one_leases_second_try_keeps_no_other_from_its_attempt_in_a_hold(queue_of: Make) -> None:
    queue = queue_of(0)
    queue.budget.hold(60)
    await queue.ask(routine("first", fence=1020, urgent=1000))
    assert queue.order == ["first"]
    await queue.ask(routine("first", fence=1020, urgent=1000), routine("second", fence=1040, urgent=1000))
    await queue.pass_time(1)
    assert queue.order == ["first", "second"]


async def test_a_retry_with_an_earlier_deadline_goes_ahead_of_an_urgent_routine_beat(queue_of: Make) -> None:
    queue = queue_of(60)
    await queue.ask(first("spends the burst"))
    await queue.ask(routine("urgent", fence=1100, urgent=1000), first("retry", fence=1010))
    await queue.pass_time(2.5)
    assert queue.order == ["spends the burst", "retry", "urgent"]


async def test_a_renewed_lease_has_another_attempt_in_a_long_hold(queue_of: Make) -> None:
    queue = queue_of(0)
    queue.budget.hold(600)
    await queue.ask(routine("a", fence=1050, urgent=1040))
    await queue.pass_time(41, step=0.5)
    assert queue.order == ["a"]
    await queue.ask(routine("a", fence=1110, urgent=1100))
    await queue.pass_time(61, step=0.5)
    assert queue.order == ["a", "a"]


async def test_a_shorter_hold_does_not_cut_a_longer_one(queue_of: Make) -> None:
    queue = queue_of(0)
    queue.budget.hold(20)
    queue.budget.hold(1)
    await queue.ask(first("claim"))
    await queue.pass_time(15)
    assert queue.order == []


async def test_who_gives_up_waiting_takes_nobodys_turn(queue_of: Make) -> None:
    queue = queue_of(60)
    await queue.ask(first("spends the burst"))
    await queue.ask(first("gives up", fence=1001), first("waits"))
    queue.tasks[1].cancel()
    await queue.pass_time(1.5)
    assert queue.order == ["spends the burst", "waits"]
    assert queue.budget.waiting == 0


async def test_after_a_hold_thousands_are_let_go_by_their_deadlines_and_not_in_one_go(queue_of: Make) -> None:
    queue = queue_of(0)
    queue.budget.hold(10)
    number, burst = int(AFTER_HOLD_RATE), int(AFTER_HOLD_RATE * AFTER_HOLD_BURST)
    fences = [5000.0 + (7 * each) % number for each in range(number)]
    await queue.ask(*(routine(f"{fence}", fence=fence) for fence in fences))
    queue.clock.now += 10
    queue.budget._pump()
    await queue.ask(routine("late", fence=4999.0))
    assert len(queue.order) == burst
    assert queue.budget.shortage(queue.clock.now, routine("any", fence=9000.0)).startswith(
        f"{number + 1 - burst} calls go one after the other"
    )
    await queue.pass_time(2.5)
    in_order = [f"{fence}" for fence in sorted(fences)]
    assert queue.order == [*in_order[:burst], "late", *in_order[burst:]]
    await queue.ask(*(routine(f"{each}", fence=9000.0) for each in range(number)))
    assert len(queue.order) == 2 * number + 1, "nobody waits any more, so nobody has to"


async def test_what_was_let_through_a_hold_delays_nobody_after_it(queue_of: Make) -> None:
    queue = queue_of(0)
    queue.budget.hold(1)
    number = 3 * int(AFTER_HOLD_RATE)
    await queue.ask(*(routine(f"{each}", fence=1000.5, urgent=999.0) for each in range(number)))
    assert len(queue.order) == number
    await queue.ask(routine("waits", fence=2000.0))
    await queue.pass_time(1.1)
    assert queue.order[-1] == "waits"


async def test_a_hold_that_is_made_longer_lets_those_through_that_would_not_outlive_it_now(queue_of: Make) -> None:
    queue = queue_of(0)
    queue.budget.hold(10)
    await queue.ask(routine("outlives it", fence=1020.0, urgent=1000.0))
    assert queue.order == []
    queue.budget.hold(30)
    await queue.settle()
    assert queue.order == ["outlives it"]


def of(payer: str, key: str, *, kind: CallClass = CallClass.CREATING, fence: float = math.inf) -> BudgetRequest:
    """Return a call with a key of its own."""
    return replace(first(key, fence=fence), payer=payer, kind=kind)


async def test_a_hold_is_for_the_key_and_the_class_that_the_server_answered_so(queue_of: Make) -> None:
    queue = queue_of(0)
    queue.budget.hold(3600, "a")
    await queue.ask(of("a", "held"), of("b", "another key"), of("a", "another class", kind=CallClass.READING))
    await queue.pass_time(1)
    assert sorted(queue.order) == ["another class", "another key"]
    assert "this key's calls to wait 3599 s more" in queue.budget.shortage(queue.clock.now, of("a", "held"))


async def test_a_held_key_is_probed_after_a_minute_and_then_more_and_more_rarely(queue_of: Make) -> None:
    queue = queue_of(0)
    queue.budget.hold(3600, "a")
    await queue.ask(*(of("a", f"{number}") for number in range(9)))
    times: list[float] = []
    for _ in range(3500):
        await queue.pass_time(1, step=1)
        times += [queue.clock.now - 1000] * (len(queue.order) - len(times))
    assert times == pytest.approx([60, 180, 420, 900, 1380, 1860, 2340, 2820, 3300], abs=2)


async def test_a_short_hold_is_over_when_the_server_said_so(queue_of: Make) -> None:
    queue = queue_of(0)
    queue.budget.hold(5, "a")
    await queue.ask(*(of("a", f"{number}") for number in range(9)))
    await queue.pass_time(4.5)
    assert queue.order == []
    await queue.pass_time(1)
    assert len(queue.order) == 9


async def test_an_accepted_call_of_the_same_key_and_class_lifts_a_hold(queue_of: Make) -> None:
    queue = queue_of(0)
    queue.budget.hold(3600, "a")
    await queue.ask(*(of("a", f"{number}") for number in range(9)))
    queue.clock.now += 1
    queue.budget.note_accepted("a", queue.clock.now - 2)
    queue.budget.note_accepted("b", queue.clock.now)
    queue.budget.note_accepted("a", queue.clock.now, CallClass.READING)
    await queue.settle()
    assert queue.order == [], "sent before the hold, with another key, of another class"
    queue.budget.note_accepted("a", queue.clock.now)
    await queue.settle()
    assert len(queue.order) == 9


async def test_two_keys_that_are_held_within_a_minute_hold_everybody(queue_of: Make) -> None:
    queue = queue_of(0)
    queue.budget.hold(3600, "a")
    await queue.pass_time(30, step=1)
    queue.budget.hold(100, "b")
    await queue.ask(of("c", "a third key"), of("c", "another class", kind=CallClass.READING))
    await queue.pass_time(90, step=1)
    assert queue.order == ["another class"]
    assert "with all keys" in queue.budget.shortage(queue.clock.now, of("c", "a third key"))
    await queue.pass_time(20, step=1)
    assert queue.order == ["another class", "a third key"]


async def test_two_keys_that_are_held_one_long_after_the_other_hold_nobody_else(queue_of: Make) -> None:
    queue = queue_of(0)
    queue.budget.hold(3600, "a")
    await queue.pass_time(61, step=1)
    queue.budget.hold(3600, "b")
    await queue.ask(of("c", "a third key"))
    await queue.pass_time(1)
    assert queue.order == ["a third key"]


async def test_a_call_that_waits_already_is_held_with_its_key(queue_of: Make) -> None:
    queue = queue_of(60)
    await queue.ask(first("spends the burst"))
    await queue.ask(of("a", "held"), of("b", "not held"))
    queue.budget.hold(10, "a")
    await queue.pass_time(5)
    assert queue.order == ["spends the burst", "not held"]
