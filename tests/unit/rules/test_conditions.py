"""The conditions that a lease and its sandbox imply: each reason of the closed list, and messages for people."""

from dataclasses import dataclass, replace
from typing import Any

import pytest

from support.lease_samples import answered, exchange, held, refused, restored, stamp, throttled, unanswered, unsent
from worklease.rules.acknowledging import AckVerdict, AckView
from worklease.rules.answers import observe
from worklease.rules.beats import (
    edit,
    end_unclaimed,
    lapse,
    note_budget_short,
    note_unrecorded,
    release,
    stopped,
    supersede,
)
from worklease.rules.conditions import Condition, Subject, imply, invalid
from worklease.rules.lease import End, Lease, Trouble
from worklease.rules.outcomes import Conflicted, CredentialsMissing, Missing, NotReady, Outcome, Rejected, Unauthorized
from worklease.rules.pods import Ailment, Cause, Ending, Obstacle, Pod
from worklease.rules.reasons import TABLE, Kind, Reason, Verdict
from worklease.rules.situation import Asked, Attempt, NotMade, Policy, Situation

POD = Pod(uid="pod1", name="sandbox-1", phase="Running", ready=True)
ITEM = "work item work_1 of environment env_1"


def subject(**more: Any) -> Subject:
    return replace(Subject(item=ITEM, show=lambda moment: f"t={moment:g}"), **more)


def situation(lease: Lease, *pods: Pod, **more: Any) -> Situation:
    known = Situation(uid="resource", lease=lease, bound={pod.uid: pod for pod in pods}, sandbox=Policy())
    return replace(known, **more)


def twice(lease: Lease, outcome: Outcome) -> Lease:
    return observe(observe(lease, outcome), outcome)


@dataclass(frozen=True)
class Case:
    situation: Situation
    kind: Kind
    verdict: Verdict
    reason: Reason
    now: float = 101.0
    subject: Subject = subject()  # noqa: RUF009 (frozen)


def waiting(ailment: Ailment | None = None) -> Pod:
    return replace(POD, ready=False, phase="Pending", reason="Waiting", message="for something", ailment=ailment)


def over(phase: str, **more: Any) -> Pod:
    return replace(POD, ready=False, phase=phase, exit_code=137, **more)


MADE = Policy(is_made=True)
STOPPING = answered(110, stamp(100.05), state="stopping", extended=False)
HELD, SANDBOX, FINISHED, READY = Kind.LEASE_HELD, Kind.SANDBOX_READY, Kind.FINISHED, Kind.READY
YES, NO, UNKNOWN = Verdict.TRUE, Verdict.FALSE, Verdict.UNKNOWN
REFUSED = {"pod1": Asked(110.0, 2, "the API server is away")}
ASKED = {"pod1": Asked(110.0)}
ACKNOWLEDGING = AckView(AckVerdict.NONE, is_token_missing=False, message="")

