"""What is told of a kept resource after a turn: its status, its conditions' transitions, and its checkpoint.

Owns when something is news, and how soon it must be written. Must not decide what is so: ``conditions`` does.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from worklease.api.models import StatusCondition
from worklease.clocks import ClockPair
from worklease.cluster.checkpoint import Checkpoint
from worklease.cluster.status_writer import StatusWriter, Urgency
from worklease.keeper.kept import Kept
from worklease.rules import lease
from worklease.rules.conditions import Kind, Reason
from worklease.rules.lease import Lease
from worklease.telemetry import ConditionChanged, LeaseEnded, Publisher

URGENT_DELAY: Final = 0.25
"""Seconds within which an adoption is in the checkpoint: as a rule with the answer to the beat that follows it."""


class StatusPublisher:
    """The way from what is kept to who reads of it."""

    def __init__(
        self, status: StatusWriter, checkpoint: Checkpoint, publisher: Publisher, wall: Callable[[], ClockPair]
    ) -> None:
        self._status = status
        self._checkpoint = checkpoint
        self._publisher = publisher
        self._wall = wall

    def publish(self, kept: Kept, now: float) -> bool:
        """Publish the status if anything that it is made from has changed; returns whether it has."""
        if kept.final and kept.resource.status.observed_generation == kept.resource.generation:
            return False  # an earlier process said it all
        made_from = (
            tuple(kept.bound.values()),
            tuple(kept.deletions.values()),
            kept.resource.generation,
            kept.resource.deletion_timestamp,
            lease.is_fenced(kept.lease, now),
            kept.rival,
            kept.attempt,
            kept.making,
            kept.ending,
            kept.dry_run,
            kept.are_pods_listed,
            tuple((asked.refusals, asked.message) for asked in (kept.graceful_stop, kept.forced_stop) if asked),
            _is_overdue(kept.lease, now),
        )
        told, former = kept.told, kept.told_lease
        if former is None and kept.rival is None and _is_in_order(kept.lease):
            resumed = (*made_from, kept.lease)
            if told in ((), resumed):
                kept.told = resumed
                return False  # what an earlier process said of it holds on, until a beat brings news
        if made_from == told and kept.lease == former:
            return False
        self.remember(kept, now)
        if made_from == told and former is not None and _is_renewal(former, kept.lease):
            self._refresh(kept)
        else:
            self._write_now(kept, now)
        kept.told, kept.told_lease = made_from, kept.lease
        kept.is_steady = not (lease.is_fenced(kept.lease, now) or _is_overdue(kept.lease, now))
        return True

    def publish_renewal(self, kept: Kept, now: float) -> bool:
        """Tell of a renewal of a steady lease, provided that nothing else happened; returns whether it is just that."""
        if not kept.is_steady or kept.told_lease is None or not _is_renewal(kept.told_lease, kept.lease):
            return False
        kept.told_lease = kept.lease
        self.remember(kept, now)
        self._refresh(kept)
        return True

    def _refresh(self, kept: Kept) -> None:
        self._status.publish(kept.reference, partial(self._write, kept), Urgency.ROUTINE)

    def _write_now(self, kept: Kept, now: float) -> None:
        """Make the status now, and tell of what changed in it."""
        status = kept.status(self._wall(), now)
        shown = {condition.type: (condition.status.value, condition.reason) for condition in status.conditions}
        is_news = (status.state, shown) != (kept.shown_state, kept.shown)
        for condition in status.conditions:
            self._publish_change(kept, condition)
        if kept.lease.end is not None and kept.reason(Kind.FINISHED) == Reason.IN_PROGRESS:
            self._publisher.publish(LeaseEnded(kept.about, kept.lease.end.value))
        kept.shown_state, kept.shown = status.state, shown
        urgency = Urgency.CHANGE if is_news else Urgency.ROUTINE
        self._status.publish(kept.reference, status.as_merge_patch(), urgency)

    def _write(self, kept: Kept) -> Mapping[str, Any]:
        """Write the status as it is now: of a lease that is only renewed nobody needs each of them."""
        wall = self._wall()
        return kept.status(wall, wall.monotonic).as_merge_patch()

    def _publish_change(self, kept: Kept, condition: StatusCondition) -> None:
        """Tell who listens of a condition that is not what it was."""
        shown = (condition.status.value, condition.reason)
        if (before := kept.shown.get(condition.type)) != shown:
            status, reason = before or (None, None)
            changed = ConditionChanged(kept.about, condition.type, *shown, condition.message, reason, status)
            self._publisher.publish(changed)

    def remember(self, kept: Kept, now: float) -> None:
        """Keep the checkpoint fresh: never older than a third of the TTL; what is over needs none.

        Soon where the one that is written is of little use to another start: it has a value that no answer gave, or a
        lease so old that only a reprieve keeps it, and that counts from the first start on.
        """
        if kept.lease.end is not None:
            self._checkpoint.drop(kept.resource.uid)
        elif kept.lease.sent is not None:
            text = kept.record(trying=None, wall=self._wall(), now=now)
            former = kept.told_lease
            is_urgent = lease.is_adopted(kept.lease) or (
                former is not None and (former.reprieve is not None or lease.is_adopted(former))
            )
            self._checkpoint.put(kept.resource.uid, text, within=URGENT_DELAY if is_urgent else kept.lease.ttl / 3)


def _is_overdue(lease_: Lease, now: float) -> bool:
    """Tell whether a restored lease is past its end, and a beat may still show it to be ours."""
    ends = lease.expiry(lease_)
    return lease_.reprieve is not None and ends is not None and now >= ends


def _is_renewal(before: Lease, after: Lease) -> bool:
    """Tell whether a lease in good order was renewed: no condition changes by that but in the times that it names."""
    return before.state == after.state and _is_in_order(before) and _is_in_order(after)


def _is_in_order(lease_: Lease) -> bool:
    return (
        lease_.held
        and lease_.trouble is None
        and lease_.reprieve is None
        and not (lease_.message or lease_.suspended or lease_.stopping_seen)
    )
