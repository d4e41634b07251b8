"""The operator as a whole: opens everything, runs until it is told to stop, closes everything.

Owns the order of the start and of the end, and the signals. Must not decide anything about leases.
"""

import asyncio
import logging
import signal
import socket
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from math import inf
from typing import Any, Final

from worklease.clocks import monotonic, wall
from worklease.cluster.bucket_store import BucketStore
from worklease.cluster.checkpoint import Checkpoint
from worklease.cluster.client import KubernetesApi
from worklease.cluster.credentials import Credentials
from worklease.cluster.installation_lease import InstallationLease
from worklease.cluster.liveness_leases import LivenessLeases
from worklease.cluster.pods import Pods
from worklease.cluster.pool_writes import PoolWrites
from worklease.cluster.proxy_sidecar import ProxyOptions
from worklease.cluster.shared_pod_list import SharedPodList
from worklease.cluster.status_writer import StatusWriter
from worklease.cluster.workspace_claims import WorkspaceClaims
from worklease.keeper.calls import Clients
from worklease.keeper.keeper import Keeper
from worklease.keeper.kept import LeaseOptions
from worklease.keeper.named_resources import NamedResources
from worklease.keeper.surroundings import Surroundings, own_holder, running
from worklease.keeper.tenures import Tenures
from worklease.keeper.workspace_sweep import WorkspaceSweep
from worklease.observability import logs
from worklease.observability.event_recorder import EventRecorder
from worklease.observability.health import Health, ProbeResult
from worklease.observability.metrics import FleetCollector, Metrics
from worklease.observability.pool_metrics import PoolCollector
from worklease.observability.server import Page, serve
from worklease.pools.pool_turns import PoolClients, PoolOptions, PoolTurns
from worklease.pools.pools import Pools
from worklease.pools.taker import Taker, TakerClients
from worklease.preflight import PreflightFailed, check, check_work_api, find_pools
from worklease.process import notice_jumps, notice_suspends
from worklease.rules.acknowledging import AckVerdict
from worklease.rules.acts import Act, Leave
from worklease.rules.buckets import bucket_of
from worklease.rules.pool import PoolLease
from worklease.settings import Settings
from worklease.telemetry import Publisher
from worklease.watching.bridge import Bridge
from worklease.watching.census import Census
from worklease.watching.supervisor import watch
from worklease.work_api.budget import Budget
from worklease.work_api.client import WorkApi
from worklease.work_api.key_probes import KeyProbes
from worklease.work_api.queue import QueueCalls
from worklease.work_api.shared_list import SharedList

FLUSH_TIMEOUT: Final = 5.0
"""Seconds that the last writes may take at the end; beats go on meanwhile."""

_log = logging.getLogger("worklease")


async def operate(settings: Settings) -> None:
    """Open every client, keep leases until told to stop, and close every client.

    Raises:
        NotConfigured: No credentials for a cluster were found.
        PreflightFailed: The cluster lacks the CRD or a right.
        NewerFormat: A newer version wrote the checkpoint.
        NotReadable: The checkpoint cannot be read.
        AddressInUse: The metrics cannot be served at their address.
    """
    stop = _stop_signal()
    metrics = Metrics()
    publisher = Publisher(metrics.listen, logs.listen)
    health = Health(publisher)
    async with AsyncExitStack() as opened:
        pulse = asyncio.create_task(health.run(), name="pulse")
        opened.callback(pulse.cancel)
        address = await opened.enter_async_context(_serve(settings, health, metrics))
        kubernetes = await KubernetesApi.connect()
        opened.push_async_callback(kubernetes.close)
        own = settings.namespace or kubernetes.namespace or "default"
        health.say("checking that the cluster has the CRD and grants the rights")
        for warning in await check(kubernetes, settings.namespaces, own):
            _log.warning("%s", warning)
        tenures, installations = _tenures(settings, kubernetes, own, publisher)
        events = EventRecorder(kubernetes, lambda: datetime.now(UTC), may_emit=partial(_may, tenures, Act.EMIT_EVENT))
        publisher.add(events.listen)
        health.say("taking the leases over, whose records are in the checkpoint")
        clients = await _open_clients(
            settings, kubernetes, tenures, installations, own=own, publisher=publisher, opened=opened
        )
        keeper = await _start_keeper(settings, clients, tenures, installations)
        async with asyncio.TaskGroup() as tasks:
            background = _run_beside(tasks, clients, keeper, tenures, events)
            bridge, census = await _bridge(settings, clients, keeper, tenures, installations)
            background += _start(
                tasks,
                installations=installations.run(bridge.look_again),
                volumes=_sweep(settings, kubernetes, keeper, tenures, bridge.found),
                status=_write(clients.status, bridge.found),
            )
            _measure(metrics, clients, keeper, bridge.pools, tenures)
            watching = tasks.create_task(watch(bridge, settings.namespaces, publisher), name="watches")
            health.attend(keeper.overdue, census.awaited, tenures.obstacle)
            _log.info("operator started api=%s kubernetes=%s http=%s", settings.api_url, kubernetes.server, address)
            await stop.wait()
            _log.info("operator stopping: the next process takes the leases over")
            health.say("stopping")
            await _end(clients, keeper, bridge.pools, tenures, watching)
            _cancel(background)


