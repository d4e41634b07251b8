"""The objects of one kind that the watches reported: which they are, and whether a watch is blind to some of them.

Owns the knowledge that a list is compared with. Must not call anybody, nor decide what a difference means.
"""

import logging
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

BLIND_AFTER: Final = 60.0
"""Seconds in which a watch must report anything at all while there is an object that it never reported."""

_log = logging.getLogger(__name__)

Scope = str | None
"""What one watch covers: a namespace, or all of them."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """An object as it was reported last."""

    namespace: str
    name: str
    at: float
    version: str
    by_watch: bool
    """Whether a watch reported it, or the first list alone."""


def identity(metadata: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """Return an object's namespace, name, uid and resource version."""
    return (metadata["namespace"], metadata["name"], metadata["uid"], metadata["resourceVersion"])


class KnownObjects:
    """The objects of one kind that were reported; times are monotonic seconds."""

    def __init__(self, api: str, plural: str, labels: str, scopes: tuple[Scope, ...]) -> None:
        self._api = api
        self.plural = plural
        """What the API calls objects of this kind."""
        self._scopes = scopes
        self._seen: dict[str, Sighting] = {}
        self._last_report: dict[Scope, float] = {}
        self._unreported: dict[Scope, dict[str, float]] = defaultdict(dict)
        self.query = {"labelSelector": labels} if labels else {}
        """The parameters of a list."""

    def path(self, scope: Scope) -> str:
        """Return the path of a scope's list; that of a namespace is also where its objects are."""
        return f"{self._api}/{self.plural}" if scope is None else f"{self._api}/namespaces/{scope}/{self.plural}"

    def saw(self, namespace: str, name: str, uid: str, now: float, *, version: str = "", by_watch: bool = True) -> None:
        """Take note of an object, and of its resource version."""
        self._seen[uid] = Sighting(namespace, name, now, version, by_watch)
        if by_watch:
            self._last_report[self._scope(namespace)] = now

    def drop(self, uid: str) -> Sighting | None:
        """Forget an object, and return where it was seen."""
        return self._seen.pop(uid, None)

    def knows(self, uid: str) -> bool:
        """Whether an object was reported, and not dropped since."""
        return uid in self._seen

    def _is_watched(self, uid: str) -> bool:
        sighting = self._seen.get(uid)
        return sighting is not None and sighting.by_watch

    def _scope(self, namespace: str) -> Scope:
        return namespace if namespace in self._scopes else None

    def outdated(self, listed: Mapping[str, str], began: float) -> dict[str, Sighting]:
        """Return what a list has in another version than the watch, which reported nothing of it since ``began``.

        ``listed`` has the versions of a list that began then, by uid.
        """
        return {
            uid: sighting
            for uid, version in listed.items()
            if (sighting := self._seen.get(uid)) is not None
            and sighting.by_watch
            and sighting.at < began
            and version != sighting.version
        }

    def missing(self, scope: Scope, listed: Collection[str], began: float) -> dict[str, Sighting]:
        """Return what was seen before a complete list began, and is not in that list."""
        return {
            uid: sighting
            for uid, sighting in self._seen.items()
            if uid not in listed and sighting.at < began and self._scope(sighting.namespace) == scope
        }

    def is_blind(self, scope: Scope, listed: set[str], began: float) -> bool:
        """Whether some objects were never reported by the watch, which has reported nothing else for a while."""
        since = self._unreported[scope]
        self._unreported[scope] = {uid: since.get(uid, began) for uid in listed if not self._is_watched(uid)}
        oldest = min(self._unreported[scope].values(), default=began)
        if began - max(oldest, self._last_report.get(scope, oldest)) < BLIND_AFTER:
            return False
        _log.warning("the watch reports nothing of %d %s that exist", len(self._unreported[scope]), self.plural)
        self._unreported[scope].clear()
        return True

    @property
    def has_unreported(self) -> bool:
        """Whether any object exists that no watch has reported yet."""
        return any(self._unreported.values())
