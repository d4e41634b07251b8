"""The state of one pool in memory: the resource, its leases as far as they are known, its polls and its breaker.

Owns what is remembered. Must not decide: ``rules.pool`` does, by what ``state`` gathers. All times are seconds since
the epoch, by a clock that never steps.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from math import inf
from typing import Any

from pydantic import SecretStr

from worklease.api.names import POOL_FINALIZER, PoolReference
from worklease.api.pool_models import WorkPool
from worklease.cluster.pool_objects import template_digest
from worklease.rules.acts import Act
from worklease.rules.breaker import CLOSED, Breaker
from worklease.rules.pool import Polls, PoolCensus, PoolState, TemplateTry
from worklease.rules.pool_reasons import PoolReason
from worklease.rules.queue import QueueNumbers
from worklease.telemetry import AboutPool


@dataclass(slots=True, kw_only=True)
class Upkeep:
    """When a pool's own affairs are looked after next, and what came of them; only its turns write it."""

    refresh_at: float = 0.0
    """When the pool itself is read again."""
    list_at: float = 0.0
    """When its leases are listed again."""
    stats_at: float = 0.0
    """When the queue is counted again."""
    key: SecretStr | None = None
    """The key of the last look, by which another one is told from it."""
    queue: QueueNumbers | None = None
    queue_observed: float | None = None
    without_token: set[str] = field(default_factory=set)
    """The uids of finished leases whose Secret is gone."""


@dataclass(slots=True, kw_only=True)
class PublishedPool:
    """What was last published of a pool; only its turns write it."""

    status: Mapping[str, Any] = field(default_factory=dict)
    """The status that was written, without the times that change with each poll."""
    at: float = 0.0
    reason: PoolReason | None = None
    message: str = ""
    is_ready: bool = True
    """Whether that reason keeps the pool from its work."""
    full_told: float = float("-inf")
    """When an event said last that the pool is full."""
    flips: dict[str, tuple[str, datetime]] = field(default_factory=dict)
    """Each condition's last status, and since when."""


@dataclass(slots=True, kw_only=True)
class KeptPool:
    """One pool. Only its own turns change it, and what the watches report of it."""

    resource: WorkPool
    census: PoolCensus = field(default_factory=PoolCensus)
    polls: Polls = field(default_factory=Polls)
    breaker: Breaker = CLOSED
    tried: TemplateTry = field(default_factory=TemplateTry)
    proven_template: str | None = None
    """The digest of the last pod template of which a sandbox was ready."""
    may_act: Callable[[Act], bool] = lambda _: True
    """Whether this process may do something for the pool now: it holds the pool's bucket, and is valid."""
    began: Callable[[], float] = lambda: -inf
    """When its tenure of the pool's bucket began; minus infinity: no other process had the bucket before."""
    is_served: bool = False
    """Whether it took a turn for the pool in this tenure."""
    tenure: float = -inf
    """When the tenure of its last turn began."""
    problem: str | None = None
    """Why the newest version of the resource cannot be read; the one before is kept."""
    has_key: bool = True
    kubernetes_answers: bool = True
    problem_of_writes: str = ""
    """Why the last WorkLease was not made."""
    is_namespace_ending: bool = False
    other_workers: int = 0
    is_poll_in_flight: bool = False
    is_item_in_hand: bool = False
    last_poll: float | None = None
    last_item: float = 0.0
    taken: dict[str, float] = field(default_factory=dict)
    """When the poll was answered that brought the item of a lease, by the lease's uid, until its sandbox is ready."""
    tokens: dict[str, float] = field(default_factory=dict)
    """When the poll was sent whose token this process wrote, by the lease's uid."""
    failed: set[str] = field(default_factory=set)
    """The uids of leases whose sandbox did not start, as the breaker counted it."""
    started: set[str] = field(default_factory=set)
    """The uids of leases whose sandbox was ready."""
    upkeep: Upkeep = field(default_factory=Upkeep)
    published: PublishedPool = field(default_factory=PublishedPool)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    """Is set when something happened that the pool's next turn should not wait for."""
    is_gone: bool = False

    @property
    def about(self) -> AboutPool:
        """The pool and its environment, for telemetry and log lines."""
        return AboutPool(*self.reference, self.resource.spec.environment_id)

    @property
    def reference(self) -> PoolReference:
        """The object that status and finalizer are written to."""
        return PoolReference(self.resource.namespace, self.resource.name, self.resource.uid)

    @property
    def has_finalizer(self) -> bool:
        """Whether the operator's finalizer is on the pool."""
        return POOL_FINALIZER in self.resource.finalizers

    def may_make(self) -> bool:
        """Whether this process may make a WorkLease, or the Secret of one, now."""
        return self.may_act(Act.MAKE_LEASE)

    def may_write(self) -> bool:
        """Whether this process may write the pool, or what belongs to it, now."""
        return self.may_act(Act.WRITE_RESOURCE)

    def state(self) -> PoolState:
        """Return all that the decision goes by."""
        spec, digest = self.resource.spec, template_digest(self.resource)
        return PoolState(
            max_concurrent=spec.max_concurrent,
            failures_before_pause=spec.limits.failures_before_pause,
            is_suspended=spec.suspend,
            problem=self.problem,
            is_deleting=self.resource.deletion_timestamp is not None,
            is_namespace_ending=self.is_namespace_ending,
            has_key=self.has_key,
            kubernetes_answers=self.kubernetes_answers,
            is_ours=self.may_act(Act.POLL),
            tenure=self.tenure,
            template=digest,
            is_template_proven=self.proven_template == digest or self.census.proves(digest),
            tried=self.tried,
            census=self.census,
            polls=self.polls,
            breaker=self.breaker,
            is_poll_in_flight=self.is_poll_in_flight,
            is_item_in_hand=self.is_item_in_hand,
            other_workers=self.other_workers,
        )
