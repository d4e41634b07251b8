"""The buckets as the API server stores them: one ConfigMap each, with the records of its leases and its holder.

Owns their form, their compare-and-set by the ``resourceVersion``, and what becomes of the checkpoint of an earlier
version. Must not know what a record says, nor who should hold a bucket: ``rules.takes`` does.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from http import HTTPStatus
from secrets import token_hex
from typing import Any, Final, assert_never

from worklease.api.names import BUCKET_LABEL, GROUP
from worklease.cluster.client import (
    GIVEN_UP,
    METADATA,
    METADATA_LIST,
    Done,
    KubernetesApi,
    NoAnswer,
    NotDone,
    PatchType,
    Refused,
    Reply,
)
from worklease.cluster.paging import list_pages
from worklease.rules.buckets import BUCKETS
from worklease.rules.tenure import CALL_TIMEOUT, VACANT
from worklease.rules.words import one_line

FORMAT: Final = 2
"""The format of the records and of what stands beside them. The checkpoint before the buckets counts as the first."""

FORMER_SILENCE: Final = 15.0
"""Seconds without a write after which an earlier version is taken to have ended: it writes every ten seconds at least,
while there is a lease."""

_HOLDER: Final = f"{GROUP}/holder"
_EPOCH: Final = f"{GROUP}/epoch"
_TAKEN: Final = f"{GROUP}/taken"
_FORMAT: Final = f"{GROUP}/format"
_WRITE: Final = f"{GROUP}/write"
"""Differs in each write."""


class NewerFormat(Exception):
    """A newer version wrote the bucket: this one would misread its records, and must not start."""


@dataclass(frozen=True, slots=True)
class BucketHead:
    """What stands beside the records of a bucket."""

    holder: str = VACANT
    epoch: int = 0
    taken: float | None = None
    """When the bucket was last taken from a holder that may live, in seconds since the epoch; None: never."""
    version: str | None = field(default=None, compare=False)
    """The bucket's resource version, where a list showed it."""


@dataclass(frozen=True, slots=True)
class StoredBucket:
    """A bucket as it was read."""

    version: str | None
    """Its resource version; None: it does not exist."""
    head: BucketHead
    records: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Overtaken:
    """The bucket was written by somebody else since it was read: nothing was changed."""


@dataclass(frozen=True, slots=True)
class WrittenBucket:
    """The bucket was written, and has that version."""

    version: str


