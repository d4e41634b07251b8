"""What is published of a kept resource after a turn: its status, its conditions' transitions, and its checkpoint.

Owns when something is news, and how soon it must be written. Must not decide what is so: ``rules.conditions`` does.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final

from worklease.api.models import StatusCondition
from worklease.clocks import ClockPair
from worklease.cluster.checkpoint import Checkpoint
from worklease.cluster.status_writer import StatusWriter, Urgency
from worklease.keeper import shown
from worklease.keeper.kept import Kept
from worklease.rules.answers import is_adopted
from worklease.rules.deadlines import is_fenced
from worklease.rules.lease import Lease
from worklease.rules.reasons import Kind, Reason
from worklease.rules.situation import Situation, is_past_end
from worklease.telemetry import ConditionChanged, LeaseEnded, Publisher

URGENT_DELAY: Final = 0.25
"""Seconds within which an adoption is in the checkpoint, or what came of an acknowledgement: as a rule with the answer
to the beat, or with the claim, that follows it."""


class StatusPublisher:
    """Publishes the status of kept resources, the changes of their conditions, and their checkpoints."""

    def __init__(
        self, status: StatusWriter, checkpoint: Checkpoint, publisher: Publisher, wall: Callable[[], ClockPair]
    ) -> None:
        self._status = status
        self._checkpoint = checkpoint
        self._publisher = publisher
        self._wall = wall

    def publish(self, kept: Kept, now: float) -> bool:
        """Publish the status if anything that it is made from has changed; return whether it has."""
        published, situation = kept.published, kept.situation
        if published.final and kept.resource.status.observed_generation == kept.resource.generation:
            return False  # an earlier process published everything
        deadlines = (is_fenced(kept.lease, now), is_past_end(kept.lease, now))
        former = published.lease
        if former is None and kept.rival is None and _is_in_order(kept.lease):
            if published.situation is None or (published.situation, published.deadlines) == (situation, deadlines):
                published.situation, published.deadlines = situation, deadlines
                return False  # what an earlier process said of it holds on, until a beat or a deadline brings news
            is_same = False
        else:
            is_same = deadlines == published.deadlines and _is_same_beside_lease(published.situation, situation)
        if is_same and kept.lease == former:
            published.situation = situation  # it says the same: thousands of resources hold one of the two, not both
            return False
        self.remember(kept, now)
        if is_same and former is not None and _is_renewal(former, kept.lease):
            self._refresh(kept)
        else:
            self._publish_now(kept, now)
        published.situation, published.lease, published.deadlines = situation, kept.lease, deadlines
        return True

    def publish_renewal(self, kept: Kept, now: float) -> bool:
        """Publish a renewal of a steady lease, provided that nothing else happened; return whether it is just that."""
        published = kept.published
        if any(published.deadlines) or published.lease is None or not _is_renewal(published.lease, kept.lease):
            return False
        if kept.lease is not published.lease:  # else nothing was sent
            published.lease = kept.lease
            self.remember(kept, now)
            self._refresh(kept)
        return True

    def _refresh(self, kept: Kept) -> None:
        self._status.publish(kept.reference, partial(self._body, kept), Urgency.ROUTINE)

    def _publish_now(self, kept: Kept, now: float) -> None:
        """Make the status now, and publish what changed in it."""
        status, published = shown.status(kept, self._wall(), now), kept.published
        conditions = {condition.type: (condition.status.value, condition.reason) for condition in status.conditions}
        is_news = (status.state, conditions) != (published.state, published.conditions)
        for condition in status.conditions:
            self._publish_change(kept, condition)
        if kept.lease.end is not None and published.reason(Kind.FINISHED) == Reason.IN_PROGRESS:
            self._publisher.publish(LeaseEnded(kept.about, kept.lease.end.value))
        published.state, published.conditions = status.state, conditions
        urgency = Urgency.CHANGE if is_news else Urgency.ROUTINE
        self._status.publish(kept.reference, status.as_merge_patch(), urgency)

    def _body(self, kept: Kept) -> Mapping[str, Any]:
        """Return the status at the time of its write: nobody needs each one of a lease that is only renewed."""
        wall = self._wall()
        return shown.status(kept, wall, wall.monotonic).as_merge_patch()

    def _publish_change(self, kept: Kept, condition: StatusCondition) -> None:
        """Publish a condition whose status or reason has changed."""
        now_shown = (condition.status.value, condition.reason)
        if (before := kept.published.conditions.get(condition.type)) != now_shown:
            status, reason = before or (None, None)
            self._publisher.publish(
                ConditionChanged(kept.about, condition.type, *now_shown, condition.message, reason, status)
            )

    def remember(self, kept: Kept, now: float) -> None:
        """Keep the checkpoint fresh: never older than a third of the TTL; a lease that is over needs none.

        It is written soon if the last one is of little use to another start: its value came from no answer, or its
        lease is so old that only a reprieve keeps it, and a reprieve counts from the first start.
        """
        if kept.lease.end is not None:
            self._checkpoint.drop(kept.resource.uid)
        elif kept.lease.sent is not None:
            text = kept.record(trying=None, wall=self._wall(), now=now)
            former = kept.published.lease
            is_urgent = is_adopted(kept.lease) or (
                former is not None and (former.reprieve is not None or is_adopted(former))
            )
            self._checkpoint.put(kept.reference, text, within=URGENT_DELAY if is_urgent else kept.lease.ttl / 3)


def _is_same_beside_lease(before: Situation | None, after: Situation) -> bool:
    """Whether two situations differ in the lease only, which each beat renews."""
    return before is not None and (before is after or replace(before, lease=after.lease) == after)


def _is_renewal(before: Lease, after: Lease) -> bool:
    """Whether a lease in good order was only renewed: that changes no condition but for the times that it names."""
    return before.state == after.state and _is_in_order(before) and _is_in_order(after)


def _is_in_order(lease: Lease) -> bool:
    return (
        lease.held
        and lease.trouble is None
        and lease.reprieve is None
        and not (lease.message or lease.suspended or lease.stopping_seen)
    )
