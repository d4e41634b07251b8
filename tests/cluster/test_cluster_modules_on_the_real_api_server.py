"""The real API server behaves as the modules in `cluster` expect: uids, versions, rights, and messages."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from controlplane import ControlPlane
from support.every_bucket import EveryBucket, allowed
from support.scripted_server import kubernetes_at, until
from worklease.api.names import FINALIZER, Reference
from worklease.clocks import monotonic, wall
from worklease.cluster.bucket_store import (
    BucketHead,
    BucketStore,
    Overtaken,
    StoredBucket,
    WrittenBucket,
    former_name,
)
from worklease.cluster.checkpoint import Checkpoint
from worklease.cluster.checkpoint_room import LIMIT, RESERVED
from worklease.cluster.client import METADATA, Done, Gone, KubernetesApi, NoAnswer, NotDone, PatchType, Refused
from worklease.cluster.credentials import CACHE_SECONDS, Credentials, Key, NoKey
from worklease.cluster.finalizer import Set, add, remove
from worklease.cluster.liveness_leases import LivenessLeases, ShownLease
from worklease.cluster.pods import Annotated, DeletionAccepted, NotPermitted, Pods
from worklease.cluster.status_writer import StatusWriter, Urgency
from worklease.keeper.surroundings import Surroundings, own_holder, running
from worklease.keeper.tenures import Tenures
from worklease.preflight import PreflightFailed, check
from worklease.rules.acts import Standing
from worklease.rules.buckets import BUCKETS
from worklease.rules.succession import Succession

LEASES = "/apis/worklease.dev/v1alpha1/namespaces/{}/workleases"
FOREIGN_UID = "6f5c2a1e-0000-0000-0000-000000000001"


@pytest.fixture
async def api(control_plane: ControlPlane) -> AsyncIterator[KubernetesApi]:
    async with kubernetes_at(control_plane.url, token=control_plane.token, ca=control_plane.ca) as opened:
        yield opened


@dataclass(frozen=True)
class Account:
    """A service account without any rights, and its token."""

    name: str
    token: str


@pytest.fixture
def account(control_plane: ControlPlane, namespace: str) -> Account:
    control_plane.kubectl("create", "serviceaccount", "limited", "-n", namespace)
    token = control_plane.kubectl("create", "token", "limited", "-n", namespace).strip()
    return Account(f"{namespace}:limited", token)


def grant(plane: ControlPlane, namespace: str, account: Account, *verbs_and_resources: str) -> None:
    for number, each in enumerate(verbs_and_resources):
        verbs, _, resources = each.partition(" ")
        name = f"limited-{number}"
        plane.kubectl("create", "role", name, f"--verb={verbs}", f"--resource={resources}", "-n", namespace)
        plane.kubectl(
            *("create", "rolebinding", name, f"--role={name}", f"--serviceaccount={account.name}", "-n", namespace)
        )


async def call(api: KubernetesApi, method: str, path: str, **more: Any) -> dict[str, Any]:
    reply = await api.call(method, path, **more)
    assert isinstance(reply, Done), reply
    return dict(reply.body)


async def make_lease(api: KubernetesApi, namespace: str, name: str = "demo") -> Reference:
    body = {
        "apiVersion": "worklease.dev/v1alpha1",
        "kind": "WorkLease",
        "metadata": {"name": name},
        "spec": {"environmentID": "env_1", "workID": "work_1"},
    }
    made = await call(api, "POST", LEASES.format(namespace), body=body)
    return Reference(namespace, name, made["metadata"]["uid"])


async def make_pod(api: KubernetesApi, namespace: str, **spec: Any) -> str:
    body = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "sandbox"},
        "spec": {"containers": [{"name": "sandbox", "image": "sandbox"}]} | spec,
    }
    made = await call(api, "POST", f"/api/v1/namespaces/{namespace}/pods", body=body)
    return str(made["metadata"]["uid"])


# --- Pods ----------------------------------------------------------------------------------------------------------


async def test_a_pod_is_looked_at_ended_and_gone(api: KubernetesApi, namespace: str) -> None:
    sandboxes = Pods(api)
    uid = await make_pod(api, namespace, terminationGracePeriodSeconds=45)
    pod = await sandboxes.look(namespace, "sandbox", uid)
    assert not isinstance(pod, Gone | NotDone)
    assert (pod.uid, pod.name, pod.grace, pod.terminating) == (uid, "sandbox", 45.0, False)
    assert await sandboxes.end(namespace, "sandbox", uid, 1) == DeletionAccepted()

    async def is_gone() -> bool:
        return await sandboxes.look(namespace, "sandbox", uid) == Gone()

    await until(is_gone, "the pod's end")
    assert await sandboxes.end(namespace, "sandbox", uid, 1) == Gone()


async def test_a_successor_of_the_same_name_survives(api: KubernetesApi, namespace: str) -> None:
    sandboxes = Pods(api)
    uid = await make_pod(api, namespace)
    for grace in (None, 1, 30):
        assert await sandboxes.end(namespace, "sandbox", FOREIGN_UID, grace) == Gone()
    assert await sandboxes.look(namespace, "sandbox", FOREIGN_UID) == Gone()
    pod = await sandboxes.look(namespace, "sandbox", uid)
    assert not isinstance(pod, Gone | NotDone)
    assert not pod.terminating


UNTIL = datetime(2026, 11, 29, 12, 0, 30, tzinfo=UTC)


async def test_a_worker_is_asked_to_finish_by_an_annotation_of_its_very_pod(api: KubernetesApi, namespace: str) -> None:
    sandboxes = Pods(api)
    uid = await make_pod(api, namespace)
    assert await sandboxes.ask_to_finish(namespace, "sandbox", FOREIGN_UID, UNTIL) == Gone()
    untouched = await sandboxes.look(namespace, "sandbox", uid)
    assert await sandboxes.ask_to_finish(namespace, "sandbox", uid, UNTIL) == Annotated()
    asked = await sandboxes.look(namespace, "sandbox", uid)
    assert not isinstance(untouched, Gone | NotDone)
    assert not isinstance(asked, Gone | NotDone)
    assert (untouched.drains_until, asked.drains_until) == (None, UNTIL)
    assert await sandboxes.ask_to_finish(namespace, "no-such-pod", uid, UNTIL) == Gone()


async def test_without_the_right_to_patch_pods_a_worker_cannot_be_asked_to_finish(
    control_plane: ControlPlane, api: KubernetesApi, namespace: str, account: Account
) -> None:
    uid = await make_pod(api, namespace)
    async with kubernetes_at(control_plane.url, token=account.token, ca=control_plane.ca) as limited:
        refused = await Pods(limited).ask_to_finish(namespace, "sandbox", uid, UNTIL)
    assert isinstance(refused, NotPermitted)
    assert 'cannot patch resource "pods"' in refused.message


async def test_the_grace_of_a_deletion_is_the_pods(api: KubernetesApi, namespace: str) -> None:
    uid = await make_pod(api, namespace, nodeName="no-such-node", terminationGracePeriodSeconds=45)
    assert await Pods(api).end(namespace, "sandbox", uid, 7.9) == DeletionAccepted()
    path = f"/api/v1/namespaces/{namespace}/pods/sandbox"
    reply = await api.call("GET", path)
    assert isinstance(reply, Done), "a pod whose node does not answer stays for its grace"
    assert reply.body["metadata"]["deletionGracePeriodSeconds"] == 7
    pod = await Pods(api).look(namespace, "sandbox", uid)
    assert not isinstance(pod, Gone | NotDone)
    assert pod.terminating


async def test_a_deletion_that_may_not_be_is_not_done_with_the_servers_words(
    control_plane: ControlPlane, api: KubernetesApi, namespace: str, account: Account
) -> None:
    uid = await make_pod(api, namespace)
    async with kubernetes_at(control_plane.url, token=account.token, ca=control_plane.ca) as limited:
        for outcome in (
            await Pods(limited).end(namespace, "sandbox", uid, 1),
            await Pods(limited).look(namespace, "sandbox", uid),
        ):
            assert isinstance(outcome, NotDone)
            assert 'pods "sandbox" is forbidden' in outcome.message


# --- Finalizer -----------------------------------------------------------------------------------------------------


async def finalizers(api: KubernetesApi, reference: Reference) -> list[str]:
    found = await call(api, "GET", reference.path)
    return list(found["metadata"].get("finalizers") or ())


async def test_what_the_checkpoint_is_to_forget_is_written_when_that_is_said(
    api: KubernetesApi, namespace: str
) -> None:
    store = BucketStore(api, namespace)
    for bucket in range(BUCKETS):
        await store.write(bucket, None, BucketHead(), {})
    checkpoint = Checkpoint(EveryBucket(api, namespace), namespace, time.monotonic)
    writing = asyncio.create_task(checkpoint.run())
    await checkpoint.forget("never-kept")
    await checkpoint.commit(Reference("sandboxes", "lease-1", "kept"), "{}")
    found = await call(api, "GET", f"/api/v1/namespaces/{namespace}/configmaps")
    assert [each["data"] for each in found["items"] if "kept" in each.get("data", {})] == [{"kept": "{}"}]
    checkpoint.drop("kept")
    await checkpoint.forget("kept")
    found = await call(api, "GET", f"/api/v1/namespaces/{namespace}/configmaps")
    assert not [each for each in found["items"] if "kept" in each.get("data", {})]
    writing.cancel()


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
async def test_the_api_server_takes_a_configmap_of_the_checkpoint_that_is_full(
    api: KubernetesApi, namespace: str
) -> None:
    # What takes the most room when it is sent: each quotation mark, and each letter that is not ASCII, is escaped.
    longest, shortest = '"ä' * (RESERVED // 3), '"' * (RESERVED // 4)
    for name, record, number in (("long", longest, LIMIT // RESERVED), ("short", shortest, LIMIT // RESERVED)):
        path = f"/api/v1/namespaces/{namespace}/configmaps"
        whole = {"metadata": {"name": name}, "data": {f"{each:036}": record for each in range(number)}}
        await call(api, "POST", path, body=whole)
        changed = {"data": dict.fromkeys(whole["data"], record[::-1])}
        await call(api, "PATCH", f"{path}/{name}", body=changed, patch=PatchType.MERGE, accept=METADATA)


async def test_the_finalizer_goes_on_and_off_beside_others(api: KubernetesApi, namespace: str) -> None:
    reference = await make_lease(api, namespace)
    kopf = {"metadata": {"finalizers": ["worklease.dev/timer"]}}
    await call(api, "PATCH", reference.path, body=kopf, patch=PatchType.MERGE)
    assert isinstance(await add(api, reference, allowed), Set)
    assert await finalizers(api, reference) == ["worklease.dev/timer", FINALIZER]
    assert isinstance(await remove(api, reference, allowed), Set)
    assert await finalizers(api, reference) == ["worklease.dev/timer"]


async def test_the_finalizer_survives_writers_at_the_same_moment(api: KubernetesApi, namespace: str) -> None:
    reference = await make_lease(api, namespace)

    async def edit() -> None:
        for number in range(20):
            label = {"metadata": {"labels": {"edit": str(number)}}}
            await call(api, "PATCH", reference.path, body=label, patch=PatchType.MERGE)

    async def write() -> None:
        for _ in range(5):
            while not isinstance(await add(api, reference, allowed), Set):
                pass
            while not isinstance(await remove(api, reference, allowed), Set):
                pass
        while not isinstance(await add(api, reference, allowed), Set):
            pass

    await asyncio.gather(edit(), write())
    assert await finalizers(api, reference) == [FINALIZER]


async def test_an_object_on_its_way_out_is_held_by_its_finalizer_and_given_no_other(
    api: KubernetesApi, namespace: str
) -> None:
    reference = await make_lease(api, namespace)
    other = {"metadata": {"finalizers": ["example.com/backup"]}}
    await call(api, "PATCH", reference.path, body=other, patch=PatchType.MERGE)
    await call(api, "DELETE", reference.path)
    assert isinstance(await add(api, reference, allowed), Gone)
    none: dict[str, Any] = {"metadata": {"finalizers": []}}
    await call(api, "PATCH", reference.path, body=none, patch=PatchType.MERGE)
    assert isinstance(await remove(api, reference, allowed), Gone)


async def test_a_successors_finalizers_are_left_alone(api: KubernetesApi, namespace: str) -> None:
    reference = await make_lease(api, namespace)
    assert isinstance(await add(api, reference, allowed), Set)
    former = reference._replace(uid=FOREIGN_UID)
    assert isinstance(await remove(api, former, allowed), Gone)
    assert await finalizers(api, reference) == [FINALIZER]


# --- Buckets and liveness Leases ---------------------------------------------------------------------------------


async def test_of_two_processes_one_takes_a_bucket_and_the_former_holder_is_refused(
    api: KubernetesApi, namespace: str
) -> None:
    store, path = BucketStore(api, namespace), f"/api/v1/namespaces/{namespace}/configmaps"
    former = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": former_name(3)}, "data": {"uid-1": "{}"}}
    await call(api, "POST", path, body=former)
    formers = await store.list_formers()
    assert formers == [3]
    bucket = await store.take_former(3, formers, now=1000.0, utc=datetime.now(UTC) + timedelta(minutes=1))
    assert isinstance(bucket, StoredBucket)
    assert (bucket.head, bucket.records) == (BucketHead(), {"uid-1": "{}"})
    assert "data" not in await call(api, "GET", f"{path}/{former_name(3)}"), "an earlier version finds nothing"
    takes = (store.write(3, bucket.version, BucketHead(name, 1, 1.5), {}) for name in ("a/1-1-a", "b/1-1-b"))
    first, second = sorted(await asyncio.gather(*takes), key=lambda each: isinstance(each, Overtaken))
    assert isinstance(first, WrittenBucket)
    assert second == Overtaken()
    assert await store.write(3, bucket.version, BucketHead("former", 0), {"uid-1": "late"}) == Overtaken()
    last = await store.write(3, first.version, BucketHead("c/1-1-c", 2), {"uid-1": None, "uid-2": "{}"})
    assert isinstance(last, WrittenBucket)
    assert await store.read(3) == StoredBucket(last.version, BucketHead("c/1-1-c", 2), {"uid-2": "{}"})


async def test_a_liveness_lease_is_made_renewed_seen_and_deleted(api: KubernetesApi, namespace: str) -> None:
    own = LivenessLeases(api, namespace, "worklease-1-2-a", "place/1-2-a")
    other = LivenessLeases(api, namespace, "worklease-1-3-b", "other/1-3-b")
    assert await own.renew(datetime.now(UTC), is_ready=False) is None
    seen: dict[str, ShownLease] = {}

    async def is_seen() -> bool:
        found = await other.look()
        assert not isinstance(found, NotDone)
        seen.update(found)
        return bool(found)

    await until(is_seen, "the list of Leases, which may lag behind,")
    assert await own.renew(datetime.now(UTC), is_ready=True) is None
    shown = await other.read("worklease-1-2-a")
    assert isinstance(shown, ShownLease)
    assert (shown.holder, shown.is_ready) == ("place/1-2-a", True)
    assert isinstance(await other.delete(seen["place/1-2-a"]), NotDone), "it was renewed since"
    assert await own.end() is None
    assert await other.read("worklease-1-2-a") == Gone()


@dataclass
class Records:
    """Who keeps the leases: it notes what it is given, and leaves a last record in each bucket."""

    held: dict[int, Mapping[str, str]] = field(default_factory=dict)

    def take(self, bucket: int, records: Mapping[str, str], succession: Succession) -> None:
        assert succession.taken is None, "nobody was silent"
        self.held[bucket] = records

    def lose(self, bucket: int) -> None:
        del self.held[bucket]

    def confirmed(self, bucket: int) -> None:
        """Nothing was put off."""

    def hasten(self, bucket: int) -> None:
        pass

    def unwritten(self, bucket: int, *, everything: bool) -> Mapping[str, str | None]:
        return {f"uid-{bucket}": "" if everything else "last words"}


async def test_a_write_of_a_bucket_that_changes_nothing_else_refuses_a_take_that_began_before(
    api: KubernetesApi, namespace: str
) -> None:
    store, held = BucketStore(api, namespace), BucketHead("holder", 1)
    made = await store.write(3, None, held, {"uid-1": "{}"})
    assert isinstance(made, WrittenBucket)
    seen = await store.write(3, made.version, held, {})
    assert isinstance(seen, WrittenBucket)
    assert isinstance(await store.write(3, seen.version, held, {}), WrittenBucket)
    assert isinstance(await store.write(3, seen.version, BucketHead("taker", 2), {}), Overtaken)


async def test_a_process_holds_all_buckets_at_once_and_leaves_them_to_the_next_one(
    api: KubernetesApi, namespace: str
) -> None:
    await take_and_leave(api, namespace, "pod-0", {})
    await take_and_leave(api, namespace, "pod-1", {f"uid-{bucket}": "last words" for bucket in range(BUCKETS)})
    leases = await call(api, "GET", f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases")
    assert leases["items"] == [], "who ends in order leaves no Lease"


async def take_and_leave(api: KubernetesApi, namespace: str, place: str, expected: Mapping[str, str]) -> None:
    """Run a process from its start to its end, and check what it finds in the buckets."""
    own, records = own_holder(place), Records()
    leases = LivenessLeases(api, namespace, own.lease_name, str(own))
    around = Surroundings(own=own, running=running, clock=monotonic, wall=wall)
    tenures = Tenures(leases, BucketStore(api, namespace), around)
    tenures.serve(records)
    await tenures.start()
    living = asyncio.create_task(tenures.run())
    await until(lambda: len(records.held) == BUCKETS, "the take of all buckets")
    assert {tenures.standing(bucket) for bucket in range(BUCKETS)} == {Standing.VALID}
    assert {uid: text for held in records.held.values() for uid, text in held.items()} == expected
    await tenures.end()
    assert records.held == {}
    living.cancel()
    await asyncio.wait({living})


# --- Status --------------------------------------------------------------------------------------------------------


@pytest.fixture
async def writer(api: KubernetesApi) -> AsyncIterator[StatusWriter]:
    writer = StatusWriter(api, 1000.0, time.monotonic)
    task = asyncio.create_task(writer.run())
    yield writer
    task.cancel()
    await asyncio.wait({task})


async def test_a_status_is_merged_into_the_one_that_is_there(
    api: KubernetesApi, namespace: str, writer: StatusWriter
) -> None:
    reference = await make_lease(api, namespace)
    value = "2026-11-22T03:52:26.172343+05:30"
    writer.publish(reference, {"lastHeartbeat": value, "state": "active", "ttlSeconds": 30}, Urgency.CHANGE)
    await writer.flush()
    writer.publish(reference, {"state": "a_new_state", "ttlSeconds": None}, Urgency.CHANGE)
    await writer.flush()
    found = await call(api, "GET", reference.path)
    assert found["status"] == {"lastHeartbeat": value, "state": "a_new_state"}


async def test_a_status_is_written_beside_those_who_edit_the_object(
    api: KubernetesApi, namespace: str, writer: StatusWriter
) -> None:
    reference = await make_lease(api, namespace)
    for number in range(10):
        label = {"metadata": {"labels": {"edit": str(number)}}}
        await call(api, "PATCH", reference.path, body=label, patch=PatchType.MERGE)
        writer.publish(reference, {"state": f"state_{number}"}, Urgency.CHANGE)
        await writer.flush()
        found = await call(api, "GET", reference.path)
        assert found["status"]["state"] == f"state_{number}"


async def test_a_status_never_lands_on_a_successor_of_the_same_name(
    api: KubernetesApi, namespace: str, writer: StatusWriter
) -> None:
    former = await make_lease(api, namespace)
    writer.publish(former, {"state": "active"}, Urgency.CHANGE)
    await writer.flush()
    await call(api, "DELETE", former.path)
    successor = await make_lease(api, namespace)
    writer.publish(former, {"state": "stopped"}, Urgency.CHANGE)
    await writer.flush()
    assert "status" not in await call(api, "GET", successor.path)
    writer.publish(successor, {"state": "queued"}, Urgency.CHANGE)
    await writer.flush()
    assert (await call(api, "GET", successor.path))["status"] == {"state": "queued"}


async def test_the_server_ignores_a_uid_in_a_status_patch_which_is_why_versions_guard_it(
    api: KubernetesApi, namespace: str
) -> None:
    reference = await make_lease(api, namespace)
    body = {"metadata": {"uid": FOREIGN_UID}, "status": {"state": "active"}}
    found = await call(api, "PATCH", f"{reference.path}/status", body=body, patch=PatchType.MERGE)
    assert (found["metadata"]["uid"], found["status"]) == (reference.uid, {"state": "active"})


async def test_a_status_that_the_schema_refuses_holds_back_no_later_one(
    api: KubernetesApi, namespace: str, writer: StatusWriter
) -> None:
    reference = await make_lease(api, namespace)
    writer.publish(reference, {"state": 5}, Urgency.CHANGE)
    await writer.flush()
    writer.publish(reference, {"state": "active"}, Urgency.CHANGE)

    async def is_written() -> bool:
        return (await call(api, "GET", reference.path)).get("status") == {"state": "active"}

    await until(is_written, "the later status")


# --- Secrets -------------------------------------------------------------------------------------------------------


async def test_a_secret_is_read_changed_and_missed(
    control_plane: ControlPlane, namespace: str, account: Account
) -> None:
    now = [0.0]
    async with kubernetes_at(control_plane.url, token=account.token, ca=control_plane.ca) as limited:
        credentials = Credentials(limited, lambda: now[0])
        denied = await credentials.key(namespace, "keys")
        assert isinstance(denied, NoKey)
        assert f"may not read Secret {namespace}/keys" in denied.message
        grant(control_plane, namespace, account, "get secrets")
        missing = await credentials.key(namespace, "keys")
        assert isinstance(missing, NoKey)
        assert f"Secret {namespace}/keys does not exist" in missing.message
        control_plane.kubectl(
            *("create", "secret", "generic", "keys", "-n", namespace, "--from-literal=environment-key=first\n")
        )
        key = await credentials.key(namespace, "keys")
        assert isinstance(key, Key)
        assert key.value.get_secret_value() == "first"
        second = base64.b64encode(b"second").decode()
        patch = json.dumps({"data": {"environment-key": second}})
        control_plane.kubectl("patch", "secret", "keys", "-n", namespace, "--type=merge", "-p", patch)
        changed = await credentials.key_after_refusal(namespace, "keys", key)
        assert isinstance(changed, Key)
        assert changed.value.get_secret_value() == "second"
        control_plane.kubectl("delete", "secret", "keys", "-n", namespace)
        now[0] += CACHE_SECONDS + 1

        async def is_noticed() -> bool:
            return isinstance(await credentials.key(namespace, "keys"), NoKey)

        await until(is_noticed, "the Secret's end")


# --- Start ---------------------------------------------------------------------------------------------------------

NEEDED = (
    "get,list,watch,patch,delete workleases.worklease.dev",
    "patch workleases.worklease.dev/status",
    "get,list,watch,create,delete pods",
    "create events.events.k8s.io",
    "get,list,create,patch configmaps",
    "get,list,create,patch,delete leases.coordination.k8s.io",
)


async def test_an_administrator_is_ready_to_start(api: KubernetesApi, namespace: str) -> None:
    await check(api, (), namespace)
    await check(api, (namespace,), namespace)


async def test_an_account_with_just_the_rights_in_its_namespace_is_ready_there_only(
    control_plane: ControlPlane, namespace: str, account: Account
) -> None:
    grant(control_plane, namespace, account, *NEEDED)
    async with kubernetes_at(control_plane.url, token=account.token, ca=control_plane.ca) as limited:
        await check(limited, (namespace,), namespace)
        with pytest.raises(PreflightFailed, match="delete pods in all namespaces"):
            await check(limited, (), namespace)


async def test_a_missing_right_is_named(control_plane: ControlPlane, namespace: str, account: Account) -> None:
    grant(control_plane, namespace, account, NEEDED[0], *NEEDED[2:])
    async with kubernetes_at(control_plane.url, token=account.token, ca=control_plane.ca) as limited:
        with pytest.raises(PreflightFailed) as missing:
            await check(limited, (namespace,), namespace)
    lacking = f"the operator may not patch workleases.worklease.dev/status in namespace {namespace}; grant"
    assert lacking in str(missing.value)


async def test_a_token_that_is_none_is_said_at_once(control_plane: ControlPlane) -> None:
    async with kubernetes_at(control_plane.url, token="nonsense", ca=control_plane.ca) as stranger:
        with pytest.raises(PreflightFailed, match="refuses the operator's credentials: Unauthorized"):
            await check(stranger, (), "default")


async def test_the_servers_refusals_are_read(api: KubernetesApi, namespace: str) -> None:
    reference = await make_lease(api, namespace)
    missing = await api.call("GET", LEASES.format(namespace) + "/missing")
    assert missing == Refused(404, 'workleases.worklease.dev "missing" not found', reason="NotFound")
    stale = {"metadata": {"resourceVersion": "1", "finalizers": [FINALIZER]}}
    conflict = await api.call("PATCH", reference.path, body=stale, patch=PatchType.MERGE)
    assert isinstance(conflict, Refused)
    assert (conflict.status, conflict.is_by_uid) == (409, False)
    invalid = await api.call("PATCH", reference.path, body={"spec": {"workID": "work_2"}}, patch=PatchType.MERGE)
    assert isinstance(invalid, Refused)
    assert (invalid.status, "immutable" in invalid.message) == (422, True)


async def test_a_stranger_to_the_clusters_authority_gets_no_answer(control_plane: ControlPlane) -> None:
    async with kubernetes_at(control_plane.url, token=control_plane.token) as stranger:
        assert isinstance(await stranger.call("GET", "/version"), NoAnswer)
