"""Sandboxes that a kubelet runs: their templates, and the checks that hold for each of their ends.

Must not know kwok: what happens here happens by signals, exit codes and the kernel.
"""

import time
from typing import Any

from controlplane import wait_for
from node.configuration import SANDBOX
from support.containers import Container, Containers
from support.judge import check_history, check_sandboxes
from support.operator import Leases
from support.sandboxes import ITEM, calls, hold
from support.simulator import Simulator

SETTLE_SECONDS = 0.2  # a container that has just ended is seen to have ended at the next look
WORKS = "trap 'exit 0' TERM; while :; do sleep 0.2; done"
DEAF = "trap '' TERM; while :; do sleep 0.2; done"
HANDLERLESS = "exec sleep 1000"  # the kernel does not deliver to a first process what that has no handler for
MEMORY = {"limits": {"memory": "32Mi"}}


def template(
    script: str = WORKS, *, grace: int = 2, pod: dict[str, Any] | None = None, **container: Any
) -> dict[str, Any]:
    """Return a sandbox's template whose only container runs a shell script."""
    sandbox = {
        "name": "sandbox",
        "image": SANDBOX,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", script],
    }
    spec = {"terminationGracePeriodSeconds": grace, "containers": [sandbox | container]}
    return {"metadata": {"labels": {"app": "sandbox"}}, "spec": spec | (pod or {})}


def beside(name: str, script: str, **more: Any) -> dict[str, Any]:
    """Return a container for `initContainers`."""
    return {"name": name, "image": SANDBOX, "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", script]} | more


class Scene:
    """A lease and its sandbox on a real node, seen from its three sides."""

    def __init__(self, leases: Leases, simulator: Simulator, containers: Containers) -> None:
        self.leases, self.simulator, self.containers = leases, simulator, containers

    def begin(self, body: dict[str, Any], **sandbox: Any) -> str:
        """Create an item and its WorkLease, wait for the pod, and return its name; it need not run yet."""
        self.simulator.create_item(ITEM)
        self.leases.create(ITEM, sandbox={"template": body} | sandbox)
        return self.leases.await_pod()

    def run(self, body: dict[str, Any], **sandbox: Any) -> str:
        """Do the same, and wait until the sandbox runs."""
        return hold(self.leases, self.simulator, template=body, sandbox=sandbox)

    def container(self, pod: str, name: str = "sandbox") -> Container:
        """Return when a container of a pod ran."""
        wait_for(lambda: name in self.containers.of(self.leases.namespace, pod), seconds=10, what=f"{pod}/{name}")
        return self.containers.of(self.leases.namespace, pod)[name]

    def runs(self, pod: str, name: str) -> list[Container]:
        """Return when a container of a pod ran, each time."""
        return [each for each in self.containers.runs(self.leases.namespace, pod) if each.name == name]

    def said(self, pod: str) -> list[str]:
        """Return the reasons of a pod's events."""
        return self.leases.reasons(pod)

    def ended(self, pod: str, name: str = "sandbox", *, seconds: float = 60) -> float:
        """Wait until a container runs no more, and return when it last ran, by the monotonic clock."""
        wait_for(
            lambda: time.monotonic() - self.container(pod, name).last > SETTLE_SECONDS,
            seconds=seconds,
            what=f"the end of {pod}/{name}",
        )
        return self.container(pod, name).last

    def deleted(self, pod: str) -> float:
        """Wait until a pod's deletion is requested, and return when that was seen, by the monotonic clock."""

        def met() -> bool:
            body = self.leases.pods().get(pod)
            return body is None or "deletionTimestamp" in body["metadata"]

        wait_for(met, seconds=60, what=f"the deletion of {pod}")
        return time.monotonic()

    def stopped(self, *, seconds: float = 60) -> str:
        """Wait until the item is over, and return what the status says."""
        return self.leases.await_condition(ITEM, "Finished", "True", "Stopped", seconds=seconds)

    def called(self, call: str, state: str | None = None) -> float:
        """Return when the first call of a kind took effect (that led to a state), by the monotonic clock."""
        entries = calls(self.simulator, call)
        return float(
            next(each["applied_monotonic"] for each in entries if state in (None, (each["after"] or {}).get("state")))
        )

    def lease_ends(self) -> float:
        """Return when the lease ends that the server has granted last, by the monotonic clock."""
        extended = (each for each in calls(self.simulator, "heartbeat") if each["lease_extended"])
        return max(float(each["applied_monotonic"] + each["ttl_seconds"]) for each in extended)

    def holds(self) -> None:
        """Check that no rule of a lease was broken, and that no container ran past its lease."""
        assert check_history(self.simulator.history()) == []
        stays = self.containers.stays(self.leases.namespace, ITEM)
        assert stays
        assert check_sandboxes(self.simulator.history(), stays) == []
