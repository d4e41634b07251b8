"""The demo's claims are checked: each is true on a good run, and each can be refuted by a bad one."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from demo import claims
from demo.claims import NO_HEARTBEAT, Claim
from demo.record import Entry, StopMoments, conflicts, entry, stop_moments
from demo.snapshot import Lease, Pod, Snapshot

CREATED = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)
LEASE = Lease(
    name="lease",
    work_id="work_a",
    created=CREATED,
    state="active",
    held="True",
    reason="Renewed",
    extended="true",
    last_heartbeat="v2",
)
OVER = replace(LEASE, state="stopped", held="False", reason="Stopped", finished="True")
POD = Pod(name="pod", uid="u1", created=CREATED, status="Running", ready=1)


def beat(seq: int, at: float, expected: str, before: str | None, *, status: int = 200, state: str = "active") -> Entry:
    return Entry(
        seq=seq,
        event="request",
        item="work_a",
        at=at,
        call="heartbeat",
        status=status,
        expected=expected,
        extended=status == 200 and state == "active",
        value_before=before,
        state_after=state,
        ttl_seconds=15,
    )


CLAIM_BEAT = beat(2, 100.0, NO_HEARTBEAT, None)
ACK = Entry(seq=1, event="request", item="work_a", at=99.5, call="ack", status=200, state_after="starting")
GOOD = [
    Entry(seq=1, event="created", item="work_a", at=99.0, state_after="starting"),
    CLAIM_BEAT,
    beat(3, 105.1, "v1", "v1"),
    beat(4, 110.0, "v2", "v2"),
]
STOPPED = [
    *GOOD,
    Entry(seq=5, event="stopped", item="work_a", at=111.0, state_after="stopping"),
    beat(6, 115.0, "v3", "v3", state="stopping"),
    Entry(seq=7, event="request", item="work_a", at=115.5, call="stop", status=200, state_after="stopped"),
]

# After a crash: the saved value is one beat old, the answer names the latest, the next beat carries that.
ADOPTED = [*GOOD, beat(5, 113.0, "v2", "v3", status=412), beat(6, 113.1, "v3", "v3")]
MISREAD = "no beat went on from the value that the 412 named"


BEFORE = Snapshot((replace(LEASE, sandbox="pod"),), (POD,))
AFTER = Snapshot((replace(LEASE, sandbox="another"),), (replace(POD, name="another", uid="u2"),))


def test_a_good_run_has_nothing_against_it() -> None:
    told = [
        claims.leases_held(Snapshot((LEASE,)), ["work_a"]),
        claims.first_beats_claim(GOOD, ["work_a"]),
        claims.beaten_on_time(GOOD, ["work_a"]),
        claims.status_is_verbatim(Snapshot((LEASE,)), {"work_a": "v2"}),
        claims.pod_gone(Snapshot(), "pod"),
        claims.ended_within(4.9, 8),
        claims.sandbox_replaced(BEFORE, AFTER, "work_a"),
        claims.stop_confirmed(STOPPED, "work_a"),
        claims.finished(Snapshot((OVER,)), "work_a"),
        claims.pods_untouched(Snapshot((), (POD,)), Snapshot((), (POD,)), ["pod"]),
        claims.beaten_since(GOOD, 3, ["work_a"]),
        claims.one_chain(STOPPED),
        claims.never_refused(STOPPED, 7),
        claims.refusals_were_read(STOPPED, 3),
        claims.refusals_were_read(ADOPTED, 4),
        claims.never_lapsed(STOPPED),
        claims.silent_after_end(STOPPED, "work_a"),
        claims.taken_in_order([ACK, CLAIM_BEAT], "work_a"),
    ]
    assert [claim.objection for claim in told if not claim.holds] == []


@pytest.mark.parametrize(
    ("claim", "objection"),
    [
        (claims.leases_held(Snapshot(), ["work_a"]), "work_a: no WorkLease"),
        (
            claims.leases_held(Snapshot((replace(LEASE, held="False", reason="HeldByAnother"),)), ["work_a"]),
            "work_a: False HeldByAnother",
        ),
        (claims.leases_held(Snapshot((replace(LEASE, state="stopping"),)), ["work_a"]), "work_a: True Renewed"),
        (claims.first_beats_claim(GOOD[2:], ["work_a"]), f"work_a: 0 beats said {NO_HEARTBEAT}"),
        (claims.first_beats_claim([*GOOD, CLAIM_BEAT], ["work_a"]), f"work_a: 2 beats said {NO_HEARTBEAT}"),
        (claims.beaten_on_time(GOOD[:2], ["work_a"]), "work_a: never renewed"),
        (
            claims.beaten_on_time([CLAIM_BEAT, beat(3, 109.0, "v1", "v1")], ["work_a"]),
            "work_a: 9.0 s between two beats, due after 5 s",
        ),
        (
            claims.beaten_on_time([CLAIM_BEAT, beat(3, 101.0, "v1", "v1")], ["work_a"]),
            "work_a: 1.0 s between two beats, due after 5 s",
        ),
        (claims.status_is_verbatim(Snapshot((LEASE,)), {"work_a": "v3"}), "work_a: v2, the server has v3"),
        (claims.status_is_verbatim(Snapshot(), {"work_a": "v3"}), "work_a: None, the server has v3"),
        (claims.pod_gone(Snapshot((), (replace(POD, status="Terminating"),)), "pod"), "pod is Terminating"),
        (claims.ended_within(8.1, 8), "8.1 s"),
        (claims.sandbox_replaced(BEFORE, BEFORE, "work_a"), "pod is the pod that was there before"),
        (claims.sandbox_replaced(BEFORE, Snapshot((OVER,)), "work_a"), "work_a: its lease is not held"),
        (claims.sandbox_replaced(BEFORE, Snapshot((LEASE,)), "work_a"), "there is no pod"),
        (claims.stop_confirmed(GOOD, "work_a"), "no stop call ended work_a"),
        (claims.stop_confirmed(STOPPED, "work_b"), "no stop call ended work_b"),
        (claims.finished(Snapshot(), "work_a"), "no WorkLease"),
        (
            claims.finished(Snapshot((replace(OVER, finished="False"),)), "work_a"),
            "state=stopped Finished=False reason=Stopped",
        ),
        (claims.pods_untouched(Snapshot(), Snapshot((), (POD,)), ["pod"]), "pod was never there"),
        (claims.pods_untouched(Snapshot((), (POD,)), Snapshot(), ["pod"]), "pod is gone"),
        (
            claims.pods_untouched(Snapshot((), (POD,)), Snapshot((), (replace(POD, uid="u2"),)), ["pod"]),
            "pod is a different pod than before",
        ),
        (
            claims.pods_untouched(Snapshot((), (POD,)), Snapshot((), (replace(POD, status="Terminating"),)), ["pod"]),
            "pod is Terminating",
        ),
        (claims.beaten_since(GOOD, 4, ["work_a"]), "work_a: not renewed"),
        (claims.one_chain([beat(2, 1.0, "v1", "v2")]), "#2 work_a: carried v1, the value was v2"),
        (claims.one_chain([beat(2, 1.0, NO_HEARTBEAT, "v2")]), "#2 work_a: carried NO_HEARTBEAT, the value was v2"),
        (claims.never_refused([beat(2, 1.0, "v1", "v2", status=412)], 2), "#2 work_a: answered 412"),
        (claims.refusals_were_read([*GOOD, beat(5, 113.0, "v1", "v3", status=401)], 4), "#5 work_a: answered 401"),
        (claims.refusals_were_read(ADOPTED[:-1], 4), f"#5 work_a: {MISREAD}"),
        (
            claims.refusals_were_read([*ADOPTED[:-1], beat(6, 113.1, "v2", "v3", status=412)], 4),
            f"#5 work_a: {MISREAD}; #6 work_a: {MISREAD}",
        ),
        (
            claims.refusals_were_read([*ADOPTED[:-1], beat(6, 129.0, NO_HEARTBEAT, None)], 4),
            f"#5 work_a: {MISREAD}",
        ),
        (claims.never_lapsed([Entry(seq=9, event="lapsed", item="work_a")]), "work_a lapsed"),
        (
            claims.silent_after_end([*STOPPED, beat(8, 120.0, "v3", "v3", state="stopped")], "work_a"),
            "beat #8 came after the end, #7",
        ),
        (claims.silent_after_end(GOOD, "work_a"), "work_a has not ended"),
        (claims.taken_in_order([ACK, ACK, CLAIM_BEAT], "work_a"), "work_a was acknowledged 2 times"),
        (claims.taken_in_order([CLAIM_BEAT, replace(ACK, seq=3)], "work_a"), "its first beat, #2, came before #3"),
    ],
)
def test_what_is_not_so_is_said(claim: Claim, objection: str) -> None:
    assert not claim.holds
    assert claim.objection == objection


def test_a_refused_beat_is_no_renewal() -> None:
    assert not claims.beaten_since([beat(5, 1.0, "v1", "v2", status=412)], 4, ["work_a"]).holds


def test_conflicts_are_named_by_their_items() -> None:
    assert conflicts(ADOPTED, 4) == ["work_a"]
    assert conflicts(ADOPTED, 5) == []


def test_an_entry_of_the_record_is_read_by_what_took_effect() -> None:
    request = {
        "seq": 6,
        "event": "request",
        "call": "heartbeat",
        "item": "work_a",
        "expected": "v1",
        "applied_monotonic": 12.5,
        "status": 200,
        "before": {"state": "active", "value": "v1"},
        "after": {"state": "active", "value": "v2"},
        "ttl_seconds": 15,
        "lease_extended": True,
    }
    read = entry(request)
    assert (read.at, read.value_before, read.state_after, read.extended) == (12.5, "v1", "active", True)
    outage = entry({"seq": 7, "event": "outage", "item": None, "at_monotonic": 13.0, "before": None, "after": None})
    assert (outage.at, outage.call, outage.extended) == (13.0, None, False)


def test_the_moments_of_a_stop_are_those_of_its_item() -> None:
    other = Entry(seq=8, event="request", item="work_b", at=200.0, call="stop", status=200, state_after="stopped")
    assert stop_moments([*STOPPED, other], "work_a") == StopMoments(heard=4.0, confirmed=0.5)
    assert stop_moments(GOOD, "work_a") is None


def test_an_unmodified_workers_end_is_judged_by_its_tools_its_code_and_what_reached_the_server() -> None:
    assert claims.tool_ran("hello", "hello").holds
    assert claims.tool_ran("", "hello").objection == "the result is '', not 'hello'"
    assert claims.worker_ended(0, "").holds
    assert claims.worker_ended(0, "worker gave up: 412 heartbeat").objection
    assert claims.worker_ended(1, "").objection == "exit code 1, and its proxy said nothing"
    assert claims.lease_untouched(STOPPED, "work_a").holds
    beaten = [*STOPPED, beat(8, 116.0, NO_HEARTBEAT, "v3", status=412)]
    assert claims.lease_untouched(beaten, "work_a").objection == "2 beats said NO_HEARTBEAT"
    assert claims.lease_untouched([*STOPPED, STOPPED[-1]], "work_a").objection == "2 stops came"
