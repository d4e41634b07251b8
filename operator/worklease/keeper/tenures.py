"""The buckets that this process holds: it takes them, proves that it may act for them, and hands them over.

Owns its liveness Lease, its tenures, and every write of a bucket. Each decision is a rule's (``rules.tenure``,
``rules.takes``, ``rules.acts``). Must not know what a record says: who keeps the leases hears of a bucket that was
taken or lost.
"""

import asyncio
import logging
from asyncio import gather
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Final, assert_never

from worklease.cluster.bucket_store import BucketHead, BucketStore, NewerFormat, Overtaken, StoredBucket, WrittenBucket
from worklease.cluster.checkpoint import NotWritten
from worklease.cluster.client import Gone, NoAnswer, NotDone, Refused
from worklease.cluster.liveness_leases import LivenessLeases, ShownLease
from worklease.keeper.held_bucket import Heir, HeldBucket
from worklease.keeper.surroundings import Surroundings
from worklease.rules.acts import HASTE, QUIET, Act, Leave, Standing, may, standing
from worklease.rules.buckets import BUCKETS, distribute
from worklease.rules.succession import Succession
from worklease.rules.takes import (
    HAND_OVER_TIME,
    Seen,
    SeenLease,
    TakeCause,
    heirs,
    is_to_be_forgotten,
    is_unchanged,
    living,
    next_hand_over,
    see,
    take,
)
from worklease.rules.tenure import (
    CALL_TIMEOUT,
    RENEW_EVERY,
    VACANT,
    Liveness,
    Tenure,
    confirm,
    is_heir,
    is_same,
    is_unheard,
    is_valid,
    needs_write,
    read_holder,
    renewed,
)
from worklease.telemetry import SILENT, BucketMove, BucketMoved, Publisher

START_TIMEOUT: Final = 60.0
"""Seconds to wait for an API server that refuses or is silent: without the records a process would lose leases."""

RETRY: Final = 1.0
"""Seconds before a step of the start is repeated."""

LOOK_EVERY: Final = 1.0
"""Seconds between two looks at the other processes and the buckets: a take comes later by so much at most."""

LOOK_SOON: Final = 0.2
"""Seconds between two looks while another process ends: no beat is sent from its hand-over until a look finds it."""

_log = logging.getLogger(__name__)


class NotReadable(Exception):
    """The buckets could not be read: starting without them could lose leases that an earlier process held."""


