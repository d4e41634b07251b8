"""Observes the pods of a namespace continuously, and remembers when each was first and last seen.

This module observes only. It must not check or change anything: `judge` compares the observations with the leases.
"""

import threading
import time
from types import TracebackType
from typing import Self

from controlplane import ControlPlane
from support.judge import Stay

POLL_INTERVAL = 0.1  # seconds between two observations: short beside the second of reserve that a fence has
JOIN_TIMEOUT = 30.0  # seconds for the last observation to end: a request to a hanging API server takes 5
WORK_LABEL = "worklease.dev/work-id"


class Stays:
    """An observer of the pods that carry a work item's label, during a `with` block."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        self._plane = plane
        self._path = f"/api/v1/namespaces/{namespace}/pods?labelSelector={WORK_LABEL}"
        self._stays: dict[str, Stay] = {}
        self._ended = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="looks at pods", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join(JOIN_TIMEOUT)

    def seen(self) -> list[Stay]:
        """Return the observations until now."""
        if self._failure is not None:
            raise RuntimeError("The looking at pods has failed, so nothing is known of them") from self._failure
        return list(self._stays.values())

    def _run(self) -> None:
        try:
            while not self._ended.wait(POLL_INTERVAL):
                self._observe()
        except Exception as error:  # noqa: BLE001 - raised by `seen`, in the thread that calls it
            self._failure = error

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
