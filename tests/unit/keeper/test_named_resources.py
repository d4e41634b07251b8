"""This installation acts for what has its name, and leaves alone what has another one's as long as that lives."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import pytest

from support.every_bucket import EveryBucket
from support.keeping import SECRET, Keeping, keeping, resource
from support.scripted_server import Answer, ScriptedServer, Seen, kubernetes_at, serving, until
from support.stored_objects import StoredObjects
from worklease.api.names import Reference
from worklease.cluster.installation_lease import InstallationLease
from worklease.keeper.named_resources import NamedResources
from worklease.rules.acts import Standing
from worklease.rules.buckets import bucket_of
from worklease.rules.installations import GONE_AFTER, Whose
from worklease.rules.succession import Succession
from worklease.telemetry import LeftAlone, Publisher, TelemetryEvent

OWN, OTHER = "own/worklease-installation", "other/worklease-installation"
LEASE: Final = "/apis/coordination.k8s.io/v1/namespaces/other/leases/worklease-installation"
REFERENCE: Final = Reference("sandboxes", "lease-1", "uid-lease-1")


@dataclass
class Beside:
    """An installation beside another one."""

    installations: NamedResources
    server: ScriptedServer
    stored: StoredObjects
    buckets: EveryBucket
    times: list[float]
    found: list[Mapping[str, Any]] = field(default_factory=list)
    told: list[TelemetryEvent] = field(default_factory=list)
    is_hidden: bool = False

    def put(self, named: str = "", **changes: Any) -> dict[str, Any]:
        """Store a resource that names an installation, and return it."""
        body = resource(**changes)
        body["status"] = body.get("status", {}) | ({"operator": named} if named else {})
        self.stored.version += 1
        body["metadata"]["resourceVersion"] = str(self.stored.version)
        self.stored.objects[REFERENCE.path] = body
        return body

    def show(self, version: int, holder: str = OTHER) -> None:
        """Store the Lease of the other one."""
        metadata = {"name": "worklease-installation", "resourceVersion": str(version)}
        self.stored.objects[LEASE] = {"metadata": metadata, "spec": {"holderIdentity": holder}}

    def judge(self, body: Mapping[str, Any], *, is_kept: bool = False, is_recorded: bool = False) -> Whose:
        return self.installations.judge(body, is_kept=is_kept, is_recorded=is_recorded)

    @property
    def now(self) -> float:
        """The time."""
        return self.times[-1]

    @property
    def named(self) -> str | None:
        """The installation that the stored resource names."""
        return (self.stored.objects[REFERENCE.path].get("status") or {}).get("operator")

    def answer(self, seen: Seen) -> Answer:
        if self.is_hidden and seen.path == LEASE:
            return Answer(status=403, body={"message": "no right"})
        at = seen.target.replace("/status", "")
        return self.stored(Seen(seen.connection, seen.method, at, seen.headers, seen.body))

    async def pass_time(self, seconds: float) -> None:
        """Let so much time pass, with a look at the other one each second."""
        for _ in range(round(seconds)):
            self.times.append(self.now + 1.0)
            await self.installations.look()


@asynccontextmanager
async def beside() -> AsyncIterator[Beside]:
    async with serving() as server, kubernetes_at(server.url) as api:
        told: list[TelemetryEvent] = []
        buckets, times = EveryBucket(api), [1000.0]
        lease = InstallationLease(api, "own", lambda: times[-1])
        installations = NamedResources(lease, buckets, lambda: times[-1], Publisher(told.append))
        there = Beside(installations, server, StoredObjects(), buckets, times, told=told)
        server.script = there.answer
        installations.serve(there.found.append)
        yield there


async def named(there: Beside, name: str) -> None:
    await until(lambda: there.named == name and bool(there.found), f"the name {name}, and its report")


# --- What is nobody's ----------------------------------------------------------------------------------------------


async def test_what_is_nobodys_is_reported_once_it_has_the_name() -> None:
    async with beside() as there:
        assert there.judge(there.put()) is Whose.TO_BE_NAMED
        await named(there, OWN)
        (body,) = there.found
        assert there.judge(body) is Whose.OURS


async def test_of_two_installations_the_faster_names_itself_and_the_other_leaves_it_alone() -> None:
    async with beside() as there:
        seen = there.put()
        there.put(OTHER)
        assert there.judge(seen) is Whose.TO_BE_NAMED
        await named(there, OTHER)
        assert there.judge(there.found[0]) is Whose.ANOTHERS


async def test_a_name_that_could_not_be_written_because_of_another_change_is_written_to_the_newer_version() -> None:
    async with beside() as there:
        seen = there.put()
        there.put()
        there.judge(seen)
        await named(there, OWN)


async def test_nothing_is_named_before_the_process_is_the_valid_holder() -> None:
    async with beside() as there:
        there.buckets.stands = Standing.INVALID
        there.judge(there.put())
        await asyncio.sleep(0.1)
        assert there.server.seen == []
        there.buckets.stands = Standing.VALID
        await named(there, OWN)


async def test_what_has_a_record_here_is_ours_at_once_and_named_meanwhile() -> None:
    async with beside() as there:
        assert there.judge(there.put(), is_recorded=True) is Whose.OURS
        await named(there, OWN)
        assert there.installations.succession(REFERENCE.uid) is None


async def test_where_the_crd_does_not_know_the_name_a_resource_is_kept_all_the_same() -> None:
    async with beside() as there:
        there.server.script = lambda _: Answer(body=there.stored.objects[REFERENCE.path])
        there.judge(there.put())
        await until(lambda: bool(there.found), "its report")
        assert there.judge(there.found[0]) is Whose.OURS


# --- What is another one's -----------------------------------------------------------------------------------------


async def test_what_another_one_keeps_is_left_alone_and_that_is_said_once() -> None:
    async with beside() as there:
        body = there.put(OTHER)
        assert there.judge(body) is Whose.ANOTHERS
        for version in range(3):
            there.show(version)
            await there.pass_time(GONE_AFTER - 1)
        assert (there.named, there.found) == (OTHER, [])
        (said,) = there.told
        assert isinstance(said, LeftAlone)
        assert OTHER in said.message


@pytest.mark.parametrize(("holder", "seconds"), [("", 1), (OTHER, GONE_AFTER + 1)])
async def test_what_one_kept_that_is_gone_is_taken_over(holder: str, seconds: float) -> None:
    async with beside() as there:
        there.judge(there.put(OTHER))
        there.show(1, holder)
        await there.pass_time(seconds)
        await named(there, OWN)
        succession = there.installations.succession(REFERENCE.uid)
        assert succession == Succession(taken=there.now if holder else None, begun=there.now), "a silent one may live"


async def test_one_whose_lease_cannot_be_read_keeps_its_resources_and_the_message_says_what_to_do() -> None:
    async with beside() as there:
        there.is_hidden = True
        there.judge(there.put(OTHER))
        await there.pass_time(60)
        assert there.named == OTHER
        (said,) = there.told
        assert isinstance(said, LeftAlone)
        assert "no right" in said.message
        assert "worklease adopt" in said.message


async def test_what_another_one_has_taken_meanwhile_is_not_ours_any_more() -> None:
    async with beside() as there:
        there.judge(there.put())
        await named(there, OWN)
        ours = there.found[0]
        assert there.judge(there.put(OTHER), is_kept=True) is Whose.ANOTHERS
        assert there.installations.knows(REFERENCE.uid), "it is looked at from now on"
        assert there.judge(ours) is Whose.OURS, "an older version tells what was so before"


async def test_an_event_from_before_the_name_says_nothing() -> None:
    async with beside() as there:
        older = there.put(OTHER)
        there.show(1, "")
        there.judge(older)
        await there.pass_time(1)
        await named(there, OWN)
        assert there.judge(older, is_kept=True) is Whose.OURS


# --- Pools ---------------------------------------------------------------------------------------------------------


async def test_a_pool_is_served_once_it_has_the_name_and_never_while_another_one_serves_it() -> None:
    async with beside() as there:
        body = there.put()
        path = "/apis/worklease.dev/v1alpha1/namespaces/sandboxes/workpools/lease-1"
        there.stored.objects[path] = there.stored.objects.pop(REFERENCE.path)
        assert not there.installations.serves(REFERENCE.uid), "it was not reported yet"
        there.installations.see_pool(body)
        assert not there.installations.serves(REFERENCE.uid)
        await until(lambda: there.installations.serves(REFERENCE.uid), "its service")
        assert there.stored.objects[path]["status"]["operator"] == OWN
        taken = dict(there.stored.objects[path], status={"operator": OTHER})
        taken["metadata"] = taken["metadata"] | {"resourceVersion": "99"}
        there.installations.see_pool(taken)
        assert not there.installations.serves(REFERENCE.uid)


# --- The keeper ----------------------------------------------------------------------------------------------------


class Judged:
    """Gives the verdict that a test wants."""

    def __init__(self) -> None:
        self.verdict = Whose.OURS
        self.before: Succession | None = None

    def judge(self, body: Mapping[str, Any], *, is_kept: bool, is_recorded: bool) -> Whose:
        del body, is_kept, is_recorded
        return self.verdict

    def knows(self, uid: str) -> bool:
        return bool(uid)

    def succession(self, uid: str) -> Succession | None:
        del uid
        return self.before

    def leave(self, bucket: int) -> None:
        pass

    def forget(self, uid: str) -> None:
        pass


@asynccontextmanager
async def judged() -> AsyncIterator[tuple[Keeping, Judged]]:
    def answer(seen: Seen) -> Answer:
        return SECRET if "/secrets/" in seen.path else Answer(status=404)

    async with keeping(answer) as there:
        there.clients.installations = judge = Judged()
        yield there, judge


async def test_nothing_is_sent_for_what_another_installation_keeps() -> None:
    async with judged() as (there, judge):
        judge.verdict = Whose.ANOTHERS
        there.see(resource(since=10.0))
        await asyncio.sleep(0.1)
        assert (there.work_api.seen, there.kubernetes.seen) == ([], [])
        assert not there.keeper.is_any_unfound({bucket_of("uid-lease-1")}), "it is not looked for again and again"


async def test_what_another_installation_has_taken_is_let_go_of_in_silence() -> None:
    async with judged() as (there, judge):
        there.see(resource(since=10.0))
        await there.work_api.until_seen(1)
        judge.verdict = Whose.ANOTHERS
        there.see(resource(since=10.0))
        asked = len(there.work_api.seen)
        await asyncio.sleep(0.6)
        assert len(there.work_api.seen) == asked
        assert there.asked("DELETE", "") == []
