"""The calls to the Work API for one kept resource: a beat, and a stop of its item.

Owns how such a call gets its turn within the budget, its key, and a second key where one is refused. What it observes
of the lease is left to the next turn. Must not start anything by itself, and must not decide: the turn does.
"""

import logging
import math
from asyncio import sleep, timeout
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final, assert_never

from worklease.clocks import ClockPair
from worklease.cluster.client import NotDone
from worklease.cluster.credentials import Key, NoKey
from worklease.keeper.calls import Cancellable, Clients, KeptCalls
from worklease.keeper.kept import Kept
from worklease.keeper.keys import Admitted, Keys
from worklease.rules import answers, beats, deadlines
from worklease.rules.acts import NOT_VALID, Act, Standing
from worklease.rules.beats import Beat
from worklease.rules.lease import Lease
from worklease.rules.outcomes import (
    Answered,
    Conflicted,
    CredentialsMissing,
    Exchange,
    ListAnswer,
    NoKeyForList,
    NotReady,
    Outcome,
    Rejected,
    Throttled,
    Unanswered,
    Unauthorized,
)
from worklease.rules.situation import Asked
from worklease.rules.succession import (
    Blind,
    Succession,
    list_seconds,
    may_fall_silent,
    observe_as_invalid,
    observe_as_taker,
)
from worklease.telemetry import BeatEnded, LeaseAdopted, LeaseTakenOver, StopEnded
from worklease.work_api.budget import FIRST_PROBE, BudgetRequest, CallClass, Rank
from worklease.work_api.client import StopAcknowledged, StopNotAcknowledged, StopOutcome, WorkItem
from worklease.work_api.patience import Patience

LOOK_AGAIN: Final = 0.25
"""Seconds until a beat is thought of again that must not begin before a hand-over is answered."""

_log = logging.getLogger(__name__)


