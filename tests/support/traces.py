"""What a node leaves on this machine, of each kind: for a comparison of before, while, and after.

Must not change anything. Looks only for what carries a node's name, or what only a node makes: others work here too.
"""

import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

from node import cgroups
from node.configuration import BRIDGE, TUNABLES
from node.needs import hierarchies, program


def processes(name: str, namespace: str | None) -> list[str]:
    """Return the processes that name the node, or run in its cgroup or its network namespace."""
    found = {f"{pid}: in its cgroup" for pid in cgroups.processes(name)}
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            words = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if f"/{name}" in words or f"--name {name}" in words:
                found.add(f"{path.name}: {words}")
            if namespace is not None and str((path / "ns" / "net").readlink()) == namespace:
                found.add(f"{path.name}: in its network")
    return sorted(found)


def network_of(pid: int) -> str:
    """Return the network namespace of a process."""
    return str(Path(f"/proc/{pid}/ns/net").readlink())


def mounts(name: str) -> list[str]:
    """Return the mounts that name the node."""
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f"/{name}" in line]


def links() -> list[str]:
    """Return this machine's network interfaces that a node has."""
    names = [path.name for path in Path("/sys/class/net").iterdir()]
    return sorted(each for each in names if each == BRIDGE or each.startswith("veth"))


def named_networks() -> list[str]:
    """Return the network namespaces that have a name or a file."""
    told = subprocess.run([str(program("ip")), "netns", "list"], capture_output=True, text=True, check=True)
    return sorted(told.stdout.splitlines())


def rules() -> list[str]:
    """Return the rules that kube-proxy and the plug-ins of pods write, of this machine's own network."""
    told = subprocess.run([str(program("iptables-save"))], capture_output=True, text=True, check=True)
    return [line for line in told.stdout.splitlines() if "KUBE" in line or "CNI" in line]


def groups(name: str) -> list[str]:
    """Return the node's cgroups."""
    return [str(path / name) for path in hierarchies() if (path / name).exists()]


def files(name: str) -> list[str]:
    """Return the node's files, and those that its programs write elsewhere on a node of its own."""
    folder = Path(tempfile.gettempdir())
    fixed = (Path("/var/lib/cni"), Path("/var/lib/kubelet"), Path("/run/containerd"), Path("/var/log/pods"))
    return sorted(str(path) for path in (*folder.glob(f"{name}*"), *(each for each in fixed if each.exists())))


def settings() -> dict[str, str]:
    """Return this machine's settings that a kubelet would change."""
    names = [*TUNABLES, "net/ipv4/ip_forward"]
    return {name: Path("/proc/sys", name).read_text().strip() for name in names}


def everything(name: str, namespace: str | None = None) -> dict[str, object]:
    """Return the traces of each kind."""
    return {
        "processes": processes(name, namespace),
        "mounts": mounts(name),
        "links": links(),
        "named networks": named_networks(),
        "rules": rules(),
        "cgroups": groups(name),
        "files": files(name),
        "settings": settings(),
    }
