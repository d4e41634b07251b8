"""The chart installed on a real control plane, and the operator as a process in place of its pod.

No container runs there: the process gets the environment of the live Deployment and a token of its ServiceAccount.
This module owns the release and its removal. It must not assert.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from controlplane import ControlPlane, wait_for
from support.chart import CHART, HELMS, NAMESPACE, RELEASE, Helm, environment, pod_spec
from support.cluster import SERVICE_ACCOUNT_SECONDS
from support.operator import Operator

# Settings that differ from the pod's: many processes share this machine's address, and tests read the log.
LOCAL = {"WORKLEASE_HTTP_ADDRESS": "127.0.0.1:0", "WORKLEASE_LOG_FORMAT": "text", "WORKLEASE_LOG_LEVEL": "debug"}
RESTRICTED = "pod-security.kubernetes.io/enforce=restricted"
CRD = "workleases.worklease.dev"
CRDS = (CRD, "workpools.worklease.dev")


class Installation:
    """One release in a namespace of its own with restricted Pod Security; everything is removed at the end."""

    def __init__(self, plane: ControlPlane, home: Path, *, helm: str = HELMS[0]) -> None:
        self.plane = plane
        self.helm = Helm(home, plane, binary=helm)
        self._namespaces: list[str] = []
        self._audited = plane.audit_log.stat().st_size

    def __enter__(self) -> Self:
        self.make_namespace(NAMESPACE)
        self.plane.kubectl("label", "namespace", NAMESPACE, RESTRICTED)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove everything, so that the next installation starts clean."""
        self.helm.run("uninstall", RELEASE, "--namespace", NAMESPACE, "--no-hooks", "--ignore-not-found")
        for namespace, name in self.leases():
            patch = ("--type=merge", "-p", '{"metadata":{"finalizers":null}}')
            self.plane.kubectl("--namespace", namespace, "patch", "worklease", name, *patch)
        self.plane.kubectl("delete", "crd", *CRDS, "--ignore-not-found", "--timeout=60s")
        for namespace in self._namespaces:  # a pod may be one that never ends by itself
            self.plane.kubectl("--namespace", namespace, "delete", "pods", "--all", "--grace-period=0", "--force")
        self.plane.kubectl("delete", "namespace", *self._namespaces, "--ignore-not-found", "--timeout=120s")

    def make_namespace(self, name: str) -> str:
        """Create a namespace, ready for pods."""
        self.plane.kubectl("create", "namespace", name)
        self._namespaces.append(name)
        account = f"/api/v1/namespaces/{name}/serviceaccounts/default"
        wait_for(lambda: self.plane.get(account), seconds=SERVICE_ACCOUNT_SECONDS, what=f"the account of {name}")
        return name

    def install(self, values: Mapping[str, Any] | None = None, *more: str, chart: Path = CHART) -> str:
        """Install or upgrade the chart, wait until its objects are ready, and return what helm prints."""
        return self.helm.install(NAMESPACE, values, "--wait", "--timeout=120s", *more, chart=chart)

    def uninstall(self, *more: str) -> str:
        """Uninstall the chart, and return what helm prints."""
        return self.helm.run("uninstall", RELEASE, f"--namespace={NAMESPACE}", "--timeout=120s", *more)

    def leases(self) -> list[tuple[str, str]]:
        """Return namespace and name of all WorkLeases."""
        found = self.plane.get("/apis/worklease.dev/v1alpha1/workleases") or {"items": []}
        return [(each["metadata"]["namespace"], each["metadata"]["name"]) for each in found["items"]]

    def deployment(self, name: str = RELEASE) -> dict[str, Any] | None:
        """Return the live Deployment; None if there is none."""
        found: dict[str, Any] | None = self.plane.get(f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{name}")
        return found

    def operator(self, *, api_url: str | None = None) -> Operator:
        """Return the operator with the arguments, environment and account of the live Deployment's pod.

        `api_url` replaces the Deployment's Work API if that is a name that only a cluster can resolve.
        """
        deployment = self.deployment()
        assert deployment is not None
        spec = pod_spec(deployment)
        assert spec["containers"][0]["args"] == ["run"]
        account = self.plane.service_account_kubeconfig(NAMESPACE, spec["serviceAccountName"])
        given = environment(deployment) | LOCAL | {"KUBECONFIG": str(account)}
        named = given.pop("WORKLEASE_API_URL")
        return Operator(self.plane, "", api_url or named, **given)

    def audit(self, account: str) -> list[dict[str, Any]]:
        """Return the audit log's entries of a service account of the release, since the installation began."""
        user = f"system:serviceaccount:{NAMESPACE}:{account}"
        lines = self.plane.audit_log.read_bytes()[self._audited :].decode().splitlines()
        entries = (json.loads(line) for line in lines if user in line)
        return [entry for entry in entries if entry["user"]["username"] == user]
