"""Which steps follow from the lease, the pods and the resource together."""

from dataclasses import replace
from math import inf
from typing import Any

import pytest

from support.lease_samples import answered, held, refused, restored, stamp, unanswered
from worklease.rules.answers import observe
from worklease.rules.beats import lapse
from worklease.rules.deadlines import fence
from worklease.rules.lease import End, Lease
from worklease.rules.lifecycle import EndPod, Plan, RemoveFinalizer, StopItem, decide, why_it_must_go
from worklease.rules.ownership import is_bindable
from worklease.rules.pods import Pod
from worklease.rules.situation import Asked, DeletionPolicy, Policy, Situation, is_finished

UID = "resource"
POD = Pod(uid="pod1", name="sandbox", grace=30.0)


def lease_with(*pods: Pod, ttl: float = 90.0) -> Lease:
    return held(100, ttl=ttl, pod_grace=max((pod.grace for pod in pods), default=0.0))


def situation(lease: Lease, *pods: Pod, **more: Any) -> Situation:
    return replace(Situation(uid=UID, lease=lease, bound={pod.uid: pod for pod in pods}), **more)


def stopping(lease: Lease) -> Lease:
    return observe(lease, answered(130, stamp(100.05), state="stopping", extended=False))


# --- Whose pod it is ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("controller", "bindable"), [("", True), (UID, True), ("another", False)], ids=["none", "ours", "another WorkLease"]
)
def test_a_pod_is_ours_unless_another_worklease_controls_it(controller: str, *, bindable: bool) -> None:
    assert is_bindable(replace(POD, controller=controller), UID, held()) is bindable


@pytest.mark.parametrize(
    "lease",
    [Lease(), observe(Lease(), refused(100, stamp(95))), lapse(held(), 190), restored(500)],
    ids=["never tried", "another's", "over", "restored after its end"],
)
def test_no_pod_is_bound_while_the_lease_is_not_held(lease: Lease) -> None:
    assert not is_bindable(POD, UID, lease)


def test_a_restored_lease_binds_again_when_a_beat_was_accepted() -> None:
    assert is_bindable(POD, UID, observe(restored(500), answered(500)))


# --- While it runs -----------------------------------------------------------------------------------------------


def test_a_held_lease_asks_for_nothing_before_its_fence() -> None:
    plan = decide(situation(lease_with(POD), POD), 101)
    assert plan.steps == ()
    assert plan.look_at == pytest.approx(190 - 18 - 2.8)


def test_a_claim_asks_for_nothing() -> None:
    assert decide(situation(Lease()), 101) == Plan(holds_until=inf)


def test_at_the_fence_the_pod_is_told_to_end_before_the_lease_can() -> None:
    plan = decide(situation(lease_with(POD), POD), 169.21)
    assert plan.steps == (EndPod("pod1", "sandbox", 18.0),)


@pytest.mark.parametrize(("ttl", "pod", "grace"), [(300, 30, 30), (300, 600, 60), (10, 30, 2), (4, 30, 1), (300, 0, 1)])
def test_the_grace_at_the_fence_is_a_fifth_of_the_ttl_and_never_zero(ttl: float, pod: float, grace: float) -> None:
    late = replace(POD, grace=pod)
    lease = lease_with(late, ttl=ttl)
    at = 100 + ttl - min(pod, ttl / 5) - 1 - ttl / 50
    assert decide(situation(lease, late), at + 0.001).steps == (EndPod("pod1", "sandbox", grace),)


def test_a_fence_that_is_seen_late_leaves_only_what_is_left() -> None:
    assert decide(situation(lease_with(POD), POD), 182).steps == (EndPod("pod1", "sandbox", 6.0),)
    assert decide(situation(lease_with(POD), POD), 189).steps == (EndPod("pod1", "sandbox", 1.0),)


def test_the_fence_comes_before_a_deletion_that_waits() -> None:
    plan = decide(situation(lease_with(POD), POD, deleting=True), 170)
    assert plan.steps == (EndPod("pod1", "sandbox", 18.0),)


@pytest.mark.parametrize("asked", [Asked(170.0, grace=18.0), Asked(170.0, refusals=3, message="away", grace=18.0)])
def test_a_deletion_is_asked_for_again_until_it_is_done(asked: Asked) -> None:
    now = situation(lease_with(POD), POD, deletions={"pod1": asked})
    assert decide(now, 170.1).steps == ()
    left = 18.0 if asked.refusals == 0 else 16.0  # two seconds of it went by without an answer
    assert decide(now, asked.again).steps == (EndPod("pod1", "sandbox", left),)


