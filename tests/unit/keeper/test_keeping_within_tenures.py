"""A resource is kept in the tenure of its bucket: nothing is sent for another process's, nor what cannot be undone."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import unquote_plus

import pytest

from support.every_bucket import EveryBucket
from support.keeping import RENEWED, SECRET, TEMPLATE, Keeping, keeping, resource
from support.scripted_server import Answer, Seen, always, until
from worklease.api.names import BUCKET_LABEL
from worklease.keeper.work_calls import LOOK_AGAIN
from worklease.rules.acts import SOON, Act, Standing
from worklease.rules.buckets import bucket_of
from worklease.rules.succession import Succession
from worklease.watching.bridge import Bridge
from worklease.watching.census import Census

UID = "uid-lease-1"
BUCKET = bucket_of(UID)
TAKEN = Answer(
    status=412,
    body={
        "type": "error",
        "error": {
            "type": "invalid_request_error",
            "message": "another value",
            "details": {
                "current_state": {"last_heartbeat": "2026-11-24T12:05:00Z", "state": "active", "ttl_seconds": 90}
            },
        },
    },
)


@asynccontextmanager
async def holding(stands: Standing = Standing.VALID) -> AsyncIterator[tuple[Keeping, EveryBucket]]:
    """Run a keeper whose resources are there; it stands so to all buckets."""

    def answer(seen: Seen) -> Answer:
        if "/secrets/" in seen.path:
            return SECRET
        name = seen.path.removesuffix("/status").rpartition("/")[2]
        return Answer(body={"metadata": {"uid": f"uid-{name}", "resourceVersion": "7"}})

    async with keeping(answer) as there:
        buckets = there.clients.tenures
        assert isinstance(buckets, EveryBucket)
        buckets.stands = stands
        there.work_api.script = always(Answer(body=RENEWED))
        yield there, buckets


async def settled() -> None:
    """Give calls that should not be made time to be made."""
    await asyncio.sleep(0.2)


# --- Whose resource it is ------------------------------------------------------------------------------------------


async def test_nothing_is_sent_for_a_resource_of_a_bucket_that_another_process_holds() -> None:
    async with holding() as (there, buckets):
        buckets.held = set(buckets.held) - {BUCKET}
        there.see(resource(since=10.0))
        await settled()
        assert (there.work_api.seen, there.kubernetes.seen) == ([], [])
        (other,) = there.keeper.others_in({BUCKET})
        assert (other.item, other.claimant.lease.held) == (("sandboxes", "env_1", "work_1"), True)


async def test_the_younger_of_two_waits_though_the_older_is_another_processs() -> None:
    async with holding() as (there, buckets):
        young = resource("lease-2", created="12:00")
        assert bucket_of("uid-lease-2") != BUCKET
        buckets.held = set(buckets.held) - {BUCKET}
        there.see(resource(created="11:00"), young)
        await until(lambda: "Duplicate" in repr(there.asked("PATCH", "lease-2/status")), "the reason, in the status")
        assert there.work_api.seen == []
        finished = resource(created="11:00")
        finished["status"] = {"conditions": [{"type": "Finished", "status": "True", "reason": "Stopped"}]}
        there.see(finished)
        await there.work_api.until_seen(1)


async def test_a_bucket_that_is_taken_is_listed_by_its_label_and_its_leases_beaten_at_once() -> None:
    async with holding() as (there, buckets):
        all_of_them, body = buckets.held, resource(since=10.0)
        buckets.held = set(all_of_them) - {BUCKET}
        there.see(body)
        usual = there.kubernetes.script

        def script(seen: Seen) -> Answer:
            is_list = seen.method == "GET" and seen.path.endswith("/workleases")
            return Answer(body={"items": [body]}) if is_list else usual(seen)

        there.kubernetes.script = script
        census = Census(there.clients.kubernetes, ("sandboxes",), there.keeper, lambda: 0.0)
        bridge = Bridge(there.keeper, census, asyncio.get_running_loop())
        bridge.found.set()
        finding = asyncio.create_task(bridge.find_taken())
        buckets.held = all_of_them
        there.keeper.take(BUCKET, {}, Succession(begun=0.0))
        await there.work_api.until_seen(1)
        asked = there.asked("GET", "/workleases?")
        assert [unquote_plus(seen.target).partition("labelSelector=")[2] for seen in asked] == [
            f"{BUCKET_LABEL} in ({BUCKET})"
        ]
        assert "expected_last_heartbeat=2026-11-24T12:00:00Z" in unquote_plus(there.work_api.seen[0].target)
        finding.cancel()
        await asyncio.wait({finding})


async def test_the_key_of_a_lease_that_is_taken_over_is_read_before_its_next_beat_is_due() -> None:
    async with holding(Standing.HANDED_OVER) as (there, _):
        there.see(resource(since=10.0))
        await until(lambda: there.asked("GET", "/secrets/"), "the read of the key")
        assert there.work_api.seen == []


@pytest.mark.parametrize("asked", ["suspended", "released"])
async def test_in_a_tenure_that_was_just_taken_beats_stop_by_choice_only_after_one_that_was_accepted(
    asked: str,
) -> None:
    async with holding() as (there, _):
        now = asyncio.get_running_loop().time()
        there.keeper.take(BUCKET, {}, Succession(taken=now, begun=now))
        body = resource(since=10.0, heartbeat={"mode": "Suspended"})
        if asked == "released":
            body = resource(since=10.0, is_deleting=True, deletionPolicy="Release")
        there.see(body)
        await there.work_api.until_seen(1)
        await settled()
        assert len(there.work_api.seen) == 1, "the process before, if it lives, is refused from now on"


@pytest.mark.parametrize("asked", ["suspended", "stopped"])
async def test_what_waits_for_an_answered_beat_is_done_as_soon_as_there_is_one(asked: str) -> None:
    async with holding() as (there, _):
        answers, now = asyncio.Event(), asyncio.get_running_loop().time()
        there.work_api.script = always(Answer(body=RENEWED, until=answers))
        there.keeper.take(BUCKET, {}, Succession(taken=now, begun=now))
        body = resource(since=10.0, sandbox={"drainSeconds": 5})
        there.see(body)
        await there.work_api.until_seen(1)
        if asked == "suspended":
            newer = {"generation": 2, "resourceVersion": "8"}
            spec = body["spec"] | {"heartbeat": {"mode": "Suspended"}}
            there.see(body | {"metadata": body["metadata"] | newer, "spec": spec})
        else:
            there.keeper.see_pod(bound() | {"status": {"phase": "Succeeded"}})
        kept = there.keeper._fleet.get("uid-lease-1")
        assert kept is not None
        await until(lambda: kept.published.lease is not None and not kept.turn.is_news, "the turn about it")
        answers.set()
        await until(lambda: kept.lease.suspended or len(there.work_api.seen) > 1, "what waited")
        assert asked == "suspended" or there.work_api.seen[1].path.endswith("/stop")


async def test_a_bucket_that_is_lost_is_beaten_no_more_and_an_answer_under_way_changes_nothing() -> None:
    async with holding() as (there, buckets):
        answers = asyncio.Event()
        there.work_api.script = always(Answer(body=RENEWED, until=answers))
        there.see(resource(since=40.0))
        await there.work_api.until_seen(1)
        buckets.held = set(buckets.held) - {BUCKET}
        there.keeper.lose(BUCKET)
        answers.set()
        there.ahead.append(100.0)
        there.keeper.wake_all()
        await settled()
        assert len(there.work_api.seen) == 1
        assert there.asked("PATCH", "/status") == []
        assert [other.reference.uid for other in there.keeper.others_in({BUCKET})] == [UID]


async def test_what_is_left_to_another_process_keeps_its_item_from_a_younger_one_here() -> None:
    async with holding() as (there, buckets):
        there.see(resource(since=10.0))
        await there.work_api.until_seen(1)
        buckets.held = set(buckets.held) - {BUCKET}
        there.keeper.lose(BUCKET)
        there.see(resource("lease-2", created="12:00"))
        await until(lambda: "Duplicate" in repr(there.asked("PATCH", "lease-2/status")), "the reason, in the status")
        assert len(there.work_api.seen) == 1


# --- A holder that is not valid ------------------------------------------------------------------------------------


@pytest.mark.parametrize("stands", [Standing.INVALID, Standing.CUT_OFF, Standing.LEAVING])
async def test_a_first_claim_waits_until_the_process_is_valid_again(stands: Standing) -> None:
    async with holding(stands) as (there, buckets):
        there.see(resource())
        await settled()
        assert there.work_api.seen == []
        assert there.asked("PATCH", "/status") == []
        buckets.stands = Standing.VALID
        there.keeper.confirmed(BUCKET)
        await there.work_api.until_seen(1)


async def test_who_is_cut_off_beats_on_blindly_and_writes_nothing() -> None:
    async with holding(Standing.CUT_OFF) as (there, buckets):
        there.see(resource(since=40.0))
        await there.work_api.until_seen(1)
        await settled()
        assert buckets.reads == 0
        assert there.asked("PATCH", "/status") == []


@pytest.mark.parametrize("is_named", [True, False])
async def test_who_can_reach_the_api_server_reads_its_bucket_before_it_beats(*, is_named: bool) -> None:
    async with holding(Standing.INVALID) as (there, buckets):
        buckets.is_named = is_named
        there.see(resource(since=40.0))
        await until(lambda: buckets.reads, "a read of the bucket")
        await settled()
        assert bool(there.work_api.seen) is is_named


async def test_a_lease_that_is_let_go_of_in_silence_is_begun_again_when_the_process_is_valid_again() -> None:
    async with holding(Standing.CUT_OFF) as (there, buckets):
        there.work_api.script = always(TAKEN)
        there.see(resource(since=40.0))
        await there.work_api.until_seen(1)
        await settled()
        there.ahead.append(20.0)
        there.keeper.wake_all()
        await settled()
        assert len(there.work_api.seen) == 1, "silence is no further beat"
        assert there.asked("PATCH", "/status") == [], "and nothing is told"
        buckets.stands = Standing.VALID
        there.work_api.script = always(Answer(body=RENEWED))
        there.keeper.confirmed(BUCKET)
        assert there.keeper.pop_taken() == {BUCKET}, "its resources are to be found again"
        there.see(resource(since=60.0))
        await there.work_api.until_seen(2)


def bound(**more: Any) -> dict[str, Any]:
    """Return a pod that is the resource's sandbox."""
    labels = {"worklease.dev/environment-id": "env_1", "worklease.dev/work-id": "work_1"}
    metadata = {"name": "pod-1", "namespace": "sandboxes", "uid": "uid-pod-1", "labels": labels}
    created = (datetime.now(UTC) - timedelta(seconds=10)).strftime("%Y-%m-%dT%H:%M:%SZ")
    spec = {"containers": [{"name": "sandbox"}], "terminationGracePeriodSeconds": 1}
    status = {"phase": "Running"}
    return {"metadata": metadata | {"creationTimestamp": created} | more, "spec": spec, "status": status}


