"""The program ``worklease``, and the composition root: opens everything, closes everything.

Owns the process: its command line, its signals, its logging. Must not decide anything about leases.
"""

import asyncio
import logging
import signal
import sys
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Final

import click

from work_api_simulator.command import simulate
from worklease.cli.command import explain, status
from worklease.cluster.checkpoint import Checkpoint, NotReadable
from worklease.cluster.client import KubernetesApi, NotConfigured
from worklease.cluster.credentials import Credentials
from worklease.cluster.pods import Pods
from worklease.cluster.shared_pod_list import SharedPodList
from worklease.cluster.status_writer import StatusWriter
from worklease.keeper.calls import Clients
from worklease.keeper.keeper import Keeper
from worklease.keeper.kept import ClockPair, LeaseOptions
from worklease.observability import logs
from worklease.observability.event_recorder import EventRecorder
from worklease.observability.health import Health, ProbeResult
from worklease.observability.metrics import Fleet, Metrics
from worklease.observability.server import AddressInUse, Page, serve
from worklease.preflight import PreflightFailed, check
from worklease.process import tune_gc
from worklease.settings import InvalidSettings, Settings
from worklease.suspends import notice_suspends
from worklease.telemetry import Publisher
from worklease.uninstall import NotReleased, end_operator, release
from worklease.watching.census import Census
from worklease.watching.handlers import Bridge
from worklease.watching.supervisor import watch
from worklease.work_api.budget import Budget
from worklease.work_api.client import WorkApi
from worklease.work_api.shared_list import SharedList

SWITCH_INTERVAL: Final = 0.0005
"""Seconds after which a thread lets another one go on. Kopf lists thousands of objects in a thread beside the leases';
by Python's default of 5 ms each call of a beat into the system would wait as long for its turn."""

FLUSH_TIMEOUT: Final = 5.0
"""Seconds that the last status writes may take at the end; beats go on meanwhile."""

_log = logging.getLogger("worklease")


def monotonic() -> float:
    """Give the time, in seconds, of a clock that goes on while the machine is suspended, as a lease does."""
    return time.clock_gettime(_CLOCK)


_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def wall() -> ClockPair:
    """Read both clocks at once."""
    return ClockPair(monotonic(), datetime.now(UTC))


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="worklease")
def main() -> None:
    """Keep the work leases of self-hosted agent sandboxes."""


for command in (simulate, status, explain):
    main.add_command(command)


@main.command()
def run() -> None:
    """Run the operator, with settings from the environment (WORKLEASE_...)."""
    try:
        settings = Settings.read()
    except InvalidSettings as error:
        raise click.ClickException(str(error)) from error
    _set_up_logging(settings)
    try:
        sys.setswitchinterval(SWITCH_INTERVAL)
        tune_gc()
        asyncio.run(operate(settings))
    except (NotConfigured, PreflightFailed, NotReadable, AddressInUse) as error:
        raise click.ClickException(str(error)) from error


class _NamespacedName(click.ParamType[tuple[str, str]]):
    """`namespace/name`."""

    name = "namespace/name"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Read an object's namespace and name."""
        namespace, _, name = str(value).partition("/")
        if not namespace or not name or "/" in name:
            self.fail(f"{value} is not an object's name: write namespace/name", param, ctx)
        return namespace, name


@main.command("release-finalizers")
@click.option(
    "--deployment", type=_NamespacedName(), help="The operator's Deployment: it is deleted, and its end awaited, first."
)
@click.option(
    "--patience", type=click.FloatRange(min=1), default=120.0, show_default=True, help="Seconds that all may take."
)
def release_finalizers(deployment: tuple[str, str] | None, patience: float) -> None:
    """Take the operator's finalizers off its WorkLeases, so that they can be deleted without it.

    For the end of an installation: the operator must not run any more. No item is stopped; leases that are held run
    out. WORKLEASE_NAMESPACES says which WorkLeases are meant.
    """
    try:
        settings = Settings.read()
    except InvalidSettings as error:
        raise click.ClickException(str(error)) from error
    _set_up_logging(settings)
    try:
        asyncio.run(_release(settings, deployment, patience))
    except (NotConfigured, NotReleased) as error:
        raise click.ClickException(str(error)) from error


async def _release(settings: Settings, deployment: tuple[str, str] | None, patience: float) -> None:
    """End the operator, release its WorkLeases, and tell of each."""
    until = asyncio.get_running_loop().time() + patience
    kubernetes = await KubernetesApi.connect()
    try:
        if deployment is not None:
            await end_operator(kubernetes, *deployment, patience=patience)
        left = until - asyncio.get_running_loop().time()
        for each in await release(kubernetes, settings.namespaces, patience=left):
            click.echo(str(each))
    finally:
        await kubernetes.close()


