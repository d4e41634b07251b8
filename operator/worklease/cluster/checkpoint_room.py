"""The room in one ConfigMap of the checkpoint: how much fits, and whose records stay out when it runs full.

Owns the limits, and the count of what is taken. Must not know of writes, or of what a record says.
"""

from collections import Counter
from typing import Final

LIMIT: Final = 1_000_000
"""Bytes of records in one ConfigMap. The API server refuses more than 1,048,576 bytes of values (422), and a request of
more than 3 MiB as JSON (413): both measured with 1.37. What is escaped in JSON takes up to three times its bytes."""

SHARE: Final = 750_000
"""Bytes taken from which on an owner that has more than half of them gets no more: the rest is for other owners."""

RESERVED: Final = 512
"""Bytes that each record counts at least. That of a claim has 200, and grows to 400 when the lease has its pod: what
was let in must be able to grow so far."""

LONGEST: Final = 24 * 1024
"""Bytes of one record: sixty times the usual. It has twenty pods at most, whose names may be long."""


class Room:
    """The room in one ConfigMap, and what the records of each owner, a namespace, take of it."""

    def __init__(self) -> None:
        self.taken = 0
        """Bytes, each record counted with what is reserved for it."""
        self._by_uid: dict[str, tuple[str, int]] = {}
        self._by_owner: Counter[str] = Counter()

    def load(self, uid: str, record: str) -> None:
        """Count a record that an earlier process has written; its owner is known with its next change."""
        self._put(uid, "", _size(record))

    def take(self, uid: str, owner: str, record: str) -> str:
        """Count a record, new or changed; return why there is no room for it, or an empty string."""
        size = _size(record)
        if self._by_uid.get(uid) == (owner, size):
            return ""
        if problem := self.lack(uid, owner, size):
            return problem
        self.free(uid)
        self._put(uid, owner, size)
        return ""

    def lack(self, uid: str, owner: str, size: int = RESERVED) -> str:
        """Return why there is no room for a record of this size, or an empty string."""
        former_owner, former = self._by_uid.get(uid, (owner, 0))
        more = size - former
        if more > 0:
            if size > LONGEST:
                return f"its record has {size:,} bytes, and {LONGEST:,} are allowed"
            owned = self._by_owner[owner] + more + (former if former_owner != owner else 0)
            limit = SHARE if 2 * owned > self.taken + more else LIMIT
            if self.taken + more > limit:
                whose = "the records of its namespace take most of it" if limit == SHARE else "other records take it"
                return f"{self.taken:,} of {LIMIT:,} bytes are taken, and {whose}"
        return ""

    def free(self, uid: str) -> None:
        """Count a record no more."""
        owner, size = self._by_uid.pop(uid, ("", 0))
        self.taken -= size
        self._by_owner[owner] -= size
        if not self._by_owner[owner]:
            del self._by_owner[owner]

    def _put(self, uid: str, owner: str, size: int) -> None:
        self._by_uid[uid] = (owner, size)
        self._by_owner[owner] += size
        self.taken += size


def _size(record: str) -> int:
    return max(RESERVED, len(record) if record.isascii() else len(record.encode()))
