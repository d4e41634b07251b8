"""Buckets: which bucket a resource belongs to, and which process should hold which bucket.

Owns the even distribution of the buckets over the processes that live. Every process that sees the same processes comes
to the same distribution, so nobody has to be asked. Pure: no clock, no socket. Must not say when a bucket changes
hands: ``takes`` does.
"""

import zlib
from collections.abc import Collection, Mapping, Sequence
from hashlib import blake2b
from typing import Final

BUCKETS: Final = 16
"""How many buckets there are. Each is one ConfigMap, so they are few to write, and more processes than that hold none.

A resource's bucket must not change from version to version, and neither must this number.
"""


def bucket_of(uid: str) -> int:
    """Return the number of the bucket to which the resource of that uid belongs."""
    return zlib.crc32(uid.encode()) % BUCKETS


def distribute(holders: Collection[str]) -> Mapping[int, str]:
    """Return the process that should hold each bucket; empty if there is no process.

    Rendezvous hashing with a bound: the buckets go in the order of their numbers, each to its best-ranked process that
    has room. So no process has more than one bucket more than another, and few buckets move when a process comes or
    goes.
    """
    room = _room(holders)
    preferred: dict[int, str] = {}
    for bucket in range(BUCKETS if room else 0):
        holder = next(each for each in rank(bucket, holders) if room[each] > 0)
        preferred[bucket] = holder
        room[holder] -= 1
    return preferred


def rank(bucket: int, holders: Collection[str]) -> Sequence[str]:
    """Return the processes in the order in which a bucket prefers them."""
    return sorted(holders, key=lambda holder: _score(f"{bucket}/{holder}"), reverse=True)


def _room(holders: Collection[str]) -> dict[str, int]:
    """Return how many buckets each process has room for: an even share, and one more for the first-ranked."""
    if not holders:
        return {}
    share, rest = divmod(BUCKETS, len(holders))
    ranked = sorted(holders, key=_score, reverse=True)
    return {holder: share + (place < rest) for place, holder in enumerate(ranked)}


def _score(text: str) -> bytes:
    """Return a hash in which no bit of the text outweighs another, as it would in a checksum."""
    return blake2b(text.encode(), digest_size=8).digest()
