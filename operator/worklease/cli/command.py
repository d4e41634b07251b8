"""The commands ``worklease status`` and ``worklease explain``, also as ``kubectl worklease``.

Owns their options, named as in kubectl, and what is printed to which stream.
"""

import asyncio
import json
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.live import Live

from worklease.cli.page import page
from worklease.cli.processes import keeper_of
from worklease.cli.reading import Reader, Unreadable
from worklease.cli.story import story_of
from worklease.cli.table import as_json, picture, picture_of_processes
from worklease.cluster.client import KubernetesApi, NotConfigured

REFRESH: Final = 2.0
"""Seconds between two lists of the leases with ``--watch``: a list is cheap, and leases last longer."""

DEFAULT_SECRET: Final = "worklease-credentials"  # noqa: S105 (the name of a Secret)
"""The Secret that the operator uses by default; this client cannot read the operator's settings."""

NARROW: Final = 100
"""Columns that a table in a file or a pipe has at least, so that its cells are not folded."""

Command = Callable[..., Any]


def _options(command: Command) -> Command:
    for option in (
        click.option("-n", "--namespace", help="The namespace.  [default: the namespace of the kubeconfig's context]"),
        click.option("--context", help="The kubeconfig's context.  [default: the current one]"),
        click.option(
            "--kubeconfig",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="The kubeconfig.  [default: KUBECONFIG, else ~/.kube/config]",
        ),
    ):
        command = option(command)
    return command


@click.command()
@_options
@click.option("-A", "--all-namespaces", is_flag=True, help="All namespaces.")
@click.option("-l", "--selector", help="Only leases with these labels, as in kubectl get.")
@click.option("-o", "--output", type=click.Choice(["wide", "json"]), help="More columns, or JSON for programs.")
@click.option("-w", "--watch", is_flag=True, help="Refresh every two seconds, until Ctrl-C.")
def status(
    *,
    kubeconfig: Path | None,
    context: str | None,
    namespace: str | None,
    all_namespaces: bool,
    selector: str | None,
    output: str | None,
    watch: bool,
) -> None:
    """Show all leases: whether they are held and why, time to expiry, the sandbox, the last transition."""
    if all_namespaces and namespace is not None:
        raise click.UsageError("-A and -n cannot be used together")
    if watch and output == "json":
        raise click.UsageError("-w cannot be used with -o json; call the command repeatedly instead")
    console = _console()
    if watch and not console.is_terminal:
        raise click.UsageError("-w needs a terminal")

    async def show(reader: Reader, own: str) -> None:
        where = None if all_namespaces else namespace or own
        wide = output == "wide"
        if watch:
            await _watch(console, reader, where, selector, wide=wide)
            return
        leases, now = await reader.leases(where, selector), datetime.now(UTC)
        if output == "json":
            click.echo(json.dumps(as_json(leases, now), indent=2, ensure_ascii=False))
        else:
            console.print(picture(leases, now, namespaces=all_namespaces, wide=wide))
            if wide:
                console.print(picture_of_processes((await reader.processes())[0], now))

    _run(show, kubeconfig, context)


async def _watch(console: Console, reader: Reader, where: str | None, selector: str | None, *, wide: bool) -> None:
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            leases = await reader.leases(where, selector)
            until = asyncio.get_running_loop().time() + REFRESH
            while asyncio.get_running_loop().time() < until:
                height = console.size.height
                shown = picture(leases, datetime.now(UTC), namespaces=where is None, wide=wide, height=height)
                live.update(shown, refresh=True)
                await asyncio.sleep(REFRESH / 4)


@click.command()
@click.argument("name")
@_options
def explain(*, name: str, kubeconfig: Path | None, context: str | None, namespace: str | None) -> None:
    """Show what happened to a lease, and what happens next."""
    console = _console()

    async def show(reader: Reader, own: str) -> None:
        where = namespace or own
        seen = await reader.lease(where, name.removeprefix("worklease/").removeprefix("wl/"))
        events, pod, unread = [], None, []
        try:
            events = await reader.events(where, seen.uid)
            if seen.sandboxes and seen.sandboxes[0].name:
                events += await reader.events(where, seen.sandboxes[0].uid)
                pod = await reader.pod(where, seen.sandboxes[0].name)
        except Unreadable as error:
            unread.append(str(error))  # whoever may read leases need not be allowed to read pods
        now = datetime.now(UTC)
        keeper = keeper_of(seen.uid, *await reader.processes())
        console.print(page(story_of(seen, events, pod, now, default=DEFAULT_SECRET, keeper=keeper), now))
        for problem in unread:
            console.print(f"Some of it could not be read: {problem}", style="yellow", markup=False)

    _run(show, kubeconfig, context)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="worklease")
def kubectl_worklease() -> None:
    """Show work leases: kubectl worklease status, kubectl worklease explain NAME."""


kubectl_worklease.add_command(status)
kubectl_worklease.add_command(explain)


def _console() -> Console:
    console = Console(highlight=False)
    if not console.is_terminal and console.width < NARROW:
        return Console(highlight=False, width=NARROW)
    return console


def _run(
    show: Callable[[Reader, str], Coroutine[Any, Any, None]], kubeconfig: Path | None, context: str | None
) -> None:
    async def connected() -> None:
        api = await KubernetesApi.connect_as_user(kubeconfig, context)
        try:
            await show(Reader(api), api.namespace or "default")
        finally:
            await api.close()

    try:
        asyncio.run(connected())
    except (NotConfigured, Unreadable) as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        raise SystemExit(130) from None
