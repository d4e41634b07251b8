"""The work leases of the journey and their sandboxes: each sandbox ends in a different way.

Owns their manifests. Must not apply them.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ENVIRONMENT = "env_demo"
ASKED_TO_END = "SIGTERM received"
PLAYED = "controlplane.worklease.dev"  # how kwok is told to end a pod; no real kubelet reads it
# On SIGTERM it says so and takes a moment. Nothing tells the other sandboxes to end.
PATIENT = f"trap 'echo {ASKED_TO_END}; sleep 1; exit 0' TERM; echo working; while true; do sleep 1 & wait $!; done"
# tail keeps the last line in memory, and /dev/zero has only one. It starts after the pod has been seen to run.
GREEDY = "sleep 5; exec tail /dev/zero"
# More than the volume may hold: the kubelet evicts the pod at its next check.
WASTEFUL = "sleep 5; dd if=/dev/zero of=/scratch/waste bs=1M count=8; while true; do sleep 1 & wait $!; done"


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A work item's sandbox: what its container does, and how kwok plays that."""

    item: str
    script: str
    played: Mapping[str, str] = field(default_factory=dict)

    @property
    def pod(self) -> str:
        """Return the name of the pod."""
        return f"sandbox-{self.name}"

    @property
    def name(self) -> str:
        """Return the name of the WorkLease."""
        return self.item.removeprefix("work_")

    def manifests(self, namespace: str, image: str) -> str:
        """Return the WorkLease and the pod, for kubectl."""
        lease = {
            "apiVersion": "worklease.dev/v1alpha1",
            "kind": "WorkLease",
            "metadata": {"name": self.name, "namespace": namespace},
            "spec": {"environmentID": ENVIRONMENT, "workID": self.item, "sandbox": {"drainSeconds": 10}},
        }
        return json.dumps({"apiVersion": "v1", "kind": "List", "items": [lease, self._pod(namespace, image)]})

    def pod_manifest(self, namespace: str, image: str) -> str:
        """Return the pod alone, for kubectl."""
        return json.dumps(self._pod(namespace, image))

    def _pod(self, namespace: str, image: str) -> dict[str, Any]:
        container = {
            "name": "sandbox",
            "image": image,
            "imagePullPolicy": "IfNotPresent",
            "command": ["sh", "-c", self.script],
            "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "32Mi"}},
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}],
        }
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": self.pod,
                "namespace": namespace,
                "labels": {"worklease.dev/environment-id": ENVIRONMENT, "worklease.dev/work-id": self.item},
                "annotations": {f"{PLAYED}/{name}": value for name, value in self.played.items()},
            },
            "spec": {
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 5,
                "automountServiceAccountToken": False,
                "securityContext": {
                    "runAsNonRoot": True,
                    "runAsUser": 65534,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [container],
                "volumes": [{"name": "scratch", "emptyDir": {"sizeLimit": "1Mi"}}],
            },
        }


STANDING = Sandbox("work_demo1", PATIENT)  # the chart's example is its WorkLease
STOPPED = Sandbox("work_demo2", PATIENT)
OUT_OF_MEMORY = Sandbox("work_demo3", GREEDY, {"exit-code": "137", "exit-after": "5s", "exit-reason": "OOMKilled"})
EVICTED = Sandbox("work_demo4", WASTEFUL, {"exit-code": "137", "exit-after": "5s", "status-reason": "Evicted"})
