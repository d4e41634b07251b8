"""The commands ``worklease status``, ``worklease explain`` and ``worklease adopt``, also as ``kubectl worklease``.

Owns their options, named as in kubectl, and what is printed to which stream.
"""

import asyncio
import json
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live

from worklease.api.names import POOL_LABEL
from worklease.cli.leases import LeaseView
from worklease.cli.page import page
from worklease.cli.pool_story import pool_story_of
from worklease.cli.pool_table import picture_of_pools, pools_as_json
from worklease.cli.pools import PoolView
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

LEASES: Final = frozenset({"", "worklease", "workleases", "wl"})
"""How kubectl names the kind of a lease before its name; it may be left out."""

POOLS: Final = frozenset({"pool", "pools", "workpool", "workpools", "wp"})
"""How kubectl names the kind of a pool, and how people do."""

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
@click.option("-l", "--selector", help="Only leases with these labels, as in kubectl get; no pools.")
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
    """Show pools, and all leases: whether they are held and why, time to expiry, the sandbox, the last transition."""
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
        leases, pools, now = await reader.leases(where, selector), await _pools(reader, where, selector), _now()
        if output == "json":
            shown = as_json(leases, now) | {"pools": pools_as_json(pools, now)}
            click.echo(json.dumps(shown, indent=2, ensure_ascii=False))
        else:
            if pools:
                console.print(picture_of_pools(pools, now, namespaces=all_namespaces))
            console.print(picture(leases, now, namespaces=all_namespaces, wide=wide))
            if wide:
                console.print(picture_of_processes((await reader.processes())[0], now))

    _run(show, kubeconfig, context)


async def _pools(reader: Reader, where: str | None, selector: str | None) -> list[PoolView]:
    return [] if selector else await reader.pools(where)


async def _watch(console: Console, reader: Reader, where: str | None, selector: str | None, *, wide: bool) -> None:
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            leases, pools = await reader.leases(where, selector), await _pools(reader, where, selector)
            until = asyncio.get_running_loop().time() + REFRESH
            while asyncio.get_running_loop().time() < until:
                live.update(_screen(console, leases, pools, is_all=where is None, wide=wide), refresh=True)
                await asyncio.sleep(REFRESH / 4)


def _screen(
    console: Console, leases: list[LeaseView], pools: list[PoolView], *, is_all: bool, wide: bool
) -> RenderableType:
    """Return what fits on the screen: the pools, and the leases below them that need most attention."""
    now, height = _now(), console.size.height
    if not pools:
        return picture(leases, now, namespaces=is_all, wide=wide, height=height)
    above = picture_of_pools(pools, now, namespaces=is_all)
    height -= len(console.render_lines(above))
    return Group(above, picture(leases, now, namespaces=is_all, wide=wide, height=height))


@click.command()
@click.argument("name", metavar="[pool/]NAME")
@_options
def explain(*, name: str, kubeconfig: Path | None, context: str | None, namespace: str | None) -> None:
    """Show what happened to a lease or a pool, and what happens next."""
    console = _console()
    kind, _, plain = name.rpartition("/")
    if kind not in {*LEASES, *POOLS}:
        raise click.UsageError(f"{kind}/ is neither a lease's kind nor a pool's: explain NAME, or explain pool/NAME")

    async def show(reader: Reader, own: str) -> None:
        if kind in POOLS:
            await _explain_pool(console, reader, namespace or own, plain)
        else:
            await _explain_lease(console, reader, namespace or own, plain)

    _run(show, kubeconfig, context)


async def _explain_pool(console: Console, reader: Reader, where: str, name: str) -> None:
    seen = await reader.pool(where, name)
    leases, events, unread = [], [], []
    try:
        leases = await reader.leases(where, f"{POOL_LABEL}={name}")
        events = await reader.events(where, seen.uid)
    except Unreadable as error:
        unread.append(str(error))
    now = _now()
    keeper = keeper_of(seen.uid, *await reader.processes(), seen.operator)
    story = pool_story_of(seen, leases, events, now, default=DEFAULT_SECRET, keeper=keeper)
    _print(console, page(story, now), unread)


async def _explain_lease(console: Console, reader: Reader, where: str, name: str) -> None:
    seen = await reader.lease(where, name)
    events, pod, unread = [], None, []
    try:
        events = await reader.events(where, seen.uid)
        if seen.sandboxes and seen.sandboxes[0].name:
            events += await reader.events(where, seen.sandboxes[0].uid)
            pod = await reader.pod(where, seen.sandboxes[0].name)
    except Unreadable as error:
        unread.append(str(error))  # whoever may read leases need not be allowed to read pods
    now = _now()
    keeper = keeper_of(seen.uid, *await reader.processes(), seen.operator)
    _print(console, page(story_of(seen, events, pod, now, default=DEFAULT_SECRET, keeper=keeper), now), unread)


def _print(console: Console, told: RenderableType, unread: list[str]) -> None:
    console.print(told)
    for problem in unread:
        console.print(f"Some of it could not be read: {problem}", style="yellow", markup=False)


def _now() -> datetime:
    return datetime.now(UTC)


@click.command()
@click.argument("names", nargs=-1, required=True)
@_options
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def adopt(
    *, names: tuple[str, ...], kubeconfig: Path | None, context: str | None, namespace: str | None, yes: bool
) -> None:
    """Have leases and pools taken over from an installation of the operator that is gone for good.

    An installation leaves alone what another one keeps. It takes that over by itself once it sees that the other one is
    gone; where it may not see that, say so by this command. NAMES are those of WorkLeases, or workpool/NAME. The next
    installation that watches the namespace keeps them from then on; one that still runs lets go of them. It needs the
    right to patch their status.
    """
    console = _console()

    async def show(reader: Reader, own: str) -> None:
        for name in names:
            found = await reader.named(namespace or own, name)
            if not found.installation:
                console.print(f"{found}: no installation keeps it.")
                continue
            question = f"{found} is kept by {found.installation}. Is that installation gone for good?"
            if yes or await asyncio.to_thread(click.confirm, question):
                await reader.release(found)
                console.print(f"{found}: the next installation that watches it keeps it.")

    _run(show, kubeconfig, context)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="worklease")
def kubectl_worklease() -> None:
    """Show work leases and pools: status, explain [pool/]NAME. Have them taken over: adopt NAME."""


kubectl_worklease.add_command(status)
kubectl_worklease.add_command(explain)
kubectl_worklease.add_command(adopt)


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
