"""How a worker behind the proxy is asked to finish: by its pod's annotation, and by a deletion only at the end."""

from dataclasses import replace
from typing import Any

import pytest

from support.lease_samples import answered, held, stamp
from worklease.rules.answers import observe
from worklease.rules.finishing import AskToFinish
from worklease.rules.lease import Lease
from worklease.rules.lifecycle import EndPod, StopItem, decide
from worklease.rules.pods import Pod
from worklease.rules.situation import Asked, AskedToFinish, Policy, Situation

POD = Pod(uid="pod1", name="sandbox", phase="Running", grace=30.0, has_proxy=True)
PLAIN = replace(POD, uid="pod2", name="plain", has_proxy=False)
ASKED = AskedToFinish(130.1, until=190.1)
POLICY = Policy(drain=60.0)


def stopping(ttl: float = 900.0) -> Lease:
    return observe(held(100, ttl=ttl, pod_grace=30.0), answered(130, stamp(100.05), state="stopping", extended=False))


def situation(*pods: Pod, lease: Lease | None = None, **more: Any) -> Situation:
    bound = {pod.uid: pod for pod in pods}
    given = stopping() if lease is None else lease
    return replace(Situation(uid="resource", lease=given, bound=bound, sandbox=POLICY), **more)


def test_a_drain_asks_the_worker_to_finish_and_deletes_nothing() -> None:
    assert decide(situation(POD), 130.1).steps == (AskToFinish("pod1", "sandbox", 60.0),)


def test_a_worker_that_was_asked_is_left_alone_until_five_seconds_before_the_end_of_its_drain() -> None:
    asked = situation(POD, finishing={"pod1": ASKED})
    plan = decide(asked, 140.0)
    assert plan.steps == ()
    assert plan.look_at == pytest.approx(185.1)
    assert decide(asked, 185.1).steps == (EndPod("pod1", "sandbox", 5.0),)


@pytest.mark.parametrize(("drain", "left"), [(60.0, 5.0), (6.0, 3.0), (2.0, 1.0), (0.0, 1.0)])
def test_the_last_grace_is_five_seconds_and_at_most_half_of_the_drain(drain: float, left: float) -> None:
    asked = situation(POD, finishing={"pod1": AskedToFinish(130.1, until=130.1 + drain)}, sandbox=Policy(drain=drain))
    (step,) = decide(asked, 130.1 + drain).steps
    assert step == EndPod("pod1", "sandbox", left)


def test_a_worker_that_ended_is_confirmed_at_once() -> None:
    over = replace(POD, phase="Succeeded")
    assert decide(situation(over, finishing={"pod1": ASKED}), 140.0).steps == (StopItem(force=True),)


def test_the_fence_deletes_a_pod_whatever_its_worker_was_told() -> None:
    lease = stopping(ttl=90.0)
    asked = situation(
        POD, lease=lease, finishing={"pod1": AskedToFinish(130.1, until=250.0)}, sandbox=Policy(drain=120)
    )
    assert decide(asked, 160.0).steps == ()
    assert decide(asked, 169.3).steps == (EndPod("pod1", "sandbox", 18.0),)


def test_a_pod_without_a_proxy_is_deleted_at_once_beside_one_that_may_finish() -> None:
    steps = decide(situation(POD, PLAIN), 130.1).steps
    assert set(steps) == {AskToFinish("pod1", "sandbox", 60.0), EndPod("pod2", "plain", 60.0)}


@pytest.mark.parametrize(
    "pod",
    [replace(POD, phase="Pending"), replace(POD, phase="Unknown")],
    ids=["does not run yet", "is on a lost node"],
)
def test_a_worker_that_cannot_hear_is_deleted_at_once(pod: Pod) -> None:
    assert decide(situation(pod), 130.1).steps == (EndPod("pod1", "sandbox", 60.0),)


def test_a_pod_whose_deletion_is_under_way_is_not_asked_to_finish() -> None:
    ending = situation(replace(POD, terminating=True), deletions={"pod1": Asked(129.0, grace=30.0, first=129.0)})
    assert decide(ending, 130.1).steps == ()


def test_where_the_annotation_is_refused_the_pod_is_deleted_as_without_a_proxy() -> None:
    refused = situation(POD, finishing={"pod1": replace(ASKED, is_refused=True)})
    assert decide(refused, 130.2).steps == (EndPod("pod1", "sandbox", 60.0),)


def test_an_annotation_that_was_not_answered_is_tried_again_and_the_drain_ends_when_it_would_have() -> None:
    tried = replace(ASKED, refusals=1)
    plan = decide(situation(POD, finishing={"pod1": tried}), 130.2)
    assert plan.steps == ()
    assert plan.look_at == pytest.approx(tried.again)
    assert decide(situation(POD, finishing={"pod1": tried}), tried.again).steps == (
        AskToFinish("pod1", "sandbox", 60.0),
    )
    assert decide(situation(POD, finishing={"pod1": tried}), 185.1).steps == (EndPod("pod1", "sandbox", 5.0),)


def test_the_deletion_of_the_resource_lets_the_worker_finish_too() -> None:
    lease = held(100, ttl=900.0, pod_grace=30.0)
    asked = situation(POD, lease=lease, deleting=True, graceful_stop=Asked(130.0))
    assert AskToFinish("pod1", "sandbox", 60.0) in decide(asked, 130.1).steps


def test_a_failed_sandboxs_restart_waits_for_no_worker() -> None:
    # What replaces it is due: the former pod has ended, or is of a kind that is not asked for any more.
    lease = observe(held(100, ttl=900.0, pod_grace=30.0), answered(130, stamp(130)))
    former = situation(POD, lease=lease)
    settled = replace(former, attempt=replace(former.attempt, number=1, settled=frozenset({"pod1"})))
    assert decide(replace(settled, sandbox=Policy(is_made=True, drain=60.0)), 131.0).steps == (
        EndPod("pod1", "sandbox", None),
    )
