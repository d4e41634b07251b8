"""The demo as a program: `python -m demo [--once]`.

The composition root: opens the grounds, the stage and the screen, and closes them however it ends. Must not contain
any part of the story.
"""

import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import NoReturn

import click

from controlplane import (
    BinariesError,
    DeadlineError,
    ExistingClusterError,
    KubectlError,
    OwnControlPlane,
    StartError,
    ensure,
    existing_cluster,
)
from controlplane.existing import wants_existing_cluster
from controlplane.own import BINARIES
from demo.encore import invite, watch
from demo.grounds import Grounds, GroundsError, guest, own
from demo.picture import PictureScreen
from demo.screen import Screen, screen_for_output
from demo.stage import Stage
from demo.story import Story

NOT_SO = 1
TROUBLE = (BinariesError, DeadlineError, ExistingClusterError, GroundsError, KubectlError, OSError, StartError)
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LOG_LINES = 20  # of the operator, when a claim fails
TITLE = "WorkLease: a Kubernetes operator that keeps the leases of agent sandboxes"
ABOUT = (
    "Starts a Kubernetes control plane, a simulated Work API and the operator on this machine, and shows the life of a "
    "lease in seven chapters. Takes about 50 s. The first time it also builds the control plane from source, which "
    "takes about seven minutes on two cores. Only the built binaries stay on this machine."
)
ABOUT_GUEST = (
    "Starts a simulated Work API and the operator on this machine, and shows the life of a lease in six chapters in a "
    "namespace of your own cluster, which it deletes at the end. Takes about a minute, and longer if images are pulled."
)


class Interrupted(BaseException):
    """A signal told this program to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@click.command()
@click.option("--once", is_flag=True, help="Run the demo once, check each claim, and exit.")
@click.option("--picture", type=click.Path(path_type=Path), help="Draw it into this SVG file instead of showing it.")
def main(*, once: bool, picture: Path | None) -> None:
    """Show the operator's main job on a real Kubernetes API server."""
    if picture is not None:
        _draw(picture)
        return
    screen = screen_for_output()
    screen.title(TITLE, ABOUT_GUEST if wants_existing_cluster() else ABOUT)
    interrupt_on_signals()
    try:
        well = _run(screen, stays=not once)
    except TROUBLE as error:
        screen.verdict(f"The demo failed: {error}", well=False)
        sys.exit(NOT_SO)
    except Interrupted as interrupted:
        screen.say("Interrupted.")
        sys.exit(128 + interrupted.number)
    sys.exit(0 if well else NOT_SO)


def _draw(path: Path) -> None:
    """Draw the story as a picture. If a claim fails, no picture is written."""
    screen = PictureScreen()
    if not _run(screen, stays=False):
        raise click.ClickException("some of the demo's claims failed, so no picture is drawn: run make demo ONCE=1")
    screen.save(path)


def _run(screen: Screen, *, stays: bool) -> bool:
    """Open everything, tell the story, stay if asked to, and close everything. Return whether every claim holds."""
    with ExitStack() as opened:
        stage = opened.enter_context(Stage())
        grounds = _grounds(opened, stage, screen)
        opened.callback(_clean, screen)
        with screen.working("The Work API: worklease simulate"):
            simulator = stage.start_simulator()
        with screen.working("The operator: worklease run"):
            pid = stage.start_operator(grounds, simulator)
        story = Story(stage, grounds, simulator, screen, pid)
        with screen.watching():
            well = story.tell()
            _conclude(screen, story, well=well)
            if stays and well:
                invite(screen, stage, grounds, simulator, story.pid)
                try:
                    watch(screen, stage, grounds, simulator)
                except Interrupted as interrupted:
                    if interrupted.number != signal.SIGINT:  # Ctrl-C is the normal way to end it
                        raise
        return well


def _grounds(opened: ExitStack, stage: Stage, screen: Screen) -> Grounds:
    """Return the reader's cluster if they asked for that, else a new control plane."""
    cluster = existing_cluster(lambda question: click.confirm(question, default=False))
    if cluster is not None:
        grounds = opened.enter_context(guest(cluster, stage.folder, screen.say))
        screen.say(f"In {grounds.about}.")
        return grounds
    binaries = ensure(BINARIES)  # shows its own progress
    with screen.working("A control plane: etcd, kube-apiserver, controllers, scheduler and two nodes played by kwok"):
        return own(opened.enter_context(OwnControlPlane(binaries=binaries)))


def _conclude(screen: Screen, story: Story, *, well: bool) -> None:
    """Say how it went, and show what helps if it failed."""
    if well:
        screen.verdict(f"All {len(story.claims)} claims hold.", well=True)
        return
    objections = [claim for claim in story.claims if not claim.holds]
    screen.say("The last lines of the operator's log:")
    screen.quote("\n".join(story.stage.operator_log.read_text(errors="replace").splitlines()[-LOG_LINES:]))
    listed = "".join(f"\n  {claim.text}: {claim.objection}" for claim in objections)
    screen.verdict(f"{len(objections)} of {len(story.claims)} claims failed:{listed}", well=False)


def _clean(screen: Screen) -> None:
    """Begin the cleanup. From here on a second Ctrl-C must not interrupt it."""
    ignore_signals()
    screen.say("Cleaning up: ending every process and deleting every temporary file.")


def interrupt_on_signals() -> None:
    """Make the signals that end a program raise Interrupted, once."""
    for number in SIGNALS:
        signal.signal(number, _interrupt)


def ignore_signals() -> None:
    """Ignore these signals from here on."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _interrupt(number: int, _frame: FrameType | None) -> NoReturn:
    ignore_signals()
    raise Interrupted(number)


if __name__ == "__main__":
    main(prog_name="python -m demo")
