"""The demo's client of the simulator's admin API.

Owns its addresses and its HTTP. Must talk to the loopback interface only, and not through a proxy.
"""

import json
import urllib.request
from dataclasses import dataclass
from typing import Any, Self

from demo.record import Entry, entry

REQUEST_SECONDS = 5.0  # loopback answers in milliseconds, or not at all


@dataclass(frozen=True, slots=True)
class Simulator:
    """A running simulator: where it listens."""

    url: str
    admin_url: str

    @classmethod
    def from_ready_file(cls, text: str) -> Self:
        """Parse what the simulator wrote once it listened."""
        told = json.loads(text)
        return cls(told["url"], told["admin_url"])

    def stop_line(self, item: str) -> str:
        """Return the command with which a reader stops an item."""
        return f"curl -X POST {self.admin_url}/items/{item}/stop"

    def stop(self, item: str) -> None:
        """Stop an item, as somebody with an API key would."""
        self._ask("POST", f"/items/{item}/stop")

    def values(self) -> dict[str, str | None]:
        """Return the last heartbeat of each item."""
        return {each["id"]: each["last_heartbeat"] for each in self._ask("GET", "/items")["items"]}

    def record(self) -> list[Entry]:
        """Return everything that the simulator has recorded so far."""
        return [entry(each) for each in self._ask("GET", "/history")["entries"]]

    def _ask(self, method: str, path: str) -> Any:
        request = urllib.request.Request(f"{self.admin_url}{path}", method=method)  # noqa: S310  # loopback only
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=REQUEST_SECONDS) as answer:
            return json.loads(answer.read())
