"""The command line of ``worklease``: `run`, `check`, `simulate`, `status`, `explain`, `adopt` and so on.

Owns the options, their errors and the set-up of logging. Must not decide anything about leases.
"""

import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from typing import Final

import click

from work_api_simulator.command import simulate
from worklease.cli.command import adopt, explain, status
from worklease.clocks import monotonic, wall
from worklease.cluster.bucket_store import BucketStore, NewerFormat
from worklease.cluster.client import KubernetesApi, NotConfigured
from worklease.keeper.tenures import NotReadable
from worklease.observability import logs
from worklease.observability.server import AddressInUse
from worklease.operate import operate
from worklease.preflight import START_TIMEOUT, PreflightFailed, check, check_work_api
from worklease.process import tune_gc
from worklease.settings import InvalidSettings, Settings
from worklease.uninstall import NotManagedByHelm, NotReleased, end_operator, prove_helm_manages, release
from worklease.work_api.client import WorkApi
from worklease_proxy.command import main as serve_as_proxy

SWITCH_INTERVAL: Final = 0.0005
"""Seconds after which a thread lets another one run. Kopf lists thousands of objects in another thread than the beats':
with Python's default of 5 ms, each system call of a beat would wait so long for its turn."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="worklease")
def main() -> None:
    """Keep the work leases of self-hosted agent sandboxes."""


for command in (simulate, status, explain, adopt):
    main.add_command(command)


@main.command()
def run() -> None:
    """Run the operator; its settings come from the environment (WORKLEASE_...)."""
    try:
        settings = Settings.read()
    except InvalidSettings as error:
        raise click.ClickException(str(error)) from error
    _set_up_logging(settings)
    try:
        sys.setswitchinterval(SWITCH_INTERVAL)
        tune_gc()
        asyncio.run(operate(settings))
    except (NewerFormat, NotConfigured, PreflightFailed, NotReadable, AddressInUse) as error:
        raise click.ClickException(str(error)) from error


@main.command(
    "proxy", context_settings={"ignore_unknown_options": True, "help_option_names": []}, add_help_option=False
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def proxy(arguments: tuple[str, ...]) -> None:
    """Let an unmodified worker use its session, from beside it in its pod; `worklease proxy --help` says how."""
    serve_as_proxy(arguments)  # the program does not come here for it: it would import the operator


@main.command("check")
@click.option(
    "--without-crd", is_flag=True, help="Do not look for the CRD: it is installed together with the operator."
)
@click.option("--without-work-api", is_flag=True, help="Do not call the Work API: it is not there yet.")
@click.option(
    "--patience",
    "timeout",
    type=click.FloatRange(min=0),
    default=START_TIMEOUT,
    show_default=True,
    help="Seconds to wait for an API server that does not answer.",
)
def check_all(*, without_crd: bool, without_work_api: bool, timeout: float) -> None:
    """Check what must be so before a start: settings, CRD, rights in each namespace, a Work API that answers.

    Run it with the operator's settings and its account. It changes nothing and sends no heartbeat. It ends with 1 if
    the operator could not start, or could not reach the Work API; what is missing in one of several namespaces is a
    warning.
    """
    try:
        settings = Settings.read()
    except InvalidSettings as error:
        raise click.ClickException(str(error)) from error
    click.echo("The settings are valid.")
    _set_up_logging(settings)

    async def failures() -> list[str]:
        steps = [_check_cluster(settings, timeout, needs_crd=not without_crd)]
        steps += [] if without_work_api else [_check_work_api(settings)]
        failed: list[str] = []
        for step in steps:
            try:
                async for line in step:
                    click.echo(line)
            except (NotConfigured, PreflightFailed) as error:
                failed.append(str(error))
        return failed

    if failed := asyncio.run(failures()):
        raise click.ClickException("; ".join(failed))


async def _check_cluster(settings: Settings, timeout: float, *, needs_crd: bool) -> AsyncIterator[str]:  # noqa: ASYNC109 (all calls share it)
    kubernetes = await KubernetesApi.connect()
    try:
        own = settings.namespace or kubernetes.namespace or "default"
        warnings = await check(kubernetes, settings.namespaces, own, timeout=timeout, needs_crd=needs_crd)
        if needs_crd:
            yield f"The cluster at {kubernetes.server} has the WorkLease CRD."
        for warning in warnings:
            yield f"Warning: {warning}"
        where = f"in {', '.join(settings.namespaces)}" if settings.namespaces else "in all namespaces"
        but = ", except for what the warnings name" if warnings else ""
        former = await BucketStore(kubernetes, own).find_former(utc=wall().utc)
        if former is not None:
            raise PreflightFailed(
                f"an operator of an earlier version runs: it has just written ConfigMap {own}/{former}. Two would rob "
                "each other of their leases: scale its Deployment to 0, and upgrade then; its leases are taken over"
            )
        yield f"The operator has its rights {where}, and those for its checkpoint in {own}{but}."
    finally:
        await kubernetes.close()


async def _check_work_api(settings: Settings) -> AsyncIterator[str]:
    async with WorkApi(str(settings.api_url), monotonic) as work_api:
        await check_work_api(work_api)
    yield f"The Work API at {settings.api_url} answers."


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
    "--deployment",
    type=_NamespacedName(),
    help="The operator's Deployment: it is deleted first, and the command waits until it is gone. Refused, unless Helm "
    "manages it.",
)
@click.option(
    "--without-helm",
    is_flag=True,
    help="Delete the Deployment also if another tool than Helm manages it.",
)
@click.option(
    "--namespace",
    "namespaces",
    multiple=True,
    help="A namespace, in place of those of WORKLEASE_NAMESPACES; may be given several times. For namespaces that the "
    "operator does not watch any more.",
)
@click.option(
    "--patience",
    "timeout",
    type=click.FloatRange(min=1),
    default=120.0,
    show_default=True,
    help="Seconds that all of it may take.",
)
def release_finalizers(
    *, deployment: tuple[str, str] | None, without_helm: bool, namespaces: tuple[str, ...], timeout: float
) -> None:
    """Remove the operator's finalizers from its WorkLeases, so that they can be deleted without it.

    Use it to end an installation: the operator must not run any more, or not watch these namespaces any more. No item
    is stopped, and leases that are held expire. WORKLEASE_NAMESPACES says which namespaces are meant; by default all.
    """
    if deployment is not None and namespaces:
        raise click.UsageError("--deployment ends the operator for all namespaces, so --namespace must not be added")
    try:
        settings = Settings.read()
    except InvalidSettings as error:
        raise click.ClickException(str(error)) from error
    _set_up_logging(settings)
    try:
        asyncio.run(_release(namespaces or settings.namespaces, deployment, timeout, needs_helm=not without_helm))
    except (NotConfigured, NotManagedByHelm, NotReleased) as error:
        raise click.ClickException(str(error)) from error


async def _release(
    namespaces: tuple[str, ...],
    deployment: tuple[str, str] | None,
    timeout: float,  # noqa: ASYNC109 (all steps share it)
    *,
    needs_helm: bool,
) -> None:
    """End the operator, release its WorkLeases, and print a line for each."""
    until = asyncio.get_running_loop().time() + timeout
    kubernetes = await KubernetesApi.connect()
    try:
        if deployment is not None:
            if needs_helm:
                await prove_helm_manages(kubernetes, *deployment, timeout=timeout)
            await end_operator(kubernetes, *deployment, timeout=until - asyncio.get_running_loop().time())
        left = until - asyncio.get_running_loop().time()
        for each in await release(kubernetes, namespaces, timeout=left):
            click.echo(str(each))
    finally:
        await kubernetes.close()


def _set_up_logging(settings: Settings) -> None:
    handler = logging.StreamHandler(sys.stderr)
    text = logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")
    # Kopf must not handle the signals, and warns about that.
    handler.addFilter(lambda record: not record.getMessage().startswith("OS signals are ignored"))
    handler.setFormatter(logs.JsonLines() if settings.logs_json else text)
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler])
    # Kopf logs each call of a timer at INFO; the transitions of the leases say what matters.
    for chatty in ("kopf", "httpx", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
