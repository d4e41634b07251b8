"""The containers of the release: run by the cluster's nodes, or here, where nodes are only played.

Owns how the simulator is reached and how the operator's process follows its Deployment. kwok's nodes run nothing: there
the programs run on this machine, the operator as its pod would, with the arguments, the environment and the account
that the live Deployment gives it. Must not judge.
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
    """What runs, and how it is reached."""

    played: bool
    """Whether there is no kubelet, so that what needs one cannot be shown."""

    def simulator(self) -> Simulator:
        """The simulator, reachable from here."""

    def follow(self) -> None:
        """Have the operator be what its Deployment says now."""

    def end(self) -> None:
        """Have the operator end with its Deployment."""

    def listen(self, pod: str) -> None:
        """Keep what a pod prints, beyond its end."""

    def heard(self, pod: str) -> str:
        """What a pod has printed since it was listened to."""


class Real:
    """Containers on nodes: reached by port-forwarding, heard by kubectl logs."""

    played = False

    def __init__(self, cluster: ExistingCluster, namespace: str) -> None:
        self._kubectl = (*bound(cluster.binary, cluster.kubeconfig, context=cluster.context), "--namespace", namespace)
        self._processes = Processes(Path(tempfile.mkdtemp(prefix="worklease-e2e-")).resolve())

    def close(self) -> None:
        """End the port-forwarding and the listening."""
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
        """The kubelet does."""

    def end(self) -> None:
        """The kubelet does."""

    def listen(self, pod: str) -> None:
        """Follow its log."""
        self._processes.start(pod, [*self._kubectl, "logs", "--follow", pod])
        wait_for(lambda: self.heard(pod), seconds=LOG_SECONDS, what=f"the first line of {pod}")

    def heard(self, pod: str) -> str:
        """What it has printed so far."""
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
        """Start it here."""
        self._simulator = self._stage.start_simulator(self._ttl)
        return self._simulator

    def follow(self) -> None:
        """End the old process, and start one as the live Deployment has it."""
        assert self._simulator is not None  # noqa: S101  # there is nothing to keep before
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
        """Nothing prints."""

    def heard(self, pod: str) -> str:  # noqa: ARG002  # as the protocol has it
        """Nothing prints."""
        return ""

    def _pod_spec(self) -> dict[str, Any]:
        deployment = self._cluster.kubectl("get", "deployment", RELEASE, f"--namespace={self._namespace}", "-o", "json")
        spec: dict[str, Any] = json.loads(deployment)["spec"]["template"]["spec"]
        return spec

    def _account(self, name: str) -> Path:
        """A kubeconfig with a token of the service account, and nobody else's rights."""
        token = self._cluster.kubectl("create", "token", name, f"--namespace={self._namespace}", TOKEN_LIFE).strip()
        config = json.loads(self._cluster.kubectl("config", "view", "--minify", "--flatten", "--raw", "-o", "json"))
        config["users"][0]["user"] = {"token": token}
        path = self._stage.folder / "account.kubeconfig"
        path.touch(mode=0o600)
        path.write_text(json.dumps(config))
        return path


@contextmanager
def containers(cluster: ExistingCluster, stage: Stage, grounds: Grounds, ttl: int) -> Iterator[Containers]:
    """The kind of containers that this cluster has, while the block runs."""
    if are_played(cluster.kubectl("get", "nodes", "-o", "json")):
        yield Played(cluster, grounds.namespace, stage, grounds, ttl)
        return
    real = Real(cluster, grounds.namespace)
    try:
        yield real
    finally:
        real.close()


def are_played(nodes: str) -> bool:
    """Whether all of a cluster's nodes, as kubectl's JSON has them, are played by kwok."""
    annotations = [each["metadata"].get("annotations", {}) for each in json.loads(nodes)["items"]]
    return bool(annotations) and all("kwok.x-k8s.io/node" in each for each in annotations)
