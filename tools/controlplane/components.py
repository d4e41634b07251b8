"""The command lines of a control plane's components. Pure: from where the files are, what to run.

Must not start anything.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from controlplane.ports import LOOPBACK

# Kubernetes' own defaults. Nothing routes them here; they only must not overlap.
SERVICE_RANGE = "10.96.0.0/16"
POD_RANGE = "10.244.0.0/16"
# etcd listens on sockets in the folder, so that no other user can connect and no port can be taken. Their names are
# relative because a socket's path is limited to about 100 bytes, and a temporary folder's path may be longer.
ETCD_CLIENTS = "unix://etcd-clients:0"
ETCD_PEERS = "unix://etcd-peers:0"
ADMIN_USER = "controlplane:admin"
KWOK_USER = "controlplane:kwok"


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the files of one control plane are."""

    directory: Path

    @property
    def certificates(self) -> Path:
        """The folder in which the API server creates its certificate and key at its first start."""
        return self.directory / "certificates"

    @property
    def authority(self) -> Path:
        """What a client trusts: the API server's certificate and the authority that it created for it."""
        return self.certificates / "apiserver.crt"

    @property
    def key(self) -> Path:
        """The API server's key. It also signs service account tokens, so that no other tool has to create a key."""
        return self.certificates / "apiserver.key"

    @property
    def tokens(self) -> Path:
        """The table of users that the API server identifies by a token."""
        return self.directory / "tokens.csv"

    @property
    def audit_policy(self) -> Path:
        """What the API server logs."""
        return Path(__file__).with_name("audit-policy.yaml")

    @property
    def audit_log(self) -> Path:
        """The API server's audit log."""
        return self.directory / "audit.log"

    @property
    def stages(self) -> Path:
        """What kwok does with nodes and pods."""
        return self.directory / "stages.yaml"

    def kubeconfig(self, user: str) -> Path:
        """Return the path of one user's kubeconfig."""
        return self.directory / f"{user.replace(':', '-')}.kubeconfig"


def etcd(binary: Path) -> list[str]:
    """Return etcd's command line. What it loses in a power cut does not matter here."""
    return [
        str(binary),
        "--name=controlplane",
        "--data-dir=etcd",
        f"--listen-client-urls={ETCD_CLIENTS}",
        f"--advertise-client-urls={ETCD_CLIENTS}",
        f"--listen-peer-urls={ETCD_PEERS}",
        f"--initial-advertise-peer-urls={ETCD_PEERS}",
        f"--initial-cluster=controlplane={ETCD_PEERS}",
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def kube_apiserver(binary: Path, layout: Layout, port: int) -> list[str]:
    """Return the API server's command line: with RBAC and an audit log, on the loopback interface only."""
    return [
        str(binary),
        f"--etcd-servers={ETCD_CLIENTS}",
        f"--secure-port={port}",
        f"--bind-address={LOOPBACK}",
        f"--advertise-address={LOOPBACK}",
        "--endpoint-reconciler-type=none",  # it refuses to publish a loopback address as its own
        f"--cert-dir={layout.certificates}",
        f"--token-auth-file={layout.tokens}",
        "--authorization-mode=Node,RBAC",
        # As in hardened clusters: to set blockOwnerDeletion, a client needs a right on the owner's finalizers.
        "--enable-admission-plugins=OwnerReferencesPermissionEnforcement",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-signing-key-file={layout.key}",
        f"--service-account-key-file={layout.key}",
        f"--service-cluster-ip-range={SERVICE_RANGE}",
        f"--audit-policy-file={layout.audit_policy}",
        f"--audit-log-path={layout.audit_log}",
        "--audit-log-maxsize=1024",  # MB: never rotated within a test
        "--profiling=false",
    ]


def kube_controller_manager(binary: Path, layout: Layout, user: str) -> list[str]:
    """Return the controllers' command line: namespaces, service accounts, Jobs, garbage collection and the rest."""
    return [
        str(binary),
        f"--kubeconfig={layout.kubeconfig(user)}",
        f"--service-account-private-key-file={layout.key}",
        f"--root-ca-file={layout.authority}",
        "--secure-port=0",
        "--leader-elect=false",
        "--profiling=false",
    ]


def kube_scheduler(binary: Path, layout: Layout, user: str) -> list[str]:
    """Return the scheduler's command line."""
    return [
        str(binary),
        f"--kubeconfig={layout.kubeconfig(user)}",
        "--secure-port=0",
        "--leader-elect=false",
        "--profiling=false",
    ]


def kwok(binary: Path, layout: Layout, user: str) -> list[str]:
    """Return the command line of kwok, which plays all kubelets."""
    return [
        str(binary),
        f"--kubeconfig={layout.kubeconfig(user)}",
        f"--config={layout.stages}",
        "--manage-all-nodes",
        "--node-lease-duration-seconds=0",  # the heartbeat stage keeps nodes ready; node leases would double the writes
        f"--cidr={POD_RANGE}",
    ]


def node(name: str) -> dict[str, object]:
    """Return a node for kwok to play."""
    room = {"cpu": "64", "memory": "256Gi", "pods": "10000"}  # never the limit of a test
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": {"kwok.x-k8s.io/node": "fake"},
            "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "type": "kwok"},
        },
        "status": {"allocatable": room, "capacity": room},
    }


def kubeconfig(*, url: str, authority: Path, user: str, token: str) -> dict[str, object]:
    """Return a kubeconfig with one context. JSON is YAML, so no library is needed to write it."""
    context: Mapping[str, str] = {"cluster": "controlplane", "user": user}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": user,
        "clusters": [{"name": "controlplane", "cluster": {"server": url, "certificate-authority": str(authority)}}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": user, "context": context}],
    }
