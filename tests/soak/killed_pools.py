"""The operator of a pool is killed again and again: `python -m soak.killed_pools --kills 50 --sessions 100`.

Sessions come to the queue around each kill; running ones are interrupted, and get a second message. A server that gives
another token with a later poll is played too. It exits with 1 if an item was stranded, a token lost, or a session had
two sandboxes at once.
"""

import random
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final

import click
from rich.console import Console
from rich.table import Table

from controlplane import ControlPlane, OwnControlPlane, wait_for
from soak.troubles import pass_time
from support.cluster import install_custom_resources, make_namespace
from support.judge import Entry, Violation, check_history
from support.lives import Life, Lives
from support.operator import Leases, Operator
from support.pools import Pool
from support.simulator import Simulator

TTL: Final = 60
"""Seconds: no restart on a busy machine may take a lease's life; each sandbox more than one a delivery is a fault."""
CAP: Final = 20
LONGEST_STRAND: Final = 15.0
"""Seconds for which an item may be acknowledged and not held, whatever crash there was."""
EARLIEST, LATEST = 0.5, 8.0
"""Seconds from a start to the next kill: a process that takes a pool over polls after five, so about half of the kills
come while items are being taken."""
WORKED_ON: Final = 180.0
"""Seconds after the last kill until everything must have come to its end, on a busy machine."""
FAULTS_FOUND: Final = 1


@dataclass(frozen=True, slots=True)
class Siege:
    """How often the operator is killed, among how many sessions, and for how long a sandbox works."""

    kills: int
    sessions: int
    lasts: str


@dataclass(slots=True)
class _Sent:
    """What was put into the queue."""

    items: dict[str, str] = field(default_factory=dict)
    """The item of each session."""
    messages: Counter[str] = field(default_factory=Counter)
    """How many messages each session got."""
    tokens: dict[str, list[str]] = field(default_factory=dict)
    """The tokens that the server had for each item, in order."""


@dataclass(frozen=True, slots=True)
class Found:
    """What came of all sessions, as seen from outside."""

    sandboxes: int
    interrupted: int
    strands: Sequence[tuple[str, float]]
    """The items that were acknowledged and not held for too long, and the seconds."""
    lost_tokens: Sequence[str]
    """Pods whose Secret did not have the token of the latest poll."""
    doubles: Sequence[str]
    """Sessions with two sandboxes at once."""
    miscounted: Mapping[str, tuple[int, int]]
    """Sessions with another number of sandboxes than of messages, and the two numbers."""
    violations: Sequence[Violation]

    @property
    def faults(self) -> Sequence[object]:
        """All of them."""
        return [*self.strands, *self.lost_tokens, *self.doubles, *self.miscounted.items(), *self.violations]


def besiege(plane: ControlPlane, namespace: str, siege: Siege, chance: random.Random) -> Found:
    """Kill the operator at random among sessions, wait for the end of all, and return what came of them."""
    with ExitStack() as opened:
        simulator = opened.enter_context(Simulator("--ttl", f"{TTL}"))
        leases = Leases(plane, namespace, simulator)
        settings = {"WORKLEASE_NAMESPACE": namespace, "WORKLEASE_REQUESTS_PER_MINUTE": "0"}
        operator = opened.enter_context(Operator(plane, namespace, simulator.url, **settings))
        lives = opened.enter_context(Lives(plane, namespace))
        pool = Pool(plane, leases, simulator)
        pool.create(most=CAP, template=leases.template(exit_code="0", exit_after=siege.lasts))
        pool.await_condition("Polling", "True", "Polling")
        sent = _Sent()
        for number in range(siege.kills):
            _queue(simulator, sent, _share(siege, number))
            _interrupt_one(simulator, sent, lives, chance)
            pass_time(chance.uniform(EARLIEST, LATEST))
            operator.kill()
            _give_other_tokens(simulator, sent)
            operator.start()
        wait_for(lambda: _is_over(simulator, pool), seconds=WORKED_ON, what="the end of all sessions")
        return _judge(simulator.history(), lives.seen(), lives.doubles(), sent, operator.killed)


# --- What is done ------------------------------------------------------------------------------------------------


def _share(siege: Siege, number: int) -> int:
    """Return how many sessions come before a kill: they are spread evenly."""
    return siege.sessions * (number + 1) // siege.kills - siege.sessions * number // siege.kills


def _queue(simulator: Simulator, sent: _Sent, number: int) -> None:
    for _ in range(number):
        item = simulator.create_session()
        session, name = str(item["data"]["id"]), str(item["id"])
        sent.items[session] = name
        sent.messages[session] = 1
        sent.tokens[name] = [str(simulator.item(name)["sessions_token"])]


def _interrupt_one(simulator: Simulator, sent: _Sent, lives: Lives, chance: random.Random) -> None:
    """Stop a session at the server whose sandbox runs, and send it another message, which comes with another token."""
    running = sorted({life.session for life in lives.running() if sent.messages[life.session] == 1})
    if not running:
        return
    session = chance.choice(running)
    item = sent.items[session]
    simulator.stop_item(item, force=True)
    sent.tokens[item].append(simulator.rotate_token(item))
    simulator.message(session)
    sent.messages[session] += 1


