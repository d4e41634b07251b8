"""One lease and the world around several processes that may keep it: time, Kubernetes, the server, and the judge.

Owns time, the API server with its compare-and-set, the pods, other workers, and the judgement of every step. The
processes are in ``support.sharing_process``. Must not know how a process decides.
"""

import heapq
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import inf
from random import Random
from typing import Any, Final

from support.lease_samples import stamp
from support.server_model import (
    NOTHING,
    Holder,
    Lapse,
    OtherWorker,
    Reply,
    RobbedError,
    ServerModel,
    worker_interval,
)
from worklease.rules.lease import End
from worklease.rules.outcomes import ListedItem
from worklease.rules.pods import Pod, Result
from worklease.rules.tenure import LEASE_DURATION, VACANT

UID: Final = "resource"
AHEAD: Final = 1.79e9
"""Seconds by which the server's clock, and each wall clock, is ahead of the time of the world."""


@dataclass(slots=True)
class RealPod:
    """A pod as its node runs it: it takes all the grace that it gets."""

    pod: Pod
    foreign: bool = False
    asked: float | None = None
    """When its deletion was taken for the first time."""
    ends: float = inf
    is_known: bool = False
    """Whether the record ever named it. A pod of which no record tells may be lost from sight with its process."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """The bucket's ConfigMap."""

    holder: str = VACANT
    epoch: int = 0
    version: int = 0
    record: str | None = None
    taken: float | None = None
    """When it was last taken from a holder that may live, by the wall clock of who took it."""


@dataclass(slots=True)
class Cluster:
    """What the API server stores, and when it can be reached."""

    bucket: Bucket = field(default_factory=Bucket)
    leases: dict[str, tuple[str, bool]] = field(default_factory=dict)
    pods: dict[str, RealPod] = field(default_factory=dict)
    deleting: bool = False
    finalizer: bool = True
    ended: End | None = None
    """What the status says of the lease's end."""
    away_until: float = -inf

    def write(self, version: int, changed: Bucket) -> Bucket | None:
        """Write the bucket if it has still that version; return it as it is then, None if it has another one."""
        if version != self.bucket.version:
            return None
        self.bucket = replace(changed, version=version + 1)
        return self.bucket


@dataclass(slots=True)
class Thief:
    """A worker that enters the chain by a value that it knows, though another one holds the lease."""

    value: str | None = None
    lives: bool = False


