"""A process that holds every bucket for ever, for tests of what has nothing to do with who holds them.

Owns the writes of records without any guard, and the answers to what may be done, which a test may change.
"""

from collections import Counter
from collections.abc import Collection, Mapping

from worklease.cluster.bucket_store import bucket_name
from worklease.cluster.checkpoint import NotWritten
from worklease.cluster.client import METADATA, Done, KubernetesApi, PatchType
from worklease.rules.acts import TABLE, Act, Leave, Standing
from worklease.rules.buckets import BUCKETS, bucket_of


def allowed() -> bool:
    """Allow a write."""
    return True


class EveryBucket:
    """The holder of every bucket; without an API, who writes records gets no answer."""

    def __init__(self, api: KubernetesApi, namespace: str = "own") -> None:
        self._api = api
        self._path = f"/api/v1/namespaces/{namespace}/configmaps"
        self.held: Collection[int] = frozenset(range(BUCKETS))
        self.stands = Standing.VALID
        """How the process stands to all buckets that it holds."""
        self.is_named = True
        """Whether the buckets still name the process."""
        self.reads = 0
        self.asked: Counter[Act] = Counter()
        """How often it was asked whether each act may begin."""

    async def write(self, bucket: int, changed: Mapping[str, str | None]) -> NotWritten | None:
        """Write changed records."""
        body = {"data": dict(changed)}
        path = f"{self._path}/{bucket_name(bucket)}"
        reply = await self._api.call("PATCH", path, body=body, patch=PatchType.MERGE, accept=METADATA)
        return None if isinstance(reply, Done) else reply

    def holds(self, bucket: int) -> bool:
        """Whether the process holds a bucket."""
        return bucket in self.held

    def standing(self, bucket: int) -> Standing:
        """Return how the process stands to a bucket."""
        return self.stands if bucket in self.held else Standing.FORMER

    def may(self, act: Act, bucket: int) -> Leave:
        """Return whether an act may begin now."""
        self.asked[act] += 1
        return TABLE[self.standing(bucket)][act]

    def may_write(self, uid: str) -> bool:
        """Whether the status of a resource may be written now."""
        return self.may(Act.WRITE_RESOURCE, bucket_of(uid)) is Leave.YES

    async def still_holds(self, bucket: int) -> bool:
        """Return whether the bucket still names the process."""
        self.reads += 1
        return self.is_named and bucket in self.held