def _cancel(tasks: "list[asyncio.Task[None]]") -> None:
    for task in tasks:
        task.cancel()


def _run_beside(
    tasks: asyncio.TaskGroup, clients: Clients, keeper: Keeper, tenures: Tenures, events: EventRecorder
) -> "list[asyncio.Task[None]]":
    """Start what goes on beside the keeping of leases, until it is cancelled."""
    return _start(
        tasks,
        tenures=tenures.run(),
        events=events.run(),
        checkpoint=clients.checkpoint.run(),
        suspends=notice_suspends(monotonic, keeper.wake_all),
        jumps=notice_jumps(monotonic, time.time, keeper.note_jump),
        work_api=_look_for_work_api(clients.work_api),
    )


async def _bridge(
    settings: Settings,
    clients: Clients,
    keeper: Keeper,
    tenures: Tenures,
    installations: NamedResources,
) -> tuple[Bridge, Census]:
    """Return the bridge from what Kopf sees to who keeps it, and what it counts; pools only where they are known."""
    census = Census(clients.kubernetes, settings.namespaces, keeper, monotonic)
    bridge = Bridge(keeper, census, asyncio.get_running_loop(), installations)
    if await find_pools(clients.kubernetes, settings.namespaces):
        bridge.pools = _pools(settings, clients, keeper, tenures, installations, made=bridge.see_made)
    return bridge, census


def _start(tasks: asyncio.TaskGroup, **jobs: Coroutine[Any, Any, None]) -> "list[asyncio.Task[None]]":
    return [tasks.create_task(job, name=name) for name, job in jobs.items()]


def _lease_options(settings: Settings) -> LeaseOptions:
    return LeaseOptions(
        interval=settings.max_heartbeat_interval,
        credentials_secret=settings.credentials_secret,
        sandbox_annotations=settings.sandbox_annotations,
        proxy=ProxyOptions(
            image=settings.proxy_image, upstream=str(settings.api_url).rstrip("/"), variables=settings.way_to_the_api()
        ),
    )


def _pools(
    settings: Settings,
    clients: Clients,
    keeper: Keeper,
    tenures: Tenures,
    installations: NamedResources,
    *,
    made: Callable[[Mapping[str, Any]], None],
) -> Pools:
    """Return the keeping of pools; ``made`` passes on each WorkLease that a pool makes."""

    def epoch() -> float:
        return since_epoch(monotonic())

    writes, since_epoch, publisher = PoolWrites(clients.kubernetes), _since_epoch(), clients.publisher
    complete = partial(_with_acknowledgement, keeper)
    taker = Taker(
        TakerClients(
            work_api=clients.work_api,
            queue=clients.queue,
            budget=clients.budget,
            writes=writes,
            publisher=publisher,
        ),
        epoch,
        complete,
        made,
    )
    turns = PoolTurns(
        PoolClients(
            writes=writes,
            pods=clients.pods,
            credentials=clients.credentials,
            queue=clients.queue,
            budget=clients.budget,
            publisher=publisher,
        ),
        PoolOptions(credentials_secret=settings.credentials_secret, proxy=_lease_options(settings).proxy),
        taker,
        complete,
        epoch,
        is_begun_elsewhere=partial(_has_record_elsewhere, tenures),
    )
    began = partial(_began, tenures, since_epoch)
    return Pools(turns, writes, epoch, publisher, may_act=partial(_may_serve, tenures, installations), began=began)


