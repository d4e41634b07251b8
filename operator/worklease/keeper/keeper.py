"""The keeper: one turn of one lease after the other. Decide, do, observe; all concurrency questions are answered here.

Owns what is under way. A lease has one actor, one order of events and no locks: its Kopf timer begins its turns, and
each says when the next is due if nothing happens before. A turn never awaits: what takes time (a beat, a stop, a
deletion) is a call of its own, whose outcome wakes the next turn. Must not contain rules: those are in ``lease`` and
``lifecycle``.
"""

import asyncio
import logging
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final, assert_never

from worklease.api.models import InvalidResource, WorkLease
from worklease.api.names import FINALIZER, NOWHERE, Address, Reference, pod_address
from worklease.clocks import ClockPair
from worklease.cluster.pods import read_pod
from worklease.cluster.status_writer import Urgency
from worklease.keeper.calls import Calls, Clients
from worklease.keeper.kept import DryRun, Kept, LeaseOptions, resume
from worklease.keeper.pod_index import PodIndex, drop
from worklease.keeper.publisher import StatusPublisher
from worklease.keeper.turn_queue import TurnQueue
from worklease.rules import lease
from worklease.rules.conditions import Kind, invalid
from worklease.rules.lease import Beat, Lease, Rest, Wait
from worklease.rules.lifecycle import (
    Discard,
    EndPod,
    Inquire,
    ListPods,
    MakePod,
    Release,
    RemoveFinalizer,
    Restart,
    Step,
    StopItem,
    decide,
)
from worklease.rules.pods import Pod
from worklease.rules.situation import Situation, conclude
from worklease.telemetry import PodIgnored, SandboxEnded

LONGEST_WAIT: Final = 3600.0
"""Seconds that a turn waits at most, so that even a mistaken wait ends."""

TIMER_GRACE: Final = 1.0
"""Seconds after which a resource's turns begin without its timer: Kopf may be away."""

SHUTDOWN_TIMEOUT: Final = 1.0
"""Seconds that calls under way may take to end: an answer that is read now is no doubt later."""

BUG_RETRY: Final = 5.0
"""Seconds until the turn of a resource is tried again after a mistake of ours ended it."""

_log = logging.getLogger(__name__)


