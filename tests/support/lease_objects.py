"""WorkLeases as the API server returns them, for tests of code that reads them.

This module contains builders only. `NOW` is the time at which they are read.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

NOW: Final = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)

Said = tuple[str, str, str]
"""A condition's status, reason and message."""

HELD: Final = ("True", "Renewed", "The lease holds and is being renewed.")


def written(seconds: float) -> str:
    """Return the text of the time that many seconds after `NOW`."""
    return (NOW + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def lease(
    name: str = "demo",
    held: Said | None = HELD,
    sandbox: Said | None = None,
    finished: Said = ("False", "InProgress", "It is not finished."),
    *,
    left: float | None = 40,
    spec: Mapping[str, Any] | None = None,
    age: float = 600,
    **status: Any,
) -> dict[str, Any]:
    """Return a WorkLease. `left` is the remaining seconds of its lease; without `held` it has no status."""
    said = {"LeaseHeld": held, "SandboxReady": sandbox, "Finished": finished}
    expiry = {} if left is None else {"leaseExpiryTime": written(left)}
    told = {
        "state": "active",
        "ttlSeconds": 60,
        "observedTime": written(-5),
        "claimTime": written(-age + 1),
        "conditions": [
            {"type": kind, "status": of[0], "reason": of[1], "message": of[2], "lastTransitionTime": written(-90)}
            for kind, of in said.items()
            if of is not None
        ],
    }
    return {
        "metadata": {"namespace": "team", "name": name, "uid": f"uid-{name}", "creationTimestamp": written(-age)},
        "spec": {"environmentID": "env_1", "workID": f"work_{name}"} | dict(spec or {}),
        "status": {} if held is None else told | expiry | status,
    }
