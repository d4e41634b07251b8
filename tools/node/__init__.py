"""A real node on this machine, beside the project's own control plane: kubelet, containerd, kube-proxy, CoreDNS.

Everything runs in namespaces of its own, so that it reaches nothing outside and leaves nothing behind. Must not know
anything about the operator but the name of its image.
"""

from node.cluster import NodeCluster
from node.needs import NodeError

__all__ = ["NodeCluster", "NodeError"]
