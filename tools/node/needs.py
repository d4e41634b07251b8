"""What a real node needs of this machine: root, Linux, cgroups, and programs from the system's packages.

Must not start anything. Installs packages only as root, by apt-get; elsewhere it says what is missing.
"""

import os
import shutil
import sys
from pathlib import Path

from controlplane.binaries import REAL_NODE, TOOLS, Places, find
from controlplane.progress import Progress
from image.needs import APT_GET, run_showing

NODE_BINARIES = tuple(name for name, tool in TOOLS.items() if tool.module in REAL_NODE)
# Program, package of Debian.
PROGRAMS = {
    "busybox": "busybox-static",  # the sandboxes' image
    "ip": "iproute2",
    "iptables": "iptables",  # kube-proxy, and the port mappings of pods
    "conntrack": "conntrack",  # kube-proxy
    "mount": "mount",
    "openssl": "openssl",
    "runc": "runc",
    "unshare": "util-linux",
}
PLUGINS, PLUGINS_PACKAGE = Path("/usr/lib/cni"), "containernetworking-plugins"
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class NodeError(Exception):
    """The node cannot be started; the message says what is missing, or what went wrong."""


def why_not() -> str:
    """Return in one sentence why this machine cannot run a node; nothing if it can, once its packages are installed."""
    if sys.platform != "linux":
        return f"A real node needs Linux, and this is {sys.platform}: use a virtual machine."
    if os.geteuid() != 0:
        return "A real node needs root, to create namespaces, mounts and cgroups: run it as root."
    if not hierarchies():
        return (
            "A real node needs cgroups that it may write to, and /sys/fs/cgroup has none: run it outside a container."
        )
    absent = missing()
    if absent and shutil.which("apt-get") is None:
        return f"A real node needs {' and '.join(absent)}, and there is no apt-get here: install them."
    return ""


def ensure_programs(shown: Progress) -> None:
    """Install the packages that are missing. Raises NodeError if this machine cannot run a node."""
    if reason := why_not():
        raise NodeError(reason)
    if absent := missing():
        with shown.step(f"Installing {' and '.join(absent)} by apt-get", "20 s") as step:
            run_showing([*APT_GET, "update"], step)
            run_showing([*APT_GET, "install", "--yes", "--no-install-recommends", *absent], step)


def program(name: str) -> Path:
    """Return the path of a program: the folders of the system's administration are not on every PATH."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}")
    if found is None:
        raise NodeError(f"{name} was not found: install {PROGRAMS.get(name, name)}")
    return Path(found)


def hierarchies() -> list[Path]:
    """Return where the cgroup hierarchies that this process may write to are mounted."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    found = [Path(words[1]) for words in mounts if words[2] in {"cgroup", "cgroup2"}]
    return [path for path in found if os.access(path, os.W_OK)]


def unbuilt() -> list[str]:
    """Return the node's binaries that are not built yet."""
    places = Places.from_environment()
    return [name for name in NODE_BINARIES if find(TOOLS[name], places) is None]


def missing() -> list[str]:
    """Return the packages that are missing."""
    path = f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}"
    absent = {package for name, package in PROGRAMS.items() if shutil.which(name, path=path) is None}
    if not (PLUGINS / "bridge").exists():
        absent.add(PLUGINS_PACKAGE)
    return sorted(absent)
