"""The user's own cluster, for the demo and the end-to-end journey, only after asking.

Must not be used by tests: they refuse every cluster that they did not start themselves.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from controlplane.binaries import ensure
from controlplane.kubectl import bound, output_of

VARIABLE = "USE_EXISTING_CLUSTER"
TRUE_WORDS = frozenset({"1", "true", "yes"})


class ExistingClusterError(Exception):
    """The existing cluster cannot be used, or the user refused; the message says why."""


@dataclass(frozen=True, slots=True)
class ExistingCluster:
    """One context of the user's kubeconfig. All calls use it, even if the user switches context meanwhile."""

    kubeconfig: Path
    context: str
    url: str
    binary: Path

    def kubectl(self, *arguments: str, input: str | None = None, check: bool = True) -> str:  # noqa: A002, D417
        """Run kubectl in this context.

        Args:
            input: what kubectl reads from its standard input.
            check: raise KubectlError if it fails; otherwise its error output is part of the result.
        """
        command = bound(self.binary, self.kubeconfig, context=self.context)
        return output_of(command, arguments, text=input, check=check)


def wants_existing_cluster(environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether the user asked for their own cluster."""
    return environ.get(VARIABLE, "").strip().lower() in TRUE_WORDS


def existing_cluster(
    confirm: Callable[[str], bool],
    *,
    environ: Mapping[str, str] = os.environ,
    kubectl: Path | None = None,
) -> ExistingCluster | None:
    """Return the cluster of KUBECONFIG if USE_EXISTING_CLUSTER is set and the user agrees; None if it is not set.

    `confirm` gets a question that names context and server. If the user refuses, it raises ExistingClusterError.
    """
    if not wants_existing_cluster(environ):
        return None
    return cluster_of_kubeconfig(
        confirm, environ=environ, kubectl=kubectl, else_do=f"; or unset {VARIABLE} to start one on this machine"
    )


def cluster_of_kubeconfig(
    confirm: Callable[[str], bool],
    *,
    environ: Mapping[str, str] = os.environ,
    kubectl: Path | None = None,
    else_do: str = "",
) -> ExistingCluster:
    """Return the cluster of KUBECONFIG's current context if the user agrees, else raise ExistingClusterError.

    `else_do` is added to the error messages: what the user can do instead.
    """
    named = environ.get("KUBECONFIG", "")
    if not named:
        raise ExistingClusterError(f"KUBECONFIG is not set: name the file of the cluster to use{else_do}")
    path = Path(named).absolute()
    if not path.is_file():
        raise ExistingClusterError(f"KUBECONFIG must name one file, but {named} is not a file: correct it{else_do}")
    binary = kubectl or ensure(["kubectl"])["kubectl"]
    view = json.loads(output_of(bound(binary, path), ("config", "view", "-o", "json"), text=None, check=True))
    context, url = _current(view, path)
    if not confirm(f"Use the existing cluster of context {context!r} at {url}? Resources will be created in it."):
        raise ExistingClusterError(f"The cluster at {url} was not touched{else_do}.")
    return ExistingCluster(kubeconfig=path, context=context, url=url, binary=binary)


def _current(view: Mapping[str, object], path: Path) -> tuple[str, str]:
    """Return the current context's name and its server."""
    match view:
        case {"current-context": str(name), "contexts": list(contexts), "clusters": list(clusters)} if name:
            wanted = [each["context"]["cluster"] for each in contexts if each["name"] == name]
            for cluster in clusters:
                if cluster["name"] in wanted:
                    return name, str(cluster["cluster"]["server"])
        case _:
            pass
    raise ExistingClusterError(
        f"{path} has no current context with a server: choose one with kubectl config use-context"
    )
