"""PersistentVolumeClaims and WorkLeases of one namespace, as an API server keeps them.

Owns the answers to lists, creations, patches and deletions, with versions and preconditions. It must not know which
volume is whose, or assert.
"""

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from support.scripted_server import Answer, Seen

CONFLICT = Answer(status=409, body={"kind": "Status", "reason": "Conflict", "message": "the object has been modified"})
ABSENT = Answer(status=404, body={"kind": "Status", "reason": "NotFound", "message": "claim not found"})
EXISTS = Answer(status=409, body={"kind": "Status", "reason": "AlreadyExists", "message": "it exists"})


@dataclass
class ClaimStore:
    """The objects, and what was done to them."""

    claims: dict[str, dict[str, Any]] = field(default_factory=dict)
    leases: dict[str, dict[str, Any]] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)
    is_held_up: bool = False
    """Whether a deleted claim stays, as one does that a pod uses."""
    _versions: "itertools.count[int]" = field(default_factory=lambda: itertools.count(100))

    def put_lease(self, name: str, *, session: str, finished: bool = False, **metadata: Any) -> None:
        """Create a WorkLease, or change it."""
        conditions = [{"type": "Finished", "status": "True" if finished else "False"}]
        self.leases[name] = {
            "metadata": {"name": name, "uid": f"uid-{name}"} | metadata,
            "spec": {"environmentID": "env_1", "workID": f"work_{name}", "sessionID": session},
            "status": {"conditions": conditions},
        }

    def answer(self, seen: Seen) -> Answer | None:
        """Return the answer to a request about claims or the list of WorkLeases; None: it is about something else."""
        if seen.path.endswith("/workleases") and seen.method == "GET":
            return _listed(list(self.leases.values()))
        if "/persistentvolumeclaims" not in seen.path:
            return None
        name = seen.path.partition("/persistentvolumeclaims")[2].strip("/")
        match seen.method:
            case "GET":
                return _listed([each for each in self.claims.values() if _is_selected(each, seen)])
            case "POST":
                return self._make(seen)
            case "PATCH":
                return self._change(name, lambda claim: self._patch(claim, seen.json))
            case _:
                return self._change(name, lambda claim: self._delete(claim, seen.json))

    def _make(self, seen: Seen) -> Answer:
        body = seen.json
        name = body["metadata"]["name"]
        if name in self.claims:
            return EXISTS
        if "dryRun" not in seen.target:
            made = {"uid": f"uid-{next(self._versions)}", "resourceVersion": str(next(self._versions))}
            self.claims[name] = body | {"metadata": body["metadata"] | made}
        return Answer(status=201, body=body)

    def _change(self, name: str, change: Callable[[dict[str, Any]], Answer]) -> Answer:
        return change(self.claims[name]) if name in self.claims else ABSENT

    def _patch(self, claim: dict[str, Any], body: dict[str, Any]) -> Answer:
        asked, metadata = body["metadata"], claim["metadata"]
        if not _is_meant(metadata, asked):
            return CONFLICT
        merged = (metadata.get("annotations") or {}) | asked["annotations"]
        merged = {key: value for key, value in merged.items() if value is not None}
        if merged != metadata.get("annotations"):
            metadata |= {"annotations": merged, "resourceVersion": str(next(self._versions))}
        return Answer(body=json.loads(json.dumps(claim)))

    def _delete(self, claim: dict[str, Any], body: dict[str, Any]) -> Answer:
        metadata = claim["metadata"]
        if not _is_meant(metadata, body.get("preconditions") or {}):
            return CONFLICT
        self.deleted.append(metadata["name"])
        if self.is_held_up:
            metadata |= {"deletionTimestamp": "2026-11-24T12:00:00Z", "resourceVersion": str(next(self._versions))}
        else:
            del self.claims[metadata["name"]]
        return Answer()


def _is_meant(metadata: dict[str, Any], asked: dict[str, Any]) -> bool:
    return all(asked.get(key) in {None, metadata[key]} for key in ("uid", "resourceVersion"))


def _is_selected(claim: dict[str, Any], seen: Seen) -> bool:
    labels = claim["metadata"].get("labels") or {}
    wanted = (each.split("=") for each in seen.query["labelSelector"][0].split(","))
    return all(labels.get(key) == value for key, value in wanted)


def _listed(items: list[dict[str, Any]]) -> Answer:
    return Answer(body=json.loads(json.dumps({"metadata": {"resourceVersion": "9"}, "items": items})))
