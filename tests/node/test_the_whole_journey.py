"""`make e2e` on a real node: the chart as a user installs it, the operator's image, and each claim of the journey."""

import re
import subprocess
import sys
from typing import Any

import pytest

from node import NodeCluster
from node.configuration import SANDBOX
from support.processes import python_environment

pytestmark = pytest.mark.long(seconds=170)


def test_a_users_whole_journey_holds_on_a_real_node(node_cluster: NodeCluster, operator_image: str, told: Any) -> None:
    for kind in ("workleases", "workpools"):  # the chart installs them
        node_cluster.kubectl("delete", "crd", f"{kind}.worklease.dev")
    images = {"E2E_IMAGE": operator_image, "E2E_SANDBOX_IMAGE": SANDBOX}
    done = subprocess.run(
        [sys.executable, "-m", "e2e"],
        env=python_environment() | images | {"KUBECONFIG": str(node_cluster.kubeconfig)},
        input="y\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (verdict,) = re.findall(r"All \d+ claims hold\..*", done.stdout)
    told(verdict)
    assert "need a kubelet" not in done.stdout
