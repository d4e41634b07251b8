"""The calls about one kept resource's pods: dry run, creation, deletion, look-up and list.

Owns how the outcome of each is noted in what is kept. Must not start anything by itself, and must not decide: the turn
does.
"""

import asyncio
import logging
import math
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any, Final, assert_never

from worklease.api.names import SESSION_LABEL
from worklease.clocks import ClockPair
from worklease.cluster import sandbox_turns
from worklease.cluster.client import Gone, NotDone
from worklease.cluster.pod_reading import read_pod
from worklease.cluster.pod_template import pod_body, pod_name, template_problem
from worklease.cluster.pods import (
    CREATION_LANDS,
    Annotated,
    DeletionAccepted,
    DryRunAccepted,
    Made,
    MaybeMade,
    NotAdmitted,
    NotPermitted,
)
from worklease.keeper.calls import LONGEST_RETRY, RETRY, STATUS_TIMEOUT, Cancellable, Clients, KeptCalls
from worklease.keeper.kept import Kept, LeaseOptions
from worklease.keeper.workspace_calls import WorkspaceCalls
from worklease.rules.acts import NOT_VALID, Act
from worklease.rules.backoff import backoff
from worklease.rules.claims import DryRun, SandboxTurn, refused_dry_run, sandbox_turn
from worklease.rules.deadlines import is_fenced
from worklease.rules.finishing import AskToFinish
from worklease.rules.lease import End
from worklease.rules.lifecycle import PREDECESSOR_LOOK, EndPod, fence_grace, why_it_must_go
from worklease.rules.ownership import is_left_of_stopped
from worklease.rules.pods import Obstacle, Pod
from worklease.rules.situation import Asked, AskedToFinish, Attempt, NotMade, is_running
from worklease.telemetry import DeletionAsked, DeletionRefused, DrainNotAnnounced, SandboxGone, SandboxMade

TURN_TRIES: Final = 3
"""How often the end of a turn to make a session's sandbox is written, a second apart."""

_log = logging.getLogger(__name__)


