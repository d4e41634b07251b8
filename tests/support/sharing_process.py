"""A process that keeps one lease together with others: a plain shell around the operator's rules.

Owns its turns, its beats, and what follows for pods and item. Every decision is a rule's.
"""

from collections.abc import Callable, Generator
from dataclasses import replace
from math import inf
from typing import Any, Final

from support.bucket_process import BucketProcess, KeptLease, Resume, Task
from support.server_model import NOTHING, Holder, Reply
from support.shared_world import UID
from worklease.rules import beats
from worklease.rules.acts import Act, Leave, Standing
from worklease.rules.answers import observe
from worklease.rules.beats import Beat, Rest, Wait
from worklease.rules.deadlines import giving_up, is_fenced, may_stop, timeout
from worklease.rules.lease import End, Lease
from worklease.rules.lifecycle import (
    AwaitAnother,
    BeatNow,
    EndPod,
    ListPods,
    MakePod,
    Release,
    RemoveFinalizer,
    Restart,
    Step,
    StopItem,
    decide,
)
from worklease.rules.outcomes import Answered, Conflicted, Current, Exchange, ListNotRead, Outcome, Unanswered
from worklease.rules.ownership import is_bindable, is_stray
from worklease.rules.pods import Obstacle, Pod
from worklease.rules.situation import Asked, NotMade, Situation, conclude, is_running
from worklease.rules.succession import (
    Blind,
    list_seconds,
    may_fall_silent,
    observe_as_invalid,
    observe_as_taker,
)
from worklease.rules.tenure import (
    CALL_TIMEOUT,
)

SOON: Final = 0.5
"""Seconds until something that may not be done yet is looked at again."""


