"""From the queue to the sandbox: what a pool does with the items of its environment."""

import asyncio
import base64
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import pytest

from controlplane import ControlPlane, wait_for
from support.admission import WEBHOOK, allow_all_pods, allow_pods, silent_webhook
from support.judge import OPERATOR, check_history
from support.kube_proxy import Cut, Hold, KubeProxy
from support.observer import Observer
from support.operator import Leases, Operator
from support.pools import NAME, Pool
from support.sandboxes import mounted, pods_made, with_workspace
from support.sdk import sdk
from support.simulator import Simulator, accepted

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic

IS_SOAK: Final = os.environ.get("HYPOTHESIS_PROFILE") == "soak"
SESSIONS, CAP, LASTS = (200, 20, "30s") if IS_SOAK else (24, 6, "3s")  # longer than it takes to fill the cap
HELD_BACK: Final = 10.0
"""Seconds for which a watch shows nothing new."""
WORKED_ON: Final = 600.0 if IS_SOAK else 120.0
LONGEST_STRAND: Final = 15.0
"""Seconds for which an item may be acknowledged and not held, whatever crash there was."""
pytestmark = pytest.mark.usefixtures("operator")


@pytest.fixture
def pool(control_plane: ControlPlane, leases: Leases, simulator: Simulator) -> Pool:
    return Pool(control_plane, leases, simulator)


def test_a_session_comes_through_the_queue_to_a_sandbox(pool: Pool, leases: Leases, simulator: Simulator) -> None:
    pool.create()
    pool.await_condition("Polling", "True", "Polling")
    session = simulator.create_session()["data"]["id"]
    (name,) = pool.await_running(1)
    assert name.startswith(f"{NAME}-")
    (secret,) = pool.secrets().values()
    assert secret["metadata"]["name"] == name
    assert json.loads(base64.urlsafe_b64decode(base64.b64decode(secret["data"]["work-secret"])))["sessions_token"]
    (body,) = leases.pods().values()
    told = {entry["name"]: entry for entry in body["spec"]["containers"][0]["env"]}
    assert told["ANTHROPIC_SESSION_ID"]["value"] == session
    assert body["metadata"]["labels"]["worklease.dev/pool"] == NAME, "status.selector finds it"
    assert told["ANTHROPIC_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"]["name"] == name
    assert simulator.environment_key not in str(body)
    wait_for(lambda: pool.status().get("running") == 1, seconds=10, what="the pool's count")
    assert pool.status()["active"] == 1
    item = pool.leases()[name]["spec"]["workID"]
    calls = [entry["call"] for entry in simulator.history(item) if "call" in entry]
    assert calls[:3] == ["poll", "ack", "heartbeat"]
    leases.end_pod(next(iter(leases.pods())), exit_code=0)
    wait_for(lambda: not pool.unfinished(), seconds=20, what="the end of the WorkLease")
    wait_for(lambda: not pool.secrets(), seconds=20, what="the end of the token")
    assert simulator.item(item)["state"] == "stopped"
    assert check_history(simulator.history()) == []


def test_the_cap_is_a_cap_and_a_pause_takes_nothing(pool: Pool, leases: Leases, simulator: Simulator) -> None:
    for _ in range(4):
        simulator.create_session()
    pool.create(most=2)
    pool.await_running(2)
    pool.await_condition("Polling", "False", "AtCapacity")
    assert pool.condition("Ready")[0] == "True"
    assert len(pool.unfinished()) == 2
    pool.edit(maxConcurrent=0)
    pool.await_condition("Polling", "False", "Suspended")
    leases.end_pod(next(iter(leases.pods())), exit_code=0)
    wait_for(lambda: len(pool.unfinished()) == 1, seconds=20, what="the end of one")
    pool.edit(maxConcurrent=4)
    pool.await_running(3)
    wait_for(lambda: len(pool.leases()) == 4, seconds=20, what="all four")
    assert len(pool.unfinished()) == 3
    assert check_history(simulator.history()) == []


def crash(operator: Operator, is_due: Callable[[], object], release: Callable[[], None]) -> None:
    """Kill the operator when it has come to a point, and start it again."""
    wait_for(is_due, seconds=30, what="the point of the crash")
    operator.kill()
    release()
    operator.start()


def assert_each_session_has_one_sandbox(leases: Leases, pool: Pool, sessions: list[str]) -> None:
    pods = [body["metadata"]["labels"]["worklease.dev/session-id"] for body in leases.pods().values()]
    assert sorted(pods) == sorted(sessions)
    assert len(pool.unfinished()) == len(sessions)


def has_moved(call: dict[str, Any]) -> bool:
    """Whether a call changed its item's state, with or without an answer."""
    return bool(call["before"]["state"] != call["after"]["state"])