@pytest.mark.parametrize(
    ("refusals", "wait"), [(0, 5.0), (1, 0.5), (2, 1.0), (3, 2.0), (6, 10.0), (1000, 10.0)], ids=str
)
def test_what_is_refused_is_asked_again_soon_and_what_is_accepted_after_a_while(refusals: int, wait: float) -> None:
    assert Asked(100.0, refusals).again == 100.0 + wait


def test_a_deletion_that_was_refused_before_is_asked_again_at_the_fence() -> None:
    asked = {"pod1": Asked(168.0, refusals=9, grace=30.0)}
    assert decide(situation(stopping(lease_with(POD)), POD, deletions=asked), 169.0).steps == ()
    assert decide(situation(stopping(lease_with(POD)), POD, deletions=asked), 169.3).steps != ()


# --- Stopping ----------------------------------------------------------------------------------------------------


def test_a_stopping_item_lets_its_sandbox_finish() -> None:
    plan = decide(situation(stopping(lease_with(POD)), POD, sandbox=Policy(drain=20.0)), 130.1)
    assert plan.steps == (EndPod("pod1", "sandbox", 20.0),)


@pytest.mark.parametrize(("ttl", "grace"), [(300, 28.0), (90, 16.0), (15, 1.0), (5, 1.0)])
def test_a_grace_that_the_lease_limits_is_shorter_by_what_the_kubelet_adds(ttl: float, grace: float) -> None:
    pod = replace(POD, overtime=2.0)
    lease = lease_with(pod, ttl=ttl)
    at = fence(lease)
    assert at is not None
    assert decide(situation(lease, pod), at).steps == (EndPod(pod.uid, pod.name, grace),)


def test_a_drain_that_the_fence_shortens_leaves_what_the_kubelet_adds() -> None:
    pod = replace(POD, overtime=2.0, terminating=True)
    lease = stopping(lease_with(pod))
    at = fence(lease)
    assert at is not None
    asked = Asked(135, grace=60.0, first=135.0)
    plan = decide(situation(lease, pod, deletions={pod.uid: asked}, sandbox=Policy(drain=60.0)), at)
    assert plan.steps == (EndPod(pod.uid, pod.name, 16.0),)


@pytest.mark.parametrize(("drain", "grace"), [(30.0, 30.0), (120.0, 58.0), (0.0, 1.0)])
def test_a_drain_ends_when_that_of_the_fence_would(drain: float, grace: float) -> None:
    plan = decide(situation(stopping(lease_with(POD)), POD, sandbox=Policy(drain=drain)), 130.1)
    assert plan.steps == (EndPod("pod1", "sandbox", grace),)


def test_a_drain_under_way_is_not_shortened_by_asking_again() -> None:
    asked = {"pod1": Asked(130.1, grace=57.0)}
    plan = decide(situation(stopping(lease_with(POD)), POD, sandbox=Policy(drain=120.0), deletions=asked), 140.0)
    assert plan.steps == (EndPod("pod1", "sandbox", 57.0),)


def test_a_drain_is_shortened_when_the_fence_comes() -> None:
    asked = {"pod1": Asked(169.0, grace=57.0)}
    plan = decide(situation(stopping(lease_with(POD)), POD, sandbox=Policy(drain=120.0), deletions=asked), 169.3)
    assert plan.steps == (EndPod("pod1", "sandbox", 18.0),)


def test_the_stop_is_confirmed_when_the_sandbox_is_gone() -> None:
    gone = replace(POD, gone=True)
    assert decide(situation(stopping(held()), gone), 140).steps == (StopItem(force=True),)
    assert decide(situation(stopping(held())), 140).steps == (StopItem(force=True),)


def test_a_confirmation_is_repeated_until_it_is_acknowledged() -> None:
    asked = situation(stopping(held()), forced_stop=Asked(140.0))
    assert decide(asked, 144.9) == Plan(look_at=145.0)
    assert decide(asked, 145.0).steps == (StopItem(force=True),)


def test_no_stop_is_confirmed_from_one_time_out_before_the_end() -> None:
    assert decide(situation(stopping(held())), 179.9).steps == (StopItem(force=True),)
    plan = decide(situation(stopping(held())), 180.0)
    assert plan.steps == ()
    assert plan.look_at == pytest.approx(187.2)


@pytest.mark.parametrize("end", list(End))
def test_no_stop_is_sent_once_the_lease_is_over(end: End) -> None:
    over = replace(stopping(held()), end=end)
    assert decide(situation(over, deleting=True), 140).steps == (RemoveFinalizer(),)


# --- Over --------------------------------------------------------------------------------------------------------


def test_a_stopped_item_takes_its_sandbox_down_with_the_pods_own_grace() -> None:
    over = replace(lease_with(POD), end=End.STOPPED)
    assert decide(situation(over, POD), 130).steps == (EndPod("pod1", "sandbox", None),)


