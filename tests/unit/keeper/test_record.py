"""What a restart reads of the record: the lease as another process goes on with it, and the sandboxes as they were."""

from dataclasses import fields
from datetime import UTC, datetime

from support.lease_samples import AHEAD, answered, exchange, held, refused, stamp, unanswered
from worklease.api.models import WorkLease
from worklease.clocks import ClockPair
from worklease.cluster.checkpoint_room import LONGEST
from worklease.keeper.kept import Kept
from worklease.keeper.record import (
    BOOT,
    MOST_PODS,
    RecordedSandboxes,
    read,
    resume,
    resume_ack,
    resume_sandboxes,
    write,
)
from worklease.rules.acknowledging import (
    ACK_TIMEOUT,
    LANDS_WITHIN,
    SEND_WITHIN,
    Acknowledgement,
    AckVerdict,
    intended,
)
from worklease.rules.acknowledging import answered as answered_ack
from worklease.rules.answers import observe
from worklease.rules.beats import Beat, decide, edit
from worklease.rules.clock_error import LONGEST_MARGIN
from worklease.rules.deadlines import expiry
from worklease.rules.lease import Lease, Window
from worklease.rules.outcomes import Rejected
from worklease.rules.pods import Cause, Ending, Pod
from worklease.rules.pool_items import ACK_WITHIN
from worklease.rules.queue import AckAccepted
from worklease.rules.situation import Attempt


def test_the_sandboxes_come_back_from_their_record_as_they_were() -> None:
    """A new field has to be written, or to be named in ``BEGINS_AGAIN``."""
    attempt = Attempt(
        number=7,
        restarts=2,
        disruptions=3,
        runs_since=50.0,
        lost=frozenset({("uid-lost", "node")}),
        begins=40.0,
        rejections=4,
        again=120.0,
        settled=frozenset({"uid-settled"}),
        taken=frozenset({"uid-taken"}),
    )
    fresh = Attempt()
    same = {each.name for each in fields(Attempt) if getattr(attempt, each.name) == getattr(fresh, each.name)}
    assert same == set(), "each field has a value here that is not its default"
    ending = Ending(Cause.REJECTED, "in the kubelet's words", "pod")
    known = RecordedSandboxes(bound=(("uid", "pod"),), attempt=attempt, ending=ending, fell=True)
    text = write(Lease(desired_ttl=90, interval=30.0), known, trying=None, now=100.0, wall=1000.0)
    record = read(text)
    assert record is not None
    assert resume_sandboxes(record, moment=lambda wall: wall - 900.0) == known


def test_an_acknowledgement_that_was_intended_comes_back_with_the_time_in_which_it_may_arrive() -> None:
    fresh = Acknowledgement(needs_token=False)
    sent = intended(fresh, 100.0)
    text = write(Lease(), RecordedSandboxes(), sent, trying=None, now=100.0, wall=1000.0)
    again = resume_ack(read(text), fresh, now=130.0, moment=lambda wall: wall - 900.0)
    until = 100.0 + SEND_WITHIN + ACK_TIMEOUT + LANDS_WITHIN
    assert (again.verdict, again.windows) == (AckVerdict.IN_DOUBT, ((100.0, until),))


def test_on_another_machine_an_acknowledgement_may_have_arrived_as_far_as_two_clocks_differ() -> None:
    fresh = Acknowledgement(needs_token=False, polled=98.0)
    text = write(Lease(), RecordedSandboxes(), intended(fresh, 100.0), trying=None, now=100.0, wall=1000.0)
    elsewhere = text.replace(BOOT, "another boot")
    again = resume_ack(read(elsewhere), fresh, now=530.0, moment=lambda wall: wall - 500.0)
    until = 498.0 + ACK_WITHIN + ACK_TIMEOUT + LANDS_WITHIN
    assert again.windows == ((500.0 - LONGEST_MARGIN, until + LONGEST_MARGIN),)


def test_an_accepted_acknowledgement_comes_back_and_without_a_record_there_is_none() -> None:
    fresh = Acknowledgement(needs_token=False)
    ours = answered_ack(intended(fresh, 100.0), AckAccepted(), 101.0)
    text = write(Lease(), RecordedSandboxes(), ours, trying=None, now=101.0, wall=1001.0)
    again = resume_ack(read(text), fresh, now=130.0, moment=lambda wall: wall - 900.0)
    assert (again.verdict, again.accepted) == (AckVerdict.OURS, 100.0)
    assert resume_ack(None, fresh, now=130.0, moment=lambda wall: wall) is fresh


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
    assert (found.windows, found.granted, found.refused) == ((), None, ())


def test_a_record_is_bounded_whatever_a_sandbox_writes_and_however_many_pods_are_labelled() -> None:
    names = tuple((f"{each:036}", f"pod-{each:0249}") for each in range(100))
    attempt = Attempt(
        number=100,
        lost=frozenset((uid, "n" * 253) for uid, _ in names),
        settled=frozenset(uid for uid, _ in names),
        taken=frozenset(uid for uid, _ in names),
    )
    ending = Ending(Cause.FAILED, "é" * 5000, "p" * 253)
    known = RecordedSandboxes(bound=names, attempt=attempt, ending=ending)
    doubt = tuple(Window(100.0 * each, 100.0 * each + 20) for each in range(1000))
    text = write(Lease(unanswered=doubt, refused_value="v" * 1024), known, trying=2e6, now=2e6, wall=3e6)
    assert len(text.encode()) <= LONGEST
    record = read(text)
    assert record is not None
    assert record.bound == names[:MOST_PODS], "the first ones: the resource's own"
    assert record.windows[-1] == (99_900.0, 99_920.0), "the last ones"
    assert record.tries == ((2e6, 2e6),)
    assert record.ending is not None
    assert record.ending[1].endswith("é…")


def test_the_resources_own_pods_are_recorded_before_those_that_somebody_labelled() -> None:
    metadata = {"name": "lease-1", "namespace": "sandboxes", "uid": "uid-1", "generation": 1}
    spec = {"environmentID": "env_1", "workID": "work_1"}
    body = {"metadata": metadata | {"creationTimestamp": "2026-11-24T11:00:00Z"}, "spec": spec}
    kept = Kept(resource=WorkLease.parse(body), lease=Lease())
    labelled = {f"uid-{each}": Pod(uid=f"uid-{each}", name=f"pod-{each}") for each in range(MOST_PODS)}
    kept.pods.bound = {**labelled, "own": Pod(uid="own", name="sandbox", controller="uid-1")}
    record = read(kept.record(trying=None, wall=ClockPair(100.0, datetime.now(UTC)), now=100.0))
    assert record is not None
    assert record.bound[0] == ("own", "sandbox")
    assert len(record.bound) == MOST_PODS
