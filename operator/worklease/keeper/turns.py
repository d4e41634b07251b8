"""One turn of one resource after the other: look, decide, start what is due, publish.

Owns what is under way. A lease has one actor, one order of events and no locks: its Kopf timer begins its turns, and
each says when the next is due if nothing happens before. A turn never awaits: what takes time (a beat, a stop, a
deletion) is a call of its own, whose end brings the next turn. Only a turn changes a lease. Must not contain rules:
those are in ``rules``.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Collection, Coroutine
from dataclasses import replace
from functools import partial
from typing import Any, Final, assert_never

from worklease.api.names import NOWHERE, Reference
from worklease.clocks import ClockPair
from worklease.keeper.ack_calls import AckCalls
from worklease.keeper.calls import Clients
from worklease.keeper.fleet import Fleet
from worklease.keeper.kept import Kept, LeaseOptions
from worklease.keeper.pod_calls import PodCalls
from worklease.keeper.pod_index import PodIndex
from worklease.keeper.publisher import StatusPublisher
from worklease.keeper.resource_calls import ResourceCalls
from worklease.keeper.session_calls import SessionCalls
from worklease.keeper.turn_queue import TurnQueue
from worklease.keeper.work_calls import WorkCalls
from worklease.keeper.workspace_calls import workspace_of
from worklease.rules.acts import Act, Leave, Standing
from worklease.rules.beats import beat_at_once, end_unclaimed, lapse, note_budget_short, release, supersede
from worklease.rules.claims import BeatStep, plan_beat
from worklease.rules.deadlines import fence, is_fenced
from worklease.rules.finishing import AskToFinish
from worklease.rules.lease import Lease
from worklease.rules.lifecycle import (
    AwaitAnother,
    AwaitNode,
    BeatNow,
    DeleteResource,
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
from worklease.rules.ownership import is_stray, why_ignored
from worklease.rules.pods import Pod
from worklease.rules.sessions import next_look
from worklease.rules.situation import Situation, conclude
from worklease.rules.succession import may_fall_silent
from worklease.telemetry import PodIgnored, SandboxEnded

LONGEST_WAIT: Final = 3600.0
"""Seconds that a turn waits at most, so that even a mistaken wait ends."""

SHUTDOWN_TIMEOUT: Final = 1.0
"""Seconds that calls under way may take to end: an answer that is read now leaves no doubt later."""

BUG_RETRY: Final = 5.0
"""Seconds until the turn of a resource is tried again after a bug of the operator's ended it."""

_log = logging.getLogger(__name__)


