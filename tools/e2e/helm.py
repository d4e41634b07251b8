"""helm, bound to one cluster, one namespace and one release.

Owns helm's command line. Must not read or change the user's own helm settings.
"""

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from controlplane import ExistingCluster
from controlplane.kubectl import quiet_environment

CHART = Path(__file__).parents[2] / "charts" / "worklease-operator"
RELEASE = "worklease-operator"  # the chart's name, so that the chart's objects also have it
WAIT = ("--wait", "--timeout=5m")  # an image has to be pulled


class HelmError(Exception):
    """helm refused; the message is what it said."""


@dataclass(frozen=True, slots=True)
class Helm:
    """One release; helm's caches and settings are in a temporary folder."""

    binary: Path
    cluster: ExistingCluster
    namespace: str
    home: Path

    def install(self, values: Mapping[str, str]) -> str:
        """Install the chart, wait until its objects are ready, and return what helm says."""
        return self._run("install", RELEASE, str(CHART), *WAIT, *_given(values))

    def upgrade(self, values: Mapping[str, str]) -> str:
        """Upgrade the release to these values, in addition to the old ones."""
        return self._run("upgrade", RELEASE, str(CHART), *WAIT, "--reuse-values", *_given(values))

    def rollback(self) -> str:
        """Roll back to the previous revision."""
        return self._run("rollback", RELEASE, *WAIT)

    def uninstall(self) -> str:
        """Remove the release, its hooks first; nothing to remove is fine."""
        return self._run("uninstall", RELEASE, *WAIT, "--ignore-not-found")

    def _run(self, *arguments: str) -> str:
        where = ("--kubeconfig", str(self.cluster.kubeconfig), "--kube-context", self.cluster.context)
        homes = {f"HELM_{name}_HOME": str(self.home / name.lower()) for name in ("CACHE", "CONFIG", "DATA")}
        # HELM_NAMESPACE and similar variables would make helm act elsewhere.
        environment = {name: value for name, value in quiet_environment(os.environ).items() if "HELM_" not in name}
        done = subprocess.run(
            [str(self.binary), *where, "--namespace", self.namespace, *arguments],
            stdin=subprocess.DEVNULL,
            env=environment | homes,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise HelmError(f"helm {' '.join(arguments[:2])} failed: {done.stderr.strip()}")
        return done.stdout


def _given(values: Mapping[str, str]) -> list[str]:
    return [
        word
        for name, value in values.items()
        for word in ("--set-string" if _is_tag(name) else "--set", f"{name}={value}")
    ]


def _is_tag(name: str) -> bool:
    """Return whether a value is part of an image's name: a tag such as 1.10 must not become a number."""
    return name.startswith("image.")
