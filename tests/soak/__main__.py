"""The soak as a program: `python -m soak --kills 5 --minutes 3`.

The composition root: opens the control plane, the simulator, the operator and the others, plays the schedule, and
prints the table. Exits 1 if anything was found that must not be, with the lines of the history that show it.
"""

import random
import sys
import time
from contextlib import ExitStack

import click
from rich.console import Console

from controlplane import OwnControlPlane
from soak.fleet import Fleet
from soak.plan import Step, schedule
from soak.troubles import Troubles, pass_time
from soak.verdict import Record, Verdict, evidence, judge, table
from support.cluster import install_custom_resources, make_namespace
from support.operator import Leases, Operator
from support.other_worker import OtherWorker
from support.simulator import Simulator
from support.stays import Stays

FOUND = 1
LOOK = 1.0  # seconds between two looks at the fleet: what has finished is replaced within a beat or so
REMEMBERED = 50  # items of the other worker that live on; the owner stops the older ones, lest hours fill the server
NO_LIMIT = "0"  # a dozen leases of short TTLs use the default budget up, and the budget has tests of its own


@click.command()
@click.option(
    "--minutes", type=click.FloatRange(min=0.5), default=3.0, show_default=True, help="How long, absences not counted."
)
@click.option("--kills", type=click.IntRange(min=0), default=5, show_default=True, help="SIGKILLs of the operator.")
@click.option("--leases", "number", type=click.IntRange(min=1), default=12, show_default=True, help="Leases at a time.")
@click.option(
    "--outage", type=click.FloatRange(min=1), default=40.0, show_default=True, help="Seconds of the long outage."
)
@click.option("--seed", type=int, help="Repeat a schedule.  [default: a new one]")
def main(*, minutes: float, kills: int, number: int, outage: float, seed: int | None) -> None:
    """Run the operator among faults of every kind, and judge what became of its leases."""
    chosen = random.SystemRandom().randrange(2**32) if seed is None else seed
    console = Console()
    console.print(f"seed {chosen}: {minutes:g} min, {number} leases, {kills} kills", highlight=False)
    chance = random.Random(chosen)  # noqa: S311 - it chooses faults, no secrets
    steps = schedule(chance, seconds=60 * minutes, kills=kills)
    verdict, record = _soak(steps, chance, seconds=60 * minutes, number=number, outage=outage)
    console.print(table(verdict))
    for line in evidence(verdict, record.history):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    sys.exit(0 if verdict.is_clean else FOUND)


def _soak(
    steps: list[Step], chance: random.Random, *, seconds: float, number: int, outage: float
) -> tuple[Verdict, Record]:
    """Play a schedule; returns the verdict and what it is made from."""
    record = Record()
    with ExitStack() as opened:
        plane = opened.enter_context(OwnControlPlane())
        install_custom_resources(plane)
        namespace = make_namespace(plane)
        simulator = opened.enter_context(Simulator())
        leases = Leases(plane, namespace, simulator)
        settings = {"WORKLEASE_NAMESPACE": namespace, "WORKLEASE_REQUESTS_PER_MINUTE": NO_LIMIT}
        operator = opened.enter_context(Operator(plane, namespace, simulator.url, **settings))
        stays = opened.enter_context(Stays(plane, namespace))
        other = opened.enter_context(OtherWorker(simulator))
        fleet = Fleet(plane, leases, simulator, chance)
        fleet.launch(number)
        troubles = Troubles(
            plane=plane,
            operator=operator,
            simulator=simulator,
            fleet=fleet,
            record=record,
            chance=chance,
            outage_seconds=outage,
        )
        _play(steps, fleet, troubles, simulator, other, seconds=seconds)
        record.until, record.history, record.stays = time.monotonic(), simulator.history(), stays.seen()
        return judge(record, troubles.made), record


def _play(
    steps: list[Step], fleet: Fleet, troubles: Troubles, simulator: Simulator, other: OtherWorker, *, seconds: float
) -> None:
    """Make each trouble when it is due, and look after the fleet in between.

    The schedule's clock stands still while something is away: what is due meanwhile would meet no lease that is held.
    """
    began, retired = time.monotonic(), 0
    left = list(steps)
    while time.monotonic() < began + seconds or left:
        if left and time.monotonic() >= began + left[0].at:
            began += troubles.make(left.pop(0).trouble)
            continue
        fleet.tend()
        claimed = other.claimed()[: -REMEMBERED or None]
        for item in claimed[retired:]:
            simulator.stop_item(item, force=True)
        retired = max(retired, len(claimed))
        pass_time(min(LOOK, max(0.0, began + left[0].at - time.monotonic()) if left else LOOK))


if __name__ == "__main__":
    main()
