"""Kopf's traps that the operator avoids by settings and by its thread; each was measured with 1.45.2.

Journeys test the others: an error in a watch (3), an unseen deletion (17), a deletion pending at the start (8).
"""

import asyncio
import gc
import json
import signal
import threading
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, cast

import pytest
from kubernetes.config import kube_config

from controlplane import ControlPlane
from support.kube_proxy import KubeProxy
from support.scripted_server import kubernetes_at, until
from worklease.api.names import FINALIZER, TIMER_FINALIZER
from worklease.keeper.keeper import Keeper
from worklease.watching.bridge import Bridge
from worklease.watching.census import Census
from worklease.watching.handlers import settings
from worklease.watching.supervisor import watch


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """Collect what Kopf leaves. Its tasks log when they are collected, which breaks another test's `ast.parse` on 3.11.

    "AST constructor recursion depth mismatch": CPython's parser does not bear Python code that runs within it.
    """
    yield
    gc.collect()


@pytest.fixture
def proxy(control_plane: ControlPlane) -> Iterator[KubeProxy]:
    with KubeProxy(control_plane) as started:
        yield started


@dataclass
class Listener:
    """A keeper that records its calls, in their order, and the threads that make them."""

    resources: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    pods: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)
    counted: set[str] = field(default_factory=set)
    carried: list[str] = field(default_factory=list)
    threads: set[str] = field(default_factory=set)
    has_taken: asyncio.Event = field(default_factory=asyncio.Event)
    """It takes no bucket."""

    def pop_taken(self) -> frozenset[int]:
        return frozenset()

    def see(self, body: Mapping[str, Any]) -> None:
        self.threads.add(threading.current_thread().name)
        self.resources[body["metadata"]["name"]] = body

    def unsee(self, uid: str) -> None:
        self.threads.add(threading.current_thread().name)
        self.gone.add(uid)

    def lose_pod(self, uid: str) -> None:
        self.gone.add(uid)

    def count(self, there: Collection[str]) -> None:
        del there

    def count_pods(self, there: Collection[str]) -> None:
        self.counted = set(there)

    def see_pod(self, body: Mapping[str, Any]) -> None:
        self.pods.add(body["metadata"]["name"])

    def unsee_pod(self, body: Mapping[str, Any]) -> None:
        self.pods.discard(body["metadata"]["name"])

    def carry(self, uid: str) -> None:
        self.threads.add(threading.current_thread().name)
        self.carried.append(uid)


@asynccontextmanager
async def listening(
    proxy: KubeProxy, namespace: str, token: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Listener]:
    """Run Kopf against the control plane, as the operator does, for a keeper that only records."""
    # The client reads the environment at its import, when the tests have already hidden other clusters.
    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(proxy.kubeconfig))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    listener, loop = Listener(), asyncio.get_running_loop()
    async with kubernetes_at(proxy.url, token=token) as api:
        census = Census(api, (namespace,), listener, loop.time)
        watching = asyncio.create_task(watch(Bridge(cast("Keeper", listener), census, loop), (namespace,)))
        try:
            await until(lambda: proxy.watching("workleases") and proxy.watching("pods"), "Kopf's watches")
            yield listener
        finally:
            watching.cancel()
            await asyncio.wait({watching})


def worklease(name: str, *finalizers: str) -> dict[str, Any]:
    return {
        "apiVersion": "worklease.dev/v1alpha1",
        "kind": "WorkLease",
        "metadata": {"name": name, "finalizers": list(finalizers)},
        "spec": {"environmentID": "env_1", "workID": f"work_{name}"},
    }


async def kubectl(plane: ControlPlane, namespace: str, *arguments: str, body: object = None) -> str:
    text = None if body is None else json.dumps(body)
    return await asyncio.to_thread(plane.kubectl, "--namespace", namespace, *arguments, input=text)


def test_an_outage_of_any_length_ends_no_request_of_kopfs() -> None:
    # Trap 2: after the last back-off of a list, all of Kopf ends, and one request exhausts a generator.
    back_offs = settings().networking.error_backoffs
    assert not isinstance(back_offs, list | tuple)
    for _ in range(2):
        seconds = list(islice(iter(cast("Any", back_offs)), 10_000))
        assert len(seconds) == 10_000
        assert max(seconds) <= 5.0


