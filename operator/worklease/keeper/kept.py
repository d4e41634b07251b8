"""One kept resource: what this process knows of a WorkLease, its lease and its pods, between two turns.

Owns that state, grouped by who writes it. Must not await, and must not decide: ``rules`` do, ``turns`` performs.
"""

import asyncio
import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from pydantic import SecretStr

from worklease.api.models import HeartbeatMode, StatusCondition, WorkLease, WorkLeaseSpec
from worklease.api.names import Address, Reference
from worklease.clocks import ClockPair
from worklease.cluster.proxy_sidecar import ProxyOptions
from worklease.keeper import record
from worklease.keeper.bound_pods import BoundPods
from worklease.keeper.turn_queue import TurnEntry
from worklease.rules.acknowledging import Acknowledgement, AckVerdict, view
from worklease.rules.beats import edit
from worklease.rules.buckets import bucket_of
from worklease.rules.claims import Claimant, DryRun, can_claim
from worklease.rules.deadlines import fence
from worklease.rules.lease import Lease
from worklease.rules.ownership import is_bindable
from worklease.rules.pods import Obstacle, Pod
from worklease.rules.reasons import Kind, Verdict
from worklease.rules.sessions import SessionWatch, ending_of_session
from worklease.rules.situation import Asked, Policy, Situation, alive
from worklease.rules.succession import Succession
from worklease.telemetry import About

LeaseChange = Callable[[Lease], Lease]
"""What a call observed of a lease, as the change that follows from it."""


@dataclass(slots=True, kw_only=True)
class LeaseOptions:
    """What the settings say of every lease."""

    interval: float
    """Seconds between routine beats at most."""
    credentials_secret: str
    """The Secret where a resource names none."""
    sandbox_annotations: Mapping[str, str] = field(default_factory=dict)
    """Annotations of each pod that is made from a template."""
    proxy: ProxyOptions = field(default_factory=ProxyOptions)
    """What each proxy beside a worker is made of."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """How a key was refused to a resource's calls."""

    at: float
    """When it was refused last (monotonic)."""
    count: int
    """How often in a row."""


@dataclass(slots=True, kw_only=True)
class CallState:
    """The calls for a resource, and what came of them; written by ``turns``, and by the calls themselves."""

    under_way: dict[str, "asyncio.Task[Any]"] = field(default_factory=dict)
    """By what each does: never two that do the same."""
    unsent: frozenset[str] = frozenset()
    """Which of these calls have sent nothing yet, and can be cancelled."""
    is_waiting: bool = False
    """Whether a beat waits for its turn within the budget."""
    is_claiming: bool = False
    """Whether a first claim was sent and is not answered yet."""
    graceful_stop: Asked | None = None
    forced_stop: Asked | None = None
    dry_run: DryRun | None = None
    ack: Acknowledgement | None = None
    """What is known of the item's acknowledgement; None: the lease was held before, or somebody else sees to that."""
    session: SessionWatch | None = None
    """What is known of the session of the sandbox that runs; None: it was not looked at."""
    refusals: Mapping[SecretStr, Refusal] = field(default_factory=dict)
    """The keys that were refused since one was accepted."""
    last_try: float | None = None
    """The fence before which a refused key was tried for the last time."""
    has_finalizer: bool = False
    """Whether the operator's finalizer is on the resource: before that nothing is claimed."""
    is_labelled: bool = True
    """Whether the label of its bucket is on the resource: who takes the bucket lists by it."""
    is_done: bool = False
    """Whether nothing is left to do for the resource, for good."""


@dataclass(slots=True, kw_only=True)
class Tenancy:
    """The tenure in which a resource is kept, of the bucket of its uid; made by ``keeper``, written by the beats.

    A kept resource never outlives the tenure: so nothing of an earlier one acts in a later one.
    """

    bucket: int
    succession: Succession | None = None
    """What is to be expected of the process that held the bucket before; None: nothing."""
    adopted: float | None = None
    """When a value was last adopted while the process was not valid (monotonic)."""
    is_silent: bool = False
    """Whether the lease was let go of in silence: another process may keep it by now."""
    is_put_off: bool = False
    """Whether something waits until the process is the valid holder again."""
    is_left: bool = False
    """Whether the tenure is over: what is still under way changes nothing."""


