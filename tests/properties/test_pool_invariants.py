"""No order of events breaks a promise of a pool: crashes at each write, answers that get lost, a cluster seen late."""

from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from support.pool_world import Fate, Killed, PoolWorld, QueueModel, RealLease, Work
from worklease.rules.pool import TENURE, Stage, must_list

FATES = st.lists(st.sampled_from([*Fate, Fate.ANSWERED, Fate.ANSWERED, Fate.ANSWERED]), max_size=4)
KILLS = st.one_of(st.none(), st.integers(0, 14))
DOWN = st.sampled_from([0.5, 3.0, 11.0, 40.0])


class AnyPool(RuleBasedStateMachine):
    """One pool, its queue and its cluster; P10 to P13 are asserted in the world, at each step."""

    world: PoolWorld

    @initialize(
        renames=st.booleans(),
        acks_always=st.booleans(),
        requeues=st.booleans(),
        by_asking=st.booleans(),
        cap=st.integers(1, 3),
        limit=st.integers(1, 3),
        queued=st.integers(0, 4),
    )
    def begin(
        self,
        *,
        renames: bool,
        acks_always: bool,
        requeues: bool,
        by_asking: bool,
        cap: int,
        limit: int,
        queued: int,
    ) -> None:
        server = QueueModel(
            renames=renames,
            acks_always=acks_always,
            requeues_unbeaten=requeues,
            reclaims_by_asking=by_asking,
        )
        self.world = PoolWorld(server=server, cap=cap, limit=limit)
        self.world.start()
        for number in range(queued):
            server.add(f"sesn_{number}", self.world.now)

    @rule(session=st.integers(0, 4), has_token=st.sampled_from([True, True, True, False]))
    def queue(self, *, session: int, has_token: bool) -> None:
        self.world.server.add(f"sesn_{session}", self.world.now, has_token=has_token)

    @rule(fates=FATES, kill_in=KILLS, down=DOWN)
    def run_pool(self, fates: list[Fate], kill_in: int | None, down: float) -> None:
        self._run(self.world.run_pool, fates, kill_in, down)

    @rule(fates=FATES, kill_in=KILLS, down=DOWN)
    def run_leases(self, fates: list[Fate], kill_in: int | None, down: float) -> None:
        self._run(self.world.run_leases, fates, kill_in, down)

    @rule(fates=FATES, kill_in=KILLS, down=DOWN, seconds=st.floats(0, 20))
    def run_both_for_a_while(self, fates: list[Fate], kill_in: int | None, down: float, seconds: float) -> None:
        self._run(lambda: self._live(seconds), fates, kill_in, down)

    @rule(seconds=st.sampled_from([0.5, 3.0, 5.0, 13.0]))
    def stand_still(self, seconds: float) -> None:
        self.world.troubled = self.world.now + seconds
        self.world.advance(seconds)

    @rule(fates=FATES, kill_in=KILLS, down=DOWN)
    def an_acknowledgement_hangs_until_the_poll_is_long_ago(
        self, fates: list[Fate], kill_in: int | None, down: float
    ) -> None:
        self.world.run_pool()
        self.stand_still(3.5)
        self._run(self.world.run_leases, [Fate.LATE, *fates], kill_in, down)
        self.stand_still(1.0)
        self.world.run_leases()

    @rule(session=st.integers(0, 4))
    def another_process_goes_on_while_a_creation_hangs(self, session: int) -> None:
        self.world.server.add(f"sesn_{session}", self.world.now)
        before = [Fate.ANSWERED] if self.world.memory.tried.template else [Fate.ANSWERED, Fate.ANSWERED]
        self._run(self.world.run_pool, [*before, Fate.LATE], None, 0.0)
        self.world.kill(0.5)
        self.world.run_pool()

    @rule(number=st.integers(1, 6))
    def see_events(self, number: int) -> None:
        self.world.see(number)

    @rule()
    def list_again(self) -> None:
        self.world.relist()

    @rule(down=DOWN)
    def kill(self, down: float) -> None:
        self.world.kill(down)

    @rule(index=st.integers(0, 9))
    @precondition(lambda self: self._pods())
    def sandbox_is_ready(self, index: int) -> None:
        pods = self._pods()
        self.world.ready(pods[index % len(pods)])

    @rule(index=st.integers(0, 9))
    @precondition(lambda self: self._pods())
    def sandbox_does_not_start(self, index: int) -> None:
        pods = self._pods()
        self.world.fail_to_start(pods[index % len(pods)])

    @rule(index=st.integers(0, 9), has_failed=st.booleans())
    @precondition(lambda self: self.world.of_stage(Stage.RUNNING))
    def sandbox_ends(self, index: int, *, has_failed: bool) -> None:
        running = self.world.of_stage(Stage.RUNNING)
        self.world.finish(running[index % len(running)], has_failed=has_failed)

    @rule(is_claimed=st.booleans(), reclaim=st.sampled_from([0.0, 5.0]))
    def another_worker_takes_an_item(self, reclaim: float, *, is_claimed: bool) -> None:
        world = self.world
        item = world.server.poll(world.now, reclaim)
        if item is not None:
            world.server.ack(item.id, "other", world.now)
            if is_claimed:
                world.server.claim(item.id, "other")

    @rule()
    def another_worker_acknowledges_what_the_pool_has_polled(self) -> None:
        world = self.world
        world.run_pool()
        for item in world.server.items.values():
            if item.state == "queued" and item.polled is not None:
                world.server.ack(item.id, "other", world.now)
        self.world.advance(2.0)
        world.run_leases()

    @rule(cap=st.integers(0, 4), is_suspended=st.sampled_from([False, False, True]))
    def edit(self, cap: int, *, is_suspended: bool) -> None:
        self.world.cap, self.world.is_suspended = cap, is_suspended

    @rule()
    def finished_leases_are_deleted(self) -> None:
        for lease in [each for each in self.world.cluster.leases.values() if each.stage is None]:
            self.world.cluster.remove(lease)

    @invariant()
    def stages_add_up(self) -> None:
        world, census = self.world, self.world.memory.census
        assert sum(census.count().values()) == census.active
        if world.now < world.tenure + TENURE or must_list(census, world.tenure, world.now):
            return  # nothing is polled before the next list
        shown = {name for name, lease in census.leases.items() if lease.counts} | set(census.unseen)
        real = {lease.name for lease in world.cluster.leases.values() if lease.stage is not None}
        late = {lease.name for _, lease, _ in world.cluster.late}
        assert real | late <= shown, "P12: a lease that does not count"

    def teardown(self) -> None:
        """When all troubles are over, no item is stranded, and each place that is free is used."""
        if not hasattr(self, "world"):
            return
        world = self.world
        world.fates, world.kill_in, world.troubled = [], None, world.now
        world.cap, world.is_suspended = len(world.server.items) + 10, False
        # Left in the queue, items without a token come again every ten seconds, before those that came later.
        for item in world.server.items.values():
            item.has_token = True
        for _ in range(500):
            self._live(3.0, step=1.5)
            world.relist()
            for lease in self._pods():
                world.ready(lease)
            if world.memory.breaker.open_until is not None:
                world.advance(max(0.0, world.memory.breaker.open_until - world.now))
            if not self._left() and not list(world.strands()):
                break
        assert not list(world.strands()), "P11: stranded"
        assert not self._left(), f"nobody takes {self._left()}"

    def _left(self) -> list[Work]:
        """Return what waits in the queue, and may be taken."""
        return [item for item in self.world.server.items.values() if item.state == "queued" and item.has_token]

    def _live(self, seconds: float, step: float = 0.5) -> None:
        """Let the pool and the leases work, and events be seen, until then."""
        world, until = self.world, self.world.now + seconds
        while world.now < until:
            world.run_pool()
            world.run_leases()
            world.see(3)
            world.advance(step)

    def _run(self, action: Callable[[], None], fates: list[Fate], kill_in: int | None, down: float) -> None:
        world = self.world
        world.fates, world.kill_in = list(fates), kill_in
        try:
            action()
        except Killed:
            world.kill(down)
        world.fates, world.kill_in = [], None

    def _pods(self) -> list[RealLease]:
        return [lease for lease in self.world.of_stage(Stage.STARTING) if lease.has_pod]


EXAMPLES = max(300, settings().max_examples)
"""Those of 300 take eight seconds of processor time; the soak profile asks for many more."""


@pytest.mark.timeout(300 if EXAMPLES < 10_000 else 6 * 3600)
def test_no_order_of_events_breaks_a_promise_of_a_pool() -> None:
    run_state_machine_as_test(AnyPool, settings=settings(max_examples=EXAMPLES, stateful_step_count=50))
