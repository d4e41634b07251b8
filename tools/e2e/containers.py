"""The containers of the release: run by the cluster's nodes, or on this machine if kwok only plays the nodes.

Owns how the simulator is reached and how the operator's process follows its Deployment. kwok's nodes run nothing: there
the programs run on this machine. The operator gets the arguments, the environment and the service account that the live
Deployment gives its pod. Must not judge.
"""

import dataclasses
import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from controlplane import ExistingCluster, wait_for
from controlplane.kubectl import bound
from controlplane.processes import Processes
from demo.grounds import Grounds
from demo.simulator import Simulator
from demo.stage import Stage
from e2e.helm import RELEASE

FORWARDED = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+) -> (\d+)")
WORK_API, ADMINISTRATION = "8090", "8091"
FORWARD_SECONDS = 30.0  # usually one
LOG_SECONDS = 30.0
LOCAL = {"WORKLEASE_HTTP_ADDRESS": "127.0.0.1:0", "WORKLEASE_LOG_FORMAT": "text"}  # many share this machine
TOKEN_LIFE = "--duration=1h"  # noqa: S105  # an option, no token


class Containers(Protocol):
    """The programs that run, and how to reach them."""

    played: bool
    """Whether there is no kubelet, so that what needs one cannot be shown."""

    def simulator(self) -> Simulator:
        """Return the simulator, reachable from this machine."""

    def follow(self) -> None:
        """Make the operator what its Deployment says now."""

    def end(self) -> None:
        """End the operator together with its Deployment."""

    def listen(self, pod: str) -> None:
        """Start to keep a pod's log, also beyond the pod's end."""

    def heard(self, pod: str) -> str:
        """Return what a pod has printed since `listen`."""


class Real:
    """Containers on nodes: reached by port-forwarding and kubectl logs."""

    played = False

    def __init__(self, cluster: ExistingCluster, namespace: str) -> None:
        self._kubectl = (*bound(cluster.binary, cluster.kubeconfig, context=cluster.context), "--namespace", namespace)
        self._processes = Processes(Path(tempfile.mkdtemp(prefix="worklease-e2e-")).resolve())

    def close(self) -> None:
        """End the port-forwarding and the log followers."""
        self._processes.close()

    def simulator(self) -> Simulator:
        """Forward two ports of the loopback interface to it."""
        words = ["port-forward", f"service/{RELEASE}-simulator", f":{WORK_API}", f":{ADMINISTRATION}"]
        self._processes.start("port-forward", [*self._kubectl, *words])
        log = self._processes.log("port-forward")

        def ports() -> dict[str, str]:
            found = FORWARDED.findall(log.read_text(errors="replace")) if log.exists() else []
            return {target: port for port, target in found}

        told = wait_for(lambda: ports() if len(ports()) == 2 else None, seconds=FORWARD_SECONDS, what="port-forward")  # noqa: PLR2004
        assert told is not None  # noqa: S101  # wait_for returns no empty value
        return Simulator(*(f"http://127.0.0.1:{told[target]}" for target in (WORK_API, ADMINISTRATION)))

    def follow(self) -> None:
        """Do nothing: the kubelet does it."""

    def end(self) -> None:
        """Do nothing: the kubelet does it."""

    def listen(self, pod: str) -> None:
        """Follow the pod's log."""
        self._processes.start(pod, [*self._kubectl, "logs", "--follow", pod])
        wait_for(lambda: self.heard(pod), seconds=LOG_SECONDS, what=f"the first line of {pod}")

    def heard(self, pod: str) -> str:
        """Return what the pod has printed so far."""
        log = self._processes.log(pod)
        return log.read_text(errors="replace") if log.exists() else ""


class Played:
    """No containers: the operator and the simulator are processes of this machine."""

    played = True

    def __init__(self, cluster: ExistingCluster, namespace: str, stage: Stage, grounds: Grounds, ttl: int) -> None:
        self._cluster, self._namespace, self._stage, self._grounds, self._ttl = cluster, namespace, stage, grounds, ttl
        self._simulator: Simulator | None = None
        self._runs = False

    def simulator(self) -> Simulator:
        """Start the simulator on this machine."""
        self._simulator = self._stage.start_simulator(self._ttl)
        return self._simulator

    def follow(self) -> None:
        """End the old process, and start one as the live Deployment says."""
        assert self._simulator is not None  # noqa: S101  # without a simulator there is no lease to keep
        spec = self._pod_spec()
        environment = {each["name"]: each.get("value", "") for each in spec["containers"][0]["env"]}
        del environment["WORKLEASE_API_URL"]  # a name that only a cluster's DNS knows
        grounds = dataclasses.replace(
            self._grounds, kubeconfig=self._account(spec["serviceAccountName"]), settings=environment | LOCAL
        )
        self.end()
        self._stage.start_operator(grounds, self._simulator)
        self._runs = True

    def end(self) -> None:
        """End the process."""
        if self._runs:
            self._stage.end_operator()
            self._runs = False

    def listen(self, pod: str) -> None:
        """Do nothing: no container prints anything."""

    def heard(self, pod: str) -> str:  # noqa: ARG002  # the protocol's signature
        """Return nothing: no container prints anything."""
        return ""

    def _pod_spec(self) -> dict[str, Any]:
        deployment = self._cluster.kubectl("get", "deployment", RELEASE, f"--namespace={self._namespace}", "-o", "json")
        spec: dict[str, Any] = json.loads(deployment)["spec"]["template"]["spec"]
        return spec

    def _account(self, name: str) -> Path:
        """Write a kubeconfig with a token of the service account, so that the operator has no other rights."""
        token = self._cluster.kubectl("create", "token", name, f"--namespace={self._namespace}", TOKEN_LIFE).strip()
        config = json.loads(self._cluster.kubectl("config", "view", "--minify", "--flatten", "--raw", "-o", "json"))
        config["users"][0]["user"] = {"token": token}
        path = self._stage.folder / "account.kubeconfig"
        path.touch(mode=0o600)
        path.write_text(json.dumps(config))
        return path


@contextmanager
def containers(cluster: ExistingCluster, stage: Stage, grounds: Grounds, ttl: int) -> Iterator[Containers]:
    """Open the kind of containers that this cluster has, while the block runs."""
    if are_played(cluster.kubectl("get", "nodes", "-o", "json")):
        yield Played(cluster, grounds.namespace, stage, grounds, ttl)
        return
    real = Real(cluster, grounds.namespace)
    try:
        yield real
    finally:
        real.close()


def are_played(nodes: str) -> bool:
    """Return whether kwok plays all of a cluster's nodes, given kubectl's JSON."""
    annotations = [each["metadata"].get("annotations", {}) for each in json.loads(nodes)["items"]]
    return bool(annotations) and all("kwok.x-k8s.io/node" in each for each in annotations)
