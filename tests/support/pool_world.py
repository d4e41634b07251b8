"""A pool in a world that goes wrong: the rules, a plain shell around them, a queue, and a cluster that is seen late.

Owns the queue as the Work API protocol tells it, the cluster, time, and the judgement: P10 to P13 are asserted at the
moment at which they could break. The shell does what the pool's keeper and its leases' turns do, one thing after the
other; it can be killed before and after each write and each call.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import Enum, auto

from worklease.rules import acknowledging, pool, pool_items
from worklease.rules.acknowledging import Acknowledgement, AckStep, AckVerdict
from worklease.rules.breaker import CLOSED, Breaker, BreakerCause, note_failure, note_started
from worklease.rules.claims import Claimant, successor_of
from worklease.rules.lease import Lease
from worklease.rules.pool import NoPoll, Poll, Polls, PoolCensus, PoolLease, PoolState, Stage, TemplateTry, TryTemplate
from worklease.rules.pool_items import LeaveItem, Make, RefuseItem
from worklease.rules.queue import AckAccepted, AckConflicted, AckOutcome, CallFailed, QueuedItem, QueueFailure

POOL, ENVIRONMENT = "agents", "env_1"
CALL = 0.05  # seconds that a call or a write takes
LATE = 0.9  # seconds after which a creation that was given up is carried out nevertheless
ACK_LATE = (0.3, 4.0)  # seconds after which acknowledgements that were given up arrive nevertheless, by turns
UNBEATEN = 30.0  # seconds after which some servers queue an item again that was acknowledged and never beaten
STRAND = 15.0  # seconds for which an item may be acknowledged and not beaten, while everything works


class Killed(Exception):
    """The operator was killed at this point."""


class Fate(Enum):
    """What happens to a call or a write."""

    ANSWERED = auto()
    LOST_BEFORE = auto()
    LOST_AFTER = auto()
    LATE = auto()
    """It is given up, and carried out a little later."""
    REFUSED = auto()


@dataclass(slots=True)
class Work:
    """An item at the server."""

    id: str
    session: str
    created: float
    has_token: bool
    state: str = "queued"
    polled: float | None = None
    reclaim: float = 0.0
    acknowledged: float | None = None
    acknowledged_by: str | None = None
    holder: str | None = None


@dataclass(slots=True, kw_only=True)
class QueueModel:
    """An environment's queue; the switches are where servers differ."""

    renames: bool = False
    """Whether an item that nobody acknowledged is offered again under another id."""
    acks_always: bool = False
    """Whether an acknowledgement is answered 200 in every state."""
    requeues_unbeaten: bool = False
    reclaims_by_asking: bool = False
    """Whether the poll that asks says after how long an item is offered again; else the one that reserved it does."""
    items: dict[str, Work] = field(default_factory=dict)
    number: int = 0

    def add(self, session: str, now: float, *, has_token: bool = True) -> None:
        """Queue a message of a session, whose item has an id of its own."""
        self.number += 1
        self.items[f"work_{self.number}"] = Work(f"work_{self.number}", session, now, has_token)

    def poll(self, now: float, reclaim: float) -> Work | None:
        """Offer the item that has waited longest."""
        self.lapse(now)
        for item in list(self.items.values()):
            age = reclaim if self.reclaims_by_asking else item.reclaim
            if item.state != "queued" or (item.polled is not None and now - item.polled < age):
                continue
            offered = self._rename(item) if item.polled is not None and self.renames else item
            offered.polled, offered.reclaim = now, reclaim
            return offered
        return None

    def ack(self, work_id: str, who: str, now: float) -> AckOutcome:
        """Acknowledge an item."""
        item = self.items.get(work_id)
        if item is None:
            return CallFailed(QueueFailure.NOT_FOUND, "no such item")
        if item.state == "queued":
            item.state, item.acknowledged, item.acknowledged_by = "starting", now, who
            return AckAccepted()
        return AckAccepted() if self.acks_always else AckConflicted(f"it is {item.state}")

    def claim(self, work_id: str, who: str) -> bool:
        """Send a first heartbeat; return whether it claimed the item."""
        item = self.items.get(work_id)
        if item is None or item.state != "starting" or item.holder is not None:
            return False
        item.state, item.holder = "active", who
        return True

    def stop(self, work_id: str) -> None:
        """Stop an item by force."""
        if work_id in self.items:
            self.items[work_id].state = "stopped"

    def requeue(self, work_id: str) -> None:
        """Let a lease lapse: the item is in the queue again, under its id."""
        item = self.items[work_id]
        item.state, item.polled, item.acknowledged, item.acknowledged_by, item.holder = "queued", None, None, None, None

    def lapse(self, now: float) -> None:
        """Queue what was acknowledged and never beaten, on servers that do."""
        for item in self.items.values():
            is_old = item.acknowledged is not None and now - item.acknowledged >= UNBEATEN
            if self.requeues_unbeaten and item.state == "starting" and is_old:
                self.requeue(item.id)

    def _rename(self, item: Work) -> Work:
        self.number += 1
        del self.items[item.id]
        renamed = replace(item, id=f"work_{self.number}")
        self.items[renamed.id] = renamed
        return renamed


