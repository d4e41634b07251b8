"""Looks at the pods of a namespace all the time, and remembers from when until when each was there.

This module owns that looking. It must not judge, nor change anything: `judge` compares what was seen with the leases.
"""

import threading
import time
from types import TracebackType
from typing import Self

from controlplane import ControlPlane
from support.judge import Stay

LOOK = 0.1  # seconds between two looks: short beside the second that a fence keeps in hand
END = 30.0  # seconds until the last look must have returned: a request to a hanging API server takes 5
WORK_LABEL = "worklease.dev/work-id"


class Stays:
    """The pods that carry a work item's label; looks from `with` to its end."""

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
        self._thread.join(END)

    def seen(self) -> list[Stay]:
        """What was seen until now."""
        if self._failure is not None:
            raise RuntimeError("The looking at pods has failed, so nothing is known of them") from self._failure
        return list(self._stays.values())

    def _run(self) -> None:
        try:
            while not self._ended.wait(LOOK):
                self._look()
        except Exception as error:  # noqa: BLE001 - told by `seen`, to the thread that asks
            self._failure = error

    def _look(self) -> None:
        """Take note of the pods that are there; while the API server is away nothing is known, and nothing can go."""
        asked = time.monotonic()  # a pod that is told was there when the question was put, or came after
        answer = self._plane.get(self._path)
        if not isinstance(answer, dict):
            return
        for pod in answer["items"]:
            metadata = pod["metadata"]
            known = self._stays.get(metadata["uid"])
            first = asked if known is None else known.first
            item = known.item if known is not None else metadata["labels"][WORK_LABEL]
            self._stays[metadata["uid"]] = Stay(item, metadata["name"], metadata["uid"], first, asked)
