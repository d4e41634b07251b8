"""The claims that the story makes, and whether they hold.

Owns the checks: pure functions of what kubectl showed and what the simulator recorded. Must not fetch either.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from demo.record import CONFLICT, Record, beats, renewals
from demo.snapshot import Snapshot

NO_HEARTBEAT = "NO_HEARTBEAT"
OK = 200
# A routine beat is due at a third of the TTL. A busy machine may delay it, and if the beat before was late, it may be
# early by as much.
INTERVAL_SHARE = 3
JITTER_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Claim:
    """Something that the demo says about the operator, and the objection, if there is one."""

    text: str
    objection: str = ""

    @property
    def holds(self) -> bool:
        """Whether there is no objection."""
        return not self.objection


def leases_held(snapshot: Snapshot, items: Collection[str]) -> Claim:
    """Check that each of these items has a WorkLease that holds its lease."""
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
    """Check that each item was claimed by exactly one heartbeat."""
    return _claim(
        f"each item was claimed once: only its first beat says {NO_HEARTBEAT}",
        (
            f"{item}: {claims} beats said {NO_HEARTBEAT}"
            for item in items
            if (claims := [each.expected for each in beats(record, item)].count(NO_HEARTBEAT)) != 1
        ),
    )


def taken_in_order(record: Record, item: str) -> Claim:
    """Check that an item was acknowledged once, and claimed after that."""
    acks = [each.seq for each in record if each.item == item and each.call == "ack" and each.status == OK]
    first = next((each.seq for each in beats(record, item)), 0)
    objections = [] if len(acks) == 1 else [f"{item} was acknowledged {len(acks)} times"]
    objections += [f"its first beat, #{first}, came before #{ack}" for ack in acks if not ack < first]
    return _claim("the item was acknowledged once, and claimed then", objections)


def beaten_on_time(record: Record, items: Collection[str]) -> Claim:
    """Check that each lease was renewed a third of its TTL after the previous beat."""
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
    """Check that each status has the server's last value, byte for byte."""
    shown = {item: lease.last_heartbeat if (lease := snapshot.lease(item)) else None for item in values}
    return _claim(
        "status.lastHeartbeat is the server's value, byte for byte",
        (f"{item}: {shown[item]}, the server has {value}" for item, value in values.items() if shown[item] != value),
    )


def pod_gone(snapshot: Snapshot, name: str) -> Claim:
    """Check that a pod no longer exists."""
    pod = snapshot.pod(name)
    return Claim(f"its pod {name} is gone", f"{name} is {pod.status}" if pod else "")


def pods_untouched(before: Snapshot, after: Snapshot, names: Collection[str]) -> Claim:
    """Check that these pods run as before: the same uid, the same number of restarts."""
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
        return f"{name} is a different pod than before"
    return "" if new.status == "Running" else f"{name} is {new.status}"


def sandbox_replaced(before: Snapshot, after: Snapshot, item: str) -> Claim:
    """Check that an item has a new sandbox that runs, and that its lease is still held."""
    text = "a new pod works on the item, under the same lease"
    old, new = before.lease(item), after.lease(item)
    if old is None or new is None or new.held != "True":
        return Claim(text, f"{item}: its lease is not held")
    pod = after.pod(new.sandbox)
    if pod is None or pod.status != "Running":
        return Claim(text, f"{new.sandbox} does not run" if new.sandbox else "there is no pod")
    return Claim(text, f"{pod.name} is the pod that was there before" if before.pod(pod.name) == pod else "")


def finished(snapshot: Snapshot, item: str) -> Claim:
    """Check that an item's resource says that the item is over."""
    lease = snapshot.lease(item)
    seen = "no WorkLease" if lease is None else f"state={lease.state} Finished={lease.finished} reason={lease.reason}"
    over = lease is not None and (lease.state, lease.finished, lease.reason) == ("stopped", "True", "Stopped")
    return Claim("the resource says so: state stopped, Finished=True", "" if over else seen)


