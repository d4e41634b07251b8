"""The control plane from the command line: `python -m controlplane binaries`, `which NAME`, `run`.

Must not contain logic of its own.
"""

import signal
from types import FrameType
from typing import NoReturn

import click

from controlplane.binaries import USUAL, BinariesError, ensure
from controlplane.own import OwnControlPlane
from controlplane.processes import StartError


@click.group()
def main() -> None:
    """A real Kubernetes control plane on this machine."""


@main.command()
@click.argument("names", nargs=-1)
def binaries(names: tuple[str, ...]) -> None:
    """Build the pinned binaries that are missing: those of every machine, or those that are named."""
    _ensure(names or USUAL)


@main.command()
@click.argument("name")
def which(name: str) -> None:
    """Print the path of a pinned binary; build it first if it is missing."""
    click.echo(_ensure((name,))[name])


@main.command()
@click.option("--nodes", default=2, show_default=True, help="How many nodes kwok plays.")
def run(nodes: int) -> None:
    """Start a control plane and keep it until Ctrl-C."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with OwnControlPlane(nodes=nodes) as plane:
            click.echo(f"export KUBECONFIG={plane.kubeconfig}")
            click.echo(f"# {plane.url}, logs in {plane.directory}. Ctrl-C ends it and removes the folder.", err=True)
            signal.pause()
    except KeyboardInterrupt:
        click.echo("# ended", err=True)
    except (BinariesError, StartError) as error:
        raise click.ClickException(str(error)) from error


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    """Let SIGTERM end the block in order, like Ctrl-C."""
    raise KeyboardInterrupt


def _ensure(names: tuple[str, ...]) -> dict[str, object]:
    """Return the paths of the named binaries, or fail with a clear message and exit code 1."""
    try:
        return dict(ensure(names))
    except BinariesError as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main(prog_name="python -m controlplane")
