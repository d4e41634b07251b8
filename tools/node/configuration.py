"""What the programs of a node read at their start. Pure: from where the files are, what is in them.

Must not write or start anything.
"""

import json
from dataclasses import dataclass
from pathlib import Path

BRIDGE = "worklease0"
ADDRESS = "10.244.0.1"  # of the node, on the bridge: all in a network namespace of its own
POD_RANGE = "10.244.0.0/16"
FIRST_POD = "10.244.0.10"
DOMAIN = "cluster.local"
SERVICE_ADDRESS = "10.96.0.1"  # of the API server: the first of the control plane's range
PAUSE = "localhost/pause:1"
SANDBOX = "localhost/busybox:1"
UNUSED = ["io.containerd.nri.v1.nri", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]
# What the kubelet would change for the whole machine. It leaves what already has the value that it wants.
TUNABLES = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}


@dataclass(frozen=True, slots=True)
class Folder:
    """Where the files of one node are."""

    path: Path

    @property
    def socket(self) -> Path:
        """Where containerd listens."""
        return self.path / "containerd.sock"

    @property
    def tunables(self) -> Path:
        """The files that hide the machine's own settings from the kubelet."""
        return self.path / "tunables"

    @property
    def network(self) -> Path:
        """The network of the pods."""
        return self.path / "cni"


def containerd(folder: Folder, *, shim: Path, runc: Path, plugins: Path) -> str:
    """Return containerd's configuration: its files in the folder, runc by its path, the plug-ins of Debian."""
    return f"""\
version = 3
root = "{folder.path}/store"
state = "{folder.path}/state"
disabled_plugins = {json.dumps(UNUSED)}
[grpc]
  address = "{folder.socket}"
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "{PAUSE}"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  disable_apparmor = true
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    runtime_path = "{shim}"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
      BinaryName = "{runc}"
      SystemdCgroup = false
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["{plugins}"]
    conf_dir = "{folder.network}"
"""


def network(folder: Folder) -> str:
    """Return the network of the pods: one bridge, and no way out."""
    bridge = {
        "type": "bridge",
        "bridge": BRIDGE,
        "isGateway": True,
        "hairpinMode": True,
        "ipMasq": False,
        "ipam": {
            "type": "host-local",
            "dataDir": f"{folder.path}/addresses",
            "ranges": [[{"subnet": POD_RANGE, "rangeStart": FIRST_POD, "gateway": ADDRESS}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    mappings = {"type": "portmap", "capabilities": {"portMappings": True}}
    return json.dumps({"cniVersion": "1.0.0", "name": "worklease", "plugins": [bridge, mappings]}, indent=2)


def kubelet(folder: Folder, *, cgroup: str, authority: Path) -> str:
    """Return the kubelet's configuration. JSON is YAML, so no library is needed to write it."""
    return json.dumps(
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": f"unix://{folder.socket}",
            "address": ADDRESS,
            "readOnlyPort": 0,
            "healthzPort": 0,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(authority)},
            },
            "authorization": {"mode": "Webhook"},
            "failCgroupV1": False,  # Kubernetes gives it up, but this runs on what the machine has
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{cgroup}",
            "failSwapOn": False,
            "makeIPTablesUtilChains": False,
            "resolvConf": f"{folder.path}/resolv.conf",
            "clusterDomain": DOMAIN,
            "clusterDNS": [ADDRESS],
            "podLogsDir": f"{folder.path}/pod-logs",
            "volumePluginDir": f"{folder.path}/volume-plugins",
            "imageGCHighThresholdPercent": 100,  # images come from files: what is gone cannot be pulled again
            # The machine's disk may be fuller than a node's: only its last percent is a reason to evict.
            "evictionHard": {
                "memory.available": "200Mi",
                "nodefs.available": "1%",
                "nodefs.inodesFree": "1%",
                "imagefs.available": "1%",
            },
            "nodeStatusUpdateFrequency": "5s",
            "nodeLeaseDurationSeconds": 8,  # renewed at a quarter of that: a lost node is noticed in 20 s, not in 50
            "shutdownGracePeriod": "0s",
        },
        indent=2,
    )


def kube_proxy(kubeconfig: Path, *, node: str) -> str:
    """Return kube-proxy's configuration: it changes only rules of its own network namespace."""
    return json.dumps(
        {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "iptables",
            "clusterCIDR": POD_RANGE,
            "clientConnection": {"kubeconfig": str(kubeconfig)},
            "hostnameOverride": node,
            "healthzBindAddress": "127.0.0.1:10256",
            "metricsBindAddress": "127.0.0.1:10249",
            "conntrack": {"maxPerCore": 0, "min": 0},  # that limit is the whole machine's
        },
        indent=2,
    )


def coredns(kubeconfig: Path) -> str:
    """Return CoreDNS' configuration: the names of the cluster, and no others."""
    return f"""\
.:53 {{
  bind {ADDRESS}
  errors
  kubernetes {DOMAIN} in-addr.arpa {{
    kubeconfig {kubeconfig}
    pods insecure
    ttl 1
  }}
}}
"""


def setup(folder: Folder) -> str:
    """Return the shell script that makes the namespaces a node: mounts, settings, network."""
    hidden = "\n".join(f"mount --bind {folder.tunables}/{name} /proc/sys/{name}" for name in TUNABLES)
    var = folder.path / "var"
    return f"""\
set -eu
mount --make-rshared /
mount -t tmpfs -o mode=755 tmpfs /run
mount -t overlay -o lowerdir=/var,upperdir={var}/upper,workdir={var}/work overlay /var
{hidden}
ip link set lo up
ip link add {BRIDGE} type bridge
ip address add {ADDRESS}/{POD_RANGE.partition("/")[2]} dev {BRIDGE}
ip link set {BRIDGE} up
echo 1 > /proc/sys/net/ipv4/ip_forward
"""
