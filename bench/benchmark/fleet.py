"""The cluster's part of a fleet: namespace, key, WorkLeases and their pods, created and deleted fast.

Owns what it creates in the API server. It acts as administrator, so that the audit log distinguishes its requests from
the operator's.
"""

import asyncio
import base64
import json
import ssl
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from itertools import islice
from typing import Any

import aiohttp

from benchmark.books import IN_AN_ENVIRONMENT
from benchmark.work_api import KEY
from controlplane import ControlPlane, wait_for

NAMESPACE = "bench"
OPERATOR = f"system:serviceaccount:{NAMESPACE}:operator"
AT_ONCE = 16  # requests in flight: more would only queue in the API server, which shares the two cores
POD_GRACE = 5  # seconds
SETTLE_SECONDS = 900.0  # twenty thousand pods through kwok, on a busy machine
RESOURCES = f"/apis/worklease.dev/v1alpha1/namespaces/{NAMESPACE}/workleases"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"


FAILED = {
    "phase": "Failed",
    "reason": "Evicted",
    "message": "The node was low on resource: memory.",
    "conditions": [{"type": "Ready", "status": "False"}],
}
"""The status of an evicted pod."""


def item(number: int) -> str:
    """Return the id of the n-th work item."""
    return f"work_{number:05}"


def environment(number: int) -> str:
    """Return the id of the n-th item's environment."""
    return f"env_{number // IN_AN_ENVIRONMENT}"


def lease_name(number: int) -> str:
    """Return the name of the n-th item's resource; its pod has the same name."""
    return f"lease-{number:05}"


