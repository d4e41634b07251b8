"""One history of two or three processes that share a lease: what goes wrong, when, and how it is judged in the end.

Owns the choice of faults from a seed, and the last judgement, after all is well again. Must not know how a process
decides.
"""

from collections import Counter
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from itertools import count
from math import inf
from random import Random
from typing import Final

from support.bucket_process import Options
from support.server_model import Holder
from support.shared_world import SharedWorld, new_world
from support.sharing_process import SharingProcess
from worklease.rules.lease import End
from worklease.rules.pods import Pod
from worklease.rules.situation import DeletionPolicy, OnFailure, Policy
from worklease.rules.tenure import VACANT, is_valid
from worklease.rules.tenure import Holder as Name

TTLS: Final = (10.0, 15.0, 15.0, 15.0, 30.0, 30.0, 30.0, 30.0, 60.0, 60.0, 60.0, 300.0)
LOSSES: Final = (0.0, 0.0, 0.1, 0.4)


class Fault(StrEnum):
    """What goes wrong, or is done."""

    CRASH = "crash"
    """The holder dies with its node; another process joins later."""
    RESTART = "restart"
    """The holder dies, and is started again in its place."""
    SUSPEND = "suspend"
    CUT = "cut"
    """The holder cannot reach the API server."""
    AWAY = "away"
    """Nobody can reach the API server."""
    HAND_OVER = "hand-over"
    END = "end"
    """The holder is told to end, in order; another process joins later."""
    THIEF = "thief"
    STOP = "stop"
    DELETION = "deletion"
    POD = "pod"
    """A pod with the item's labels begins."""
    SUCCESS = "success"
    """A sandbox finishes by itself."""


USUAL: Final = (Fault.CRASH, Fault.RESTART, Fault.SUSPEND, Fault.CUT, Fault.AWAY, Fault.HAND_OVER, Fault.END, Fault.POD)
RARE: Final = (Fault.THIEF, Fault.STOP, Fault.DELETION, Fault.SUCCESS)