class Turns:
    """Takes the turns of all kept resources."""

    def __init__(
        self,
        clients: Clients,
        fleet: Fleet,
        pod_index: PodIndex,
        options: LeaseOptions,
        *,
        clock: Callable[[], float],
        wall: Callable[[], ClockPair],
        forget: Callable[[str], None],
        note_unused: Callable[[], None],
    ) -> None:
        def secret(kept: Kept) -> tuple[str, str]:
            named = kept.resource.spec.credentials_secret_ref
            return (kept.resource.namespace, named.name if named is not None else options.credentials_secret)

        self._publisher, self._tenures = clients.publisher, clients.tenures
        self._fleet, self._pod_index, self._options = fleet, pod_index, options
        self._clock, self._wall, self._forget = clock, wall, forget
        self._note_unused = note_unused
        self._work = WorkCalls(clients, clock, wall, secret, fleet.rival)
        self._acks = AckCalls(clients, clock, wall, secret, self._work.find_in_list)
        self._pods = PodCalls(clients, clock, wall, secret, options)
        self._sessions = SessionCalls(clients, clock, wall, secret)
        self._resources = ResourceCalls(clients)
        self._status = StatusPublisher(clients.status, clients.checkpoint, clients.publisher, wall)
        self._queue = TurnQueue()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._is_closed = False

    def carry(self, uid: str) -> None:
        """Begin to take a resource's turns, one after the other, until it is done; no change if they have begun."""
        kept = self._fleet.get(uid)
        if kept is not None and not kept.calls.is_done and not self._is_closed:
            kept.turn.begin(partial(self._take_turn, kept), self._queue)
            if kept.lease.held:
                self._work.learn_key(kept)

    def leave(self, kept: Kept) -> None:
        """Take no more turns of a resource whose bucket is another process's; what is under way changes nothing."""
        kept.tenancy.is_left = kept.calls.is_done = True
        kept.turn.end()
        for task in tuple(kept.calls.under_way.values()):
            task.cancel()

    @property
    def due(self) -> float:
        """When the queue of turns moves on, by the loop's clock."""
        return self._queue.due

    async def close(self) -> None:
        """Wait shortly for the calls under way, then cancel them; the leases are left to the next process."""
        self._is_closed = True
        for kept in self._fleet:
            kept.turn.end()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=SHUTDOWN_TIMEOUT)
        for kept in self._fleet:
            self.remember(kept)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def remember(self, kept: Kept) -> None:
        """Leave a lease to the next process; a bug in it keeps no other lease from being left."""
        try:
            kept.take_observed()
            self._status.remember(kept, self._clock())
        except Exception:  # noqa: BLE001 (logged; the process ends)
            _log.exception("lease not written at the end, which is a bug of the operator's %s", kept.about)

    # --- One turn ----------------------------------------------------------------------------------------------

    def _take_turn(self, kept: Kept, *, is_news: bool) -> None:
        """Take a turn, and have the next one taken. A bug in it is logged, and ends no resource's turns."""
        try:
            until = self._turn(kept, is_news=is_news)
        except Exception:  # noqa: BLE001 (logged, and tried again: nothing is swallowed)
            _log.exception("turn failed, which is a bug of the operator's %s", kept.about)
            kept.schedule.look_at = kept.schedule.holds_until = -math.inf
            until = self._clock() + BUG_RETRY
        if kept.calls.is_done:
            kept.turn.end()
            if kept.is_vanished:
                self._forget(kept.resource.uid)
        else:
            kept.turn.add_after(min(max(0.0, until - self._clock()), LONGEST_WAIT))

    def _turn(self, kept: Kept, *, is_news: bool) -> float:
        """Do what is due, and return when to take the next turn if nothing happens before. Never waits.

        As a rule nothing happened since the last turn, and all that is due is a beat.
        """
        now = self._clock()
        kept.take_observed()
        if not is_news:
            if now >= kept.schedule.look_at:
                kept.turn.add_urgent()  # a whole turn, which waits in the queue: thousands may want one at once
                return math.inf
            if not kept.calls.is_waiting:
                return min(kept.schedule.look_at, self._beat_if_due(kept, now))
            kept.turn.add()
            return math.inf
        self._look(kept, now)
        until = min(kept.schedule.look_at, self._beat_if_due(kept, now))
        kept.situation = kept.gather()
        if self._status.publish(kept, now) and kept.lease.end is not None:
            self._fleet.wake_rivals(kept)
        return until

    def _look(self, kept: Kept, now: float) -> None:
        """Do what follows from the situation, and note when it changes by itself."""
        kept.follow_edit(self._options, now)
        if kept.lease.held and kept.lease.suspended and not (kept.is_vanished or self._may_fall_silent(kept)):
            kept.lease = replace(kept.lease, suspended=False)
            self._beat_first(kept)
        elif kept.is_suspended and not kept.lease.suspended and self._may_fall_silent(kept):
            kept.lease = replace(kept.lease, suspended=True)
        kept.lease = lapse(kept.lease, now)
        if kept.lease.held and kept.claim_time is None:
            kept.note_claim(self._wall())
        if kept.lease.held or not kept.calls.is_done:
            self._bind_new_pods(kept, now)
        kept.follow_pods()
        kept.pods.forgive(now)
        self._find_rival(kept)
        if is_fenced(kept.lease, now) and kept.lease.held and kept.pods.is_any_at_work:
            kept.pods.fence_fell = True
        kept.situation = self._conclude(kept, now)
        plan = decide(kept.situation, now)
        stands, is_any_put_off = self._tenures.standing(kept.tenancy.bucket), False
        for step in plan.steps:
            if stands is Standing.VALID or _is_due_whoever_comes_next(kept.lease, step, now):
                self._perform(kept, step)
            else:
                is_any_put_off = kept.tenancy.is_put_off = True
        session_at = self._look_at_session(kept, now)
        kept.schedule.holds_until = min(plan.holds_until, session_at)
        if kept.is_suspended is not kept.lease.suspended:
            kept.schedule.holds_until = -math.inf  # a beat that is accepted lets beats stop
        kept.schedule.look_at = min(LONGEST_WAIT + now if plan.look_at is None else plan.look_at, session_at)
        if is_any_put_off and (at := fence(kept.lease)) is not None and at > now:
            kept.schedule.look_at = min(kept.schedule.look_at, at)

    def _may_fall_silent(self, kept: Kept) -> bool:
        return may_fall_silent(kept.tenancy.succession, kept.lease, self._clock())

    def _beat_first(self, kept: Kept) -> None:
        """Have a beat accepted before beats stop by choice; one that failed is repeated at its own pace."""
        if kept.lease.failures == 0:
            kept.lease = beat_at_once(kept.lease, self._clock())

    def _look_at_session(self, kept: Kept, now: float) -> float:
        """Look at the session if that is due, and return when it will be; infinite: an answer comes first."""
        at = next_look(kept.situation, kept.calls.session, now)
        if now < at:
            return at
        self._start(kept, "session", self._sessions.look(kept))
        return math.inf

    def _find_rival(self, kept: Kept) -> None:
        """Look which resource of the item is first; the others look again if this one can claim, or cannot any more."""
        kept.rival = self._fleet.rival(kept)
        kept.predecessor = self._predecessor(kept) if kept.makes_pods else None
        if kept.lease.end is None and (later := self._fleet.successor(kept)) is not None:
            kept.lease = supersede(kept.lease, later)
        if (could_claim := kept.could_claim) is not kept.can_claim():
            kept.could_claim = not could_claim
            self._fleet.wake_rivals(kept)

    def _predecessor(self, kept: Kept) -> str | None:
        elsewhere = kept.pods.elsewhere
        is_fresh = elsewhere is not None and self._clock() < elsewhere[1]
        return self._fleet.predecessor(kept) or (elsewhere[0] if elsewhere is not None and is_fresh else None)

    def _conclude(self, kept: Kept, now: float) -> Situation:
        """Gather all that is to be decided upon, and conclude what became of the sandbox."""
        if not kept.is_deleting or kept.pods.is_any_at_work:
            kept.emptied = None
        elif kept.emptied is None:
            kept.emptied = now
        situation = kept.gather(kept.discard_at(self._wall()) if kept.lease.end is not None else None)
        if situation.ending is not None or (ending := conclude(situation, now)) is None:
            return situation
        kept.pods.ending = ending
        self._publisher.publish(SandboxEnded(kept.about, ending.pod, ending.cause.value, ending.message))
        return replace(situation, ending=ending)

    def _beat_if_due(self, kept: Kept, now: float) -> float:
        """Do what is due about the next beat, and return when to look again."""
        calls = kept.calls
        plan = plan_beat(
            kept.lease,
            now,
            generation=kept.resource.generation,
            dry_run=calls.dry_run,
            is_waiting=calls.is_waiting,
            is_under_way="beat" in calls.under_way,
            is_done=calls.is_done,
            is_deleting=kept.is_deleting,
            has_rival=kept.rival is not None,
            # A pool's lease is made with the finalizer; its label, which goes by its uid, keeps no claim waiting.
            has_finalizer=calls.has_finalizer and (calls.is_labelled or kept.lease.sent is None),
            makes_pods=kept.makes_pods,
            ack=calls.ack,
            is_acknowledging="acknowledge" in calls.under_way,
        )
        if plan.steps and self._is_put_off(kept, plan.steps):
            return math.inf
        for step in plan.steps:
            self._take_beat_step(kept, step)
        return plan.until

    def _is_put_off(self, kept: Kept, steps: Collection[BeatStep]) -> bool:
        """Whether a beat must not begin before the process is the valid holder again.

        Of a lease that was held its call asks, in the step in which it sends the beat.
        """
        tenancy = kept.tenancy
        if tenancy.is_silent or kept.lease.sent is not None:
            return tenancy.is_silent
        if self._tenures.may(Act.FIRST_CLAIM, tenancy.bucket) is Leave.YES or BeatStep.CANCEL in steps:
            return False
        tenancy.is_put_off = True  # also what comes before a claim: it is another process's, perhaps
        return True

    def _take_beat_step(self, kept: Kept, step: BeatStep) -> None:
        calls = kept.calls
        match step:
            case BeatStep.SEND:
                self._start(kept, "beat", self._work.beat(kept))
            case BeatStep.CANCEL:
                calls.under_way["beat"].cancel()  # it waits for a turn that it does not need any more
            case BeatStep.NOTE_BUDGET_SHORT:
                kept.lease = note_budget_short(kept.lease, self._work.shortage(kept))
            case BeatStep.ASK_DRY_RUN:
                self._start(kept, "dry run", self._pods.dry_run(kept))
            case BeatStep.ACKNOWLEDGE:
                self._start(kept, "acknowledge", self._acks.acknowledge(kept))
            case BeatStep.END_UNCLAIMED:
                kept.lease = end_unclaimed(kept.lease, "" if calls.ack is None else calls.ack.message)
                kept.turn.add()
            case BeatStep.ADD_FINALIZER:
                self._start(kept, "finalizer", self._resources.add_finalizer(kept))
            case _:
                assert_never(step)

    # --- Pods --------------------------------------------------------------------------------------------------

    def bind(self, kept: Kept, pod: Pod, now: float) -> None:
        """Let a resource bind a pod, unless one of an earlier delivery still has it, which ends the pod."""
        if pod.uid in kept.pods.strays:
            return
        is_known, is_done = pod.uid in kept.pods.bound, kept.calls.is_done
        if not is_done and (is_known or not self._fleet.is_anothers(kept, pod)) and kept.bind(pod, now):
            if not is_known:
                self._pods.note_seen(kept, pod)
        elif is_done and is_stray(pod, kept.resource.uid, is_known=is_known, keeps_failed=kept.keeps_failed):
            self._start(kept, f"end {pod.uid}", self._pods.end_stray(kept, pod))
        elif not is_known:
            self._note_ignored(kept, pod)

    def look_at(self, kept: Kept, uid: str) -> None:
        """Look whether a bound pod is still there."""
        pod = kept.pods.bound.get(uid)
        if pod is not None and not pod.gone:
            in_sight = lambda: self._pod_index.item_of(uid) != NOWHERE  # noqa: E731 (used once, in the next line)
            self._start(kept, f"look {uid}", self._pods.look(kept, pod, in_sight))

    def _bind_new_pods(self, kept: Kept, now: float) -> None:
        for pod in self._pod_index.pods_of(kept.item):
            known = kept.pods.bound.get(pod.uid)
            # What an earlier process knew may have been reported long before its bucket was taken.
            if known is None or known.is_remembered:
                self.bind(kept, pod, now)

    def _note_ignored(self, kept: Kept, pod: Pod) -> None:
        """Publish once that a pod carries the item's labels and is ignored."""
        if pod.uid in kept.pods.ignored:
            return
        is_wanted = self._fleet.is_wanted(kept.item)
        why = why_ignored(pod, kept.resource.uid, kept.lease, is_done=kept.calls.is_done, is_wanted=is_wanted)
        if why:
            kept.pods.ignored |= {pod.uid}
            message = f"Pod {pod.name} carries the labels of this work item and is left alone: {why}."
            self._publisher.publish(PodIgnored(kept.about, pod.name, message))

    # --- What takes time ---------------------------------------------------------------------------------------

    def _perform(self, kept: Kept, step: Step) -> None:
        match step:
            case EndPod(uid):
                self._start(kept, f"end {uid}", self._pods.end(kept, step))
            case AskToFinish(uid):
                self._start(kept, f"finish {uid}", self._pods.let_finish(kept, step))
            case StopItem(force):
                self._start(kept, "stop", self._work.stop(kept, force=force))
            case BeatNow():
                kept.lease = beat_at_once(kept.lease, self._clock())
            case MakePod(attempt):
                self._start(kept, "make", self._pods.make(kept, attempt))
            case Restart(attempt):
                self._start(kept, "restart", self._pods.restart(kept, attempt))
            case AwaitAnother(attempt):
                self._pods.await_another(kept, attempt)
            case AwaitNode(uid, node):
                self._start(kept, f"node {uid}", self._pods.await_node(kept, uid, node))
            case Release(message) if self._may_fall_silent(kept):
                kept.lease = release(kept.lease, message)
                kept.turn.add()
            case Release():
                self._beat_first(kept)
            case ListPods():
                self._start(kept, "list pods", self._pods.list_pods(kept, partial(self._fleet.is_anothers, kept)))
            case DeleteResource():
                self._start(kept, "delete", self._resources.delete(kept))
            case RemoveFinalizer() if kept.lease.held and not (kept.is_vanished or self._may_fall_silent(kept)):
                self._beat_first(kept)
            case RemoveFinalizer(left):
                self._finish(kept, left)
            case _:
                assert_never(step)

    def _finish(self, kept: Kept, left: str) -> None:
        """Remove the finalizer, or mark a resource that has none as done."""
        calls = kept.calls
        is_claiming = "acknowledge" in calls.under_way or "beat" in calls.under_way
        if "make" in calls.under_way or (is_claiming and kept.lease.sent is None):
            # A claim or a pod is under way: its outcome must be known, and given back. What is unsent is cancelled.
            for what in calls.unsent & {"acknowledge", "beat", "make"}:
                calls.under_way[what].cancel()
        elif calls.has_finalizer:
            self._start(kept, "finalizer", self._resources.remove_finalizer(kept, left))
        elif _is_to_be_deleted(kept):
            kept.turn.add()
        else:
            calls.is_done = True
            self._fleet.wake_rivals(kept)
            self._bind_new_pods(kept, self._clock())  # what came while the finalizer was removed

    def remove_from_unreadable(self, reference: Reference) -> None:
        """Remove the finalizer from a resource that is being deleted and that this version cannot read."""
        call = self._resources.remove_from_unreadable(reference)
        task = asyncio.create_task(call, name=f"remove finalizer of {reference.name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _start(self, kept: Kept, what: str, call: Coroutine[Any, Any, None]) -> None:
        """Start a call, unless one that does the same is under way; its end brings a turn."""
        if what in kept.calls.under_way:
            call.close()
            return
        task = asyncio.create_task(call, name=f"{what} of {kept.resource.namespace}/{kept.resource.name}")
        kept.calls.under_way[what] = task
        self._tasks.add(task)
        task.add_done_callback(partial(self._ended, kept, what))

    def _ended(self, kept: Kept, what: str, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if kept.tenancy.is_left:
            kept.calls.under_way.pop(what, None)
            return
        try:
            kept.take_observed()
            if not task.cancelled():
                task.result()
        except Exception:  # noqa: BLE001 (logged, and tried again: nothing is swallowed)
            _log.exception("%s failed, which is a bug of the operator's %s", what, kept.about)
            # Not at once: what fails because of a bug fails again, and would slow every other lease.
            asyncio.get_running_loop().call_later(BUG_RETRY, self._follow, kept, what)
        else:
            self._follow(kept, what)

    def _follow(self, kept: Kept, what: str) -> None:
        """Follow the end of a call; a beat that only renewed a steady lease needs no whole turn."""
        del kept.calls.under_way[what]
        is_steady = what == "beat" and kept.schedule.is_kept_by_renewals and not kept.turn.is_news
        if is_steady and self._status.publish_renewal(kept, now := self._clock()):
            kept.schedule.follow_renewal(kept.lease)
            # What was decided before still holds until then.
            kept.turn.add_after(max(0.0, min(kept.schedule.look_at, kept.lease.due) - now))
            return
        if what == "beat" and kept.lease.end is None:
            # However many resources have news, the next beat is sent in time.
            kept.turn.add_after(max(0.0, kept.lease.due - self._clock()))
        if what in {"acknowledge", "beat"} and kept.lease.sent is None:
            self._fleet.wake_rivals(kept)  # a claim that was under way kept them from theirs
        if what == "finalizer" and not kept.is_open and workspace_of(kept) is not None:
            self._note_unused()
        kept.turn.add()


def _is_due_whoever_comes_next(lease: Lease, step: Step, now: float) -> bool:
    """Whether a step is right though another process may hold the bucket: a deletion at the fence, or no call at all.

    The deletion reads the bucket before it is sent.
    """
    return isinstance(step, BeatNow) or (isinstance(step, EndPod) and is_fenced(lease, now))


def _is_to_be_deleted(kept: Kept) -> bool:
    """Whether a finished resource waits to be deleted: its status must say since when it is finished first."""
    keeps = kept.resource.spec.ttl_seconds_after_finished
    return kept.lease.end is not None and keeps is not None and not kept.is_deleting
