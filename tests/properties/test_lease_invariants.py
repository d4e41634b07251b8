"""The promises about a lease, against a server and a world that go wrong in every order that Hypothesis finds.

P1 one chain; P2 no needless loss; P3 no sandbox past its lease; P4 no foreign thing touched; a live holder is never
robbed. They are asserted where they could break, in ``support.lease_world`` and ``support.server_model``.

This world is tamer than the real one where the windows alone cannot tell and the list is needed. There the item is
stopped and delivered again under the same id, another worker holds it, and before any answer shows that:

- a beat of the operator goes unanswered, or the operator restarts: the other worker's stamp lies in its window;
- the item is stopping once more, or the operator was draining: it would confirm the other worker's stop;
- a pod of the other worker appears with the operator's labels in its namespace: it looks like the operator's own.

It is also tamer where nobody can know: the server shortens the TTL by itself in a lost answer, or the process sleeps.
Of two processes on one checkpoint, one may take the other's stamp for its own, and is then wrong by the clock's error.
"""

import math

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from support.lease_world import UID, Fate, World
from support.server_model import Holder, Lapse, Listing, OtherWorker, Row, ServerModel, worker_interval
from worklease.rules.lease import End, Lease
from worklease.rules.situation import DeletionPolicy

TTLS = st.sampled_from((30.0, 10.0, 15.0, 90.0, 300.0, 1.0))
DOWNTIMES = st.sampled_from((0.5, 5.0, 8.0, 40.0, 200.0))
FATES = st.sampled_from(tuple(Fate))
FAILURES = st.sampled_from(tuple(fate for fate in Fate if fate is not Fate.ANSWERED))
RARELY = st.sampled_from((False, False, False, True))
"""Events that end a lease are rare; otherwise most examples would be over before they began."""
WISHES = st.sampled_from((None, 10, 15, 60, 300))


