"""What this process may do for a resource, as those ask who are about to do it.

Owns the form of that question only: ``tenures`` answers it.
"""

from typing import Protocol

from worklease.rules.acts import Act, Leave, Standing


class Permission(Protocol):
    """Says what this process may do, by the buckets that it holds: ``tenures.Tenures``."""

    def holds(self, bucket: int) -> bool:
        """Whether the process holds a bucket, as far as it knows."""

    def standing(self, bucket: int) -> Standing:
        """Return how the process stands to a bucket."""

    def may(self, act: Act, bucket: int) -> Leave:
        """Return whether an act may begin now, for a resource of that bucket."""

    async def still_holds(self, bucket: int) -> bool:
        """Read a bucket, and return whether the process still holds it."""
