"""The client of the simulated Work API, which has a queue: its admin calls, typed. Must not compute anything."""

import json
import urllib.request
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

PATIENCE: Final = 60.0
"""Seconds for a call: the history of minutes, on a busy machine."""


class SimulatedApi:
    """A running ``worklease simulate``."""

    def __init__(self, told: dict[str, Any], key: str) -> None:
        self.url = str(told["url"])
        self._admin = str(told["admin_url"])
        self._key = key
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def _call(self, method: str, path: str, given: Any = None) -> Any:
        body = None if given is None else json.dumps(given).encode()
        request = urllib.request.Request(f"{self._admin}{path}", body, method=method)  # noqa: S310 (our own, on loopback)
        with self._opener.open(request, timeout=PATIENCE) as response:
            text = response.read()
        return json.loads(text) if text else None

    def add_items(self, items: Iterable[tuple[str, str]]) -> None:
        """Create acknowledged items, each an environment and an id, and their environments."""
        known: set[str] = set()
        for environment, name in items:
            if environment not in known:
                known.add(environment)
                self._call("PUT", f"/environments/{environment}/keys", {"keys": [self._key]})
            self._call("POST", "/items", {"environment_id": environment, "id": name, "state": "starting"})

    def add_session(self, environment: str) -> str:
        """Create a session whose first message waits in the queue, and return its id."""
        return str(self._call("POST", "/sessions", {"environment_id": environment})["session"]["id"])

    def states(self) -> Counter[str]:
        """Return how many items are in which state."""
        return Counter(item["state"] for item in self._call("GET", "/items")["items"])

    def history(self, since: int) -> list[dict[str, Any]]:
        """Return what happened after this entry, in the order of arrival."""
        return list(self._call("GET", f"/history?since={since}")["entries"])
