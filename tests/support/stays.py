"""Observes the pods of a namespace continuously, and remembers when each was first and last seen.

This module observes only. It must not check or change anything: `judge` compares the observations with the leases.
"""

import time

from controlplane import ControlPlane
from support.judge import Stay
from support.observer import Observer

POLL_INTERVAL = 0.1  # seconds between two observations: short beside the second of reserve that a fence has
WORK_LABEL = "worklease.dev/work-id"


class Stays(Observer):
    """An observer of the pods that carry a work item's label, during a `with` block."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        super().__init__("pods", POLL_INTERVAL)
        self._plane = plane
        self._path = f"/api/v1/namespaces/{namespace}/pods?labelSelector={WORK_LABEL}"
        self._stays: dict[str, Stay] = {}

    def seen(self) -> list[Stay]:
        """Return the observations until now."""
        self._check()
        return list(self._stays.values())

    def _observe(self) -> None:
        """Note the pods that exist. While the API server is away nothing is known, and no pod can be removed."""
        asked = time.monotonic()  # a listed pod existed when the request was sent, or was created after
        answer = self._plane.get(self._path)
        if not isinstance(answer, dict):
            return
        for pod in answer["items"]:
            metadata = pod["metadata"]
            known = self._stays.get(metadata["uid"])
            first = asked if known is None else known.first
            item = known.item if known is not None else metadata["labels"][WORK_LABEL]
            self._stays[metadata["uid"]] = Stay(item, metadata["name"], metadata["uid"], first, asked)