class LeaseMachine(RuleBasedStateMachine):
    """One lease from its claim to its end."""

    world: World
    unseen: bool = False
    """Another worker holds a new delivery of the item, and no answer has shown that yet."""

    def begin(self, server: ServerModel, wish: int | None, latency: float, patience: float) -> None:
        fresh = Lease(desired_ttl=wish, due=1000.0)
        self.world = World(server=server, other=OtherWorker(server), lease=fresh, latency=latency, patience=patience)

    # --- The network ---------------------------------------------------------------------------------------------

    @rule(fate=FATES)
    def beats_once(self, fate: Fate) -> None:
        self._beat(fate)

    @rule(first=FAILURES, second=FATES)
    def beats_badly_then(self, first: Fate, second: Fate) -> None:
        self._beat(first)
        self._beat(second)
        self._beat(Fate.ANSWERED)

    @rule(fate=FAILURES, part=st.sampled_from((0.3, 0.6, 0.8, 1.1)))
    def fails_for_a_while(self, fate: Fate, part: float) -> None:
        until = self.world.now + part * self.world.lease.ttl
        for _ in range(40):
            if self.world.now >= until or self.world.lease.end is not None:
                break
            self._beat(fate)

    def _beat(self, fate: Fate) -> None:
        self.world.beat(Fate.ANSWERED if self.unseen else fate)
        if self.unseen and self.world.lease.end is not None:
            assert self.world.lease.end in {End.TAKEN_OVER, End.REQUEUED, End.EXPIRED, End.STOPPED}
            self.unseen = False

    @rule(part=st.sampled_from((0.1, 0.3, 0.5, 1.2)))
    def time_passes_without_beats(self, part: float) -> None:
        """The process is stopped: when it wakes, it must not act on what it no longer holds."""
        with self.world.asleep():
            self.world.advance(self.world.now + part * self.world.lease.ttl)
        self.world.advance(self.world.now)
        self._beat(Fate.ANSWERED)

    # --- The server ----------------------------------------------------------------------------------------------

    @precondition(lambda self: not self.unseen)
    @rule(force=st.booleans(), really=RARELY)
    def somebody_stops_the_item(self, *, force: bool, really: bool) -> None:
        if really:
            self.world.server.stop(force=force)

    @rule(ttl=TTLS)
    def the_server_changes_its_ttl(self, ttl: float) -> None:
        self.world.server.default_ttl = ttl

    @rule(longest=st.sampled_from((60.0, 12.0, math.inf)))
    def the_server_refuses_longer_ttls(self, longest: float) -> None:
        self.world.server.longest_ttl, self.world.refused_ttls = longest, ()

    @rule(named=st.sampled_from((None, 7.0, 86_400.0)))
    def the_server_names_another_ttl_where_it_extends_nothing(self, named: float | None) -> None:
        self.world.server.named_ttl = named

    @rule(listing=st.sampled_from(Listing))
    def the_list_is_as_it_is(self, listing: Listing) -> None:
        self.world.server.listing = listing

    @rule(delay=st.sampled_from((0.0, 0.15)))
    def another_worker_takes_the_item(self, delay: float) -> None:
        """Only what is in the queue can be taken: a worker polls, acknowledges and claims."""
        world = self.world
        if world.unread_cut:
            return
        world.server.poll(world.now)
        world.other.delay = delay * worker_interval(world.other.desired or world.server.default_ttl)
        world.other.claim(world.now)

    @precondition(lambda self: self._may_be_delivered_unseen())
    @rule(really=RARELY)
    def the_item_is_delivered_again_and_taken(self, *, really: bool) -> None:
        world = self.world
        if not really:
            return
        world.server.stop(force=True)
        world.server.deliver_again(world.now)
        world.other.claim(world.now)
        self.unseen = world.lease.held

    def _may_be_delivered_unseen(self) -> bool:
        lease = self.world.lease
        quiet = not lease.unanswered and not lease.unplaced and not self.world.late and lease.clock is not None
        return quiet and not lease.stopping_seen and not self.world.deleting

    @rule()
    def the_other_worker_dies(self) -> None:
        self.world.other.die()

    # --- The operator --------------------------------------------------------------------------------------------

    @precondition(lambda self: self._may_restart())
    @rule(
        age=st.integers(0, 3),
        down=DOWNTIMES,
        taken=st.booleans(),
        fate=FATES,
        deleted=RARELY,
        has_checkpoint=st.booleans(),
    )
    def the_operator_restarts(
        self, age: int, down: float, fate: Fate, *, taken: bool, deleted: bool, has_checkpoint: bool
    ) -> None:
        world = self.world
        world.restart(age, down, taken=taken and not world.unread_cut, has_checkpoint=has_checkpoint)
        if world.lease.reprieve is not None and world.server.holder is Holder.OTHER:
            world.add_pod(30.0, controller="", foreign=True)  # it belongs to the next holder, in the same namespace
        world.deleting = world.deleting or deleted
        world.advance(world.now)
        self._beat(fate)
        self._beat(Fate.ANSWERED)
        self._beat(Fate.ANSWERED)

    @precondition(lambda self: self._may_restart() and bool(self.world.records))
    @rule(age=st.integers(0, 3), fates=st.lists(FATES, min_size=1, max_size=3), fate=FATES)
    def another_process_goes_on_from_the_checkpoint(self, age: int, fates: list[Fate], fate: Fate) -> None:
        self.world.run_twin(fates, age)
        self._beat(fate)
        self._beat(Fate.ANSWERED)

    def _may_restart(self) -> bool:
        world = self.world
        return world.lease.held and bool(world.snapshots) and not self.unseen and not world.done

    @rule(wish=WISHES, fate=FATES, in_flight=st.booleans())
    def the_wish_is_edited(self, wish: int | None, fate: Fate, *, in_flight: bool) -> None:
        world = self.world
        if world.lease.cut is not None:
            world.forget_the_past()  # a status does not tell which wishes went before
        world.edit = Lease(desired_ttl=wish, interval=world.lease.interval)
        if in_flight:
            self._beat(Fate.ANSWERED)
        world.take_edit()
        self._beat(fate)

    @precondition(lambda self: not self.unseen)
    @rule(policy=st.sampled_from(DeletionPolicy), really=RARELY)
    def the_resource_is_deleted(self, policy: DeletionPolicy, *, really: bool) -> None:
        if really:
            self.world.deleting, self.world.policy = True, policy
            self.world.advance(self.world.now)

    # --- Kubernetes ----------------------------------------------------------------------------------------------

    @precondition(lambda self: self.world.is_early() and not self.unseen)
    @rule(grace=st.sampled_from((30.0, 1.0, 600.0, 0.0)), controller=st.sampled_from(("", UID)))
    def a_sandbox_starts(self, grace: float, controller: str) -> None:
        self.world.add_pod(grace, controller=controller, foreign=False)
        self.world.advance(self.world.now)

    @precondition(lambda self: self.world.is_early() and not self.unseen)
    @rule(grace=st.sampled_from((30.0, 600.0)), finishes=st.sampled_from((None, 0.5, 20.0, math.inf)))
    def a_worker_behind_the_proxy_starts(self, grace: float, finishes: float | None) -> None:
        self.world.add_pod(grace, controller=UID, foreign=False, has_proxy=True, finishes=finishes)
        self.world.advance(self.world.now)

    @rule(controller=st.sampled_from(("", "another")))
    def a_foreign_pod_starts(self, controller: str) -> None:
        world = self.world
        away = world.lease.end is not None or (
            world.lease.reprieve is not None and world.server.holder is not Holder.OURS
        )
        if controller or away:
            world.add_pod(30.0, controller=controller, foreign=True)
            world.advance(world.now)

    @rule(answers=st.booleans(), acknowledged=st.booleans())
    def calls_fail_or_not(self, *, answers: bool, acknowledged: bool) -> None:
        self.world.kubernetes_answers, self.world.stops_are_acknowledged = answers, acknowledged

    def teardown(self) -> None:
        """Check that in the end every sandbox is gone and the finalizer is removed."""
        if not hasattr(self, "world"):
            return
        world = self.world
        world.kubernetes_answers = world.stops_are_acknowledged = True
        world.server.stop(force=True)
        for _ in range(4):
            self._beat(Fate.ANSWERED)
            world.advance(world.now + 61.0)
        if world.done:
            return
        assert not world.lease.held, "the lease outlasts its item"
        world.advance(world.now + 700.0)
        assert not [uid for uid in world.bound if uid in world.pods], "stopped is not gone"
        assert world.server.holder is not Holder.OURS or world.server.state == "stopped" or world.lease.end is not None


