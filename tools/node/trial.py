"""Tries on this machine what a node does: namespaces, mounts, a network and its rules, cgroups, and a container.

A machine may forbid any of these, also to root: a container, a virtual machine with a small kernel, a CI system. What
it allows is not guessed. Takes less than a second, and leaves nothing. Must not start any program of a node but runc.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from node import cgroups, configuration, namespaces
from node.configuration import BRIDGE, Folder
from node.needs import hierarchies, missing, program, unbuilt, why_not

STEP = "step: "  # so begins the line that says where the trial ended
KUBELET_NEEDS = {"cpu", "cpuset", "memory", "pids"}  # controllers (pkg/kubelet/cm: validateSystemRequirements)
LIMITS = {"memory": {"limit": 32 << 20}, "pids": {"limit": 16}, "cpu": {"shares": 2}}
# Each step has its name, so that the answer says what is missing.
RULES = f"""
step='a pair of interfaces'
ip netns add trial
ip link add veth0 type veth peer name eth0 netns trial
ip link set veth0 master {BRIDGE}
step='rules of iptables'
iptables --wait --table nat --new-chain TRIAL
iptables --wait --table nat --append TRIAL --match comment --comment trial --jump MASQUERADE
iptables --wait --table nat --append TRIAL --match statistic --mode random --probability 0.5 --jump RETURN
iptables --wait --append FORWARD --match conntrack --ctstate INVALID --jump DROP
conntrack --count > /dev/null
step='the log of the kernel'
: < /dev/kmsg
"""


def why_not_here() -> str:
    """Return in one sentence why no node runs on this machine as it is; nothing if one does."""
    if reason := why_not():
        return reason
    if names := missing():
        return f"A real node needs {' and '.join(names)}, not installed here: make node installs what it can."
    if names := unbuilt():
        return f"A real node needs {', '.join(names)}, not built here: make node builds what it can."
    return tried()


def tried() -> str:
    """Return in one sentence what of a node this machine does not allow; nothing if it allows all."""
    name = f"worklease-trial-{os.getpid()}"
    try:
        return _try(name, namespaces.folder_of(name))
    except OSError as error:
        return _sentence("folders and cgroups", str(error))
    finally:
        namespaces.clean(name)


def _try(name: str, folder: Folder) -> str:
    namespaces.lay_out(folder)
    cgroups.create(name)
    if lacking := KUBELET_NEEDS - _controllers(name):
        return _sentence(f"the cgroup controllers {', '.join(sorted(lacking))}", "they cannot be passed on")
    bundle = _bundle(name, folder.path / "bundle")
    script = f"""
trap '[ $? = 0 ] || echo "{STEP}$step" >&2' EXIT
step='mounts, tunables and a bridge'
{configuration.setup(folder)}
{RULES}
step='a container'
{program("runc")} --root {folder.path}/runc run --bundle {bundle} {name}
"""
    command = [*namespaces.secluded(), *namespaces.with_path(["sh", "-c", script])]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return ""
    lines = done.stderr.strip().splitlines()
    steps = [line.removeprefix(STEP) for line in lines if line.startswith(STEP)]
    said = [line.strip() for line in lines if not line.startswith(STEP)]
    return _sentence((steps or ["namespaces"])[-1], "; ".join(said) or f"exit status {done.returncode}")


def _controllers(name: str) -> set[str]:
    """Return which controllers the cgroup of that name has, of both versions."""
    found: set[str] = set()
    for path in hierarchies():
        if (path / name / "cgroup.controllers").exists():
            found |= set((path / name / "cgroup.controllers").read_text().split())
        else:
            found |= {each for each in KUBELET_NEEDS if any((path / name).glob(f"{each}.*"))}
    return found


def _bundle(name: str, folder: Path) -> Path:
    """Write what runc needs for a container that ends at once, in a cgroup with limits."""
    (folder / "rootfs" / "bin").mkdir(parents=True)
    shutil.copy(program("busybox"), folder / "rootfs" / "bin" / "true")
    subprocess.run([str(program("runc")), "spec", "--bundle", str(folder)], check=False)
    path = folder / "config.json"
    spec: dict[str, Any] = json.loads(path.read_text())
    spec["process"] |= {"args": ["/bin/true"], "terminal": False}
    spec["linux"] |= {"cgroupsPath": f"/{name}/container", "resources": spec["linux"]["resources"] | LIMITS}
    path.write_text(json.dumps(spec))
    return folder


def _sentence(step: str, why: str) -> str:
    return f"A real node needs {step}, and this machine does not allow that ({why.rstrip('.')})."
