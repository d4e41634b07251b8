"""What a keeper performs with, on servers that a test scripts.

Owns the putting together only.
"""

import time
from datetime import UTC, datetime

from worklease.budget import Budget
from worklease.checkpoint import Checkpoint
from worklease.credentials import Credentials
from worklease.errands import Rooms
from worklease.happenings import SILENT, Telling
from worklease.kept import Wall
from worklease.kubernetes_api import KubernetesApi
from worklease.listing import Listing
from worklease.sandbox import Sandboxes
from worklease.status import StatusWriter
from worklease.work_api import WorkApi


def rooms(api: KubernetesApi, work_api: WorkApi, telling: Telling = SILENT) -> Rooms:
    """Give the rooms of an operator whose own namespace is ``own``; neither checkpoint nor status runs yet."""
    budget = Budget(0, time.monotonic)
    return Rooms(
        kubernetes=api,
        work_api=work_api,
        credentials=Credentials(api, time.monotonic),
        sandboxes=Sandboxes(api),
        status=StatusWriter(api, 1000.0, time.monotonic),
        budget=budget,
        listing=Listing(work_api, budget),
        checkpoint=Checkpoint(api, "own", time.monotonic),
        telling=telling,
    )


def wall() -> Wall:
    """Read both clocks."""
    return Wall(time.monotonic(), datetime.now(UTC))
