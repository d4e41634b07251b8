"""Where the journey takes place: a namespace of the user's cluster, created for it and removed after it.

Owns what is touched there. Must not touch what it did not create: if a CRD is already installed, it does not begin.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from controlplane import ExistingCluster, KubectlError
from demo.grounds import CRD_NAMES, NO_FINALIZERS, Grounds
from e2e.helm import Helm

NAMESPACE = "worklease-e2e"
RESTRICTED = "pod-security.kubernetes.io/enforce=restricted"
ACCOUNT = "--timeout=30s"  # its controller takes milliseconds
REMOVAL = "--timeout=120s"


class PlaceError(Exception):
    """The journey cannot take place here; the message says why and what to do."""


@contextmanager
def place(cluster: ExistingCluster, helm: Helm, folder: Path, say: Callable[[str], None]) -> Iterator[Grounds]:
    """Create an empty namespace with restricted Pod Security; remove release, CRDs and namespace at the end."""
    for kind, name in (*(("crd", name) for name in CRD_NAMES), ("namespace", NAMESPACE)):
        if cluster.kubectl("get", kind, name, "--ignore-not-found", "-o", "name"):
            raise PlaceError(
                f"The {kind} {name} already exists in the cluster at {cluster.url}, and the journey removes only what "
                f"it made itself. If an earlier run was killed and left it behind, and nobody uses it, remove it with: "
                f"kubectl delete {kind} {name}"
            )
    cluster.kubectl("create", "namespace", NAMESPACE)
    try:
        cluster.kubectl("label", "namespace", NAMESPACE, RESTRICTED)
        # The API server refuses pods until the namespace has its service account.
        cluster.kubectl("wait", "--for=create", "serviceaccount/default", f"--namespace={NAMESPACE}", ACCOUNT)
        yield Grounds(
            kubectl=cluster.kubectl,
            binary=cluster.binary,
            reach=("--kubeconfig", str(cluster.kubeconfig), "--context", cluster.context, "--namespace", NAMESPACE),
            kubeconfig=folder / "account.kubeconfig",
            namespace=NAMESPACE,
            about=f"context {cluster.context} at {cluster.url}, namespace {NAMESPACE}",
            starting_seconds=180.0,  # an image has to be pulled
            ending_seconds=15.0,  # the sandbox's grace period, and the kubelet's own time
        )
    finally:
        say(f"Removing the release, the CRDs and the namespace {NAMESPACE}")
        helm.uninstall()
        _remove_finalizers(cluster)
        cluster.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait", REMOVAL)
        cluster.kubectl("delete", "crd", *CRD_NAMES, "--ignore-not-found", "--wait", REMOVAL)


def _remove_finalizers(cluster: ExistingCluster) -> None:
    """Remove the finalizers that the operator, which is gone, can no longer remove."""
    try:
        names = cluster.kubectl("get", "worklease,workpool", f"--namespace={NAMESPACE}", "-o", "name").split()
    except KubectlError:  # there is no CRD: the journey ended before it was installed
        return
    for name in names:
        cluster.kubectl("patch", name, f"--namespace={NAMESPACE}", "--type=merge", "-p", NO_FINALIZERS)
