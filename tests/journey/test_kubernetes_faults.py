"""Faults of the API server cost no lease: beats neither wait nor stop, and the operator catches up later.

Each fault is injected from outside, by a proxy or in the API server itself. The Work API's history is checked. Outages
are longer than a TTL.
"""

import time
from contextlib import ExitStack
from functools import partial
from itertools import pairwise
from typing import Any

import pytest

from controlplane import ControlPlane, OwnControlPlane, wait_for
from support.cluster import install_custom_resources, make_namespace
from support.judge import check_history, heartbeats
from support.kube_proxy import Answer, Effect, Fault, Hang, Hold, KubeProxy, Reset
from support.operator import RESTARTED, Leases, Operator
from support.simulator import Simulator, accepted

TTL = 15.0  # seconds, as the simulator grants
INTERVAL = TTL / 3
OUTAGE = 17.0  # seconds, longer than the TTL: an operator that depends on the API server loses its leases


def has_beaten(simulator: Simulator, item: str, since: float) -> bool:
    return accepted(simulator, item)[-1] > since


def has_acted(fault: Fault) -> bool:
    return fault.times > 0


def hold(leases: Leases, simulator: Simulator, *items: str, pods: bool = False, **spec: Any) -> None:
    for item in items:
        simulator.create_item(item)
    leases.create(*items, pods=pods, **spec)
    for item in items:
        leases.await_condition(item, "SandboxReady" if pods else "LeaseHeld", "True")


def untouched(leases: Leases) -> set[str]:
    """Return the names of the pods that are not being deleted."""
    return {name for name, pod in leases.pods().items() if "deletionTimestamp" not in pod["metadata"]}


def outlast(simulator: Simulator, items: list[str], seconds: float) -> None:
    """Wait for a number of seconds; every lease must be renewed throughout."""
    until = time.monotonic() + seconds
    wait_for(lambda: time.monotonic() > until, seconds=seconds + 30, what="the end of the outage")
    for item in items:
        times = accepted(simulator, item)
        assert max(later - earlier for earlier, later in pairwise(times)) < INTERVAL + 1.5, item
        assert times[-1] > until - INTERVAL - 1.5, item


@pytest.mark.long(seconds=60)
@pytest.mark.xdist_group("a control plane of its own 1")
def test_a_killed_api_server_costs_no_beat_and_what_it_missed_is_done_when_it_is_back() -> None:
    items = ["work_a", "work_b", "work_c", "work_stopped", "work_lost"]
    with OwnControlPlane() as plane, Simulator("--ttl", "15") as simulator:
        install_custom_resources(plane)
        namespace = make_namespace(plane)
        leases = Leases(plane, namespace, simulator)
        with Operator(plane, namespace, simulator.url) as operator:
            hold(leases, simulator, *items, pods=True)
            plane.kill("kube-apiserver")
            simulator.stop_item("work_stopped", force=True)
            simulator.steal_item("work_lost")
            outlast(simulator, items[:3], 30.0)
            plane.start("kube-apiserver")
            kept = {"pod-work-a", "pod-work-b", "pod-work-c"}
            wait_for(
                lambda: untouched(leases) == kept,
                seconds=20,
                what="the deletion of the pods whose leases ended meanwhile",
            )
            # The node's agent also lost the API server, and retries at growing intervals.
            wait_for(lambda: set(leases.pods()) == kept, seconds=90, what="the end of these pods")
            leases.await_condition("work_stopped", "Finished", "True", "Stopped")
            leases.await_condition("work_lost", "Finished", "True", "TakenOver")
            caught_up_with(leases, simulator, *items[:3])
            assert operator.terminate() == 0
        assert check_history(simulator.history(), released=["work_lost"]) == []


def caught_up_with(leases: Leases, simulator: Simulator, *items: str) -> None:
    """Wait until each status shows the server's answer to a beat that is sent from now on."""
    since = {item: len(accepted(simulator, item)) for item in items}

    def is_shown(item: str) -> bool:
        return (
            len(accepted(simulator, item)) > since[item]
            and leases.status(item).get("lastHeartbeat") == simulator.item(item)["last_heartbeat"]
        )

    for item in items:
        wait_for(partial(is_shown, item), seconds=40, what=f"the newest status of {item}")


REFUSALS: dict[str, Effect] = {
    "work_s403": Answer(403, "no right to do that"),
    "work_s404": Answer(404, "the server could not find the requested resource"),
    "work_s409": Answer(409, "the object has been modified"),
    "work_s410": Answer(410, "too old resource version"),
    "work_s422": Answer(422, "status is invalid"),
    "work_s429": Answer(429, "too many requests", {"Retry-After": "1"}),
    "work_s500": Answer(500, "etcdserver: request timed out"),
    "work_s503": Answer(503, "the server is currently unable to handle the request"),
    "work_hang": Hang(),
    "work_reset": Reset(),
}


