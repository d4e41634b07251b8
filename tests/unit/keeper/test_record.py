"""What a restart reads of the sandboxes equals what was known: a new field has to be written, or to be named here."""

from dataclasses import fields

from worklease.keeper.record import RecordedSandboxes, read, resume_sandboxes, write
from worklease.rules.lease import Lease
from worklease.rules.pods import Cause, Ending
from worklease.rules.situation import Attempt

BEGINS_AGAIN = {"rejections", "again"}
"""The waits after a kubelet's rejection: after a restart they begin with the shortest."""


def test_the_sandboxes_come_back_from_their_record_as_they_were() -> None:
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
