"""The journey as a program: `python -m e2e`.

The composition root: asks, opens everything, and closes it however it ends. Must not contain any part of the journey.
"""

import sys
from contextlib import ExitStack

import click

from controlplane import BinariesError, DeadlineError, ExistingClusterError, KubectlError, StartError, ensure
from controlplane.existing import cluster_of_kubeconfig
from demo.__main__ import Interrupted, ignore_signals, interrupt_on_signals
from demo.screen import Screen, screen_for_output
from demo.stage import Stage
from e2e.containers import containers
from e2e.helm import Helm, HelmError
from e2e.images import Images, ImagesError
from e2e.journey import TTL_SECONDS, Journey
from e2e.place import NAMESPACE, PlaceError, place

NOT_SO = 1
TROUBLE = (
    BinariesError,
    DeadlineError,
    ExistingClusterError,
    HelmError,
    ImagesError,
    KubectlError,
    OSError,
    PlaceError,
    StartError,
)
TITLE = "WorkLease end to end: install, keep, stop, fail, upgrade, uninstall"
ABOUT = (
    f"Installs the chart into a namespace {NAMESPACE} of the cluster that KUBECONFIG names, with a simulated Work "
    "API, and removes everything at the end. Takes about three minutes, and longer if images are pulled."
)


@click.command()
def main() -> None:
    """Run a user's whole journey on your own cluster, after asking."""
    screen = screen_for_output()
    screen.title(TITLE, ABOUT)
    interrupt_on_signals()
    try:
        well = _run(screen)
    except TROUBLE as error:
        screen.verdict(f"The journey failed: {error}", well=False)
        sys.exit(NOT_SO)
    except Interrupted as interrupted:
        screen.say("Interrupted.")
        sys.exit(128 + interrupted.number)
    sys.exit(0 if well else NOT_SO)


def _run(screen: Screen) -> bool:
    images = Images.from_environment()
    cluster = cluster_of_kubeconfig(lambda question: click.confirm(question, default=False))
    with ExitStack() as opened:
        stage = opened.enter_context(Stage())
        helm = Helm(ensure(["helm"])["helm"], cluster, NAMESPACE, stage.folder / "helm")
        grounds = opened.enter_context(place(cluster, helm, stage.folder, screen.say))
        running = opened.enter_context(containers(cluster, stage, grounds, TTL_SECONDS))
        screen.say(f"In {grounds.about}.")
        if running.played:
            screen.say(
                "kwok plays the nodes of this cluster, so no container runs. The operator and the simulator run on "
                "this machine, as their Deployments say. What needs a kubelet is listed and not checked."
            )
        opened.callback(ignore_signals)  # a second Ctrl-C must not interrupt the cleanup
        journey = Journey(stage, grounds, screen, cluster, helm, images, running)
        with screen.watching():
            well = journey.tell()
        _conclude(screen, journey, well=well)
        return well


def _conclude(screen: Screen, journey: Journey, *, well: bool) -> None:
    """Say how it went, and what was not checked."""
    unseen = "".join(f"\n  {text}" for text in journey.unseen)
    rest = f" {len(journey.unseen)} more need a kubelet:{unseen}" if unseen else ""
    if well:
        screen.verdict(f"All {len(journey.claims)} claims hold.{rest}", well=True)
        return
    objections = [claim for claim in journey.claims if not claim.holds]
    listed = "".join(f"\n  {claim.text}: {claim.objection}" for claim in objections)
    screen.verdict(f"{len(objections)} of {len(journey.claims)} claims failed:{listed}", well=False)


if __name__ == "__main__":
    main(prog_name="python -m e2e")