LAST_WORDS = {"work_s403", "work_s404", "work_s422", "work_s500", "work_hang"}


@pytest.mark.usefixtures("operator")
@pytest.mark.long(seconds=45)
def test_a_status_that_cannot_be_written_holds_no_beat_back_and_the_newest_is_written_after_all(
    leases: Leases, simulator: Simulator, proxy: KubeProxy
) -> None:
    hold(leases, simulator, *REFUSALS, pods=True)
    with ExitStack() as faults:
        refused = {
            item: faults.enter_context(
                proxy.fault(effect, verb="patch", resource="workleases/status", name=item.replace("_", "-"))
            )
            for item, effect in REFUSALS.items()
        }
        for item in REFUSALS:
            wait_for(partial(has_acted, refused[item]), seconds=15, what=f"a refused write of {item}")
        # Some leases end while their status cannot be written; the others continue.
        for item in LAST_WORDS:
            simulator.stop_item(item, force=True)
        outlast(simulator, [item for item in REFUSALS if item not in LAST_WORDS], OUTAGE)
        left = {f"pod-{item.replace('_', '-')}" for item in REFUSALS if item not in LAST_WORDS}
        wait_for(lambda: set(leases.pods()) == left, seconds=10, what="the end of the stopped items' pods")
        assert all(leases.status(item)["state"] == "active" for item in REFUSALS)
    for item in LAST_WORDS:
        leases.await_condition(item, "Finished", "True", "Stopped", seconds=45)
    caught_up_with(leases, simulator, *(REFUSALS.keys() - LAST_WORDS))
    assert check_history(simulator.history()) == []


@pytest.mark.usefixtures("operator")
def test_an_object_that_vanished_while_its_status_was_to_be_written_is_dropped(
    leases: Leases, simulator: Simulator, proxy: KubeProxy, control_plane: ControlPlane
) -> None:
    hold(leases, simulator, "work_a")
    with proxy.fault(Hang(), verb="patch", resource="workleases/status"):
        vanish(control_plane, leases, "work-a")
        wait_for(lambda: leases.get("work_a") is None, seconds=10, what="the end of the resource")
        beats = len(accepted(simulator, "work_a"))
        since = time.monotonic()
        wait_for(lambda: time.monotonic() > since + INTERVAL + 1.5, seconds=30, what="the time of another beat")
        assert len(accepted(simulator, "work_a")) <= beats + 1
    since = time.monotonic()
    wait_for(lambda: time.monotonic() > since + INTERVAL, seconds=30, what="the time of another write")
    assert proxy.requests("patch", "workleases/status", since=since + 1) == []


@pytest.mark.usefixtures("operator")
def test_a_pod_that_runs_before_its_making_is_answered_is_told_of_in_order(
    leases: Leases, simulator: Simulator, proxy: KubeProxy
) -> None:
    simulator.create_item("work_a")
    # The dry run before the claim is answered.
    with proxy.fault(Hold(applied=True), verb="create", resource="pods", skip=1) as fault:
        leases.create("work_a", sandbox={"template": leases.template()})
        leases.await_condition("work_a", "SandboxReady", "True")
        assert has_acted(fault)
    wait_for(lambda: "SandboxStarted" in leases.reasons("work_a"), seconds=30, what="the event of the start")
    assert leases.reasons("work_a") == ["Claimed", "SandboxCreated", "SandboxStarted"]


def vanish(plane: ControlPlane, leases: Leases, name: str) -> None:
    """Remove a resource's finalizers and delete it, as the documents describe for an operator that is gone."""
    of = ("--namespace", leases.namespace)
    plane.kubectl(*of, "delete", "worklease", name, "--wait=false")
    # The operator may have removed it by itself by then.
    remove = '{"metadata":{"finalizers":null}}'
    plane.kubectl(*of, "patch", "worklease", name, "--type=merge", "-p", remove, check=False)


def is_said(leases: Leases, item: str, words: str) -> bool:
    """Whether the object shows the refusal; after the lease's time is up, it shows the pending fence instead."""
    status, reason, message = leases.condition(item, "SandboxReady")
    told = (status, reason) in {("False", "DeletionRefused"), ("Unknown", "FencePending")}
    return told and words in message