class BucketStore:
    """All buckets, in one namespace."""

    def __init__(self, api: KubernetesApi, namespace: str) -> None:
        self._api = api
        self._path = f"/api/v1/namespaces/{namespace}/configmaps"
        self._formers: dict[int, tuple[str | None, float]] = {}
        """The version of each ConfigMap of an earlier version, and since when it was seen unchanged."""

    async def read(self, bucket: int) -> StoredBucket | NotDone:
        """Return a bucket by a consistent read.

        Raises:
            NewerFormat: A newer version wrote it.
        """
        name = bucket_name(bucket)
        match await self._api.call("GET", f"{self._path}/{name}", timeout=CALL_TIMEOUT):
            case Done(body):
                return _stored(name, body)
            case Refused(status=HTTPStatus.NOT_FOUND):
                return StoredBucket(None, BucketHead(), {})
            case Refused(_, message) | NoAnswer(message):
                return NotDone(f"the bucket {self._path}/{name} could not be read: {message}")
            case reply:
                assert_never(reply)

    async def look(self) -> Mapping[int, BucketHead] | NotDone:
        """Return the heads of all buckets, as a list has them: it may lag behind, and an epoch tells by how much."""
        found: dict[int, BucketHead] = {}
        query = {"labelSelector": BUCKET_LABEL, "resourceVersion": "0"}
        async for page in list_pages(self._api, self._path, query, accept=METADATA_LIST):
            if isinstance(page, Refused | NoAnswer):
                return NotDone(f"the buckets could not be listed: {page.message}")
            for body in page:
                number = _number((body["metadata"].get("labels") or {}).get(BUCKET_LABEL))
                if number is not None and number in range(BUCKETS):
                    head = _head(body["metadata"].get("annotations") or {})
                    found[int(number)] = replace(head, version=body["metadata"]["resourceVersion"])
        return found

    async def write(
        self, bucket: int, version: str | None, head: BucketHead, changed: Mapping[str, str | None]
    ) -> WrittenBucket | Overtaken | Refused | NoAnswer:
        """Write the head and the changed records, if the bucket has still that version; None as a record drops it.

        Each write gives the bucket another version, whether or not anything else in it changes. A bucket that does not
        exist has no version, and is made. ``NoAnswer`` leaves open whether it was written: who reads it then, or is
        overtaken by its own write, knows.
        """
        name = bucket_name(bucket)
        # The API server does not write what changes nothing, and gives it no new version. Whoever read the bucket
        # before could then still take it, though its holder has just shown that it lives.
        metadata: dict[str, Any] = {"annotations": _annotations(head) | {_WRITE: token_hex(8)}}
        if version is None:
            records = {uid: record for uid, record in changed.items() if record is not None}
            labels = {"app.kubernetes.io/managed-by": "worklease-operator", BUCKET_LABEL: str(bucket)}
            reply = await self._make(metadata | {"name": name, "labels": labels}, records)
        else:
            body = {"metadata": metadata | {"resourceVersion": version}, "data": dict(changed)}
            path = f"{self._path}/{name}"
            # Else the answer would be the whole ConfigMap, hundreds of kilobytes for each write.
            reply = await self._api.call(
                "PATCH", path, query=GIVEN_UP, body=body, patch=PatchType.MERGE, accept=METADATA, timeout=CALL_TIMEOUT
            )
        match reply:
            case Done(answer):
                return WrittenBucket(str(answer["metadata"]["resourceVersion"]))
            case Refused(status=HTTPStatus.CONFLICT):
                return Overtaken()
            case Refused(status=HTTPStatus.NOT_FOUND) if version is not None:
                return Overtaken()  # somebody deleted it; who reads it sees that nobody holds it
            case Refused() | NoAnswer():
                return reply
            case _:
                assert_never(reply)

    async def _make(self, metadata: Mapping[str, Any], records: Mapping[str, str]) -> Reply:
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": dict(records)}
        return await self._api.call(
            "POST", self._path, query=GIVEN_UP, body=body, accept=METADATA, timeout=CALL_TIMEOUT
        )

    # --- The checkpoint of an earlier version --------------------------------------------------------------------

    async def list_formers(self) -> Collection[int] | NotDone:
        """Return the buckets of which an earlier version has made a ConfigMap, by a consistent list."""
        names = {former_name(bucket): bucket for bucket in range(BUCKETS)}
        found: list[int] = []
        async for page in list_pages(self._api, self._path, {}, accept=METADATA_LIST):
            if isinstance(page, Refused | NoAnswer):
                return NotDone(f"the ConfigMaps of an earlier version could not be listed: {page.message}")
            found += [names[body["metadata"]["name"]] for body in page if body["metadata"]["name"] in names]
        return found

    async def take_former(
        self, bucket: int, formers: Collection[int] | NotDone, *, now: float, utc: datetime
    ) -> StoredBucket | Overtaken | NotDone:
        """Make a bucket of the checkpoint of an earlier version, empty that one, and return the bucket.

        What was written a short time ago is not taken: its process may run still, and two would rob each other.
        A bucket that exists is left as it is. The former ConfigMap is emptied only if nobody has written it since it
        was read: who writes it is a process of that version, which must have ended before. If it were not emptied, that
        version would go on from old values after a rollback, and give up leases.

        Args:
            bucket: The bucket.
            formers: What ``list_formers`` returned since the bucket was needed.
            now: The time by the loop's clock.
            utc: The time of day.

        Raises:
            NewerFormat: A newer version wrote the bucket.
        """
        if isinstance(formers, NotDone):
            return formers
        if bucket not in formers:
            return StoredBucket(None, BucketHead(), {})
        found = await self.read(bucket)
        if isinstance(found, NotDone):
            return found
        former = await self._read_former(bucket)
        if isinstance(former, NotDone):
            return former
        if found.version is None:
            if former.records and not self._is_silent(bucket, former, now, utc):
                return NotDone(
                    f"{former_name(bucket)} was written within the last {FORMER_SILENCE:.0f} s: if an operator of an "
                    "earlier version runs still, end it"
                )
            written = await self.write(bucket, None, found.head, former.records)
            if isinstance(written, Refused | NoAnswer):
                return NotDone(f"the bucket {self._path}/{bucket_name(bucket)} was not made: {written.message}")
            if isinstance(written, Overtaken):
                return written
            found = StoredBucket(written.version, found.head, former.records)
        problem = await self._empty(bucket, former) if former.records else None
        return found if problem is None else problem

    async def find_former(self, *, utc: datetime) -> str | None:
        """Return which ConfigMap shows that a process of an earlier version runs; None if none does."""
        formers = await self.list_formers()
        for bucket in () if isinstance(formers, NotDone) else formers:
            former = await self._read_former(bucket)
            if isinstance(former, NotDone) or not former.records or former.written is None:
                continue
            if utc - former.written <= timedelta(seconds=FORMER_SILENCE):
                return former_name(bucket)
        return None

    def _is_silent(self, bucket: int, former: "_FormerBucket", now: float, utc: datetime) -> bool:
        """Whether nobody has written an earlier version's ConfigMap for long enough, by its own time or by ours."""
        version, since = self._formers.get(bucket, (None, now))
        if version != former.version:
            self._formers[bucket] = (former.version, now)
            since = now
        is_old = former.written is not None and utc - former.written > timedelta(seconds=FORMER_SILENCE)
        return is_old or now - since >= FORMER_SILENCE

    async def _read_former(self, bucket: int) -> "_FormerBucket | NotDone":
        path = f"{self._path}/{former_name(bucket)}"
        match await self._api.call("GET", path, timeout=CALL_TIMEOUT):
            case Done(body):
                metadata = body["metadata"]
                times = (each.get("time") for each in metadata.get("managedFields") or ())
                written = max((datetime.fromisoformat(each) for each in times if each), default=None)
                return _FormerBucket(str(metadata["resourceVersion"]), dict(body.get("data") or {}), written)
            case Refused(status=HTTPStatus.NOT_FOUND):
                return _FormerBucket(None, {}, None)
            case Refused(_, message) | NoAnswer(message):
                return NotDone(f"the checkpoint {path} could not be read: {message}")
            case reply:
                assert_never(reply)

    async def _empty(self, bucket: int, former: "_FormerBucket") -> Overtaken | NotDone | None:
        path = f"{self._path}/{former_name(bucket)}"
        body = {"metadata": {"resourceVersion": former.version}, "data": dict.fromkeys(former.records)}
        match await self._api.call(
            "PATCH", path, body=body, patch=PatchType.MERGE, accept=METADATA, timeout=CALL_TIMEOUT
        ):
            case Done() | Refused(status=HTTPStatus.NOT_FOUND):
                return None
            case Refused(status=HTTPStatus.CONFLICT):
                return Overtaken()
            case Refused(_, message) | NoAnswer(message):
                return NotDone(f"the checkpoint {path} was not emptied: {message}")
            case reply:
                assert_never(reply)


