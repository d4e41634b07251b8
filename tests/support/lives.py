"""Observes the sandboxes of a pool continuously: since when each is there, with which token, and two of one session.

This module observes only. It must not judge: the soak compares what was seen with what the server gave.
"""

import base64
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from controlplane import ControlPlane
from support.observer import Observer

POLL_INTERVAL: Final = 0.1
"""Seconds between two looks: a pod of the next delivery is made within a second of the end of the one before."""
POOL_LABEL: Final = "worklease.dev/pool"
SESSION_LABEL: Final = "worklease.dev/session-id"
WORK_LABEL: Final = "worklease.dev/work-id"
TOKEN: Final = "sessions-token"
ENDED: Final = ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True)
class Life:
    """One sandbox, as it was when it was seen for the first time."""

    session: str
    item: str
    pod: str
    first: float
    token: str | None
    """What its Secret had; None: it had no Secret, or no token in it."""


class Lives(Observer):
    """An observer of a namespace's pods that pools made, during a `with` block."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        super().__init__("sandboxes", POLL_INTERVAL)
        self._plane = plane
        self._path = f"/api/v1/namespaces/{namespace}"
        self._lives: dict[str, Life] = {}
        self._running: frozenset[str] = frozenset()
        self._doubles: set[str] = set()

    def seen(self) -> list[Life]:
        """Return all sandboxes so far."""
        self._check()
        return list(self._lives.values())

    def running(self) -> list[Life]:
        """Return those that had not ended at the last look."""
        self._check()
        return [self._lives[uid] for uid in self._running]

    def doubles(self) -> list[str]:
        """Return the sessions that ever had two sandboxes at once of which none had ended."""
        self._check()
        return sorted(self._doubles)

    def _observe(self) -> None:
        answer = self._plane.get(f"{self._path}/pods?labelSelector={POOL_LABEL}")
        if not isinstance(answer, dict):
            return
        now = time.monotonic()  # a listed pod was created before
        pods = {str(pod["metadata"]["uid"]): pod for pod in answer["items"]}
        for uid in pods.keys() - self._lives.keys():
            self._lives[uid] = self._first_look(pods[uid], now)
        self._running = frozenset(uid for uid, pod in pods.items() if pod["status"].get("phase") not in ENDED)
        times = Counter(self._lives[uid].session for uid in self._running)
        self._doubles |= {session for session, number in times.items() if number > 1}

    def _first_look(self, pod: Mapping[str, Any], now: float) -> Life:
        labels, secret = pod["metadata"]["labels"], _secret(pod)
        found = None if secret is None else self._plane.get(f"{self._path}/secrets/{secret}")
        encoded = ((found or {}).get("data") or {}).get(TOKEN)
        token = None if encoded is None else base64.b64decode(encoded).decode()
        return Life(labels[SESSION_LABEL], labels[WORK_LABEL], pod["metadata"]["name"], now, token)


def _secret(pod: Mapping[str, Any]) -> str | None:
    """Return the Secret from which the pod's first container has its token."""
    for entry in pod["spec"]["containers"][0].get("env") or ():
        reference = (entry.get("valueFrom") or {}).get("secretKeyRef") or {}
        if reference.get("key") == TOKEN:
            return str(reference["name"])
    return None
