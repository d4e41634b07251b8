"""The calls of the Work API: parameters in, an answer out.

This module reads parameters and owns the order of the checks: credentials, limits, parameters, the item, its rules.
It must not know a connection, wait, or read a clock; `routes` carries out faults and long polls. No call suspends.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, assert_never

from work_api_simulator import items, wire
from work_api_simulator.credentials import Caller, Keyring, Operation
from work_api_simulator.items import HeartbeatAccepted, Item, StopAnswered, StopMode
from work_api_simulator.limits import RateLimit
from work_api_simulator.profiles import EmptyPoll, Profile, StopAnswer, TtlNonsense, WorkerId
from work_api_simulator.refusals import RefusalKind, RequestRefusal
from work_api_simulator.store import Store
from work_api_simulator.wire import Answer, Touched

DEFAULT_RECLAIM_MS = 5000  # "`reclaim_older_than_ms` (default 5000, un-acked items only)"
DEFAULT_PAGE_SIZE = 20  # the hosted size is unknown; small, so that clients must page
READS = frozenset({Operation.POLL, Operation.GET, Operation.LIST, Operation.STATS})


@dataclass(frozen=True, slots=True)
class WorkRequest:
    """One request, without its HTTP. A call that names no item has an empty `item_id`."""

    call: Operation
    caller: Caller
    environment_id: str
    item_id: str
    query: Mapping[str, str]
    body: bytes = b""
    worker_id: str | None = None


class SimulatedCalls:
    """The Work API over a store and a keyring."""

    def __init__(self, profile: Profile, store: Store, keyring: Keyring) -> None:
        self._profile = profile
        self._store = store
        self._keyring = keyring
        self._writes = RateLimit(profile.writes_per_minute)
        self._reads = RateLimit(profile.reads_per_minute)
        self._calls: dict[Operation, Callable[[WorkRequest, int], Answer | RequestRefusal]] = {
            Operation.HEARTBEAT: self._heartbeat,
            Operation.STOP: self._stop,
            Operation.ACK: self._ack,
            Operation.POLL: self._poll,
            Operation.GET: self._get,
            Operation.METADATA: self._metadata,
            Operation.LIST: self._list,
            Operation.STATS: self._stats,
        }

    def answer(self, request: WorkRequest, now: int) -> Answer | RequestRefusal:
        """Carry out a request, or return why it is refused."""
        caller = request.caller
        refusal = self._keyring.admit(request.call, caller, request.environment_id, request.item_id, self._profile)
        if refusal is None:
            refusal = (self._reads if request.call in READS else self._writes).take(now)
        return self._calls[request.call](request, now) if refusal is None else refusal

    def poll_again(self, request: WorkRequest, now: int) -> Answer | RequestRefusal:
        """Answer a waiting poll again. Its credentials and the limit were checked when it arrived."""
        return self._poll(request, now)

    def named_item(self, request: WorkRequest, now: int) -> Item | None:
        """Return the item that a request names, as it is before the request."""
        return self._store.get(request.item_id, now) if request.item_id else None

    def _heartbeat(self, request: WorkRequest, now: int) -> Answer | RequestRefusal:
        desired = _whole_number(request.query, "desired_ttl_seconds", 1, None)
        if isinstance(desired, RequestRefusal):
            if self._profile.ttl_nonsense is TtlNonsense.REFUSED:
                return desired
            desired = None
        item = self._store.find(request.environment_id, request.item_id, now)
        if isinstance(item, RequestRefusal):
            return item
        expected = request.query.get("expected_last_heartbeat")
        result = items.beat(item, now, self._profile, expected=expected, desired=desired)
        match result:
            case HeartbeatAccepted(after, extended, ttl):
                if after is not item:
                    self._store.put(after, now)
                return Answer(200, wire.heartbeat(result), Touched(item, after, ttl, extended))
            case RequestRefusal():
                return result
            case _:
                assert_never(result)

    def _stop(self, request: WorkRequest, now: int) -> Answer | RequestRefusal:
        body = _json_object(request.body)
        if isinstance(body, RequestRefusal):
            return body
        force = body.get("force", False)
        if not isinstance(force, bool):
            return RequestRefusal(RefusalKind.INVALID, "force: must be true or false")
        item = self._store.find(request.environment_id, request.item_id, now)
        if isinstance(item, RequestRefusal):
            return item
        result = items.stop(item, now, self._profile, StopMode.FORCED if force else StopMode.GRACEFUL)
        match result:
            case StopAnswered(after):
                if after is not item:
                    self._store.put(after, now)
                touched = Touched(item, after)
                if self._profile.stop_answer is StopAnswer.NO_CONTENT:
                    return Answer(204, "", touched)
                return Answer(200, wire.item(after), touched)
            case RequestRefusal():
                return result
            case _:
                assert_never(result)

    def _ack(self, request: WorkRequest, now: int) -> Answer | RequestRefusal:
        item = self._store.find(request.environment_id, request.item_id, now)
        if isinstance(item, RequestRefusal):
            return item
        after = items.acknowledge(item, now, self._profile)
        return after if isinstance(after, RequestRefusal) else self._save(item, after, now)

    def _metadata(self, request: WorkRequest, now: int) -> Answer | RequestRefusal:
        body = _json_object(request.body)
        if isinstance(body, RequestRefusal):
            return body
        patch = body.get("metadata", {})
        if not isinstance(patch, dict) or not all(value is None or isinstance(value, str) for value in patch.values()):
            return RequestRefusal(RefusalKind.INVALID, "metadata: must be an object whose values are strings or null")
        item = self._store.find(request.environment_id, request.item_id, now)
        if isinstance(item, RequestRefusal):
            return item
        return self._save(item, items.patch_metadata(item, patch), now)

    def _get(self, request: WorkRequest, now: int) -> Answer | RequestRefusal:
        item = self._store.find(request.environment_id, request.item_id, now)
        return item if isinstance(item, RequestRefusal) else Answer(200, wire.item(item), Touched(item, item))

    def _poll(self, request: WorkRequest, now: int) -> Answer | RequestRefusal:
        block = poll_block_ms(request)
        if isinstance(block, RequestRefusal):
            return block
        reclaim = _whole_number(request.query, "reclaim_older_than_ms", 0, None)
        if isinstance(reclaim, RequestRefusal):
            return reclaim
        older = DEFAULT_RECLAIM_MS if reclaim is None else reclaim
        self._store.run_due(now)
        is_named = self._profile.worker_id is WorkerId.QUERY
        worker_id = request.query.get("worker_id") if is_named else request.worker_id
        item = self._store.poll(request.environment_id, now, older, worker_id)
        if item is None or isinstance(item, RequestRefusal):
            return item or self._no_work()
        return Answer(200, wire.polled(item, self._profile), Touched(item, item))

    def _no_work(self) -> Answer:
        """Return the answer of an empty poll: "JSON `null`", or what other servers answer."""
        match self._profile.empty_poll:
            case EmptyPoll.NULL:
                return Answer(200, "null")
            case EmptyPoll.NO_CONTENT:
                return Answer(204, "")
            case EmptyPoll.EMPTY_OBJECT:
                return Answer(200, "{}")
            case _:
                assert_never(self._profile.empty_poll)

    def _list(self, request: WorkRequest, now: int) -> Answer | RequestRefusal:
        limit = _whole_number(request.query, "limit", 1, None)
        if isinstance(limit, RequestRefusal):
            return limit
        below = None
        if page := request.query.get("page"):
            below = wire.read_cursor(page)
            if below is None:
                return RequestRefusal(RefusalKind.INVALID, "page: is not a cursor of this list")
        size = min(DEFAULT_PAGE_SIZE if limit is None else limit, self._profile.largest_page)
        found, following = self._store.page(request.environment_id, now, size, below)
        return Answer(200, wire.page(found, None if following is None else wire.cursor(following)))

    def _stats(self, request: WorkRequest, now: int) -> Answer | RequestRefusal:
        return Answer(200, wire.stats(self._store.stats(request.environment_id, now)))

    def _save(self, before: Item, after: Item, now: int) -> Answer:
        if after is not before:
            self._store.put(after, now)
        return Answer(200, wire.item(after), Touched(before, after))


def poll_block_ms(request: WorkRequest) -> int | RequestRefusal | None:
    """Return how long a poll may wait: "`block_ms` 1..999 (omit: do not block)"."""
    return _whole_number(request.query, "block_ms", 1, 999)


def _whole_number(query: Mapping[str, str], name: str, least: int, greatest: int | None) -> int | RequestRefusal | None:
    """Return a whole number; None if it is absent or empty, a refusal if it is invalid or out of bounds."""
    text = query.get(name)
    if not text:
        return None
    try:
        number = int(text)
    except ValueError:
        return RequestRefusal(RefusalKind.INVALID, f"{name}: must be a whole number")
    if number < least or (greatest is not None and number > greatest):
        bounds = f"at least {least}" if greatest is None else f"in {least}..{greatest}"
        return RequestRefusal(RefusalKind.INVALID, f"{name}: must be {bounds}")
    return number


def _json_object(body: bytes) -> dict[str, Any] | RequestRefusal:
    """Return the body as a JSON object; an empty body is an empty object."""
    if not body:
        return {}
    try:
        parsed = json.loads(body)
    except ValueError:
        return RequestRefusal(RefusalKind.INVALID, "The request body is not valid JSON")
    return (
        parsed
        if isinstance(parsed, dict)
        else RequestRefusal(RefusalKind.INVALID, "The request body must be an object")
    )
