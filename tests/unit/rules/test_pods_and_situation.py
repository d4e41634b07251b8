"""How a sandbox ended and what follows from it: pure tables, one row for each case."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from math import inf
from typing import Any

import pytest

from support.lease_samples import answered, held, restored, stamp
from worklease.rules.answers import observe
from worklease.rules.beats import edit, release
from worklease.rules.lease import End, Lease
from worklease.rules.lifecycle import (
    AwaitAnother,
    AwaitNode,
    BeatNow,
    DeleteResource,
    EndPod,
    ListPods,
    MakePod,
    Release,
    RemoveFinalizer,
    Restart,
    Step,
    StopItem,
    decide,
)
from worklease.rules.ownership import is_bindable
from worklease.rules.pods import Ailment, Cause, Ending, Follows, Obstacle, Pod, Result, cause_of, ending_of
from worklease.rules.situation import (
    Ailing,
    Asked,
    Attempt,
    NotMade,
    OnFailure,
    Policy,
    Situation,
    admit,
    ail,
    conclude,
    deadline,
    forgive,
    is_finished,
    run,
)

UID = "resource"
RUNNING = Pod(uid="pod1", name="sandbox", phase="Running", ready=True, has_run=True, grace=10.0, controller=UID)
PENDING = replace(RUNNING, phase="Pending", ready=False, has_run=False)
FAILED = replace(RUNNING, phase="Failed", ready=False, exit_code=1)
SUCCEEDED = replace(RUNNING, phase="Succeeded", ready=False, exit_code=0)
GONE = replace(RUNNING, gone=True)
REJECTED = replace(FAILED, exit_code=None, has_run=False, reason="OutOfcpu", message="Pod was rejected: no cpu")
ENDED = Ending(Cause.FAILED, "Pod sandbox failed", "sandbox")
DONE = Ending(Cause.SUCCEEDED, "Pod sandbox has finished", "sandbox")


def situation(*pods: Pod, lease: Lease | None = None, **policy: Any) -> Situation:
    """Return the situation of a lease that was claimed at 100, with a TTL of 3000."""
    long = held(100, ttl=3000, pod_grace=10.0) if lease is None else lease
    return Situation(uid=UID, lease=long, bound={pod.uid: pod for pod in pods}, sandbox=Policy(**policy))


# --- How a pod ended ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pod", "cause"),
    [
        (RUNNING, None),
        (PENDING, None),
        (replace(PENDING, ailment=Ailment.CRASH_LOOP), None),
        (SUCCEEDED, Cause.SUCCEEDED),
        (replace(SUCCEEDED, gone=True), Cause.SUCCEEDED),
        (FAILED, Cause.FAILED),
        (replace(FAILED, reason="OOMKilled", exit_code=137), Cause.OOM_KILLED),
        (replace(SUCCEEDED, gave_up="worker gave up: 412 heartbeat"), Cause.GAVE_UP),
        (replace(FAILED, gave_up="worker gave up: 401 events stream"), Cause.GAVE_UP),
        (replace(GONE, gave_up="worker gave up: 412 heartbeat"), Cause.DELETED),
        (replace(FAILED, reason="Evicted"), Cause.EVICTED),
        (replace(FAILED, reason="NodeShutdown"), Cause.EVICTED),
        (replace(FAILED, reason="Preempting"), Cause.PREEMPTED),
        (replace(FAILED, reason="NodeLost"), Cause.NODE_LOST),
        (replace(FAILED, reason="DeadlineExceeded"), Cause.FAILED),
        (REJECTED, Cause.REJECTED),
        (replace(REJECTED, reason="OutOfnvidia.com/gpu"), Cause.REJECTED),
        (replace(REJECTED, reason="NodeAffinity", gone=True), Cause.REJECTED),
        (replace(REJECTED, reason="Evicted"), Cause.REJECTED),
        (replace(REJECTED, reason="DeadlineExceeded"), Cause.FAILED),
        (replace(REJECTED, had_run=True), Cause.EVICTED),
        (replace(REJECTED, had_run=True, has_run=True), Cause.EVICTED),
        (replace(FAILED, reason="OutOfcpu"), Cause.FAILED),
        (replace(FAILED, disruption=Cause.PREEMPTED), Cause.PREEMPTED),
        (GONE, Cause.DELETED),
        (replace(RUNNING, terminating=True), Cause.DELETED),
        (replace(RUNNING, terminating=True, disruption=Cause.NODE_LOST), Cause.NODE_LOST),
        (replace(GONE, disruption=Cause.EVICTED), Cause.EVICTED),
        (replace(FAILED, is_remembered=True), None),
        (replace(RUNNING, terminating=True, is_remembered=True), None),
    ],
)
def test_a_pod_ended_of_its_cause_or_goes_on(pod: Pod, cause: Cause | None) -> None:
    assert cause_of(pod) is cause


def second(number: int) -> datetime:
    return datetime(2026, 11, 24, 12, 0, number, tzinfo=UTC)


@pytest.mark.parametrize(
    ("pod", "cause"),
    [
        (replace(SUCCEEDED, finish_time=second(4), disruption=Cause.EVICTED, disrupted_at=second(5)), Cause.SUCCEEDED),
        (replace(SUCCEEDED, finish_time=second(5), disruption=Cause.EVICTED, disrupted_at=second(5)), Cause.EVICTED),
        (
            replace(SUCCEEDED, finish_time=second(9), disruption=Cause.PREEMPTED, disrupted_at=second(5)),
            Cause.PREEMPTED,
        ),
        (replace(SUCCEEDED, finish_time=second(4), disruption=Cause.EVICTED), Cause.EVICTED),
        (replace(SUCCEEDED, disruption=Cause.EVICTED, disrupted_at=second(5)), Cause.EVICTED),
        (replace(FAILED, finish_time=second(4), disruption=Cause.EVICTED, disrupted_at=second(5)), Cause.FAILED),
        (replace(FAILED, finish_time=second(6), disruption=Cause.EVICTED, disrupted_at=second(5)), Cause.EVICTED),
        (replace(SUCCEEDED, finish_time=second(4), reason="Terminated"), Cause.EVICTED),
        (replace(SUCCEEDED, finish_time=second(4), terminating=True, deleted_at=second(5)), Cause.SUCCEEDED),
        (replace(SUCCEEDED, finish_time=second(6), terminating=True, deleted_at=second(5)), Cause.DELETED),
        (replace(FAILED, finish_time=second(6), terminating=True, deleted_at=second(5)), Cause.DELETED),
        (replace(SUCCEEDED, terminating=True, deleted_at=second(5)), Cause.DELETED),
    ],
    ids=[
        "finished before it was disrupted",
        "finished in the same second",
        "finished because it was disrupted",
        "disrupted nobody knows when",
        "finished nobody knows when",
        "failed before it was disrupted",
        "failed because it was disrupted",
        "its node was shut down",
        "finished before it was deleted",
        "finished because it was deleted",
        "failed because it was deleted",
        "deleted, and finished nobody knows when",
    ],
)
def test_a_program_that_ends_because_it_was_told_to_has_not_finished(pod: Pod, cause: Cause) -> None:
    assert cause_of(pod) is cause


def test_the_sandbox_s_own_containers_tell_its_end_and_not_the_pods_phase() -> None:
    assert cause_of(replace(RUNNING, result=Result.SUCCEEDED)) is Cause.SUCCEEDED, "an injected container goes on"
    assert cause_of(replace(RUNNING, result=Result.FAILED)) is Cause.FAILED
    assert cause_of(replace(FAILED, result=Result.SUCCEEDED)) is Cause.SUCCEEDED, "an injected container failed"


def test_an_ending_tells_exit_code_reason_and_the_containers_last_words() -> None:
    pod = replace(FAILED, reason="OOMKilled", exit_code=137, message="allocating 3 GiB")
    told = ending_of(pod, Cause.OOM_KILLED).message
    assert told == "Pod sandbox ran out of memory and was killed with exit code 137: allocating 3 GiB"
    assert "DeadlineExceeded" in ending_of(replace(FAILED, reason="DeadlineExceeded"), Cause.FAILED).message


# --- What is concluded -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    situation: Situation
    cause: Cause | None
    now: float = 110.0


AILS = replace(RUNNING, ready=False, ailment=Ailment.CRASH_LOOP)
OTHER = replace(RUNNING, uid="pod2", name="other")
LABELLED = replace(FAILED, uid="pod3", name="of somebody", controller="")
STOPPING = observe(held(100, ttl=3000), answered(105, stamp(100.05), state="stopping", extended=False))

CONCLUSIONS = {
    "it runs": Row(situation(RUNNING), None),
    "it is on its way": Row(situation(PENDING), None),
    "it did not start by its deadline": Row(situation(PENDING, start_deadline=5), Cause.NOT_STARTED),
    "none came yet": Row(situation(), None),
    "none came by the deadline": Row(situation(start_deadline=5), Cause.NOT_STARTED),
    "none came that was looked for": Row(replace(situation(start_deadline=5), are_pods_listed=False), None),
    "the lease alone counts": Row(replace(situation(FAILED), sandbox=None), None),
    "it finished": Row(situation(SUCCEEDED), Cause.SUCCEEDED),
    "it failed": Row(situation(FAILED), Cause.FAILED),
    "it was deleted": Row(situation(GONE), Cause.DELETED),
    "one of two goes on": Row(situation(FAILED, OTHER), None),
    "the one that was bound last speaks": Row(situation(FAILED, replace(OTHER, phase="Succeeded")), Cause.SUCCEEDED),
    "an earlier attempt's pod says nothing": Row(
        replace(situation(FAILED), attempt=Attempt(number=1, begins=110, settled=frozenset({"pod1"}))), None
    ),
    "a pod that somebody labelled is not the template's": Row(situation(LABELLED, is_made=True), None),
    "it ails, and may recover": Row(replace(situation(AILS), ailing={"pod1": Ailing(109)}), None),
    "it ailed for too long": Row(
        replace(situation(AILS, start_deadline=5), ailing={"pod1": Ailing(104)}), Cause.NOT_STARTED
    ),
    "it ailed, and runs": Row(replace(situation(RUNNING, start_deadline=5), ailing={"pod1": Ailing(101, 105)}), None),
    "its node rejected it": Row(situation(REJECTED), None),
    "its node rejected it until the deadline": Row(situation(REJECTED, start_deadline=5), Cause.NOT_STARTED),
    "its sandbox has started, and an injected container has not": Row(
        situation(replace(PENDING, has_started=True), start_deadline=5), None
    ),
    "it was fenced, and the lease is ours again": Row(replace(situation(GONE), fence_fell=True), Cause.FENCED),
    "the item is stopping": Row(situation(FAILED, lease=STOPPING), None),
    "the lease is over": Row(situation(FAILED, lease=replace(held(), end=End.STOPPED)), None),
    "the lease was never held": Row(situation(FAILED, lease=Lease()), None),
    "a restored lease waits for its first beat": Row(situation(FAILED, lease=restored(500)), None, now=500),
    "the fence has come": Row(situation(FAILED, lease=held(100, ttl=90)), None, now=188),
    "the resource is being deleted": Row(replace(situation(FAILED), deleting=True), None),
    "beats are suspended": Row(situation(FAILED, lease=edit(held(), Lease(suspended=True))), None),
}


@pytest.mark.parametrize("row", CONCLUSIONS.values(), ids=CONCLUSIONS.keys())
def test_a_sandbox_has_ended_or_goes_on(row: Row) -> None:
    ending = conclude(row.situation, row.now)
    assert (None if ending is None else ending.cause) is row.cause


def test_a_pod_that_never_came_says_what_stood_in_its_way() -> None:
    refused = replace(situation(is_made=True, start_deadline=5), making=NotMade(104, 3, "exceeded quota: pods"))
    ending = conclude(refused, 106)
    assert ending is not None
    assert "exceeded quota: pods" in ending.message
    stuck = replace(RUNNING, terminating=True)
    attempt = Attempt(number=1, begins=100, settled=frozenset({"pod1"}))
    ending = conclude(replace(situation(stuck, is_made=True, start_deadline=5), attempt=attempt), 106)
    assert ending is not None
    assert "pod sandbox of an earlier attempt is still there" in ending.message


@pytest.mark.parametrize(
    ("obstacle", "cause", "step"),
    [
        (Obstacle.SPEC, Cause.NOT_STARTED, StopItem),
        (Obstacle.QUOTA, Cause.QUOTA_EXCEEDED, Release),
        (Obstacle.ADMISSION, Cause.ADMISSION_UNAVAILABLE, Release),
        (Obstacle.VOLUME, Cause.VOLUME_BUSY, Release),
    ],
)
@pytest.mark.parametrize("policy", list(OnFailure))
def test_an_item_whose_pod_had_no_room_is_released_whatever_a_failure_leads_to(
    obstacle: Obstacle, cause: Cause, step: type[Step], policy: OnFailure
) -> None:
    refused = replace(
        situation(is_made=True, start_deadline=5, on_failure=policy),
        making=NotMade(104, 3, "exceeded quota: pods", obstacle=obstacle),
    )
    ending = conclude(refused, 106)
    assert ending is not None
    assert ending.cause is cause
    (planned,) = decide(replace(refused, ending=ending), 106).steps
    assert isinstance(planned, step) or (obstacle is Obstacle.SPEC and policy is not OnFailure.STOP)


def test_a_crash_loop_ails_on_while_it_runs_a_little_in_between() -> None:
    ails = ail(None, AILS, 100)
    assert ails == Ailing(100)
    assert ail(ails, RUNNING, 130) == Ailing(100, 130)
    assert ail(Ailing(100, 130), AILS, 140) == Ailing(100)
    assert ail(Ailing(100, 130), AILS, 731) == Ailing(731), "ten minutes in health"
    assert ail(None, RUNNING, 100) is None


def test_a_gated_pod_has_no_deadline_and_its_wait_does_not_count() -> None:
    gated = replace(PENDING, gates=("kueue.x-k8s.io/admission",))
    assert deadline(situation(gated), gated) == inf
    attempt = admit(Attempt(), gated, PENDING, 5000)
    assert attempt.begins == 5000
    assert deadline(replace(situation(PENDING), attempt=attempt), PENDING) == 5600
    assert admit(Attempt(begins=7.0), PENDING, PENDING, 5000).begins == 7, "it was never gated"
    assert admit(Attempt(begins=7.0), gated, gated, 5000).begins == 7, "it still is"
    assert admit(Attempt(begins=7.0, settled=frozenset({"pod1"})), gated, PENDING, 5000).begins == 7


def test_the_start_deadline_counts_from_the_claim_and_again_for_each_attempt() -> None:
    assert deadline(situation(PENDING), PENDING) == 700
    again = replace(situation(PENDING), attempt=Attempt(number=1, begins=250.0))
    assert deadline(again, PENDING) == 850
    assert deadline(situation(RUNNING), RUNNING) == inf
    assert deadline(situation(lease=Lease()), None) == inf


@pytest.mark.parametrize(
    ("pod", "follows"),
    [
        (FAILED, Follows.ON_FAILURE),
        (replace(FAILED, reason="Evicted"), Follows.ON_FAILURE),
        (replace(FAILED, reason="Evicted", disruption=Cause.EVICTED), Follows.ON_DISRUPTION),
        (replace(FAILED, reason="Terminated"), Follows.ON_DISRUPTION),
        (replace(FAILED, reason="Preempting"), Follows.ON_DISRUPTION),
        (replace(SUCCEEDED, disruption=Cause.EVICTED), Follows.ON_DISRUPTION),
        (replace(RUNNING, terminating=True, disruption=Cause.NODE_LOST), Follows.ON_DISRUPTION),
        (replace(REJECTED, had_run=True), Follows.ON_DISRUPTION),
        (replace(REJECTED, reason="Evicted", had_run=True), Follows.ON_DISRUPTION),
        (replace(RUNNING, terminating=True), Follows.ON_FAILURE),
        (GONE, Follows.ON_FAILURE),
    ],
    ids=[
        "failed",
        "beyond its own limit",
        "evicted for others",
        "its node was shut down",
        "preempted",
        "evicted, and ended with 0",
        "its node is lost",
        "rejected after it had run",
        "rejected by a node under pressure after it had run",
        "deleted",
        "gone",
    ],
)
def test_what_kubernetes_takes_away_is_a_disruption_and_no_failure(pod: Pod, follows: Follows) -> None:
    ending = conclude(situation(pod), 110)
    assert ending is not None
    assert ending.follows is follows


# --- What follows ------------------------------------------------------------------------------------------------


def concluded(*pods: Pod, ending: Ending = ENDED, number: int = 0, **policy: Any) -> Situation:
    return replace(situation(*pods, **policy), ending=ending, attempt=Attempt(number=number, restarts=number))


@pytest.mark.parametrize(
    ("before", "steps"),
    [
        (concluded(SUCCEEDED, ending=DONE), (StopItem(force=True),)),
        (concluded(FAILED), (StopItem(force=True),)),
        (concluded(GONE), (StopItem(force=True),)),
        (concluded(PENDING), (StopItem(force=False),)),
        (concluded(replace(RUNNING, terminating=True)), (StopItem(force=False),)),
        (concluded(SUCCEEDED, ending=DONE, on_failure=OnFailure.RESTART), (StopItem(force=True),)),
        (concluded(SUCCEEDED, ending=DONE, on_failure=OnFailure.RELEASE), (StopItem(force=True),)),
        (
            concluded(FAILED, on_failure=OnFailure.RELEASE),
            (Release("heartbeats stop, as onFailure asks; the lease lapses"),),
        ),
        (
            concluded(FAILED, on_failure=OnFailure.RESTART),
            (Restart(Attempt(number=1, restarts=1, begins=112.0, settled=frozenset({"pod1"}))),),
        ),
        (
            concluded(FAILED, on_failure=OnFailure.RESTART, number=2),
            (Restart(Attempt(number=3, restarts=3, begins=118.0, settled=frozenset({"pod1"}))),),
        ),
        (concluded(FAILED, on_failure=OnFailure.RESTART, number=3), (StopItem(force=True),)),
        (concluded(FAILED, on_failure=OnFailure.RESTART, max_restarts=1, number=1), (StopItem(force=True),)),
    ],
)
def test_an_ended_sandbox_has_the_consequence_that_the_spec_asks_for(
    before: Situation, steps: tuple[Step, ...]
) -> None:
    assert decide(before, 110).steps == steps


@pytest.mark.parametrize(("number", "wait"), [(0, 2), (1, 4), (2, 8), (7, 256), (8, 300), (900, 300)])
def test_restarts_are_slower_and_slower_up_to_five_minutes(number: int, wait: float) -> None:
    before = concluded(FAILED, on_failure=OnFailure.RESTART, max_restarts=1000, number=number)
    (step,) = decide(before, 110).steps
    assert isinstance(step, Restart)
    assert step.attempt.begins == 110 + wait


def test_a_restart_leaves_a_labelled_pod_beside_the_made_one_alone() -> None:
    other = replace(RUNNING, uid="pod2", name="other", controller="")
    before = concluded(FAILED, other, is_made=True, on_failure=OnFailure.RESTART)
    (step,) = decide(before, 110).steps
    assert isinstance(step, Restart)
    assert decide(replace(before, ending=None, attempt=step.attempt), 110).steps == (EndPod("pod1", "sandbox", None),)


def restarted(*pods: Pod, begins: float = 112.0, **more: Any) -> Situation:
    attempt = Attempt(number=1, begins=begins, settled=frozenset({"pod1"}))
    return replace(situation(*pods, is_made=True, on_failure=OnFailure.RESTART), attempt=attempt, **more)


@pytest.mark.parametrize(
    ("before", "now", "steps"),
    [
        (situation(is_made=True), 101, (MakePod(0),)),
        (situation(), 101, ()),
        (situation(RUNNING, is_made=True), 101, ()),
        (situation(is_made=True, lease=Lease()), 101, ()),
        (situation(is_made=True, lease=restored(500)), 501, ()),
        (situation(is_made=True, lease=held(100, ttl=90)), 188, ()),
        (situation(is_made=True, lease=edit(held(), Lease(suspended=True))), 101, ()),
        (situation(is_made=True, lease=STOPPING), 110, (StopItem(force=True),)),
        (replace(situation(is_made=True), deleting=True), 110, (StopItem(force=True),)),
        (replace(situation(is_made=True), making=NotMade(101, 1, "no")), 101.4, ()),
        (replace(situation(is_made=True), making=NotMade(101, 1, "no")), 101.5, (MakePod(0),)),
        (restarted(FAILED), 111, (EndPod("pod1", "sandbox", None),)),
        (restarted(FAILED, is_restarting=True), 113, ()),
        (restarted(replace(FAILED, gone=True)), 111, ()),
        (restarted(replace(FAILED, gone=True)), 112, (MakePod(1),)),
        (restarted(replace(FAILED, gone=True), OTHER), 112, ()),
        (replace(restarted(FAILED), sandbox=Policy(is_made=True, keeps_failed=True)), 112, (MakePod(1),)),
        (replace(situation(start_deadline=5), are_pods_listed=False), 106, (ListPods(),)),
    ],
)
def test_a_sandbox_is_made_while_the_lease_is_held_and_none_is_there(
    before: Situation, now: float, steps: tuple[Step, ...]
) -> None:
    assert decide(before, now).steps == steps


TAKEN = Ending(Cause.EVICTED, "Pod sandbox was evicted", "sandbox", Follows.ON_DISRUPTION)
STOP, RELEASE, RESTART = OnFailure.STOP, OnFailure.RELEASE, OnFailure.RESTART


@pytest.mark.parametrize(
    ("policy", "attempt", "step"),
    [
        ({"is_made": True}, Attempt(), Restart),
        ({"is_made": True, "on_failure": RELEASE}, Attempt(), Restart),
        ({"is_made": False}, Attempt(), StopItem),
        ({"is_made": False, "on_failure": RELEASE}, Attempt(), Release),
        ({"is_made": False, "on_failure": RESTART}, Attempt(), Restart),
        ({"is_made": True, "asked_on_disruption": STOP}, Attempt(), StopItem),
        ({"is_made": True, "asked_on_disruption": RELEASE}, Attempt(), Release),
        ({"is_made": False, "asked_on_disruption": RESTART}, Attempt(), Restart),
        ({"is_made": True}, Attempt(number=12, restarts=3, disruptions=9), Restart),
        ({"is_made": True}, Attempt(number=12, restarts=3, disruptions=10), StopItem),
        ({"is_made": True, "max_disruptions": 1}, Attempt(number=1, disruptions=1), StopItem),
    ],
    ids=[
        "from a template it is made again",
        "whatever a failure leads to",
        "without a template, what a failure leads to",
        "such as a release",
        "or another one that is awaited",
        "stopped, as asked",
        "released, as asked",
        "another one is awaited, as asked",
        "restarts after failures do not count",
        "all of them are used up",
        "the only one is used up",
    ],
)
def test_a_disruption_has_the_consequence_that_the_spec_asks_for(
    policy: dict[str, Any], attempt: Attempt, step: type[Step]
) -> None:
    (planned,) = decide(replace(concluded(FAILED, ending=TAKEN, **policy), attempt=attempt), 110).steps
    assert isinstance(planned, step)


def test_disruptions_and_failures_are_counted_apart_and_the_attempts_number_grows_with_both() -> None:
    before = replace(concluded(FAILED, ending=TAKEN, is_made=True), attempt=Attempt(number=3, restarts=3))
    (step,) = decide(before, 110).steps
    assert isinstance(step, Restart)
    assert (step.attempt.number, step.attempt.restarts, step.attempt.disruptions) == (4, 3, 1)
    assert step.attempt.begins == 112, "the wait grows with disruptions only"


def test_restarts_and_disruptions_are_forgotten_after_an_hour_of_running() -> None:
    counted = Attempt(number=5, restarts=3, disruptions=2)
    runs = run(counted, RUNNING, 1000)
    assert runs.runs_since == 1000
    assert run(runs, RUNNING, 2000).runs_since == 1000
    assert run(runs, replace(RUNNING, ailment=Ailment.CRASH_LOOP), 2000).runs_since is None
    assert forgive(runs, 4599) == runs
    assert forgive(runs, 4600) == replace(runs, restarts=0, disruptions=0), "the number names pods, and stays"
    failing = replace(concluded(FAILED, is_made=True, on_failure=RESTART), attempt=run(runs, FAILED, 4700))
    (step,) = decide(failing, 110).steps
    assert isinstance(step, Restart)
    assert (step.attempt.number, step.attempt.restarts, step.attempt.disruptions) == (6, 1, 0)


def test_the_hour_of_running_is_looked_at_when_it_is_over() -> None:
    attempt = Attempt(number=1, restarts=1, begins=100, runs_since=120.0)
    long = held(100, ttl=9000, pod_grace=10.0)
    assert decide(replace(situation(RUNNING, lease=long, is_made=True), attempt=attempt), 130).look_at == 3720


def test_while_the_item_is_stopping_or_the_resource_is_deleted_nothing_is_restarted() -> None:
    taken = replace(RUNNING, terminating=True, disruption=Cause.EVICTED)
    for before in (
        situation(taken, lease=STOPPING, is_made=True),
        replace(situation(taken, is_made=True), deleting=True),
    ):
        assert conclude(before, 110) is None
        for ending in (None, TAKEN):
            steps = decide(replace(before, ending=ending), 110).steps
            assert not [step for step in steps if isinstance(step, Restart | MakePod | AwaitAnother)]


# --- A lost node -------------------------------------------------------------------------------------------------

LOST = replace(RUNNING, terminating=True, disruption=Cause.NODE_LOST, node="node-1")


def after_the_loss(*pods: Pod) -> Situation:
    before = situation(LOST, is_made=True)
    ending = conclude(before, 110)
    assert ending is not None
    (step,) = decide(replace(before, ending=ending), 110).steps
    assert isinstance(step, Restart)
    return replace(before, attempt=step.attempt, bound={pod.uid: pod for pod in pods})


def test_after_the_loss_of_a_node_no_pod_is_made_while_the_old_one_may_run() -> None:
    waiting = after_the_loss(LOST)
    assert waiting.attempt.lost == frozenset({("pod1", "node-1")})
    assert decide(waiting, 113).steps == (EndPod("pod1", "sandbox", None), AwaitNode("pod1", "node-1"))
    removed = after_the_loss(replace(LOST, gone=True))
    assert decide(removed, 113).steps == (AwaitNode("pod1", "node-1"),), "its object is gone, which says nothing"
    cleared = replace(removed, attempt=replace(removed.attempt, lost=frozenset()))
    assert decide(cleared, 113).steps == (MakePod(1),)


@pytest.mark.parametrize("end", [{"phase": "Failed"}, {"phase": "Succeeded"}, {"result": Result.FAILED}], ids=str)
def test_a_pod_on_a_lost_node_whose_containers_are_reported_terminated_runs_no_more(end: dict[str, Any]) -> None:
    ended = after_the_loss(replace(LOST, gone=True, **end))
    assert decide(ended, 113).steps == (MakePod(1),)


def test_a_pod_on_a_lost_node_whose_end_is_not_known_by_the_start_deadline_stops_the_item() -> None:
    waiting = after_the_loss(replace(LOST, gone=True))
    assert conclude(waiting, 711) is None
    ending = conclude(waiting, 712)
    assert ending is not None
    assert (ending.cause, ending.follows) == (Cause.NODE_LOST, Follows.STOP)
    assert "node-1" in ending.message
    assert decide(replace(waiting, ending=ending), 712).steps == (StopItem(force=True),)


def test_a_pod_that_was_on_no_node_is_lost_on_none() -> None:
    nowhere = replace(LOST, node="")
    ending = Ending(Cause.NODE_LOST, "", "sandbox", Follows.ON_DISRUPTION)
    (step,) = decide(concluded(nowhere, ending=ending, is_made=True), 110).steps
    assert isinstance(step, Restart)
    assert step.attempt.lost == frozenset()


def test_a_rejected_pod_is_made_again_under_the_same_attempt_once_it_is_gone() -> None:
    made = situation(REJECTED, is_made=True)
    (step,) = decide(made, 110).steps
    assert step == AwaitAnother(Attempt(settled=frozenset({"pod1"}), rejections=1, again=112))
    waiting = replace(made, attempt=step.attempt)
    assert decide(waiting, 111).steps == (EndPod("pod1", "sandbox", None),)
    asked = replace(waiting, deletions={"pod1": Asked(111)})
    assert MakePod(0) not in decide(asked, 113).steps, "its name is taken while it is there"
    gone = replace(asked, bound={"pod1": replace(REJECTED, gone=True)})
    assert decide(gone, 111.9).steps == ()
    assert decide(gone, 112).steps == (MakePod(0),)
    kept = replace(gone, sandbox=Policy(is_made=True, keeps_failed=True), bound={"pod1": REJECTED}, deletions={})
    assert decide(kept, 112).steps == (EndPod("pod1", "sandbox", None),), "it has no logs to keep"


@pytest.mark.parametrize(("rejections", "wait"), [(0, 2), (1, 4), (4, 32), (5, 60), (900, 60)])
def test_rejected_pods_are_made_again_slower_and_slower_up_to_a_minute(rejections: int, wait: float) -> None:
    made = replace(situation(REJECTED, is_made=True), attempt=Attempt(rejections=rejections))
    (step,) = decide(made, 110).steps
    assert isinstance(step, AwaitAnother)
    assert (step.attempt.rejections, step.attempt.again) == (rejections + 1, 110 + wait)


def test_a_rejected_pod_that_somebody_labelled_has_another_one_awaited() -> None:
    labelled = replace(REJECTED, controller="")
    (step,) = decide(situation(labelled), 110).steps
    assert isinstance(step, AwaitAnother)
    waiting = replace(situation(replace(labelled, gone=True)), attempt=step.attempt)
    assert decide(waiting, 200).steps == ()
    ending = conclude(waiting, 700)
    assert ending is not None
    assert ending.cause is Cause.NOT_STARTED
    assert "rejected by its node: OutOfcpu: Pod was rejected: no cpu" in ending.message


def test_a_kept_pod_is_one_that_failed_and_runs_no_more() -> None:
    over = replace(held(100, ttl=3000), end=End.STOPPED)
    kept = situation(FAILED, lease=over, keeps_failed=True)
    assert decide(kept, 110).steps == (RemoveFinalizer(),)
    assert is_finished(kept)
    for pod in (RUNNING, SUCCEEDED, PENDING):
        assert decide(situation(pod, lease=over, keeps_failed=True), 110).steps == (EndPod("pod1", "sandbox", None),)


@pytest.mark.parametrize("pod", [SUCCEEDED, FAILED, GONE])
def test_a_drain_is_over_when_nothing_is_at_work(pod: Pod) -> None:
    assert decide(situation(pod, lease=STOPPING), 110).steps == (StopItem(force=True),)


def test_a_pod_that_a_dead_node_does_not_end_keeps_no_stop_from_being_confirmed_before_the_lease_ends() -> None:
    stopping = observe(held(100, ttl=300, pod_grace=10), answered(105, stamp(100.05), state="stopping", extended=False))
    stuck = replace(RUNNING, terminating=True)
    told = {"pod1": Asked(300.0, grace=30.0, first=110.0)}
    before = replace(situation(stuck, lease=stopping), deletions=told)
    plan = decide(before, 301)
    assert plan.steps == ()
    late = replace(before, deletions={"pod1": Asked(379.0, grace=30.0, first=110.0)})
    assert decide(late, 380.1).steps == (StopItem(force=True),)
    hardly = replace(before, deletions={"pod1": Asked(379.0, grace=30.0, first=350.0)})
    assert decide(hardly, 380.1).steps == (), "its grace is not over"


# --- After the end, and the resource's own end ---------------------------------------------------------------------


def test_what_came_unseen_is_looked_for_before_the_end_is_told() -> None:
    over = replace(situation(lease=replace(held(), end=End.STOPPED)), are_pods_listed=False)
    assert decide(over, 110).steps == (ListPods(),)
    assert not is_finished(over)


def test_a_finished_resource_is_deleted_when_it_has_been_kept_long_enough() -> None:
    over = replace(situation(lease=replace(held(), end=End.STOPPED)), discard_at=200.0, has_finalizer=False)
    assert decide(over, 199).look_at == 200
    assert decide(over, 199).steps == ()
    assert decide(over, 200).steps == (DeleteResource(),)
    assert decide(replace(over, has_finalizer=True), 199).steps == (RemoveFinalizer(),)
    assert decide(replace(over, deleting=True), 201).steps == (RemoveFinalizer(),)


def test_a_released_item_is_beaten_no_more_and_its_pods_go_with_their_own_grace() -> None:
    released = situation(RUNNING, lease=release(held(100, ttl=3000), "left to lapse"))
    assert decide(released, 110).steps == (EndPod("pod1", "sandbox", None),)
    assert decide(situation(GONE, lease=release(held(), "left to lapse")), 110).steps == (RemoveFinalizer(),)


def deleted(*pods: Pod, **more: Any) -> Situation:
    return replace(situation(*pods), deleting=True, **more)


def test_a_deleted_resource_drains_its_sandbox_as_soon_as_a_stop_was_tried_acknowledged_or_not() -> None:
    assert decide(deleted(RUNNING), 110).steps == (StopItem(force=False),)
    unheard = deleted(RUNNING, graceful_stop=Asked(110, 1, "the Work API is away"))
    assert decide(unheard, 110.1).steps == (EndPod("pod1", "sandbox", 30.0),)


def test_a_deleted_resource_waits_a_minute_for_its_stop_and_says_what_it_leaves() -> None:
    unheard = Asked(168, 9, "the Work API is away")
    waiting = deleted(GONE, graceful_stop=unheard, forced_stop=unheard, emptied=110.0)
    assert decide(waiting, 169.9).steps == ()
    (step,) = decide(waiting, 170).steps
    assert isinstance(step, RemoveFinalizer)
    assert "the Work API is away" in step.left
    drained = replace(waiting, lease=STOPPING)
    assert decide(drained, 170).steps == (step,), "the same while the item is stopping"


def test_a_deleted_resource_whose_lease_lapsed_unheard_says_so() -> None:
    lapsed = deleted(GONE, lease=replace(held(), end=End.EXPIRED), graceful_stop=Asked(110, 3, "the key is revoked"))
    (step,) = decide(lapsed, 200).steps
    assert isinstance(step, RemoveFinalizer)
    assert "the key is revoked" in step.left


# --- Stops that may have been applied ------------------------------------------------------------------------------


def test_a_stop_that_may_have_been_applied_is_repeated_only_after_a_beat_told() -> None:
    """The item may be stopped, queued again and held by another worker by now: its id is used again."""
    doubtful = concluded(SUCCEEDED, ending=DONE)
    doubtful = replace(doubtful, forced_stop=Asked(110, 1, "reset", in_doubt=110))
    assert decide(doubtful, 111).steps == (BeatNow(),)
    told = replace(doubtful, lease=observe(doubtful.lease, answered(110.6, ttl=3000)))
    assert decide(told, 111).steps == (StopItem(force=True),)
    refused = replace(doubtful, forced_stop=Asked(110, 1, "401"))
    assert decide(refused, 111).steps == (StopItem(force=True),)


# --- Whose pod it is -----------------------------------------------------------------------------------------------


def at(second: int) -> datetime:
    return datetime(2026, 11, 24, 12, 0, second, tzinfo=UTC)


@pytest.mark.parametrize(
    ("pod", "lease", "bindable"),
    [
        (RUNNING, Lease(), True),
        (RUNNING, replace(held(), end=End.EXPIRED), True),
        (LABELLED, held(), True),
        (replace(LABELLED, created=at(9)), held(), False),
        (replace(LABELLED, created=at(11)), held(), True),
        (replace(LABELLED, phase="Running", created=at(9)), held(), True),
    ],
    ids=["ours, not held", "ours, over", "no times", "over before the claim", "over since", "running since before"],
)
def test_a_pod_of_the_resource_is_bound_held_or_not_and_one_of_an_earlier_delivery_never(
    pod: Pod, lease: Lease, *, bindable: bool
) -> None:
    claimed = at(10) if pod.created is not None else None
    assert is_bindable(pod, UID, lease, claimed) is bindable


def test_a_kept_pod_is_not_deleted_at_the_fence() -> None:
    fenced = situation(FAILED, lease=held(100, ttl=90, pod_grace=10.0), keeps_failed=True)
    assert decide(fenced, 188).steps == ()
    assert decide(situation(FAILED, lease=held(100, ttl=90, pod_grace=10.0)), 188).steps != ()