async def operate(settings: Settings) -> None:
    """Open every room, keep leases until told to stop, and close every room.

    Raises:
        NotConfigured: There is no cluster to talk to.
        PreflightFailed: The cluster lacks the CRD or a right.
        NotReadable: The checkpoint cannot be read.
        AddressInUse: The metrics cannot be served where they should be.
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
        health.say("looking whether the cluster has the CRD and grants the rights")
        await check(kubernetes, settings.namespaces, own)
        events = EventRecorder(kubernetes, lambda: datetime.now(UTC))
        publisher.add(events.listen)
        health.say("reading the checkpoint")
        clients = await _open_clients(settings, kubernetes, own, publisher, opened)
        options = LeaseOptions(
            interval=settings.max_heartbeat_interval,
            credentials_secret=settings.credentials_secret,
        )
        keeper = Keeper(clients, options, monotonic, wall)
        metrics.watch(Fleet(keeper, clients.budget, monotonic))
        async with asyncio.TaskGroup() as tasks:
            reporting = tasks.create_task(events.run(), name="events")
            checkpointing = tasks.create_task(clients.checkpoint.run(), name="checkpoint")
            noticing = tasks.create_task(notice_suspends(monotonic, keeper.wake_all), name="suspends")
            census = Census(kubernetes, settings.namespaces, keeper, monotonic)
            bridge = Bridge(keeper, census, asyncio.get_running_loop())
            watching = tasks.create_task(watch(bridge, settings.namespaces, publisher), name="watches")
            writing = tasks.create_task(_write(clients.status, bridge.found), name="status")
            health.attend(keeper.overdue, census.awaited)
            _log.info("operator started api=%s kubernetes=%s http=%s", settings.api_url, kubernetes.server, address)
            await stop.wait()
            _log.info("operator stopping: the leases are left to the next process")
            health.say("stopping")
            await _end(clients, keeper, watching)
            for task in (noticing, writing, reporting, checkpointing):
                task.cancel()


async def _write(status: StatusWriter, found: asyncio.Event) -> None:
    """Write each status once all is heard that was there at the start: of thousands, each is to be beaten first."""
    await found.wait()
    await status.run()


async def _end(clients: Clients, keeper: Keeper, watching: "asyncio.Task[None]") -> None:
    """Write the last news while beats go on, then break off what is under way."""
    watching.cancel()
    await asyncio.wait({watching})
    await _flush(clients.checkpoint, clients.status)
    await keeper.close()
    await _flush(clients.checkpoint)


def _serve(settings: Settings, health: Health, metrics: Metrics) -> AbstractAsyncContextManager[str]:
    """Serve the probes and the metrics, from before the first step of the start to after the last of the end."""

    def probe(verdict: Callable[[], ProbeResult]) -> Callable[[], Page]:
        def page() -> Page:
            told = verdict()
            status = HTTPStatus.OK if told.is_good else HTTPStatus.SERVICE_UNAVAILABLE
            return Page(f"{told.reason}\n".encode(), status=status)

        return page

    probes = {"/healthz": probe(health.alive), "/readyz": probe(health.ready)}
    return serve(settings.http_host, settings.http_port, probes, {"/metrics": metrics.page})


async def _open_clients(
    settings: Settings, kubernetes: KubernetesApi, own: str, publisher: Publisher, opened: AsyncExitStack
) -> Clients:
    """Open what the keeper performs with; ``own`` is the namespace of the checkpoint, which is read first."""
    work_api = await opened.enter_async_context(WorkApi(str(settings.api_url), monotonic, publisher))
    status = StatusWriter(kubernetes, settings.status_writes_per_second, monotonic, publisher)
    checkpoint = Checkpoint(kubernetes, own, monotonic)
    await checkpoint.load()
    budget = Budget(settings.requests_per_minute, monotonic, publisher)
    sandboxes = Pods(kubernetes)
    return Clients(
        kubernetes=kubernetes,
        work_api=work_api,
        credentials=Credentials(kubernetes, monotonic),
        sandboxes=sandboxes,
        status=status,
        budget=budget,
        listing=SharedList(work_api, budget),
        shared_pod_list=SharedPodList(sandboxes),
        checkpoint=checkpoint,
        publisher=publisher,
    )


async def _flush(*clients: Checkpoint | StatusWriter) -> None:
    """Write what is not written yet, within bounds: a hanging API server must not keep the process."""
    flushing = {asyncio.create_task(room.flush()) for room in clients}
    _, late = await asyncio.wait(flushing, timeout=FLUSH_TIMEOUT)
    for task in late:
        _log.warning("not all was written before the end: the next process goes on from what is there")
        task.cancel()


def _stop_signal() -> asyncio.Event:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


def _set_up_logging(settings: Settings) -> None:
    handler = logging.StreamHandler(sys.stderr)
    text = logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")
    # Kopf is not to take the signals, which it finds worth a warning.
    handler.addFilter(lambda record: not record.getMessage().startswith("OS signals are ignored"))
    handler.setFormatter(logs.JsonLines() if settings.logs_json else text)
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler])
    # Kopf logs each call of a timer at INFO, and our own transitions say what matters.
    for chatty in ("kopf", "httpx", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


if __name__ == "__main__":
    main()