DELETIONS: dict[str, Effect] = {
    "work_d403": Answer(403, 'admission webhook "no" denied the request'),
    "work_d500": Answer(500, "etcdserver: leader changed"),
    "work_d409": Answer(409, "the object has been modified"),
    "work_dhang": Hang(),
}


@pytest.mark.usefixtures("operator")
def test_a_pod_whose_deletion_is_refused_is_shown_with_the_servers_words_and_deleted_after_all(
    leases: Leases, simulator: Simulator, proxy: KubeProxy
) -> None:
    hold(leases, simulator, *DELETIONS, "work_other", pods=True)
    with ExitStack() as faults:
        for item, effect in DELETIONS.items():
            pod = f"pod-{item.replace('_', '-')}"
            faults.enter_context(proxy.fault(effect, verb="delete", resource="pods", name=pod))
        for item in DELETIONS:
            simulator.stop_item(item, force=True)
        for item, effect in DELETIONS.items():
            # Without the first letter: the operator may write it as a capital.
            words = effect.message[1:] if isinstance(effect, Answer) else "did not answer"
            wait_for(partial(is_said, leases, item, words), seconds=25, what=f"the reason why the pod of {item} stays")
            assert leases.condition(item, "Finished")[:2] == ("False", "TearingDown")
        outlast(simulator, ["work_other"], INTERVAL)
    wait_for(lambda: set(leases.pods()) == {"pod-work-other"}, seconds=25, what="the end of the stopped items' pods")
    for item in DELETIONS:
        leases.await_condition(item, "Finished", "True", "Stopped")
    assert check_history(simulator.history()) == []


@pytest.mark.usefixtures("operator")
def test_credentials_that_expired_for_all_calls_cost_no_beat(
    leases: Leases, simulator: Simulator, proxy: KubeProxy
) -> None:
    items = ["work_a", "work_b", "work_c"]
    hold(leases, simulator, *items, "work_stopped", pods=True)
    with proxy.fault(Answer(401, "Unauthorized")):
        proxy.cut_watches()
        simulator.stop_item("work_stopped", force=True)
        outlast(simulator, items, OUTAGE)
    leases.await_condition("work_stopped", "Finished", "True", "Stopped")
    assert "pod-work-stopped" not in leases.pods()
    simulator.create_item("work_new")
    leases.create("work_new")
    leases.await_condition("work_new", "LeaseHeld", "True", "Renewed")
    caught_up_with(leases, simulator, *items)
    assert check_history(simulator.history()) == []


def test_a_termination_in_order_leaves_no_gap_but_that_of_the_start(
    leases: Leases, simulator: Simulator, operator: Operator, proxy: KubeProxy
) -> None:
    items, ttl = ["work_a", "work_b", "work_c"], 45  # seconds: longer than a stop and a start on a busy machine
    hold(leases, simulator, *items, ttlSeconds=ttl)
    # Kopf, trap 3c: it takes over the process's signals, and leaves them disabled between two of its runs.
    assert proxy.end_watches_with_error(500) > 0
    wait_for(lambda: "kopf ended, restarting it" in operator.log(), seconds=20, what="the end of Kopf")
    told = time.monotonic()
    assert operator.terminate() == 0
    operator.start()
    started = time.monotonic()
    for item in items:
        before = [at for at in accepted(simulator, item) if at < started]
        wait_for(partial(has_beaten, simulator, item, started), seconds=ttl, what=f"a beat of {item}")
        first = next(at for at in accepted(simulator, item) if at > before[-1])
        assert first - before[-1] < ttl / 3 + 1.5 + (started - told)
        for_the_next = leases.status(item)["lastHeartbeat"]
        assert for_the_next
    assert [entry for entry in heartbeats(simulator.history()) if entry["status"] != 200] == []
    assert check_history(simulator.history()) == []


def test_a_start_beats_all_that_is_there_before_it_writes_a_status(
    leases: Leases, simulator: Simulator, proxy: KubeProxy, operator: Operator
) -> None:
    simulator.create_item("work_1")
    leases.create("work_1", ttlSeconds=RESTARTED)
    leases.await_condition("work_1", "LeaseHeld", "True")
    operator.kill()
    with proxy.fault(Hold(), verb="list", resource="pods") as listing:
        began, beats = time.monotonic(), len(accepted(simulator, "work_1"))
        operator.start()
        # Before ten seconds have passed: then the list is given up, and statuses are written without it.
        wait_for(lambda: len(accepted(simulator, "work_1")) > beats, seconds=20, what="a beat")
        assert has_acted(listing)
        assert proxy.requests("patch", "workleases/status", since=began) == []
    wait_for(lambda: proxy.requests("patch", "workleases/status", since=began), seconds=10, what="the status")
