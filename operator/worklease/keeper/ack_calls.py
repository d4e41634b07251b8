"""The calls by which a kept resource acknowledges its item: a look for the token, the acknowledgement, the list.

Owns how the intent is written down before an acknowledgement is sent, and how each outcome is noted in what is kept and
in its record: the claim may come late, and another process may go on before. Must not start anything by itself, and
must not decide: the turn does, by ``rules.acknowledging``.
"""

import logging
import math
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Final, assert_never

from worklease.clocks import ClockPair
from worklease.cluster.credentials import Key, NoKey
from worklease.cluster.session_tokens import NoToken, TokenFound, look_for_token
from worklease.keeper.calls import Cancellable, Clients, KeptCalls
from worklease.keeper.kept import Kept
from worklease.keeper.keys import Keys
from worklease.keeper.publisher import URGENT_DELAY
from worklease.rules import acknowledging
from worklease.rules.acknowledging import Acknowledgement, AckStep, AckVerdict
from worklease.rules.acts import Act
from worklease.rules.lease import instant
from worklease.rules.outcomes import ListAnswer, ListedItem, ListNotRead, ListRefused, NoKeyForList, NotListed
from worklease.rules.queue import AckAccepted, AckConflicted, AckOutcome, CallFailed, QueueFailure
from worklease.work_api.budget import BudgetRequest, Rank
from worklease.work_api.client import WorkItem

LIST_TIMEOUT: Final = 10.0
"""Seconds for the list at most, as for any other call."""

FindInList = Callable[[Kept, float], Awaitable[ListAnswer | None]]
"""Looks for a resource's item in the list, for so many seconds at most."""

_log = logging.getLogger(__name__)