class Fleet:
    """The resources and pods in the namespace."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self.made = 0

    def prepare(self) -> None:
        """Create the namespace, the key, and the operator's user with all rights."""
        for words in (
            ("create", "namespace", NAMESPACE),
            ("create", "serviceaccount", "operator", f"--namespace={NAMESPACE}"),
            (
                "create",
                "clusterrolebinding",
                "bench",
                "--clusterrole=cluster-admin",
                f"--serviceaccount={NAMESPACE}:operator",
            ),
        ):
            self._plane.kubectl(*words)
        self.put_key(KEY)
        account = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/default"
        wait_for(lambda: self._plane.get(account), seconds=30, what="the namespace's default account")

    def put_key(self, key: str) -> None:
        """Write the key into the Secret."""
        data = {"environment-key": base64.b64encode(key.encode()).decode()}
        body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "worklease-credentials"}, "data": data}
        asyncio.run(self._apply_secret(body))

    async def _apply_secret(self, body: dict[str, Any]) -> None:
        async with self._session() as session:
            path = f"/api/v1/namespaces/{NAMESPACE}/secrets"
            async with session.put(f"{path}/worklease-credentials", json=body) as response:
                if response.status == 404:
                    await _expect(await session.post(path, json=body))
                else:
                    await _expect(response)

    def grow(self, to: int) -> None:
        """Create resources, each with a running pod, until there are ``to`` of them."""
        self.grow_pods(to)
        asyncio.run(self._create(RESOURCES, (_lease(number) for number in range(self.made, to))))
        self.made = max(self.made, to)

    def grow_pods(self, to: int) -> None:
        """Create pods only, for resources that come later, and wait until they run."""
        asyncio.run(self._create(PODS, (_pod(number) for number in range(self.made, to))))
        wait_for(lambda: self._running() >= to, seconds=SETTLE_SECONDS, what=f"{to} running pods")

    def grow_within(self, to: int, seconds: float) -> None:
        """Create resources only, at an even pace."""
        new = range(self.made, to)
        asyncio.run(self._create(RESOURCES, (_lease(number) for number in new), pause=seconds / max(1, len(new))))
        self.made = max(self.made, to)

    def clear(self) -> None:
        """Delete every resource and pod, whether or not they have finalizers."""
        asyncio.run(self._clear())
        wait_for(lambda: not self._count(RESOURCES), seconds=SETTLE_SECONDS, what="the end of all resources")
        wait_for(lambda: not self._count(PODS), seconds=SETTLE_SECONDS, what="the end of all pods")
        self.made = 0

    def fail(self, numbers: Iterable[int]) -> dict[int, float]:
        """Report pods as failed, like a kubelet; return when each report was sent, in seconds since the epoch."""
        return asyncio.run(self._fail(numbers))

    async def watch_ready(self, label: str) -> AsyncIterator[tuple[str, float]]:
        """Yield, for each pod with a label that has become ready, the label's value and when, by the monotonic clock.

        A pod that is ready is yielded at each of its later changes too.
        """
        query, forever = {"watch": "true", "labelSelector": label}, aiohttp.ClientTimeout(total=None)
        async with self._session() as session, session.get(PODS, params=query, timeout=forever) as response:
            async for line in response.content:
                pod = json.loads(line)["object"]
                if any(each["type"] == "Ready" and each["status"] == "True" for each in _conditions(pod)):
                    yield pod["metadata"]["labels"][label], time.monotonic()

    def _count(self, path: str) -> int:
        return len(asyncio.run(self._list(path)))

    def _running(self) -> int:
        return sum(pod["status"].get("phase") == "Running" for pod in asyncio.run(self._list(PODS)))

    # --- Requests ----------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[aiohttp.ClientSession]:
        trust = ssl.create_default_context(cafile=str(self._plane.ca))
        headers = {"authorization": f"Bearer {self._plane.token}"}
        connector = aiohttp.TCPConnector(limit=AT_ONCE, ssl=trust)
        async with aiohttp.ClientSession(self._plane.url, headers=headers, connector=connector) as session:
            yield session

    async def _create(self, path: str, bodies: Iterable[dict[str, Any]], pause: float = 0.0) -> None:
        async with self._session() as session:
            loop = asyncio.get_running_loop()
            began, waiting = loop.time(), iter(enumerate(bodies))

            async def work() -> None:
                for number, body in waiting:
                    await asyncio.sleep(began + number * pause - loop.time())
                    await _expect(await session.post(path, json=body))

            await asyncio.gather(*(work() for _ in range(AT_ONCE)))

    async def _fail(self, numbers: Iterable[int]) -> dict[int, float]:
        headers = {"content-type": "application/strategic-merge-patch+json"}
        sent: dict[int, float] = {}
        async with self._session() as session:

            async def report(number: int) -> None:
                sent[number] = time.time()
                path = f"{PODS}/{lease_name(number)}/status"
                await _expect(await session.patch(path, json={"status": FAILED}, headers=headers))

            for some in _batches(numbers, AT_ONCE):
                await asyncio.gather(*(report(number) for number in some))
        return sent

    async def _clear(self) -> None:
        headers = {"content-type": "application/merge-patch+json"}
        async with self._session() as session:
            await _expect(await session.delete(RESOURCES))
            names = [lease["metadata"]["name"] for lease in await self._list(RESOURCES)]
            for some in _batches(names, AT_ONCE):
                body = {"metadata": {"finalizers": None}}
                calls = (session.patch(f"{RESOURCES}/{name}", json=body, headers=headers) for name in some)
                for response in await asyncio.gather(*calls):
                    await _expect(response, 200, 404)
            await _expect(await session.delete(PODS, json={"gracePeriodSeconds": 0}))

    async def _list(self, path: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        query = {"limit": "500"}
        async with self._session() as session:
            while True:
                async with session.get(path, params=query) as response:
                    page = await response.json()
                found += page.get("items") or ()
                token = (page.get("metadata") or {}).get("continue")
                if not token:
                    return found
                query = {"limit": "500", "continue": token}


async def _expect(response: aiohttp.ClientResponse, *statuses: int) -> None:
    text = await response.text()
    if response.status not in (statuses or (200, 201)):
        raise RuntimeError(f"{response.method} {response.url} was answered {response.status}: {text[:500]}")


def _batches(values: Iterable[Any], size: int) -> Iterator[list[Any]]:
    rest = iter(values)
    while some := list(islice(rest, size)):
        yield some


def _conditions(thing: dict[str, Any]) -> list[dict[str, Any]]:
    return list((thing.get("status") or {}).get("conditions") or ())


def _lease(number: int) -> dict[str, Any]:
    return {
        "apiVersion": "worklease.dev/v1alpha1",
        "kind": "WorkLease",
        "metadata": {"name": lease_name(number)},
        "spec": {"environmentID": environment(number), "workID": item(number), "sandbox": {"drainSeconds": 5}},
    }


def _pod(number: int) -> dict[str, Any]:
    labels = {"worklease.dev/environment-id": environment(number), "worklease.dev/work-id": item(number)}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": lease_name(number), "labels": labels},
        "spec": {
            # Assigned to a node here: the benchmark does not measure the scheduler.
            "nodeName": f"node-{1 + number % 4}",
            "terminationGracePeriodSeconds": POD_GRACE,
            "restartPolicy": "Never",
            "containers": [{"name": "sandbox", "image": "busybox"}],
        },
    }
