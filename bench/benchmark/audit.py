"""The API server's audit log: who asked for what, and when. Must not send requests to the API server."""

import json
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any


class AuditLog:
    """One user's requests."""

    def __init__(self, path: Path, user: str) -> None:
        self._path = path
        self._user = f'"username":"{user}"'

    def mark(self) -> int:
        """Return the log's current length in bytes."""
        return self._path.stat().st_size if self._path.exists() else 0

    def since(self, mark: int) -> Iterator[dict[str, Any]]:
        """Yield the user's requests that were logged since ``mark``."""
        with self._path.open(encoding="utf-8") as lines:
            lines.seek(mark)
            for line in lines:
                if self._user in line and line.endswith("\n"):
                    yield json.loads(line)

    def verbs(self, mark: int, seconds: float) -> dict[str, float]:
        """Return the requests a second by verb, with status writes separate; ``seconds`` have passed since ``mark``."""
        counts = Counter(_what(entry) for entry in self.since(mark))
        return {what: count / seconds for what, count in sorted(counts.items())}

    def count(self, what: str, mark: int, *, of: str = "", stage: str = "ResponseComplete") -> int:
        """Count the requests of one kind since ``mark``, such as "list pods"; ``of`` is a part of their URI.

        A long request, such as a watch, has the stage "ResponseStarted" when it begins.
        """
        return sum(
            _what(entry) == what and entry["stage"] == stage and of in entry["requestURI"] for entry in self.since(mark)
        )

    def deletions(self, mark: int) -> dict[str, float]:
        """Return when the deletion of each pod was first accepted, in seconds since the epoch, by the pod's name."""
        accepted: dict[str, float] = {}
        for entry in self.since(mark):
            target = entry.get("objectRef") or {}
            is_accepted = 200 <= (entry.get("responseStatus") or {}).get("code", 0) < 300
            if is_accepted and entry["verb"] == "delete" and target.get("resource") == "pods":
                accepted.setdefault(target["name"], _seconds(entry["stageTimestamp"]))
        return accepted


def _what(entry: dict[str, Any]) -> str:
    target = entry.get("objectRef") or {}
    of = target.get("resource", "other")
    return f"{entry['verb']} {of}/{target['subresource']}" if target.get("subresource") else f"{entry['verb']} {of}"


def _seconds(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()
