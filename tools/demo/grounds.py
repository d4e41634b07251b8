"""Where the demo takes place: its own control plane, or, after asking, a namespace of the reader's cluster.

Owns what the two have in common and how each is cleaned up. In the reader's cluster, must not touch anything but the
namespace that it created and, if it is missing, the custom resource, which stays.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from controlplane import ControlPlane, ExistingCluster, KubectlError

REPOSITORY = Path(__file__).parents[2]
CUSTOM_RESOURCES = "crds"
EXAMPLES = "examples/"
CRD_NAMES = ("workleases.worklease.dev", "workpools.worklease.dev")
OWN_NAMESPACE = "default"  # keeps the lines that a reader types short
GUEST_NAMESPACE = "worklease-demo"
ESTABLISHED = "--timeout=30s"  # usually 50 ms
ACCOUNT = "--timeout=30s"  # its controller takes milliseconds
REMOVAL = "--timeout=90s"  # a drained sandbox of the examples has 10 s; a busy cluster needs more
LOOPBACK = "127.0.0.1,localhost"  # requests to the simulator must not go through a proxy
PLAYED_END = "controlplane.worklease.dev/exit-code=0"
"""The annotation at which a played pod ends."""
NO_FINALIZERS = '{"metadata":{"finalizers":null}}'


class Kubectl(Protocol):
    """kubectl, bound to one cluster; raises KubectlError if it fails and `check` is true."""

    def __call__(self, *arguments: str, check: bool = True) -> str:
        """Run it and return what it printed."""


class GroundsError(Exception):
    """The demo cannot take place here; the message says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grounds:
    """A cluster and a namespace in it, ready for the examples."""

    kubectl: Kubectl
    binary: Path
    reach: tuple[str, ...]
    """The kubectl options that select this cluster, for a reader to type."""
    kubeconfig: Path
    """The kubeconfig of the operator."""
    namespace: str
    about: str
    starting_seconds: float
    """How long a pod may take to run."""
    ending_seconds: float
    """How long a pod may take to end."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """More variables of the operator's environment."""
    runs_containers: bool = True
    """Whether its nodes run containers; those of the demo's own control plane are played."""

    def typed(self, *words: str) -> str:
        """Return a kubectl line for a reader to type. If there is no kubectl on the PATH, it names the built one."""
        program = "kubectl" if shutil.which("kubectl") else str(self.binary)
        return " ".join([program, *self.reach, *words])

    def install(self) -> None:
        """Install the custom resources and wait until they are served."""
        path = str(REPOSITORY / CUSTOM_RESOURCES)
        self.kubectl("apply", "--server-side", "-f", path)
        self.kubectl("wait", "--for=condition=Established", ESTABLISHED, "-f", path)

    def apply(self, *files: str) -> str:
        """Apply files, or folders of them, of the repository, and return what kubectl said."""
        given = (f"--filename={REPOSITORY / file}" for file in files)
        return self.kubectl("apply", f"--namespace={self.namespace}", *given)

    def finish(self, pod: str) -> tuple[str, ...]:
        """Let the container of a pool's pod end with exit code 0, and return kubectl's words for that."""
        words = ("exec", pod, "--", "kill", "1") if self.runs_containers else ("annotate", "pod", pod, PLAYED_END)
        self.kubectl(f"--namespace={self.namespace}", *words)
        return words


def own(plane: ControlPlane) -> Grounds:
    """Return a control plane that nobody else uses and that is removed at the end."""
    grounds = Grounds(
        kubectl=plane.kubectl,
        binary=plane.binaries["kubectl"],
        reach=("--kubeconfig", str(plane.kubeconfig)),
        kubeconfig=plane.kubeconfig,
        namespace=OWN_NAMESPACE,
        about=f"etcd, kube-apiserver, controllers, scheduler and two nodes played by kwok, at {plane.url}",
        starting_seconds=20.0,  # kwok takes a second; the rest is for a busy machine
        ending_seconds=0.0,  # kwok's containers end at once
        runs_containers=False,
    )
    grounds.install()
    return grounds