@dataclass(slots=True, kw_only=True)
class Published:
    """What was last published of a resource. Written by ``publisher``."""

    situation: Situation | None = None
    """What the status was made from."""
    lease: Lease | None = None
    """The lease as it was then, or as a renewal since has it; None: this process has published nothing yet."""
    deadlines: tuple[bool, bool] = (False, False)
    """Whether that lease was past its fence, and past its end."""
    conditions: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Each condition's status and reason, which people wait for."""
    state: str | None = None
    """The item's state."""
    flips: dict[Kind, tuple[Verdict, datetime]] = field(default_factory=dict)
    """Each condition's last status, and since when."""
    final: tuple[StatusCondition, ...] = ()
    """The last conditions that an earlier process published of a resource that it had finished."""

    def reason(self, kind: Kind) -> str | None:
        """Return a condition's reason, as it was last published."""
        shown = self.conditions.get(kind.value)
        return None if shown is None else shown[1]


@dataclass(slots=True, kw_only=True)
class Schedule:
    """When the next turn is due, and why. Written by ``turns``."""

    look_at: float = -math.inf
    """When the situation is to be looked at again though nothing happened."""
    holds_until: float = -math.inf
    """Until when only the fence can be the reason for a look."""

    @property
    def is_kept_by_renewals(self) -> bool:
        """Whether a renewal changes nothing about what was decided, as when a stop waits for an answered beat."""
        return self.holds_until > -math.inf

    def follow_renewal(self, lease: Lease) -> None:
        """Look again at the fence that a renewal has moved, unless something else comes first."""
        at = fence(lease)
        if at is not None:
            self.look_at = max(self.look_at, min(self.holds_until, at))


