"""Kopf may end, idle, or miss a change: it is restarted, and the operator finds missed changes without it.

Each trap of Kopf's in this file was measured with 1.45.2. A proxy before the API server injects the faults.
"""

import json
import time
from functools import partial
from itertools import pairwise
from typing import Any

import pytest

from controlplane import ControlPlane, wait_for
from support.judge import check_history, heartbeats
from support.kube_proxy import Answer, Hang, KubeProxy, Reset
from support.operator import RESTARTED, Leases, Operator
from support.simulator import Simulator, accepted

TTL = 15.0  # seconds, as the simulator grants
INTERVAL = TTL / 3
OUTAGE = 17.0  # seconds, longer than the TTL
SOON = 15.0  # seconds in which Kopf must work again, and report new objects
KOPF = "kopf/"  # a part of its user agent


def hold(leases: Leases, simulator: Simulator, *items: str, pods: bool = False, **spec: Any) -> None:
    for item in items:
        simulator.create_item(item)
    leases.create(*items, pods=pods, **spec)
    for item in items:
        leases.await_condition(item, "SandboxReady" if pods else "LeaseHeld", "True")


def is_picked_up(leases: Leases, simulator: Simulator, item: str) -> None:
    """Create a resource with a pod, and wait until Kopf's timer and its watch of pods have both reported it."""
    simulator.create_item(item)
    leases.create(item, pods=True)
    leases.await_condition(item, "SandboxReady", "True", seconds=SOON)


def beats_on(simulator: Simulator, items: list[str], seconds: float) -> None:
    """Wait for a number of seconds; every lease must be renewed throughout."""
    until = time.monotonic() + seconds
    wait_for(lambda: time.monotonic() > until, seconds=seconds + 30, what="the end of the outage")
    for item in items:
        times = accepted(simulator, item)
        assert max(later - earlier for earlier, later in pairwise(times)) < INTERVAL + 1.5, item
        assert times[-1] > until - INTERVAL - 1.5, item


def has_ended(operator: Operator, times: int) -> bool:
    """Whether Kopf has ended this many times."""
    return operator.log().count("kopf ended, restarting it") == times


def resources(plane: ControlPlane, leases: Leases) -> dict[str, Any]:
    found = plane.get(f"/apis/worklease.dev/v1alpha1/namespaces/{leases.namespace}/workleases")
    assert isinstance(found, dict)
    return found


def vanish(plane: ControlPlane, leases: Leases, name: str) -> None:
    """Remove a resource's finalizers and delete it, as the documents describe for an operator that is gone."""
    of = ("--namespace", leases.namespace)
    plane.kubectl(*of, "delete", "worklease", name, "--wait=false")
    plane.kubectl(*of, "patch", "worklease", name, "--type=merge", "-p", '{"metadata":{"finalizers":null}}')


def test_an_error_in_a_watch_ends_kopf_and_it_is_at_work_again_within_seconds(
    leases: Leases, simulator: Simulator, proxy: KubeProxy, operator: Operator
) -> None:
    # Kopf, trap 3: any ERROR event except 410 ends it; trap 3a: it would kill the process 600 s later.
    hold(leases, simulator, "work_a", "work_b")
    for number in range(2):
        assert proxy.end_watches_with_error(500, agent=KOPF) > 0
        is_picked_up(leases, simulator, f"work_new{number}")
        assert has_ended(operator, number + 1)
    beats_on(simulator, ["work_a", "work_b"], INTERVAL)
    assert check_history(simulator.history()) == []


def test_an_error_in_one_watch_while_another_waits_to_be_tried_again_ends_kopf_as_well(
    leases: Leases, simulator: Simulator, proxy: KubeProxy, operator: Operator
) -> None:
    # At its end Kopf closes its session. That makes the watch ask for a new login, and it may wait for that for ever.
    hold(leases, simulator, "work_a")
    wait_for(lambda: proxy.watching("workleases") and proxy.watching("pods"), seconds=SOON, what="both watches")
    for number in range(3):
        began = time.monotonic()
        with proxy.fault(Answer(503, "not now"), verb="watch", resource="workleases", agent=KOPF):
            assert proxy.cut_watches("workleases") > 0
            wait_for(partial(proxy.requests, "watch", "workleases", since=began), seconds=SOON, what="a try")
            assert proxy.end_watches_with_error(500, agent=KOPF) > 0
            wait_for(partial(has_ended, operator, number + 1), seconds=SOON, what="the end of kopf")
        is_picked_up(leases, simulator, f"work_new{number}")
    assert check_history(simulator.history()) == []


def test_what_an_earlier_process_kept_waits_for_nothing_that_kopf_does(
    leases: Leases, simulator: Simulator, proxy: KubeProxy, operator: Operator
) -> None:
    hold(leases, simulator, "work_a", "work_stopped", pods=True, ttlSeconds=RESTARTED)
    operator.kill()
    simulator.stop_item("work_stopped", force=True)
    with proxy.fault(Hang(), verb="list", agent=KOPF):
        operator.start()
        died = operator.killed[-1]
        wait_for(
            lambda: sum(at > died for at in accepted(simulator, "work_a")) >= 3,
            seconds=3 * RESTARTED,
            what="three beats",
        )
        wait_for(lambda: set(leases.pods()) == {"pod-work-a"}, seconds=30, what="the end of the stopped item's pod")
        leases.await_condition("work_stopped", "Finished", "True", "Stopped")
        assert proxy.watching("workleases") == 0
    is_picked_up(leases, simulator, "work_new")
    assert check_history(simulator.history()) == []


