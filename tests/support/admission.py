"""What keeps pods from being made, for real: a quota without room, and a webhook that nobody answers.

This module owns both objects, in one namespace each. It must not assert.
"""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from controlplane import ControlPlane, wait_for
from support.operator import Leases

QUOTA = "some-pods"
WEBHOOK = "pods.tests.worklease.dev"


def allow_pods(plane: ControlPlane, leases: Leases, count: int) -> None:
    """Set a quota of pods, and wait until it is in force."""
    hard = {"pods": str(count)}
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": QUOTA}, "spec": {"hard": hard}}
    leases.apply(quota)
    path = f"/api/v1/namespaces/{leases.namespace}/resourcequotas/{QUOTA}"

    def is_counted() -> bool:
        found = plane.get(path) or {}
        return bool(found.get("status", {}).get("hard") == hard)

    wait_for(is_counted, seconds=60, what="the quota's count")


def allow_all_pods(plane: ControlPlane, leases: Leases) -> None:
    """Delete the quota."""
    plane.kubectl("--namespace", leases.namespace, "delete", "resourcequota", QUOTA)


@contextmanager
def silent_webhook(plane: ControlPlane, namespace: str) -> Iterator[None]:
    """Have a webhook asked about the namespace's pods that nobody answers: its port is closed."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    body = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": namespace},
        "webhooks": [
            {
                "name": WEBHOOK,
                "clientConfig": {"url": f"https://127.0.0.1:{port}/"},
                "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"]}],
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                "failurePolicy": "Fail",
                "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
            }
        ],
    }
    plane.kubectl("create", "-f", "-", input=json.dumps(body))
    try:
        yield
    finally:
        plane.kubectl("delete", "validatingwebhookconfiguration", namespace)
