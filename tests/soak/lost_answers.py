"""Answers get lost for a while, as behind a gateway that fails: `python -m soak.lost_answers --profile o`.

Of all calls to the Work API, a share is applied and not answered; half of those hang until their time-out. The server
goes on having each lease whose beats it accepts. It exits with 1 if a lease of a long enough TTL was given up then.
"""

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Final

import click
from rich.console import Console
from rich.table import Table

from controlplane import ControlPlane, OwnControlPlane, wait_for
from support.cluster import install_custom_resources, leave_namespace, make_namespace
from support.judge import Entry, Outlived, Stay, Violation, check_history, check_sandboxes, heartbeats
from support.operator import Leases, Operator
from support.simulator import Simulator
from support.stays import Stays

TTLS: Final = (10, 15, 20, 30, 60)
"""Seconds: those of the leases, in turn."""

PROMISED_TTL: Final = 20
"""Seconds: no lease of so long a TTL may be given up while the server has it."""

START_TIMEOUT: Final = 120.0
"""Seconds until all leases must be held, on a busy machine."""

SEEN_WITHIN: Final = 1.0
"""Seconds before the end in which a sandbox must have been seen to be there still: ten observations."""

GIVEN_UP: Final = 1
"""The exit status if a lease was given up."""


@dataclass(frozen=True, slots=True)
class Loss:
    """How a lease came through: when its sandbox was gone, and what the server had left of the lease then."""

    item: str
    ttl: int
    accepted: int
    unanswered: int
    gone: float | None
    """Seconds after the first lost answer at which the sandbox was seen for the last time, if it went."""
    left: float | None
    """The part of the TTL that the server still had then."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of all leases."""

    losses: Sequence[Loss]
    violations: Sequence[Violation | Outlived]

    @property
    def given_up(self) -> Sequence[Loss]:
        """The leases that should have been kept."""
        return [each for each in self.losses if each.ttl >= PROMISED_TTL and each.left is not None and each.left > 0]


@dataclass(frozen=True, slots=True)
class _Observed:
    """What was seen from outside, from the first lost answer to the last."""

    history: Sequence[Entry]
    stays: Sequence[Stay]
    began: float
    until: float


def lose_a_share(simulator: Simulator, share: float) -> None:
    """Lose a share of all answers; half of them hang."""
    simulator.inject("drop-after", call=None, times=None, share=share / 2)
    simulator.inject("hang-after", call=None, times=None, share=share / 2 / (1 - share / 2))


def lose_every_acceptance(simulator: Simulator) -> None:
    """Lose the answer to each beat that extends a lease; half of them hang. What else is asked is answered."""
    simulator.inject("drop-after", times=None, share=0.5, accepted=True)
    simulator.inject("hang-after", times=None, accepted=True)


def play(
    plane: ControlPlane, profile: str, ttls: Sequence[int], *, seconds: float, lose: Callable[[Simulator], None]
) -> Outcome:
    """Hold a lease of each TTL, lose answers for a while, and return what came of the leases."""
    asked = {f"work_{number:02}": ttl for number, ttl in enumerate(ttls)}
    with ExitStack() as opened:
        namespace = make_namespace(plane)
        opened.callback(leave_namespace, plane, namespace)
        simulator = opened.enter_context(Simulator("--profile", profile))
        leases = Leases(plane, namespace, simulator)
        settings = {"WORKLEASE_NAMESPACE": namespace, "WORKLEASE_REQUESTS_PER_MINUTE": "0"}
        opened.enter_context(Operator(plane, namespace, simulator.url, **settings))
        stays = opened.enter_context(Stays(plane, namespace))
        for item, ttl in asked.items():
            simulator.create_item(item)
            leases.create(item, pods=True, ttlSeconds=ttl)
        for item in asked:
            leases.await_condition(item, "SandboxReady", "True", seconds=START_TIMEOUT)
        began = time.monotonic()
        lose(simulator)
        wait_for(lambda: time.monotonic() > began + seconds, seconds=seconds + 60, what=f"{seconds:g} s")
        observed = _Observed(simulator.history(), stays.seen(), began, time.monotonic())
    losses = [_loss(item, ttl, observed) for item, ttl in asked.items()]
    fenced = [each.item for each in losses if each.left is not None]
    violations = [
        *check_history(observed.history, released=fenced, until=observed.until),
        *check_sandboxes(observed.history, observed.stays),
    ]
    return Outcome(losses, violations)


def _loss(item: str, ttl: int, observed: _Observed) -> Loss:
    beats = [each for each in heartbeats(observed.history, item) if each["arrived_monotonic"] >= observed.began]
    unanswered = sum(each["outcome"] != "answered" for each in beats)
    accepted = [each["applied_monotonic"] for each in heartbeats(observed.history, item) if each["lease_extended"]]
    last = max((each.last for each in observed.stays if each.item == item), default=observed.began)
    if last > observed.until - SEEN_WITHIN:
        return Loss(item, ttl, len(accepted), unanswered, None, None)
    end = max((at for at in accepted if at <= last), default=observed.began) + ttl
    return Loss(item, ttl, len(accepted), unanswered, last - observed.began, (end - last) / ttl)


def table(outcome: Outcome) -> Table:
    """Return the table of what came of each lease."""
    shown = Table("item", "TTL", "beats accepted", "not answered", "sandbox gone after", "left at the server", box=None)
    for each in outcome.losses:
        gone = "" if each.gone is None else f"{each.gone:.1f} s"
        left = "" if each.left is None else f"{each.left:.2f} TTL"
        shown.add_row(each.item, f"{each.ttl} s", str(each.accepted), str(each.unanswered), gone, left)
    return shown


@click.command()
@click.option("--profile", default="hosted", show_default=True, help="The simulator's profile.")
@click.option("--leases", "number", type=click.IntRange(min=1), default=15, show_default=True, help="How many.")
@click.option("--seconds", type=click.FloatRange(min=1), default=120.0, show_default=True, help="How long.")
@click.option("--share", type=click.FloatRange(0, 1), default=0.4, show_default=True, help="Of answers that get lost.")
def main(*, profile: str, number: int, seconds: float, share: float) -> None:
    """Lose answers of the Work API for a while, and say which leases were given up."""
    with OwnControlPlane() as plane:
        install_custom_resources(plane)
        ttls = [TTLS[each % len(TTLS)] for each in range(number)]
        outcome = play(plane, profile, ttls, seconds=seconds, lose=partial(lose_a_share, share=share))
    console = Console()
    console.print(table(outcome))
    for violation in outcome.violations:
        console.print(str(violation), markup=False, highlight=False, soft_wrap=True)
    console.print(f"profile {profile}: {len(outcome.given_up)} given up of TTL {PROMISED_TTL} s or more")
    sys.exit(GIVEN_UP if outcome.given_up or outcome.violations else 0)


if __name__ == "__main__":
    main()