def test_a_stopped_items_sandbox_does_not_outlive_what_the_lease_was() -> None:
    """The item may be queued again seconds later: a pod with a long grace would run beside the next holder."""
    slow = replace(POD, grace=3600.0)
    over = replace(lease_with(slow), end=End.STOPPED)
    assert decide(situation(over, slow), 130).steps == (EndPod("pod1", "sandbox", 58.0),)


def test_a_pod_without_grace_is_given_a_second() -> None:
    hasty = replace(POD, grace=0.0)
    over = replace(lease_with(hasty), end=End.STOPPED)
    assert decide(situation(over, hasty), 130).steps == (EndPod("pod1", "sandbox", 1.0),)


@pytest.mark.parametrize("end", [End.REQUEUED, End.TAKEN_OVER, End.NOT_FOUND])
def test_a_lost_lease_takes_its_sandbox_down_with_the_grace_of_the_fence(end: End) -> None:
    over = replace(lease_with(POD), end=end)
    assert decide(situation(over, POD), 130).steps == (EndPod("pod1", "sandbox", 18.0),)


def test_the_resource_is_let_go_when_nothing_is_left() -> None:
    over = situation(replace(held(), end=End.STOPPED), replace(POD, gone=True))
    assert decide(over, 130).steps == (RemoveFinalizer(),)
    assert is_finished(over)
    assert not is_finished(situation(replace(held(), end=End.STOPPED), POD))


# --- The resource is deleted -------------------------------------------------------------------------------------


def test_deletion_stops_an_item_that_we_hold() -> None:
    assert decide(situation(lease_with(POD), POD, deleting=True), 110).steps == (StopItem(force=False),)


def test_deletion_asks_again_for_a_stop_and_does_not_miss_the_fence() -> None:
    told = {"pod1": Asked(167.0, grace=20.0, first=167.0)}
    asked = situation(lease_with(POD), POD, deleting=True, graceful_stop=Asked(167.0), deletions=told)
    plan = decide(asked, 168.0)
    assert plan.steps == ()
    assert plan.look_at == pytest.approx(169.2)


def test_deletion_with_release_ends_the_sandbox_and_leaves_the_item_alone() -> None:
    release = situation(lease_with(POD), POD, deleting=True, deletion_policy=DeletionPolicy.RELEASE)
    assert decide(release, 110).steps == (EndPod("pod1", "sandbox", None),)
    assert decide(replace(release, bound={}), 110).steps == (RemoveFinalizer(),)


def test_release_lets_a_slow_sandbox_finish_while_beats_go_on_and_hurries_it_at_the_fence() -> None:
    slow = replace(POD, grace=3600.0)
    release = situation(lease_with(slow), slow, deleting=True, deletion_policy=DeletionPolicy.RELEASE)
    assert decide(release, 110).steps == (EndPod("pod1", "sandbox", None),)
    asked = replace(release, deletions={"pod1": Asked(169.0)})
    assert decide(asked, 169.3).steps == (EndPod("pod1", "sandbox", 18.0),)


@pytest.mark.parametrize(
    "lease", [Lease(), observe(Lease(), unanswered(100)), observe(Lease(), refused(100, stamp(95)))]
)
def test_deletion_stops_nothing_that_we_never_held(lease: Lease) -> None:
    assert decide(situation(lease, deleting=True), 110).steps == (RemoveFinalizer(),)


def test_deletion_stops_nothing_whose_lease_was_over_when_we_started() -> None:
    """Another worker may hold the item by now: one beat shows it."""
    plan = decide(situation(restored(500), deleting=True), 500)
    assert (plan.steps, plan.look_at) == ((), 520)


def test_no_plan_looks_into_the_past() -> None:
    for state in ("active", "stopping"):
        for now in (500.0, 510.0, 519.0):
            plan = decide(situation(restored(500, state=state)), now)
            assert plan.look_at is None or now < plan.look_at < inf


@pytest.mark.parametrize(
    ("lease", "now", "is_deleting", "why"),
    [
        (replace(held(), end=End.STOPPED), 101, False, ("Stopped", True)),
        (replace(held(), end=End.RELEASED), 101, True, ("Released", False)),
        (held(), 189, False, ("Fenced", False)),
        (replace(held(), stopping_seen=True), 101, True, ("Draining", True)),
        (held(), 101, True, ("ResourceDeleted", False)),
        (held(), 101, False, ("Restarting", False)),
    ],
)
def test_why_a_pod_must_go_and_whether_a_beat_said_so(
    lease: Lease, now: float, why: tuple[str, bool], *, is_deleting: bool
) -> None:
    assert why_it_must_go(lease, now, is_deleting=is_deleting) == why