class AckCalls(KeptCalls):
    """The calls about acknowledgements."""

    def __init__(
        self,
        clients: Clients,
        clock: Callable[[], float],
        wall: Callable[[], ClockPair],
        secret: Callable[[Kept], tuple[str, str]],
        find_in_list: FindInList,
    ) -> None:
        super().__init__(clients, clock, wall, secret)
        self._keys = Keys(clients, clock, secret)
        self._find_in_list = find_in_list

    async def acknowledge(self, kept: Kept) -> None:
        """Take the next step towards the acknowledgement of the item."""
        with Cancellable(kept, "acknowledge") as send:
            ack = kept.calls.ack
            if ack is None:
                return
            match acknowledging.decide_ack(ack, self._clock(), is_wanted=not kept.is_deleting):
                case AckStep.LOOK_FOR_TOKEN:
                    await self._look_for_token(kept, ack)
                case AckStep.SEND:
                    await self._admit_and_send(kept, ack, send)
                case AckStep.ASK_LIST:
                    await self._ask_list(kept, ack)
                case AckStep.WAIT | AckStep.CLAIM | AckStep.END:
                    return
                case step:
                    assert_never(step)

    async def _look_for_token(self, kept: Kept, ack: Acknowledgement) -> None:
        name = kept.token_secret
        if name is None:
            kept.calls.ack = acknowledging.looked(ack, has_token=False, polled=None, now=self._clock())
            return
        found = await look_for_token(self._clients.kubernetes, kept.resource.namespace, name)
        match found:
            case TokenFound(at):
                polled = None if at is None else self._wall().moment(at)
                kept.calls.ack = acknowledging.looked(ack, has_token=True, polled=polled, now=self._clock())
            case NoToken(message):
                kept.calls.ack = acknowledging.looked(
                    ack, has_token=False, polled=None, now=self._clock(), message=message
                )
            case _:
                assert_never(found)

    # --- Sending -----------------------------------------------------------------------------------------------

    async def _admit_and_send(self, kept: Kept, ack: Acknowledgement, send: Callable[[], None]) -> None:
        admitted = await self._keys.admit(kept)
        key = admitted if isinstance(admitted, NoKey) else admitted.key
        if isinstance(key, NoKey) or key.environment is None:
            message = key.message if isinstance(key, NoKey) else "only the environment's key acknowledges: add it"
            kept.calls.ack = acknowledging.postponed(ack, message, self._clock())
            return
        await self._clients.budget.turn(self._turn(kept, key))
        if not self._may_send(kept, ack):
            return
        kept.calls.ack = intended = acknowledging.intended(ack, self._clock())
        problem = await self._commit(kept)
        if (
            problem is not None
            or not acknowledging.is_covered(intended, self._clock())
            or not self._may_send(kept, ack)
        ):
            # Nothing was sent: what the record may say of it until it is written again, the list would clear up.
            message = "" if problem is None else f"that could not be written down before: {problem.message}"
            self._note(kept, acknowledging.postponed(ack, message, self._clock()))
            return
        send()
        outcome: AckOutcome = CallFailed(QueueFailure.UNANSWERED, "the acknowledgement was broken off")
        try:
            outcome = await self._send(kept, key)
        finally:
            self._note(kept, acknowledging.answered(intended, outcome, self._clock()))
        if isinstance(outcome, CallFailed) and outcome.failure is QueueFailure.UNAUTHORIZED:
            await self._keys.after_refusal(kept, key)

    async def _send(self, kept: Kept, key: Key) -> AckOutcome:
        environment, sent = key.environment or key.value, self._clock()
        item = WorkItem(kept.spec.environment_id, kept.spec.work_id, environment)
        outcome = await self._clients.queue.ack(item, timeout=acknowledging.ACK_TIMEOUT)
        payer = environment.get_secret_value()
        if isinstance(outcome, AckAccepted | AckConflicted):
            self._clients.budget.note_accepted(payer, sent)
        elif outcome.retry_after is not None:
            self._clients.budget.hold(outcome.retry_after, payer)
        _log.info("acknowledgement %s outcome=%s", kept.about, type(outcome).__name__)
        return outcome

    def _may_send(self, kept: Kept, ack: Acknowledgement) -> bool:
        """Whether the acknowledgement is still wanted, and in time, after all that was waited for."""
        is_wanted = not (kept.calls.is_done or kept.is_deleting or kept.is_suspended or kept.rival is not None)
        is_ours = self._may(Act.ACKNOWLEDGE, kept)
        return is_wanted and is_ours and kept.lease.end is None and acknowledging.is_in_time(ack, self._clock())

    def _note(self, kept: Kept, ack: Acknowledgement) -> None:
        """Note what is known now, and have it written: whoever keeps the lease next must know it before the claim."""
        kept.calls.ack, checkpoint = ack, self._clients.checkpoint
        if kept.tenancy.is_left:
            return  # the record is another process's
        if ack.verdict is not AckVerdict.NONE:
            text = kept.record(trying=None, wall=self._wall(), now=self._clock())
            checkpoint.put(kept.reference, text, within=URGENT_DELAY)
        elif checkpoint.recall(kept.resource.uid) is not None:
            # Else the lease would look begun to the process of its pool for ever.
            checkpoint.drop(kept.resource.uid)

    def _turn(self, kept: Kept, key: Key) -> BudgetRequest:
        """Return the request for a turn within the budget: among the claims, behind stops."""
        payer = (key.environment or key.value).get_secret_value()
        return BudgetRequest(
            key=f"ack {kept.resource.uid}",
            rank=Rank.FIRST,
            fence=math.inf,
            end=math.inf,
            urgent=math.inf,
            payer=payer,
        )

    # --- The list ----------------------------------------------------------------------------------------------

    async def _ask_list(self, kept: Kept, ack: Acknowledgement) -> None:
        """Ask the list when the item was acknowledged, and by that whose it is."""
        asked, seen = self._clock(), await self._find_in_list(kept, LIST_TIMEOUT)
        now = self._clock()
        match seen:
            case ListedItem():
                at = self._moment(seen.acknowledged_at)
                self._note(kept, acknowledging.listed(ack, at, seen.state, asked=asked, now=now))
            case NotListed():
                self._note(kept, acknowledging.listed(ack, None, "not there any more", asked=asked, now=now))
            case NoKeyForList() | ListRefused() | ListNotRead() | None:
                kept.calls.ack = acknowledging.not_listed(ack, now)
            case _:
                assert_never(seen)

    def _moment(self, text: str | None) -> float | None:
        """Return a time of the server's as a moment of this process's clock; None if it is no time."""
        at = instant(text)
        if at is None:
            return None
        ahead = self._clients.work_api.ahead
        return self._wall().moment(datetime.fromtimestamp(at, UTC)) if ahead is None else at - ahead
