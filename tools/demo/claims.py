"""The claims that the story makes, and whether they are so.

Owns the judgement: pure functions of what kubectl showed and what the simulator recorded. Must not fetch either.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from demo.record import CONFLICT, Record, beats, renewals
from demo.snapshot import Snapshot

NO_HEARTBEAT = "NO_HEARTBEAT"
OK = 200
# A routine beat is due at a third of the TTL. It may be late by what a busy machine delays a process, and early by as
# much, if the beat before was late.
INTERVAL_SHARE = 3
JITTER_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Claim:
    """Something that the demo says of the operator, and what speaks against it, if anything does."""

    text: str
    objection: str = ""

    @property
    def holds(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.objection


def leases_held(snapshot: Snapshot, items: Collection[str]) -> Claim:
    """Each of these items has a WorkLease that holds its lease."""
    found = {item: snapshot.lease(item) for item in items}
    return _claim(
        f"LeaseHeld=True for {_listed(items)}",
        (
            f"{item}: {lease.held or 'no LeaseHeld'} {lease.reason}".rstrip() if lease else f"{item}: no WorkLease"
            for item, lease in found.items()
            if lease is None or (lease.held, lease.state) != ("True", "active")
        ),
    )


def first_beats_claim(record: Record, items: Collection[str]) -> Claim:
    """Each item's first heartbeat claimed, and nothing but the first one did."""
    return _claim(
        f"each item was claimed once: its first beat says {NO_HEARTBEAT}, no other does",
        (
            f"{item}: {claims} beats said {NO_HEARTBEAT}"
            for item in items
            if (claims := [each.expected for each in beats(record, item)].count(NO_HEARTBEAT)) != 1
        ),
    )


def beaten_on_time(record: Record, items: Collection[str]) -> Claim:
    """Each lease was renewed, a third of its TTL after the time before."""
    return _claim("each lease is renewed at a third of its TTL", _untimely(record, items))


def _untimely(record: Record, items: Collection[str]) -> Iterator[str]:
    for item in items:
        accepted = renewals(record, item)
        if len(accepted) < 2:  # noqa: PLR2004  # a claim and at least one renewal
            yield f"{item}: never renewed"
        for earlier, later in pairwise(accepted):
            if earlier.at is None or later.at is None or earlier.ttl_seconds is None:
                yield f"{item}: the record lacks the time of #{later.seq}"
                continue
            due, took = earlier.ttl_seconds / INTERVAL_SHARE, later.at - earlier.at
            if abs(took - due) > JITTER_SECONDS:
                yield f"{item}: {took:.1f} s between two beats, due after {due:g} s"


def status_is_verbatim(snapshot: Snapshot, values: dict[str, str | None]) -> Claim:
    """Each status carries the server's last value, byte for byte."""
    shown = {item: lease.last_heartbeat if (lease := snapshot.lease(item)) else None for item in values}
    return _claim(
        "status.lastHeartbeat is the server's value, byte for byte",
        (f"{item}: {shown[item]}, the server has {value}" for item, value in values.items() if shown[item] != value),
    )


def pod_gone(snapshot: Snapshot, name: str) -> Claim:
    """A pod is not there any more."""
    pod = snapshot.pod(name)
    return Claim(f"its pod {name} is gone", f"{name} is {pod.status}" if pod else "")


def pods_untouched(before: Snapshot, after: Snapshot, names: Collection[str]) -> Claim:
    """These pods run as before: the same uid, the same restarts."""
    return _claim(
        f"the pod of the other item is untouched: {', '.join(names)}",
        (objection for name in names if (objection := _touched(before, after, name))),
    )


def _touched(before: Snapshot, after: Snapshot, name: str) -> str:
    old, new = before.pod(name), after.pod(name)
    if old is None:
        return f"{name} was never there"
    if new is None:
        return f"{name} is gone"
    if (old.uid, old.restarts) != (new.uid, new.restarts):
        return f"{name} is another one than before"
    return "" if new.status == "Running" else f"{name} is {new.status}"