CASES = {
    "it is acknowledged first": Case(situation(Lease(), ack=ACKNOWLEDGING), HELD, NO, Reason.ACKNOWLEDGING),
    "it is not acknowledged without its token": Case(
        situation(Lease(), ack=replace(ACKNOWLEDGING, is_token_missing=True)), HELD, NO, Reason.TOKEN_MISSING
    ),
    "it was acknowledged": Case(
        situation(Lease(), ack=replace(ACKNOWLEDGING, verdict=AckVerdict.OURS)), HELD, NO, Reason.CLAIMING
    ),
    "another worker acknowledged it": Case(
        situation(end_unclaimed(Lease(), "the item is starting")), HELD, NO, Reason.ACK_REFUSED
    ),
    "it left the queue for a later delivery": Case(
        situation(supersede(held(), "agents/lease-2")), HELD, NO, Reason.REQUEUED
    ),
    "a new resource claims": Case(situation(Lease()), HELD, NO, Reason.CLAIMING),
    "not acknowledged is claiming": Case(
        situation(observe(Lease(), NotReady(exchange(100), "the work item is queued"))), HELD, NO, Reason.CLAIMING
    ),
    "a stopping item that was never ours is waited for": Case(
        situation(observe(Lease(), STOPPING)), HELD, NO, Reason.CLAIMING
    ),
    "a first claim in doubt is not known": Case(
        situation(observe(Lease(), unanswered(100))), HELD, UNKNOWN, Reason.IN_DOUBT
    ),
    "held by another": Case(situation(observe(Lease(), refused(100, stamp(95)))), HELD, NO, Reason.HELD_BY_ANOTHER),
    "an item that is not there": Case(
        situation(observe(Lease(), Missing(exchange(100), "no such item"))), HELD, NO, Reason.NOT_FOUND
    ),
    "a rival keeps the lease": Case(
        situation(Lease()), HELD, NO, Reason.DUPLICATE, subject=subject(rival="other/first")
    ),
    "no room in the quota": Case(
        situation(Lease()), HELD, NO, Reason.QUOTA_EXCEEDED, subject=subject(problem="no room", obstacle=Obstacle.QUOTA)
    ),
    "a webhook is down": Case(
        situation(Lease()),
        HELD,
        NO,
        Reason.ADMISSION_UNAVAILABLE,
        subject=subject(problem="failed calling webhook", obstacle=Obstacle.ADMISSION),
    ),
    "no room in the quota after the claim": Case(
        situation(held(), sandbox=MADE, making=NotMade(101.0, 1, "exceeded quota: pods", obstacle=Obstacle.QUOTA)),
        SANDBOX,
        NO,
        Reason.QUOTA_EXCEEDED,
    ),
    "a webhook is down after the claim": Case(
        situation(held(), sandbox=MADE, making=NotMade(101.0, 1, "failed calling", obstacle=Obstacle.ADMISSION)),
        SANDBOX,
        NO,
        Reason.ADMISSION_UNAVAILABLE,
    ),
    "a pod behind a scheduling gate": Case(
        situation(held(), replace(waiting(), gates=("kueue.x-k8s.io/admission",))),
        SANDBOX,
        NO,
        Reason.SCHEDULING_GATED,
    ),
    "suspended before the claim": Case(situation(Lease(suspended=True)), HELD, NO, Reason.SUSPENDED),
    "a held lease is renewed": Case(situation(held()), HELD, YES, Reason.RENEWED),
    "one lost answer is no news": Case(situation(observe(held(), unanswered(110))), HELD, YES, Reason.RENEWED),
    "doubt that lasts is shown": Case(situation(twice(held(), unanswered(110))), HELD, YES, Reason.IN_DOUBT),
    "a 412 without a word is doubt": Case(
        situation(twice(held(), Conflicted(exchange(110), None))), HELD, YES, Reason.IN_DOUBT
    ),
    "unreachable": Case(situation(twice(held(), unsent(110))), HELD, YES, Reason.UNREACHABLE),
    "throttled": Case(situation(twice(held(), throttled(110, 5.0))), HELD, YES, Reason.THROTTLED),
    "not extended": Case(
        situation(twice(held(), answered(110, stamp(100.05), extended=False))), HELD, YES, Reason.NOT_EXTENDED
    ),
    "a bad key is shown at once": Case(
        situation(observe(held(), Unauthorized(exchange(110), "401"))), HELD, YES, Reason.UNAUTHORIZED
    ),
    "a missing Secret is shown at once": Case(
        situation(observe(held(), CredentialsMissing(exchange(110), "no Secret"))),
        HELD,
        YES,
        Reason.CREDENTIALS_MISSING,
    ),
    "a rejected request is shown at once": Case(
        situation(observe(held(), Rejected(exchange(110), "400"))), HELD, YES, Reason.REJECTED
    ),
    "a budget too small is shown at once": Case(
        situation(note_budget_short(held(), "the budget is short")), HELD, YES, Reason.BUDGET_SHORT
    ),
    "a claim that cannot be written down is shown": Case(
        situation(note_unrecorded(Lease(), "the checkpoint has no room", 100.0)),
        HELD,
        NO,
        Reason.CHECKPOINT_UNAVAILABLE,
    ),
    "a suspended lease holds until it lapses": Case(
        situation(edit(held(), Lease(suspended=True))), HELD, YES, Reason.SUSPENDED
    ),
    "a stopping item drains": Case(situation(observe(held(), STOPPING)), HELD, YES, Reason.DRAINING),
    "past the fence nobody knows": Case(situation(held()), HELD, UNKNOWN, Reason.FENCED, now=188.0),
    "a restored lease past its end is in doubt": Case(
        situation(restored(500)), HELD, UNKNOWN, Reason.IN_DOUBT, now=500
    ),
    "lost: stopped": Case(situation(stopped(held())), HELD, NO, Reason.STOPPED),
    "lost: requeued": Case(situation(observe(held(), refused(110, None))), HELD, NO, Reason.REQUEUED),
    "lost: taken over": Case(situation(observe(held(), refused(110, stamp(109)))), HELD, NO, Reason.TAKEN_OVER),
    "lost: expired": Case(situation(lapse(held(), 190)), FINISHED, YES, Reason.EXPIRED, now=190),
    "a ready pod runs": Case(situation(held(), POD), SANDBOX, YES, Reason.RUNNING),
    "a pod that is on its way is pending": Case(situation(held(), waiting()), SANDBOX, NO, Reason.PENDING),
    "a pod that runs and is not ready": Case(
        situation(held(), replace(POD, ready=False)), SANDBOX, NO, Reason.NOT_READY
    ),
    "an image that cannot be pulled": Case(
        situation(held(), waiting(Ailment.IMAGE_PULL_FAILED)), SANDBOX, NO, Reason.IMAGE_PULL_FAILED
    ),
    "a pod without a place": Case(situation(held(), waiting(Ailment.UNSCHEDULABLE)), SANDBOX, NO, Reason.UNSCHEDULABLE),
    "a crash loop": Case(situation(held(), waiting(Ailment.CRASH_LOOP)), SANDBOX, NO, Reason.CRASH_LOOP),
    "a container that is configured wrong": Case(
        situation(held(), waiting(Ailment.CONFIG_ERROR)), SANDBOX, NO, Reason.CONFIG_ERROR
    ),
    "a pod that failed": Case(situation(held(), over("Failed")), SANDBOX, NO, Reason.FAILED),
    "a pod that succeeded": Case(situation(held(), over("Succeeded")), SANDBOX, NO, Reason.SUCCEEDED),
    "a pod that ran out of memory": Case(
        situation(held(), over("Failed", reason="OOMKilled")), SANDBOX, NO, Reason.OOM_KILLED
    ),
    "a pod whose worker gave up": Case(
        situation(held(), over("Succeeded", gave_up="worker gave up: 412 heartbeat")),
        SANDBOX,
        NO,
        Reason.WORKER_GAVE_UP,
    ),
    "a pod that was evicted": Case(
        situation(held(), over("Failed", reason="Evicted", has_run=True)), SANDBOX, NO, Reason.EVICTED
    ),
    "a pod that its node rejected": Case(
        situation(held(), over("Failed", reason="OutOfcpu")), SANDBOX, NO, Reason.POD_REJECTED
    ),
    "a pod that its node rejected, and another one follows": Case(
        situation(
            held(),
            over("Failed", reason="OutOfcpu", gone=True),
            sandbox=MADE,
            attempt=Attempt(settled=frozenset({"pod1"}), rejections=1, again=112.0),
        ),
        SANDBOX,
        NO,
        Reason.POD_REJECTED,
    ),
    "a pod that was preempted": Case(
        situation(held(), replace(POD, gone=True, disruption=Cause.PREEMPTED)), SANDBOX, NO, Reason.PREEMPTED
    ),
    "a pod whose node is lost": Case(
        situation(held(), replace(POD, gone=True, disruption=Cause.NODE_LOST)), SANDBOX, NO, Reason.NODE_LOST
    ),
    "a pod that is gone was deleted": Case(situation(held(), replace(POD, gone=True)), SANDBOX, NO, Reason.DELETED),
    "a pod that the operator deleted is gone": Case(
        situation(held(), replace(POD, gone=True), deletions=ASKED), SANDBOX, NO, Reason.ENDED
    ),
    "what was concluded is shown": Case(
        situation(held(), waiting(), ending=Ending(Cause.NOT_STARTED, "It did not start", "sandbox-1")),
        *(SANDBOX, NO, Reason.START_DEADLINE_EXCEEDED),
    ),
    "a sandbox whose session is idle": Case(
        situation(held(), POD, ending=Ending(Cause.SESSION_IDLE, "Session sesn_1 was idle", "sandbox-1")),
        *(SANDBOX, NO, Reason.SESSION_IDLE),
    ),
    "a sandbox whose session is over": Case(
        situation(held(), POD, ending=Ending(Cause.SESSION_ENDED, "Session sesn_1 is archived", "sandbox-1")),
        *(SANDBOX, NO, Reason.SESSION_ENDED),
    ),
    "a lease that is over because of its session": Case(
        situation(
            stopped(held()), replace(POD, gone=True), ending=Ending(Cause.SESSION_IDLE, "Session sesn_1 was idle")
        ),
        *(SANDBOX, NO, Reason.SESSION_IDLE),
    ),
    "a volume that is being deleted": Case(
        situation(held(), making=NotMade(105.0, 2, "claim is being deleted", obstacle=Obstacle.VOLUME), sandbox=MADE),
        *(SANDBOX, NO, Reason.VOLUME_BUSY),
    ),
    "a fenced sandbox counts as failed": Case(
        situation(held(), ending=Ending(Cause.FENCED, "It was fenced", "sandbox-1")), SANDBOX, NO, Reason.FENCED
    ),
    "over, and the sandbox with it": Case(
        situation(stopped(held()), replace(POD, gone=True)), SANDBOX, NO, Reason.ENDED
    ),
    "a failed pod that is kept": Case(
        situation(stopped(held()), over("Failed"), sandbox=Policy(keeps_failed=True)), SANDBOX, NO, Reason.ENDED
    ),
    "no pod yet": Case(situation(held()), SANDBOX, NO, Reason.NO_POD),
    "an earlier pod of the session is there": Case(
        situation(held(), sandbox=MADE, predecessor="sandbox-0"), SANDBOX, NO, Reason.PREDECESSOR_ENDING
    ),
    "a pod is to be made": Case(situation(held(), sandbox=MADE), SANDBOX, NO, Reason.CREATING),
    "a pod is to be made once the lease is held": Case(situation(Lease(), sandbox=MADE), SANDBOX, NO, Reason.CREATING),
    "a pod is refused": Case(
        situation(held(), sandbox=MADE, making=NotMade(101.0, 1, "no such priority class")),
        *(SANDBOX, NO, Reason.CREATION_REFUSED),
    ),
    "another one follows": Case(
        situation(held(), replace(POD, gone=True), attempt=Attempt(number=1, begins=110, settled=frozenset({"pod1"}))),
        *(SANDBOX, NO, Reason.RESTARTING),
    ),
    "a template that is refused": Case(
        situation(Lease()), HELD, NO, Reason.INVALID_SPEC, subject=subject(problem="no such field")
    ),
    "released": Case(situation(release(held(), "left to lapse")), FINISHED, YES, Reason.RELEASED),
    "a pod that is deleted is ending": Case(situation(held(), POD, deletions=ASKED), SANDBOX, NO, Reason.ENDING),
    "a pod that is on its way out is ending": Case(
        situation(held(), replace(POD, terminating=True)), SANDBOX, NO, Reason.ENDING
    ),
    "a refused deletion is shown": Case(
        situation(held(), POD, deletions=REFUSED), SANDBOX, NO, Reason.DELETION_REFUSED
    ),
    "past the fence a pod that is still there is not known": Case(
        situation(held(), POD, deletions=ASKED), SANDBOX, UNKNOWN, Reason.FENCE_PENDING, now=188.0
    ),
    "past the fence a refused deletion is not known": Case(
        situation(held(), POD, deletions=REFUSED), SANDBOX, UNKNOWN, Reason.FENCE_PENDING, now=188.0
    ),
    "not over yet": Case(situation(held()), FINISHED, NO, Reason.IN_PROGRESS),
    "over, but not gone": Case(situation(stopped(held()), POD), FINISHED, NO, Reason.TEARING_DOWN),
    "over and gone": Case(situation(stopped(held()), replace(POD, gone=True)), FINISHED, YES, Reason.STOPPED),
    "ready": Case(situation(held(), POD), READY, YES, Reason.HEALTHY),
    "not ready without a lease": Case(situation(Lease()), READY, NO, Reason.LEASE_NOT_HELD),
    "not ready without a sandbox": Case(situation(held()), READY, NO, Reason.SANDBOX_NOT_READY),
}


