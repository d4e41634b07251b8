"""A real Prometheus scrapes the operator under load: every metric of the alerts and the dashboard exists."""

from pathlib import Path

import pytest

from controlplane import ControlPlane, wait_for
from controlplane.ports import free_port
from observability.artefacts import alerts, panel_queries, rule_queries
from observability.prometheus import NAMESPACE, Prometheus
from support.judge import heartbeats
from support.operator import Leases, Operator
from support.pools import Pool
from support.simulator import Simulator

ITEMS = [f"work_{number:02}" for number in range(20)]
WINDOW = "1m"


@pytest.mark.long(seconds=35)
def test_each_metric_that_alerts_and_dashboard_ask_for_is_there_and_trouble_fires(
    control_plane: ControlPlane, namespace: str, leases: Leases, simulator: Simulator, tmp_path: Path
) -> None:
    for item in ITEMS:
        simulator.create_item(item)
    with (
        Operator(control_plane, namespace, simulator.url, WORKLEASE_LOG_LEVEL="info") as operator,
        Prometheus(tmp_path, operator.address, alerts(NAMESPACE), free_port()) as prometheus,
    ):
        pool = Pool(control_plane, leases, simulator)
        pool.create()
        leases.create(*ITEMS, pods=True)
        for item in ITEMS:
            leases.await_condition(item, "Ready", "True", seconds=60)
        simulator.wait_for(lambda entries: len(heartbeats(entries)) > 3 * len(ITEMS), timeout=60)
        wait_for(
            lambda: bool(prometheus.query('worklease_leases{reason="Renewed"} == 20')), seconds=30, what="a scrape"
        )
        wait_for(lambda: "queue" in pool.status(), seconds=30, what="the queue's numbers")
        healthy = operator.scrape()
        scraped = {name.partition("{")[0] for name in healthy}
        late, beats = (healthy[f"worklease_heartbeat_lateness_seconds_{part}"] for part in ("sum", "count"))
        assert late / beats < 5, "a first claim is due when it is made"
        for query in (*rule_queries(NAMESPACE), *panel_queries(WINDOW)):
            assert query.metrics, f"{query.owner} reads no metric"
            assert query.metrics <= scraped, f"{query.owner} reads {query.metrics - scraped}, which is not there"
            prometheus.query(query.expression)  # Prometheus accepts it
        assert prometheus.firing() == {}, "a healthy fleet has no alert"

        # A revoked key appears in the metrics first, and then as an alert with its text.
        simulator.set_environment_keys(simulator.environment_id, "another-key")
        wait_for(lambda: "WorkLeaseFenced" in prometheus.firing(), seconds=60, what="an alert of the fence")
        wait_for(lambda: "WorkLeaseLost" in prometheus.firing(), seconds=60, what="an alert of the loss")
        lost = prometheus.firing()["WorkLeaseLost"]
        assert lost["labels"]["reason"] == "Expired"
        assert lost["labels"]["namespace"] == NAMESPACE
        assert lost["annotations"]["summary"] == "Leases were lost (Expired)."
        wait_for(
            lambda: operator.scrape()['worklease_leases_ended_total{reason="Expired"}'] == len(ITEMS),
            seconds=30,
            what="the end of all leases",
        )
        scraped_last = operator.scrape()
        assert scraped_last["worklease_fences_total"] == len(ITEMS)
        assert scraped_last['worklease_sandboxes_torn_down_total{cause="Fenced"}'] == len(ITEMS)
        assert scraped_last['worklease_heartbeats_total{outcome="unauthorized"}'] > 0
