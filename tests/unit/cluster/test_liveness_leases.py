"""A process renews one Lease of its own by its version, and reads the others'."""

from datetime import UTC, datetime
from typing import Any

from support.scripted_server import Answer, Fault, always, in_turn, kubernetes_at, serving
from worklease.cluster.client import Gone, NotDone
from worklease.cluster.liveness_leases import LivenessLeases, ShownLease

NAME, HOLDER = "worklease-1-2-a", "place/1-2-a"
AT = datetime(2026, 11, 29, 6, 0, 0, 250_000, UTC)
LEASES = "/apis/coordination.k8s.io/v1/namespaces/own/leases"
CONFLICT = Answer(status=409, body={"message": "the object has been modified", "reason": "Conflict"})
NOT_FOUND = Answer(status=404, body={"message": "not found", "reason": "NotFound"})


def lease(version: str, *, holder: str = HOLDER, ready: str = "true") -> dict[str, Any]:
    name = f"worklease-{holder.rsplit('/', maxsplit=1)[-1]}"
    metadata = {"name": name, "resourceVersion": version, "annotations": {"worklease.dev/ready": ready}}
    return {"metadata": metadata, "spec": {"holderIdentity": holder}}


async def test_the_first_renewal_makes_the_lease_and_the_next_ones_go_by_its_version() -> None:
    async with serving() as server, kubernetes_at(server.url) as api:
        leases = LivenessLeases(api, "own", NAME, HOLDER)
        server.script = in_turn(Answer(body=lease("1")), Answer(body=lease("2")))
        assert await leases.renew(AT, is_ready=False) is None
        assert await leases.renew(AT, is_ready=True) is None
        made, renewed = (seen.json for seen in server.seen)
        assert [(seen.method, seen.path) for seen in server.seen] == [("POST", LEASES), ("PATCH", f"{LEASES}/{NAME}")]
        assert made["spec"] == {
            "holderIdentity": HOLDER,
            "leaseDurationSeconds": 9,
            "acquireTime": "2026-11-29T06:00:00.250000Z",
            "renewTime": "2026-11-29T06:00:00.250000Z",
        }
        assert made["metadata"]["annotations"] == {"worklease.dev/ready": "false"}
        assert renewed["metadata"] == {"resourceVersion": "1", "annotations": {"worklease.dev/ready": "true"}}
        assert renewed["spec"] == {"renewTime": "2026-11-29T06:00:00.250000Z"}


async def test_a_lease_that_somebody_deleted_is_made_by_the_next_renewal() -> None:
    async with serving() as server, kubernetes_at(server.url) as api:
        leases = LivenessLeases(api, "own", NAME, HOLDER)
        server.script = in_turn(Answer(body=lease("1")), NOT_FOUND, Answer(body=lease("3")))
        await leases.renew(AT, is_ready=True)
        assert isinstance(await leases.renew(AT, is_ready=True), NotDone)
        assert await leases.renew(AT, is_ready=True) is None
        assert [seen.method for seen in server.seen] == ["POST", "PATCH", "POST"]


async def test_a_lease_that_was_made_or_changed_unseen_is_read_and_renewed() -> None:
    async with serving() as server, kubernetes_at(server.url) as api:
        leases = LivenessLeases(api, "own", NAME, HOLDER)
        exists = Answer(status=409, body={"message": "it exists", "reason": "AlreadyExists"})
        server.script = in_turn(exists, Answer(body=lease("4")), CONFLICT, exists, Answer(body=lease("6")))
        assert isinstance(await leases.renew(AT, is_ready=True), NotDone)
        assert isinstance(await leases.renew(AT, is_ready=True), NotDone)
        assert server.seen[2].json["metadata"]["resourceVersion"] == "4"
        assert isinstance(await leases.renew(AT, is_ready=True), NotDone)
        assert await leases.renew(AT, is_ready=True) is None
        assert server.seen[5].json["metadata"]["resourceVersion"] == "6"


async def test_a_renewal_without_an_answer_is_not_done() -> None:
    async with serving() as server, kubernetes_at(server.url) as api:
        leases = LivenessLeases(api, "own", NAME, HOLDER)
        server.script = always(Answer(fault=Fault.RESET))
        assert isinstance(await leases.renew(AT, is_ready=True), NotDone)


async def test_all_leases_are_seen_by_their_holders() -> None:
    async with serving() as server, kubernetes_at(server.url) as api:
        items = [lease("7"), lease("8", holder="other/1-3-b", ready="false")]
        server.script = always(Answer(body={"items": items, "metadata": {}}))
        assert await LivenessLeases(api, "own", NAME, HOLDER).look() == {
            HOLDER: ShownLease(NAME, HOLDER, "7", is_ready=True),
            "other/1-3-b": ShownLease("worklease-1-3-b", "other/1-3-b", "8", is_ready=False),
        }
        assert server.seen[0].query["labelSelector"] == ["worklease.dev/liveness"]


async def test_a_lease_that_is_gone_is_told_from_one_that_cannot_be_read() -> None:
    async with serving() as server, kubernetes_at(server.url) as api:
        leases = LivenessLeases(api, "own", NAME, HOLDER)
        server.script = in_turn(NOT_FOUND, Answer(status=403, body={"message": "forbidden"}), Answer(body=lease("7")))
        assert await leases.read(NAME) == Gone()
        refused = await leases.read(NAME)
        assert isinstance(refused, NotDone)
        assert "forbidden" in refused.message
        assert await leases.read(NAME) == ShownLease(NAME, HOLDER, "7", is_ready=True)
        assert "resourceVersion" not in server.seen[0].query, "a take needs a consistent read"


async def test_the_lease_of_a_dead_process_is_deleted_only_as_it_was_seen() -> None:
    async with serving() as server, kubernetes_at(server.url) as api:
        leases = LivenessLeases(api, "own", NAME, HOLDER)
        server.script = in_turn(CONFLICT, Answer(), Answer(), NOT_FOUND)
        dead = ShownLease("worklease-1-3-b", "other/1-3-b", "8", is_ready=False)
        assert isinstance(await leases.delete(dead), NotDone)
        assert await leases.delete(dead) is None
        assert server.seen[0].json == {"preconditions": {"resourceVersion": "8"}}
        assert await leases.end() is None
        assert await leases.end() is None, "it is gone already"
        assert server.seen[2].path == f"{LEASES}/{NAME}"