ORDINARY: Final = frozenset({Fault.THIEF, Fault.STOP, Fault.DELETION, Fault.POD, Fault.SUCCESS})
"""What is nobody's failure."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What happens in a history."""

    seed: int
    ttl: float
    processes: int
    loss: float
    faults: tuple[tuple[float, Fault, float], ...]
    """When each happens, what, and how long it lasts."""
    is_made: bool
    """Whether the operator makes the sandbox."""
    deletion: DeletionPolicy

    @property
    def end(self) -> float:
        """Return when all is well again."""
        return max((at + length for at, _, length in self.faults), default=0.0) + self.ttl


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of a history."""

    broken: tuple[str, ...]
    counts: Counter[str]
    log: tuple[tuple[float, str], ...]


def plan(seed: int) -> Plan:
    """Return the history of a seed."""
    random = Random(seed)  # noqa: S311 (the same history each time)
    ttl = random.choice(TTLS)
    faults = []
    at = min(ttl, 20.0)
    for _ in range(random.randint(1, 5)):
        kind = random.choice(USUAL if random.random() < 0.8 else RARE)
        at += random.choice((0.0, 1.0)) * random.uniform(0.0, min(1.5 * ttl, 90.0))
        faults.append((at, kind, random.uniform(1.0, random.choice((8.0, 20.0, 2 * ttl)))))
    return Plan(
        seed=seed,
        ttl=ttl,
        processes=random.choice((2, 3)),
        loss=random.choice(LOSSES),
        faults=tuple(faults),
        is_made=random.random() < 0.4,
        deletion=random.choice(tuple(DeletionPolicy)),
    )


class History:
    """A world with its processes, as a plan has it go wrong."""

    def __init__(self, planned: Plan, *, log: bool = False, reread: bool = False) -> None:
        self.plan, self.random = planned, Random(planned.seed + 1)  # noqa: S311 (as above)
        self.options = Options(
            policy=Policy(is_made=True, on_failure=OnFailure.RESTART) if planned.is_made else None,
            deletion=planned.deletion,
            reread=reread,
        )
        random = self.random
        self.world: SharedWorld = new_world(
            random,
            log=log,
            ttl=planned.ttl,
            stamps_first_beat=random.random() < 0.3,
            list_fails=random.choice((0.0, 0.2)),
            loss=planned.loss,
        )
        self.world.able = self._is_any_able
        self.processes: list[SharingProcess] = []
        self.numbers = count()
        for _ in range(planned.processes):
            self.join(self._elsewhere(), random.uniform(0, 1e5))
        for at, fault, length in planned.faults:
            self.world.at(at, partial(self._happen, fault, length))
        self.world.at(1.0, self._every_second)

    def run(self) -> Verdict:
        """Let the history happen, make all well, and judge what came of it."""
        world, ttl = self.world, self.plan.ttl
        world.run(self.plan.end)
        self._heal()
        world.run(self.plan.end + 1.2 * ttl + 60.0)
        if not world.broken:
            self._judge()
        return Verdict(tuple(world.broken), world.counts, tuple(world.log or ()))

    def join(self, name: Name, offset: float) -> None:
        process = SharingProcess(self.world, name, offset, self.random.uniform(-0.2, 0.2), self.options)
        process.running = partial(self._running, name.place)
        self.processes.append(process)
        self.world.say(process.name, "joins")

    def _running(self, place: str) -> frozenset[tuple[int, int]]:
        return frozenset(
            (each.own.pid, each.own.started) for each in self.processes if each.lives and each.place == place
        )

    @property
    def holder(self) -> SharingProcess | None:
        """Return the process that holds the bucket."""
        name = self.world.cluster.bucket.holder
        return next((each for each in self.processes if each.name == name and each.lives), None)

    def _is_any_able(self) -> bool:
        now = self.world.now
        return any(each.lives and each.paused_until <= now and not each.is_cut() for each in self.processes)

    def _every_second(self) -> None:
        world = self.world
        if world.server.state == "queued" and self.random.random() < 0.3:
            world.other_polls()
        world.judge()
        world.at(world.now + 1.0, self._every_second)

    # --- What goes wrong -----------------------------------------------------------------------------------------

    def _happen(self, fault: Fault, length: float) -> None:
        self.world.say("---", fault.value, round(length, 1))
        if fault in ORDINARY:
            self._happen_outside(fault)
            return
        self.world.troubled = max(self.world.troubled, self.world.now + length + 12.0)
        if fault is Fault.AWAY:
            self.world.cluster.away_until = self.world.now + length
        elif self.holder is not None:
            self._happen_to(self.holder, fault, length)

    def _happen_outside(self, fault: Fault) -> None:
        world = self.world
        match fault:
            case Fault.THIEF:
                if world.is_ours and world.server.state == "active":
                    world.thief_enters()
            case Fault.STOP:
                if world.server.holder is Holder.OURS:
                    world.server.stop(force=self.random.random() < 0.3)
            case Fault.DELETION:
                world.cluster.deleting = True
            case Fault.POD:
                if self._may_begin_pod():
                    name = f"labelled{world.now:.0f}"
                    world.add_pod(Pod(uid=name, name=name, phase="Running", grace=self.random.choice((1.0, 30.0))))
            case Fault.SUCCESS:
                world.pod_succeeds()
            case _:
                raise AssertionError(fault)

    def _happen_to(self, holder: SharingProcess, fault: Fault, length: float) -> None:
        until = self.world.now + length
        self.world.able_since = self.world.now  # from here on another process has to notice it
        match fault:
            case Fault.CRASH | Fault.RESTART:
                self._crash(holder, length, in_place=fault is Fault.RESTART)
            case Fault.SUSPEND:
                holder.paused_until = until
            case Fault.CUT:
                holder.cut_until = until
            case Fault.HAND_OVER:
                holder.hand_over(ends=False)
            case Fault.END:
                holder.hand_over(ends=True)
                self.world.at(until, partial(self.join, self._elsewhere(), self.random.uniform(0, 1e5)))
            case _:
                raise AssertionError(fault)

    def _crash(self, holder: SharingProcess, length: float, *, in_place: bool) -> None:
        holder.lives = False
        if in_place:
            name, offset, back = replace(holder.own, started=next(self.numbers)), holder.offset, min(length, 3.0)
        else:
            name, offset, back = self._elsewhere(), self.random.uniform(0, 1e5), length
        self.world.at(self.world.now + back, partial(self.join, name, offset))

    def _elsewhere(self) -> Name:
        number = next(self.numbers)
        return Name(f"place{number}", 1, number, "a")

    def _may_begin_pod(self) -> bool:
        """Whether a pod that begins now is the sandbox of our lease, and can still be told to end in time."""
        world, holder = self.world, self.holder
        kept = None if holder is None else holder.kept
        if kept is None or not kept.lease.held or kept.lease.reprieve is not None:
            return False
        ends = world.server.ends - 1.0 - world.server.ttl / 50 - world.server.ttl / 5
        return world.is_ours and world.now < ends - 1.0 and not self.plan.is_made and world.cluster.finalizer

    # --- The end -------------------------------------------------------------------------------------------------

    def _heal(self) -> None:
        world = self.world
        world.cluster.away_until = world.loss = world.list_fails = 0.0
        for each in self.processes:
            each.paused_until = min(each.paused_until, world.now)
            each.cut_until, each.flaky, each.slow = -inf, 0.0, 0.08
        if not any(each.lives and not each.is_ending for each in self.processes):
            self.join(self._elsewhere(), 0.0)

    def _judge(self) -> None:
        """One process holds the bucket and is valid; the lease is beaten, or all that was bound to it is over."""
        world, cluster, server, holder = self.world, self.world.cluster, self.world.server, self.holder
        if holder is None or holder.tenure is None or not is_valid(holder.liveness, holder.now):
            world.breaks(f"nobody valid holds the bucket: {cluster.bucket.holder!r}")
            return
        others = [each.name for each in self.processes if each.lives and each.tenure is not None and each is not holder]
        if others:
            world.breaks(f"{others} take themselves for holders too")
        if cluster.deleting and cluster.finalizer:
            world.breaks("the deleted resource is still there")
        if not cluster.deleting and world.is_ours and server.state == "active" and cluster.ended is None:
            if server.ends < world.now + server.ttl / 4:
                world.breaks("a lease that is ours is not beaten")
            return
        is_released = cluster.deleting and self.plan.deletion is DeletionPolicy.RELEASE
        is_held = holder.kept is not None and holder.kept.lease.sent is not None
        if (
            world.is_ours
            and server.state == "stopping"
            and is_held
            and not is_released
            and cluster.ended is not End.EXPIRED
        ):
            world.breaks("a stop is not confirmed")
        ours = [uid for uid, real in cluster.pods.items() if real.is_known and not real.pod.is_over]
        if ours and cluster.ended is not None and cluster.bucket.holder != VACANT:
            world.breaks(f"{ours} outlive the end of the lease")


def shortened(planned: Plan, *, reread: bool = False) -> Plan:
    """Return a plan without the faults that it breaks a promise without."""
    for fault in planned.faults:
        less = replace(planned, faults=tuple(each for each in planned.faults if each is not fault))
        if History(less, reread=reread).run().broken:
            return shortened(less, reread=reread)
    return planned


def told(planned: Plan, *, lines: int = 60, reread: bool = False) -> str:
    """Return the shortest history like this one that breaks a promise, line by line."""
    short = shortened(planned, reread=reread)
    log = History(short, log=True, reread=reread).run().log
    return "\n".join([str(short), *(f"{at:10.3f} {words}" for at, words in log[-lines:])])