def test_a_call_of_kopfs_that_hangs_is_given_up_within_a_leases_time() -> None:
    # Trap 2: the default is five minutes.
    assert settings().networking.request_timeout == 10.0


def test_no_right_beyond_the_watched_namespaces_is_waited_for() -> None:
    # Trap 2: such back-offs would repeat the refused list of all namespaces and CRDs (403) for ever.
    assert settings().scanning.disabled


def test_kopfs_end_by_an_error_does_not_have_the_process_killed_later() -> None:
    # Trap 3a: at its end Kopf schedules a SIGKILL 600 s later, unless this is None.
    assert settings().process.ultimate_exiting_timeout is None


def test_a_watch_that_died_silently_is_noticed() -> None:
    # The server sends a bookmark once a minute; without one, and without the end of the watch, nothing would arrive.
    assert 60 < settings().watching.inactivity_timeout < 120
    assert settings().watching.server_timeout == 300


def test_kopfs_finalizer_is_not_the_one_that_a_teardown_hangs_on() -> None:
    # Trap 8: Kopf removes its finalizer from an object whose deletion was pending at its start, and runs no timer.
    assert settings().persistence.finalizer == TIMER_FINALIZER
    assert len({TIMER_FINALIZER, FINALIZER}) == 2


async def test_kopfs_end_takes_neither_our_tasks_nor_our_signals_with_it(
    proxy: KubeProxy, namespace: str, control_plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Trap 3b: at its end Kopf cancels every newer task of its loop. Trap 3c: it takes over SIGTERM, and disables it.
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, lambda: None)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    async with listening(proxy, namespace, control_plane.token, monkeypatch) as listener:
        await kubectl(control_plane, namespace, "apply", "-f", "-", body=worklease("a"))
        await until(lambda: listener.carried, "the timer")
        beating = asyncio.create_task(told.wait())  # created after Kopf's run
        assert proxy.end_watches_with_error(500) > 0
        await until(lambda: listener.carried == 2 * listener.carried[:1], "the timer of Kopf's next run")
        assert not beating.done()
        assert {number: signal.getsignal(number) for number in handlers} == handlers
        told.set()
        assert await beating
    loop.remove_signal_handler(signal.SIGUSR1)


async def test_what_all_handlers_share_is_one_keeper_in_its_own_thread(
    proxy: KubeProxy, namespace: str, control_plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Trap 3d: Kopf gives each object a copy of its memo, so handlers are bound to the keeper instead.
    async with listening(proxy, namespace, control_plane.token, monkeypatch) as listener:
        for name in ("a", "b"):
            await kubectl(control_plane, namespace, "apply", "-f", "-", body=worklease(name))
        await until(lambda: {"a", "b"} <= listener.resources.keys(), "both resources")
        await until(lambda: len(listener.carried) == 2, "both timers")
        uid = listener.resources["a"]["metadata"]["uid"]
        await kubectl(control_plane, namespace, "delete", "worklease", "a")
        await until(lambda: listener.gone == {uid}, "the deletion")
        assert listener.threads == {threading.current_thread().name}


async def test_a_deletion_that_was_pending_before_kopf_started_is_told_of(
    proxy: KubeProxy, namespace: str, control_plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Trap 8: the timer does not run for it, so the events must report it.
    await kubectl(control_plane, namespace, "apply", "-f", "-", body=worklease("a", FINALIZER, TIMER_FINALIZER))
    await kubectl(control_plane, namespace, "delete", "worklease", "a", "--wait=false")
    async with listening(proxy, namespace, control_plane.token, monkeypatch) as listener:
        await until(lambda: "a" in listener.resources, "the resource")
        assert listener.resources["a"]["metadata"]["deletionTimestamp"]
        await until(
            lambda: listener.resources["a"]["metadata"]["finalizers"] == [FINALIZER], "the end of Kopf's own finalizer"
        )
        assert listener.carried == []
    await kubectl(
        control_plane, namespace, "patch", "worklease", "a", "--type=merge", "-p", '{"metadata":{"finalizers":null}}'
    )