@dataclass(slots=True, kw_only=True)
class Kept:
    """The state of one resource."""

    resource: WorkLease
    """Written by ``keeper``, as the watches report it."""
    is_vanished: bool = False
    """Whether the resource went while its lease was held: its pods are fenced all the same. Written by ``keeper``."""
    item: Address = field(init=False)
    """The namespace and the work item's address, by which pods are found; it never changes."""
    about: About = field(init=False)
    """The resource and its work item, for telemetry and log lines."""
    reference: Reference = field(init=False)
    """The object that status and finalizer are written to."""

    lease: Lease
    """Changed by the resource's turn only: what calls observed waits in ``observed`` for it."""
    claim_time: datetime | None = None
    """When the lease was first held, as a time of day; written by the turn."""
    spec: WorkLeaseSpec = field(init=False)
    """The spec that lease and attempt follow; an edit waits in ``resource`` for the turn."""
    policy: Policy | None = field(init=False)
    """What that spec asks of the sandbox."""
    emptied: float | None = None
    """Since when nothing is at work any more, of a resource that is being deleted; written by the turn."""
    rival: str | None = None
    """The resource that keeps this item's lease already, as namespace/name; written by the turn."""
    predecessor: str | None = None
    """A pod of an earlier delivery of the session that may still be at work; written by the turn."""
    could_claim: bool = True
    """Whether the resource could claim at its last turn; written by the turn."""
    situation: Situation = field(init=False)
    """What the last turn decided upon; written by the turn."""

    observed: list[LeaseChange] = field(default_factory=list)
    """What calls observed of the lease since the last turn, in their order."""
    tenancy: Tenancy = field(init=False)
    calls: CallState = field(default_factory=CallState)
    pods: BoundPods = field(default_factory=BoundPods)
    published: Published = field(default_factory=Published)
    schedule: Schedule = field(default_factory=Schedule)
    turn: TurnEntry = field(default_factory=TurnEntry)
    """The entry through which the resource gets its next turn."""

    def __post_init__(self) -> None:
        """Derive once what each beat needs."""
        resource, self.spec = self.resource, self.resource.spec
        self.item = (resource.namespace, self.spec.environment_id, self.spec.work_id)
        self.reference = Reference(resource.namespace, resource.name, resource.uid)
        self.about = About(*self.reference, self.spec.environment_id, self.spec.work_id)
        self.policy = self.spec.policy()
        self.tenancy = Tenancy(bucket=bucket_of(resource.uid))
        self.situation = self.gather()

    @property
    def is_deleting(self) -> bool:
        """Whether the resource is being deleted."""
        return self.resource.deletion_timestamp is not None

    @property
    def is_suspended(self) -> bool:
        """Whether the resource asks for no heartbeats; an edit counts at once, though the turn has not followed it."""
        return self.resource.spec.heartbeat.mode is HeartbeatMode.SUSPENDED

    @property
    def session(self) -> tuple[str, str, str]:
        """The session that the item is for, with its namespace and environment."""
        return (self.item[0], self.item[1], self.spec.session)

    @property
    def token_secret(self) -> str | None:
        """The name of the Secret with the item's own token; None: the spec names none."""
        named = self.resource.spec.sessions_token_secret_ref
        return None if named is None else named.name

    @property
    def has_acknowledged(self) -> bool:
        """Whether the item left the queue for this resource, as far as is known."""
        return self.calls.ack is not None and self.calls.ack.verdict is AckVerdict.OURS

    @property
    def is_open(self) -> bool:
        """Whether anything is left to do for the resource, but to delete it when it has been kept long enough."""
        return not self.calls.is_done and (self.lease.end is None or self.calls.has_finalizer)

    @property
    def makes_pods(self) -> bool:
        """Whether the operator makes this resource's sandboxes."""
        return self.policy is not None and self.policy.is_made

    @property
    def keeps_failed(self) -> bool:
        """Whether a failed sandbox stays for its logs."""
        return self.policy is not None and self.policy.keeps_failed

    def claimant(self) -> Claimant:
        """Return the resource as one of those that ask for the item's lease."""
        return Claimant(
            uid=self.resource.uid,
            name=f"{self.resource.namespace}/{self.resource.name}",
            created=self.resource.creation_timestamp,
            lease=self.lease,
            is_done=self.calls.is_done,
            is_claiming=self.calls.is_claiming,
            can_claim=self.can_claim(),
            delivery=self.spec.delivery,
            has_acknowledged=self.has_acknowledged or self.lease.sent is not None,
            acknowledged_at=self.calls.ack.accepted if self.calls.ack is not None else self.lease.claimed,
        )

    def can_claim(self) -> bool:
        """Whether nothing of the resource's own keeps it from claiming its item."""
        tried = self.calls.dry_run
        is_refused = tried is not None and tried.generation == self.resource.generation and bool(tried.problem)
        return can_claim(self.lease, is_template_refused=is_refused, is_deleting=self.is_deleting)

    def record(self, *, trying: float | None, wall: ClockPair, now: float) -> str:
        """Return what a restart needs, as the checkpoint keeps it."""
        pods = self.pods
        sandboxes = record.RecordedSandboxes(
            # The resource's own come first: a record has room for twenty.
            bound=tuple(
                (pod.uid, pod.name)
                for pod in sorted(alive(pods.bound), key=lambda pod: pod.controller != self.resource.uid)
            ),
            attempt=pods.attempt,
            ending=pods.ending,
            fell=pods.fence_fell,
        )
        ack = self.calls.ack if self.lease.sent is None else None
        return record.write(self.lease, sandboxes, ack, trying=trying, now=now, wall=wall.time(now).timestamp())

    # --- What a turn does --------------------------------------------------------------------------------------

    def take_observed(self) -> None:
        """Change the lease by what calls observed since the last turn."""
        while self.observed:
            change = self.observed.pop(0)  # before it is applied: a change that fails does not come back
            self.lease = change(self.lease)

    def newest_lease(self) -> Lease:
        """Return the lease with what calls have observed by now: nothing may be done for one that has just ended."""
        lease = self.lease
        for change in self.observed:
            lease = change(lease)
        return lease

    def follow_edit(self, options: LeaseOptions, now: float) -> None:
        """Take over a newer spec; running work is not touched.

        A resource that asks for a sandbox, or for one of another kind, while the lease is held, waits for it from now
        on; what is at work goes on.
        """
        spec = self.resource.spec
        if spec is self.spec:
            return
        if self.lease.held and _kind(spec) != _kind(self.spec):
            self.pods.expect(now)
        self.spec, self.policy = spec, spec.policy()
        self.lease = edit(self.lease, fresh_lease(self.resource, options))

    def follow_pods(self) -> None:
        """Take over the longest grace of the bound pods: the fence goes by it."""
        grace = self.pods.longest_grace(self.lease.pod_grace)
        if grace != self.lease.pod_grace:
            self.lease = replace(self.lease, pod_grace=grace)

    def note_claim(self, wall: ClockPair) -> None:
        """Note the time of day at which the lease was first held."""
        if self.claim_time is None and self.lease.claimed is not None:
            self.claim_time = wall.time(self.lease.claimed).replace(microsecond=0)

    def gather(self, discard_at: float | None = None) -> Situation:
        """Return all that a decision is made from, as it is now."""
        pods, calls = self.pods, self.calls
        return Situation(
            uid=self.resource.uid,
            lease=self.lease,
            generation=self.resource.generation,
            rival=self.rival,
            problem=calls.dry_run.problem if calls.dry_run is not None else "",
            obstacle=calls.dry_run.obstacle if calls.dry_run is not None else Obstacle.SPEC,
            bound=pods.bound,
            deletions=pods.deletions,
            finishing=pods.finishing,
            graceful_stop=calls.graceful_stop,
            forced_stop=calls.forced_stop,
            sandbox=self.policy,
            attempt=pods.attempt,
            making=pods.making,
            is_restarting="restart" in calls.under_way,
            ailing=pods.ailing,
            ending=pods.ending,
            deletion_policy=self.spec.deletion_policy,
            deleting=self.is_deleting,
            emptied=self.emptied,
            fence_fell=pods.fence_fell,
            are_pods_listed=pods.are_listed,
            discard_at=discard_at,
            has_finalizer=calls.has_finalizer,
            ack=None if calls.ack is None or self.lease.sent is not None else view(calls.ack),
            session=ending_of_session(calls.session, pods.attempt),
            predecessor=self.predecessor,
        )

    def discard_at(self, wall: ClockPair) -> float | None:
        """Return when a finished resource is to be deleted; None: never."""
        keep = self.spec.ttl_seconds_after_finished
        verdict, since = self.published.flips.get(Kind.FINISHED, (None, None))
        if keep is None or verdict is not Verdict.TRUE or since is None:
            return None
        return wall.moment(since) + keep

    # --- Pods --------------------------------------------------------------------------------------------------

    def bind(self, pod: Pod, now: float) -> bool:
        """Store a pod of this item if it is bound, or is this lease's sandbox; return whether it is."""
        is_known = pod.uid in self.pods.bound
        if not is_known and not is_bindable(pod, self.resource.uid, self.newest_lease(), self.claim_time):
            return False
        self.pods.note(pod, now)
        return True

    def bind_answer(self, pod: Pod, before: Mapping[str, Pod], now: float) -> bool:
        """Bind a pod as an answer has it, unless a watch reported it since the question: the report may be newer.

        ``before`` is what was bound when the question was sent. If the answer is newer, the watch will bring it too.
        """
        if self.pods.bound.get(pod.uid) is not before.get(pod.uid):
            return True
        return self.bind(pod, now)


def fresh_lease(resource: WorkLease, options: LeaseOptions) -> Lease:
    """Return the lease of a resource that nobody kept before."""
    return Lease(
        desired_ttl=resource.spec.ttl_seconds,
        interval=options.interval,
        suspended=resource.spec.heartbeat.mode is HeartbeatMode.SUSPENDED,
        seed=zlib.crc32(resource.uid.encode()),
    )


def _kind(spec: WorkLeaseSpec) -> tuple[bool, bool]:
    """Return whether a spec asks for a sandbox, and whether the operator makes it."""
    return (spec.sandbox is not None, spec.sandbox is not None and spec.sandbox.template is not None)