def test_an_expired_watch_and_a_cut_one_are_restarted_without_ending_kopf(
    leases: Leases, simulator: Simulator, proxy: KubeProxy, operator: Operator
) -> None:
    hold(leases, simulator, "work_a")
    began = time.monotonic()
    assert proxy.end_watches_with_error(410, agent=KOPF) > 0
    wait_for(lambda: proxy.requests("list", "workleases", since=began), seconds=SOON, what="the list after a 410")
    is_picked_up(leases, simulator, "work_b")
    assert proxy.cut_watches() > 0
    is_picked_up(leases, simulator, "work_c")
    assert "kopf ended" not in operator.log()
    assert check_history(simulator.history()) == []


@pytest.mark.usefixtures("operator")
def test_a_resource_that_is_not_served_for_a_while_is_watched_again_when_it_is_back(
    leases: Leases, simulator: Simulator, proxy: KubeProxy
) -> None:
    # Kopf, trap 3: without scanning, it idles for ever if the resource did not exist at its start.
    hold(leases, simulator, "work_a", "work_b")
    nothing = Answer(404, "the server could not find the requested resource")
    with (
        proxy.fault(nothing, resource="/apis/worklease.dev/v1alpha1"),
        proxy.fault(nothing, resource="workleases"),
        proxy.fault(nothing, resource="workleases/status"),
    ):
        proxy.cut_watches("workleases")
        beats_on(simulator, ["work_a", "work_b"], OUTAGE)
    is_picked_up(leases, simulator, "work_new")
    beats_on(simulator, ["work_a", "work_b"], INTERVAL)
    for item in ("work_a", "work_b"):
        leases.await_condition(item, "LeaseHeld", "True", "Renewed")
    assert check_history(simulator.history()) == []


@pytest.mark.usefixtures("operator")
def test_what_vanished_while_kopf_was_away_is_let_go_of_and_its_name_has_one_actor(
    leases: Leases, simulator: Simulator, proxy: KubeProxy, control_plane: ControlPlane
) -> None:
    # Kopf, trap 17: it reports no DELETED event for an object that vanished between a watch and a list.
    hold(leases, simulator, "work_ghost", "work_other")
    with proxy.fault(Hang(), verb="list", agent=KOPF), proxy.fault(Reset(), verb="watch", agent=KOPF):
        assert proxy.end_watches_with_error(410, agent=KOPF) > 0
        vanish(control_plane, leases, "work-ghost")
        wait_for(lambda: leases.get("work_ghost") is None, seconds=10, what="the end of the resource")
        simulator.create_item("work_anew")
        recreated = {
            "apiVersion": "worklease.dev/v1alpha1",
            "kind": "WorkLease",
            "metadata": {"name": "work-ghost"},
            "spec": {"environmentID": simulator.environment_id, "workID": "work_anew"},
        }
        leases.apply(recreated)
    wait_for(lambda: len(accepted(simulator, "work_anew")) >= 2, seconds=SOON + INTERVAL, what="beats of the new one")
    ghost = len(heartbeats(simulator.history("work_ghost")))
    beats_on(simulator, ["work_anew", "work_other"], 2 * INTERVAL)
    assert len(heartbeats(simulator.history("work_ghost"))) == ghost
    wait_for(
        lambda: leases.status("work_ghost")["lastHeartbeat"] == simulator.item("work_anew")["last_heartbeat"],
        seconds=INTERVAL,
        what="the newest beat in the status",
    )
    assert check_history(simulator.history(), released=["work_ghost"]) == []


@pytest.mark.usefixtures("operator")
def test_an_old_list_answered_again_neither_revives_what_is_gone_nor_takes_back_an_edit(
    leases: Leases, simulator: Simulator, proxy: KubeProxy, control_plane: ControlPlane
) -> None:
    hold(leases, simulator, "work_gone", "work_edited")
    old = resources(control_plane, leases)
    leases.edit("work_edited", {"ttlSeconds": 20})
    leases.delete("work_gone", wait=True)
    assert simulator.item("work_gone")["state"] == "stopped"
    is_picked_up(leases, simulator, "work_young")
    told = len(heartbeats(simulator.history("work_gone")))
    with proxy.fault(Answer(200, body=old), verb="list", resource="workleases"):
        began = time.monotonic()
        assert proxy.end_watches_with_error(410, agent=KOPF) > 0
        wait_for(
            lambda: proxy.requests("watch", "workleases", since=began), seconds=SOON, what="the watch after the list"
        )
        beats_on(simulator, ["work_young"], 2 * INTERVAL)
    assert len(heartbeats(simulator.history("work_gone"))) == told
    wishes = [entry["desired_ttl"] for entry in heartbeats(simulator.history("work_edited"))]
    assert wishes == sorted(wishes, key=lambda wish: wish is not None)
    assert wishes[-1] == "20"
    assert check_history(simulator.history()) == []


@pytest.mark.usefixtures("operator")
def test_a_pod_that_vanished_while_kopf_was_away_is_missed(
    leases: Leases, simulator: Simulator, proxy: KubeProxy, control_plane: ControlPlane
) -> None:
    # Kopf, trap 17, for pods: a sandbox that is gone must not be shown as running.
    hold(leases, simulator, "work_a", "work_b", pods=True)
    with proxy.fault(Reset(), verb="watch", agent=KOPF), proxy.fault(Hang(), verb="list", agent=KOPF):
        assert proxy.end_watches_with_error(410, agent=KOPF) > 0
        control_plane.kubectl("--namespace", leases.namespace, "delete", "pod", "pod-work-a", "--wait=true")
    leases.await_condition("work_a", "SandboxReady", "False", seconds=SOON)
    assert leases.condition("work_b", "SandboxReady")[0] == "True"
    assert json.dumps(leases.status("work_a")["sandboxes"]).count("podUID") == 1
