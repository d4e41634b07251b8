"""A control plane with one real node, in namespaces of its own.

Owns the namespaces, the node's programs and their end. The control plane runs in them too; a port of this machine's
loopback interface leads to its API server. When this process ends, however it ends, so do all others. Must not be used
where `why_not` gives a reason.
"""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from controlplane.binaries import ensure
from controlplane.own import BINARIES, COMPONENTS, OwnControlPlane
from controlplane.ports import free_port
from controlplane.processes import Processes, StartError
from controlplane.waiting import wait_for
from node import certificates, cgroups, configuration, images, namespaces, sweeper
from node.configuration import ADDRESS, SERVICE_ADDRESS
from node.forward import Forwarder
from node.needs import NODE_BINARIES, PLUGINS, NodeError, program, why_not

NAME = "worklease-node"
NODE_COMPONENTS = ("containerd", "kubelet", "kube-proxy", "coredns")
PROXY_USER, DNS_USER = "system:kube-proxy", "system:coredns"
SETUP_SECONDS = 30.0
RUNTIME_SECONDS = 60.0  # usually one
SWEEP_SECONDS = 60.0  # usually one
# Kubernetes waits 50 s before it calls a node lost; the kubelet's lease is as short (configuration.kubelet).
LOST_AFTER = "--node-monitor-grace-period=20s"


