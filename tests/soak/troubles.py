"""How each kind of trouble is made.

This module injects troubles at both sides. It must not check anything: it only records when it made something absent.
"""

import random
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from controlplane import OwnControlPlane, wait_for
from soak.fleet import LONGEST_TTL, Fleet
from soak.plan import SMALL, TAKING, Trouble
from soak.verdict import Record
from support.operator import Operator
from support.simulator import Simulator

SHORT_ABSENCE: Final = 6.0
"""Seconds of an absence that must cost no lease: a fifth of the shortest TTL."""

API_SERVER_AWAY: Final = 5.0
"""Seconds between the API server's death and its next start."""

PAUSE_BETWEEN_FAULTS: Final = 15.0
"""Seconds after its next beat in which an item gets no other fault: several in a row may last as long as a TTL."""

RETRY_AFTER: Final = 2
"""Seconds of a `Retry-After`. They are few, because it delays every lease."""

GARBLED: Final = ("", "null", "<html>502</html>", '{"state": "active"}', '{"last_heartbeat": 7, "ttl_seconds": "x"}')


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault of single calls, in the words of the simulator's administration."""

    kind: str
    times: int = 1
    call: str = "heartbeat"
    effect: Mapping[str, Any] = field(default_factory=dict)


FAULTS: Final[Mapping[Trouble, Fault]] = {
    Trouble.REPLY_LOST: Fault("drop-after"),
    Trouble.REPLIES_LOST: Fault("drop-after", 4),
    Trouble.REQUEST_LOST: Fault("drop-before", 2),
    Trouble.ANSWERED_500: Fault("status", 2, effect={"status": 500}),
    Trouble.APPLIED_500: Fault("status-after", 2, effect={"status": 500}),
    Trouble.RETRY_LATER_SECONDS: Fault("status", effect={"status": 503, "retry_after": RETRY_AFTER}),
    Trouble.RETRY_LATER_DATE: Fault(
        "status", effect={"status": 503, "retry_after": RETRY_AFTER, "retry_after_form": "date"}
    ),
    Trouble.THROTTLED: Fault("status", 2, effect={"status": 429}),
    Trouble.HUNG: Fault("hang"),
    Trouble.HUNG_AFTER: Fault("hang-after"),
    Trouble.STOP_LOST: Fault("drop-after", call="stop"),
}


class Troubles:
    """Makes troubles, one at a time."""

    def __init__(
        self,
        *,
        plane: OwnControlPlane,
        operator: Operator,
        simulator: Simulator,
        fleet: Fleet,
        record: Record,
        chance: random.Random,
        outage_seconds: float,
    ) -> None:
        self._plane = plane
        self._operator = operator
        self._simulator = simulator
        self._fleet = fleet
        self._record = record
        self._chance = chance
        self._outage_seconds = outage_seconds
        self._paused_until: dict[str, float] = {}
        self.made: list[Trouble] = []

    def make(self, trouble: Trouble) -> float:
        """Make one trouble, wait for its end unless it concerns single calls, and return the seconds of an absence.

        A trouble that needs a lease is skipped, and not counted, while every held lease had a fault recently.
        """
        if trouble in SMALL or trouble in TAKING:
            item = self._choose_item()
            if item is None or self._simulator.item(item)["state"] != "active":
                return 0.0
            self._small(trouble, item) if trouble in SMALL else self._take(trouble, item)
            self.made.append(trouble)
            return 0.0
        self.made.append(trouble)
        began, ended = _timed(lambda: self._big(trouble))
        return ended - began

    def _choose_item(self) -> str | None:
        """Return the item of a held lease without a recent fault; None if there is none."""
        now = time.monotonic()
        ready = [
            item
            for item in self._fleet.held()
            if item in self._fleet.current and self._paused_until.get(item, 0.0) <= now
        ]
        if not ready:
            return None
        item = self._chance.choice(sorted(ready))
        next_beat = now + self._fleet.current[item] / 3  # at the latest; that beat gets the fault
        self._paused_until[item] = next_beat + PAUSE_BETWEEN_FAULTS
        return item

    def _small(self, trouble: Trouble, item: str) -> None:
        fault = FAULTS.get(trouble)
        if fault is not None:
            self._simulator.inject(fault.kind, call=fault.call, item=item, times=fault.times, **fault.effect)
        elif trouble is Trouble.SLOW:
            seconds = min(10.0, self._fleet.current[item] / 6) + 1  # a second longer than a request's timeout
            self._simulator.inject(self._chance.choice(["delay", "delay-after"]), item=item, seconds=seconds)
        elif trouble is Trouble.MALFORMED:
            self._simulator.inject("malformed", item=item, body=self._chance.choice(GARBLED))
        elif trouble is Trouble.TTL_CHANGED:
            self._simulator.impose_ttl(item, self._chance.choice([24, 45, 300, None]))

    def _take(self, trouble: Trouble, item: str) -> None:
        match trouble:
            case Trouble.RESOURCE_DELETED:
                self._fleet.drop(item)
            case Trouble.STOLEN:
                # As another delivery: otherwise the operator could not tell a thief with the right value from its own
                # unanswered beat, and it may be restarting just now.
                self._simulator.requeue_item(item, state="starting")
                self._simulator.steal_item(item)
            case Trouble.REDELIVERED:
                self._simulator.requeue_item(item)
            case Trouble.STOPPED | Trouble.FORCED:
                self._simulator.stop_item(item, force=trouble is Trouble.FORCED)
            case Trouble.UNKNOWN:
                self._simulator.delete_item(item)
            case _:
                raise ValueError(f"{trouble} takes no item")

    def _big(self, trouble: Trouble) -> None:
        match trouble:
            case Trouble.OUTAGE:
                self._outage(SHORT_ABSENCE)
            case Trouble.LONG_OUTAGE:
                self._outage(self._outage_seconds)
            case Trouble.KILLED:
                self._record.away.append(_timed(self._kill))
            case Trouble.SLEPT:
                self._record.away.append(_timed(lambda: self._sleep(SHORT_ABSENCE)))
            case Trouble.SLEPT_LONG:
                slept = _timed(lambda: self._sleep(LONGEST_TTL + SHORT_ABSENCE))
                self._record.away.append(slept)
                self._record.asleep.append(slept)
            case Trouble.API_SERVER_KILLED:
                self._record.away.append(_timed(self._kill_api_server))
            case _:
                raise ValueError(f"{trouble} is of an item")

    def _outage(self, seconds: float) -> None:
        self._simulator.outage(self._chance.choice(["refuse", "reset"]))
        pass_time(seconds)
        self._simulator.outage("off")

    def _kill(self) -> None:
        self._operator.kill()
        self._operator.start()

    def _sleep(self, seconds: float) -> None:
        self._operator.signal(signal.SIGSTOP)
        pass_time(seconds)
        self._operator.signal(signal.SIGCONT)

    def _kill_api_server(self) -> None:
        self._plane.kill("kube-apiserver")
        pass_time(API_SERVER_AWAY)
        self._plane.start("kube-apiserver")


def pass_time(seconds: float) -> None:
    """Wait for a number of seconds."""
    end = time.monotonic() + seconds
    wait_for(lambda: time.monotonic() >= end, seconds=seconds + 60, what=f"{seconds:g} s")


def _timed(action: Callable[[], None]) -> tuple[float, float]:
    """Run an action, and return when it began and ended."""
    began = time.monotonic()
    action()
    return began, time.monotonic()