class PodCalls(KeptCalls):
    """The calls about pods."""

    def __init__(
        self,
        clients: Clients,
        clock: Callable[[], float],
        wall: Callable[[], ClockPair],
        secret: Callable[[Kept], tuple[str, str]],
        options: LeaseOptions,
    ) -> None:
        super().__init__(clients, clock, wall, secret)
        self._annotations = options.sandbox_annotations
        self._proxy = options.proxy
        self._workspaces = WorkspaceCalls(clients, clock, wall, secret)

    def _body(self, kept: Kept, attempt: int, claim: str | None) -> dict[str, Any]:
        secret = kept.token_secret or self._secret(kept)[1]
        return pod_body(kept.resource, attempt, secret, self._annotations, self._proxy, claim=claim)

    async def dry_run(self, kept: Kept) -> None:
        """Ask whether the template's pod would be made, before anything is claimed for it."""
        generation = kept.resource.generation
        if problem := template_problem(kept.resource, self._proxy):
            kept.calls.dry_run = DryRun(generation, problem, math.inf)
            return
        body = self._body(kept, kept.pods.attempt.number, None)
        outcome = await self._clients.pods.dry_run(kept.resource.namespace, body)
        if isinstance(outcome, DryRunAccepted):
            outcome = await self._workspaces.dry_run(kept)
        match outcome:
            case DryRunAccepted():
                kept.calls.dry_run = DryRun(generation, "", math.inf)
            case NotAdmitted(obstacle, message):
                before = kept.calls.dry_run
                kept.calls.dry_run = refused_dry_run(before, generation, message, obstacle, self._clock())
                _log.warning("template not accepted, so nothing is claimed %s: %s", kept.about, message)

    # --- Making ------------------------------------------------------------------------------------------------

    async def make(self, kept: Kept, attempt: int) -> None:
        """Make the sandbox of an attempt, or find it made.

        The checkpoint notes first that the lease is held: a process that finds the pod after a crash must know whose
        item it works on. Where the checkpoint cannot be written, the status tells it.
        """
        with Cancellable(kept, "make") as send:
            if (problem := await self._commit(kept)) is not None:
                _log.warning("the status has to tell a restart of a pod %s: %s", kept.about, problem.message)
                await self._clients.status.settle(kept.resource.uid, seconds=STATUS_TIMEOUT)
            async with self._clients.pods.creations.taken(kept.resource.namespace):
                session = kept.resource.spec.session_id
                if session is None:
                    await self._make_if_wanted(kept, attempt, send)
                elif not await self._is_session_worked_on(kept, session) and await self._has_turn(kept, session):
                    # Between the first look and the turn another one may have been made.
                    if not await self._is_session_worked_on(kept, session):
                        await self._make_if_wanted(kept, attempt, send)
                    await self._end_turn(kept)

    async def _make_if_wanted(self, kept: Kept, attempt: int, send: Callable[[], None]) -> None:
        if not is_running(kept.gather(), self._clock()):
            return  # the lease or the resource ended meanwhile
        volume = await self._workspaces.take(kept)
        if isinstance(volume, NotAdmitted):
            self._note_not_made(kept, volume.message, volume.obstacle)
            return
        if not is_running(kept.gather(), self._clock()):
            return
        if volume is None or not self._may(Act.MAKE_POD, kept):
            await asyncio.sleep(RETRY)  # what another process may decide by now says nothing about the pod
            return
        send()
        await self._make(kept, attempt, volume.claim)

    async def _has_turn(self, kept: Kept, session: str) -> bool:
        """Show that a sandbox of the session is about to be made, and return whether nobody else has shown that.

        Of two that list each other's pods at one moment both would find none. Of two that have shown it before they
        list, one at least sees the other. Who has the turn keeps it until it is known what came of the creation.
        """
        if kept.pods.has_turn:
            return True
        own, problem = kept.resource, await self._show_turn(kept, session)
        found = problem or await sandbox_turns.makers(self._clients.kubernetes, own.namespace, session)
        if isinstance(found, NotDone):
            _log.warning("not known whose turn it is to make a sandbox %s: %s", kept.about, found.message)
            await asyncio.sleep(RETRY)
            return False
        others = [each for each in found if each.uid != own.uid]
        turn = sandbox_turn((own.creation_timestamp, own.uid), [(each.created, each.uid) for each in others])
        if turn is SandboxTurn.MAKE:
            kept.pods.has_turn = True
            return True
        kept.pods.elsewhere = (f"of WorkLease {others[0].name}", self._clock() + PREDECESSOR_LOOK)
        if turn is SandboxTurn.GIVE_WAY:
            await self._end_turn(kept)
        return False

    async def _end_turn(self, kept: Kept) -> None:
        """Take back that a sandbox is about to be made, unless a creation may be carried out yet.

        Should that fail, others wait until this resource is finished.
        """
        if self._clock() < kept.pods.sent_until:
            return
        kept.pods.has_turn = False
        for _ in range(TURN_TRIES):
            problem = await self._show_turn(kept, None)
            if problem is None:
                return
            _log.warning("still shown to make a sandbox of the session %s: %s", kept.about, problem.message)
            await asyncio.sleep(RETRY)

    async def _show_turn(self, kept: Kept, session: str | None) -> NotDone | None:
        may = partial(self._may, Act.WRITE_RESOURCE, kept)
        shown = await sandbox_turns.show(self._clients.kubernetes, kept.reference, session, may)
        if isinstance(shown, NotDone):
            return shown
        self._clients.status.saw(kept.reference, shown)
        return None

    async def _is_session_worked_on(self, kept: Kept, session: str) -> bool:
        """Look for a pod at work for the session, whoever keeps its lease: one session has one sandbox.

        Deliveries of one session may be kept by different processes, and only the API server knows the pods of all.
        """
        async for page in self._clients.pods.pages(kept.resource.namespace, f"{SESSION_LABEL}={session}"):
            if isinstance(page, NotDone):
                _log.warning("pods of the session not listed, so none is made yet %s: %s", kept.about, page.message)
                await asyncio.sleep(RETRY)
                return True
            for pod in map(read_pod, page):
                if pod.is_at_work and pod.controller != kept.resource.uid and pod.uid not in kept.pods.bound:
                    kept.pods.elsewhere = (pod.name, self._clock() + PREDECESSOR_LOOK)
                    return True
        return False

    async def _make(self, kept: Kept, attempt: int, claim: str | None) -> None:
        if problem := template_problem(kept.resource, self._proxy):
            self._note_not_made(kept, problem)  # the template was edited since the claim
            return
        body = self._body(kept, attempt, claim)
        before, kept.pods.sent_until = kept.pods.bound, self._clock() + CREATION_LANDS
        outcome = await self._clients.pods.make(kept.resource.namespace, body)
        # An API server that has trouble of its own may carry out what it did not accept.
        is_refused = isinstance(outcome, NotAdmitted) and outcome.obstacle is not Obstacle.ADMISSION
        if is_refused or isinstance(outcome, Made):
            kept.pods.sent_until = -math.inf
        match outcome:
            case Made(pod) if pod.uid in kept.pods.attempt.settled:
                self._note_not_made(kept, f"pod {pod.name} is there already, and has ended: delete it")
            case Made(pod, is_new) if pod.controller == kept.resource.uid:
                kept.pods.making = None
                is_news = pod.uid not in kept.pods.bound
                kept.bind_answer(pod, before, self._clock())
                if is_new and is_news:
                    self._clients.publisher.publish(SandboxMade(kept.about, pod.name, attempt))
            case Made(pod):
                self._note_not_made(
                    kept, f"a pod named {pod.name} is there, and it is not of this WorkLease: delete it"
                )
            case MaybeMade(message):
                kept.pods.are_listed = False  # so it is looked for before an end is told
                self._note_not_made(kept, message, Obstacle.ADMISSION)
            case NotAdmitted(obstacle, message):
                self._note_not_made(kept, message, obstacle)
            case _:
                assert_never(outcome)

    def note_seen(self, kept: Kept, pod: Pod) -> None:
        """Publish that a pod was made if a watch brings it before the answer: what follows from it comes later."""
        calls = kept.calls
        if "make" in calls.under_way and "make" not in calls.unsent and pod.controller == kept.resource.uid:
            self._clients.publisher.publish(SandboxMade(kept.about, pod.name, kept.pods.attempt.number))

    def _note_not_made(self, kept: Kept, message: str, obstacle: Obstacle = Obstacle.SPEC) -> None:
        pods = kept.pods
        refusals = (pods.making.refusals if pods.making is not None else 0) + 1
        pods.making = NotMade(self._clock(), refusals, message, obstacle=obstacle)
        name = pod_name(kept.resource, pods.attempt.number)
        _log.warning("pod not made, retrying %s pod=%s: %s", kept.about, name, message)

    async def restart(self, kept: Kept, attempt: Attempt) -> None:
        """Begin another attempt, noted in the checkpoint before anything follows: a crash must not count twice."""
        kept.pods.begin(attempt)
        if (problem := await self._commit(kept)) is not None:
            _log.warning("the status has to tell a restart of an attempt %s: %s", kept.about, problem.message)
        _log.info("sandbox restarted %s attempt=%d", kept.about, attempt.number)

    def await_another(self, kept: Kept, attempt: Attempt) -> None:
        """Go on with an attempt whose pod was rejected. After a crash the pod shows again that it was."""
        kept.pods.begin(attempt)
        kept.turn.add()
        number, count = attempt.number, attempt.rejections
        _log.info("pod rejected by its node %s attempt=%d rejections=%d", kept.about, number, count)

    async def await_node(self, kept: Kept, uid: str, node: str) -> None:
        """Look at the lost node of an earlier attempt's pod until it cannot run that pod any more."""
        while not kept.calls.is_done and (uid, node) in kept.pods.attempt.lost:
            if await self._clients.pods.is_node_off(node):
                _log.info("lost node runs nothing any more %s node=%s", kept.about, node)
                kept.pods.clear(uid)
                return
            await asyncio.sleep(LONGEST_RETRY)

    # --- Finding -----------------------------------------------------------------------------------------------

    async def list_pods(self, kept: Kept, is_anothers: Callable[[Pod], bool]) -> None:
        """List the pods that carry the item's labels; retry until there is an answer.

        Those of a stopped item are its sandboxes, if they were there when it was stopped: nobody holds it. A pod that
        another resource has bound meanwhile belongs to that one.
        """
        while not kept.calls.is_done:
            before, end = kept.pods.bound, kept.newest_lease().end
            found = await self._clients.shared_pod_list.ask(kept.item)
            if kept.newest_lease().end is not end:
                continue  # what came between the asking and the end may not be listed
            if not isinstance(found, NotDone):
                for pod in found:
                    if is_anothers(pod) or kept.bind_answer(pod, before, self._clock()):
                        continue
                    if is_left_of_stopped(pod, kept.newest_lease(), self._time_of_words(kept)):
                        kept.pods.note(pod, self._clock())
                kept.pods.are_listed = True
                return
            await asyncio.sleep(RETRY)

    def _time_of_words(self, kept: Kept) -> datetime | None:
        words = kept.lease.words
        return None if words is None else self._wall().time(words.at)

    async def look(self, kept: Kept, pod: Pod, in_sight: Callable[[], bool]) -> None:
        """Look whether a bound pod is there; retry until there is an answer.

        A pod that no watch reports, because it has lost a label, is looked at for as long as it is there.
        """
        tries = 0
        while not kept.calls.is_done and pod.uid in kept.pods.bound and not kept.pods.bound[pod.uid].gone:
            before = kept.pods.bound
            outcome = await self._clients.pods.look(kept.resource.namespace, pod.name, pod.uid)
            match outcome:
                case Gone():
                    self._note_gone(kept, pod.uid)
                    return
                case Pod():
                    kept.bind_answer(outcome, before, self._clock())
                    kept.turn.add()
                    if in_sight():
                        return
                    await asyncio.sleep(LONGEST_RETRY)
                case NotDone():
                    await asyncio.sleep(backoff(tries, RETRY, LONGEST_RETRY))
                    tries += 1
                case _:
                    assert_never(outcome)

    # --- Ending ------------------------------------------------------------------------------------------------

    async def let_finish(self, kept: Kept, step: AskToFinish) -> None:
        """Ask a pod's worker to finish, and note until when it may; an earlier process may have asked it already."""
        uid, now, before = step.uid, self._clock(), kept.pods.finishing.get(step.uid)
        asked_before = kept.pods.bound[uid].drains_until
        if before is None and asked_before is not None:
            until = min(self._wall().moment(asked_before), now + step.seconds)
            kept.pods.note_finishing(uid, AskedToFinish(now, until=until))
            return
        until = now + step.seconds if before is None else before.until
        time = self._wall().time(until)
        outcome: Annotated | Gone | NotPermitted | NotDone = NotDone(NOT_VALID)
        if self._may(Act.END_POD, kept):
            outcome = await self._clients.pods.ask_to_finish(kept.resource.namespace, step.name, uid, time)
        match outcome:
            case Gone():
                self._note_gone(kept, uid)
            case Annotated():
                kept.pods.note_finishing(uid, AskedToFinish(now, until=until))
                _log.info("worker asked to finish %s pod=%s seconds=%.0f", kept.about, step.name, step.seconds)
            case NotPermitted(message):
                kept.pods.note_finishing(uid, AskedToFinish(now, until=until, is_refused=True))
                self._clients.publisher.publish(DrainNotAnnounced(kept.about, step.name, message))
            case NotDone(message):
                refusals = (before.refusals if before is not None else 0) + 1
                kept.pods.note_finishing(uid, AskedToFinish(self._clock(), refusals, message, until=until))
            case _:
                assert_never(outcome)

    async def end(self, kept: Kept, step: EndPod) -> None:
        """Ask for the deletion of a bound pod, and note what the API server said."""
        uid, name, grace = step.uid, step.name, step.grace
        if kept.pods.bound[uid].is_over:
            await self._clients.status.settle(kept.resource.uid, seconds=STATUS_TIMEOUT)
        before = kept.pods.deletions.get(uid)
        outcome = await self._end(kept, name, uid, grace)
        match outcome:
            case Gone():
                self._note_gone(kept, uid)
            case DeletionAccepted():
                kept.pods.note_deletion(uid, self._accepted(kept, step, before))
            case NotDone(message):
                refusals = (before.refusals if before is not None else 0) + 1
                first = before.first if before is not None else None
                kept.pods.note_deletion(uid, Asked(self._clock(), refusals, message, grace, first))
                if refusals == 1:
                    self._clients.publisher.publish(DeletionRefused(kept.about, name, message))
            case _:
                assert_never(outcome)

    async def _end(self, kept: Kept, name: str, uid: str, grace: float | None) -> Gone | DeletionAccepted | NotDone:
        """Send a deletion, if this process may: at a fence, it must only be named by the bucket still."""
        act = Act.END_POD_AT_FENCE if is_fenced(kept.lease, self._clock()) else Act.END_POD
        if not await self._may_after_reading(act, kept):
            return NotDone(NOT_VALID)
        return await self._clients.pods.end(kept.resource.namespace, name, uid, grace)

    async def end_stray(self, kept: Kept, pod: Pod) -> None:
        """Delete a pod of the resource that shows up after everything was finished; retry until that is accepted.

        It was made by a call whose answer was lost, and nothing else would end it.
        """
        has_own_grace = kept.lease.end in {None, End.STOPPED, End.RELEASED}
        grace, tries = None if has_own_grace else max(1.0, fence_grace(kept.lease) - pod.overtime), 0
        while isinstance(outcome := await self._end(kept, pod.name, pod.uid, grace), NotDone):
            if tries == 0:
                self._clients.publisher.publish(DeletionRefused(kept.about, pod.name, outcome.message))
            await asyncio.sleep(backoff(tries, RETRY, LONGEST_RETRY))
            tries += 1
        kept.pods.strays |= {pod.uid}  # an event that is older than the answer must not ask for it again
        if isinstance(outcome, DeletionAccepted):
            cause = kept.lease.end.value if kept.lease.end is not None else "ResourceDeleted"
            granted = pod.grace if grace is None else grace
            self._clients.publisher.publish(DeletionAsked(kept.about, pod.name, cause, granted, None))

    def _accepted(self, kept: Kept, step: EndPod, before: Asked | None) -> Asked:
        """Return the note of an accepted deletion; publish the first one of a pod."""
        now, words = self._clock(), kept.lease.words
        if before is not None and before.first is not None:
            return Asked(now, grace=step.grace, first=before.first)
        cause, is_by_beat = why_it_must_go(kept.lease, now, is_deleting=kept.is_deleting)
        late = now - words.at if is_by_beat and words is not None else None
        pod = kept.pods.bound.get(step.uid)
        grace = step.grace_of(pod) if pod is not None else step.grace or 0.0
        self._clients.publisher.publish(DeletionAsked(kept.about, step.name, cause, grace, late))
        return Asked(now, grace=step.grace, first=now)

    def _note_gone(self, kept: Kept, uid: str) -> None:
        """Note that a bound pod is gone; publish it if the operator had asked for its deletion."""
        pod = kept.pods.bound.get(uid)
        if pod is not None and not pod.gone:
            kept.pods.lose(uid)
            if uid in kept.pods.deletions:
                self._clients.publisher.publish(SandboxGone(kept.about, pod.name))
