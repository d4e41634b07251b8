"""The simulator as a process of its own, on free ports, which ends with the test run, however that ends.

This module owns the process and typed access to its administration. It must not check the history: `judge` does.
"""

import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from support.costs import SIMULATORS
from support.preloaded import Preloaded

START_TIMEOUT = 30.0  # seconds until it must listen: the first start of a worker imports, beside whatever else runs
STOP_TIMEOUT = 10.0  # seconds until it must have ended after SIGTERM, which takes milliseconds
POLL_INTERVAL = 0.1  # seconds between two checks of a condition
START_POLL = 0.01  # seconds between two looks at a start, which takes a few hundredths


class Simulator:
    """A running simulator. `close` it, or use it as a context manager.

    `url` is the Work API's base URL, `admin_url` the administration's; `environment_id`, `environment_key` and
    `api_key` are the ones that it started with.
    """

    def __init__(self, *options: str, empty: bool = True) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="worklease-simulator-")
        folder = Path(self._folder.name)
        self._log = folder / "log"
        ready = folder / "ready.json"
        arguments = ["--listen=127.0.0.1:0", "--admin=127.0.0.1:0", f"--ready-file={ready}"]
        arguments += [*(["--empty"] if empty else []), *options]
        self.process = Preloaded(
            "work_api_simulator", arguments, environment=os.environ, log=self._log, kind=SIMULATORS
        )
        try:
            told = json.loads(self._ready(ready))
        except BaseException:
            self.close()
            raise
        self.url: str = told["url"]
        self.admin_url: str = told["admin_url"]
        self.environment_id: str = told["environment_id"]
        self.environment_key: str = told["environment_key"]
        self.api_key: str = told["api_key"]
        # trust_env: a proxy of the machine must not come between a test and the loopback interface
        self._http = httpx.Client(base_url=self.admin_url, timeout=10.0, trust_env=False)

    def _ready(self, ready: Path) -> str:
        deadline = time.monotonic() + START_TIMEOUT
        while not ready.exists():
            if self.process.status is not None:
                raise RuntimeError(
                    f"The simulator ended with status {self.process.status} before it listened: {self.log()}"
                )
            if time.monotonic() > deadline:
                raise TimeoutError(f"The simulator did not listen within {START_TIMEOUT:.0f} s: {self.log()}")
            with suppress(TimeoutError):
                self.process.wait(START_POLL)
        return ready.read_text(encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> int:
        """End the process, and return its exit status."""
        if hasattr(self, "_http"):
            self._http.close()
        status = self.process.close(grace=STOP_TIMEOUT)
        self._folder.cleanup()
        return status

    def log(self) -> str:
        """Return what it has printed."""
        return self._log.read_text(encoding="utf-8", errors="replace") if self._log.exists() else ""

    # -- keys

    def set_environment_keys(self, environment_id: str, *keys: str) -> None:
        """Create an environment, or replace its keys; without a key all are revoked."""
        self._call("PUT", f"/environments/{environment_id}/keys", {"keys": list(keys)})

    def set_api_keys(self, *keys: str) -> None:
        """Replace the organization's API keys."""
        self._call("PUT", "/api-keys", {"keys": list(keys)})

    # -- items

    def create_item(
        self,
        item_id: str | None = None,
        *,
        environment_id: str | None = None,
        state: str = "starting",
        ttl_seconds: int | None = None,
        data_type: str = "session",
        data_id: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Create an item. `starting`: acknowledged, without a heartbeat; `queued`: waiting for a poll."""
        body = {
            "id": item_id,
            "environment_id": environment_id or self.environment_id,
            "state": state,
            "ttl_seconds": ttl_seconds,
            "data_type": data_type,
            "data_id": data_id,
            "metadata": dict(metadata or {}),
        }
        return self._call("POST", "/items", body)

    def items(self) -> list[dict[str, Any]]:
        """Return all items as they are now."""
        return list(self._call("GET", "/items")["items"])

    def item(self, item_id: str) -> dict[str, Any]:
        """Return an item as it is now, with its `last_heartbeat`, `ttl_seconds` and `sessions_token`."""
        return self._call("GET", f"/items/{item_id}")

    def stop_item(self, item_id: str, *, force: bool = False) -> dict[str, Any]:
        """Stop an item, as the holder of an API key does."""
        return self._call("POST", f"/items/{item_id}/stop", {"force": force})

    def requeue_item(self, item_id: str, *, state: str = "queued") -> dict[str, Any]:
        """Queue an item again under its id, and lead it to a state."""
        return self._call("POST", f"/items/{item_id}/requeue", {"state": state})

    def steal_item(self, item_id: str) -> dict[str, Any]:
        """Make another worker claim the item, or send its heartbeat."""
        return self._call("POST", f"/items/{item_id}/steal")

    def impose_ttl(self, item_id: str, seconds: int | None) -> dict[str, Any]:
        """Grant this TTL to every later beat; None ends that."""
        return self._call("PUT", f"/items/{item_id}/ttl", {"ttl_seconds": seconds})

    def refuse_ttl(self, item_id: str, longest: int | None) -> dict[str, Any]:
        """Refuse every later beat that requests a longer TTL (400); None ends that."""
        return self._call("PUT", f"/items/{item_id}/longest-ttl", {"ttl_seconds": longest})

    def create_past_items(self, number: int, environment_id: str | None = None) -> None:
        """List so many stopped items, newer than all others."""
        self._call("POST", f"/environments/{environment_id or self.environment_id}/past-items", {"number": number})

    def expire_token(self, item_id: str, seconds: float = 0.0) -> None:
        """Let an item's sessions token be valid for so long from now."""
        self._call("PUT", f"/items/{item_id}/token", {"seconds": seconds})

    def rotate_token(self, item_id: str) -> str:
        """Revoke an item's sessions token, and return the new one."""
        return str(self._call("POST", f"/items/{item_id}/token")["sessions_token"])

    def delete_item(self, item_id: str) -> None:
        """Delete an item."""
        self._call("DELETE", f"/items/{item_id}")

    # -- sessions

    def create_session(self, session_id: str | None = None, *, ttl_seconds: int | None = None) -> dict[str, Any]:
        """Create a session whose first message waits in the queue, and return its item."""
        body = {"environment_id": self.environment_id, "id": session_id, "ttl_seconds": ttl_seconds}
        return dict(self._call("POST", "/sessions", body)["item"])

    def session(self, session_id: str) -> dict[str, Any]:
        """Return a session as it is now, with its `status` and `archived_at`."""
        return self._call("GET", f"/sessions/{session_id}")

    def archive_session(self, session_id: str) -> None:
        """Archive a session."""
        self._call("POST", f"/sessions/{session_id}/archive")

    def delete_session(self, session_id: str) -> None:
        """Delete a session and its items; the poll that meets a waiting one answers 404."""
        self._call("DELETE", f"/sessions/{session_id}")

    def message(self, session_id: str) -> str | None:
        """Send a message to a session; return the item that waits for a worker because of it, None if none does."""
        item = self._call("POST", f"/sessions/{session_id}/messages")["item"]
        return None if item is None else str(item["id"])

    def add_event(self, session_id: str, **event: Any) -> str:
        """Add an event to a session, such as an `agent.tool_use`, and return its id."""
        return str(self._call("POST", f"/sessions/{session_id}/events", event)["id"])

    def events(self, session_id: str) -> list[dict[str, Any]]:
        """Return all events of a session, the oldest first."""
        return list(self._call("GET", f"/sessions/{session_id}/events")["events"])

    # -- faults

    def inject(
        self,
        kind: str,
        *,
        call: str | None = "heartbeat",
        item: str | None = None,
        times: int | None = 1,
        share: float = 1.0,
        **effect: Any,
    ) -> int:
        """Set a fault, and return its id. `work_api_simulator.admin` lists the kinds and their parameters."""
        body = {"kind": kind, "call": call, "item": item, "times": times, "share": share, **effect}
        return int(self._call("POST", "/faults", body)["id"])

    def remove_fault(self, fault_id: int) -> None:
        """Remove a fault; this ends the requests that it holds."""
        self._call("DELETE", f"/faults/{fault_id}")

    def clear_faults(self) -> None:
        """Remove all faults."""
        self._call("DELETE", "/faults")

    def outage(self, mode: str) -> None:
        """Begin (`refuse`, `reset`) or end (`off`) an outage of the Work API."""
        self._call("PUT", "/outage", {"mode": mode})

    # -- history

    def history(self, item: str | None = None, *, since: int = 0) -> list[dict[str, Any]]:
        """Return the history's entries after `since`, of one item if it is named."""
        query = {"since": str(since)} | ({} if item is None else {"item": item})
        return list(self._call("GET", "/history", query=query)["entries"])

    def last_seq(self) -> int:
        """Return the `seq` of the history's latest entry."""
        return int(self._call("GET", "/")["last_seq"])

    def wait_for(
        self,
        condition: Callable[[Sequence[Mapping[str, Any]]], bool],
        *,
        item: str | None = None,
        since: int = 0,
        timeout: float = 10.0,
    ) -> list[dict[str, Any]]:
        """Wait until the history meets a condition, and return it; raise TimeoutError if it does not in time."""
        deadline, pause = time.monotonic() + timeout, threading.Event()
        while not condition(history := self.history(item, since=since)):
            if time.monotonic() > deadline:
                shown = "\n".join(json.dumps(entry) for entry in history[-20:])
                raise TimeoutError(f"The condition did not hold within {timeout:.0f} s. The latest entries:\n{shown}")
            pause.wait(POLL_INTERVAL)
        return history

    def _call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, query: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        response = self._http.request(method, path, json=body, params=query)
        if response.is_error:
            raise RuntimeError(f"{method} {path} was answered {response.status_code}: {response.text}")
        return dict(response.json()) if response.content else {}


def accepted(simulator: Simulator, item: str) -> list[float]:
    """Return when each beat that extended an item's lease took effect, by the monotonic clock."""
    beats = (entry for entry in simulator.history(item) if entry.get("call") == "heartbeat")
    return [entry["applied_monotonic"] for entry in beats if entry["lease_extended"]]
