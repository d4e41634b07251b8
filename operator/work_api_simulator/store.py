"""All items of all environments: the queue, paging, and due changes.

This module owns which item is where, and applies the rules of `items` to it. It must not read a clock or know of HTTP.
Nothing in it suspends, so every operation is atomic in one event loop: this alone makes compare-and-set correct.
"""

import heapq
import re
import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from work_api_simulator import items
from work_api_simulator.instants import MILLISECOND, SECOND
from work_api_simulator.items import ChangeKind, Item, State
from work_api_simulator.profiles import Lapse, LapsedId, ListedDelivery, Profile, ReclaimAge, ReclaimedId
from work_api_simulator.refusals import RefusalKind, RequestRefusal

KNOWN_ID = re.compile(r"(work|sesn)_[A-Za-z0-9_-]+")
POLLING_WINDOW = 30 * SECOND  # "Number of workers that have polled for work in the last 30 seconds"


@dataclass(frozen=True, slots=True)
class Change:
    """A change of an item without a request; `at` is when it was due, not when it was noticed."""

    at: int
    kind: ChangeKind
    before: Item | None
    after: Item | None


@dataclass(frozen=True, slots=True)
class QueueStats:
    """The numbers of an environment's queue."""

    depth: int
    pending: int
    oldest_queued_at: int | None
    workers_polling: int


@dataclass(slots=True)
class _Environment:
    """One environment: all ids in the order of creation, the waiting ids in the order of queueing, and the workers."""

    created: list[str] = field(default_factory=list)
    waiting: dict[str, None] = field(default_factory=dict)
    stale: dict[str, None] = field(default_factory=dict)
    """The ids that waited when their sessions were deleted, and that no poll has met since."""
    workers: dict[str, int] = field(default_factory=dict)


