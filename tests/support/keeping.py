"""A keeper on servers that a test scripts, and resources for it.

Owns the putting together only.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from support.every_bucket import EveryBucket
from support.only_installation import OnlyInstallation
from support.scripted_server import Answer, ScriptedServer, Seen, kubernetes_at, serving
from worklease.api.names import BUCKET_LABEL, FINALIZER
from worklease.clocks import ClockPair
from worklease.cluster.checkpoint import Checkpoint
from worklease.cluster.client import KubernetesApi
from worklease.cluster.credentials import Credentials
from worklease.cluster.pods import Pods
from worklease.cluster.shared_pod_list import SharedPodList
from worklease.cluster.status_writer import StatusWriter
from worklease.keeper.calls import Clients
from worklease.keeper.keeper import Keeper
from worklease.keeper.kept import LeaseOptions
from worklease.rules.buckets import bucket_of
from worklease.telemetry import SILENT, Publisher, TelemetryEvent
from worklease.work_api.budget import Budget
from worklease.work_api.client import WorkApi
from worklease.work_api.key_probes import KeyProbes
from worklease.work_api.queue import QueueCalls
from worklease.work_api.shared_list import SharedList

RENEWED: Final = {
    "type": "work_heartbeat",
    "last_heartbeat": "2026-11-24T12:00:30Z",
    "state": "active",
    "lease_extended": True,
    "ttl_seconds": 90,
}
"""The Work API's answer to a beat that it accepted."""

SECRET: Final = Answer(body={"data": {"environment-key": "a2V5"}})
TEMPLATE: Final = {"template": {"spec": {"containers": [{"name": "sandbox", "image": "busybox"}]}}}


def resource(
    name: str = "lease-1",
    *,
    namespace: str = "sandboxes",
    created: str = "11:00",
    since: float | None = None,
    ttl: int = 90,
    is_deleting: bool = False,
    **spec: Any,
) -> dict[str, Any]:
    """Return a WorkLease as the API server has it; with ``since``, its lease was renewed so many seconds ago."""
    metadata: dict[str, Any] = {
        "name": name,
        "namespace": namespace,
        "uid": f"uid-{name}",
        "generation": 1,
        "resourceVersion": "7",
        "creationTimestamp": f"2026-11-24T{created}:00Z",
        "finalizers": [FINALIZER],
        "labels": {BUCKET_LABEL: str(bucket_of(f"uid-{name}"))},
    }
    if is_deleting:
        metadata |= {"generation": 2, "deletionTimestamp": "2026-11-24T12:00:00Z"}
    whole = {"metadata": metadata, "spec": {"environmentID": "env_1", "workID": "work_1"} | spec}
    if since is None:
        return whole
    now = datetime.now(UTC)
    status = {
        "lastHeartbeat": "2026-11-24T12:00:00Z",
        "state": "active",
        "leaseExtended": True,
        "ttlSeconds": ttl,
        "observedTime": (now - timedelta(seconds=since)).isoformat(),
        "leaseExpiryTime": (now + timedelta(seconds=ttl - since)).isoformat(),
        "claimTime": "2026-11-24T11:00:00Z",
    }
    return whole | {"status": status}


def clients(
    api: KubernetesApi,
    work_api: WorkApi,
    publisher: Publisher = SILENT,
    clock: Callable[[], float] = time.monotonic,
) -> Clients:
    """Give the clients of an operator whose own namespace is ``own``; neither checkpoint nor status runs yet."""
    budget, pods, buckets = Budget(0, clock), Pods(api), EveryBucket(api)
    return Clients(
        kubernetes=api,
        work_api=work_api,
        queue=QueueCalls(work_api, "worker"),
        credentials=Credentials(api, time.monotonic),
        pods=pods,
        status=StatusWriter(api, 1000.0, time.monotonic, may_write=buckets.may_write),
        budget=budget,
        key_probes=KeyProbes(0, clock),
        shared_list=SharedList(work_api, budget),
        shared_pod_list=SharedPodList(pods),
        checkpoint=Checkpoint(buckets, "own", time.monotonic),
        tenures=buckets,
        installations=OnlyInstallation(),
        publisher=publisher,
    )


def wall() -> ClockPair:
    """Read both clocks."""
    return ClockPair(time.monotonic(), datetime.now(UTC))


@dataclass
class Keeping:
    """A keeper, and the servers that it calls."""

    keeper: Keeper
    clients: Clients
    kubernetes: ScriptedServer
    work_api: ScriptedServer
    published: list[TelemetryEvent] = field(default_factory=list)
    looks: list[float] = field(default_factory=list)
    """The moments at which the clock was read."""
    ahead: list[float] = field(default_factory=list)
    """Seconds by which the clock was moved on."""

    def see(self, *bodies: dict[str, Any]) -> None:
        """Have resources seen, and their turns begun."""
        for each in bodies:
            self.keeper.see(each)
            self.keeper.carry(each["metadata"]["uid"])

    def asked(self, method: str, part: str) -> list[Seen]:
        """Return the requests to the API server whose target has a part."""
        return [seen for seen in self.kubernetes.seen if seen.method == method and part in seen.target]


@asynccontextmanager
async def keeping(script: Callable[[Seen], Answer], *, writes: bool = True) -> AsyncIterator[Keeping]:
    """Run a keeper.

    Args:
        script: The answers of the API server. Those of the Work API are 503 until the test says otherwise.
        writes: Whether checkpoint and status are written.
    """
    looks: list[float] = []
    ahead: list[float] = []
    published: list[TelemetryEvent] = []

    def clock() -> float:
        looks.append(time.monotonic() + sum(ahead))
        return looks[-1]

    async with (
        serving() as kubernetes,
        serving() as remote,
        kubernetes_at(kubernetes.url) as api,
        WorkApi(remote.url, clock) as work_api,
    ):
        kubernetes.script = script
        remote.script = lambda _: Answer(status=503)
        used = clients(api, work_api, Publisher(published.append), clock)
        keeper = Keeper(used, LeaseOptions(interval=30, credentials_secret="keys"), clock, wall)
        runs = (used.checkpoint.run(), used.status.run()) if writes else ()
        tasks = [asyncio.create_task(each) for each in runs]
        yield Keeping(keeper, used, kubernetes, remote, published, looks, ahead)
        for task in tasks:
            task.cancel()
        await keeper.close()
        if tasks:
            await asyncio.wait(tasks)
