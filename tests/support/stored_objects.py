"""Objects as an API server stores them, with versions and compare-and-set, as a script for ``ScriptedServer``.

Owns just what ConfigMaps and Leases need of it. The cluster tests hold that the real API server does the same.
"""

from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from support.scripted_server import Answer, Fault, Seen


@dataclass(slots=True)
class StoredObjects:
    """The objects by their paths."""

    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    version: int = 0
    is_away: bool = False

    def __call__(self, seen: Seen) -> Answer:
        """Answer a request."""
        if self.is_away:
            return Answer(fault=Fault.CLOSE)
        match seen.method:
            case "POST":
                return self._make(seen)
            case "PATCH":
                return self._patch(seen)
            case "DELETE":
                return Answer() if self.objects.pop(seen.path, None) is not None else _refused(404, "NotFound")
            case _ if seen.path in self.objects:
                return Answer(body=self.objects[seen.path])
            case _ if seen.query:
                return self._list(seen)
            case _:
                return _refused(404, "NotFound")

    def _make(self, seen: Seen) -> Answer:
        path = f"{seen.path}/{seen.json['metadata']['name']}"
        return _refused(409, "AlreadyExists") if path in self.objects else self._store(path, seen.json)

    def _patch(self, seen: Seen) -> Answer:
        known, wanted = self.objects.get(seen.path), seen.json
        if known is None:
            return _refused(404, "NotFound")
        guard = (wanted.get("metadata") or {}).get("resourceVersion")
        if guard is not None and guard != known["metadata"]["resourceVersion"]:
            return _refused(409, "Conflict")
        merged = _merged(known, wanted)
        # What changes nothing is not written, and gives no new version.
        return Answer(body=known) if merged == known else self._store(seen.path, merged)

    def _store(self, path: str, body: dict[str, Any]) -> Answer:
        self.version += 1
        body = deepcopy(body)
        body["metadata"]["resourceVersion"] = str(self.version)
        self.objects[path] = body
        return Answer(body=body)

    def _list(self, seen: Seen) -> Answer:
        label = seen.query.get("labelSelector", [None])[0]
        items = [
            each
            for path, each in self.objects.items()
            if path.startswith(seen.path) and label in {None, *(each["metadata"].get("labels") or {})}
        ]
        return Answer(body={"items": items, "metadata": {}})


def _merged(known: Any, wanted: Any) -> Any:
    """Return a JSON merge patch applied (RFC 7396)."""
    if not isinstance(wanted, dict):
        return wanted
    merged = dict(known) if isinstance(known, dict) else {}
    for name, value in wanted.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = _merged(merged.get(name), value)
    return merged


def _refused(status: int, reason: str) -> Answer:
    return Answer(status=status, body={"message": reason, "reason": reason})
