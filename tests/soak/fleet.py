"""A constant number of leases: each finished lease is replaced by another item, with its resource and sandbox.

This module owns the items and resources of a soak. It must not check anything, or make trouble.
"""

import random
from typing import Final

from controlplane import ControlPlane, wait_for
from support.operator import Leases
from support.simulator import Simulator

TTLS: Final = (30, 30, 36, 45)
"""Seconds: short enough for many beats, long enough to start a process on a busy machine."""

LONGEST_TTL: Final = max(TTLS)

STUBBORN: Final = {"controlplane.worklease.dev/termination": "Stubborn"}
"""A sandbox that uses all of its grace period; the others end at once."""

GRACES: Final = (1, 2, 5)
"""Grace periods of sandboxes, in seconds."""

START_TIMEOUT: Final = 120.0
"""Seconds until all first leases must be held, on a busy machine."""


class Fleet:
    """The leases of a soak."""

    def __init__(self, plane: ControlPlane, leases: Leases, simulator: Simulator, chance: random.Random) -> None:
        self._plane = plane
        self._leases = leases
        self._simulator = simulator
        self._chance = chance
        self._made = 0
        self.current: dict[str, int] = {}
        """The items that the operator must hold, each with its requested TTL."""

    def launch(self, number: int) -> None:
        """Create the first leases, and wait until all are held."""
        self._make(number)
        wait_for(lambda: set(self.held()) == set(self.current), seconds=START_TIMEOUT, what=f"{number} held leases")

    def held(self) -> list[str]:
        """Return the items whose resource says that the lease is held; none while the API server is away."""
        return [item for item, conditions in self._shown().items() if conditions.get("LeaseHeld") == "True"]

    def replace_finished(self) -> None:
        """Replace the leases that have finished."""
        finished = [item for item, conditions in self._shown().items() if conditions.get("Finished") == "True"]
        replaced = [item for item in finished if item in self.current]  # the others are being deleted
        for item in replaced:
            self._leases.delete(item)
            del self.current[item]
        self._make(len(replaced))

    def drop(self, item: str) -> None:
        """Delete a resource, and create another in its place."""
        self._leases.delete(item)
        del self.current[item]
        self._make(1)

    def _make(self, number: int) -> None:
        """Create items with a pod and a resource each."""
        for _ in range(number):
            self._made += 1
            item, ttl = f"work_{self._made:05}", self._chance.choice(TTLS)
            self._simulator.create_item(item)
            self.current[item] = ttl
            annotations = self._chance.choice([{}, STUBBORN])
            pod = self._leases.pod(f"pod-{self._made:05}", item, annotations=annotations)
            pod["spec"]["terminationGracePeriodSeconds"] = self._chance.choice(GRACES)
            self._leases.apply(pod)
            self._leases.create(item, ttlSeconds=ttl, sandbox={"drainSeconds": self._chance.choice([0, 3, 10])})

    def _shown(self) -> dict[str, dict[str, str]]:
        """Return each resource's conditions, by its item."""
        found = self._plane.get(f"/apis/worklease.dev/v1alpha1/namespaces/{self._leases.namespace}/workleases")
        return {
            each["spec"]["workID"]: {
                condition["type"]: condition["status"] for condition in (each.get("status") or {}).get("conditions", [])
            }
            for each in (found or {"items": []})["items"]
        }
