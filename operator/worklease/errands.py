"""What takes time, done once for one kept resource: a beat, a stop, a deletion, a look, a write of the finalizer.

Owns the calls that a turn starts, and how their outcome is noted in what is kept. Must not start anything by itself,
and must not decide: the next turn does.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any, Final, assert_never

from worklease import finalizer, lease
from worklease.budget import Budget, Rank, Request
from worklease.checkpoint import Checkpoint
from worklease.credentials import Credentials, Key, NoKey
from worklease.happenings import BeatEnded, Telling
from worklease.kept import Kept, Wall
from worklease.kubernetes_api import KubernetesApi
from worklease.lease import Beat
from worklease.lifecycle import Asked, Pod
from worklease.listing import Listing
from worklease.outcomes import CredentialsMissing, Exchange, Outcome, Seen, Throttled, Unanswered, Unauthorized
from worklease.sandbox import Ending, Gone, NotDone, Sandboxes
from worklease.status import Reference, StatusWriter
from worklease.work_api import Item, StopHeard, StopOutcome, StopUnheard, WorkApi

RETRY: Final = 1.0
"""Seconds before a look at a pod, or a write of the finalizer, is repeated."""

LONGEST_RETRY: Final = 10.0
"""Seconds between such repetitions at most."""

_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Rooms:
    """Everything that the keeper performs with."""

    kubernetes: KubernetesApi
    work_api: WorkApi
    credentials: Credentials
    sandboxes: Sandboxes
    status: StatusWriter
    budget: Budget
    listing: Listing
    checkpoint: Checkpoint
    telling: Telling


class Errands:
    """The calls for kept resources; each is a coroutine that ends when its outcome is noted."""

    def __init__(
        self, rooms: Rooms, clock: Callable[[], float], wall: Callable[[], Wall], credentials_secret: str
    ) -> None:
        self._rooms = rooms
        self._credentials_secret = credentials_secret
        self._clock = clock
        self._wall = wall

    async def beat(self, kept: Kept) -> None:
        """Wait for this lease's turn, send the heartbeat that it asks for by then, and let it observe the outcome."""
        key = await self._rooms.credentials.key(*self._secret(kept))
        if isinstance(key, NoKey):
            # Nothing is sent, so nobody's turn is taken for it.
            kept.lease = lease.observe(kept.lease, CredentialsMissing(self._instant(), key.message))
            return
        kept.queued = True
        try:
            await self._rooms.budget.turn(self._request(kept))
        finally:
            kept.queued = False
        if kept.lease.sent is None and kept.lease.value is None:
            # A claim whose answer is lost can be told from another worker's only by who knows that it was sent.
            await self._commit(kept)
        # Whatever held this process up meanwhile, the lease's end may have come.
        kept.lease = lease.lapse(kept.lease, self._clock())
        beat = lease.decide(kept.lease, self._clock())
        if kept.rival is None and not kept.let_go and isinstance(beat, Beat):
            await self._send(kept, key, beat)

    def _request(self, kept: Kept) -> Request:
        fence = lease.fence(kept.lease)
        is_routine = kept.lease.held and kept.lease.failures == 0
        return Request(
            key=kept.resource.uid,
            rank=Rank.ROUTINE if is_routine else Rank.FIRST,
            fence=math.inf if fence is None else fence,
            urgent=lease.latest(kept.lease),
        )

    async def _commit(self, kept: Kept) -> None:
        now = self._clock()
        text = kept.record(trying=now, wall=self._wall(), now=now)
        await self._rooms.checkpoint.commit(kept.resource.uid, text)

    async def _send(self, kept: Kept, key: Key, beat: Beat) -> None:
        sent, due = self._clock(), kept.lease.due
        try:
            outcome = await self._heartbeat(kept, key, beat)
        except BaseException:
            # The call came to no end that is known, so the beat may have been applied all the same.
            broken_off = Unanswered(Exchange(sent=sent, done=self._clock()), "the beat was broken off")
            kept.lease = lease.observe(kept.lease, broken_off)
            raise
        seen = await self._consult(kept) if lease.is_doubtful(kept.lease, outcome) else None
        kept.lease = lease.observe(kept.lease, outcome, seen)
        if isinstance(outcome, Throttled | Unanswered) and outcome.retry_after is not None:
            self._rooms.budget.hold(outcome.retry_after)
        late, took = max(0.0, sent - due), self._clock() - sent
        self._rooms.telling.tell(BeatEnded(kept.about, outcome, late=late, took=took))
        _log.debug("beat %s outcome=%s", kept.who, type(outcome).__name__)

    async def _heartbeat(self, kept: Kept, key: Key, beat: Beat) -> Outcome:
        """Send the beat; a key that is refused is read again, and another one is tried at once."""
        outcome = await self._rooms.work_api.heartbeat(_item(kept, key), beat)
        if isinstance(outcome, Unauthorized):
            second = await self._rooms.credentials.key_after_refusal(*self._secret(kept), key)
            if isinstance(second, NoKey):
                return CredentialsMissing(self._instant(), second.message)
            if second is not key:
                key = second
                await self._rooms.budget.turn(self._request(kept))
                outcome = await self._rooms.work_api.heartbeat(_item(kept, key), beat)
        if isinstance(outcome, Unauthorized):
            advice = f"{outcome.message}; {key.origin} is not good for this item: put a valid key there"
            return replace(outcome, message=advice)
        return outcome

    async def _consult(self, kept: Kept) -> Seen | None:
        """Look at the item in the environment's list, as long as a beat may take; None where it is not to be had."""
        key = await self._rooms.credentials.key(*self._secret(kept))
        if isinstance(key, NoKey) or key.environment is None:
            return None
        spec = kept.resource.spec
        try:
            async with asyncio.timeout(lease.timeout(kept.lease)):
                turn = replace(self._request(kept), key=f"list {spec.environment_id}", rank=Rank.FIRST)
                items = await self._rooms.listing.ask(spec.environment_id, key.environment, turn)
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
        before = kept.forced_stop if force else kept.graceful_stop
        outcome = await self._send_stop(kept, force=force)
        match outcome:
            case StopHeard(state):
                asked = Asked(self._clock())
                _log.info("stop heard %s force=%s state=%s", kept.who, force, state)
                kept.lease = lease.stop_heard(kept.lease, state, asked.at)
            case StopUnheard(message):
                asked = Asked(self._clock(), (before.refusals if before is not None else 0) + 1, message)
                _log.warning("stop not heard, will try again %s force=%s: %s", kept.who, force, message)
            case _:
                assert_never(outcome)
        if force:
            kept.forced_stop = asked
        else:
            kept.graceful_stop = asked

    async def _send_stop(self, kept: Kept, *, force: bool) -> StopOutcome:
        key = await self._rooms.credentials.key(*self._secret(kept))
        if isinstance(key, NoKey):
            return StopUnheard(key.message)
        outcome = await self._stop_once(kept, key, force=force)
        if isinstance(outcome, StopUnheard) and outcome.unauthorized:
            second = await self._rooms.credentials.key_after_refusal(*self._secret(kept), key)
            if isinstance(second, Key) and second is not key:
                return await self._stop_once(kept, second, force=force)
        return outcome

    async def _stop_once(self, kept: Kept, key: Key, *, force: bool) -> StopOutcome:
        """Wait for the stop's turn, and send it if the item is still ours to stop by then."""
        turn = self._request(kept)
        await self._rooms.budget.turn(replace(turn, key=f"stop {turn.key}", rank=Rank.FIRST))
        if kept.let_go or not lease.may_stop(kept.lease, self._clock()):
            return StopUnheard("the lease ended before the stop could be sent")
        seconds = lease.timeout(kept.lease)
        outcome = await self._rooms.work_api.stop(_item(kept, key), force=force, timeout=seconds)
        if isinstance(outcome, StopUnheard) and outcome.retry_after is not None:
            self._rooms.budget.hold(outcome.retry_after)
        return outcome

    async def end(self, kept: Kept, uid: str, name: str, grace: float | None) -> None:
        """Ask for the deletion of a bound pod, and note what the API server said."""
        before = kept.deletions.get(uid)
        outcome = await self._rooms.sandboxes.end(kept.resource.namespace, name, uid, grace)
        match outcome:
            case Gone():
                kept.lost(uid)
            case Ending():
                if before is None or before.refusals > 0:
                    _log.info("pod ending %s pod=%s grace=%s", kept.who, name, "own" if grace is None else grace)
                kept.deletions[uid] = Asked(self._clock(), grace=grace)
            case NotDone(message):
                refusals = (before.refusals if before is not None else 0) + 1
                kept.deletions[uid] = Asked(self._clock(), refusals, message, grace)
                _log.warning("pod not deleted, will try again %s pod=%s: %s", kept.who, name, message)
            case _:
                assert_never(outcome)

    async def look(self, kept: Kept, pod: Pod) -> None:
        """Look whether a bound pod is there, until the answer is known."""
        wait = RETRY
        while not kept.let_go:
            outcome = await self._rooms.sandboxes.look(kept.resource.namespace, pod.name, pod.uid)
            match outcome:
                case Gone():
                    kept.lost(pod.uid)
                    return
                case Pod():
                    kept.bind(outcome)
                    return
                case NotDone():
                    await asyncio.sleep(wait)
                    wait = min(LONGEST_RETRY, 2 * wait)
                case _:
                    assert_never(outcome)

    async def guard(self, kept: Kept) -> None:
        """Put our finalizer on the resource; what is on its way out is not begun with."""
        outcome = await self._write_finalizer(kept, finalizer.put_on)
        if isinstance(outcome, Gone):
            kept.let_go = True
        else:
            kept.guarded = True

    async def release(self, kept: Kept) -> None:
        """Take our finalizer off: nothing is left to do for the resource."""
        await self._write_finalizer(kept, finalizer.take_off)
        kept.let_go = True
        _log.info("resource let go %s", kept.who)

    async def _write_finalizer(
        self,
        kept: Kept,
        write: Callable[[KubernetesApi, Reference], Coroutine[Any, Any, finalizer.Set | Gone | NotDone]],
    ) -> finalizer.Set | Gone:
        while isinstance(outcome := await write(self._rooms.kubernetes, kept.reference), NotDone):
            _log.warning("finalizer not written, will try again %s: %s", kept.who, outcome.message)
            await asyncio.sleep(RETRY)
        return outcome


def _item(kept: Kept, key: Key) -> Item:
    spec = kept.resource.spec
    return Item(spec.environment_id, spec.work_id, key.value)
