"""Another worker of the same environment: polls, claims and beats as the public SDK's worker does.

This module owns that worker's thread and its connection. It must not take a lease that is held: a test asks the
simulator for that. A failure (an outage, a lost lease) ends its hold on an item, as in the SDK.
"""

import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx

from support.judge import NO_HEARTBEAT
from support.simulator import Simulator

AGENT = "another-worker"
POLL_INTERVAL = 0.2  # seconds between two checks of what is due: a worker's shortest interval is a second
REQUEST_TIMEOUT = 5.0  # seconds: loopback answers in milliseconds, or a fault holds the request
JOIN_TIMEOUT = 15.0  # seconds for its thread to end: one request, and a reserve
LONGEST_INTERVAL = 30.0  # "beats every max(1, min(ttl/2, 30)) s"


@dataclass(slots=True)
class _Hold:
    """A held item: the value of the next beat, and when that beat is due."""

    value: str
    due: float


class OtherWorker:
    """A worker that runs during a `with` block. Without `polls` it works only on the items that it is given."""

    def __init__(self, simulator: Simulator, *, polls: bool = True) -> None:
        self._polls = polls
        self._path = f"/v1/environments/{simulator.environment_id}/work"
        self._http = httpx.Client(
            base_url=simulator.url,
            headers={"Authorization": f"Bearer {simulator.environment_key}", "User-Agent": AGENT},
            timeout=REQUEST_TIMEOUT,
            trust_env=False,
        )
        self._holds: dict[str, _Hold] = {}
        self._given: list[str] = []
        self._claimed: list[str] = []
        self._lock = threading.Lock()  # guards what both threads use; never held during a request
        self._ended = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=AGENT, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join(JOIN_TIMEOUT)
        self._http.close()
        if self._failure is not None and error is None:
            raise RuntimeError("The other worker has failed") from self._failure

    def give(self, item_id: str) -> None:
        """Make it claim an item that is acknowledged already."""
        with self._lock:
            self._given.append(item_id)

    def claimed(self) -> list[str]:
        """Return all items that it claimed, in order."""
        with self._lock:
            return list(self._claimed)

    def _run(self) -> None:
        try:
            while not self._ended.wait(POLL_INTERVAL):
                self._turn()
        except Exception as error:  # noqa: BLE001 - raised where the worker ends
            self._failure = error

    def _turn(self) -> None:
        """Claim the given and polled items, and send the beats that are due."""
        with self._lock:
            given, self._given = self._given, []
        for item_id in given:
            self._claim(item_id)
        if self._polls and (polled := self._poll()) is not None:
            self._claim(polled)
        for item_id, hold in tuple(self._holds.items()):
            if time.monotonic() >= hold.due:
                self._beat(item_id, hold.value)

    def _poll(self) -> str | None:
        """Poll and acknowledge; return None if there is no work, or the acknowledgement got no answer."""
        answer = self._send("GET", "/poll")
        item = None if answer is None or answer.status_code != httpx.codes.OK else answer.json()
        if not item or "id" not in item:  # "null, 204, {}"
            return None
        acknowledged = self._send("POST", f"/{item['id']}/ack")
        return str(item["id"]) if acknowledged is not None and acknowledged.is_success else None

    def _claim(self, item_id: str) -> None:
        if self._beat(item_id, NO_HEARTBEAT):
            with self._lock:
                self._claimed.append(item_id)

    def _beat(self, item_id: str, value: str) -> bool:
        """Send one beat; any answer but an extension ends its hold."""
        self._holds.pop(item_id, None)
        answer = self._send("POST", f"/{item_id}/heartbeat", params={"expected_last_heartbeat": value})
        if answer is None or answer.status_code != httpx.codes.OK:
            return False
        told: dict[str, Any] = answer.json() if answer.content.endswith(b"}") else {}
        if not told.get("lease_extended"):
            return False
        interval = max(1.0, min(told["ttl_seconds"] / 2, LONGEST_INTERVAL))
        self._holds[item_id] = _Hold(told["last_heartbeat"], time.monotonic() + interval)
        return True

    def _send(self, method: str, path: str, **content: Any) -> httpx.Response | None:
        """Send a request; return None if there is no answer."""
        try:
            return self._http.request(method, self._path + path, **content)
        except httpx.TransportError:
            return None