@dataclass(frozen=True, slots=True)
class _FormerBucket:
    """A ConfigMap in which an earlier version keeps the records of a bucket."""

    version: str | None
    """Its resource version; None: it does not exist."""
    records: Mapping[str, str]
    written: datetime | None
    """When it was last written, by the API server's clock, if that is known."""


def bucket_name(bucket: int) -> str:
    """Return the name of a bucket's ConfigMap. An earlier version does not read it."""
    return f"worklease-bucket-{bucket:02}"


def former_name(bucket: int) -> str:
    """Return the name of the ConfigMap in which an earlier version keeps the records of a bucket."""
    return f"worklease-checkpoint-{bucket:02}"


def _annotations(head: BucketHead) -> dict[str, str | None]:
    return {
        _HOLDER: head.holder,
        _EPOCH: str(head.epoch),
        _TAKEN: None if head.taken is None else repr(head.taken),
        _FORMAT: str(FORMAT),
    }


def _stored(name: str, body: Mapping[str, Any]) -> StoredBucket:
    metadata = body["metadata"]
    shown: Mapping[str, str] = metadata.get("annotations") or {}
    found = shown.get(_FORMAT, str(FORMAT))
    if found != str(FORMAT):
        raise NewerFormat(
            f"the ConfigMap {name} has format {one_line(found)}, and this version of worklease reads format {FORMAT}: "
            "install the version that wrote it, or a newer one"
        )
    return StoredBucket(str(metadata["resourceVersion"]), _head(shown), dict(body.get("data") or {}))


def _head(shown: Mapping[str, str]) -> BucketHead:
    epoch = int(_number(shown.get(_EPOCH)) or 0)
    return BucketHead(shown.get(_HOLDER, VACANT), epoch, _number(shown.get(_TAKEN)))


def _number(text: str | None) -> float | None:
    """Return a number that an annotation has; None if it has none, as when somebody edited it."""
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None