class Store:
    """The items, by id; `observe` is called for every change that no request made."""

    def __init__(self, profile: Profile, observe: Callable[[Change], None]) -> None:
        self.profile = profile
        self._observe = observe
        self._items: dict[str, Item] = {}
        self._environments: dict[str, _Environment] = {}
        self._due: list[tuple[int, str]] = []
        self._scheduled: dict[str, int] = {}
        self._past: dict[str, list[tuple[int, Item]]] = {}
        self._former: dict[str, Item] = {}

    # -- one item

    def get(self, item_id: str, now: int) -> Item | None:
        """Return the item as it is now."""
        self._run_due_of(item_id, now)
        return self._items.get(item_id)

    def find(self, environment_id: str, item_id: str, now: int) -> Item | RequestRefusal:
        """Return the item as it is now, or why there is none: "no such item; [...] an id with an unknown prefix"."""
        if KNOWN_ID.fullmatch(item_id) is None:
            return RequestRefusal(RefusalKind.INVALID, f"Invalid work item id {item_id}: unknown prefix")
        item = self.get(item_id, now)
        if item is None or item.environment_id != environment_id:
            return RequestRefusal(RefusalKind.NOT_FOUND, f"Work item {item_id} was not found")
        return item

    def put(self, item: Item, now: int) -> None:
        """Store an item as a request left it."""
        self._items[item.id] = item
        environment = self._environment(item.environment_id)
        if item.state is State.QUEUED:
            environment.waiting.setdefault(item.id)
        else:
            environment.waiting.pop(item.id, None)
        self._schedule(item)
        self._remember(item, now)

    def add(self, item: Item, now: int) -> None:
        """Store a new item."""
        self._environment(item.environment_id).created.append(item.id)
        self.put(item, now)
        self._observe(Change(now, ChangeKind.CREATED, None, item))

    def add_past(self, past: Iterable[Item]) -> None:
        """Store items that ended before anybody looked: no change is reported of them."""
        for item in past:
            self._environment(item.environment_id).created.append(item.id)
            self.put(item, item.created_at)

    def change(self, kind: ChangeKind, before: Item, after: Item, now: int) -> None:
        """Store an item that the administration or the passing of time changed, and report the change."""
        if after.state is State.QUEUED and after.deliveries != before.deliveries:
            self._environment(before.environment_id).waiting.pop(before.id, None)  # it goes to the end of the queue
        if after.deliveries != before.deliveries:
            self._former[before.id] = before
        self.put(after, now)
        self._observe(Change(now, kind, before, after))

    def delete(self, item: Item, now: int) -> None:
        """Delete an item."""
        self._forget(item)
        self._observe(Change(now, ChangeKind.DELETED, item, None))

    def delete_with_session(self, item: Item, now: int) -> None:
        """Delete an item whose session was deleted: if it waits, its entry in the queue stays until a poll meets it."""
        if item.state is State.QUEUED:
            self._environment(item.environment_id).stale.setdefault(item.id)
        self.delete(item, now)

    # -- the queue of an environment

    def poll(
        self, environment_id: str, now: int, reclaim_older_than_ms: int, worker_id: str | None
    ) -> Item | RequestRefusal | None:
        """Return the item that has waited longest; None if none waits.

        The item stays `queued` until it is acknowledged. Until then it is returned again once its last poll is older
        than `reclaim_older_than_ms` ("default 5000, un-acked items only"), on some servers under another id. An entry
        of a session that was deleted is consumed by the refusal that answers the poll.
        """
        environment = self._environment(environment_id)
        if worker_id is not None:
            environment.workers[worker_id] = now
        if environment.stale:
            stale, _ = environment.stale.popitem()
            return RequestRefusal(RefusalKind.NOT_FOUND, f"Work item {stale} was not found: its session was deleted")
        if self.profile.lapse is Lapse.AT_NEXT_POLL:
            self._lapse_overdue(environment_id, now)
        for item_id in tuple(environment.waiting):
            item = self._items[item_id]
            if not self._is_offered(item, now, reclaim_older_than_ms):
                continue
            if item.polled_at is not None and self.profile.reclaimed_id is ReclaimedId.NEW:
                item = self._rename(ChangeKind.RECLAIMED, item, item, now)
            polled = replace(item, polled_at=now, reclaim_ms=reclaim_older_than_ms)
            self.put(polled, now)
            return polled
        return None

    def _is_offered(self, item: Item, now: int, reclaim_older_than_ms: int) -> bool:
        """Whether a poll may return an item that waits."""
        before = None if item.follows is None else self._items.get(item.follows)
        if before is not None and before.state is not State.STOPPED:
            return False
        if item.polled_at is None:
            return True
        is_reserving = self.profile.reclaim_age is ReclaimAge.RESERVING
        age = item.reclaim_ms if is_reserving else reclaim_older_than_ms
        return now - item.polled_at >= age * MILLISECOND

    def stats(self, environment_id: str, now: int) -> QueueStats:
        """Count the waiting items, the polled but unacknowledged ones, and the workers that polled recently."""
        self.run_due(now)
        environment = self._environment(environment_id)
        waiting = [self._items[item_id] for item_id in environment.waiting]
        pending = sum(item.polled_at is not None for item in waiting)
        return QueueStats(
            depth=len(waiting) - pending,
            pending=pending,
            oldest_queued_at=min((item.queued_at for item in waiting), default=None),
            workers_polling=sum(now - at <= POLLING_WINDOW for at in environment.workers.values()),
        )

    def page(self, environment_id: str, now: int, limit: int, below: int | None) -> tuple[list[Item], int | None]:
        """Return a page of items, the newest first, and where the next page begins; None at the end."""
        self.run_due(now)
        created = self._environment(environment_id).created
        found: list[Item] = []
        for index in range(len(created) if below is None else min(below, len(created)), 0, -1):
            item = self._seen_by_list(created[index - 1], now)
            if item is None:
                continue
            if len(found) == limit:
                return found, index
            found.append(item)
        return found, None

    def all_items(self, now: int) -> Iterator[Item]:
        """Return every item as it is now, in the order of creation."""
        self.run_due(now)
        yield from tuple(self._items.values())

    # -- time

    def next_due(self) -> int | None:
        """Return the earliest time at which `run_due` may have something to do."""
        return self._due[0][0] if self._due else None

    def run_due(self, now: int) -> None:
        """Make every change that is due by now."""
        while self._due and self._due[0][0] <= now:
            at, item_id = heapq.heappop(self._due)
            if self._scheduled.get(item_id) == at:
                del self._scheduled[item_id]
            self._run_due_of(item_id, now)
            if (item := self._items.get(item_id)) is not None:
                self._schedule(item)

    def _schedule(self, item: Item) -> None:
        """Remember when the item is due. A beat that only moves that time later costs nothing until then."""
        if (due := items.due(item, self.profile)) is None:
            return
        scheduled = self._scheduled.get(item.id)
        if scheduled is None or due[0] < scheduled:
            self._scheduled[item.id] = due[0]
            heapq.heappush(self._due, (due[0], item.id))

    def _run_due_of(self, item_id: str, now: int) -> None:
        """Make the change of one item that is due by now, dated at the time at which it was due."""
        item = self._items.get(item_id)
        if item is None or (due := items.due(item, self.profile)) is None or due[0] > now:
            return
        at, kind = due
        self._requeue(kind, item, at)

    def _lapse_overdue(self, environment_id: str, now: int) -> None:
        """Make overdue leases lapse, for a server that checks only when it is polled."""
        for item_id in tuple(self._environment(environment_id).created):
            item = self._items.get(item_id)
            if item is not None and (end := items.lease_end(item, self.profile)) is not None and end <= now:
                self._requeue(ChangeKind.LAPSED, item, now)

    def _requeue(self, kind: ChangeKind, item: Item, at: int) -> None:
        """Queue an item again, under its id or, if the profile says so, a new one."""
        queued = items.requeue(item, at, self.profile)
        if kind is not ChangeKind.LAPSED or self.profile.lapsed_id is LapsedId.SAME:
            self.change(kind, item, queued, at)
        else:
            self._rename(kind, item, queued, at)

    def _rename(self, kind: ChangeKind, before: Item, after: Item, at: int) -> Item:
        """Give an item that waits another id, and return it: the old id is of no item any more."""
        renamed = replace(after, id=f"work_{secrets.token_hex(12)}", latest=0)
        self._forget(before)
        self._environment(renamed.environment_id).created.append(renamed.id)
        self.put(renamed, at)
        self._observe(Change(at, kind, before, renamed))
        return renamed

    # -- bookkeeping

    def _environment(self, environment_id: str) -> _Environment:
        environment = self._environments.get(environment_id)
        if environment is None:
            environment = self._environments[environment_id] = _Environment()
        return environment

    def _forget(self, item: Item) -> None:
        del self._items[item.id]
        self._scheduled.pop(item.id, None)
        environment = self._environment(item.environment_id)
        environment.waiting.pop(item.id, None)
        environment.created.remove(item.id)
        self._past.pop(item.id, None)
        self._former.pop(item.id, None)

    def _remember(self, item: Item, now: int) -> None:
        """Keep an item's past as far back as a lagging list can show it."""
        if not self.profile.list_lag_seconds:
            return
        past = self._past.setdefault(item.id, [])
        past.append((now, item))
        del past[: max(0, self._visible(past, now))]

    def _visible(self, past: list[tuple[int, Item]], now: int) -> int:
        """Return the index of the entry that the list shows now; -1 if it does not show the item yet."""
        horizon = now - int(self.profile.list_lag_seconds * SECOND)
        return sum(at <= horizon for at, _ in past) - 1

    def _seen_by_list(self, item_id: str, now: int) -> Item | None:
        """Return an item as the list shows it: "The list lags", by some seconds or by a delivery."""
        if self.profile.listed_delivery is ListedDelivery.FORMER and item_id in self._former:
            return self._former[item_id]
        if not self.profile.list_lag_seconds:
            return self._items[item_id]
        past = self._past[item_id]
        visible = self._visible(past, now)
        return past[visible][1] if visible >= 0 else None
