"""The calls about a kept resource itself: its finalizer, and its deletion once it is finished for long enough.

Owns how the outcome of each is noted in what is kept. Must not start anything by itself, and must not decide: the turn
does.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, assert_never

from worklease.api.names import Reference
from worklease.cluster import finalizer
from worklease.cluster.client import (
    GIVEN_UP,
    WRITE_TIMEOUT,
    Done,
    Gone,
    KubernetesApi,
    NoAnswer,
    NotDone,
    Refused,
)
from worklease.keeper.calls import LONGEST_RETRY, RETRY, STATUS_TIMEOUT, Clients
from worklease.keeper.kept import Kept
from worklease.rules.acts import NOT_VALID, Act, Leave
from worklease.rules.backoff import backoff
from worklease.rules.buckets import bucket_of
from worklease.telemetry import About, Orphaned

_log = logging.getLogger(__name__)


class ResourceCalls:
    """The calls about resources."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients

    async def add_finalizer(self, kept: Kept) -> None:
        """Put the operator's finalizer on the resource; nothing is begun for one that is being deleted."""
        outcome = await self._write_finalizer(kept, finalizer.add)
        if not isinstance(outcome, Gone):
            kept.calls.has_finalizer = kept.calls.is_labelled = True
        elif kept.lease.held:
            await asyncio.sleep(RETRY)  # until a watch reports its deletion or its end
        else:
            kept.calls.is_done = True

    async def remove_finalizer(self, kept: Kept, left: str) -> None:
        """Remove the operator's finalizer: nothing is left to do for the resource, or nothing more can be done.

        The status shows first how it ended, so that its record is not needed any more. Then the record is removed: once
        the resource is gone, no later process would know whose record it was.
        """
        await self._clients.status.settle(kept.resource.uid, seconds=STATUS_TIMEOUT)
        try:
            async with asyncio.timeout(STATUS_TIMEOUT):
                problem = await self._clients.checkpoint.forget(kept.resource.uid)
        except TimeoutError:
            problem = NotDone("the checkpoint was not written in time")
        if problem is not None:
            _log.warning("the record of a resource that goes may stay for an hour %s: %s", kept.about, problem.message)
        if left:
            self._clients.publisher.publish(Orphaned(kept.about, left))
        await self._write_finalizer(kept, finalizer.remove)
        kept.calls.has_finalizer = False
        _log.info("finalizer removed %s", kept.about)

    async def remove_from_unreadable(self, reference: Reference) -> None:
        """Remove the finalizer from a resource that is being deleted and that this version cannot read."""
        about = About(*reference, environment_id="", work_id="")
        self._clients.publisher.publish(
            Orphaned(about, "its spec cannot be read by this version: its lease is left to lapse")
        )
        tries, may = 0, partial(self._may_write, bucket_of(reference.uid))
        while isinstance(outcome := await finalizer.remove(self._clients.kubernetes, reference, may), NotDone):
            if not self._clients.tenures.holds(bucket_of(reference.uid)):
                return  # it is another process's to remove
            _log.warning("finalizer not written, retrying name=%s: %s", reference.name, outcome.message)
            await asyncio.sleep(backoff(tries, RETRY, LONGEST_RETRY))
            tries += 1

    async def delete(self, kept: Kept) -> None:
        """Delete the resource, by its uid: it has been finished for as long as it was to be kept."""
        options = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": kept.resource.uid}}
        while not kept.calls.is_done:
            if not self._may_write(kept.tenancy.bucket):
                await asyncio.sleep(RETRY)
                continue
            match await self._clients.kubernetes.call(
                "DELETE", kept.reference.path, query=GIVEN_UP, body=options, timeout=WRITE_TIMEOUT
            ):
                case Done():
                    kept.calls.is_done = True
                    _log.info("resource deleted: it was finished for as long as it was to be kept %s", kept.about)
                case Refused() as refused if refused.is_absence or refused.is_by_uid:
                    kept.calls.is_done = True
                case Refused(_, message) | NoAnswer(message):
                    _log.warning("finished resource not deleted, retrying %s: %s", kept.about, message)
                    await asyncio.sleep(LONGEST_RETRY)
                case reply:
                    assert_never(reply)

    async def _write_finalizer(
        self,
        kept: Kept,
        write: Callable[
            [KubernetesApi, Reference, Callable[[], bool]], Coroutine[Any, Any, finalizer.Set | Gone | NotDone]
        ],
    ) -> finalizer.Set | Gone:
        tries, may = 0, partial(self._may_write, kept.tenancy.bucket)
        while True:
            is_allowed = may()
            outcome = await write(self._clients.kubernetes, kept.reference, may) if is_allowed else NotDone(NOT_VALID)
            if not isinstance(outcome, NotDone):
                return outcome
            _log.warning("finalizer not written, retrying %s: %s", kept.about, outcome.message)
            await asyncio.sleep(backoff(tries, RETRY, LONGEST_RETRY) if is_allowed else RETRY)
            tries += is_allowed

    def _may_write(self, bucket: int) -> bool:
        """Whether a resource of a bucket may be written now, by this process."""
        return self._clients.tenures.may(Act.WRITE_RESOURCE, bucket) is Leave.YES
