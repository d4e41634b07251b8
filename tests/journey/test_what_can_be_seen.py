"""What can be seen of a running operator: its probes, its log and its metrics."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from controlplane import ControlPlane, ensure, wait_for
from support.judge import heartbeats
from support.kube_proxy import Answer, Hang, KubeProxy
from support.operator import Leases, Operator
from support.simulator import Simulator

ITEMS = [f"work_{number}" for number in range(5)]


@pytest.fixture
def proxy(control_plane: ControlPlane) -> Iterator[KubeProxy]:
    with KubeProxy(control_plane) as started:
        yield started


def get(operator: Operator, path: str) -> tuple[int, str]:
    answer = httpx.get(f"http://{operator.address}{path}", trust_env=False)
    return answer.status_code, answer.text


def hold(leases: Leases, simulator: Simulator, *items: str, **spec: Any) -> None:
    for item in items:
        simulator.create_item(item)
    leases.create(*items, pods=True, **spec)
    for item in items:
        leases.await_condition(item, "Ready", "True")


def is_ready(operator: Operator) -> bool:
    return get(operator, "/readyz")[0] == 200


def test_a_steady_fleet_logs_nothing(
    control_plane: ControlPlane, namespace: str, leases: Leases, simulator: Simulator
) -> None:
    with Operator(
        control_plane, namespace, simulator.url, WORKLEASE_LOG_LEVEL="info", WORKLEASE_LOG_FORMAT="json"
    ) as operator:
        hold(leases, simulator, *ITEMS)
        wait_for(lambda: is_ready(operator), seconds=30, what="the first list")
        steady, since = operator.log(), simulator.last_seq()
        for item in ITEMS:
            simulator.wait_for(lambda entries: len(heartbeats(entries)) >= 4, item=item, since=since, timeout=60)
        since_then = [json.loads(line)["message"] for line in operator.log()[len(steady) :].splitlines()]
        # An overloaded machine does not count as trouble of the leases.
        assert [message for message in since_then if "event loop stood still" not in message] == []
        lines = [json.loads(line) for line in steady.splitlines()]
    renewed = [line for line in lines if line.get("condition") == "LeaseHeld" and line["reason"] == "Renewed"]
    assert {(line["namespace"], line["work"], line["environment"]) for line in renewed} == {
        (namespace, item, simulator.environment_id) for item in ITEMS
    }
    assert len(renewed) == len(ITEMS)


def test_trouble_and_its_end_are_one_line_each(
    control_plane: ControlPlane, namespace: str, leases: Leases, simulator: Simulator
) -> None:
    with Operator(
        control_plane, namespace, simulator.url, WORKLEASE_LOG_LEVEL="info", WORKLEASE_LOG_FORMAT="json"
    ) as operator:
        hold(leases, simulator, "work_a")
        simulator.set_environment_keys(simulator.environment_id, "another-key")
        leases.await_condition("work_a", "LeaseHeld", "True", "Unauthorized")
        simulator.set_environment_keys(simulator.environment_id, simulator.environment_key)
        leases.await_condition("work_a", "LeaseHeld", "True", "Renewed")
        lines = [json.loads(line) for line in operator.log().splitlines()]
    held = [(line["reason"], line["level"]) for line in lines if line.get("condition") == "LeaseHeld"]
    assert held == [("Claiming", "info"), ("Renewed", "info"), ("Unauthorized", "warning"), ("Renewed", "info")]


def test_ready_is_who_has_the_first_list_and_until_then_the_probe_says_what_is_missing(
    control_plane: ControlPlane, namespace: str, leases: Leases, simulator: Simulator, proxy: KubeProxy
) -> None:
    for item in ITEMS[:2]:
        simulator.create_item(item)
    leases.create(*ITEMS[:2])
    census = proxy.inject(Answer(503, "try again"), verb="list", resource="workleases")
    kopf = proxy.inject(Hang(), verb="list", resource="workleases", agent="kopf/")
    with Operator(control_plane, namespace, simulator.url, KUBECONFIG=str(proxy.kubeconfig)) as operator:
        assert get(operator, "/readyz") == (
            503,
            "the first list of WorkLeases has not arrived: is the Kubernetes API reachable?\n",
        )
        assert get(operator, "/healthz") == (200, "the event loop and the keeper make progress\n")
        proxy.remove_fault(census)
        missing = "the watch has not reported 2 WorkLeases of the first list yet\n"
        wait_for(lambda: get(operator, "/readyz") == (503, missing), seconds=30, what="the list without the watch")
        proxy.remove_fault(kopf)
        wait_for(lambda: is_ready(operator), seconds=60, what="the watch")
        assert sum(value for name, value in operator.scrape().items() if name.startswith("worklease_leases{")) == 2


def test_one_leases_401_and_an_api_server_that_is_away_are_no_illness(
    control_plane: ControlPlane, namespace: str, leases: Leases, simulator: Simulator, proxy: KubeProxy
) -> None:
    # A refused key is probed each ten seconds, so the lease has to outlast a few of them.
    often = {"KUBECONFIG": str(proxy.kubeconfig), "WORKLEASE_MAX_HEARTBEAT_INTERVAL": "2"}
    with Operator(control_plane, namespace, simulator.url, **often) as operator:
        hold(leases, simulator, "work_a", ttlSeconds=40)
        wait_for(lambda: is_ready(operator), seconds=30, what="the first list")
        simulator.set_environment_keys(simulator.environment_id, "another-key")
        leases.await_condition("work_a", "LeaseHeld", "True", "Unauthorized")
        assert get(operator, "/healthz")[0] == 200
        wait_for(
            lambda: operator.scrape()["worklease_leases_overdue"] == 1,
            seconds=40,
            what="an overdue beat in the metrics",
        )
        assert get(operator, "/healthz")[0] == 200
        with proxy.fault(Answer(503, "away")):
            beats = len(heartbeats(simulator.history()))
            wait_for(lambda: len(heartbeats(simulator.history())) > beats, seconds=30, what="beats all the same")
            assert (get(operator, "/healthz")[0], get(operator, "/readyz")[0]) == (200, 200)
        assert operator.scrape()['worklease_work_api_refusals_total{call="heartbeat",code="401"}'] >= 1


def test_a_stop_is_counted_from_the_beat_that_said_it_to_the_pods_end(
    operator: Operator, leases: Leases, simulator: Simulator
) -> None:
    hold(leases, simulator, "work_a")
    simulator.stop_item("work_a")
    leases.await_condition("work_a", "Finished", "True", "Stopped", seconds=60)
    counted = operator.scrape()
    assert {name: counted[name] for name in counted if name.startswith("worklease_sandboxes_") and counted[name]} == {
        'worklease_sandboxes_torn_down_total{cause="Draining"}': 1,
        "worklease_sandboxes_gone_total": 1,
    }
    assert counted["worklease_stop_to_delete_seconds_count"] == 1
    assert 0 < counted["worklease_stop_to_delete_seconds_sum"] < 10
    assert counted['worklease_item_stops_total{result="heard"}'] == 1
    assert counted['worklease_leases_ended_total{reason="Stopped"}'] == 1
    assert counted['worklease_heartbeats_total{outcome="stopping"}'] >= 1
    assert counted['worklease_leases{reason="Stopped"}'] == 1


def test_the_metrics_name_no_lease_and_no_key(operator: Operator, leases: Leases, simulator: Simulator) -> None:
    hold(leases, simulator, "work_zebra")
    text = get(operator, "/metrics")[1]
    assert simulator.environment_key not in text
    assert "zebra" not in text
    assert leases.namespace not in text


@pytest.mark.usefixtures("operator")
def test_kubectl_finds_the_views_as_its_plugin(
    control_plane: ControlPlane, leases: Leases, simulator: Simulator
) -> None:
    hold(leases, simulator, "work_a")
    leases.create("work_unknown")
    leases.await_condition("work_unknown", "LeaseHeld", "False", "NotFound")

    def kubectl(*arguments: str) -> str:
        """Run it as a user does: kubectl finds its plugins on the PATH, and gives them its environment."""
        environment = {
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            "KUBECONFIG": str(control_plane.kubeconfig),
            "NO_PROXY": "127.0.0.1",
            "COLUMNS": "140",
        }
        program = ensure(["kubectl"])["kubectl"]
        command = [str(program), "worklease", *arguments, "-n", leases.namespace]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    table = kubectl("status")
    assert "2 leases: 1 in trouble, 1 well. Look at work-unknown (NotFound)" in table
    assert next(line for line in table.splitlines() if "work-a" in line).split()[2] == "yes"
    told = json.loads(kubectl("status", "-o", "json"))["leases"]
    assert [(entry["workID"], entry["held"]) for entry in told] == [("work_unknown", "False"), ("work_a", "True")]
    story = " ".join(kubectl("explain", "work-a").split())
    assert "Its pod pod-work-a is running on node" in story
    assert "Pod pod-work-a: Scheduled: Successfully assigned" in story
    assert "If none is accepted, the operator ends the sandbox before the lease can end" in story
