"""What a new process resumes, and what an edit changes: no sandbox's end counts twice, and none is made twice."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from support.lease_samples import AHEAD, answered, throttled
from worklease.api.models import WorkLease
from worklease.clocks import ClockPair
from worklease.cluster.pod_template import pod_name
from worklease.keeper import shown
from worklease.keeper.kept import Kept, LeaseOptions, fresh_lease
from worklease.keeper.record import BOOT
from worklease.keeper.resume import resume
from worklease.rules.answers import observe
from worklease.rules.beats import stopped
from worklease.rules.clock_error import LONGEST_MARGIN
from worklease.rules.deadlines import expiry, fence
from worklease.rules.lifecycle import EndPod, MakePod, Plan, Release, RemoveFinalizer, Restart, StopItem, decide
from worklease.rules.ownership import is_bindable
from worklease.rules.pods import Cause, Pod
from worklease.rules.situation import Asked, conclude, current, is_finished

START = 1000.0
WALL = ClockPair(START, datetime.fromtimestamp(AHEAD + START, UTC))
OPTIONS = LeaseOptions(interval=30.0, credentials_secret="keys")
TEMPLATE = {"template": {"spec": {"containers": [{"name": "sandbox", "image": "busybox"}]}}}
POD = Pod(uid="pod1", name="sandbox-1", phase="Running", ready=True, created=WALL.utc + timedelta(seconds=1))


def resource(sandbox: dict[str, Any] | None, status: dict[str, Any] | None = None, **spec: Any) -> WorkLease:
    metadata = {
        "name": "lease-1",
        "namespace": "sandboxes",
        "uid": "resource",
        "generation": 1,
        "creationTimestamp": "2026-11-24T11:00:00Z",
    }
    asked = {} if sandbox is None else {"sandbox": sandbox}
    body = {"metadata": metadata, "spec": {"environmentID": "env_1", "workID": "work_1"} | asked | spec}
    return WorkLease.parse(body | {"status": status or {}})


def kept(sandbox: dict[str, Any] | None, *pods: Pod, **spec: Any) -> Kept:
    """Return a resource whose lease was claimed at the start, with a TTL of an hour."""
    asked = resource(sandbox, **spec)
    held = Kept(resource=asked, lease=observe(fresh_lease(asked, OPTIONS), answered(START, ttl=3600)))
    held.calls.has_finalizer = True
    held.note_claim(WALL)
    for pod in pods:
        held.bind(pod, START + 1)
    return held


def turn(each: Kept, now: float) -> Plan:
    """Decide as a turn does; return its plan."""
    each.follow_pods()
    situation = each.gather()
    if each.pods.ending is None and (ending := conclude(situation, now)) is not None:
        each.pods.ending = ending
        situation = replace(situation, ending=ending)
    return decide(situation, now)


def started_again(each: Kept, now: float, *, checkpoint: bool = True) -> Kept:
    """Return what a new process resumes."""
    status = {key: value for key, value in shown.status(each, WALL, now).as_merge_patch().items() if value is not None}
    spec = each.resource.spec.model_dump(mode="json", exclude_none=True)
    again = resource(spec.pop("sandbox", None), status, **{k: v for k, v in spec.items() if not k.endswith("ID")})
    text = each.record(trying=None, wall=WALL, now=now) if checkpoint else None
    return resume(again, OPTIONS, text, WALL, now + 5)


def own(number: int, **more: Any) -> Pod:
    name = pod_name(resource(TEMPLATE), number)
    return replace(POD, uid=f"pod{number + 1}", name=name, controller="resource", **more)


def test_a_made_pod_that_vanished_while_nobody_looked_is_a_failure_and_not_made_again() -> None:
    for checkpoint in (True, False):
        again = started_again(kept(TEMPLATE, own(0)), START + 2, checkpoint=checkpoint)
        assert turn(again, START + 8).steps == (), "it was not looked at yet"
        again.pods.lose("pod1")
        plan = turn(again, START + 9)
        assert again.pods.ending is not None
        assert again.pods.ending.cause is Cause.DELETED
        assert MakePod(0) not in plan.steps


def test_an_earlier_attempts_end_does_not_count_again_after_a_start() -> None:
    failing = kept({"onFailure": "Restart", "maxRestarts": 1}, POD)
    failing.bind(replace(POD, phase="Failed", exit_code=1, finish_time=WALL.utc), START + 2)
    (step,) = turn(failing, START + 2).steps
    assert isinstance(step, Restart)
    failing.pods.begin(step.attempt)
    failing.pods.lose("pod1")
    again = started_again(failing, START + 3)
    again.pods.lose("pod1")
    assert turn(again, START + 9).steps == ()
    assert again.pods.ending is None


def test_without_a_checkpoint_the_current_attempts_end_still_counts() -> None:
    policy = TEMPLATE | {"onFailure": "Restart", "maxRestarts": 1, "keepFailedPod": True}
    over = {"phase": "Failed", "exit_code": 1, "finish_time": WALL.utc, "ready": False}
    failing = kept(policy, own(0, **over))
    (step,) = turn(failing, START + 2).steps
    assert isinstance(step, Restart)
    failing.pods.begin(step.attempt)
    failing.bind(own(1, **over), START + 4)
    again = started_again(failing, START + 5, checkpoint=False)
    for number in (0, 1):
        again.bind(own(number, **over), START + 10)
    turn(again, START + 10)
    assert again.pods.ending is not None
    assert again.pods.attempt.settled == {"pod1"}
    assert MakePod(1) not in turn(again, START + 10).steps


def test_of_many_attempts_those_that_are_shown_are_remembered() -> None:
    failing = kept({"onFailure": "Restart", "maxRestarts": 1000})
    for number in range(50):
        failing.bind(replace(POD, uid=f"u{number}", phase="Failed"), START + number)
        (step,) = turn(failing, START + number).steps
        assert isinstance(step, Restart)
        failing.pods.begin(step.attempt)
        failing.pods.lose(f"u{number}")
    assert len(failing.pods.bound) <= 21
    assert failing.pods.attempt.settled == failing.pods.bound.keys()


def test_to_ask_for_a_sandbox_of_another_kind_does_not_touch_running_work() -> None:
    late = START + 1200.0  # twice the start deadline
    labelled = kept({}, POD)
    labelled.resource = resource(TEMPLATE)
    labelled.follow_edit(OPTIONS, late)
    assert turn(labelled, late + 1).steps == ()
    assert current(labelled.gather()) == (POD,)
    again = started_again(labelled, late + 2)
    assert [pod.uid for pod in current(again.gather())] == ["pod1"]
    labelled.bind(replace(POD, phase="Succeeded"), late + 3)
    assert turn(labelled, late + 3).steps == (StopItem(force=True),)


def test_to_ask_for_a_sandbox_where_there_was_none_waits_for_it_from_then_on() -> None:
    late = START + 1200.0
    alone = kept(None)
    alone.resource = resource(TEMPLATE)
    alone.follow_edit(OPTIONS, late)
    assert turn(alone, late).steps == (MakePod(0),)


def test_a_pod_of_an_earlier_delivery_that_is_on_its_way_out_is_not_this_leases() -> None:
    claimed = WALL.utc + timedelta(seconds=5)
    dying = replace(POD, terminating=True)
    assert not is_bindable(dying, "resource", kept({}).lease, claimed)
    assert is_bindable(replace(dying, created=claimed), "resource", kept({}).lease, claimed)


def test_a_kept_pod_that_somebody_deletes_does_not_take_the_end_back() -> None:
    over = kept({"keepFailedPod": True}, replace(POD, phase="Failed", exit_code=1))
    over.lease = stopped(over.lease)
    assert is_finished(over.gather())
    over.bind(replace(POD, phase="Failed", exit_code=1, terminating=True), START + 9)
    assert is_finished(over.gather())
    assert decide(over.gather(), START + 9).steps == (RemoveFinalizer(),)


def test_a_release_does_not_beat_for_a_pod_that_cannot_go() -> None:
    held_up = kept({}, replace(POD, phase="Succeeded", terminating=True), deletionPolicy="Release")
    held_up.pods.note_deletion("pod1", Asked(START + 8, first=START + 1))
    going = replace(held_up.gather(), deleting=True)
    assert decide(going, START + 9).steps == (Release("heartbeats stop, as deletionPolicy asks; the lease lapses"),)
    working = kept({}, replace(POD, terminating=True), deletionPolicy="Release")
    working.pods.note_deletion("pod1", Asked(START + 8, first=START + 1))
    plan = decide(replace(working.gather(), deleting=True), START + 9)
    assert plan.steps == ()
    assert decide(replace(working.gather(), deleting=True), START + 36.1).steps == (
        EndPod("pod1", "sandbox-1", None),
        Release("heartbeats stop, as deletionPolicy asks; the lease lapses"),
    )


def test_an_end_that_only_another_version_knows_is_an_end() -> None:
    condition = {
        "type": "Finished",
        "status": "True",
        "reason": "Superseded",
        "message": "Over.",
        "lastTransitionTime": "2026-11-24T11:30:00Z",
    }
    found = resume(resource({}, {"conditions": [condition]}), OPTIONS, None, WALL, START)
    assert found.lease.end is not None
    assert found.published.final[0].reason == "Superseded"


# --- A renewal ---------------------------------------------------------------------------------------------------

RENEWALS = [START + 600, START + 1200, START + 1800]
DEADLINE = 900


@pytest.mark.parametrize(
    ("sandbox", "pods", "expected"),
    [
        (None, (), "the fence"),
        (None, (POD,), "the fence"),
        (TEMPLATE, (own(0),), "the fence"),
        ({"startDeadlineSeconds": DEADLINE}, (), "the deadline"),
        ({"startDeadlineSeconds": DEADLINE}, (POD,), "the fence"),
        (TEMPLATE | {"startDeadlineSeconds": DEADLINE}, (own(0, phase="Pending", ready=False),), "the deadline"),
    ],
    ids=["no pod", "a pod", "made", "awaited", "came", "pending"],
)
def test_a_renewal_moves_the_next_look_to_its_fence_and_nothing_is_missed(
    sandbox: dict[str, Any] | None, pods: tuple[Pod, ...], expected: str
) -> None:
    each = kept(sandbox, *pods)
    plan = turn(each, START + 1)
    assert plan.look_at is not None
    each.schedule.look_at, each.schedule.holds_until = plan.look_at, plan.holds_until
    first = fence(each.lease)
    for at in RENEWALS:
        each.lease = observe(each.lease, answered(at, ttl=3600))
        each.schedule.follow_renewal(each.lease)
    last = fence(each.lease)
    assert first is not None
    assert last is not None
    assert last == pytest.approx(first + RENEWALS[-1] - START)
    assert each.schedule.look_at == {"the fence": last, "the deadline": pytest.approx(START + DEADLINE)}[expected]
    quiet = (START + 1 + second for second in range(0, int(each.schedule.look_at - START) - 1, 7))
    assert [at for at in quiet if turn(each, at).steps] == []


def test_a_renewal_moves_no_look_that_is_not_the_fences_alone() -> None:
    each = kept(None, POD)
    each.schedule.look_at = START + 5  # as from a plan that does not mention renewals
    each.schedule.follow_renewal(each.lease)
    assert each.schedule.look_at == START + 5


@pytest.mark.parametrize("named", [1.0, 30.0, 86_400.0])
@pytest.mark.parametrize("checkpoint", [True, False])
def test_the_ttl_of_an_answer_that_extended_nothing_sets_no_deadline_at_a_start(
    named: float, *, checkpoint: bool
) -> None:
    draining = kept({})
    draining.lease = observe(draining.lease, answered(START + 10, state="stopping", extended=False, ttl=named))
    again = started_again(draining, START + 20, checkpoint=checkpoint)
    margin = 0.0 if checkpoint else LONGEST_MARGIN
    assert expiry(again.lease) == pytest.approx(START + 3600 - margin, abs=1.0), "99 s that were left became one"
    assert again.lease.ttl == 3600, "a longer TTL would make more values ours than can be, a shorter one fewer"


@pytest.mark.parametrize("named", [1.0, 86_400.0])
def test_the_status_of_an_earlier_version_has_no_ttl_that_was_granted_and_its_end_stands(named: float) -> None:
    draining = kept({})
    draining.lease = observe(draining.lease, answered(START + 10, state="stopping", extended=False, ttl=named))
    status = shown.status(draining, WALL, START + 20).model_copy(update={"granted_ttl_seconds": None})
    said = {key: value for key, value in status.as_merge_patch().items() if value is not None}
    again = resume(resource({}, said), OPTIONS, None, WALL, START + 25)
    assert expiry(again.lease) == pytest.approx(START + 3600 - LONGEST_MARGIN, abs=1.0)
    assert again.lease.ttl <= 3600


def test_the_status_shows_the_granted_ttl_beside_the_expiry_whatever_an_answer_names_that_extends_nothing() -> None:
    draining = kept({})
    draining.lease = observe(draining.lease, answered(START + 10, state="stopping", extended=False, ttl=7))
    status = shown.status(draining, WALL, START + 20)
    assert (status.ttl_seconds, status.granted_ttl_seconds) == (7, 3600)


@pytest.mark.parametrize("source", ["checkpoint", "status"])
def test_a_start_where_the_wall_clock_is_behind_is_corrected_by_the_first_answer(source: str) -> None:
    each = kept(None)
    status = {
        key: value for key, value in shown.status(each, WALL, START).as_merge_patch().items() if value is not None
    }
    elsewhere = each.record(trying=None, wall=WALL, now=START).replace(BOOT, "another machine's")
    text = elsewhere if source == "checkpoint" else None
    behind = ClockPair(START + 100, WALL.utc + timedelta(seconds=80))
    lease = resume(resource(None, status), OPTIONS, text, behind, START + 100).lease
    assert expiry(lease) == pytest.approx(START + 3600 + 20 - LONGEST_MARGIN, abs=1.0)
    assert START + 3597 < (expiry(observe(lease, throttled(START + 101, None))) or 0.0) <= START + 3600


def test_what_the_same_machine_recorded_has_no_margin_and_what_is_recorded_in_doubt_keeps_it() -> None:
    each = kept(None)
    text = each.record(trying=None, wall=WALL, now=START)
    assert expiry(resume(resource(None), OPTIONS, text, WALL, START + 5).lease) == START + 3600
    elsewhere = resume(resource(None), OPTIONS, text.replace(BOOT, "another machine's"), WALL, START + 5)
    text = elsewhere.record(trying=None, wall=WALL, now=START + 5)
    assert expiry(resume(resource(None), OPTIONS, text, WALL, START + 9).lease) == START + 3600 - LONGEST_MARGIN
