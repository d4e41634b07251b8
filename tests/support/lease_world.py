"""One lease in a world that goes wrong: the operator's rules, a plain shell around them, and the server's model.

Owns time, the network's whims, the pods, and the judgement of every step: the invariants are asserted here, at the
moment at which they could break. The shell does what the keeper does, one thing after the other.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from math import inf

from support.server_model import Holder, Listing, OtherWorker, Reply, RobbedError, ServerModel, TtlRefusedError
from worklease.keeper import record
from worklease.rules import answers, beats
from worklease.rules.beats import Beat, Wait
from worklease.rules.deadlines import expiry, is_fenced
from worklease.rules.finishing import AskToFinish
from worklease.rules.lease import End, Lease, Words, instant
from worklease.rules.lifecycle import BeatNow, EndPod, RemoveFinalizer, Step, StopItem, decide
from worklease.rules.outcomes import (
    Answered,
    Conflicted,
    Current,
    Exchange,
    ListAnswer,
    ListedItem,
    ListNotRead,
    Outcome,
    Rejected,
    Throttled,
    Unanswered,
    Unauthorized,
    Unsent,
)
from worklease.rules.ownership import is_bindable
from worklease.rules.pods import Pod
from worklease.rules.situation import Asked, AskedToFinish, DeletionPolicy, Situation

UID = "resource"
RETRY_AFTER = 40.0

HOLDING = 10.0
"""The least TTL in seconds with which holding is promised; below it, the clock's one second weighs too much."""


class Fate(Enum):
    """What happens to a beat on its way."""

    ANSWERED = auto()
    LOST_BEFORE = auto()
    LOST_AFTER = auto()
    LATE = auto()
    """The beat is given up, and applied much later."""
    MALFORMED = auto()
    UNSENT = auto()
    THROTTLED = auto()
    KEY_REFUSED = auto()
    MUTE = auto()
    """Like ANSWERED, but a 412 does not say its value."""
    GATEWAY = auto()
    """The beat is applied, and a gateway answers by itself: its clock tells nothing."""


@dataclass(slots=True)
class RealPod:
    """A pod as the node runs it: it takes all the grace that it gets."""

    pod: Pod
    foreign: bool
    first_asked: float | None = None
    ends: float = inf
    was_refused: bool = False
    """Its deletion was sent while Kubernetes was away."""
    finishes: float | None = None
    """How long its worker takes to finish once it is asked to; infinite: it does not; None: the asking is refused."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the status said at some moment: all that a restart has."""

    value: str
    ttl: float
    sent: float
    claimed: float | None
    words: Words
    delivery: int
    bound: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Checkpointed:
    """What the checkpoint had at some moment: another process goes on from it."""

    text: str
    delivery: int
    bound: tuple[str, ...]


