"""Processes share the buckets: each acts only for what it holds, and hands over what another one should hold."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from support.scripted_server import ScriptedServer, kubernetes_at, serving
from support.stored_objects import StoredObjects
from worklease.clocks import ClockPair
from worklease.cluster.bucket_store import BucketStore, bucket_name
from worklease.cluster.liveness_leases import LivenessLeases
from worklease.keeper.surroundings import Surroundings
from worklease.keeper.tenures import Tenures
from worklease.rules.acts import HASTE, QUIET, Act, Leave, Standing
from worklease.rules.buckets import BUCKETS
from worklease.rules.succession import Succession
from worklease.rules.tenure import CALL_TIMEOUT, Holder

ALL = frozenset(range(BUCKETS))
START = datetime(2026, 11, 29, 6, tzinfo=UTC)
CONFIG_MAPS = "/api/v1/namespaces/own/configmaps"


@dataclass
class Records:
    """Who keeps the leases: it notes what it is given, and has one record for each bucket."""

    held: dict[int, Mapping[str, str]] = field(default_factory=dict)
    successions: dict[int, Succession] = field(default_factory=dict)
    news: dict[str, str] = field(default_factory=dict)
    confirmations: list[int] = field(default_factory=list)
    hastened: set[int] = field(default_factory=set)

    def take(self, bucket: int, records: Mapping[str, str], succession: Succession) -> None:
        self.held[bucket], self.successions[bucket] = records, succession

    def lose(self, bucket: int) -> None:
        del self.held[bucket]

    def hasten(self, bucket: int) -> None:
        self.hastened.add(bucket)

    def confirmed(self, bucket: int) -> None:
        self.confirmations.append(bucket)

    def unwritten(self, bucket: int, *, everything: bool) -> Mapping[str, str | None]:
        return {**self.held[bucket], **self.news} if everything else dict(self.news)


@dataclass
class Process:
    tenures: Tenures
    records: Records
    running: set[tuple[int, int]]


@dataclass
class Installation:
    """Several processes at one API server, on one clock that the test moves."""

    server: ScriptedServer
    opened: AsyncExitStack
    stored: StoredObjects
    now: float = 1000.0
    when_asleep: Callable[[float], None] = lambda _: None

    async def start(self, place: str, *, pid: int = 1, started: int = 1) -> Process:
        api = await self.opened.enter_async_context(kubernetes_at(self.server.url))
        own, records, running = Holder(place, pid, started, "a"), Records(), {(pid, started)}
        leases = LivenessLeases(api, "own", f"{own.lease_name}{place}", str(own))
        surroundings = Surroundings(
            own=own, running=lambda: frozenset(running), clock=lambda: self.now, wall=self._wall, sleep=self._sleep
        )
        tenures = Tenures(leases, BucketStore(api, "own"), surroundings)
        tenures.serve(records)
        return Process(tenures, records, running)

    async def _sleep(self, seconds: float) -> None:
        self.when_asleep(seconds)
        wakes = self.now + seconds
        await asyncio.sleep(0)  # others that sleep at the same time wake at the same time
        self.now = max(self.now, wakes)

    def _wall(self) -> ClockPair:
        return ClockPair(self.now, START + timedelta(seconds=self.now))

    async def live(self, seconds: float, *processes: Process) -> None:
        """Let time pass, with all that these processes do each second."""
        for _ in range(round(seconds)):
            self.now += 1.0
            for each in processes:
                await each.tenures.renew()
                await each.tenures.write_after_gap()
                await each.tenures.look()


@pytest.fixture
async def installation() -> AsyncIterator[Installation]:
    async with AsyncExitStack() as opened, serving() as server:
        server.script = stored = StoredObjects()
        async with AsyncExitStack() as clients:
            yield Installation(server, clients, stored)
        del opened


def standings(process: Process) -> Iterator[Standing]:
    return (process.tenures.standing(bucket) for bucket in range(BUCKETS))


async def test_one_process_alone_holds_all_buckets_within_a_second(installation: Installation) -> None:
    one = await installation.start("a")
    await installation.live(1, one)
    assert one.tenures.held == ALL
    assert set(standings(one)) == {Standing.VALID}
    assert {each.taken for each in one.records.successions.values()} == {None}, "nobody held them before"


async def test_a_bucket_that_somebody_deletes_is_made_again_within_a_second(installation: Installation) -> None:
    one, path = await installation.start("a"), f"{CONFIG_MAPS}/{bucket_name(3)}"
    await installation.live(1, one)
    one.records.held[3] = {"uid-1": "{}"}
    del installation.stored.objects[path]
    await installation.live(2, one)
    assert installation.stored.objects[path]["data"] == {"uid-1": "{}"}
    assert one.tenures.held == ALL
    assert set(standings(one)) == {Standing.VALID}


async def test_the_records_of_an_earlier_version_are_taken_over(installation: Installation) -> None:
    written = [{"manager": "operator", "time": "2026-11-29T00:00:00Z"}]
    metadata = {"name": "worklease-checkpoint-03", "resourceVersion": "0", "managedFields": written}
    former = {"metadata": metadata, "data": {"uid-1": "{}"}}
    installation.stored.objects[f"{CONFIG_MAPS}/worklease-checkpoint-03"] = former
    one = await installation.start("a")
    await installation.live(1, one)
    assert one.records.held[3] == {"uid-1": "{}"}


async def test_a_second_process_gets_its_half_and_a_record_goes_along(installation: Installation) -> None:
    one = await installation.start("a")
    await installation.live(1, one)
    assert await one.tenures.write(3, {"uid-1": "{}"}) is None
    two = await installation.start("b")
    await installation.live(14, one, two)
    assert one.tenures.held | two.tenures.held == ALL
    assert len(one.tenures.held) == len(two.tenures.held) == BUCKETS / 2
    assert set(standings(two)) == {Standing.VALID, Standing.FORMER}
    holder = one if 3 in one.tenures.held else two
    assert holder is one or holder.records.held[3] == {"uid-1": "{}"}


async def test_the_buckets_of_a_process_that_is_silent_are_taken_after_nine_seconds(
    installation: Installation,
) -> None:
    one, two = await installation.start("a"), await installation.start("b")
    await installation.live(12, one, two)
    left = one.tenures.held
    await installation.live(8, two)
    assert two.tenures.held == ALL - left
    await installation.live(2, two)
    assert two.tenures.held == ALL
    assert {two.records.successions[bucket].taken is None for bucket in left} == {False}, "it may live"
    assert one.tenures.may(Act.STOP, min(left)) is Leave.NO, "by its own clock it is not valid"
    assert not await one.tenures.still_holds(min(left))
    await installation.live(1, one)
    assert one.tenures.held == frozenset(), "it sees that it holds nothing any more"


async def test_a_holder_that_wakes_in_time_writes_its_buckets_and_is_valid_again(installation: Installation) -> None:
    one, two = await installation.start("a"), await installation.start("b")
    await installation.live(12, one, two)
    held = one.tenures.held
    await installation.live(8, two)
    await one.tenures.renew()
    assert {one.tenures.standing(bucket) for bucket in held} == {Standing.INVALID}
    await one.tenures.write_after_gap()
    assert {one.tenures.standing(bucket) for bucket in held} == {Standing.VALID}
    await installation.live(3, one, two)
    assert one.tenures.held == held


async def test_the_heir_of_a_dead_process_takes_its_buckets_at_once(installation: Installation) -> None:
    one = await installation.start("a")
    await installation.live(1, one)
    heir = await installation.start("a", started=2)
    await installation.live(1, heir)
    assert heir.tenures.held == ALL
    assert set(heir.records.successions.values()) == {Succession(begun=installation.now)}
    assert await one.tenures.write(3, {"uid-1": "late"}) is not None
    assert 3 not in one.tenures.held


async def test_nothing_of_a_former_holder_is_done_after_its_successor_has_begun(installation: Installation) -> None:
    one = await installation.start("a")
    await installation.live(1, one)
    slept: list[tuple[float, Standing]] = []
    installation.when_asleep = lambda seconds: slept.append((seconds, one.tenures.standing(3)))
    await one.tenures.end()
    steps = {CALL_TIMEOUT - HASTE: Standing.LEAVING, HASTE: Standing.LEAVING, QUIET: Standing.HANDED_OVER}
    assert dict(slept) == steps, "calls have time to end"
    assert one.records.hastened == set(ALL), "what would come due meanwhile is sent before"


async def test_a_process_that_ends_leaves_all_it_holds_to_the_others(installation: Installation) -> None:
    one, two = await installation.start("a"), await installation.start("b")
    await installation.live(14, one, two)
    one.records.news = {"uid-1": "last words"}
    left = one.tenures.held
    await one.tenures.end()
    await installation.live(1, two)
    assert two.tenures.held == ALL
    assert {two.records.held[bucket].get("uid-1") for bucket in left} == {"last words"}


async def test_the_last_process_leaves_its_buckets_to_anybody_at_once(installation: Installation) -> None:
    one = await installation.start("a")
    await installation.live(1, one)
    await one.tenures.end()
    assert one.records.held == {}
    two = await installation.start("b")
    await installation.live(1, two)
    assert two.tenures.held == ALL
    assert {each.taken for each in two.records.successions.values()} == {None}


async def test_a_process_that_has_ended_does_not_show_itself_alive_again(installation: Installation) -> None:
    one = await installation.start("a")
    await installation.live(1, one)
    await one.tenures.end()
    await installation.live(2, one)
    assert not [path for path in installation.stored.objects if "/leases/" in path]
    assert one.tenures.held == frozenset()


async def test_while_the_api_server_is_away_nobody_takes_and_nobody_is_valid(installation: Installation) -> None:
    one, two = await installation.start("a"), await installation.start("b")
    await installation.live(14, one, two)
    before = one.tenures.held, two.tenures.held
    installation.stored.is_away = True
    await installation.live(30, one, two)
    assert set(standings(one)) == {Standing.CUT_OFF, Standing.FORMER}
    installation.stored.is_away = False
    await installation.live(2, one, two)
    assert (one.tenures.held, two.tenures.held) == before
    assert set(standings(one)) == {Standing.VALID, Standing.FORMER}


async def hand_over_unheard(installation: Installation) -> tuple[Process, Process, int]:
    """Have a process hand a bucket over to another one, which does not look; return both and the bucket."""
    one, two = await installation.start("a"), await installation.start("b")
    await installation.live(1, one)
    await two.tenures.renew()
    while not (given := ALL - one.tenures.held):
        await installation.live(1, one)
        await asyncio.sleep(0)
    (bucket,) = given
    assert one.tenures.standing(bucket) is Standing.HANDED_OVER
    return one, two, bucket


async def test_if_the_api_server_goes_away_before_a_successor_has_heard_the_holder_before_beats_on(
    installation: Installation,
) -> None:
    one, two, bucket = await hand_over_unheard(installation)
    assert one.tenures.may(Act.ROUTINE_BEAT, bucket) is Leave.NO, "the successor begins any moment"
    assert not await one.tenures.still_holds(bucket)
    installation.stored.is_away = True
    await installation.live(30, one, two)
    assert one.tenures.standing(bucket) is Standing.CUT_OFF
    assert one.tenures.may(Act.ROUTINE_BEAT, bucket) is Leave.YES
    assert one.tenures.may(Act.STOP, bucket) is Leave.NO
    installation.stored.is_away = False
    await installation.live(1, two, one)
    assert two.tenures.standing(bucket) is Standing.VALID
    assert bucket not in one.records.held


async def test_who_is_handed_a_bucket_begins_when_it_is_valid(installation: Installation) -> None:
    _, two, bucket = await hand_over_unheard(installation)
    installation.now += 20.0
    await two.tenures.look()
    assert two.tenures.standing(bucket) is Standing.FORMER
    await installation.live(1, two)
    assert two.tenures.standing(bucket) is Standing.VALID


async def test_what_was_handed_over_is_let_go_of_when_the_successor_begins(installation: Installation) -> None:
    one, two, bucket = await hand_over_unheard(installation)
    assert bucket in one.records.held
    assert await one.tenures.write(bucket, {"uid-1": "late"}) is not None
    await two.tenures.look()
    await installation.live(1, one)
    assert bucket not in one.records.held


async def test_what_was_handed_over_to_one_that_has_died_is_taken_back(installation: Installation) -> None:
    one, _, _ = await hand_over_unheard(installation)
    await installation.live(12, one)
    assert one.tenures.held == ALL


async def test_a_write_that_was_applied_without_an_answer_is_found_at_the_next_renewal(
    installation: Installation,
) -> None:
    one = await installation.start("a")
    await installation.live(1, one)
    path = f"{CONFIG_MAPS}/{bucket_name(3)}"
    stored = installation.stored.objects[path]
    stored["metadata"]["resourceVersion"] = "4711"  # as after an own write whose answer was lost
    installation.now += 20.0
    await one.tenures.renew()
    assert one.tenures.standing(3) is Standing.INVALID
    await one.tenures.write_after_gap()
    assert set(standings(one)) == {Standing.VALID}


async def test_from_one_to_five_to_two_processes_the_buckets_are_even_within_forty_seconds(
    installation: Installation,
) -> None:
    processes = [await installation.start("a")]
    await installation.live(1, *processes)
    processes += [await installation.start(place) for place in "bcde"]
    await installation.live(25, *processes)
    assert sorted(len(each.tenures.held) for each in processes) == [3, 3, 3, 3, 4]
    before = [each.tenures.held for each in processes]
    await installation.live(5, *processes)
    assert [each.tenures.held for each in processes] == before, "nothing moves any more"
    await installation.live(25, *processes[:2])
    assert sorted(len(each.tenures.held) for each in processes[:2]) == [8, 8]


async def test_a_bucket_that_somebody_deleted_is_made_again_from_memory(installation: Installation) -> None:
    one = await installation.start("a")
    await installation.live(1, one)
    one.records.news = {"uid-1": "{}"}
    del installation.stored.objects[f"{CONFIG_MAPS}/{bucket_name(3)}"]
    assert await one.tenures.write(3, {"uid-2": "{}"}) is not None
    assert await one.tenures.write(3, {"uid-2": "{}"}) is None
    assert installation.stored.objects[f"{CONFIG_MAPS}/{bucket_name(3)}"]["data"] == {"uid-1": "{}"}
    assert one.tenures.standing(3) is Standing.VALID