def gaps(simulator: Simulator) -> list[float]:
    """Return for how many seconds each item was acknowledged before its lease was held."""
    found: list[float] = []
    for item in simulator.items():
        entries = simulator.history(item["id"])
        acks = [each["applied_monotonic"] for each in entries if each.get("call") == "ack" and has_moved(each)]
        found += [first - acks[0] for first in accepted(simulator, item["id"])[:1]]
    return found


WRITES = (("create", "workleases"), ("create", "secrets"), ("patch", "configmaps"), ("create", "pods"))
MOMENTS = pytest.mark.parametrize("is_done", [False, True], ids=["before", "after"])


@pytest.mark.long(seconds=45)
@MOMENTS
def test_an_operator_that_is_killed_at_a_write_strands_nothing(
    pool: Pool, leases: Leases, simulator: Simulator, operator: Operator, proxy: KubeProxy, *, is_done: bool
) -> None:
    pool.create(most=9)
    sessions = []
    for number, (verb, resource) in enumerate(WRITES, start=1):
        pool.await_condition("Polling", "True", "Polling")
        fault = proxy.inject(Cut(applied=is_done), verb=verb, resource=resource)
        sessions.append(str(simulator.create_session()["data"]["id"]))
        crash(operator, fault.acted.is_set, partial(proxy.remove_fault, fault))
        pool.await_running(number)
    assert_each_session_has_one_sandbox(leases, pool, sessions)
    assert max(gaps(simulator)) < LONGEST_STRAND
    assert check_history(simulator.history()) == []


@pytest.mark.long(seconds=40)
@MOMENTS
def test_an_operator_that_is_killed_within_a_call_strands_nothing(
    pool: Pool, leases: Leases, simulator: Simulator, operator: Operator, *, is_done: bool
) -> None:
    kind = "hang-after" if is_done else "hang"
    pool.create(most=9)
    sessions = []
    for number, call in enumerate(("poll", "ack", "heartbeat"), start=1):
        pool.await_condition("Polling", "True", "Polling")
        item = simulator.create_session()
        sessions.append(str(item["data"]["id"]))
        named = None if call == "poll" else item["id"]
        fault = simulator.inject(kind, call=call, item=named)
        crash(operator, partial(has_met, simulator, kind), partial(simulator.remove_fault, fault))
        simulator.clear_faults()
        pool.await_running(number)
    assert_each_session_has_one_sandbox(leases, pool, sessions)
    assert max(gaps(simulator)) < LONGEST_STRAND
    assert check_history(simulator.history()) == []


def has_met(simulator: Simulator, kind: str) -> bool:
    """Whether the last call met a fault."""
    return any(entry.get("fault") == kind for entry in simulator.history()[-3:])


class Unfinished(Observer):
    """Counts, again and again, the WorkLeases of a pool that are not finished."""

    def __init__(self, pool: Pool) -> None:
        super().__init__("WorkLeases of the pool", interval=0.2)
        self._pool = pool
        self._most = 0

    @property
    def most(self) -> int:
        """The largest count so far."""
        self._check()
        return self._most

    def _observe(self) -> None:
        self._most = max(self._most, len(self._pool.unfinished()))


@pytest.mark.long(seconds=40)
def test_a_full_queue_is_worked_on_and_never_exceeds_the_cap_though_the_watch_is_held_back(
    pool: Pool, leases: Leases, simulator: Simulator, proxy: KubeProxy, control_plane: ControlPlane
) -> None:
    for _ in range(SESSIONS):
        simulator.create_session()
    began = time.monotonic()
    with Unfinished(pool) as seen:
        pool.create(most=CAP, template=leases.template(exit_code="0", exit_after=LASTS))
        wait_for(lambda: len(pool.leases()) > 1, seconds=30, what="the first WorkLeases")
        with proxy.fault(Hold(), verb="watch", resource="workleases"):
            proxy.cut_watches("workleases")
            wait_for(lambda: time.monotonic() - began > HELD_BACK, seconds=2 * HELD_BACK, what="ten seconds")
        wait_for(lambda: done(simulator) == SESSIONS, seconds=WORKED_ON, what="the end of all sessions")
        wait_for(lambda: not pool.unfinished(), seconds=30, what="the end of all WorkLeases")
        assert seen.most == CAP
    assert len(pods_made(control_plane, leases.namespace)) == SESSIONS
    assert check_history(simulator.history()) == []


