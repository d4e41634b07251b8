"""The operator is killed at every single write of a sandbox's life and restarted: the life ends as without the crash.

A crash point is the n-th write of a kind. The process is killed when that write has taken effect, but before its
answer arrives. `make soak` also kills it before the write takes effect. For each kind, n grows until a life has no n-th
write: that life had no crash, and all others must have ended like it.
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
from support.sandboxes import pods_made
from support.simulator import Simulator

LIFE_SECONDS: Final = 120.0
"""Seconds for one life and one restart, which take ten on an idle machine."""

IS_SOAK: Final = os.environ.get("HYPOTHESIS_PROFILE") == "soak"
MOMENTS: Final = (False, True) if IS_SOAK else (True,)
"""Whether the write has taken effect when the process is killed."""

POLL_INTERVAL: Final = 0.02
"""Seconds between two checks whether the crash is due."""

WRITES: Final = {
    "finalizer": {"verb": "patch", "resource": "workleases"},
    "checkpoint": {"verb": "patch", "resource": "configmaps"},
    "make pod": {"verb": "create", "resource": "pods"},  # first as a dry run, then for real
    "status": {"verb": "patch", "resource": "workleases/status"},
    "delete pod": {"verb": "delete", "resource": "pods"},
}
STOP: Final = "stop call"
KINDS: Final = (*WRITES, STOP)


@dataclass(frozen=True, slots=True)
class Shown:
    """A resource at the end of a life, without its times and uids."""

    finalizers: tuple[str, ...]
    conditions: dict[str, tuple[str, str]]
    sandboxes: tuple[tuple[str, str | None, int | None], ...]
    restarts: int | None


@dataclass(frozen=True, slots=True)
class End:
    """How a life ended."""

    item: str
    stopped: int
    """How many stops ended the item; a graceful stop may come before, unless a crash left no time for it."""
    made: int
    """How many pods were created."""
    left: int = 0
    """How many of them still exist."""
    resource: Shown | None = None
    """None: the resource is gone."""


@dataclass(frozen=True, slots=True)
class Life:
    """A life: the sandbox's template and policy, what is done to it, and how it must end."""

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
    leases.await_condition(item, "SandboxReady", "True", seconds=LIFE_SECONDS)
    simulator.stop_item(item)


def delete(leases: Leases, _: Simulator, item: str) -> None:
    leases.await_condition(item, "SandboxReady", "True", seconds=LIFE_SECONDS)
    leases.delete(item)


LIVES: Final = {
    "finishes": Life(
        End("stopped", stopped=1, made=1, resource=finished(("Succeeded", "Completed", 0))),
        annotations={"exit_code": "0", "exit_after": "1s"},
    ),
    "fails twice": Life(
        End(
            "stopped",
            stopped=1,
            made=2,
            resource=finished(("Failed", "Error", 1), ("Failed", "Error", 1), restarts=1),
        ),
        annotations={"exit_code": "1", "exit_after": "1s"},
        sandbox={"onFailure": "Restart", "maxRestarts": 1},
    ),
    "drains": Life(
        End("stopped", stopped=1, made=1, resource=finished(("Running", "Deleted", None))), act=stop_at_the_server
    ),
    "is deleted": Life(End("stopped", stopped=1, made=1), act=delete),
}


TESTED_LIVES: Final = [life for life in LIVES if IS_SOAK or life != "finishes"]
"""The lives that are tested: one that finishes makes no write that one that fails twice does not make."""


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
    """The processes with which lives are run, one after the other."""

    plane: ControlPlane
    proxy: KubeProxy
    simulator: Simulator
    leases: Leases
    operator: Operator
    audited: int
    """The length of the audit log at the start, in bytes."""

    def live(self, life: Life, item: str, crash: Crash) -> tuple[End, bool]:
        """Run a life with a crash, and return its end, and whether the crash happened."""
        before = self._made()
        self.simulator.create_item(item)
        try:
            with self._crashing(item, crash) as has_crashed:
                template = self.leases.template(**life.annotations)
                self.leases.create(item, sandbox={"template": template} | life.sandbox)
                life.act(self.leases, self.simulator, item)
                wait_for(lambda: self._has_ended(item), seconds=LIFE_SECONDS, what=f"the end of {item}")
        except BaseException as error:
            pods = {pod: body["status"]["phase"] for pod, body in self.leases.pods().items()}
            status = json.dumps(self.leases.status(item), indent=1)
            error.add_note(f"The operator was to be {crash}. The pods: {pods}. The status: {status}")
            raise
        return self.end(item, self._made() - before), has_crashed()

    @contextmanager
    def _crashing(self, item: str, crash: Crash) -> Iterator[Callable[[], bool]]:
        """Kill the process at its write and restart it; the yielded function returns whether that happened."""
        is_over = threading.Event()
        with ThreadPoolExecutor(1) as watching, self._held_up(item, crash) as (is_due, release):

            def watch() -> bool:
                while not is_over.wait(POLL_INTERVAL):
                    if is_due():
                        self.operator.kill()
                        release()
                        self.operator.start()
                        return True
                return False

            crashing = watching.submit(watch)
            try:
                yield crashing.result
            finally:
                is_over.set()

    @contextmanager
    def _held_up(self, item: str, crash: Crash) -> Iterator[tuple[Callable[[], bool], Callable[[], None]]]:
        """Hold the write or its answer; yield a function that tells whether it is held, and one that releases it."""
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
        fault = self.proxy.inject(cut, **WRITES[crash.write], **only, skip=crash.number - 1)
        is_released = threading.Event()

        def release() -> None:
            if not is_released.is_set():
                is_released.set()
                self.proxy.remove_fault(fault)

        try:
            yield fault.acted.is_set, release
        finally:
            release()

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
        """Return how a life ended."""
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
        """Return how many pods were ever created in the namespace."""
        return len(pods_made(self.plane, self.leases.namespace, since=self.audited))

    def records(self) -> set[str]:
        """Return the uids of the resources in the checkpoint."""
        found = self.plane.get(f"/api/v1/namespaces/{self.leases.namespace}/configmaps")
        maps = [each for each in found["items"] if each["metadata"]["name"].startswith("worklease-bucket")]
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
    # The TTL outlasts a start on a busy machine; the short interval makes the server's answers arrive soon.
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
# A life writes its status most often, and is lived once for each write.
@pytest.mark.parametrize(
    "write", [pytest.param(each, marks=pytest.mark.long(seconds=160) if each == "status" else ()) for each in KINDS]
)
@pytest.mark.parametrize("life", TESTED_LIVES)
def test_a_crash_at_any_write_changes_nothing_of_the_end(stage: Stage, life: str, write: str) -> None:
    ends: dict[str, End] = {}
    crashes: dict[str, Crash] = {}
    for crash in (Crash(write, number, is_done) for number in count(1) for is_done in MOMENTS):
        item = f"work_{len(ends)}"
        ends[item], has_crashed = stage.live(LIVES[life], item, crash)
        if not has_crashed:
            break
        crashes[item] = crash
    assert crashes, "a life has such a write"
    *_, without = ends.values()
    assert without == LIVES[life].end
    assert {str(crash): ends[each] for each, crash in crashes.items() if ends[each] != without} == {}
    assert {each: stage.end(each, end.made) for each, end in ends.items()} == ends, "nothing is done after an end"
    for each in ends:
        if stage.leases.get(each) is not None:
            stage.leases.delete(each, wait=True)
    stage.operator.terminate()
    assert stage.records() == set()
    assert check_history(stage.simulator.history(), killed=stage.operator.killed) == []