class WorkCalls(KeptCalls):
    """The calls to the Work API; ``rival`` names the resource that keeps an item's lease instead of another one."""

    def __init__(
        self,
        clients: Clients,
        clock: Callable[[], float],
        wall: Callable[[], ClockPair],
        secret: Callable[[Kept], tuple[str, str]],
        rival: Callable[[Kept], str | None],
    ) -> None:
        super().__init__(clients, clock, wall, secret)
        self._keys = Keys(clients, clock, secret)
        self._patience = Patience()
        self._rival = rival

    # --- Beats -------------------------------------------------------------------------------------------------

    def learn_key(self, kept: Kept) -> None:
        """Begin to read the key of a lease before its next beat needs it."""
        self._clients.credentials.learn(*self._secret(kept))

    async def beat(self, kept: Kept) -> None:
        """Wait for this lease's turn within the budget, and send the heartbeat that it asks for by then."""
        with Cancellable(kept, "beat") as send:
            admitted = await self._admit(kept)
            if isinstance(admitted, NoKey):
                # Nothing is sent, so the call takes no turn from another one.
                missing = CredentialsMissing(self._instant(), admitted.message)
                kept.observed.append(partial(answers.observe, outcome=missing))
                return
            if kept.lease.sent is None and answers.is_claim_in_doubt(kept.newest_lease()):
                await self._look_before_claim(kept)
                if self._wanted_beat(kept) is None:
                    return
            is_claim = kept.lease.sent is None and kept.lease.value is None
            if is_claim and self._is_unrecorded(kept, self._clients.checkpoint.obstacle(kept.reference)):
                return
            if not self._clients.budget.is_open:
                await self._wait_for_turn(kept, admitted)
            # A claim whose answer is lost can be told from another worker's only if it is known that it was sent.
            if is_claim and self._is_unrecorded(kept, await self._commit_claim(kept)):
                return
            act = Act.FIRST_CLAIM if kept.lease.sent is None else Act.ROUTINE_BEAT
            if not await self._may_after_reading(act, kept):
                await sleep(LOOK_AGAIN)  # else the next turn would ask again at once
            elif (beat := self._wanted_beat(kept)) is not None:
                send()
                kept.calls.is_claiming = kept.lease.sent is None
                try:
                    await self._send(kept, admitted.key, beat)
                finally:
                    kept.calls.is_claiming = False

    def _is_unrecorded(self, kept: Kept, problem: NotDone | None) -> bool:
        """Note why a claim cannot be written into the checkpoint, and return whether that is so."""
        if problem is not None:
            kept.observed.append(partial(beats.note_unrecorded, message=problem.message, now=self._clock()))
        return problem is not None

    def _wanted_beat(self, kept: Kept) -> Beat | None:
        """Return the beat to send after all that was waited for; None if it is not wanted any more."""
        now, lease = self._clock(), kept.newest_lease()
        if kept.rival is not None or kept.calls.is_done:
            return None
        if kept.is_suspended and may_fall_silent(kept.tenancy.succession, lease, now):
            return None
        # Of several resources that went on trying, one may have claimed while this one waited.
        is_given_up = kept.is_deleting and not kept.has_acknowledged
        if lease.sent is None and (is_given_up or self._rival(kept) is not None):
            return None
        # Whatever held this process up meanwhile, the lease's end may have come.
        beat = beats.decide(beats.lapse(lease, now), now)
        return beat if isinstance(beat, Beat) else None

    async def _admit(self, kept: Kept) -> Admitted | NoKey:
        """Return the key of the beat, or why there is none; one that was refused is waited for like a turn."""
        kept.calls.is_waiting = bool(kept.calls.refusals)
        try:
            return await self._keys.admit(kept)
        finally:
            kept.calls.is_waiting = False

    async def _wait_for_turn(self, kept: Kept, admitted: Admitted) -> None:
        budget, request, now = self._clients.budget, self._request(kept, admitted.key), self._clock()
        if admitted.is_last_attempt:
            # Of the leases whose key is refused, many may send one: as a routine beat, like those of others.
            request = replace(request, rank=Rank.ROUTINE)
        if budget.held(now, request):
            kept.observed.append(beats.note_crowded)
            if not kept.lease.held:
                kept.observed.append(partial(beats.note_held_back, message=budget.shortage(now, request)))
                kept.turn.add()
        kept.calls.is_waiting = True
        try:
            await budget.turn(request)
        finally:
            kept.calls.is_waiting = False

    def shortage(self, kept: Kept) -> str:
        """Return why the beat of a lease waits for its turn."""
        key = self._clients.credentials.known_key(*self._secret(kept))
        return self._clients.budget.shortage(self._clock(), self._request(kept, key))

    def _request(self, kept: Kept, key: Key | None) -> BudgetRequest:
        fence, end = deadlines.fence(kept.lease), deadlines.giving_up(kept.lease)
        is_routine = kept.lease.held and kept.lease.failures == 0
        return BudgetRequest(
            key=kept.resource.uid,
            rank=Rank.ROUTINE if is_routine else Rank.FIRST,
            fence=math.inf if fence is None else fence,
            end=math.inf if end is None else end,
            urgent=deadlines.latest(kept.lease),
            payer="" if key is None else key.value.get_secret_value(),
        )

    async def _send(self, kept: Kept, key: Key, beat: Beat) -> None:
        sent, before = self._clock(), kept.newest_lease()
        due = before.due or sent  # a first claim is due when it is made
        try:
            outcome = await self._heartbeat(kept, key, beat)
        except BaseException:
            # The outcome of the call is unknown, so the beat may have been applied.
            broken_off = Unanswered(Exchange(sent=sent, done=self._clock()), "the beat was broken off")
            kept.observed.append(partial(answers.observe, outcome=broken_off))
            raise
        listed = None
        if not isinstance(outcome, Answered):
            listed = await self._ask_list(kept, outcome)
        self._observe(kept, outcome, listed)
        if isinstance(outcome, Conflicted) or before.watched is not None:
            rule = answers.adoption(before, outcome, kept.newest_lease())
            if rule is not None:
                self._clients.publisher.publish(LeaseAdopted(kept.about, rule))
        # A beat that waited for a probe of its key was held back on purpose.
        late = 0.0 if isinstance(outcome, Unauthorized) else max(0.0, sent - due)
        self._clients.publisher.publish(BeatEnded(kept.about, outcome, late=late))
        _log.debug("beat %s outcome=%s", kept.about, type(outcome).__name__)

    async def _ask_list(self, kept: Kept, outcome: Outcome) -> ListAnswer | None:
        """Ask the list what an answer means, if that is in doubt and there is time for it."""
        lease = kept.newest_lease()
        seconds = list_seconds(lease, outcome, kept.tenancy.succession)
        # Of a claim that nothing is known of, the list only tells who holds the item.
        is_idle = not lease.held and not answers.is_claim_in_doubt(lease) and lease.watched is None
        return await self.find_in_list(kept, seconds, may_be_old=is_idle) if seconds > 0 else None

    def _observe(self, kept: Kept, outcome: Outcome, listed: ListAnswer | None) -> None:
        """Leave to the turn what an answer means to this process, as it stands to the bucket now."""
        tenancy, stands = kept.tenancy, self._clients.tenures.standing(kept.tenancy.bucket)
        if stands is Standing.HANDED_OVER:
            # The successor goes on from the record, in which the beat is not answered.
            late = Unanswered(outcome.exchange, "the answer came after the bucket was handed over")
            kept.observed.append(partial(answers.observe, outcome=late))
        elif stands in {Standing.INVALID, Standing.CUT_OFF}:
            blind = observe_as_invalid(Blind(kept.newest_lease(), tenancy.adopted), outcome, listed)
            kept.observed.append(partial(_as_invalid, outcome=outcome, seen=listed, adopted=tenancy.adopted))
            tenancy.is_silent = blind is None
            tenancy.adopted = tenancy.adopted if blind is None else blind.adopted
            if blind is None:
                _log.warning("lease let go of: another process may keep it by now %s", kept.about)
        elif (succession := tenancy.succession) is None:
            kept.observed.append(partial(answers.observe, outcome=outcome, seen=listed))
        else:
            _, tenancy.succession = observe_as_taker(kept.newest_lease(), outcome, listed, succession)
            is_told = tenancy.succession is not None and tenancy.succession.is_told
            if is_told and not succession.is_told and succession.begun is not None:
                seconds = self._clock() - succession.begun
                self._clients.publisher.publish(LeaseTakenOver(seconds))
            kept.observed.append(partial(_as_taker, outcome=outcome, seen=listed, succession=succession))

    async def _heartbeat(self, kept: Kept, key: Key, beat: Beat) -> Outcome:
        """Send the beat; a refused key is read again, and if the Secret has another one, that is tried at once."""
        outcome = await self._ask(kept, key, beat)
        if isinstance(outcome, Unauthorized):
            second = await self._keys.after_refusal(kept, key)
            if isinstance(second, NoKey):
                return CredentialsMissing(self._instant(), second.message)
            if second is not None:
                await self._clients.budget.turn(self._request(kept, second))
                act = Act.FIRST_CLAIM if kept.lease.sent is None else Act.ROUTINE_BEAT
                if beats.lapse(kept.lease, self._clock()).end is not None or not self._may(act, kept):
                    return outcome
                key, outcome = second, await self._ask(kept, second, beat)
                if isinstance(outcome, Unauthorized):
                    await self._keys.after_refusal(kept, key)
        if isinstance(outcome, Answered | Conflicted | NotReady | Rejected):
            self._keys.note_accepted(kept, key)
            self._clients.budget.note_accepted(key.value.get_secret_value(), outcome.exchange.sent)
            return outcome
        if isinstance(outcome, Unauthorized):
            advice = f"{outcome.message}; {key.origin} is not good for this item: put a valid key there"
            return replace(outcome, message=advice)
        if isinstance(outcome, Throttled | Unanswered) and outcome.retry_after is not None:
            self._clients.budget.hold(outcome.retry_after, key.value.get_secret_value())
            # From the first probe on the lease waits in the budget, where it may be the one that probes.
            return replace(outcome, retry_after=min(outcome.retry_after, FIRST_PROBE))
        return outcome

    async def _ask(self, kept: Kept, key: Key, beat: Beat) -> Outcome:
        """Send the beat; that of a held lease is given up early enough for many tries, if the server is fast."""
        if kept.lease.held:
            beat = Beat(beat.expected, beat.desired_ttl, self._patience.timeout(beat.timeout))
        outcome = await self._clients.work_api.heartbeat(_item(kept, key), beat)
        self._patience.note(outcome)
        return outcome

    async def _look_before_claim(self, kept: Kept) -> None:
        """Look at the list whether the item is still the one that was to be claimed."""
        seen = await self.find_in_list(kept, deadlines.timeout(kept.newest_lease()))
        kept.observed.append(partial(answers.look_before_claim, seen=seen, now=self._clock()))

    async def find_in_list(self, kept: Kept, seconds: float, *, may_be_old: bool = False) -> ListAnswer | None:
        """Look for the item in the environment's list, for so long at most; None if the list decides nothing.

        ``may_be_old``: the list of the last minute will do.
        """
        key = await self._clients.credentials.key(*self._secret(kept))
        if isinstance(key, NoKey):
            return None
        if key.environment is None:
            return NoKeyForList()
        environment_id = kept.spec.environment_id
        try:
            async with timeout(seconds):
                turn = replace(
                    self._request(kept, key),
                    key=f"list {environment_id}",
                    rank=Rank.FIRST,
                    payer=key.environment.get_secret_value(),
                    kind=CallClass.READING,
                )
                shared_list, work_id = self._clients.shared_list, kept.spec.work_id
                ask = shared_list.ask_once_a_minute if may_be_old else shared_list.ask
                return await ask(environment_id, key.environment, work_id, turn)
        except TimeoutError:
            _log.warning("the list did not come in time, so the windows alone decide %s", kept.about)
            return None

    def _instant(self) -> Exchange:
        now = self._clock()
        return Exchange(sent=now, done=now)

    # --- Stops -------------------------------------------------------------------------------------------------

    async def stop(self, kept: Kept, *, force: bool) -> None:
        """Ask for the stop of the item, and note whether the server acknowledged it."""
        calls = kept.calls
        before, sent = calls.forced_stop if force else calls.graceful_stop, self._clock()
        outcome = await self._send_stop(kept, force=force)
        now = self._clock()
        match outcome:
            case StopAcknowledged(state):
                asked = Asked(sent, in_doubt=sent)
                kept.observed.append(partial(beats.stop_acknowledged, state=state, now=now))
            case StopNotAcknowledged(message):
                refusals = (before.refusals if before is not None else 0) + 1
                asked = Asked(now, refusals, message, in_doubt=now if outcome.in_doubt else None)
            case _:
                assert_never(outcome)
        is_acknowledged = isinstance(outcome, StopAcknowledged)
        self._clients.publisher.publish(
            StopEnded(kept.about, force=force, is_acknowledged=is_acknowledged, message=asked.message)
        )
        if force:
            calls.forced_stop = asked
        else:
            calls.graceful_stop = asked

    async def _send_stop(self, kept: Kept, *, force: bool) -> StopOutcome:
        admitted = await self._keys.admit(kept)
        key = admitted if isinstance(admitted, NoKey) else admitted.key
        if isinstance(key, NoKey) and kept.is_deleting:
            # Secret and resource may be deleted together, with their namespace; a held item is stopped all the same.
            key = self._clients.credentials.last_key(*self._secret(kept)) or key
        if isinstance(key, NoKey):
            return StopNotAcknowledged(key.message)
        outcome = await self._stop_once(kept, key, force=force)
        if isinstance(outcome, StopNotAcknowledged) and outcome.unauthorized:
            second = await self._keys.after_refusal(kept, key)
            if isinstance(second, Key):
                key, outcome = second, await self._stop_once(kept, second, force=force)
                if isinstance(outcome, StopNotAcknowledged) and outcome.unauthorized:
                    await self._keys.after_refusal(kept, key)
        if isinstance(outcome, StopAcknowledged):
            self._keys.note_accepted(kept, key)
        return outcome

    async def _stop_once(self, kept: Kept, key: Key, *, force: bool) -> StopOutcome:
        """Wait for the stop's turn, and send it if the operator may still stop the item by then."""
        turn, now = self._request(kept, key), self._clock()
        until = min(turn.end, deadlines.may_stop_until(kept.lease))
        if self._clients.budget.held(now, turn):
            self._note_stop_held_back(kept, self._clients.budget.shortage(now, turn), force=force)
        await self._clients.budget.turn(replace(turn, key=f"stop {turn.key}", rank=Rank.FIRST, end=until))
        if kept.calls.is_done or not deadlines.may_stop(kept.newest_lease(), self._clock()):
            return StopNotAcknowledged("the lease ended before the stop could be sent")
        if not self._may(Act.STOP, kept):
            return StopNotAcknowledged(NOT_VALID)
        seconds, sent = deadlines.timeout(kept.lease), self._clock()
        outcome = await self._clients.work_api.stop(_item(kept, key), force=force, timeout=seconds)
        if isinstance(outcome, StopAcknowledged):
            self._clients.budget.note_accepted(turn.payer, sent)
        elif outcome.retry_after is not None:
            self._clients.budget.hold(outcome.retry_after, turn.payer)
        return outcome

    def _note_stop_held_back(self, kept: Kept, message: str, *, force: bool) -> None:
        """Note that a stop waits because the server asked for that, so that the status says so."""
        asked = Asked(self._clock(), 1, message)
        if force:
            kept.calls.forced_stop = kept.calls.forced_stop or asked
        else:
            kept.calls.graceful_stop = kept.calls.graceful_stop or asked
        kept.turn.add()


def _as_taker(lease: Lease, *, outcome: Outcome, seen: ListAnswer | None, succession: Succession) -> Lease:
    """Return the lease after an answer, while the process that held the bucket before may disturb."""
    return observe_as_taker(lease, outcome, seen, succession)[0]


def _as_invalid(lease: Lease, *, outcome: Outcome, seen: ListAnswer | None, adopted: float | None) -> Lease:
    """Return the lease after an answer to a process that is not valid; as it was if it is let go of in silence."""
    blind = observe_as_invalid(Blind(lease, adopted), outcome, seen)
    return lease if blind is None else blind.lease


def _item(kept: Kept, key: Key) -> WorkItem:
    return WorkItem(kept.spec.environment_id, kept.spec.work_id, key.value)