def of_kind(conditions: tuple[Condition, ...], kind: Kind) -> Condition:
    return next(condition for condition in conditions if condition.kind is kind)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_situation_has_its_verdict_and_reason(case: Case) -> None:
    condition = of_kind(imply(case.situation, case.subject, case.now), case.kind)
    assert (condition.verdict, condition.reason) == (case.verdict, case.reason), condition.message


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_every_message_is_a_sentence(case: Case) -> None:
    for condition in imply(case.situation, case.subject, case.now):
        assert condition.message[:1].isupper(), condition
        assert condition.message.endswith("."), condition
        assert ".." not in condition.message
        assert "  " not in condition.message


def test_the_closed_list_holds_what_can_be_implied_and_nothing_else() -> None:
    implied = {
        condition.reason for case in CASES.values() for condition in imply(case.situation, case.subject, case.now)
    }
    assert implied | {condition.reason for condition in invalid("Wrong.")} == set(Reason)


def test_the_table_names_the_conditions_that_may_give_a_reason_and_no_others() -> None:
    implied = [
        *(condition for case in CASES.values() for condition in imply(case.situation, case.subject, case.now)),
        *invalid("Wrong."),
    ]
    for reason in Reason:
        kinds = {condition.kind for condition in implied if condition.reason is reason}
        if not TABLE[reason].is_final:
            assert kinds == TABLE[reason].kinds, reason
        else:
            assert kinds <= TABLE[reason].kinds == {HELD, FINISHED}, reason


