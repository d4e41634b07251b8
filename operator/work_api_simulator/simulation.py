"""One simulated organization: its items, keys, faults, history and clock.

This module owns what both ports share, and every change that is made without a request to the Work API. It must not
know of HTTP.
"""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import assert_never

from work_api_simulator import instants, items
from work_api_simulator.calls import SimulatedCalls
from work_api_simulator.clock import Clock
from work_api_simulator.credentials import Keyring
from work_api_simulator.faults import Faults
from work_api_simulator.history import History
from work_api_simulator.instants import SECOND
from work_api_simulator.items import ChangeKind, Item, State, StopMode
from work_api_simulator.profiles import NextMessage, Profile
from work_api_simulator.refusals import RequestRefusal
from work_api_simulator.store import KNOWN_ID, Change, Store


class AdminError(Exception):
    """A request of the administration that cannot be carried out; `status` is the HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class NewItem:
    """An item to create. None gives it a new id; a session's item may have the session's id."""

    environment_id: str
    id: str | None = None
    data_type: str = "session"
    data_id: str | None = None
    ttl_default: int | None = None
    state: State = State.QUEUED
    metadata: Mapping[str, str] = field(default_factory=dict)


class Simulation:
    """Everything but the sockets."""

    def __init__(self, profile: Profile, history_limit: int | None = None) -> None:
        self.profile = profile
        self.clock = Clock()
        self.history = History(self.clock, history_limit)
        self.keyring = Keyring()
        self.faults = Faults()
        self.store = Store(profile, self._changed)
        self.calls = SimulatedCalls(profile, self.store, self.keyring)
        self.on_queued: Callable[[str], None] = lambda _environment_id: None

    def _changed(self, change: Change) -> None:
        self.history.changed(change)
        before, after = change.before, change.after
        if before is not None and (after is None or after.id != before.id):
            self.keyring.set_token(before.id, before.environment_id, None, old=before.sessions_token)
        if after is not None:
            self.keyring.set_token(after.id, after.environment_id, after.sessions_token)
            if after.state is State.QUEUED:
                self.on_queued(after.environment_id)

    def item(self, item_id: str) -> Item:
        """Return the item as it is now."""
        item = self.store.get(item_id, self.clock.now())
        if item is None:
            raise AdminError(404, f"There is no item {item_id}")
        return item

    def create(self, new: NewItem, *, follows: str | None = None) -> Item:
        """Create an item in the given state, as if workers had led it there."""
        now = self.clock.now()
        item_id = f"work_{secrets.token_hex(12)}" if new.id is None else new.id
        if KNOWN_ID.fullmatch(item_id) is None:
            raise AdminError(400, f"The id {item_id} has an unknown prefix: it must begin with work_ or sesn_")
        if self.store.get(item_id, now) is not None:
            raise AdminError(409, f"The item {item_id} already exists: requeue it, or delete it first")
        if new.environment_id not in self.keyring.environments:
            raise AdminError(404, f"There is no environment {new.environment_id}: set its keys first")
        item = Item(
            id=item_id,
            environment_id=new.environment_id,
            data_type=new.data_type,
            data_id=new.data_id or f"sesn_{secrets.token_hex(12)}",
            created_at=now,
            queued_at=now,
            started_at=items.first_started_at(now, self.profile),
            sessions_token=secrets.token_urlsafe(24),
            ttl_default=new.ttl_default,
            follows=follows,
            metadata=new.metadata,
        )
        item = self._advance(item, new.state, now)
        self.store.add(item, now)
        return item

    def create_past(self, environment_id: str, number: int) -> None:
        """Create items that ended a while ago, and are listed like any other; the history has no entry for each."""
        if environment_id not in self.keyring.environments:
            raise AdminError(404, f"There is no environment {environment_id}: set its keys first")
        now = self.clock.now()
        value = instants.write(now, self.profile.value_format)
        self.store.add_past(
            Item(
                id=f"work_{secrets.token_hex(12)}",
                environment_id=environment_id,
                data_type="session",
                data_id=f"sesn_{secrets.token_hex(12)}",
                created_at=now,
                queued_at=now,
                started_at=now,
                sessions_token="",
                state=State.STOPPED,
                value=value,
                stopped_at=now,
            )
            for _ in range(number)
        )
        self.history.noted("past-items", now, f"{number} in {environment_id}")

    def item_of(self, session_id: str) -> Item | None:
        """Return the newest item whose `data` or id names the session."""
        everything = list(self.store.all_items(self.clock.now()))
        return next((item for item in reversed(everything) if session_id in (item.data_id, item.id)), None)

    def create_session(self, environment_id: str | None, session_id: str | None, ttl_default: int | None) -> Item:
        """Create a session whose first message waits for a worker, and return its item.

        "A session's item carries the session's own id", except on servers that make a new item for each message.
        """
        if environment_id is None:
            known = self.keyring.environments
            if len(known) != 1:
                raise AdminError(400, f"environment_id: is required, because there are {len(known)} environments")
            [environment_id] = known
        name = f"sesn_{secrets.token_hex(12)}" if session_id is None else session_id
        if self.item_of(name) is not None:
            raise AdminError(409, f"The session {name} already exists: send it a message, or delete it first")
        shares_id = self.profile.next_message is NextMessage.SAME_ITEM
        return self.create(
            NewItem(
                environment_id=environment_id,
                id=name if shares_id else None,
                data_id=name,
                ttl_default=ttl_default,
            )
        )

    def delete_session(self, session_id: str) -> None:
        """Delete a session and its items: calls that name them answer 404, as does the poll that meets one."""
        now = self.clock.now()
        of_session = [each for each in self.store.all_items(now) if session_id in (each.data_id, each.id)]
        if not of_session:
            raise AdminError(404, f"There is no item for session {session_id}")
        for item in of_session:
            self.store.delete_with_session(item, now)

    def message(self, session_id: str) -> Item | None:
        """Send a message to a session; return the item that waits for a worker because of it, None if none does."""
        last = self.item_of(session_id)
        if last is None:
            raise AdminError(404, f"There is no item for session {session_id}")
        has_ended = last.state is State.STOPPED
        match self.profile.next_message:
            case NextMessage.SAME_ITEM:
                return self.requeue(last.id, State.QUEUED) if has_ended else None
            case NextMessage.NEW_ITEM:
                return self._add_to_session(last, follows=None) if has_ended else None
            case NextMessage.SUCCESSOR:
                return self._add_to_session(last, follows=last.id)
            case _:
                assert_never(self.profile.next_message)

    def _add_to_session(self, last: Item, *, follows: str | None) -> Item:
        new = NewItem(environment_id=last.environment_id, data_id=last.data_id, ttl_default=last.ttl_default)
        return self.create(new, follows=follows)

    def _advance(self, item: Item, state: State, now: int) -> Item:
        """Return a queued item after the transitions that lead to a state."""
        acknowledged = replace(item, state=State.STARTING, polled_at=now, acknowledged_at=now)
        match state:
            case State.QUEUED:
                return item
            case State.STARTING:
                return acknowledged
            case State.ACTIVE:
                return self._beat_as_other_worker(acknowledged, now)
            case State.STOPPING:
                active = self._beat_as_other_worker(acknowledged, now)
                return items.after_stop(active, now, self.profile, StopMode.GRACEFUL)
            case State.STOPPED:
                active = self._beat_as_other_worker(acknowledged, now)
                return items.after_stop(active, now, self.profile, StopMode.FORCED)
            case _:
                assert_never(state)

    def _beat_as_other_worker(self, item: Item, now: int) -> Item:
        """Return the item after a heartbeat of another worker, which knows the current value."""
        if item.state is State.QUEUED:
            item = replace(item, state=State.STARTING, polled_at=now, acknowledged_at=now)
        expected = item.value or items.NO_HEARTBEAT
        result = items.beat(item, now, self.profile, expected=expected, desired=None)
        if isinstance(result, RequestRefusal):
            raise AdminError(409, result.message)
        return result.item

    def stop(self, item_id: str, mode: StopMode) -> Item:
        """Stop an item, as the holder of an API key does."""
        before, now = self.item(item_id), self.clock.now()
        after = items.after_stop(before, now, self.profile, mode)
        if after is not before:
            self.store.change(ChangeKind.STOPPED, before, after, now)
        return after

    def requeue(self, item_id: str, state: State) -> Item:
        """Queue an item again under its id, as a new message to its session does."""
        before, now = self.item(item_id), self.clock.now()
        after = self._advance(items.requeue(before, now, self.profile), state, now)
        self.store.change(ChangeKind.REQUEUED, before, after, now)
        return after

    def steal(self, item_id: str) -> Item:
        """Make another worker claim the item, or send a heartbeat with the item's current value."""
        before, now = self.item(item_id), self.clock.now()
        if before.state in (State.STOPPING, State.STOPPED):
            raise AdminError(409, f"The item {item_id} is {before.state}: there is no lease to take")
        after = self._beat_as_other_worker(before, now)
        self.store.change(ChangeKind.STOLEN, before, after, now)
        return after

    def impose_ttl(self, item_id: str, seconds: int | None) -> Item:
        """Grant this TTL to every later beat, whatever it requests; None ends that."""
        before, now = self.item(item_id), self.clock.now()
        after = replace(before, ttl_imposed=seconds)
        self.store.change(ChangeKind.TTL_IMPOSED, before, after, now)
        return after

    def refuse_ttl(self, item_id: str, longest: int | None) -> Item:
        """Refuse every later beat that requests a longer TTL; None ends that."""
        before, now = self.item(item_id), self.clock.now()
        after = replace(before, ttl_longest=longest)
        self.store.change(ChangeKind.TTL_IMPOSED, before, after, now)
        return after

    def expire_token(self, item_id: str, seconds: float) -> Item:
        """Let the item's sessions token be valid for so long from now."""
        item, now = self.item(item_id), self.clock.now()
        self.keyring.expire_token(item.sessions_token, now + int(seconds * SECOND))
        self.history.noted("token-expires", now, item_id)
        return item

    def rotate_token(self, item_id: str) -> Item:
        """Replace the item's sessions token, and revoke the old one at once."""
        before, now = self.item(item_id), self.clock.now()
        after = replace(before, sessions_token=secrets.token_urlsafe(24))
        self.keyring.set_token(before.id, before.environment_id, None, old=before.sessions_token)
        self.store.change(ChangeKind.TOKEN_ROTATED, before, after, now)
        return after

    def delete(self, item_id: str) -> None:
        """Delete the item: calls that name it answer 404 from now on."""
        self.store.delete(self.item(item_id), self.clock.now())
