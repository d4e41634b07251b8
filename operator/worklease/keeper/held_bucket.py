"""A bucket that this process holds, and who keeps its leases.

Owns what is known of such a bucket between two writes. Must not decide anything: ``tenures`` asks the rules.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from worklease.rules.succession import Succession
from worklease.rules.tenure import Tenure


class Heir(Protocol):
    """Who keeps the leases of the buckets that are held."""

    def take(self, bucket: int, records: Mapping[str, str], succession: Succession) -> None:
        """Begin with the leases of a bucket, from its records; nothing of an earlier tenure goes on."""

    def lose(self, bucket: int) -> None:
        """Let go of the leases of a bucket, which is another process's; nothing is sent for them any more."""

    def unwritten(self, bucket: int, *, everything: bool) -> Mapping[str, str | None]:
        """Return the records to write at a hand-over; or all, where the ConfigMap is gone and is made again."""

    def hasten(self, bucket: int) -> None:
        """Send the beats of a bucket now that would come due while it is handed over."""

    def confirmed(self, bucket: int) -> None:
        """Go on with what was put off: the process is the valid holder again."""


@dataclass(slots=True)
class HeldBucket:
    """A bucket that this process holds, as far as it knows."""

    tenure: Tenure
    version: str | None
    inherited: float | None = None
    """When the tenure began, if another process held the bucket before, and did not end in order before that."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held around each write: the next one needs the version of the last."""
    hands_over_at: float | None = None
    reading: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held around each read that must show whether the process is the holder still."""
    seen: float = -float("inf")
    """When the last such read was sent that showed it."""