async def work_on(client: "AsyncAnthropic", simulator: Simulator, has_started: Callable[[], object]) -> None:
    """Work on what the SDK's own poller brings, one item after the other; the first until the pool has one too."""
    work = client.beta.environments.work
    poller = work.poller(
        environment_id=simulator.environment_id, environment_key=simulator.environment_key, auto_stop=False
    )
    worker = client.copy(auth_token=simulator.environment_key).beta.environments.work
    async for item in poller:
        await worker.heartbeat(item.id, environment_id=item.environment_id, expected_last_heartbeat="NO_HEARTBEAT")
        await asyncio.to_thread(wait_for, has_started, seconds=30, what="an item of the pool")
        await worker.stop(item.id, environment_id=item.environment_id, force=True)


@pytest.mark.xdist_group("the SDK's client")
async def test_the_sdks_own_poller_and_a_pool_share_an_environment_and_no_item_is_worked_on_twice(
    pool: Pool, leases: Leases, simulator: Simulator, control_plane: ControlPlane
) -> None:
    pool.create(most=2, template=leases.template(exit_code="0", exit_after="1s"))
    await asyncio.to_thread(pool.await_condition, "Polling", "True", "Polling")
    async with sdk(simulator.url, simulator.api_key) as opened:
        poller = asyncio.create_task(work_on(opened.client, simulator, pool.leases))
        items = {str(item["id"]): str(item["data"]["id"]) for item in (simulator.create_session() for _ in range(6))}
        await asyncio.to_thread(
            wait_for, lambda: done(simulator) == len(items), seconds=60, what="the end of all items"
        )
        poller.cancel()
        await asyncio.gather(poller, return_exceptions=True)
    by: dict[str, set[str]] = {item: holders(simulator, item) for item in items}
    assert all(len(agents) == 1 for agents in by.values()), by
    assert len(set.union(*by.values())) == 2, "both got items"
    of_pool = {item for item in items if OPERATOR in by[item]}
    assert {each["spec"]["workID"] for each in pool.leases().values()} >= of_pool
    pods = pods_made(control_plane, leases.namespace)
    assert len(pods) == len(set(pods)) == len(of_pool)
    assert check_history(simulator.history()) == []


def holders(simulator: Simulator, item: str) -> set[str]:
    """Return the clients whose acknowledgement or beat of an item was accepted."""
    entries = [each for each in simulator.history(item) if each.get("call") in ("ack", "heartbeat")]
    return {each["agent"] for each in entries if has_moved(each) or each["lease_extended"]}


def done(simulator: Simulator) -> int:
    """Return how many items are stopped."""
    return sum(item["state"] == "stopped" for item in simulator.items())


def test_sandboxes_that_cannot_start_leave_the_rest_in_the_queue(
    pool: Pool, leases: Leases, simulator: Simulator
) -> None:
    pool.create(most=9, template=leases.template(waits=True), limits={"failuresBeforePause": 2, "pauseSeconds": 2})
    for _ in range(5):
        simulator.create_session()
    wait_for(lambda: len(leases.pods()) == 2, seconds=30, what="as many pods as may start untried")
    for pod in leases.pods():
        fail_to_pull(leases, pod)
    message = pool.await_condition("Ready", "False", "SandboxesFailing")
    assert "ImagePullFailed" in message
    wait_for(lambda: len(leases.pods()) == 3, seconds=20, what="one on trial")
    assert len(pool.unfinished()) == 3
    pool.create(most=9, limits={"failuresBeforePause": 2, "pauseSeconds": 2})
    pool.await_running(2)
    assert pool.await_condition("Ready", "True", "Polling") == "the pool asks for items"


def fail_to_pull(leases: Leases, pod: str) -> None:
    waiting = {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}
    container = {"name": "sandbox", "image": "busybox", "imageID": "", "ready": False, "restartCount": 0}
    leases.play(pod, phase="Pending", containerStatuses=[container | {"state": {"waiting": waiting}}])


def test_the_next_message_of_a_session_waits_for_the_sandbox_before(
    pool: Pool, leases: Leases, simulator: Simulator
) -> None:
    pool.create(**with_workspace(leases, keep=3600))
    item = simulator.create_session()
    (first,) = pool.await_running(1)
    (pod,) = leases.pods()
    volume = mounted(leases.pods()[pod])
    simulator.stop_item(item["id"], force=True)
    assert simulator.message(item["data"]["id"]) is not None
    wait_for(lambda: len(pool.leases()) == 2, seconds=30, what="the WorkLease of the next message")
    (second,) = set(pool.leases()) - {first}
    pool.await_sandbox(second)
    assert pod not in leases.pods()
    (body,) = leases.pods().values()
    assert mounted(body) == volume, "one session has one volume"
    assert list(leases.volumes()) == [volume]
    assert check_history(simulator.history()) == []


def test_a_deleted_pool_gives_its_items_back(pool: Pool, leases: Leases, simulator: Simulator) -> None:
    pool.create()
    item = simulator.create_session()["id"]
    pool.await_running(1)
    pool.delete()
    wait_for(lambda: pool.get() is None, seconds=30, what="the end of the pool")
    assert pool.unfinished() == {}
    assert leases.pods() == {}
    assert [entry for entry in simulator.history(item) if entry.get("call") == "stop"] == []


