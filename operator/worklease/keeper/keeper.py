"""The keeper: takes over what the watches report of resources and pods, for their turns.

Owns what is kept. Must not contain rules, and must not await: the turns start what takes time.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final

from worklease.api.models import InvalidResource, WorkLease
from worklease.api.names import BUCKET_LABEL, FINALIZER, NOWHERE, Address, Reference, pod_address
from worklease.clocks import ClockPair
from worklease.cluster.pod_reading import read_pod
from worklease.cluster.status_writer import Urgency
from worklease.keeper import record
from worklease.keeper.calls import Clients
from worklease.keeper.fleet import Fleet
from worklease.keeper.kept import Kept, LeaseOptions
from worklease.keeper.others import Other, left, read_other
from worklease.keeper.pod_index import PodIndex
from worklease.keeper.resume import resume, without_status
from worklease.keeper.turns import Turns
from worklease.rules.acknowledging import AckVerdict
from worklease.rules.acts import SOON
from worklease.rules.beats import beat_at_once
from worklease.rules.buckets import BUCKETS, bucket_of
from worklease.rules.clock_error import jumped
from worklease.rules.conditions import invalid
from worklease.rules.installations import Whose
from worklease.rules.lease import Lease
from worklease.rules.reasons import Kind
from worklease.rules.situation import RECHECK, Asked
from worklease.rules.succession import Succession

TIMER_GRACE: Final = 1.0
"""Seconds after which a resource's turns begin without its timer: Kopf may not be running."""

_log = logging.getLogger(__name__)