@dataclass(slots=True, kw_only=True)
class SharedWorld:
    """Time, and all that is shared by the processes."""

    random: Random
    server: ServerModel
    stamps_first_beat: bool
    """Whether the list shows the first beat as the item's start, as some servers do."""
    list_fails: float
    loss: float
    """How often a call to the server, or its answer, is lost."""
    now: float = 0.0
    cluster: Cluster = field(default_factory=Cluster)
    other: OtherWorker = field(init=False)
    thief: Thief = field(default_factory=Thief)
    queue: list[tuple[float, int, Callable[[], object]]] = field(default_factory=list)
    number: int = 0
    log: list[tuple[float, str]] | None = None
    queued: float = -60.0
    """When the item entered the queue."""
    first: float | None = None
    """When this delivery was beaten first."""
    delivery: int = 1
    counts: Counter[str] = field(default_factory=Counter)
    able: Callable[[], bool] = lambda: True
    """Whether any process lives and reaches the API server."""
    able_since: float = 0.0
    """Since when a process is able to act, and none that held the bucket was struck."""
    troubled: float = -inf
    """Until when something was wrong with the processes or the API server."""
    lease_ended: float | None = None
    """When our lease ended at the server, if it did."""
    last_take: float = -inf
    last_tenure: float = -inf
    """When the last tenure began, by a take or a hand-over."""
    broken: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.other = OtherWorker(self.server)

    # --- Time ----------------------------------------------------------------------------------------------------

    def at(self, when: float, what: Callable[[], object]) -> None:
        """Let something happen then."""
        self.number += 1
        heapq.heappush(self.queue, (when, self.number, what))

    def run(self, until: float) -> None:
        """Let time pass until then, or until a promise is broken."""
        while self.queue and self.queue[0][0] <= until and not self.broken:
            self.now, _, what = heapq.heappop(self.queue)
            self.follow_server()
            try:
                what()
            except RobbedError as error:
                self.breaks(f"robbed: {error}")
        self.now = max(self.now, until)

    def say(self, *words: object) -> None:
        """Note what happens, if the history is to be told."""
        if self.log is not None:
            self.log.append((round(self.now, 3), " ".join(map(str, words))))

    def breaks(self, promise: str) -> None:
        """Note that a promise is broken."""
        self.say("BROKEN:", promise)
        self.broken.append(promise)

    # --- The server ----------------------------------------------------------------------------------------------

    def follow_server(self) -> None:
        """Follow what became of the lease by time alone."""
        server = self.server
        server.lapsed(self.now)
        if server.delivery != self.delivery:
            self.delivery, self.queued, self.first = server.delivery, min(self.now, server.ends), None
            self.thief.lives = False
            self._lose(min(self.now, server.ends))
            self.counts["lapsed"] += 1
            self.say("the lease lapses")
        if server.state == "stopped":
            self._lose(self.now)

    def _lose(self, at: float) -> None:
        if self.lease_ended is None and self.first_claimed:
            self.lease_ended = at

    @property
    def first_claimed(self) -> bool:
        """Whether the lease was ever ours."""
        return self.counts["claimed"] > 0

    @property
    def is_ours(self) -> bool:
        """Whether the lease is ours at the server: the delivery that we claimed, and nobody else's beat."""
        server = self.server
        return server.holder is Holder.OURS and server.state in {"active", "stopping"} and self.lease_ended is None

    def beat(self, expected: str, *, is_carried: bool) -> Reply:
        """Apply a beat of one of our processes; ``is_carried``: a taker read the value otherwise than as ever."""
        self.follow_server()
        server = self.server
        was_thief = self.thief.lives and server.value == self.thief.value and server.holder is Holder.OTHER
        reply = server.beat(self.now, Holder.OURS, expected, None)
        if reply.extended:
            self.first = server.stamped if self.first is None else self.first
            self.counts["claimed"] += expected == NOTHING
            if was_thief:
                self.thief.lives = False
                is_early = self.now < self.last_take + 2 * server.ttl
                self.counts["thief robbed after a take" if is_early else "thief robbed"] += 1
                if (
                    is_carried and self.now >= max(self.last_take, self.last_tenure) + 3 * server.ttl
                ):  # a beat of it may have been lost
                    self.breaks("a thief is robbed as a taker does it, two TTLs after the take")
        return reply

    def listed(self) -> ListedItem | None:
        """Return the item as the list shows it; None if the list fails."""
        if self.random.random() < self.list_fails:
            return None
        start = self.first if self.stamps_first_beat else self.queued
        return ListedItem(self.server.state, None if start is None else stamp(start), self.server.value)

    def other_polls(self) -> None:
        """Let another worker take the item if it waits in the queue, and make a pod for it."""
        if self.server.poll(self.now) and self.other.claim(self.now):
            self.say("another worker takes the item")
            self.first = self.server.stamped
            pod = Pod(uid=f"other{self.now}", name="other", phase="Running", grace=30.0)
            self.cluster.pods[pod.uid] = RealPod(pod, foreign=True)
            self.at(self.other.next_beat, self._other_beats)

    def _other_beats(self) -> None:
        self.other.run(self.now)
        if self.other.next_beat < inf:
            self.at(self.other.next_beat, self._other_beats)

    def thief_enters(self) -> None:
        """Let a worker that knows the value beat, and go on."""
        self.thief.value, self.thief.lives = self.server.value, True
        self.counts["thieves"] += 1
        self._thief_beats()

    def _thief_beats(self) -> None:
        thief, server = self.thief, self.server
        if not thief.lives or thief.value is None or server.state != "active":
            thief.lives = False
            return
        reply = server.beat(self.now, Holder.OTHER, thief.value, None)
        server.other_lives = False
        if not reply.extended:
            thief.lives = False
            return
        thief.value = reply.last_heartbeat
        self.say("a thief beats", thief.value)
        self.at(self.now + worker_interval(server.ttl), self._thief_beats)

    # --- Pods ----------------------------------------------------------------------------------------------------

    def add_pod(self, pod: Pod) -> None:
        self.cluster.pods[pod.uid] = RealPod(pod)

    def create(self, name: str) -> Pod | None:
        """Create a pod of the resource; None if there is one of that name."""
        if any(real.pod.name == name for real in self.cluster.pods.values()):
            return None
        pod = Pod(uid=f"{name}@{self.now}", name=name, phase="Running", ready=True, grace=10.0, controller=UID)
        self.add_pod(pod)
        running = [real for real in self.cluster.pods.values() if real.pod.controller == UID and real.asked is None]
        if len([real for real in running if not real.pod.is_over]) > 1:
            self.breaks("two sandboxes run at once")
        return pod

    def delete(self, uid: str, grace: float | None) -> None:
        """Take a deletion; a second one can only shorten, and counts from the first (Kubernetes API)."""
        real = self.cluster.pods.get(uid)
        if real is None:
            return
        if real.foreign:
            self.breaks(f"P4: the pod {uid} of another worker is deleted")
        real.asked = self.now if real.asked is None else real.asked
        real.ends = max(self.now, min(real.ends, real.asked + (real.pod.grace if grace is None else grace)))
        real.pod = replace(real.pod, terminating=True)
        self.at(real.ends, lambda: self._end(uid))

    def _end(self, uid: str) -> None:
        real = self.cluster.pods.get(uid)
        if real is not None and real.ends <= self.now:
            del self.cluster.pods[uid]

    def pod_succeeds(self) -> None:
        """Let a sandbox finish by itself."""
        for real in self.cluster.pods.values():
            if not real.foreign and not real.pod.is_over:
                real.pod = replace(real.pod, phase="Succeeded", result=Result.SUCCEEDED, had_run=True)
                return

    # --- The judge -----------------------------------------------------------------------------------------------

    def judge(self) -> None:
        """P3: each sandbox is told to end before its lease can end, later only where nobody could tell it."""
        if not self.able():
            self.able_since = self.now
            self.troubled = max(self.troubled, self.now)
        fence = self._fence()
        for uid, real in self.cluster.pods.items():
            real.is_known = real.is_known or real.pod.controller == UID or uid in (self.cluster.bucket.record or "")
            if not real.is_known or real.asked is not None or real.pod.is_over or fence is None:
                continue
            due = max(fence - min(real.pod.grace, self.server.ttl / 5), self.able_since) + self._allowed(fence)
            if self.now > due:
                self.breaks(f"P3: pod {uid} was to be told to end by {due:.1f}")

    def _fence(self) -> float | None:
        """Return the fence of a pod without grace; None if the lease was never ours, or is not compared any more."""
        server = self.server
        if not self.first_claimed or server.state in {"stopping", "stopped"}:
            return None
        ends = self.lease_ended if self.lease_ended is not None else server.ends
        if server.holder is Holder.OTHER and self.lease_ended is None:
            return None  # a thief holds it: when our own lease ends is not known here
        return ends - 1.0 - server.ttl / 50

    def _allowed(self, fence: float) -> float:
        """Return by how many seconds a deletion may come after the fence."""
        ttl = self.server.ttl or self.server.default_ttl
        if self.troubled < fence - ttl:
            return 2.0
        # A take, the looks and calls before it, and the reprieve in which one beat may tell.
        return LEASE_DURATION + 2.0 + 8.0 + min(20.0, ttl / 3)


def new_world(random: Random, *, log: bool, **options: Any) -> SharedWorld:
    """Return a world in which nothing has happened."""
    ttl = options.pop("ttl")
    server = ServerModel(ahead=AHEAD, default_ttl=ttl, lapse=options.pop("lapse", Lapse.AT_ONCE))
    return SharedWorld(random=random, server=server, log=[] if log else None, **options)
