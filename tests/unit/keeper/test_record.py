"""What a restart reads of the record: the lease as another process goes on with it, and the sandboxes as they were."""

from dataclasses import fields

from support.lease_samples import AHEAD, answered, exchange, held, refused, stamp, unanswered
from worklease.keeper.record import RecordedSandboxes, read, resume, resume_sandboxes, write
from worklease.rules.answers import observe
from worklease.rules.beats import Beat, decide, edit
from worklease.rules.deadlines import expiry
from worklease.rules.lease import Lease
from worklease.rules.outcomes import Rejected
from worklease.rules.pods import Cause, Ending
from worklease.rules.situation import Attempt

BEGINS_AGAIN = {"rejections", "again"}
"""The waits after a kubelet's rejection: after a restart they begin with the shortest."""


def test_the_sandboxes_come_back_from_their_record_as_they_were() -> None:
    """A new field has to be written, or to be named in ``BEGINS_AGAIN``."""
    attempt = Attempt(
        number=7,
        restarts=2,
        disruptions=3,
        runs_since=50.0,
        lost=frozenset({("uid-lost", "node")}),
        begins=40.0,
        settled=frozenset({"uid-settled"}),
        taken=frozenset({"uid-taken"}),
    )
    fresh = Attempt()
    same = {each.name for each in fields(Attempt) if getattr(attempt, each.name) == getattr(fresh, each.name)}
    assert same == BEGINS_AGAIN, "each other field has a value here that is not its default"
    ending = Ending(Cause.REJECTED, "in the kubelet's words", "pod")
    known = RecordedSandboxes(bound=(("uid", "pod"),), attempt=attempt, ending=ending, fell=True)
    text = write(Lease(desired_ttl=90, interval=30.0), known, trying=None, now=100.0, wall=1000.0)
    record = read(text)
    assert record is not None
    assert resume_sandboxes(record, moment=lambda wall: wall - 900.0) == known


def started_again(lease: Lease, now: float) -> Lease:
    """Return the lease of the next process on the same machine."""
    text = write(lease, RecordedSandboxes(), trying=None, now=now, wall=AHEAD + now)
    found = read(text)
    assert found is not None
    return resume(found, Lease(desired_ttl=lease.desired_ttl), None, now=now, moment=lambda at: at - AHEAD)


def test_what_the_server_refused_is_not_asked_for_after_a_restart_either() -> None:
    lease = edit(held(wish=60, ttl=60), Lease(desired_ttl=86_400))
    lease = observe(lease, Rejected(exchange(120, asked=86_400), "the Work API answered 400"))
    lease = observe(lease, answered(lease.due, ttl=60, asked=60))
    again = decide(started_again(lease, 140), 150)
    assert isinstance(again, Beat)
    assert again.desired_ttl == 60


def test_a_beat_that_an_earlier_process_sent_and_that_was_applied_gives_the_lease_its_end() -> None:
    lease = observe(observe(held(), unanswered(130, 1)), unanswered(131.3, 1))
    again = started_again(lease, 140)
    ends = expiry(observe(again, refused(141, stamp(131.5))))
    assert expiry(again) == 190
    assert ends is not None
    assert 220 - 4 < ends <= 220, "no later than at the server"


def test_a_steady_lease_has_nothing_of_doubts_in_its_record() -> None:
    text = write(held(), RecordedSandboxes(), trying=None, now=110, wall=AHEAD + 110)
    found = read(text)
    assert found is not None
    assert (found.windows, found.granted, found.refused) == ((), None, None)