class Keeper:
    """All kept leases of this process."""

    def __init__(
        self, clients: Clients, options: LeaseOptions, clock: Callable[[], float], wall: Callable[[], ClockPair]
    ) -> None:
        self._clients = clients
        self._options = options
        self._clock = clock
        self._wall = wall
        self._fleet = Fleet()
        self._pod_index = PodIndex()
        self._successions: dict[int, Succession] = {}
        self._taken: set[int] = set()
        self._unowned: dict[str, str] = {}
        """Of each pod whose resource vanished while no process here kept it: the uid of that resource."""
        self.has_taken = asyncio.Event()
        """Is set while there are buckets whose resources are to be found."""
        self.has_unused = asyncio.Event()
        """Is set when a resource with a workspace is over: its session's volume may not be used any more."""
        self._turns = Turns(
            clients,
            self._fleet,
            self._pod_index,
            options,
            clock=clock,
            wall=wall,
            forget=self._forget,
            note_unused=self.has_unused.set,
        )

    # --- Resources ---------------------------------------------------------------------------------------------

    def see(self, body: Mapping[str, Any]) -> None:
        """Take over a resource as the API server has it now."""
        metadata = body["metadata"]
        kept = self._fleet.get(metadata["uid"])
        if (kept is None and not self._holds(metadata["uid"])) or not self._is_ours(body, kept):
            self._fleet.note_other(read_other(body))
            return
        self._fleet.forget_other(metadata["uid"])
        if kept is not None:
            self._clients.status.saw(kept.reference, metadata["resourceVersion"])
            if not _is_news(kept.resource, metadata):
                return
        try:
            resource = WorkLease.parse(body)
        except InvalidResource as error:
            self._refuse(body, str(error))
            if metadata.get("deletionTimestamp") is not None:
                self._end_unread(kept, metadata)
            return
        if kept is None:
            self._keep(resource, metadata["resourceVersion"])
        else:
            self._edit(kept, resource)

    def _is_ours(self, body: Mapping[str, Any], kept: Kept | None) -> bool:
        """Whether this installation keeps a resource; what it keeps no more is let go of in silence."""
        uid = body["metadata"]["uid"]
        is_recorded = self._is_recorded(uid)
        verdict = self._clients.installations.judge(body, is_kept=kept is not None, is_recorded=is_recorded)
        if verdict is Whose.OURS:
            return True
        if kept is not None:
            _log.warning("another installation keeps this resource now, so it is left alone %s", kept.about)
            self._leave(kept)
        if verdict is Whose.ANOTHERS and is_recorded:
            self._clients.checkpoint.drop(uid)
        return False

    def see_named(self, body: Mapping[str, Any]) -> None:
        """Take over a resource that has a name now, and begin its turns: a watch reported it long ago."""
        self.see(body)
        self.carry(body["metadata"]["uid"])

    def _keep(self, resource: WorkLease, version: str) -> None:
        recorded = self._clients.checkpoint.recall(resource.uid)
        kept = resume(resource, self._options, recorded, self._wall(), self._clock())
        kept.calls.has_finalizer = FINALIZER in resource.finalizers
        kept.calls.is_labelled = BUCKET_LABEL in resource.labels
        taken = self._clients.installations.succession(resource.uid)
        if recorded is not None or kept.lease.sent is not None:
            kept.tenancy.succession = taken or self._successions.get(kept.tenancy.bucket)
        self._clients.status.saw(kept.reference, version)
        self._fleet.add(kept)
        is_resumed = kept.lease.sent is not None
        _log.info("resource %s %s", "resumed" if is_resumed else "found", kept.about)
        if is_resumed:
            self.carry(resource.uid)  # its lease runs already
        else:
            asyncio.get_running_loop().call_later(TIMER_GRACE, self.carry, resource.uid)

    def _edit(self, kept: Kept, resource: WorkLease) -> None:
        """Take over a newer version of a resource; its turn follows the spec."""
        kept.resource = resource if kept.published.final else without_status(resource)
        # Never back to False: an event may be older than the operator's own write.
        kept.calls.has_finalizer = kept.calls.has_finalizer or FINALIZER in resource.finalizers
        is_finished = kept.calls.is_done and kept.lease.end is not None
        if is_finished and resource.spec.ttl_seconds_after_finished is not None:
            kept.calls.is_done = False  # it was finished and to be kept; now it is to be deleted
            self.carry(resource.uid)
        kept.turn.add()

    def _end_unread(self, kept: Kept | None, metadata: Mapping[str, Any]) -> None:
        """Follow the deletion of a resource that cannot be read: a kept lease stays as it was, the deletion goes on."""
        if kept is not None:
            kept.resource = replace(kept.resource, deletion_timestamp=self._wall().utc)
            kept.turn.add()
        elif FINALIZER in (metadata.get("finalizers") or ()):
            self._turns.remove_from_unreadable(_reference(metadata))

    def _refuse(self, body: Mapping[str, Any], message: str) -> None:
        """Publish why the operator cannot act on a spec that the API server accepted."""
        metadata = body["metadata"]
        reference = _reference(metadata)
        _log.warning("resource invalid namespace=%s name=%s: %s", reference.namespace, reference.name, message)
        conditions = [
            {
                "type": condition.kind.value,
                "status": condition.verdict.value,
                "reason": condition.reason.value,
                "message": message,
                "lastTransitionTime": metadata["creationTimestamp"],
            }
            for condition in invalid(message)
        ]
        self._clients.status.publish(reference, {"conditions": conditions}, Urgency.CHANGE)

    def unsee(self, uid: str) -> None:
        """Forget a resource that does not exist any more.

        Whoever took it away, what was held for it is fenced: no beat follows, and its pods are told to end before the
        lease can. Only then it is forgotten.
        """
        kept = self._fleet.get(uid)
        if kept is not None and kept.newest_lease().held and kept.pods.is_any_at_work:
            self._keep_vanished(kept)
            return
        if kept is None and self._look_for_pods_of_vanished(uid):
            self._clients.installations.forget(uid)
            self._fleet.forget_other(uid)
            return
        self._forget(uid)

    def _is_recorded(self, uid: str) -> bool:
        return self._clients.checkpoint.recall(uid) is not None

    def _look_for_pods_of_vanished(self, uid: str) -> bool:
        """Look for the pods of a resource that vanished unseen, and return whether it had any.

        Its record names them, and their labels the item.
        """
        found = record.read(self._clients.checkpoint.recall(uid))
        if found is None or found.sent is None or not found.bound:
            return False
        for pod, _ in found.bound:
            self._unowned[pod] = uid
            self._fence_vanished(pod)
        return True

    def _fence_vanished(self, pod: str) -> None:
        """Keep a lease of which only the record and a pod are left, until the pod has ended at the fence."""
        item = self._pod_index.item_of(pod)
        uid = self._unowned.get(pod)
        if uid is None or item == NOWHERE:
            return
        del self._unowned[pod]
        is_held_again = any(each.lease.held for each in self._fleet.of_item(item))
        if self._fleet.get(uid) is not None or is_held_again or not self._holds(uid):
            return
        resource = WorkLease.vanished(uid, *item, self._wall().utc)
        kept = resume(resource, self._options, self._clients.checkpoint.recall(uid), self._wall(), self._clock())
        is_anothers = any(
            each.uid == pod and self._fleet.is_anothers(kept, each) for each in self._pod_index.pods_of(item)
        )
        if kept.lease.held and not is_anothers:
            self._fleet.add(kept)
            self._keep_vanished(kept)

    def _keep_vanished(self, kept: Kept) -> None:
        """Go on with a lease without its resource: no beat follows, and its pods are told to end before it can."""
        _log.warning("resource vanished while its lease was held: its pods end before the lease does %s", kept.about)
        kept.is_vanished = kept.calls.has_finalizer = True
        kept.observed.append(partial(replace, suspended=True, reprieve=None))
        kept.turn.add()
        self.carry(kept.resource.uid)

    def _forget(self, uid: str) -> None:
        self._clients.status.forget(uid)
        self._clients.installations.forget(uid)
        self._fleet.forget_other(uid)
        kept = self._fleet.remove(uid)
        if kept is None:
            return
        self._clients.checkpoint.drop(uid)
        kept.calls.is_done = True
        kept.turn.end()
        _log.info("resource gone %s", kept.about)

    def count(self, there: Collection[str]) -> None:
        """Follow what an earlier process recorded of resources that a list of all resources does not have.

        What may still be at work for them is fenced; their records are dropped when they are old.
        """
        known = {*there, *(kept.resource.uid for kept in self._fleet)}
        for uid in self._clients.checkpoint.recorded() - known:
            self._look_for_pods_of_vanished(uid)
        self._clients.checkpoint.drop_unknown(known)

    # --- Buckets that come and go --------------------------------------------------------------------------------

    def _holds(self, uid: str) -> bool:
        return self._clients.tenures.holds(bucket_of(uid))

    def take(self, bucket: int, records: Mapping[str, str], succession: Succession) -> None:
        """Begin with the leases of a bucket, from its records; nothing of an earlier tenure goes on."""
        self._share()
        self._clients.checkpoint.take(bucket, records)
        self._successions[bucket] = succession
        self._want_found(bucket)

    def lose(self, bucket: int) -> None:
        """Let go of the leases of a bucket, which is another process's; nothing is sent for them any more."""
        for kept in self._kept_in(bucket):
            self._leave(kept)
        self._clients.checkpoint.leave(bucket)
        self._clients.installations.leave(bucket)
        self._share()

    def _share(self) -> None:
        """Use of the budgets what this process's part of the buckets is; a part that is not zero, as rates are not."""
        held = sum(map(self._clients.tenures.holds, range(BUCKETS)))
        for each in (self._clients.budget, self._clients.key_probes, self._clients.status):
            each.use(max(1, held) / BUCKETS)

    def confirmed(self, bucket: int) -> None:
        """Do what was put off while the process was not the valid holder; begin again what was let go of in silence."""
        for kept in self._kept_in(bucket):
            tenancy = kept.tenancy
            tenancy.adopted = None
            if tenancy.is_silent:
                self._leave(kept)
                self._want_found(bucket)
            elif tenancy.is_put_off:
                tenancy.is_put_off = False
                kept.turn.add()

    def unwritten(self, bucket: int, *, everything: bool) -> Mapping[str, str | None]:
        """Return the records to write at a hand-over; or all, where the ConfigMap is gone and is made again."""
        for kept in self._kept_in(bucket):
            if kept.observed:
                self._turns.remember(kept)
        return self._clients.checkpoint.unwritten(bucket, everything=everything)

    def hasten(self, bucket: int) -> None:
        """Send the beats of a bucket now that would come due while it is handed over."""
        now = self._clock()
        for kept in self._kept_in(bucket):
            if kept.lease.held and now < kept.lease.due < now + SOON and "beat" not in kept.calls.under_way:
                kept.observed.append(partial(beat_at_once, now=now))
                kept.turn.take_now()

    def pop_taken(self) -> frozenset[int]:
        """Return the buckets that were taken since the last call."""
        taken, self._taken = frozenset(self._taken), set()
        self.has_taken.clear()
        return taken

    def others_in(self, buckets: Collection[int]) -> list[Other]:
        """Return the resources of these buckets that are noted as another process's."""
        return self._fleet.others_in(buckets)

    def is_any_unlisted(self, buckets: Collection[int]) -> bool:
        """Whether these buckets have the record of a resource that no list had: it vanished, perhaps."""
        recorded = self._clients.checkpoint.recorded()
        return any(bucket_of(uid) in buckets and self._fleet.get(uid) is None for uid in recorded)

    def is_any_unfound(self, buckets: Collection[int]) -> bool:
        """Whether a resource is still noted as another process's though this one holds its bucket."""
        others = self.others_in({bucket for bucket in buckets if self._clients.tenures.holds(bucket)})
        return any(not self._clients.installations.knows(each.reference.uid) for each in others)

    def _want_found(self, bucket: int) -> None:
        self._taken.add(bucket)
        self.has_taken.set()

    def _kept_in(self, bucket: int) -> list[Kept]:
        return [kept for kept in self._fleet if kept.tenancy.bucket == bucket]

    def _leave(self, kept: Kept) -> None:
        uid = kept.resource.uid
        self._turns.leave(kept)
        self._clients.status.forget(uid)
        self._fleet.remove(uid)
        if not kept.is_vanished:
            self._fleet.note_other(left(kept))

    # --- Pods --------------------------------------------------------------------------------------------------

    def see_pod(self, body: Mapping[str, Any]) -> None:
        """Take over a pod that carries the labels of a work item."""
        pod = read_pod(body)
        item, before = self._pod_index.put(pod, pod_address(body))
        for kept in self._fleet.of_item(item, before):
            if kept.item == item or pod.uid in kept.pods.bound:
                self._turns.bind(kept, pod, self._clock())
                kept.turn.add()
        if pod.uid in self._unowned:
            self._fence_vanished(pod.uid)

    def unsee_pod(self, body: Mapping[str, Any]) -> None:
        """Look for a pod that a watch reports as deleted: it may only have lost a label.

        The event has its last state, which says how it ended.
        """
        pod = read_pod(body)
        for kept in self._fleet.of_item(self._pod_index.item_of(pod.uid)):
            if pod.uid in kept.pods.bound and not kept.pods.bound[pod.uid].gone:
                kept.bind(pod, self._clock())
        self.lose_pod(pod.uid)

    def lose_pod(self, uid: str) -> None:
        """Look for a pod that no longer appears under the labels that it had."""
        for kept in self._fleet.of_item(self._pod_index.remove(uid)):
            self._turns.look_at(kept, uid)

    def count_pods(self, there: Collection[str]) -> None:
        """Look for pods that an earlier process knew and that a list of all pods does not have."""
        for kept in self._fleet:
            for pod in tuple(kept.pods.bound.values()):
                if pod.is_remembered and pod.uid not in there:
                    self._turns.look_at(kept, pod.uid)

    # --- What other modules ask --------------------------------------------------------------------------------

    def carry(self, uid: str) -> None:
        """Begin to take a resource's turns, one after the other, until it is done; no change if they have begun."""
        self._turns.carry(uid)

    async def close(self) -> None:
        """Wait shortly for the calls under way, then cancel them; the leases are left to the next process."""
        await self._turns.close()

    def wake_all(self) -> None:
        """Have every resource take a turn now."""
        for kept in self._fleet:
            kept.turn.add()

    def note_jump(self, seconds: float) -> None:
        """Have a beat tell of each held lease, as after a start: the machine may have been paused for so long.

        A beat under way may have been sent before the pause, so its answer would be dated too late: it is broken off.
        """
        now = self._clock()
        for kept in self._fleet:
            if not kept.newest_lease().held:
                continue
            calls = kept.calls
            calls.graceful_stop = calls.forced_stop = Asked(now - RECHECK, in_doubt=now)
            if "beat" in calls.under_way and "beat" not in calls.unsent:
                calls.under_way["beat"].cancel()
            kept.observed.append(partial(jumped, seconds=seconds, now=now))
            kept.turn.add()

    def overdue(self) -> float:
        """Return by how many seconds the most overdue of all turns is late."""
        next_turn = min((kept.turn.due for kept in self._fleet), default=math.inf)
        return max(0.0, asyncio.get_running_loop().time() - min(next_turn, self._turns.due))

    def acknowledgement(self, uid: str) -> AckVerdict | None:
        """Return what is known of a resource's acknowledgement, by this process or an earlier one; None: nothing."""
        kept = self._fleet.get(uid)
        if kept is None:
            found = record.read(self._clients.checkpoint.recall(uid))
            if found is None:
                return None
            return AckVerdict.OURS if found.ack is None else found.ack[0]
        if kept.lease.sent is not None:
            return AckVerdict.OURS
        return None if kept.calls.ack is None else kept.calls.ack.verdict

    def open_sessions(self) -> frozenset[Address]:
        """Return the sessions, by namespace, of which a resource is not finished, as far as is known here."""
        return self._fleet.open_sessions()

    def namespaces_with_workspaces(self) -> frozenset[str]:
        """Return the namespaces in which a resource of this process asks for a workspace."""
        return self._fleet.workspaces()

    def leases(self) -> Iterator[tuple[Lease, str]]:
        """Return each kept lease, and the reason of its ``LeaseHeld`` as it was last published."""
        published = [(kept.lease, kept.published.reason(Kind.LEASE_HELD)) for kept in self._fleet]
        return ((held, reason) for held, reason in published if reason is not None)


def _reference(metadata: Mapping[str, Any]) -> Reference:
    return Reference(metadata["namespace"], metadata["name"], metadata["uid"])


def _is_news(known: WorkLease, metadata: Mapping[str, Any]) -> bool:
    """Whether something changed that the operator acts on; the echo of its own status write is no news.

    A version older than the known one is no news: a list or a timer may bring one. A generation only grows, and a
    deletion is never taken back.
    """
    is_deleting = metadata.get("deletionTimestamp") is not None
    was_deleting = known.deletion_timestamp is not None
    if metadata.get("generation", known.generation) < known.generation or (was_deleting and not is_deleting):
        return False
    return (
        metadata.get("generation") != known.generation
        or is_deleting != was_deleting
        or tuple(metadata.get("finalizers") or ()) != known.finalizers
    )
