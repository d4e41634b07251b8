"""What a keeper performs with, on servers that a test scripts.

Owns the putting together only.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime

from worklease.cluster.checkpoint import Checkpoint
from worklease.cluster.client import KubernetesApi
from worklease.cluster.credentials import Credentials
from worklease.cluster.pods import Sandboxes
from worklease.cluster.shared_pod_list import Roster
from worklease.cluster.status_writer import StatusWriter
from worklease.keeper.calls import Rooms
from worklease.keeper.kept import Wall
from worklease.telemetry import SILENT, Telling
from worklease.work_api.budget import Budget
from worklease.work_api.client import WorkApi
from worklease.work_api.shared_list import Listing


def rooms(
    api: KubernetesApi,
    work_api: WorkApi,
    telling: Telling = SILENT,
    clock: Callable[[], float] = time.monotonic,
) -> Rooms:
    """Give the rooms of an operator whose own namespace is ``own``; neither checkpoint nor status runs yet."""
    budget, sandboxes = Budget(0, clock), Sandboxes(api)
    return Rooms(
        kubernetes=api,
        work_api=work_api,
        credentials=Credentials(api, time.monotonic),
        sandboxes=sandboxes,
        status=StatusWriter(api, 1000.0, time.monotonic),
        budget=budget,
        listing=Listing(work_api, budget),
        roster=Roster(sandboxes),
        checkpoint=Checkpoint(api, "own", time.monotonic),
        telling=telling,
    )


def wall() -> Wall:
    """Read both clocks."""
    return Wall(time.monotonic(), datetime.now(UTC))
