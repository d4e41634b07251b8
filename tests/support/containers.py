"""Observes the containers of a real node continuously, and remembers when each last ran.

It asks the kernel, not a status: a container runs as long as its cgroup has a process. Which container that is,
containerd knows. This module observes only; `judge` compares the observations with the leases.
"""

import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from node import NodeCluster
from node.needs import hierarchies
from support.judge import Stay

POLL_INTERVAL = 0.05  # seconds between two observations: short beside the second of reserve that a fence has
JOIN_TIMEOUT = 30.0
WORK_LABEL = "worklease.dev/work-id"


@dataclass(frozen=True, slots=True)
class Container:
    """A container: whose it is, and when it was first and last seen to run, by the monotonic clock."""

    namespace: str
    pod: str
    uid: str
    name: str
    first: float
    last: float


class Containers:
    """An observer of all containers of a node, during a `with` block."""

    def __init__(self, cluster: NodeCluster) -> None:
        self._cluster = cluster
        # Any hierarchy will do: each has every container.
        self._root = hierarchies()[0] / cluster.name
        self._seen: dict[str, Container | None] = {}
        self._items: dict[str, str] = {}
        self._ended = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="looks at containers", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join(JOIN_TIMEOUT)

    def of(self, namespace: str, pod: str) -> dict[str, Container]:
        """Return a pod's containers by name; of those that ran again, the last."""
        self._check()
        found = (each for each in self._seen.values() if each is not None)
        ordered = sorted(found, key=lambda each: each.first)
        return {each.name: each for each in ordered if (each.namespace, each.pod) == (namespace, pod)}

    def stays(self, namespace: str) -> list[Stay]:
        """Return when each container of the items' pods ran."""
        self._check()
        found = (each for each in self._seen.values() if each is not None and each.namespace == namespace)
        return [
            Stay(self._items[each.uid], f"{each.pod}/{each.name}", each.uid, each.first, each.last)
            for each in found
            if each.uid in self._items
        ]

    def _check(self) -> None:
        if self._failure is not None:
            raise RuntimeError("The looking at containers has failed, so nothing is known of them") from self._failure

    def _run(self) -> None:
        try:
            while not self._ended.wait(POLL_INTERVAL):
                self._observe()
        except Exception as error:  # noqa: BLE001 - raised by `of` and `stays`, in the thread that calls them
            self._failure = error

    def _observe(self) -> None:
        asked = time.monotonic()
        for identity in self._running():
            if identity not in self._seen:
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
        """Return what containerd says about a container; None for the one that only keeps a pod's network."""
        labels: Mapping[str, str] = json.loads(self._cluster.ctr("containers", "info", identity))["Labels"]
        if labels.get("io.cri-containerd.kind") != "container":
            return None
        namespace, pod, uid = (labels[f"io.kubernetes.pod.{key}"] for key in ("namespace", "name", "uid"))
        body: dict[str, Any] = self._cluster.get(f"/api/v1/namespaces/{namespace}/pods/{pod}") or {}
        metadata = body.get("metadata", {})
        if metadata.get("uid") == uid and WORK_LABEL in metadata.get("labels", {}):
            self._items[uid] = metadata["labels"][WORK_LABEL]
        return Container(namespace, pod, uid, labels["io.kubernetes.container.name"], asked, asked)
