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
    environment_key: str = ""

    @classmethod
    def from_ready_file(cls, text: str) -> Self:
        """Parse what the simulator wrote once it listened."""
        told = json.loads(text)
        return cls(told["url"], told["admin_url"], told["environment_key"])

    def stop_line(self, item: str) -> str:
        """Return the command with which a reader stops an item."""
        return f"curl -X POST {self.admin_url}/items/{item}/stop"

    def stop(self, item: str) -> None:
        """Stop an item, as somebody with an API key would."""
        self._ask("POST", f"/items/{item}/stop")

    def message_line(self, session: str) -> str:
        """Return the command with which a reader begins a session: its first message waits in the queue."""
        return f"curl --data '{json.dumps({'id': session})}' {self.admin_url}/sessions"

    def send_message(self, session: str) -> None:
        """Begin a session, as its user's first message does."""
        self._ask("POST", "/sessions", {"id": session})

    def create_session(self, item: str) -> str:
        """Create an item for a session of the same id, acknowledged, and return its sessions token."""
        body = {"id": item, "data_id": item, "environment_id": "env_demo", "state": "starting"}
        return str(self._ask("POST", "/items", body)["sessions_token"])

    def use_bash(self, session: str, command: str) -> str:
        """Let the session's agent call a tool, and return the call's id."""
        event = {"type": "agent.tool_use", "name": "bash", "input": {"command": command}}
        return str(self._ask("POST", f"/sessions/{session}/events", event)["id"])

    def result(self, session: str, call: str) -> str:
        """Return what the result of a call says; empty if there is none yet."""
        events = self._ask("GET", f"/sessions/{session}/events")["events"]
        return next((each["content"][0]["text"] for each in events if each.get("tool_use_id") == call), "")

    def values(self) -> dict[str, str | None]:
        """Return the last heartbeat of each item."""
        return {each["id"]: each["last_heartbeat"] for each in self._ask("GET", "/items")["items"]}

    def record(self) -> list[Entry]:
        """Return everything that the simulator has recorded so far."""
        return [entry(each) for each in self._ask("GET", "/history")["entries"]]

    def _ask(self, method: str, path: str, body: object = None) -> Any:
        request = urllib.request.Request(  # noqa: S310  # loopback only
            f"{self.admin_url}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={} if body is None else {"Content-Type": "application/json"},
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=REQUEST_SECONDS) as answer:
            return json.loads(answer.read())
