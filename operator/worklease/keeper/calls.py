"""What takes time, done once for one kept resource: a beat, a stop, a pod's making or end, a write of the finalizer.

Owns the calls that a turn starts, and how their outcome is noted in what is kept. Must not start anything by itself,
and must not decide: the next turn does.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final, assert_never

from worklease.api.names import Reference
from worklease.clocks import ClockPair
from worklease.cluster import finalizer
from worklease.cluster.checkpoint import Checkpoint
from worklease.cluster.client import Done, Gone, KubernetesApi, NoAnswer, NotDone, Refused
from worklease.cluster.credentials import Credentials, Key, NoKey
from worklease.cluster.pod_template import pod_body, pod_name
from worklease.cluster.pods import DeletionAccepted, DryRunAccepted, DryRunRejected, Made, Pods
from worklease.cluster.shared_pod_list import SharedPodList
from worklease.cluster.status_writer import StatusWriter
from worklease.keeper.kept import DryRun, Kept
from worklease.rules import lease
from worklease.rules.lease import Beat, End
from worklease.rules.lifecycle import EndPod
from worklease.rules.outcomes import (
    CredentialsMissing,
    Exchange,
    ListedItem,
    Outcome,
    Throttled,
    Unanswered,
    Unauthorized,
)
from worklease.rules.pods import Pod
from worklease.rules.situation import Asked, Attempt, is_running
from worklease.telemetry import (
    About,
    BeatEnded,
    DeletionAsked,
    DeletionRefused,
    LeaseAdopted,
    Orphaned,
    Publisher,
    SandboxGone,
    SandboxMade,
    StopEnded,
)
from worklease.work_api.budget import Budget, BudgetRequest, Rank
from worklease.work_api.client import StopAcknowledged, StopNotAcknowledged, StopOutcome, WorkApi, WorkItem
from worklease.work_api.shared_list import SharedList

RETRY: Final = 1.0
"""Seconds before a look at a pod, or a write to the resource itself, is repeated."""

LONGEST_RETRY: Final = 10.0
"""Seconds between such repetitions at most."""

DRY_RUN_RETRY: Final = 60.0
"""Seconds before a template that was refused is tried again unedited: a quota or a policy may have changed."""

STATUS_TIMEOUT: Final = 10.0
"""Seconds for which a pod that ended by itself stays until the status tells of it; nothing runs in it any more. A
resource that is over waits as long for the end of its record."""

_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Clients:
    """Everything that the keeper performs with."""

    kubernetes: KubernetesApi
    work_api: WorkApi
    credentials: Credentials
    sandboxes: Pods
    status: StatusWriter
    budget: Budget
    listing: SharedList
    shared_pod_list: SharedPodList
    checkpoint: Checkpoint
    publisher: Publisher


class Calls:
    """The calls for kept resources; each is a coroutine that ends when its outcome is noted."""

    def __init__(
        self, clients: Clients, clock: Callable[[], float], wall: Callable[[], ClockPair], credentials_secret: str
    ) -> None:
        self._clients = clients
        self._credentials_secret = credentials_secret
        self._clock = clock
        self._wall = wall

    async def beat(self, kept: Kept) -> None:
        """Wait for this lease's turn, send the heartbeat that it asks for by then, and let it observe the outcome."""
        with _unsent(kept, "beat") as send:
            await self._beat(kept, send)

    async def _beat(self, kept: Kept, send: Callable[[], None]) -> None:
        key = await self._clients.credentials.key(*self._secret(kept))
        if isinstance(key, NoKey):
            # Nothing is sent, so nobody's turn is taken for it.
            kept.lease = lease.observe(kept.lease, CredentialsMissing(self._instant(), key.message))
            return
        if not self._clients.budget.is_open:
            if self._clients.budget.held(self._clock()):
                kept.lease = lease.note_crowded(kept.lease)
            kept.queued = True
            try:
                await self._clients.budget.turn(self._request(kept))
            finally:
                kept.queued = False
        if kept.lease.sent is None and kept.lease.value is None:
            # A claim whose answer is lost can be told from another worker's only by who knows that it was sent.
            await self._commit(kept)
        # Whatever held this process up meanwhile, the lease's end may have come.
        kept.lease = lease.lapse(kept.lease, self._clock())
        beat = lease.decide(kept.lease, self._clock())
        is_unwanted_claim = kept.lease.sent is None and kept.resource.deletion_timestamp is not None
        if kept.rival is None and not kept.done and not is_unwanted_claim and isinstance(beat, Beat):
            send()
            await self._send(kept, key, beat)

    def _request(self, kept: Kept) -> BudgetRequest:
        fence, end = lease.fence(kept.lease), lease.giving_up(kept.lease)
        is_routine = kept.lease.held and kept.lease.failures == 0
        return BudgetRequest(
            key=kept.resource.uid,
            rank=Rank.ROUTINE if is_routine else Rank.FIRST,
            fence=math.inf if fence is None else fence,
            end=math.inf if end is None else end,
            urgent=lease.latest(kept.lease),
        )

    async def _commit(self, kept: Kept) -> None:
        now = self._clock()
        text = kept.record(trying=now, wall=self._wall(), now=now)
        await self._clients.checkpoint.commit(kept.resource.uid, text)

    async def _send(self, kept: Kept, key: Key, beat: Beat) -> None:
        sent, before = self._clock(), kept.lease
        due = before.due or sent  # a first claim is due when it is made
        try:
            outcome = await self._heartbeat(kept, key, beat)
        except BaseException:
            # The call came to no end that is known, so the beat may have been applied all the same.
            broken_off = Unanswered(Exchange(sent=sent, done=self._clock()), "the beat was broken off")
            kept.lease = lease.observe(kept.lease, broken_off)
            raise
        seen = await self._consult(kept) if lease.is_doubtful(kept.lease, outcome) else None
        kept.lease = lease.observe(kept.lease, outcome, seen)
        if (rule := lease.adoption(before, outcome, kept.lease)) is not None:
            self._clients.publisher.publish(LeaseAdopted(kept.about, rule))
        if isinstance(outcome, Throttled | Unanswered) and outcome.retry_after is not None:
            self._clients.budget.hold(outcome.retry_after)
        late, took = max(0.0, sent - due), self._clock() - sent
        self._clients.publisher.publish(BeatEnded(kept.about, outcome, late=late, took=took))
        _log.debug("beat %s outcome=%s", kept.who, type(outcome).__name__)

    async def _heartbeat(self, kept: Kept, key: Key, beat: Beat) -> Outcome:
        """Send the beat; a key that is refused is read again, and another one is tried at once."""
        outcome = await self._clients.work_api.heartbeat(_item(kept, key), beat)
        if isinstance(outcome, Unauthorized):
            second = await self._clients.credentials.key_after_refusal(*self._secret(kept), key)
            if isinstance(second, NoKey):
                return CredentialsMissing(self._instant(), second.message)
            if second is not key:
                key = second
                await self._clients.budget.turn(self._request(kept))
                if lease.lapse(kept.lease, self._clock()).end is not None:
                    return outcome
                outcome = await self._clients.work_api.heartbeat(_item(kept, key), beat)
        if isinstance(outcome, Unauthorized):
            advice = f"{outcome.message}; {key.origin} is not good for this item: put a valid key there"
            return replace(outcome, message=advice)
        return outcome

    async def _consult(self, kept: Kept) -> ListedItem | None:
        """Look at the item in the environment's list, as long as a beat may take; None where it is not to be had."""
        key = await self._clients.credentials.key(*self._secret(kept))
        if isinstance(key, NoKey) or key.environment is None:
            return None
        spec = kept.resource.spec
        try:
            async with asyncio.timeout(lease.timeout(kept.lease)):
                turn = replace(self._request(kept), key=f"list {spec.environment_id}", rank=Rank.FIRST)
                items = await self._clients.listing.ask(spec.environment_id, key.environment, turn)
        except TimeoutError:
            _log.warning("list not had in time, the windows decide alone %s", kept.who)
            return None
        return items.get(spec.work_id) if items is not None else None

    def _instant(self) -> Exchange:
        now = self._clock()
        return Exchange(sent=now, done=now)

    def _secret(self, kept: Kept) -> tuple[str, str]:
        named = kept.resource.spec.credentials_secret_ref
        return (kept.resource.namespace, named.name if named is not None else self._credentials_secret)

    async def stop(self, kept: Kept, *, force: bool) -> None:
        """Ask for the stop of the item, and note whether it was heard."""
        before, sent = kept.forced_stop if force else kept.graceful_stop, self._clock()
        outcome = await self._send_stop(kept, force=force)
        match outcome:
            case StopAcknowledged(state):
                asked = Asked(sent, in_doubt=sent)
                kept.lease = lease.stop_acknowledged(kept.lease, state, self._clock())
            case StopNotAcknowledged(message):
                refusals = (before.refusals if before is not None else 0) + 1
                now = self._clock()
                asked = Asked(now, refusals, message, in_doubt=now if outcome.in_doubt else None)
            case _:
                assert_never(outcome)
        heard = isinstance(outcome, StopAcknowledged)
        self._clients.publisher.publish(
            StopEnded(kept.about, force=force, is_acknowledged=heard, message=asked.message)
        )
        if force:
            kept.forced_stop = asked
        else:
            kept.graceful_stop = asked

    async def _send_stop(self, kept: Kept, *, force: bool) -> StopOutcome:
        key = await self._clients.credentials.key(*self._secret(kept))
        if isinstance(key, NoKey) and kept.resource.deletion_timestamp is not None:
            # Secret and resource may be going together, with their namespace; what is ours is stopped all the same.
            key = self._clients.credentials.last_key(*self._secret(kept)) or key
        if isinstance(key, NoKey):
            return StopNotAcknowledged(key.message)
        outcome = await self._stop_once(kept, key, force=force)
        if isinstance(outcome, StopNotAcknowledged) and outcome.unauthorized:
            second = await self._clients.credentials.key_after_refusal(*self._secret(kept), key)
            if isinstance(second, Key) and second is not key:
                return await self._stop_once(kept, second, force=force)
        return outcome

    async def _stop_once(self, kept: Kept, key: Key, *, force: bool) -> StopOutcome:
        """Wait for the stop's turn, and send it if the item is still ours to stop by then."""
        turn = self._request(kept)
        until = min(turn.end, lease.may_stop_until(kept.lease))
        await self._clients.budget.turn(replace(turn, key=f"stop {turn.key}", rank=Rank.FIRST, end=until))
        if kept.done or not lease.may_stop(kept.lease, self._clock()):
            return StopNotAcknowledged("the lease ended before the stop could be sent")
        seconds = lease.timeout(kept.lease)
        outcome = await self._clients.work_api.stop(_item(kept, key), force=force, timeout=seconds)
        if isinstance(outcome, StopNotAcknowledged) and outcome.retry_after is not None:
            self._clients.budget.hold(outcome.retry_after)
        return outcome

    # --- Pods --------------------------------------------------------------------------------------------------

    async def dry_run(self, kept: Kept) -> None:
        """Ask whether the template's pod would be made, before anything is claimed for it."""
        generation = kept.resource.generation
        body = pod_body(kept.resource, kept.attempt.number, self._secret(kept)[1])
        while not kept.done:
            match await self._clients.sandboxes.dry_run(kept.resource.namespace, body):
                case DryRunAccepted():
                    kept.dry_run = DryRun(generation, "", math.inf)
                    return
                case DryRunRejected(message):
                    kept.dry_run = DryRun(generation, message, self._clock() + DRY_RUN_RETRY)
                    _log.warning("template refused, nothing is claimed %s: %s", kept.who, message)
                    return
                case NotDone(message):
                    _log.warning("template not tried yet, will try again %s: %s", kept.who, message)
                    await asyncio.sleep(RETRY)

    async def make(self, kept: Kept, attempt: int) -> None:
        """Make the sandbox of an attempt, or find it made.

        That the lease is held is written down first: who finds the pod after a crash must know whose item it works on.
        """
        with _unsent(kept, "make") as send:
            await self._note_held(kept)
            if not is_running(kept.situation(), self._clock()):
                return  # the lease, or the resource, did not wait for that
            send()
            await self._make(kept, attempt)

    async def _make(self, kept: Kept, attempt: int) -> None:
        body = pod_body(kept.resource, attempt, self._secret(kept)[1])
        before = dict(kept.bound)
        outcome = await self._clients.sandboxes.make(kept.resource.namespace, body)
        match outcome:
            case Made(pod) if pod.uid in kept.attempt.settled:
                self._not_made(kept, f"pod {pod.name} is there already, and has ended: delete it")
            case Made(pod, is_new) if pod.controller == kept.resource.uid:
                kept.making = None
                is_news = pod.uid not in kept.bound
                kept.bind_answer(pod, before, self._clock())
                if is_new and is_news:
                    self._clients.publisher.publish(SandboxMade(kept.about, pod.name, attempt))
            case Made(pod):
                self._not_made(kept, f"a pod named {pod.name} is there, and it is not of this WorkLease: delete it")
            case NotDone(message):
                self._not_made(kept, message)
            case _:
                assert_never(outcome)

    def note_seen(self, kept: Kept, pod: Pod) -> None:
        """Tell of a pod's making now if a watch brings it before the answer: what follows from it comes after that."""
        if "make" in kept.calls and "make" not in kept.unsent and pod.controller == kept.resource.uid:
            self._clients.publisher.publish(SandboxMade(kept.about, pod.name, kept.attempt.number))

    def _not_made(self, kept: Kept, message: str) -> None:
        refusals = (kept.making.refusals if kept.making is not None else 0) + 1
        kept.making = Asked(self._clock(), refusals, message)
        name = pod_name(kept.resource, kept.attempt.number)
        _log.warning("pod not made, will try again %s pod=%s: %s", kept.who, name, message)

    async def restart(self, kept: Kept, attempt: Attempt) -> None:
        """Begin another attempt: written down before anything follows from it, so that a crash does not count twice."""
        kept.begin(attempt)
        await self._note_held(kept)
        _log.info("sandbox begun anew %s attempt=%d", kept.who, attempt.number)

    async def _note_held(self, kept: Kept) -> None:
        now = self._clock()
        text = kept.record(trying=None, wall=self._wall(), now=now)
        await self._clients.checkpoint.commit(kept.resource.uid, text)

    async def list_pods(self, kept: Kept, is_anothers: Callable[[Pod], bool]) -> None:
        """Find the pods that carry the item's labels, until the answer is known.

        Those of an item that is stopped are its sandboxes, if they were there when it was: nobody holds it. What
        another resource has bound meanwhile is that one's.
        """
        while not kept.done:
            before, end = dict(kept.bound), kept.lease.end
            found = await self._clients.shared_pod_list.ask(kept.item)
            if kept.lease.end is not end:
                continue  # what came between the asking and the end may not be listed
            if not isinstance(found, NotDone):
                for pod in found:
                    if is_anothers(pod):
                        continue
                    if not kept.bind_answer(pod, before, self._clock()) and self._is_left_of_stopped(kept, pod):
                        kept.bound[pod.uid] = pod
                kept.are_pods_listed = True
                return
            await asyncio.sleep(RETRY)

    def _is_left_of_stopped(self, kept: Kept, pod: Pod) -> bool:
        words = kept.lease.words
        if kept.lease.end is not End.STOPPED or words is None or pod.controller or not pod.is_at_work:
            return False
        return pod.created is not None and pod.created <= self._wall().time(words.at)

    async def end(self, kept: Kept, step: EndPod) -> None:
        """Ask for the deletion of a bound pod, and note what the API server said."""
        uid, name, grace = step.uid, step.name, step.grace
        if kept.bound[uid].is_over:
            await self._clients.status.settle(kept.resource.uid, seconds=STATUS_TIMEOUT)
        before = kept.deletions.get(uid)
        outcome = await self._clients.sandboxes.end(kept.resource.namespace, name, uid, grace)
        match outcome:
            case Gone():
                self.note_gone(kept, uid)
            case DeletionAccepted():
                kept.deletions[uid] = self._taken(kept, step, before)
            case NotDone(message):
                refusals = (before.refusals if before is not None else 0) + 1
                first = before.first if before is not None else None
                kept.deletions[uid] = Asked(self._clock(), refusals, message, grace, first)
                if refusals == 1:
                    self._clients.publisher.publish(DeletionRefused(kept.about, name, message))
            case _:
                assert_never(outcome)

    def _taken(self, kept: Kept, step: EndPod, before: Asked | None) -> Asked:
        """Note a deletion that was taken, and tell of the first."""
        now, words = self._clock(), kept.lease.words
        if before is None or before.first is None:
            cause, is_by_beat = _why(kept, now)
            late = now - words.at if is_by_beat and words is not None else None
            pod = kept.bound.get(step.uid)
            grace = step.grace_of(pod) if pod is not None else step.grace or 0.0
            self._clients.publisher.publish(DeletionAsked(kept.about, step.name, cause, grace, late))
        first = now if before is None or before.first is None else before.first
        return Asked(now, grace=step.grace, first=first)

    def note_gone(self, kept: Kept, uid: str) -> None:
        """Note that a bound pod is no more, and tell of one that had to go."""
        pod = kept.bound.get(uid)
        if pod is not None and not pod.gone:
            kept.lost(uid)
            if uid in kept.deletions:
                self._clients.publisher.publish(SandboxGone(kept.about, pod.name))

    async def look(self, kept: Kept, pod: Pod, in_sight: Callable[[], bool]) -> None:
        """Look whether a bound pod is there, until the answer is known.

        One that no watch tells of, since it has lost a label, is looked at for as long as it is there.
        """
        wait = RETRY
        while not kept.done and pod.uid in kept.bound and not kept.bound[pod.uid].gone:
            before = dict(kept.bound)
            outcome = await self._clients.sandboxes.look(kept.resource.namespace, pod.name, pod.uid)
            match outcome:
                case Gone():
                    self.note_gone(kept, pod.uid)
                    return
                case Pod():
                    kept.bind_answer(outcome, before, self._clock())
                    kept.turn.add()
                    if in_sight():
                        return
                    await asyncio.sleep(LONGEST_RETRY)
                case NotDone():
                    await asyncio.sleep(wait)
                    wait = min(LONGEST_RETRY, 2 * wait)
                case _:
                    assert_never(outcome)

    # --- The resource itself -----------------------------------------------------------------------------------

    async def add_finalizer(self, kept: Kept) -> None:
        """Put our finalizer on the resource; what is on its way out is not begun with."""
        outcome = await self._write_finalizer(kept, finalizer.put_on)
        if not isinstance(outcome, Gone):
            kept.has_finalizer = True
        elif kept.lease.held:
            await asyncio.sleep(RETRY)  # until its deletion is heard, or its end
        else:
            kept.done = True

    async def release(self, kept: Kept, left: str) -> None:
        """Take our finalizer off: nothing is left to do for the resource, or nothing more can be done.

        The status tells first how it ended, so that its record is not needed any more; then that goes: once the
        resource is gone, no later process would know whose record it was.
        """
        await self._clients.status.settle(kept.resource.uid, seconds=STATUS_TIMEOUT)
        try:
            async with asyncio.timeout(STATUS_TIMEOUT):
                await self._clients.checkpoint.forget(kept.resource.uid)
        except TimeoutError:
            _log.warning("checkpoint not written in time: the record of a resource that goes may stay %s", kept.who)
        if left:
            self._clients.publisher.publish(Orphaned(kept.about, left))
        await self._write_finalizer(kept, finalizer.take_off)
        kept.has_finalizer = False
        _log.info("resource let go %s", kept.who)

    async def abandon(self, reference: Reference) -> None:
        """Take our finalizer off a resource that goes and that this version cannot read: its lease lapses."""
        about = About(*reference, environment_id="", work_id="")
        self._clients.publisher.publish(
            Orphaned(about, "its spec cannot be read by this version: its lease is left to lapse")
        )
        while isinstance(outcome := await finalizer.take_off(self._clients.kubernetes, reference), NotDone):
            _log.warning("finalizer not written, will try again name=%s: %s", reference.name, outcome.message)
            await asyncio.sleep(RETRY)

    async def discard(self, kept: Kept) -> None:
        """Delete the resource, which is finished for as long as it was to be kept; this very one, by its uid."""
        options = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": kept.resource.uid}}
        while not kept.done:
            match await self._clients.kubernetes.call("DELETE", kept.reference.path, body=options):
                case Done():
                    kept.done = True
                    _log.info("resource deleted, finished for as long as it was to be kept %s", kept.who)
                case Refused() as refused if refused.is_absence or refused.is_by_uid:
                    kept.done = True
                case Refused(_, message) | NoAnswer(message):
                    _log.warning("finished resource not deleted, will try again %s: %s", kept.who, message)
                    await asyncio.sleep(LONGEST_RETRY)
                case reply:
                    assert_never(reply)

    async def _write_finalizer(
        self,
        kept: Kept,
        write: Callable[[KubernetesApi, Reference], Coroutine[Any, Any, finalizer.Set | Gone | NotDone]],
    ) -> finalizer.Set | Gone:
        while isinstance(outcome := await write(self._clients.kubernetes, kept.reference), NotDone):
            _log.warning("finalizer not written, will try again %s: %s", kept.who, outcome.message)
            await asyncio.sleep(RETRY)
        return outcome


@contextmanager
def _unsent(kept: Kept, what: str) -> Iterator[Callable[[], None]]:
    """Let a call be called off until it says that it sends something now."""

    def sent() -> None:
        kept.unsent -= {what}

    kept.unsent |= {what}
    try:
        yield sent
    finally:
        sent()


def _why(kept: Kept, now: float) -> tuple[str, bool]:
    """Say why a pod must go, and whether a beat said so."""
    if kept.lease.end is not None:
        return kept.lease.end.value, kept.lease.end is not End.RELEASED
    if lease.is_fenced(kept.lease, now):
        return "Fenced", False
    if kept.lease.stopping_seen:
        return "Draining", True
    return ("ResourceDeleted" if kept.resource.deletion_timestamp is not None else "Restarting"), False


def _item(kept: Kept, key: Key) -> WorkItem:
    spec = kept.resource.spec
    return WorkItem(spec.environment_id, spec.work_id, key.value)
