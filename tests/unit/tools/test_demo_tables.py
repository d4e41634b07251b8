"""The demo's tables show what kubectl would, and each change is shown once."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from demo.snapshot import Snapshot, changes, read
from demo.tables import age, draw, lease_row, pod_row

NOW = datetime(2026, 11, 22, 3, 0, 30, tzinfo=UTC)
WORKLEASE: dict[str, Any] = {
    "kind": "WorkLease",
    "metadata": {"name": "lease-with-pod", "creationTimestamp": "2026-11-22T03:00:00Z"},
    "spec": {"workID": "work_demo2"},
    "status": {
        "state": "active",
        "leaseExtended": True,
        "lastHeartbeat": "2026-11-22T03:00:27.123456Z",
        "ttlSeconds": 15,
        "sandboxes": [{"podUID": "u1", "podName": "sandbox-demo2"}],
        "conditions": [
            {"type": "Ready", "status": "True", "reason": "Ready"},
            {"type": "LeaseHeld", "status": "True", "reason": "Renewed"},
        ],
    },
}
POD: dict[str, Any] = {
    "kind": "Pod",
    "metadata": {"name": "sandbox-demo2", "uid": "u1", "creationTimestamp": "2026-11-22T03:00:01Z"},
    "spec": {"containers": [{"name": "sandbox"}]},
    "status": {"phase": "Running", "containerStatuses": [{"ready": True, "restartCount": 0}]},
}


def snapshot(*items: dict[str, Any]) -> Snapshot:
    return read(json.dumps({"items": items}))


def test_a_lease_has_the_columns_of_kubectl() -> None:
    (lease,) = snapshot(WORKLEASE).leases
    assert lease_row(lease, NOW) == ("lease-with-pod", "active", "True", "true", "2s", "sandbox-demo2", "30s")


def test_a_lease_that_nobody_has_seen_yet_has_empty_columns() -> None:
    (lease,) = snapshot({key: value for key, value in WORKLEASE.items() if key != "status"}).leases
    assert lease_row(lease, NOW) == ("lease-with-pod", "", "", "", "", "", "30s")


@pytest.mark.parametrize(
    ("heartbeat", "shown"),
    [
        ("2026-11-22T08:30:27.1+05:30", "2s"),
        ("hb-1", "<unknown>"),
        ("2026-11-22T03:00:27", "<unknown>"),
        ("2026-11-22T03:00:31Z", "0s"),
        ("", ""),
    ],
)
def test_a_heartbeat_is_a_time_or_its_age_is_unknown(heartbeat: str, shown: str) -> None:
    (lease,) = snapshot(WORKLEASE).leases
    assert lease_row(replace(lease, last_heartbeat=heartbeat), NOW)[4] == shown


def test_a_pod_has_the_columns_of_kubectl() -> None:
    (pod,) = snapshot(POD).pods
    assert pod_row(pod, NOW) == ("sandbox-demo2", "1/1", "Running", "0", "29s")


def test_a_pod_that_is_being_deleted_is_terminating() -> None:
    (pod,) = snapshot(POD | {"metadata": POD["metadata"] | {"deletionTimestamp": "2026-11-22T03:00:29Z"}}).pods
    assert pod_row(pod, NOW)[2] == "Terminating"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0s"), (119.9, "119s"), (120, "2m"), (605, "10m"), (125, "2m5s"), (10_799, "179m"), (10_800, "3h")],
)
def test_ages_change_their_units_where_kubectl_does(seconds: float, shown: str) -> None:
    assert age(NOW - timedelta(seconds=seconds), NOW) == shown


def test_an_age_moves_without_a_new_look() -> None:
    (lease,) = snapshot(WORKLEASE).leases
    assert [lease_row(lease, NOW + timedelta(seconds=passed))[4] for passed in range(3)] == ["2s", "3s", "4s"]


def test_the_drawing_shows_both_tables_in_full() -> None:
    console = Console(file=StringIO(), width=100)
    console.print(draw(snapshot(WORKLEASE, POD), NOW))
    assert isinstance(console.file, StringIO)
    lines = [line.split() for line in console.file.getvalue().splitlines() if line.strip()]
    assert lines == [
        ["$", "kubectl", "get", "worklease"],
        ["NAME", "STATE", "HELD", "EXTENDED", "LAST-HEARTBEAT", "SANDBOX", "AGE"],
        ["lease-with-pod", "active", "True", "true", "2s", "sandbox-demo2", "30s"],
        ["$", "kubectl", "get", "pods"],
        ["NAME", "READY", "STATUS", "RESTARTS", "AGE"],
        ["sandbox-demo2", "1/1", "Running", "0", "29s"],
    ]


def test_a_table_without_rows_says_so() -> None:
    console = Console(file=StringIO(), width=100)
    console.print(draw(Snapshot(), NOW))
    assert isinstance(console.file, StringIO)
    assert console.file.getvalue().count("No resources found.") == 2


def test_transitions_are_told_and_heartbeats_are_not() -> None:
    before = snapshot(WORKLEASE, POD)
    later = WORKLEASE["status"] | {"lastHeartbeat": "2026-11-22T03:00:30Z"}
    assert list(changes(before, snapshot(WORKLEASE | {"status": later}, POD))) == []
    over = later | {
        "state": "stopped",
        "conditions": [
            {"type": "LeaseHeld", "status": "False", "reason": "Stopped"},
            {"type": "Finished", "status": "True", "reason": "Stopped"},
        ],
    }
    assert list(changes(before, snapshot(WORKLEASE | {"status": over}))) == [
        "worklease lease-with-pod: stopped, LeaseHeld=False (Stopped), Finished=True",
        "pod sandbox-demo2: gone",
    ]
    assert list(changes(before, snapshot())) == ["worklease lease-with-pod: deleted", "pod sandbox-demo2: gone"]
    assert list(changes(snapshot(), before)) == [
        "worklease lease-with-pod: active, LeaseHeld=True (Renewed)",
        "pod sandbox-demo2: Running",
    ]