def _with_acknowledgement(keeper: Keeper, lease: PoolLease) -> PoolLease:
    """Return a pool's lease with what the memory and the checkpoint know of its acknowledgement."""
    known = keeper.acknowledgement(lease.uid)
    is_acknowledged = lease.is_acknowledged or known in {AckVerdict.OURS, AckVerdict.OTHERS}
    return replace(lease, is_acknowledged=is_acknowledged, is_ack_in_doubt=known is AckVerdict.IN_DOUBT)


def _began(tenures: Tenures, since_epoch: Callable[[float], float], uid: str) -> float:
    """Return when this process began to serve a pool that another one had before; minus infinity: none had."""
    at = tenures.inherited(bucket_of(uid))
    return -inf if at is None else since_epoch(at)


async def _sweep(
    settings: Settings, kubernetes: KubernetesApi, keeper: Keeper, tenures: Tenures, found: asyncio.Event
) -> None:
    """Sweep sessions' volumes once all resources of the start were found: before that none is known to be unused."""
    named, since_epoch = frozenset(settings.pool_namespaces), _since_epoch()
    sweep = WorkspaceSweep(
        WorkspaceClaims(kubernetes),
        lambda: named | keeper.namespaces_with_workspaces(),
        keeper.open_sessions,
        lambda: since_epoch(monotonic()),
        may_write=partial(_may, tenures, Act.WRITE_VOLUME),
        news=keeper.has_unused,
    )
    await found.wait()
    await sweep.run()


async def _has_record_elsewhere(tenures: Tenures, uid: str) -> bool:
    """Whether another process has a record of a lease, which it writes before it acknowledges; or nobody knows."""
    bucket = bucket_of(uid)
    if tenures.holds(bucket):
        return False
    stored = await tenures.read(bucket)
    return stored is None or uid in stored.records


def _measure(metrics: Metrics, clients: Clients, keeper: Keeper, pools: Pools | None, tenures: Tenures) -> None:
    """Show the state of leases and pools among the metrics."""
    if pools is None:
        _log.info("no pools are kept: the WorkPool CRD, or the right to list WorkPools, was not there at the start")
    fleet = FleetCollector(keeper, tenures, clients.budget, clients.checkpoint, monotonic)
    metrics.watch(fleet, None if pools is None else PoolCollector(pools, time.time))


def _since_epoch() -> Callable[[float], float]:
    """Return what tells a moment of the monotonic clock in seconds since the epoch: such a clock never steps."""
    began = wall()
    return lambda at: began.utc.timestamp() + at - began.monotonic


async def _look_for_work_api(work_api: WorkApi) -> None:
    """Warn once if nobody answers at its address. It holds nothing up: beats are tried, whatever this finds."""
    try:
        await check_work_api(work_api)
    except PreflightFailed as error:
        _log.warning("%s", error)


async def _write(status: StatusWriter, found: asyncio.Event) -> None:
    """Write statuses once all resources of the start were found: where there are thousands, their beats come first."""
    await found.wait()
    await status.run()


async def _end(
    clients: Clients, keeper: Keeper, pools: Pools | None, tenures: Tenures, watching: "asyncio.Task[None]"
) -> None:
    """Write the last item and statuses and hand the leases over while beats go on, then cancel what is under way."""
    if pools is not None:
        await pools.close()
    watching.cancel()
    await asyncio.wait({watching})
    await _flush(clients.checkpoint, clients.status)
    await tenures.end()
    await keeper.close()
    await _flush(clients.checkpoint)