@dataclass(slots=True, kw_only=True)
class World:
    """The lease, the server, the pods, and what they have done so far."""

    server: ServerModel
    other: OtherWorker
    lease: Lease
    latency: float
    patience: float = 1.0
    """The part of the longest wait after which the beat of a held lease is given up."""
    now: float = 1000.0
    pods: dict[str, RealPod] = field(default_factory=dict)
    bound: dict[str, Pod] = field(default_factory=dict)
    deletions: dict[str, Asked] = field(default_factory=dict)
    finishing: dict[str, AskedToFinish] = field(default_factory=dict)
    graceful_stop: Asked | None = None
    forced_stop: Asked | None = None
    deleting: bool = False
    policy: DeletionPolicy = DeletionPolicy.STOP
    done: bool = False
    kubernetes_answers: bool = True
    stops_are_acknowledged: bool = True
    frozen: bool = False
    was_frozen: bool = False
    """The process has slept since the last accepted beat: it cannot act while it sleeps."""
    unread_cut: bool = False
    """The server shortened the TTL by itself, in an answer that was lost: nobody can know."""
    late: list[tuple[float, str, float | None]] = field(default_factory=list)
    snapshots: list[Snapshot] = field(default_factory=list)
    records: list[Checkpointed] = field(default_factory=list)
    delivery: int = 0
    """The delivery whose lease we hold, or held."""
    edit: Lease | None = None
    """An edit of the spec that is on its way."""
    judged_end: float = -inf
    starts: int = 0
    was_twinned: bool = False
    """Another process went on from the checkpoint, so a value that moved may be that process's."""
    has_lost: bool = False
    """A claim was not answered."""
    has_found: bool = False
    """A value was found at a claim: another worker's, or that of a claim that was lost."""
    refused_ttls: tuple[int, ...] = ()
    """The TTLs that the server refused to this process."""
    has_looked: bool = False
    """A list that tells deliveries apart was looked at before the claim that is under way."""

    # --- Time ----------------------------------------------------------------------------------------------------

    def advance(self, until: float) -> None:
        """Let time pass until then, with everything that happens meanwhile."""
        until = max(until, self.now)
        while True:
            look_at = inf if self.frozen else self.turn()
            ends = expiry(self.lease) or inf
            events = [until, look_at, self.other.next_beat, self.server.ends]
            events += [at for at in (ends, self.late[0][0] if self.late else inf) if at > self.now]
            events += [real.ends for real in self.pods.values() if real.ends > self.now]
            self.now = max(self.now, min(at for at in events if at > self.now or at == until))
            self._happen()
            if self.now >= until:
                break
        if not self.frozen:
            self.turn()

    def _happen(self) -> None:
        while self.late and self.late[0][0] <= self.now:
            _, expected, desired = self.late.pop(0)
            self._apply(expected, desired)
        self.other.run(self.now)
        self.server.lapsed(self.now)
        for uid, real in list(self.pods.items()):
            if real.ends <= self.now:
                del self.pods[uid]
                if uid in self.bound:
                    self.bound[uid] = replace(self.bound[uid], gone=True)
                    self._update_pod_grace()
        ends = expiry(self.lease)
        if ends is not None and self.judged_end < ends <= self.now:
            self.judged_end = ends
            self._judge_sandboxes(ends)

    def _judge_sandboxes(self, ends: float) -> None:
        """P3: when the lease can end, every sandbox has ended, unless Kubernetes is away and it was asked in time."""
        if (
            self.frozen
            or self.was_frozen
            or self.unread_cut
            or self.lease.reprieve is not None
            or self.lease.ttl < HOLDING
        ):
            return
        for real in self.pods.values():
            if real.pod.uid in self.bound and not self.bound[real.pod.uid].gone:
                asked = self.deletions.get(real.pod.uid)
                in_time = asked is not None and (real.ends <= ends or real.was_refused)
                assert in_time, f"P3: pod {real.pod.uid} runs until {real.ends}, the lease ends at {ends}"

    # --- The shell, as the keeper is -----------------------------------------------------------------------------

    def turn(self) -> float:
        """Take one turn and return when the next one is due."""
        if self.done:
            return inf
        self.lease = beats.lapse(self.lease, self.now)
        for real in self.pods.values():
            uid = real.pod.uid
            if uid not in self.bound and is_bindable(real.pod, UID, self.lease):
                self.bound[uid] = real.pod
                self._update_pod_grace()
        for _ in range(4):  # at most: a stop, the asking of a worker, its pod's deletion where that is refused, nothing
            plan = decide(self.situation(), self.now)
            for step in plan.steps:
                self._perform(step)
            if not plan.steps or self.done:
                assert plan.look_at is None or plan.look_at > self.now, "a look in the past never ends"
                return inf if plan.look_at is None else plan.look_at
        raise AssertionError("the same steps are asked for again and again")

    def situation(self) -> Situation:
        return Situation(
            uid=UID,
            lease=self.lease,
            bound=self.bound,
            deletions=self.deletions,
            finishing=self.finishing,
            graceful_stop=self.graceful_stop,
            forced_stop=self.forced_stop,
            deleting=self.deleting,
            deletion_policy=self.policy,
        )

    def _update_pod_grace(self) -> None:
        longest = max((pod.grace for pod in self.bound.values() if not pod.gone), default=0.0)
        self.lease = replace(self.lease, pod_grace=longest)

    def _perform(self, step: Step) -> None:
        match step:
            case EndPod(uid, _, asked_grace):
                self._end(self.pods[uid], asked_grace)
            case AskToFinish(uid, _, seconds):
                self._let_finish(self.pods[uid], seconds)
            case StopItem(force):
                self._stop(force=force)
            case BeatNow():
                self.lease = beats.beat_at_once(self.lease, self.now)
            case RemoveFinalizer():
                assert not [uid for uid in self.bound if uid in self.pods], "done with a sandbox left"
                self.done = True
            case _:
                raise AssertionError(f"{step} is asked for without a sandbox in the spec")

    def _let_finish(self, real: RealPod, seconds: float) -> None:
        assert not real.foreign, f"P4: pod {real.pod.uid} is not ours"
        uid = real.pod.uid
        before = self.finishing.get(uid)
        until = self.now + seconds if before is None else before.until
        if not self.kubernetes_answers:
            refusals = 1 + (before.refusals if before is not None else 0)
            self.finishing[uid] = AskedToFinish(self.now, refusals, "away", until=until)
        elif real.finishes is None:
            self.finishing[uid] = AskedToFinish(self.now, until=until, is_refused=True)
        else:
            self.finishing[uid] = AskedToFinish(self.now, until=until)
            real.ends = min(real.ends, self.now + real.finishes)

    def _end(self, real: RealPod, asked_grace: float | None) -> None:
        assert not real.foreign, f"P4: pod {real.pod.uid} is not ours"
        assert asked_grace is None or asked_grace >= 1, "a grace of 0 leaves the container running"
        uid = real.pod.uid
        if not self.kubernetes_answers:
            real.was_refused = True
            before = self.deletions.get(uid)
            refusals = 1 + (before.refusals if before is not None else 0)
            self.deletions[uid] = Asked(self.now, refusals, "away", asked_grace)
            return
        allowed = real.pod.grace if asked_grace is None else asked_grace
        real.first_asked = self.now if real.first_asked is None else real.first_asked
        # A second deletion can only shorten, and counts from the first (Kubernetes API).
        real.ends = max(self.now, min(real.ends, real.first_asked + allowed))
        self.deletions[uid] = Asked(self.now, grace=asked_grace)
        self.bound[uid] = replace(self.bound[uid], terminating=True)

    def _stop(self, *, force: bool) -> None:
        mine = self.server.holder is Holder.OURS and self.server.delivery == self.delivery
        assert self.server.state == "stopped" or mine or self.unread_cut, "P4: a stop of what we do not hold"
        before = self.forced_stop if force else self.graceful_stop
        asked = Asked(self.now, 1 + (before.refusals if before is not None else 0), "lost")
        if self.stops_are_acknowledged:
            asked = Asked(self.now)
            state = self.server.stop(force=force)
            self.lease = beats.stopped(self.lease) if state == "stopped" else beats.beat_at_once(self.lease, self.now)
        if force:
            self.forced_stop = asked
        else:
            self.graceful_stop = asked

    # --- Beats ---------------------------------------------------------------------------------------------------

    def beat(self, fate: Fate) -> bool:
        """Wait until a beat is due and send it; return whether there was one."""
        for _ in range(8):
            match beats.decide(self.lease, self.now):
                case Wait(until) if until < inf and not self.done:
                    self.advance(until)
                case Beat() as beat if not self.done and (self.lease.held or not self.deleting):
                    if self._look_before_claim() is None:
                        continue
                    self._send(beat, fate)
                    return True
                case _:
                    break
        self.advance(self.now + 5.0)
        return False

    def _look_before_claim(self) -> Beat | None:
        """Look at the list as the keeper does before a claim in doubt; return the beat that is due still."""
        self.has_looked = False
        if answers.is_claim_in_doubt(self.lease):
            before = self.lease
            self.lease = answers.look_before_claim(before, self._list(), self.now)
            self._judge_claim(before)
        can_tell = self.has_found or (self.has_lost and self.server.shows_entries and self.lease.clock is not None)
        self.has_looked = self.server.listing is Listing.SHOWN and can_tell and not self.lease.held
        beat = beats.decide(self.lease, self.now)
        return beat if isinstance(beat, Beat) else None

    def _list(self) -> ListAnswer:
        """Return what the list shows of the item."""
        row = self.server.row(self.now)
        if row is None:
            return ListNotRead("lost")
        return ListedItem(row.state, row.started_at, row.latest_heartbeat_at, row.acknowledged_at)

    def take_edit(self) -> None:
        """Let an edit of the spec arrive: while a beat is in flight, or between two."""
        if self.edit is not None:
            self.lease, self.edit, self.refused_ttls = beats.edit(self.lease, self.edit), None, ()

    def _send(self, beat: Beat, fate: Fate) -> None:
        assert self.lease.value is not None or not self.lease.held, "P1: NO_HEARTBEAT is no beat of a holder"
        sent, before = self.now, self.lease
        outcome = self._exchange(beat, fate, sent)
        self.take_edit()
        seen = self._list() if answers.is_doubtful(self.lease, outcome) else None
        after = answers.observe(self.lease, outcome, seen)
        self.lease = after
        self.has_lost = self.has_lost or isinstance(outcome, Unanswered)
        self.has_found = self.has_found or after.refused_value is not None
        if isinstance(outcome, Rejected) and before.held:
            assert beat.desired_ttl not in self.refused_ttls, "P2: what is refused is asked again"
            self.refused_ttls = (*self.refused_ttls, beat.desired_ttl or 0)
        self._judge_claim(before)
        if after.end is None and after.held and after.held_back is None and after.state != "stopping":
            pace = max(min(after.ttl / 3, after.interval), after.ttl / 20 * 1.2)
            assert after.due <= self.now + pace + 1e-6, "P2: a lease at stake is not beaten densely"
        if after.held and after.ttl < before.ttl:
            # A shorter TTL is written at once, an adoption as well: no older status is left to start from.
            self.forget_the_past()
        if after.held and after.sent == sent and isinstance(outcome, Answered) and outcome.lease_extended:
            self._remember(outcome)
        if after.held:
            text = record.write(after, record.RecordedSandboxes(), trying=None, now=self.now, wall=self.now)
            self.records = [*self.records[-3:], Checkpointed(text, self.delivery, tuple(self.bound))]
        self._judge_clock()
        if isinstance(outcome, Conflicted) and fate is Fate.ANSWERED:
            self._judge_conflict(before)
        self.advance(self.now)

    def _exchange(self, beat: Beat, fate: Fate, sent: float) -> Outcome:
        wait = beat.timeout * (self.patience if self.lease.held else 1.0)
        way = min(self.latency, wait * 0.4)
        arrives, given_up = sent + way, sent + wait
        match fate:
            case Fate.UNSENT:
                return Unsent(Exchange(sent=sent, done=self.now, asked=beat.desired_ttl), "refused")
            case Fate.KEY_REFUSED:
                self.advance(arrives + way)
                return Unauthorized(Exchange(sent=sent, done=self.now, asked=beat.desired_ttl), "no")
            case Fate.THROTTLED:
                self.advance(arrives + way)
                return Throttled(Exchange(sent=sent, done=self.now, asked=beat.desired_ttl), "slower", RETRY_AFTER)
            case Fate.LOST_BEFORE | Fate.LATE:
                self.advance(given_up)
                if fate is Fate.LATE:
                    self.late.append((sent + 1.9 * beat.timeout, beat.expected, beat.desired_ttl))
                return Unanswered(Exchange(sent=sent, done=self.now, asked=beat.desired_ttl), "time-out")
            case Fate.LOST_AFTER:
                self.advance(arrives)
                self._apply(beat.expected, beat.desired_ttl, is_looked_for=self.has_looked)
                self.advance(given_up)
                return Unanswered(Exchange(sent=sent, done=self.now, asked=beat.desired_ttl), "time-out")
            case Fate.GATEWAY:
                self.advance(arrives)
                self._apply(beat.expected, beat.desired_ttl, is_looked_for=self.has_looked)
                self.advance(arrives + way)
                return Unanswered(Exchange(sent=sent, done=self.now, asked=beat.desired_ttl), "504 of a gateway")
            case Fate.ANSWERED | Fate.MALFORMED | Fate.MUTE:
                self.advance(arrives)
                reply = self._apply(
                    beat.expected, beat.desired_ttl, is_read=fate is not Fate.MALFORMED, is_looked_for=self.has_looked
                )
                self.advance(arrives + way)
                exchange = Exchange(sent=sent, done=self.now, asked=beat.desired_ttl)
                if reply is None:
                    return Rejected(exchange, "400")
                exchange = replace(exchange, date=reply.date)
                if fate is Fate.MALFORMED:
                    return Unanswered(replace(exchange, date=None), "malformed")
                return read_reply(exchange, reply, mute=fate is Fate.MUTE)

    def _apply(
        self, expected: str, desired: float | None, *, is_read: bool = False, is_looked_for: bool = False
    ) -> Reply | None:
        """Let a beat arrive, and return the server's answer; None if it refuses the TTL (400)."""
        is_others = self.server.is_polled_by_other and self.server.value is None and self.server.state == "starting"
        try:
            reply = self.server.beat(self.now, Holder.OURS, expected, desired)
        except TtlRefusedError:
            return None
        if reply.extended and is_others and is_looked_for:
            raise RobbedError(f"at {self.now}: a delivery was claimed that another worker had polled")
        if not is_read:
            self._note_cut(reply, desired)
        return reply

    def _note_cut(self, reply: Reply, desired: float | None) -> None:
        """Note a TTL that the server shortened by itself, in an answer that nobody reads."""
        if reply.extended and desired is None and reply.ttl < self.lease.ttl:
            self.unread_cut = True

    def _remember(self, answer: Answered) -> None:
        self.was_frozen = self.unread_cut = False
        self.delivery = self.server.delivery
        assert self.lease.words is not None
        words = self.lease.words
        kept = Snapshot(
            answer.last_heartbeat,
            self.lease.ttl,
            answer.exchange.sent,
            self.lease.claimed,
            words,
            self.delivery,
            tuple(self.bound),
        )
        self.snapshots = [*self.snapshots[-3:], kept]

    def _judge_clock(self) -> None:
        """P3: the lease never ends later by our clock than it does at the server."""
        ends, server = expiry(self.lease), self.server
        is_on = server.state in {"active", "stopping"}
        ours = server.holder is Holder.OURS and server.delivery == self.delivery and is_on
        if self.lease.held and ends is not None and ours and not self.unread_cut:
            # A stamp of the other process may lie in the window of a beat of this one, which is as much wider.
            error = 3.0 + 4 * self.latency if self.was_twinned else 0.0
            assert ends <= server.ends + error + 1e-6, f"our clock says {ends}, the server's {server.ends}"

    def _judge_claim(self, before: Lease) -> None:
        """P2: a claim that was never held is given up for good only if its delivery is over."""
        if before.held or self.lease.end in {None, End.STOPPED} or before.end is not None:
            return
        assert self.server.delivery > 1, f"P2: {self.lease.end} though the item was delivered once"

    def _judge_conflict(self, before: Lease) -> None:
        """P2: a 412 that names its value never ends a lease that is ours."""
        server = self.server
        ours = server.holder is Holder.OURS and server.delivery == self.delivery and server.state == "active"
        if not (before.held and ours) or self.lease.end is End.EXPIRED or before.ttl < HOLDING:
            return
        if self.lease.end is End.TAKEN_OVER and self.was_twinned:
            return
        if self.lease.end is End.TAKEN_OVER and self.starts and self._is_too_old(before):
            return
        assert self.lease.end is None, f"P2: {self.lease.end} though nobody else took the lease"
        assert self.lease.value == server.value, "P2: ours is there to adopt"

    def _is_too_old(self, before: Lease) -> bool:
        """Whether a restart knew too little: its value was older than any TTL that it may have asked for."""
        known, stamp = instant(before.value), instant(self.server.value)
        assert known is not None
        assert stamp is not None
        shortest = before.ttl if before.cut is None else min(before.ttl, before.cut.ttl)
        return stamp - known >= shortest

    # --- What happens to the process -----------------------------------------------------------------------------

    def forget_the_past(self) -> None:
        """Leave no older status and no older checkpoint to start from."""
        self.snapshots.clear()
        self.records.clear()

    def restart(self, age: int, down: float, *, taken: bool = False, has_checkpoint: bool = False) -> None:
        """Kill the operator, and start it again from the status, or the checkpoint, of ``age`` beats ago.

        ``taken``: meanwhile another worker polls for the item, and claims it if it has lapsed.
        """
        snapshot = self.snapshots[-1 - age % len(self.snapshots)]
        checkpointed = self.records[-1 - age % len(self.records)] if has_checkpoint and self.records else None
        with self.asleep():
            self.advance(self.now + down * 0.9)
            if taken:
                self.server.poll(self.now)
                self.other.claim(self.now)
            self.advance(self.now + down * 0.1)
            # Beats of the dead process arrive before the start: later, one could move a value that was just adopted.
            self.late = [(self.now, expected, desired) for _, expected, desired in self.late]
            self._happen()
        self.starts += 1
        fresh = Lease(desired_ttl=self.lease.desired_ttl, interval=self.lease.interval, seed=self.starts)
        self.deletions, self.finishing, self.graceful_stop, self.forced_stop = {}, {}, None, None
        if checkpointed is not None:
            found = record.read(checkpointed.text)
            assert found is not None, "this version reads what it writes"
            self.refused_ttls = found.refused
            self.lease = record.resume(found, fresh, snapshot.words, now=self.now, moment=lambda epoch: epoch)
            self.delivery, bound = checkpointed.delivery, checkpointed.bound
        else:
            self.lease = beats.restore(
                fresh,
                value=snapshot.value,
                ttl=snapshot.ttl,
                sent=snapshot.sent,
                claimed=snapshot.claimed,
                words=snapshot.words,
                now=self.now,
            )
            self.delivery, bound = snapshot.delivery, snapshot.bound
            self.refused_ttls = ()  # a status does not tell what was refused
        self.bound = {uid: pod for uid, pod in self.bound.items() if uid in bound}
        self._update_pod_grace()
        self.advance(self.now)

    def run_twin(self, fates: list[Fate], age: int) -> None:
        """Let another process go on from the checkpoint for some beats, while this one is at work as well.

        They share the item, and nothing else: each may lose the lease to the other, and neither may count on more time
        than the server gives.
        """
        checkpointed = self.records[-1 - age % len(self.records)]
        found = record.read(checkpointed.text)
        assert found is not None, "this version reads what it writes"
        mine, deliveries, refused_ttls = self.lease, self.delivery, self.refused_ttls
        fresh = Lease(desired_ttl=mine.desired_ttl, interval=mine.interval, seed=99)
        self.refused_ttls = found.refused
        self.lease = record.resume(found, fresh, None, now=self.now, moment=lambda epoch: epoch)
        self.delivery, self.was_twinned = checkpointed.delivery, True
        # What the other process does takes time, and this one is taken for asleep meanwhile.
        self.frozen = self.was_frozen = True
        for fate in fates:
            match beats.decide(beats.beat_at_once(self.lease, self.now), self.now):
                case Beat() as beat if not is_over(self.lease, self.now):
                    self._send(beat, fate)
                case _:
                    break
        # A shorter TTL that only the other process asked for, or read, is nothing that this one can know.
        asked = self.server.default_ttl if mine.desired_ttl is None else mine.desired_ttl
        self.unread_cut = self.unread_cut or min(self.server.ttl, asked) < mine.ttl
        self.lease, self.delivery, self.frozen = mine, deliveries, False
        self.refused_ttls = refused_ttls
        self.was_frozen = True  # an accepted beat of the other process does not undo that
        self.forget_the_past()

    @contextmanager
    def asleep(self) -> Iterator[None]:
        """Stop the process for a while; the world goes on without it."""
        self.frozen = self.was_frozen = True
        yield
        self.frozen = False

    # --- Pods ----------------------------------------------------------------------------------------------------

    def add_pod(
        self, seconds: float, *, controller: str, foreign: bool, has_proxy: bool = False, finishes: float | None = None
    ) -> None:
        """Add a pod with the item's labels; ``finishes`` says how the worker behind its proxy takes a drain."""
        uid = f"pod{len(self.pods) + len(self.bound)}-{self.now}"
        pod = Pod(
            uid=uid,
            name=uid,
            phase="Running",
            ready=True,
            grace=seconds,
            controller=controller,
            has_proxy=has_proxy,
        )
        self.pods[uid] = RealPod(pod, foreign, finishes=finishes)

    def is_early(self) -> bool:
        """Whether a sandbox that starts now can still be told to end in time."""
        longest = replace(self.lease, pod_grace=inf)
        return not self.done and self.lease.held and self.lease.reprieve is None and not is_fenced(longest, self.now)


def is_over(lease: Lease, now: float) -> bool:
    """Whether the lease has ended by its own clock."""
    return beats.lapse(lease, now).end is not None


def read_reply(exchange: Exchange, reply: Reply, *, mute: bool) -> Outcome:
    if reply.accepted:
        return Answered(exchange, reply.last_heartbeat or "", reply.state, reply.extended, reply.ttl)
    return Conflicted(exchange, None if mute else Current(reply.last_heartbeat, reply.state, reply.ttl))
