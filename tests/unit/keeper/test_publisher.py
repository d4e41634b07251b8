"""What is published about a lease after a start: nothing that still holds, and soon what another start would need."""

from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from support.lease_samples import AHEAD, answered, refused, stamp
from worklease.api.models import WorkLease
from worklease.api.names import Reference
from worklease.clocks import ClockPair
from worklease.cluster.checkpoint import Checkpoint
from worklease.cluster.status_writer import StatusWriter, Urgency
from worklease.keeper import shown
from worklease.keeper.kept import Kept, LeaseOptions, fresh_lease
from worklease.keeper.publisher import URGENT_DELAY, StatusPublisher
from worklease.keeper.resume import resume
from worklease.rules.acknowledging import AckVerdict, AckView
from worklease.rules.answers import is_adopted, observe
from worklease.rules.beats import edit
from worklease.rules.deadlines import fence
from worklease.rules.lease import Lease
from worklease.rules.pods import Cause, Ending, Obstacle, Pod
from worklease.rules.situation import Ailing, Asked, AskedToFinish, Attempt, DeletionPolicy, Policy, Situation
from worklease.telemetry import Publisher

START = 1000.0
TTL = 90.0
OPTIONS = LeaseOptions(interval=30.0, credentials_secret="keys")


def wall() -> ClockPair:
    return ClockPair(START, datetime.fromtimestamp(AHEAD + START, UTC))


@dataclass
class Told:
    """Records the urgency of each status and the deadline of each record."""

    urgencies: list[Urgency] = field(default_factory=list)
    within: list[float] = field(default_factory=list)
    """Within how many seconds each record was to be written."""

    def publish(self, reference: Reference, status: object, urgency: Urgency) -> None:
        del reference, status
        self.urgencies.append(urgency)

    def put(self, reference: Reference, record: str, within: float) -> None:
        del reference, record
        self.within.append(within)

    def publisher(self) -> StatusPublisher:
        return StatusPublisher(cast("StatusWriter", self), cast("Checkpoint", self), Publisher(), wall)


def resource(status: dict[str, Any] | None = None) -> WorkLease:
    metadata = {
        "name": "lease-1",
        "namespace": "sandboxes",
        "uid": "uid-1",
        "generation": 1,
        "creationTimestamp": "2026-11-24T11:00:00Z",
    }
    spec = {"environmentID": "env_1", "workID": "work_1"}
    return WorkLease.parse({"metadata": metadata, "spec": spec, "status": status or {}})


def started_again(after: float) -> Kept:
    """Return what a process resumes that starts so many seconds after a claim was answered."""
    asked = resource()
    kept = Kept(resource=asked, lease=observe(fresh_lease(asked, OPTIONS), answered(START, ttl=TTL)))
    kept.note_claim(wall())
    status = {
        key: value for key, value in shown.status(kept, wall(), START).as_merge_patch().items() if value is not None
    }
    return resume(resource(status), OPTIONS, None, wall(), START + after)


def publish(publisher: StatusPublisher, kept: Kept, now: float) -> bool:
    """Publish the state after a turn; return whether it was news."""
    kept.situation = kept.gather()
    return publisher.publish(kept, now)


def test_a_start_tells_nothing_of_a_lease_in_order_before_its_first_beat() -> None:
    told, kept = Told(), started_again(after=10)
    publisher = told.publisher()
    for now in (START + 10, START + 11):
        assert not publisher.publish(kept, now)
    assert (told.urgencies, told.within) == ([], [])
    kept.lease = observe(kept.lease, answered(START + 12, ttl=TTL))
    assert publish(publisher, kept, START + 13)
    assert told.urgencies == [Urgency.ROUTINE]
    assert told.within == [TTL / 3]
    kept.lease = observe(kept.lease, answered(START + 42, ttl=TTL))
    assert publisher.publish_renewal(kept, START + 43)


def test_a_start_tells_what_happens_to_a_lease_in_order_before_its_first_beat() -> None:
    told, kept = Told(), started_again(after=10)
    publisher = told.publisher()
    assert not publish(publisher, kept, START + 10)
    kept.pods.note(Pod(uid="pod-1", name="sandbox", phase="Running", ready=True), START + 11)
    assert publish(publisher, kept, START + 11)
    assert told.urgencies == [Urgency.CHANGE]


