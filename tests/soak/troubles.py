"""How each kind of trouble is made.

Owns the injecting, at both sides. Must not judge: it only notes when something was away by its order.
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

SHORT: Final = 6.0
"""Seconds for which something is away that must cost no lease: a fifth of the shortest TTL."""

API_SERVER_AWAY: Final = 5.0
"""Seconds between the API server's death and its next start."""

SPARED: Final = 15.0
"""Seconds after its next beat for which an item meets no other fault: several at once may well add up to a TTL."""

RETRY_AFTER: Final = 2
"""Seconds of a `Retry-After`: it holds back every lease."""

GARBLED: Final = ("", "null", "<html>502</html>", '{"state": "active"}', '{"last_heartbeat": 7, "ttl_seconds": "x"}')


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault of single calls, as the simulator's administration names it."""

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
        self._spared: dict[str, float] = {}
        self.made: list[Trouble] = []

    def make(self, trouble: Trouble) -> float:
        """Make one trouble; wait until it is over, unless it is one of single calls. Returns the seconds of an absence.

        What needs a lease is left out, and not counted, while none is held that has met nothing lately.
        """
        if trouble in SMALL or trouble in TAKING:
            item = self._victim()
            if item is None or self._simulator.item(item)["state"] != "active":
                return 0.0
            self._small(trouble, item) if trouble in SMALL else self._take(trouble, item)
            self.made.append(trouble)
            return 0.0
        self.made.append(trouble)
        began, ended = _timed(lambda: self._big(trouble))
        return ended - began

    def _victim(self) -> str | None:
        """Choose a held lease that met nothing lately."""
        now = time.monotonic()
        ready = [
            item for item in self._fleet.held() if item in self._fleet.current and self._spared.get(item, 0.0) <= now
        ]
        if not ready:
            return None
        item = self._chance.choice(sorted(ready))
        self._spared[item] = now + SPARED + self._fleet.current[item] / 3  # its next beat meets the fault
        return item

    def _small(self, trouble: Trouble, item: str) -> None:
        fault = FAULTS.get(trouble)
        if fault is not None:
            self._simulator.inject(fault.kind, call=fault.call, item=item, times=fault.times, **fault.effect)
        elif trouble is Trouble.SLOW:
            seconds = min(10.0, self._fleet.current[item] / 6) + 1  # a second past the time-out of a request
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
                # As another delivery: who goes on with the right value is nobody's to tell from a beat of our own
                # that was not answered, and the operator may be between two lives just now.
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
                self._outage(SHORT)
            case Trouble.LONG_OUTAGE:
                self._outage(self._outage_seconds)
            case Trouble.KILLED:
                self._record.away.append(_timed(self._kill))
            case Trouble.SLEPT:
                self._record.away.append(_timed(lambda: self._sleep(SHORT)))
            case Trouble.SLEPT_LONG:
                slept = _timed(lambda: self._sleep(LONGEST_TTL + SHORT))
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
    """Let so many seconds pass."""
    end = time.monotonic() + seconds
    wait_for(lambda: time.monotonic() >= end, seconds=seconds + 60, what=f"{seconds:g} s")


def _timed(action: Callable[[], None]) -> tuple[float, float]:
    """Do something; returns from when until when it was under way."""
    began = time.monotonic()
    action()
    return began, time.monotonic()
