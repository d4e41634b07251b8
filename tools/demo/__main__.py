"""The demo as a program: `python -m demo [--once]`.

The composition root: opens the grounds, the stage and the screen, and closes them however it ends. Must not tell
anything of the story itself.
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
LOG_LINES = 20  # of the operator, when a claim is not so
TITLE = "WorkLease: a Kubernetes operator that keeps the leases of agent sandboxes"
ABOUT = (
    "Starts a Kubernetes control plane, a simulated Work API and the operator on this machine, and shows a lease's "
    "life in five chapters. Takes about 40 s; the first time some 15 minutes more, for the control plane is built from "
    "source. Nothing of it stays but the built binaries."
)
ABOUT_GUEST = (
    "Starts a simulated Work API and the operator on this machine, and shows a lease's life in five chapters in a "
    "namespace of your own cluster, which goes at the end. Takes about a minute, and longer where images are pulled."
)


class Interrupted(BaseException):
    """A signal asked us to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@click.command()
@click.option("--once", is_flag=True, help="Tell the story once, check each claim, and exit.")
@click.option("--picture", type=click.Path(path_type=Path), help="Draw it into this SVG file instead of showing it.")
def main(*, once: bool, picture: Path | None) -> None:
    """See the operator's main job on a real Kubernetes API server."""
    if picture is not None:
        _draw(picture)
        return
    screen = screen_for_output()
    screen.title(TITLE, ABOUT_GUEST if wants_existing_cluster() else ABOUT)
    interrupt_on_signals()
    try:
        well = _run(screen, stays=not once)
    except TROUBLE as error:
        screen.verdict(f"The demo could not go on: {error}", well=False)
        sys.exit(NOT_SO)
    except Interrupted as interrupted:
        screen.say("Ended before its end.")
        sys.exit(128 + interrupted.number)
    sys.exit(0 if well else NOT_SO)


def _draw(path: Path) -> None:
    """Tell the story to a picture; one that went wrong is not kept."""
    screen = PictureScreen()
    if not _run(screen, stays=False):
        raise click.ClickException("the demo's claims are not all so, and no picture is drawn: see make demo ONCE=1")
    screen.save(path)


def _run(screen: Screen, *, stays: bool) -> bool:
    """Open everything, tell the story, stay if asked to, and close everything."""
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
                    if interrupted.number != signal.SIGINT:  # Ctrl-C is how the reader is meant to end it
                        raise
        return well


def _grounds(opened: ExitStack, stage: Stage, screen: Screen) -> Grounds:
    """The reader's cluster if they want that, else a control plane of our own."""
    cluster = existing_cluster(lambda question: click.confirm(question, default=False))
    if cluster is not None:
        grounds = opened.enter_context(guest(cluster, stage.folder, screen.say))
        screen.say(f"In {grounds.about}.")
        return grounds
    binaries = ensure(BINARIES)  # has a display of its own
    with screen.working("A control plane: etcd, kube-apiserver, controllers, scheduler and two nodes played by kwok"):
        return own(opened.enter_context(OwnControlPlane(binaries=binaries)))


def _conclude(screen: Screen, story: Story, *, well: bool) -> None:
    """Say how it went, and what helps if it went wrong."""
    if well:
        screen.verdict(f"All {len(story.claims)} claims are so.", well=True)
        return
    objections = [claim for claim in story.claims if not claim.holds]
    screen.say("The operator's log ends:")
    screen.quote("\n".join(story.stage.operator_log.read_text(errors="replace").splitlines()[-LOG_LINES:]))
    listed = "".join(f"\n  {claim.text}: {claim.objection}" for claim in objections)
    screen.verdict(f"{len(objections)} of {len(story.claims)} claims not so:{listed}", well=False)


def _clean(screen: Screen) -> None:
    """Begin the end: from here on a second Ctrl-C must not interrupt the cleaning."""
    ignore_signals()
    screen.say("Cleaning up: every process and every temporary file goes.")


def interrupt_on_signals() -> None:
    """Have the signals that end a program raise Interrupted, once."""
    for number in SIGNALS:
        signal.signal(number, _interrupt)


def ignore_signals() -> None:
    """Have them do nothing from here on."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _interrupt(number: int, _frame: FrameType | None) -> NoReturn:
    ignore_signals()
    raise Interrupted(number)


if __name__ == "__main__":
    main(prog_name="python -m demo")
