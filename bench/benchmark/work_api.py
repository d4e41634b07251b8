"""The client of the benchmark's Work API: its admin calls, typed. Must not compute anything."""

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
        """Start again with these items."""
        self._call("open", {"items": items, "ttl": ttl})

    def summary(self) -> dict[str, Any]:
        """Return the counts, after letting every lease lapse whose time is up."""
        return dict(self._call("summary"))

    def beats(self, since: float) -> tuple[list[int], list[float]]:
        """Return the item of each beat since then, and when it was accepted."""
        told = self._call(f"beats?{since}")
        return told["numbers"], told["times"]

    def items(self) -> dict[str, tuple[str, float | None, float | None]]:
        """Return each item's state, when an answer first said "stopping", and when a stop call first arrived."""
        return {name: tuple(told) for name, told in self._call("items").items()}

    def stop(self, items: list[str]) -> None:
        """Set items to ``stopping``."""
        self._call("stop", {"items": items})

    def set_keys(self, *keys: str) -> None:
        """Accept these keys and no other."""
        self._call("keys", {"keys": list(keys)})

    def throttle(self, seconds: float) -> None:
        """Answer every request with 429 for this long."""
        self._call("throttle", {"seconds": seconds})
