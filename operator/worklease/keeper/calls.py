"""What the calls for kept resources share: the clients that they use, and how a call is cancelled.

Owns these only. The calls themselves are in ``work_calls``, ``pod_calls`` and ``resource_calls``: each is a coroutine
that ends when its outcome is noted in what is kept. None starts anything by itself, and none decides: the turn does.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from worklease.clocks import ClockPair
from worklease.cluster.checkpoint import Checkpoint
from worklease.cluster.client import KubernetesApi, NotDone
from worklease.cluster.credentials import Credentials
from worklease.cluster.pods import Pods
from worklease.cluster.shared_pod_list import SharedPodList
from worklease.cluster.status_writer import StatusWriter
from worklease.keeper.kept import Kept
from worklease.keeper.named_resources import Ownership
from worklease.keeper.permission import Permission
from worklease.rules.acts import Act, Leave
from worklease.telemetry import Publisher
from worklease.work_api.budget import Budget
from worklease.work_api.client import WorkApi
from worklease.work_api.key_probes import KeyProbes
from worklease.work_api.queue import QueueCalls
from worklease.work_api.shared_list import SharedList

RETRY: Final = 1.0
"""Seconds before a look at a pod, or a write to the resource itself, is repeated."""

LONGEST_RETRY: Final = 10.0
"""Seconds between such repetitions at most."""

STATUS_TIMEOUT: Final = 10.0
"""Seconds for which a pod that ended by itself stays until the status shows its end; nothing runs in it any more. A
resource that is over waits as long until its record is removed."""


NOT_VALID: Final = "this process could not show in time that it lives, so another one may keep the lease by now"
"""Why an act is put off that cannot be undone."""


@dataclass(slots=True, kw_only=True)
class Clients:
    """Everything that the keeper's calls use."""

    kubernetes: KubernetesApi
    work_api: WorkApi
    queue: QueueCalls
    credentials: Credentials
    pods: Pods
    status: StatusWriter
    budget: Budget
    key_probes: KeyProbes
    shared_list: SharedList
    shared_pod_list: SharedPodList
    checkpoint: Checkpoint
    tenures: Permission
    installations: Ownership
    publisher: Publisher


class KeptCalls:
    """The calls of one kind for kept resources; ``secret`` names the Secret of a resource: namespace and name."""

    def __init__(
        self,
        clients: Clients,
        clock: Callable[[], float],
        wall: Callable[[], ClockPair],
        secret: Callable[[Kept], tuple[str, str]],
    ) -> None:
        self._clients = clients
        self._clock = clock
        self._wall = wall
        self._secret = secret

    def _may(self, act: Act, kept: Kept) -> bool:
        """Whether an act may begin now; it is asked in the same step in which the request is sent."""
        return self._clients.tenures.may(act, kept.tenancy.bucket) is Leave.YES

    async def _may_after_reading(self, act: Act, kept: Kept) -> bool:
        """Whether an act may begin now; where that depends on it, the bucket is read first."""
        leave = self._clients.tenures.may(act, kept.tenancy.bucket)
        if leave is Leave.AFTER_READING:
            return await self._clients.tenures.still_holds(kept.tenancy.bucket)
        return leave is Leave.YES

    async def _commit(self, kept: Kept) -> NotDone | None:
        """Write what a restart needs into the checkpoint, and wait for it; return what kept it from being written."""
        now = self._clock()
        text = kept.record(trying=None, wall=self._wall(), now=now)
        return await self._clients.checkpoint.commit(kept.reference, text)

    async def _commit_claim(self, kept: Kept) -> NotDone | None:
        """Write that a first claim is sent next, and wait for it; a claim that is not sent leaves no trace."""
        checkpoint, now = self._clients.checkpoint, self._clock()
        former = checkpoint.recall(kept.resource.uid)
        text = kept.record(trying=now, wall=self._wall(), now=now)
        problem = await checkpoint.commit(kept.reference, text)
        if problem is not None and former is None:
            checkpoint.drop(kept.resource.uid)
        elif problem is not None and former is not None:
            checkpoint.put(kept.reference, former, within=kept.lease.ttl)
        return problem


class Cancellable:
    """Marks a call as one that can be cancelled, until it calls what ``with`` returns: it sends something then."""

    __slots__ = ("_calls", "_what")

    def __init__(self, kept: Kept, what: str) -> None:
        self._calls, self._what = kept.calls, frozenset((what,))

    def __enter__(self) -> Callable[[], None]:
        self._calls.unsent |= self._what
        return self._sent

    def __exit__(self, *_: object) -> None:
        self._calls.unsent -= self._what

    def _sent(self) -> None:
        self._calls.unsent -= self._what
