"""Which key a kept resource's next call carries, and when it may: a key that the server refused is tried rarely.

Owns what is noted of refused keys in what is kept, and the wait for a probe of such a key. Must not send anything.
"""

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from worklease.cluster.credentials import Key, NoKey
from worklease.keeper.calls import Clients
from worklease.keeper.kept import Kept, Refusal
from worklease.rules.deadlines import fence, timeout
from worklease.work_api.key_probes import GAP, Place

LOOK: Final = 10.0
"""Seconds after which the Secret of a refused key is read again: all that wait for it share the read."""

MARGIN: Final = 1.0
"""Seconds for a call's turn within the budget, before the last attempt with a refused key."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """The key that a call may carry now."""

    key: Key
    is_probe: bool = False
    """Whether it was refused to this resource before, and this call is the key's next probe."""
    is_last_attempt: bool = False
    """Whether it was refused before, and is tried once more only because the fence is near."""


class Keys:
    """The keys of all kept resources; ``secret`` names the Secret of a resource: namespace and name."""

    def __init__(self, clients: Clients, clock: Callable[[], float], secret: Callable[[Kept], tuple[str, str]]) -> None:
        self._credentials = clients.credentials
        self._probes = clients.key_probes
        self._clock = clock
        self._secret = secret

    async def admit(self, kept: Kept) -> Admitted | NoKey:
        """Return the key of a call; wait while it is one that was refused to this resource.

        Such a key is tried as the next probe of all that it was refused to, as soon as a call of another resource
        shows that it is good again, or once more before the fence. A Secret that has another key ends the wait.
        """
        key = await self._credentials.key(*self._secret(kept))
        calls = kept.calls
        while calls.refusals and isinstance(key, Key) and (refusal := calls.refusals.get(key.value)) is not None:
            if calls.is_done:
                break
            admitted = await self._wait(kept, key, refusal)
            if admitted is not None:
                return admitted
            former, key = key, await self._credentials.key_within(*self._secret(kept), LOOK)
            if isinstance(key, Key) and key.value != former.value and key.value not in calls.refusals:
                self._probes.note_changed(_place(kept, former))
        return key if isinstance(key, NoKey) else Admitted(key)

    async def _wait(self, kept: Kept, key: Key, refusal: Refusal) -> Admitted | None:
        """Wait until a refused key may be tried; None if its Secret was read and may have another key by now."""
        place = _place(kept, key)
        turn = self._probes.join(place)
        try:
            while True:
                now = self._clock()
                if turn.done() and turn.result():
                    return Admitted(key, is_probe=True)
                if self._probes.is_accepted_since(place, refusal.at) and (refusal.count == 1 or now > refusal.at + GAP):
                    return Admitted(key)
                last = self._last_attempt(kept)
                if now >= last:
                    kept.calls.last_try = fence(kept.lease)
                    return Admitted(key, is_last_attempt=True)
                if turn.done() or kept.calls.is_done or await self._has_changed(kept, key):
                    return None
                await asyncio.wait({turn}, timeout=min(LOOK, last - now))
        finally:
            self._probes.leave(place, turn)

    async def _has_changed(self, kept: Kept, key: Key) -> bool:
        """Read the Secret, unless that was done a short time ago; return whether it has another key to try."""
        return await self._credentials.key_within(*self._secret(kept), LOOK) is not key

    def _last_attempt(self, kept: Kept) -> float:
        """Return when to try a refused key for the last time before the fence; infinite if that was done."""
        at = fence(kept.lease)
        if at is None or not kept.lease.held or kept.calls.last_try == at:
            return math.inf
        return at - timeout(kept.lease) - MARGIN

    async def after_refusal(self, kept: Kept, refused: Key) -> Key | NoKey | None:
        """Note a refusal, and return another key that the Secret has; None if that is not to be tried now."""
        before = kept.calls.refusals.get(refused.value)
        refusal = Refusal(self._clock(), 1 if before is None else before.count + 1)
        kept.calls.refusals = {**kept.calls.refusals, refused.value: refusal}
        self._probes.note_refused(_place(kept, refused))
        second = await self._credentials.key_after_refusal(*self._secret(kept), refused)
        return None if isinstance(second, Key) and second.value in kept.calls.refusals else second

    def note_accepted(self, kept: Kept, key: Key) -> None:
        """Note that the server accepted a key: it was none of those that it refused."""
        if kept.calls.refusals:
            kept.calls.refusals, kept.calls.last_try = {}, None
        if self._probes.has_refused:
            self._probes.note_accepted(_place(kept, key))


def _place(kept: Kept, key: Key) -> Place:
    return (kept.spec.environment_id, key.value.get_secret_value())
