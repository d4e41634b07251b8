"""The pinned binaries: which they are, where they are found, and how they are built.

They come from KUBEBUILDER_ASSETS, else from the project's cache, else from a build of the Go modules in tools/go. Their
versions are in go.mod only. Must not start a control plane, and must not leave half a binary behind.
"""

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from controlplane.locking import locked
from controlplane.progress import Progress, progress, say
from controlplane.toolchain import BUILD_FLAGS, ToolchainError, compile_package, find_go, module_folder

MODULES = Path(__file__).parents[1] / "go"
GO_REQUIREMENTS = Path(__file__).parents[2] / "requirements" / "go.txt"
STAGES = "stages"
CLIENT = "k8s.io/client-go"  # its v0.N belongs to Kubernetes 1.N
KUBERNETES_LINK = (
    "-X k8s.io/component-base/version.gitVersion={version}",
    "-X k8s.io/component-base/version.gitMajor={major}",
    "-X k8s.io/component-base/version.gitMinor={minor}",
)


class BinariesError(Exception):
    """A pinned binary cannot be found or built; the message says what to do."""


CONTROL_PLANE = {"etcd", "kubernetes", "kwok"}  # the modules of its programs
REAL_NODE = {"containerd", "coredns", "kubelet"}  # the modules of what runs on a node; Linux only


@dataclass(frozen=True, slots=True)
class Tool:
    """One pinned binary: `module` is its folder in tools/go, `requires` the Go module that sets its version."""

    name: str
    module: str
    requires: str
    package: str
    about: str  # how long a cold build takes on two cores
    link: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()  # build tags
    stages: tuple[str, ...] = ()  # files of the required module that the binary needs beside it

    @property
    def purpose(self) -> str:
        """What it is for: `make demo` builds the control plane only."""
        if self.module in REAL_NODE:
            return ", which only make node needs"
        return "" if self.module in CONTROL_PLANE else ", which only make test needs"


def _kubernetes(name: str, about: str) -> Tool:
    """Return the tool for one program of Kubernetes."""
    package = f"k8s.io/kubernetes/cmd/{name}"
    return Tool(name, "kubernetes", "k8s.io/kubernetes", package, about, link=KUBERNETES_LINK)


def _kubelet(name: str, about: str) -> Tool:
    """Return the tool for one program of Kubernetes that runs on a node: the control plane's module lacks its parts."""
    return Tool(name, "kubelet", "k8s.io/kubernetes", f"k8s.io/kubernetes/cmd/{name}", about, link=KUBERNETES_LINK)


def _containerd(name: str, about: str) -> Tool:
    """Return the tool for one program of containerd."""
    module = "github.com/containerd/containerd/v2"
    link = (f"-X {module}/version.Version={{version}}",)
    return Tool(name, "containerd", module, f"{module}/cmd/{name}", about, link=link)


def _prometheus(name: str, about: str) -> Tool:
    """Return the tool for one program of Prometheus."""
    package = f"github.com/prometheus/prometheus/cmd/{name}"
    link = ("-X github.com/prometheus/common/version.Version={version}",)
    # The clients of twenty clouds, by which it finds what to scrape, are most of its build.
    tags = ("remove_all_sd",)
    return Tool(name, "prometheus", "github.com/prometheus/prometheus", package, about, link=link, tags=tags)


def _helm(name: str, major: int, about: str, *link: str) -> Tool:
    """Return the tool for Helm of one major version: both are in use."""
    module = f"helm.sh/helm/v{major}"
    link = (f"-X {module}/internal/version.version={{version}}", *link)
    return Tool(name, name, module, f"{module}/cmd/helm", about, link=link)


TOOLS = {
    tool.name: tool
    for tool in (
        Tool("etcd", "etcd", "go.etcd.io/etcd/server/v3", ".", "30 s"),
        _kubernetes("kube-apiserver", "7 min"),
        _kubernetes("kubectl", "30 s"),
        _kubernetes("kube-controller-manager", "2 min"),
        _kubernetes("kube-scheduler", "10 s"),
        Tool(
            "kwok",
            "kwok",
            "sigs.k8s.io/kwok",
            "sigs.k8s.io/kwok/cmd/kwok",
            "2 min",
            stages=(
                "kustomize/stage/node/fast/node-initialize.yaml",
                "kustomize/stage/node/heartbeat/node-heartbeat.yaml",
                "kustomize/stage/pod/fast/pod-ready.yaml",
                "kustomize/stage/pod/fast/pod-complete.yaml",
            ),
        ),
        Tool(
            "kubeconform",
            "kubeconform",
            "github.com/yannh/kubeconform",
            "github.com/yannh/kubeconform/cmd/kubeconform",
            "10 s",
            link=("-X main.version={version}",),
        ),
        _helm("helm", 4, "3 min"),
        # Without the last two flags it assumes Kubernetes 1.20.
        _helm(
            "helm3",
            3,
            "2 min",
            "-X helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor={client_minor}",
            "-X helm.sh/helm/v3/pkg/lint/rules.k8sVersionMinor={client_minor}",
        ),
        Tool(
            "helm-docs",
            "helm-docs",
            "github.com/norwoodj/helm-docs",
            "github.com/norwoodj/helm-docs/cmd/helm-docs",
            "15 s",
            link=("-X main.version={version}",),
        ),
        _prometheus("promtool", "2 min"),
        _prometheus("prometheus", "1 min"),
        _kubelet("kubelet", "2 min"),
        _kubelet("kube-proxy", "30 s"),
        _containerd("containerd", "1 min"),
        _containerd("containerd-shim-runc-v2", "10 s"),
        _containerd("ctr", "10 s"),
        Tool("coredns", "coredns", "github.com/coredns/coredns", ".", "1 min"),
    )
}
USUAL = tuple(name for name, tool in TOOLS.items() if tool.module not in REAL_NODE)


@dataclass(frozen=True, slots=True)
class Places:
    """Where to look for binaries, and where to keep them."""

    cache: Path
    assets: Path | None = None
    modules: Path = MODULES

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> "Places":
        """Read KUBEBUILDER_ASSETS and XDG_CACHE_HOME, as their specifications say."""
        assets = environ.get("KUBEBUILDER_ASSETS")
        if assets and not Path(assets).is_dir():
            raise BinariesError(f"KUBEBUILDER_ASSETS names {assets}, which is not a folder: correct it or unset it")
        home = environ.get("XDG_CACHE_HOME", "")
        # The XDG specification: a relative path is invalid and ignored.
        base = Path(home) if Path(home).is_absolute() else Path.home() / ".cache"
        return cls(cache=base / "worklease" / "tools", assets=Path(assets).absolute() if assets else None)

    def module(self, tool: Tool) -> Path:
        """Return the folder of the tool's Go module."""
        return self.modules / tool.module

    def home(self, tool: Tool) -> Path:
        """Return the tool's folder in the cache: a new one as soon as any of its inputs changes."""
        digest = hashlib.sha256()
        for path in sorted(self.module(tool).glob("*")):
            if path.name in {"go.mod", "go.sum"} or path.suffix == ".go":
                digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
        inputs = [tool.package, *BUILD_FLAGS, link_flags(tool, self), *tool.tags, *tool.stages]
        digest.update("\0".join(inputs).encode())
        system = f"{sys.platform}-{platform.machine()}"
        return self.cache / f"{tool.name}-{version(tool, self)}-{system}-{digest.hexdigest()[:16]}"


def version(tool: Tool, places: Places) -> str:
    """Return the tool's version, from its go.mod."""
    pinned = _required(tool, tool.requires, places)
    if not pinned:
        path = places.module(tool) / "go.mod"
        raise BinariesError(f"{path} does not require {tool.requires}: restore it from the repository")
    return pinned


def _required(tool: Tool, module: str, places: Places) -> str:
    """Return the version in which the tool's Go module requires another module; empty if it does not."""
    text = (places.module(tool) / "go.mod").read_text()
    pin = re.search(rf"^(?:require)?\s+{re.escape(module)} (v\S+)", text, re.MULTILINE)
    return pin[1] if pin else ""


def link_flags(tool: Tool, places: Places) -> str:
    """Return the linker's flags: no debug tables, and the versions that the program reports."""
    pinned = version(tool, places)
    major, minor, _ = pinned.removeprefix("v").split(".", 2)
    client_minor = _required(tool, CLIENT, places).removeprefix("v0.").partition(".")[0]
    given = {"version": pinned, "major": major, "minor": minor, "client_minor": client_minor}
    return " ".join(["-s", "-w", *(flag.format(**given) for flag in tool.link)])


def find(tool: Tool, places: Places) -> Path | None:
    """Return the tool's binary if it exists: in KUBEBUILDER_ASSETS, else in the cache."""
    if places.assets is not None and _is_complete(tool, places.assets):
        return places.assets / tool.name
    home = places.home(tool)
    return home / tool.name if _is_complete(tool, home) else None


