"""Workers behind the proxy on a real node: what the kubelet passes on, in which order, and what it reports.

The worker is a shell script that keeps its item's lease itself, as the public client does: it sends a heartbeat again
and again, ends when it is told to finish, and ends with 0 when a heartbeat is refused.
"""

import time

import pytest

from controlplane import wait_for
from node.configuration import SANDBOX
from support.containers import Containers
from support.judge import check_history
from support.operator import Leases
from support.sandboxes import ITEM, await_event, calls, current
from support.simulator import Simulator

GRACE = 20  # seconds that a pod has; a worker that hears of its drain takes two
WORKER = """
trap '' TERM
api=$ANTHROPIC_BASE_URL/v1/environments/$ANTHROPIC_ENVIRONMENT_ID/work/$ANTHROPIC_WORK_ID/heartbeat
value=NO_HEARTBEAT; beats=0
while true; do
  answer=$(wget -q -O - --post-data= "$api?expected_last_heartbeat=$value") || exit 0
  case $answer in *stopping*) sleep 1; echo finished > /dev/termination-log; exit 0;; esac
  value=$(echo "$answer" | sed 's/.*"last_heartbeat": "\\([^"]*\\)".*/\\1/')
  beats=$((beats + 1)); [ "$beats" != "$FORGETS_AFTER" ] || value=wrong
  sleep 0.2
done
"""

pytestmark = pytest.mark.usefixtures("proxying_operator")


def run(leases: Leases, simulator: Simulator, *, forgets_after: int = 0) -> str:
    """Create an item and its resource, wait until its worker runs, and return the pod's name."""
    restricted = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    container = {
        "name": "sandbox",
        "image": SANDBOX,
        "command": ["sh", "-c", WORKER],
        "env": [{"name": "FORGETS_AFTER", "value": str(forgets_after)}],
        "securityContext": restricted,
    }
    spec = {
        "terminationGracePeriodSeconds": GRACE,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
    }
    sandbox = {"template": {"spec": spec}, "drainSeconds": 60, "worker": {"proxy": True}}
    simulator.create_item(ITEM)
    leases.create(ITEM, sandbox=sandbox, ttlSeconds=60)
    leases.await_condition(ITEM, "SandboxReady", "True", "Running", seconds=60)
    return leases.await_pod()


def claims(simulator: Simulator) -> list[str]:
    return [entry["expected"] for entry in calls(simulator, "heartbeat") if entry["expected"] == "NO_HEARTBEAT"]


def test_a_drain_reaches_the_worker_by_the_pods_annotation_and_it_ends_by_itself(
    namespace: str, leases: Leases, simulator: Simulator, containers: Containers
) -> None:
    pod = run(leases, simulator)
    simulator.stop_item(ITEM)

    def is_told() -> bool:
        return "worklease.dev/draining" in leases.pods()[pod]["metadata"]["annotations"]

    wait_for(is_told, seconds=30, what="the pod's annotation")
    annotated = time.monotonic()
    leases.await_condition(ITEM, "Finished", "True", "Stopped", seconds=30)
    ran = containers.of(namespace, pod)
    assert ran["sandbox"].last - annotated < 10
    assert ran["worklease-proxy"].last >= ran["sandbox"].last
    (confirmed,) = calls(simulator, "stop")
    assert confirmed["applied_monotonic"] > ran["sandbox"].last - 0.1
    assert (current(leases)["exitCode"], current(leases)["message"].strip()) == (0, "finished")
    assert len(claims(simulator)) == 1
    assert check_history(simulator.history()) == []


def test_who_deletes_the_pod_reaches_the_worker_by_the_proxys_hook(
    namespace: str, leases: Leases, simulator: Simulator, containers: Containers
) -> None:
    pod = run(leases, simulator)
    leases.delete_pod(pod)
    deleted = time.monotonic()
    leases.await_condition(ITEM, "Finished", "True", "Stopped", seconds=60)
    ran = containers.of(namespace, pod)
    assert ran["sandbox"].last - deleted < GRACE / 2
    assert check_history(simulator.history()) == []


def test_a_worker_that_gave_up_ended_with_0_and_has_failed(leases: Leases, simulator: Simulator) -> None:
    pod = run(leases, simulator, forgets_after=10)
    message = leases.await_condition(ITEM, "Finished", "True", "Stopped", seconds=60)
    assert "worker gave up: 412 heartbeat" in message
    assert (current(leases)["reason"], current(leases)["exitCode"]) == ("WorkerGaveUp", 0)
    failed = await_event(leases, "SandboxFailed")
    assert failed["related"]["name"] == pod
    assert len(claims(simulator)) == 1
