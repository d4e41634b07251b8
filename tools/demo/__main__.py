"""The demo as a program: `python -m demo [--once]`.

The composition root: opens the grounds, the stage and the screen, and closes them however it ends. Must not tell
anything of the story itself.
"""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import NoReturn

import click

from controlplane import (
    BinariesError,
    ControlPlane,
    DeadlineError,
    ExistingClusterError,
    KubectlError,
    StartError,
    existing_cluster,
    wait_for,
)
from demo.grounds import Grounds, GroundsError, guest, own
from demo.screen import Screen, screen_for_output
from demo.simulator import Simulator
from demo.snapshot import changes
from demo.stage import Stage
from demo.story import KEPT, Story

NOT_SO = 1
TROUBLE = (BinariesError, DeadlineError, ExistingClusterError, GroundsError, KubectlError, OSError, StartError)
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TITLE = "WorkLease: a Kubernetes operator that keeps the leases of agent sandboxes"
ABOUT = (
    "Starts a Kubernetes control plane, a simulated Work API and the operator on this machine, and shows a lease's life "
    "in four chapters. Takes about 40 s; the first time some 15 minutes more, for the control plane is built from "
    "source."
)


class Interrupted(BaseException):
    """A signal asked us to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@click.command()
@click.option("--once", is_flag=True, help="Tell the story once, check each claim, and exit.")
def main(*, once: bool) -> None:
    """See the operator's main job on a real Kubernetes API server."""
    screen = screen_for_output()
    screen.title(TITLE, ABOUT)
    with _signals_interrupt():
        try:
            well = _run(screen, stays=not once)
        except TROUBLE as error:
            screen.verdict(f"The demo could not go on: {error}", well=False)
            sys.exit(NOT_SO)
        except Interrupted as interrupted:
            screen.say("Ended; everything is cleaned up.")
            sys.exit(128 + interrupted.number)
    sys.exit(0 if well else NOT_SO)


def _run(screen: Screen, *, stays: bool) -> bool:
    """Open everything, tell the story, stay if asked to, and close everything."""
    with ExitStack() as opened:
        stage = opened.enter_context(Stage())
        grounds = _grounds(opened, stage, screen)
        opened.callback(_ignore_signals)  # a second Ctrl-C must not interrupt the cleaning
        with screen.working("The Work API's simulator"):
            simulator = stage.start_simulator()
        with screen.working("The operator: worklease run"):
            stage.start_operator(grounds, simulator)
        story = Story(stage, grounds, simulator, screen)
        with screen.watching():
            well = story.tell()
            _conclude(screen, story, well=well)
            if stays and well:
                _invite(screen, stage, grounds, simulator)
                _stay(screen, stage, grounds)
        return well


def _grounds(opened: ExitStack, stage: Stage, screen: Screen) -> Grounds:
    """The reader's cluster if they want that, else a control plane of our own."""
    cluster = existing_cluster(lambda question: click.confirm(question, default=False))
    if cluster is not None:
        grounds = opened.enter_context(guest(cluster, stage.folder, screen.say))
        screen.say(f"In {grounds.about}")
        return grounds
    binaries = ControlPlane.ensure_binaries()
    with screen.working("A control plane: etcd, kube-apiserver, controllers, scheduler, two nodes played by kwok"):
        plane = opened.enter_context(ControlPlane(binaries=binaries))
        return own(plane)


def _conclude(screen: Screen, story: Story, *, well: bool) -> None:
    """Say how it went, in numbers."""
    objections = [claim for claim in story.claims if not claim.holds]
    if well:
        screen.verdict(f"All {len(story.claims)} claims are so.", well=True)
        return
    listed = "".join(f"\n  {claim.text}: {claim.objection}" for claim in objections)
    log = "\n".join(story.stage.operator_log.read_text(errors="replace").splitlines()[-LOG_LINES:])
    screen.verdict(f"{len(objections)} of {len(story.claims)} claims are not so:{listed}", well=False)
    screen.say("The operator's log ends:")
    for line in log:
        screen.command(line)


def _invite(screen: Screen, stage: Stage, grounds: Grounds, simulator: Simulator) -> None:
    """Say what to try by hand."""


def _stay(screen: Screen, stage: Stage, grounds: Grounds) -> None:
    """Keep everything running, and tell what changes, until a signal comes."""