@pytest.mark.parametrize("is_named", [True, False])
async def test_at_the_fence_who_is_not_valid_ends_the_pod_only_if_its_bucket_still_names_it(*, is_named: bool) -> None:
    async with holding(Standing.CUT_OFF) as (there, buckets):
        buckets.is_named = is_named
        there.work_api.script = always(Answer(status=503))
        there.see(resource(since=10.0))
        there.keeper.see_pod(bound())
        await there.work_api.until_seen(1)
        await settled()
        assert (there.asked("DELETE", "/pods/pod-1"), buckets.reads) == ([], 0)
        there.ahead.append(79.0)
        there.keeper.wake_all()
        await until(lambda: buckets.reads, "a read of the bucket")
        await settled()
        assert bool(there.asked("DELETE", "/pods/pod-1")) is is_named


@pytest.mark.parametrize("stands", [Standing.INVALID, Standing.CUT_OFF, Standing.LEAVING, Standing.HANDED_OVER])
async def test_no_stop_and_no_pod_of_who_is_not_valid(stands: Standing) -> None:
    async with holding() as (there, buckets):
        there.see(resource(since=10.0))
        await there.work_api.until_seen(1)
        buckets.stands = stands
        stopping = dict(RENEWED) | {"state": "stopping"}
        there.work_api.script = always(Answer(body=stopping))
        there.see(resource(since=10.0, is_deleting=True), resource("lease-3", sandbox=TEMPLATE, workID="work_3"))
        await settled()
        assert [seen.path for seen in there.work_api.seen if seen.path.endswith("/stop")] == []
        assert there.asked("POST", "/pods") == []
        buckets.stands = Standing.VALID
        there.keeper.confirmed(BUCKET)
        await until(lambda: any(seen.path.endswith("/stop") for seen in there.work_api.seen), "the stop")


