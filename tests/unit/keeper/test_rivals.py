"""Several resources for one work item: who claims it, and who keeps nobody from it."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from support.keeping import RENEWED, SECRET, TEMPLATE, Keeping, keeping, resource
from support.scripted_server import Answer, Seen, until

NO_SECRET = Answer(status=404, body={"kind": "Status", "message": "not found"})
REFUSED_TEMPLATE = Answer(status=403, body={"kind": "Status", "message": "exceeded quota"})
TAKEN = {"type": "error", "error": {"type": "invalid_request_error", "message": "the lease is held"}}


def statuses(there: Keeping, name: str) -> list[Mapping[str, Any]]:
    """Return the statuses that were written to a resource, in order."""
    return [seen.json["status"] for seen in there.asked("PATCH", f"/workleases/{name}/status")]


def held(there: Keeping, name: str) -> list[tuple[str, str, str]]:
    """Return what was written of ``LeaseHeld``, in order."""
    return [
        (entry["status"], entry["reason"], entry["message"])
        for status in statuses(there, name)
        for entry in status["conditions"]
        if entry["type"] == "LeaseHeld"
    ]


async def until_held(there: Keeping, name: str, status: str, reason: str) -> None:
    await until(lambda: (status, reason) in [each[:2] for each in held(there, name)], f"{reason} of {name}")


@asynccontextmanager
async def setting(**secrets: Answer) -> AsyncIterator[Keeping]:
    """Run a keeper; ``secrets`` are answers by the Secret's name, where there is another one than the usual."""

    def answer(seen: Seen) -> Answer:
        if "/secrets/" in seen.path:
            return secrets.get(seen.path.rpartition("/")[2], SECRET)
        if "dryRun" in seen.target:
            return REFUSED_TEMPLATE
        name = seen.path.removesuffix("/status").rpartition("/")[2]
        return Answer(body={"metadata": {"uid": f"uid-{name}", "resourceVersion": "7"}})

    async with keeping(answer) as there:
        claims = there.work_api
        claims.script = lambda _: Answer(body=RENEWED) if len(claims.seen) == 1 else Answer(status=412, body=TAKEN)
        yield there


async def test_an_older_one_whose_key_is_missing_keeps_nobody_from_the_item() -> None:
    async with setting(missing=NO_SECRET) as there:
        there.see(
            resource("old", created="11:00", credentialsSecretRef={"name": "missing"}),
            resource("young", created="12:00"),
        )
        await until_held(there, "young", "True", "Renewed")


async def test_an_older_one_that_is_suspended_keeps_nobody_from_the_item() -> None:
    async with setting() as there:
        there.see(resource("old", created="11:00", heartbeat={"mode": "Suspended"}), resource("young", created="12:00"))
        await until_held(there, "young", "True", "Renewed")


async def test_an_older_one_whose_template_is_refused_keeps_nobody_from_the_item() -> None:
    async with setting() as there:
        there.see(resource("old", created="11:00", sandbox=TEMPLATE), resource("young", created="12:00"))
        await until_held(there, "young", "True", "Renewed")
        await until_held(there, "old", "False", "Duplicate")


async def test_an_older_one_that_waits_for_its_end_keeps_nobody_from_the_item() -> None:
    async with setting() as there:
        old = resource("old", created="11:00")
        old["metadata"] |= {"deletionTimestamp": "2026-11-24T12:00:00Z", "finalizers": ["others.dev/finalizer"]}
        there.see(old, resource("young", created="12:00"))
        await until_held(there, "young", "True", "Renewed")


async def test_between_namespaces_the_server_decides_and_no_message_names_the_other() -> None:
    async with setting() as there:
        there.see(resource("one", created="11:00"))
        await until_held(there, "one", "True", "Renewed")
        there.see(resource("two", created="12:00", namespace="team-b"))
        await until_held(there, "two", "False", "Claiming")
        await until(lambda: len(there.work_api.seen) >= 3, "its second claim")
        assert all("team-a" not in each[2] and "Duplicate" not in each[1] for each in held(there, "two"))


async def test_of_two_that_got_their_key_at_once_one_claims() -> None:
    keys = {"missing": NO_SECRET}
    async with setting() as there:
        usual = there.kubernetes.script
        there.kubernetes.script = lambda seen: keys["missing"] if "/secrets/" in seen.path else usual(seen)
        there.see(resource("old", created="11:00"), resource("young", created="12:00"))
        for name in ("old", "young"):
            await until_held(there, name, "False", "CredentialsMissing")
        may_answer = asyncio.Event()
        there.work_api.script = lambda _: Answer(body=RENEWED, until=may_answer)
        keys["missing"] = SECRET
        there.keeper.wake_all()
        await there.work_api.until_seen(1)
        await asyncio.sleep(0.5)  # many times what the other one would need
        assert len(there.work_api.seen) == 1
        may_answer.set()
        await until(lambda: "Renewed" in repr(held(there, "old") + held(there, "young")), "its answer")
