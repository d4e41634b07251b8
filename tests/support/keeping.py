"""What a keeper performs with, on servers that a test scripts.

Owns the putting together only.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime

from worklease.clocks import ClockPair
from worklease.cluster.checkpoint import Checkpoint
from worklease.cluster.client import KubernetesApi
from worklease.cluster.credentials import Credentials
from worklease.cluster.pods import Pods
from worklease.cluster.shared_pod_list import SharedPodList
from worklease.cluster.status_writer import StatusWriter
from worklease.keeper.calls import Clients
from worklease.telemetry import SILENT, Publisher
from worklease.work_api.budget import Budget
from worklease.work_api.client import WorkApi
from worklease.work_api.key_probes import KeyProbes
from worklease.work_api.shared_list import SharedList


def clients(
    api: KubernetesApi,
    work_api: WorkApi,
    publisher: Publisher = SILENT,
    clock: Callable[[], float] = time.monotonic,
) -> Clients:
    """Give the clients of an operator whose own namespace is ``own``; neither checkpoint nor status runs yet."""
    budget, pods = Budget(0, clock), Pods(api)
    return Clients(
        kubernetes=api,
        work_api=work_api,
        credentials=Credentials(api, time.monotonic),
        pods=pods,
        status=StatusWriter(api, 1000.0, time.monotonic),
        budget=budget,
        key_probes=KeyProbes(0, clock),
        shared_list=SharedList(work_api, budget),
        shared_pod_list=SharedPodList(pods),
        checkpoint=Checkpoint(api, "own", time.monotonic),
        publisher=publisher,
    )


def wall() -> ClockPair:
    """Read both clocks."""
    return ClockPair(time.monotonic(), datetime.now(UTC))