@contextmanager
def guest(cluster: ExistingCluster, folder: Path, say: Callable[[str], None]) -> Iterator[Grounds]:
    """Use the reader's cluster, in a namespace that did not exist before and is deleted afterwards.

    Leave the block while the operator still runs: it has to remove the finalizers from its resources.
    """
    if cluster.kubectl("get", "namespace", GUEST_NAMESPACE, "--ignore-not-found", "-o", "name"):
        raise GroundsError(_taken(cluster))
    grounds = Grounds(
        kubectl=cluster.kubectl,
        binary=cluster.binary,
        reach=("--kubeconfig", str(cluster.kubeconfig), "--context", cluster.context, "--namespace", GUEST_NAMESPACE),
        kubeconfig=_pinned(cluster, folder),
        namespace=GUEST_NAMESPACE,
        about=f"context {cluster.context} at {cluster.url}, namespace {GUEST_NAMESPACE}",
        starting_seconds=180.0,  # an image has to be pulled
        ending_seconds=15.0,  # the sandbox's grace period, and the kubelet's own time
        # The checkpoint is in the same namespace and is deleted with it.
        settings={"WORKLEASE_NAMESPACES": GUEST_NAMESPACE, "WORKLEASE_NAMESPACE": GUEST_NAMESPACE}
        | _reader_environment(),
    )
    named = " and ".join(CRD_NAMES)
    found = cluster.kubectl("get", "crd", *CRD_NAMES, "--ignore-not-found", "-o", "name").split()
    if len(found) == len(CRD_NAMES):
        say(f"The CRDs {named} are already installed and stay. An operator there may see the demo's resources")
    elif found:
        raise GroundsError(
            f"The cluster at {cluster.url} has one of the CRDs {named} and not the other, as an earlier version of the "
            "operator leaves it. The demo changes no CRD that it finds: upgrade that operator first"
        )
    else:
        grounds.install()
    cluster.kubectl("create", "namespace", GUEST_NAMESPACE)
    try:
        # The API server refuses pods until the namespace has its service account.
        cluster.kubectl("wait", "--for=create", "serviceaccount/default", f"--namespace={GUEST_NAMESPACE}", ACCOUNT)
        yield grounds
    finally:
        _leave(cluster, say)
        if not found:
            say(f"The CRDs {named} stay installed. To remove them: kubectl delete crd {' '.join(CRD_NAMES)}")


def _leave(cluster: ExistingCluster, say: Callable[[str], None]) -> None:
    """Delete the namespace. If the operator is not there to remove its finalizers, remove them by force."""
    removal = ("delete", "namespace", GUEST_NAMESPACE, "--ignore-not-found", "--wait", REMOVAL)
    say(f"Removing the namespace {GUEST_NAMESPACE}")
    try:
        cluster.kubectl(*removal)
    except KubectlError:
        in_namespace = f"--namespace={GUEST_NAMESPACE}"
        for name in cluster.kubectl("get", "worklease,workpool", in_namespace, "-o", "name", check=False).split():
            cluster.kubectl("patch", name, in_namespace, "--type=merge", "-p", NO_FINALIZERS, check=False)
        cluster.kubectl(*removal)


def _taken(cluster: ExistingCluster) -> str:
    bound = f"kubectl --kubeconfig {cluster.kubeconfig} --context {cluster.context}"
    inside = f"{bound} --namespace {GUEST_NAMESPACE}"
    return (
        f"The namespace {GUEST_NAMESPACE} already exists in the cluster at {cluster.url}, and the demo removes only "
        f"what it made itself. If an earlier demo was killed and left the namespace behind, remove it with\n"
        f"  {inside} get worklease,workpool -o name | "
        f"xargs -I NAME {inside} patch NAME --type=merge -p '{NO_FINALIZERS}'\n"
        f"  {bound} delete namespace {GUEST_NAMESPACE}"
    )


def _pinned(cluster: ExistingCluster, folder: Path) -> Path:
    """Write a kubeconfig with only this context, so that the operator keeps it even if the reader switches context."""
    path = folder / "kubeconfig"
    path.touch(mode=0o600)
    path.write_text(cluster.kubectl("config", "view", "--minify", "--flatten", "--raw", "-o", "json"))
    return path


def _reader_environment() -> dict[str, str]:
    """Return the variables that a cluster's login may need: the home directory and the proxy settings."""
    wanted = ("HOME", "HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy")
    given = {name: os.environ[name] for name in wanted if name in os.environ}
    direct = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    return given | ({"NO_PROXY": f"{LOOPBACK},{direct}"} if direct else {})