def made_anew(before: Snapshot, after: Snapshot, item: str) -> Claim:
    """An item has another sandbox than before, which runs, and its lease is held as it was."""
    text = "another pod works on the item, under the same lease"
    old, new = before.lease(item), after.lease(item)
    if old is None or new is None or new.held != "True":
        return Claim(text, f"{item}: its lease is not held")
    pod = after.pod(new.sandbox)
    if pod is None or pod.status != "Running":
        return Claim(text, f"{new.sandbox or 'no pod'} does not run")
    return Claim(text, f"{pod.name} is the pod that was there before" if before.pod(pod.name) == pod else "")


def finished(snapshot: Snapshot, item: str) -> Claim:
    """An item's resource says that all is over."""
    lease = snapshot.lease(item)
    seen = "no WorkLease" if lease is None else f"state={lease.state} Finished={lease.finished} reason={lease.reason}"
    over = lease is not None and (lease.state, lease.finished, lease.reason) == ("stopped", "True", "Stopped")
    return Claim("the resource says so: state stopped, Finished=True", "" if over else seen)


def stop_confirmed(record: Record, item: str) -> Claim:
    """The operator confirmed the item's stop, and that ended it."""
    confirmed = any(
        each.call == "stop" and each.item == item and each.status == OK and each.state_after == "stopped"
        for each in record
    )
    return Claim("the stop was confirmed to the server", "" if confirmed else f"no stop call ended {item}")


def ended_within(taken: float, limit: float) -> Claim:
    """From the stop at the server to the end of the pod it took no longer than an interval and a little."""
    text = f"it took {taken:.1f} s, at most a beat's interval and a little: {limit:g} s"
    return Claim(text, "" if taken <= limit else f"{taken:.1f} s")


def silent_after_end(record: Record, item: str) -> Claim:
    """Nobody beat an item after it had ended."""
    ends = [each.seq for each in record if each.item == item and each.state_after == "stopped"]
    late = [each.seq for each in beats(record, item) if ends and each.seq > ends[0]]
    objection = f"beat #{late[0]} came after the end, #{ends[0]}" if late else ""
    return Claim("nothing was beaten after its end", objection if ends else f"{item} has not ended")


def beaten_since(record: Record, seq: int, items: Collection[str]) -> Claim:
    """Each of these leases was renewed after an entry of the record."""
    later = [each for each in record if each.seq > seq]
    return _claim(
        "the new process renewed every lease",
        (f"{item}: not renewed" for item in items if not renewals(later, item)),
    )


def one_chain(record: Record) -> Claim:
    """Each accepted beat carried the value that the one before had been answered with."""
    return _claim(
        "each beat carried the value before it: one unbroken chain for each item",
        (
            f"#{each.seq} {each.item}: carried {each.expected}, the value was {each.value_before}"
            for each in beats(record)
            if each.extended and each.expected != (each.value_before or NO_HEARTBEAT)
        ),
    )


def never_refused(record: Record, until: int) -> Claim:
    """Every beat up to an entry of the record was answered 200."""
    return _claim(
        f"no beat was refused as long as the operator lived: not one {CONFLICT}",
        (
            f"#{each.seq} {each.item}: answered {each.status}"
            for each in beats(record)
            if each.seq <= until and each.status != OK
        ),
    )


def refusals_were_read(record: Record, since: int) -> Claim:
    """After a crash each lease met at most one conflict, and was renewed by the value that its answer named."""
    return _claim(f"the crash cost no lease: a {CONFLICT} was understood at once", _misread(record, since))


def _misread(record: Record, since: int) -> Iterator[str]:
    later = [each for each in beats(record) if each.seq > since]
    for number, each in enumerate(later):
        if each.status == OK:
            continue
        following = next((beat for beat in later[number + 1 :] if beat.item == each.item), None)
        if each.status != CONFLICT:
            yield f"#{each.seq} {each.item}: answered {each.status}"
        elif following is None or not following.extended or following.expected != each.value_before:
            yield f"#{each.seq} {each.item}: no beat went on from the value that the {CONFLICT} named"


def never_lapsed(record: Record) -> Claim:
    """No lease ran out."""
    return _claim("no lease has lapsed", (f"{each.item} lapsed" for each in record if each.event == "lapsed"))


def _listed(names: Collection[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def _claim(text: str, objections: Iterable[str]) -> Claim:
    return Claim(text, "; ".join(objections))