def test_a_start_tells_at_once_that_another_resource_keeps_the_lease() -> None:
    told, kept = Told(), started_again(after=10)
    kept.rival = "sandboxes/lease-2"  # so no beat is to come
    assert publish(told.publisher(), kept, START + 10)


def test_a_start_tells_of_an_edit_before_the_first_beat() -> None:
    told, kept = Told(), started_again(after=10)
    publisher = told.publisher()
    assert not publish(publisher, kept, START + 10)
    kept.lease = edit(kept.lease, fresh_lease(kept.resource, LeaseOptions(interval=5.0, credentials_secret="keys")))
    assert publish(publisher, kept, START + 11)


def test_a_lease_that_only_a_reprieve_keeps_is_told_of_at_a_start_and_its_renewal_written_soon() -> None:
    told, kept = Told(), started_again(after=85)
    publisher = told.publisher()
    assert kept.lease.reprieve is not None
    assert publish(publisher, kept, START + 85)
    assert told.within == [TTL / 3]
    kept.lease = observe(kept.lease, answered(START + 86, ttl=TTL))
    assert publish(publisher, kept, START + 87)
    assert told.within == [TTL / 3, URGENT_DELAY]
    kept.lease = observe(kept.lease, answered(START + 116, ttl=TTL))
    assert publisher.publish_renewal(kept, START + 117)
    assert told.within == [TTL / 3, URGENT_DELAY, TTL / 3]


def test_an_adoption_is_written_soon_and_so_is_the_answer_to_the_beat_that_follows() -> None:
    told, kept = Told(), started_again(after=40)
    publisher = told.publisher()
    assert kept.lease.reprieve is None
    assert not publish(publisher, kept, START + 40)
    kept.lease = observe(kept.lease, refused(START + 41, stamp(START + 20)))
    assert is_adopted(kept.lease)
    assert publish(publisher, kept, START + 41)
    kept.lease = observe(kept.lease, answered(START + 42, ttl=TTL))
    assert publish(publisher, kept, START + 43)
    assert told.within == [URGENT_DELAY, URGENT_DELAY]


# --- Each part of the situation is published ---------------------------------------------------------------------

NEWS: dict[str, Any] = {
    "uid": "another",
    "lease": Lease(),
    "generation": 2,
    "rival": "sandboxes/lease-2",
    "problem": "exceeded quota",
    "obstacle": Obstacle.QUOTA,
    "bound": {"pod-1": Pod(uid="pod-1", name="sandbox")},
    "deletions": {"pod-1": Asked(START)},
    "finishing": {"pod-1": AskedToFinish(START, until=START)},
    "graceful_stop": Asked(START, 1, "refused"),
    "forced_stop": Asked(START, 1, "refused"),
    "sandbox": Policy(),
    "attempt": Attempt(number=1),
    "making": Asked(START, 1, "refused"),
    "is_restarting": True,
    "ailing": {"pod-1": Ailing(START)},
    "ending": Ending(Cause.FAILED, "Pod sandbox failed"),
    "deletion_policy": DeletionPolicy.RELEASE,
    "deleting": True,
    "emptied": START,
    "fence_fell": True,
    "are_pods_listed": True,
    "discard_at": START,
    "has_finalizer": True,
    "ack": AckView(AckVerdict.NONE, is_token_missing=False, message=""),
    "session": Ending(Cause.SESSION_IDLE, "Session sesn_1 was idle"),
    "predecessor": "sandbox-1",
}


@pytest.mark.parametrize("name", [each.name for each in fields(Situation)])
def test_no_part_of_the_situation_can_change_without_being_published(name: str) -> None:
    told, kept = Told(), started_again(after=10)
    publisher = told.publisher()
    assert not publish(publisher, kept, START + 10)
    kept.lease = observe(kept.lease, answered(START + 12, ttl=TTL))
    assert publish(publisher, kept, START + 13)
    assert not publish(publisher, kept, START + 13)
    kept.situation = replace(kept.situation, **{name: NEWS[name]})
    kept.lease = kept.situation.lease
    assert publisher.publish(kept, START + 13)


def test_a_start_tells_of_a_fence_that_comes_before_the_first_beat_is_answered() -> None:
    told, kept = Told(), started_again(after=10)
    publisher = told.publisher()
    assert not publish(publisher, kept, START + 10)
    fenced = fence(kept.lease)
    assert fenced is not None
    assert not publish(publisher, kept, fenced - 1)
    assert publish(publisher, kept, fenced)
    assert told.urgencies == [Urgency.CHANGE]
