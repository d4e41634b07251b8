"""The operator is killed at each single write of a sandbox's life and started again: it ends as without the crash.

A crash point is the n-th write of a kind. The process is killed when that write is done and not heard of; `make soak`
kills it also before it is done, so right after whatever came before it. For each kind the crash goes from write to
write until a life has no further one: that life saw no crash, and all the others must have ended like it.
"""

import json
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final

import pytest

from controlplane import ControlPlane, wait_for
from support.judge import check_history
from support.kube_proxy import Cut, KubeProxy
from support.operator import Leases, Operator
from support.simulator import Simulator

LIFE: Final = 120.0
"""Seconds for one life and one restart, which take ten."""

IS_SOAK: Final = os.environ.get("HYPOTHESIS_PROFILE") == "soak"
MOMENTS: Final = (False, True) if IS_SOAK else (True,)
"""Whether the write is done when the process is killed."""

LOOK: Final = 0.02
"""Seconds between two looks whether the crash is due."""

WRITES: Final = {
    "finalizer": {"verb": "patch", "resource": "workleases"},
    "checkpoint": {"resource": "configmaps"},  # made and patched; it is read at a start only
    "make pod": {"verb": "create", "resource": "pods"},  # first as a rehearsal, then indeed
    "status": {"verb": "patch", "resource": "workleases/status"},
    "delete pod": {"verb": "delete", "resource": "pods"},
}
STOP: Final = "stop call"


@dataclass(frozen=True, slots=True)
class Shown:
    """What is left of a resource, but for its times and uids."""

    finalizers: tuple[str, ...]
    conditions: dict[str, tuple[str, str]]
    sandboxes: tuple[tuple[str, str | None, int | None], ...]
    restarts: int | None


@dataclass(frozen=True, slots=True)
class End:
    """How a life ended."""

    item: str
    stopped: int
    """How many stops ended it for good; a graceful one may come before, unless a crash has left no time for it."""
    made: int
    """How many pods there ever were."""
    left: int = 0
    """How many of them are still there."""
    resource: Shown | None = None
    """None: it is gone."""


@dataclass(frozen=True, slots=True)
class Way:
    """A life: what the sandbox is like, what is done to it, and how it ends."""

    end: End
    annotations: dict[str, Any] = field(default_factory=dict)
    sandbox: dict[str, Any] = field(default_factory=dict)
    act: Callable[[Leases, Simulator, str], None] = lambda *_: None


def finished(*sandboxes: tuple[str, str | None, int | None], restarts: int = 0) -> Shown:
    conditions = {
        "LeaseHeld": ("False", "Stopped"),
        "SandboxReady": ("False", "Ended"),
        "Finished": ("True", "Stopped"),
        "Ready": ("False", "LeaseNotHeld"),
    }
    return Shown(("worklease.dev/timer",), conditions, sandboxes, restarts)


def stop_at_the_server(leases: Leases, simulator: Simulator, item: str) -> None:
    leases.await_condition(item, "SandboxReady", "True", seconds=LIFE)
    simulator.stop_item(item)


def delete(leases: Leases, _: Simulator, item: str) -> None:
    leases.await_condition(item, "SandboxReady", "True", seconds=LIFE)
    leases.delete(item)


WAYS: Final = {
    "finishes": Way(
        End("stopped", stopped=1, made=1, resource=finished(("Succeeded", "Completed", 0))),
        annotations={"exit_code": "0", "exit_after": "1s"},
    ),
    "fails twice": Way(
        End(
            "stopped",
            stopped=1,
            made=2,
            resource=finished(("Failed", "Error", 1), ("Failed", "Error", 1), restarts=1),
        ),
        annotations={"exit_code": "1", "exit_after": "1s"},
        sandbox={"onFailure": "Restart", "maxRestarts": 1},
    ),
    "drains": Way(
        End("stopped", stopped=1, made=1, resource=finished(("Running", "Deleted", None))), act=stop_at_the_server
    ),
    "is deleted": Way(End("stopped", stopped=1, made=1), act=delete),
}


LIVED: Final = [way for way in WAYS if IS_SOAK or way != "finishes"]
"""The ways that are lived: what finishes writes nothing that what fails twice does not."""


@dataclass(frozen=True, slots=True)
class Crash:
    """When the process is killed."""

    write: str
    number: int
    is_done: bool

    def __str__(self) -> str:
        return f"killed {'after' if self.is_done else 'before'} write {self.number} of kind '{self.write}'"