def test_every_end_and_every_trouble_has_a_reason() -> None:
    reasons = {reason.value for reason in Reason}
    assert {end.value for end in End} <= reasons
    assert {trouble.value for trouble in Trouble} - {"NotAcknowledged"} <= reasons, "which is claiming"


def test_a_spec_that_cannot_be_acted_on_is_shown() -> None:
    ready, lease_held, finished = invalid("The spec has no workID.")
    assert {ready.verdict, lease_held.verdict, finished.verdict} == {NO}
    assert (lease_held.reason, lease_held.message) == (Reason.INVALID_SPEC, "The spec has no workID.")


def test_a_lease_alone_has_no_sandbox_condition() -> None:
    kinds = [condition.kind for condition in imply(situation(held(), sandbox=None), subject(), 101)]
    assert kinds == [READY, HELD, FINISHED]


def test_a_lease_alone_is_ready_when_it_is_held() -> None:
    assert of_kind(imply(situation(held(), sandbox=None), subject(), 101), READY).verdict is YES


def test_a_held_lease_says_until_when() -> None:
    assert "until t=190" in of_kind(imply(situation(held()), subject(), 101), HELD).message


def test_a_fenced_lease_says_why() -> None:
    lease = twice(held(), unanswered(110))
    assert "No answer." in of_kind(imply(situation(lease), subject(), 188), HELD).message


def test_a_drain_that_the_fence_ends_blames_no_beat() -> None:
    fenced = of_kind(imply(situation(observe(held(), STOPPING)), subject(), 188), HELD)
    assert (fenced.verdict, fenced.reason) == (UNKNOWN, Reason.FENCED)
    assert fenced.message.startswith(
        "The time to drain is over; the operator ends the sandbox before the lease can end."
    )


@pytest.mark.parametrize("which", ["forced_stop", "graceful_stop"])
def test_a_stop_that_is_not_acknowledged_is_shown(which: str) -> None:
    lease = held() if which == "graceful_stop" else observe(held(), STOPPING)
    refused_stop = situation(lease, **{which: Asked(110.0, 3, "the Work API answered 500")})
    assert "answered 500" in of_kind(imply(refused_stop, subject(), 115), HELD).message


def test_a_refused_deletion_says_which_pod_and_why() -> None:
    message = of_kind(imply(situation(held(), POD, deletions=REFUSED), subject(), 111), SANDBOX).message
    assert "sandbox-1" in message
    assert "API server is away" in message


def test_what_is_still_to_go_is_named() -> None:
    assert "sandbox-1" in of_kind(imply(situation(stopped(held()), POD), subject(), 111), FINISHED).message
