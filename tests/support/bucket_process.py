"""A process that takes a bucket and gives it up: its liveness Lease, what it sees of the others, and its writes.

Owns the order of these calls; every decision is a rule's. It does one thing after the other, on a clock of its own.
Must not know what is done for the lease: ``support.sharing_process`` does.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from functools import cache, partial
from math import inf
from typing import Any, Final

from support.shared_world import AHEAD, Bucket, SharedWorld
from worklease.keeper import record
from worklease.keeper.bound_pods import BoundPods
from worklease.rules.acts import QUIET, Act, Leave, Standing, may, standing
from worklease.rules.buckets import distribute
from worklease.rules.lease import Lease
from worklease.rules.pods import Pod
from worklease.rules.situation import RECHECK, Asked, DeletionPolicy, Policy
from worklease.rules.succession import (
    Succession,
)
from worklease.rules.takes import Seen, TakeCause, is_unchanged, living, see, take
from worklease.rules.tenure import (
    CALL_TIMEOUT,
    RENEW_EVERY,
    RENEWAL_TIMEOUT,
    VACANT,
    Liveness,
    Tenure,
    confirm,
    is_heir,
    is_same,
    is_unheard,
    is_valid,
    needs_write,
    renewed,
)
from worklease.rules.tenure import (
    Holder as Name,
)

Resume = Callable[[Any], None]
Task = Generator[Callable[[Resume], None], Any, None]
"""A sequence of calls; each is given back its answer, None without one."""

LOOK_EVERY: Final = 1.0
INTERVAL: Final = 30.0


@dataclass(slots=True, kw_only=True)
class Options:
    """What is the same for all processes of a history."""

    policy: Policy | None = None
    deletion: DeletionPolicy = DeletionPolicy.STOP
    reread: bool = False
    """Read the bucket after a gap instead of writing it: the rule that was not good enough."""


@dataclass(slots=True, kw_only=True)
class KeptLease:
    """The lease and its pods in one tenure."""

    lease: Lease
    epoch: int
    pods: BoundPods = field(default_factory=BoundPods)
    succession: Succession | None = None
    adopted: float | None = None
    carried: str | None = None
    """The value that was last carried on as a taker, beyond what an answer means as ever."""
    is_let_go: bool = False
    graceful_stop: Asked | None = None
    forced_stop: Asked | None = None
    emptied: float | None = None
    under_way: set[str] = field(default_factory=set)
    is_done: bool = False


class BucketProcess:
    """One process, from its start to its end, as far as the bucket goes; who keeps the lease takes the turns."""

    def __init__(self, world: SharedWorld, name: Name, offset: float, skew: float, options: Options) -> None:
        self.world, self.name, self.options = world, str(name), options
        self.place, self.own = name.place, name
        self.offset, self.skew = offset, skew
        self.lives, self.paused_until, self.cut_until = True, -inf, -inf
        self.lag = world.random.choice((0.0, 0.0, 0.5, 1.5))
        self.flaky = world.random.choice((0.0, 0.0, 0.05))
        self.slow = world.random.choice((0.08, 0.08, 0.7))
        """How long a call to the API server is under way at most, there and back each."""
        self.reaches, self.liveness = True, Liveness()
        self.seen: Seen = {}
        self.looked = -inf
        self.version = -1
        self.tenure: Tenure | None = None
        self.kept: KeptLease | None = None
        self.hands_over_at: float | None = None
        self.successor = VACANT
        self.is_ending = False
        self.is_writing = self.is_taking = self.in_flight = False
        self.write_at = inf
        self.turn_at = inf
        self.running: Callable[[], frozenset[tuple[int, int]]] = lambda: frozenset({(name.pid, name.started)})
        world.at(world.now + world.random.random(), partial(self.step, self._live))

    # --- Time and calls ------------------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        return self.world.now + self.offset

    @property
    def wall(self) -> float:
        return self.world.now + AHEAD + self.skew

    def is_cut(self) -> bool:
        return self.world.now < max(self.cut_until, self.world.cluster.away_until)

    def step(self, what: Callable[[], None]) -> None:
        """Do something now, or when the process is awake again; never if it is dead."""
        if not self.lives:
            return
        if self.world.now < self.paused_until:
            self.world.at(self.paused_until + 1e-3, partial(self.step, what))
        else:
            what()

    def start(self, task: Task) -> None:
        self._resume(task, None)

    def _resume(self, task: Task, value: object) -> None:
        try:
            begin = task.send(value)
        except StopIteration:
            return
        begin(lambda answer: self.step(partial(self._resume, task, answer)))

    def sleep(self, seconds: float) -> Callable[[Resume], None]:
        return lambda resume: self.world.at(self.world.now + seconds, partial(resume, None))

    def kube(
        self, what: Callable[[], Any], *, timeout: float = CALL_TIMEOUT, within: float = inf
    ) -> Callable[[Resume], None]:
        """Call the API server: ``what`` returns its answer, never None. It is not done later than ``within``."""

        def begin(resume: Resume) -> None:
            world, random = self.world, self.world.random
            answered: list[Any] = []

            def arrive() -> None:
                answered.append(what())

            def answer() -> None:
                self.step(heard)

            def heard() -> None:
                is_lost = self.is_cut() or not answered or random.random() < self.flaky
                self.reaches = not is_lost
                resume(None if is_lost else answered[0])

            if self.is_cut() or random.random() < self.flaky:
                late = random.random()
                if not self.is_cut() and late < 0.5:
                    world.at(world.now + min(within, late * 6), arrive)
                answered.clear()
                world.at(world.now + timeout, partial(self.step, partial(self._unanswered, resume)))
                return
            up = random.uniform(0.003, self.slow)
            world.at(world.now + up, arrive)
            world.at(world.now + up + random.uniform(0.003, self.slow), answer)

        return begin

    def _unanswered(self, resume: Resume) -> None:
        self.reaches = False
        resume(None)

    # --- The bucket ----------------------------------------------------------------------------------------------

    def stands(self) -> Standing:
        if self.tenure is None:
            return Standing.FORMER
        return standing(self.tenure, self.liveness, self.now, hands_over_at=self.hands_over_at, reaches=self.reaches)

    def may(self, act: Act) -> Leave:
        return may(act, self.stands(), self.liveness, self.now)

    def want_turn(self, within: float) -> None:
        at = self.now + within
        if at < self.turn_at:
            self.turn_at = at
            self.world.at(self.world.now + within, partial(self.step, self._turn_if_due))

    def _turn_if_due(self) -> None:
        raise NotImplementedError

    def still_stands(self) -> Generator[Callable[[Resume], None], Any, bool]:
        """Read the bucket: whether it still names this process."""
        found = yield self.kube(lambda: self.world.cluster.bucket)
        if found is None:
            return False
        if self.tenure is None or is_same(self.tenure, self.name, found.holder, found.epoch):
            return self.tenure is not None
        if not is_unheard(self.tenure, str(found.version), self.now):
            self.lose("a read of the bucket shows it")
        return False

    # --- Life ----------------------------------------------------------------------------------------------------

    def _live(self) -> None:
        self.start(self._renew())
        self.start(self._look())

    def _renew(self) -> Task:
        while True:
            sent = self.now
            if (yield self.kube(self._store_renewal, timeout=RENEWAL_TIMEOUT)) is not None:
                self.liveness = renewed(self.liveness, sent, self.now)
                if self.tenure is not None and needs_write(self.tenure, self.liveness, self.now):
                    self.want_write(0.0)
            yield self.sleep(max(0.01, sent + RENEW_EVERY - self.now))

    def _store_renewal(self) -> bool:
        self.world.cluster.leases[self.name] = (f"{self.world.number}", True)
        return True

    def _look(self) -> Task:
        cluster = self.world.cluster
        while True:
            found = yield self.kube(lambda: (dict(cluster.leases), cluster.bucket))
            if found is not None:
                if self.lag:
                    yield self.sleep(self.world.random.random() * self.lag)
                leases, bucket = found
                leases.pop(self.name, None)
                self.seen = see(self.seen, leases, {bucket.holder} - {VACANT, self.name}, self.now, last=self.looked)
                self.looked = self.now
                self._follow(bucket)
                self._take_if_due(bucket)
            yield self.sleep(LOOK_EVERY)

    def _follow(self, bucket: Bucket) -> None:
        """Follow what is seen of the bucket: an older version says nothing."""
        if bucket.version <= self.version:
            return
        if self.tenure is not None and not is_same(self.tenure, self.name, bucket.holder, bucket.epoch):
            if is_unheard(self.tenure, str(bucket.version), self.now):
                return
            self.lose("another process holds the bucket, or did meanwhile")
        is_free = self.tenure is None and not self.is_taking and is_valid(self.liveness, self.now)
        if is_free and bucket.holder == self.name:
            self.version = bucket.version
            self._begin(bucket, "is handed the bucket", Tenure(bucket=0, epoch=bucket.epoch))

    def is_in(self, tenure: Tenure) -> bool:
        """Whether that tenure goes on, as far as the process knows."""
        return self.tenure is not None and self.tenure.epoch == tenure.epoch

    def lose(self, why: str) -> None:
        self.world.say(self.name, "loses the bucket:", why)
        self.tenure = self.kept = None
        self.hands_over_at = None
        self.write_at = self.turn_at = inf

    # --- Takes ---------------------------------------------------------------------------------------------------

    def _take_if_due(self, bucket: Bucket) -> None:
        if self.tenure is not None or self.is_taking or self.is_ending or not is_valid(self.liveness, self.now):
            return
        preferred = _preferred(living(self.name, self.seen, self.now))
        is_dead = is_heir(self.own, bucket.holder, self.running())
        cause = take(bucket.holder, self.name, preferred, self.seen, self.now, is_proved_dead=is_dead)
        if cause is not None:
            self.is_taking = True
            self.start(self._take(bucket.holder, cause))

    def _take(self, holder: str, cause: TakeCause) -> Task:
        cluster, seen = self.world.cluster, self.seen.get(holder)
        bucket = yield self.kube(lambda: cluster.bucket)
        if bucket is not None and bucket.holder == holder:
            lease = yield self.kube(lambda: (cluster.leases.get(holder, (None, False))[0],))
            is_same = cause is not TakeCause.LAPSED or (
                lease is not None and seen is not None and is_unchanged(seen, lease[0])
            )
            if lease is not None and is_same and is_valid(self.liveness, self.now):
                taken = self.wall if cause.may_live else bucket.taken
                wanted = replace(bucket, holder=self.name, epoch=bucket.epoch + 1, taken=taken)
                sent = self.now
                written = yield self.kube(lambda: (self._store_take(bucket.version, wanted, cause),))
                if written is not None and written[0] is not None:
                    self.version = written[0].version
                    tenure = confirm(Tenure(bucket=0, epoch=wanted.epoch), sent)
                    self.is_taking = False
                    self._begin(written[0], f"takes the bucket ({cause.name})", tenure)
        self.is_taking = False

    def _store_take(self, version: int, wanted: Bucket, cause: TakeCause) -> Bucket | None:
        written = self.world.cluster.write(version, wanted)
        if written is not None and cause is not TakeCause.VACANT:
            self.world.last_take = self.world.now
            self.world.counts["takes"] += 1
        return written

    def _begin(self, bucket: Bucket, how: str, tenure: Tenure) -> None:
        """Begin a tenure from the record, as a start does."""
        taken = None if bucket.taken is None else self.now + bucket.taken - self.wall
        self.tenure = replace(tenure, taken=taken)
        self.world.last_tenure = self.world.now
        succession = Succession(taken=taken, begun=self.now)
        self.kept = self._restored(bucket.record, bucket.epoch, succession)
        self.hands_over_at = None
        self.world.say(self.name, how, "epoch", bucket.epoch, "value", self.kept.lease.value)
        if needs_write(self.tenure, self.liveness, self.now):
            self.want_write(0.0)
        self.want_turn(0.0)

    def _restored(self, text: str | None, epoch: int, succession: Succession | None) -> KeptLease:
        fresh = Lease(interval=INTERVAL, seed=self.own.pid)
        kept = KeptLease(lease=replace(fresh, due=self.now), epoch=epoch)
        found = record.read(None if text is None else text.replace(self.place, record.BOOT))
        if found is not None:
            moment = lambda seconds: self.now + seconds - self.wall  # noqa: E731
            kept.lease = record.resume(found, fresh, None, now=self.now, moment=moment)
            known = record.resume_sandboxes(found, moment=moment)
            pods = kept.pods
            pods.attempt, pods.ending, pods.fence_fell = known.attempt, known.ending, known.fell
            pods.bound = {uid: Pod(uid=uid, name=name, is_remembered=True) for uid, name in known.bound}
        if kept.lease.held:
            kept.graceful_stop = kept.forced_stop = Asked(self.now - RECHECK, in_doubt=self.now)
        if (end := self.world.cluster.ended) is not None:
            kept.lease = replace(kept.lease, end=end)
        kept.pods.are_listed = kept.lease.claimed is None
        kept.succession = succession
        return kept

    # --- Writes of the bucket ------------------------------------------------------------------------------------

    def want_write(self, within: float) -> None:
        self.write_at = min(self.write_at, self.now + within)
        self.world.at(self.world.now + within, partial(self.step, self._write_if_due))

    def _write_if_due(self) -> None:
        if self.tenure is None or self.is_writing or self.now < self.write_at - 1e-6:
            return
        self.write_at = inf
        is_due = needs_write(self.tenure, self.liveness, self.now) or self.may(Act.WRITE_RECORD) is Leave.YES
        if not is_due:
            return  # the next renewal asks again
        self.start(self._write())

    def _write(self, trying: float | None = None) -> Task:
        tenure, kept = self.tenure, self.kept
        if tenure is None or kept is None:
            return
        self.is_writing = True
        bucket, sent, version = self._as_holder(tenure, kept, trying), self.now, self.version
        if self.options.reread and not is_confirmed_by_read(tenure, self.liveness):
            written = yield self.kube(lambda: (self.world.cluster.bucket,))
        else:
            written = yield self.kube(lambda: (self.world.cluster.write(version, bucket),))
        self.is_writing = False
        if not self.is_in(tenure):
            return
        if written is None:
            self.want_write(1.0)
        elif written[0] is None or not is_same(tenure, self.name, written[0].holder, written[0].epoch):
            yield from self._read_again()
        else:
            self.version = written[0].version
            self._confirmed(sent)
        if self.write_at < inf:
            self.world.at(self.world.now + max(0.0, self.write_at - self.now), partial(self.step, self._write_if_due))

    def _confirmed(self, sent: float) -> None:
        assert self.tenure is not None
        assert self.kept is not None
        was_valid = self.stands() in {Standing.VALID, Standing.LEAVING}
        self.tenure = confirm(self.tenure, sent)
        if not was_valid and self.kept.is_let_go:
            pods = self.kept.pods
            text = self._record(self.kept, None)
            self.kept = self._restored(text, self.tenure.epoch, self.kept.succession)
            self.kept.pods.deletions = pods.deletions
            self.world.say(self.name, "begins again what it let go of")
            self.world.counts["begun again"] += 1
        if not was_valid:
            self.world.counts["valid again by a write"] += 1
            self.kept.adopted = None
            self.want_turn(0.0)

    def _read_again(self) -> Task:
        """Read the bucket after a 409: an own write whose answer was lost may have been applied."""
        found = yield self.kube(lambda: self.world.cluster.bucket)
        if found is None:
            self.want_write(1.0)
        elif self.tenure is not None and not is_same(self.tenure, self.name, found.holder, found.epoch):
            self.lose("a write is refused")
        else:
            self.version = found.version
            self.want_write(0.0)

    def _as_holder(self, tenure: Tenure, kept: KeptLease, trying: float | None) -> Bucket:
        taken = None if tenure.taken is None else tenure.taken - self.now + self.wall
        return Bucket(
            holder=self.name, epoch=tenure.epoch, record=self._record(kept, trying), taken=taken, version=self.version
        )

    def _record(self, kept: KeptLease, trying: float | None) -> str:
        pods = kept.pods
        sandboxes = record.RecordedSandboxes(
            bound=tuple((pod.uid, pod.name) for pod in pods.bound.values() if not pod.gone),
            attempt=pods.attempt,
            ending=pods.ending,
            fell=pods.fence_fell,
        )
        text = record.write(kept.lease, sandboxes, trying=trying, now=self.now, wall=self.wall)
        return text.replace(record.BOOT, self.place)

    # --- Hand-overs ----------------------------------------------------------------------------------------------

    def hand_over(self, *, ends: bool) -> None:
        """Hand the bucket over to another process that lives, in order; a process that ends then exits."""
        self.is_ending = self.is_ending or ends
        if ends:
            self.world.at(self.world.now + 10.0, partial(self.step, self.exit))
        others = sorted(living(self.name, self.seen, self.now) - {self.name})
        if self.tenure is None or (not others and not ends) or self.stands() is not Standing.VALID:
            return
        self.successor = self.world.random.choice(others) if others else VACANT
        self.hands_over_at = self.now + CALL_TIMEOUT + self.world.random.uniform(QUIET, 1.0)
        self.tenure = replace(self.tenure, is_leaving=True)
        self.world.at(self.world.now + self.hands_over_at - self.now, partial(self.step, self._send_hand_over))

    def exit(self) -> None:
        self.lives = False
        self.world.cluster.leases.pop(self.name, None)
        self.world.say(self.name, "exits")

    def _send_hand_over(self) -> None:
        tenure, kept = self.tenure, self.kept
        if tenure is None or kept is None or self.hands_over_at is None or self.now < self.hands_over_at - 1e-6:
            return
        if self.is_writing:
            self.hands_over_at = self.now + 0.1
            self.world.at(self.world.now + 0.1, partial(self.step, self._send_hand_over))
            return
        self.hands_over_at = None
        if not (is_valid(self.liveness, self.now) and not needs_write(tenure, self.liveness, self.now)):
            self.tenure = replace(tenure, is_leaving=False)
            return
        self.start(self._offer(tenure, kept))

    def _offer(self, tenure: Tenure, kept: KeptLease) -> Task:
        self.is_writing = True
        wanted, version = self._as_holder(tenure, kept, None), self.version
        wanted = replace(wanted, holder=self.successor, epoch=tenure.epoch + 1)
        self.tenure = offered = replace(tenure, offered=self.now, is_leaving=False)
        written = yield self.kube(lambda: (self.world.cluster.write(version, wanted),))
        self.is_writing = False
        if not self.is_in(tenure):
            return
        if written is not None and written[0] is not None:
            self.world.counts["handed over"] += 1
            self.tenure = replace(offered, given=str(written[0].version))
            if self.is_ending:
                self.lose(f"handed over to {self.successor or 'nobody'}")
                self.exit()
        else:
            self.want_write(0.0)
            self.want_turn(0.0)


@cache
def _preferred(processes: frozenset[str]) -> str:
    """Return the process that should hold the bucket."""
    return distribute(processes)[0]


def is_confirmed_by_read(tenure: Tenure, liveness: Liveness) -> bool:
    """Whether the tenure needs nothing after a gap, for the rule that reads instead of writing."""
    return tenure.confirmed >= liveness.unbroken_since