def _give_other_tokens(simulator: Simulator, sent: _Sent) -> None:
    """Let the next poll of each item that waits give another token than the one before."""
    for item in simulator.items():
        if item["state"] == "queued":
            sent.tokens[item["id"]].append(simulator.rotate_token(item["id"]))


def _is_over(simulator: Simulator, pool: Pool) -> bool:
    return all(item["state"] == "stopped" for item in simulator.items()) and not pool.unfinished()


# --- What came of it ---------------------------------------------------------------------------------------------


def _judge(
    history: Sequence[Entry], seen: Sequence[Life], doubles: Sequence[str], sent: _Sent, killed: Sequence[float]
) -> Found:
    sandboxes = Counter(life.session for life in seen)
    return Found(
        sandboxes=len(seen),
        interrupted=sum(number > 1 for number in sent.messages.values()),
        strands=strands(history, time.monotonic()),
        lost_tokens=[life.pod for life in seen if life.token != _given(history, sent.tokens, life)],
        doubles=doubles,
        miscounted={
            session: (sandboxes[session], number)
            for session, number in sent.messages.items()
            if sandboxes[session] != number
        },
        violations=check_history(history, killed=killed),
    )


def strands(history: Sequence[Entry], now: float) -> list[tuple[str, float]]:
    """Return the items that were acknowledged for too long without an accepted beat, and for how many seconds."""
    since: dict[str, float] = {}
    found: list[tuple[str, float]] = []
    for entry in sorted((each for each in history if each["order"] is not None), key=lambda each: each["order"]):
        item, after = entry["item"], entry["after"]
        if item is None or after is None:
            continue
        at = float(entry["applied_monotonic"] if entry["event"] == "request" else entry["at_monotonic"])
        if after["state"] == "starting":
            since.setdefault(item, at)
        elif (began := since.pop(item, None)) is not None:
            found.append((item, at - began))
    found += [(item, now - began) for item, began in since.items()]
    return [each for each in found if each[1] > LONGEST_STRAND]


def _given(history: Sequence[Entry], tokens: Mapping[str, Sequence[str]], life: Life) -> str:
    """Return the token that the latest poll gave before a pod was seen for the first time."""
    rotations, given = 0, 0
    for entry in sorted((each for each in history if each["order"] is not None), key=lambda each: each["order"]):
        if entry["item"] != life.item:
            continue
        if entry["event"] == "token-rotated":
            rotations += 1
        elif entry.get("call") == "poll" and entry["applied_monotonic"] < life.first:
            given = rotations
    return tokens[life.item][given]


def table(siege: Siege, found: Found) -> Table:
    """Return the table that the program prints at its end."""
    shown = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), show_header=False)
    rows: tuple[tuple[str, int, bool], ...] = (
        ("operator killed by SIGKILL", siege.kills, False),
        ("sessions", siege.sessions, False),
        ("of them interrupted, with a second message", found.interrupted, False),
        ("sandboxes", found.sandboxes, False),
        (f"items stranded for more than {LONGEST_STRAND:g} s", len(found.strands), True),
        ("pods without the token of the latest poll", len(found.lost_tokens), True),
        ("sessions with two sandboxes at once", len(found.doubles), True),
        ("sessions with more or fewer sandboxes than messages", len(found.miscounted), True),
        ("violations of the leases' rules", len(found.violations), True),
    )
    for name, number, is_fault in rows:
        style = "" if not is_fault else "red bold" if number else "green"
        shown.add_row(name, str(number), style=style)
    return shown


@click.command()
@click.option("--kills", type=click.IntRange(min=1), default=50, show_default=True, help="SIGKILLs of the operator.")
@click.option("--sessions", type=click.IntRange(min=1), default=100, show_default=True, help="In all.")
@click.option("--lasts", default="8s", show_default=True, help="How long a sandbox works.")
@click.option("--seed", type=int, help="Repeat the moments.  [default: new ones]")
def main(*, kills: int, sessions: int, lasts: str, seed: int | None) -> None:
    """Kill the operator of a pool at random among sessions, and say what came of them."""
    chosen = random.SystemRandom().randrange(2**32) if seed is None else seed
    console = Console()
    console.print(f"seed {chosen}: {kills} kills among {sessions} sessions", highlight=False)
    siege = Siege(kills, sessions, lasts)
    with OwnControlPlane() as plane:
        install_custom_resources(plane)
        chance = random.Random(chosen)  # noqa: S311 - it chooses moments, no secrets
        found = besiege(plane, make_namespace(plane), siege, chance)
    console.print(table(siege, found))
    for fault in found.faults:
        console.print(str(fault), markup=False, highlight=False, soft_wrap=True)
    sys.exit(FAULTS_FOUND if found.faults else 0)


if __name__ == "__main__":
    main()
