"""The operator as a process of its own, against the tests' control plane and a simulator.

This module owns that process and typed access to WorkLeases and pods. It must not assert, or reach into the process.
"""

import json
import os
import re
import signal
import tempfile
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from controlplane import ControlPlane, wait_for
from support.cluster import apply, path_of
from support.costs import OPERATORS
from support.preloaded import Preloaded
from support.simulator import Simulator

START_SECONDS = 60.0  # it takes a second or two; a machine that also builds something needs more
GRACE_SECONDS = 0.0  # at a test's end: a process that is told to end hands its leases over first, for seconds
END_SECONDS = 30.0  # Kopf's shutdown and the last status writes
SECRET = "worklease-credentials"
PLAYED = "controlplane.worklease.dev"  # so begin the annotations that tell kwok how a pod ends
RESTARTED = 30  # seconds: the TTL of a lease that outlasts a restart of the operator, on a busy machine too


class Operator:
    """`worklease run` for one namespace; it ends with the test run, however that ends."""

    def __init__(self, plane: ControlPlane, namespace: str, api_url: str, **settings: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="worklease-operator-")
        self._processes: list[Preloaded] = []
        self.killed: list[float] = []
        """When the process was killed, by the monotonic clock."""
        self._environment = {
            "KUBECONFIG": str(plane.kubeconfig),
            "WORKLEASE_API_URL": api_url,
            "WORKLEASE_NAMESPACES": namespace,
            "WORKLEASE_LOG_FORMAT": "text",
            "WORKLEASE_LOG_LEVEL": "debug",
            "NO_PROXY": "127.0.0.1",
            "WORKLEASE_HTTP_ADDRESS": "127.0.0.1:0",
        }
        if namespace:  # its checkpoint is there too, so that no test reads another test's
            self._environment["WORKLEASE_NAMESPACE"] = namespace.partition(",")[0]
        self._environment |= settings
        # The tests' own environment is not for the operator.
        self._environment |= {"PATH": os.environ["PATH"], "HOME": self._folder.name, "TMPDIR": self._folder.name}
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            error.add_note(f"The operator's log ends:\n{self.log()[-6000:]}")
        self.close()

    def close(self) -> None:
        """End its processes, and remove their logs."""
        for process in self._processes:
            process.close(grace=GRACE_SECONDS)
        self._folder.cleanup()

    def start(self) -> None:
        """Start or restart the process, and wait until it works."""
        process = Preloaded(
            "worklease", ["run"], environment=self._environment, log=self._log(len(self._processes) + 1), kind=OPERATORS
        )
        self._processes.append(process)
        wait_for(self._has_started, seconds=START_SECONDS, what="the operator's start")

    def _has_started(self) -> bool:
        if (status := self._processes[-1].status) is not None:
            raise RuntimeError(f"the operator ended with {status}:\n{self.log()}")
        return "operator started" in self.log()

    @property
    def address(self) -> str:
        """The address of probes and metrics, as host:port."""
        return str(re.findall(r"operator started .* http=([\w.:]+)", self.log())[-1])

    def scrape(self) -> dict[str, float]:
        """Return the metrics, by name and labels as in the text format."""
        text = httpx.get(f"http://{self.address}/metrics", trust_env=False).raise_for_status().text
        lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in lines}

    def signal(self, number: int) -> None:
        """Send the process a signal, such as SIGSTOP and SIGCONT."""
        self._processes[-1].signal(number)

    def kill(self) -> None:
        """End the process at once, by SIGKILL."""
        self.signal(signal.SIGKILL)
        self._processes[-1].wait(END_SECONDS)
        self.killed.append(time.monotonic())

    def terminate(self) -> int:
        """End the process by SIGTERM, and return its exit status."""
        self.signal(signal.SIGTERM)
        return self._processes[-1].wait(END_SECONDS)

    def _log(self, start: int) -> Path:
        """Return the log of the process of the first start, the second, and so on."""
        return Path(self._folder.name) / f"operator-{start}.log"

    def log(self) -> str:
        """Return the log of the latest process."""
        path = self._log(len(self._processes))
        return path.read_text(errors="replace") if path.exists() else ""


