"""The calls by which a kept resource looks at its session: what it does, and why it is idle.

Owns how they get their turn within the budget, and how many go side by side. Must not start anything by itself, and
must not decide: the turn does, by ``rules.sessions``.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from pydantic import SecretStr

from worklease.clocks import ClockPair
from worklease.cluster.credentials import Key, NoKey
from worklease.keeper.calls import Clients, KeptCalls
from worklease.keeper.kept import Kept
from worklease.rules import sessions
from worklease.rules.acts import Act
from worklease.rules.queue import CallFailed, IdleReason, QueueFailure, SessionState
from worklease.rules.sessions import SessionWatch
from worklease.work_api.budget import BudgetRequest, CallClass, Rank

LOOK_TIMEOUT: Final = 10.0
"""Seconds for each call, as for any other."""

SIDE_BY_SIDE: Final = 4
"""Looks under way at once: polls have the same rank, and must not wait behind those of a whole fleet. Forty looks a
second are those of two thousand sandboxes, if the budget has so many turns; else sessions are looked at later."""

LASTING: Final = 3
"""Looks in a row that bring nothing after which that is logged, once: the next look makes up for a lost answer."""

Said = TypeVar("Said", SessionState, IdleReason)

_log = logging.getLogger(__name__)


class SessionCalls(KeptCalls):
    """The calls about sessions."""

    def __init__(
        self,
        clients: Clients,
        clock: Callable[[], float],
        wall: Callable[[], ClockPair],
        secret: Callable[[Kept], tuple[str, str]],
    ) -> None:
        super().__init__(clients, clock, wall, secret)
        self._slots = asyncio.Semaphore(SIDE_BY_SIDE)

    async def look(self, kept: Kept) -> None:
        """Ask what the session does, and note what is known of it then."""
        async with self._slots:
            policy, since = kept.policy, kept.pods.attempt.runs_since
            if policy is None or since is None:
                return  # it is not asked about any more
            key = await self._clients.credentials.key(*self._secret(kept))
            said: SessionState | CallFailed
            why: IdleReason | CallFailed | None
            if isinstance(key, NoKey):
                said, why, is_proven = CallFailed(QueueFailure.UNSENT, key.message), None, False
            else:
                said, why = await self._ask(kept, key)
                is_proven = kept.newest_lease().accepted_key == hash(_value(key))
        before = kept.calls.session
        if before is None or before.runs_since != since:
            is_named = kept.spec.session_id is not None
            before = SessionWatch(session=kept.spec.session, runs_since=since, is_known=is_named)
        kept.calls.session = sessions.observe(before, said, why, policy, self._clock(), is_key_proven=is_proven)
        if kept.calls.session.failures == LASTING:
            failed = why if isinstance(why, CallFailed) else said
            _log.warning("session not seen, so its sandbox is not stopped for it %s: %s", kept.about, failed)

    async def _ask(self, kept: Kept, key: Key) -> tuple[SessionState | CallFailed, IdleReason | CallFailed | None]:
        """Return what the session does, and why it is idle if it is."""
        if _secret(key) in kept.calls.refusals:
            return CallFailed(QueueFailure.UNSENT, "the server refuses the key to the lease's own calls"), None
        queue, session = self._clients.queue, kept.spec.session
        said = await self._send(kept, key, lambda: queue.session(session, _secret(key), timeout=LOOK_TIMEOUT))
        if not isinstance(said, SessionState) or said.status != sessions.IDLE or said.is_archived:
            return said, None
        return said, await self._send(kept, key, lambda: queue.idle_reason(session, _secret(key), timeout=LOOK_TIMEOUT))

    async def _send(self, kept: Kept, key: Key, call: Callable[[], Awaitable[Said | CallFailed]]) -> Said | CallFailed:
        """Make a call in its turn, if it is still wanted then."""
        budget = self._clients.budget
        await budget.turn(_turn(kept, key))
        if not self._may(Act.READ, kept) or kept.calls.is_done or not kept.newest_lease().held:
            return CallFailed(QueueFailure.UNSENT, "the lease is over, or another process keeps it")
        sent, answer = self._clock(), await call()
        if not isinstance(answer, CallFailed):
            budget.note_accepted(_value(key), sent, CallClass.READING)
        elif answer.retry_after is not None:
            budget.hold(answer.retry_after, _value(key), CallClass.READING)
        return answer


def _turn(kept: Kept, key: Key) -> BudgetRequest:
    """Return the request for a turn within the budget: of the last rank, as that of a poll."""
    return BudgetRequest(
        key=f"session {kept.resource.uid}",
        rank=Rank.LAST,
        fence=math.inf,
        end=math.inf,
        urgent=math.inf,
        payer=_value(key),
        kind=CallClass.READING,
    )


def _secret(key: Key) -> SecretStr:
    """Return the environment's key, where there is one: it is known to read sessions. Else the item's own token."""
    return key.environment or key.value


def _value(key: Key) -> str:
    return _secret(key).get_secret_value()