def _serve(settings: Settings, health: Health, metrics: Metrics) -> AbstractAsyncContextManager[str]:
    """Serve the probes and the metrics, from before the first step of the start until after the last of the end."""

    def probe(verdict: Callable[[], ProbeResult]) -> Callable[[], Page]:
        def page() -> Page:
            result = verdict()
            status = HTTPStatus.OK if result.is_good else HTTPStatus.SERVICE_UNAVAILABLE
            return Page(f"{result.reason}\n".encode(), status=status)

        return page

    probes = {"/healthz": probe(health.alive), "/readyz": probe(health.ready)}
    return serve(settings.http_host, settings.http_port, probes, {"/metrics": metrics.page})


def _tenures(
    settings: Settings, kubernetes: KubernetesApi, own: str, publisher: Publisher
) -> tuple[Tenures, NamedResources]:
    """Return the buckets as this process is to hold them, in the namespace ``own``, and what its installation keeps."""
    holder, installation = own_holder(settings.pod_uid), InstallationLease(kubernetes, own, monotonic)
    leases = LivenessLeases(kubernetes, own, holder.lease_name, str(holder), installation)
    around = Surroundings(own=holder, running=running, clock=monotonic, wall=wall)
    tenures = Tenures(leases, BucketStore(kubernetes, own), around, publisher)
    return tenures, NamedResources(installation, tenures, monotonic, publisher)


async def _start_keeper(
    settings: Settings, clients: Clients, tenures: Tenures, installations: NamedResources
) -> Keeper:
    """Return the keeper of the buckets that the process takes at its start, and of those that it takes later."""
    keeper = Keeper(clients, _lease_options(settings), monotonic, wall)
    installations.serve(keeper.see_named)
    tenures.serve(keeper)
    await tenures.start()
    return keeper


def _may(tenures: Tenures, act: Act, uid: str) -> bool:
    """Whether this process may do something for a resource now."""
    return tenures.may(act, bucket_of(uid)) is Leave.YES


def _may_serve(tenures: Tenures, installations: NamedResources, act: Act, uid: str) -> bool:
    """Whether this process may do something for a pool now, which no other installation serves."""
    return _may(tenures, act, uid) and installations.serves(uid)


async def _open_clients(
    settings: Settings,
    kubernetes: KubernetesApi,
    tenures: Tenures,
    installations: NamedResources,
    *,
    own: str,
    publisher: Publisher,
    opened: AsyncExitStack,
) -> Clients:
    """Open the clients of the keeper; ``own`` is the namespace of the checkpoint."""
    work_api = await opened.enter_async_context(WorkApi(str(settings.api_url), monotonic, publisher))
    may_write = partial(_may, tenures, Act.WRITE_RESOURCE)
    status = StatusWriter(kubernetes, settings.status_writes_per_second, monotonic, publisher, may_write=may_write)
    checkpoint = Checkpoint(tenures, own, monotonic)
    budget = Budget(settings.requests_per_minute, monotonic, publisher)
    pods = Pods(kubernetes)
    return Clients(
        kubernetes=kubernetes,
        work_api=work_api,
        queue=QueueCalls(work_api, socket.gethostname()),
        credentials=Credentials(kubernetes, monotonic),
        pods=pods,
        status=status,
        budget=budget,
        key_probes=KeyProbes(settings.requests_per_minute, monotonic),
        shared_list=SharedList(work_api, budget),
        shared_pod_list=SharedPodList(pods),
        checkpoint=checkpoint,
        tenures=tenures,
        installations=installations,
        publisher=publisher,
    )


async def _flush(*clients: Checkpoint | StatusWriter) -> None:
    """Write what is not written yet, within a time limit: an API server that hangs must not hold up the process."""
    flushing = {asyncio.create_task(client.flush()) for client in clients}
    _, late = await asyncio.wait(flushing, timeout=FLUSH_TIMEOUT)
    for task in late:
        _log.warning("not everything was written before the end: the next process starts from what is there")
        task.cancel()


def _stop_signal() -> asyncio.Event:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop
