"""The chart: rendered and installed by helm, and parts of the rendered manifest.

This module owns the calls of helm. It must not assert.
"""

import json
import os
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from controlplane import ControlPlane, ensure

CHART = Path(__file__).parents[2] / "charts" / "worklease-operator"
HELMS = ("helm", "helm3")  # version 4, which most tests use, and version 3
BINARIES = (*HELMS, "helm-docs", "kubeconform")
RELEASE = "worklease-operator"
NAMESPACE = "worklease-system"
HOOK = "helm.sh/hook"

Object = dict[str, Any]


class HelmError(Exception):
    """helm failed; the message is helm's own."""


class Helm:
    """helm, with a cluster or without one."""

    def __init__(self, home: Path, plane: ControlPlane | None = None, *, binary: str = HELMS[0]) -> None:
        self.binary = ensure([binary])[binary]
        self._kubeconfig = str(plane.kubeconfig) if plane else os.devnull
        self._folders = {f"HELM_{kind}_HOME": str(home) for kind in ("CACHE", "CONFIG", "DATA")}

    def run(self, *arguments: str) -> str:
        """Run helm, and return what it printed. Raises HelmError."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HELM_")}
        done = subprocess.run(
            [str(self.binary), *arguments],
            env=environment | self._folders | {"KUBECONFIG": self._kubeconfig},
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
        if done.returncode != 0:
            raise HelmError(f"helm {' '.join(arguments)} failed with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def render(
        self, values: Mapping[str, Any] | None = None, *, chart: Path = CHART, release: str = RELEASE
    ) -> list[Object]:
        """Return the objects that the chart renders, hooks included. Raises HelmError."""
        return objects(self.run("template", release, str(chart), f"--namespace={NAMESPACE}", *flags(values)))

    def install(self, namespace: str, values: Mapping[str, Any] | None = None, *more: str, chart: Path = CHART) -> str:
        """Install or upgrade the chart, and return what helm prints for the user."""
        return self.run("upgrade", "--install", RELEASE, str(chart), f"--namespace={namespace}", *more, *flags(values))


def flags(values: Mapping[str, Any] | None) -> Iterator[str]:
    """Return values as helm's flags."""
    for name, value in (values or {}).items():
        yield f"--set-json={name}={json.dumps(value)}"


def objects(manifest: str) -> list[Object]:
    """Return the objects of a manifest. In C, which PyYAML's wheels have: each render has the large CRDs in it."""
    return [each for each in yaml.load_all(manifest, Loader=yaml.CSafeLoader) if each]


def pick(rendered: Iterable[Object], kind: str, name: str | None = None, *, namespace: str | None = None) -> Object:
    """Return the only object of that kind, and of that name and namespace if they are given."""
    found = [
        each
        for each in rendered
        if each["kind"] == kind
        and name in (None, each["metadata"]["name"])
        and namespace in (None, each["metadata"].get("namespace"))
    ]
    if len(found) != 1:
        raise LookupError(f"there are {len(found)} of {kind} {name or ''}: {[each['metadata'] for each in found]}")
    return found[0]


def is_hook(each: Object) -> bool:
    """Whether an object is a hook: helm creates it during an operation only."""
    return HOOK in (each["metadata"].get("annotations") or {})


def pod_spec(workload: Object) -> Object:
    """Return the pod spec of a Deployment or a Job."""
    spec: Object = workload["spec"]["template"]["spec"]
    return spec


def environment(workload: Object) -> dict[str, str]:
    """Return the environment of a workload's first container: the variables with a literal value."""
    return {entry["name"]: entry.get("value", "") for entry in pod_spec(workload)["containers"][0]["env"]}
