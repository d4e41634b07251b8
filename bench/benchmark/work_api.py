"""The way to the benchmark's Work API: its administration, typed. Must not reckon."""

import json
import urllib.request
from typing import Any

KEY = "key"
PATIENCE = 60.0  # seconds: a sweep over twenty thousand items on a busy machine


class WorkApi:
    """A running server of ``benchmark.work_server``."""

    def __init__(self, url: str, pid: int) -> None:
        self.url = url
        self.pid = pid
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def _call(self, what: str, given: Any = None) -> Any:
        request = urllib.request.Request(  # noqa: S310 (our own server, on loopback)
            f"{self.url}/bench/{what}", None if given is None else json.dumps(given).encode()
        )
        with self._opener.open(request, timeout=PATIENCE) as response:
            return json.load(response)

    def open(self, items: list[str], ttl: float) -> None:
        """Begin anew with these items."""
        self._call("open", {"items": items, "ttl": ttl})

    def summary(self) -> dict[str, Any]:
        """Give the counts, after letting lapse what has to."""
        return dict(self._call("summary"))

    def beats(self, since: float) -> tuple[list[int], list[float]]:
        """Give which item each beat since then was of, and when it was accepted."""
        told = self._call(f"beats?{since}")
        return told["numbers"], told["times"]

    def items(self) -> dict[str, tuple[str, float | None, float | None]]:
        """Give each item's state, when "stopping" was first told, and when a stop was first heard."""
        return {name: tuple(told) for name, told in self._call("items").items()}

    def stop(self, items: list[str]) -> None:
        """Bring items to ``stopping``."""
        self._call("stop", {"items": items})

    def set_keys(self, *keys: str) -> None:
        """Accept these keys and no other."""
        self._call("keys", {"keys": list(keys)})

    def throttle(self, seconds: float) -> None:
        """Answer everything 429 for so long."""
        self._call("throttle", {"seconds": seconds})