# --- Hand-overs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("due_in", "beats"), [(SOON - 0.5, 2), (SOON + 5.0, 1)])
async def test_a_beat_that_would_come_due_during_a_hand_over_is_sent_before(due_in: float, beats: int) -> None:
    async with holding() as (there, _):
        there.see(resource(since=10.0))
        await there.work_api.until_seen(1)
        await settled()
        lease, _ = next(there.keeper.leases())
        there.ahead.append(lease.due - due_in - time.monotonic())
        there.keeper.hasten(BUCKET)
        await settled()
        assert len(there.work_api.seen) == beats


async def test_an_answer_that_comes_after_the_hand_over_was_sent_counts_as_none() -> None:
    async with holding() as (there, buckets):
        answers = asyncio.Event()
        there.work_api.script = always(Answer(body=RENEWED, until=answers))
        there.see(resource(since=40.0))
        await there.work_api.until_seen(1)
        buckets.stands = Standing.HANDED_OVER
        answers.set()
        await settled()
        assert len(there.work_api.seen) == 1
        lease, _ = next(there.keeper.leases())
        assert lease.value == "2026-11-24T12:00:00Z"
        buckets.stands = Standing.VALID
        await there.work_api.until_seen(2)


@pytest.mark.parametrize("stands", [Standing.HANDED_OVER, Standing.INVALID])
async def test_a_beat_that_may_not_begin_is_thought_of_again_a_few_times_a_second(stands: Standing) -> None:
    async with holding(stands) as (there, buckets):
        buckets.is_named = False
        there.see(resource(since=40.0))
        await until(lambda: buckets.asked[Act.ROUTINE_BEAT], "a beat that is due")
        began, before = time.monotonic(), buckets.asked[Act.ROUTINE_BEAT]
        await asyncio.sleep(3 * LOOK_AGAIN)
        asked = buckets.asked[Act.ROUTINE_BEAT] - before
        assert 0 < asked <= 1 + (time.monotonic() - began) / LOOK_AGAIN
        assert there.work_api.seen == []
        buckets.stands = Standing.VALID
        await there.work_api.until_seen(1)


async def test_what_is_observed_and_not_written_goes_along_with_a_hand_over() -> None:
    async with holding() as (there, _):
        there.see(resource(since=40.0))
        await there.work_api.until_seen(1)
        await until(lambda: there.clients.checkpoint.recall(UID), "the record")
        written = there.keeper.unwritten(BUCKET, everything=True)
        assert str(RENEWED["last_heartbeat"]) in str(written[UID])
