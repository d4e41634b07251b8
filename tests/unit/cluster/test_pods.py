"""What the operator reads from a pod, and how the deletion of a pod ends."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from support.every_bucket import allowed
from support.scripted_server import Answer, Fault, ScriptedServer, always, kubernetes_at, serving
from worklease.api.names import Reference
from worklease.cluster.client import LOW_PRIORITY_CALLS, WRITE_TIMEOUT, Gone, NotDone
from worklease.cluster.finalizer import Set, add
from worklease.cluster.pod_reading import read_pod
from worklease.cluster.pods import CREATIONS_OF_ONE, DeletionAccepted, DryRunAccepted, MaybeMade, NotAdmitted, Pods
from worklease.rules.pods import Obstacle, Pod

UID = "2388ac9f-56d7-402b-b758-4ec433754b79"
NAMED = ("sandboxes", "sandbox-1", UID)
PATH = "/api/v1/namespaces/sandboxes/pods/sandbox-1"
FINISHED = "2026-11-22T03:52:26Z"
AT = datetime(2026, 11, 22, 3, 52, 26, tzinfo=UTC)
OTHER_UID = (
    'Operation cannot be fulfilled on Pod "sandbox-1": the UID in the precondition (a) does not match the UID in '
    "record (b). The object might have been deleted and then recreated"
)


def body(phase: str = "Running", *, spec: dict[str, Any] | None = None, **status: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "sandbox-1", "namespace": "sandboxes", "uid": UID},
        "spec": {"terminationGracePeriodSeconds": 45} if spec is None else spec,
        "status": {"phase": phase} | status,
    }


def container(restarts: int = 0, **state: dict[str, Any]) -> dict[str, Any]:
    return {"name": "sandbox", "restartCount": restarts, "state": state}


def ended(code: int, reason: str = "Error", **more: Any) -> dict[str, Any]:
    return container(terminated={"exitCode": code, "reason": reason, "finishedAt": FINISHED} | more)


RUNS = container(running={"startedAt": FINISHED})
WAITS = container(waiting={"reason": "PodInitializing"})


# --- What a pod looks like -----------------------------------------------------------------------------------------


def test_a_running_pod_is_read() -> None:
    conditions = [{"type": "Ready", "status": "True"}, {"type": "PodScheduled", "status": "True"}]
    pod = read_pod(body(conditions=conditions, containerStatuses=[RUNS]))
    assert pod == Pod(uid=UID, name="sandbox-1", phase="Running", ready=True, has_run=True, grace=45.0)


def test_a_pod_that_says_nothing_has_every_default() -> None:
    pod = read_pod({"metadata": {"name": "sandbox-1", "uid": UID}})
    assert pod == Pod(uid=UID, name="sandbox-1", phase="Unknown", grace=30.0)
    assert read_pod({"metadata": {"name": "sandbox-1", "uid": UID}, "spec": None, "status": None}) == pod


def test_a_pod_that_is_being_deleted_is_terminating() -> None:
    pod = body()
    pod["metadata"]["deletionTimestamp"] = FINISHED
    assert read_pod(pod).terminating


def test_a_grace_of_nothing_is_a_grace() -> None:
    assert read_pod(body(spec={"terminationGracePeriodSeconds": 0})).grace == 0.0


@pytest.mark.parametrize("status", ["False", "Unknown"])
def test_a_pod_that_is_not_ready_is_not_ready(status: str) -> None:
    assert not read_pod(body(conditions=[{"type": "Ready", "status": status}])).ready


@pytest.mark.parametrize("reason", ["ImagePullBackOff", "CrashLoopBackOff", "CreateContainerConfigError"])
def test_what_a_container_waits_for_is_told(reason: str) -> None:
    waiting = container(restarts=3, waiting={"reason": reason, "message": "in the kubelet's words"})
    pod = read_pod(body("Pending", containerStatuses=[RUNS, waiting]))
    assert (pod.reason, pod.message, pod.restarts) == (reason, "in the kubelet's words", 3)
    assert (pod.exit_code, pod.finish_time) == (None, None)


def test_what_an_initial_container_waits_for_goes_before_those_that_wait_for_it() -> None:
    stuck = container(waiting={"reason": "ErrImagePull"})
    assert read_pod(body("Pending", initContainerStatuses=[stuck], containerStatuses=[WAITS])).reason == "ErrImagePull"


def test_an_initial_container_that_is_done_says_nothing_of_a_running_pod() -> None:
    pod = read_pod(body(initContainerStatuses=[ended(0, "Completed")], containerStatuses=[RUNS]))
    assert (pod.reason, pod.exit_code, pod.finish_time) == ("", None, None)


def test_a_container_that_failed_beside_one_that_runs_is_told_though_the_pod_is_not_over() -> None:
    pod = read_pod(body(containerStatuses=[RUNS, ended(137, "OOMKilled")]))
    assert (pod.reason, pod.exit_code, pod.finish_time) == ("OOMKilled", None, None)


def test_a_pod_that_finished_tells_when_and_how() -> None:
    pod = read_pod(body("Succeeded", containerStatuses=[ended(0, "Completed")]))
    assert (pod.phase, pod.reason, pod.exit_code, pod.finish_time) == ("Succeeded", "Completed", 0, AT)


def test_a_pod_that_ran_out_of_memory_says_so() -> None:
    pod = read_pod(body("Failed", containerStatuses=[ended(0, "Completed"), ended(137, "OOMKilled")]))
    assert (pod.reason, pod.exit_code, pod.finish_time) == ("OOMKilled", 137, AT)


def test_an_evicted_pod_says_so_with_the_nodes_words() -> None:
    said: dict[str, Any] = {"reason": "Evicted", "message": "The node was low on resource: memory."}
    pod = read_pod(body("Failed", containerStatuses=[ended(137, "ContainerStatusUnknown")], **said))
    assert (pod.reason, pod.message, pod.exit_code) == ("Evicted", "The node was low on resource: memory.", 137)


def test_an_evicted_pod_needs_no_containers() -> None:
    pod = read_pod(body("Failed", reason="Evicted", message="Pod was rejected"))
    assert (pod.reason, pod.exit_code, pod.finish_time) == ("Evicted", None, None)


def test_an_initial_container_that_failed_is_why_the_others_never_ran() -> None:
    failed = ended(3, "Error", message="no disk")
    pod = read_pod(body("Failed", initContainerStatuses=[ended(0), failed], containerStatuses=[WAITS]))
    assert (pod.reason, pod.message, pod.exit_code) == ("Error", "no disk", 3)


@pytest.mark.parametrize(
    ("owner", "controller"),
    [
        ({"kind": "WorkLease", "uid": "u1", "controller": True}, "u1"),
        ({"kind": "WorkLease", "uid": "u1", "controller": False}, ""),
        ({"kind": "WorkLease", "uid": "u1"}, ""),
        ({"kind": "Job", "uid": "u1", "controller": True}, ""),
    ],
)
def test_a_pod_is_controlled_by_a_worklease_or_by_none(owner: dict[str, Any], controller: str) -> None:
    pod = body()
    pod["metadata"]["ownerReferences"] = [{"kind": "ConfigMap", "uid": "u0"}, owner]
    assert read_pod(pod).controller == controller


# --- Looking and ending --------------------------------------------------------------------------------------------


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with serving() as scripted:
        yield scripted


@pytest.fixture
async def sandboxes(server: ScriptedServer) -> AsyncIterator[Pods]:
    async with kubernetes_at(server.url) as api:
        yield Pods(api)


def refused(status: int, message: str = "in the server's words") -> Answer:
    return Answer(status=status, body={"kind": "Status", "message": message})


async def test_a_look_gives_the_pod(server: ScriptedServer, sandboxes: Pods) -> None:
    server.script = always(Answer(body=body()))
    assert await sandboxes.look(*NAMED) == read_pod(body())
    assert (server.seen[0].method, server.seen[0].target) == ("GET", PATH)


async def test_a_look_at_a_successor_finds_the_pod_gone(server: ScriptedServer, sandboxes: Pods) -> None:
    server.script = always(Answer(body=body()))
    assert await sandboxes.look("sandboxes", "sandbox-1", "another") == Gone()


async def test_a_look_at_nothing_finds_the_pod_gone(server: ScriptedServer, sandboxes: Pods) -> None:
    server.script = always(refused(404))
    assert await sandboxes.look(*NAMED) == Gone()


TROUBLE = [
    *(refused(status) for status in (401, 403, 429, 500)),
    Answer(fault=Fault.RESET),
    Answer(body=b"<html>"),
    Answer(status=404, body=b"<html>"),  # from something in between: the pod may still exist
]


@pytest.mark.parametrize("answer", TROUBLE)
async def test_a_look_that_failed_says_why(server: ScriptedServer, sandboxes: Pods, answer: Answer) -> None:
    server.script = always(answer)
    outcome = await sandboxes.look(*NAMED)
    assert isinstance(outcome, NotDone)
    assert outcome.message


async def test_a_deletion_carries_the_uid_and_the_grace(server: ScriptedServer, sandboxes: Pods) -> None:
    server.script = always(Answer(body=body()))
    assert await sandboxes.end(*NAMED, 7.9) == DeletionAccepted()
    (seen,) = server.seen
    assert (seen.method, seen.target) == ("DELETE", f"{PATH}?timeout=2s"), "nothing is done later"
    assert seen.json["preconditions"] == {"uid": UID}
    assert seen.json["gracePeriodSeconds"] == 7


async def test_a_deletion_without_a_grace_leaves_the_pod_its_own(server: ScriptedServer, sandboxes: Pods) -> None:
    server.script = always(Answer(body=body()))
    await sandboxes.end(*NAMED, None)
    assert "gracePeriodSeconds" not in server.seen[0].json


@pytest.mark.parametrize("grace", [0.0, 0.9, -3.0])
async def test_no_deletion_removes_the_object_before_the_container(
    server: ScriptedServer, sandboxes: Pods, grace: float
) -> None:
    server.script = always(Answer(body=body()))
    await sandboxes.end(*NAMED, grace)
    assert server.seen[0].json["gracePeriodSeconds"] == 1


@pytest.mark.parametrize("answer", [refused(404), refused(409, OTHER_UID)])
async def test_a_pod_that_is_no_more_is_gone(server: ScriptedServer, sandboxes: Pods, answer: Answer) -> None:
    server.script = always(answer)
    assert await sandboxes.end(*NAMED, 5) == Gone()


async def test_a_conflict_about_something_else_does_not_make_a_pod_gone(
    server: ScriptedServer, sandboxes: Pods
) -> None:
    server.script = always(refused(409, 'Operation cannot be fulfilled on pods "fluid-uid": the object was modified'))
    assert isinstance(await sandboxes.end(*NAMED, 5), NotDone)


@pytest.mark.parametrize("answer", TROUBLE)
async def test_a_deletion_that_was_not_done_says_why(server: ScriptedServer, sandboxes: Pods, answer: Answer) -> None:
    server.script = always(answer)
    outcome = await sandboxes.end(*NAMED, 5)
    assert isinstance(outcome, NotDone)
    words = ("in the server's words", "did not answer", "not the Kubernetes API", "could not find")
    assert any(part in outcome.message for part in words)


# --- Making --------------------------------------------------------------------------------------------------------

FORBIDDEN = 'pods "sandbox-1" is forbidden: '
WEBHOOK = 'failed calling webhook "w.example.com": failed to call webhook: Post "https://w": connection refused'


@pytest.mark.parametrize(
    ("answer", "obstacle"),
    [
        (refused(403, f"{FORBIDDEN}exceeded quota: pods, requested: pods=1, used: pods=3"), Obstacle.QUOTA),
        (refused(403, f"{FORBIDDEN}status unknown for quota: pods, resources: pods"), Obstacle.QUOTA),
        (refused(403, f"{FORBIDDEN}failed quota: cpu: must specify cpu"), Obstacle.SPEC),
        (refused(403, f"{FORBIDDEN}violates PodSecurity"), Obstacle.SPEC),
        (refused(422), Obstacle.SPEC),
        (refused(500, f"Internal error occurred: {WEBHOOK}"), Obstacle.ADMISSION),
        (refused(500, 'admission webhook "w.example.com" denied the request: no'), Obstacle.SPEC),
        (refused(429), Obstacle.ADMISSION),
    ],
)
async def test_a_pod_that_is_not_made_says_whether_it_is_the_pods_own_fault(
    server: ScriptedServer, sandboxes: Pods, answer: Answer, obstacle: Obstacle
) -> None:
    server.script = lambda seen: answer if seen.method == "POST" else refused(404)
    for outcome in (await sandboxes.dry_run("sandboxes", body()), await sandboxes.make("sandboxes", body())):
        assert isinstance(outcome, NotAdmitted)
        assert outcome.obstacle is obstacle
        assert outcome.message


async def test_what_the_server_gave_up_may_have_been_made(server: ScriptedServer, sandboxes: Pods) -> None:
    server.script = lambda seen: (
        refused(504, "Timeout: the request did not complete") if seen.method == "POST" else refused(404)
    )
    assert isinstance(await sandboxes.make("sandboxes", body()), MaybeMade)


async def test_a_creation_is_given_up_at_the_server_too_and_a_dry_run_may_take_its_time(
    server: ScriptedServer, sandboxes: Pods
) -> None:
    server.script = always(Answer(body=body()))
    await sandboxes.make("sandboxes", body())
    await sandboxes.dry_run("sandboxes", body())
    assert [seen.query for seen in server.seen] == [{"timeout": ["2s"]}, {"dryRun": ["All"]}]


async def test_where_a_dry_run_takes_longer_than_a_creation_may_that_is_the_problem(
    server: ScriptedServer, sandboxes: Pods
) -> None:
    later = asyncio.Event()
    server.script = always(Answer(body=body(), until=later))
    asyncio.get_running_loop().call_later(WRITE_TIMEOUT + 0.1, later.set)
    outcome = await sandboxes.dry_run("sandboxes", body())
    assert isinstance(outcome, NotAdmitted)
    assert outcome.obstacle is Obstacle.ADMISSION
    assert "its creation is given up after 2 s" in outcome.message


async def test_what_got_no_answer_may_have_been_made_but_for_a_dry_run(server: ScriptedServer, sandboxes: Pods) -> None:
    server.script = lambda seen: Answer(fault=Fault.RESET) if seen.method == "POST" else refused(404)
    tried = await sandboxes.dry_run("sandboxes", body())
    assert isinstance(tried, NotAdmitted)
    assert tried.obstacle is Obstacle.ADMISSION
    assert isinstance(await sandboxes.make("sandboxes", body()), MaybeMade)


# --- Nodes ---------------------------------------------------------------------------------------------------------


def tainted(*keys: str) -> Answer:
    return Answer(body={"spec": {"taints": [{"key": key, "effect": "NoExecute"} for key in keys]}})


@pytest.mark.parametrize(
    ("answer", "is_off"),
    [
        (Answer(body={"spec": {}}), False),
        (tainted("node.kubernetes.io/unreachable"), False),
        (tainted("node.kubernetes.io/unreachable", "node.kubernetes.io/out-of-service"), True),
        (refused(404), True),
        *((answer, False) for answer in TROUBLE),
    ],
)
async def test_a_node_is_off_if_it_is_gone_or_somebody_says_so_and_nothing_else_shows_it(
    server: ScriptedServer, sandboxes: Pods, answer: Answer, *, is_off: bool
) -> None:
    server.script = always(answer)
    assert await sandboxes.is_node_off("node-1") is is_off
    assert server.seen[0].target == "/api/v1/nodes/node-1"


async def test_creations_that_hang_in_one_namespace_leave_connections_to_deletions_and_to_other_namespaces() -> None:
    never = asyncio.Event()
    async with serving() as server, kubernetes_at(server.url) as api:
        hanging, accepted = Answer(until=never), Answer(body={"metadata": {}})
        server.script = lambda seen: hanging if "/sandboxes/" in seen.path and seen.method == "POST" else accepted
        pods = Pods(api)
        waiting = {asyncio.create_task(pods.dry_run("sandboxes", body())) for _ in range(150)}
        await server.until_seen(CREATIONS_OF_ONE)
        async with asyncio.timeout(5):
            assert await pods.end(*NAMED, 1) == DeletionAccepted()
            assert await pods.dry_run("elsewhere", body()) == DryRunAccepted()
        assert len(server.seen) == CREATIONS_OF_ONE + 2
        for each in waiting:
            each.cancel()
        await asyncio.wait(waiting)
        never.set()


async def test_finalizers_that_hang_in_one_namespace_leave_room_for_another() -> None:
    never = asyncio.Event()
    async with serving() as server, kubernetes_at(server.url) as api:
        server.script = lambda seen: Answer(
            body={"metadata": {"uid": "uid", "resourceVersion": "1"}},
            until=never if "/sandboxes/" in seen.path else None,
        )
        waiting = {asyncio.create_task(add(api, Reference("sandboxes", "lease-1", "uid"), allowed)) for _ in range(50)}
        await server.until_seen(LOW_PRIORITY_CALLS // 2)
        async with asyncio.timeout(5):
            assert isinstance(await add(api, Reference("elsewhere", "lease-2", "uid"), allowed), Set)
        for each in waiting:
            each.cancel()
        await asyncio.wait(waiting)
        never.set()
