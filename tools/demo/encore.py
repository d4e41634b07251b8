"""After the story: what to try by hand, and what changes, until the reader ends the demo.

Owns the invitation and the watch. Must not end anything: a signal does that.
"""

import math
from collections.abc import Iterator

from controlplane import KubectlError, wait_for
from demo.grounds import Grounds
from demo.screen import Screen
from demo.simulator import Simulator
from demo.snapshot import changes
from demo.stage import Stage
from demo.story import KEPT

LEASE = "lease-alone"


def invite(screen: Screen, stage: Stage, grounds: Grounds, simulator: Simulator, pid: int) -> None:
    """Show what to try by hand; each line can be copied as it is."""
    screen.verdict("Now try it yourself, in another terminal. Ctrl-C here ends everything and removes it.", well=True)
    tries = (
        ("Watch the leases, and look at one of them:", grounds.typed("get", "worklease", "-w")),
        ("", grounds.typed("describe", "worklease", LEASE)),
        ("Stop another item at the server, and see its pod go:", simulator.stop_line(KEPT)),
        ("Delete a resource whose lease is held: its item is stopped.", grounds.typed("delete worklease lease-alone")),
        ("See what the server has recorded, and the operator's log:", f"curl {simulator.admin_url}/history"),
        ("", f"tail -f {stage.operator_log}"),
        ("Crash the operator; the demo starts it again:", f"kill -9 {pid}"),
    )
    for why, line in tries:
        if why:
            screen.say(why)
        screen.command(line)


def watch(screen: Screen, stage: Stage, grounds: Grounds, simulator: Simulator) -> None:
    """Show what happens until a signal or a failure ends it."""
    told = _told(stage, grounds)

    def step() -> bool:
        if pid := stage.revive_operator(grounds, simulator):
            screen.say(f"The operator had ended. It was started again as process {pid}.")
        for line in next(told):
            screen.say(line)
        screen.show(stage.seen)
        return False

    wait_for(step, seconds=math.inf, what="the reader's Ctrl-C")


def _told(stage: Stage, grounds: Grounds) -> Iterator[list[str]]:
    """Yield what is new at each look. Trouble with the API server is included once."""
    before, trouble = stage.seen, ""
    while True:
        try:
            after, problem = stage.look(grounds), ""
        except KubectlError as error:
            after, problem = before, str(error)
        lines = list(changes(before, after))
        if problem and problem != trouble:
            lines.append(problem)
        yield lines
        before, trouble = after, problem