class NodeCluster(OwnControlPlane):
    """A running cluster of one node, as a context manager."""

    _needed = (*(each for each in COMPONENTS if each != "kwok"), *NODE_COMPONENTS)

    def __init__(self, name: str = NAME, *, archives: Sequence[Path] = ()) -> None:
        """Take the programs; the start is in `with`.

        Args:
            name: The name of the node, of its cgroup and of its folder: one name for each node of a machine.
            archives: The images, as files, that the node has in addition to its own.
        """
        if reason := why_not():
            raise NodeError(reason)
        self.name = name
        self.folder = namespaces.folder_of(name)
        if self.folder.path.exists():
            raise NodeError(
                f"{self.folder.path} exists: a node of that name runs, or was killed; make node DOWN=1 ends it"
            )
        self._archives = archives
        self._node_user = f"system:node:{name}"
        self._forwarder: Forwarder | None = None
        super().__init__(
            nodes=0,
            binaries=ensure((*BINARIES, *NODE_BINARIES)),
            choose_port=self._open_port,
            processes=lambda folder: Processes(folder, inside=namespaces.secluded()),
            users=(self._node_user, PROXY_USER, DNS_USER),
        )
        self._node_names = [name]
        self._sweeper = sweeper.start(name, self.reaper_pid)

    def close(self) -> None:
        """End everything, and remove the folders and the cgroup."""
        super().close()
        if self._forwarder is not None:
            self._forwarder.close()
            self._forwarder = None
        self._sweeper.wait(SWEEP_SECONDS)

    def ctr(self, *arguments: str) -> str:
        """Ask containerd about what the kubelet has started, and return its answer."""
        done = subprocess.run(
            [str(self.binaries["ctr"]), "--address", str(self.folder.socket), "--namespace", "k8s.io", *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise NodeError(f"ctr {' '.join(arguments)} failed: {done.stderr.strip()}")
        return done.stdout

    def load(self, *archives: Path) -> None:
        """Load images from files."""
        for archive in archives:
            self.ctr("images", "import", "--digests=false", str(archive))

    def _open_port(self) -> int:
        """Choose a port, and let it lead to the API server."""
        self._processes.look()  # once the reaper answers, the namespaces are there
        if self._forwarder is not None:
            self._forwarder.close()
        port = free_port()
        self._forwarder = Forwarder.into(self._network, port)
        return port

    @contextmanager
    def reaching(self, port: int) -> Iterator[str]:
        """Let the node's pods reach a port of this machine's loopback while the block runs; yield its host and port."""
        forwarder = Forwarder.out_of(self._network, ADDRESS, port)
        try:
            yield f"{ADDRESS}:{port}"
        finally:
            forwarder.close()

    @property
    def _network(self) -> Path:
        return Path(f"/proc/{self._processes.reaper_pid}/ns/net")

    def _prepare(self) -> None:
        """Make the namespaces a node, and start containerd."""
        super()._prepare()
        certificates.make(self._layout.certificates, (ADDRESS, SERVICE_ADDRESS, "127.0.0.1"))
        cgroups.create(self.name)
        self._write()
        self._inside("setup", ["sh", "-c", configuration.setup(self.folder)])
        self._start("containerd")

    def _write_stages(self) -> None:
        """Write nothing: kwok plays no node here."""

    def _write(self) -> None:
        """Write what the node's programs read."""
        folder = self.folder
        namespaces.lay_out(folder)
        for each in ("cni", "images"):
            (folder.path / each).mkdir()
        shim, runc = self.binaries["containerd-shim-runc-v2"], program("runc")
        authority = self._layout.certificates / "kubelet-authority.crt"
        files = {
            "containerd.toml": configuration.containerd(folder, shim=shim, runc=runc, plugins=PLUGINS),
            "cni/10-worklease.conflist": configuration.network(folder),
            "kubelet.yaml": configuration.kubelet(folder, cgroup=self.name, authority=authority),
            "kube-proxy.yaml": configuration.kube_proxy(self._layout.kubeconfig(PROXY_USER), node=self.name),
            "Corefile": configuration.coredns(self._layout.kubeconfig(DNS_USER)),
            "resolv.conf": f"nameserver {ADDRESS}\n",
        }
        for name, content in files.items():
            (folder.path / name).write_text(content)
        (folder.path / "kubeconfig").symlink_to(self.kubeconfig)

    def _make_nodes(self) -> None:
        """Load the images, and start what makes the machine a node."""
        wait_for(self._has_runtime, seconds=RUNTIME_SECONDS, what="containerd")
        self.load(*images.write(self.folder.path / "images", program("busybox")), *self._archives)
        for name in ("kubelet", "kube-proxy", "coredns"):
            self._start(name)

    def _has_runtime(self) -> bool:
        if "containerd" in self._processes.look().ended:
            raise StartError(f"containerd has ended:\n{self._processes.tail('containerd')}")
        try:
            self.ctr("version")
        except NodeError:
            return False
        return True

    def _start(self, name: str) -> None:
        self._processes.start(name, self._command(name))

    def _inside(self, name: str, command: list[str]) -> None:
        """Run a command in the namespaces, to its end."""
        self._processes.start(name, namespaces.with_path(command))
        self._processes.wait_for_end(name, seconds=SETUP_SECONDS)
        if self._processes.look().ended[name] != 0:
            raise NodeError(f"this machine does not let a node be made: {self._processes.tail(name).strip()}")

    def _command(self, component: str) -> list[str]:
        """Return the command line of a component."""
        path, binary = self.folder.path, str(self.binaries[component])
        match component:
            case "kube-apiserver":
                return [*super()._command(component), *self._serving_pods()]
            case "kube-controller-manager":
                return [*super()._command(component), LOST_AFTER]
            case "containerd":
                return namespaces.with_path([binary, f"--config={path}/containerd.toml"])
            case "kubelet":
                return namespaces.with_path(
                    [
                        binary,
                        f"--config={path}/kubelet.yaml",
                        f"--kubeconfig={self._layout.kubeconfig(self._node_user)}",
                        f"--root-dir={path}/kubelet",
                        f"--cert-dir={path}/kubelet-certificates",
                        f"--hostname-override={self.name}",
                        f"--node-ip={ADDRESS}",
                    ]
                )
            case "kube-proxy":
                return namespaces.with_path([binary, f"--config={path}/kube-proxy.yaml"])
            case "coredns":
                return [binary, f"-conf={path}/Corefile"]
            case _:
                return super()._command(component)

    def _serving_pods(self) -> list[str]:
        """Return the API server's options for a network with pods, in which nobody else is, and for a kubelet."""
        client = self._layout.certificates / "kubelet-client"
        return [
            "--bind-address=0.0.0.0",
            f"--advertise-address={ADDRESS}",
            "--endpoint-reconciler-type=lease",
            f"--kubelet-client-certificate={client}.crt",
            f"--kubelet-client-key={client}.key",
            "--kubelet-preferred-address-types=InternalIP",
        ]
