"""Observes the containers of a real node continuously, and remembers when each last ran.

It asks the kernel, not a status: a container runs as long as its cgroup has a process. Which container that is, says
the file from which the runtime started it. This module observes only; `judge` compares what it saw with the leases.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from node import NodeCluster
from node.needs import hierarchies
from support.judge import Stay
from support.observer import Observer

POLL_INTERVAL = 0.05  # seconds between two observations: short beside the second of reserve that a fence has


@dataclass(frozen=True, slots=True)
class Container:
    """A container: whose it is, and when it was first and last seen to run, by the monotonic clock."""

    namespace: str
    pod: str
    uid: str
    name: str
    first: float
    last: float


class Containers(Observer):
    """An observer of all containers of a node, during a `with` block."""

    def __init__(self, cluster: NodeCluster) -> None:
        super().__init__("containers", POLL_INTERVAL)
        self._cluster = cluster
        # Any hierarchy will do: each has every container.
        self._root = hierarchies()[0] / cluster.name
        self._seen: dict[str, Container | None] = {}

    def of(self, namespace: str, pod: str) -> dict[str, Container]:
        """Return a pod's containers by name; of those that ran again, the last."""
        return {each.name: each for each in self.runs(namespace, pod)}

    def runs(self, namespace: str, pod: str) -> list[Container]:
        """Return a pod's containers in the order in which they ran, those that ran again as often."""
        self._check()
        found = (each for each in list(self._seen.values()) if each is not None)
        return sorted(
            (each for each in found if (each.namespace, each.pod) == (namespace, pod)), key=lambda each: each.first
        )

    def stays(self, namespace: str, item: str) -> list[Stay]:
        """Return when each container of a namespace ran, in which all pods are sandboxes of one item."""
        self._check()
        found = [each for each in self._seen.values() if each is not None and each.namespace == namespace]
        return [Stay(item, f"{each.pod}/{each.name}", each.uid, each.first, each.last) for each in found]

    def _observe(self) -> None:
        asked = time.monotonic()
        for identity in self._running():
            if identity not in self._seen:
                with suppress(FileNotFoundError):  # it has just ended; if not, the next look finds it
                    self._seen[identity] = self._identify(identity, asked)
            elif (known := self._seen[identity]) is not None:
                self._seen[identity] = Container(known.namespace, known.pod, known.uid, known.name, known.first, asked)

    def _running(self) -> Iterator[str]:
        """Yield the ids of the containers whose cgroup has a process. The paths end in /pod<uid>/<id>."""
        for folder, _, files in os.walk(self._root):
            path = Path(folder)
            if not path.parent.name.startswith("pod") or "cgroup.procs" not in files:
                continue
            with suppress(OSError):  # it has ended
                if (path / "cgroup.procs").read_text():
                    yield path.name

    def _identify(self, identity: str, asked: float) -> Container | None:
        """Return what the runtime was told of a container; None for the one that only keeps a pod's network."""
        bundle = self._cluster.folder.path / "state" / "io.containerd.runtime.v2.task" / "k8s.io" / identity
        told: Mapping[str, str] = json.loads((bundle / "config.json").read_text())["annotations"]
        if told["io.kubernetes.cri.container-type"] != "container":
            return None
        namespace, pod, uid = (told[f"io.kubernetes.cri.sandbox-{key}"] for key in ("namespace", "name", "uid"))
        return Container(namespace, pod, uid, told["io.kubernetes.cri.container-name"], asked, asked)