@dataclass(frozen=True, slots=True)
class Stage:
    """Where lives are lived, one after the other."""

    plane: ControlPlane
    proxy: KubeProxy
    simulator: Simulator
    leases: Leases
    operator: Operator
    audited: int
    """Where the audit log ended when this began, in bytes."""

    def live(self, way: Way, item: str, crash: Crash) -> tuple[End, bool]:
        """Live a life with a crash in it; returns its end, and whether the write ever came."""
        before = self._made()
        self.simulator.create_item(item)
        try:
            with self._crashing(item, crash) as has_crashed:
                template = self.leases.template(**way.annotations)
                self.leases.create(item, sandbox={"template": template} | way.sandbox)
                way.act(self.leases, self.simulator, item)
                wait_for(lambda: self._has_ended(item), seconds=LIFE, what=f"the end of {item}")
        except BaseException as error:
            pods = {pod: body["status"]["phase"] for pod, body in self.leases.pods().items()}
            status = json.dumps(self.leases.status(item), indent=1)
            error.add_note(f"The operator was to be {crash}. The pods: {pods}. The status: {status}")
            raise
        return self.end(item, self._made() - before), has_crashed()

    @contextmanager
    def _crashing(self, item: str, crash: Crash) -> Iterator[Callable[[], bool]]:
        """Kill the process at its write and start it again; what is given tells whether that was so."""
        is_over = threading.Event()
        with ThreadPoolExecutor(1) as watching, self._struck(item, crash) as (is_due, lift):

            def watch() -> bool:
                while not is_over.wait(LOOK):
                    if is_due():
                        self.operator.kill()
                        lift()
                        self.operator.start()
                        return True
                return False

            crashing = watching.submit(watch)
            try:
                yield crashing.result
            finally:
                is_over.set()

    @contextmanager
    def _struck(self, item: str, crash: Crash) -> Iterator[tuple[Callable[[], bool], Callable[[], None]]]:
        """Hold the write up, or its answer; gives whether that was so, and how it is ended."""
        if crash.write == STOP:
            for _ in range(crash.number - 1):
                self.simulator.inject("delay", call="stop", item=item, seconds=0)
            kind = "hang-after" if crash.is_done else "hang"
            self.simulator.inject(kind, call="stop", item=item)
            yield lambda: any(entry.get("fault") == kind for entry in self.simulator.history(item)), lambda: None
            self.simulator.clear_faults()
            return
        only = {"name": name(item)} if crash.write in {"finalizer", "status"} else {}
        cut = Cut(applied=crash.is_done)
        fault = self.proxy.inject(cut, **WRITES[crash.write], **only, passing=crash.number - 1)
        lifted = threading.Event()

        def lift() -> None:
            if not lifted.is_set():
                lifted.set()
                self.proxy.lift(fault)

        try:
            yield fault.struck.is_set, lift
        finally:
            lift()

    def _has_ended(self, item: str) -> bool:
        found = self.leases.get(item)
        if self.leases.pods():
            return False
        if found is None:
            return True
        metadata = found["metadata"]
        is_to_go = "deletionTimestamp" in metadata or "worklease.dev/lease" in metadata.get("finalizers", ())
        return self.leases.condition(item, "Finished")[0] == "True" and not is_to_go

    def end(self, item: str, made: int) -> End:
        """Tell how a life ended."""
        stops = (entry for entry in self.simulator.history(item) if entry.get("call") == "stop")
        changed = [entry["after"]["state"] for entry in stops if entry["before"]["state"] != entry["after"]["state"]]
        return End(
            item=self.simulator.item(item)["state"],
            stopped=changed.count("stopped"),
            made=made,
            left=len(self.leases.pods()),
            resource=shown(self.leases.get(item)),
        )

    def _made(self) -> int:
        """Count the pods that were ever made in the namespace."""
        with self.plane.audit_log.open("rb") as log:
            log.seek(self.audited)
            lines = log.read().decode().splitlines()
        pods = f"/api/v1/namespaces/{self.leases.namespace}/pods"
        entries = (json.loads(line) for line in lines if pods in line and '"create"' in line)
        return sum(
            entry["responseStatus"]["code"] == 201 and "dryRun" not in entry["requestURI"]
            for entry in entries
            if entry["verb"] == "create" and entry["objectRef"].get("subresource") is None
        )

    def records(self) -> set[str]:
        """Give the uids of the resources that the checkpoint knows of."""
        found = self.plane.get(f"/api/v1/namespaces/{self.leases.namespace}/configmaps")
        maps = [each for each in found["items"] if each["metadata"]["name"].startswith("worklease-checkpoint")]
        return {uid for each in maps for uid in each.get("data") or {}}


def name(item: str) -> str:
    return item.replace("_", "-")


def shown(found: dict[str, Any] | None) -> Shown | None:
    if found is None:
        return None
    status = found["status"]
    return Shown(
        finalizers=tuple(found["metadata"].get("finalizers") or ()),
        conditions={each["type"]: (each["status"], each["reason"]) for each in status["conditions"]},
        sandboxes=tuple(
            (each["phase"], each.get("reason"), each.get("exitCode")) for each in status.get("sandboxes") or ()
        ),
        restarts=status.get("restarts"),
    )


@pytest.fixture
def stage(control_plane: ControlPlane, namespace: str) -> Iterator[Stage]:
    # The TTL outlasts a start on a busy machine; what the server has to say is heard soon.
    with Simulator("--ttl", "40") as simulator, KubeProxy(control_plane) as proxy:
        leases = Leases(control_plane, namespace, simulator)
        settings = {
            "KUBECONFIG": str(proxy.kubeconfig),
            "WORKLEASE_NAMESPACE": namespace,
            "WORKLEASE_MAX_HEARTBEAT_INTERVAL": "2",
        }
        with Operator(control_plane, namespace, simulator.url, **settings) as operator:
            audited = control_plane.audit_log.stat().st_size
            yield Stage(control_plane, proxy, simulator, leases, operator, audited)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("write", [*WRITES, STOP])
@pytest.mark.parametrize("way", LIVED)
def test_a_crash_at_any_write_changes_nothing_of_the_end(stage: Stage, way: str, write: str) -> None:
    ends: dict[str, End] = {}
    crashes: dict[str, Crash] = {}
    for crash in (Crash(write, number, is_done) for number in count(1) for is_done in MOMENTS):
        item = f"work_{len(ends)}"
        ends[item], has_crashed = stage.live(WAYS[way], item, crash)
        if not has_crashed:
            break
        crashes[item] = crash
    assert crashes, "a life has such a write"
    *_, without = ends.values()
    assert without == WAYS[way].end
    assert {str(crash): ends[each] for each, crash in crashes.items() if ends[each] != without} == {}
    assert {each: stage.end(each, end.made) for each, end in ends.items()} == ends, "nothing is done after an end"
    for each in ends:
        if stage.leases.get(each) is not None:
            stage.leases.delete(each, wait=True)
    stage.operator.terminate()
    assert stage.records() == set()
    assert check_history(stage.simulator.history(), killed=stage.operator.killed) == []