class Leases:
    """The WorkLeases and sandbox pods of one namespace, as a user creates and sees them."""

    def __init__(self, plane: ControlPlane, namespace: str, simulator: Simulator) -> None:
        self._plane = plane
        self.namespace = namespace
        self._environment_id = simulator.environment_id
        self.put_key(simulator.environment_key)

    def _path(self, kind: str, name: str) -> str:
        return f"{path_of(self.namespace, kind)}/{name}"

    def put_key(self, key: str, *, secret: str = SECRET) -> None:
        """Create or change the environment's Secret."""
        body = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": secret},
            "stringData": {"environment-key": key},
        }
        self.apply(body)

    def drop_key(self, *, secret: str = SECRET) -> None:
        """Delete the environment's Secret."""
        self._plane.demand("DELETE", self._path("Secret", secret))

    def create(self, *work_ids: str, pods: bool = False, **spec: Any) -> None:
        """Create a WorkLease for each item, named after the item, and a sandbox pod with `pods`."""
        objects = [self._lease(work_id, spec) for work_id in work_ids]
        if pods:
            objects += [self.pod(f"pod-{_name(work_id)}", work_id) for work_id in work_ids]
        self.apply(*objects)

    def apply(self, *objects: Mapping[str, Any]) -> None:
        """Apply objects as they are."""
        for each in objects:
            apply(self._plane, self.namespace, each)

    def _lease(self, work_id: str, spec: dict[str, Any]) -> dict[str, Any]:
        return {
            "apiVersion": "worklease.dev/v1alpha1",
            "kind": "WorkLease",
            "metadata": {"name": _name(work_id)},
            "spec": {"environmentID": self._environment_id, "workID": work_id} | spec,
        }

    def pod(
        self, name: str, work_id: str | None, *, environment_id: str | None = None, **changes: Any
    ) -> dict[str, Any]:
        """Return a sandbox pod's body; `changes` go into its metadata."""
        labels = {"worklease.dev/environment-id": environment_id or self._environment_id}
        if work_id is not None:
            labels["worklease.dev/work-id"] = work_id
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": labels} | changes,
            "spec": {
                "terminationGracePeriodSeconds": 2,
                "restartPolicy": "Never",
                "containers": [{"name": "sandbox", "image": "busybox"}],
            },
        }

    def template(self, *, waits: bool = False, grace: int = 2, **annotations: str) -> dict[str, Any]:
        """Return a template whose pod runs at once. With `waits`, no scheduler sees it: the test plays it, or binds it.

        Annotations tell kwok how the pod ends (tools/controlplane/stages.yaml): `exit_code="1"`, `exit_after="3s"`.
        """
        kwok = {f"{PLAYED}/{key.replace('_', '-')}": value for key, value in annotations.items()}
        spec: dict[str, Any] = {
            "terminationGracePeriodSeconds": grace,
            "containers": [{"name": "sandbox", "image": "busybox"}],
        }
        if waits:
            spec["schedulerName"] = "played-by-hand"
        return {"metadata": {"labels": {"app": "sandbox"}, "annotations": kwok}, "spec": spec}

    def await_pod(self, *, besides: Collection[str] = (), seconds: float = 30) -> str:
        """Wait for a pod that is not in ``besides``, and return its name."""
        wait_for(lambda: set(self.pods()) - set(besides), seconds=seconds, what="a sandbox pod")
        return next(iter(set(self.pods()) - set(besides)))

    def play(self, pod: str, **status: Any) -> None:
        """Write a pod's status, as a kubelet, a scheduler or a node controller does."""
        path = self._path("Pod", f"{pod}/status")
        self._plane.demand("PATCH", path, {"status": status}, content_type="application/strategic-merge-patch+json")

    def bind_pod(self, pod: str) -> None:
        """Bind a pod to a node, as a scheduler does: it runs then."""
        target = {"apiVersion": "v1", "kind": "Node", "name": self._a_node()}
        body = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod}, "target": target}
        self._plane.demand("POST", self._path("Pod", f"{pod}/binding"), body)

    def _a_node(self) -> str:
        found = self._plane.get("/api/v1/nodes") or {"items": []}
        return next(str(each["metadata"]["name"]) for each in found["items"] if each["metadata"]["name"] == "node-1")

    def delete_pod(self, pod: str) -> None:
        """Delete a pod, as any user may."""
        self._plane.demand("DELETE", self._path("Pod", pod))

    def relabel(self, pod: str, work_id: str | None) -> None:
        """Set or remove a pod's label of the work item."""
        self._merge("Pod", pod, {"metadata": {"labels": {"worklease.dev/work-id": work_id}}})

    def end_pod(self, pod: str, *, exit_code: int, taken_by: str | None = None) -> None:
        """Make a pod's containers exit, by themselves or because something takes the pod away."""
        annotations = {f"{PLAYED}/exit-code": str(exit_code), f"{PLAYED}/taken-by": taken_by}
        self._merge("Pod", pod, {"metadata": {"annotations": annotations}})

    def events(self, work_id: str) -> list[dict[str, Any]]:
        """Return a WorkLease's events, the earliest first."""
        found = self._plane.get(f"/apis/events.k8s.io/v1/namespaces/{self.namespace}/events") or {"items": []}
        about = [event for event in found["items"] if event["regarding"]["name"] == _name(work_id)]
        return sorted(about, key=lambda event: str(event["eventTime"]))

    def reasons(self, work_id: str) -> list[str]:
        """Return the reasons of a WorkLease's events, in order."""
        return [event["reason"] for event in self.events(work_id)]

    def get(self, work_id: str) -> dict[str, Any] | None:
        """Return a WorkLease as it is now; None if there is none."""
        path = f"/apis/worklease.dev/v1alpha1/namespaces/{self.namespace}/workleases/{_name(work_id)}"
        found: dict[str, Any] | None = self._plane.get(path)
        return found

    def status(self, work_id: str) -> dict[str, Any]:
        """Return a WorkLease's status, empty if there is none yet."""
        return dict((self.get(work_id) or {}).get("status") or {})

    def condition(self, work_id: str, kind: str) -> tuple[str, str, str]:
        """Return a condition's status, reason and message; empty if there is none yet."""
        for entry in self.status(work_id).get("conditions") or ():
            if entry["type"] == kind:
                return (entry["status"], entry["reason"], entry["message"])
        return ("", "", "")

    def transition(self, work_id: str, kind: str) -> str:
        """Return since when a condition has its status."""
        (entry,) = (each for each in self.status(work_id)["conditions"] if each["type"] == kind)
        return str(entry["lastTransitionTime"])

    def await_condition(
        self, work_id: str, kind: str, status: str, reason: str | None = None, *, seconds: float = 30
    ) -> str:
        """Wait for a condition, and return its message at that moment."""
        found = ("", "", "")

        def met() -> bool:
            nonlocal found
            found = self.condition(work_id, kind)
            return found[0] == status and reason in (None, found[1])

        wanted = f"{kind}={status}" + (f" ({reason})" if reason else "")
        try:
            wait_for(met, seconds=seconds, what=f"{wanted} of {work_id}")
        except AssertionError as error:
            error.add_note(f"Its status: {json.dumps(self.status(work_id), indent=1)}")
            raise
        return found[2]

    def pods(self) -> dict[str, dict[str, Any]]:
        """Return the namespace's pods by name."""
        found = self._plane.get(f"/api/v1/namespaces/{self.namespace}/pods") or {"items": []}
        return {pod["metadata"]["name"]: pod for pod in found["items"]}

    def volumes(self) -> dict[str, dict[str, Any]]:
        """Return the namespace's PersistentVolumeClaims by name."""
        found = self._plane.get(path_of(self.namespace, "PersistentVolumeClaim")) or {"items": []}
        return {claim["metadata"]["name"]: claim for claim in found["items"]}

    def await_running(self, *names: str, seconds: float = 60) -> None:
        """Wait until pods run."""

        def met() -> bool:
            pods = self.pods()
            return all(pods.get(name, {}).get("status", {}).get("phase") == "Running" for name in names)

        wait_for(met, seconds=seconds, what=f"running pods {', '.join(names)}")

    def edit(self, work_id: str, spec: Mapping[str, Any]) -> None:
        """Change a WorkLease's spec by a merge patch."""
        self._merge("WorkLease", _name(work_id), {"spec": spec})

    def _merge(self, kind: str, name: str, patch: Mapping[str, Any]) -> None:
        """Change an object by a merge patch."""
        self._plane.demand("PATCH", self._path(kind, name), patch, content_type="application/merge-patch+json")

    def delete(self, work_id: str, *, wait: bool = False) -> None:
        """Delete a WorkLease."""
        self._plane.demand("DELETE", self._path("WorkLease", _name(work_id)))
        if wait:
            wait_for(lambda: self.get(work_id) is None, seconds=60, what=f"the end of {work_id}")


def _name(work_id: str) -> str:
    return work_id.lower().replace("_", "-")
