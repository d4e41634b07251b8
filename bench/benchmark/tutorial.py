"""The tutorial: a Kopf timer that uses plain httpx and writes the status on every beat, as tutorials do.

``python -m benchmark.tutorial URL KEY INTERVAL NAMESPACE``, with ``KUBECONFIG`` in the environment.
"""

import sys
from typing import Any

import httpx
import kopf

URL, KEY, INTERVAL, NAMESPACE = sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4]
HEADERS = {
    "anthropic-version": "2023-06-01",
    "anthropic-beta": "managed-agents-2026-04-01",
    "authorization": f"Bearer {KEY}",
}
client = httpx.AsyncClient(base_url=URL, headers=HEADERS, timeout=10.0)


@kopf.on.startup()
def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
    """Set what every tutorial sets."""
    settings.posting.enabled = False
    settings.persistence.finalizer = "worklease.dev/tutorial"


@kopf.timer("worklease.dev", "v1alpha1", "workleases", interval=INTERVAL)
async def beat(spec: kopf.Spec, memo: kopf.Memo, patch: kopf.Patch, **_: Any) -> None:
    """Send one heartbeat and write the answer into the status."""
    path = f"/v1/environments/{spec['environmentID']}/work/{spec['workID']}/heartbeat"
    response = await client.post(path, params={"expected_last_heartbeat": memo.get("value", "NO_HEARTBEAT")})
    if response.status_code == 412:
        memo.value = "NO_HEARTBEAT"
    response.raise_for_status()
    answer = response.json()
    memo.value = answer["last_heartbeat"]
    patch.status["lastHeartbeat"] = answer["last_heartbeat"]
    patch.status["state"] = answer["state"]
    patch.status["leaseExtended"] = answer["lease_extended"]
    patch.status["ttlSeconds"] = answer["ttl_seconds"]


if __name__ == "__main__":
    kopf.run(namespaces=[NAMESPACE], standalone=True)