@dataclass(slots=True)
class RealLease:
    """A WorkLease as it is in the cluster, its Secret and its pod, and its record in the checkpoint."""

    name: str
    uid: str
    work_id: str
    session: str
    created: float
    failed_deliveries: int
    stage: Stage | None = Stage.CLAIMING
    token_polled: float | None = None
    """When the poll was sent whose token is in its Secret; None: it has no Secret."""
    record: Acknowledgement = field(default_factory=Acknowledgement)
    sent: list[float] = field(default_factory=list)
    """When its acknowledgements were sent."""
    has_pod: bool = False
    is_waiting: bool = False
    """Whether its pod waits for that of another delivery."""
    has_failed: bool = False
    has_succeeded: bool = False
    is_deleting: bool = False


@dataclass(slots=True)
class Cluster:
    """The leases, and the events of a watch that nobody has seen yet."""

    leases: dict[str, RealLease] = field(default_factory=dict)
    events: list[tuple[str, PoolLease]] = field(default_factory=list)
    late: list[tuple[float, RealLease, int]] = field(default_factory=list)
    """Creations that are carried out later, and the cap that they were decided by."""
    late_acks: list[tuple[float, RealLease]] = field(default_factory=list)
    """Acknowledgements that arrive later."""
    uids: int = 0

    @property
    def unfinished(self) -> int:
        """How many leases are not finished."""
        return sum(lease.stage is not None for lease in self.leases.values())

    def note(self, lease: RealLease) -> None:
        """Tell the watch of a change."""
        self.events.append(("seen", shown(lease)))

    def remove(self, lease: RealLease) -> None:
        """Take a lease away."""
        if self.leases.get(lease.name) is lease:
            del self.leases[lease.name]
            self.events.append(("gone", shown(lease)))


def shown(lease: RealLease) -> PoolLease:
    """Return a lease as the cluster shows it."""
    return PoolLease(
        template="t",
        is_waiting=lease.is_waiting,
        name=lease.name,
        uid=lease.uid,
        work_id=lease.work_id,
        session_id=lease.session,
        created=lease.created,
        stage=lease.stage,
        polled=lease.token_polled,
        has_token=lease.token_polled is not None,
        is_deleting=lease.is_deleting,
        failed_deliveries=lease.failed_deliveries,
        has_failed=lease.has_failed,
        has_succeeded=lease.has_succeeded,
    )


