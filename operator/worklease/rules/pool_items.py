"""What a pool does with an item that a poll brought, and with what an earlier process left of one.

Owns P11, no strand, as far as the pool writes: which name a lease gets, what an existing lease of that name means, and
when a lease of which nothing left the queue goes. Its own turns acknowledge and claim. Pure.
"""

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from worklease.rules.pool import PoolLease
from worklease.rules.queue import QueuedItem

SESSION: Final = "session"
"""The type of an item that a sandbox works on; a ``healthcheck`` is another."""

LABEL: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?")
"""An id that is valid as the value of a label, as the resource's schema asks."""

DIGEST: Final = 16
"""Hexadecimal digits of a delivery: by chance, two of a billion deliveries agree in one of thirty-six cases, and then
only the counter grows."""

ACK_WITHIN: Final = 4.0
"""Seconds from a poll's sending within which its item is acknowledged: on some servers it has another id after five."""

TOKEN_PATIENCE: Final = 12.0
"""Seconds after which a lease without a token goes, if nothing was begun for it: by then the item was offered again."""

POLL_PATIENCE: Final = 60.0
"""Seconds after its last poll after which a lease goes whose item was never acknowledged: another worker has it."""


class ItemFault(Enum):
    """Why an item is not worked on."""

    NO_SESSION = auto()
    """Its type is none that a sandbox works on."""
    ID_INVALID = auto()
    DELIVERIES_EXHAUSTED = auto()
    """Too many deliveries of its session failed in a row."""


@dataclass(frozen=True, slots=True)
class Make:
    """Make the lease of this delivery."""

    name: str
    delivery: str
    counter: int
    failed_deliveries: int


@dataclass(frozen=True, slots=True)
class RefuseItem:
    """Stop the item by force; where the server refuses that, make a lease that acknowledges and stops it."""

    fault: ItemFault
    message: str
    can_have_lease: bool
    """Whether its id can be a resource's."""


@dataclass(frozen=True, slots=True)
class LeaveItem:
    """Leave the item in the queue: it is offered again, to whoever polls."""

    message: str


ItemPlan = Make | RefuseItem | LeaveItem


def plan_item(
    item: QueuedItem,
    *,
    pool: str,
    environment_id: str,
    has_token: bool,
    requires_token: bool,
    deliveries_per_session: int,
    leases: Mapping[str, PoolLease],
) -> ItemPlan:
    """Return what to do with an item. Another environment's is never touched."""
    if item.environment_id != environment_id:
        return LeaveItem(f"the item is of another environment, {item.environment_id}")
    if (fault := _fault(item)) is not None:
        return fault
    failed = failed_deliveries(session_leases(leases.values(), item.data_id))
    if failed >= deliveries_per_session:
        message = f"{failed} deliveries of session {item.data_id} in a row failed: its item is stopped"
        return RefuseItem(ItemFault.DELIVERIES_EXHAUSTED, message, can_have_lease=True)
    if requires_token and not has_token:
        return LeaveItem("the item has no token of its own, and requireToken is true")
    return make(item, pool=pool, failed=failed, leases=leases, after=-1)


def make(item: QueuedItem, *, pool: str, failed: int, leases: Mapping[str, PoolLease], after: int) -> Make:
    """Return the lease to make for a delivery: the first counter above ``after`` whose lease may be this delivery's."""
    counter = after + 1
    while (known := leases.get(lease_name(pool, item, counter))) is not None and not is_same_delivery(known):
        counter += 1
    name = lease_name(pool, item, counter)
    return Make(name, delivery_of(item, counter), counter, failed)


def delivery_of(item: QueuedItem, counter: int) -> str:
    """Return the digest of a delivery: all that tells it from others, and a counter where that does not."""
    told = json.dumps([item.environment_id, item.id, item.created_at, item.started_at, counter])
    return hashlib.sha256(told.encode()).hexdigest()[:DIGEST]


def lease_name(pool: str, item: QueuedItem, counter: int) -> str:
    """Return the name of a delivery's lease: who asks again finds it made."""
    return f"{pool}-{delivery_of(item, counter)}"


def is_same_delivery(existing: PoolLease) -> bool:
    """Whether a lease of a delivery's name is for an item that is in the queue now.

    If its item was acknowledged, it left the queue for it, and what is in the queue is a later delivery.
    """
    return existing.counts and not existing.is_acknowledged and not existing.is_deleting


def _fault(item: QueuedItem) -> RefuseItem | None:
    has_valid_id = LABEL.fullmatch(item.id) is not None
    if not has_valid_id or LABEL.fullmatch(item.data_id) is None:
        message = "the item or its session has an id that no label can have: it is stopped"
        return RefuseItem(ItemFault.ID_INVALID, message, can_have_lease=has_valid_id)
    if item.data_type != SESSION:
        message = f"the item is a {item.data_type}, which no sandbox works on: it is stopped"
        return RefuseItem(ItemFault.NO_SESSION, message, can_have_lease=True)
    return None


# --- The deliveries of a session -------------------------------------------------------------------------------------


def session_leases(leases: Iterable[PoolLease], session_id: str) -> list[PoolLease]:
    """Return the leases of a session, the newest first."""
    own = (each for each in leases if each.session_id == session_id and not each.is_refused)
    return sorted(own, key=lambda each: (each.created, each.name), reverse=True)


def failed_deliveries(newest_first: Collection[PoolLease]) -> int:
    """Return how many deliveries of a session failed in a row, counting on from its newest lease.

    A delivery whose sandbox never ran says nothing about the session.
    """
    newest = next(iter(newest_first), None)
    if newest is None or newest.has_succeeded:
        return 0
    return newest.failed_deliveries + newest.has_failed


# --- What an earlier process left ------------------------------------------------------------------------------------


def abandoned(leases: Iterable[PoolLease], *, being_written: str | None, now: float) -> list[PoolLease]:
    """Return the leases to delete: nothing was begun for them, and nothing left the queue for them.

    ``being_written`` is the lease whose Secret this process is about to write. A deleted one counts until it is gone.
    """
    return [each for each in leases if each.name != being_written and _is_abandoned(each, now)]


def _is_abandoned(lease: PoolLease, now: float) -> bool:
    if lease.stage is None or lease.is_deleting or lease.is_acknowledged or lease.is_ack_in_doubt:
        return False
    begun = lease.created if lease.polled is None else max(lease.created, lease.polled)
    if lease.needs_token and not lease.has_token:
        return now >= begun + TOKEN_PATIENCE
    return now >= begun + POLL_PATIENCE