class Keeper:
    """All kept leases of this process."""

    def __init__(
        self, clients: Clients, options: LeaseOptions, clock: Callable[[], float], wall: Callable[[], ClockPair]
    ) -> None:
        self._clients = clients
        self._calls = Calls(clients, clock, wall, options.credentials_secret)
        self._status_publisher = StatusPublisher(clients.status, clients.checkpoint, clients.publisher, wall)
        self._options = options
        self._clock = clock
        self._wall = wall
        self._kept: dict[str, Kept] = {}
        self._by_work: defaultdict[tuple[str, str], dict[str, Kept]] = defaultdict(dict)
        self._by_item: defaultdict[Address, dict[str, Kept]] = defaultdict(dict)
        self._pod_index = PodIndex()
        self._is_closed = False
        self._queue = TurnQueue()
        self._tasks: set[asyncio.Task[Any]] = set()

    # --- What is told by the watches ---------------------------------------------------------------------------

    def see(self, body: Mapping[str, Any]) -> None:
        """Take note of a resource as the API server has it now."""
        metadata = body["metadata"]
        kept = self._kept.get(metadata["uid"])
        if kept is not None:
            self._clients.status.saw(kept.reference, metadata["resourceVersion"])
            if not _is_news(kept.resource, metadata):
                return
        try:
            resource = WorkLease.parse(body)
        except InvalidResource as error:
            self._refuse(body, str(error))
            if metadata.get("deletionTimestamp") is not None:
                self._end_unread(kept, metadata)
            return
        if kept is not None:
            kept.edited(resource, self._options, self._clock())
            # Never back: an event may be older than our own write.
            kept.has_finalizer = kept.has_finalizer or FINALIZER in resource.finalizers
            if kept.done and kept.lease.end is not None and resource.spec.ttl_seconds_after_finished is not None:
                kept.done = False  # it was finished for good; now it is not to be kept
                self.carry(resource.uid)
            kept.turn.add()
            return
        self._keep(resource, metadata["resourceVersion"])

    def _end_unread(self, kept: Kept | None, metadata: Mapping[str, Any]) -> None:
        """Hear the deletion of what cannot be read: what is kept stays as it was, and nothing else is held up."""
        if kept is not None:
            kept.resource = replace(kept.resource, deletion_timestamp=self._wall().utc)
            kept.turn.add()
        elif FINALIZER in (metadata.get("finalizers") or ()):
            reference = Reference(metadata["namespace"], metadata["name"], metadata["uid"])
            task = asyncio.create_task(self._calls.abandon(reference), name=f"abandon {reference.name}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def unsee(self, uid: str) -> None:
        """Take note that a resource is no more: nothing further is done for it."""
        self._clients.status.forget(uid)
        kept = self._kept.pop(uid, None)
        if kept is None:
            return
        drop(self._by_item, kept.item, uid)
        drop(self._by_work, kept.item[1:], uid)
        self._wake_rivals(kept)
        self._clients.checkpoint.drop(uid)
        kept.done = True
        kept.turn.end()
        _log.info("resource gone %s", kept.who)

    def see_pod(self, body: Mapping[str, Any]) -> None:
        """Take note of a pod that carries the labels of a work item."""
        pod = read_pod(body)
        item, before = self._pod_index.see(pod, pod_address(body))
        for kept in {
            id(each): each for place in (item, before) for each in self._by_item.get(place, {}).values()
        }.values():
            if kept.item == item or pod.uid in kept.bound:
                self._bind(kept, pod, self._clock())
                kept.turn.add()

    def unsee_pod(self, body: Mapping[str, Any]) -> None:
        """Look after a pod that a watch reports as deleted: it may only have lost a label.

        The event has its last state, which says how it ended.
        """
        pod = read_pod(body)
        for kept in self._by_item.get(self._pod_index.place(pod.uid), {}).values():
            if pod.uid in kept.bound and not kept.bound[pod.uid].gone:
                kept.bind(pod, self._clock())
        self.lose_pod(pod.uid)

    def lose_pod(self, uid: str) -> None:
        """Look after a pod that is not found any more under the labels that it had."""
        for kept in self._by_item.get(self._pod_index.lose(uid), {}).values():
            self._look_at(kept, uid)

    def count_pods(self, there: Collection[str]) -> None:
        """Look after pods that an earlier process knew and that a list of all does not have."""
        for kept in self._kept.values():
            for pod in tuple(kept.bound.values()):
                if pod.is_remembered and pod.uid not in there:
                    self._look_at(kept, pod.uid)

    def _note_ignored(self, kept: Kept, pod: Pod) -> None:
        """Tell once of a pod that carries the item's labels and is not touched."""
        if pod.uid in kept.bound or pod.uid in kept.ignored or pod.gone or not pod.is_at_work:
            return
        if pod.controller not in {"", kept.resource.uid} and not kept.done:
            why = f"another WorkLease (uid {pod.controller}) controls it"
        elif kept.done and kept.lease.end is not None and not self._is_anybodys(kept.item):
            why = "it came after this lease had finished; delete it if nobody needs it"
        else:
            return
        kept.ignored |= {pod.uid}
        message = f"Pod {pod.name} carries the labels of this work item and is left alone: {why}."
        self._clients.publisher.publish(PodIgnored(kept.about, pod.name, message))

    def _is_anybodys(self, item: Address) -> bool:
        """Tell whether a resource keeps the item's lease, or is about to."""
        return any(each.lease.end is None for each in self._by_item.get(item, {}).values())

    def _keep(self, resource: WorkLease, version: str) -> None:
        kept = resume(
            resource, self._options, self._clients.checkpoint.recall(resource.uid), self._wall(), self._clock()
        )
        kept.has_finalizer = FINALIZER in resource.finalizers
        self._clients.status.saw(kept.reference, version)
        self._kept[resource.uid] = self._by_item[kept.item][resource.uid] = kept
        self._by_work[kept.item[1:]][resource.uid] = kept
        self._wake_rivals(kept)
        is_resumed = kept.lease.sent is not None
        _log.info("resource %s %s", "resumed" if is_resumed else "found", kept.who)
        if is_resumed:
            self.carry(resource.uid)  # its lease runs already
        else:
            asyncio.get_running_loop().call_later(TIMER_GRACE, self.carry, resource.uid)

    def _refuse(self, body: Mapping[str, Any], message: str) -> None:
        """Tell the author of a spec that the API server took and the operator cannot act on."""
        metadata = body["metadata"]
        reference = Reference(metadata["namespace"], metadata["name"], metadata["uid"])
        _log.warning("resource invalid namespace=%s name=%s: %s", reference.namespace, reference.name, message)
        conditions = [
            {
                "type": condition.kind.value,
                "status": condition.verdict.value,
                "reason": condition.reason.value,
                "message": message,
                "lastTransitionTime": metadata["creationTimestamp"],
            }
            for condition in invalid(message)
        ]
        self._clients.status.publish(reference, {"conditions": conditions}, Urgency.CHANGE)

    def overdue(self) -> float:
        """Say by how many seconds the most overdue of all turns is late."""
        next_turn = min((kept.turn.due for kept in self._kept.values()), default=math.inf)
        return max(0.0, asyncio.get_running_loop().time() - min(next_turn, self._queue.due))

    def leases(self) -> Iterator[tuple[Lease, str]]:
        """Give each kept lease, and the reason of its ``LeaseHeld`` as it was last told."""
        told = [(kept.lease, kept.reason(Kind.LEASE_HELD)) for kept in self._kept.values()]
        return ((held, reason) for held, reason in told if reason is not None)

    # --- Whose turn it is --------------------------------------------------------------------------------------

    def carry(self, uid: str) -> None:
        """Have a resource's turns taken, one after the other, until it is let go; if they are not already."""
        kept = self._kept.get(uid)
        if kept is not None and not kept.done and not self._is_closed:
            kept.turn.begin(partial(self._take_turn, kept), self._queue)

    def wake_all(self) -> None:
        """Look at every resource now."""
        for kept in self._kept.values():
            kept.turn.add()

    def _take_turn(self, kept: Kept, *, is_news: bool) -> None:
        """Take a turn, and have the next one taken."""
        until = self._guarded_turn(kept, is_news=is_news)
        if kept.done:
            kept.turn.end()
        else:
            kept.turn.add_after(min(max(0.0, until - self._clock()), LONGEST_WAIT))

    # --- One turn ----------------------------------------------------------------------------------------------

    def _guarded_turn(self, kept: Kept, *, is_news: bool) -> float:
        """Take one turn; a mistake of ours in it is told, and ends no other lease's turns, nor this one's."""
        try:
            return self._turn(kept, is_news=is_news)
        except Exception:  # noqa: BLE001 (told, and tried again: nothing is swallowed)
            _log.exception("turn failed, which is a mistake of the operator's %s", kept.who)
            kept.look_at = kept.holds_until = -math.inf
            return self._clock() + BUG_RETRY

    def _turn(self, kept: Kept, *, is_news: bool) -> float:
        """Do what is due, and say when to take the next turn if nothing happens before. Never waits.

        As a rule nothing happened since the last turn, and all that is due is a beat.
        """
        now = self._clock()
        if not is_news:
            if now >= kept.look_at:
                kept.turn.add_urgent()  # a whole turn, which waits for its place: thousands may take one at once
                return math.inf
            if not kept.queued:
                return min(kept.look_at, self._beat_if_due(kept, now))
            kept.turn.add()
            return math.inf
        kept.look_at = self._follow(kept, now)
        until = min(kept.look_at, self._beat_if_due(kept, now))
        if self._status_publisher.publish(kept, now) and kept.lease.end is not None:
            self._wake_rivals(kept)
        return until

    def _follow(self, kept: Kept, now: float) -> float:
        """Do what follows from the situation, and say when it changes by itself."""
        kept.lease = lease.lapse(kept.lease, now)
        if kept.lease.held and kept.claim_time is None:
            kept.note_claim(self._wall())
        self._bind_pods(kept, now)
        self._yield_to_rival(kept)
        if lease.is_fenced(kept.lease, now) and kept.lease.held and any(pod.is_at_work for pod in kept.bound.values()):
            kept.fence_fell = True
        plan = decide(self._situation(kept, now), now)
        for step in plan.steps:
            self._perform(kept, step)
        kept.holds_until = plan.holds_until
        return LONGEST_WAIT + now if plan.look_at is None else plan.look_at

    def _bind_pods(self, kept: Kept, now: float) -> None:
        if not kept.lease.held and kept.done:
            return
        for pod in self._pod_index.of(kept.item):
            if pod.uid not in kept.bound:
                self._bind(kept, pod, now)

    def _bind(self, kept: Kept, pod: Pod, now: float) -> None:
        """Let a resource bind a pod, unless it is another one's still: that of an earlier delivery, which ends it."""
        is_known = pod.uid in kept.bound
        if not kept.done and (is_known or not self._is_anothers(kept, pod)) and kept.bind(pod, now) and not is_known:
            self._calls.note_seen(kept, pod)
        self._note_ignored(kept, pod)

    def _is_anothers(self, kept: Kept, pod: Pod) -> bool:
        """Tell whether another resource has bound a pod that is there."""
        others = (each for each in self._by_item.get(kept.item, {}).values() if each is not kept)
        return any(pod.uid in each.bound and not each.bound[pod.uid].gone for each in others)

    def _situation(self, kept: Kept, now: float) -> Situation:
        """Gather all that is to be decided upon, and conclude what became of the sandbox."""
        if kept.resource.deletion_timestamp is None or any(pod.is_at_work for pod in kept.bound.values()):
            kept.emptied = None
        elif kept.emptied is None:
            kept.emptied = now
        situation = kept.situation(kept.discard_at(self._wall()) if kept.lease.end is not None else None)
        if kept.ending is not None or (ending := conclude(situation, now)) is None:
            return situation
        kept.ending = ending
        self._clients.publisher.publish(SandboxEnded(kept.about, ending.pod, ending.cause.value, ending.message))
        return replace(situation, ending=ending)

    def _is_dry_run_accepted(self, kept: Kept, now: float) -> bool:
        """Tell whether the API server would make the template's pod; asks it if that is not known."""
        match kept.dry_run:
            case DryRun(generation, problem, again) if generation == kept.resource.generation and now < again:
                return not problem
            case _:
                self._start(kept, "dry run", self._calls.dry_run(kept))
                return False

    def _beat_if_due(self, kept: Kept, now: float) -> float:
        """Start the beat that is due, and say when to come back for the next; never, where something else will tell."""
        if kept.queued and kept.lease.end is not None:
            kept.calls["beat"].cancel()  # it waits for a turn that it needs no more
        elif kept.queued:
            return self._note_if_budget_short(kept, now)
        if "beat" in kept.calls or kept.done or kept.lease.end is not None:
            return math.inf
        is_claim = kept.lease.sent is None and kept.resource.deletion_timestamp is None and kept.rival is None
        if is_claim and kept.makes_pods and not self._is_dry_run_accepted(kept, now):
            # While it is being asked, the answer wakes the next turn.
            return math.inf if "dry run" in kept.calls or kept.dry_run is None else kept.dry_run.again
        was_beaten = kept.lease.sent is not None
        if not kept.has_finalizer and (kept.lease.held or not was_beaten) and kept.resource.deletion_timestamp is None:
            # What is claimed must be given back, whoever deletes the resource: so the finalizer comes first. What is
            # held already lost it when an earlier installation was removed: there no beat waits for it.
            self._start(kept, "finalizer", self._calls.add_finalizer(kept))
            if not was_beaten:
                return math.inf
        match lease.decide(kept.lease, now):
            case Beat() if kept.rival is None and (kept.lease.held or kept.resource.deletion_timestamp is None):
                self._start(kept, "beat", self._calls.beat(kept))
                return lease.latest(kept.lease)
            case Wait(until):
                return until
            case Beat() | Rest():
                return math.inf
            case action:
                assert_never(action)

    def _note_if_budget_short(self, kept: Kept, now: float) -> float:
        """Say so on a lease whose beat waits for its turn longer than it may, before the lease is lost by it."""
        latest = lease.latest(kept.lease)
        if now >= latest and kept.lease.trouble is None:
            kept.lease = lease.note_budget_short(kept.lease, self._clients.budget.shortage(now))
        return latest if now < latest else math.inf

    def _yield_to_rival(self, kept: Kept) -> None:
        """Find out who of several resources for one work item keeps its lease; the others do nothing meanwhile."""
        same = self._by_work.get(kept.item[1:], {})
        if len(same) <= 1:
            kept.rival = None
            return
        alive = [each for each in same.values() if each.lease.end is None and not each.done]
        first = min(alive, key=lambda each: each.seniority, default=kept)
        has_rival = first is not kept and kept.lease.end is None
        kept.rival = f"{first.reference.namespace}/{first.reference.name}" if has_rival else None

    def _wake_rivals(self, kept: Kept) -> None:
        for other in self._by_work.get(kept.item[1:], {}).values():
            if other is not kept:
                other.turn.add()

    def _perform(self, kept: Kept, step: Step) -> None:
        match step:
            case EndPod(uid):
                self._start(kept, f"end {uid}", self._calls.end(kept, step))
            case StopItem(force):
                self._start(kept, "stop", self._calls.stop(kept, force=force))
            case Inquire():
                kept.lease = lease.beat_at_once(kept.lease, self._clock())
            case MakePod(attempt):
                self._start(kept, "make", self._calls.make(kept, attempt))
            case Restart(attempt):
                self._start(kept, "restart", self._calls.restart(kept, attempt))
            case Release(message):
                kept.lease = lease.release(kept.lease, message)
                kept.turn.add()
            case ListPods():
                self._start(kept, "list pods", self._calls.list_pods(kept, partial(self._is_anothers, kept)))
            case Discard():
                self._start(kept, "discard", self._calls.discard(kept))
            case RemoveFinalizer() if "make" in kept.calls or ("beat" in kept.calls and kept.lease.sent is None):
                # A claim or a pod is under way: what it brings must be known, and given back. What only waits is not.
                for what in kept.unsent & {"beat", "make"}:
                    kept.calls[what].cancel()
            case RemoveFinalizer(left) if kept.has_finalizer:
                self._start(kept, "finalizer", self._calls.release(kept, left))
            case RemoveFinalizer():
                kept.done = not self._is_to_be_discarded(kept)
                if kept.done:
                    self._wake_rivals(kept)
                else:
                    kept.turn.add()
            case _:
                assert_never(step)

    def _is_to_be_discarded(self, kept: Kept) -> bool:
        """Tell whether a finished resource waits to be deleted: its status must say since when it is finished first."""
        keeps = kept.resource.spec.ttl_seconds_after_finished
        return kept.lease.end is not None and keeps is not None and kept.resource.deletion_timestamp is None

    # --- What takes time ---------------------------------------------------------------------------------------

    def _start(self, kept: Kept, what: str, call: Coroutine[Any, Any, None]) -> None:
        """Start a call, unless one of its kind is under way; its end wakes the resource."""
        if what in kept.calls:
            call.close()
            return
        task = asyncio.create_task(call, name=f"{what} of {kept.resource.namespace}/{kept.resource.name}")
        kept.calls[what] = task
        self._tasks.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                _log.error("%s failed, which is a mistake of the operator's %s", what, kept.who, exc_info=error)
                # Not at once: what fails for a mistake fails again, and would slow every other lease.
                asyncio.get_running_loop().call_later(BUG_RETRY, again)
            else:
                again()

        def again() -> None:
            del kept.calls[what]
            if what == "beat" and not kept.turn.is_news and self._status_publisher.publish_renewal(kept, self._clock()):
                kept.renewed()
                kept.turn.take_now()  # what was decided before holds on
            else:
                if what == "beat" and kept.lease.end is None:
                    # However many have news, the next beat is sent in time.
                    kept.turn.add_after(max(0.0, kept.lease.due - self._clock()))
                kept.turn.add()

        task.add_done_callback(ended)

    def _look_at(self, kept: Kept, uid: str) -> None:
        pod = kept.bound.get(uid)
        if pod is not None and not pod.gone:
            in_sight = lambda: self._pod_index.place(uid) != NOWHERE  # noqa: E731 (nobody else asks)
            self._start(kept, f"look {uid}", self._calls.look(kept, pod, in_sight))

    async def close(self) -> None:
        """End what is under way, or break it off; the leases are left to the next process."""
        self._is_closed = True
        for kept in self._kept.values():
            kept.turn.end()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=SHUTDOWN_TIMEOUT)
        for kept in self._kept.values():
            self._status_publisher.remember(kept, self._clock())
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _is_news(known: WorkLease, metadata: Mapping[str, Any]) -> bool:
    """Tell whether a resource changed in what we act upon; the echoes of our own status writes did not.

    What is older than what is known is no news: a list may be, or a timer's body. A generation only grows, and a
    deletion is never taken back.
    """
    is_deleting = metadata.get("deletionTimestamp") is not None
    was_deleting = known.deletion_timestamp is not None
    if metadata.get("generation", known.generation) < known.generation or (was_deleting and not is_deleting):
        return False
    return (
        metadata.get("generation") != known.generation
        or is_deleting != was_deleting
        or tuple(metadata.get("finalizers") or ()) != known.finalizers
    )