@dataclass(slots=True)
class Memory:
    """What the process knows, and loses when it is killed."""

    census: PoolCensus = field(default_factory=PoolCensus)
    polls: Polls = field(default_factory=Polls)
    breaker: Breaker = CLOSED
    tried: TemplateTry = field(default_factory=TemplateTry)
    is_proven: bool = False
    acks: dict[str, Acknowledgement] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class PoolWorld:
    """All of it."""

    server: QueueModel
    cap: int = 2
    limit: int = 2
    pause: float = 30.0
    requires_token: bool = True
    is_suspended: bool = False
    now: float = 1000.0
    cluster: Cluster = field(default_factory=Cluster)
    memory: Memory = field(default_factory=Memory)
    tenure: float = float("-inf")
    """When the process began to serve the pool, if another one did before."""
    saved: Breaker = CLOSED
    """The breaker in the pool's status."""
    kill_in: int | None = None
    """Points that the process passes before it is killed."""
    fates: list[Fate] = field(default_factory=list)
    """What happens to the next calls; after them all are answered."""
    troubled: float = 1000.0
    """When something was last in the way."""
    failed_sessions: set[str] = field(default_factory=set)
    may_poll_at: float = 0.0
    polls: list[float] = field(default_factory=list)

    # --- Time, faults and judgement

    def point(self) -> None:
        """Pass a point at which the process may be killed."""
        if self.kill_in is not None:
            self.kill_in -= 1
            if self.kill_in < 0:
                raise Killed

    def fate(self, *possible: Fate) -> Fate:
        """Return what happens to this call, and let its time pass."""
        self.advance(CALL)
        fate = self.fates.pop(0) if self.fates else Fate.ANSWERED
        fate = fate if fate in possible else Fate.ANSWERED
        if fate is not Fate.ANSWERED:
            self.troubled = self.now
        return fate

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
        for at, lease, cap in list(self.cluster.late):
            if at <= self.now:
                self.cluster.late.remove((at, lease, cap))
                self._create(lease, cap)
        for at, lease in list(self.cluster.late_acks):
            if at <= self.now:
                self.cluster.late_acks.remove((at, lease))
                self.server.ack(lease.work_id, lease.name, at)
        self.server.lapse(self.now)
        self.judge()

    def judge(self) -> None:
        """P11 and P13."""
        for item in self.server.items.values():
            if item.state == "starting" and item.acknowledged_by not in {None, "other"}:
                assert item.acknowledged is not None
                waited = self.now - max(item.acknowledged, self.troubled)
                assert waited <= STRAND, f"P11: {item.id} was acknowledged and never beaten"
        pods = [lease.session for lease in self.cluster.leases.values() if lease.has_pod]
        assert len(pods) == len(set(pods)), f"P13: a session has two sandboxes: {pods}"

    def _create(self, lease: RealLease, cap: int) -> bool:
        """Carry out a creation; return whether the name was free."""
        if lease.name in self.cluster.leases:
            return False
        self.cluster.uids += 1
        created = replace(lease, uid=f"uid-{self.cluster.uids}", created=self.now)
        self.cluster.leases[lease.name] = created
        self.cluster.note(created)
        assert self.cluster.unfinished <= max(cap, self.cap), "P12: more leases than the cap"
        return True

    # --- The process

    def state(self) -> PoolState:
        """Return what the decision goes by."""
        return PoolState(
            max_concurrent=self.cap,
            failures_before_pause=self.limit,
            is_suspended=self.is_suspended,
            template="t",
            is_template_proven=self.memory.is_proven or self.memory.census.proves("t"),
            tried=self.memory.tried,
            tenure=self.tenure,
            census=self.memory.census,
            polls=self.memory.polls,
            breaker=self.memory.breaker,
        )

    def start(self) -> None:
        """Start the process: a consistent list, the breaker from the status, the records from the checkpoint."""
        self.cluster.events.clear()
        acks = {lease.uid: acknowledging.restarted(lease.record, self.now) for lease in self.cluster.leases.values()}
        self.memory = Memory(breaker=self.saved, acks=acks)
        census = PoolCensus().listed((shown(lease) for lease in self.cluster.leases.values()), self.now)
        self.memory.census = census

    def kill(self, down: float) -> None:
        """Kill the process; after a while another one goes on. What was sent may be carried out after that."""
        self.kill_in = None
        self.fates.clear()
        self.memory = Memory()
        self.troubled = self.now + down + pool.TENURE
        self.advance(down)
        self.tenure = self.now
        self.start()

    def see(self, number: int) -> None:
        """Let the watch show so many events."""
        for _ in range(min(number, len(self.cluster.events))):
            kind, lease = self.cluster.events.pop(0)
            if kind == "gone":
                self.memory.census = self.memory.census.deleted(lease.name, lease.uid)
            else:
                self.memory.census = self.memory.census.seen(lease)

    def relist(self) -> None:
        """Read a consistent list, as after a watch that broke: events of before are not shown any more."""
        self.cluster.events.clear()
        listed = [shown(lease) for lease in self.cluster.leases.values()]
        self.memory.census = self.memory.census.listed(listed, self.now)

    def run_pool(self) -> None:
        """Do what the pool's rules say, once."""
        if pool.must_list(self.memory.census, self.tenure, self.now):
            listed = [shown(lease) for lease in self.cluster.leases.values()]
            self.memory.census = self.memory.census.listed(listed, self.now)
        self._clean_up()
        for _ in range(3):
            match pool.decide_poll(self.state(), self.now):
                case TryTemplate():
                    self.point()
                    self.fate()
                    self.memory.tried = pool.after_try(self.memory.tried, "t", None, self.now)
                case NoPoll():
                    return
                case Poll():
                    self._poll()
                    return

    def _poll(self) -> None:
        on_their_way = len(self.cluster.late)
        assert not self.is_suspended, "P10: a poll of a suspended pool"
        assert self.cluster.unfinished + on_their_way < self.cap, "P10: a poll without a free place"
        assert self.now >= self.may_poll_at, "P10: a poll while sandboxes keep failing to start"
        self.point()
        sent, self.polls = self.now, [*self.polls, self.now]
        fate = self.fate(Fate.ANSWERED, Fate.LOST_BEFORE, Fate.LOST_AFTER)
        item = None if fate is Fate.LOST_BEFORE else self.server.poll(sent, pool.RECLAIM_MS / 1000)
        failed = None if fate is Fate.ANSWERED else CallFailed(QueueFailure.UNANSWERED, "time-out")
        if fate is not Fate.ANSWERED:
            item = None
        self.memory.polls = pool.after_poll(
            self.memory.polls, failed, is_empty=item is None, rest=pool.LONGEST_REST, now=self.now
        )
        self.point()
        if item is not None:
            self._take(item, sent)

    def _take(self, work: Work, sent: float) -> None:
        if not pool.may_take(self.state(), self.now):
            return
        item = QueuedItem(
            id=work.id,
            environment_id=ENVIRONMENT,
            data_type="session",
            data_id=work.session,
            created_at=str(work.created),
            started_at=None,
        )
        plan = pool_items.plan_item(
            item,
            pool=POOL,
            environment_id=ENVIRONMENT,
            has_token=work.has_token,
            requires_token=self.requires_token,
            deliveries_per_session=3,
            leases=self._leases(),
        )
        match plan:
            case Make():
                self._make(item, plan, sent)
            case RefuseItem():
                self.point()
                self.server.stop(item.id)
            case LeaveItem():
                return

    def _make(self, item: QueuedItem, plan: Make, sent: float) -> None:
        """Steps 3 and 4: the lease, then its Secret."""
        lease = self._made(item, plan)
        while lease is not None and not pool_items.is_same_delivery(self._judged(lease)):
            known = self._leases() | {lease.name: self._judged(lease)}
            plan = pool_items.make(item, pool=POOL, failed=plan.failed_deliveries, leases=known, after=plan.counter)
            lease = self._made(item, plan)
        if lease is None:
            return
        self.point()
        fate = self.fate(Fate.ANSWERED, Fate.LOST_BEFORE, Fate.LOST_AFTER)
        if fate is not Fate.LOST_BEFORE:
            lease.token_polled = sent
            self.cluster.note(lease)
        self.point()

    def _made(self, item: QueuedItem, plan: Make) -> RealLease | None:
        """Send the creation; return the lease that has the name now, None if that is not known."""
        self.memory.census = self.memory.census.creating(plan.name)
        self.point()
        fresh = RealLease(plan.name, "", item.id, item.data_id, self.now, plan.failed_deliveries)
        match self.fate(*Fate):
            case Fate.ANSWERED:
                self._create(fresh, self.cap)
                lease = self.cluster.leases[plan.name]
                self.memory.census = self.memory.census.answered(shown(lease))
                self.point()
                return lease
            case Fate.REFUSED:
                self.memory.census = self.memory.census.not_created(plan.name)
            case Fate.LOST_AFTER:
                self._create(fresh, self.cap)
                self.memory.census = self.memory.census.unanswered(plan.name, self.now)
            case Fate.LATE:
                self.cluster.late.append((self.now + LATE, fresh, self.cap))
                self.memory.census = self.memory.census.unanswered(plan.name, self.now)
            case Fate.LOST_BEFORE:
                self.memory.census = self.memory.census.unanswered(plan.name, self.now)
        self.point()
        return None

    def _leases(self) -> dict[str, PoolLease]:
        """Return the leases that the process knows, with what it knows of their acknowledgements by itself."""
        return {name: self._judged_view(view) for name, view in self.memory.census.leases.items()}

    def _judged(self, lease: RealLease) -> PoolLease:
        return self._judged_view(shown(lease))

    def _claimant(self, lease: RealLease) -> Claimant:
        created = datetime.fromtimestamp(lease.created, UTC)
        return Claimant(
            uid=lease.uid,
            name=lease.name,
            created=created,
            lease=Lease(),
            is_done=lease.stage is None,
            delivery=lease.name,
            has_acknowledged=self._judged(lease).is_acknowledged,
            acknowledged_at=self.memory.acks.get(lease.uid, lease.record).accepted,
        )

    def _judged_view(self, view: PoolLease) -> PoolLease:
        ack = self.memory.acks.get(view.uid, Acknowledgement())
        is_ours = ack.verdict in {AckVerdict.OURS, AckVerdict.OTHERS}
        is_held = view.stage is not Stage.CLAIMING
        return replace(view, is_acknowledged=is_ours or is_held, is_ack_in_doubt=ack.verdict is AckVerdict.IN_DOUBT)

    def _clean_up(self) -> None:
        """Delete what nothing was begun for; a consistent read comes before it."""
        for view in pool_items.abandoned(self._leases().values(), being_written=None, now=self.now):
            real = self.cluster.leases.get(view.name)
            if real is None or real.uid != view.uid:
                continue
            if not pool_items.abandoned([self._judged(real)], being_written=None, now=self.now):
                continue
            self.point()
            item = self.server.items.get(real.work_id)
            assert item is None or item.acknowledged_by != real.name, "P11: a lease whose item left the queue for it"
            self.fate()
            real.is_deleting = True
            self.cluster.remove(real)
            self.point()

    # --- The turns of the leases

    def run_leases(self) -> None:
        """Let each lease that the process has seen take a turn."""
        for name in list(self.memory.census.leases):
            lease = self.cluster.leases.get(name)
            if lease is not None and lease.stage is not None and not lease.is_deleting:
                self._turn(lease)

    def _turn(self, lease: RealLease) -> None:
        for _ in range(6):
            of_item = (each for each in self.cluster.leases.values() if each.work_id == lease.work_id)
            if successor_of(self._claimant(lease), map(self._claimant, of_item)) is not None:
                self.end(lease)
            if lease.stage is not Stage.CLAIMING:
                break
            ack = self.memory.acks.get(lease.uid, lease.record)
            is_late = ack.accepted is not None and self.now >= ack.accepted + acknowledging.CLAIM_WITHIN
            step = acknowledging.decide_ack(ack, self.now, is_claim_refused=is_late)
            match step:
                case AckStep.WAIT:
                    return
                case AckStep.LOOK_FOR_TOKEN:
                    has_token = lease.token_polled is not None
                    ack = acknowledging.looked(ack, has_token=has_token, polled=lease.token_polled, now=self.now)
                    self.memory.acks[lease.uid] = ack
                case AckStep.SEND:
                    self._acknowledge(lease, ack)
                case AckStep.ASK_LIST:
                    self._ask_list(lease, ack)
                case AckStep.CLAIM:
                    if not self._claim(lease):
                        return
                case AckStep.END:
                    self.end(lease)
        self._make_pod(lease)

    def _acknowledge(self, lease: RealLease, ack: Acknowledgement) -> None:
        ack = acknowledging.intended(ack, self.now)
        self.point()
        lease.record = ack
        self.memory.acks[lease.uid] = ack
        self.point()
        item = self.server.items.get(lease.work_id)
        fate = self.fate(Fate.ANSWERED, Fate.LOST_BEFORE, Fate.LOST_AFTER, Fate.LATE)
        outcome: AckOutcome = CallFailed(QueueFailure.UNANSWERED, "time-out")
        lease.sent.append(self.now)
        if fate is Fate.LATE:
            self.cluster.late_acks.append((self.now + ACK_LATE[len(lease.sent) % len(ACK_LATE)], lease))
        elif fate is not Fate.LOST_BEFORE:
            assert item is None or not item.has_token or lease.token_polled is not None, "P11: its token would be lost"
            answer = self.server.ack(lease.work_id, lease.name, self.now)
            outcome = answer if fate is Fate.ANSWERED else outcome
        self.point()
        self.memory.acks[lease.uid] = acknowledging.answered(ack, outcome, self.now)
        self.point()
        lease.record = self.memory.acks[lease.uid]

    def _ask_list(self, lease: RealLease, ack: Acknowledgement) -> None:
        if self.fate(Fate.ANSWERED, Fate.LOST_BEFORE) is not Fate.ANSWERED:
            self.memory.acks[lease.uid] = acknowledging.not_listed(ack, self.now)
            return
        item = self.server.items.get(lease.work_id)
        state, at = ("gone", None) if item is None else (item.state, item.acknowledged)
        self.memory.acks[lease.uid] = acknowledging.listed(ack, at, state, asked=self.now, now=self.now)
        self.point()
        lease.record = self.memory.acks[lease.uid]

    def _claim(self, lease: RealLease) -> bool:
        self.point()
        fate = self.fate(Fate.ANSWERED, Fate.LOST_BEFORE)
        self._judge_claim(lease)
        is_claimed = fate is Fate.ANSWERED and self.server.claim(lease.work_id, lease.name)
        if is_claimed:
            lease.stage = Stage.STARTING
            self.cluster.note(lease)
        self.point()
        return is_claimed

    def _judge_claim(self, lease: RealLease) -> None:
        """P4: what another worker acknowledged is not claimed, where that can be told."""
        item = self.server.items.get(lease.work_id)
        if item is None or item.state != "starting" or self.server.acks_always:
            return
        assert item.acknowledged is not None
        slack, lands = acknowledging.SLACK + 2 * CALL, acknowledging.LANDS_WITHIN
        cannot_tell = any(sent - slack <= item.acknowledged <= sent + lands + slack for sent in lease.sent)
        assert item.acknowledged_by == lease.name or cannot_tell, f"P4: {item.id} is another worker's"

    def _make_pod(self, lease: RealLease) -> None:
        """Step 7: the pod is made when those of the session's other deliveries are gone."""
        if lease.stage is Stage.STARTING and not lease.has_pod:
            others = [each for each in self.cluster.leases.values() if each is not lease]
            lease.has_pod = not any(each.has_pod for each in others if each.session == lease.session)
            if lease.is_waiting is lease.has_pod:
                lease.is_waiting = not lease.has_pod
                self.cluster.note(lease)

    # --- The sandboxes

    def of_stage(self, *stages: Stage) -> list[RealLease]:
        """Return the leases in these stages."""
        return [lease for lease in self.cluster.leases.values() if lease.stage in stages]

    def ready(self, lease: RealLease) -> None:
        """A sandbox is ready, and the process sees it."""
        lease.stage = Stage.RUNNING
        self.cluster.note(lease)
        self.memory.is_proven = True
        self.failed_sessions.clear()
        self.may_poll_at = self.now
        self.memory.breaker = self.saved = note_started(self.memory.breaker)

    def fail_to_start(self, lease: RealLease) -> None:
        """A sandbox does not start: the process sees it, and the item is released."""
        breaker = note_failure(
            self.memory.breaker,
            session=lease.session,
            created=lease.created,
            cause=BreakerCause.NOT_STARTED,
            message="ImagePullFailed",
            limit=self.limit,
            pause=self.pause,
            now=self.now,
        )
        self.failed_sessions.add(lease.session)
        if len(self.failed_sessions) == self.limit and self.saved.open_until is None:
            self.may_poll_at = self.now + self.pause
        self.memory.breaker = self.saved = breaker
        self.end(lease)
        self.server.requeue(lease.work_id)

    def finish(self, lease: RealLease, *, has_failed: bool) -> None:
        """A sandbox ends: the item is stopped."""
        lease.has_failed, lease.has_succeeded = has_failed, not has_failed
        self.end(lease)
        self.server.stop(lease.work_id)

    def end(self, lease: RealLease) -> None:
        """A lease is finished."""
        lease.stage, lease.has_pod, lease.token_polled = None, False, None
        self.cluster.note(lease)

    def strands(self) -> Iterator[Work]:
        """Yield the items that left the queue for us, and that nobody works on."""
        for item in self.server.items.values():
            if item.state == "starting" and item.acknowledged_by not in {None, "other"}:
                yield item
