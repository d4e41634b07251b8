"""Any sequence of edits, deletions, re-creations, ends and crashes ends in the state that the last spec implies.

The operator is a process, on the real API server and a simulator with a true compare-and-set. A small model follows
it: how each resource's lease must end, and which pods belong to it. The operator never deletes any other pod. All
waits are for conditions.
"""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from itertools import count
from typing import Any, ClassVar, Final

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from controlplane import ControlPlane, wait_for
from support.judge import check_history
from support.operator import Leases, Operator
from support.simulator import Simulator

PATIENCE: Final = 90.0
"""Seconds for what takes a few: a machine that builds something takes more."""

STEPS: Final = 12
"""Rules of one example: some twenty seconds."""

SLOTS: Final = (0, 1)
"""Each is a work item, and the resource that may exist for it."""


class Fate(Enum):
    """The state that a resource's lease must reach."""

    HELD = "Renewed"
    STOPPED = "Stopped"
    RELEASED = "Released"
    SUSPENDED = "Suspended"

    @property
    def is_final(self) -> bool:
        return self in {Fate.STOPPED, Fate.RELEASED}


@dataclass(slots=True)
class Slot:
    """A work item, the resource for it, and how both must end."""

    item: str
    fate: Fate | None = None
    """None: there is no resource."""
    is_claimed: bool = False
    """Whether the lease was seen held."""
    is_made: bool = False
    """Whether the operator makes the pod."""
    policy: dict[str, Any] = field(default_factory=dict)
    deletion: str = "Stop"
    restarts: int = 0
    own: dict[str, str] = field(default_factory=dict)
    """The pods that were bound to the lease, name by uid: they end with it."""
    waiting: dict[str, str] = field(default_factory=dict)
    """The pods that existed before the resource: they are bound once its lease is held."""
    hidden: set[str] = field(default_factory=set)
    """The pods whose label was removed since."""
    states: set[str] = field(default_factory=lambda: {"starting"})
    """The states in which the item may be in the end; "" is any."""


@dataclass(slots=True)
class World:
    """What the examples share: one namespace, and one operator that is up or down."""

    plane: ControlPlane
    simulator: Simulator
    leases: Leases
    operator: Operator
    is_up: bool = True
    numbers: Iterator[int] = field(default_factory=count)
    lapsing: set[str] = field(default_factory=set)
    """Items whose lease was meant to lapse."""

    def kill(self) -> None:
        if self.is_up:
            self.operator.kill()
            self.is_up = False

    def up(self) -> None:
        """Start the operator if it is down."""
        if not self.is_up:
            self.operator.start()
            self.is_up = True

    def await_(self, condition: Callable[[], object], what: str) -> None:
        self.up()
        try:
            wait_for(condition, seconds=PATIENCE, what=what)
        except AssertionError as error:
            phases = {name: (pod["status"].get("phase"), pod["metadata"]) for name, pod in self.leases.pods().items()}
            error.add_note(f"The pods: {json.dumps(phases)}\nThe operator's log ends:\n{self.operator.log()[-6000:]}")
            raise

    def uids(self) -> dict[str, str]:
        """Return the pods that exist and are not being deleted, name by uid."""
        pods = self.leases.pods().values()
        return {
            pod["metadata"]["uid"]: pod["metadata"]["name"]
            for pod in pods
            if "deletionTimestamp" not in pod["metadata"]
        }

    def bound(self, item: str) -> set[str]:
        return {entry["podUID"] for entry in self.leases.status(item).get("sandboxes") or ()}


POLICIES: Final = st.fixed_dictionaries(
    {
        "onFailure": st.sampled_from(["Stop", "Release", "Restart"]),
        "maxRestarts": st.integers(1, 2),
        "drainSeconds": st.integers(1, 5),
    }
)
DELETIONS: Final = st.sampled_from(["Stop", "Release"])
MODES: Final = st.sampled_from(["Operator", "Operator", "Suspended"])
TTLS: Final = st.sampled_from([120, 180])