@pytest.mark.parametrize("obstacle", ["a quota", "a webhook"])
def test_what_admits_no_pod_keeps_every_item_in_the_queue(
    pool: Pool, leases: Leases, simulator: Simulator, control_plane: ControlPlane, obstacle: str
) -> None:
    with no_room(control_plane, leases) if obstacle == "a quota" else silent_webhook(control_plane, leases.namespace):
        pool.create()
        item = simulator.create_session()["id"]
        message = pool.await_condition("Ready", "False", "TemplateRefused")
        assert ("exceeded quota" if obstacle == "a quota" else WEBHOOK) in message
        since = time.monotonic()  # an idle pool polls after three seconds at the latest
        wait_for(lambda: time.monotonic() - since > 4, seconds=30, what="what would be the next poll")
        assert (simulator.item(item)["state"], pool.leases()) == ("queued", {})
    pool.await_running(1, seconds=60)


@contextmanager
def no_room(plane: ControlPlane, leases: Leases) -> Iterator[None]:
    allow_pods(plane, leases, 0)
    yield
    allow_all_pods(plane, leases)


def test_a_quota_that_is_used_up_opens_the_breaker_and_costs_no_session(
    pool: Pool, leases: Leases, simulator: Simulator, control_plane: ControlPlane
) -> None:
    pool.create(limits={"failuresBeforePause": 5, "pauseSeconds": 2})
    simulator.create_session()
    (first,) = pool.await_running(1)
    allow_pods(control_plane, leases, 1)
    late = simulator.create_session()["id"]
    assert "exceeded quota" in pool.await_condition("Ready", "False", "SandboxesFailing")
    allow_all_pods(control_plane, leases)
    wait_for(lambda: len(pool.running()) == 2, seconds=90, what="the sandbox of the second session")
    assert first in pool.running()
    ended = [entry for entry in simulator.history(late) if entry.get("call") == "stop"]
    assert ended == [], "an item that never had a pod is given back, not stopped"
    assert check_history(simulator.history(), released=[late]) == []


@pytest.mark.long(seconds=50)
def test_what_keeps_a_pool_from_polling_is_said_and_the_pool_goes_on_after_it(
    pool: Pool, leases: Leases, simulator: Simulator
) -> None:
    pool.create()
    simulator.create_session(ttl_seconds=120)  # without a key for a while
    (kept,) = pool.await_running(1)
    throttled = simulator.inject("status", call="poll", status=429, headers={"Retry-After": "2"}, times=None)
    pool.await_condition("Ready", "False", "Throttled")
    simulator.remove_fault(throttled)
    pool.await_condition("Ready", "True", "Polling")
    gone = simulator.create_session()["data"]["id"]
    simulator.delete_session(gone)
    simulator.create_session()
    pool.await_running(2)
    simulator.set_environment_keys(simulator.environment_id, "another-key")
    pool.await_condition("Ready", "False", "KeyRefused")
    leases.put_key("another-key")
    pool.await_condition("Ready", "True", "Polling")
    leases.drop_key()
    pool.await_condition("Ready", "False", "KeyMissing")
    leases.put_key("another-key")
    pool.await_condition("Ready", "True", "Polling")
    assert kept in pool.running()
    assert check_history(simulator.history()) == []


def test_a_pool_s_worker_is_behind_the_proxy_with_the_item_s_own_token(
    pool: Pool, leases: Leases, simulator: Simulator
) -> None:
    sandbox = {"worker": {"proxy": True}, "template": leases.template()}
    sandbox["template"]["spec"]["restartPolicy"] = "Never"
    pool.create(leaseTemplate={"spec": {"sandbox": sandbox}})
    session = simulator.create_session()["data"]["id"]
    (name,) = pool.await_running(1)
    (body,) = leases.pods().values()
    (proxy,) = body["spec"]["initContainers"]
    assert (proxy["name"], proxy["restartPolicy"]) == ("worklease-proxy", "Always")
    told = {entry["name"]: entry for entry in body["spec"]["containers"][0]["env"]}
    assert told["ANTHROPIC_BASE_URL"]["value"] == "http://127.0.0.1:8788"
    assert told["ANTHROPIC_SESSION_ID"]["value"] == session
    wanted = {"ANTHROPIC_ENVIRONMENT_KEY": "sessions-token", "ANTHROPIC_WORK_SECRET": "work-secret"}
    for variable, key in wanted.items():
        named = told[variable]["valueFrom"]["secretKeyRef"]
        assert (named["name"], named["key"]) == (name, key)
    assert set(pool.secrets()[name]["data"]) >= set(wanted.values())
