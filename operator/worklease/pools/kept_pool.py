"""The state of one pool in memory: the resource, its leases as far as they are known, its polls and its breaker.

Owns what is remembered. Must not decide: ``rules.pool`` does, by what ``state`` gathers. All times are seconds since
the epoch, by a clock that never steps.
"""

from dataclasses import dataclass, field

from worklease.api.pool_models import WorkPool
from worklease.cluster.pool_objects import template_digest
from worklease.rules.breaker import CLOSED, Breaker
from worklease.rules.pool import Polls, PoolCensus, PoolState, TemplateTry


@dataclass(slots=True, kw_only=True)
class KeptPool:
    """One pool. Only its own turns change it."""

    resource: WorkPool
    census: PoolCensus = field(default_factory=PoolCensus)
    polls: Polls = field(default_factory=Polls)
    breaker: Breaker = CLOSED
    tried: TemplateTry = field(default_factory=TemplateTry)
    proven_template: str | None = None
    """The digest of the last pod template of which a sandbox was ready."""
    tenure: float = float("-inf")
    has_key: bool = True
    kubernetes_answers: bool = True
    is_namespace_ending: bool = False
    other_workers: int = 0
    is_poll_in_flight: bool = False
    is_item_in_hand: bool = False

    def state(self) -> PoolState:
        """Return all that the decision goes by."""
        spec, digest = self.resource.spec, template_digest(self.resource)
        return PoolState(
            max_concurrent=spec.max_concurrent,
            failures_before_pause=spec.limits.failures_before_pause,
            is_suspended=spec.suspend,
            is_deleting=self.resource.deletion_timestamp is not None,
            is_namespace_ending=self.is_namespace_ending,
            has_key=self.has_key,
            kubernetes_answers=self.kubernetes_answers,
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