class Sequence(RuleBasedStateMachine):
    """What people, pods and the server may do, in any order."""

    world: ClassVar[World]

    def __init__(self) -> None:
        super().__init__()
        self.leases, self.simulator = self.world.leases, self.world.simulator
        self.slots: tuple[Slot, ...] = ()
        self.foreign: dict[str, str] = {}
        """The pods that belong to no resource, name by uid."""
        self.labelled: dict[str, str] = {}
        """The items of the pods that were created when no lease could bind them."""
        self.doubtful: dict[str, str] = {}
        """The pods that may have been bound: the test did not check whether the lease was ever held."""

    @initialize(policy=st.none() | POLICIES, deletion=DELETIONS, ttl=TTLS)
    def begin(self, policy: dict[str, Any] | None, deletion: str, ttl: int) -> None:
        number = next(self.world.numbers)
        self.slots = tuple(Slot(f"work_{number}x{slot}") for slot in SLOTS)
        self.create(0, policy, deletion, "Operator", ttl, is_new=True)

    # --- Resources ---------------------------------------------------------------------------------------------

    @rule(
        which=st.sampled_from(SLOTS),
        policy=st.none() | POLICIES,
        deletion=DELETIONS,
        mode=MODES,
        ttl=TTLS,
        is_new=st.booleans(),
    )
    def bring_a_resource(
        self, which: int, policy: dict[str, Any] | None, deletion: str, mode: str, ttl: int, *, is_new: bool
    ) -> None:
        self.create(which, policy, deletion, mode, ttl, is_new=is_new)

    def create(
        self, which: int, policy: dict[str, Any] | None, deletion: str, mode: str, ttl: int, *, is_new: bool
    ) -> None:
        slot = self.slots[which]
        if slot.fate is not None:
            return
        self.end(slot)
        self.deliver(slot, is_new=is_new)
        slot.waiting = {uid: self.foreign.pop(uid) for uid, item in self.labelled.items() if item == slot.item}
        self.labelled = {uid: item for uid, item in self.labelled.items() if item != slot.item}
        slot.policy, slot.deletion, slot.is_made, slot.restarts = policy or {}, deletion, policy is not None, 0
        slot.is_claimed = False
        spec: dict[str, Any] = {"deletionPolicy": deletion, "ttlSeconds": ttl, "heartbeat": {"mode": mode}}
        if policy is not None:
            spec["sandbox"] = {"template": self.leases.template()} | policy
        self.leases.create(slot.item, **spec)
        if mode == "Suspended":
            slot.fate = Fate.SUSPENDED
        else:
            slot.fate = Fate.STOPPED if slot.states == {"stopped"} else Fate.HELD

    def deliver(self, slot: Slot, *, is_new: bool) -> None:
        """Queue and acknowledge the item, unless it stays stopped."""
        there = {item["id"]: item["state"] for item in self.simulator.items()}
        if slot.item not in there:
            self.simulator.create_item(slot.item)
        elif there[slot.item] == "stopped" and not is_new:
            slot.states = {"stopped"}
            return
        else:
            self.simulator.requeue_item(slot.item, state="starting")
        slot.states = {"starting"}

    @rule(which=st.sampled_from(SLOTS), policy=POLICIES, deletion=DELETIONS, mode=MODES, ttl=TTLS)
    def edit(self, which: int, policy: dict[str, Any], deletion: str, mode: str, ttl: int) -> None:
        slot = self.slots[which]
        if slot.fate not in {Fate.HELD, Fate.SUSPENDED} or slot.states == {"stopped"}:
            return
        slot.deletion = deletion
        change: dict[str, Any] = {"deletionPolicy": deletion, "heartbeat": {"mode": mode}, "ttlSeconds": ttl}
        if slot.is_made:
            slot.policy = policy
            change["sandbox"] = policy
        self.leases.edit(slot.item, change)
        slot.fate = Fate.SUSPENDED if mode == "Suspended" else Fate.HELD

    @rule(which=st.sampled_from(SLOTS))
    def delete(self, which: int) -> None:
        slot = self.slots[which]
        if slot.fate is None:
            return
        self.leases.delete(slot.item)
        slot.states = self.after_deletion(slot)
        slot.fate = None

    def after_deletion(self, slot: Slot) -> set[str]:
        """Return the states that the item may reach once its resource is deleted."""
        unclaimed = set() if slot.is_claimed else slot.states
        released = {"active", "queued"}
        match slot.fate:
            case Fate.STOPPED if slot.deletion == "Release":
                return {"stopped", "stopping"}  # a stop that the operator did not see yet is left as it is
            case Fate.STOPPED:
                return {"stopped"}
            case Fate.RELEASED:
                return released
            case Fate.HELD | Fate.SUSPENDED | None if slot.deletion == "Release":
                self.world.lapsing.add(slot.item)
                return released | unclaimed
            case Fate.HELD | Fate.SUSPENDED | None:
                return {"stopped"} | unclaimed

    # --- The server --------------------------------------------------------------------------------------------

    @rule(which=st.sampled_from(SLOTS), force=st.booleans())
    def stop(self, which: int, *, force: bool) -> None:
        slot = self.slots[which]
        if self.is_held(slot):
            self.simulator.stop_item(slot.item, force=force)
            slot.fate = Fate.STOPPED

    # --- Pods --------------------------------------------------------------------------------------------------

    @rule(which=st.sampled_from(SLOTS), code=st.sampled_from([0, 1, None]))
    def end_sandbox(self, which: int, code: int | None) -> None:
        """Let the pod exit with the code; without a code (None), delete it."""
        slot = self.slots[which]
        if not slot.is_made or not self.is_held(slot):
            return
        (uid,) = self.sandbox(slot)
        if uid in slot.hidden:
            return  # the operator no longer sees the pod
        pod = slot.own[uid]
        if code is None:
            self.leases.delete_pod(pod)
        else:
            self.leases.end_pod(pod, exit_code=code)
        self.world.await_(lambda: uid not in self.world.uids(), f"the end of {pod}")
        del slot.own[uid]
        slot.fate = self.after_the_sandbox(slot, code)
        if slot.fate.is_final:
            self.leases.await_condition(slot.item, "Finished", "True", slot.fate.value, seconds=PATIENCE)

    def after_the_sandbox(self, slot: Slot, code: int | None) -> Fate:
        """Return the state that the lease must reach after the end of its sandbox."""
        if code == 0 or slot.policy["onFailure"] == "Stop":
            return Fate.STOPPED
        if slot.policy["onFailure"] == "Release":
            self.world.lapsing.add(slot.item)
            return Fate.RELEASED
        if slot.restarts >= slot.policy["maxRestarts"]:
            return Fate.STOPPED
        slot.restarts += 1
        return Fate.HELD

    @rule(which=st.sampled_from(SLOTS))
    def bring_a_pod(self, which: int) -> None:
        """Make a pod of the item: it is bound while the lease is held, and left alone after the end."""
        slot = self.slots[which]
        if slot.fate is Fate.SUSPENDED:
            return
        is_bound = self.is_held(slot)
        if not is_bound:
            self.end(slot)
        self.adopt(slot, self.make(slot.item), is_bound=is_bound)

    @rule(kind=st.sampled_from(["unlabelled", "half", "of another environment"]), which=st.sampled_from(SLOTS))
    def bring_a_foreign_pod(self, kind: str, which: int) -> None:
        match kind:
            case "unlabelled":
                uid, name = self.make(None, labels={})
            case "half":
                uid, name = self.make(None)
            case _:
                uid, name = self.make(self.slots[which].item, environment_id="env_other")
        self.foreign[uid] = name

    @rule(which=st.sampled_from(SLOTS))
    def label_a_foreign_pod(self, which: int) -> None:
        slot = self.slots[which]
        half = {uid: name for uid, name in self.foreign.items() if name.startswith("half")}
        if half and self.is_held(slot):
            uid, name = next(iter(half.items()))
            self.leases.relabel(name, slot.item)
            self.adopt(slot, (uid, name), is_bound=True)

    @rule(which=st.sampled_from(SLOTS))
    def unlabel_a_bound_pod(self, which: int) -> None:
        slot = self.slots[which]
        if self.is_held(slot) and (shown := [uid for uid in slot.own if uid not in slot.hidden]):
            self.leases.relabel(slot.own[shown[0]], None)
            slot.hidden.add(shown[0])

    def make(self, item: str | None, **changes: Any) -> tuple[str, str]:
        number = next(self.world.numbers)
        name = f"half-{number}" if item is None and not changes else f"pod-{number}"
        self.leases.apply(self.leases.pod(name, item, **changes))
        return self.leases.pods()[name]["metadata"]["uid"], name

    def adopt(self, slot: Slot, pod: tuple[str, str], *, is_bound: bool) -> None:
        uid, name = pod
        if is_bound:
            self.foreign.pop(uid, None)
            slot.own[uid] = name
            self.world.await_(lambda: uid in self.world.bound(slot.item), f"the binding of {name}")
        else:
            self.foreign[uid] = name
            self.labelled[uid] = slot.item

    # --- The operator ------------------------------------------------------------------------------------------

    @rule(is_at_once=st.booleans())
    def crash(self, *, is_at_once: bool) -> None:
        self.world.kill()
        if is_at_once:
            self.world.up()

    # --- What must follow --------------------------------------------------------------------------------------

    def is_held(self, slot: Slot) -> bool:
        """Whether the lease must be held; if so, wait until it is, with its sandbox."""
        if slot.fate is not Fate.HELD:
            return False
        self.world.up()
        self.leases.await_condition(slot.item, "LeaseHeld", "True", "Renewed", seconds=PATIENCE)
        slot.is_claimed = True
        if slot.is_made:
            self.world.await_(lambda: len(self.sandbox(slot)) == 1, f"the sandbox of {slot.item}")
            slot.own |= self.sandbox(slot)
        for uid, name in slot.waiting.items():
            self.adopt(slot, (uid, name), is_bound=True)
        slot.waiting = {}
        return True

    def sandbox(self, slot: Slot) -> dict[str, str]:
        """Return the running pods that were made for the resource, name by uid."""
        found = self.leases.get(slot.item) or {"metadata": {"uid": None}}
        return {
            pod["metadata"]["uid"]: pod["metadata"]["name"]
            for pod in self.leases.pods().values()
            if any(owner["uid"] == found["metadata"]["uid"] for owner in pod["metadata"].get("ownerReferences", ()))
            and pod["status"]["phase"] == "Running"
            and "deletionTimestamp" not in pod["metadata"]
        }

    def end(self, slot: Slot) -> None:
        """Wait until a resource that is over or deleted is finished or gone, and its pods are gone."""
        if slot.fate is None:
            self.world.await_(lambda: self.leases.get(slot.item) is None, f"the end of the resource {slot.item}")
        else:
            self.world.up()
            self.leases.await_condition(slot.item, "Finished", "True", slot.fate.value, seconds=PATIENCE)
        self.world.await_(lambda: not slot.own.keys() & self.world.uids().keys(), f"the end of the pods of {slot.item}")
        self.doubtful |= slot.waiting
        slot.own, slot.waiting, slot.hidden = {}, {}, set()

    def teardown(self) -> None:
        """Check the state of each slot, then delete the remaining resources and wait until they are gone."""
        for slot in self.slots:
            self.judge(slot)
        for slot in self.slots:
            if slot.fate is not None:
                self.delete(self.slots.index(slot))
        for slot in self.slots:
            self.end(slot)
            self.await_item(slot)
        there = self.world.uids()
        assert self.foreign.items() <= there.items(), "a pod that was not the operator's was deleted"
        assert there.items() <= (self.foreign | self.doubtful).items(), "a pod was left behind"
        history, killed = self.simulator.history(), self.world.operator.killed
        assert check_history(history, released=self.world.lapsing, killed=killed) == []
        for name in there.values():
            self.leases.delete_pod(name)

    def judge(self, slot: Slot) -> None:
        match slot.fate:
            case Fate.HELD:
                assert self.is_held(slot)
                assert slot.own.keys() <= self.world.uids().keys(), "a pod of a lease that is held was deleted"
            case Fate.SUSPENDED:
                self.world.await_(
                    lambda: self.leases.condition(slot.item, "LeaseHeld")[1] == "Suspended", f"the pause of {slot.item}"
                )
            case Fate.STOPPED:
                self.end(slot)
                slot.states = {"stopped"}
            case Fate.RELEASED:
                self.end(slot)
                slot.states = {"active", "queued"}
            case None:
                self.end(slot)
        if slot.fate is None or slot.fate.is_final:
            self.await_item(slot)

    def await_item(self, slot: Slot) -> None:
        there = {item["id"] for item in self.simulator.items()}
        if slot.item in there:
            state = self.simulator.item(slot.item)["state"]
            assert state in slot.states, f"{slot.item} is {state}, and should be one of {slot.states}"


@pytest.fixture
def world(control_plane: ControlPlane, namespace: str) -> Iterator[World]:
    # A lease outlasts the time that an example spends without an operator. Beats are frequent, so that the operator
    # soon sees what the server answers.
    with Simulator("--ttl", "120") as simulator:
        leases = Leases(control_plane, namespace, simulator)
        settings_ = {"WORKLEASE_NAMESPACE": namespace, "WORKLEASE_MAX_HEARTBEAT_INTERVAL": "2"}
        with Operator(control_plane, namespace, simulator.url, **settings_) as operator:
            yield World(control_plane, simulator, leases, operator)


@pytest.mark.timeout(0 if settings().max_examples > 1_000 else 900)
@pytest.mark.long(seconds=200)
def test_any_sequence_ends_as_the_last_spec_says(world: World) -> None:
    class Here(Sequence):
        pass

    Here.world = world
    # An example takes ten seconds, so a failing one is reported as it is: no shrinking.
    chosen = settings(
        max_examples=math.isqrt(settings().max_examples),
        stateful_step_count=STEPS,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Here, settings=chosen)
