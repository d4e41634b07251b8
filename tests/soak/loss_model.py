"""How many leases are given up while answers get lost, by the real rules and a model of the server: no clock runs.

`python -m soak.loss_model` prints the table of decision 23. Of all calls, a share is applied and not answered; half of
those hang until their time-out. `soak.lost_answers` does the same to a real operator, to few leases.
"""

import random
from dataclasses import dataclass, field
from typing import Final

import click
from rich.console import Console
from rich.table import Table

from support.lease_world import read_reply
from support.server_model import Holder, Listing, ServerModel
from worklease.rules import answers, beats, deadlines
from worklease.rules.beats import Wait
from worklease.rules.lease import Lease
from worklease.rules.outcomes import Exchange, ListedItem, Outcome, Unanswered
from worklease.rules.succession import list_seconds
from worklease.work_api.patience import Patience
from worklease.work_api.shared_list import PATIENCE, TRIES

ROUND_TRIP: Final = 0.04
"""Seconds."""

GRACE: Final = 2.0
"""Seconds that the sandbox is given to end."""

TTLS: Final = (20, 30, 60)


@dataclass(slots=True, kw_only=True)
class LossModel:
    """One lease and its server; ``share`` of the answers get lost. Times in seconds."""

    ttl: int
    names_values: bool
    """Whether a 412 names the server's value; if not, the list has to."""
    gives_up_early: bool
    """Whether beats that hang are given up as `Patience` says, or only after the longest time-out."""
    share: float
    chance: random.Random
    now: float = 1000.0
    patience: Patience = field(default_factory=Patience)

    def keeps_for(self, seconds: float) -> bool:
        """Whether the lease is still kept after so long."""
        server = ServerModel(ahead=1.79e9, default_ttl=30.0, listing=Listing.SHOWN, shows_entries=False)
        until = self.now + seconds
        lease = Lease(desired_ttl=self.ttl, due=self.now, seed=self.chance.randrange(10**6), pod_grace=GRACE)
        lease = self._beat(server, lease, is_lost=False, hangs=False)
        while self.now < until:
            match beats.decide(lease, self.now):
                case Wait(due):
                    self.now = max(self.now, due)
                case _:
                    lease = self._beat(server, lease, is_lost=self._is_lost(), hangs=self.chance.random() < 1 / 2)
            lease = beats.lapse(lease, self.now)
            if lease.end is not None or deadlines.is_fenced(lease, self.now):
                return False
        return True

    def _is_lost(self) -> bool:
        return self.chance.random() < self.share

    def _beat(self, server: ServerModel, lease: Lease, *, is_lost: bool, hangs: bool) -> Lease:
        beat, sent = beats.decide(lease, self.now), self.now
        assert isinstance(beat, beats.Beat)
        is_early = self.gives_up_early and lease.held
        wait = self.patience.timeout(beat.timeout) if is_early else beat.timeout
        reply = server.beat(sent + ROUND_TRIP / 2, Holder.OURS, beat.expected, beat.desired_ttl)
        self.now += wait if is_lost and hangs else ROUND_TRIP
        exchange = Exchange(sent=sent, done=self.now, asked=beat.desired_ttl, date=None if is_lost else reply.date)
        outcome: Outcome
        if is_lost:
            outcome = Unanswered(exchange, "lost")
        else:
            outcome = read_reply(exchange, reply, mute=not reply.accepted and not self.names_values)
        self.patience.note(outcome)
        return answers.observe(lease, outcome, self._list(server, lease, outcome))

    def _list(self, server: ServerModel, lease: Lease, outcome: Outcome) -> ListedItem | None:
        """Return what the list shows, asked as `SharedList` asks; None if it is not asked or all tries get lost."""
        seconds = list_seconds(lease, outcome, None)
        until = self.now + seconds
        for _ in range(TRIES if seconds > 0 else 0):
            is_lost = self._is_lost()
            self.now += PATIENCE if is_lost and self.chance.random() < 1 / 2 else ROUND_TRIP
            if self.now > until:
                break
            if not is_lost and (row := server.row(self.now)) is not None:
                return ListedItem(row.state, row.started_at, row.latest_heartbeat_at, row.acknowledged_at)
        self.now = min(self.now, until)
        return None


def given_up(
    runs: int, *, ttl: int, names_values: bool, gives_up_early: bool, seconds: float = 120.0, share: float = 0.4
) -> float:
    """Return the part of so many leases that are given up while answers get lost for so long."""
    chance = random.Random(7)  # noqa: S311 (it decides what gets lost)
    lost = sum(
        not LossModel(
            ttl=ttl, names_values=names_values, gives_up_early=gives_up_early, share=share, chance=chance
        ).keeps_for(seconds)
        for _ in range(runs)
    )
    return lost / runs


@click.command()
@click.option("--runs", type=click.IntRange(min=1), default=4000, show_default=True, help="Leases in each cell.")
@click.option("--seconds", type=click.FloatRange(min=1), default=120.0, show_default=True, help="How long.")
@click.option("--share", type=click.FloatRange(0, 1), default=0.4, show_default=True, help="Of answers that get lost.")
def main(*, runs: int, seconds: float, share: float) -> None:
    """Print which part of the leases is given up while answers get lost."""
    shown = Table("TTL", "a 412 names the value", "beats that hang", "given up", box=None)
    for early in (False, True):
        for ttl in TTLS:
            for names in (True, False):
                part = given_up(runs, ttl=ttl, names_values=names, gives_up_early=early, seconds=seconds, share=share)
                waited = "given up early" if early else "waited for"
                shown.add_row(f"{ttl} s", "yes" if names else "no", waited, f"{part:.1%}")
    Console().print(shown)


if __name__ == "__main__":
    main()
