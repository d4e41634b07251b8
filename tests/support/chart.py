"""The chart: rendered, packaged and installed by helm, and its parts picked out of what came of it.

This module owns the calls of helm. It must not judge.
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
HELMS = ("helm", "helm3")  # 4, which most tests use, and 3
BINARIES = (*HELMS, "helm-docs", "kubeconform")
RELEASE = "worklease-operator"
NAMESPACE = "worklease-system"
HOOK = "helm.sh/hook"

Object = dict[str, Any]


class HelmError(Exception):
    """helm refused; the message is what it said."""


class Helm:
    """helm, bound to no cluster or to one."""

    def __init__(self, home: Path, plane: ControlPlane | None = None, *, binary: str = HELMS[0]) -> None:
        self.binary = ensure([binary])[binary]
        self._kubeconfig = str(plane.kubeconfig) if plane else os.devnull
        self._folders = {f"HELM_{kind}_HOME": str(home) for kind in ("CACHE", "CONFIG", "DATA")}

    def run(self, *arguments: str) -> str:
        """Run helm; returns what it printed. Raises HelmError."""
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
        """Give the objects that the chart makes, hooks among them. Raises HelmError."""
        return objects(self.run("template", release, str(chart), f"--namespace={NAMESPACE}", *flags(values)))

    def install(self, namespace: str, values: Mapping[str, Any] | None = None, *more: str, chart: Path = CHART) -> str:
        """Install the chart, or upgrade it; returns what helm says to the user."""
        return self.run("upgrade", "--install", RELEASE, str(chart), f"--namespace={namespace}", *more, *flags(values))


def flags(values: Mapping[str, Any] | None) -> Iterator[str]:
    """Give values as helm's flags."""
    for name, value in (values or {}).items():
        yield f"--set-json={name}={json.dumps(value)}"


def objects(manifest: str) -> list[Object]:
    """Read a manifest."""
    return [each for each in yaml.safe_load_all(manifest) if each]


def pick(rendered: Iterable[Object], kind: str, name: str | None = None, *, namespace: str | None = None) -> Object:
    """Give the one object of that kind, and of that name and namespace if they are said."""
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
    """Whether helm makes an object for a moment of the release's life only."""
    return HOOK in (each["metadata"].get("annotations") or {})


def pod_spec(workload: Object) -> Object:
    """The pod's spec of a Deployment or a Job."""
    spec: Object = workload["spec"]["template"]["spec"]
    return spec


def environment(workload: Object) -> dict[str, str]:
    """The environment of a workload's first container, as far as it is written there."""
    return {entry["name"]: entry.get("value", "") for entry in pod_spec(workload)["containers"][0]["env"]}