def stop_confirmed(record: Record, item: str) -> Claim:
    """Check that the operator confirmed the item's stop, and that this ended the item."""
    confirmed = any(
        each.call == "stop" and each.item == item and each.status == OK and each.state_after == "stopped"
        for each in record
    )
    return Claim("the stop was confirmed to the server", "" if confirmed else f"no stop call ended {item}")


def ended_within(taken: float, limit: float) -> Claim:
    """Check that the pod ended within a beat's interval and a margin after the stop at the server."""
    text = f"it took {taken:.1f} s; the limit is a beat's interval and a margin: {limit:g} s"
    return Claim(text, "" if taken <= limit else f"{taken:.1f} s")


def silent_after_end(record: Record, item: str) -> Claim:
    """Check that no beat was sent for an item after its end."""
    ends = [each.seq for each in record if each.item == item and each.state_after == "stopped"]
    late = [each.seq for each in beats(record, item) if ends and each.seq > ends[0]]
    objection = f"beat #{late[0]} came after the end, #{ends[0]}" if late else ""
    return Claim(f"no beat was sent for {item} after its end", objection if ends else f"{item} has not ended")


def beaten_since(record: Record, seq: int, items: Collection[str]) -> Claim:
    """Check that each of these leases was renewed after an entry of the record."""
    later = [each for each in record if each.seq > seq]
    return _claim(
        "the new process renewed every lease",
        (f"{item}: not renewed" for item in items if not renewals(later, item)),
    )


def one_chain(record: Record) -> Claim:
    """Check that each accepted beat carried the value from the answer to the beat before."""
    return _claim(
        "each beat carried the value before it: one unbroken chain for each item",
        (
            f"#{each.seq} {each.item}: carried {each.expected}, the value was {each.value_before}"
            for each in beats(record)
            if each.extended and each.expected != (each.value_before or NO_HEARTBEAT)
        ),
    )


def never_refused(record: Record, until: int) -> Claim:
    """Check that every beat up to an entry of the record was answered 200."""
    return _claim(
        f"no beat was refused before the operator was killed: no {CONFLICT}",
        (
            f"#{each.seq} {each.item}: answered {each.status}"
            for each in beats(record)
            if each.seq <= until and each.status != OK
        ),
    )


def refusals_were_read(record: Record, since: int) -> Claim:
    """Check that after a crash each conflict was followed by a renewal with the value that its answer named."""
    return _claim(f"the crash lost no lease: the beat after a {CONFLICT} was accepted", _misread(record, since))


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
    """Check that no lease lapsed."""
    return _claim("no lease has lapsed", (f"{each.item} lapsed" for each in record if each.event == "lapsed"))


def tool_ran(result: str, expected: str) -> Claim:
    """Check that the worker ran a tool and that its result has reached the session."""
    objection = "" if result == expected else f"the result is {result!r}, not {expected!r}"
    return Claim(f"the worker ran its tool, and the session has the result: {expected}", objection)


def worker_ended(code: int, said: str) -> Claim:
    """Check that a worker ended well, and that its proxy has no objection."""
    objection = "" if code == 0 and not said else f"exit code {code}, and its proxy said {said or 'nothing'}"
    return Claim("the worker has ended with code 0, and its proxy says nothing else", objection)


def lease_untouched(record: Record, item: str) -> Claim:
    """Check that nobody but the operator sent heartbeats and stops for an item."""
    calls = [each for each in record if each.item == item and each.call in {"heartbeat", "stop"}]
    claims = [each for each in calls if each.expected == NO_HEARTBEAT]
    stops = [each for each in calls if each.call == "stop"]
    objections = [] if len(claims) == 1 else [f"{len(claims)} beats said {NO_HEARTBEAT}"]
    objections += [] if len(stops) == 1 else [f"{len(stops)} stops came"]
    return _claim("the worker's own heartbeats and its stop did not reach the server", objections)


def _listed(names: Collection[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def _claim(text: str, objections: Iterable[str]) -> Claim:
    return Claim(text, "; ".join(objections))