class Tenures:
    """All buckets, as this process sees and holds them; ``heir`` keeps the leases."""

    def __init__(
        self, leases: LivenessLeases, store: BucketStore, surroundings: Surroundings, publisher: Publisher = SILENT
    ) -> None:
        self._leases, self._store, self._publisher = leases, store, publisher
        self._place, self._own, self._running = surroundings.own, str(surroundings.own), surroundings.running
        self._here: frozenset[tuple[int, int]] = frozenset()
        """Which processes ran in the same place at the last look."""
        self._clock, self._wall, self._sleep = surroundings.clock, surroundings.wall, surroundings.sleep
        self._liveness, self._reaches = Liveness(), True
        self._problem: NotDone | None = None
        """Why the last look was not answered."""
        self._not_taken: dict[int, str] = {}
        """Why a bucket was not taken that this process was to take."""
        self._is_ending = self._has_ended = False
        self._held: dict[int, HeldBucket] = {}
        self._epochs: dict[int, int] = {}
        """The last epoch in which this process held a bucket: an older one is a list that lags behind."""
        self._seen: Seen = {}
        self._heads: Mapping[int, BucketHead] = {}
        self._looked = self._handed_over = -float("inf")
        self._leaving: dict[int, str] = {}
        """The successors of the buckets that are being handed over."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._renewal = asyncio.Event()

    def serve(self, heir: Heir) -> None:
        """Tell ``heir`` of the buckets, from the first one on."""
        self._heir = heir

    # --- What others ask -----------------------------------------------------------------------------------------

    def obstacle(self) -> str:
        """Return what keeps this process from its share of the leases; empty if nothing does."""
        if not self.is_valid:
            return "not valid: the API server does not confirm that this process lives, so it only keeps leases alive"
        return next(iter(self._not_taken.values()), "")

    @property
    def is_valid(self) -> bool:
        """Whether the process is valid."""
        return is_valid(self._liveness, self._clock())

    @property
    def held(self) -> frozenset[int]:
        """The buckets that the process holds, as far as it knows."""
        return frozenset(filter(self.holds, self._held))

    def holds(self, bucket: int) -> bool:
        """Whether the process holds a bucket, as far as it knows; one that it has handed over is another's."""
        return bucket in self._held and self._held[bucket].tenure.given is None

    def inherited(self, bucket: int) -> float | None:
        """Return when the tenure of a bucket began, if another process had it before; None: none had, or it ended."""
        return held.inherited if (held := self._held.get(bucket)) is not None else None

    def standing(self, bucket: int) -> Standing:
        """Return how the process stands to a bucket."""
        return self._standing(bucket, self._clock())

    def _standing(self, bucket: int, now: float) -> Standing:
        held = self._held.get(bucket)
        if held is None:
            return Standing.FORMER
        return standing(held.tenure, self._liveness, now, hands_over_at=held.hands_over_at, reaches=self._reaches)

    def may(self, act: Act, bucket: int) -> Leave:
        """Return whether an act may begin now, for a resource of that bucket."""
        now = self._clock()
        return may(act, self._standing(bucket, now), self._liveness, now)

    async def still_holds(self, bucket: int) -> bool:
        """Read a bucket, and return whether it still names this process in this tenure.

        Hundreds of leases may ask at once: they share a read that was sent after they asked.
        """
        asked, held = self._clock(), self._held.get(bucket)
        if held is None:
            return False
        async with held.reading:
            if held.seen >= asked:
                return self._held.get(bucket) is held
            sent, stored = self._clock(), await self.read(bucket)
            if stored is None or self._held.get(bucket) is not held:
                return False
            if is_same(held.tenure, self._own, stored.head.holder, stored.head.epoch):
                held.seen = sent
                return True
            if not is_unheard(held.tenure, stored.version, sent):
                self._lose(bucket, "a read of the bucket shows another holder")
            return False

    # --- Life ----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Show that the process lives, and take what nobody holds, or what it can prove to be left by the dead.

        Raises:
            NewerFormat: A newer version wrote a bucket.
            NotReadable: The API server refused, or did not answer for too long.
        """
        deadline = self._clock() + START_TIMEOUT
        while self._looked < 0.0:
            problem = await self.renew()
            if problem is None:
                await self.look()
                problem = None if self._looked >= 0.0 else self._problem
            if problem is not None:
                if self._clock() > deadline:
                    raise NotReadable(problem.message)
                _log.warning("waiting for the buckets of the leases: %s", problem.message)
                await self._sleep(RETRY)

    async def run(self) -> None:
        """Renew, look, take and balance until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._renew_on())
            tasks.create_task(self._look_on())
            tasks.create_task(self._confirm_on())

    async def _renew_on(self) -> None:
        while True:
            began = self._clock()
            await self.renew()
            await self._sleep(max(0.0, began + RENEW_EVERY - self._clock()))

    async def _look_on(self) -> None:
        while True:
            try:
                await self.look()
            except NewerFormat as error:
                _log.error("bucket not taken: %s", error)
            await self._sleep(LOOK_SOON if self._is_any_ending() else LOOK_EVERY)

    def _is_any_ending(self) -> bool:
        """Whether another process that lives is about to hand its buckets over."""
        return any(name in self._living() and not each.is_ready for name, each in self._seen.items())

    async def _confirm_on(self) -> None:
        while True:
            await self._renewal.wait()
            self._renewal.clear()
            await self.write_after_gap()

    async def renew(self) -> NotDone | None:
        """Renew the liveness Lease; return why it was not done, or None."""
        if self._has_ended:
            return None
        sent, was_valid = self._clock(), self.is_valid
        problem = await self._leases.renew(self._wall().utc, is_ready=not self._is_ending)
        self._reaches = problem is None
        if problem is None:
            self._liveness = renewed(self._liveness, sent, self._clock())
            self._renewal.set()
        elif was_valid and not self.is_valid:
            _log.warning("not valid any more, so beats go on and nothing else is done: %s", problem.message)
        return problem

    async def write_after_gap(self) -> None:
        """Write each bucket that was not written since the last gap in the validity, or whose hand-over is open."""
        for _ in range(2):  # an own write may have been applied without an answer: the first try finds its version
            now, held = self._clock(), self._held.items()
            due = [bucket for bucket, each in held if needs_write(each.tenure, self._liveness, now)]
            await gather(*(self.write(bucket, {}) for bucket in due))

    async def look(self) -> None:
        """Look at the other processes and at all buckets, and take or hand over what is due."""
        leases, heads = await gather(self._leases.look(), self._store.look())
        self._problem = next((each for each in (leases, heads) if isinstance(each, NotDone)), None)
        self._reaches = self._problem is None
        if isinstance(leases, NotDone) or isinstance(heads, NotDone):
            return
        now = self._clock()
        others = {name: (shown.version, shown.is_ready) for name, shown in leases.items() if name != self._own}
        holders = {head.holder for head in heads.values()} - {VACANT, self._own}
        self._seen = see(self._seen, others, holders, now, last=self._looked)
        self._looked, self._heads = now, heads
        named = (read_holder(name) for name in (*self._seen, *holders))
        is_any_here = any(each is not None and each.place == self._place.place for each in named)
        self._here = self._running() if is_any_here else frozenset()
        await gather(
            *(self._follow(bucket, head) for bucket, head in heads.items()),
            # What somebody deleted is made again before another process takes it for one that nobody holds.
            *(self.write(bucket, {}) for bucket in self.held - heads.keys()),
        )
        if self.is_valid and not self._is_ending:
            await self._take_what_is_due()
            self._balance()
            await self._forget_the_dead(leases)

    async def _follow(self, bucket: int, head: BucketHead) -> None:
        """Follow what a list shows of a bucket, unless it lags behind what this process knows."""
        held = self._held.get(bucket)
        is_older = held is not None and head.epoch > held.tenure.epoch
        if held is not None and is_older and not is_unheard(held.tenure, head.version, self._clock()):
            self._lose(bucket, "another process holds it, or did meanwhile")
        is_new = head.epoch > self._epochs.get(bucket, -1) and bucket not in self._held
        # Not before it is valid: after an outage the record may be old, and could only be followed blindly.
        if is_new and head.holder == self._own and self.is_valid:
            stored = await self.read(bucket)
            if stored is not None and stored.head.holder == self._own and bucket not in self._held:
                self._begin(bucket, stored, Tenure(bucket=bucket, epoch=stored.head.epoch), None)
                await self.write(bucket, {})

    async def _forget_the_dead(self, leases: Mapping[str, ShownLease]) -> None:
        """Delete the liveness Leases of processes that are dead for long, or proved to be dead, and hold nothing."""
        now = self._clock()
        holders = {head.holder for head in self._heads.values()}
        for name, shown in leases.items():
            is_dead, seen = is_heir(self._place, name, self._here), self._seen.get(name)
            if seen is not None and is_to_be_forgotten(seen, now, is_holder=name in holders, is_proved_dead=is_dead):
                await self._leases.delete(shown)

    # --- Takes ---------------------------------------------------------------------------------------------------

    async def _take_what_is_due(self) -> None:
        now, preferred, due = self._clock(), distribute(self._living()), []
        formers = await self._store.list_formers() if len(self._heads) < BUCKETS else ()
        for bucket in range(BUCKETS):
            holder = self._heads.get(bucket, BucketHead()).holder
            is_dead = is_heir(self._place, holder, self._here)
            cause = take(holder, self._own, preferred[bucket], self._seen, now, is_proved_dead=is_dead)
            if cause is not None and bucket not in self._held:
                due.append(self._take(bucket, holder, cause, formers))
        await gather(*due)

    async def _take(self, bucket: int, holder: str, cause: TakeCause, formers: Collection[int] | NotDone) -> None:
        """Take a bucket: it is read first, then its holder's Lease, and then written if it is as it was read."""
        # One that no list has is made: if it is there all the same, that is refused.
        stored = await self.read(bucket) if bucket in self._heads else StoredBucket(None, BucketHead(), {})
        if stored is None or stored.head.holder != holder:
            return
        if stored.version is None:
            former = await self._store.take_former(bucket, formers, now=self._clock(), utc=self._wall().utc)
            if not isinstance(former, StoredBucket) or former.head.holder != holder:
                self._say_not_taken(bucket, former)
                return
            stored = former
        if cause is TakeCause.LAPSED and not await self._is_still_silent(holder):
            return
        if not self.is_valid or self._is_ending:
            return
        taken = self._wall().utc.timestamp() if cause.may_live else stored.head.taken
        head, sent = BucketHead(self._own, stored.head.epoch + 1, taken), self._clock()
        written = await self._store.write(bucket, stored.version, head, {})
        if isinstance(written, WrittenBucket):
            tenure = confirm(Tenure(bucket=bucket, epoch=head.epoch), sent)
            self._begin(bucket, replace(stored, version=written.version, head=head), tenure, cause)
        else:
            self._say_not_taken(bucket, written)

    async def _is_still_silent(self, holder: str) -> bool:
        seen, named = self._seen.get(holder, SeenLease("", 0.0)), read_holder(holder)
        shown: ShownLease | Gone | NotDone = Gone() if named is None else await self._leases.read(named.lease_name)
        if isinstance(shown, NotDone):
            return False
        return is_unchanged(seen, shown.version if isinstance(shown, ShownLease) else None)

    def _say_not_taken(self, bucket: int, outcome: StoredBucket | Overtaken | NotWritten) -> None:
        if isinstance(outcome, Refused | NoAnswer | NotDone) and self._not_taken.get(bucket) != outcome.message:
            self._not_taken[bucket] = outcome.message
            _log.warning("bucket not taken, will try again bucket=%d: %s", bucket, outcome.message)

    def _begin(self, bucket: int, stored: StoredBucket, tenure: Tenure, cause: TakeCause | None) -> None:
        taken = None if stored.head.taken is None else self._wall().epoch(stored.head.taken)
        # The holder before may have beaten on without writing a record: while the API server is away nobody can.
        succession = Succession(taken=taken, begun=self._clock())
        inherited = None if cause is TakeCause.VACANT else self._clock()
        self._held[bucket] = HeldBucket(replace(tenure, taken=taken), stored.version, inherited)
        self._epochs[bucket] = tenure.epoch
        self._not_taken.pop(bucket, None)
        why = "handed over" if cause is None else cause.name.lower()
        _log.info("bucket taken bucket=%d epoch=%d why=%s", bucket, tenure.epoch, why)
        self._publisher.publish(BucketMoved(bucket, BucketMove.RECEIVED if cause is None else BucketMove[cause.name]))
        self._heir.take(bucket, stored.records, succession)

    def _lose(self, bucket: int, why: str) -> None:
        held, successor = self._held.pop(bucket, None), self._leaving.pop(bucket, None)
        if held is not None:
            is_given = held.tenure.given is not None
            move = BucketMove.HANDED_OVER if is_given else BucketMove.LOST
            why = f"handed over to {successor or 'nobody'}" if is_given else why
            self._publisher.publish(BucketMoved(bucket, move))
            _log.info("bucket lost bucket=%d epoch=%d: %s", bucket, held.tenure.epoch, why)
            self._heir.lose(bucket)

    # --- Writes --------------------------------------------------------------------------------------------------

    async def write(self, bucket: int, changed: Mapping[str, str | None]) -> NotWritten | None:
        """Write changed records of a bucket that the process holds; return why they were not written, or None."""
        held = self._held.get(bucket)
        if held is None:
            return NotDone("another process holds the bucket")
        async with held.lock:
            if self._held.get(bucket) is not held or not self.holds(bucket):
                return NotDone("another process holds the bucket")
            is_due = needs_write(held.tenure, self._liveness, self._clock())
            if not is_due and self.may(Act.WRITE_RECORD, bucket) is not Leave.YES:
                return NotDone("this process is not valid: it could not show the API server that it lives")
            if held.version is None:
                changed = self._heir.unwritten(bucket, everything=True)
            sent, head = self._clock(), BucketHead(self._own, held.tenure.epoch, self._taken_by_wall(held))
            match await self._store.write(bucket, held.version, head, changed):
                case WrittenBucket(version):
                    held.version, held.tenure = version, confirm(held.tenure, sent)
                    if is_due:
                        self._heir.confirmed(bucket)
                    return None
                case Overtaken():
                    await self._read_again(bucket, held)
                    return NotDone("somebody else wrote the bucket")
                case Refused() | NoAnswer() as problem:
                    return problem
                case outcome:
                    assert_never(outcome)

    def _taken_by_wall(self, held: HeldBucket) -> float | None:
        taken = held.tenure.taken
        return None if taken is None else self._wall().time(taken).timestamp()

    async def _read_again(self, bucket: int, held: HeldBucket) -> None:
        """Read a bucket whose write was refused: an own write may have been applied whose answer was lost."""
        stored = await self.read(bucket)
        if stored is None or self._held.get(bucket) is not held:
            return
        is_gone = stored.version is None
        if is_gone or is_same(held.tenure, self._own, stored.head.holder, stored.head.epoch):
            held.version = stored.version
        else:
            self._lose(bucket, "a write was refused")

    async def read(self, bucket: int) -> StoredBucket | None:
        """Return a bucket by a consistent read; None if that is not to be had."""
        stored = await self._store.read(bucket)
        self._reaches = not isinstance(stored, NotDone)
        return None if isinstance(stored, NotDone) else stored

    # --- Hand-overs ----------------------------------------------------------------------------------------------

    def _balance(self) -> None:
        """Begin to hand over the next bucket that another process should hold, and is ready for."""
        holders = {bucket: head.holder for bucket, head in self._heads.items()} | dict.fromkeys(self._held, self._own)
        step = next_hand_over(self._own, holders | self._leaving, self._ready(), self._handed_over, self._clock())
        if step is not None:
            self._handed_over = self._clock()
            task = asyncio.create_task(self._hand_over(*step))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _ready(self) -> frozenset[str]:
        alive = self._living()
        return frozenset(name for name, each in self._seen.items() if name in alive and each.is_ready)

    def _living(self) -> frozenset[str]:
        """Return the processes that live, without those that this one can prove to be dead."""
        alive = living(self._own, self._seen, self._clock())
        return frozenset(name for name in alive if name == self._own or not is_heir(self._place, name, self._here))

    async def end(self) -> None:
        """Hand all buckets over, as far as there is time for it, and delete the liveness Lease.

        The others hear first that this process ends, and one that has just started is seen. What is handed to this one
        all the same goes on to the next.
        """
        self._is_ending = True
        try:
            async with asyncio.timeout(HAND_OVER_TIME):
                await self.renew()
                is_any_left = True
                while is_any_left:
                    await self.look()
                    before = self.held
                    left = heirs(self._own, dict.fromkeys(before, self._own), self._ready())
                    await gather(*(self._hand_over(bucket, successor) for bucket, successor in left.items()))
                    is_any_left = bool(self.held) and self.held != before
        except TimeoutError:
            _log.warning("buckets not handed over in time: they are taken when this process counts as dead")
        if not self.held:
            self._has_ended = True
            await self._leases.end(dead=self._seen.keys() - self._living())

    async def _hand_over(self, bucket: int, successor: str) -> None:
        """Hand a bucket over: nothing new begins in it, then no beat either, then it is written with its successor.

        What began before has ended by then, or was given up.
        """
        held = self._held.get(bucket)
        if held is None or self.standing(bucket) is not Standing.VALID:
            return
        self._leaving[bucket] = successor
        try:
            await self._leave(bucket, held, successor)
        finally:
            if held.tenure.given is None:
                self._leaving.pop(bucket, None)
            if self.standing(bucket) is Standing.VALID:
                self._heir.confirmed(bucket)

    async def _leave(self, bucket: int, held: HeldBucket, successor: str) -> None:
        held.tenure = replace(held.tenure, is_leaving=True)
        await self._sleep(CALL_TIMEOUT - HASTE)
        self._heir.hasten(bucket)
        await self._sleep(HASTE)
        held.hands_over_at = self._clock() + QUIET
        await self._sleep(QUIET)
        async with held.lock:
            held.hands_over_at = None
            held.tenure = replace(held.tenure, is_leaving=False)
            if self._held.get(bucket) is not held or self.standing(bucket) is not Standing.VALID:
                return
            held.tenure = replace(held.tenure, offered=self._clock())
            changed = self._heir.unwritten(bucket, everything=False)
            head = BucketHead(successor, held.tenure.epoch + 1, self._taken_by_wall(held))
            match await self._store.write(bucket, held.version, head, changed):
                case WrittenBucket(version):
                    held.tenure = replace(held.tenure, given=version)
                    if self._is_ending:
                        self._lose(bucket, "handed over")
                case Overtaken():
                    await self._read_again(bucket, held)
                case Refused(_, message) | NoAnswer(message):
                    _log.warning("bucket perhaps not handed over bucket=%d: %s", bucket, message)
                case outcome:
                    assert_never(outcome)
