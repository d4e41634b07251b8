"""The processes of the operator, and which of them keeps a lease, as the objects by which they share them tell.

Owns the reading of those objects. Pure: the objects and the time are passed in.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from worklease.api.names import BUCKET_LABEL, GROUP, READY
from worklease.rules.buckets import bucket_of


@dataclass(frozen=True, slots=True)
class ProcessView:
    """One process of the operator."""

    namespace: str
    name: str
    """Of its liveness Lease."""
    holder: str
    renewed: datetime | None
    is_ending: bool
    buckets: tuple[int, ...]
    """Those that it holds, of all buckets of leases."""


@dataclass(frozen=True, slots=True)
class BucketView:
    """One bucket of leases: its holder, and when it was last taken from a process that may have lived on."""

    namespace: str
    number: int
    holder: str
    taken: datetime | None


def read_buckets(bodies: Sequence[Mapping[str, Any]]) -> list[BucketView]:
    """Return the buckets, as their ConfigMaps show them; what is not understood is left out."""
    found: list[BucketView] = []
    for body in bodies:
        metadata = body["metadata"]
        shown, number = metadata.get("annotations") or {}, (metadata.get("labels") or {}).get(BUCKET_LABEL, "")
        if number.isdecimal():
            holder, taken = shown.get(f"{GROUP}/holder", ""), _number(shown.get(f"{GROUP}/taken"))
            at = None if taken is None else datetime.fromtimestamp(taken, UTC)
            found.append(BucketView(metadata["namespace"], int(number), holder, at))
    return found


def read_processes(bodies: Sequence[Mapping[str, Any]], buckets: Sequence[BucketView]) -> list[ProcessView]:
    """Return the processes, as their liveness Leases show them."""
    found: list[ProcessView] = []
    for body in bodies:
        metadata, spec = body["metadata"], body.get("spec") or {}
        namespace, holder = metadata["namespace"], str(spec.get("holderIdentity") or "")
        renewed = spec.get("renewTime")
        held = sorted(each.number for each in buckets if (each.namespace, each.holder) == (namespace, holder))
        is_ending = (metadata.get("annotations") or {}).get(READY) == "false"
        at = None if renewed is None else datetime.fromisoformat(renewed)
        found.append(ProcessView(namespace, metadata["name"], holder, at, is_ending, tuple(held)))
    return sorted(found, key=lambda each: (each.namespace, each.name))


def keeper_of(uid: str, processes: Sequence[ProcessView], buckets: Sequence[BucketView], installation: str = "") -> str:
    """Return a sentence about the process that keeps a lease; empty if that cannot be told.

    With several installations, the resource itself names the one that it is: ``installation``.
    """
    number, own = bucket_of(uid), installation.partition("/")[0]
    held = [each for each in buckets if each.number == number and each.holder and own in {"", each.namespace}]
    names = {(each.namespace, each.holder): each.name for each in processes}
    if len(held) != 1 or (held[0].namespace, held[0].holder) not in names:
        return ""
    (bucket,) = held
    said = f"The operator's process {bucket.namespace}/{names[bucket.namespace, bucket.holder]} keeps it"
    if bucket.taken is None:
        return f"{said}."
    return f"{said}. The last one that did not hand it over in order lost it at {bucket.taken:%Y-%m-%d %H:%M:%SZ}."


def _number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None
