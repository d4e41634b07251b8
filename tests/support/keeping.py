"""What a keeper performs with, on servers that a test scripts.

Owns the putting together only.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime

from worklease.budget import Budget
from worklease.checkpoint import Checkpoint
from worklease.credentials import Credentials
from worklease.errands import Rooms
from worklease.happenings import SILENT, Telling
from worklease.kept import Wall
from worklease.kubernetes_api import KubernetesApi
from worklease.listing import Listing
from worklease.roster import Roster
from worklease.sandbox import Sandboxes
from worklease.status import StatusWriter
from worklease.work_api import WorkApi


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