class SharingProcess(BucketProcess):
    """A process that takes its turns for the lease whose bucket it holds."""

    # --- Turns ---------------------------------------------------------------------------------------------------

    def _turn_if_due(self) -> None:
        if self.kept is not None and self.now >= self.turn_at - 1e-6:
            self.turn_at = inf
            self._turn(self.kept)

    def _turn(self, kept: KeptLease) -> None:
        self._end_strays(kept)
        if kept.is_done:
            self.want_turn(1.0)
            return
        before = kept.lease
        kept.lease = beats.lapse(before, self.now)
        self._judge_end(before, kept.lease)
        self._see_pods(kept)
        situation = self._situation(kept)
        if kept.pods.ending is None and (ending := conclude(situation, self.now)) is not None:
            kept.pods.ending = ending
            situation = replace(situation, ending=ending)
        plan = decide(situation, self.now)
        looks = [inf if plan.look_at is None else plan.look_at, self.now + 5.0]
        looks += [self.now + SOON for each in plan.steps if not self._perform(kept, each)]
        if kept.lease.end is not None and self.world.cluster.ended is None and "status" not in kept.under_way:
            self._begin_call(kept, "status", Act.WRITE_RESOURCE, self._write_end(kept.lease.end))
        looks.append(self._beat_if_due(kept))
        self.want_turn(max(1e-3, min(looks) - self.now))

    def _situation(self, kept: KeptLease) -> Situation:
        pods, deleting = kept.pods, self.world.cluster.deleting
        if not deleting or pods.is_any_at_work:
            kept.emptied = None
        elif kept.emptied is None:
            kept.emptied = self.now
        return Situation(
            uid=UID,
            lease=kept.lease,
            bound=pods.bound,
            deletions=pods.deletions,
            graceful_stop=kept.graceful_stop,
            forced_stop=kept.forced_stop,
            sandbox=self.options.policy,
            attempt=pods.attempt,
            making=pods.making,
            ailing=pods.ailing,
            is_restarting="restart" in kept.under_way,
            ending=pods.ending,
            deletion_policy=self.options.deletion,
            deleting=deleting,
            emptied=kept.emptied,
            fence_fell=pods.fence_fell,
            are_pods_listed=pods.are_listed,
            has_finalizer=self.world.cluster.finalizer,
        )

    def _see_pods(self, kept: KeptLease) -> None:
        """See the pods as a watch shows them, if it can."""
        if self.is_cut():
            return
        real = self.world.cluster.pods
        for uid, each in real.items():
            if uid in kept.pods.bound or is_bindable(each.pod, UID, kept.lease):
                kept.pods.note(each.pod, self.now)
        for uid, pod in kept.pods.bound.items():
            if uid not in real and not pod.gone:
                kept.pods.lose(uid)
        grace = kept.pods.longest_grace(kept.lease.pod_grace)
        kept.lease = replace(kept.lease, pod_grace=grace)
        if is_fenced(kept.lease, self.now) and kept.lease.held and kept.pods.is_any_at_work:
            kept.pods.fence_fell = True

    def _end_strays(self, kept: KeptLease) -> None:
        for uid, real in list(self.world.cluster.pods.items()):
            if not self.world.cluster.finalizer and is_stray(real.pod, UID, is_known=False, keeps_failed=False):
                self._begin_call(kept, f"end {uid}", Act.END_POD, self._delete(kept, EndPod(uid, real.pod.name, None)))

    def _perform(self, kept: KeptLease, step: Step) -> bool:
        """Begin what a step asks for, unless the process may not do it now; return whether it was begun."""
        match step:
            case EndPod(uid):
                is_late = is_fenced(kept.lease, self.now) or kept.lease.end is End.EXPIRED
                act = Act.END_POD_AT_FENCE if is_late else Act.END_POD
                return self._begin_call(kept, f"end {uid}", act, self._delete(kept, step))
            case StopItem(force):
                return self._begin_call(kept, "stop", Act.STOP, self._stop(kept, force=force))
            case MakePod(attempt):
                return self._begin_call(kept, "make", Act.MAKE_POD, self._make(kept, attempt))
            case ListPods():
                return self._begin_call(kept, "list", Act.READ, self._list(kept))
            case RemoveFinalizer():
                return self._begin_call(kept, "finalizer", Act.WRITE_RESOURCE, self._finish(kept))
            case BeatNow():
                kept.lease = beats.beat_at_once(kept.lease, self.now)
            case Release(message):
                if not may_fall_silent(kept.succession, kept.lease, self.now) or self.stands() is not Standing.VALID:
                    return False
                kept.lease = beats.release(kept.lease, message)
                self.want_write(0.0)
            case Restart(attempt):
                return self._begin_call(kept, "restart", Act.WRITE_RECORD, self._restart(kept, attempt))
            case AwaitAnother(attempt):
                kept.pods.begin(attempt)
            case _:
                raise AssertionError(f"{step} is not expected")
        return True

    def _begin_call(self, kept: KeptLease, name: str, act: Act, task: Task) -> bool:
        """Begin a call if the process may; what it may do after a read of the bucket begins with one."""
        leave = self.may(act)
        if name in kept.under_way or leave is Leave.NO:
            task.close()
            return name in kept.under_way
        kept.under_way.add(name)
        self.start(self._call(kept, name, act, task, reads=leave is Leave.AFTER_READING))
        return True

    def _call(self, kept: KeptLease, name: str, act: Act, task: Task, *, reads: bool) -> Task:
        try:
            is_free = not reads or (yield from self.still_stands())
            if is_free and self.kept is kept and self.may(act) is not Leave.NO:
                yield from task
        finally:
            kept.under_way.discard(name)
        if self.kept is kept:
            self.want_turn(0.0)

    def judge_act(self, what: str) -> None:
        """Nothing is done without the bucket."""
        if self.world.cluster.bucket.holder != self.name:
            self.world.breaks(f"acted without the bucket: {self.name} {what}")

    # --- What is done --------------------------------------------------------------------------------------------

    def _delete(self, kept: KeptLease, step: EndPod) -> Task:
        is_valid_act = self.may(Act.END_POD) is Leave.YES
        sent, world = self.world.now, self.world

        def apply() -> bool:
            if is_valid_act and world.now <= sent + CALL_TIMEOUT:
                self.judge_act("deletes a pod")
            world.say(self.name, "deletes", step.uid, step.grace)
            world.delete(step.uid, step.grace)
            return True

        before = kept.pods.deletions.get(step.uid)
        done = yield self.kube(apply)
        first = before.first if before is not None else None
        if done is None:
            refusals = 1 + (before.refusals if before is not None else 0)
            kept.pods.note_deletion(step.uid, Asked(self.now, refusals, "lost", step.grace, first))
        else:
            kept.pods.note_deletion(step.uid, Asked(self.now, grace=step.grace, first=first or self.now))

    def _stop(self, kept: KeptLease, *, force: bool) -> Task:
        world, before = self.world, kept.forced_stop if force else kept.graceful_stop
        if not may_stop(kept.lease, self.now):
            return
        self.judge_act("stops the item")
        if world.server.holder is Holder.OTHER and world.server.other_lives:
            world.breaks("P4: a stop of what another worker holds")
        sent = self.now
        is_lost = world.random.random() < world.loss
        state = world.server.stop(force=force)
        world.say(self.name, "stops", force, "lost" if is_lost else "")
        yield self.sleep(timeout(kept.lease) if is_lost else 0.05)
        if is_lost:
            refusals = 1 + (before.refusals if before is not None else 0)
            asked = Asked(self.now, refusals, "lost", in_doubt=self.now)
        else:
            asked = Asked(sent, in_doubt=sent)
            if self.kept is kept and self.stands() in {Standing.VALID, Standing.LEAVING}:
                kept.lease = beats.stop_acknowledged(kept.lease, state, self.now)
        if force:
            kept.forced_stop = asked
        else:
            kept.graceful_stop = asked

    def _make(self, kept: KeptLease, attempt: int) -> Task:
        yield from self._commit(None)
        if self.kept is not kept or self.may(Act.MAKE_POD) is not Leave.YES:
            return
        if not is_running(self._situation(kept), self.now):
            return

        def apply() -> tuple[Pod | None]:
            self.judge_act("makes a pod")
            pod = self.world.create(f"pod-{attempt}")
            self.world.say(self.name, "makes", pod and pod.uid)
            return (pod,)

        made = yield self.kube(apply, within=CALL_TIMEOUT)
        if made is not None and made[0] is not None:
            kept.pods.making = None
            kept.pods.note(made[0], self.now)
        else:
            kept.pods.are_listed = kept.pods.are_listed and made is not None
            refusals = (kept.pods.making.refusals if kept.pods.making is not None else 0) + 1
            kept.pods.making = NotMade(self.now, refusals, "not made", obstacle=Obstacle.ADMISSION)

    def _restart(self, kept: KeptLease, attempt: Any) -> Task:
        kept.pods.begin(attempt)
        yield from self._commit(None)

    def _list(self, kept: KeptLease) -> Task:
        if (yield self.kube(lambda: True)) is not None:
            self._see_pods(kept)
            kept.pods.are_listed = True

    def _write_end(self, end: End) -> Task:
        def apply() -> bool:
            self.judge_act("writes the status")
            self.world.cluster.ended = end
            return True

        yield self.kube(apply, within=CALL_TIMEOUT)

    def _finish(self, kept: KeptLease) -> Task:
        def apply() -> bool:
            self.judge_act("removes the finalizer")
            self.world.cluster.finalizer = False
            return True

        if kept.lease.end is not None:
            yield from self._write_end(kept.lease.end)  # the status shows first how it ended
        if self.kept is not kept or self.may(Act.WRITE_RESOURCE) is not Leave.YES:
            return
        if (yield self.kube(apply, within=CALL_TIMEOUT)) is not None:
            self.world.say(self.name, "is done")
            kept.is_done = True

    def _commit(self, trying: float | None) -> Generator[Callable[[Resume], None], Any, bool]:
        """Write the record and wait for it; return whether it is written."""
        while self.is_writing:
            yield self.sleep(0.05)
        if self.may(Act.WRITE_RECORD) is not Leave.YES:
            return False
        version, epoch = self.version, self.tenure.epoch if self.tenure is not None else -1
        yield from self._write(trying)
        return self.tenure is not None and self.tenure.epoch == epoch and self.version > version

    # --- Beats ---------------------------------------------------------------------------------------------------

    def _beat_if_due(self, kept: KeptLease) -> float:
        """Send a beat that is due, if the process may; return when to look again."""
        if kept.is_let_go or self.in_flight or kept.lease.end is not None:
            return inf
        is_claim = not kept.lease.held
        if is_claim and self.world.cluster.deleting:
            return inf
        match beats.decide(kept.lease, self.now):
            case Wait(until):
                return until
            case Rest():
                return inf
            case Beat() as beat:
                leave = self.may(Act.FIRST_CLAIM if is_claim else Act.ROUTINE_BEAT)
                if leave is Leave.NO:
                    return self.now + 0.25
                self.in_flight = True
                self.start(self._beat(kept, beat, is_claim=is_claim, reads=leave is Leave.AFTER_READING))
        return inf

    def _beat(self, kept: KeptLease, beat: Beat, *, is_claim: bool, reads: bool) -> Task:
        try:
            if reads and not (yield from self.still_stands()) and self.reaches:
                return
            if is_claim and beat.expected == NOTHING and not (yield from self._commit(self.now)):
                return
            act = Act.FIRST_CLAIM if is_claim else Act.ROUTINE_BEAT
            if self.kept is not kept or self.may(act) is Leave.NO:
                return
            if beats.lapse(kept.lease, self.now).end is None:
                yield from self._exchange(kept, beat)
        finally:
            self.in_flight = False
        if self.kept is not None:
            self.want_turn(0.0)

    def _exchange(self, kept: KeptLease, beat: Beat) -> Task:
        sent, random, world = self.now, self.world.random, self.world
        outcome: Outcome
        if random.random() < world.loss:
            fate, way = random.random() * 3, random.uniform(0.001, min(0.1, beat.timeout / 4))
            if fate > 1:
                late = way if fate > 2 else random.uniform(0.5, 1.9) * beat.timeout
                world.at(world.now + late, lambda: self._apply(kept, beat))
            yield self.sleep(beat.timeout)
            outcome = Unanswered(Exchange(sent=sent, done=self.now), "time-out")
        else:
            way = random.uniform(0.001, min(0.1, beat.timeout / 4))
            yield self.sleep(way)
            reply = self._apply(kept, beat)
            world.say(self.name, "beats", beat.expected[-12:], reply.accepted, reply.last_heartbeat)
            yield self.sleep(way)
            exchange = Exchange(sent=sent, done=self.now, date=reply.date)
            if self.now - sent > beat.timeout:
                outcome = Unanswered(exchange, "the process slept")
            elif reply.accepted:
                outcome = Answered(exchange, reply.last_heartbeat or "", reply.state, reply.extended, reply.ttl)
            else:
                outcome = Conflicted(exchange, Current(reply.last_heartbeat, reply.state, reply.ttl))
        if self.kept is kept and self.stands() is not Standing.FORMER:
            yield from self._observe(kept, outcome)

    def _apply(self, kept: KeptLease, beat: Beat) -> Reply:
        return self.world.beat(beat.expected, is_carried=kept.carried == beat.expected)

    def _observe(self, kept: KeptLease, outcome: Outcome) -> Task:
        seen, before = None, kept.lease
        if list_seconds(kept.lease, outcome, kept.succession) > 0:
            yield self.sleep(self.world.random.uniform(0.01, 0.1))
            seen = self.world.listed() or ListNotRead("the list failed")
        if self.kept is not kept:
            return
        stands = self.stands()
        if stands is Standing.HANDED_OVER:
            outcome = Unanswered(outcome.exchange, "the bucket is handed over")
        if stands in {Standing.VALID, Standing.LEAVING}:
            is_as_ever = observe(kept.lease, outcome, seen).end is None
            kept.lease, kept.succession = observe_as_taker(kept.lease, outcome, seen, kept.succession)
            if not is_as_ever and kept.lease.end is None:
                self.world.counts["read as a taker"] += 1
                kept.carried = kept.lease.value
            self._judge_end(before, kept.lease)
        else:
            after = observe_as_invalid(Blind(kept.lease, kept.adopted), outcome, seen)
            if after is None:
                kept.is_let_go = True
                self.world.counts["let go in silence"] += 1
                self.world.say(self.name, "lets go in silence")
                return
            kept.lease, kept.adopted = after.lease, after.adopted
            self.world.counts["answered without validity"] += 1
        if kept.lease.value != before.value or kept.lease.end is not None:
            is_adopted = isinstance(outcome, Conflicted)
            soon = min(10.0, kept.lease.ttl / 3) * self.world.random.random()
            self.want_write(1.0 if is_adopted else soon)

    def _judge_end(self, before: Lease, after: Lease) -> None:
        """P2: no lease is given up that is ours."""
        if before.end is not None or after.end is None:
            return
        world, at = self.world, giving_up(before)
        world.say(self.name, "ends the lease:", after.end.value, self.stands().name, at)
        if self.stands() not in {Standing.VALID, Standing.LEAVING}:
            return
        if world.is_ours and after.end in {End.TAKEN_OVER, End.REQUEUED, End.NOT_FOUND}:
            world.counts["given up"] += 1
            world.say("GIVEN UP")