SERVERS = st.builds(
    ServerModel,
    ahead=st.sampled_from((1.79e9, 1.79e9 + 0.7)),
    default_ttl=TTLS,
    lapse=st.sampled_from(Lapse),
    skew=st.sampled_from((0.0, -0.4, 0.4, None)),
    shows_entries=st.booleans(),
    listing=st.sampled_from(Listing),
    former=st.sampled_from((None, Row("stopped", "2026-09-21T14:00:00Z", "2026-09-21T14:01:00Z", None))),
)
LATENCIES = st.sampled_from((0.01, 0.4, 3.0))
PATIENCES = st.sampled_from((1.0, 0.2))


class HeldLease(LeaseMachine):
    """A lease that begins held."""

    @initialize(server=SERVERS, wish=WISHES, latency=LATENCIES, patience=PATIENCES)
    def claim(self, server: ServerModel, wish: int | None, latency: float, patience: float) -> None:
        self.begin(server, wish, latency, patience)
        self.world.beat(Fate.ANSWERED)


class DoubtfulClaim(LeaseMachine):
    """A lease whose first claims go wrong, while another worker may be faster."""

    @initialize(
        server=SERVERS,
        wish=WISHES,
        latency=LATENCIES,
        fates=st.lists(FAILURES, min_size=1, max_size=3),
        rival=st.integers(0, 4),
    )
    def try_to_claim(
        self, server: ServerModel, wish: int | None, latency: float, fates: list[Fate], rival: int
    ) -> None:
        self.begin(server, wish, latency, patience=1.0)
        self.world.other.desired = wish  # a fleet asks for one TTL: a claim in doubt is watched for that of its own
        for number, fate in enumerate(fates):
            if number == rival:
                self.another_worker_takes_the_item(0.0)
            self.world.beat(fate)


def examples(usual: int) -> int:
    """Return the number of examples of this run: the soak profile asks for many more."""
    return max(usual, settings().max_examples)


pytestmark = pytest.mark.timeout(300 if examples(0) < 10_000 else 6 * 3600)


@pytest.mark.long(seconds=60)
def test_no_order_of_events_breaks_a_promise_of_a_held_lease() -> None:
    run_state_machine_as_test(HeldLease, settings=settings(max_examples=examples(3_000), stateful_step_count=12))


def test_no_order_of_events_robs_a_live_holder_at_a_doubtful_claim() -> None:
    run_state_machine_as_test(DoubtfulClaim, settings=settings(max_examples=examples(1_500), stateful_step_count=8))
