"""An installation shows that it lives by one Lease, and names itself in a resource only as the resource was read."""

from datetime import UTC, datetime, timedelta

import pytest

from support.scripted_server import Answer, Fault, always, in_turn, kubernetes_at, serving
from support.stored_objects import StoredObjects
from worklease.cluster.client import Gone, NotDone
from worklease.cluster.installation_lease import InstallationLease, Overwritten
from worklease.cluster.liveness_leases import LivenessLeases
from worklease.rules.installations import LONGEST_GAP, RENEW_EVERY, SETTLED, LeaseAbsent, LeaseFound, LeaseHidden

AT = datetime(2026, 11, 29, 6, 0, 0, 250_000, UTC)
LEASE = "/apis/coordination.k8s.io/v1/namespaces/own/leases/worklease-installation"
OWN = "own/worklease-installation"


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


async def test_it_is_made_once_and_renewed_every_few_seconds_with_the_processs_own_lease() -> None:
    async with serving() as server, kubernetes_at(server.url) as api:
        server.script, clock = StoredObjects(), Clock()
        leases = LivenessLeases(api, "own", "worklease-1", "a/1-1-a", InstallationLease(api, "own", clock))
        for _ in range(5):
            assert await leases.renew(AT, is_ready=True) is None
            clock.now += RENEW_EVERY / 2
        own = [seen.method for seen in server.seen if seen.path == LEASE or "installation" in str(seen.body)]
        assert own == ["PATCH", "POST", "PATCH", "PATCH"]
        spec = server.script.objects[LEASE]["spec"]
        assert spec == {"holderIdentity": OWN, "leaseDurationSeconds": 15, "renewTime": "2026-11-29T06:00:00.250000Z"}


async def test_a_process_whose_installation_cannot_be_renewed_does_not_count_as_valid() -> None:
    async with serving() as server, kubernetes_at(server.url) as api:
        stored = StoredObjects()
        leases = LivenessLeases(api, "own", "worklease-1", "a/1-1-a", InstallationLease(api, "own", Clock()))
        server.script = lambda seen: Answer(status=403) if "installation" in seen.target else stored(seen)
        assert isinstance(await leases.renew(AT, is_ready=True), NotDone)


async def test_after_a_gap_a_process_is_not_valid_until_it_has_looked_at_what_it_keeps() -> None:
    async with serving() as server, kubernetes_at(server.url) as api:
        server.script, clock = StoredObjects(), Clock()
        lease = InstallationLease(api, "own", clock)
        assert await lease.renew(AT) is None
        clock.now += LONGEST_GAP
        assert await lease.renew(AT) is None
        assert lease.look_due is None
        clock.now += LONGEST_GAP + 0.1
        assert isinstance(await lease.renew(AT), NotDone)
        assert lease.look_due == clock.now + SETTLED
        clock.now += 1.0
        assert isinstance(await lease.renew(AT), NotDone)
        lease.looked()
        assert await lease.renew(AT) is None


@pytest.mark.parametrize("others", [0, 1])
async def test_the_last_process_that_ends_in_order_says_that_the_installation_has_ended(others: int) -> None:
    async with serving() as server, kubernetes_at(server.url) as api:
        server.script = stored = StoredObjects()
        processes = [
            LivenessLeases(api, "own", f"worklease-{name}", f"{name}/1-1-a", InstallationLease(api, "own", Clock()))
            for name in ("dead", "ends", "stays")[: 2 + others]
        ]
        for each in processes:
            await each.renew(AT, is_ready=True)
        await processes[1].end(dead={"dead/1-1-a"})
        assert stored.objects[LEASE]["spec"]["holderIdentity"] == (OWN if others else "")


async def test_one_that_was_renewed_meanwhile_has_not_ended() -> None:
    async with serving() as server, kubernetes_at(server.url) as api:
        server.script = stored = StoredObjects()
        lease = InstallationLease(api, "own", Clock())
        await lease.renew(AT)
        before = await lease.look(OWN)
        await InstallationLease(api, "own", Clock()).renew(AT + timedelta(seconds=1))
        assert isinstance(before, LeaseFound)
        assert await lease.end(before.version) is None
        assert stored.objects[LEASE]["spec"]["holderIdentity"] == OWN


async def test_a_look_at_another_tells_that_it_lives_has_ended_is_not_there_or_cannot_be_seen() -> None:
    async with serving() as server, kubernetes_at(server.url) as api:
        lease = InstallationLease(api, "mine", Clock())
        metadata = {"resourceVersion": "7"}
        server.script = in_turn(
            Answer(body={"metadata": metadata, "spec": {"holderIdentity": OWN}}),
            Answer(body={"metadata": metadata, "spec": {}}),
            Answer(status=404, body={"message": "not found"}),
            Answer(status=403, body={"message": "no right"}),
            Answer(fault=Fault.CLOSE),
        )
        looks = [await lease.look(OWN) for _ in range(5)]
        assert looks[:4] == [
            LeaseFound("7", has_ended=False),
            LeaseFound("7", has_ended=True),
            LeaseAbsent(),
            LeaseHidden("no right"),
        ]
        assert isinstance(looks[4], NotDone)
        assert isinstance(await lease.look("elsewhere/another-name"), LeaseHidden)
        assert {seen.path for seen in server.seen} == {LEASE}


async def test_the_name_is_written_to_the_version_that_was_read_and_given_up_in_time() -> None:
    async with serving() as server, kubernetes_at(server.url) as api:
        lease = InstallationLease(api, "own", Clock())
        server.script = in_turn(
            Answer(body={"metadata": {"resourceVersion": "8"}}),
            Answer(status=409, body={"message": "modified"}),
            Answer(status=404, body={"message": "not found"}),
        )
        assert await lease.put_name("/it", "7") == {"metadata": {"resourceVersion": "8"}}
        assert isinstance(await lease.put_name("/it", "7"), Overwritten)
        assert isinstance(await lease.put_name("/it", "7"), Gone)
        assert server.seen[0].target == "/it/status?timeout=2s"
        assert server.seen[0].json == {"metadata": {"resourceVersion": "7"}, "status": {"operator": OWN}}


async def test_a_successor_of_the_same_name_is_another_resource() -> None:
    async with serving() as server, kubernetes_at(server.url) as api:
        server.script = always(Answer(body={"metadata": {"uid": "later"}}))
        assert isinstance(await InstallationLease(api, "own", Clock()).read("/it", "uid-1"), Gone)
