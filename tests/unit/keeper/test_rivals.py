"""Several resources for one work item: who claims it, and who keeps nobody from it."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from support.keeping import clients, wall
from support.scripted_server import Answer, ScriptedServer, Seen, kubernetes_at, serving, until
from worklease.keeper.keeper import Keeper
from worklease.keeper.kept import LeaseOptions
from worklease.work_api.client import WorkApi

SECRET = Answer(body={"data": {"environment-key": "a2V5"}})
NO_SECRET = Answer(status=404, body={"kind": "Status", "message": "not found"})
REFUSED_TEMPLATE = Answer(status=403, body={"kind": "Status", "message": "exceeded quota"})
TEMPLATE = {"template": {"spec": {"containers": [{"name": "sandbox", "image": "busybox"}]}}}
TAKEN = {"type": "error", "error": {"type": "invalid_request_error", "message": "the lease is held"}}
RENEWED = {
    "type": "work_heartbeat",
    "last_heartbeat": "2026-11-24T12:00:30Z",
    "state": "active",
    "lease_extended": True,
    "ttl_seconds": 90,
}


def body(name: str, created: str, *, namespace: str = "team-a", **spec: Any) -> dict[str, Any]:
    metadata = {
        "name": name,
        "namespace": namespace,
        "uid": f"uid-{name}",
        "generation": 1,
        "resourceVersion": "7",
        "creationTimestamp": f"2026-11-24T{created}:00Z",
        "finalizers": ["worklease.dev/lease"],
    }
    return {"metadata": metadata, "spec": {"environmentID": "env_1", "workID": "work_1"} | spec}


@dataclass
class Setting:
    keeper: Keeper
    kubernetes: ScriptedServer
    work_api: ScriptedServer

    def see(self, *bodies: Mapping[str, Any]) -> None:
        for each in bodies:
            self.keeper.see(each)
            self.keeper.carry(each["metadata"]["uid"])

    def statuses(self, name: str) -> list[Mapping[str, Any]]:
        """Return the statuses that were written to a resource, in order."""
        path = f"/workleases/{name}/status"
        return [seen.json["status"] for seen in self.kubernetes.seen if seen.method == "PATCH" and path in seen.path]

    def held(self, name: str) -> list[tuple[str, str, str]]:
        """Return what was written of ``LeaseHeld``, in order."""
        return [
            (entry["status"], entry["reason"], entry["message"])
            for status in self.statuses(name)
            for entry in status["conditions"]
            if entry["type"] == "LeaseHeld"
        ]

    async def until_held(self, name: str, status: str, reason: str) -> None:
        await until(lambda: (status, reason) in [each[:2] for each in self.held(name)], f"{reason} of {name}")


@asynccontextmanager
async def setting(**secrets: Answer) -> AsyncIterator[Setting]:
    """Run a keeper; ``secrets`` are answers by the Secret's name, where there is another one than the usual."""

    def answer(seen: Seen) -> Answer:
        if "/secrets/" in seen.path:
            return secrets.get(seen.path.rpartition("/")[2], SECRET)
        if "dryRun" in seen.target:
            return REFUSED_TEMPLATE
        name = seen.path.removesuffix("/status").rpartition("/")[2]
        return Answer(body={"metadata": {"uid": f"uid-{name}", "resourceVersion": "7"}})

    async with (
        serving() as kubernetes,
        serving() as remote,
        kubernetes_at(kubernetes.url) as api,
        WorkApi(remote.url, time.monotonic) as work_api,
    ):
        kubernetes.script = answer
        remote.script = lambda _: Answer(body=RENEWED) if len(remote.seen) == 1 else Answer(status=412, body=TAKEN)
        used = clients(api, work_api)
        keeper = Keeper(used, LeaseOptions(interval=30, credentials_secret="keys"), time.monotonic, wall)
        tasks = [asyncio.create_task(each) for each in (used.checkpoint.run(), used.status.run())]
        yield Setting(keeper, kubernetes, remote)
        for task in tasks:
            task.cancel()
        await keeper.close()
        await asyncio.wait(tasks)


async def test_an_older_one_whose_key_is_missing_keeps_nobody_from_the_item() -> None:
    async with setting(missing=NO_SECRET) as there:
        there.see(body("old", "11:00", credentialsSecretRef={"name": "missing"}), body("young", "12:00"))
        await there.until_held("young", "True", "Renewed")


async def test_an_older_one_that_is_suspended_keeps_nobody_from_the_item() -> None:
    async with setting() as there:
        there.see(body("old", "11:00", heartbeat={"mode": "Suspended"}), body("young", "12:00"))
        await there.until_held("young", "True", "Renewed")


async def test_an_older_one_whose_template_is_refused_keeps_nobody_from_the_item() -> None:
    async with setting() as there:
        there.see(body("old", "11:00", sandbox=TEMPLATE), body("young", "12:00"))
        await there.until_held("young", "True", "Renewed")
        await there.until_held("old", "False", "Duplicate")


async def test_an_older_one_that_waits_for_its_end_keeps_nobody_from_the_item() -> None:
    async with setting() as there:
        old = body("old", "11:00")
        old["metadata"] |= {"deletionTimestamp": "2026-11-24T12:00:00Z", "finalizers": ["others.dev/finalizer"]}
        there.see(old, body("young", "12:00"))
        await there.until_held("young", "True", "Renewed")


async def test_between_namespaces_the_server_decides_and_no_message_names_the_other() -> None:
    async with setting() as there:
        there.see(body("one", "11:00"))
        await there.until_held("one", "True", "Renewed")
        there.see(body("two", "12:00", namespace="team-b"))
        await there.until_held("two", "False", "Claiming")
        await until(lambda: len(there.work_api.seen) >= 3, "its second claim")
        assert all("team-a" not in each[2] and "Duplicate" not in each[1] for each in there.held("two"))


async def test_of_two_that_got_their_key_at_once_one_claims() -> None:
    keys = {"missing": NO_SECRET}
    async with setting() as there:
        usual = there.kubernetes.script
        there.kubernetes.script = lambda seen: keys["missing"] if "/secrets/" in seen.path else usual(seen)
        there.see(body("old", "11:00"), body("young", "12:00"))
        for name in ("old", "young"):
            await there.until_held(name, "False", "CredentialsMissing")
        may_answer = asyncio.Event()
        there.work_api.script = lambda _: Answer(body=RENEWED, until=may_answer)
        keys["missing"] = SECRET
        there.keeper.wake_all()
        await there.work_api.until_seen(1)
        await asyncio.sleep(0.5)  # many times what the other one would need
        assert len(there.work_api.seen) == 1
        may_answer.set()
        await until(lambda: "Renewed" in repr(there.held("old") + there.held("young")), "its answer")
