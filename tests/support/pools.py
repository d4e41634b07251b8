"""Pools in journeys: a WorkPool and what it makes, as a user creates and sees them.

This module owns the requests. It must not assert what a pool does: the tests say what they expect.
"""

import json
from typing import Any, Final

from controlplane import ControlPlane, wait_for
from support.cluster import apply, path_of
from support.operator import Leases
from support.simulator import Simulator

NAME: Final = "agents"


class Pool:
    """One WorkPool of a namespace, its WorkLeases, Secrets and pods."""

    def __init__(self, plane: ControlPlane, leases: Leases, simulator: Simulator) -> None:
        self._plane = plane
        self._leases = leases
        self._simulator = simulator
        self.namespace = leases.namespace

    def create(
        self,
        *,
        most: int = 5,
        template: dict[str, Any] | None = None,
        workspace: dict[str, Any] | None = None,
        **spec: Any,
    ) -> None:
        """Create the pool, or change it."""
        sandbox = {"template": template or self._leases.template()}
        sandbox |= {} if workspace is None else {"workspace": workspace}
        whole = {
            "environmentID": self._simulator.environment_id,
            "maxConcurrent": most,
            "leaseTemplate": {"spec": {"sandbox": sandbox}},
        } | spec
        body = {"apiVersion": "worklease.dev/v1alpha1", "kind": "WorkPool", "metadata": {"name": NAME}, "spec": whole}
        apply(self._plane, self.namespace, body)

    def edit(self, **spec: Any) -> None:
        """Change the pool's spec by a merge patch."""
        path = f"{path_of(self.namespace, 'WorkPool')}/{NAME}"
        self._plane.demand("PATCH", path, {"spec": spec}, content_type="application/merge-patch+json")

    def delete(self) -> None:
        """Delete the pool."""
        self._plane.demand("DELETE", f"{path_of(self.namespace, 'WorkPool')}/{NAME}")

    def get(self) -> dict[str, Any] | None:
        """Return the pool as it is now; None if there is none."""
        found: dict[str, Any] | None = self._plane.get(f"{path_of(self.namespace, 'WorkPool')}/{NAME}")
        return found

    def status(self) -> dict[str, Any]:
        """Return the pool's status."""
        return dict((self.get() or {}).get("status") or {})

    def condition(self, kind: str) -> tuple[str, str, str]:
        """Return a condition's status, reason and message; empty if there is none yet."""
        for entry in self.status().get("conditions") or ():
            if entry["type"] == kind:
                return (entry["status"], entry["reason"], entry["message"])
        return ("", "", "")

    def await_condition(self, kind: str, status: str, reason: str, *, seconds: float = 30) -> str:
        """Wait for a condition, and return its message at that moment."""
        found = ("", "", "")

        def met() -> bool:
            nonlocal found
            found = self.condition(kind)
            return found[:2] == (status, reason)

        try:
            wait_for(met, seconds=seconds, what=f"{kind}={status} ({reason}) of the pool")
        except AssertionError as error:
            error.add_note(f"Its status: {json.dumps(self.status(), indent=1)}")
            raise
        return found[2]

    def leases(self) -> dict[str, dict[str, Any]]:
        """Return the pool's WorkLeases by name."""
        path = f"{path_of(self.namespace, 'WorkLease')}?labelSelector=worklease.dev/pool={NAME}"
        found = self._plane.get(path) or {"items": []}
        return {each["metadata"]["name"]: each for each in found["items"]}

    def unfinished(self) -> dict[str, dict[str, Any]]:
        """Return those that are not finished."""
        return {name: each for name, each in self.leases().items() if reason(each, "Finished")[0] != "True"}

    def running(self) -> list[str]:
        """Return the names of those whose sandbox is ready."""
        return [name for name, each in self.leases().items() if reason(each, "SandboxReady")[0] == "True"]

    def await_sandbox(self, name: str, *, seconds: float = 30) -> None:
        """Wait until the sandbox of a WorkLease is ready."""
        try:
            wait_for(lambda: name in self.running(), seconds=seconds, what=f"the sandbox of {name}")
        except AssertionError as error:
            error.add_note(self._shown())
            raise

    def _shown(self) -> str:
        shown = {name: each.get("status", {}).get("conditions") for name, each in self.leases().items()}
        return json.dumps({"pool": self.status(), "leases": shown}, indent=1)

    def secrets(self) -> dict[str, dict[str, Any]]:
        """Return the pool's Secrets by name."""
        path = f"{path_of(self.namespace, 'Secret')}?labelSelector=worklease.dev/pool={NAME}"
        found = self._plane.get(path) or {"items": []}
        return {each["metadata"]["name"]: each for each in found["items"]}

    def await_running(self, number: int, *, seconds: float = 30) -> list[str]:
        """Wait until so many sandboxes are ready, and return the names of their WorkLeases."""
        try:
            wait_for(lambda: len(self.running()) >= number, seconds=seconds, what=f"{number} sandboxes of the pool")
        except AssertionError as error:
            error.add_note(self._shown())
            raise
        return self.running()


def reason(lease: dict[str, Any], kind: str) -> tuple[str, str]:
    """Return the status and the reason of a WorkLease's condition; empty if there is none yet."""
    for entry in (lease.get("status") or {}).get("conditions") or ():
        if entry["type"] == kind:
            return (entry["status"], entry["reason"])
    return ("", "")
