"""The node as a program: `python -m node up`, `down`, `prepare`, and `serve`, which `up` leaves running.

The composition root: starts, waits, says how to use it. Must not contain any part of the node.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

import click

from controlplane import BinariesError, DeadlineError, StartError, ensure
from controlplane.own import BINARIES
from controlplane.progress import progress
from controlplane.toolchain import OldGoError
from controlplane.waiting import wait_for
from image.building import ARCHIVE, REFERENCE
from image.needs import MissingError
from node import cgroups, needs
from node.cluster import NAME, NodeCluster
from node.configuration import SANDBOX
from node.namespaces import clean, folder_of
from node.needs import NODE_BINARIES, NodeError
from node.trial import tried

TROUBLE = (BinariesError, DeadlineError, MissingError, NodeError, OSError, StartError)
UP_SECONDS = 120.0  # usually 15
DOWN_SECONDS = 60.0  # usually 5


@click.group()
def main() -> None:
    """A cluster of one real node on this machine."""


@main.command()
@click.option("--name", default=NAME, show_default=True, help="The node's name: one for each node of a machine.")
def up(name: str) -> None:
    """Start the node, leave it running, and say how to use it."""
    try:
        with progress() as shown:
            needs.ensure_programs(shown)
        binaries = ensure((*BINARIES, *NODE_BINARIES))
        if _pid(name) is not None:
            raise NodeError(f"the node {name} runs already; make node DOWN=1 ends it")
        clean(name)
        began = time.monotonic()
        _start(name)
    except TROUBLE as error:
        raise click.ClickException(str(error)) from error
    _tell(name, str(binaries["kubectl"]), time.monotonic() - began)


@main.command()
def prepare() -> None:
    """Install and build all that a node needs, if this machine can run one; else say why it cannot."""
    if reason := _install() or tried():
        click.echo(reason, err=True)
        return
    try:
        ensure((*BINARIES, *NODE_BINARIES))
    except BinariesError as error:
        if not isinstance(error.__cause__, OldGoError):
            raise click.ClickException(str(error)) from error
        click.echo(f"A real node cannot be built here: {error.__cause__}.", err=True)
        return
    if not ARCHIVE.exists():
        subprocess.run([sys.executable, "-m", "image"], check=True)


def _install() -> str:
    """Install the packages that are missing, and return why that cannot be done; nothing if it could."""
    try:
        with progress() as shown:
            needs.ensure_programs(shown)
    except (MissingError, NodeError) as error:
        return str(error)
    return ""


@main.command()
@click.option("--name", default=NAME, show_default=True)
def down(name: str) -> None:
    """End the node, and remove all that it has left on this machine."""
    if reason := needs.why_not():
        raise click.ClickException(reason)
    pid = _pid(name)
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        wait_for(lambda: _pid(name) is None, seconds=DOWN_SECONDS, what=f"the end of the node {name}")
    clean(name)
    _log(name).unlink(missing_ok=True)
    if left := cgroups.processes(name):
        raise click.ClickException(f"these processes of the node {name} still run: {left}")
    click.echo(f"The node {name} has ended." if pid is not None else f"There is no node {name}.")


@main.command()
@click.option("--name", default=NAME, show_default=True)
def serve(name: str) -> None:
    """Keep the node until SIGTERM; `up` starts this."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with NodeCluster(name, archives=[ARCHIVE] if ARCHIVE.exists() else []) as cluster:
            (cluster.folder.path / "ready").touch()
            signal.pause()
    except KeyboardInterrupt:
        pass
    except TROUBLE as error:
        raise click.ClickException(str(error)) from error


def _start(name: str) -> None:
    """Start the process that keeps the node, and wait until the node is ready."""
    with _log(name).open("wb") as log:
        serving = subprocess.Popen(
            [sys.executable, "-m", "node", "serve", "--name", name],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C ends `up`, not a node that runs
        )
    ready = folder_of(name).path / "ready"
    try:
        wait_for(lambda: ready.exists() or serving.poll() is not None, seconds=UP_SECONDS, what=f"the node {name}")
    except BaseException:
        serving.terminate()
        raise
    if serving.returncode is not None:
        raise NodeError(_log(name).read_text(errors="replace").strip().removeprefix("Error: "))


def _tell(name: str, kubectl: str, seconds: float) -> None:
    """Say how to use the node."""
    operator = f"  {REFERENCE}   the operator, from make image\n" if ARCHIVE.exists() else ""
    click.echo(
        f"The node {name} is ready, {seconds:.0f} s after its start. Use it with:\n\n"
        f"  export KUBECONFIG={folder_of(name).path / 'kubeconfig'}\n"
        f"  {shutil.which('kubectl') or kubectl} get nodes\n\n"
        "It has no way to the network, and these images:\n\n"
        f"{operator}  {SANDBOX}   a shell, for sandboxes\n\n"
        f"{_journey(name)}"
        "make node DOWN=1 ends it, and leaves nothing behind."
    )


def _journey(name: str) -> str:
    """Say how a user's whole journey runs on the node, if it has the operator's image."""
    if not ARCHIVE.exists():
        return ""
    given = f"KUBECONFIG={folder_of(name).path / 'kubeconfig'} E2E_IMAGE={REFERENCE} E2E_SANDBOX_IMAGE={SANDBOX}"
    return f"A user's whole journey runs on it by:\n\n  {given} make e2e\n\n"


def _pid(name: str) -> int | None:
    """Return the id of the process that keeps the node; None if there is none."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended
            words = path.read_bytes().split(b"\0")
            if words[1:-1] == [b"-m", b"node", b"serve", b"--name", name.encode()]:
                return int(path.parent.name)
    return None


def _log(name: str) -> Path:
    return folder_of(name).path.with_suffix(".log")


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    """Let SIGTERM end the block in order, like Ctrl-C."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    main(prog_name="python -m node")
