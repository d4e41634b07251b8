"""Where the journey takes place: a namespace of the user's cluster, made for it and removed after it.

Owns what is touched there. Must not touch what it has not made: where there is a CRD of ours, it does not begin.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from controlplane import ExistingCluster, KubectlError
from demo.grounds import CRD_NAME, NO_FINALIZERS, Grounds
from e2e.helm import Helm

NAMESPACE = "worklease-e2e"
RESTRICTED = "pod-security.kubernetes.io/enforce=restricted"
ACCOUNT = "--timeout=30s"  # its controller takes milliseconds
REMOVAL = "--timeout=120s"


class PlaceError(Exception):
    """The journey cannot take place here; the message says why and what to do."""


@contextmanager
def place(cluster: ExistingCluster, helm: Helm, folder: Path, say: Callable[[str], None]) -> Iterator[Grounds]:
    """An empty namespace where Pod Security is restricted; release, CRD and namespace go at the end."""
    for kind, name in (("crd", CRD_NAME), ("namespace", NAMESPACE)):
        if cluster.kubectl("get", kind, name, "--ignore-not-found", "-o", "name"):
            raise PlaceError(
                f"The {kind} {name} exists in the cluster at {cluster.url}, and the journey removes only what it made. "
                f"If an earlier one was killed and left it, and nobody uses it: kubectl delete {kind} {name}"
            )
    cluster.kubectl("create", "namespace", NAMESPACE)
    try:
        cluster.kubectl("label", "namespace", NAMESPACE, RESTRICTED)
        # Pods are refused until the namespace has its account.
        cluster.kubectl("wait", "--for=create", "serviceaccount/default", f"--namespace={NAMESPACE}", ACCOUNT)
        yield Grounds(
            kubectl=cluster.kubectl,
            binary=cluster.binary,
            reach=("--kubeconfig", str(cluster.kubeconfig), "--context", cluster.context, "--namespace", NAMESPACE),
            kubeconfig=folder / "account.kubeconfig",
            namespace=NAMESPACE,
            about=f"context {cluster.context} at {cluster.url}, namespace {NAMESPACE}",
            starting_seconds=180.0,  # an image has to be pulled
            ending_seconds=15.0,  # the sandbox's grace, and the kubelet's own time
        )
    finally:
        say(f"Removing the release, the CRD and the namespace {NAMESPACE}")
        helm.uninstall()
        _let_go(cluster)
        cluster.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait", REMOVAL)
        cluster.kubectl("delete", "crd", CRD_NAME, "--ignore-not-found", "--wait", REMOVAL)


def _let_go(cluster: ExistingCluster) -> None:
    """Take the finalizers off what the operator, which is gone, can take none off any more."""
    try:
        names = cluster.kubectl("get", "worklease", f"--namespace={NAMESPACE}", "-o", "name").split()
    except KubectlError:  # there is no CRD: the journey ended before it came
        return
    for name in names:
        cluster.kubectl("patch", name, f"--namespace={NAMESPACE}", "--type=merge", "-p", NO_FINALIZERS)
