"""The soak as a program: `python -m soak --kills 5 --minutes 3`.

It starts the control plane, the simulator, the operator and the others, plays the schedule, and prints the table. It
exits with 1 if it found a violation, with the lines of the history that show it.
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

VIOLATIONS_FOUND = 1
FLEET_INTERVAL = 1.0  # seconds between two checks of the fleet: finished leases are replaced within about a beat
KEPT_ITEMS = 50  # of the other worker, the newest; older ones are stopped, so that hours do not fill the server
NO_LIMIT = "0"  # a dozen leases with short TTLs use up the default budget, which has tests of its own


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
    """Run the operator among faults of every kind, and check what happened to its leases."""
    chosen = random.SystemRandom().randrange(2**32) if seed is None else seed
    console = Console()
    console.print(f"seed {chosen}: {minutes:g} min, {number} leases, {kills} kills", highlight=False)
    chance = random.Random(chosen)  # noqa: S311 - it chooses faults, no secrets
    steps = schedule(chance, seconds=60 * minutes, kills=kills)
    verdict, record = _soak(steps, chance, seconds=60 * minutes, number=number, outage=outage)
    console.print(table(verdict))
    for line in evidence(verdict, record.history):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    sys.exit(0 if verdict.is_clean else VIOLATIONS_FOUND)


def _soak(
    steps: list[Step], chance: random.Random, *, seconds: float, number: int, outage: float
) -> tuple[Verdict, Record]:
    """Play a schedule, and return the verdict and its record."""
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
    """Make each trouble when it is due, and replace finished leases in between.

    The schedule's clock stops while something is away: a trouble that is due meanwhile would meet no held lease.
    """
    began, retired = time.monotonic(), 0
    left = list(steps)
    while time.monotonic() < began + seconds or left:
        if left and time.monotonic() >= began + left[0].at:
            began += troubles.make(left.pop(0).trouble)
            continue
        fleet.replace_finished()
        claimed = other.claimed()[: -KEPT_ITEMS or None]
        for item in claimed[retired:]:
            simulator.stop_item(item, force=True)
        retired = max(retired, len(claimed))
        pass_time(min(FLEET_INTERVAL, max(0.0, began + left[0].at - time.monotonic()) if left else FLEET_INTERVAL))


if __name__ == "__main__":
    main()