def _is_complete(tool: Tool, folder: Path) -> bool:
    """Return whether a folder holds the binary and all that it needs beside it."""
    beside = (folder / STAGES / Path(stage).name for stage in tool.stages)
    return os.access(folder / tool.name, os.X_OK) and all(path.is_file() for path in beside)


def foreign_versions(found: Mapping[str, Path], places: Places) -> list[str]:
    """Return a remark if the API server from KUBEBUILDER_ASSETS does not have the pinned minor version."""
    path = found.get("kube-apiserver")
    if path is None or places.assets is None or path.parent != places.assets:
        return []
    answer = subprocess.run([str(path), "--version"], capture_output=True, text=True, check=False)
    said = answer.stdout.strip().removeprefix("Kubernetes ") or f"no version ({answer.stderr.strip()})"
    pinned = version(TOOLS["kube-apiserver"], places)
    if said.split(".")[:2] == pinned.split(".")[:2]:
        return []
    return [f"{path} (from KUBEBUILDER_ASSETS) is {said}, but {pinned} is pinned. It is used all the same."]


def ensure(names: Iterable[str] = USUAL, places: Places | None = None) -> dict[str, Path]:
    """Return the paths of the named binaries; build those that are missing. Raises BinariesError."""
    places = places or Places.from_environment()
    tools = [_tool(name) for name in names]
    found = {tool.name: path for tool in tools if (path := find(tool, places)) is not None}
    for remark in foreign_versions(found, places):
        say(remark)
    missing = [tool for tool in tools if tool.name not in found]
    if missing:
        with progress() as shown:
            found |= _build_all(missing, places, shown)
    return {tool.name: found[tool.name] for tool in tools}


def _tool(name: str) -> Tool:
    """Return the tool with that name."""
    if name not in TOOLS:
        raise BinariesError(f"{name} is not a pinned binary; these are: {', '.join(TOOLS)}")
    return TOOLS[name]


def _build_all(tools: list[Tool], places: Places, shown: Progress) -> dict[str, Path]:
    """Build the tools one after the other: each build keeps all cores busy."""
    shown.note(
        f"Building {', '.join(tool.name for tool in tools)} from source, once for all commands. All pinned tools "
        f"together take about 15 minutes on two cores, less if Go has compiled them before; the control plane alone "
        f"takes six. They are kept in {places.cache}."
    )
    try:
        return {tool.name: _build(tool, places, shown) for tool in tools}
    except ToolchainError as error:
        raise BinariesError(
            f"{error}\nThe tools are built from the Go modules in {places.modules}. If the network or the disk was the "
            "cause, run the same again: what is already compiled is kept. Or put your own binaries into a folder "
            "and set KUBEBUILDER_ASSETS to it."
        ) from error


def _build(tool: Tool, places: Places, shown: Progress) -> Path:
    """Build one tool, unless another process has built it meanwhile, and move it into place when it is complete."""
    home = places.home(tool)

    def waiting() -> None:
        shown.note(f"Another process is building {tool.name}: waiting for it.")

    with locked(places.cache / f"{home.name}.lock", waiting):
        if _is_complete(tool, home):
            return home / tool.name
        for stale in places.cache.glob(f"{home.name}.partial-*"):  # from an interrupted build; the lock is held
            shutil.rmtree(stale, ignore_errors=True)
        partial = Path(tempfile.mkdtemp(prefix=f"{home.name}.partial-", dir=places.cache))
        try:
            _build_into(partial, tool, places, shown)
            shutil.rmtree(home, ignore_errors=True)  # incomplete: someone removed a part by hand
            partial.replace(home)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return home / tool.name


def _build_into(folder: Path, tool: Tool, places: Places, shown: Progress) -> None:
    """Compile the tool and copy the files that it needs beside it, so that a warm cache needs no Go."""
    module = places.module(tool)
    go = find_go(places.modules, places.cache, GO_REQUIREMENTS, shown)
    with shown.step(f"{tool.name} {version(tool, places)}{tool.purpose}", tool.about) as step:
        link = link_flags(tool, places)
        compile_package(go, module, tool.package, link=link, tags=tool.tags, target=folder / tool.name, step=step)
    if tool.stages:
        source = module_folder(go, module, tool.requires)
        (folder / STAGES).mkdir()
        for stage in tool.stages:
            shutil.copyfile(source / stage, folder / STAGES / Path(stage).name)
    folder.chmod(0o755)  # mkdtemp's 0700 would lock out other users of a shared cache
