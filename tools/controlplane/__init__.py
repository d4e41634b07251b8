"""A real Kubernetes control plane on this machine, for tests and the demo.

Owns the pinned binaries, their processes and the end of those. Must not know anything about the operator. Must not
touch a cluster that it did not start, except in `existing_cluster`, which asks first.
"""

from controlplane.binaries import BinariesError, Places, ensure
from controlplane.existing import ExistingCluster, ExistingClusterError, existing_cluster
from controlplane.kubectl import KubectlError
from controlplane.own import OwnControlPlane
from controlplane.plane import ControlPlane
from controlplane.processes import StartError
from controlplane.waiting import DeadlineError, wait_for

__all__ = [
    "BinariesError",
    "ControlPlane",
    "DeadlineError",
    "ExistingCluster",
    "ExistingClusterError",
    "KubectlError",
    "OwnControlPlane",
    "Places",
    "StartError",
    "ensure",
    "existing_cluster",
    "wait_for",
]
