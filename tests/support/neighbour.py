"""A healthy node beside the real one, on which nothing runs.

If all nodes of a cluster are lost, Kubernetes believes that it is the control plane which is cut off, and takes no pod
away (Nodes, "Rate limits on eviction"). So the loss of the only node would show nothing.
"""

import threading
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from controlplane import ControlPlane

NAME = "neighbour"
RENEWAL_SECONDS = 3.0  # the control plane calls a node lost after 20
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"


class Neighbour:
    """A node that is kept ready, during a `with` block."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="keeps a node ready", daemon=True)

    def __enter__(self) -> Self:
        ready = {"type": "Ready", "status": "True", "reason": "Played", "lastHeartbeatTime": _now(micro=False)}
        node = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": NAME, "labels": {"kubernetes.io/hostname": NAME}},
            "spec": {"taints": [{"key": "tests.worklease.dev/played", "effect": "NoSchedule"}]},
        }
        self._plane.demand("POST", "/api/v1/nodes", node)
        path = f"/api/v1/nodes/{NAME}/status"
        self._plane.demand(
            "PATCH", path, {"status": {"conditions": [ready]}}, content_type="application/merge-patch+json"
        )
        spec = {"holderIdentity": NAME, "leaseDurationSeconds": 8, "renewTime": _now()}
        self._plane.demand("POST", LEASES, {"metadata": {"name": NAME}, "spec": spec})
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._plane.demand("DELETE", f"/api/v1/nodes/{NAME}")

    def _run(self) -> None:
        while not self._ended.wait(RENEWAL_SECONDS):
            body = {"spec": {"renewTime": _now()}}
            self._plane.request("PATCH", f"{LEASES}/{NAME}", body, content_type="application/merge-patch+json")


def _now(*, micro: bool = True) -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ" if micro else "%Y-%m-%dT%H:%M:%SZ")
